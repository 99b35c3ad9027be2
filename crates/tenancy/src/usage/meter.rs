//! What each tenant used on this node, in bounded memory.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::{Usage, UsageSink, UsageSums, Used};
use crate::tenant::TenantId;

/// Tenants that are told apart at once.
const TOLD_APART: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// Sums by tenant until they are taken, to be put into a [`UsageLedger`](super::UsageLedger).
///
/// It tells 10,000 tenants apart. One more displaces the one that used something least recently, whose sums are kept
/// with those of all others that were displaced: whoever uses much is not displaced, and nothing is lost.
pub struct UsageMeter {
    most: NonZeroUsize,
    sums: Mutex<Sums>,
}

struct Sums {
    /// Unbounded by itself: it would take its bound's memory at once.
    tenants: LruCache<TenantId, Usage>,
    others: Usage,
}

impl Sums {
    fn empty() -> Self {
        Self { tenants: LruCache::unbounded(), others: Usage::default() }
    }
}

impl UsageMeter {
    /// A meter that has heard of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::telling_apart(TOLD_APART)
    }

    fn telling_apart(most: NonZeroUsize) -> Self {
        Self { most, sums: Mutex::new(Sums::empty()) }
    }

    /// Takes what was used since the last time.
    #[must_use]
    pub fn take(&self) -> UsageSums {
        let Sums { tenants, others } = std::mem::replace(&mut *self.sums(), Sums::empty());
        UsageSums { tenants: tenants.into_iter().collect(), others }
    }

    /// Puts sums back that could not be kept elsewhere.
    pub fn give_back(&self, sums: UsageSums) {
        let mut kept = self.sums();
        kept.others += sums.others;
        for (tenant, usage) in sums.tenants {
            self.add(&mut kept, tenant, usage);
        }
    }

    fn add(&self, sums: &mut Sums, tenant: TenantId, usage: Usage) {
        *sums.tenants.get_or_insert_mut(tenant, Usage::default) += usage;
        if sums.tenants.len() > self.most.get()
            && let Some((_, displaced)) = sums.tenants.pop_lru()
        {
            sums.others += displaced;
        }
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for UsageMeter {
    fn default() -> Self {
        Self::new()
    }
}

impl UsageSink for UsageMeter {
    fn used(&self, used: &Used) {
        self.add(&mut self.sums(), used.tenant, used.usage);
    }
}

impl fmt::Debug for UsageMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UsageMeter").field("tenants", &self.sums().tenants.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::placement::{DatabaseId, Placement};

    fn tenant(n: u128) -> TenantId {
        TenantId::from_uuid(Uuid::from_u128(n))
    }

    fn used(meter: &UsageMeter, n: u128, rows: u64) {
        let usage = Usage { rows, transactions: 1, ..Usage::default() };
        let placement = Placement::Shared(DatabaseId::from_uuid(Uuid::from_u128(9)));
        meter.used(&Used { tenant: tenant(n), placement, usage, crowded: None });
    }

    fn rows(sums: &UsageSums) -> Vec<(TenantId, u64)> {
        let mut rows: Vec<_> = sums.tenants.iter().map(|(tenant, usage)| (*tenant, usage.rows)).collect();
        rows.sort();
        rows
    }

    #[test]
    fn sums_are_by_tenant_and_are_taken_once() {
        let meter = UsageMeter::new();
        for (n, count) in [(1, 5), (2, 1), (1, 6)] {
            used(&meter, n, count);
        }
        let taken = meter.take();
        assert_eq!(rows(&taken), [(tenant(1), 11), (tenant(2), 1)]);
        assert!(meter.take().is_empty());
        used(&meter, 2, 2);
        meter.give_back(taken);
        assert_eq!(rows(&meter.take()), [(tenant(1), 11), (tenant(2), 3)]);
    }

    #[test]
    fn memory_is_bounded_nothing_is_lost_and_whoever_uses_much_stays() {
        let meter = UsageMeter::telling_apart(NonZeroUsize::new(10).unwrap());
        for n in 2..1_000 {
            used(&meter, 1, 1_000);
            used(&meter, n, 1);
        }
        let taken = meter.take();
        assert_eq!(taken.tenants.len(), 10);
        assert!(rows(&taken).contains(&(tenant(1), 998_000)));
        let told_apart: u64 = rows(&taken).iter().map(|(_, rows)| rows).sum();
        assert_eq!((told_apart, taken.others.rows), (998_009, 989));
        assert_eq!(taken.others.transactions, 989);
    }
}
