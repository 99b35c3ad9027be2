//! From a scope to the pool of the database that holds its tenant.

use std::fmt;
use std::sync::Arc;

use crate::directory::{DirectoryError, TenantDirectory};
use crate::placement::Located;
use crate::pools::{Lease, OpenError, PoolCache, PoolFactory, PoolSettings, PoolStats, PoolTarget};
use crate::scope::TenantScope;
use crate::tenant::TenantId;

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
}

/// A leased pool and the placement that it was leased for.
pub struct Routed<P> {
    /// The pool; it stays open as long as this is held.
    pub lease: Lease<P>,
    /// Where the tenant is, and the epoch that its fence in that database must confirm.
    pub located: Located,
}

impl<F: PoolFactory> Router<F> {
    /// A router that opens pools through `factory` where `directory` says.
    #[must_use]
    pub fn new(directory: Arc<dyn TenantDirectory>, factory: Arc<F>, settings: PoolSettings) -> Self {
        Self { directory, pools: PoolCache::new(factory, settings) }
    }

    /// Leases the pool for the scope's tenant.
    ///
    /// # Errors
    /// [`RouteError::NoPlacement`] for a tenant without a placement: no other database is tried.
    ///
    /// # Cancel safety
    /// Dropping the future leaks no lease; an opening that it began goes on for others.
    pub async fn lease(&self, scope: &TenantScope) -> Result<Routed<F::Pool>, RouteError> {
        let tenant = scope.tenant_id();
        let placement = self.directory.find_placement(tenant).await.map_err(RouteError::Directory)?;
        let located = placement.ok_or(RouteError::NoPlacement(tenant))?;
        if located.tenant != tenant {
            let source = format!("asked for tenant {tenant}, told of {}", located.tenant).into();
            return Err(RouteError::Directory(DirectoryError::Corrupt { what: "placement", source }));
        }
        let lease = self.pools.lease(PoolTarget::of(&located)).await.map_err(RouteError::Open)?;
        Ok(Routed { lease, located })
    }

    /// The tenant's placement turned out to be out of date: the next lease asks the directory afresh.
    pub fn forget(&self, tenant: TenantId) {
        self.directory.forget(tenant);
    }

    /// Closes dedicated pools that are too old although nobody asks for them; to be called each minute.
    pub fn evict_expired(&self) {
        self.pools.evict_expired();
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

impl<F: PoolFactory> Clone for Router<F> {
    fn clone(&self) -> Self {
        Self { directory: Arc::clone(&self.directory), pools: self.pools.clone() }
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
