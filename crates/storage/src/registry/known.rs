//! Which databases the platform knows, and what runs there.

use sqlx::Connection;
use stagesub_tenancy::{DatabaseId, DirectoryError, TenantId};

use super::{RegistryPools, corrupt, unavailable};
use crate::marker::DatabaseKind;
use crate::migrate::session;
use crate::migrate::sets::MigrationSet;
use crate::target::ConnectionTarget;

/// A database that is ready, as the registry knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownDatabase {
    /// Its id.
    pub id: DatabaseId,
    /// What it holds.
    pub kind: DatabaseKind,
}

/// What a database that holds tenants says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseFacts {
    /// Version of the server.
    pub server_version: String,
    /// Its newest migration.
    pub schema_version: i64,
}

impl RegistryPools {
    /// Every database that is ready, in the order of their ids.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub async fn list_databases(&self) -> Result<Vec<KnownDatabase>, DirectoryError> {
        let rows = sqlx::query!(
            "SELECT id, kind, tenant_id FROM registry.databases WHERE status = 'ready' ORDER BY id"
        )
        .fetch_all(&self.control)
        .await
        .map_err(unavailable)?;
        rows.into_iter()
            .map(|row| {
                let kind = DatabaseKind::from_stored(&row.kind, row.tenant_id)
                    .ok_or_else(|| corrupt("kind of a database", row.kind))?;
                Ok(KnownDatabase { id: DatabaseId::from_uuid(row.id), kind })
            })
            .collect()
    }

    /// Every shared database that is ready, in the order of their ids.
    ///
    /// # Errors
    /// [`DirectoryError::Unavailable`].
    pub async fn list_shared(&self) -> Result<Vec<DatabaseId>, DirectoryError> {
        let ids = sqlx::query_scalar!(
            "SELECT id FROM registry.databases WHERE kind = 'shared' AND status = 'ready' ORDER BY id"
        )
        .fetch_all(&self.control)
        .await
        .map_err(unavailable)?;
        Ok(ids.into_iter().map(DatabaseId::from_uuid).collect())
    }

    /// A tenant that is placed in a database, if one is: the same as long as it stays there.
    ///
    /// # Errors
    /// [`DirectoryError::Unavailable`].
    pub async fn find_tenant_in(&self, database: DatabaseId) -> Result<Option<TenantId>, DirectoryError> {
        let tenant = sqlx::query_scalar!(
            "SELECT tenant_id FROM registry.directory WHERE database_id = $1 ORDER BY tenant_id LIMIT 1",
            database.as_uuid()
        )
        .fetch_optional(&self.control)
        .await
        .map_err(unavailable)?;
        Ok(tenant.map(TenantId::from_uuid))
    }

    /// Version of the registry's server.
    ///
    /// # Errors
    /// [`DirectoryError::Unavailable`].
    pub async fn server_version(&self) -> Result<String, DirectoryError> {
        sqlx::query_scalar!(r#"SELECT current_setting('server_version') AS "version!""#)
            .fetch_one(&self.control)
            .await
            .map_err(unavailable)
    }

    /// The registry's newest migration: this program's, or it would not have been opened.
    #[must_use]
    pub fn schema_version(&self) -> i64 {
        MigrationSet::Registry.newest()
    }
}

/// Asks a database that holds tenants, as the login that `target` names.
///
/// # Errors
/// [`DirectoryError::Unavailable`].
pub async fn database_facts(target: &ConnectionTarget) -> Result<DatabaseFacts, DirectoryError> {
    let mut conn = session::connect(target).await.map_err(unavailable)?;
    let server_version = sqlx::query_scalar!(r#"SELECT current_setting('server_version') AS "version!""#)
        .fetch_one(&mut conn)
        .await
        .map_err(unavailable)?;
    let applied = MigrationSet::Tenant
        .applied(&mut conn)
        .await
        .map_err(|source| DirectoryError::Unavailable(Box::new(source)))?;
    conn.close().await.map_err(unavailable)?;
    Ok(DatabaseFacts { server_version, schema_version: applied.last().copied().unwrap_or(0) })
}
