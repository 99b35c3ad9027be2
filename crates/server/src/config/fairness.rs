//! Settings of what keeps one client, one orchestra or one node from taking everything.

use std::num::NonZeroU32;
use std::thread::available_parallelism;
use std::time::Duration;

use stagesub_tenancy::nodes::{Sharing, Uses};

use super::{ConfigError, PoolSizes, RawConfig};

const TWO: NonZeroU32 = NonZeroU32::new(2).expect("not zero");
/// Requests of one orchestra at one time on the smallest machines.
const LEAST_AT_ONCE: NonZeroU32 = NonZeroU32::new(4).expect("not zero");

/// How connections to databases are shared.
#[derive(Debug, Clone, Copy)]
pub struct PoolShares {
    /// How much of what nobody else holds of a shared pool one orchestra may hold, in percent.
    pub tenant_percent: u8,
    /// Connections of all nodes together to each shared database.
    pub shared: u32,
    /// Connections of all nodes together to dedicated databases.
    pub dedicated: u32,
}

impl Default for PoolShares {
    fn default() -> Self {
        Self { tenant_percent: 25, shared: 50, dedicated: 160 }
    }
}

impl PoolShares {
    /// Reads them.
    pub fn from_raw(raw: &RawConfig) -> Result<Self, ConfigError> {
        let default = Self::default();
        let tenant = raw.stagesub_tenant_share.unwrap_or(u32::from(default.tenant_percent));
        let tenant = within("STAGESUB_TENANT_SHARE", tenant, 1, 100)?;
        Ok(Self {
            tenant_percent: u8::try_from(tenant).unwrap_or(default.tenant_percent),
            shared: within(
                "STAGESUB_SHARED_CONNECTIONS",
                raw.stagesub_shared_connections.unwrap_or(default.shared),
                1,
                100_000,
            )?,
            dedicated: within(
                "STAGESUB_DEDICATED_CONNECTIONS",
                raw.stagesub_dedicated_connections.unwrap_or(default.dedicated),
                1,
                100_000,
            )?,
        })
    }

    /// How the nodes share the connections. Each pool has one more than its size, which cancels statements; a node
    /// has at least two to a shared database and that one, and those of one dedicated pool.
    #[must_use]
    pub fn sharing(&self, sizes: PoolSizes) -> Sharing {
        let pool = sizes.dedicated.saturating_add(1);
        let pools = u32::try_from(sizes.dedicated_pools).unwrap_or(u32::MAX);
        let shared = sizes.shared.saturating_add(1);
        Sharing {
            total: Uses { shared: self.shared, dedicated: self.dedicated },
            least: Uses { shared: shared.min(3), dedicated: pool },
            most: Uses { shared, dedicated: pools.saturating_mul(pool) },
        }
    }
}

/// How often the API may be asked, each a minute, and how much of it at once; `None`: as anybody likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitSettings {
    /// Requests of one address.
    pub requests_per_address: Option<NonZeroU32>,
    /// Requests of one orchestra, by people who are signed in there.
    pub requests_per_tenant: Option<NonZeroU32>,
    /// Requests of one orchestra that are worked on at one time; others wait for them.
    pub tenant_requests_at_once: Option<NonZeroU32>,
    /// Failed sign-ins of one address.
    pub failed_sign_ins_per_address: Option<NonZeroU32>,
    /// Failed sign-ins with one login address.
    pub failed_sign_ins_per_account: Option<NonZeroU32>,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            requests_per_address: NonZeroU32::new(6_000),
            requests_per_tenant: NonZeroU32::new(12_000),
            tenant_requests_at_once: Some(at_once()),
            failed_sign_ins_per_address: NonZeroU32::new(30),
            failed_sign_ins_per_account: NonZeroU32::new(10),
        }
    }
}

impl LimitSettings {
    /// No limits.
    #[must_use]
    pub const fn off() -> Self {
        Self {
            requests_per_address: None,
            requests_per_tenant: None,
            tenant_requests_at_once: None,
            failed_sign_ins_per_address: None,
            failed_sign_ins_per_account: None,
        }
    }

