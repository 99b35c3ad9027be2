//! Moves of tenants, in the registry.
//!
//! Where the directory changes, the registry's version is the first lock, like in every change that a cache must hear
//! of, and the move's row the second; what changes only the move takes its row alone.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::types::PgInterval;
use sqlx::{PgConnection, Postgres, Transaction};
use stagesub_tenancy::moves::registry::MovePage;
use stagesub_tenancy::moves::{
    BeginMoveError, Cleanup, Decision, FencingToken, Held, Move, MoveId, MoveKind, MoveRegistry,
    MoveRegistryError, MoveState, NewMove, Note, Renewed, Request, Requested, Requester, TableProgress,
};
use stagesub_tenancy::{DirectoryError, Located, NodeId, TenantDirectory, TenantId};

use crate::directory::PgTenantDirectory;
use crate::error::leaves_open;
use crate::registry::{RegistryPools, corrupt, unavailable, version};

#[macro_use]
mod rows;
mod begin;
mod decide;
mod details;

use rows::{MoveRow, Said};

/// Longest error that is kept, in characters.
const ERROR_LENGTH: usize = 2_000;

/// [`MoveRegistry`] on `registry.moves` and what belongs to it.
#[derive(Debug, Clone)]
pub struct PgMoveRegistry {
    registry: RegistryPools,
    kept: decide::Kept,
}

impl PgMoveRegistry {
    /// Over the registry.
    #[must_use]
    pub fn new(registry: RegistryPools) -> Self {
        Self { registry, kept: decide::Kept::default() }
    }

    async fn start(&self) -> Result<Transaction<'static, Postgres>, MoveRegistryError> {
        Ok(self.registry.begin_control().await.map_err(unavailable)?)
    }

    async fn claimed(
        &self,
        node: NodeId,
        lease: Duration,
        kind: Option<MoveKind>,
    ) -> Result<Option<Held>, MoveRegistryError> {
        // One that another node is claiming at this moment is left to it.
        let row = moves_returning!(
            "WITH free AS (
                SELECT id FROM registry.moves
                WHERE ended_at IS NULL AND lease_until <= now()
                    AND ($3::boolean IS NULL OR (state = 'active') = $3)
                ORDER BY lease_until, id
                LIMIT 1
                FOR UPDATE SKIP LOCKED
            )
            UPDATE registry.moves AS m
            SET owner = $1, token = m.token + 1, lease_until = now() + $2::interval, updated_at = now()
            FROM free
            WHERE m.id = free.id",
            node.as_uuid(),
            interval(lease)?,
            kind.map(|kind| kind == MoveKind::Active)
        )
        .fetch_optional(self.registry.control())
        .await
        .map_err(unavailable)?;
        let Some(row) = row else { return Ok(None) };
        let token = FencingToken(row.token);
        Ok(Some(Held { moved: row.try_into()?, node, token }))
    }
}

#[async_trait]
impl MoveRegistry for PgMoveRegistry {
    async fn begin(&self, wanted: &NewMove) -> Result<Move, BeginMoveError> {
        begin::begin(self, wanted).await
    }

    async fn find(&self, id: MoveId) -> Result<Option<Move>, MoveRegistryError> {
        let row = moves_where!("WHERE m.id = $1", id.as_uuid());
        found(row.fetch_optional(self.registry.control()).await.map_err(unavailable)?)
    }

    async fn live_of(&self, tenant: TenantId) -> Result<Option<Move>, MoveRegistryError> {
        let row = moves_where!("WHERE m.tenant_id = $1 AND m.ended_at IS NULL", tenant.as_uuid());
        found(row.fetch_optional(self.registry.control()).await.map_err(unavailable)?)
    }

    async fn list(&self, after: Option<MoveId>, limit: u32) -> Result<MovePage, MoveRegistryError> {
        // One more than wanted tells whether there is a next page. No id is larger than that of no move.
        let rows = moves_where!(
            "WHERE m.id < $1
            ORDER BY m.id DESC
            LIMIT $2",
            after.map_or(uuid::Uuid::max(), MoveId::as_uuid),
            i64::from(limit) + 1
        )
        .fetch_all(self.registry.control())
        .await
        .map_err(unavailable)?;
        page(rows, limit)
    }

