//! Doubles for tests: a directory in memory, a clock that stands, pools that are opened on paper.
//!
//! Behind the feature `testing`, which belongs into `[dev-dependencies]` alone: [`scope_for`] needs no
//! directory to grant a scope.

mod directory;
mod pools;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::clock::Clock;
use crate::resolver::grant;
use crate::scope::{Purpose, TenantScope};
use crate::tenant::{ConfigVersion, Tenant, TenantId, TenantStatus};

pub use crate::clock::MockClock;
pub use crate::directory::follow::MockChangeSink;
pub use crate::directory::{MockChangeFeed, MockChangeSignal, MockTenantDirectory};
pub use crate::moves::failpoint::MockFailpoints;
pub use crate::moves::plane::MockDataPlane;
pub use crate::moves::registry::MockMoveRegistry;
pub use directory::InMemoryDirectory;
pub use pools::{FactoryStats, InMemoryPool, InMemoryPoolFactory};

/// An active tenant with no end, whose id is made of `id`.
///
/// # Panics
/// If `code` or `subdomain` is not one that a tenant may have.
#[must_use]
pub fn tenant(id: u128, code: &str, subdomain: &str) -> Tenant {
    Tenant {
        id: TenantId::from_uuid(Uuid::from_u128(id)),
        code: code.parse().expect("a test's code is one that a tenant may have"),
        name: format!("Orchestra {code}"),
        subdomain: subdomain.parse().expect("a test's subdomain is one that a tenant may have"),
        status: TenantStatus::Active,
        trial_ends_at: None,
        subscription_ends_at: None,
        version: ConfigVersion(1),
    }
}

/// A scope for a request of this tenant, granted by the same rule as the resolver's, as of 1970.
///
/// # Panics
/// If the tenant is one that the rule refuses: only active ones are served.
#[must_use]
pub fn scope_for(tenant: Tenant) -> TenantScope {
    grant(Arc::new(tenant), Purpose::Request, DateTime::UNIX_EPOCH).expect("a test's tenant may be served")
}

/// A clock that stands until it is moved.
#[derive(Debug)]
pub struct FixedClock(Mutex<DateTime<Utc>>);

impl FixedClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn at(now: DateTime<Utc>) -> Self {
        Self(Mutex::new(now))
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}

impl Clock for FixedClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_stands_until_it_is_moved() {
        let clock = FixedClock::at(DateTime::UNIX_EPOCH);
        assert_eq!(clock.now(), DateTime::UNIX_EPOCH);
        clock.advance(Duration::from_secs(7));
        assert_eq!(clock.now().timestamp(), 7);
    }

    #[test]
    fn scope_is_the_tenants_own() {
        let scope = scope_for(tenant(1, "GOT", "gbg"));
        assert_eq!((scope.code().as_str(), scope.purpose()), ("GOT", &Purpose::Request));
    }

    #[test]
    #[should_panic(expected = "may be served")]
    fn tenant_that_is_not_served_gets_no_scope_in_tests_either() {
        let suspended = Tenant { status: TenantStatus::Suspended, ..tenant(1, "GOT", "gbg") };
        let _ = scope_for(suspended);
    }
}
