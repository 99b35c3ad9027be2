//! How often somebody may ask (feature `rate`): limits by tenant, by address, by whatever a service counts.
//!
//! The counting is governor's (GCRA: no window at whose edge twice as much passes). What is added here is a
//! bound on how many are remembered, so that an attacker with many addresses cannot fill the memory.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::{Quota, RateLimiter};
use lru::LruCache;
use tokio::time::Instant;

mod recent;

pub use recent::RecentSet;

/// Keys that one limit remembers; the one that asked least recently is forgotten for another.
const REMEMBERED: usize = 100_000;

/// So many a minute, for each key: as many at once, and then one each time its part of the minute is over.
///
/// ```
/// use std::num::NonZeroU32;
///
/// use stagesub_tenancy::rate::RateLimit;
///
/// let limit = RateLimit::per_minute(NonZeroU32::new(2).expect("not zero"));
/// assert!(limit.take(&"choir").is_ok() && limit.take(&"choir").is_ok());
/// let refused = limit.take(&"choir").expect_err("it was the third");
/// assert!(refused.retry_after.as_secs() <= 30);
/// assert!(limit.take(&"band").is_ok());
/// ```
pub struct RateLimit<K: Eq + Hash + Clone> {
    takes: Limiter<K>,
    looks: Limiter<K>,
}

type Limiter<K> = RateLimiter<K, Recent<K>, Ticks, NoOpMiddleware<Duration>>;

/// Not now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("asked too often; again in {} ms", retry_after.as_millis())]
pub struct Limited {
    /// When it may be asked again, from now.
    pub retry_after: Duration,
}

impl<K: Eq + Hash + Clone> RateLimit<K> {
    /// A limit under which nobody has asked yet.
    #[must_use]
    pub fn per_minute(most: NonZeroU32) -> Self {
        Self::remembering(most, REMEMBERED)
    }

    fn remembering(most: NonZeroU32, keys: usize) -> Self {
        let (quota, clock) = (Quota::per_minute(most), Ticks(Instant::now()));
        let kept = Arc::new(Mutex::new(LruCache::unbounded()));
        let store = |takes| Recent { kept: Arc::clone(&kept), most: keys, takes };
        Self {
            takes: RateLimiter::new(quota, store(true), clock),
            looks: RateLimiter::new(quota, store(false), clock),
        }
    }

    /// Counts one.
    ///
    /// # Errors
    /// [`Limited`] when there were too many; then it does not count.
    pub fn take(&self, key: &K) -> Result<(), Limited> {
        check(&self.takes, key)
    }

    /// Whether one more would pass, without counting it.
    ///
    /// # Errors
    /// [`Limited`] when it would not.
    pub fn look(&self, key: &K) -> Result<(), Limited> {
        check(&self.looks, key)
    }

    /// Forgets those who have not asked for so long that they may ask all at once again; to be called now and
    /// then.
    pub fn forget_idle(&self) {
        self.takes.retain_recent();
    }

    /// How many are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.takes.len()
    }
}

fn check<K: Eq + Hash + Clone>(limiter: &Limiter<K>, key: &K) -> Result<(), Limited> {
    limiter
        .check_key(key)
        .map_err(|not_until| Limited { retry_after: not_until.wait_time_from(limiter.clock().now()) })
}

impl<K: Eq + Hash + Clone> fmt::Debug for RateLimit<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit").field("remembered", &self.remembered()).finish_non_exhaustive()
    }
}

/// What counts as one client: an address, or the /64 that an IPv6 address is in, since whoever has one of
/// those has all of it.
#[must_use]
pub fn client_of(address: IpAddr) -> IpAddr {
    const NETWORK: u128 = !(u64::MAX as u128);
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & NETWORK)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Tokio's time, which tests can stop.
#[derive(Clone, Copy)]
struct Ticks(Instant);

impl Clock for Ticks {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// The keys that asked last.
struct Recent<K> {
    kept: Arc<Mutex<LruCache<K, Nanos>>>,
    most: usize,
    /// Whether what passes counts.
    takes: bool,
}

impl<K: Eq + Hash> Recent<K> {
    fn lock(&self) -> MutexGuard<'_, LruCache<K, Nanos>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone> StateStore for Recent<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut kept = self.lock();
        if !self.takes {
            return f(kept.peek(key).copied()).map(|(passed, _)| passed);
        }
        // Looked up as used even when it is refused: whoever is at their limit is not forgotten first.
        let (passed, next) = f(kept.get(key).copied())?;
        kept.put(key.clone(), next);
        if kept.len() > self.most {
            kept.pop_lru();
        }
        Ok(passed)
    }
}

impl<K: Eq + Hash + Clone> ShrinkableKeyedStateStore<K> for Recent<K> {
    /// From the least recently used on: a look at all of them would hold up whoever asks meanwhile.
    fn retain_recent(&self, drop_below: Nanos) {
        let mut kept = self.lock();
        while kept.peek_lru().is_some_and(|(_, next)| *next < drop_below) {
            kept.pop_lru();
        }
    }

    fn len(&self) -> usize {
        self.lock().len()
    }

    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(most: u32) -> RateLimit<u32> {
        RateLimit::per_minute(NonZeroU32::new(most).expect("not zero"))
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_at_once_as_a_minute_has_and_then_one_by_one() {
        let limit = limit(6);
        assert!((0..6).all(|_| limit.take(&1).is_ok()));
        assert_eq!(limit.take(&1), Err(Limited { retry_after: Duration::from_secs(10) }));
        assert!(limit.take(&2).is_ok(), "another has a limit of its own");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(limit.take(&1).is_ok());
        assert!(limit.take(&1).is_err());
        tokio::time::advance(Duration::from_mins(1)).await;
        assert!((0..6).all(|_| limit.take(&1).is_ok()));
        assert!(limit.take(&1).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_does_not_count() {
        let limit = limit(1);
        assert!((0..10).all(|_| limit.look(&1).is_ok()));
        assert_eq!(limit.remembered(), 0);
        limit.take(&1).unwrap();
        assert_eq!(limit.look(&1), limit.take(&1));
        assert!(limit.look(&1).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_whoever_keeps_asking_is_not_forgotten() {
        let limit = RateLimit::remembering(NonZeroU32::MIN, 100);
        limit.take(&0).unwrap();
        for key in 1..10_000_u32 {
            limit.take(&key).unwrap();
            assert!(limit.take(&0).is_err(), "{key}");
        }
        assert_eq!(limit.remembered(), 100);
        tokio::time::advance(Duration::from_mins(3)).await;
        limit.forget_idle();
        assert_eq!(limit.remembered(), 0);
    }

    #[test]
    fn a_client_is_an_address_or_a_network_of_64_bits() {
        let of = |text: &str| client_of(text.parse().expect("an address")).to_string();
        assert_eq!(of("203.0.113.9"), "203.0.113.9");
        assert_eq!(of("::ffff:203.0.113.9"), "203.0.113.9");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("2001:db8:1:2:ffff::1"), of("2001:db8:1:2::9"));
        assert_ne!(of("2001:db8:1:3::1"), of("2001:db8:1:2::1"));
    }
}
