//! Removing a tenant's rows from a database that does not serve it.

use sqlx::{AssertSqlSafe, PgConnection};
use stagesub_tenancy::TenantId;
use tokio::time::{Instant, sleep};

use super::CopyError;
use crate::catalogue::TableName;
use crate::moves::fence::LOCKS;
use crate::moves::pace::Pace;
use crate::moves::plan::{Checks, MovePlan, TablePlan};
use crate::moves::session::{MoverSession, unless_silent};

/// How rows are removed.
#[derive(Debug, Clone)]
pub struct PurgeSettings {
    /// Rows that one transaction removes, at most, at least 1 (default 20,000). As long as it runs, its database keeps what
    /// all others change meanwhile.
    pub at_once: u64,
    /// With a rate, it rests as long as it works, so that the tenants that stay have the other half of the time (default:
    /// no rate).
    pub pace: Pace,
}

impl Default for PurgeSettings {
    fn default() -> Self {
        Self { at_once: 20_000, pace: Pace::unlimited() }
    }
}

impl PurgeSettings {
    /// With such a pace.
    #[must_use]
    pub fn at(pace: Pace) -> Self {
        Self { pace, ..Self::default() }
    }
}

/// Removes what the target holds of a tenant, children first, in as many transactions as it takes: what an earlier copy
/// left, or what is of no use any more. How many rows there were.
///
/// A database that serves the tenant is left alone. Its fence row is locked in each transaction, and so is the tenant: nobody
/// opens it in the middle of one, and nobody else removes. Where foreign keys are checked, a table whose rows refer to each
/// other goes at once.
///
/// # Errors
/// [`CopyError::InUse`], [`CopyError::Target`]. What was removed before stays removed.
///
/// # Cancel safety
/// Each transaction is kept whole or not at all if the future is dropped: call it again to remove the rest. The session is
/// to be dropped too, as it is after an error.
pub async fn purge(
    target: &mut MoverSession,
    plan: &MovePlan,
    tenant: TenantId,
    settings: &PurgeSettings,
) -> Result<u64, CopyError> {
    if plan.checks == Checks::Skipped {
        target.skip_checks().await.map_err(CopyError::Session)?;
    }
    // A tenant's rows are found by its index behind those that were removed before, too.
    target.keep_to_indexes().await.map_err(CopyError::Session)?;
    let conn = target.conn();
    let mut tables = plan.tables.iter().rev().peekable();
    let mut removed = 0;
    loop {
        let began = Instant::now();
        lock(conn, tenant).await?;
        let mut left = settings.at_once.max(1);
        while left > 0
            && let Some(table) = tables.peek()
        {
            let most = (!table.refers_to_itself).then_some(left);
            let deleted = delete(conn, table, tenant, most)
                .await
                .map_err(|source| CopyError::Target { table: table.name.clone(), source })?;
            removed += deleted;
            if most.is_none_or(|most| deleted < most) {
                tables.next();
            }
            left = left.saturating_sub(deleted);
        }
        unless_silent(sqlx::raw_sql("COMMIT").execute(&mut *conn)).await.map_err(failed)?;
        if tables.peek().is_none() {
            return Ok(removed);
        }
        if settings.pace.is_limited() {
            sleep(began.elapsed()).await;
        }
    }
}

/// Begins a transaction in which the tenant is not served here. Whoever removed before and was given up has ended, or it is
/// waited for: what it removed is not to be met as rows that go.
async fn lock(conn: &mut PgConnection, tenant: TenantId) -> Result<(), CopyError> {
    let locked = async {
        sqlx::raw_sql("BEGIN").execute(&mut *conn).await?;
        sqlx::query!(
            "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended($1::uuid::text, $2))",
            tenant.as_uuid(),
            LOCKS
        )
        .execute(&mut *conn)
        .await?;
        sqlx::query_scalar!(
            "SELECT state FROM app.tenant_fence WHERE tenant_id = $1 FOR UPDATE",
            tenant.as_uuid()
        )
        .fetch_optional(&mut *conn)
        .await
    };
    let state = unless_silent(locked).await.map_err(failed)?;
    if state.as_deref() == Some("active") {
        sqlx::raw_sql("ROLLBACK").execute(conn).await.map_err(failed)?;
        return Err(CopyError::InUse(tenant));
    }
    Ok(())
}

/// Nobody else writes there, so a row stays where it was found. That it is the tenant's is asked again in a way that no
/// index answers: rows are fetched from their places, and not searched for them.
async fn delete(
    conn: &mut PgConnection,
    table: &TablePlan,
    tenant: TenantId,
    most: Option<u64>,
) -> Result<u64, sqlx::Error> {
    let name = table.quoted();
    let sql = match most {
        None => format!("DELETE FROM ONLY {name} WHERE tenant_id = $1"),
        Some(most) => format!(
            "DELETE FROM ONLY {name} WHERE tenant_id IS NOT DISTINCT FROM $1
             AND ctid = ANY (ARRAY(SELECT ctid FROM ONLY {name} WHERE tenant_id = $1 LIMIT {most}))"
        ),
    };
    let delete = sqlx::query(AssertSqlSafe(sql)).bind(tenant.as_uuid()).execute(conn);
    // All of a table at once takes as long as it is large.
    let done = if most.is_some() { unless_silent(delete).await? } else { delete.await? };
    Ok(done.rows_affected())
}

fn failed(source: sqlx::Error) -> CopyError {
    CopyError::Target {
        table: TableName { schema: "app".to_owned(), name: "tenant_fence".to_owned() },
        source,
    }
}
