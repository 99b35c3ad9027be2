//! What this node shares with the others.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use stagesub_storage::factory::LeanPoolFactory;
use stagesub_tenancy::Router;
use stagesub_tenancy::nodes::{Sharing, Uses};

use crate::config::{PoolShares, PoolSizes};

/// Connections to databases, as far as the nodes share them.
#[derive(Clone)]
pub struct Fleet {
    pub(super) router: Arc<Router<LeanPoolFactory>>,
    pub(super) factory: Arc<LeanPoolFactory>,
    pub(super) sizes: PoolSizes,
    pub(super) shares: PoolShares,
    pub(super) live: Arc<AtomicU32>,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("sizes", &self.sizes)
            .field("shares", &self.shares)
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// Remembers how many nodes live, for metrics.
    pub(crate) fn heard_of(&self, nodes: u32) {
        self.live.store(nodes, Ordering::Relaxed);
    }

    /// Uses at most so many connections from now on: pools that are open become smaller or larger.
    pub async fn fit(&self, uses: Uses) {
        // The pool has one more, which cancels statements.
        let shared = uses.shared.saturating_sub(1);
        self.factory.set_shared_connections(shared);
        self.router.set_connection_budget(uses.dedicated);
        for pool in self.router.shared_pools() {
            pool.resize(shared).await;
        }
    }

    /// What is in use: those that are open, or being opened or closed.
    #[must_use]
    pub fn uses(&self) -> Uses {
        let pools = self.router.shared_pools();
        let shared = pools.iter().map(|pool| u32::try_from(pool.connections()).unwrap_or(u32::MAX)).max();
        Uses {
            shared: shared.map_or(0, |connections| connections.saturating_add(1)),
            dedicated: self.router.stats().connections,
        }
    }

    /// Closes every pool, and returns when nothing is in use any more.
    pub async fn end(&self) {
        self.router.shutdown().await;
    }

    /// How it is shared with the other nodes.
    #[must_use]
    pub fn sharing(&self) -> Sharing {
        self.shares.sharing(self.sizes)
    }
}
