//! Writers against each other, and what becomes of their order.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sqlx::AssertSqlSafe;
use stagesub_storage::moves::apply::Writers;
use stagesub_storage::moves::progress::Direction;
use stagesub_tests::database::{connect, run};
use tokio::sync::Barrier;

use super::{ACCOUNTS, Logged};
use crate::tenant_tx::lab::{sqlstate, until};

const FORWARD: Direction = Direction::Forward;
/// What a writer meets where another was first: a unique key, a foreign key, a deadlock.
const MET: [&str; 3] = ["23505", "23503", "40P01"];

#[tokio::test(flavor = "multi_thread")]
async fn who_began_first_and_ends_last_is_brought_whole() {
    let logged = Logged::start().await;
    let mut log = logged.begin(FORWARD, Writers::Tenant).await;
    logged.pair.write(0, ACCOUNTS).await;
    let tenant = logged.pair.tenant;
    let [mut one, mut two] = [connect(&logged.pair.admin[0]).await, connect(&logged.pair.admin[0]).await];
    for first_ends_first in [true, false] {
        // Each has entries before and behind the other's.
        run(
            &mut one,
            &format!("BEGIN; UPDATE moved.account SET balance = 10 WHERE no = 1 AND tenant_id = '{tenant}'"),
        )
        .await;
        run(
            &mut two,
            &format!("BEGIN; UPDATE moved.account SET balance = 20 WHERE no = 2 AND tenant_id = '{tenant}'"),
        )
        .await;
        run(
            &mut one,
            &format!("UPDATE moved.account SET balance = 30 WHERE no = 3 AND tenant_id = '{tenant}'"),
        )
        .await;
        run(
            &mut two,
            &format!("UPDATE moved.account SET balance = 40 WHERE no = 4 AND tenant_id = '{tenant}'"),
        )
        .await;
        let (first, second) = if first_ends_first { (&mut one, &mut two) } else { (&mut two, &mut one) };
        run(first, "COMMIT").await;
        logged.settle(&mut log).await;
        let brought: i64 =
            logged.pair.read(1, "SELECT count(*) FROM moved.account WHERE balance >= 10").await;
        assert_eq!(brought, 2, "one transaction, whole, and nothing of the other");
        run(second, "COMMIT").await;
        logged.settle(&mut log).await;
        assert_eq!(logged.pair.same().await, 5);
        logged.pair.write(0, "UPDATE moved.account SET balance = 0").await;
        logged.settle(&mut log).await;
    }
    log.flow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_was_logged_before_its_parent_arrives_with_it() {
    let logged = Logged::start().await;
    for side in [0, 1] {
        logged
            .pair
            .write(
                side,
                "ALTER TABLE moved.entry ALTER CONSTRAINT entry_account_fkey DEFERRABLE INITIALLY DEFERRED",
            )
            .await;
    }
    let tenant = logged.pair.tenant;
    let mut log = logged.begin(FORWARD, Writers::Tenant).await;
    let mut child = connect(&logged.pair.admin[0]).await;
    for (no, looked_between) in [(1, false), (2, true)] {
        run(&mut child, &format!("BEGIN; INSERT INTO moved.entry VALUES ('{tenant}', {no}, {no}, 'early')"))
            .await;
        let parent = format!("INSERT INTO moved.account VALUES ('{{t}}', {no}, 'mail {no}', 0)");
        logged.pair.write(0, &parent).await;
        if looked_between {
            logged.settle(&mut log).await;
        }
        run(&mut child, "COMMIT").await;
        logged.settle(&mut log).await;
    }
    assert_eq!(logged.pair.same().await, 4);
    log.flow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_another_is_logged_behind_it() {
    let logged = Logged::start().await;
    logged.pair.write(0, ACCOUNTS).await;
    logged.pair.write(1, ACCOUNTS).await;
    logged.open(FORWARD).await;
    let tenant = logged.pair.tenant;
    let mut first = connect(&logged.pair.admin[0]).await;
    for (gives, takes) in [
        // The same row.
        (
            "UPDATE moved.account SET balance = 1 WHERE no = 1",
            "UPDATE moved.account SET balance = 2 WHERE no = 1",
        ),
        // A unique value, given up and taken.
        (
            "UPDATE moved.account SET email = 'free' WHERE no = 2",
            "UPDATE moved.account SET email = 'mail 2' WHERE no = 3",
        ),
        (
            "DELETE FROM moved.account WHERE no = 4",
            "INSERT INTO moved.account VALUES ('{t}', 40, 'mail 4', 0)",
        ),
        // A child that goes, and its parent.
        ("DELETE FROM moved.entry WHERE no = 9", "DELETE FROM moved.account WHERE no = 9"),
    ] {
        if gives.contains("= 9") {
            logged
                .pair
                .write(
                    0,
                    "INSERT INTO moved.account VALUES ('{t}', 9, 'nine', 0); INSERT INTO moved.entry VALUES ('{t}', 9, 9, '')",
                )
                .await;
        }
        run(&mut first, &format!("BEGIN; {gives}")).await;
        let (admin, sql) = (logged.pair.admin[0].clone(), takes.replace("{t}", &tenant.to_string()));
        let second = tokio::spawn(async move { run(&mut connect(&admin).await, &sql).await });
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        until("the second waits", async || logged.pair.read::<i64>(0, waits).await == 1).await;
        run(&mut first, "COMMIT").await;
        second.await.expect("it goes on");
    }
    // All of it is one batch.
    let mut log = logged.flow(FORWARD, Writers::Tenant).await;
    logged.settle(&mut log).await;
    logged.pair.same().await;
    log.flow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_write_the_same_rows_leave_both_sides_equal() {
    const WRITERS: u64 = 6;
    const ROUNDS: usize = 120;
    let logged = Arc::new(Logged::start().await);
    let mut log = logged.begin(FORWARD, Writers::Tenant).await;
    let start = Arc::new(Barrier::new(usize::try_from(WRITERS).unwrap()));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (logged, start) = (Arc::clone(&logged), Arc::clone(&start));
            tokio::spawn(async move {
                let mut rng = StdRng::seed_from_u64(writer);
                let mut conn = connect(&logged.pair.admin[0]).await;
                let tenant = logged.pair.tenant.to_string();
                let mut kept = 0;
                start.wait().await;
                for _ in 0..ROUNDS {
                    let statements: Vec<String> =
                        (0..rng.random_range(1..4)).map(|_| change(&mut rng)).collect();
                    let sql = format!("BEGIN; {}; COMMIT", statements.join("; ")).replace("{t}", &tenant);
                    match sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut conn).await {
                        Ok(_) => kept += 1,
                        Err(error) => {
                            assert!(MET.contains(&sqlstate(&error).as_str()), "{sql}: {error}");
                            run(&mut conn, "ROLLBACK").await;
                        }
                    }
                }
                kept
            })
        })
        .collect();
    let mut kept = 0;
    for writer in writers {
        kept += writer.await.expect("it does not panic");
        // Looked at while the others go on.
        logged.settle(&mut log).await;
    }
    assert!(kept > 100, "{kept} transactions were kept");
    logged.settle(&mut log).await;
    logged.pair.same().await;
    log.flow.stop().await;
}

/// A change of few rows, of few values that must not be there twice.
fn change(rng: &mut StdRng) -> String {
    let (a, b) = (rng.random_range(1..9), rng.random_range(1..9));
    match rng.random_range(0..9) {
        0 | 1 => {
            format!("INSERT INTO moved.account VALUES ('{{t}}', {a}, 'mail {b}', 0) ON CONFLICT DO NOTHING")
        }
        2 => format!("DELETE FROM moved.account WHERE no = {a}"),
        3 => format!("UPDATE moved.account SET no = {b} WHERE no = {a}"),
        4 => format!("UPDATE moved.account SET email = 'mail {b}' WHERE no = {a}"),
        5 => format!("UPDATE moved.account SET balance = balance + {b} WHERE no = {a}"),
        6 | 7 => format!(
            "INSERT INTO moved.entry VALUES ('{{t}}', {b}, {a}, 'by') ON CONFLICT (tenant_id, no) DO UPDATE SET account_no = excluded.account_no"
        ),
        _ => format!("DELETE FROM moved.entry WHERE no = {b}"),
    }
}
