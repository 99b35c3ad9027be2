//! The orchestra's audit log.

use async_trait::async_trait;
use stagesub_domain::audit::AuditEntry;
use stagesub_domain::error::StoreError;
use stagesub_domain::ports::AuditLog;
use stagesub_domain::role::Role;
use uuid::Uuid;

use super::store_error;
use crate::tx::TenantTx;

pub(crate) struct PgAuditLog<'w> {
    pub(crate) tx: &'w mut TenantTx,
}

#[async_trait]
impl AuditLog for PgAuditLog<'_> {
    async fn record(&mut self, entry: &AuditEntry) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        let origin = &entry.actor.origin;
        sqlx::query!(
            "INSERT INTO tenant.audit
                 (tenant_id, id, at, actor, actor_id, actor_role, action, model, record_id, changes,
                  ip_address, user_agent, request_id, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::text::inet, $12, $13, $3, $3)",
            tenant,
            Uuid::now_v7(),
            entry.at,
            entry.actor.kind(),
            entry.actor.user_id(),
            entry.actor.role().map(Role::as_str),
            entry.action.as_str(),
            entry.model,
            entry.record_id,
            entry.changes,
            origin.ip_address.map(|address| address.to_string()),
            origin.user_agent,
            origin.request_id
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?;
        Ok(())
    }
}
