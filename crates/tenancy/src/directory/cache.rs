//! A cache whose truth travels by version: answers are dropped when they change, not when they are old.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::directory::DirectoryError;

/// Bounds of a [`VersionedCache`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheSettings {
    /// Most answers that are kept (default 200,000); one more drops one that is little used. Memory is taken for those
    /// that there are. What is used all the time should fit: each that does not costs a question to the registry.
    pub capacity: usize,
    /// Longest age of an answer (default 1 hour): a backstop, in case nobody told of a change.
    pub ttl: Duration,
    /// Most answers "there is no such thing" that are kept (default 10,000), apart from the others, so that
    /// made-up keys displace nothing that exists.
    pub absent_capacity: usize,
    /// Longest age of such an answer (default 5 s).
    pub absent_ttl: Duration,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            capacity: 200_000,
            ttl: Duration::from_hours(1),
            absent_capacity: 10_000,
            absent_ttl: Duration::from_secs(5),
        }
    }
}

/// Remembers answers until it is told that they changed.
///
/// - One look-up per key is under way at a time; who asks meanwhile shares its answer, or its failure.
///   When its caller gives up, one of those who wait looks up instead. Failures are not remembered.
/// - An answer that was loading when its key was invalidated is not kept, and its callers look up once more.
///   Should that one be invalidated as well they get it, unkept: it is younger than their question.
///
/// `V` is cheap to clone (an `Arc`, or a few words). No lock is held while something is looked up.
///
/// ```
/// # use stagesub_tenancy::{CacheSettings, DirectoryError, VersionedCache};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let roles: VersionedCache<u32, &str> = VersionedCache::new(CacheSettings::default());
/// let load = || async { Ok::<_, DirectoryError>(Some("admin")) };
/// assert_eq!(roles.get(&7, load).await.expect("loaded"), Some("admin"));
/// roles.invalidate(&7);
/// let load = || async { Ok::<_, DirectoryError>(None) };
/// assert_eq!(roles.get(&7, load).await.expect("loaded"), None);
/// # }
/// ```
pub struct VersionedCache<K, V, E = DirectoryError> {
    settings: CacheSettings,
    present: Cache<K, Kept<V>>,
    absent: Cache<K, Kept<()>>,
    /// Its lock is taken before a shard's of the caches, never after.
    flights: Mutex<Flights<K, V, E>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// How a [`VersionedCache`] does, for metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// Questions that were answered at once, since the start.
    pub hits: u64,
    /// Look-ups that were begun, since the start.
    pub misses: u64,
    /// Answers that are kept, absences included.
    pub kept: usize,
}

#[derive(Clone)]
struct Kept<V> {
    value: V,
    /// When its look-up began: what changed after that may be missing from it.
    asked_at: Instant,
}

struct Flights<K, V, E> {
    /// Look-ups under way that nobody has invalidated.
    by_key: HashMap<K, (u64, Landing<V, E>)>,
    next_id: u64,
}

type Landing<V, E> = watch::Receiver<Option<Outcome<V, E>>>;

enum Outcome<V, E> {
    Loaded(Option<V>),
    Failed(Arc<E>),
    /// Invalidated while it was under way.
    Stale,
}

enum Known<V> {
    Present(V),
    Absent,
}

impl<V> From<Known<V>> for Option<V> {
    fn from(known: Known<V>) -> Self {
        match known {
            Known::Present(value) => Some(value),
            Known::Absent => None,
        }
    }
}

enum Role<'a, K: Eq + Hash, V, E> {
    Found(Known<V>),
    Leader(Flight<'a, K, V, E>),
    Waiter(Landing<V, E>),
}

