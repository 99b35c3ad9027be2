//! How many pools, how long, how many connections.

use std::time::Duration;

/// Bounds of a [`PoolCache`](crate::pools::PoolCache).
///
/// ```
/// use stagesub_tenancy::PoolSettings;
///
/// let settings = PoolSettings { connection_budget: 80, ..PoolSettings::default() };
/// assert_eq!(settings.capacity, 50);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// Most dedicated pools that are kept (default 50). One more drops the least recently used one, an idle
    /// one if there is one. 0 keeps none: each pool closes with its last lease.
    pub capacity: usize,
    /// Longest age of a dedicated pool since it was opened (default 1 hour). An older one is replaced at its
    /// next use.
    pub ttl: Duration,
    /// Most connections that the node holds to dedicated databases, on all servers together, in pools that
    /// are opening, open or closing (default 200: 50 pools of 4). Shared databases are outside it.
    pub connection_budget: u32,
    /// Longest wait for the budget (default 5 s); then [`OpenError::BudgetExhausted`](crate::OpenError).
    pub budget_wait: Duration,
    /// Longest opening of one pool (default 15 s); then [`OpenError::Unavailable`](crate::OpenError).
    pub open_timeout: Duration,
    /// When a failing database is left alone.
    pub breaker: BreakerSettings,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            capacity: 50,
            ttl: Duration::from_hours(1),
            connection_budget: 200,
            budget_wait: Duration::from_secs(5),
            open_timeout: Duration::from_secs(15),
            breaker: BreakerSettings::default(),
        }
    }
}

/// When a failing database is left alone, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Consecutive failed openings after which the breaker opens (default 3; 0 counts as 1).
    pub failures: u32,
    /// How long it stays open (default 5 s). Then one opening is tried: its success closes the breaker, its
    /// failure opens it for as long again.
    pub open_for: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self { failures: 3, open_for: Duration::from_secs(5) }
    }
}
