//! Lending a pool out: it closes when nobody holds it any more.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

type Retire<P> = Box<dyn FnOnce(P) + Send + Sync>;

/// Hears of a pool whether its database answered.
type Hear<P> = Box<dyn Fn(&Arc<Held<P>>, Heard) + Send + Sync>;

/// What became of something that was asked of a pool's database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    Answered,
    Silent,
    Lost,
}

/// A pool in use. As long as one lease exists the pool stays open, whether or not the cache still keeps it.
///
/// Cloning is cheap and lends the same pool once more. Whatever was taken out of the pool must not outlive
/// the lease.
pub struct Lease<P> {
    held: Arc<Held<P>>,
}

impl<P> Lease<P> {
    /// Lends `held` out. Only where it cannot be evicted meanwhile: under the cache's lock, or before it is
    /// in the cache.
    pub(super) fn new(held: &Arc<Held<P>>) -> Self {
        held.leases.fetch_add(1, Ordering::AcqRel);
        Self { held: Arc::clone(held) }
    }

    /// The pool's database answered: failures before this do not count any more. Whoever begins transactions
    /// says so each time.
    pub fn answered(&self) {
        (self.held.hear)(&self.held, Heard::Answered);
    }

    /// The pool's database did not answer in time. After as many in a row as the breaker allows, the pool is
    /// dropped and the database left alone for a while.
    pub fn silent(&self) {
        (self.held.hear)(&self.held, Heard::Silent);
    }

    /// The pool's database cannot be reached. Counts as [`silent`](Self::silent) does where the database is
    /// one tenant's own; a shared one that refuses costs nobody any time, and is asked again at once.
    pub fn lost(&self) {
        (self.held.hear)(&self.held, Heard::Lost);
    }
}

impl<P> Clone for Lease<P> {
    fn clone(&self) -> Self {
        Self::new(&self.held)
    }
}

impl<P> Deref for Lease<P> {
    type Target = P;

    fn deref(&self) -> &P {
        self.held.pool.as_ref().expect("a pool is taken out only when its last holder is dropped")
    }
}

impl<P> Drop for Lease<P> {
    fn drop(&mut self) {
        if self.held.leases.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.held.idle.notify_waiters();
        }
    }
}

impl<P> fmt::Debug for Lease<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The pool may know a connection string.
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}

/// An open pool with the way to close it. The cache holds one reference, each lease another.
pub(super) struct Held<P> {
    pool: Option<P>,
    leases: AtomicUsize,
    idle: Arc<Notify>,
    retire: Option<Retire<P>>,
    hear: Hear<P>,
}

impl<P> Held<P> {
    /// `retire` receives the pool when the last reference is gone; `idle` is told when the last lease is;
    /// `hear` is told how the pool's database behaves.
    pub(super) fn new(pool: P, idle: Arc<Notify>, retire: Retire<P>, hear: Hear<P>) -> Arc<Self> {
        Arc::new(Self { pool: Some(pool), leases: AtomicUsize::new(0), idle, retire: Some(retire), hear })
    }

    /// How often it is lent out. A zero seen under the cache's lock stays zero until the lock is released,
    /// because only a lease or the cache lends.
    pub(super) fn leases(&self) -> usize {
        self.leases.load(Ordering::Acquire)
    }
}

impl<P> Drop for Held<P> {
    fn drop(&mut self) {
        if let (Some(pool), Some(retire)) = (self.pool.take(), self.retire.take()) {
            retire(pool);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(closed: &Arc<AtomicUsize>) -> Arc<Held<u8>> {
        let closed = Arc::clone(closed);
        Held::new(
            7,
            Arc::default(),
            Box::new(move |_| {
                closed.fetch_add(1, Ordering::SeqCst);
            }),
            Box::new(|_, _| ()),
        )
    }

    #[test]
    fn pool_is_retired_once_when_the_last_holder_is_gone() {
        let closed = Arc::new(AtomicUsize::new(0));
        let held = held(&closed);
        let first = Lease::new(&held);
        let second = first.clone();
        drop(held);
        drop(first);
        assert_eq!(*second, 7);
        assert_eq!(closed.load(Ordering::SeqCst), 0);
        drop(second);
        assert_eq!(closed.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn leases_are_counted_per_clone() {
        let held = held(&Arc::default());
        let first = Lease::new(&held);
        let second = first.clone();
        assert_eq!(held.leases(), 2);
        drop(first);
        drop(second);
        assert_eq!(held.leases(), 0);
    }

    #[test]
    fn debug_says_nothing_about_the_pool() {
        let held = Held::new("postgres://secret", Arc::default(), Box::new(|_| ()), Box::new(|_, _| ()));
        assert_eq!(format!("{:?}", Lease::new(&held)), "Lease { .. }");
    }
}
