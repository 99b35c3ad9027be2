//! Moves as the API shows them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use stagesub_domain::service::moves::{Outlook, Shown};
use stagesub_tenancy::Placement;
use stagesub_tenancy::moves::{Move, MovePath, MoveState, Request, Requester, TableProgress};
use utoipa::ToSchema;
use uuid::Uuid;

/// A move, as the platform's administrators see it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MoveBody {
    /// Identity.
    pub id: Uuid,
    /// Whom it moves.
    pub tenant_id: Uuid,
    /// `prepare`, `slot`, `copy`, `catch_up`, `verify`, `fence`, `decided`, `active`, `back`, `finished` or `aborted`
    pub state: &'static str,
    /// `stream`, `triggers` or `short`
    pub path: &'static str,
    /// Where the orchestra was when it began.
    pub source: SideBody,
    /// Where it is to go.
    pub target: SideBody,
    /// `source` or `target`: who serves the orchestra now.
    pub served_by: &'static str,
    /// `abort`, `back` or `finish`, if that was asked for and is not done yet.
    pub wanted: Option<&'static str>,
    /// How long the last cutover held the orchestra up, in milliseconds; null: there was none, or nobody knows.
    pub pause_ms: Option<f64>,
    /// How long a word took through the stream when that was last looked at, in milliseconds: every ten seconds while
    /// the move is active; of one move alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_ms: Option<f64>,
    /// How many cutovers were given up.
    pub attempts: u32,
    /// Bytes that may be copied or compared a second; null: as many as there are.
    pub pace: Option<u32>,
    /// What last went wrong, in words.
    pub error: Option<String>,
    /// Rows that were copied; where tables are not shown, null.
    pub rows_copied: Option<u64>,
    /// Bytes of them.
    pub bytes_copied: Option<u64>,
    /// How far the copy of each table is, in the order they are copied; of one move alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableBody>,
    /// Who wanted it; null: the command line.
    pub started_by: Option<Uuid>,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// When all that it had made was removed; until then it is the orchestra's only move.
    pub ended_at: Option<DateTime<Utc>>,
}

/// One of the two databases of a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SideBody {
    /// The database.
    pub database: Uuid,
    /// `shared` or `dedicated`
    pub placement: &'static str,
}

impl From<Placement> for SideBody {
    fn from(placement: Placement) -> Self {
        Self { database: placement.database().as_uuid(), placement: placement.as_str() }
    }
}

/// How far the copy of a table is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TableBody {
    /// Its name, with its schema.
    pub table: String,
    /// Rows that were copied.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Whether it is whole.
    pub done: bool,
}

impl MoveBody {
    /// As the API shows it.
    #[must_use]
    pub fn new(moved: Move, tables: Vec<TableProgress>) -> Self {
        let sum = |of: fn(&TableProgress) -> u64| {
            (!tables.is_empty()).then(|| tables.iter().map(of).fold(0, u64::saturating_add))
        };
        Self {
            id: moved.id.as_uuid(),
            tenant_id: moved.tenant.as_uuid(),
            state: moved.state.as_str(),
            path: moved.path.as_str(),
            source: moved.source.into(),
            target: moved.target.into(),
            served_by: moved.serving().as_str(),
            wanted: moved.wanted.map(Request::as_str),
            pause_ms: moved.pause.map(milliseconds),
            lag_ms: None,
            attempts: moved.attempts,
            pace: moved.pace.map(std::num::NonZeroU32::get),
            error: moved.error,
            rows_copied: sum(|table| table.rows),
            bytes_copied: sum(|table| table.bytes),
            tables: tables
                .into_iter()
                .map(|table| TableBody {
                    table: format!("{}.{}", table.schema, table.table),
                    rows: table.rows,
                    bytes: table.bytes,
                    done: table.done,
                })
                .collect(),
            started_by: match moved.by {
                Requester::Platform => None,
                Requester::Person(person) => Some(person),
            },
            created_at: moved.created_at,
            updated_at: moved.updated_at,
            ended_at: moved.ended_at,
        }
    }

    /// With all that is known of it.
    #[must_use]
    pub fn whole(shown: Shown) -> Self {
        let Shown { moved, tables, lag } = shown;
        // A move that is over streams nothing.
        let lag = lag.filter(|_| !moved.state.is_over());
        Self { lag_ms: lag.map(milliseconds), ..Self::new(moved, tables) }
    }

    /// Whether nothing of the move is left to happen.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.ended_at.is_some()
    }
}

/// To the microsecond, which is what is kept.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// What a move would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutlookBody {
    /// Whom it would move.
    pub tenant_id: Uuid,
    /// Where the orchestra is.
    pub source: SideBody,
    /// The database that it would go to; null: one of its own, which would be made first.
    pub target: Option<Uuid>,
    /// `stream`, `triggers` or `short`
    pub path: &'static str,
    /// Bytes that would be copied or compared a second at most; null: as many as there are.
    pub pace: Option<u32>,
    /// Rows of the orchestra; null: more than 5000, which were not counted.
    pub rows: Option<u64>,
    /// Whether a way back is kept until the move is finished.
    pub keeps_way_back: bool,
    /// What stands in the way, each with what to do; empty: nothing does. Of a database that would be made first
    /// nothing is known yet.
    pub obstacles: Vec<String>,
}

impl From<Outlook> for OutlookBody {
    fn from(outlook: Outlook) -> Self {
        Self {
            tenant_id: outlook.tenant.as_uuid(),
            source: outlook.source.into(),
            target: outlook.target.map(stagesub_tenancy::DatabaseId::as_uuid),
            path: outlook.path.as_str(),
            pace: outlook.pace.bytes().map(std::num::NonZeroU32::get),
            rows: outlook.rows,
            keeps_way_back: MoveState::Active.takes(Request::Back, outlook.path)
                && outlook.path != MovePath::Short,
            obstacles: outlook.obstacles,
        }
    }
}
