//! This node says that it lives, and takes its part of what the nodes share.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use stagesub_tenancy::{DirectoryError, NodeId, NodeRegistry};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::problem::error_chain;

/// How often it says so.
pub const PERIOD: Duration = Duration::from_secs(5);

/// How long the others count it without hearing from it.
pub const LEASE: Duration = Duration::from_secs(20);

/// Longest that one beat may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(4);

/// Beats until told to stop, and then takes leave. `apply` is told how many nodes live, each time, since pools
/// that were in use are fitted when they are not. While the registry is away, the part stays what it was.
pub async fn beat<F: Future<Output = ()> + Send>(
    nodes: Arc<dyn NodeRegistry>,
    node: NodeId,
    apply: impl Fn(NonZeroU32) -> F + Send + Sync,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut known, mut away) = (None, false);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        match bounded(nodes.beat(node, LEASE)).await {
            Ok(live) => {
                if known.replace(live) != Some(live) || away {
                    tracing::info!(%node, live, "nodes that share the connections");
                }
                away = false;
                apply(live).await;
            }
            Err(error) if away => tracing::debug!(cause = %error_chain(&error), "the registry is still away"),
            Err(error) => {
                tracing::warn!(cause = %error_chain(&error), "the registry did not hear that this node lives");
                away = true;
            }
        }
    }
    if let Err(error) = bounded(nodes.leave(node)).await {
        tracing::debug!(cause = %error_chain(&error), "the registry did not hear that this node ends");
    }
}

async fn bounded<T>(question: impl Future<Output = Result<T, DirectoryError>>) -> Result<T, DirectoryError> {
    tokio::time::timeout(PATIENCE, question)
        .await
        .unwrap_or_else(|elapsed| Err(DirectoryError::Unavailable(Box::new(elapsed))))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;

    /// Answers as it is told, beat by beat, and stops the job after the last.
    struct Told {
        answers: Mutex<Vec<Option<u32>>>,
        left: Mutex<Vec<NodeId>>,
        stop: CancellationToken,
    }

    #[async_trait]
    impl NodeRegistry for Told {
        async fn beat(&self, _: NodeId, lease: Duration) -> Result<NonZeroU32, DirectoryError> {
            assert_eq!(lease, LEASE);
            let answer = {
                let mut answers = self.answers.lock().unwrap();
                let answer = answers.remove(0);
                if answers.is_empty() {
                    self.stop.cancel();
                }
                answer
            };
            match answer.and_then(NonZeroU32::new) {
                Some(live) => Ok(live),
                None => std::future::pending().await,
            }
        }

        async fn leave(&self, node: NodeId) -> Result<(), DirectoryError> {
            self.left.lock().unwrap().push(node);
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_part_follows_the_count_and_stays_while_the_registry_is_away() {
        let stop = CancellationToken::new();
        let answers = Mutex::new(vec![Some(1), Some(3), None, Some(3), Some(2)]);
        let told = Arc::new(Told { answers, left: Mutex::default(), stop: stop.clone() });
        let node = NodeId::from_uuid(uuid::Uuid::from_u128(1));
        let applied = Mutex::new(Vec::new());
        let apply = |live: NonZeroU32| {
            applied.lock().unwrap().push(live.get());
            std::future::ready(())
        };
        beat(Arc::clone(&told) as Arc<dyn NodeRegistry>, node, apply, stop).await;
        assert_eq!(*applied.lock().unwrap(), [1, 3, 3, 2]);
        assert_eq!(*told.left.lock().unwrap(), [node]);
    }
}
