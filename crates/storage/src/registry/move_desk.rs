//! What the registry knows that a move is asked for with: where to, and by which request.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use stagesub_domain::error::StoreError;
use stagesub_domain::idempotency::Asked;
use stagesub_domain::ports::moves::{KeyedMove, MoveDesk};
use stagesub_tenancy::moves::MoveId;
use stagesub_tenancy::{DatabaseId, TenantId};

use super::RegistryPools;
use super::idempotency::{self, Made};
use crate::registry::version::next_version;
use crate::repo::store_error;

/// [`MoveDesk`] on the registry.
#[derive(Clone, Debug)]
pub struct PgMoveDesk {
    registry: RegistryPools,
}

impl PgMoveDesk {
    /// Over the registry.
    #[must_use]
    pub const fn new(registry: RegistryPools) -> Self {
        Self { registry }
    }
}

#[async_trait]
impl MoveDesk for PgMoveDesk {
    async fn find_own(&self, tenant: TenantId) -> Result<Option<DatabaseId>, StoreError> {
        let found = sqlx::query_scalar!(
            "SELECT id FROM registry.databases WHERE tenant_id = $1 AND status = 'ready'",
            tenant.as_uuid()
        )
        .fetch_optional(self.registry.control())
        .await
        .map_err(store_error)?;
        Ok(found.map(DatabaseId::from_uuid))
    }

    async fn find_shared(&self, id: DatabaseId) -> Result<Option<DatabaseId>, StoreError> {
        let found = sqlx::query_scalar!(
            "SELECT id FROM registry.databases WHERE id = $1 AND kind = 'shared' AND status = 'ready'",
            id.as_uuid()
        )
        .fetch_optional(self.registry.control())
        .await
        .map_err(store_error)?;
        Ok(found.map(DatabaseId::from_uuid))
    }

    async fn choose_other_shared(&self, than: DatabaseId) -> Result<Option<DatabaseId>, StoreError> {
        // The one that holds the fewest tenants.
        let found = sqlx::query_scalar!(
            "SELECT d.id
            FROM registry.databases AS d
            WHERE d.kind = 'shared' AND d.status = 'ready' AND d.id <> $1
            ORDER BY (SELECT count(*) FROM registry.directory AS p WHERE p.database_id = d.id), d.id
            LIMIT 1",
            than.as_uuid()
        )
        .fetch_optional(self.registry.control())
        .await
        .map_err(store_error)?;
        Ok(found.map(DatabaseId::from_uuid))
    }

    async fn claim_key(
        &self,
        asked: &Asked,
        tenant: TenantId,
        id: MoveId,
        now: DateTime<Utc>,
    ) -> Result<KeyedMove, StoreError> {
        let mut tx = self.registry.begin_control().await.map_err(store_error)?;
        // The first lock of everybody who looks for a key here: nobody is between looking and writing.
        next_version(&mut tx).await?;
        if let Some((fingerprint, made)) = idempotency::find(&mut tx, asked, None, now).await? {
            tx.rollback().await.map_err(store_error)?;
            return Ok(KeyedMove::Before { fingerprint, id: made.moved });
        }
        let made = Made { tenant: Some(tenant), member: None, moved: Some(id) };
        idempotency::record(&mut tx, asked, None, made, now).await?;
        tx.commit().await.map_err(store_error)?;
        Ok(KeyedMove::Now)
    }

    async fn forget_key(&self, asked: &Asked, id: MoveId) -> Result<(), StoreError> {
        sqlx::query!(
            "DELETE FROM registry.idempotency_keys
            WHERE user_id = $1 AND at_tenant = '00000000-0000-0000-0000-000000000000' AND key = $2 AND move_id = $3",
            asked.user,
            asked.key.as_str(),
            id.as_uuid()
        )
        .execute(self.registry.control())
        .await
        .map_err(store_error)?;
        Ok(())
    }
}
