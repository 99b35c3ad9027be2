//! What a connection does for the first time, done before anybody waits for it.
//!
//! A new process of the server reads the catalogue as it comes to need it, which takes a tenant's first transaction on it
//! some milliseconds: what it enters by, and each table that it touches. Where a tenant is about to be, connections are made
//! ahead and do that once for nobody: they enter as everybody does, at an epoch that no tenant is at, are refused, and
//! read no row of any table.

use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use stagesub_tenancy::{Access, PlacementEpoch, TenantId};
use tokio::time::Instant;
use uuid::Uuid;

use crate::error::{STALE_EPOCH, sqlstate};
use crate::prepared::Prepared;
use crate::tx::{Enters, LOOK, LOOK_SQL, begin_statements, begin_text};

/// Whom no row belongs to.
const NOBODY: TenantId = TenantId::from_uuid(Uuid::nil());
/// An epoch that no tenant is at.
const NEVER: PlacementEpoch = PlacementEpoch(-1);

/// One statement for each table behind a policy that the login may read, which plans to read it and does not. Not more than
/// a process should know of before it is asked.
const TABLES: &str = "SELECT pg_catalog.format('SELECT FROM %I.%I WHERE false', n.nspname, c.relname)
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relrowsecurity AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
        AND pg_catalog.has_any_column_privilege(c.oid, 'SELECT')
    ORDER BY 1
    LIMIT 200";

/// Has a connection that was never used meet what its first user would; tables as far as that is done by then.
///
/// # Errors
/// The driver's: the connection is to be closed.
///
/// # Cancel safety
/// None: a transaction may be open.
pub(crate) async fn warm_up(
    conn: &mut PgConnection,
    prepared: &mut Prepared,
    until: Instant,
) -> Result<(), sqlx::Error> {
    for access in [Access::Write, Access::Read] {
        let enters = if access == Access::Read && prepared.will_have((LOOK, LOOK_SQL)) {
            Enters::PrepareAndLook
        } else {
            Enters::Call
        };
        let text = begin_text(begin_statements(access, false), NOBODY, NEVER, None, enters);
        match conn.execute(sqlx::raw_sql(AssertSqlSafe(text.as_str()))).await {
            Err(error) if sqlstate(&error).as_deref() == Some(STALE_EPOCH) => {}
            Err(error) => return Err(error),
            Ok(_) => return Err(sqlx::Error::Protocol("nobody was let in".to_owned())),
        }
        if enters == Enters::PrepareAndLook {
            // What is prepared outlives the transaction, and it is what refused.
            prepared.has();
        }
        conn.execute(sqlx::raw_sql("ROLLBACK")).await?;
    }
    let tables: Vec<String> = sqlx::query_scalar(TABLES).persistent(false).fetch_all(&mut *conn).await?;
    for table in tables {
        if Instant::now() >= until {
            break;
        }
        // Each by itself: who changes one waits for no other, and is not waited for.
        let text = format!("BEGIN READ ONLY;SET LOCAL lock_timeout=10;{table};COMMIT");
        match conn.execute(sqlx::raw_sql(AssertSqlSafe(text))).await {
            Ok(_) => {}
            Err(sqlx::Error::Database(error)) => {
                // What cannot be planned now is planned by whoever needs it.
                tracing::debug!(%error, "a table was not made ready");
                conn.execute(sqlx::raw_sql("ROLLBACK")).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
