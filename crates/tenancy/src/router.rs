//! From a scope to the pool of the database that holds its tenant.

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

use crate::directory::follow::ChangeSink;
use crate::directory::{Changes, DirectoryError, TenantDirectory};
use crate::placement::Located;
use crate::pools::{Lease, OpenError, PoolCache, PoolFactory, PoolSettings, PoolStats, PoolTarget};
use crate::scope::TenantScope;
use crate::tenant::TenantId;
use crate::usage::{Tally, UsageSink};

/// Leases the pool of the database that holds a scope's tenant now.
///
/// The placement is looked up at every call, so a unit of work that begins after a move goes to the new
/// database. Whoever finds that an answer was too old (the database refuses the epoch) calls
/// [`Router::forget`] and leases again.
///
/// Give it a directory that caches; clones share their pools.
pub struct Router<F: PoolFactory> {
    directory: Arc<dyn TenantDirectory>,
    pools: PoolCache<F>,
    usage: Option<Arc<dyn UsageSink>>,
}

/// A leased pool and the placement that it was leased for.
pub struct Routed<P> {
    /// The pool; it stays open as long as this is held.
    pub lease: Lease<P>,
    /// Where the tenant is, and the epoch that its fence in that database must confirm.
    pub located: Located,
    /// What its transaction uses; it goes with it.
    pub tally: Tally,
}

impl<F: PoolFactory> Router<F> {
    /// A router that opens pools through `factory` where `directory` says.
    #[must_use]
    pub fn new(directory: Arc<dyn TenantDirectory>, factory: Arc<F>, settings: PoolSettings) -> Self {
        Self { directory, pools: PoolCache::new(factory, settings), usage: None }
    }

    /// The same, telling `sink` what every transaction used.
    #[must_use]
    pub fn with_usage(self, sink: Arc<dyn UsageSink>) -> Self {
        Self { usage: Some(sink), ..self }
    }

    /// Leases the pool for the scope's tenant.
    ///
    /// # Errors
    /// [`RouteError::NoPlacement`] for a tenant without a placement: no other database is tried.
    ///
    /// # Cancel safety
    /// Dropping the future leaks no lease; an opening that it began goes on for others.
    pub async fn lease(&self, scope: &TenantScope) -> Result<Routed<F::Pool>, RouteError> {
        let (tenant, asked) = (scope.tenant_id(), Instant::now());
        let placement = self.directory.find_placement(tenant).await.map_err(RouteError::Directory)?;
        let located = placement.ok_or(RouteError::NoPlacement(tenant))?;
        if located.tenant != tenant {
            let source = format!("asked for tenant {tenant}, told of {}", located.tenant).into();
            return Err(RouteError::Directory(DirectoryError::Corrupt { what: "placement", source }));
        }
        let tally = Tally::waiting(tenant, located.placement, asked, self.usage.clone());
        let lease = self.pools.lease(PoolTarget::of(&located)).await.map_err(RouteError::Open)?;
        Ok(Routed { lease, located, tally })
    }

    /// The tenant's placement turned out to be out of date: the next lease asks the directory afresh.
    pub fn forget(&self, tenant: TenantId) {
        self.directory.forget(tenant);
    }

    /// Closes dedicated pools that are too old although nobody asks for them; to be called each minute.
    pub fn evict_expired(&self) {
        self.pools.evict_expired();
    }

    /// Changes the budget of connections to dedicated databases; see [`PoolCache::set_connection_budget`].
    pub fn set_connection_budget(&self, connections: u32) {
        self.pools.set_connection_budget(connections);
    }

    /// Lends every open pool of a shared database, to change something about it.
    #[must_use]
    pub fn shared_pools(&self) -> Vec<Lease<F::Pool>> {
        self.pools.shared_pools()
    }

    /// Lends every open pool of a dedicated database, to look at it.
    #[must_use]
    pub fn dedicated_pools(&self) -> Vec<Lease<F::Pool>> {
        self.pools.dedicated_pools()
    }

    /// Closes every pool, each when its last lease is gone. Put a timeout around it.
    pub async fn shutdown(&self) {
        self.pools.shutdown().await;
    }

    /// What the pools' cache holds now.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.pools.stats()
    }
}

