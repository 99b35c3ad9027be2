//! How every statement of the program is run where there are many tenants: explained as who runs it, with a plan for
//! any values and with plans for some, in databases with a million musicians and a hundred thousand registered tenants.
//!
//! - `ground.rs` the two databases, made by `tenants.sql` and `registry.sql`
//! - `statements.rs` the statements: what `.sqlx` holds, and the lists that are read in one message
//! - `values.rs` what they are asked with
//! - `plan.rs` what is wrong with a plan
//! - `exceptions.rs` what is put up with, and why

mod exceptions;
mod ground;
mod plan;
mod statements;
mod values;

use std::collections::HashSet;

use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use stagesub_tests::database::{connect, run};
use uuid::Uuid;

use crate::tenant_tx::lab::{scalar, sqlstate};
use exceptions::{Exception, OF_REGISTRY, OF_TENANTS, judge};
use ground::Ground;
use plan::{Finding, findings};
use statements::Statement;
use values::{Drawn, Values};

const NO_PRIVILEGE: &str = "42501";

/// The plan of what was prepared as `scale`; the SQLSTATE if it is refused.
async fn explain(conn: &mut PgConnection, mode: &str, arguments: &str) -> Result<Value, String> {
    run(conn, &format!("SET LOCAL plan_cache_mode = {mode}")).await;
    let arguments = if arguments.is_empty() { String::new() } else { format!("({arguments})") };
    let sql = format!("EXPLAIN (FORMAT JSON, VERBOSE) EXECUTE scale{arguments}");
    match sqlx::raw_sql(AssertSqlSafe(sql.clone())).fetch_one(conn).await {
        Ok(row) => Ok(row.get(0)),
        Err(error) if sqlstate(&error) == NO_PRIVILEGE => Err(sqlstate(&error)),
        Err(error) => panic!("{sql}: {error}"),
    }
}

/// What is wrong with a statement's plans for somebody; the SQLSTATE if they may not run it.
async fn examine_as(
    conn: &mut PgConnection,
    statement: &Statement,
    asked: &[(Option<Uuid>, Vec<String>)],
    ground: &Ground,
) -> Result<HashSet<Finding>, String> {
    let types =
        if statement.types.is_empty() { String::new() } else { format!("({})", statement.types.join(", ")) };
    let mut found = Ok(HashSet::new());
    'asked: for (tenant, lists) in asked {
        let whole = *tenant == ground.tenants.first().copied();
        let bind = tenant.map(|tenant| format!("SET LOCAL app.tenant_id = '{tenant}';")).unwrap_or_default();
        run(conn, &format!("BEGIN; {bind} PREPARE scale{types} AS {}", statement.sql)).await;
        // What is planned for any values is planned once.
        let generic = lists.iter().take(1).map(|list| ("force_generic_plan", list));
        let custom = lists.iter().map(|list| ("force_custom_plan", list));
        for (mode, list) in generic.chain(custom) {
            match (explain(conn, mode, list).await, &mut found) {
                (Ok(plan), Ok(found)) => found.extend(findings(&plan, &ground.indexes, whole)),
                (Err(refused), _) => {
                    found = Err(refused);
                    run(conn, "ROLLBACK; DEALLOCATE scale").await;
                    break 'asked;
                }
                (Ok(_), Err(refused)) => unreachable!("it was refused before: {refused}"),
            }
        }
        run(conn, "ROLLBACK; DEALLOCATE scale").await;
    }
    found
}

/// What is wrong with each statement's plans, as the first who may run it: the platform's logins, then the owner, as
/// whom databases are set up and tenants admitted.
async fn examine(ground: &Ground, statements: &[Statement]) -> Vec<(String, Finding)> {
    let mut admin = connect(&ground.admin).await;
    let mut who = Vec::new();
    for login in &ground.logins {
        who.push(connect(login).await);
    }
    who.push(ground.owner().await);
    let (mut values, mut all) = (Values::default(), Vec::new());
    for statement in statements {
        let small = ground.too_small(statement);
        assert!(
            small.is_empty(),
            "give {small:?} more rows, so that the plan says something: {}",
            statement.line()
        );
        let tenants: Vec<Option<Uuid>> = if ground.tenants.is_empty() {
            vec![None]
        } else {
            ground.tenants.iter().copied().map(Some).collect()
        };
        let mut asked = Vec::new();
        for tenant in tenants {
            let mut lists = Vec::new();
            for which in [Drawn::Common, Drawn::Rare] {
                lists.extend(values.of(statement, tenant, which, &mut admin).await);
            }
            asked.push((tenant, lists));
        }
        let mut found = None;
        for conn in &mut who {
            if let Ok(findings) = examine_as(conn, statement, &asked, ground).await {
                found = Some(findings);
                break;
            }
        }
        let found = found.unwrap_or_else(|| panic!("nobody may run {}", statement.line()));
        all.extend(found.into_iter().map(|finding| (statement.line(), finding)));
    }
    all
}

