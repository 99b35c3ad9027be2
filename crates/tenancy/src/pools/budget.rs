//! The budget of connections to dedicated databases.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Counts connections: a pool holds its share from before it is opened until its closing has returned.
#[derive(Debug)]
pub(super) struct Budget {
    permits: Arc<Semaphore>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Connections that there may be.
    total: u32,
    /// By how many the budget shrank that were held then: they leave it as they come back.
    owed: u32,
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
        Arc::new(Self { permits, counts: Mutex::new(Counts { total, ..Counts::default() }) })
    }

    pub(super) fn total(&self) -> u32 {
        self.counts().total
    }

    /// Changes how many connections there may be. Those that are held beyond the new number are not taken
    /// away; as their pools close they are not given out again.
    pub(super) fn set_total(&self, total: u32) {
        let mut counts = self.counts();
        let before = std::mem::replace(&mut counts.total, total);
        if total >= before {
            let more = total - before;
            let paid = more.min(counts.owed);
            counts.owed -= paid;
            self.permits.add_permits((more - paid) as usize);
        } else {
            let fewer = before - total;
            let forgotten = self.permits.forget_permits(fewer as usize);
            counts.owed += fewer - u32::try_from(forgotten).unwrap_or(fewer);
        }
    }

    /// Connections that count now.
    pub(super) fn held(&self) -> u32 {
        self.counts().held
    }

    /// How many connections must still be freed so that all waiting openings get theirs and no more are held
    /// than there may be.
    pub(super) fn deficit(&self) -> u32 {
        let counts = self.counts();
        counts.wanted.saturating_add(counts.held).saturating_sub(counts.total).saturating_sub(counts.closing)
    }

    /// Registers an opening that wants `connections`. `None`: more than the whole budget.
    pub(super) fn want(self: &Arc<Self>, connections: u32) -> Option<Want> {
        let mut counts = self.counts();
        if connections > counts.total {
            return None;
        }
        counts.wanted += connections;
        drop(counts);
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
            permit,
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
    permit: OwnedSemaphorePermit,
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
        let paid = counts.owed.min(self.connections);
        if let Some(paid_back) = self.permit.split(paid as usize) {
            counts.owed -= paid;
            paid_back.forget();
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

    #[tokio::test]
    async fn a_budget_that_shrinks_takes_back_what_is_held_as_it_comes_back() {
        let budget = Budget::new(10);
        let first = budget.want(4).expect("within the budget").granted().await;
        let second = budget.want(4).expect("within the budget").granted().await;
        budget.set_total(5);
        assert_eq!((budget.total(), budget.held(), budget.deficit()), (5, 8, 3));
        let want = budget.want(4).expect("within the budget");
        drop(first);
        assert_eq!(budget.permits.available_permits(), 1, "of 5 another pool holds 4");
        drop(second);
        let third = want.granted().await;
        drop(want);
        assert_eq!((budget.held(), budget.permits.available_permits()), (4, 1));
        budget.set_total(3);
        budget.set_total(8);
        assert_eq!(budget.permits.available_permits(), 4);
        drop(third);
        assert_eq!((budget.held(), budget.permits.available_permits()), (0, 8));
    }

    #[test]
    fn more_than_the_whole_budget_is_never_wanted() {
        let budget = Budget::new(5);
        assert!(budget.want(6).is_none());
        assert!(budget.want(5).is_some());
    }
}
