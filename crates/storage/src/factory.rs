//! Opening pools for the router, and tenant transactions over it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use sqlx::{Connection, PgConnection};
use stagesub_tenancy::router::Router;
use stagesub_tenancy::{Access, BeginError, OpenError, PoolFactory, PoolTarget, TenantScope};

use crate::logins::{DatabaseLogins, LoginRole};
use crate::marker::{DatabaseKind, Marker, MarkerError, read_tenant_marker};
use crate::patience::{MovePatience, Tries};
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
            // There is nobody to share it with.
            dedicated: TenantPoolSettings { max_connections: 2, share: 100, ..TenantPoolSettings::default() },
        }
    }
}

/// Opens pools as the application's login, after checking that the database is the one it is taken for.
pub struct LeanPoolFactory {
    logins: Arc<dyn DatabaseLogins>,
    settings: FactorySettings,
    /// What a shared pool uses of its connections from its opening on.
    shared_connections: AtomicU32,
}

impl LeanPoolFactory {
    /// A factory over whoever knows the logins.
    #[must_use]
    pub fn new(logins: Arc<dyn DatabaseLogins>, settings: FactorySettings) -> Self {
        Self { logins, settings, shared_connections: AtomicU32::new(settings.shared.max_connections) }
    }

    /// Shared pools that are opened from now on use at most so many connections; those that are open are told
    /// with [`TenantPool::resize`].
    pub fn set_shared_connections(&self, connections: u32) {
        self.shared_connections.store(connections, Ordering::Relaxed);
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
        let marker = tokio::time::timeout(settings.connect, ask(&login))
            .await
            .map_err(|elapsed| OpenError::Unavailable(Box::new(elapsed)))?
            .map_err(|error| match error {
                MarkerError::Corrupt { .. } => OpenError::WrongDatabase { detail: error.to_string() },
                error => OpenError::Unavailable(Box::new(error)),
            })?;
        check(marker, target)?;
        let pool = TenantPool::new(login.to_connect_options(), settings)
            .map_err(|source| OpenError::Unavailable(Box::new(source)))?;
        if matches!(target, PoolTarget::Shared(_)) {
            pool.resize(self.shared_connections.load(Ordering::Relaxed)).await;
        }
        Ok(pool)
    }

    async fn close(&self, pool: TenantPool) {
        pool.close().await;
    }
}

/// Asks the database what it is, as the login that will use it.
async fn ask(login: &ConnectionTarget) -> Result<Option<Marker>, MarkerError> {
    let mut connection = PgConnection::connect_with(&login.to_connect_options()).await?;
    let marker = read_tenant_marker(&mut connection).await?;
    connection.close().await?;
    Ok(marker)
}

/// Refuses a database that is not the one the target names.
fn check(marker: Option<Marker>, target: &PoolTarget) -> Result<(), OpenError> {
    let (kind, database) = match target {
        PoolTarget::Shared(database) => (DatabaseKind::Shared, *database),
        PoolTarget::Dedicated { tenant, database, .. } => (DatabaseKind::Dedicated(*tenant), *database),
    };
    match marker {
        Some(marker) if marker.kind == kind && marker.database == database => Ok(()),
        Some(marker) => {
            Err(OpenError::WrongDatabase { detail: format!("it is {marker}, not {kind} ({database})") })
        }
        None => Err(OpenError::WrongDatabase { detail: "it bears no marker".to_owned() }),
    }
}

/// Begins tenant transactions: what an embedder holds. Clones share the router.
#[derive(Clone)]
pub struct TenantDb {
    pub(crate) router: Arc<Router<LeanPoolFactory>>,
    pub(crate) patience: MovePatience,
}

impl TenantDb {
    /// Over a router, with the default patience.
    #[must_use]
    pub fn new(router: Arc<Router<LeanPoolFactory>>) -> Self {
        Self { router, patience: MovePatience::default() }
    }

    /// The same with other bounds for a tenant that is being moved.
    #[must_use]
    pub fn with_patience(self, patience: MovePatience) -> Self {
        Self { patience, ..self }
    }

    /// Begins a transaction for the scope's tenant, wherever its data is now. A refused epoch is tried again with
    /// a placement that the directory is asked for afresh, for as long as [`MovePatience`] says; no connection is
    /// held in between.
    ///
    /// # Errors
    /// As [`TenantTx::begin`]; [`BeginError::Moved`] only when the time was up.
    pub async fn begin(&self, scope: &TenantScope, access: Access) -> Result<TenantTx, BeginError> {
        let mut tries = Tries::new(self.patience);
        loop {
            let routed = self.router.lease(scope).await?;
            match TenantTx::begin(routed, scope, access).await {
                Err(BeginError::Moved) => {
                    self.router.forget(scope.tenant_id());
                    if !tries.another().await {
                        return Err(BeginError::Moved);
                    }
                }
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use stagesub_tenancy::{DatabaseId, PlacementEpoch, TenantId};

    use uuid::Uuid;

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

    fn marker(kind: DatabaseKind, database: u128) -> Marker {
        Marker { kind, database: DatabaseId::from_uuid(Uuid::from_u128(database)), demo: false }
    }

    fn of(tenant: u128) -> DatabaseKind {
        DatabaseKind::Dedicated(TenantId::from_uuid(Uuid::from_u128(tenant)))
    }

    #[test]
    fn only_the_database_that_says_it_is_the_tenants_is_opened() {
        let target = dedicated(1, 10);
        assert!(check(Some(marker(of(1), 10)), &target).is_ok());
        for wrong in
            [Some(marker(of(2), 10)), Some(marker(of(1), 11)), Some(marker(DatabaseKind::Shared, 10)), None]
        {
            assert!(matches!(check(wrong, &target), Err(OpenError::WrongDatabase { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn a_tenants_own_database_is_no_shared_one() {
        let target = PoolTarget::Shared(DatabaseId::from_uuid(Uuid::from_u128(10)));
        assert!(check(Some(marker(DatabaseKind::Shared, 10)), &target).is_ok());
        assert!(check(Some(marker(of(1), 10)), &target).is_err());
    }
}
