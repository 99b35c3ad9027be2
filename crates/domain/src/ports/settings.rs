//! The orchestra's settings.

use async_trait::async_trait;

use crate::error::StoreError;
use crate::settings::Settings;

/// Settings of the unit's tenant: one row, made with the tenant.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait SettingsRepository: Send {
    /// Reads them.
    async fn get(&mut self) -> Result<Settings, StoreError>;
}
