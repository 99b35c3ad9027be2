//! How much of each resource is used and allowed, in the tenant's own database.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::error::StoreError;
use crate::subscription::Resource;

/// One resource's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Of what.
    pub resource: Resource,
    /// How many there are.
    pub used: i32,
    /// How many are allowed; `None` is unlimited.
    pub limit: Option<i32>,
    /// Until when a little more than the limit is tolerated; set when the limit is first passed.
    pub grace_until: Option<DateTime<Utc>>,
}

/// Quotas of the unit's tenant.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait QuotaRepository: Send {
    /// Reads one and keeps others from changing it until the unit ends: creators of one resource queue here,
    /// which is what makes limits exact. Taken before the id counter and before rows.
    async fn lock(&mut self, resource: Resource) -> Result<Quota, StoreError>;
    /// Stores `used` and `grace_until`.
    async fn update(&mut self, quota: &Quota) -> Result<(), StoreError>;
    /// All of them.
    async fn list(&mut self) -> Result<Vec<Quota>, StoreError>;
    /// Stores limits that the registry decided, unless a newer version of them is stored already.
    async fn set_limits(
        &mut self,
        limits: crate::subscription::Limits,
        version: i64,
    ) -> Result<(), StoreError>;
}
