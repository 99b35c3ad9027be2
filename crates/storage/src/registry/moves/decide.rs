//! The decision, and giving it up: one conditional update of the directory's row, whichever it is.

use sqlx::PgConnection;
use stagesub_tenancy::Located;
use stagesub_tenancy::moves::{Decision, Held, Move, MoveRegistryError, MoveState, Requester};

use super::rows::{self, Said};
use super::{PgMoveRegistry, commit, cut, undo};
use crate::registry::unavailable;

/// The decision. An abort that was accepted is in the move's row, which is locked before the directory is looked at.
pub(super) async fn decide(registry: &PgMoveRegistry, held: &Held) -> Result<Decision, MoveRegistryError> {
    let to = held.moved.decided();
    redirect(registry, held, &to, Change { state: MoveState::Decided, error: None, said: Said::Decided })
        .await
}

/// Gives the cutover up.
pub(super) async fn give_up(
    registry: &PgMoveRegistry,
    held: &Held,
    why: &str,
) -> Result<Decision, MoveRegistryError> {
    let to = held.moved.given_up();
    let state = held.moved.state;
    redirect(registry, held, &to, Change { state, error: Some(cut(why)), said: Said::GivenUp }).await
}

/// What becomes of the move with the directory.
struct Change {
    state: MoveState,
    /// Why it was given up.
    error: Option<String>,
    said: Said,
}

/// The directory from one answer to another, and the move with it. Caches hear of it by the tenant's version.
async fn redirect(
    registry: &PgMoveRegistry,
    held: &Held,
    to: &Located,
    change: Change,
) -> Result<Decision, MoveRegistryError> {
    if !held.moved.state.is_cutover() {
        return Ok(Decision::Stale);
    }
    let mut tx = registry.start().await?;
    let Some(moved) = redirected(&mut tx, held, to, &change).await? else {
        let is_held = rows::lock(&mut tx, held).await?.is_some();
        undo(tx).await?;
        return Ok(if is_held { Decision::Lost } else { Decision::Stale });
    };
    rows::record(&mut tx, &moved, Requester::Platform, change.said).await?;
    commit(tx).await?;
    Ok(Decision::Made(Box::new(moved)))
}

/// All of it in one message, because the tenant waits. The locks are taken one after the other, as everybody takes them:
/// the version (and its notification, as [`version::take`](crate::registry::version) has them), the move, the
/// directory, the tenant. `None`: the move is not held so, or an abort was asked for before the decision, or the
/// directory had another answer; the transaction is to be undone.
async fn redirected(
    conn: &mut PgConnection,
    held: &Held,
    to: &Located,
    change: &Change,
) -> Result<Option<Move>, MoveRegistryError> {
    let from = held.moved.undecided();
    let row = moves_returning!(
        "WITH taken AS (
            UPDATE registry.version SET version = version + 1, updated_at = now()
            RETURNING version, pg_notify('stagesub_registry', version::text) AS told
        ), held AS (
            SELECT h.id, taken.version FROM registry.moves AS h CROSS JOIN taken
            WHERE h.id = $1 AND h.owner = $2 AND h.token = $3 AND h.state = $4 AND h.ended_at IS NULL
                AND ($5::text IS NOT NULL OR h.wanted IS DISTINCT FROM 'abort')
            FOR UPDATE OF h
        ), redirected AS (
            UPDATE registry.directory AS d
            SET database_id = $10, placement = $11, epoch = $12, updated_at = now() FROM held
            WHERE d.tenant_id = $6 AND d.database_id = $7 AND d.placement = $8 AND d.epoch = $9
            RETURNING d.tenant_id, held.id, held.version
        ), told AS (
            UPDATE registry.tenants AS t SET version = r.version FROM redirected AS r WHERE t.id = r.tenant_id
        )
        UPDATE registry.moves AS m SET state = $13, updated_at = now(), error = coalesce($5, m.error),
            attempts = m.attempts + CASE WHEN $5 IS NULL THEN 0 ELSE 1 END
        FROM redirected AS r WHERE m.id = r.id",
        held.moved.id.as_uuid(),
        held.node.as_uuid(),
        held.token.0,
        held.moved.state.as_str(),
        change.error.as_deref(),
        from.tenant.as_uuid(),
        from.placement.database().as_uuid(),
        from.placement.as_str(),
        from.epoch.0,
        to.placement.database().as_uuid(),
        to.placement.as_str(),
        to.epoch.0,
        change.state.as_str()
    );
    super::found(row.fetch_optional(conn).await.map_err(unavailable)?)
}
