//! What a database says of itself: which of the platform's databases it is, and whose.
//!
//! The marker is written together with the schema it stands in, before the first migration, and it is read
//! before any DDL and before any pool is used. So a connection string that names the wrong database meets a
//! refusal, and a database that was half made can be told from somebody else's.

use sqlx::PgConnection;
use stagesub_tenancy::{DatabaseId, TenantId};
use std::fmt;
use uuid::Uuid;

/// What a database holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseKind {
    /// The platform's own records.
    Registry,
    /// Many tenants, isolated by row-level security.
    Shared,
    /// One tenant.
    Dedicated(TenantId),
}

impl DatabaseKind {
    /// The word as it is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Shared => "shared",
            Self::Dedicated(_) => "dedicated",
        }
    }

    /// The tenant that has the database for itself.
    #[must_use]
    pub const fn tenant(self) -> Option<TenantId> {
        match self {
            Self::Dedicated(tenant) => Some(tenant),
            Self::Registry | Self::Shared => None,
        }
    }

    /// Reads the stored form: a word, and a tenant exactly for a dedicated database.
    pub(crate) fn from_stored(word: &str, tenant: Option<Uuid>) -> Option<Self> {
        match (word, tenant) {
            ("registry", None) => Some(Self::Registry),
            ("shared", None) => Some(Self::Shared),
            ("dedicated", Some(tenant)) => Some(Self::Dedicated(TenantId::from_uuid(tenant))),
            _ => None,
        }
    }
}

impl fmt::Display for DatabaseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry => f.write_str("the registry"),
            Self::Shared => f.write_str("a shared database"),
            Self::Dedicated(tenant) => write!(f, "the database of tenant {tenant}"),
        }
    }
}

/// A database's marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// What it holds.
    pub kind: DatabaseKind,
    /// Its id in the registry.
    pub database: DatabaseId,
    /// Whether it was made by a demonstration.
    pub demo: bool,
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.kind, self.database)
    }
}

/// A marker could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MarkerError {
    /// The statement failed.
    #[error("the database's marker cannot be read")]
    Database(#[from] sqlx::Error),
    /// The row breaks the marker's rules.
    #[error("the database's marker is corrupt: role {role:?}, tenant {tenant:?}")]
    Corrupt {
        /// The role it names.
        role: String,
        /// The tenant it names.
        tenant: Option<Uuid>,
    },
}

/// Reads the marker of a registry. `None`: this database is no registry, or not yet.
///
/// # Errors
/// [`MarkerError`]; a login that may not use schema `registry` meets Postgres's refusal (SQLSTATE 42501).
pub async fn read_registry_marker(conn: &mut PgConnection) -> Result<Option<Marker>, MarkerError> {
    let exists = sqlx::query_scalar!(r#"SELECT to_regclass('registry.marker') IS NOT NULL AS "exists!""#)
        .fetch_one(&mut *conn)
        .await?;
    if !exists {
        return Ok(None);
    }
    let row = sqlx::query!("SELECT database_id, demo FROM registry.marker").fetch_optional(conn).await?;
    Ok(row.map(|row| Marker {
        kind: DatabaseKind::Registry,
        database: DatabaseId::from_uuid(row.database_id),
        demo: row.demo,
    }))
}

/// Reads the marker of a database that holds tenants. `None`: this database holds none, or not yet.
///
/// # Errors
/// [`MarkerError`]; a login that may not use schema `app` meets Postgres's refusal (SQLSTATE 42501).
pub async fn read_tenant_marker(conn: &mut PgConnection) -> Result<Option<Marker>, MarkerError> {
    let exists = sqlx::query_scalar!(r#"SELECT to_regclass('app.marker') IS NOT NULL AS "exists!""#)
        .fetch_one(&mut *conn)
        .await?;
    if !exists {
        return Ok(None);
    }
    let row = sqlx::query!("SELECT role, database_id, tenant_id, demo FROM app.marker")
        .fetch_optional(conn)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let Some(kind) = DatabaseKind::from_stored(&row.role, row.tenant_id) else {
        return Err(MarkerError::Corrupt { role: row.role, tenant: row.tenant_id });
    };
    Ok(Some(Marker { kind, database: DatabaseId::from_uuid(row.database_id), demo: row.demo }))
}

/// Writes the marker of a database that has none.
pub(crate) async fn write_marker(conn: &mut PgConnection, marker: &Marker) -> Result<(), MarkerError> {
    let database = marker.database.as_uuid();
    match marker.kind {
        DatabaseKind::Registry => {
            sqlx::query!(
                "INSERT INTO registry.marker (role, database_id, demo) VALUES ('registry', $1, $2)",
                database,
                marker.demo
            )
            .execute(conn)
            .await?;
        }
        DatabaseKind::Shared | DatabaseKind::Dedicated(_) => {
            sqlx::query!(
                "INSERT INTO app.marker (role, database_id, tenant_id, demo) VALUES ($1, $2, $3, $4)",
                marker.kind.as_str(),
                database,
                marker.kind.tenant().map(TenantId::as_uuid),
                marker.demo
            )
            .execute(conn)
            .await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_kind_reads_back() {
        let tenant = TenantId::from_uuid(Uuid::from_u128(7));
        for kind in [DatabaseKind::Registry, DatabaseKind::Shared, DatabaseKind::Dedicated(tenant)] {
            let tenant = kind.tenant().map(TenantId::as_uuid);
            assert_eq!(DatabaseKind::from_stored(kind.as_str(), tenant), Some(kind));
        }
    }

    #[test]
    fn tenant_goes_with_a_dedicated_database_and_no_other() {
        let tenant = Some(Uuid::from_u128(7));
        assert_eq!(DatabaseKind::from_stored("dedicated", None), None);
        assert_eq!(DatabaseKind::from_stored("shared", tenant), None);
        assert_eq!(DatabaseKind::from_stored("registry", tenant), None);
        assert_eq!(DatabaseKind::from_stored("other", None), None);
    }
}
