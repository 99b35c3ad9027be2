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
#[derive(Debug, Clone, Copy, Default)]
pub struct FactorySettings {
    /// For a database that many tenants share.
    pub shared: TenantPoolSettings,
    /// For a tenant's own database; usually smaller, there may be many.
    pub dedicated: TenantPoolSettings,
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

/// Refuses a database that is not the one the target names.
trait CheckMarker {
    fn check(&self, target: &PoolTarget) -> Result<(), OpenError>;
}

impl CheckMarker for Option<Marker> {
    fn check(&self, target: &PoolTarget) -> Result<(), OpenError> {
        let wrong = |detail: String| Err(OpenError::WrongDatabase { detail });
        let Some(marker) = self else { return wrong("it bears no marker".to_owned()) };
        let (role, database, tenant) = match target {
            PoolTarget::Shared(database) => ("shared", database.as_uuid(), None),
            PoolTarget::Dedicated { tenant, database, .. } => {
                ("dedicated", database.as_uuid(), Some(tenant.as_uuid()))
            }
        };
        if marker.database != database {
            return wrong(format!("it is database {}, not {database}", marker.database));
        }
        if marker.role != role {
            return wrong(format!("it is marked {}, not {role}", marker.role));
        }
        if marker.tenant != tenant {
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

    fn dedicated(tenant: u128, database: u128) -> PoolTarget {
        PoolTarget::Dedicated {
            tenant: TenantId::from_uuid(Uuid::from_u128(tenant)),
            database: DatabaseId::from_uuid(Uuid::from_u128(database)),
            epoch: PlacementEpoch(1),
        }
    }

    fn marker(role: &str, database: u128, tenant: Option<u128>) -> Option<Marker> {
        Some(Marker {
            role: role.to_owned(),
            database: Uuid::from_u128(database),
            tenant: tenant.map(Uuid::from_u128),
        })
    }

    #[test]
    fn only_the_database_that_says_it_is_the_tenants_is_opened() {
        let target = dedicated(1, 10);
        assert!(marker("dedicated", 10, Some(1)).check(&target).is_ok());
        for wrong in [
            None,
            marker("dedicated", 10, Some(2)),
            marker("dedicated", 11, Some(1)),
            marker("shared", 10, None),
        ] {
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