/// A tenant that is about to move, and that was used here lately, finds the pool of where it goes open and ready. So have a
/// [`ChangeFollower`](crate::directory::follow::ChangeFollower) tell the router, after the directory.
impl<F: PoolFactory> ChangeSink for Router<F> {
    fn apply(&self, changes: &Changes) {
        for arriving in changes.arriving.iter().filter(|arriving| self.directory.remembers(arriving.tenant)) {
            let (pools, tenant, target) = (self.pools.clone(), arriving.tenant, PoolTarget::of(arriving));
            tokio::spawn(async move {
                // Whoever needs it then opens it, and is told why it cannot be.
                if let Err(error) = pools.open_ahead(target).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(error, %tenant, "the pool of where a tenant is about to be is not ready");
                }
            });
        }
    }

    fn apply_unknown(&self) {}
}

impl<F: PoolFactory> Clone for Router<F> {
    fn clone(&self) -> Self {
        Self { directory: Arc::clone(&self.directory), pools: self.pools.clone(), usage: self.usage.clone() }
    }
}

impl<F: PoolFactory> fmt::Debug for Router<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("pools", &self.pools).finish_non_exhaustive()
    }
}

impl<P> fmt::Debug for Routed<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routed").field("located", &self.located).finish_non_exhaustive()
    }
}

