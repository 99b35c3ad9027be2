//! Open pools: found, opened once, lent, evicted.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use crate::pools::budget::{Budget, Reservation};
use crate::pools::lease::{Heard, Held, Lease};
use crate::pools::settings::PoolSettings;
use crate::pools::state::{Entry, Evicted, State};
use crate::pools::{OpenError, PoolFactory, PoolTarget};

/// Pools of a node: one for each shared database, and the most recently used dedicated ones.
///
/// - A dedicated pool is kept by tenant and epoch in a list of [`PoolSettings::capacity`], for at most
///   [`PoolSettings::ttl`] since it was opened. A pool for a newer epoch drops those for older ones.
/// - A shared pool is kept until [`PoolCache::shutdown`].
/// - What leaves the cache closes when its last [`Lease`] is gone: a running query never meets a closed pool.
/// - Each pool is opened by one task, whoever asks and whoever gives up meanwhile. A failure goes to all who
///   waited for it and is not remembered, except by the breaker.
/// - The budget counts connections to dedicated databases: when it is short, idle pools are evicted and the
///   opening waits within a bound.
/// - Whoever works with a pool says whether its database answers. One that keeps silent trips the breaker of
///   that database alone, its pool is dropped, and those who ask for it are refused at once for a while.
///
/// Needs a Tokio runtime. Clones share their pools.
pub struct PoolCache<F: PoolFactory> {
    inner: Arc<Inner<F>>,
}

impl<F: PoolFactory> Clone for PoolCache<F> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<F: PoolFactory> fmt::Debug for PoolCache<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolCache").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// What a [`PoolCache`] holds now, for metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStats {
    /// Pools of shared databases.
    pub shared: usize,
    /// Dedicated pools in the cache.
    pub dedicated: usize,
    /// Dedicated pools in the cache that are lent out.
    pub leased: usize,
    /// Pools that are being opened.
    pub opening: usize,
    /// Pools that exist at all: opening, in the cache, evicted but lent, closing.
    pub live: usize,
    /// Pools that left the cache since the start: room, age, budget, newer epoch.
    pub evictions: u64,
    /// Connections that dedicated pools count for in the budget.
    pub connections: u32,
    /// The budget itself.
    pub budget: u32,
    /// Databases that failed last and have not answered since.
    pub failing: usize,
    /// Those of them that are left alone now.
    pub left_alone: usize,
}

struct Inner<F: PoolFactory> {
    factory: Arc<F>,
    settings: PoolSettings,
    budget: Arc<Budget>,
    state: Mutex<State<F::Pool>>,
    /// Told when a pool is no longer lent: an opening that waits for the budget may evict it now.
    idle: Arc<Notify>,
    live: Arc<watch::Sender<usize>>,
    /// How many databases failed last, so that good news costs no lock while there are none.
    failing: AtomicUsize,
}

