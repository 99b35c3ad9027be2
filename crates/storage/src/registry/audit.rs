//! The platform's audit log: each entry in the transaction of what it tells of.

use sqlx::PgConnection;
use stagesub_domain::audit::AuditEntry;
use stagesub_domain::error::StoreError;
use stagesub_tenancy::TenantId;

use crate::repo::store_error;

/// Writes an entry.
pub(super) async fn record(
    conn: &mut PgConnection,
    tenant: Option<TenantId>,
    entry: &AuditEntry,
) -> Result<(), StoreError> {
    let origin = &entry.actor.origin;
    sqlx::query!(
        "INSERT INTO registry.platform_audit
            (tenant_id, at, actor, actor_id, actor_role, action, model, record_id, changes,
            ip_address, user_agent, request_id, created_at, updated_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::inet, $11, $12, $2, $2)",
        tenant.map(TenantId::as_uuid),
        entry.at,
        entry.actor.kind(),
        entry.actor.user_id(),
        entry.actor.role().map(stagesub_domain::role::Role::as_str),
        entry.action.as_str(),
        entry.model,
        entry.record_id,
        entry.changes,
        origin.ip_address.map(|address| address.to_string()),
        origin.user_agent,
        origin.request_id
    )
    .execute(conn)
    .await
    .map_err(store_error)?;
    Ok(())
}
