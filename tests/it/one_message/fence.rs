//! The fence of reads in one message: the statement itself asks for the epoch, once and before anything is read.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use stagesub_storage::one_message::{PreparedRead, ReadError};
use stagesub_storage::patience::MovePatience;
use stagesub_storage::prove::orchestra::seed;
use stagesub_tenancy::{Access, BeginError, Placement, TenantId};
use stagesub_tests::database::{connect, run};

use super::{EVERYBODY, OWNERS, one_connection, owned};
use crate::tenant_tx::lab::{Lab, sqlstate};

/// Statements that are planned in every way there is to read in one, with their integers.
static READS: [(PreparedRead, &[i64]); 13] = [
    (
        PreparedRead::new(
            "musicians",
            include_str!("../../../crates/storage/src/repo/hot_lists/musicians.sql"),
            2,
        ),
        &[0, 21],
    ),
    (
        PreparedRead::new(
            "instruments",
            include_str!("../../../crates/storage/src/repo/hot_lists/instruments.sql"),
            2,
        ),
        &[0, 21],
    ),
    (
        PreparedRead::new(
            "projects",
            include_str!("../../../crates/storage/src/repo/hot_lists/projects.sql"),
            2,
        ),
        &[0, 21],
    ),
    (PreparedRead::new("count", "SELECT count(*) FROM tenant.instrument WHERE tenant_id = $1", 0), &[]),
    (
        PreparedRead::new(
            "counts",
            "SELECT instrument_no, count(*) FROM tenant.position WHERE tenant_id = $1
             GROUP BY instrument_no HAVING count(*) > 0",
            0,
        ),
        &[],
    ),
    (
        PreparedRead::new(
            "joined",
            "SELECT m.no, q.position_no FROM tenant.musician AS m
             LEFT JOIN tenant.musician_qualification AS q ON q.tenant_id = m.tenant_id AND q.musician_no = m.no
             WHERE m.tenant_id = $1",
            0,
        ),
        &[],
    ),
    (
        PreparedRead::new(
            "either",
            "SELECT no FROM tenant.instrument WHERE tenant_id = $1
             UNION ALL SELECT no FROM tenant.project WHERE tenant_id = $1",
            0,
        ),
        &[],
    ),
    (
        PreparedRead::new(
            "few",
            "WITH few AS MATERIALIZED (SELECT no FROM tenant.musician WHERE tenant_id = $1)
             SELECT no FROM few WHERE no > $2 ORDER BY no DESC",
            1,
        ),
        &[0],
    ),
    (PreparedRead::new("one", "SELECT $1::text, 1 AS one", 0), &[]),
    // Nothing in it hangs on what is given.
    (PreparedRead::new("alone", "SELECT no FROM tenant.instrument ORDER BY no", 0), &[]),
    (PreparedRead::new("constant", "SELECT 1 AS one", 0), &[]),
    // Conditions of their own that are asked once, and do not hold.
    (
        PreparedRead::new(
            "unless",
            "SELECT name FROM tenant.instrument WHERE tenant_id = $1
             AND NOT EXISTS (SELECT FROM app.tenant_fence WHERE tenant_id = $1)
             AND EXISTS (SELECT FROM tenant.project WHERE tenant_id = $1 AND no < 0)",
            0,
        ),
        &[],
    ),
    (
        PreparedRead::new("never", "SELECT no FROM tenant.instrument WHERE tenant_id = $1 AND $2 > 7", 1),
        &[0],
    ),
];

/// All of them.
fn reads() -> impl Iterator<Item = (&'static PreparedRead, &'static [i64])> {
    let others: [(&PreparedRead, &[i64]); 2] = [(&OWNERS, &[0]), (&EVERYBODY, &[])];
    READS.iter().map(|(read, numbers)| (read, *numbers)).chain(others)
}

/// How a statement that was prepared by this name is planned.
async fn explain(conn: &mut PgConnection, arguments: &str) -> Value {
    let sql = format!("EXPLAIN (FORMAT JSON, VERBOSE) EXECUTE fenced({arguments})");
    let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(conn).await.expect("it can be explained");
    row.get::<Value, _>(0)[0]["Plan"].clone()
}

/// Tables that a plan reads.
fn tables(node: &Value) -> Vec<&str> {
    let below = node["Plans"].as_array().into_iter().flatten().flat_map(tables);
    node["Relation Name"].as_str().into_iter().chain(below).collect()
}

