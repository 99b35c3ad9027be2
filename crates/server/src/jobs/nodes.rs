//! This node says that it lives, and takes its part of what the nodes share.

use std::time::Duration;

use async_trait::async_trait;
use stagesub_tenancy::DirectoryError;
use stagesub_tenancy::nodes::{Beat, Membership, Uses};
use tokio_util::sync::CancellationToken;

use crate::problem::error_chain;
use crate::wiring::Fleet;

/// How often it says so.
pub const PERIOD: Duration = Duration::from_secs(5);

/// How often it says so while others have not yet left it its part.
pub const IMPATIENT: Duration = Duration::from_secs(1);

/// How long the others count it without hearing from it.
pub const LEASE: Duration = Duration::from_secs(20);

/// Longest that one beat may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(4);

/// What is shared.
#[async_trait]
pub trait Shared: Send + Sync {
    /// Uses at most so much from now on. What is in use is not taken away, so this is called at each beat.
    async fn fit(&self, uses: Uses);

    /// What is in use now.
    fn uses(&self) -> Uses;

    /// So many nodes share it.
    fn heard_of(&self, _nodes: u32) {}

    /// Uses nothing any more.
    async fn end(&self);
}

#[async_trait]
impl Shared for Fleet {
    async fn fit(&self, uses: Uses) {
        Self::fit(self, uses).await;
    }

    fn uses(&self) -> Uses {
        Self::uses(self)
    }

    fn heard_of(&self, nodes: u32) {
        Self::heard_of(self, nodes);
    }

    async fn end(&self) {
        Self::end(self).await;
    }
}

/// Beats until told to stop, and then takes leave, once nothing is used any more. While the registry is away, the part stays what it was.
pub async fn beat(mut member: Membership, shared: impl Shared, stop: CancellationToken) {
    let (node, mut known, mut away) = (member.node(), None, false);
    // Until the others have been heard of.
    shared.fit(member.granted()).await;
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
        pause = PERIOD;
        match once(&mut member, &shared).await {
            Ok(beat) => {
                if known.replace((beat.nodes, beat.uses)) != Some((beat.nodes, beat.uses)) || away {
                    let Uses { shared, dedicated } = beat.uses;
                    tracing::info!(%node, live = beat.nodes, shared, dedicated, "this node's part of the connections");
                }
                shared.heard_of(beat.nodes.get());
                away = false;
                if !beat.is_whole {
                    pause = IMPATIENT;
                }
            }
            Err(error) if away => tracing::debug!(cause = %error_chain(&error), "the registry is still away"),
            Err(error) => {
                tracing::warn!(cause = %error_chain(&error), "the registry did not hear that this node lives");
                away = true;
            }
        }
    }
    if tokio::time::timeout(PATIENCE, shared.end()).await.is_err() {
        // The others wait for the lease: what is in use ends with this process, and soon.
        tracing::warn!("connections are still in use, and the other nodes are not told that they are free");
        return;
    }
    if let Err(error) = bounded(member.leave()).await {
        tracing::debug!(cause = %error_chain(&error), "the registry did not hear that this node ends");
    }
}

/// Beats once: takes what the node may use, gives up what it may not, and says what is left of that.
///
/// # Errors
/// [`DirectoryError`]: the registry was not reached in time.
pub async fn once(member: &mut Membership, shared: &impl Shared) -> Result<Beat, DirectoryError> {
    let beat = bounded(member.beat()).await?;
    shared.fit(beat.uses).await;
    bounded(member.settle(shared.uses())).await?;
    Ok(beat)
}

async fn bounded<T>(question: impl Future<Output = Result<T, DirectoryError>>) -> Result<T, DirectoryError> {
    tokio::time::timeout(PATIENCE, question)
        .await
        .unwrap_or_else(|elapsed| Err(DirectoryError::Unavailable(Box::new(elapsed))))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::{Arc, Mutex};

    use stagesub_tenancy::nodes::{Others, Sharing};
    use stagesub_tenancy::{NodeId, NodeRegistry};
    use tokio::time::Instant;

    use super::*;

    const SHARING: Sharing = Sharing { total: both(63), least: both(3), most: both(60) };

    const fn both(number: u32) -> Uses {
        Uses { shared: number, dedicated: number }
    }

    /// Tells of others as it is told, question by question, and stops the job after the last.
    struct Told {
        others: Mutex<Vec<Option<Others>>>,
        asked: Mutex<Vec<(u64, u32)>>,
        begun: Instant,
        left: Mutex<Vec<NodeId>>,
        stop: CancellationToken,
    }

    #[async_trait]
    impl NodeRegistry for Told {
        async fn beat(&self, _: NodeId, lease: Duration, uses: Uses) -> Result<Others, DirectoryError> {
            assert_eq!(lease, LEASE);
            self.asked.lock().unwrap().push((self.begun.elapsed().as_secs(), uses.shared));
            let answer = {
                let mut others = self.others.lock().unwrap();
                let answer = others.remove(0);
                if others.is_empty() {
                    self.stop.cancel();
                }
                answer
            };
            match answer {
                Some(others) => Ok(others),
                None => std::future::pending().await,
            }
        }

        async fn count(&self, _: Duration) -> Result<u32, DirectoryError> {
            unreachable!("a node that lives asks what the others use")
        }

        async fn leave(&self, node: NodeId) -> Result<(), DirectoryError> {
            self.left.lock().unwrap().push(node);
            Ok(())
        }
    }

    /// Uses what it may.
    #[derive(Default)]
    struct Pool(Mutex<Vec<u32>>);

    #[async_trait]
    impl Shared for Pool {
        async fn fit(&self, uses: Uses) {
            self.0.lock().unwrap().push(uses.shared);
        }

        fn uses(&self) -> Uses {
            both(self.0.lock().unwrap().last().copied().unwrap_or_default())
        }

        async fn end(&self) {
            self.0.lock().unwrap().push(0);
        }
    }

    #[async_trait]
    impl Shared for Arc<Pool> {
        async fn fit(&self, uses: Uses) {
            Pool::fit(self, uses).await;
        }

        fn uses(&self) -> Uses {
            Pool::uses(self)
        }

        async fn end(&self) {
            Pool::end(self).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_part_follows_the_others_and_stays_while_the_registry_is_away() {
        let others = |nodes, uses| Some(Others { nodes, uses: both(uses) });
        let told = Arc::new(Told {
            others: Mutex::new(vec![
                // One that has all: wait for it, and look each second.
                others(1, 60),
                others(1, 30),
                // Said that it takes the half that is free, and looked again.
                others(1, 30),
                // Five seconds later there are two, and then the registry is away.
                others(2, 30),
                others(2, 30),
                None,
                others(0, 0),
                others(0, 0),
            ]),
            asked: Mutex::default(),
            begun: Instant::now(),
            left: Mutex::default(),
            stop: CancellationToken::new(),
        });
        let node = NodeId::from_uuid(uuid::Uuid::from_u128(1));
        let pool = Arc::new(Pool::default());
        let member = Membership::new(Arc::clone(&told) as _, node, LEASE, SHARING);
        beat(member, Arc::clone(&pool), told.stop.clone()).await;
        assert_eq!(
            *told.asked.lock().unwrap(),
            [(0, 3), (1, 3), (1, 30), (6, 30), (6, 20), (11, 20), (20, 20), (20, 60)]
        );
        assert_eq!(*pool.0.lock().unwrap(), [3, 3, 30, 20, 60, 0]);
        assert_eq!(*told.left.lock().unwrap(), [node]);
        assert_eq!(SHARING.part(NonZeroU32::MIN), both(60));
    }
}