    async fn list_of(
        &self,
        tenant: TenantId,
        after: Option<MoveId>,
        limit: u32,
    ) -> Result<MovePage, MoveRegistryError> {
        let rows = moves_where!(
            "WHERE m.tenant_id = $1 AND m.id < $2
            ORDER BY m.id DESC
            LIMIT $3",
            tenant.as_uuid(),
            after.map_or(uuid::Uuid::max(), MoveId::as_uuid),
            i64::from(limit) + 1
        )
        .fetch_all(self.registry.control())
        .await
        .map_err(unavailable)?;
        page(rows, limit)
    }

    async fn count_live(&self) -> Result<Vec<(MoveState, u64)>, MoveRegistryError> {
        details::count_live(self).await
    }

    async fn tables(&self, id: MoveId) -> Result<Vec<TableProgress>, MoveRegistryError> {
        details::tables(self, id).await
    }

    async fn lag(&self, id: MoveId) -> Result<Option<Duration>, MoveRegistryError> {
        details::lag(self, id).await
    }

    async fn placement(&self, tenant: TenantId) -> Result<Option<Located>, MoveRegistryError> {
        Ok(PgTenantDirectory::new(self.registry.clone()).find_placement(tenant).await?)
    }

    async fn request(
        &self,
        id: MoveId,
        request: Request,
        by: Requester,
    ) -> Result<Requested, MoveRegistryError> {
        let mut tx = self.start().await?;
        let row = moves_where!("WHERE m.id = $1 FOR UPDATE", id.as_uuid());
        let Some(moved) = found(row.fetch_optional(&mut *tx).await.map_err(unavailable)?)? else {
            undo(tx).await?;
            return Ok(Requested::Unknown);
        };
        let other = moved.wanted.is_some_and(|wanted| !request.may_replace(wanted));
        if other || moved.ended_at.is_some() || !moved.state.takes(request, moved.path) {
            undo(tx).await?;
            return Ok(Requested::Refused(moved));
        }
        let row = moves_returning!(
            "UPDATE registry.moves AS m SET wanted = $2, updated_at = now() WHERE m.id = $1",
            id.as_uuid(),
            request.as_str()
        );
        let moved = Move::try_from(row.fetch_one(&mut *tx).await.map_err(unavailable)?)?;
        rows::record(&mut tx, &moved, by, Said::Request(request)).await?;
        if moved.arriving().is_some() {
            version::have_asked(&mut tx).await.map_err(unavailable)?;
        }
        commit(tx).await?;
        Ok(Requested::Accepted(moved))
    }

    async fn claim(&self, node: NodeId, lease: Duration) -> Result<Option<Held>, MoveRegistryError> {
        self.claimed(node, lease, None).await
    }

    async fn claim_kind(
        &self,
        node: NodeId,
        lease: Duration,
        kind: MoveKind,
    ) -> Result<Option<Held>, MoveRegistryError> {
        self.claimed(node, lease, Some(kind)).await
    }

    async fn renew(&self, held: &Held, lease: Duration) -> Result<Renewed, MoveRegistryError> {
        let row = sqlx::query!(
            "UPDATE registry.moves SET lease_until = now() + $4::interval
            WHERE id = $1 AND owner = $2 AND token = $3 AND ended_at IS NULL
            RETURNING wanted",
            held.moved.id.as_uuid(),
            held.node.as_uuid(),
            held.token.0,
            interval(lease)?
        )
        .fetch_optional(self.registry.control())
        .await
        .map_err(unavailable)?;
        let Some(row) = row else { return Ok(Renewed::Lost) };
        Ok(Renewed::Held { wanted: rows::request(row.wanted)? })
    }

    async fn release(
        &self,
        held: &Held,
        error: Option<String>,
        pause: Duration,
    ) -> Result<bool, MoveRegistryError> {
        let released = sqlx::query!(
            "UPDATE registry.moves
            SET owner = NULL, lease_until = now() + $4::interval, error = coalesce($5, error),
                -- Nobody measures it any more.
                lag_us = CASE WHEN $5 IS NULL THEN lag_us END, updated_at = now()
            WHERE id = $1 AND owner = $2 AND token = $3 AND ended_at IS NULL",
            held.moved.id.as_uuid(),
            held.node.as_uuid(),
            held.token.0,
            interval(pause)?,
            error.map(|error| cut(&error))
        )
        .execute(self.registry.control())
        .await
        .map_err(unavailable)?
        .rows_affected();
        Ok(released == 1)
    }

