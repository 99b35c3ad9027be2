//! Whether the databases answer that every request needs.

use std::sync::Arc;

use async_trait::async_trait;
use stagesub_storage::factory::LeanPoolFactory;
use stagesub_storage::migrate::MigrateError;
use stagesub_storage::registry::RegistryPools;
use stagesub_tenancy::{OpenError, PoolFactory, PoolTarget};

use crate::readiness::{NotReady, PROBE_TIMEOUT, Readiness};

/// Ready when the registry and a shared database answer. Dedicated databases do not count: one that is away
/// concerns its own tenant, and a node must not leave the others for it.
pub(super) struct DatabasesAnswer {
    pub(super) registry: RegistryPools,
    pub(super) factory: Arc<LeanPoolFactory>,
}

#[async_trait]
impl Readiness for DatabasesAnswer {
    async fn check(&self) -> Result<(), NotReady> {
        bounded("the registry", async { Ok(self.registry.ping().await?) }).await?;
        bounded("the shared database", async {
            let shared = self.registry.list_shared().await?;
            // Of several any one will do: those who live in another are served by this node as by every other.
            let asked = shared.into_iter().map(|shared| {
                Box::pin(async move {
                    // Opening reads the database's marker over a connection of its own, so a pool that is fully lent
                    // does not make a busy node look like a broken one.
                    let pool = self.factory.open(&PoolTarget::Shared(shared)).await?;
                    self.factory.close(pool).await;
                    Ok::<(), OpenError>(())
                })
            });
            let asked: Vec<_> = asked.collect();
            if asked.is_empty() {
                return Err(MigrateError::NoShared.into());
            }
            futures::future::select_ok(asked).await?;
            Ok(())
        })
        .await
    }
}

async fn bounded(
    what: &'static str,
    question: impl Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>>,
) -> Result<(), NotReady> {
    match tokio::time::timeout(PROBE_TIMEOUT, question).await {
        Ok(answer) => answer.map_err(|source| NotReady { what, source }),
        Err(elapsed) => Err(NotReady { what, source: Box::new(elapsed) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_database_that_hangs_is_not_ready_in_bounded_time() {
        let error = bounded("the registry", std::future::pending()).await.unwrap_err();
        assert_eq!(error.to_string(), "the registry does not answer");
    }
}
