//! A new orchestra's rows that no other repository makes.

use async_trait::async_trait;

use crate::error::StoreError;
use crate::settings::Settings;
use crate::starter::MailTemplate;
use crate::subscription::Limits;

/// First rows of the unit's tenant. Every call is idempotent: what is there already stays as it is.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait StarterRepository: Send {
    /// Whether the first contents were committed before.
    async fn is_done(&mut self) -> Result<bool, StoreError>;
    /// Makes the settings, the quota rows (nothing used) and the id counters of every kind (at 0).
    async fn insert_foundation(
        &mut self,
        settings: &Settings,
        limits: Limits,
        limits_version: i64,
    ) -> Result<(), StoreError>;
    /// Makes the mail templates.
    async fn insert_templates(&mut self, templates: Vec<MailTemplate>) -> Result<(), StoreError>;
}
