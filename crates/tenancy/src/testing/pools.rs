//! Pools that are opened and closed on paper.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::placement::DatabaseId;
use crate::pools::{OpenError, PoolFactory, PoolTarget};

/// Opens pools of nothing, counts them, and waits or fails where a test says so.
#[derive(Debug)]
pub struct InMemoryPoolFactory {
    connections: u32,
    failing: Mutex<HashSet<DatabaseId>>,
    unknown: Mutex<HashSet<DatabaseId>>,
    opens_held: watch::Sender<bool>,
    closes_held: watch::Sender<bool>,
    stats: watch::Sender<FactoryStats>,
}

/// A pool of nothing.
#[derive(Debug)]
pub struct InMemoryPool {
    target: PoolTarget,
    closed: Arc<AtomicBool>,
}

impl InMemoryPool {
    /// What it was opened for.
    #[must_use]
    pub fn target(&self) -> PoolTarget {
        self.target
    }

    /// Whether the factory has begun to close it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// A handle that tells of the closing after the pool itself is out of reach.
    #[must_use]
    pub fn closed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.closed)
    }
}

/// What a factory has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FactoryStats {
    /// Openings that began.
    pub begun: u64,
    /// Openings that succeeded.
    pub opened: u64,
    /// How often one was made ready ahead.
    pub warmed: u64,
    /// Pools that are closed.
    pub closed: u64,
    /// Connections in pools that are opening, open or closing.
    pub connections: u32,
    /// The most there have been.
    pub max_connections: u32,
}

impl InMemoryPoolFactory {
    /// A factory whose pools have `connections` connections each.
    #[must_use]
    pub fn new(connections: u32) -> Self {
        Self {
            connections,
            failing: Mutex::default(),
            unknown: Mutex::default(),
            opens_held: watch::Sender::new(false),
            closes_held: watch::Sender::new(false),
            stats: watch::Sender::default(),
        }
    }

    /// Lets openings wait, or go on.
    pub fn hold_opens(&self, held: bool) {
        self.opens_held.send_replace(held);
    }

    /// Lets closings wait, or go on.
    pub fn hold_closes(&self, held: bool) {
        self.closes_held.send_replace(held);
    }

    /// Lets openings of a database fail, or succeed again.
    pub fn set_failing(&self, database: DatabaseId, failing: bool) {
        set(&self.failing, database, failing);
    }

    /// Lets the login of a database be unknown, as when the registry is away, or known again.
    pub fn set_unknown(&self, database: DatabaseId, unknown: bool) {
        set(&self.unknown, database, unknown);
    }

    /// What it has done.
    #[must_use]
    pub fn stats(&self) -> FactoryStats {
        *self.stats.borrow()
    }

    /// Returns when `condition` holds.
    pub async fn wait_until(&self, condition: impl Fn(&FactoryStats) -> bool) {
        let mut stats = self.stats.subscribe();
        // Cannot fail: the sender is in `self`.
        let _ = stats.wait_for(condition).await;
    }

    async fn released(held: &watch::Sender<bool>) {
        let _ = held.subscribe().wait_for(|held| !held).await;
    }
}

fn set(all: &Mutex<HashSet<DatabaseId>>, database: DatabaseId, is_in: bool) {
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    if is_in {
        all.insert(database);
    } else {
        all.remove(&database);
    }
}

fn is_set(all: &Mutex<HashSet<DatabaseId>>, database: DatabaseId) -> bool {
    all.lock().unwrap_or_else(PoisonError::into_inner).contains(&database)
}

#[async_trait]
impl PoolFactory for InMemoryPoolFactory {
    type Pool = InMemoryPool;

    fn connections(&self, _target: &PoolTarget) -> u32 {
        self.connections
    }

    async fn open(&self, target: &PoolTarget) -> Result<InMemoryPool, OpenError> {
        let mut opening = Opening { factory: self, opened: false };
        self.stats.send_modify(|stats| {
            stats.begun += 1;
            stats.connections += self.connections;
            stats.max_connections = stats.max_connections.max(stats.connections);
        });
        Self::released(&self.opens_held).await;
        if is_set(&self.unknown, target.database()) {
            return Err(OpenError::Login("switched off by the test".into()));
        }
        if is_set(&self.failing, target.database()) {
            return Err(OpenError::Unavailable("switched off by the test".into()));
        }
        opening.opened = true;
        self.stats.send_modify(|stats| stats.opened += 1);
        Ok(InMemoryPool { target: *target, closed: Arc::default() })
    }

    async fn warm(&self, _: &InMemoryPool) -> Result<(), OpenError> {
        self.stats.send_modify(|stats| stats.warmed += 1);
        Ok(())
    }

    async fn close(&self, pool: InMemoryPool) {
        pool.closed.store(true, Ordering::SeqCst);
        Self::released(&self.closes_held).await;
        self.stats.send_modify(|stats| {
            stats.closed += 1;
            stats.connections -= self.connections;
        });
    }
}

/// Takes the connections of an opening that failed or was given up off the count.
struct Opening<'a> {
    factory: &'a InMemoryPoolFactory,
    opened: bool,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if !self.opened {
            let connections = self.factory.connections;
            self.factory.stats.send_modify(|stats| stats.connections -= connections);
        }
    }
}
