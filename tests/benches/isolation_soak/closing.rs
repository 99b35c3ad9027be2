//! What must be so when the operations are done.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use ::http::header::HOST;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use stagesub_tenancy::{Access, TenantId};
use stagesub_tests::database::{connect, run};
use stagesub_tests::program;
use stagesub_tests::serve::Server;
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use crate::POOL;
use crate::ledger::Ledger;
use crate::process::Process;
use crate::report::Report;
use crate::stage::{House, Stage, count};

/// Longest that what still goes on may take to end. Clean-ups take two seconds at most.
const PATIENCE: Duration = Duration::from_secs(20);
/// Less than the servers wait for a lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(4);

const IN_TRANSACTION: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE usename = 'stagesub_app' AND state <> 'idle'";
const LOCKS: &str = "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
    WHERE a.usename = 'stagesub_app'";
const CONNECTIONS: &str = "SELECT coalesce(max(n), 0) FROM (
    SELECT count(*) AS n FROM pg_stat_activity WHERE usename = 'stagesub_app' GROUP BY datname) AS counts";
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = 'stagesub_app' AND wait_event_type = 'Lock'";

/// Most of the application's connections to one database now.
pub(crate) async fn most_connections(stage: &Stage) -> i64 {
    let mut admin = connect(stage.platform.registry()).await;
    let most = count(&mut admin, CONNECTIONS).await;
    admin.close().await.expect("the connection closes");
    most
}

/// Nothing goes on, and each pool of each process lends as many connections as it ever could.
pub(crate) async fn everything_is_back(
    stage: &Stage,
    servers: &[Server],
    process: &Process,
    report: &mut Report,
) {
    let mut admin = connect(stage.platform.registry()).await;
    report.idle_in_transaction = settled(&mut admin, IN_TRANSACTION, 0, PATIENCE).await;
    report.locks_left = settled(&mut admin, LOCKS, 0, PATIENCE).await;
    for house in stage.one_of_each_database() {
        let begins = (0..POOL).map(|_| process.storm.db.begin(&house.guest.scope, Access::Write));
        // All are held until the last is there.
        let begun = futures::future::join_all(begins).await;
        for begun in begun {
            match begun {
                Ok(tx) => tx.commit().await.unwrap_or_else(|error| report.surprise(format!("{error:?}"))),
                Err(error) => {
                    report
                        .surprise(format!("{} lends less than it could: {error}", house.database.database()));
                    report.capacity_lost += 1;
                }
            }
        }
        for server in servers {
            report.capacity_lost += missing_at(server, house, report).await;
        }
    }
    for house in &stage.houses {
        process.storm.probe(&house.guest).await;
    }
    report.note_connections(most_connections(stage).await);
}

/// How many connections a server cannot lend. It is asked to change one row, which is locked, as often as it has
/// connections: each has to wait on a connection of its own.
async fn missing_at(server: &Server, house: &House, report: &mut Report) -> i64 {
    let mut lock = connect(&house.database).await;
    let row = format!(
        "BEGIN; SELECT FROM tenant.musician WHERE tenant_id = '{}' AND no = 1 FOR UPDATE",
        house.tenant()
    );
    run(&mut lock, &row).await;
    let client = program::http().build().expect("a client");
    let changes = (0..POOL).map(|n| {
        let (id, _) = &house.musicians[0];
        let request = client
            .patch(format!("http://{}/api/v1/musicians/{id}", server.address))
            .header(HOST, &house.orchestra.host)
            .bearer_auth(house.token())
            .json(&json!({ "notes": format!("{} last {n}", house.guest.canary) }));
        tokio::spawn(request.send())
    });
    let changes: Vec<_> = changes.collect();
    let mut admin = connect(&house.database).await;
    let waiting = settled(&mut admin, WAITING, i64::from(POOL), LOCK_PATIENCE).await;
    run(&mut lock, "ROLLBACK").await;
    for change in futures::future::join_all(changes).await {
        match change.expect("a request does not panic") {
            Ok(answer) if answer.status().is_success() => {}
            other => report.surprise(format!("a change that waited for a lock: {other:?}")),
        }
    }
    i64::from(POOL) - waiting
}

/// Asks until the number is the one wanted, or patience ends; the last number.
async fn settled(admin: &mut PgConnection, question: &str, wanted: i64, patience: Duration) -> i64 {
    let begun = Instant::now();
    let mut tick = interval(Duration::from_millis(20));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = count(admin, question).await;
        if now == wanted || begun.elapsed() > patience {
            return now;
        }
    }
}

/// What was promised to be there is, once; what was promised to be gone is; and every row bears the canary of the
/// tenant it belongs to.
pub(crate) async fn nothing_is_lost(stage: &Stage, ledger: &Ledger, report: &mut Report) {
    let mut musicians: HashMap<(TenantId, String), u32> = HashMap::new();
    let mut projects: HashSet<(TenantId, i64)> = HashSet::new();
    let mut names: HashMap<(TenantId, String), u32> = HashMap::new();
    let canaries: HashMap<TenantId, &str> =
        stage.houses.iter().map(|house| (house.tenant(), house.guest.canary.as_str())).collect();
    let mut check = |tenant: Uuid, name: &str| {
        let tenant = TenantId::from_uuid(tenant);
        report.rows_at_rest += 1;
        if !canaries.get(&tenant).is_some_and(|canary| name.starts_with(canary)) {
            report.misplaced_rows += 1;
        }
        tenant
    };
    for house in stage.one_of_each_database() {
        let mut admin = connect(&house.database).await;
        let all: Vec<(Uuid, String, String)> =
            sqlx::query_as("SELECT tenant_id, last_name, email FROM tenant.musician")
                .fetch_all(&mut admin)
                .await
                .expect("the administrator reads everything");
        for (tenant, name, email) in all {
            *musicians.entry((check(tenant, &name), email)).or_default() += 1;
        }
        let all: Vec<(Uuid, i64, String)> = sqlx::query_as("SELECT tenant_id, no, name FROM tenant.project")
            .fetch_all(&mut admin)
            .await
            .expect("the administrator reads everything");
        for (tenant, no, name) in all {
            let tenant = check(tenant, &name);
            projects.insert((tenant, no));
            *names.entry((tenant, name)).or_default() += 1;
        }
        let all: Vec<(Uuid, String)> = sqlx::query_as(
            "SELECT tenant_id, name FROM tenant.instrument UNION ALL SELECT tenant_id, name FROM tenant.position",
        )
        .fetch_all(&mut admin)
        .await
        .expect("the administrator reads everything");
        for (tenant, name) in all {
            check(tenant, &name);
        }
    }
    let lost_musicians = ledger.musicians.iter().filter(|one| !musicians.contains_key(*one)).count();
    let lost_projects = ledger.projects.iter().filter(|one| !projects.contains(*one)).count();
    let undead = ledger.removed_projects.iter().filter(|one| projects.contains(*one)).count();
    report.acknowledged = ledger.musicians.len() + ledger.projects.len() + ledger.removed_projects.len();
    report.lost_writes = lost_musicians + lost_projects + undead;
    report.written_twice =
        musicians.values().filter(|n| **n > 1).count() + names.values().filter(|n| **n > 1).count();
    let doubtful = &ledger.doubtful_musicians;
    report.doubtful_kept =
        (doubtful.iter().filter(|one| musicians.contains_key(*one)).count(), doubtful.len());
}
