//! Quotas.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use stagesub_domain::error::StoreError;
use stagesub_domain::ports::QuotaRepository;
use stagesub_domain::ports::quotas::Quota;
use stagesub_domain::subscription::{Limits, Resource};

use super::{corrupt, store_error};
use crate::tx::TenantTx;

pub(crate) struct PgQuotas<'w> {
    pub(crate) tx: &'w mut TenantTx,
}

struct Row {
    resource: String,
    used: i32,
    allowed: Option<i32>,
    grace_until: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for Quota {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let resource = Resource::ALL
            .into_iter()
            .find(|resource| resource.as_str() == row.resource)
            .ok_or_else(|| corrupt("quota", &row.resource))?;
        Ok(Self { resource, used: row.used, limit: row.allowed, grace_until: row.grace_until })
    }
}

#[async_trait]
impl QuotaRepository for PgQuotas<'_> {
    async fn lock(&mut self, resource: Resource) -> Result<Quota, StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        let row = sqlx::query_as!(
            Row,
            "SELECT resource, used, allowed, grace_until
             FROM tenant.quota
             WHERE tenant_id = $1 AND resource = $2
             FOR UPDATE",
            tenant,
            resource.as_str()
        )
        .fetch_optional(&mut *self.tx)
        .await
        .map_err(store_error)?;
        // Made with the tenant; without it no limit could be kept.
        row.ok_or_else(|| corrupt("quota", resource.as_str()))?.try_into()
    }

    async fn update(&mut self, quota: &Quota) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        sqlx::query!(
            "UPDATE tenant.quota
             SET used = $3, grace_until = $4, updated_at = now()
             WHERE tenant_id = $1 AND resource = $2",
            tenant,
            quota.resource.as_str(),
            quota.used,
            quota.grace_until
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?;
        Ok(())
    }

    async fn list(&mut self) -> Result<Vec<Quota>, StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        let rows = sqlx::query_as!(
            Row,
            "SELECT resource, used, allowed, grace_until
             FROM tenant.quota
             WHERE tenant_id = $1
             ORDER BY resource",
            tenant
        )
        .fetch_all(&mut *self.tx)
        .await
        .map_err(store_error)?;
        rows.into_iter().map(Quota::try_from).collect()
    }

    async fn set_limits(&mut self, limits: Limits, version: i64) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        // In the order of the resources' names, which is the order they are locked in everywhere.
        for resource in Resource::ALL {
            sqlx::query!(
                "UPDATE tenant.quota
                 SET allowed = $3, limits_version = $4, updated_at = now(),
                     grace_until = CASE WHEN $3::integer IS NULL OR used <= $3 THEN NULL ELSE grace_until END
                 WHERE tenant_id = $1 AND resource = $2 AND limits_version < $4",
                tenant,
                resource.as_str(),
                limits.of(resource),
                version
            )
            .execute(&mut *self.tx)
            .await
            .map_err(store_error)?;
        }
        Ok(())
    }
}