/// No pool for the scope's tenant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The directory has no placement for the tenant. There is no default to fall back to.
    #[error("tenant {0} has no placement")]
    NoPlacement(TenantId),
    /// The directory could not answer.
    #[error("the tenant's placement could not be looked up")]
    Directory(#[source] DirectoryError),
    /// Its database could not be opened.
    #[error("the tenant's database could not be opened")]
    Open(#[source] OpenError),
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::directory::MockTenantDirectory;
    use crate::directory::cache::CacheSettings;
    use crate::directory::cached::CachedDirectory;
    use crate::directory::follow::ChangeFollower;
    use crate::placement::{DatabaseId, Placement, PlacementEpoch};
    use crate::testing::{InMemoryDirectory, InMemoryPoolFactory, scope_for, tenant};

    const SHARED: DatabaseId = DatabaseId::from_uuid(Uuid::from_u128(100));
    const OWN: DatabaseId = DatabaseId::from_uuid(Uuid::from_u128(200));

    fn router(
        directory: Arc<dyn TenantDirectory>,
    ) -> (Router<InMemoryPoolFactory>, Arc<InMemoryPoolFactory>) {
        let factory = Arc::new(InMemoryPoolFactory::new(4));
        (Router::new(directory, Arc::clone(&factory), PoolSettings::default()), factory)
    }

    #[tokio::test]
    async fn tenants_of_one_shared_database_share_its_pool() {
        let directory = InMemoryDirectory::new();
        let (router, factory) = router(Arc::new(directory.clone()));
        for id in 1..=3 {
            directory.place(tenant(id, "GOT", "gbg").id, Placement::Shared(SHARED));
            let leased = router.lease(&scope_for(tenant(id, "GOT", "gbg"))).await.expect("routed");
            assert_eq!(leased.lease.target(), PoolTarget::Shared(SHARED));
            assert_eq!(leased.located.tenant, tenant(id, "GOT", "gbg").id);
        }
        assert_eq!((factory.stats().opened, router.stats().shared), (1, 1));
    }

    #[tokio::test]
    async fn same_scope_follows_its_tenant_when_it_moves() {
        let directory = InMemoryDirectory::new();
        let (router, _) = router(Arc::new(directory.clone()));
        let scope = scope_for(tenant(1, "GOT", "gbg"));
        let id = scope.tenant_id();
        directory.place(id, Placement::Shared(SHARED));
        let before = router.lease(&scope).await.expect("routed");
        directory.place(id, Placement::Dedicated(OWN));
        let after = router.lease(&scope).await.expect("routed");
        let epoch = PlacementEpoch(2);
        assert_eq!(after.lease.target(), PoolTarget::Dedicated { tenant: id, database: OWN, epoch });
        assert_eq!(after.located.epoch, epoch);
        assert!(!before.lease.is_closed());
    }

    #[tokio::test]
    async fn tenant_without_placement_reaches_no_database() {
        let (router, factory) = router(Arc::new(InMemoryDirectory::new()));
        let scope = scope_for(tenant(1, "GOT", "gbg"));
        let leased = router.lease(&scope).await;
        assert!(matches!(leased, Err(RouteError::NoPlacement(id)) if id == scope.tenant_id()));
        assert_eq!(factory.stats().begun, 0);
    }

    #[tokio::test]
    async fn directory_that_answers_for_another_tenant_is_not_believed() {
        let mut directory = MockTenantDirectory::new();
        directory.expect_find_placement().returning(|_| {
            let tenant = tenant(2, "STO", "sthlm").id;
            Ok(Some(Located { tenant, placement: Placement::Dedicated(OWN), epoch: PlacementEpoch(1) }))
        });
        let (router, factory) = router(Arc::new(directory));
        let leased = router.lease(&scope_for(tenant(1, "GOT", "gbg"))).await;
        assert!(matches!(leased, Err(RouteError::Directory(DirectoryError::Corrupt { .. }))));
        assert_eq!(factory.stats().begun, 0);
    }

    #[tokio::test]
    async fn directory_that_cannot_answer_reaches_no_database() {
        let directory = InMemoryDirectory::new();
        directory.set_unavailable(true);
        let (router, factory) = router(Arc::new(directory));
        let leased = router.lease(&scope_for(tenant(1, "GOT", "gbg"))).await;
        assert!(matches!(leased, Err(RouteError::Directory(DirectoryError::Unavailable(_)))));
        assert_eq!(factory.stats().begun, 0);
    }

    #[tokio::test]
    async fn a_tenant_that_was_used_here_and_is_about_to_move_finds_its_pool_open() {
        let memory = InMemoryDirectory::new();
        let tenants = [tenant(1, "GOT", "gbg"), tenant(2, "MAL", "malmo")];
        for one in &tenants {
            memory.place(one.id, Placement::Shared(SHARED));
        }
        let directory = Arc::new(CachedDirectory::new(Arc::new(memory.clone()), CacheSettings::default()));
        let (router, factory) = router(Arc::clone(&directory) as _);
        let sinks: Vec<Arc<dyn ChangeSink>> = vec![directory, Arc::new(router.clone())];
        let mut follower = ChangeFollower::new(Arc::new(memory.clone()), sinks);
        follower.poll_once().await.expect("polled");
        let [used, other] = tenants.map(|one| (one.id, scope_for(one)));
        drop(router.lease(&used.1).await.expect("routed"));
        for (id, database) in [(used.0, OWN), (other.0, DatabaseId::from_uuid(Uuid::from_u128(300)))] {
            memory.announce(id, Placement::Dedicated(database));
        }
        // Told at each asking, and opened once; the other was never used here.
        for _ in 0..2 {
            follower.poll_once().await.expect("polled");
        }
        factory.wait_until(|stats| stats.warmed == 2).await;
        assert_eq!((factory.stats().opened, router.stats().dedicated), (2, 1));
        memory.place(used.0, Placement::Dedicated(OWN));
        follower.poll_once().await.expect("polled");
        let leased = router.lease(&used.1).await.expect("routed");
        assert_eq!((leased.located.epoch, factory.stats().opened), (PlacementEpoch(2), 2));
    }

    #[tokio::test]
    async fn a_pool_that_cannot_be_opened_ahead_is_tried_again_by_who_needs_it() {
        let memory = InMemoryDirectory::new();
        let one = tenant(1, "GOT", "gbg");
        memory.place(one.id, Placement::Shared(SHARED));
        let directory = Arc::new(CachedDirectory::new(Arc::new(memory.clone()), CacheSettings::default()));
        let (router, factory) = router(Arc::clone(&directory) as _);
        let (id, scope) = (one.id, scope_for(one));
        drop(router.lease(&scope).await.expect("routed"));
        factory.set_failing(OWN, true);
        let arriving = Located { tenant: id, placement: Placement::Dedicated(OWN), epoch: PlacementEpoch(2) };
        router.apply(&Changes { arriving: vec![arriving], ..Changes::default() });
        factory.wait_until(|stats| stats.begun == 2).await;
        drop(router.lease(&scope).await.expect("it still serves where it is"));
        factory.set_failing(OWN, false);
        memory.place(id, arriving.placement);
        directory.forget(id);
        let leased = router.lease(&scope).await.expect("routed");
        assert_eq!((leased.located, factory.stats().opened), (arriving, 2));
    }

    #[tokio::test]
    async fn forgetting_goes_to_the_directory() {
        let mut directory = MockTenantDirectory::new();
        directory.expect_forget().once().return_const(());
        router(Arc::new(directory)).0.forget(tenant(1, "GOT", "gbg").id);
    }
}