impl<F: PoolFactory> PoolCache<F> {
    /// An empty cache.
    #[must_use]
    pub fn new(factory: Arc<F>, settings: PoolSettings) -> Self {
        let state = State::new(settings.breaker);
        let inner = Inner {
            factory,
            budget: Budget::new(settings.connection_budget),
            settings,
            state: Mutex::new(state),
            idle: Arc::default(),
            live: Arc::new(watch::Sender::new(0)),
            failing: AtomicUsize::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Lends the pool for `target`, opening it if need be.
    ///
    /// # Errors
    /// [`OpenError`]. The same call may succeed later, except where the registry must be mended first
    /// (`UnknownDatabase`, `WrongDatabase`).
    ///
    /// # Cancel safety
    /// Dropping the future neither stops an opening that others may wait for nor leaks a lease.
    pub async fn lease(&self, target: PoolTarget) -> Result<Lease<F::Pool>, OpenError> {
        let mut expired = None;
        let found = self.inner.find(target, &mut expired)?;
        // Before the wait: the new pool may need the connections of the old one.
        drop(expired);
        let opened = match found {
            Found::Open(lease) => return Ok(lease),
            Found::Opening(opened) => opened,
        };
        opened.await.unwrap_or_else(|_| Err(OpenError::Unavailable("the opening was abandoned".into())))
    }

    /// Opens the pool for `target`, if it is not open and there is room for it, and makes it ready for those who will need
    /// it soon. No other pool is closed for it, and it is no more recently used for it.
    ///
    /// # Errors
    /// As [`PoolCache::lease`].
    ///
    /// # Cancel safety
    /// An opening goes on; what was to be made ready may be in part.
    pub async fn open_ahead(&self, target: PoolTarget) -> Result<(), OpenError> {
        let lease = match self.inner.peek(target) {
            Some(open) => open,
            None if self.inner.has_room(target) => self.lease(target).await?,
            None => return Ok(()),
        };
        self.inner.factory.warm(&lease).await
    }

    /// Takes pools that are older than the bound out of the cache; to be called now and then (each minute),
    /// so that the pools of tenants that nobody asks for close too.
    pub fn evict_expired(&self) {
        let _evicted = self.inner.evict_expired();
    }

    /// Changes the budget of connections to dedicated databases, and closes idle pools until what is held fits
    /// it. Pools in use are not closed: what they hold beyond the budget leaves it with them, so call this now
    /// and then.
    pub fn set_connection_budget(&self, connections: u32) {
        self.inner.budget.set_total(connections);
        let _evicted = self.inner.evict_for_budget();
    }

    /// Lends every open pool of a shared database, to change something about it.
    #[must_use]
    pub fn shared_pools(&self) -> Vec<Lease<F::Pool>> {
        self.inner.lock().shared.values().map(Lease::new).collect()
    }

    /// Lends every open pool of a dedicated database, to look at it. None is the more recently used for it.
    #[must_use]
    pub fn dedicated_pools(&self) -> Vec<Lease<F::Pool>> {
        self.inner.lock().dedicated.iter().map(|(_, entry)| Lease::new(&entry.held)).collect()
    }

    /// Takes all pools out of the cache, refuses to open others, and returns when every pool is closed.
    ///
    /// Waits for the leases that are out; put a timeout around it.
    pub async fn shutdown(&self) {
        let kept = {
            let mut state = self.inner.lock();
            state.shut_down = true;
            let mut kept: Evicted<F::Pool> = state.shared.drain().map(|(_, held)| held).collect();
            while let Some((_, entry)) = state.dedicated.pop_lru() {
                kept.push(entry.held);
            }
            kept
        };
        drop(kept);
        let mut live = self.inner.live.subscribe();
        // Cannot fail: the sender is in `self`.
        let _ = live.wait_for(|live| *live == 0).await;
    }

    /// What the cache holds now.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        let state = self.inner.lock();
        PoolStats {
            shared: state.shared.len(),
            dedicated: state.dedicated.len(),
            leased: state.dedicated.iter().filter(|(_, entry)| entry.held.leases() > 0).count(),
            opening: state.opening.len(),
            live: *self.inner.live.borrow(),
            evictions: state.evictions,
            connections: self.inner.budget.held(),
            budget: self.inner.budget.total(),
            failing: state.breakers.failing(),
            left_alone: state.breakers.left_alone(Instant::now()),
        }
    }
}

enum Found<P> {
    Open(Lease<P>),
    Opening(oneshot::Receiver<Result<Lease<P>, OpenError>>),
}

impl<F: PoolFactory> Inner<F> {
    /// No await happens under this lock, and no pool is dropped under it.
    fn lock(&self) -> MutexGuard<'_, State<F::Pool>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts what was in the target's place and too old into `expired`, to be dropped outside the lock.
    fn find(
        self: &Arc<Self>,
        target: PoolTarget,
        expired: &mut Option<Arc<Held<F::Pool>>>,
    ) -> Result<Found<F::Pool>, OpenError> {
        let now = Instant::now();
        let mut state = self.lock();
        if state.shut_down {
            return Err(OpenError::ShutDown);
        }
        match target {
            PoolTarget::Shared(database) => {
                if let Some(held) = state.shared.get(&database) {
                    return Ok(Found::Open(Lease::new(held)));
                }
            }
            PoolTarget::Dedicated { .. } => {
                if let Some(entry) = state.dedicated.get(&target) {
                    if now.duration_since(entry.opened_at) < self.settings.ttl {
                        return Ok(Found::Open(Lease::new(&entry.held)));
                    }
                    *expired = state.evict(target);
                }
            }
        }
        let (waiter, opened) = oneshot::channel();
        if let Some(waiters) = state.opening.get_mut(&target) {
            waiters.push(waiter);
            return Ok(Found::Opening(opened));
        }
        if let Some(retry_after) = state.breakers.retry_after(target.database(), now) {
            return Err(OpenError::BreakerOpen { retry_after });
        }
        state.opening.insert(target, vec![waiter]);
        // Counted before the lock is released, so that a shutdown from here on waits for it.
        let live = Live::count(&self.live);
        drop(state);
        // A task of its own, so that a caller who gives up strands nobody.
        tokio::spawn(Arc::clone(self).open(target, live));
        Ok(Found::Opening(opened))
    }