    async fn advance(
        &self,
        held: &Held,
        to: MoveState,
        note: &Note,
    ) -> Result<Option<Move>, MoveRegistryError> {
        let moved = &held.moved;
        let Some(stepped) = moved.stepped(to) else { return Ok(None) };
        let located = stepped.located();
        let row = moves_returning!(
            "UPDATE registry.moves AS m
            SET state = $6, heading = $7, epoch = $8,
                wanted = CASE WHEN m.wanted = $9 THEN NULL ELSE m.wanted END,
                fingerprint = coalesce($10, m.fingerprint), error = coalesce($11, m.error),
                pause_us = coalesce($12, m.pause_us), updated_at = now()
            WHERE m.id = $1 AND m.owner = $2 AND m.token = $3 AND m.state = $4 AND m.epoch = $5
                AND m.ended_at IS NULL
                AND ($6 <> 'back' OR m.wanted = 'back')
                AND EXISTS (
                    SELECT FROM registry.directory AS d
                    WHERE d.tenant_id = m.tenant_id
                        AND d.database_id = $13 AND d.placement = $14 AND d.epoch = $15
                )",
            moved.id.as_uuid(),
            held.node.as_uuid(),
            held.token.0,
            moved.state.as_str(),
            moved.epoch.0,
            to.as_str(),
            stepped.heading.as_str(),
            stepped.epoch.0,
            to.answers().map(Request::as_str),
            note.fingerprint,
            note.error.as_deref().map(cut),
            note.pause.map(|pause| i64::try_from(pause.as_micros()).unwrap_or(i64::MAX)),
            located.placement.database().as_uuid(),
            located.placement.as_str(),
            located.epoch.0
        );
        if moved.arriving().is_some() || stepped.arriving().is_none() {
            return found(row.fetch_optional(self.registry.control()).await.map_err(lost_or_unavailable)?);
        }
        // Nodes have a moment to get ready for where the tenant is about to be.
        let mut tx = self.start().await?;
        let Some(moved) = found(row.fetch_optional(&mut *tx).await.map_err(lost_or_unavailable)?)? else {
            undo(tx).await?;
            return Ok(None);
        };
        version::have_asked(&mut tx).await.map_err(unavailable)?;
        commit(tx).await?;
        Ok(Some(moved))
    }

    async fn withdraw(
        &self,
        held: &Held,
        request: Request,
        why: &str,
    ) -> Result<Option<Move>, MoveRegistryError> {
        let mut tx = self.start().await?;
        let row = moves_returning!(
            "UPDATE registry.moves AS m SET wanted = NULL, error = $5, updated_at = now()
            WHERE m.id = $1 AND m.owner = $2 AND m.token = $3 AND m.wanted = $4 AND m.ended_at IS NULL",
            held.moved.id.as_uuid(),
            held.node.as_uuid(),
            held.token.0,
            request.as_str(),
            cut(why)
        );
        let Some(moved) = found(row.fetch_optional(&mut *tx).await.map_err(unavailable)?)? else {
            undo(tx).await?;
            return Ok(None);
        };
        rows::record(&mut tx, &moved, Requester::Platform, Said::Withdrawn).await?;
        commit(tx).await?;
        Ok(Some(moved))
    }

    async fn get_ready(&self, held: &Held) -> Result<(), MoveRegistryError> {
        decide::get_ready(self, held).await
    }

    async fn decide(&self, held: &Held) -> Result<Decision, MoveRegistryError> {
        decide::decide(self, held).await
    }

    async fn give_up(&self, held: &Held, why: &str) -> Result<Decision, MoveRegistryError> {
        decide::give_up(self, held, why).await
    }

    async fn record_tables(
        &self,
        held: &Held,
        tables: Vec<TableProgress>,
    ) -> Result<bool, MoveRegistryError> {
        details::record_tables(self, held, tables).await
    }

    async fn record_lag(&self, held: &Held, lag: Duration) -> Result<bool, MoveRegistryError> {
        details::record_lag(self, held, lag).await
    }

    async fn plan_cleanups(&self, held: &Held, cleanups: Vec<Cleanup>) -> Result<bool, MoveRegistryError> {
        details::plan_cleanups(self, held, cleanups).await
    }

    async fn outstanding(&self, id: MoveId) -> Result<Vec<Cleanup>, MoveRegistryError> {
        details::outstanding(self, id).await
    }