    /// Reads them; 0 switches one off.
    pub fn from_raw(raw: &RawConfig) -> Result<Self, ConfigError> {
        let default = Self::default();
        let read = |variable, value: Option<u32>, default| match value {
            None => Ok(default),
            Some(value) => within(variable, value, 0, 1_000_000).map(NonZeroU32::new),
        };
        Ok(Self {
            requests_per_address: read(
                "STAGESUB_REQUESTS_PER_ADDRESS",
                raw.stagesub_requests_per_address,
                default.requests_per_address,
            )?,
            requests_per_tenant: read(
                "STAGESUB_REQUESTS_PER_TENANT",
                raw.stagesub_requests_per_tenant,
                default.requests_per_tenant,
            )?,
            tenant_requests_at_once: read(
                "STAGESUB_TENANT_REQUESTS_AT_ONCE",
                raw.stagesub_tenant_requests_at_once,
                default.tenant_requests_at_once,
            )?,
            failed_sign_ins_per_address: read(
                "STAGESUB_FAILED_SIGN_INS_PER_ADDRESS",
                raw.stagesub_failed_sign_ins_per_address,
                default.failed_sign_ins_per_address,
            )?,
            failed_sign_ins_per_account: read(
                "STAGESUB_FAILED_SIGN_INS_PER_ACCOUNT",
                raw.stagesub_failed_sign_ins_per_account,
                default.failed_sign_ins_per_account,
            )?,
        })
    }
}

/// Enough to keep this machine's cores at work while some wait for a database, and no more.
fn at_once() -> NonZeroU32 {
    let cores = available_parallelism().ok().and_then(|cores| NonZeroU32::try_from(cores).ok());
    cores.map_or(LEAST_AT_ONCE, |cores| cores.saturating_mul(TWO).max(LEAST_AT_ONCE))
}

/// Bounds of the listener's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// Most that are open at once. One more waits until another ends.
    pub most: u32,
    /// Longest time until a request's head has arrived, from the connection's begin or from the answer before.
    pub head: Duration,
    /// Longest time that an answer may stand still because its reader takes nothing.
    pub stalled: Duration,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self { most: 800, head: Duration::from_secs(20), stalled: Duration::from_secs(30) }
    }
}

impl ConnectionSettings {
    /// Reads them.
    pub fn from_raw(raw: &RawConfig) -> Result<Self, ConfigError> {
        let default = Self::default();
        let most = raw.stagesub_max_connections.unwrap_or(default.most);
        let head = match raw.stagesub_head_secs {
            None => default.head,
            Some(secs) => Duration::from_secs(within("STAGESUB_HEAD_SECS", secs, 1, 600)?.into()),
        };
        Ok(Self { most: within("STAGESUB_MAX_CONNECTIONS", most, 1, 100_000)?, head, ..default })
    }
}

fn within(variable: &'static str, value: u32, least: u32, most: u32) -> Result<u32, ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(ConfigError::OutOfRange { variable, value: value.into(), least: least.into(), most: most.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: PoolSizes = PoolSizes { shared: 10, dedicated: 2, dedicated_pools: 50 };

    #[test]
    fn one_node_has_the_sizes_that_were_set_and_many_divide_what_there_is() {
        let sharing = PoolShares::default().sharing(SIZES);
        let part = |count| sharing.part(NonZeroU32::new(count).unwrap());
        assert_eq!(part(1), Uses { shared: 11, dedicated: 150 });
        assert_eq!(part(4), Uses { shared: 11, dedicated: 39 });
        assert_eq!(part(10), Uses { shared: 4, dedicated: 15 });
        assert_eq!(part(1_000), Uses { shared: 3, dedicated: 3 });
        let one = PoolSizes { shared: 1, ..SIZES };
        assert_eq!(PoolShares::default().sharing(one).least.shared, 2, "no more than the pool may have");
    }

    #[test]
    fn zero_switches_a_limit_off_and_leaves_the_others() {
        let raw = RawConfig { stagesub_requests_per_address: Some(0), ..RawConfig::default() };
        let limits = LimitSettings::from_raw(&raw).unwrap();
        assert_eq!(limits, LimitSettings { requests_per_address: None, ..LimitSettings::default() });
        let raw = RawConfig { stagesub_tenant_requests_at_once: Some(0), ..RawConfig::default() };
        let limits = LimitSettings::from_raw(&raw).unwrap();
        assert_eq!(limits, LimitSettings { tenant_requests_at_once: None, ..LimitSettings::default() });
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let raw = RawConfig { stagesub_tenant_share: Some(101), ..RawConfig::default() };
        let error = PoolShares::from_raw(&raw).unwrap_err();
        assert_eq!(error.to_string(), "STAGESUB_TENANT_SHARE is 101, but must be 1 to 100");
        let raw = RawConfig { stagesub_head_secs: Some(0), ..RawConfig::default() };
        assert!(matches!(ConnectionSettings::from_raw(&raw), Err(ConfigError::OutOfRange { .. })));
    }
}
