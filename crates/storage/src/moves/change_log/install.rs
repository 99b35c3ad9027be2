//! Makes and removes a log: its tables, its function, and the triggers of every table.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};
use stagesub_tenancy::TenantId;
use tokio::time::{Instant, sleep};

use super::tables::LoggedTable;
use super::{ChangeLog, ChangeLogError, batches, entries};
use crate::catalogue::TableName;
use crate::error::{LOCK_NOT_AVAILABLE, sqlstate};
use crate::roles::{OWNER, quote};

/// Longest that a table's lock is waited for, since others queue behind whoever waits.
const TURN: Duration = Duration::from_millis(50);
/// How long those have their way before the lock is asked for again.
const REST: Duration = Duration::from_millis(450);

/// A trigger of each table: how its name ends, on what, when, and what it has the function log. `{old}` and `{new}`
/// stand for the row being the tenant's, `{key}` for the key being another one.
///
/// A row that is given to another tenant goes, as far as this one is concerned: nothing of the other's is logged. The
/// key is compared byte by byte, so that one which is equal and written otherwise (1.0 and 1.00) is another.
const ROW_TRIGGERS: [(&str, &str, &str, &str); 6] = [
    ("i", "INSERT", "{new}", "I"),
    ("u", "UPDATE", "{old} AND {new} AND NOT {key}", "U"),
    ("k", "UPDATE", "{old} AND {new} AND {key}", "K"),
    ("c", "UPDATE", "{new} AND NOT {old}", "I"),
    ("l", "UPDATE", "{old} AND NOT {new}", "D"),
    ("d", "DELETE", "{old}", "D"),
];
/// How the name of the trigger ends that refuses to empty the table.
const OF_TRUNCATE: &str = "t";