    async fn cleaned(&self, held: &Held, cleanup: &Cleanup) -> Result<bool, MoveRegistryError> {
        details::cleaned(self, held, cleanup).await
    }

    async fn end(&self, held: &Held) -> Result<Option<Move>, MoveRegistryError> {
        let mut tx = self.start().await?;
        let row = moves_returning!(
            "UPDATE registry.moves AS m
            SET ended_at = now(), owner = NULL, lease_until = '-infinity', updated_at = now()
            WHERE m.id = $1 AND m.owner = $2 AND m.token = $3 AND m.ended_at IS NULL
                AND m.state IN ('finished', 'aborted')
                AND NOT EXISTS (
                    SELECT FROM registry.move_cleanups AS c WHERE c.move_id = m.id AND c.done_at IS NULL
                )",
            held.moved.id.as_uuid(),
            held.node.as_uuid(),
            held.token.0
        );
        let Some(moved) = found(row.fetch_optional(&mut *tx).await.map_err(unavailable)?)? else {
            undo(tx).await?;
            return Ok(None);
        };
        rows::record(&mut tx, &moved, Requester::Platform, Said::Ended).await?;
        commit(tx).await?;
        Ok(Some(moved))
    }
}

/// Where tenants will be that are about to move.
pub(super) async fn arriving(conn: &mut PgConnection) -> Result<Vec<Located>, DirectoryError> {
    let rows = moves_where!(
        "WHERE m.ended_at IS NULL
            AND (m.state IN ('verify', 'fence', 'back') OR m.state = 'active' AND m.wanted = 'back')"
    )
    .fetch_all(conn)
    .await
    .map_err(unavailable)?;
    let mut all = Vec::new();
    for row in rows {
        match Move::try_from(row) {
            Ok(moved) => all.extend(moved.arriving()),
            // A hint that nobody understands keeps no change from being heard of.
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "a move cannot be read"),
        }
    }
    Ok(all)
}

fn found(row: Option<MoveRow>) -> Result<Option<Move>, MoveRegistryError> {
    Ok(row.map(Move::try_from).transpose()?)
}

/// What was read of a page and one more.
fn page(rows: Vec<MoveRow>, limit: u32) -> Result<MovePage, MoveRegistryError> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    let items: Vec<Move> =
        rows.into_iter().take(limit).map(Move::try_from).collect::<Result<_, DirectoryError>>()?;
    let next = if more { items.last().map(|moved| moved.id) } else { None };
    Ok(MovePage { items, next })
}

fn interval(time: Duration) -> Result<PgInterval, DirectoryError> {
    // Postgres counts microseconds; a lease that is a little shorter is none the worse.
    let micros = i64::try_from(time.as_micros()).map_err(|source| corrupt("lease", source))?;
    Ok(PgInterval { months: 0, days: 0, microseconds: micros })
}

/// An error as it is kept.
fn cut(error: &str) -> String {
    error.chars().take(ERROR_LENGTH).collect()
}

/// Lets go of the locks now, and not when the connection is used next: a move that is locked is not claimed.
async fn undo(tx: Transaction<'_, Postgres>) -> Result<(), MoveRegistryError> {
    Ok(tx.rollback().await.map_err(unavailable)?)
}

async fn commit(tx: Transaction<'_, Postgres>) -> Result<(), MoveRegistryError> {
    tx.commit().await.map_err(lost_or_unavailable)
}

/// Of what commits: a connection that was lost says nothing of what became of it.
fn lost_or_unavailable(error: sqlx::Error) -> MoveRegistryError {
    if leaves_open(&error) {
        MoveRegistryError::Unknown(Box::new(error))
    } else {
        MoveRegistryError::Registry(unavailable(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lost_connection_leaves_a_commit_open() {
        let lost = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert!(matches!(lost_or_unavailable(lost), MoveRegistryError::Unknown(_)));
        let refused = lost_or_unavailable(sqlx::Error::RowNotFound);
        assert!(matches!(refused, MoveRegistryError::Registry(DirectoryError::Unavailable(_))));
    }

    #[test]
    fn a_long_error_is_cut_between_letters() {
        assert_eq!(cut(&"å".repeat(3_000)), "å".repeat(ERROR_LENGTH));
        assert_eq!(interval(Duration::from_nanos(1_500)).unwrap().microseconds, 1);
    }
}
