//! Connection strings of tenants' databases, opened from the registry.

use async_trait::async_trait;
use stagesub_tenancy::{DatabaseId, DirectoryError};

use super::{Keys, RegistryPools, corrupt, unavailable};
use crate::logins::{DatabaseLogins, LoginRole};
use crate::migrate::logins::open_login;
use crate::target::ConnectionTarget;

/// [`DatabaseLogins`] out of `registry.database_logins`.
#[derive(Clone, Debug)]
pub struct PgDatabaseLogins {
    registry: RegistryPools,
    keys: Keys,
}

impl PgDatabaseLogins {
    /// Over the registry and the keys its strings are sealed with.
    #[must_use]
    pub const fn new(registry: RegistryPools, keys: Keys) -> Self {
        Self { registry, keys }
    }
}

#[async_trait]
impl DatabaseLogins for PgDatabaseLogins {
    async fn find_login(
        &self,
        database: DatabaseId,
        role: LoginRole,
    ) -> Result<Option<ConnectionTarget>, DirectoryError> {
        let row = sqlx::query!(
            "SELECT l.sealed, d.tenant_id
            FROM registry.database_logins AS l
            JOIN registry.databases AS d ON d.id = l.database_id
            WHERE l.database_id = $1 AND l.role = $2 AND d.status = 'ready'",
            database.as_uuid(),
            role.as_str()
        )
        .fetch_optional(self.registry.control())
        .await
        .map_err(unavailable)?;
        let Some(row) = row else { return Ok(None) };
        let tenant = row.tenant_id.map(stagesub_tenancy::TenantId::from_uuid);
        open_login(&self.keys, database, tenant, role.as_str(), &row.sealed)
            .map(Some)
            .map_err(|source| corrupt("connection string", source))
    }
}
