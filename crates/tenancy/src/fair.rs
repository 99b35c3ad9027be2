//! Turns at something scarce, fair between those who want it.
//!
//! A pool's own queue is first come, first served: whoever asks 20 times as often gets 20 times as much, and
//! whoever keeps what they got (waiting for a lock of their own making) soon has all of it. A [`FairGate`]
//! stands before the pool and knows who asks.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// How a [`FairGate`] shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FairSettings {
    /// Permits that there are, at least 1.
    pub permits: u32,
    /// How much of what nobody else holds one may hold, in percent (1 to 100, default 50). At 50 each may take
    /// one more permit as long as they hold fewer than are free: alone half of all, two who want more than they
    /// get a third each. What is left over is for those who hold none. At 100 the gate only gives turns.
    pub share: u8,
    /// Most permits that one may hold, however large its share is, at least 1 (default: no such bound).
    pub most_each: u32,
    /// Most who wait under one key (default 256); one more is refused at once.
    pub waiting_each: usize,
    /// Most who wait in all (default 4096). Under a key that nobody waits under yet one may wait even so.
    pub waiting: usize,
    /// Longest wait (default 5 s).
    pub wait: Duration,
}

impl Default for FairSettings {
    fn default() -> Self {
        Self {
            permits: 10,
            share: 50,
            most_each: u32::MAX,
            waiting_each: 256,
            waiting: 4096,
            wait: Duration::from_secs(5),
        }
    }
}

impl FairSettings {
    /// Whether one who holds so many permits may have one more of those that are free.
    fn may(&self, free: u32, held: u32) -> bool {
        let share = u64::from(self.share.clamp(1, 100));
        // held / free < share / (100 - share), without a division.
        let is_share = free > 0 && u64::from(held) * (100 - share) < share * u64::from(free);
        is_share && held < self.most_each.max(1)
    }
}

/// Hands out permits, by turns between keys and in order of arrival within one.
///
/// - One key holds at most its share (see [`FairSettings::share`]), and never more than [`FairSettings::most_each`],
///   whatever it asks for, so that somebody who holds nothing finds something free.
/// - Nobody who could be served waits: a share is of what is free, so it grows when others hold little.
/// - What waits is bounded in number and in time. A key that neither holds nor waits takes no memory.
///
/// No lock is held across an await. Clones share their permits.
///
/// ```
/// use stagesub_tenancy::{FairGate, FairSettings};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), stagesub_tenancy::Crowded> {
/// let gate = FairGate::new(FairSettings { permits: 4, ..FairSettings::default() });
/// let busy = [gate.enter("choir").await?, gate.enter("choir").await?];
/// assert!(gate.try_enter("choir").is_none(), "half of four is what one may hold");
/// let other = gate.enter("band").await?;
/// # drop((busy, other));
/// # Ok(())
/// # }
/// ```
pub struct FairGate<K: Eq + Hash + Clone> {
    inner: Arc<Inner<K>>,
}

/// A turn; dropping it gives it to the next.
pub struct Permit<K: Eq + Hash + Clone> {
    inner: Arc<Inner<K>>,
    key: K,
}

/// No permit was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Crowded {
    /// As many wait as may.
    #[error("too many wait already")]
    QueueFull,
    /// The bounded wait is over.
    #[error("nothing became free in time")]
    TimedOut,
}

/// What a gate holds now, for metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FairStats {
    /// Permits that there are.
    pub permits: u32,
    /// Permits that are held.
    pub held: u32,
    /// How many wait.
    pub waiting: usize,
    /// Keys that hold or wait.
    pub keys: usize,
}

struct Inner<K: Eq + Hash + Clone> {
    settings: FairSettings,
    state: Mutex<State<K>>,
}

struct State<K: Eq + Hash + Clone> {
    permits: u32,
    held: u32,
    waiting: usize,
    next_number: u64,
    /// Those who hold or wait.
    keys: HashMap<K, Turns<K>>,
    /// Those who wait, whose turn is next first.
    round: VecDeque<K>,
}

struct Turns<K: Eq + Hash + Clone> {
    held: u32,
    waiting: VecDeque<(u64, Waiter<K>)>,
}

type Waiter<K> = oneshot::Sender<Permit<K>>;

