//! The publication that lets one tenant's rows through.

use std::time::Duration;

use sqlx::postgres::types::Oid;
use sqlx::{AssertSqlSafe, PgConnection};
use stagesub_tenancy::TenantId;
use tokio::time::{Instant, sleep};

use super::LOOK;
use crate::catalogue::TableName;
use crate::error::sqlstate;

/// A publication was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublicationError {
    /// The statement failed.
    #[error("a move's publication could not be made or removed")]
    Database(#[from] sqlx::Error),
    /// A table's old rows are told apart by something else than a primary key that has the tenant in it: the
    /// publication would make every tenant's updates of the table fail, or the old rows could not be found.
    #[error("{table} cannot be published: {why}")]
    Identity {
        /// The table.
        table: TableName,
        /// What identifies its rows.
        why: &'static str,
    },
    /// A table is not there, or is no table.
    #[error("{0} is no table that could be published")]
    NoTable(TableName),
    /// Transactions that wrote to its tables while it still had them have not ended.
    #[error(
        "the publication {name} has no tables any more, and is dropped once the transactions that were writing to them \
         have ended; these server processes have some open: {processes:?}"
    )]
    StillWritten {
        /// What the publication is called.
        name: String,
        /// The transactions' server processes.
        processes: Vec<i32>,
    },
}

/// Makes the publication of these tables' rows that are the tenant's. Rows that come, change and go are published;
/// that a table is emptied is not, because that names no rows. Tables whose rows cannot be told apart with the tenant in them
/// are refused before anything is made.
///
/// # Errors
/// [`PublicationError`].
pub async fn create_publication(
    conn: &mut PgConnection,
    name: &str,
    tenant: TenantId,
    tables: &[TableName],
) -> Result<(), PublicationError> {
    for table in tables {
        refuse_identity(conn, table).await?;
    }
    let (schemas, names): (Vec<String>, Vec<String>) =
        tables.iter().map(|table| (table.schema.clone(), table.name.clone())).unzip();
    let statement = sqlx::query_scalar!(
        r#"SELECT format('CREATE PUBLICATION %I FOR TABLE %s WITH (publish = %L)', $1::text,
                      string_agg(format('%I.%I WHERE (tenant_id = %L)', t.schema, t.name, $2::uuid), ', '),
                      'insert, update, delete') AS "statement!"
           FROM unnest($3::text[], $4::text[]) AS t (schema, name)"#,
        name,
        tenant.as_uuid(),
        &schemas,
        &names
    )
    .fetch_one(&mut *conn)
    .await?;
    // The server has quoted its names.
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(conn).await?;
    Ok(())
}

/// Removes a publication, if it is there, so that nobody who writes to its tables notices.
///
/// An update or delete looks a table's publications up in two steps: which ones, then each. One that goes in between
/// fails it, whosever rows it is about, with `cache lookup failed for publication` (`XX000`). So the publication first
/// loses its tables, then whoever may have read that it had them is waited for, and only then does it go. Who takes
/// a lock on a table after the first step reads its publications anew.
///
/// To lose its tables it takes a lock on each that is in the way of no reader and no writer, but of `VACUUM` and the like:
/// that is waited for as long as the session's `lock_timeout` says.
///
/// # Errors
/// [`PublicationError`]; with [`PublicationError::StillWritten`] a transaction that was under way has not ended after
/// `patience`. The publication has no tables any more then, and a next call goes on.
///
/// # Cancel safety
/// What is left is removed by a next call.
pub async fn drop_publication(
    conn: &mut PgConnection,
    name: &str,
    patience: Duration,
) -> Result<(), PublicationError> {
    let until = Instant::now() + patience;
    let published = match emptied(conn, name).await {
        // Somebody else emptied or removed it, or removed a table: what is there now is looked at once more.
        Err(error) if is_gone(&error) => emptied(conn, name).await?,
        emptied => emptied?,
    };
    let Some(published) = published else { return Ok(()) };
    let writing = writing(conn, &published.tables).await?;
    loop {
        let left = sqlx::query_scalar!(
            r#"SELECT DISTINCT pid AS "pid!" FROM pg_catalog.pg_locks
               WHERE locktype = 'virtualxid' AND virtualtransaction = ANY($1) AND pid IS NOT NULL ORDER BY 1"#,
            &writing
        )
        .fetch_all(&mut *conn)
        .await?;
        if left.is_empty() {
            break;
        }
        if Instant::now() >= until {
            return Err(PublicationError::StillWritten { name: name.to_owned(), processes: left });
        }
        sleep(LOOK).await;
    }
    sqlx::raw_sql(AssertSqlSafe(published.remove)).execute(conn).await?;
    Ok(())
}

/// A publication without tables.
struct Emptied {
    /// What it published, if it was this call that emptied it.
    tables: Vec<Oid>,
    /// The statement that removes it.
    remove: String,
}