impl<K, V, E> VersionedCache<K, V, E>
where
    K: Clone + Eq + Hash,
    V: Clone,
{
    /// An empty cache.
    #[must_use]
    pub fn new(settings: CacheSettings) -> Self {
        Self {
            settings,
            present: Cache::new(settings.capacity),
            absent: Cache::new(settings.absent_capacity),
            flights: Mutex::new(Flights { by_key: HashMap::new(), next_id: 0 }),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// The answer for `key`, looked up through `load` if it is not kept.
    ///
    /// # Errors
    /// What `load` failed with, shared by everybody who waited for it.
    ///
    /// # Cancel safety
    /// Dropping the future strands nobody: another caller looks up.
    pub async fn get<L, Fut>(&self, key: &K, load: L) -> Result<Option<V>, Arc<E>>
    where
        L: Fn() -> Fut,
        Fut: Future<Output = Result<Option<V>, E>>,
    {
        if let Some(found) = self.peek(key) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(found.into());
        }
        let mut reloaded = false;
        loop {
            match self.join(key) {
                Role::Found(found) => return Ok(found.into()),
                Role::Leader(flight) => match load().await {
                    Ok(value) => {
                        if flight.landed(value.clone()) || reloaded {
                            return Ok(value);
                        }
                    }
                    Err(error) => return Err(flight.failed(error)),
                },
                Role::Waiter(landing) => match outcome(landing).await {
                    Some(Outcome::Loaded(value)) => return Ok(value),
                    Some(Outcome::Failed(error)) => return Err(error),
                    Some(Outcome::Stale) if reloaded => return load().await.map_err(Arc::new),
                    Some(Outcome::Stale) => {}
                    // The leader gave up: somebody else leads now, perhaps this caller.
                    None => continue,
                },
            }
            reloaded = true;
        }
    }

    /// Whether an answer is kept for `key` that is none of "there is no such thing".
    #[must_use]
    pub fn holds(&self, key: &K) -> bool {
        matches!(self.peek(key), Some(Known::Present(_)))
    }

    /// Forgets what is known of `key`; an answer that is loading is not kept.
    pub fn invalidate(&self, key: &K) {
        let mut flights = self.flights();
        flights.by_key.remove(key);
        self.present.remove(key);
        self.absent.remove(key);
    }

    /// Forgets every answer that `changed` accepts, and every "there is no such thing". What is loading is
    /// not kept, because nobody can tell yet what it will be.
    ///
    /// Looks at each kept answer once.
    pub fn invalidate_where(&self, changed: impl Fn(&K, &V) -> bool) {
        let mut flights = self.flights();
        flights.by_key.clear();
        self.present.retain(|key, kept| !changed(key, &kept.value));
        self.absent.clear();
    }

    /// Forgets everything.
    pub fn invalidate_all(&self) {
        let mut flights = self.flights();
        flights.by_key.clear();
        self.present.clear();
        self.absent.clear();
    }

    /// How many answers are kept, absences included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.present.len() + self.absent.len()
    }

    /// How it does.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            kept: self.len(),
        }
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn peek(&self, key: &K) -> Option<Known<V>> {
        let now = Instant::now();
        if let Some(kept) = self.present.get(key) {
            let young = now.duration_since(kept.asked_at) < self.settings.ttl;
            return young.then_some(Known::Present(kept.value));
        }
        let kept = self.absent.get(key)?;
        let young = now.duration_since(kept.asked_at) < self.settings.absent_ttl;
        young.then_some(Known::Absent)
    }

    fn join(&self, key: &K) -> Role<'_, K, V, E> {
        let mut flights = self.flights();
        // Somebody may have finished between the first look and this lock.
        if let Some(found) = self.peek(key) {
            return Role::Found(found);
        }
        if let Some((_, landing)) = flights.by_key.get(key) {
            return Role::Waiter(landing.clone());
        }
        let (sender, landing) = watch::channel(None);
        let id = flights.next_id;
        flights.next_id += 1;
        flights.by_key.insert(key.clone(), (id, landing));
        drop(flights);
        self.misses.fetch_add(1, Ordering::Relaxed);
        Role::Leader(Flight { cache: self, key: key.clone(), id, sender, asked_at: Instant::now() })
    }
}

impl<K, V, E> VersionedCache<K, V, E> {
    fn flights(&self) -> MutexGuard<'_, Flights<K, V, E>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V, E> fmt::Debug for VersionedCache<K, V, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VersionedCache").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What a look-up led to; `None`: its leader gave up.
async fn outcome<V: Clone, E>(mut landing: Landing<V, E>) -> Option<Outcome<V, E>> {
    let outcome = landing.wait_for(Option::is_some).await.ok()?;
    match outcome.as_ref()? {
        Outcome::Loaded(value) => Some(Outcome::Loaded(value.clone())),
        Outcome::Failed(error) => Some(Outcome::Failed(Arc::clone(error))),
        Outcome::Stale => Some(Outcome::Stale),
    }
}

/// A look-up under way, in the hands of the caller who leads it.
struct Flight<'a, K: Eq + Hash, V, E> {
    cache: &'a VersionedCache<K, V, E>,
    key: K,
    id: u64,
    sender: watch::Sender<Option<Outcome<V, E>>>,
    asked_at: Instant,
}

