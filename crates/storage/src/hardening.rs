//! What is taken from PUBLIC in each database: functions that open a way around the tenant's fence.
//!
//! Only a superuser can take them; a REVOKE by anybody else is no more than a warning. So privileges are
//! read back, and what is still open is reported with the SQL that mends it. A new database has its
//! functions' privileges from its template, which is why dedicated databases are made of a template that
//! was hardened once.

use sqlx::PgConnection;

use crate::migrate::error::{MigrateError, during};
use crate::migrate::report::Partial;

/// Name of the template that dedicated databases are made of.
pub(crate) const TEMPLATE_DATABASE: &str = "stagesub_template";

/// Takes what docs/roles.md lists and gives back what the platform's own roles need. One statement, so
/// that it can also be shown to an administrator as it is.
const HARDEN: &str = r"DO $harden$
DECLARE
    taken record;
BEGIN
    FOR taken IN
        SELECT p.oid::regprocedure AS signature, p.proname AS name
        FROM pg_catalog.pg_proc AS p
        WHERE p.pronamespace = 'pg_catalog'::regnamespace
            AND (p.proname IN ('set_config', 'pg_terminate_backend', 'pg_logical_emit_message', 'pg_notify',
                    'pg_advisory_lock', 'pg_advisory_lock_shared',
                    'pg_try_advisory_lock', 'pg_try_advisory_lock_shared', 'loread', 'lowrite')
                OR p.proname ~ '^(lo_|(query|cursor|table|schema|database)_to_xml)')
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', taken.signature);
        IF taken.name = 'set_config' THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO stagesub_migrator', taken.signature);
        ELSIF taken.name IN ('pg_terminate_backend', 'pg_logical_emit_message') THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO stagesub_mover', taken.signature);
        ELSIF taken.name = 'pg_notify' THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO stagesub_control', taken.signature);
        ELSIF taken.name ~ 'advisory' THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO stagesub_owner', taken.signature);
        END IF;
    END LOOP;
END
$harden$";

/// Most names that a report shows.
const MAX_NAMES: usize = 5;

/// Takes the functions from PUBLIC if this user is a superuser and some are still open, and reports what
/// the application's login may call after that.
pub(crate) async fn harden(
    conn: &mut PgConnection,
    database: &str,
    superuser: bool,
) -> Result<Option<Partial>, MigrateError> {
    let reading = "reading the privileges of functions back";
    let mut open = open_functions(conn).await.map_err(during(reading))?;
    if superuser && !open.is_empty() {
        sqlx::raw_sql(HARDEN).execute(&mut *conn).await.map_err(during("taking functions from PUBLIC"))?;
        open = open_functions(conn).await.map_err(during(reading))?;
    }
    Ok((!open.is_empty()).then(|| report(&open, database)))
}

/// What is still open, with the statement that takes it from PUBLIC.
pub(crate) fn report(open: &[String], database: &str) -> Partial {
    let shown = open.iter().take(MAX_NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
    Partial {
        name: format!("functions open to every role in {database}"),
        why: format!("only a superuser can take them from PUBLIC; {} are open, such as {shown}", open.len()),
        sql: format!("{HARDEN};"),
    }
}

/// The names of the functions on the list that the application's login may call in this database.
pub(crate) async fn open_functions(conn: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT DISTINCT p.proname::text AS "name!"
        FROM pg_catalog.pg_proc AS p
        WHERE p.pronamespace = 'pg_catalog'::regnamespace
            AND (p.proname IN ('set_config', 'pg_terminate_backend', 'pg_logical_emit_message', 'pg_notify',
                    'pg_advisory_lock', 'pg_advisory_lock_shared',
                    'pg_try_advisory_lock', 'pg_try_advisory_lock_shared', 'loread', 'lowrite')
                OR p.proname ~ '^(lo_|(query|cursor|table|schema|database)_to_xml)')
            AND has_function_privilege('stagesub_app', p.oid, 'EXECUTE')
        ORDER BY 1"#
    )
    .fetch_all(conn)
    .await
}

/// Makes the template that dedicated databases are copied from, hardened, if this user is a superuser.
/// `maintenance` is a connection to another database of the same server.
pub(crate) async fn make_template(maintenance: &mut PgConnection) -> Result<(), MigrateError> {
    let found = sqlx::query_scalar!(
        r#"SELECT datistemplate AND NOT has_database_privilege('public', oid, 'CONNECT') AS "closed!"
        FROM pg_catalog.pg_database WHERE datname = $1"#,
        TEMPLATE_DATABASE
    )
    .fetch_optional(&mut *maintenance)
    .await
    .map_err(during("looking for the template of dedicated databases"))?;
    if found == Some(true) {
        return Ok(());
    }
    if found.is_none() {
        sqlx::raw_sql(
            "CREATE DATABASE stagesub_template TEMPLATE template0 ENCODING 'UTF8' STRATEGY wal_log",
        )
        .execute(&mut *maintenance)
        .await
        .map_err(during("making the template of dedicated databases"))?;
    }
    sqlx::raw_sql(
        "REVOKE ALL ON DATABASE stagesub_template FROM PUBLIC; ALTER DATABASE stagesub_template IS_TEMPLATE true",
    )
    .execute(maintenance)
    .await
    .map_err(during("marking the template of dedicated databases"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_names_a_few_and_counts_all() {
        let open: Vec<String> = (0..40).map(|n| format!("lo_{n}")).collect();
        let report = report(&open, "orchestras");
        assert!(report.why.contains("40 are open, such as lo_0, lo_1, lo_2, lo_3, lo_4"));
        assert!(!report.why.contains("lo_5"));
        assert!(report.sql.ends_with("$harden$;"));
    }

    #[test]
    fn cancelling_and_transaction_locks_stay_callable() {
        for kept in ["pg_cancel_backend", "pg_advisory_xact_lock", "pg_try_advisory_xact_lock"] {
            assert!(!HARDEN.contains(&format!("'{kept}'")), "{kept}");
        }
    }
}
