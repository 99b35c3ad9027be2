//! Which table is copied next.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Gives each table once, and has its rows written after those that they refer to are there.
pub(super) struct Queue {
    parents: Vec<Vec<usize>>,
    states: Mutex<Vec<State>>,
    changed: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Taken,
    Done,
}

impl Queue {
    /// `parents` has for each table the places of those that come before it, which are all before its own.
    pub(super) fn new(parents: Vec<Vec<usize>>) -> Self {
        let states = Mutex::new(vec![State::Waiting; parents.len()]);
        Self { parents, states, changed: Notify::new() }
    }

    /// The place of the next table that may be written, once there is one. `None`: each has been given.
    pub(super) async fn next_to_write(&self) -> Option<usize> {
        self.when(|states| match (0..states.len()).find(|&place| self.may_begin(place, states)) {
            Some(place) => {
                states[place] = State::Taken;
                Some(Some(place))
            }
            None if states.contains(&State::Waiting) => None,
            None => Some(None),
        })
        .await
    }

    /// The place of the next table, to be read ahead. Parents stand before their children: of the tables that were given
    /// and are not done, the first may be written.
    pub(super) fn next_to_read(&self) -> Option<usize> {
        let mut states = self.states();
        let place = states.iter().position(|state| *state == State::Waiting)?;
        states[place] = State::Taken;
        Some(place)
    }

    /// Returns when the rows that those of this table refer to are there.
    pub(super) async fn may_be_written(&self, place: usize) {
        self.when(|states| self.parents_are_done(place, states).then_some(())).await;
    }

    /// Returns when its rows are there.
    pub(super) async fn is_done(&self, place: usize) {
        self.when(|states| (states[place] == State::Done).then_some(())).await;
    }

    /// Its rows are there.
    pub(super) fn done(&self, place: usize) {
        self.states()[place] = State::Done;
        self.changed.notify_waiters();
    }

    async fn when<T>(&self, mut look: impl FnMut(&mut [State]) -> Option<T>) -> T {
        loop {
            // Made before looking, so that it hears of what is done while looking.
            let changed = self.changed.notified();
            let seen = look(&mut self.states());
            match seen {
                Some(seen) => return seen,
                None => changed.await,
            }
        }
    }

    fn may_begin(&self, place: usize, states: &[State]) -> bool {
        states[place] == State::Waiting && self.parents_are_done(place, states)
    }

    fn parents_are_done(&self, place: usize, states: &[State]) -> bool {
        self.parents[place].iter().all(|&parent| states[parent] == State::Done)
    }

    fn states(&self) -> MutexGuard<'_, Vec<State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_table_waits_for_those_it_refers_to() {
        let queue = Queue::new(vec![vec![], vec![0], vec![], vec![1, 2]]);
        assert_eq!(queue.next_to_write().now_or_never(), Some(Some(0)));
        assert_eq!(queue.next_to_write().now_or_never(), Some(Some(2)));
        let mut waiting = Box::pin(queue.next_to_write());
        assert_eq!(waiting.as_mut().now_or_never(), None);
        queue.done(0);
        assert_eq!(waiting.now_or_never(), Some(Some(1)));
        assert_eq!(queue.next_to_write().now_or_never(), None);
        queue.done(1);
        assert_eq!(queue.next_to_write().now_or_never(), None);
        queue.done(2);
        assert_eq!(queue.next_to_write().now_or_never(), Some(Some(3)));
        assert_eq!(queue.next_to_write().now_or_never(), Some(None));
    }

    #[test]
    fn those_who_wait_are_sent_home_with_the_last_table() {
        let queue = Queue::new(vec![vec![], vec![0]]);
        assert_eq!(queue.next_to_write().now_or_never(), Some(Some(0)));
        let mut waiting = [Box::pin(queue.next_to_write()), Box::pin(queue.next_to_write())];
        assert!(waiting.iter_mut().all(|one| one.as_mut().now_or_never().is_none()));
        queue.done(0);
        let [first, second] = waiting;
        assert_eq!((first.now_or_never(), second.now_or_never()), (Some(Some(1)), Some(None)));
    }

    #[test]
    fn what_is_read_ahead_is_written_after_what_it_refers_to() {
        let queue = Queue::new(vec![vec![], vec![0], vec![], vec![1, 2]]);
        let given: Vec<_> = std::iter::from_fn(|| queue.next_to_read()).collect();
        assert_eq!(given, [0, 1, 2, 3]);
        assert_eq!(queue.may_be_written(0).now_or_never(), Some(()));
        let mut waiting = Box::pin(queue.may_be_written(3));
        for done in [2, 0] {
            assert_eq!(waiting.as_mut().now_or_never(), None);
            queue.done(done);
        }
        assert_eq!(queue.may_be_written(1).now_or_never(), Some(()));
        assert_eq!((queue.is_done(1).now_or_never(), queue.is_done(0).now_or_never()), (None, Some(())));
        assert_eq!(waiting.as_mut().now_or_never(), None);
        queue.done(1);
        assert_eq!(waiting.now_or_never(), Some(()));
    }
}
