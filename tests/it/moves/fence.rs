//! A tenant's fence, closed while writers and readers are at it.

use std::time::Duration;

use futures::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use stagesub_storage::error::{ISOLATION, STALE_EPOCH};
use stagesub_storage::moves::fence::{
    Exclusive, FenceError, Mark, Taken, open, plan_opening, put_flushes_off, reopen, retire, secure,
};
use stagesub_storage::pool::TenantPoolSettings;
use stagesub_tenancy::{Access, BeginError, Placement, PlacementEpoch, TenantId, TenantScope};
use stagesub_tests::cluster::Cluster;
use stagesub_tests::database::connect;
use uuid::Uuid;

use crate::tenant_tx::lab::{Lab, scalar, sqlstate, until};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);
const WRITERS: usize = 16;
const E: PlacementEpoch = PlacementEpoch(1);
const NEXT: PlacementEpoch = PlacementEpoch(2);
const AFTER: PlacementEpoch = PlacementEpoch(3);

fn mark() -> Mark {
    Mark { prefix: format!("stagesub.{}", Uuid::new_v4().simple()), number: 7 }
}

async fn take(lab: &Lab, tenant: TenantId, within: Duration) -> Taken {
    Exclusive::take(connect(&lab.mover).await, tenant, within).await.unwrap()
}

/// The lock, kept however long the test is busy with others.
async fn held(lab: &Lab, tenant: TenantId) -> Exclusive {
    match take(lab, tenant, LONG).await {
        Taken::Held(mut exclusive) => {
            let session = exclusive.session();
            sqlx::raw_sql("SET idle_session_timeout = 0").execute(session).await.unwrap();
            exclusive
        }
        Taken::Busy(_) => panic!("nobody writes"),
    }
}

/// Enters as the application does, in a transaction that stays open.
async fn enter(session: &mut PgConnection, mode: &str, tenant: TenantId, epoch: i64) -> Result<(), String> {
    let text = format!("BEGIN {mode};SET LOCAL app.tenant_id='{tenant}';CALL app.enter({epoch})");
    let entered = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *session).await;
    entered.map(drop).map_err(|error| sqlstate(&error))
}

