//! Owners that go away in the middle, by the thousand: nothing of them may reach the next.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::{FutureExt, StreamExt};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use sqlx::AssertSqlSafe;
use stagesub_storage::factory::TenantDb;
use stagesub_storage::tx::TenantTx;
use stagesub_tenancy::{Access, TenantScope};
use uuid::Uuid;

use super::lab::{Lab, polled, scalar, until};
use super::{begin, insert};
use stagesub_tests::database::connect;

const TASKS: u64 = 8;
const ROUNDS: u32 = 300;

/// Codes of the errors that the storm itself provokes; one of them in a probe is somebody else's.
const PROVOKED: [&str; 3] = ["23505", "22012", "57014"];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_of_a_cancelled_transaction_reaches_the_next() {
    for connections in [1, 4] {
        let lab = Lab::start(connections).await;
        let db = Arc::new(lab.tenants());
        for scope in &lab.scopes {
            let mut tx = begin(&db, scope, Access::Write).await;
            for no in 1..=20 {
                insert(&mut tx, no, &format!("{} {no}", scope.code())).await.unwrap();
            }
            tx.commit().await.unwrap();
        }
        let cancelled = Arc::new(AtomicU32::new(0));
        let tasks = (0..TASKS).map(|seed| {
            let (db, scopes, cancelled) = (Arc::clone(&db), lab.scopes.clone(), Arc::clone(&cancelled));
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed);
                for round in 0..ROUNDS {
                    let scope = &scopes[usize::from(random.random::<bool>())];
                    let polls = random.random_range(1..=14);
                    let seed = random.next_u64();
                    let work = AssertUnwindSafe(work(&db, scope, StdRng::seed_from_u64(seed))).catch_unwind();
                    match Box::pin(polled(polls, work)).await {
                        None => drop(cancelled.fetch_add(1, Ordering::Relaxed)),
                        Some(Ok(())) => {}
                        Some(Err(panic)) if panic.is::<Struck>() => {}
                        Some(Err(panic)) => resume_unwind(panic),
                    }
                    if round % 3 == 0 {
                        probe(&db, &scopes[usize::from(random.random::<bool>())]).await;
                    }
                }
            })
        });
        for task in futures::future::join_all(tasks).await {
            task.expect("no probe met anything of another");
        }
        let cancelled = cancelled.load(Ordering::Relaxed);
        assert!(cancelled > ROUNDS, "the storm cancels: {cancelled}");
        capacity_is_whole(&lab, &db, connections).await;
    }
}

/// What the storm panics with.
struct Struck;

/// What a request might be doing when it is dropped: one to three statements, some of which fail, then an end.
async fn work(db: &TenantDb, scope: &TenantScope, mut random: StdRng) {
    let Ok(mut tx) = db.begin(scope, Access::Write).await else { return };
    for _ in 0..random.random_range(1..=3) {
        statement(&mut tx, &mut random).await;
    }
    match random.random_range(0..4) {
        0 => drop(tx),
        // Not by panic!, which would print each.
        1 => resume_unwind(Box::new(Struck)),
        // Refused where a statement failed before.
        _ => drop(tx.commit().await),
    }
}

async fn statement(tx: &mut TenantTx, random: &mut StdRng) {
    let tenant = tx.tenant().as_uuid();
    match random.random_range(0..8) {
        0 => {
            let owners: Result<Vec<Uuid>, _> =
                sqlx::query_scalar("SELECT tenant_id FROM tenant.instrument").fetch_all(tx).await;
            if let Ok(owners) = owners {
                assert!(owners.iter().all(|owner| *owner == tenant), "a foreign row");
            }
        }
        // A text that was never prepared.
        1 => {
            let text = format!("SELECT {}::bigint", random.next_u32());
            drop(sqlx::query(AssertSqlSafe(text)).execute(tx).await);
        }
        // A stream that is read in part.
        2 => drop(sqlx::query("SELECT * FROM tenant.instrument").fetch(tx).next().await),
        3 => drop(insert(tx, 1, "taken").await),
        4 => drop(sqlx::query("SELECT 1 / 0").execute(tx).await),
        5 => drop(sqlx::query("SELECT pg_sleep(0.003)").execute(tx).await),
        6 => {
            let text = format!("SET app.tenant_id = '{tenant}'; SET work_mem = '3MB'");
            drop(sqlx::raw_sql(AssertSqlSafe(text)).execute(tx).await);
        }
        _ => {
            let update = "UPDATE tenant.instrument SET display_order = 1 WHERE tenant_id = $1 AND no = 1";
            drop(sqlx::query(update).bind(tenant).execute(tx).await);
        }
    }
}

/// A transaction that does nothing wrong and must meet nothing of those before it.
async fn probe(db: &TenantDb, scope: &TenantScope) {
    let mut tx = begin(db, scope, Access::Read).await;
    let seen: Result<(Uuid, String, i64, bool), sqlx::Error> = sqlx::query_as(
        "SELECT app.tenant_id(), current_setting('work_mem'), count(*), bool_and(tenant_id = app.tenant_id())
         FROM tenant.instrument",
    )
    .fetch_one(&mut tx)
    .await;
    match seen {
        Ok((tenant, memory, rows, own)) => {
            assert_eq!((tenant, memory.as_str()), (scope.tenant_id().as_uuid(), "4MB"));
            assert_eq!((rows, own), (20, true));
        }
        Err(error) => {
            let code = super::sqlstate(&error);
            panic!("{error} (another's: {})", PROVOKED.contains(&code.as_str()));
        }
    }
    tx.commit().await.expect("a transaction that does nothing wrong commits");
}

/// After the storm: as many connections as ever can be had at once, and no more exist.
async fn capacity_is_whole(lab: &Lab, db: &TenantDb, connections: u32) {
    let mut held = Vec::new();
    for _ in 0..connections {
        held.push(begin(db, &lab.scopes[0], Access::Write).await);
    }
    // The control connection that cancels statements is outside the pool.
    let most = i64::from(connections) + 1;
    let backends = lab.backends("true").await;
    assert!(backends <= most, "{backends} backends of a pool of {connections}");
    for tx in held {
        tx.commit().await.unwrap();
    }
    lab.until_backends("state <> 'idle'", 0).await;
    let locks = "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
                 WHERE a.datname = current_database() AND a.usename = 'stagesub_app'";
    until("no lock is left", async || scalar::<i64>(&mut connect(&lab.admin).await, locks).await == 0).await;
}
