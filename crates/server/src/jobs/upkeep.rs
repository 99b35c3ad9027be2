//! Small chores at a fixed pace.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How often pools that nobody asks for are looked through.
pub const EVICTION: Duration = Duration::from_mins(1);

/// How often those who have not asked for long are forgotten.
pub const FORGETTING: Duration = Duration::from_mins(1);

/// How often figures that nobody fetched are put together.
pub const FIGURES: Duration = Duration::from_secs(5);

/// Does a chore once a period until told to stop.
pub async fn every(period: Duration, mut chore: impl FnMut() + Send, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is now, when there is nothing to do yet.
    ticks.tick().await;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => chore(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_chore_is_done_once_a_period_until_told_to_stop() {
        let stop = CancellationToken::new();
        let (told, mut done) = (stop.clone(), 0);
        let begun = tokio::time::Instant::now();
        let chore = || {
            done += 1;
            if done == 3 {
                told.cancel();
            }
        };
        every(EVICTION, chore, stop).await;
        assert_eq!((done, begun.elapsed()), (3, 3 * EVICTION));
    }
}
