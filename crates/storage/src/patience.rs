//! How long a begin is tried again after the database refused its epoch.

use std::time::Duration;

use tokio::time::Instant;

/// Bounds of the tries after a placement turned out to be out of date.
///
/// The first try again follows at once: usually this node had simply not heard of a move that is over. After
/// that a move is under way, and each pause is twice as long as the one before: a cutover takes some ten milliseconds, and
/// whoever tries at the wrong moment is to wait for about as long again, and not for longer than it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MovePatience {
    /// Longest time from the first refusal to the beginning of the last try.
    pub within: Duration,
    /// The first pause.
    pub first_pause: Duration,
    /// No pause is longer.
    pub longest_pause: Duration,
}

impl Default for MovePatience {
    fn default() -> Self {
        Self {
            within: Duration::from_secs(2),
            first_pause: Duration::from_millis(2),
            longest_pause: Duration::from_millis(300),
        }
    }
}

impl MovePatience {
    /// The same pauses, within another time.
    #[must_use]
    pub fn within(within: Duration) -> Self {
        Self { within, ..Self::default() }
    }
}

/// The tries of one begin.
#[derive(Debug)]
pub(crate) struct Tries {
    patience: MovePatience,
    /// When the last try may begin; none before the first refusal.
    until: Option<Instant>,
    pause: Duration,
}

impl Tries {
    pub(crate) fn new(patience: MovePatience) -> Self {
        Self { patience, until: None, pause: patience.first_pause }
    }

    /// After a refusal: waits until the next try is due. False: the time is up.
    ///
    /// # Cancel safety
    /// Holds nothing while it waits.
    pub(crate) async fn another(&mut self) -> bool {
        let now = Instant::now();
        let Some(until) = self.until else {
            self.until = now.checked_add(self.patience.within);
            return !self.patience.within.is_zero();
        };
        if now >= until {
            return false;
        }
        // The last try stands at the very end of the time, not at some point before it.
        tokio::time::sleep_until(until.min(now + self.pause)).await;
        self.pause = (self.pause * 2).min(self.patience.longest_pause);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When each try after a refusal begins.
    async fn tries(patience: MovePatience) -> Vec<u128> {
        let (begun, mut tries, mut at) = (Instant::now(), Tries::new(patience), Vec::new());
        while tries.another().await {
            at.push(begun.elapsed().as_millis());
        }
        at
    }

    #[tokio::test(start_paused = true)]
    async fn the_pauses_grow_and_the_time_is_kept() {
        let at = tries(MovePatience::default()).await;
        assert_eq!(at, [0, 2, 6, 14, 30, 62, 126, 254, 510, 810, 1110, 1410, 1710, 2000]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_any_time_nothing_is_tried_again() {
        assert!(tries(MovePatience::within(Duration::ZERO)).await.is_empty());
    }
}