impl<K: Clone + Eq + Hash, V: Clone, E> Flight<'_, K, V, E> {
    /// Keeps the answer, unless it was invalidated meanwhile; says whether it was kept.
    fn landed(self, value: Option<V>) -> bool {
        let mut flights = self.cache.flights();
        let valid = self.leave(&mut flights);
        if valid {
            // Under the lock, so that an invalidation comes either before the check or after the insertion.
            if let Some(value) = value.clone() {
                self.cache.absent.remove(&self.key);
                self.cache.present.insert(self.key.clone(), Kept { value, asked_at: self.asked_at });
            } else {
                self.cache.present.remove(&self.key);
                self.cache.absent.insert(self.key.clone(), Kept { value: (), asked_at: self.asked_at });
            }
        }
        drop(flights);
        self.sender.send_replace(Some(if valid { Outcome::Loaded(value) } else { Outcome::Stale }));
        valid
    }

    fn failed(self, error: E) -> Arc<E> {
        let error = Arc::new(error);
        self.leave(&mut self.cache.flights());
        self.sender.send_replace(Some(Outcome::Failed(Arc::clone(&error))));
        error
    }
}

impl<K: Eq + Hash, V, E> Flight<'_, K, V, E> {
    /// Takes the flight off the list; says whether it was still on it.
    fn leave(&self, flights: &mut Flights<K, V, E>) -> bool {
        let listed = flights.by_key.get(&self.key).is_some_and(|(id, _)| *id == self.id);
        if listed {
            flights.by_key.remove(&self.key);
        }
        listed
    }
}

