//! The decision, and giving it up: one conditional update of the directory's row, whichever it is.

use sqlx::PgConnection;
use stagesub_tenancy::Located;
use stagesub_tenancy::moves::{Decision, Held, Move, MoveRegistryError, MoveState, Request, Requester};

use super::rows::{self, Said};
use super::{PgMoveRegistry, commit, cut, undo};
use crate::registry::{unavailable, version};

/// The decision. The move's row is locked before the directory is looked at: an abort that was accepted is in it.
pub(super) async fn decide(registry: &PgMoveRegistry, held: &Held) -> Result<Decision, MoveRegistryError> {
    let mut tx = registry.start().await?;
    let version = version::take(&mut tx).await.map_err(unavailable)?;
    let Some(moved) = locked(&mut tx, held).await? else {
        undo(tx).await?;
        return Ok(Decision::Stale);
    };
    if moved.wanted == Some(Request::Abort)
        || !redirect(&mut tx, &moved.undecided(), &moved.decided(), version).await?
    {
        undo(tx).await?;
        return Ok(Decision::Lost);
    }
    let row = moves_returning!(
        "UPDATE registry.moves AS m SET state = $2, updated_at = now() WHERE m.id = $1",
        moved.id.as_uuid(),
        MoveState::Decided.as_str()
    );
    let moved = Move::try_from(row.fetch_one(&mut *tx).await.map_err(unavailable)?)?;
    rows::record(&mut tx, &moved, Requester::Platform, Said::Decided).await?;
    commit(tx).await?;
    Ok(Decision::Made(Box::new(moved)))
}

/// Gives the cutover up.
pub(super) async fn give_up(
    registry: &PgMoveRegistry,
    held: &Held,
    why: &str,
) -> Result<Decision, MoveRegistryError> {
    let mut tx = registry.start().await?;
    let version = version::take(&mut tx).await.map_err(unavailable)?;
    let Some(moved) = locked(&mut tx, held).await? else {
        undo(tx).await?;
        return Ok(Decision::Stale);
    };
    if !redirect(&mut tx, &moved.undecided(), &moved.given_up(), version).await? {
        undo(tx).await?;
        return Ok(Decision::Lost);
    }
    let row = moves_returning!(
        "UPDATE registry.moves AS m SET attempts = m.attempts + 1, error = $2, updated_at = now() WHERE m.id = $1",
        moved.id.as_uuid(),
        cut(why)
    );
    let moved = Move::try_from(row.fetch_one(&mut *tx).await.map_err(unavailable)?)?;
    rows::record(&mut tx, &moved, Requester::Platform, Said::GivenUp).await?;
    commit(tx).await?;
    Ok(Decision::Made(Box::new(moved)))
}

/// A move in a cutover, in the hands of who says so.
async fn locked(conn: &mut PgConnection, held: &Held) -> Result<Option<Move>, MoveRegistryError> {
    Ok(rows::lock(conn, held).await?.filter(|moved| moved.state.is_cutover()))
}

/// The directory from one answer to another; `false`: it had a third. Caches hear of it by the tenant's version.
async fn redirect(
    conn: &mut PgConnection,
    from: &Located,
    to: &Located,
    version: i64,
) -> Result<bool, MoveRegistryError> {
    let redirected = sqlx::query!(
        "UPDATE registry.directory SET database_id = $5, placement = $6, epoch = $7, updated_at = now()
        WHERE tenant_id = $1 AND database_id = $2 AND placement = $3 AND epoch = $4",
        from.tenant.as_uuid(),
        from.placement.database().as_uuid(),
        from.placement.as_str(),
        from.epoch.0,
        to.placement.database().as_uuid(),
        to.placement.as_str(),
        to.epoch.0
    )
    .execute(&mut *conn)
    .await
    .map_err(unavailable)?
    .rows_affected();
    if redirected != 1 {
        return Ok(false);
    }
    sqlx::query!("UPDATE registry.tenants SET version = $2 WHERE id = $1", from.tenant.as_uuid(), version)
        .execute(conn)
        .await
        .map_err(unavailable)?;
    Ok(true)
}
