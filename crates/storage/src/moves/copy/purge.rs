//! Removing a tenant's rows from a database that does not serve it.

use sqlx::{AssertSqlSafe, PgConnection};
use stagesub_tenancy::TenantId;

use super::CopyError;
use crate::catalogue::TableName;
use crate::moves::plan::{Checks, MovePlan, TablePlan};
use crate::moves::session::MoverSession;

/// Removes what the target holds of a tenant, children first, in one transaction: what an earlier copy left, or what
/// is of no use any more. How many rows there were.
///
/// A database that serves the tenant is left alone. Its fence row is locked meanwhile, so that nobody opens it.
///
/// # Errors
/// [`CopyError::InUse`], [`CopyError::Target`].
///
/// # Cancel safety
/// Nothing is removed if the future is dropped; the session is to be dropped too, as it is after an error.
pub async fn purge(target: &mut MoverSession, plan: &MovePlan, tenant: TenantId) -> Result<u64, CopyError> {
    if plan.checks == Checks::Skipped {
        target.skip_checks().await.map_err(CopyError::Session)?;
    }
    let conn = target.conn();
    let fence = || TableName { schema: "app".to_owned(), name: "tenant_fence".to_owned() };
    let failed = |source| CopyError::Target { table: fence(), source };
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
    let mut removed = 0;
    for table in plan.tables.iter().rev() {
        let deleted = delete(conn, table, tenant).await;
        removed += deleted.map_err(|source| CopyError::Target { table: table.name.clone(), source })?;
    }
    sqlx::raw_sql("COMMIT").execute(conn).await.map_err(failed)?;
    Ok(removed)
}

async fn delete(conn: &mut PgConnection, table: &TablePlan, tenant: TenantId) -> Result<u64, sqlx::Error> {
    let sql = format!("DELETE FROM ONLY {} WHERE tenant_id = $1", table.quoted());
    let done = sqlx::query(AssertSqlSafe(sql)).bind(tenant.as_uuid()).execute(conn).await?;
    Ok(done.rows_affected())
}
