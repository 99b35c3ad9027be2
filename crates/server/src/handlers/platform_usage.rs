//! Who uses how much of the databases, for administrators of the platform.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stagesub_auth::Permission;
use stagesub_tenancy::usage::{HOURS_KEPT, TenantUsage, UnknownOrder, Usage, UsageBy, UsageReport};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::extract::{Params, PlatformCaller};
use crate::problem::{Problem, ProblemBody};
use crate::state::AppState;

/// Orchestras that are listed when nothing else is said.
pub const DEFAULT_LIMIT: u32 = 10;
/// Most that are.
pub const MAX_LIMIT: u32 = 100;
/// Hours that are looked at when nothing else is said.
pub const DEFAULT_HOURS: u32 = 24;
/// Most that are.
pub const MAX_HOURS: u32 = HOURS_KEPT;

/// What is wanted of it.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub struct UsageQuery {
    /// `databaseTime` (left out), `rows` or `poolWait`: what the orchestras are ordered by, those that used most first.
    by: Option<String>,
    /// Hours, the one that is now included, 1 to 48; left out: 24.
    hours: Option<u32>,
    /// Orchestras, 1 to 100; left out: 10.
    limit: Option<u32>,
}

/// Who used how much since some time, on all nodes. Each node adds its part every 10 seconds.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageBody {
    /// `databaseTime`, `rows` or `poolWait`
    by: &'static str,
    /// Since when: the beginning of an hour.
    since: DateTime<Utc>,
    /// Those that used most, first.
    items: Vec<TenantUsageBody>,
    /// All orchestras together, those that are not listed included.
    total: UsageFigures,
    /// The part of the total of which a node did not tell whose it was.
    others: UsageFigures,
}

/// One orchestra's part.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantUsageBody {
    /// Identity.
    id: Uuid,
    /// Prefix of ids.
    code: String,
    /// Host label.
    subdomain: String,
    #[serde(flatten)]
    usage: UsageFigures,
}

/// What was used.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageFigures {
    /// Milliseconds that the database worked: beginning, statements, commit.
    database_time_ms: f64,
    /// Milliseconds that transactions waited for their turn and for a connection.
    pool_wait_ms: f64,
    /// Rows that were read or changed.
    rows: u64,
    /// Statements that were run.
    statements: u64,
    /// Transactions that were begun.
    transactions: u64,
}

impl From<Usage> for UsageFigures {
    fn from(usage: Usage) -> Self {
        let Usage { pool_wait, database_time, transactions, statements, rows } = usage;
        Self {
            database_time_ms: milliseconds(database_time),
            pool_wait_ms: milliseconds(pool_wait),
            rows,
            statements,
            transactions,
        }
    }
}

/// To the microsecond, which is what is measured.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

impl UsageBody {
    /// As the API shows it.
    #[must_use]
    pub fn new(by: UsageBy, report: UsageReport) -> Self {
        let UsageReport { since, tenants, total, others } = report;
        let item = |TenantUsage { tenant, code, subdomain, usage }| TenantUsageBody {
            id: tenant.as_uuid(),
            code: code.to_string(),
            subdomain: subdomain.to_string(),
            usage: usage.into(),
        };
        Self {
            by: by.as_str(),
            since,
            items: tenants.into_iter().map(item).collect(),
            total: total.into(),
            others: others.into(),
        }
    }
}

/// Lists the orchestras that used most of the databases.
#[utoipa::path(get, path = "/api/v1/platform/usage", operation_id = "list_usage", tag = "platform",
    security(("bearer" = [])), params(UsageQuery), responses(
    (status = OK, body = UsageBody),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn list(
    State(state): State<AppState>,
    caller: PlatformCaller,
    Params(query): Params<UsageQuery>,
) -> Result<Json<UsageBody>, Problem> {
    caller.may(Permission::ManageTenants)?;
    let by = match query.by.as_deref() {
        None => UsageBy::default(),
        Some(text) => text
            .parse()
            .map_err(|error: UnknownOrder| Problem::invalid_field("by", "enum", error.to_string()))?,
    };
    let hours = within("hours", query.hours.unwrap_or(DEFAULT_HOURS), MAX_HOURS)?;
    let limit = within("limit", query.limit.unwrap_or(DEFAULT_LIMIT), MAX_LIMIT)?;
    let report = state.usage.top(by, hours, limit).await.map_err(Problem::unavailable)?;
    Ok(Json(UsageBody::new(by, report)))
}

fn within(field: &'static str, value: u32, most: u32) -> Result<u32, Problem> {
    if (1..=most).contains(&value) {
        Ok(value)
    } else {
        Err(Problem::invalid_field(field, "range", format!("must be 1 to {most}")))
    }
}
