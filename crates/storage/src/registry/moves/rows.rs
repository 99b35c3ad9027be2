//! A move's row, the queries that read it, and what is said of it in the platform's log.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;
use stagesub_tenancy::moves::{
    Held, Move, MoveId, MovePrefix, MoveRegistryError, MoveState, Request, Requester,
};
use stagesub_tenancy::{DirectoryError, Located, Placement, PlacementEpoch, TenantId};
use uuid::Uuid;

use crate::directory::placement;
use crate::registry::{corrupt, unavailable};

/// A row of `registry.moves`.
pub(super) struct MoveRow {
    pub(super) id: Uuid,
    pub(super) tenant_id: Uuid,
    pub(super) source_id: Uuid,
    pub(super) source_placement: String,
    pub(super) target_id: Uuid,
    pub(super) target_placement: String,
    pub(super) path: String,
    pub(super) state: String,
    pub(super) heading: String,
    pub(super) epoch: i64,
    pub(super) prefix: String,
    pub(super) fingerprint: Option<String>,
    pub(super) started_by: Option<Uuid>,
    pub(super) pace_bytes: Option<i64>,
    pub(super) attempts: i32,
    pub(super) wanted: Option<String>,
    pub(super) error: Option<String>,
    pub(super) pause_us: Option<i64>,
    pub(super) token: i64,
    pub(super) ended_at: Option<DateTime<Utc>>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) updated_at: DateTime<Utc>,
}

/// A query for moves by a condition.
macro_rules! moves_where {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            crate::registry::moves::rows::MoveRow,
            "SELECT m.id, m.tenant_id, m.source_id, m.source_placement, m.target_id, m.target_placement, m.path,
                m.state, m.heading, m.epoch, m.prefix, m.fingerprint, m.started_by, m.pace_bytes, m.attempts,
                m.wanted, m.error, m.pause_us, m.token, m.ended_at, m.created_at, m.updated_at
            FROM registry.moves AS m
            " + $rest
            $(, $argument)*
        )
    };
}

/// A change of moves `AS m`, with what it makes of them.
macro_rules! moves_returning {
    ($change:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            crate::registry::moves::rows::MoveRow,
            $change + "
            RETURNING m.id, m.tenant_id, m.source_id, m.source_placement, m.target_id, m.target_placement, m.path,
                m.state, m.heading, m.epoch, m.prefix, m.fingerprint, m.started_by, m.pace_bytes, m.attempts,
                m.wanted, m.error, m.pause_us, m.token, m.ended_at, m.created_at, m.updated_at"
            $(, $argument)*
        )
    };
}

impl TryFrom<MoveRow> for Move {
    type Error = DirectoryError;

    fn try_from(row: MoveRow) -> Result<Self, DirectoryError> {
        let side = |word: &str, database| -> Result<Placement, DirectoryError> {
            placement(word, database).ok_or_else(|| corrupt("move", format!("no placement is called {word}")))
        };
        let pace = row.pace_bytes.map(|pace| {
            let pace = u32::try_from(pace).map_err(|source| corrupt("pace of a move", source))?;
            pace.try_into().map_err(|source| corrupt("pace of a move", source))
        });
        Ok(Self {
            id: MoveId::from_uuid(row.id),
            tenant: TenantId::from_uuid(row.tenant_id),
            source: side(&row.source_placement, row.source_id)?,
            target: side(&row.target_placement, row.target_id)?,
            path: row.path.parse().map_err(|source| corrupt("path of a move", source))?,
            state: row.state.parse().map_err(|source| corrupt("state of a move", source))?,
            heading: row.heading.parse().map_err(|source| corrupt("heading of a move", source))?,
            epoch: PlacementEpoch(row.epoch),
            // Not told what it is: it is a secret.
            prefix: MovePrefix::from_stored(&row.prefix)
                .ok_or_else(|| corrupt("move", "its prefix is none"))?,
            fingerprint: row.fingerprint,
            by: row.started_by.map_or(Requester::Platform, Requester::Person),
            pace: pace.transpose()?,
            attempts: u32::try_from(row.attempts).map_err(|source| corrupt("attempts of a move", source))?,
            wanted: request(row.wanted)?,
            error: row.error,
            pause: row.pause_us.map(|micros| std::time::Duration::from_micros(micros.unsigned_abs())),
            created_at: row.created_at,
            updated_at: row.updated_at,
            ended_at: row.ended_at,
        })
    }
}

/// What somebody asks for, as it is stored.
pub(super) fn request(word: Option<String>) -> Result<Option<Request>, DirectoryError> {
    word.map(|word| word.parse().map_err(|source| corrupt("request of a move", source))).transpose()
}

/// Locks the move, if this is who holds it and it stands in that state.
pub(super) async fn lock(conn: &mut PgConnection, held: &Held) -> Result<Option<Move>, MoveRegistryError> {
    let row = moves_where!(
        "WHERE m.id = $1 AND m.owner = $2 AND m.token = $3 AND m.state = $4 AND m.ended_at IS NULL
        FOR UPDATE",
        held.moved.id.as_uuid(),
        held.node.as_uuid(),
        held.token.0,
        held.moved.state.as_str()
    );
    super::found(row.fetch_optional(conn).await.map_err(unavailable)?)
}

/// What is said of a move.
#[derive(Debug, Clone, Copy)]
pub(super) enum Said {
    Begun,
    Request(Request),
    Decided,
    GivenUp,
    Withdrawn,
    Ended,
}

impl Said {
    pub(super) const fn action(self) -> &'static str {
        match self {
            Self::Begun => "move_begin",
            Self::Request(Request::Abort) => "move_ask_abort",
            Self::Request(Request::Back) => "move_ask_back",
            Self::Request(Request::Finish) => "move_ask_finish",
            Self::Decided => "move_decide",
            Self::GivenUp => "move_give_up",
            Self::Withdrawn => "move_stay",
            Self::Ended => "move_end",
        }
    }
}

/// What an entry says of a move that stands in a state, and whose tenant is somewhere.
pub(super) fn changes(moved: &Move, state: MoveState, located: &Located) -> serde_json::Value {
    json!({
        "state": state.as_str(),
        "source": moved.source.database(),
        "target": moved.target.database(),
        "servedBy": located.placement.database(),
        "epoch": located.epoch.0,
    })
}

/// Each change that people are told of is in the platform's log, in its own transaction.
pub(super) async fn record(
    conn: &mut PgConnection,
    moved: &Move,
    by: Requester,
    said: Said,
) -> Result<(), MoveRegistryError> {
    let (actor, person) = match by {
        Requester::Platform => ("system", None),
        Requester::Person(person) => ("superadmin", Some(person)),
    };
    sqlx::query!(
        "INSERT INTO registry.platform_audit
            (tenant_id, at, actor, actor_id, actor_role, action, model, record_id, changes)
        VALUES ($1, now(), $2, $3, $4, $5, 'move', $6, $7)",
        moved.tenant.as_uuid(),
        actor,
        person,
        person.map(|_| "superadmin"),
        said.action(),
        moved.id.to_string(),
        changes(moved, moved.state, &moved.located())
    )
    .execute(conn)
    .await
    .map_err(unavailable)?;
    Ok(())
}
