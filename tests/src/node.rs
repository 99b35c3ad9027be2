//! A second node on a test's databases, as another `serve` beside the first.

use std::time::Duration;

use axum::Router;
use stagesub_server::config::{Bounds, PoolSizes};
use stagesub_server::jobs::Jobs;
use stagesub_server::jobs::changes::Follow;
use stagesub_server::routes::build_router;
use stagesub_server::wiring::Platform;
use stagesub_tenancy::ConfigVersion;
use tokio::time::timeout;

use crate::client::Client;
use crate::database::connect;
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

    /// Waits until it has heard of everything that was changed before, so that nothing of that empties its caches
    /// later.
    ///
    /// # Panics
    /// If it has not within a minute.
    pub async fn until_followed(&self, platform: &TestPlatform) {
        let mut admin = connect(platform.registry()).await;
        let version: i64 = sqlx::query_scalar("SELECT version FROM registry.version")
            .fetch_one(&mut admin)
            .await
            .expect("the registry has a version");
        let followed = async {
            while self.wired.heard().version() < ConfigVersion(version) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_mins(1), followed).await.expect("the node follows");
    }

    /// The adapters behind its ports.
    #[must_use]
    pub fn wired(&self) -> &Platform {
        &self.wired
    }
}