/// Makes everything.
pub(super) async fn create(
    conn: &mut PgConnection,
    log: &ChangeLog,
    tables: &[LoggedTable],
    patience: Duration,
) -> Result<(), ChangeLogError> {
    let until = Instant::now() + patience;
    let doing = "making a log of changes";
    let failed = |source| ChangeLogError::Database { doing, source };
    // Names are quoted here or by the server; the tenant is a UUID.
    sqlx::raw_sql(AssertSqlSafe(log_sql(&log.name))).execute(&mut *conn).await.map_err(failed)?;
    let mover = sqlx::query_scalar!(r#"SELECT pg_catalog.quote_literal(session_user) AS "mover!""#)
        .fetch_one(&mut *conn)
        .await
        .map_err(failed)?;
    for table in tables {
        let sql = triggers_sql(&log.name, log.tenant, &mover, table);
        in_turn(conn, &table.name, "log changes of", &sql, until).await?;
    }
    Ok(())
}

/// Looks whether every table has all its triggers.
pub(super) async fn check(conn: &mut PgConnection, log: &ChangeLog) -> Result<(), ChangeLogError> {
    let (schemas, names): (Vec<String>, Vec<String>) =
        log.tables.iter().map(|table| (table.schema.clone(), table.name.clone())).unzip();
    let broken = sqlx::query!(
        r#"SELECT x.schema AS "schema!", x.name AS "name!"
           FROM unnest($1::text[], $2::text[]) AS x (schema, name)
           WHERE $4 <> (
               SELECT count(*) FROM pg_catalog.pg_trigger AS t
               JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
               JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
               JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
               JOIN pg_catalog.pg_namespace AS f ON f.oid = p.pronamespace
               WHERE n.nspname = x.schema AND c.relname = x.name AND f.nspname = 'app' AND p.proname = $3
                   AND t.tgenabled = 'A')
           LIMIT 1"#,
        &schemas,
        &names,
        log.name,
        i64::try_from(ROW_TRIGGERS.len() + 1).unwrap_or(i64::MAX)
    )
    .fetch_optional(conn)
    .await
    .map_err(|source| ChangeLogError::Database {
        doing: "looking at the triggers of a log of changes",
        source,
    })?;
    match broken {
        Some(row) => Err(ChangeLogError::Broken(TableName { schema: row.schema, name: row.name })),
        None => Ok(()),
    }
}

/// Removes everything.
pub(super) async fn remove(
    conn: &mut PgConnection,
    log: &str,
    patience: Duration,
) -> Result<(), ChangeLogError> {
    let until = Instant::now() + patience;
    let doing = "removing a log of changes";
    let failed = |source| ChangeLogError::Database { doing, source };
    let tables = sqlx::query!(
        r#"SELECT n.nspname::text AS "schema!", c.relname::text AS "name!", array_agg(t.tgname::text) AS "triggers!"
           FROM pg_catalog.pg_trigger AS t
           JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
           JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
           JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
           JOIN pg_catalog.pg_namespace AS f ON f.oid = p.pronamespace
           WHERE f.nspname = 'app' AND p.proname = $1
           GROUP BY n.nspname, c.relname
           ORDER BY n.nspname, c.relname"#,
        log
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(failed)?;
    for table in tables {
        let name = TableName { schema: table.schema, name: table.name };
        let drops: Vec<String> = table
            .triggers
            .iter()
            .map(|trigger| format!("DROP TRIGGER {} ON {}", quote(trigger), quoted(&name)))
            .collect();
        in_turn(conn, &name, "log changes no more of", &drops.join(";"), until).await?;
    }
    // Whoever wrote to it had a lock of a table, and has ended.
    let drops = format!(
        "DROP FUNCTION IF EXISTS {entries}(); DROP TABLE IF EXISTS {entries}; DROP TABLE IF EXISTS {}",
        batches(log),
        entries = entries(log)
    );
    let itself = TableName { schema: "app".to_owned(), name: log.to_owned() };
    in_turn(conn, &itself, "remove", &drops, until).await
}

/// Runs statements that lock a table, as one transaction and as the owner, whenever the lock is to be had.
async fn in_turn(
    conn: &mut PgConnection,
    table: &TableName,
    what: &'static str,
    statements: &str,
    until: Instant,
) -> Result<(), ChangeLogError> {
    // One message of several statements is a transaction, which is over when one of them fails.
    let sql = format!("{}; SET LOCAL lock_timeout = {}; {statements}", as_owner(), TURN.as_millis());
    loop {
        match sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut *conn).await {
            Ok(_) => return Ok(()),
            Err(error) if sqlstate(&error).as_deref() == Some(LOCK_NOT_AVAILABLE) => {}
            Err(source) => {
                let doing = "making or removing triggers that log changes";
                return Err(ChangeLogError::Database { doing, source });
            }
        }
        if Instant::now() + REST >= until {
            return Err(ChangeLogError::Busy { table: table.clone(), what });
        }
        sleep(REST).await;
    }
}

/// What begins a transaction whose objects are to be the owner's.
fn as_owner() -> String {
    format!("SET LOCAL ROLE {OWNER}; SET LOCAL search_path = pg_catalog, pg_temp")
}

fn quoted(table: &TableName) -> String {
    format!("{}.{}", quote(&table.schema), quote(&table.name))
}

/// The body of the function that the triggers of a log call.
pub(crate) fn trigger_body(log: &str) -> String {
    format!(
        "
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        RAISE EXCEPTION 'a table cannot be emptied while a tenant moves' USING ERRCODE = 'object_in_use';
    END IF;
    INSERT INTO {} (kind, relation, old_row, new_row)
    VALUES (TG_ARGV[0]::\"char\", TG_RELID,
        CASE WHEN TG_ARGV[0] IN ('D', 'K') THEN record_send(OLD) END,
        CASE WHEN TG_ARGV[0] <> 'D' THEN record_send(NEW) END);
    RETURN NULL;
END
",
        entries(log)
    )
}

/// Tables and function. Texts in a row are sent in the encoding of whoever writes, so that is set. Large rows are not
/// compressed: it is their writer who would wait for it. Rows come and go, so they are cleared away soon.
fn log_sql(log: &str) -> String {
    let (entries, batches) = (entries(log), batches(log));
    format!(
        "{};
        CREATE TABLE {entries} (
            seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
            kind \"char\" NOT NULL,
            relation oid,
            old_row bytea,
            new_row bytea,
            mark bigint
        ) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
        ALTER TABLE {entries} ALTER old_row SET STORAGE EXTERNAL, ALTER new_row SET STORAGE EXTERNAL;
        COMMENT ON TABLE {entries} IS 'What became of a tenant''s rows while it moves; it goes with the move.';
        CREATE TABLE {batches} (
            number bigint PRIMARY KEY,
            snapshot pg_snapshot NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        );
        COMMENT ON TABLE {batches} IS 'What was delivered together: what a snapshot sees, and not the one before.';
        CREATE FUNCTION {entries}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
            SET search_path = pg_catalog, pg_temp SET client_encoding = 'UTF8'
            AS $log${}$log$;
        REVOKE ALL ON FUNCTION {entries}() FROM PUBLIC;
        COMMENT ON FUNCTION {entries}() IS 'Logs what becomes of a tenant''s rows while it moves.'",
        as_owner(),
        trigger_body(log)
    )
}

/// All triggers of a table. `mover` is a literal: the login whose writes are not logged.
fn triggers_sql(log: &str, tenant: TenantId, mover: &str, table: &LoggedTable) -> String {
    let on = quoted(&table.name);
    let function = entries(log);
    let own = |row: &str| format!("({row}.tenant_id = '{tenant}'::uuid)");
    let key = |row: &str| {
        let columns: Vec<String> =
            table.key.iter().map(|column| format!("{row}.{}", quote(column))).collect();
        // Two row constructors would be compared column by column, which is another comparison.
        format!("ROW({})::record", columns.join(", "))
    };
    let rekeyed = format!("({} *<> {})", key("OLD"), key("NEW"));
    let mut statements = Vec::new();
    for (end, event, condition, kind) in ROW_TRIGGERS {
        let name = quote(&format!("{log}_{end}"));
        let condition =
            condition.replace("{old}", &own("OLD")).replace("{new}", &own("NEW")).replace("{key}", &rekeyed);
        statements.push(format!(
            "CREATE TRIGGER {name} AFTER {event} ON {on} FOR EACH ROW
             WHEN ({condition} AND SESSION_USER <> {mover}) EXECUTE FUNCTION {function}('{kind}')"
        ));
        statements.push(format!("ALTER TABLE {on} ENABLE ALWAYS TRIGGER {name}"));
    }
    let name = quote(&format!("{log}_{OF_TRUNCATE}"));
    statements.push(format!(
        "CREATE TRIGGER {name} BEFORE TRUNCATE ON {on} FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
    ));
    statements.push(format!("ALTER TABLE {on} ENABLE ALWAYS TRIGGER {name}"));
    statements.join(";\n")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::tables::tests::note;
    use super::*;

    #[test]
    fn a_change_of_a_row_is_logged_by_one_trigger() {
        // Whose the row was, whose it is, and whether its key is another: a row cannot pass on without that.
        for (old, new, key, kinds) in [
            (true, true, false, vec!["U"]),
            (true, true, true, vec!["K"]),
            (true, false, true, vec!["D"]),
            (false, true, true, vec!["I"]),
            (false, false, false, vec![]),
            (false, false, true, vec![]),
        ] {
            let holds = |condition: &str| {
                condition.split(" AND ").all(|part| match part {
                    "{old}" => old,
                    "{new}" => new,
                    "{key}" => key,
                    "NOT {old}" => !old,
                    "NOT {new}" => !new,
                    "NOT {key}" => !key,
                    other => panic!("{other}"),
                })
            };
            let fire: Vec<&str> = ROW_TRIGGERS
                .iter()
                .filter(|(_, event, condition, _)| *event == "UPDATE" && holds(condition))
                .map(|(.., kind)| *kind)
                .collect();
            assert_eq!(fire, kinds, "{old} {new} {key}");
        }
    }

    #[test]
    fn names_are_quoted() {
        let mut table = note();
        table.name.name = "no\"te".to_owned();
        table.key[1] = "n\"o".to_owned();
        let sql = triggers_sql("log", TenantId::from_uuid(Uuid::nil()), "'mo''ver'", &table);
        assert!(sql.contains("ON \"tenant\".\"no\"\"te\" FOR EACH ROW"), "{sql}");
        assert!(
            sql.contains(
                "(ROW(OLD.\"tenant_id\", OLD.\"n\"\"o\")::record *<> ROW(NEW.\"tenant_id\", NEW.\"n\"\"o\")::record)"
            ),
            "{sql}"
        );
        assert!(sql.contains("SESSION_USER <> 'mo''ver') EXECUTE FUNCTION app.\"log\"('I')"), "{sql}");
    }
}
