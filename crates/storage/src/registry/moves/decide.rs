//! The decision, and giving it up: one conditional update of the directory's row, whichever it is.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection, Postgres, Transaction};
use stagesub_tenancy::Located;
use stagesub_tenancy::moves::{Decision, FencingToken, Held, Move, MoveId, MoveRegistryError, MoveState};
use tokio::time::timeout;

use super::rows::{self, Said};
use super::{PgMoveRegistry, commit, cut, undo};
use crate::moves::session::flush_commits;
use crate::registry::unavailable;

/// A token that nobody holds.
const NOBODYS: FencingToken = FencingToken(-1);
/// Longest that a kept connection may take to show that it is there, and that a new one may take to be made.
const ANSWER: Duration = Duration::from_secs(1);
/// Most connections that are kept. Those of moves that this node has lost are among them.
const MOST: usize = 8;

/// Connections for decisions, each with the move whose decision was planned on it and not made yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept(Arc<Mutex<Vec<Entry>>>);

/// `None`: nobody's.
type Entry = (Option<MoveId>, PgConnection);

impl Kept {
    /// Never held across an await: a move that gets ready keeps no other one waiting.
    fn all(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, of: Option<MoveId>) -> Option<PgConnection> {
        let mut all = self.all();
        let place = all.iter().position(|(kept, _)| *kept == of)?;
        Some(all.remove(place).1)
    }

    /// Keeps one. Of those that nobody has planned on, one is enough.
    fn put(&self, of: Option<MoveId>, conn: PgConnection) {
        let mut all = self.all();
        if of.is_some() || !all.iter().any(|(kept, _)| kept.is_none()) {
            let beyond = (all.len() + 1).saturating_sub(MOST);
            all.drain(..beyond);
            all.push((of, conn));
        }
    }
}

/// Has a connection on which the decision was planned: as a statement that the tenant waits for, on one that never had it,
/// it takes longer than all else about it.
pub(super) async fn get_ready(registry: &PgMoveRegistry, held: &Held) -> Result<(), MoveRegistryError> {
    let id = Some(held.moved.id);
    if let Some(mut known) = registry.kept.take(id).or_else(|| registry.kept.take(None)) {
        match timeout(ANSWER, plan(&mut known, held)).await {
            Ok(Ok(())) => {
                registry.kept.put(id, known);
                return Ok(());
            }
            // It may be this connection that ended and not the registry.
            Ok(Err(error)) => tracing::debug!(%error, "the decision is made on a new connection"),
            Err(_) => {
                tracing::debug!("the decision is made on a new connection: the one that was kept is silent");
            }
        }
    }
    let options = PgConnectOptions::clone(&registry.registry.control().connect_options());
    let fresh = async {
        let mut fresh = PgConnection::connect_with(&options.application_name("stagesub decide")).await?;
        sqlx::raw_sql("SET plan_cache_mode = force_generic_plan").execute(&mut fresh).await?;
        flush_commits(&mut fresh).await?;
        Ok(fresh)
    };
    let fresh =
        timeout(ANSWER, fresh).await.unwrap_or_else(|_| Err(sqlx::Error::Io(ErrorKind::TimedOut.into())));
    let mut fresh = fresh.map_err(unavailable)?;
    plan(&mut fresh, held).await?;
    registry.kept.put(id, fresh);
    Ok(())
}

/// Makes a decision that nobody may make, and undoes it.
async fn plan(conn: &mut PgConnection, held: &Held) -> Result<(), MoveRegistryError> {
    let nobodys = Held { token: NOBODYS, ..held.clone() };
    let mut tx = conn.begin().await.map_err(unavailable)?;
    redirected(&mut tx, &nobodys, &held.moved.decided(), &Change::decided()).await?;
    undo(tx).await
}

/// The decision. An abort that was accepted is in the move's row, which is locked before the directory is looked at.
pub(super) async fn decide(registry: &PgMoveRegistry, held: &Held) -> Result<Decision, MoveRegistryError> {
    let Some(mut conn) = registry.kept.take(Some(held.moved.id)) else {
        return redirect(start(registry).await?, held, &held.moved.decided(), Change::decided()).await;
    };
    let tx = conn.begin().await.map_err(unavailable)?;
    let decision = redirect(tx, held, &held.moved.decided(), Change::decided()).await?;
    registry.kept.put(None, conn);
    Ok(decision)
}

/// Gives the cutover up.
pub(super) async fn give_up(
    registry: &PgMoveRegistry,
    held: &Held,
    why: &str,
) -> Result<Decision, MoveRegistryError> {
    let to = held.moved.given_up();
    let state = held.moved.state;
    let change = Change { state, error: Some(cut(why)), said: Said::GivenUp };
    redirect(start(registry).await?, held, &to, change).await
}

/// A transaction whose end is durable before it is answered: tenants are opened and closed by it.
async fn start(registry: &PgMoveRegistry) -> Result<Transaction<'static, Postgres>, MoveRegistryError> {
    let mut tx = registry.start().await?;
    flush_commits(&mut tx).await.map_err(unavailable)?;
    Ok(tx)
}

/// What becomes of the move with the directory.
struct Change {
    state: MoveState,
    /// Why it was given up.
    error: Option<String>,
    said: Said,
}

impl Change {
    const fn decided() -> Self {
        Self { state: MoveState::Decided, error: None, said: Said::Decided }
    }
}

/// The directory from one answer to another, and the move with it. Caches hear of it by the tenant's version.
async fn redirect(
    mut tx: Transaction<'_, Postgres>,
    held: &Held,
    to: &Located,
    change: Change,
) -> Result<Decision, MoveRegistryError> {
    if !held.moved.state.is_cutover() {
        undo(tx).await?;
        return Ok(Decision::Stale);
    }
    let Some(moved) = redirected(&mut tx, held, to, &change).await? else {
        let is_held = rows::lock(&mut tx, held).await?.is_some();
        undo(tx).await?;
        return Ok(if is_held { Decision::Lost } else { Decision::Stale });
    };
    commit(tx).await?;
    Ok(Decision::Made(Box::new(moved)))
}

/// All of it in one message, because the tenant waits. The locks are taken one after the other, as everybody takes them:
/// the version (and its notification, as [`version::take`](crate::registry::version) has them), the move, the
/// directory, the tenant. The entry in the platform's log is part of it. `None`: the move is not held so, or an abort was
/// asked for before the decision, or the directory had another answer; the transaction is to be undone.
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
        ), logged AS (
            INSERT INTO registry.platform_audit (tenant_id, at, actor, action, model, record_id, changes)
            SELECT r.tenant_id, now(), 'system', $14, 'move', r.id::text, $15 FROM redirected AS r
        )
        UPDATE registry.moves AS m SET state = $13, updated_at = now(), error = coalesce($5, m.error),
            attempts = m.attempts + CASE WHEN $5 IS NULL THEN 0 ELSE 1 END,
            -- Of the cutover before: what this one took is said when it is over.
            pause_us = CASE WHEN $5 IS NULL THEN NULL ELSE m.pause_us END
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
        change.state.as_str(),
        change.said.action(),
        rows::changes(&held.moved, change.state, to)
    );
    super::found(row.fetch_optional(conn).await.map_err(unavailable)?)
}
