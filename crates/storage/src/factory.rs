//! Opening pools for the router, and tenant transactions over it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use stagesub_tenancy::router::Router;
use stagesub_tenancy::{Access, BeginError, OpenError, PoolFactory, PoolTarget, TenantScope};

use crate::error::sqlstate;
use crate::identity::Identity;
use crate::logins::{DatabaseLogins, LoginRole};
use crate::patience::{MovePatience, Tries};
use crate::pool::{TenantPool, TenantPoolSettings};
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

/// Opens pools as the application's login. Each connection checks that the database is the one it is taken for, so a
/// pool that was opened has one that did.
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

    async fn open_as_told(&self, target: &PoolTarget) -> Result<TenantPool, OpenError> {
        let database = target.database();
        let login = self
            .logins
            .find_login(database, LoginRole::App)
            .await
            .map_err(|source| OpenError::Login(Box::new(source)))?
            .ok_or(OpenError::UnknownDatabase(database))?;
        TenantPool::open(login.to_connect_options(), self.settings(target), Identity::of(target)).await
    }
}

#[async_trait]
impl PoolFactory for LeanPoolFactory {
    type Pool = TenantPool;

    fn connections(&self, target: &PoolTarget) -> u32 {
        self.settings(target).connections_held()
    }

    async fn open(&self, target: &PoolTarget) -> Result<TenantPool, OpenError> {
        let pool = match self.open_as_told(target).await {
            Ok(pool) => pool,
            // The login may have been renewed since it was remembered. Whoever was not turned away would only wait
            // twice for a server that is away.
            Err(error) => {
                let remembered = self.logins.forget(target.database(), LoginRole::App);
                if !(remembered && is_turned_away(&error)) {
                    return Err(error);
                }
                self.open_as_told(target).await?
            }
        };
        if matches!(target, PoolTarget::Shared(_)) {
            pool.resize(self.shared_connections.load(Ordering::Relaxed)).await;
        }
        Ok(pool)
    }

    async fn warm(&self, pool: &TenantPool) -> Result<(), OpenError> {
        pool.warm().await
    }

    async fn close(&self, pool: TenantPool) {
        pool.close().await;
    }
}

/// Whether a server answered and did not let the login in, or it is another database: no such login or password
/// (class 28), no such database (3D000).
fn is_turned_away(error: &OpenError) -> bool {
    match error {
        OpenError::WrongDatabase { .. } => true,
        OpenError::Unavailable(source) => source
            .downcast_ref::<sqlx::Error>()
            .and_then(sqlstate)
            .is_some_and(|code| code.starts_with("28") || code == "3D000"),
        _ => false,
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
                Err(BeginError::Moved) if self.again(scope, &mut tries).await => {}
                other => return other,
            }
        }
    }

    /// After a database refused to serve the scope's tenant, before anything was done: what was known of its placement
    /// is forgotten, and the next try is due. False: the time is up.
    pub(crate) async fn again(&self, scope: &TenantScope, tries: &mut Tries) -> bool {
        self.router.forget(scope.tenant_id());
        tries.another().await
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use stagesub_tenancy::{DatabaseId, DirectoryError, PlacementEpoch, TenantId};
    use uuid::Uuid;

    use super::*;
    use crate::logins::MockDatabaseLogins;
    use crate::target::ConnectionTarget;

    #[test]
    fn fifty_dedicated_pools_fit_the_default_budget() {
        let factory = LeanPoolFactory::new(Arc::new(MockDatabaseLogins::new()), FactorySettings::default());
        let pools = stagesub_tenancy::PoolSettings::default();
        let each = factory.connections(&dedicated(1, 10));
        assert!(u32::try_from(pools.capacity).unwrap() * each <= pools.connection_budget);
    }

    #[tokio::test]
    async fn no_pool_is_opened_without_a_login() {
        let target = dedicated(1, 10);
        let mut logins = MockDatabaseLogins::new();
        logins.expect_find_login().once().returning(|_, _| Ok(None));
        let unknown = open(logins, &target).await;
        assert!(matches!(unknown, OpenError::UnknownDatabase(database) if database == target.database()));
        let mut logins = MockDatabaseLogins::new();
        logins.expect_find_login().once().returning(|_, role| {
            assert_eq!(role, LoginRole::App);
            Err(DirectoryError::Unavailable("the registry is away".into()))
        });
        assert!(matches!(open(logins, &target).await, OpenError::Login(_)));
    }

    #[tokio::test]
    async fn server_that_is_away_opens_no_pool() {
        let mut logins = MockDatabaseLogins::new();
        logins.expect_find_login().once().returning(|_, _| {
            let nowhere = Path::new("/nowhere/at/all");
            let login = ConnectionTarget::on_socket(nowhere, 1, "app", "secret".to_owned().into(), "db");
            Ok(Some(login.expect("the environment changes no connection")))
        });
        assert!(matches!(open(logins, &dedicated(1, 10)).await, OpenError::Unavailable(_)));
    }

    /// Why a pool was not opened.
    async fn open(mut logins: MockDatabaseLogins, target: &PoolTarget) -> OpenError {
        logins.expect_forget().once().returning(|_, _| false);
        let factory = LeanPoolFactory::new(Arc::new(logins), FactorySettings::default());
        factory.open(target).await.expect_err("no pool can be opened")
    }

    fn dedicated(tenant: u128, database: u128) -> PoolTarget {
        PoolTarget::Dedicated {
            tenant: TenantId::from_uuid(Uuid::from_u128(tenant)),
            database: DatabaseId::from_uuid(Uuid::from_u128(database)),
            epoch: PlacementEpoch(1),
        }
    }
}