/// Takes its tables from a publication, if it is there.
async fn emptied(conn: &mut PgConnection, name: &str) -> Result<Option<Emptied>, sqlx::Error> {
    // In the order in which they were locked when it was made.
    let found = sqlx::query!(
        r#"SELECT format('ALTER PUBLICATION %I DROP TABLE ', p.pubname)
                || string_agg(format('%I.%I', n.nspname, c.relname), ', ' ORDER BY t.oid)
                    FILTER (WHERE c.oid IS NOT NULL) AS empty,
                  coalesce(array_agg(c.oid) FILTER (WHERE c.oid IS NOT NULL), '{}') AS "tables!: Vec<Oid>",
                  format('DROP PUBLICATION IF EXISTS %I', p.pubname) AS "remove!"
           FROM pg_catalog.pg_publication AS p
           LEFT JOIN (pg_catalog.pg_publication_rel AS t
               JOIN pg_catalog.pg_class AS c ON c.oid = t.prrelid
               JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace) ON t.prpubid = p.oid
           WHERE p.pubname = $1
           GROUP BY p.pubname"#,
        name
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(found) = found else { return Ok(None) };
    if let Some(empty) = found.empty {
        sqlx::raw_sql(AssertSqlSafe(empty)).execute(conn).await?;
    }
    Ok(Some(Emptied { tables: found.tables, remove: found.remove }))
}

/// The transactions that write to these tables; to any where none is named, since nobody knows the tables of a publication
/// that an earlier call has emptied. A session that copies only inserts, which looks no publication up.
async fn writing(conn: &mut PgConnection, tables: &[Oid]) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT DISTINCT l.virtualtransaction AS "writing!"
           FROM pg_catalog.pg_locks AS l
           JOIN pg_catalog.pg_class AS c ON c.oid = l.relation AND c.relkind = 'r' AND c.oid >= 16384
           WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.granted
               AND l.pid IS NOT NULL AND l.pid <> pg_catalog.pg_backend_pid()
               AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
               AND (cardinality($1::oid[]) = 0 OR l.relation = ANY($1))
               AND NOT EXISTS (
                   SELECT FROM pg_catalog.pg_stat_activity AS a
                   WHERE a.pid = l.pid AND a.usename = current_user
                       AND a.application_name ~ '^stagesub-move:[0-9a-f-]{36}:copy-in')"#,
        tables
    )
    .fetch_all(conn)
    .await
}

/// Whether a publication, or a table of it, was not there any more.
fn is_gone(error: &sqlx::Error) -> bool {
    matches!(sqlstate(error).as_deref(), Some("42704" | "42P01"))
}

async fn refuse_identity(conn: &mut PgConnection, table: &TableName) -> Result<(), PublicationError> {
    let found = sqlx::query!(
        r#"SELECT c.relreplident::text AS "identity!", c.relkind::text AS "kind!",
                  p.indrelid IS NOT NULL AS "keyed!", coalesce(p.indimmediate, false) AS "immediate!",
                  EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                          WHERE a.attrelid = c.oid AND a.attname = 'tenant_id'
                              AND a.attnum = ANY((p.indkey::smallint[])[0:p.indnkeyatts - 1])) AS "of_tenant!"
           FROM pg_catalog.pg_class AS c
           JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
           LEFT JOIN pg_catalog.pg_index AS p ON p.indrelid = c.oid AND p.indisprimary
           WHERE n.nspname = $1 AND c.relname = $2"#,
        table.schema,
        table.name
    )
    .fetch_optional(conn)
    .await?;
    let Some(found) = found.filter(|found| found.kind == "r") else {
        return Err(PublicationError::NoTable(table.clone()));
    };
    match unfit(&found.identity, found.keyed, found.immediate, found.of_tenant) {
        Some(why) => Err(PublicationError::Identity { table: table.clone(), why }),
        None => Ok(()),
    }
}

/// What is wrong with what identifies a table's rows.
fn unfit(identity: &str, keyed: bool, immediate: bool, of_tenant: bool) -> Option<&'static str> {
    match (identity, keyed, immediate, of_tenant) {
        ("n", ..) => Some("its replica identity is NOTHING"),
        ("i", ..) => Some("its replica identity is an index and not its primary key"),
        (_, false, ..) => Some("it has no primary key"),
        (_, true, _, false) => Some("its primary key lacks tenant_id"),
        // Postgres takes no such key for an identity.
        ("d", true, false, _) => Some("its primary key is deferrable"),
        // All of the old row is sent, its key among it.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_apart_by_a_key_that_has_the_tenant() {
        for (identity, keyed, immediate, of_tenant, fit) in [
            ("d", true, true, true, true),
            ("f", true, true, true, true),
            ("f", true, false, true, true),
            ("d", true, false, true, false),
            ("d", true, true, false, false),
            ("f", true, true, false, false),
            ("d", false, false, false, false),
            ("f", false, false, false, false),
            ("n", true, true, true, false),
            ("i", true, true, true, false),
        ] {
            let unfit = unfit(identity, keyed, immediate, of_tenant);
            assert_eq!(unfit.is_none(), fit, "{identity} {keyed} {immediate} {of_tenant}");
        }
    }
}
