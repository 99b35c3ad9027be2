//! How long a transaction of a tenant may take, and a request may wait for one.

use std::time::Duration;

use stagesub_storage::factory::FactorySettings;
use stagesub_storage::patience::MovePatience;
use stagesub_storage::pool::{TenantPoolSettings, TxTimeouts};

use super::{ConfigError, PoolSizes, RawConfig};

/// Longest bound that can be set, in milliseconds: a request as a whole takes no longer.
const MOST_MS: u64 = 60_000;

/// Bounds of tenants' transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Within a transaction.
    pub timeouts: TxTimeouts,
    /// Longest wait for a connection.
    pub wait: Duration,
    /// Longest time that a begin is tried again while the tenant is moved.
    pub moving: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        let settings = TenantPoolSettings::default();
        Self { timeouts: settings.timeouts, wait: settings.wait, moving: MovePatience::default().within }
    }
}

impl Bounds {
    /// Reads them; what is left out has its default.
    pub fn from_raw(raw: &RawConfig) -> Result<Self, ConfigError> {
        let default = Self::default();
        Ok(Self {
            timeouts: TxTimeouts {
                statement: bound(
                    "STAGESUB_STATEMENT_TIMEOUT_MS",
                    raw.stagesub_statement_timeout_ms,
                    1,
                    default.timeouts.statement,
                )?,
                lock: bound(
                    "STAGESUB_LOCK_TIMEOUT_MS",
                    raw.stagesub_lock_timeout_ms,
                    1,
                    default.timeouts.lock,
                )?,
                idle: bound(
                    "STAGESUB_IDLE_TIMEOUT_MS",
                    raw.stagesub_idle_timeout_ms,
                    1,
                    default.timeouts.idle,
                )?,
            },
            wait: bound("STAGESUB_CONNECTION_WAIT_MS", raw.stagesub_connection_wait_ms, 1, default.wait)?,
            moving: bound("STAGESUB_MOVE_WAIT_MS", raw.stagesub_move_wait_ms, 0, default.moving)?,
        })
    }

    /// Pools of these sizes, with these bounds.
    #[must_use]
    pub fn factory_settings(&self, sizes: PoolSizes) -> FactorySettings {
        let of = |max_connections| TenantPoolSettings {
            max_connections,
            wait: self.wait,
            timeouts: self.timeouts,
            ..TenantPoolSettings::default()
        };
        FactorySettings { shared: of(sizes.shared), dedicated: of(sizes.dedicated) }
    }

    /// How long a begin is tried again.
    #[must_use]
    pub fn patience(&self) -> MovePatience {
        MovePatience::within(self.moving)
    }
}

fn bound(
    variable: &'static str,
    value: Option<u64>,
    least: u64,
    default: Duration,
) -> Result<Duration, ConfigError> {
    match value {
        None => Ok(default),
        Some(value) if (least..=MOST_MS).contains(&value) => Ok(Duration::from_millis(value)),
        Some(value) => Err(ConfigError::OutOfRange { variable, value, least, most: MOST_MS }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_reaches_the_pools_and_what_is_not_has_its_default() {
        let raw = RawConfig {
            stagesub_statement_timeout_ms: Some(700),
            stagesub_lock_timeout_ms: Some(50),
            stagesub_connection_wait_ms: Some(30),
            stagesub_move_wait_ms: Some(0),
            ..RawConfig::default()
        };
        let bounds = Bounds::from_raw(&raw).unwrap();
        let sizes = PoolSizes { shared: 3, dedicated: 2, dedicated_pools: 1 };
        let settings = bounds.factory_settings(sizes);
        assert_eq!((settings.shared.max_connections, settings.dedicated.max_connections), (3, 2));
        for pool in [settings.shared, settings.dedicated] {
            assert_eq!(pool.timeouts.statement, Duration::from_millis(700));
            assert_eq!(pool.timeouts.lock, Duration::from_millis(50));
            assert_eq!(pool.timeouts.idle, Duration::from_secs(30));
            assert_eq!(pool.wait, Duration::from_millis(30));
        }
        assert_eq!(bounds.patience().within, Duration::ZERO);
        assert_eq!(Bounds::from_raw(&RawConfig::default()).unwrap(), Bounds::default());
    }

    #[test]
    fn a_timeout_cannot_be_switched_off() {
        for value in [0, MOST_MS + 1] {
            let raw = RawConfig { stagesub_lock_timeout_ms: Some(value), ..RawConfig::default() };
            let error = Bounds::from_raw(&raw).unwrap_err().to_string();
            assert!(error.starts_with("STAGESUB_LOCK_TIMEOUT_MS is"), "{error}");
        }
    }
}
