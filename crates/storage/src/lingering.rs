//! What lingers: connections whose transaction only read, and which the next to have them ends.
//!
//! To end a read costs a message of its own, and whoever has the connection next waits for its answer. So the transaction
//! is left open for a moment, and the first message of the next begins with its end. When nobody comes, it is ended by
//! itself: a connection lingers for one [`TURN`] at least and three at most. Meanwhile it holds what a reader holds that
//! was answered: no row and no snapshot, the weakest lock on what it read.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// How often what lingers is looked at.
pub(crate) const TURN: Duration = Duration::from_millis(2);

/// Connections that linger. Generic so that it is tested without any.
pub(crate) struct Lingering<T> {
    held: Mutex<Held<T>>,
    /// Wakes who watches, when the first comes.
    came: Notify,
}

struct Held<T> {
    /// Those that came last are at the end.
    connections: Vec<Stays<T>>,
    /// Whether a turn is under way.
    watched: bool,
    closed: bool,
}

struct Stays<T> {
    connection: T,
    /// Whether it was there at the last turn.
    seen: bool,
}

impl<T> Lingering<T> {
    pub(crate) fn new() -> Self {
        let held = Held { connections: Vec::new(), watched: false, closed: false };
        Self { held: Mutex::new(held), came: Notify::new() }
    }

    /// Has a connection linger. It comes back where nothing may linger any more.
    pub(crate) fn keep(&self, connection: T) -> Result<(), T> {
        let mut held = self.held();
        if held.closed {
            return Err(connection);
        }
        held.connections.push(Stays { connection, seen: false });
        if !std::mem::replace(&mut held.watched, true) {
            self.came.notify_one();
        }
        Ok(())
    }

    /// The one that came last.
    pub(crate) fn take(&self) -> Option<T> {
        self.held().connections.pop().map(|last| last.connection)
    }

    /// Nothing lingers from now on; those that did.
    pub(crate) fn close(&self) -> Vec<T> {
        let mut held = self.held();
        held.closed = true;
        std::mem::take(&mut held.connections).into_iter().map(|stays| stays.connection).collect()
    }

    /// Gives those to `end` for whom nobody came. Does not return.
    pub(crate) async fn watch(&self, end: impl Fn(T)) {
        loop {
            self.came.notified().await;
            let mut more = true;
            while more {
                tokio::time::sleep(TURN).await;
                let over;
                (over, more) = self.turn();
                over.into_iter().for_each(&end);
            }
        }
    }

    /// Those that were there a turn ago, and whether there are others.
    fn turn(&self) -> (Vec<T>, bool) {
        let mut held = self.held();
        let over = held.connections.iter().take_while(|stays| stays.seen).count();
        let over = held.connections.drain(..over).map(|stays| stays.connection).collect();
        held.connections.iter_mut().for_each(|stays| stays.seen = true);
        held.watched = !held.connections.is_empty();
        (over, held.watched)
    }

    fn held(&self) -> MutexGuard<'_, Held<T>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;

    /// Something that lingers, and what was ended of it, with when.
    fn watched() -> (Arc<Lingering<u8>>, mpsc::UnboundedReceiver<(u8, Instant)>) {
        let lingering = Arc::new(Lingering::new());
        let (ended, seen) = mpsc::unbounded_channel();
        let watching = Arc::clone(&lingering);
        tokio::spawn(async move {
            watching.watch(|connection| ended.send((connection, Instant::now())).unwrap()).await;
        });
        (lingering, seen)
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_ended_after_a_turn_and_before_the_third() {
        let (lingering, mut ended) = watched();
        for round in 0..3 {
            let came = Instant::now();
            assert_eq!(lingering.keep(round), Ok(()));
            let (connection, when) = ended.recv().await.unwrap();
            assert_eq!(connection, round);
            assert!((TURN..3 * TURN).contains(&(when - came)), "{:?}", when - came);
            // The watch rests, and begins anew.
            tokio::time::sleep(10 * TURN).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_to_come_is_the_first_to_go_and_the_others_are_ended() {
        let (lingering, mut ended) = watched();
        for connection in [1, 2, 3] {
            lingering.keep(connection).unwrap();
        }
        assert_eq!(lingering.take(), Some(3));
        assert_eq!(ended.recv().await.unwrap().0, 1);
        assert_eq!(ended.recv().await.unwrap().0, 2);
        assert_eq!(lingering.take(), None);
    }

    #[tokio::test]
    async fn one_that_comes_again_has_its_time_again() {
        let lingering = Lingering::new();
        lingering.keep(1).unwrap();
        lingering.keep(2).unwrap();
        assert_eq!(lingering.turn(), (vec![], true));
        assert_eq!(lingering.take(), Some(2));
        lingering.keep(2).unwrap();
        assert_eq!(lingering.turn(), (vec![1], true));
        assert_eq!(lingering.turn(), (vec![2], false));
    }

    #[tokio::test]
    async fn nothing_lingers_where_it_is_closed() {
        let lingering = Lingering::new();
        lingering.keep(1).unwrap();
        assert_eq!(lingering.close(), [1]);
        assert_eq!((lingering.keep(2), lingering.take()), (Err(2), None));
    }
}
