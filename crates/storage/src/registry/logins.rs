//! Connection strings of tenants' databases, opened from the registry.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use stagesub_tenancy::{DatabaseId, DirectoryError};

use super::{Keys, RegistryPools, corrupt, unavailable};
use crate::databases::AllowedHosts;
use crate::logins::{DatabaseLogins, LoginRole};
use crate::migrate::logins::open_login;
use crate::target::{ConnectionTarget, ServerHost};

/// [`DatabaseLogins`] out of `registry.database_logins`.
///
/// Before this process connects to a named host for the first time, it looks where the name leads by now.
#[derive(Clone, Debug)]
pub struct PgDatabaseLogins {
    registry: RegistryPools,
    keys: Keys,
    allowed: AllowedHosts,
    /// Hosts that were looked at.
    looked_at: Arc<Mutex<HashSet<(ServerHost, u16)>>>,
}

impl PgDatabaseLogins {
    /// Over the registry and the keys its strings are sealed with.
    #[must_use]
    pub fn new(registry: RegistryPools, keys: Keys) -> Self {
        Self { registry, keys, allowed: AllowedHosts::default(), looked_at: Arc::default() }
    }

    /// With addresses that a name may mean although they are for this machine's network alone.
    #[must_use]
    pub fn naming(self, allowed: AllowedHosts) -> Self {
        Self { allowed, ..self }
    }

    async fn look_at(&self, login: &ConnectionTarget) -> Result<(), DirectoryError> {
        let place = (login.host().clone(), login.port());
        if self.looked_at.lock().unwrap_or_else(PoisonError::into_inner).contains(&place) {
            return Ok(());
        }
        let looked = self.allowed.check_kept(login).await;
        looked.map_err(|refused| DirectoryError::Unavailable(Box::new(refused)))?;
        self.looked_at.lock().unwrap_or_else(PoisonError::into_inner).insert(place);
        Ok(())
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
        let login = open_login(&self.keys, database, tenant, role.as_str(), &row.sealed)
            .map_err(|source| corrupt("connection string", source))?;
        self.look_at(&login).await?;
        Ok(Some(login))
    }
}
