//! Opening pools for the router, and tenant transactions over it.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{Connection, PgConnection};
use stagesub_tenancy::router::Router;
use stagesub_tenancy::{Access, BeginError, OpenError, PoolFactory, PoolTarget, TenantScope};
use uuid::Uuid;

use crate::logins::{DatabaseLogins, LoginRole};
use crate::pool::{TenantPool, TenantPoolSettings};
use crate::target::ConnectionTarget;
use crate::tx::TenantTx;

/// How pools are opened.
#[derive(Debug, Clone, Copy)]
pub struct FactorySettings {
    /// For a database that many tenants share (default 10 connections).
    pub shared: TenantPoolSettings,
    /// For a tenant's own database (default 2 connections: there may be many such pools, and the node's
    /// budget counts connections).
    pub dedicated: TenantPoolSettings,
}

impl Default for FactorySettings {
    fn default() -> Self {
        Self {
            shared: TenantPoolSettings::default(),
            dedicated: TenantPoolSettings { max_connections: 2, ..TenantPoolSettings::default() },
        }
    }
}

/// Opens pools as the application's login, after checking that the database is the one it is taken for.
pub struct LeanPoolFactory {
    logins: Arc<dyn DatabaseLogins>,
    settings: FactorySettings,
}

impl LeanPoolFactory {
    /// A factory over whoever knows the logins.
    #[must_use]
    pub fn new(logins: Arc<dyn DatabaseLogins>, settings: FactorySettings) -> Self {
        Self { logins, settings }
    }

    fn settings(&self, target: &PoolTarget) -> TenantPoolSettings {
        match target {
            PoolTarget::Shared(_) => self.settings.shared,
            PoolTarget::Dedicated { .. } => self.settings.dedicated,
        }
    }
}

#[async_trait]
impl PoolFactory for LeanPoolFactory {
    type Pool = TenantPool;

    fn connections(&self, target: &PoolTarget) -> u32 {
        // One more: the connection that cancels statements which were left behind.
        self.settings(target).max_connections.max(1).saturating_add(1)
    }

    async fn open(&self, target: &PoolTarget) -> Result<TenantPool, OpenError> {
        let database = match target {
            PoolTarget::Shared(database) | PoolTarget::Dedicated { database, .. } => *database,
        };
        let login = self
            .logins
            .find_login(database, LoginRole::App)
            .await
            .map_err(|source| OpenError::Unavailable(Box::new(source)))?
            .ok_or(OpenError::UnknownDatabase(database))?;
        let settings = self.settings(target);
        let marker = tokio::time::timeout(settings.connect, read_marker(&login))
            .await
            .map_err(|elapsed| OpenError::Unavailable(Box::new(elapsed)))?
            .map_err(|source| OpenError::Unavailable(Box::new(source)))?;
        let Some(marker) = marker else {
            return Err(OpenError::WrongDatabase { detail: "it bears no marker".to_owned() });
        };
        marker.check(target)?;
        TenantPool::new(login.to_connect_options(), settings)
            .map_err(|source| OpenError::Unavailable(Box::new(source)))
    }

    async fn close(&self, pool: TenantPool) {
        pool.close().await;
    }
}

/// What a database says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Marker {
    role: String,
    database: Uuid,
    tenant: Option<Uuid>,
}

async fn read_marker(login: &ConnectionTarget) -> Result<Option<Marker>, sqlx::Error> {
    let mut connection = PgConnection::connect_with(&login.to_connect_options()).await?;
    let row: Option<(String, Uuid, Option<Uuid>)> =
        sqlx::query_as("SELECT role, database_id, tenant_id FROM app.marker")
            .fetch_optional(&mut connection)
            .await?;
    connection.close().await?;
    Ok(row.map(|(role, database, tenant)| Marker { role, database, tenant }))
}

impl Marker {
    /// Refuses a database that is not the one the target names.
    fn check(&self, target: &PoolTarget) -> Result<(), OpenError> {
        let wrong = |detail: String| Err(OpenError::WrongDatabase { detail });
        let (role, database, tenant) = match target {
            PoolTarget::Shared(database) => ("shared", database.as_uuid(), None),
            PoolTarget::Dedicated { tenant, database, .. } => {
                ("dedicated", database.as_uuid(), Some(tenant.as_uuid()))
            }
        };
        if self.database != database {
            return wrong(format!("it is database {}, not {database}", self.database));
        }
        if self.role != role {
            return wrong(format!("it is marked {}, not {role}", self.role));
        }
        if self.tenant != tenant {
            return wrong("it is marked as another tenant's".to_owned());
        }
        Ok(())
    }
}

/// How often a begin that the database refused as out of date is tried again with a fresh placement.
const STALE_RETRIES: u32 = 2;

/// Begins tenant transactions: what an embedder holds.
pub struct TenantDb {
    router: Arc<Router<LeanPoolFactory>>,
}

impl TenantDb {
    /// Over a router.
    #[must_use]
    pub fn new(router: Arc<Router<LeanPoolFactory>>) -> Self {
        Self { router }
    }

    /// Begins a transaction for the scope's tenant, wherever its data is now.
    ///
    /// # Errors
    /// As [`TenantTx::begin`]; [`BeginError::Moved`] only when a fresh placement was refused as well.
    pub async fn begin(&self, scope: &TenantScope, access: Access) -> Result<TenantTx, BeginError> {
        let mut retries = 0;
        loop {
            let routed = self.router.lease(scope).await?;
            match TenantTx::begin(routed, scope, access).await {
                Err(BeginError::Moved) if retries < STALE_RETRIES => {
                    retries += 1;
                    self.router.forget(scope.tenant_id());
                }
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use stagesub_tenancy::{DatabaseId, PlacementEpoch, TenantId};

    use super::*;

    #[test]
    fn fifty_dedicated_pools_fit_the_default_budget() {
        let factory = LeanPoolFactory::new(
            Arc::new(crate::logins::MockDatabaseLogins::new()),
            FactorySettings::default(),
        );
        let pools = stagesub_tenancy::PoolSettings::default();
        let each = factory.connections(&dedicated(1, 10));
        assert!(u32::try_from(pools.capacity).unwrap() * each <= pools.connection_budget);
    }

    fn dedicated(tenant: u128, database: u128) -> PoolTarget {
        PoolTarget::Dedicated {
            tenant: TenantId::from_uuid(Uuid::from_u128(tenant)),
            database: DatabaseId::from_uuid(Uuid::from_u128(database)),
            epoch: PlacementEpoch(1),
        }
    }

    fn marker(role: &str, database: u128, tenant: Option<u128>) -> Marker {
        Marker {
            role: role.to_owned(),
            database: Uuid::from_u128(database),
            tenant: tenant.map(Uuid::from_u128),
        }
    }

    #[test]
    fn only_the_database_that_says_it_is_the_tenants_is_opened() {
        let target = dedicated(1, 10);
        assert!(marker("dedicated", 10, Some(1)).check(&target).is_ok());
        for wrong in
            [marker("dedicated", 10, Some(2)), marker("dedicated", 11, Some(1)), marker("shared", 10, None)]
        {
            assert!(matches!(wrong.check(&target), Err(OpenError::WrongDatabase { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn a_tenants_own_database_is_no_shared_one() {
        let target = PoolTarget::Shared(DatabaseId::from_uuid(Uuid::from_u128(10)));
        assert!(marker("shared", 10, None).check(&target).is_ok());
        assert!(marker("dedicated", 10, Some(1)).check(&target).is_err());
    }
}
