//! Which tenant, or which member or move of one, a request made, by the key that it was named with.
//!
//! Both functions run under the registry version's lock, which every change takes first: so no two requests are
//! between looking and writing at once.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use stagesub_domain::error::StoreError;
use stagesub_domain::idempotency::{Asked, Fingerprint, KEPT_FOR};
use stagesub_tenancy::TenantId;
use stagesub_tenancy::moves::MoveId;
use uuid::Uuid;

use crate::repo::store_error;

/// Keys that are too old and go with one look, at most.
const REMOVED_AT_ONCE: i64 = 20;

/// What a request made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    /// The tenant, or the one that got a member; `None` for a database, which is found by its place.
    pub(super) tenant: Option<TenantId>,
    /// The member, if that is what was made.
    pub(super) member: Option<Uuid>,
    /// The move of the tenant, if that is what was begun.
    pub(super) moved: Option<MoveId>,
}

/// What was asked with this key before at this host (`None`: the platform's own), and what was made.
pub(super) async fn find(
    conn: &mut PgConnection,
    asked: &Asked,
    at: Option<TenantId>,
    now: DateTime<Utc>,
) -> Result<Option<(Fingerprint, Made)>, StoreError> {
    let row = sqlx::query!(
        "SELECT fingerprint, tenant_id, member_id, move_id
        FROM registry.idempotency_keys
        WHERE user_id = $1 AND at_tenant = $2 AND key = $3 AND created_at > $4",
        asked.user,
        host(at),
        asked.key.as_str(),
        now - KEPT_FOR
    )
    .fetch_optional(conn)
    .await
    .map_err(store_error)?;
    let Some(row) = row else { return Ok(None) };
    let fingerprint = <[u8; Fingerprint::LEN]>::try_from(row.fingerprint).map_err(|_| {
        StoreError::Corrupt { table: "registry.idempotency_keys", id: asked.user.to_string() }
    })?;
    let made = Made {
        tenant: row.tenant_id.map(TenantId::from_uuid),
        member: row.member_id,
        moved: row.move_id.map(MoveId::from_uuid),
    };
    Ok(Some((Fingerprint::new(fingerprint), made)))
}

/// Records the key with what it made; an old record of the same key, and some others, go.
pub(super) async fn record(
    conn: &mut PgConnection,
    asked: &Asked,
    at: Option<TenantId>,
    made: Made,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "DELETE FROM registry.idempotency_keys
        WHERE created_at <= $3 AND (user_id, key) IN (
            SELECT user_id, key FROM registry.idempotency_keys WHERE user_id = $1 AND key = $2
            UNION ALL
            (SELECT user_id, key FROM registry.idempotency_keys
            WHERE created_at <= $3 ORDER BY created_at LIMIT $4))",
        asked.user,
        asked.key.as_str(),
        now - KEPT_FOR,
        REMOVED_AT_ONCE
    )
    .execute(&mut *conn)
    .await
    .map_err(store_error)?;
    sqlx::query!(
        "INSERT INTO registry.idempotency_keys
            (user_id, at_tenant, key, fingerprint, tenant_id, member_id, move_id, created_at, updated_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)",
        asked.user,
        host(at),
        asked.key.as_str(),
        &asked.fingerprint.as_bytes()[..],
        made.tenant.map(TenantId::as_uuid),
        made.member,
        made.moved.map(MoveId::as_uuid),
        now
    )
    .execute(conn)
    .await
    .map_err(store_error)?;
    Ok(())
}

/// Forgets a key that names a request which was refused.
pub(super) async fn forget(
    conn: &mut PgConnection,
    asked: &Asked,
    at: Option<TenantId>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "DELETE FROM registry.idempotency_keys
        WHERE user_id = $1 AND at_tenant = $2 AND key = $3 AND fingerprint = $4",
        asked.user,
        host(at),
        asked.key.as_str(),
        &asked.fingerprint.as_bytes()[..]
    )
    .execute(conn)
    .await
    .map_err(store_error)?;
    Ok(())
}

/// A host, as it is stored.
fn host(at: Option<TenantId>) -> Uuid {
    at.map_or(Uuid::nil(), TenantId::as_uuid)
}
