//! Where the nodes' sums come together.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::Usage;
use crate::directory::DirectoryError;
use crate::subdomain::Subdomain;
use crate::tenant::{TenantCode, TenantId};

/// Hours that a ledger keeps, the one that is now included.
pub const HOURS_KEPT: u32 = 48;

/// What a node's tenants used in some time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsageSums {
    /// Those that were told apart.
    pub tenants: Vec<(TenantId, Usage)>,
    /// All others together.
    pub others: Usage,
}

impl UsageSums {
    /// Whether nothing was used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty() && self.others == Usage::default()
    }
}

/// What tenants are ordered by, those that used most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UsageBy {
    /// [`Usage::database_time`]
    #[default]
    DatabaseTime,
    /// [`Usage::rows`]
    Rows,
    /// [`Usage::pool_wait`]
    PoolWait,
}

impl UsageBy {
    /// Every order.
    pub const ALL: [Self; 3] = [Self::DatabaseTime, Self::Rows, Self::PoolWait];

    /// `databaseTime`, `rows` or `poolWait`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DatabaseTime => "databaseTime",
            Self::Rows => "rows",
            Self::PoolWait => "poolWait",
        }
    }
}

impl fmt::Display for UsageBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for UsageBy {
    type Err = UnknownOrder;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|by| by.as_str() == text).ok_or(UnknownOrder)
    }
}

/// The text names no order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be databaseTime, rows or poolWait")]
pub struct UnknownOrder;

/// One tenant's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantUsage {
    /// Its identity.
    pub tenant: TenantId,
    /// Prefix of its ids.
    pub code: TenantCode,
    /// Its host label.
    pub subdomain: Subdomain,
    /// What it used.
    pub usage: Usage,
}

/// Who used how much since some time, on all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageReport {
    /// Since when.
    pub since: DateTime<Utc>,
    /// Those that used most, first.
    pub tenants: Vec<TenantUsage>,
    /// All tenants together, those that are not listed included.
    pub total: Usage,
    /// The part of the total of which a node did not tell whose it was.
    pub others: Usage,
}

/// Keeps what tenants used, for all nodes, by the hour.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait UsageLedger: Send + Sync {
    /// Adds a node's sums to the hour that is now.
    ///
    /// # Cancel safety
    /// Sums whose adding was given up, or failed, may have been added.
    async fn add(&self, sums: &UsageSums) -> Result<(), DirectoryError>;

    /// Those `limit` tenants that used most in this hour and the `hours - 1` before it, of [`HOURS_KEPT`] at most.
    async fn top(&self, by: UsageBy, hours: u32, limit: u32) -> Result<UsageReport, DirectoryError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_named_as_the_figures_are() {
        for by in UsageBy::ALL {
            assert_eq!(by.to_string().parse(), Ok(by));
        }
        assert_eq!("database_time".parse::<UsageBy>(), Err(UnknownOrder));
    }
}