async fn row(lab: &Lab, tenant: TenantId) -> String {
    let sql = format!("SELECT state || ' ' || epoch FROM app.tenant_fence WHERE tenant_id = '{tenant}'");
    scalar(&mut connect(&lab.admin).await, &sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_that_queued_behind_the_fence_are_refused_every_one() {
    let lab = Lab::start(4).await;
    let tenant = lab.scopes[0].tenant_id();
    for (mode, code) in [
        ("ISOLATION LEVEL READ COMMITTED READ WRITE", STALE_EPOCH),
        ("ISOLATION LEVEL REPEATABLE READ READ WRITE", ISOLATION),
        ("ISOLATION LEVEL SERIALIZABLE READ WRITE", ISOLATION),
    ] {
        let mut admin = connect(&lab.admin).await;
        let reset =
            format!("UPDATE app.tenant_fence SET state = 'active', epoch = 1 WHERE tenant_id = '{tenant}'");
        sqlx::query(AssertSqlSafe(reset)).execute(&mut admin).await.unwrap();
        let mut exclusive = held(&lab, tenant).await;
        let writers = (0..WRITERS).map(|_| {
            let app = lab.app.clone();
            tokio::spawn(async move {
                let mut session = connect(&app).await;
                let refused = enter(&mut session, mode, tenant, 1).await;
                session.close().await.unwrap();
                refused
            })
        });
        let writers: Vec<_> = writers.collect();
        if code == STALE_EPOCH {
            let count = i64::try_from(WRITERS).unwrap();
            lab.until_backends("wait_event_type = 'Lock' AND wait_event = 'advisory'", count).await;
        }
        exclusive.close(E, &mark()).await.unwrap();
        exclusive.release().await.unwrap();
        for refused in join_all(writers).await {
            assert_eq!(refused.unwrap(), Err(code.to_owned()), "{mode}");
        }
    }
    assert_eq!(row(&lab, tenant).await, "moving 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_at_work_keeps_the_lock_and_a_reader_reads_on() {
    let lab = Lab::start(4).await;
    let [ours, theirs] = lab.scopes.each_ref().map(TenantScope::tenant_id);
    let [mut writer, mut reader, mut late] =
        [connect(&lab.app).await, connect(&lab.app).await, connect(&lab.app).await];
    enter(&mut writer, "READ WRITE", ours, 1).await.unwrap();
    enter(&mut reader, "READ ONLY", ours, 1).await.unwrap();

    let Taken::Busy(session) = take(&lab, ours, SHORT).await else { panic!("a writer is at work") };
    let Taken::Held(exclusive) = Exclusive::take(session, theirs, SHORT).await.unwrap() else {
        panic!("nobody of the other tenant writes")
    };
    let mut session = exclusive.release().await.unwrap();
    for bound in ["lock_timeout", "idle_session_timeout"] {
        assert_eq!(scalar::<String>(&mut session, &format!("SHOW {bound}")).await, "0");
    }
    sqlx::raw_sql("COMMIT").execute(&mut writer).await.unwrap();
    let Taken::Held(mut exclusive) = Exclusive::take(session, ours, LONG).await.unwrap() else {
        panic!("nobody writes any more")
    };
    exclusive.close(E, &mark()).await.unwrap();
    let read: i64 = scalar(&mut reader, "SELECT count(*) FROM tenant.musician").await;
    assert_eq!(read, 0, "it had entered before");
    assert_eq!(enter(&mut late, "READ ONLY", ours, 1).await, Err(STALE_EPOCH.to_owned()));
    exclusive.release().await.unwrap();
}

/// Postgres grants a lock to a process that does not run at the moment; when it does, its wait is over by the clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_granted_as_the_wait_for_it_ends_is_not_kept() {
    const WITHIN: Duration = Duration::from_secs(3);
    let lab = Lab::start(4).await;
    let tenant = lab.scopes[0].tenant_id();
    let mut looking = connect(&lab.admin).await;
    let mut writer = connect(&lab.app).await;
    enter(&mut writer, "READ WRITE", tenant, 1).await.unwrap();
    let session = connect(&lab.mover).await;
    let taking = tokio::spawn(Exclusive::take(session, tenant, WITHIN));
    let held = |granted| {
        format!(
            "SELECT coalesce(min(l.pid), 0) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
            WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.mode = 'ExclusiveLock' AND {granted}"
        )
    };
    let (waits, has) = (held("NOT granted"), held("granted"));
    until("the mover waits", async || scalar::<i32>(&mut looking, &waits).await != 0).await;
    let pid = Pid::from_raw(scalar(&mut looking, &waits).await);
    kill(pid, Signal::SIGSTOP).unwrap();
    sqlx::raw_sql("COMMIT").execute(&mut writer).await.unwrap();
    until("the lock is granted", async || scalar::<i32>(&mut looking, &has).await == pid.as_raw()).await;
    let over = format!(
        "SELECT clock_timestamp() > query_start + interval '{} ms' FROM pg_stat_activity WHERE pid = {pid}",
        WITHIN.as_millis() + 100
    );
    until("the wait is over", async || scalar::<bool>(&mut looking, &over).await).await;
    kill(pid, Signal::SIGCONT).unwrap();
    match taking.await.unwrap().unwrap() {
        Taken::Busy(_session) => {
            assert_eq!(scalar::<i32>(&mut looking, &has).await, 0, "it has it and does not know");
        }
        Taken::Held(exclusive) => drop(exclusive),
    }
    enter(&mut writer, "READ WRITE", tenant, 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_is_written_at_its_epoch_or_not_at_all() {
    let lab = Lab::start(4).await;
    let tenant = lab.scopes[0].tenant_id();
    let mut mover = connect(&lab.mover).await;
    let lost = |outcome: Result<(), FenceError>| matches!(outcome, Err(FenceError::Lost { .. }));

    let mut exclusive = held(&lab, tenant).await;
    assert!(lost(exclusive.close(NEXT, &mark()).await), "it is at 1");
    assert!(lost(retire(&mut mover, tenant, NEXT).await), "it is open");
    assert_eq!(row(&lab, tenant).await, "active 1");
    exclusive.close(E, &mark()).await.unwrap();
    assert!(lost(exclusive.close(E, &mark()).await), "one that sleeps and wakes closes nothing");
    assert!(lost(open(&mut mover, tenant, NEXT).await), "the side that was closed is not the target");
    assert_eq!(row(&lab, tenant).await, "moving 2");

    // Given up.
    for _ in 0..2 {
        reopen(&mut mover, tenant, AFTER).await.unwrap();
        assert_eq!(row(&lab, tenant).await, "active 3");
    }
    for earlier in [E, NEXT] {
        assert!(lost(reopen(&mut mover, tenant, earlier).await));
        assert!(lost(open(&mut mover, tenant, earlier).await));
    }
    assert!(lost(retire(&mut mover, tenant, AFTER).await));
    for later in [4, 6] {
        let other = reopen(&mut mover, tenant, PlacementEpoch(later)).await;
        assert!(lost(other), "it was not closed, and not at {}", later - 2);
    }
    assert_eq!(row(&lab, tenant).await, "active 3");

    // And moved.
    exclusive.close(AFTER, &mark()).await.unwrap();
    for _ in 0..2 {
        retire(&mut mover, tenant, PlacementEpoch(4)).await.unwrap();
    }
    assert_eq!(row(&lab, tenant).await, "moved 4");
    for later in [4, 5, 6] {
        assert!(
            lost(reopen(&mut mover, tenant, PlacementEpoch(later)).await),
            "the tenant has gone: {later}"
        );
    }
    assert_eq!(row(&lab, tenant).await, "moved 4");
    let stranger = TenantId::from_uuid(Uuid::now_v7());
    assert!(lost(reopen(&mut mover, stranger, E).await) && lost(retire(&mut mover, stranger, E).await));
    plan_opening(&mut mover, stranger, NEXT).await.unwrap();
    let unknown = format!("SELECT count(*) FROM app.tenant_fence WHERE tenant_id = '{stranger}'");
    assert_eq!(scalar::<i64>(&mut connect(&lab.admin).await, &unknown).await, 0, "it is not opened by that");
    for _ in 0..2 {
        open(&mut mover, stranger, NEXT).await.unwrap();
    }
    assert!(lost(plan_opening(&mut mover, stranger, E).await), "what would be refused is known before");
    assert_eq!(row(&lab, stranger).await, "active 2");
    exclusive.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mark_is_in_the_stream_once_and_behind_what_was_written_before() {
    let lab = Lab::start(4).await;
    let tenant = lab.scopes[0].tenant_id();
    let mut admin = connect(&lab.admin).await;
    let slot = format!("stagesub_test_{}", Uuid::new_v4().simple());
    let make = format!("SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding', true)::text");
    scalar::<String>(&mut admin, &make).await;
    let mut app = connect(&lab.app).await;
    enter(&mut app, "READ WRITE", tenant, 1).await.unwrap();
    let insert =
        format!("INSERT INTO tenant.id_counter (tenant_id, kind, last) VALUES ('{tenant}', 'MUS', 1)");
    sqlx::query(AssertSqlSafe(insert)).execute(&mut app).await.unwrap();
    sqlx::raw_sql("COMMIT").execute(&mut app).await.unwrap();

    let mut exclusive = held(&lab, tenant).await;
    let mark = mark();
    assert!(exclusive.close(AFTER, &mark).await.is_err());
    exclusive.close(E, &mark).await.unwrap();
    exclusive.release().await.unwrap();
    let read = format!(
        "SELECT string_agg(CASE WHEN data ~ 'id_counter' THEN 'write' ELSE 'mark' END, ' ' ORDER BY lsn)
         FROM pg_logical_slot_peek_changes('{slot}', NULL, NULL)
         WHERE data ~ 'id_counter' OR data ~ 'prefix: {}, sz: 1 content:7'",
        mark.stream_prefix()
    );
    assert_eq!(scalar::<String>(&mut admin, &read).await, "write mark");
    let forged = format!("SELECT pg_logical_emit_message(true, '{}', '8')::text", mark.stream_prefix());
    let denied = sqlx::query(AssertSqlSafe(forged)).execute(&mut app).await.unwrap_err();
    assert_eq!(sqlstate(&denied), "42501");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mover_that_goes_or_freezes_gives_the_lock_back() {
    let lab = Lab::start(4).await;
    let scope = &lab.scopes[0];
    let tenant = scope.tenant_id();
    let exclusive = held(&lab, tenant).await;
    drop(exclusive);
    let Taken::Held(mut frozen) = take(&lab, tenant, LONG).await else { panic!("it was given back") };
    let pid: i32 = scalar(frozen.session(), "SELECT pg_backend_pid()").await;
    // It says nothing any more.
    let mut admin = connect(&lab.admin).await;
    let gone = format!("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})");
    until("the server ended its session", async || scalar(&mut admin, &gone).await).await;
    let tx = lab.tenants().begin(scope, Access::Write).await.unwrap();
    tx.commit().await.unwrap();
    assert!(frozen.close(E, &mark()).await.is_err());
    assert!(frozen.release().await.is_err());
    assert_eq!(row(&lab, tenant).await, "active 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_path_waits_out_a_fence_that_is_given_up() {
    let lab = Lab::start(4).await;
    let scope = lab.scopes[0].clone();
    let tenant = scope.tenant_id();
    let mut exclusive = held(&lab, tenant).await;
    let db = lab.tenants();
    let writer = tokio::spawn(async move { db.begin(&scope, Access::Write).await.map(|_| ()) });
    lab.until_backends("wait_event_type = 'Lock' AND wait_event = 'advisory'", 1).await;
    exclusive.close(E, &mark()).await.unwrap();
    lab.directory.place_when_forgotten(tenant, Placement::Shared(lab.database), 3);
    let mut session = exclusive.release().await.unwrap();
    reopen(&mut session, tenant, AFTER).await.unwrap();
    let begun: Result<(), BeginError> = writer.await.unwrap();
    begun.unwrap();
}

/// The server writes its log by itself every ten seconds, so that what is durable before was waited for.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_opened_without_a_wait_is_durable_once_it_is_secured() {
    let cluster = Cluster::apart_with(&[("wal_writer_delay", "10s")]).await;
    let lab = Lab::start_apart(&cluster, TenantPoolSettings::default()).await;
    let tenant = TenantId::from_uuid(Uuid::now_v7());
    let mut mover = connect(&lab.mover).await;
    for epoch in (1..=20).map(PlacementEpoch) {
        put_flushes_off(&mut mover).await.unwrap();
        open(&mut mover, tenant, epoch).await.unwrap();
        assert_eq!(row(&lab, tenant).await, format!("active {epoch}"), "it is there for everybody");
        let written: String = scalar(&mut mover, "SELECT pg_current_wal_insert_lsn()::text").await;
        secure(&mut mover, tenant, epoch).await.unwrap();
        let durable = format!("SELECT pg_current_wal_flush_lsn() >= '{written}'::pg_lsn");
        assert!(scalar::<bool>(&mut mover, &durable).await, "{epoch}");
        assert_eq!(scalar::<String>(&mut mover, "SHOW synchronous_commit").await, "on");
    }
    put_flushes_off(&mut mover).await.unwrap();
    let earlier = secure(&mut mover, tenant, PlacementEpoch(7)).await;
    assert!(matches!(earlier, Err(FenceError::Lost { .. })), "it has moved on: {earlier:?}");
}