    fn peek(&self, target: PoolTarget) -> Option<Lease<F::Pool>> {
        let state = self.lock();
        match target {
            PoolTarget::Shared(database) => state.shared.get(&database).map(Lease::new),
            PoolTarget::Dedicated { .. } => {
                state.dedicated.peek(&target).map(|entry| Lease::new(&entry.held))
            }
        }
    }

    /// Whether a pool can be opened without another's being closed for it.
    fn has_room(&self, target: PoolTarget) -> bool {
        match target {
            PoolTarget::Shared(_) => true,
            PoolTarget::Dedicated { .. } => {
                let held = self.budget.held().saturating_add(self.factory.connections(&target));
                held <= self.budget.total() && self.lock().dedicated.len() < self.settings.capacity
            }
        }
    }

    async fn open(self: Arc<Self>, target: PoolTarget, live: Live) {
        let flight = Flight { inner: &self, target, landed: false };
        match self.try_open(target, live).await {
            Ok((held, connections)) => flight.succeeded(&held, connections),
            Err(error) => flight.failed(error),
        }
    }

    async fn try_open(
        self: &Arc<Self>,
        target: PoolTarget,
        live: Live,
    ) -> Result<(Arc<Held<F::Pool>>, u32), OpenError> {
        let (reservation, connections) = match target {
            PoolTarget::Shared(_) => (None, 0),
            PoolTarget::Dedicated { .. } => {
                let connections = self.factory.connections(&target);
                (Some(self.reserve(connections).await?), connections)
            }
        };
        let opened = tokio::time::timeout(self.settings.open_timeout, self.factory.open(&target)).await;
        let result = opened.unwrap_or_else(|elapsed| Err(OpenError::Unavailable(Box::new(elapsed))));
        let mut state = self.lock();
        match result {
            Ok(pool) => {
                state.breakers.succeeded(target.database());
                self.count_failing(&state);
                drop(state);
                Ok((self.hold(target, pool, reservation, live), connections))
            }
            // Says nothing of the database, which nobody asked.
            Err(error @ OpenError::Login(_)) => Err(error),
            Err(error) => {
                self.failed(&mut state, target);
                Err(error)
            }
        }
    }

    /// Counts a failure; tells whether the database is left alone from now on.
    fn failed(&self, state: &mut State<F::Pool>, target: PoolTarget) -> bool {
        let (database, now) = (target.database(), Instant::now());
        state.breakers.failed(database, now);
        self.count_failing(state);
        let left_alone = state.breakers.retry_after(database, now);
        if let Some(left_alone) = left_alone {
            tracing::warn!(%database, ?left_alone, "a database keeps failing and is left alone");
        }
        left_alone.is_some()
    }

    fn count_failing(&self, state: &State<F::Pool>) {
        self.failing.store(state.breakers.failing(), Ordering::Relaxed);
    }

    /// What users of an open pool say of its database.
    fn hear(&self, target: PoolTarget, held: &Arc<Held<F::Pool>>, heard: Heard) {
        let counts = match heard {
            Heard::Answered => {
                if self.failing.load(Ordering::Relaxed) > 0 {
                    let mut state = self.lock();
                    state.breakers.succeeded(target.database());
                    self.count_failing(&state);
                }
                return;
            }
            Heard::Silent => true,
            Heard::Lost => matches!(target, PoolTarget::Dedicated { .. }),
        };
        if !counts {
            return;
        }
        let mut state = self.lock();
        // Late news of a pool that was replaced says nothing about the one that replaced it.
        if !state.is_kept(target, held) {
            return;
        }
        let evicted = if self.failed(&mut state, target) { state.take(target) } else { None };
        drop(state);
        drop(evicted);
    }

    /// Wraps a pool so that its last holder closes it, on a task of its own, and its connections leave the
    /// budget after that.
    fn hold(
        self: &Arc<Self>,
        target: PoolTarget,
        pool: F::Pool,
        reservation: Option<Reservation>,
        live: Live,
    ) -> Arc<Held<F::Pool>> {
        let factory = Arc::clone(&self.factory);
        let runtime = Handle::current();
        let retire = move |pool| {
            let mut reservation = reservation;
            if let Some(reservation) = &mut reservation {
                reservation.begin_closing();
            }
            runtime.spawn(async move {
                factory.close(pool).await;
                drop(reservation);
                drop(live);
            });
        };
        let cache = Arc::downgrade(self);
        let hear = move |held: &Arc<Held<F::Pool>>, heard| {
            if let Some(inner) = Weak::upgrade(&cache) {
                inner.hear(target, held, heard);
            }
        };
        Held::new(pool, Arc::clone(&self.idle), Box::new(retire), Box::new(hear))
    }