/// Whether the tenant is bound, and then the epoch asked for, once and before anything else of the plan: by the outer
/// side of a nested loop, which brings one row and looks at nothing but the fence, and all that is read is on the inner.
fn asks_first(plan: &Value) -> bool {
    let [outer, inner] = plan["Plans"].as_array().map_or(&[][..], Vec::as_slice) else { return false };
    let asked = outer["Filter"].as_str().unwrap_or_default();
    let once = |what: &str| {
        outer.to_string().matches(what).count() == 1 && inner.to_string().matches(what).count() == 0
    };
    plan["Node Type"] == "Nested Loop"
        && plan["Join Type"] == "Inner"
        && plan["Join Filter"].is_null()
        && (outer["Node Type"] == "Subquery Scan" && outer["Alias"] == "stagesub_bound")
        && asked.starts_with("CASE WHEN ((SubPlan ")
        && asked.ends_with(" END")
        && once("app.refuse(")
        && once("app.bind(")
        && tables(outer) == ["tenant_fence"]
        // It is the dependency that decides, and not what it costs.
        && inner.to_string().contains("stagesub_bound.")
}

/// How a statement is planned among the transactions of a tenant.
async fn planned(conn: &mut PgConnection, sql: &str, types: &str, mode: &str, arguments: &str) -> Value {
    run(
        conn,
        &format!("BEGIN READ ONLY; SET LOCAL plan_cache_mode = {mode}; PREPARE fenced({types}) AS {sql}"),
    )
    .await;
    let plan = explain(conn, arguments).await;
    run(conn, "ROLLBACK; DEALLOCATE fenced").await;
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tenant_is_bound_and_the_epoch_asked_before_anything_is_read() {
    let lab = one_connection().await;
    let tenant = lab.scopes[0].tenant_id();
    let mut conn = connect(&lab.app).await;
    for (read, numbers) in reads() {
        let types = format!("uuid{}", ",bigint".repeat(numbers.len() + 1));
        let numbers: Vec<String> = numbers.iter().map(|number| format!("{number},")).collect();
        let numbers = numbers.concat();
        for mode in ["force_generic_plan", "force_custom_plan"] {
            // A plan is made for an epoch that is not the tenant's as for any.
            for epoch in ["1", "2"] {
                let arguments = format!("'{tenant}',{numbers}{epoch}");
                let plan = planned(&mut conn, read.prepared(), &types, mode, &arguments).await;
                assert!(asks_first(&plan), "{}: {plan:#}", read.name());
            }
        }
    }

    // What hangs on nothing, or is asked of what is read, is told from it.
    let alone = reads().find(|(read, _)| read.name() == "alone").expect("one of them").0.prepared();
    let apart = alone.replace(" WHERE stagesub_bound.tenant IS NOT NULL", "");
    assert_ne!(apart, alone);
    let plan =
        planned(&mut conn, &apart, "uuid,bigint", "force_generic_plan", &format!("'{tenant}',1")).await;
    assert!(!asks_first(&plan), "{plan:#}");
    let late =
        EVERYBODY.prepared().replace("f.tenant_id = stagesub_bound.tenant", "f.tenant_id = q.tenant_id");
    let plan = planned(&mut conn, &late, "uuid,bigint", "force_generic_plan", &format!("'{tenant}',1")).await;
    assert!(!asks_first(&plan), "{plan:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_plan_is_kept_whatever_is_asked_for() {
    static FEW: PreparedRead = PreparedRead::new(
        "few",
        "SELECT no, pg_backend_pid() FROM tenant.instrument WHERE tenant_id = $1 AND no > $2 ORDER BY no LIMIT $3",
        2,
    );
    let lab = one_connection().await;
    let db = lab.tenants();
    let [ours, theirs] = &lab.scopes;
    let rows = format!(
        "INSERT INTO tenant.instrument (tenant_id, no, name, created_at, updated_at)
         SELECT '{}', no, 'Nr ' || no, now(), now() FROM generate_series(100, 5100) AS no; ANALYZE tenant.instrument",
        ours.tenant_id()
    );
    run(&mut connect(&lab.admin).await, &rows).await;
    // One page of very many, and of one: values by which a plan for these would be the cheaper by far.
    for round in 0..30 {
        let scope = if round % 3 == 0 { theirs } else { ours };
        db.read_in_one_message(scope, &FEW, &[0, 1]).await.expect("it is read");
    }
    let mut tx = db.begin(ours, Access::Read).await.expect("it begins");
    let (generic, custom): (i64, i64) = sqlx::query_as(
        "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%pg_backend_pid()%' AND NOT from_sql
            AND statement NOT LIKE '%pg_prepared_statements%'",
    )
    .fetch_one(&mut tx)
    .await
    .expect("it is prepared");
    tx.commit().await.expect("it ends");
    // PostgreSQL tries five that are made for their values.
    assert_eq!((generic, custom), (25, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_bring_nothing_brings_nothing_at_any_epoch() {
    static NOWHERE: PreparedRead = PreparedRead::new(
        "nowhere",
        "SELECT i.no FROM tenant.instrument AS i, tenant.project AS p WHERE i.tenant_id = $1 AND false",
        0,
    );
    let lab = one_connection().await;
    let db = lab.tenants().with_patience(MovePatience::within(Duration::ZERO));
    let [ours, _] = &lab.scopes;
    for epoch in [1, 2] {
        lab.directory.place(ours.tenant_id(), Placement::Shared(lab.database), epoch);
        // It is planned to nothing, and neither binds nor asks.
        let rows = db.read_in_one_message(ours, &NOWHERE, &[]).await.expect("it is carried out");
        assert!(rows.is_empty(), "{epoch}: {} rows", rows.len());
    }
}

fn is_refused(read: &Result<Vec<PgRow>, ReadError>) -> bool {
    matches!(read, Err(ReadError::Begin(BeginError::Moved)))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_epoch_but_the_tenants_own_reads_anything_whatever_there_is_to_read() {
    let lab = Lab::start(1).await;
    let db = lab.tenants().with_patience(MovePatience::within(Duration::ZERO));
    let mut admin = connect(&lab.admin).await;
    let place = Placement::Shared(lab.database);
    // One that has rows, and one that has none.
    let empty = lab.scopes[1].tenant_id();
    let mut unit = lab.units().begin(&lab.scopes[0], Access::Write).await.expect("the tenant is served");
    seed(&mut *unit).await.expect("first contents");
    unit.commit().await.expect("what was written is kept");
    for scope in &lab.scopes {
        let tenant = scope.tenant_id();
        let fence = |set: &str| format!("UPDATE app.tenant_fence SET {set} WHERE tenant_id = '{tenant}'");
        for (fenced, epoch) in [
            (fence("epoch = 3"), 2),
            (fence("epoch = 3"), 4),
            (fence("epoch = 3"), -1),
            (fence("state = 'moving'"), 3),
            (fence("state = 'moved'"), 3),
            (format!("DELETE FROM app.tenant_fence WHERE tenant_id = '{tenant}'"), 3),
        ] {
            run(&mut admin, &fenced).await;
            lab.directory.place(tenant, place, epoch);
            for (read, numbers) in reads() {
                let refused = db.read_in_one_message(scope, read, numbers).await;
                assert!(is_refused(&refused), "{fenced}, {epoch}, {}: {refused:?}", read.name());
            }
            let served = format!(
                "INSERT INTO app.tenant_fence (tenant_id, state, epoch) VALUES ('{tenant}', 'active', 3)
                 ON CONFLICT (tenant_id) DO UPDATE SET state = 'active', epoch = 3"
            );
            run(&mut admin, &served).await;
            lab.directory.place(tenant, place, 3);
            for (read, numbers) in reads() {
                db.read_in_one_message(scope, read, numbers).await.expect("it is read at its epoch");
            }
        }
        assert_eq!(owned(&db, scope, &OWNERS, &[0]).await, usize::from(tenant != empty));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_evaluated_at_another_epoch() {
    static DIVIDES: PreparedRead =
        PreparedRead::new("divides", "SELECT 1 / (no - no) FROM tenant.instrument WHERE tenant_id = $1", 0);
    let lab = one_connection().await;
    let db = lab.tenants().with_patience(MovePatience::within(Duration::ZERO));
    let [ours, _] = &lab.scopes;
    for (epoch, refused) in [(1, false), (2, true), (1, false)] {
        lab.directory.place(ours.tenant_id(), Placement::Shared(lab.database), epoch);
        let read = db.read_in_one_message(ours, &DIVIDES, &[]).await;
        assert_eq!(is_refused(&read), refused, "{read:?}");
        if let Err(ReadError::Statement(error)) = &read {
            assert_eq!(sqlstate(error), "22012");
        } else {
            assert!(refused, "{read:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_in_the_order_and_number_that_the_statement_says() {
    const PAGED: &str = "SELECT no, name FROM tenant.instrument WHERE tenant_id = $1
                         ORDER BY name DESC, no LIMIT $2 OFFSET $3";
    const SORTED: &str = "SELECT i.no, p.name FROM tenant.instrument AS i
                          JOIN tenant.position AS p ON p.tenant_id = i.tenant_id AND p.instrument_no = i.no
                          WHERE i.tenant_id = $1 AND i.no > $2 AND i.no > $3 ORDER BY md5(p.name)";
    let lab = one_connection().await;
    let db = lab.tenants();
    let [ours, _] = &lab.scopes;
    let tenant = ours.tenant_id();
    let rows = format!(
        "INSERT INTO tenant.instrument (tenant_id, no, name, created_at, updated_at)
         SELECT '{tenant}', no, 'Nr ' || md5(no::text), now(), now() FROM generate_series(100, 140) AS no;
         INSERT INTO tenant.position (tenant_id, no, instrument_no, name, hierarchy_level, created_at, updated_at)
         SELECT '{tenant}', no, no, 'Nr ' || no, 1, now(), now() FROM generate_series(100, 140) AS no"
    );
    run(&mut connect(&lab.admin).await, &rows).await;
    for (name, sql) in [("paged", PAGED), ("sorted", SORTED)] {
        let read = PreparedRead::new(name, sql, 2);
        let mut seen = 0;
        for numbers in [[0, 0], [1, 0], [7, 3], [100, 0], [100, 39]] {
            let mut tx = db.begin(ours, Access::Read).await.expect("it begins");
            let expected: Vec<(i64, String)> = sqlx::query_as(sql)
                .bind(tenant.as_uuid())
                .bind(numbers[0])
                .bind(numbers[1])
                .fetch_all(&mut tx)
                .await
                .expect("it is read");
            tx.commit().await.expect("it ends");
            let rows = db.read_in_one_message(ours, &read, &numbers).await.expect("it is read");
            let rows: Vec<(i64, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            assert_eq!(rows, expected, "{name} {numbers:?}");
            seen += rows.len();
        }
        assert!(seen > 40, "{name}: {seen}");
    }
}

/// Hands the tenant on to the next epoch, and changes what there is to read with it.
async fn hand_on(admin: &mut PgConnection, tenant: TenantId, epoch: i64) {
    let change = format!(
        "BEGIN; UPDATE app.tenant_fence SET epoch = {epoch} WHERE tenant_id = '{tenant}';
         UPDATE tenant.instrument SET name = '{epoch}' WHERE tenant_id = '{tenant}'; COMMIT"
    );
    run(admin, &change).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_is_of_the_moment_at_which_the_epoch_was_looked_at() {
    static NAMES: PreparedRead =
        PreparedRead::new("names", "SELECT name FROM tenant.instrument WHERE tenant_id = $1", 0);
    const LAST: i64 = 300;
    let lab = one_connection().await;
    let db = lab.tenants().with_patience(MovePatience::within(Duration::ZERO));
    let [ours, _] = &lab.scopes;
    let tenant = ours.tenant_id();
    let mut admin = connect(&lab.admin).await;
    hand_on(&mut admin, tenant, 1).await;
    let current = AtomicI64::new(1);
    let writes = async {
        for epoch in 2..=LAST {
            hand_on(&mut admin, tenant, epoch).await;
            current.store(epoch, Ordering::Release);
        }
    };
    let reads = async {
        loop {
            let epoch = current.load(Ordering::Acquire);
            lab.directory.place(tenant, Placement::Shared(lab.database), epoch);
            match db.read_in_one_message(ours, &NAMES, &[]).await {
                Ok(rows) => {
                    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
                    assert_eq!(names, [epoch.to_string()], "another epoch's rows");
                    if epoch == LAST {
                        break;
                    }
                }
                Err(ReadError::Begin(BeginError::Moved)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::join!(writes, reads);
}
