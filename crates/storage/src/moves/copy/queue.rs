//! Which table is copied next.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// Gives each table once, and not before those its rows refer to are done.
pub(super) struct Queue {
    parents: Vec<Vec<usize>>,
    states: Mutex<Vec<State>>,
    changed: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Taken,
    Done,
}

impl Queue {
    /// `parents` has for each table the places of those that come before it. No table comes before itself.
    pub(super) fn new(parents: Vec<Vec<usize>>) -> Self {
        let states = Mutex::new(vec![State::Waiting; parents.len()]);
        Self { parents, states, changed: Notify::new() }
    }

    /// The place of the next table, once one may begin. `None`: each has been given.
    pub(super) async fn next(&self) -> Option<usize> {
        loop {
            // Made before looking, so that it hears of what is done while looking.
            let changed = self.changed.notified();
            match self.take() {
                Take::Table(place) => return Some(place),
                Take::Nothing => return None,
                Take::Later => changed.await,
            }
        }
    }

    /// Its rows are there.
    pub(super) fn done(&self, place: usize) {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)[place] = State::Done;
        self.changed.notify_waiters();
    }

    fn take(&self) -> Take {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = |place: usize, states: &[State]| {
            states[place] == State::Waiting
                && self.parents[place].iter().all(|&parent| states[parent] == State::Done)
        };
        if let Some(place) = (0..states.len()).find(|&place| ready(place, &states)) {
            states[place] = State::Taken;
            Take::Table(place)
        } else if states.contains(&State::Waiting) {
            Take::Later
        } else {
            Take::Nothing
        }
    }
}

enum Take {
    Table(usize),
    Later,
    Nothing,
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_table_waits_for_those_it_refers_to() {
        let queue = Queue::new(vec![vec![], vec![0], vec![], vec![1, 2]]);
        assert_eq!(queue.next().now_or_never(), Some(Some(0)));
        assert_eq!(queue.next().now_or_never(), Some(Some(2)));
        let mut waiting = Box::pin(queue.next());
        assert_eq!(waiting.as_mut().now_or_never(), None);
        queue.done(0);
        assert_eq!(waiting.now_or_never(), Some(Some(1)));
        assert_eq!(queue.next().now_or_never(), None);
        queue.done(1);
        assert_eq!(queue.next().now_or_never(), None);
        queue.done(2);
        assert_eq!(queue.next().now_or_never(), Some(Some(3)));
        assert_eq!(queue.next().now_or_never(), Some(None));
    }

    #[test]
    fn those_who_wait_are_sent_home_with_the_last_table() {
        let queue = Queue::new(vec![vec![], vec![0]]);
        assert_eq!(queue.next().now_or_never(), Some(Some(0)));
        let mut waiting = [Box::pin(queue.next()), Box::pin(queue.next())];
        assert!(waiting.iter_mut().all(|one| one.as_mut().now_or_never().is_none()));
        queue.done(0);
        let [first, second] = waiting;
        assert_eq!((first.now_or_never(), second.now_or_never()), (Some(Some(1)), Some(None)));
    }
}