    async fn reserve(&self, connections: u32) -> Result<Reservation, OpenError> {
        let exhausted = || OpenError::BudgetExhausted { budget: self.budget.total() };
        let want = self.budget.want(connections).ok_or_else(exhausted)?;
        let granted = async {
            let mut granted = std::pin::pin!(want.granted());
            loop {
                // Registered before the look at the leases, so that none that ends in between is missed.
                let mut idle = std::pin::pin!(self.idle.notified());
                idle.as_mut().enable();
                drop(self.evict_for_budget());
                tokio::select! {
                    biased;
                    reservation = &mut granted => return reservation,
                    () = idle => {}
                }
            }
        };
        tokio::time::timeout(self.settings.budget_wait, granted).await.map_err(|_| exhausted())
    }

    /// Evicts idle pools, the least recently used first, until the openings that wait will get their
    /// connections or no idle pool is left.
    fn evict_for_budget(&self) -> Evicted<F::Pool> {
        let mut state = self.lock();
        let mut deficit = self.budget.deficit();
        let mut evicted = Vec::new();
        while deficit > 0 {
            let Some((target, connections)) = state.least_recent_idle() else { break };
            deficit = deficit.saturating_sub(connections);
            evicted.extend(state.evict(target));
        }
        evicted
    }

    fn evict_expired(&self) -> Evicted<F::Pool> {
        let now = Instant::now();
        let mut state = self.lock();
        state.breakers.forget_old(now);
        self.count_failing(&state);
        state.evict_where(|_, entry| now.duration_since(entry.opened_at) >= self.settings.ttl)
    }
}

/// An opening under way. However its task ends, nobody waits for it afterwards.
struct Flight<'a, F: PoolFactory> {
    inner: &'a Inner<F>,
    target: PoolTarget,
    landed: bool,
}

impl<F: PoolFactory> Flight<'_, F> {
    fn succeeded(mut self, held: &Arc<Held<F::Pool>>, connections: u32) {
        let mut state = self.inner.lock();
        let waiters = state.opening.remove(&self.target).unwrap_or_default();
        self.landed = true;
        if state.shut_down {
            drop(state);
            for waiter in waiters {
                let _ = waiter.send(Err(OpenError::ShutDown));
            }
            return;
        }
        // Lent before it is kept: it cannot be evicted before those who waited have it.
        let leases: Vec<_> = waiters.iter().map(|_| Lease::new(held)).collect();
        let entry = Entry { held: Arc::clone(held), opened_at: Instant::now(), connections };
        let evicted = state.keep(self.target, entry, self.inner.settings.capacity);
        drop(state);
        drop(evicted);
        for (waiter, lease) in waiters.into_iter().zip(leases) {
            // A caller who gave up gives the lease back by not taking it.
            let _ = waiter.send(Ok(lease));
        }
    }

    fn failed(mut self, error: OpenError) {
        let mut waiters = self.inner.lock().opening.remove(&self.target).unwrap_or_default();
        self.landed = true;
        let Some(last) = waiters.pop() else {
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::warn!(target = ?self.target, error, "a pool that nobody waits for any more could not be opened");
            return;
        };
        if waiters.is_empty() {
            let _ = last.send(Err(error));
            return;
        }
        let error = Arc::new(error);
        for waiter in waiters.into_iter().chain([last]) {
            let _ = waiter.send(Err(OpenError::for_waiter(&error)));
        }
    }
}

impl<F: PoolFactory> Drop for Flight<'_, F> {
    fn drop(&mut self) {
        if !self.landed {
            // The factory panicked or the runtime ends. Dropping a waiter tells its caller.
            let abandoned = self.inner.lock().opening.remove(&self.target);
            drop(abandoned);
        }
    }
}

/// Counts one pool from before its opening until after its closing.
struct Live(Arc<watch::Sender<usize>>);

impl Live {
    fn count(live: &Arc<watch::Sender<usize>>) -> Self {
        live.send_modify(|count| *count += 1);
        Self(Arc::clone(live))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests;