impl<K: Eq + Hash + Clone> FairGate<K> {
    /// A gate with all permits free.
    #[must_use]
    pub fn new(settings: FairSettings) -> Self {
        let state = State {
            permits: settings.permits.max(1),
            held: 0,
            waiting: 0,
            next_number: 0,
            keys: HashMap::new(),
            round: VecDeque::new(),
        };
        Self { inner: Arc::new(Inner { settings, state: Mutex::new(state) }) }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// [`Crowded`]: too many wait, or for too long.
    ///
    /// # Cancel safety
    /// Dropping the future gives the place in the queue up, and the permit too if it had just been granted.
    pub async fn enter(&self, key: K) -> Result<Permit<K>, Crowded> {
        let (granted, _place) = match self.inner.ask(key)? {
            Asked::Granted(permit) => return Ok(permit),
            Asked::Waits(granted, place) => (granted, place),
        };
        match tokio::time::timeout(self.inner.settings.wait, granted).await {
            // A waiter is dropped unanswered together with its place only, which is held here.
            Ok(answer) => answer.map_err(|_| Crowded::TimedOut),
            Err(_) => Err(Crowded::TimedOut),
        }
    }

    /// A turn if there is one at once.
    #[must_use]
    pub fn try_enter(&self, key: K) -> Option<Permit<K>> {
        let mut state = self.inner.lock();
        state.take(&key, &self.inner.settings).then(|| Permit { inner: Arc::clone(&self.inner), key })
    }

    /// Most permits that one key holds while no other holds any.
    #[must_use]
    pub fn most_of_one(&self) -> u32 {
        let permits = self.inner.lock().permits;
        (0..permits)
            .take_while(|held| self.inner.settings.may(permits - held, *held))
            .count()
            .try_into()
            .unwrap_or(permits)
    }

    /// Changes how many permits there are. Those that are held beyond the new number are not called back; as
    /// they are given back they are not given out again.
    pub fn resize(&self, permits: u32) {
        let mut state = self.inner.lock();
        state.permits = permits.max(1);
        let granted = self.inner.grant(&mut state);
        drop(state);
        deliver(granted);
    }

    /// What it holds now.
    #[must_use]
    pub fn stats(&self) -> FairStats {
        let state = self.inner.lock();
        FairStats { permits: state.permits, held: state.held, waiting: state.waiting, keys: state.keys.len() }
    }
}

impl<K: Eq + Hash + Clone> Clone for FairGate<K> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<K: Eq + Hash + Clone> fmt::Debug for FairGate<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FairGate").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl<K: Eq + Hash + Clone> fmt::Debug for Permit<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

impl<K: Eq + Hash + Clone> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        state.held -= 1;
        if let Some(turns) = state.keys.get_mut(&self.key) {
            turns.held -= 1;
            if turns.held == 0 && turns.waiting.is_empty() {
                state.keys.remove(&self.key);
            }
        }
        let granted = self.inner.grant(&mut state);
        drop(state);
        deliver(granted);
    }
}

enum Asked<K: Eq + Hash + Clone> {
    Granted(Permit<K>),
    Waits(oneshot::Receiver<Permit<K>>, Place<K>),
}

impl<K: Eq + Hash + Clone> Inner<K> {
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(self: &Arc<Self>, key: K) -> Result<Asked<K>, Crowded> {
        let mut state = self.lock();
        // Whoever waits could not be served when the last permit came back, and nothing has come back since:
        // nobody is overtaken here.
        if state.take(&key, &self.settings) {
            drop(state);
            return Ok(Asked::Granted(Permit { inner: Arc::clone(self), key }));
        }
        let queued = state.keys.get(&key).map_or(0, |turns| turns.waiting.len());
        if queued >= self.settings.waiting_each || (queued > 0 && state.waiting >= self.settings.waiting) {
            return Err(Crowded::QueueFull);
        }
        let (waiter, granted) = oneshot::channel();
        let number = state.next_number;
        state.next_number += 1;
        state.waiting += 1;
        if queued == 0 {
            state.round.push_back(key.clone());
        }
        state.turns(&key).waiting.push_back((number, waiter));
        drop(state);
        Ok(Asked::Waits(granted, Place { inner: Arc::clone(self), key, number }))
    }

    /// Takes what is free for those whose turn it is. To be delivered after the lock is released, because a
    /// permit that is not wanted any more takes it again.
    fn grant(self: &Arc<Self>, state: &mut State<K>) -> Vec<(Waiter<K>, Permit<K>)> {
        let mut granted = Vec::new();
        let mut next = 0;
        while state.held < state.permits {
            // Past those who hold what they may already: as many keys as wait and hold, at most. What is taken here
            // only makes the shares smaller, so that none of them is looked at again.
            let Some(key) = state.round.get(next).cloned() else { break };
            if !state.take(&key, &self.settings) {
                next += 1;
                continue;
            }
            state.round.remove(next);
            state.waiting -= 1;
            let turns = state.turns(&key);
            let waiter = turns.waiting.pop_front();
            if !turns.waiting.is_empty() {
                state.round.push_back(key.clone());
            }
            let permit = Permit { inner: Arc::clone(self), key };
            let (_, waiter) = waiter.expect("a key is in the round as long as somebody waits under it");
            granted.push((waiter, permit));
        }
        granted
    }
}

fn deliver<K: Eq + Hash + Clone>(granted: Vec<(Waiter<K>, Permit<K>)>) {
    for (waiter, permit) in granted {
        // Whoever gave up meanwhile gives the permit back by not taking it.
        drop(waiter.send(permit));
    }
}

impl<K: Eq + Hash + Clone> State<K> {
    /// Counts one more permit of `key`, if it may have one.
    fn take(&mut self, key: &K, settings: &FairSettings) -> bool {
        let held = self.keys.get(key).map_or(0, |turns| turns.held);
        let may = settings.may(self.permits.saturating_sub(self.held), held);
        if may {
            self.held += 1;
            self.turns(key).held += 1;
        }
        may
    }

    fn turns(&mut self, key: &K) -> &mut Turns<K> {
        self.keys.entry(key.clone()).or_insert_with(|| Turns { held: 0, waiting: VecDeque::new() })
    }
}

/// A place in the queue; dropping it leaves the queue.
struct Place<K: Eq + Hash + Clone> {
    inner: Arc<Inner<K>>,
    key: K,
    number: u64,
}

impl<K: Eq + Hash + Clone> Drop for Place<K> {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        let Some(turns) = state.keys.get_mut(&self.key) else { return };
        let Some(at) = turns.waiting.iter().position(|(number, _)| *number == self.number) else { return };
        let waiter = turns.waiting.remove(at);
        let (nobody, nothing) = (turns.waiting.is_empty(), turns.held == 0);
        state.waiting -= 1;
        if nobody {
            state.round.retain(|key| *key != self.key);
            if nothing {
                state.keys.remove(&self.key);
            }
        }
        drop(state);
        drop(waiter);
    }
}

#[cfg(test)]
mod tests;