async fn hold(ground: &Ground, of_registry: bool, exceptions: &[Exception]) {
    let statements: Vec<Statement> =
        statements::all().into_iter().filter(|statement| statement.is_of_registry() == of_registry).collect();
    let found = examine(ground, &statements).await;
    let lines: Vec<String> = statements.iter().map(Statement::line).collect();
    let complaints = judge(&lines, &found, exceptions);
    assert!(complaints.is_empty(), "{} statements\n{}", lines.len(), complaints.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_on_tenants_reads_one_tenant_by_an_index() {
    hold(Ground::of_tenants().await, false, OF_TENANTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_on_the_registry_reads_what_it_asks_for_by_an_index() {
    hold(Ground::of_registry().await, true, OF_REGISTRY).await;
}

/// How often this session has read the fences one by one, how often by an index, and rows that it got so.
async fn fence_scans(conn: &mut PgConnection) -> (i64, i64, i64) {
    sqlx::query_as(
        "SELECT coalesce(seq_scan, 0), coalesce(idx_scan, 0), coalesce(idx_tup_fetch, 0)
        FROM pg_catalog.pg_stat_xact_user_tables WHERE relid = 'app.tenant_fence'::regclass",
    )
    .fetch_one(conn)
    .await
    .expect("a session's own figures can be read")
}

#[tokio::test(flavor = "multi_thread")]
async fn entering_reads_one_row_by_its_key() {
    let ground = Ground::of_tenants().await;
    let mut conn = connect(&ground.logins[0]).await;
    for tenant in &ground.tenants {
        for mode in ["force_generic_plan", "force_custom_plan"] {
            for access in ["READ ONLY", "READ WRITE"] {
                run(
                    &mut conn,
                    &format!(
                        "BEGIN {access}; SET LOCAL app.tenant_id = '{tenant}'; SET LOCAL plan_cache_mode = {mode}"
                    ),
                )
                .await;
                let before = fence_scans(&mut conn).await;
                run(&mut conn, "CALL app.enter(1)").await;
                let after = fence_scans(&mut conn).await;
                assert_eq!(
                    (after.0 - before.0, after.1 - before.1, after.2 - before.2),
                    (0, 1, 1),
                    "{mode}, {access}"
                );
                run(&mut conn, "ROLLBACK").await;
            }
        }
    }
}

/// Checks of foreign keys are statements too, which no plan shows: who deletes a row looks for what refers to it.
#[tokio::test(flavor = "multi_thread")]
async fn what_refers_to_a_row_is_found_by_an_index() {
    let mut all = Vec::new();
    for ground in [Ground::of_tenants().await, Ground::of_registry().await] {
        let mut admin = connect(&ground.admin).await;
        let known: i64 = scalar(&mut admin, "SELECT count(*) FROM pg_constraint WHERE contype = 'f'").await;
        assert!(known > 3, "there are foreign keys");
        let bare: Vec<String> = sqlx::query_scalar(
            "SELECT k.conrelid::regclass || ' ' || k.conname
            FROM pg_catalog.pg_constraint AS k
            WHERE k.contype = 'f' AND NOT EXISTS (
                SELECT FROM pg_catalog.pg_index AS i
                WHERE i.indrelid = k.conrelid AND i.indpred IS NULL
                    AND (i.indkey::smallint[])[0:cardinality(k.conkey) - 1] @> k.conkey)
            ORDER BY 1",
        )
        .fetch_all(&mut admin)
        .await
        .expect("the catalogue can be read");
        all.extend(bare);
    }
    let complaints = exceptions::judge_keys(&all);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// The plan of a statement as an administrator has spoilt the database for it; nothing of that is kept.
async fn spoilt(ground: &Ground, spoil: &str, role: &str, sql: &str) -> HashSet<Finding> {
    let mut conn = connect(&ground.admin).await;
    let tenant = ground.tenants.first().copied().unwrap_or_default();
    run(
        &mut conn,
        &format!("BEGIN; {spoil}; SET LOCAL app.tenant_id = '{tenant}'; SET LOCAL ROLE {role}; PREPARE scale(uuid) AS {sql}"),
    )
    .await;
    let mut found = HashSet::new();
    for mode in ["force_generic_plan", "force_custom_plan"] {
        let plan = explain(&mut conn, mode, &format!("'{tenant}'")).await.expect("it may be run");
        found.extend(findings(&plan, &ground.indexes, true));
    }
    run(&mut conn, "ROLLBACK").await;
    found
}

fn whats(found: &HashSet<Finding>) -> Vec<String> {
    let mut whats: Vec<String> = found.iter().map(ToString::to_string).collect();
    whats.sort();
    whats
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_that_read_other_tenants_are_found() {
    let ground = Ground::of_tenants().await;
    let one = "SELECT max(name) FROM tenant.project WHERE tenant_id = $1 AND no = 3";
    assert_eq!(whats(&spoilt(ground, "SELECT 1", "stagesub_app", one).await), Vec::<String>::new());

    let cast = "ALTER POLICY tenant_fence ON tenant.project USING (tenant_id::text = current_setting('app.tenant_id'));
                ALTER POLICY tenant_rows ON tenant.project USING (tenant_id::text = current_setting('app.tenant_id'))";
    let by_text = "SELECT max(name) FROM tenant.project WHERE tenant_id::text = $1::text";
    let of_any = "SELECT max(name) FROM tenant.project WHERE tenant_id = $1 OR $1 IS NULL";
    let bypassed = "SELECT 1";
    let no_index = "DROP INDEX tenant.project_created_at_idx; DROP INDEX tenant.project_status_idx;
                    ALTER TABLE tenant.project DROP CONSTRAINT project_pkey";
    let foreign_index = "CREATE INDEX spoilt ON tenant.project (status)";
    for (name, spoil, role, sql) in [
        ("a cast in policies and statement", cast, "stagesub_app", by_text),
        ("a cast, where no policy holds", bypassed, "stagesub_mover", by_text),
        ("an OR, where no policy holds", bypassed, "stagesub_mover", of_any),
        ("no index", no_index, "stagesub_app", one),
    ] {
        let found = whats(&spoilt(ground, spoil, role, sql).await);
        assert!(found.contains(&"tenant.project: Seq Scan".to_owned()), "{name}: {found:?}");
    }
    let not_by_its_index = "SELECT no FROM tenant.musician WHERE tenant_id = $1 AND upper(email_key) = 'X'";
    assert_eq!(
        whats(&spoilt(ground, "SELECT 1", "stagesub_app", not_by_its_index).await),
        ["tenant.musician: all rows of the tenant"]
    );
    // An index that is new is not among those that were read: the checker must not pass over what it does not know.
    let mut conn = connect(&ground.admin).await;
    run(&mut conn, &format!("BEGIN; {foreign_index}")).await;
    let indexes = plan::Indexes::read(&mut conn).await;
    run(
        &mut conn,
        "SET LOCAL ROLE stagesub_mover; SET LOCAL enable_seqscan = off;
         PREPARE scale AS SELECT count(*) FROM tenant.project WHERE status = 'active'",
    )
    .await;
    let plan = explain(&mut conn, "force_custom_plan", "").await.expect("it may be run");
    let found = whats(&findings(&plan, &indexes, true));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("spoilt, which does not begin with the tenant"), "{found:?}");
    run(&mut conn, "ROLLBACK").await;

    let many = "SELECT count(*) FROM tenant.project WHERE tenant_id > $1";
    let found = whats(&spoilt(ground, "SET LOCAL enable_seqscan = off", "stagesub_mover", many).await);
    assert!(
        !found.is_empty() && found.iter().all(|what| what.contains("which is not one tenant")),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_that_read_the_whole_registry_are_found() {
    let ground = Ground::of_registry().await;
    let all = "SELECT count(*) FROM registry.users WHERE id <> $1";
    assert_eq!(
        whats(&spoilt(ground, "SELECT 1", "stagesub_control", all).await),
        ["registry.users: Seq Scan"]
    );
    let paged = "SELECT id FROM registry.users WHERE ($1::uuid IS NULL OR id > $1) ORDER BY id LIMIT 20";
    assert_eq!(
        whats(&spoilt(ground, "SELECT 1", "stagesub_control", paged).await),
        ["registry.users: Index Only Scan on users_pkey from its beginning, until enough rows pass"]
    );
    let found = "SELECT email FROM registry.users WHERE id = $1";
    assert_eq!(whats(&spoilt(ground, "SELECT 1", "stagesub_control", found).await), Vec::<String>::new());
}