impl<K: Eq + Hash, V, E> Drop for Flight<'_, K, V, E> {
    fn drop(&mut self) {
        // Given up before it landed; a flight that landed is off the list already.
        self.leave(&mut self.cache.flights());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    const SETTINGS: CacheSettings = CacheSettings {
        capacity: 64,
        ttl: Duration::from_hours(1),
        absent_capacity: 64,
        absent_ttl: Duration::from_secs(5),
    };

    /// A source that answers with the number of the look-up, each when a permit is given.
    struct Source {
        cache: VersionedCache<u32, u32, &'static str>,
        loads: AtomicU32,
        gate: Semaphore,
    }

    impl Source {
        fn new(permits: usize) -> Arc<Self> {
            Arc::new(Self {
                cache: VersionedCache::new(SETTINGS),
                loads: AtomicU32::new(0),
                gate: Semaphore::new(permits),
            })
        }

        async fn get(&self, key: u32) -> Result<Option<u32>, Arc<&'static str>> {
            let load = || async {
                let load = self.loads.fetch_add(1, Ordering::SeqCst) + 1;
                self.gate.acquire().await.expect("open").forget();
                match key {
                    0 => Ok(None),
                    u32::MAX => Err("out of order"),
                    _ => Ok(Some(load)),
                }
            };
            self.cache.get(&key, load).await
        }

        fn loads(&self) -> u32 {
            self.loads.load(Ordering::SeqCst)
        }

        /// Starts a caller and lets it run as far as it can.
        async fn ask(
            self: &Arc<Self>,
            key: u32,
        ) -> tokio::task::JoinHandle<Result<Option<u32>, Arc<&'static str>>> {
            let source = Arc::clone(self);
            let asking = tokio::spawn(async move { source.get(key).await });
            settle().await;
            asking
        }
    }

    /// Lets every task run until it waits: the test's runtime has one thread.
    async fn settle() {
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answer_is_kept_until_it_is_too_old() {
        let source = Source::new(9);
        assert_eq!(source.get(1).await, Ok(Some(1)));
        tokio::time::advance(Duration::from_mins(59)).await;
        assert_eq!(source.get(1).await, Ok(Some(1)));
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(source.get(1).await, Ok(Some(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn absence_is_kept_for_a_short_time() {
        let source = Source::new(9);
        assert_eq!(source.get(0).await, Ok(None));
        assert_eq!(source.get(0).await, Ok(None));
        assert_eq!(source.loads(), 1);
        tokio::time::advance(SETTINGS.absent_ttl).await;
        assert_eq!(source.get(0).await, Ok(None));
        assert_eq!(source.loads(), 2);
    }

    #[tokio::test]
    async fn kept_answers_are_bounded_and_absences_displace_none() {
        let cache: VersionedCache<u32, u32> = VersionedCache::new(SETTINGS);
        let found = |key| async move { Ok(Some(key)) };
        assert_eq!(cache.get(&1, || found(1)).await.expect("loaded"), Some(1));
        for key in 1_000..2_000 {
            assert_eq!(cache.get(&key, || async { Ok(None) }).await.expect("loaded"), None);
        }
        assert!(cache.present.contains_key(&1));
        for key in 2_000..3_000 {
            assert!(cache.get(&key, || found(key)).await.expect("loaded").is_some());
        }
        assert!(cache.len() <= 128, "{}", cache.len());
    }

    #[tokio::test]
    async fn one_look_up_serves_all_who_wait() {
        let source = Source::new(0);
        let asking = [source.ask(1).await, source.ask(1).await, source.ask(1).await];
        source.gate.add_permits(1);
        for asking in asking {
            assert_eq!(asking.await.expect("ran"), Ok(Some(1)));
        }
        assert_eq!(source.loads(), 1);
    }

    #[tokio::test]
    async fn failure_goes_to_all_who_wait_and_is_not_remembered() {
        let source = Source::new(0);
        let asking = [source.ask(u32::MAX).await, source.ask(u32::MAX).await];
        source.gate.add_permits(2);
        for asking in asking {
            assert_eq!(asking.await.expect("ran"), Err(Arc::new("out of order")));
        }
        assert_eq!(source.loads(), 1);
        assert!(source.get(u32::MAX).await.is_err());
        assert_eq!(source.loads(), 2);
    }

    #[tokio::test]
    async fn caller_who_gives_up_strands_nobody() {
        let source = Source::new(0);
        let (leader, waiter) = (source.ask(1).await, source.ask(1).await);
        leader.abort();
        settle().await;
        source.gate.add_permits(1);
        assert_eq!(waiter.await.expect("ran"), Ok(Some(2)));
        assert!(source.cache.flights().by_key.is_empty());
    }

    #[tokio::test]
    async fn answer_that_was_loading_when_its_key_changed_is_loaded_again() {
        for everything in [false, true] {
            let source = Source::new(0);
            let (leader, waiter) = (source.ask(1).await, source.ask(1).await);
            if everything {
                source.cache.invalidate_all();
            } else {
                source.cache.invalidate(&1);
            }
            source.gate.add_permits(2);
            assert_eq!(leader.await.expect("ran"), Ok(Some(2)));
            assert_eq!(waiter.await.expect("ran"), Ok(Some(2)));
            assert_eq!((source.get(1).await, source.loads()), (Ok(Some(2)), 2));
        }
    }

    #[tokio::test]
    async fn answer_that_changed_twice_is_given_and_not_kept() {
        let source = Source::new(0);
        let leader = source.ask(1).await;
        source.cache.invalidate(&1);
        source.gate.add_permits(1);
        settle().await;
        source.cache.invalidate(&1);
        source.gate.add_permits(1);
        assert_eq!(leader.await.expect("ran"), Ok(Some(2)));
        assert!(source.cache.is_empty());
    }

    #[tokio::test]
    async fn who_asks_after_a_change_never_gets_the_answer_from_before_it() {
        let source = Source::new(0);
        let before = source.ask(1).await;
        source.cache.invalidate(&1);
        let after = source.ask(1).await;
        source.gate.add_permits(3);
        assert_eq!(after.await.expect("ran"), Ok(Some(2)));
        assert_eq!(before.await.expect("ran"), Ok(Some(2)));
    }

    #[tokio::test]
    async fn change_of_some_drops_those_and_every_absence() {
        let source = Source::new(9);
        for key in [0, 1, 2] {
            assert!(source.get(key).await.is_ok());
        }
        source.cache.invalidate_where(|key, _| *key == 1);
        assert!(!source.cache.present.contains_key(&1));
        assert!(source.cache.present.contains_key(&2));
        assert_eq!(source.cache.len(), 1);
    }
}
