//! Which pools there are: what the cache's lock guards.

use std::collections::HashMap;
use std::sync::Arc;

use lru::LruCache;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::placement::DatabaseId;
use crate::pools::breaker::Breakers;
use crate::pools::lease::{Held, Lease};
use crate::pools::settings::BreakerSettings;
use crate::pools::{OpenError, PoolTarget};

pub(super) struct State<P> {
    pub(super) shared: HashMap<DatabaseId, Arc<Held<P>>>,
    /// Unbounded by itself, because the bound prefers idle victims.
    pub(super) dedicated: LruCache<PoolTarget, Entry<P>>,
    pub(super) opening: HashMap<PoolTarget, Vec<Waiter<P>>>,
    pub(super) breakers: Breakers,
    pub(super) evictions: u64,
    pub(super) shut_down: bool,
}

pub(super) struct Entry<P> {
    pub(super) held: Arc<Held<P>>,
    pub(super) opened_at: Instant,
    pub(super) connections: u32,
}

pub(super) type Waiter<P> = oneshot::Sender<Result<Lease<P>, OpenError>>;

/// Pools that left the cache; dropped after its lock is released.
pub(super) type Evicted<P> = Vec<Arc<Held<P>>>;

impl<P> State<P> {
    pub(super) fn new(breaker: BreakerSettings) -> Self {
        Self {
            shared: HashMap::new(),
            dedicated: LruCache::unbounded(),
            opening: HashMap::new(),
            breakers: Breakers::new(breaker),
            evictions: 0,
            shut_down: false,
        }
    }

    pub(super) fn evict(&mut self, target: PoolTarget) -> Option<Arc<Held<P>>> {
        let entry = self.dedicated.pop(&target)?;
        self.evictions += 1;
        Some(entry.held)
    }

    /// Whether the cache keeps this very pool for the target.
    pub(super) fn is_kept(&self, target: PoolTarget, held: &Arc<Held<P>>) -> bool {
        let kept = match target {
            PoolTarget::Shared(database) => self.shared.get(&database),
            PoolTarget::Dedicated { .. } => self.dedicated.peek(&target).map(|entry| &entry.held),
        };
        kept.is_some_and(|kept| Arc::ptr_eq(kept, held))
    }

    /// Takes the target's pool out of the cache, shared or dedicated.
    pub(super) fn take(&mut self, target: PoolTarget) -> Option<Arc<Held<P>>> {
        match target {
            PoolTarget::Shared(database) => self.shared.remove(&database),
            PoolTarget::Dedicated { .. } => self.evict(target),
        }
    }

    pub(super) fn evict_where(&mut self, condition: impl Fn(&PoolTarget, &Entry<P>) -> bool) -> Evicted<P> {
        let targets: Vec<PoolTarget> = self
            .dedicated
            .iter()
            .filter(|(target, entry)| condition(target, entry))
            .map(|(target, _)| *target)
            .collect();
        targets.into_iter().filter_map(|target| self.evict(target)).collect()
    }

    pub(super) fn least_recent_idle(&self) -> Option<(PoolTarget, u32)> {
        // The list runs from the most to the least recently used.
        let mut oldest_first = self.dedicated.iter().rev();
        oldest_first
            .find(|(_, entry)| entry.held.leases() == 0)
            .map(|(target, entry)| (*target, entry.connections))
    }

    /// Keeps an opened pool, and gives back what it displaces. The pool must be lent out by now, so that it
    /// is not its own victim.
    pub(super) fn keep(&mut self, target: PoolTarget, entry: Entry<P>, capacity: usize) -> Evicted<P> {
        let PoolTarget::Dedicated { tenant, epoch, .. } = target else {
            self.shared.insert(target.database(), entry.held);
            return Vec::new();
        };
        let other_epoch = |kept: &PoolTarget, newer: bool| match *kept {
            PoolTarget::Dedicated { tenant: of, epoch: kept, .. } => {
                of == tenant && if newer { kept > epoch } else { kept < epoch }
            }
            PoolTarget::Shared(_) => false,
        };
        if self.dedicated.iter().any(|(kept, _)| other_epoch(kept, true)) {
            // Asked for by somebody who had not heard of the move; it serves them and closes.
            return vec![entry.held];
        }
        let mut evicted = self.evict_where(|kept, _| other_epoch(kept, false));
        if let Some((_, replaced)) = self.dedicated.push(target, entry) {
            evicted.push(replaced.held);
        }
        while self.dedicated.len() > capacity {
            let idle = self.least_recent_idle().map(|(target, _)| target);
            let Some(victim) = idle.or_else(|| self.dedicated.peek_lru().map(|(target, _)| *target)) else {
                break;
            };
            evicted.extend(self.evict(victim));
        }
        evicted
    }
}
