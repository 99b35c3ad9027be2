//! Leaving a failing database alone for a while.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use crate::placement::DatabaseId;
use crate::pools::settings::BreakerSettings;

/// Failing databases that are remembered at once. Forgetting one costs some openings that fail.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// A failure is forgotten after this even where nobody tried again, as of a database that is not there any more.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(10);

/// One breaker per database, hence per tenant where the database is dedicated: a tenant that moves to a
/// sound database is served at once.
#[derive(Debug)]
pub(super) struct Breakers {
    settings: BreakerSettings,
    failing: LruCache<DatabaseId, Failing>,
}

#[derive(Debug)]
struct Failing {
    failures: u32,
    last: Instant,
}

impl Breakers {
    pub(super) fn new(settings: BreakerSettings) -> Self {
        Self { settings, failing: LruCache::new(REMEMBERED) }
    }

    /// How many databases failed last.
    pub(super) fn failing(&self) -> usize {
        self.failing.len()
    }

    /// How many are left alone.
    pub(super) fn left_alone(&self, now: Instant) -> usize {
        self.failing.iter().filter(|(database, _)| self.retry_after(**database, now).is_some()).count()
    }

    /// How long `database` is still left alone; `None`: it may be tried.
    pub(super) fn retry_after(&self, database: DatabaseId, now: Instant) -> Option<Duration> {
        let failing = self.failing.peek(&database)?;
        if failing.failures < self.settings.failures.max(1) {
            return None;
        }
        let until = failing.last + self.settings.open_for;
        until.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    pub(super) fn succeeded(&mut self, database: DatabaseId) {
        self.failing.pop(&database);
    }

    /// Forgets those that nobody has tried for long.
    pub(super) fn forget_old(&mut self, now: Instant) {
        let after = FORGOTTEN_AFTER.max(self.settings.open_for);
        // In the order of their last failures: trying one touches it.
        while let Some((_, oldest)) = self.failing.peek_lru()
            && now.duration_since(oldest.last) >= after
        {
            self.failing.pop_lru();
        }
    }

    pub(super) fn failed(&mut self, database: DatabaseId, now: Instant) {
        let failing = self.failing.get_or_insert_mut(database, || Failing { failures: 0, last: now });
        failing.failures = failing.failures.saturating_add(1);
        failing.last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATABASE: DatabaseId = DatabaseId::from_uuid(uuid::Uuid::from_u128(1));
    const OTHER: DatabaseId = DatabaseId::from_uuid(uuid::Uuid::from_u128(2));
    const SETTINGS: BreakerSettings = BreakerSettings { failures: 2, open_for: Duration::from_secs(5) };

    #[test]
    fn breaker_opens_after_consecutive_failures_of_its_database_alone() {
        let now = Instant::now();
        let mut breakers = Breakers::new(SETTINGS);
        breakers.failed(DATABASE, now);
        assert_eq!(breakers.retry_after(DATABASE, now), None);
        breakers.failed(DATABASE, now);
        assert_eq!(breakers.retry_after(DATABASE, now), Some(SETTINGS.open_for));
        assert_eq!(breakers.retry_after(OTHER, now), None);
        breakers.failed(OTHER, now);
        assert_eq!((breakers.failing(), breakers.left_alone(now)), (2, 1));
    }

    #[test]
    fn one_failure_after_the_pause_opens_it_again() {
        let now = Instant::now();
        let mut breakers = Breakers::new(SETTINGS);
        breakers.failed(DATABASE, now);
        breakers.failed(DATABASE, now);
        let later = now + SETTINGS.open_for;
        assert_eq!(breakers.retry_after(DATABASE, later), None);
        breakers.failed(DATABASE, later);
        assert_eq!(breakers.retry_after(DATABASE, later), Some(SETTINGS.open_for));
    }

    #[test]
    fn success_forgets_earlier_failures() {
        let now = Instant::now();
        let mut breakers = Breakers::new(SETTINGS);
        breakers.failed(DATABASE, now);
        breakers.succeeded(DATABASE);
        breakers.failed(DATABASE, now);
        assert_eq!(breakers.retry_after(DATABASE, now), None);
    }

    #[test]
    fn what_nobody_tries_again_is_forgotten_and_not_what_fails_still() {
        let now = Instant::now();
        let mut breakers = Breakers::new(SETTINGS);
        breakers.failed(DATABASE, now);
        breakers.failed(OTHER, now);
        let later = now + FORGOTTEN_AFTER;
        breakers.failed(DATABASE, later - Duration::from_secs(1));
        breakers.forget_old(later - Duration::from_millis(1));
        assert_eq!(breakers.failing(), 2);
        breakers.forget_old(later);
        assert_eq!(breakers.failing(), 1);
        assert!(breakers.retry_after(DATABASE, later).is_some(), "it failed twice, the last time just now");
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut breakers = Breakers::new(SETTINGS);
        for n in 0..10_000 {
            breakers.failed(DatabaseId::from_uuid(uuid::Uuid::from_u128(n)), now);
        }
        assert_eq!(breakers.failing.len(), REMEMBERED.get());
    }
}
