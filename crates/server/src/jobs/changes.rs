//! This node's caches follow what changes in the registry.

use std::time::Duration;

use stagesub_tenancy::{ChangeFollower, DirectoryError};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::problem::error_chain;

/// How often the registry is asked. Twice a second, because a change (a suspended tenant, a disabled person) must
/// hold on every node within one, the asking included.
pub const PERIOD: Duration = Duration::from_millis(500);

/// Longest that one asking may take before it is given up and begun again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks until told to stop. A registry that is away is logged once when it goes and once when it is back; until
/// then caches keep what they have, within their own ages.
pub async fn follow(mut follower: ChangeFollower, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut away = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let polled = tokio::select! {
            () = stop.cancelled() => return,
            polled = tokio::time::timeout(PATIENCE, follower.poll_once()) => polled,
        };
        let polled = polled.unwrap_or_else(|elapsed| Err(DirectoryError::Unavailable(Box::new(elapsed))));
        match (polled, away) {
            (Ok(version), true) => {
                tracing::info!(version = version.0, "the registry's changes are followed again");
                away = false;
            }
            (Ok(_), false) => {}
            (Err(error), false) => {
                tracing::warn!(cause = %error_chain(&error), "the registry's changes cannot be followed");
                away = true;
            }
            (Err(error), true) => tracing::debug!(cause = %error_chain(&error), "the registry is still away"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;
    use stagesub_tenancy::{ChangeFeed, Changes, ConfigVersion};

    use super::*;

    /// Fails at first, then answers, and stops the job after some answers.
    struct Feed {
        asked: AtomicU32,
        stop: CancellationToken,
    }

    #[async_trait]
    impl ChangeFeed for Feed {
        async fn current_version(&self) -> Result<ConfigVersion, DirectoryError> {
            if self.asked.fetch_add(1, Ordering::SeqCst) == 0 {
                return Err(DirectoryError::Unavailable("down".into()));
            }
            Ok(ConfigVersion(1))
        }

        async fn changes_since(&self, since: ConfigVersion) -> Result<Changes, DirectoryError> {
            if self.asked.fetch_add(1, Ordering::SeqCst) == 4 {
                self.stop.cancel();
            }
            Ok(Changes { version: since, ..Changes::default() })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn following_goes_on_after_a_failure_and_ends_when_told() {
        let stop = CancellationToken::new();
        let feed = Arc::new(Feed { asked: AtomicU32::new(0), stop: stop.clone() });
        let begun = tokio::time::Instant::now();
        follow(ChangeFollower::new(Arc::clone(&feed) as Arc<dyn ChangeFeed>, Vec::new()), stop).await;
        assert_eq!(feed.asked.load(Ordering::SeqCst), 5);
        assert_eq!(begun.elapsed(), 4 * PERIOD);
    }

    #[tokio::test(start_paused = true)]
    async fn a_feed_that_hangs_is_given_up_and_does_not_hold_the_server() {
        struct Hangs(CancellationToken, AtomicU32);
        #[async_trait]
        impl ChangeFeed for Hangs {
            async fn current_version(&self) -> Result<ConfigVersion, DirectoryError> {
                if self.1.fetch_add(1, Ordering::SeqCst) == 1 {
                    self.0.cancel();
                }
                std::future::pending().await
            }
            async fn changes_since(&self, _: ConfigVersion) -> Result<Changes, DirectoryError> {
                std::future::pending().await
            }
        }
        let stop = CancellationToken::new();
        let feed = Arc::new(Hangs(stop.clone(), AtomicU32::new(0)));
        follow(ChangeFollower::new(Arc::clone(&feed) as Arc<dyn ChangeFeed>, Vec::new()), stop).await;
        assert_eq!(feed.1.load(Ordering::SeqCst), 2);
    }
}
