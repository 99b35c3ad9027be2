//! A second node on a test's databases, as another `serve` beside the first.

use axum::Router;
use stagesub_server::config::{Bounds, PoolSizes};
use stagesub_server::jobs::Jobs;
use stagesub_server::jobs::changes::Follow;
use stagesub_server::routes::build_router;
use stagesub_server::wiring::Platform;

use crate::client::Client;
use crate::platform::{TestPlatform, open, serving, settings};

/// Another node of a [`TestPlatform`]: caches, pools and background jobs of its own.
pub struct SecondNode {
    router: Router,
    wired: Platform,
    /// They end with the node.
    _jobs: Jobs,
}

impl std::fmt::Debug for SecondNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecondNode").field("wired", &self.wired).finish_non_exhaustive()
    }
}

impl SecondNode {
    /// A node beside the platform's own one, which hears of changes as `follow` says.
    pub async fn beside(platform: &TestPlatform, follow: Follow) -> Self {
        let pools = PoolSizes { shared: 4, dedicated: 2, dedicated_pools: 50 };
        let settings = settings(platform.registry(), pools, Bounds::default());
        let (wired, state, jobs) = open(settings, &serving("", follow)).await;
        Self { router: build_router(state), wired, _jobs: jobs }
    }

    /// The same person at the same host, asking this node.
    #[must_use]
    pub fn asked_by(&self, client: &Client) -> Client {
        client.through(self.router.clone())
    }

    /// The adapters behind its ports.
    #[must_use]
    pub fn wired(&self) -> &Platform {
        &self.wired
    }
}
