//! A set that forgets whom it heard of least recently.

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

/// The keys that were seen last, at most so many.
///
/// ```
/// use std::num::NonZeroUsize;
///
/// use stagesub_tenancy::rate::RecentSet;
///
/// let seen = RecentSet::new(NonZeroUsize::MIN);
/// seen.insert("choir");
/// assert!(seen.contains(&"choir"));
/// seen.insert("band");
/// assert!(!seen.contains(&"choir"));
/// ```
pub struct RecentSet<K: Eq + Hash> {
    kept: Mutex<LruCache<K, ()>>,
}

impl<K: Eq + Hash> RecentSet<K> {
    /// An empty set of at most so many; memory is taken for all of them as they come.
    #[must_use]
    pub fn new(most: NonZeroUsize) -> Self {
        let mut kept = LruCache::unbounded();
        kept.resize(most);
        Self { kept: Mutex::new(kept) }
    }

    /// Adds `key`; when the set is full, the key that was seen least recently goes.
    pub fn insert(&self, key: K) {
        self.lock().put(key, ());
    }

    /// Whether `key` is in it. Counts as having seen it.
    #[must_use]
    pub fn contains(&self, key: &K) -> bool {
        self.lock().get(key).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<K, ()>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> fmt::Debug for RecentSet<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecentSet").field("len", &self.lock().len()).finish_non_exhaustive()
    }
}
