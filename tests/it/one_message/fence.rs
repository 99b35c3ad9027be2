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
const READS: &[(PreparedRead, &[i64])] = &[
    (OWNERS, &[0]),
    (EVERYBODY, &[]),
    (
        PreparedRead::new(
            "musicians",
            include_str!("../../../crates/storage/src/repo/hot_lists/musicians.sent.sql"),
            2,
        ),
        &[0, 21],
    ),
    (
        PreparedRead::new(
            "instruments",
            include_str!("../../../crates/storage/src/repo/hot_lists/instruments.sent.sql"),
            2,
        ),
        &[0, 21],
    ),
    (
        PreparedRead::new(
            "projects",
            include_str!("../../../crates/storage/src/repo/hot_lists/projects.sent.sql"),
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
    (PreparedRead::new("nowhere", "SELECT no FROM tenant.instrument WHERE tenant_id = $1 AND false", 0), &[]),
];

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

/// Whether the question for the epoch, and nothing else, is asked once and above everything that is read, and for it
/// nothing but the fence is looked at.
fn asks_first(plan: &Value) -> bool {
    let asked = plan["One-Time Filter"].as_str().unwrap_or_default();
    let of_its_own = |child: &&Value| child["Parent Relationship"] == "InitPlan";
    plan["Node Type"] == "Result"
        && asked.starts_with("CASE WHEN (")
        && asked.ends_with(" END")
        && plan.to_string().matches("app.refuse(").count() == 1
        && plan["Plans"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(of_its_own)
            .flat_map(tables)
            .eq(["tenant_fence"])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_epoch_is_asked_once_and_above_everything_that_is_read() {
    let lab = one_connection().await;
    let tenant = lab.scopes[0].tenant_id();
    let mut conn = connect(&lab.app).await;
    for (read, numbers) in READS {
        let types = ",bigint".repeat(numbers.len() + 1);
        let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        let prepare = format!(
            "BEGIN READ ONLY; SET LOCAL app.tenant_id = '{tenant}'; PREPARE fenced(uuid{types}) AS {}",
            read.prepared()
        );
        run(&mut conn, &prepare).await;
        for mode in ["force_generic_plan", "force_custom_plan"] {
            run(&mut conn, &format!("SET LOCAL plan_cache_mode = {mode}")).await;
            // A plan is made for an epoch that is not the tenant's as for any.
            for epoch in ["1", "2"] {
                let mut arguments = vec![format!("'{tenant}'")];
                arguments.extend(numbers.iter().cloned());
                arguments.push(epoch.to_owned());
                let plan = explain(&mut conn, &arguments.join(",")).await;
                assert!(asks_first(&plan), "{}: {plan:#}", read.name());
            }
        }
        run(&mut conn, "ROLLBACK; DEALLOCATE fenced").await;
    }

    // A condition that is asked with others, or of rows, is told from it.
    let without_offset = EVERYBODY.prepared().replace(" OFFSET 0", "");
    let prepare = format!(
        "BEGIN READ ONLY; SET LOCAL app.tenant_id = '{tenant}'; SET LOCAL plan_cache_mode = force_generic_plan;
         PREPARE fenced(uuid,bigint) AS {without_offset}"
    );
    run(&mut conn, &prepare).await;
    let plan = explain(&mut conn, &format!("'{tenant}',1")).await;
    assert!(!asks_first(&plan), "{plan:#}");
    run(&mut conn, "ROLLBACK; DEALLOCATE fenced").await;
    run(&mut connect(&lab.admin).await, "ALTER FUNCTION app.refuse(bigint) VOLATILE").await;
    let prepare = format!(
        "BEGIN READ ONLY; SET LOCAL app.tenant_id = '{tenant}'; PREPARE fenced(uuid,bigint) AS {}",
        EVERYBODY.prepared()
    );
    run(&mut conn, &prepare).await;
    let plan = explain(&mut conn, &format!("'{tenant}',1")).await;
    assert!(!asks_first(&plan), "{plan:#}");
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
            for (read, numbers) in READS {
                let refused = db.read_in_one_message(scope, read, numbers).await;
                assert!(is_refused(&refused), "{fenced}, {epoch}, {}: {refused:?}", read.name());
            }
            let served = format!(
                "INSERT INTO app.tenant_fence (tenant_id, state, epoch) VALUES ('{tenant}', 'active', 3)
                 ON CONFLICT (tenant_id) DO UPDATE SET state = 'active', epoch = 3"
            );
            run(&mut admin, &served).await;
            lab.directory.place(tenant, place, 3);
            for (read, numbers) in READS {
                db.read_in_one_message(scope, read, numbers).await.expect("it is read at its epoch");
            }
        }
        assert_eq!(owned(&db, scope, &OWNERS, &[0]).await, usize::from(tenant != empty));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_evaluated_at_another_epoch() {
    const DIVIDES: PreparedRead =
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
    const NAMES: PreparedRead =
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
