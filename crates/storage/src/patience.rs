//! How long a begin is tried again after the database refused its epoch.

use std::time::Duration;

use tokio::time::Instant;

/// Bounds of the tries after a placement turned out to be out of date.
///
/// The first try again follows at once: usually this node had simply not heard of a move that is over. After
/// that a move is under way, and each pause is an eighth of what was waited so far: a cutover takes some ten milliseconds,
/// and whoever tries at the wrong moment is to wait for little longer than it takes, and not for twice as long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MovePatience {
    /// Longest time from the first refusal to the beginning of the last try. By default longer than another node takes to
    /// open a tenant again whose mover died in a cutover: its lease, three seconds, and some tenths.
    pub within: Duration,
    /// No pause is shorter.
    pub shortest_pause: Duration,
    /// No pause is longer.
    pub longest_pause: Duration,
}

impl Default for MovePatience {
    fn default() -> Self {
        Self {
            within: Duration::from_secs(4),
            shortest_pause: Duration::from_millis(2),
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
    /// The first refusal; none yet.
    refused: Option<Instant>,
}

impl Tries {
    pub(crate) fn new(patience: MovePatience) -> Self {
        Self { patience, refused: None }
    }

    /// After a refusal: waits until the next try is due. False: the time is up.
    ///
    /// # Cancel safety
    /// Holds nothing while it waits.
    pub(crate) async fn another(&mut self) -> bool {
        let now = Instant::now();
        let MovePatience { within, shortest_pause, longest_pause } = self.patience;
        let Some(refused) = self.refused else {
            self.refused = Some(now);
            return !within.is_zero();
        };
        let waited = now - refused;
        let left = within.saturating_sub(waited);
        if left.is_zero() {
            return false;
        }
        // The last try stands at the very end of the time, not at some point before it.
        tokio::time::sleep((waited / 8).max(shortest_pause).min(longest_pause).min(left)).await;
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
        assert_eq!(at[..12], [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 21, 24]);
        let pauses = at.windows(2).map(|two| two[1] - two[0]);
        assert_eq!((pauses.max(), at.last()), (Some(300), Some(&4000)));
    }

    #[tokio::test(start_paused = true)]
    async fn without_any_time_nothing_is_tried_again() {
        assert!(tries(MovePatience::within(Duration::ZERO)).await.is_empty());
    }
}
