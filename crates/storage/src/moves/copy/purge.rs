//! Removing a tenant's rows from a database that does not serve it.

use sqlx::{AssertSqlSafe, PgConnection};
use stagesub_tenancy::TenantId;
use tokio::time::{Instant, sleep};

use super::CopyError;
use crate::catalogue::TableName;
use crate::moves::pace::Pace;
use crate::moves::plan::{Checks, MovePlan, TablePlan};
use crate::moves::session::MoverSession;

/// Rows that one transaction removes, at most. As long as it runs, its database keeps what all others change meanwhile.
const AT_ONCE: u64 = 20_000;

/// Removes what the target holds of a tenant, children first, some ten thousand rows in a transaction: what an earlier copy
/// left, or what is of no use any more. How many rows there were. With a pace it rests as long as it works, so that the
/// tenants that stay have the other half of the time.
///
/// A database that serves the tenant is left alone. Its fence row is locked in each transaction, so that nobody opens it in
/// the middle of one. Where foreign keys are checked, a table's rows go all at once: they may refer to each other.
///
/// # Errors
/// [`CopyError::InUse`], [`CopyError::Target`].
///
/// # Cancel safety
/// Whole transactions are kept or not if the future is dropped: call it again to remove the rest. The session is to be
/// dropped too, as it is after an error.
pub async fn purge(
    target: &mut MoverSession,
    plan: &MovePlan,
    tenant: TenantId,
    pace: &Pace,
) -> Result<u64, CopyError> {
    if plan.checks == Checks::Skipped {
        target.skip_checks().await.map_err(CopyError::Session)?;
    }
    let conn = target.conn();
    let mut tables = plan.tables.iter().rev().peekable();
    let mut removed = 0;
    loop {
        let began = Instant::now();
        lock_fence(conn, tenant).await?;
        let mut left = AT_ONCE;
        while left > 0
            && let Some(table) = tables.peek()
        {
            let most = (plan.checks == Checks::Skipped).then_some(left);
            let deleted = delete(conn, table, tenant, most)
                .await
                .map_err(|source| CopyError::Target { table: table.name.clone(), source })?;
            removed += deleted;
            if most.is_none_or(|most| deleted < most) {
                tables.next();
            }
            left = left.saturating_sub(deleted);
        }
        sqlx::raw_sql("COMMIT").execute(&mut *conn).await.map_err(failed)?;
        if tables.peek().is_none() {
            return Ok(removed);
        }
        if pace.is_limited() {
            sleep(began.elapsed()).await;
        }
    }
}

/// Begins a transaction in which the tenant is not served here.
async fn lock_fence(conn: &mut PgConnection, tenant: TenantId) -> Result<(), CopyError> {
    sqlx::raw_sql("BEGIN").execute(&mut *conn).await.map_err(failed)?;
    let state = sqlx::query_scalar!(
        "SELECT state FROM app.tenant_fence WHERE tenant_id = $1 FOR UPDATE",
        tenant.as_uuid()
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed)?;
    if state.as_deref() == Some("active") {
        sqlx::raw_sql("ROLLBACK").execute(conn).await.map_err(failed)?;
        return Err(CopyError::InUse(tenant));
    }
    Ok(())
}

/// Nobody else writes there, so a row stays where it was found.
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
            "DELETE FROM ONLY {name} WHERE tenant_id = $1 AND ctid = ANY (ARRAY(
                SELECT ctid FROM ONLY {name} WHERE tenant_id = $1 LIMIT {most}))"
        ),
    };
    let done = sqlx::query(AssertSqlSafe(sql)).bind(tenant.as_uuid()).execute(conn).await?;
    Ok(done.rows_affected())
}

fn failed(source: sqlx::Error) -> CopyError {
    CopyError::Target {
        table: TableName { schema: "app".to_owned(), name: "tenant_fence".to_owned() },
        source,
    }
}
