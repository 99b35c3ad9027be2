//! Pools of connections to tenant databases: how they are opened, lent and closed.

mod breaker;
mod budget;
mod cache;
mod lease;
mod settings;
mod state;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::directory::BoxError;
use crate::placement::{DatabaseId, Located, Placement, PlacementEpoch};
use crate::tenant::TenantId;

pub use cache::{PoolCache, PoolStats};
pub use lease::Lease;
pub use settings::{BreakerSettings, PoolSettings};

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

impl PoolTarget {
    /// The pool that reaches a tenant where it is now.
    #[must_use]
    pub const fn of(located: &Located) -> Self {
        match located.placement {
            Placement::Shared(database) => Self::Shared(database),
            Placement::Dedicated(database) => {
                Self::Dedicated { tenant: located.tenant, database, epoch: located.epoch }
            }
        }
    }

    /// The database it reaches.
    #[must_use]
    pub const fn database(&self) -> DatabaseId {
        match self {
            Self::Shared(database) | Self::Dedicated { database, .. } => *database,
        }
    }
}

/// Opens and closes pools; storage implements it on Postgres.
#[async_trait]
pub trait PoolFactory: Send + Sync + 'static {
    /// A pool of connections, as storage knows it.
    type Pool: Send + Sync + 'static;

    /// Most connections that a pool for `target` will hold: what it counts for in the budget.
    fn connections(&self, target: &PoolTarget) -> u32;

    /// Opens a pool and checks that the database is the one the target names. Called once at a time per
    /// target.
    ///
    /// # Cancel safety
    /// Dropped when [`PoolSettings::open_timeout`] has passed; what it holds by then must go with it.
    async fn open(&self, target: &PoolTarget) -> Result<Self::Pool, OpenError>;

    /// Makes ready what the first who use a pool would wait for beyond its opening. Called for a pool that is about to
    /// be used; one that is ready already is left as it is. Does nothing unless it is implemented.
    ///
    /// # Errors
    /// As for opening; the pool stays open.
    async fn warm(&self, pool: &Self::Pool) -> Result<(), OpenError> {
        let _ = pool;
        Ok(())
    }

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
    /// The registry could not be asked for its login. It is no failure of the database, which is not left alone for it.
    #[error("the database's login is not to be had")]
    Login(#[source] BoxError),
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
    Shared(#[source] Arc<OpenError>),
    /// The node is stopping; no pool is opened any more.
    #[error("the node's pools are shut down")]
    ShutDown,
}

impl OpenError {
    /// What went wrong, seen through [`OpenError::Shared`].
    #[must_use]
    pub fn root(&self) -> &Self {
        match self {
            Self::Shared(shared) => shared.root(),
            own => own,
        }
    }

    /// The same failure for one of several who waited: a copy where all of it can be copied.
    fn for_waiter(error: &Arc<Self>) -> Self {
        match &**error {
            Self::UnknownDatabase(database) => Self::UnknownDatabase(*database),
            Self::WrongDatabase { detail } => Self::WrongDatabase { detail: detail.clone() },
            Self::BreakerOpen { retry_after } => Self::BreakerOpen { retry_after: *retry_after },
            Self::BudgetExhausted { budget } => Self::BudgetExhausted { budget: *budget },
            Self::ShutDown => Self::ShutDown,
            Self::Login(_) | Self::Unavailable(_) | Self::Shared(_) => Self::Shared(Arc::clone(error)),
        }
    }
}
