//! How a move begins.

use sqlx::PgConnection;
use stagesub_tenancy::moves::{BeginMoveError, Move, MoveId, MoveRegistryError, NewMove, Refusal, Requester};
use stagesub_tenancy::{DirectoryError, TenantStatus};

use super::rows::{self, Said};
use super::{PgMoveRegistry, commit, undo};
use crate::registry::{corrupt, unavailable};

/// Begins a move.
pub(super) async fn begin(registry: &PgMoveRegistry, wanted: &NewMove) -> Result<Move, BeginMoveError> {
    let mut tx = registry.start().await?;
    let begun = write(&mut tx, wanted).await;
    if begun.is_ok() {
        commit(tx).await?;
    } else {
        undo(tx).await?;
    }
    begun
}

/// The tenant's record and place are held as they are until the move is written: nobody suspends or places it meanwhile.
async fn write(tx: &mut PgConnection, wanted: &NewMove) -> Result<Move, BeginMoveError> {
    let tenant = sqlx::query!(
        "SELECT t.status, d.database_id, d.placement, d.epoch
        FROM registry.tenants AS t
        JOIN registry.directory AS d ON d.tenant_id = t.id
        WHERE t.id = $1
        FOR SHARE OF t, d",
        wanted.tenant.as_uuid()
    )
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed)?
    .ok_or(BeginMoveError::Refused(Refusal::UnknownTenant))?;
    let status: TenantStatus =
        tenant.status.parse().map_err(|source| stored(corrupt("tenant status", source)))?;
    if status != TenantStatus::Active {
        return Err(BeginMoveError::Refused(Refusal::NotActive(status)));
    }
    if tenant.database_id == wanted.target.as_uuid() {
        return Err(BeginMoveError::Refused(Refusal::AlreadyThere));
    }
    let target = sqlx::query!(
        "SELECT kind, tenant_id FROM registry.databases
        WHERE id = $1 AND status = 'ready' AND kind IN ('shared', 'dedicated')",
        wanted.target.as_uuid()
    )
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed)?
    .ok_or(BeginMoveError::Refused(Refusal::NoDatabase(wanted.target)))?;
    if target.tenant_id.is_some_and(|owner| owner != wanted.tenant.as_uuid()) {
        return Err(BeginMoveError::Refused(Refusal::Anothers(wanted.target)));
    }
    let person = match wanted.by {
        Requester::Platform => None,
        Requester::Person(person) => Some(person),
    };
    loop {
        let row = moves_returning!(
            "INSERT INTO registry.moves AS m
                (id, tenant_id, source_id, source_placement, target_id, target_placement, path, state, heading,
                epoch, prefix, started_by, pace_bytes)
            VALUES ($1, $2, $3, $4, $5, $6, $7, 'prepare', 'target', $8, $9, $10, $11)
            ON CONFLICT (tenant_id) WHERE ended_at IS NULL DO NOTHING",
            wanted.id.as_uuid(),
            wanted.tenant.as_uuid(),
            tenant.database_id,
            tenant.placement,
            wanted.target.as_uuid(),
            target.kind,
            wanted.path.as_str(),
            tenant.epoch,
            wanted.prefix.expose(),
            person,
            wanted.pace.map(|pace| i64::from(pace.get()))
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
        if let Some(row) = row {
            let moved = Move::try_from(row).map_err(stored)?;
            rows::record(tx, &moved, wanted.by, Said::Begun).await?;
            return Ok(moved);
        }
        let live = sqlx::query_scalar!(
            "SELECT id FROM registry.moves WHERE tenant_id = $1 AND ended_at IS NULL",
            wanted.tenant.as_uuid()
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
        // None: it has ended since.
        if let Some(live) = live {
            return Err(BeginMoveError::Refused(Refusal::Moving(MoveId::from_uuid(live))));
        }
    }
}

fn failed(error: sqlx::Error) -> BeginMoveError {
    stored(unavailable(error))
}

fn stored(error: DirectoryError) -> BeginMoveError {
    MoveRegistryError::Registry(error).into()
}
