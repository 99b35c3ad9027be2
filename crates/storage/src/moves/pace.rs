//! How many bytes a second a move may take.
//!
//! A copy at full speed takes the disk and the processors from the tenants beside it. Everything that reads or writes in
//! bulk asks here first, and one pace that is shared by several streams holds for all of them together. What is read ahead
//! of a copy's writing has a faster one ([`Pace::faster`]).

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How far bytes may run ahead of the rate. As long as a pause that nobody sees, and long enough for a timer's ticks.
const AHEAD: Duration = Duration::from_millis(50);

/// A rate that streams share. Clones share it too.
///
/// Turns are given in the order in which they are asked for, each as soon as the bytes before it have gone.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    limit: Option<Arc<Limit>>,
}

#[derive(Debug)]
struct Limit {
    bytes_per_second: NonZeroU64,
    /// When everything that was asked for so far will have gone, at the rate.
    gone_at: Mutex<Instant>,
}

impl Pace {
    /// As fast as it goes.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::default()
    }

    /// So many bytes a second.
    #[must_use]
    pub fn bytes_per_second(rate: NonZeroU64) -> Self {
        let gone_at = Mutex::new(Instant::now());
        Self { limit: Some(Arc::new(Limit { bytes_per_second: rate, gone_at })) }
    }

    /// So many bytes a second, or as fast as it goes.
    #[must_use]
    pub fn of(rate: Option<NonZeroU64>) -> Self {
        rate.map_or_else(Self::unlimited, Self::bytes_per_second)
    }

    /// One of its own that is so many times as fast, but by that alone not above `most`.
    #[must_use]
    pub fn faster(&self, times: NonZeroU64, most: NonZeroU64) -> Self {
        let faster = |rate: NonZeroU64| rate.saturating_mul(times).min(most).max(rate);
        Self::of(self.limit.as_ref().map(|limit| faster(limit.bytes_per_second)))
    }

    /// Whether there is a rate.
    #[must_use]
    pub const fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// Waits until so many bytes may go. Time in which nobody asked is not saved up.
    ///
    /// # Cancel safety
    /// Who goes away while waiting has used its turn: the others do not get its bytes.
    pub async fn take(&self, bytes: u64) {
        if let Some(limit) = &self.limit {
            tokio::time::sleep_until(limit.turn(bytes)).await;
        }
    }
}

impl Limit {
    /// Puts the bytes in line: when they may go.
    fn turn(&self, bytes: u64) -> Instant {
        let now = Instant::now();
        let mut gone_at = self.gone_at.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = (*gone_at).max(now);
        *gone_at = begins + self.time_of(bytes);
        begins.checked_sub(AHEAD).unwrap_or(now)
    }

    fn time_of(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(bytes_per_second: u64) -> Pace {
        Pace::of(NonZeroU64::new(bytes_per_second))
    }

    async fn elapsed(work: impl Future<Output = ()>) -> Duration {
        let began = Instant::now();
        work.await;
        began.elapsed()
    }

    /// Timers tick in milliseconds, and a turn may begin a little ahead.
    fn about(taken: Duration, wanted: Duration) -> bool {
        taken + AHEAD + Duration::from_millis(2) > wanted && taken < wanted + Duration::from_millis(2)
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_go_at_the_rate() {
        let pace = rate(1_000_000);
        let taken = elapsed(async {
            for _ in 0..=100 {
                pace.take(64 * 1024).await;
            }
        })
        .await;
        assert!(about(taken, Duration::from_millis(6_553)), "{taken:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn several_streams_share_one_rate() {
        let pace = rate(1_000_000);
        let stream = |pace: Pace| async move {
            for _ in 0..10 {
                pace.take(100_000).await;
            }
        };
        let taken = elapsed(async {
            tokio::join!(stream(pace.clone()), stream(pace.clone()));
        })
        .await;
        assert!(about(taken, Duration::from_millis(1_900)), "{taken:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_faster_is_for_others() {
        let (eight, most) = (NonZeroU64::new(8).unwrap(), NonZeroU64::new(40_000).unwrap());
        for (own, faster) in [(1_000, 8_000), (5_000, 40_000), (10_000, 40_000), (50_000, 50_000)] {
            let slow = rate(own);
            let fast = slow.faster(eight, most);
            assert_eq!(elapsed(slow.take(own)).await, Duration::ZERO);
            assert_eq!(elapsed(fast.take(faster)).await, Duration::ZERO);
            let taken = elapsed(fast.take(1)).await;
            assert!(about(taken, Duration::from_secs(1)), "{own}: {taken:?}");
        }
        assert!(!Pace::unlimited().faster(eight, most).is_limited());
    }

    #[tokio::test(start_paused = true)]
    async fn any_number_of_bytes_goes_and_those_after_it_wait() {
        let pace = rate(1_000);
        assert_eq!(elapsed(pace.take(5_000)).await, Duration::ZERO);
        let taken = elapsed(pace.take(1)).await;
        assert!(about(taken, Duration::from_secs(5)), "{taken:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_asked_is_not_saved_up() {
        let pace = rate(1_000);
        tokio::time::advance(Duration::from_mins(1)).await;
        pace.take(2_000).await;
        let taken = elapsed(pace.take(1)).await;
        assert!(about(taken, Duration::from_secs(2)), "{taken:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nobody_waits() {
        let pace = Pace::of(None);
        pace.take(u64::MAX).await;
        assert_eq!(elapsed(pace.take(u64::MAX)).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_high_rate_is_as_exact_as_a_low_one() {
        let pace = rate(3_000_000_000);
        let taken = elapsed(async {
            for _ in 0..=100_000 {
                pace.take(64 * 1024).await;
            }
        })
        .await;
        // Each turn's time is cut to whole nanoseconds.
        assert!(about(taken, Duration::from_millis(2_184)), "{taken:?}");
    }
}
