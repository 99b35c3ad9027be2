//! The budget of connections to dedicated databases.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Counts connections: a pool holds its share from before it is opened until its closing has returned.
#[derive(Debug)]
pub(super) struct Budget {
    total: u32,
    permits: Arc<Semaphore>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Wanted by openings that wait.
    wanted: u32,
    /// Held by pools that are opening, open or closing.
    held: u32,
    /// The part of `held` that comes back without anybody's doing.
    closing: u32,
}

impl Budget {
    pub(super) fn new(total: u32) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(total.try_into().unwrap_or(Semaphore::MAX_PERMITS)));
        Arc::new(Self { total, permits, counts: Mutex::default() })
    }

    pub(super) fn total(&self) -> u32 {
        self.total
    }

    /// Connections that count now.
    pub(super) fn held(&self) -> u32 {
        self.counts().held
    }

    /// How many connections must still be freed so that all waiting openings get theirs.
    pub(super) fn deficit(&self) -> u32 {
        let counts = self.counts();
        counts.wanted.saturating_sub(self.total.saturating_sub(counts.held)).saturating_sub(counts.closing)
    }

    /// Registers an opening that wants `connections`. `None`: more than the whole budget.
    pub(super) fn want(self: &Arc<Self>, connections: u32) -> Option<Want> {
        if connections > self.total {
            return None;
        }
        self.counts().wanted += connections;
        Some(Want { budget: Arc::clone(self), connections })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A registered wish; dropping it withdraws it.
#[derive(Debug)]
pub(super) struct Want {
    budget: Arc<Budget>,
    connections: u32,
}

impl Want {
    /// Waits, in order of arrival, for the wish to be met.
    ///
    /// # Cancel safety
    /// Dropping the future loses the place in the queue and nothing else.
    pub(super) async fn granted(&self) -> Reservation {
        let permit = Arc::clone(&self.budget.permits)
            .acquire_many_owned(self.connections)
            .await
            .expect("the budget's semaphore is never closed");
        // Until the wish is dropped it counts on both sides of the deficit, which cancels out.
        self.budget.counts().held += self.connections;
        Reservation {
            budget: Arc::clone(&self.budget),
            connections: self.connections,
            closing: false,
            _permit: permit,
        }
    }
}

impl Drop for Want {
    fn drop(&mut self) {
        self.budget.counts().wanted -= self.connections;
    }
}

/// A pool's share of the budget; given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<Budget>,
    connections: u32,
    closing: bool,
    _permit: OwnedSemaphorePermit,
}

impl Reservation {
    /// The pool is being closed: nobody needs to evict another one for these connections.
    pub(super) fn begin_closing(&mut self) {
        if !self.closing {
            self.closing = true;
            self.budget.counts().closing += self.connections;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut counts = self.budget.counts();
        counts.held -= self.connections;
        if self.closing {
            counts.closing -= self.connections;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn share_is_held_until_dropped() {
        let budget = Budget::new(5);
        let share = budget.want(3).expect("within the budget").granted().await;
        assert_eq!(budget.held(), 3);
        drop(share);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn deficit_counts_what_waits_less_what_is_free_or_closing() {
        let budget = Budget::new(5);
        let mut share = budget.want(4).expect("within the budget").granted().await;
        let want = budget.want(3).expect("within the budget");
        assert_eq!(budget.deficit(), 2);
        share.begin_closing();
        assert_eq!(budget.deficit(), 0);
        drop(share);
        let share = want.granted().await;
        drop(want);
        assert_eq!((budget.deficit(), budget.held()), (0, 3));
        drop(share);
    }

    #[test]
    fn more_than_the_whole_budget_is_never_wanted() {
        let budget = Budget::new(5);
        assert!(budget.want(6).is_none());
        assert!(budget.want(5).is_some());
    }
}
