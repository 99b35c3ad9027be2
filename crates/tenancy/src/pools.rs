//! Pools of connections to tenant databases: how they are opened, lent and closed.

use std::time::Duration;

use async_trait::async_trait;

use crate::directory::BoxError;
use crate::placement::{DatabaseId, PlacementEpoch};
use crate::tenant::TenantId;

/// What a pool is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolTarget {
    /// A shared database: one pool for all its tenants.
    Shared(DatabaseId),
    /// A dedicated database, for one tenant at one epoch.
    Dedicated {
        /// Whose it is; the database's marker must say the same.
        tenant: TenantId,
        /// The database.
        database: DatabaseId,
        /// The placement's version: an older pool is never used for a newer one.
        epoch: PlacementEpoch,
    },
}

/// Opens and closes pools; storage implements it on Postgres.
#[async_trait]
pub trait PoolFactory: Send + Sync + 'static {
    /// A pool of connections, as storage knows it.
    type Pool: Send + Sync + 'static;

    /// Most connections that a pool for `target` will hold: what it counts for in the budget.
    fn connections(&self, target: &PoolTarget) -> u32;

    /// Opens a pool and checks that the database is the one the target names.
    async fn open(&self, target: &PoolTarget) -> Result<Self::Pool, OpenError>;

    /// Closes a pool that nobody holds any more; returns when its connections are gone.
    async fn close(&self, pool: Self::Pool);
}

/// A pool could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The registry names no such database, or holds no login for it.
    #[error("database {0} is not registered")]
    UnknownDatabase(DatabaseId),
    /// The database is marked as another's, or not at all.
    #[error("the database is not marked as this tenant's: {detail}")]
    WrongDatabase {
        /// What the marker says.
        detail: String,
    },
    /// It cannot be reached.
    #[error("the database is unavailable")]
    Unavailable(#[source] BoxError),
    /// It failed a moment ago and is left alone until it may be tried again.
    #[error("the database failed and is not tried again for {} s", retry_after.as_secs())]
    BreakerOpen {
        /// How long until the next try.
        retry_after: Duration,
    },
    /// All connections of the budget are in use.
    #[error("no connection is left in the budget of {budget}")]
    BudgetExhausted {
        /// Connections the node may hold to dedicated databases.
        budget: u32,
    },
    /// Another caller's opening of the same pool failed while this one waited for it.
    #[error("the database could not be opened")]
    Shared(#[source] std::sync::Arc<OpenError>),
}
