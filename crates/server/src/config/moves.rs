//! Settings of moves.

use stagesub_storage::moves::plane::Burden;
use stagesub_tenancy::moves::MoverSettings;

use super::{ConfigError, RawConfig};

/// How many moves a node drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveSettings {
    /// Most that copy, compare or cut over at one time; 0: this node drives none at all.
    pub at_once: u32,
    /// Most that are active, whose streams are kept so that the orchestra can go back.
    pub kept: u32,
    /// How patient a mover is.
    pub mover: MoverSettings,
}

impl Default for MoveSettings {
    fn default() -> Self {
        Self { at_once: 2, kept: 16, mover: MoverSettings::default() }
    }
}

impl MoveSettings {
    /// None: this node drives no move.
    #[must_use]
    pub fn none() -> Self {
        Self { at_once: 0, ..Self::default() }
    }

    /// Reads them.
    pub fn from_raw(raw: &RawConfig) -> Result<Self, ConfigError> {
        let default = Self::default();
        Ok(Self {
            at_once: within(
                "STAGESUB_MOVES_AT_ONCE",
                raw.stagesub_moves_at_once.unwrap_or(default.at_once),
                0,
                64,
            )?,
            kept: within("STAGESUB_MOVES_KEPT", raw.stagesub_moves_kept.unwrap_or(default.kept), 1, 1000)?,
            ..default
        })
    }
}

/// What a move may have its source keep: a whole number of GiB.
pub fn burden(raw: &RawConfig) -> Result<Burden, ConfigError> {
    let default = Burden::default();
    let Some(gib) = raw.stagesub_move_log_gib else { return Ok(default) };
    let gib = within("STAGESUB_MOVE_LOG_GIB", gib, 1, 1_000_000)?;
    Ok(Burden { most: u64::from(gib) << 30, ..default })
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

    fn read(at_once: u32, kept: u32) -> Result<(u32, u32), ConfigError> {
        let raw = RawConfig {
            stagesub_moves_at_once: Some(at_once),
            stagesub_moves_kept: Some(kept),
            ..RawConfig::default()
        };
        MoveSettings::from_raw(&raw).map(|settings| (settings.at_once, settings.kept))
    }

    #[test]
    fn a_source_may_keep_so_much_and_no_less_than_one_gib() {
        let read = |gib| {
            let raw = RawConfig { stagesub_move_log_gib: Some(gib), ..RawConfig::default() };
            burden(&raw).map(|burden| burden.most)
        };
        assert_eq!(read(3).unwrap(), 3 * 1024 * 1024 * 1024);
        assert_eq!(burden(&RawConfig::default()).unwrap(), Burden::default());
        for gib in [0, 1_000_001] {
            assert!(matches!(read(gib), Err(ConfigError::OutOfRange { .. })), "{gib}");
        }
    }

    #[test]
    fn a_node_may_drive_none_and_not_too_many() {
        assert_eq!(MoveSettings::from_raw(&RawConfig::default()).unwrap(), MoveSettings::default());
        assert_eq!(read(0, 1).unwrap(), (0, 1));
        assert_eq!(read(64, 1000).unwrap(), (64, 1000));
        for (at_once, kept) in [(65, 1), (1, 0), (1, 1001)] {
            assert!(matches!(read(at_once, kept), Err(ConfigError::OutOfRange { .. })), "{at_once} {kept}");
        }
    }
}
