//! The orchestra's settings.

use async_trait::async_trait;
use stagesub_domain::error::StoreError;
use stagesub_domain::ports::SettingsRepository;
use stagesub_domain::settings::Settings;

use super::{corrupt, store_error};
use crate::tx::TenantTx;

pub(crate) struct PgSettings<'w> {
    pub(crate) tx: &'w mut TenantTx,
}

#[async_trait]
impl SettingsRepository for PgSettings<'_> {
    async fn get(&mut self) -> Result<Settings, StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        let row = sqlx::query!(
            "SELECT reminder_percentage, ranking_conflict_strategy, language, timezone, default_response_hours
             FROM tenant.settings
             WHERE tenant_id = $1",
            tenant
        )
        .fetch_optional(&mut *self.tx)
        .await
        .map_err(store_error)?
        .ok_or_else(|| corrupt("settings", tenant))?;
        Ok(Settings {
            reminder_percentage: row.reminder_percentage,
            ranking_conflict_strategy: row.ranking_conflict_strategy,
            language: row.language.parse().map_err(|_| corrupt("settings", tenant))?,
            timezone: row.timezone,
            default_response_hours: row.default_response_hours,
        })
    }
}
