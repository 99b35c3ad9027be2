//! What this node's tenants used is added to what all nodes' did.

use std::sync::Arc;
use std::time::Duration;

use stagesub_tenancy::{DirectoryError, UsageLedger, UsageMeter};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::problem::error_chain;

/// How often.
pub const PERIOD: Duration = Duration::from_secs(10);

/// Longest that it may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(4);

/// Adds until told to stop, and then once more. While the registry is away the sums grow on this node.
pub async fn keep(meter: Arc<UsageMeter>, ledger: Arc<dyn UsageLedger>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is now, when nothing was used yet.
    ticks.tick().await;
    let mut away = false;
    loop {
        let stopped = tokio::select! {
            () = stop.cancelled() => true,
            _ = ticks.tick() => false,
        };
        match (add(&meter, ledger.as_ref()).await, away) {
            (Ok(()), _) => away = false,
            (Err(error), false) => {
                tracing::warn!(cause = %error_chain(&error), "the registry did not hear what tenants used");
                away = true;
            }
            (Err(error), true) => tracing::debug!(cause = %error_chain(&error), "the registry is still away"),
        }
        if stopped {
            return;
        }
    }
}

/// Adds what was used since the last time. Sums that were not seen to be added are added again: where an answer was
/// lost they count twice.
pub(crate) async fn add(meter: &UsageMeter, ledger: &dyn UsageLedger) -> Result<(), DirectoryError> {
    let sums = meter.take();
    if sums.is_empty() {
        return Ok(());
    }
    let added = tokio::time::timeout(PATIENCE, ledger.add(&sums))
        .await
        .unwrap_or_else(|elapsed| Err(DirectoryError::Unavailable(Box::new(elapsed))));
    if added.is_err() {
        meter.give_back(sums);
    }
    added
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use stagesub_tenancy::usage::{Usage, UsageBy, UsageReport, UsageSink, UsageSums, Used};
    use stagesub_tenancy::{DatabaseId, Placement, TenantId};
    use uuid::Uuid;

    use super::*;

    fn uses(meter: &UsageMeter, rows: u64) {
        meter.used(&Used {
            tenant: TenantId::from_uuid(Uuid::from_u128(1)),
            placement: Placement::Shared(DatabaseId::from_uuid(Uuid::from_u128(2))),
            usage: Usage { rows, ..Usage::default() },
            crowded: None,
        });
    }

    /// Does as planned; a plan that is over answers.
    struct Ledger {
        plan: Mutex<Vec<Option<bool>>>,
        added: Mutex<Vec<u64>>,
    }

    #[async_trait]
    impl UsageLedger for Ledger {
        async fn add(&self, sums: &UsageSums) -> Result<(), DirectoryError> {
            let planned = {
                let mut plan = self.plan.lock().unwrap();
                if plan.is_empty() { Some(true) } else { plan.remove(0) }
            };
            match planned {
                Some(true) => {
                    self.added.lock().unwrap().push(sums.tenants[0].1.rows);
                    Ok(())
                }
                Some(false) => Err(DirectoryError::Unavailable("down".into())),
                None => std::future::pending().await,
            }
        }

        async fn top(&self, _: UsageBy, _: u32, _: u32) -> Result<UsageReport, DirectoryError> {
            unreachable!("the job asks for nothing")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_registry_did_not_take_is_added_later_and_the_rest_at_the_end() {
        let (meter, stop) = (Arc::new(UsageMeter::new()), CancellationToken::new());
        let plan = Mutex::new(vec![Some(true), Some(false), None]);
        let ledger = Arc::new(Ledger { plan, added: Mutex::default() });
        uses(&meter, 5);
        let job = tokio::spawn(keep(Arc::clone(&meter), Arc::clone(&ledger) as _, stop.clone()));
        tokio::time::sleep(PERIOD + Duration::from_secs(1)).await;
        uses(&meter, 7);
        // One that fails, one that hangs and is given up, one that is kept.
        tokio::time::sleep(PERIOD * 2 + PATIENCE).await;
        uses(&meter, 8);
        tokio::time::sleep(PERIOD * 2).await;
        assert_eq!(*ledger.added.lock().unwrap(), [5, 15]);
        uses(&meter, 9);
        stop.cancel();
        job.await.unwrap();
        assert_eq!(*ledger.added.lock().unwrap(), [5, 15, 9]);
    }
}
