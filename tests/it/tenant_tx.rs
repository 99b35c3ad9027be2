//! The tenant's transaction on a real PostgreSQL: what it binds, what it refuses, and what is left of it when
//! its owner goes away in the middle.

mod endings;
pub(crate) mod lab;
mod storm;

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Row};
use stagesub_storage::error::CommitError;
use stagesub_storage::factory::TenantDb;
use stagesub_storage::fence::{AdmitError, admit_tenant};
use stagesub_storage::patience::MovePatience;
use stagesub_storage::pool::{BoundsBy, TenantPoolSettings, TxTimeouts};
use stagesub_storage::tx::TenantTx;
use stagesub_tenancy::{
    Access, BeginError, DatabaseId, OpenError, Placement, PlacementEpoch, RouteError, TenantId, TenantScope,
};
use stagesub_tests::database::{connect, run};
use stagesub_tests::storm::polled;
use uuid::Uuid;

use lab::{Lab, scalar, sqlstate, until};

const INSERT: &str = "INSERT INTO tenant.instrument (tenant_id, no, name, created_at, updated_at)
                      VALUES ($1, $2, $3, now(), now())";

/// Writes an instrument for the transaction's tenant.
async fn insert(tx: &mut TenantTx, no: i64, name: &str) -> Result<(), sqlx::Error> {
    let tenant = tx.tenant().as_uuid();
    sqlx::query(INSERT).bind(tenant).bind(no).bind(name).execute(tx).await.map(|_| ())
}

/// Who is bound, and a setting that is nobody's own.
async fn bound_and_memory(tx: &mut TenantTx) -> (TenantId, String) {
    let row = sqlx::query("SELECT app.tenant_id(), current_setting('work_mem')").fetch_one(tx).await;
    let row = row.expect("a bound transaction can read");
    (TenantId::from_uuid(row.get(0)), row.get(1))
}

/// Every instrument that the transaction can see, whoever's it is.
async fn visible(tx: &mut TenantTx) -> Vec<(TenantId, String)> {
    sqlx::query("SELECT tenant_id, name FROM tenant.instrument ORDER BY tenant_id, no")
        .fetch_all(tx)
        .await
        .expect("a bound transaction can read")
        .iter()
        .map(|row| (TenantId::from_uuid(row.get(0)), row.get(1)))
        .collect()
}

async fn begin(db: &TenantDb, scope: &TenantScope, access: Access) -> TenantTx {
    db.begin(scope, access).await.expect("the transaction begins")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_tenant_sees_what_it_committed_and_nothing_else() {
    let lab = Lab::start(2).await;
    let db = lab.tenants();
    for scope in &lab.scopes {
        let mut tx = begin(&db, scope, Access::Write).await;
        insert(&mut tx, 1, scope.code().as_str()).await.unwrap();
        tx.commit().await.unwrap();
    }
    for scope in &lab.scopes {
        let mut tx = begin(&db, scope, Access::Read).await;
        let own = (scope.tenant_id(), scope.code().as_str().to_owned());
        assert_eq!(visible(&mut tx).await, [own]);
        tx.commit().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_writes_nothing_and_holds_up_no_move() {
    let lab = Lab::start(1).await;
    let db = lab.tenants();
    let [scope, _] = &lab.scopes;
    let exclusive = format!("SELECT pg_try_advisory_xact_lock(hashtextextended('{}', 7))", scope.tenant_id());
    let mut mover = connect(&lab.admin).await;

    let mut reader = begin(&db, scope, Access::Read).await;
    assert!(scalar::<bool>(&mut mover, &exclusive).await, "a reader takes no lock");
    assert_eq!(sqlstate(&insert(&mut reader, 1, "Violin").await.unwrap_err()), "25006");
    drop(reader);

    let writer = begin(&db, scope, Access::Write).await;
    assert!(!scalar::<bool>(&mut mover, &exclusive).await, "a writer holds the tenant's lock");
    writer.commit().await.unwrap();
    assert!(scalar::<bool>(&mut mover, &exclusive).await, "a writer that ended does not");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_statement_makes_the_commit_fail() {
    let lab = Lab::start(1).await;
    let db = lab.tenants();
    let [scope, _] = &lab.scopes;
    let mut tx = begin(&db, scope, Access::Write).await;
    insert(&mut tx, 1, "Violin").await.unwrap();
    assert_eq!(sqlstate(&insert(&mut tx, 1, "Viola").await.unwrap_err()), "23505");
    // The error was swallowed; the server would answer COMMIT with ROLLBACK, and sqlx calls that Ok.
    assert!(matches!(tx.commit().await, Err(CommitError::Refused(_))));
    assert_eq!(visible(&mut begin(&db, scope, Access::Read).await).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_ended_behind_its_back_does_not_commit() {
    let lab = Lab::start(1).await;
    let db = lab.tenants();
    let [scope, _] = &lab.scopes;
    for ending in ["COMMIT", "ROLLBACK"] {
        let mut tx = begin(&db, scope, Access::Write).await;
        sqlx::raw_sql(ending).execute(&mut tx).await.unwrap();
        assert_eq!(sqlstate(&insert(&mut tx, 1, "Violin").await.unwrap_err()), "25006", "sessions read");
        let read = sqlx::query("SELECT no FROM tenant.instrument").fetch_all(&mut tx).await;
        assert_eq!(sqlstate(&read.unwrap_err()), "22P02", "no tenant is bound");
        assert!(matches!(tx.commit().await, Err(CommitError::Refused(_))), "after {ending}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_is_over_on_the_server_though_nobody_waits_for_it() {
    let lab = Lab::start(1).await;
    let db = lab.tenants();
    let [ours, theirs] = &lab.scopes;
    let mut tx = begin(&db, ours, Access::Write).await;
    for no in 1..=3 {
        insert(&mut tx, no, &format!("Violin {no}")).await.unwrap();
    }
    tx.commit().await.unwrap();

    // Nobody comes who would end it.
    let mut whole = begin(&db, ours, Access::Read).await;
    assert_eq!(visible(&mut whole).await.len(), 3);
    whole.commit().await.unwrap();
    lab.until_backends("state <> 'idle'", 0).await;

    // Text may have done something to the transaction.
    let mut text = begin(&db, ours, Access::Read).await;
    sqlx::raw_sql("COMMIT; BEGIN").execute(&mut text).await.unwrap();
    text.commit().await.unwrap();
    lab.until_backends("state <> 'idle'", 0).await;

    // What was not read to its end has answers outstanding.
    let mut part = begin(&db, ours, Access::Read).await;
    let numbers = "SELECT no FROM tenant.instrument, pg_sleep(0) ORDER BY no";
    let mut rows = sqlx::query(numbers).fetch(&mut part);
    assert!(rows.try_next().await.unwrap().is_some());
    drop(rows);
    part.commit().await.unwrap();
    lab.until_backends("state <> 'idle'", 0).await;

    // So has what failed.
    let mut failed = begin(&db, ours, Access::Read).await;
    let error = sqlx::query("SELECT 1 / 0").execute(&mut failed).await.unwrap_err();
    assert_eq!(sqlstate(&error), "22012");
    failed.commit().await.unwrap();
    lab.until_backends("state <> 'idle'", 0).await;
    assert_eq!(visible(&mut begin(&db, theirs, Access::Read).await).await, []);

    // A server that takes the session away before its last answer was seen: the next has another.
    let mut last = begin(&db, ours, Access::Read).await;
    assert_eq!(visible(&mut last).await.len(), 3);
    last.commit().await.unwrap();
    end_backends(&lab).await;
    assert_eq!(visible(&mut begin(&db, theirs, Access::Read).await).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_closed_waits_for_no_read_that_is_over() {
    let lab = Lab::start(4).await;
    let db = lab.tenants();
    let mut open = Vec::new();
    for scope in lab.scopes.iter().cycle().take(4) {
        open.push(begin(&db, scope, Access::Read).await);
    }
    for tx in open {
        tx.commit().await.unwrap();
    }
    // A pool waits 5 s for those that do not come back.
    let closed = tokio::time::timeout(Duration::from_secs(4), lab.router.shutdown()).await;
    assert!(closed.is_ok(), "it waited for one that lingers");
    lab.until_backends("true", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_waited_for_once_and_costs_no_connection() {
    let timeouts = TxTimeouts { lock: Duration::from_millis(50), ..TxTimeouts::default() };
    let pool = TenantPoolSettings { max_connections: 1, timeouts, ..TenantPoolSettings::default() };
    let lab = Lab::start_with(pool).await;
    let db = lab.tenants();
    let [ours, theirs] = &lab.scopes;
    let mut mover = connect(&lab.admin).await;
    let lock = format!("BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('{}', 7))", ours.tenant_id());
    run(&mut mover, &lock).await;
    let read = async |lingers: bool| {
        let mut tx = begin(&db, theirs, Access::Read).await;
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut tx).await.unwrap();
        if !lingers {
            sqlx::raw_sql("SELECT 1").execute(&mut tx).await.unwrap();
        }
        tx.commit().await.unwrap();
        pid
    };
    let pid = read(true).await;
    for lingers in [true, false, true] {
        let begun = db.begin(ours, Access::Write).await;
        assert!(matches!(begun, Err(BeginError::Locked(_))), "{begun:?}");
        assert_eq!(read(lingers).await, pid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_while_committing_is_told_apart() {
    let lab = Lab::start(1).await;
    let [scope, _] = &lab.scopes;
    let mut tx = begin(&lab.tenants(), scope, Access::Write).await;
    insert(&mut tx, 1, "Violin").await.unwrap();
    end_backends(&lab).await;
    assert!(matches!(tx.commit().await, Err(CommitError::Unknown(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_session_end_with_the_transaction() {
    let lab = Lab::start(1).await;
    let db = lab.tenants();
    let [ours, theirs] = &lab.scopes;
    for commits in [true, false] {
        let mut tx = begin(&db, ours, Access::Write).await;
        let bind = format!("SET app.tenant_id = '{}'; SET work_mem = '3MB'", ours.tenant_id());
        sqlx::raw_sql(AssertSqlSafe(bind)).execute(&mut tx).await.unwrap();
        if commits {
            tx.commit().await.unwrap();
        } else {
            drop(tx);
        }
        let mut tx = begin(&db, theirs, Access::Read).await;
        assert_eq!(bound_and_memory(&mut tx).await, (theirs.tenant_id(), "4MB".to_owned()));
        tx.commit().await.unwrap();
    }
}

/// A statement that reads rows may call a routine that sets something for the session.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_read_did_is_undone_whoever_ends_it() {
    let lab = Lab::start(1).await;
    let db = lab.tenants();
    let [ours, theirs] = &lab.scopes;
    let mut owner = connect(&lab.admin).await;
    run(
        &mut owner,
        "CREATE FUNCTION public.remember() RETURNS text LANGUAGE sql SECURITY DEFINER
         RETURN set_config('work_mem', '3MB', false);
         GRANT EXECUTE ON FUNCTION public.remember() TO stagesub_app",
    )
    .await;
    for waits in [false, true] {
        for access in [Access::Read, Access::Write] {
            let mut tx = begin(&db, ours, Access::Read).await;
            let set: String =
                sqlx::query_scalar("SELECT public.remember()").fetch_one(&mut tx).await.unwrap();
            assert_eq!(set, "3MB");
            tx.commit().await.unwrap();
            if waits {
                lab.until_backends("state <> 'idle'", 0).await;
            }
            let mut tx = begin(&db, theirs, access).await;
            let begun =
                "SELECT current_setting('transaction_read_only'), current_setting('transaction_isolation'),
                         current_setting('transaction_deferrable')";
            let begun: (String, String, String) = sqlx::query_as(begun).fetch_one(&mut tx).await.unwrap();
            let reads = if access == Access::Read { "on" } else { "off" };
            assert_eq!(begun, (reads.to_owned(), "read committed".to_owned(), "off".to_owned()));
            assert_eq!(bound_and_memory(&mut tx).await, (theirs.tenant_id(), "4MB".to_owned()));
            tx.commit().await.unwrap();
        }
    }
}

/// Each transaction has its bounds, whoever knows them, and however the one before set its own.
#[tokio::test(flavor = "multi_thread")]
async fn each_transaction_has_its_bounds_again() {
    const BOUNDS: [(&str, &str); 3] = [
        ("statement_timeout", "15s"),
        ("lock_timeout", "50ms"),
        ("idle_in_transaction_session_timeout", "30s"),
    ];
    let timeouts = TxTimeouts { lock: Duration::from_millis(50), ..TxTimeouts::default() };
    for bounds in [BoundsBy::Session, BoundsBy::Transaction] {
        let pool =
            TenantPoolSettings { max_connections: 1, timeouts, bounds, ..TenantPoolSettings::default() };
        let lab = Lab::start_with(pool).await;
        let db = lab.tenants();
        for access in [Access::Write, Access::Read, Access::Write] {
            let mut tx = begin(&db, &lab.scopes[0], access).await;
            for (name, wanted) in BOUNDS {
                let show = AssertSqlSafe(format!("SHOW {name}"));
                let shown: String = sqlx::query_scalar(show).fetch_one(&mut tx).await.unwrap();
                assert_eq!(shown, wanted, "{name} by {bounds:?}");
                sqlx::query(AssertSqlSafe(format!("SET {name} = 0"))).execute(&mut tx).await.unwrap();
            }
            tx.commit().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_serves_the_tenant_no_more_refuses_it() {
    let lab = Lab::start(1).await;
    let db = lab.tenants().with_patience(MovePatience::within(Duration::from_millis(50)));
    let [ours, theirs] = &lab.scopes;
    let place = Placement::Shared(lab.database);
    let mut owner = connect(&lab.admin).await;
    for fence in ["epoch = 3", "state = 'moving'", "state = 'moved'"] {
        let set =
            |fence| format!("UPDATE app.tenant_fence SET {fence} WHERE tenant_id = '{}'", ours.tenant_id());
        run(&mut owner, &set(fence)).await;
        for access in [Access::Read, Access::Write] {
            let begun = db.begin(ours, access).await;
            assert!(matches!(begun, Err(BeginError::Moved)), "{fence}, {access:?}: {begun:?}");
        }
        begin(&db, theirs, Access::Write).await.commit().await.unwrap();
        run(&mut owner, &set("state = 'active', epoch = 1")).await;
    }
    // A directory that knows better once it is asked afresh: nobody notices.
    run(
        &mut owner,
        &format!("UPDATE app.tenant_fence SET epoch = 2 WHERE tenant_id = '{}'", ours.tenant_id()),
    )
    .await;
    lab.directory.place_when_forgotten(ours.tenant_id(), place, 2);
    begin(&db, ours, Access::Write).await.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_being_moved_is_waited_for_and_others_are_not_held_up() {
    let lab = Lab::start(1).await;
    let db = lab.tenants().with_patience(MovePatience::within(Duration::from_secs(20)));
    let [ours, theirs] = &lab.scopes;
    let mut owner = connect(&lab.admin).await;
    let set = |fence| format!("UPDATE app.tenant_fence SET {fence} WHERE tenant_id = '{}'", ours.tenant_id());
    run(&mut owner, &set("state = 'moving'")).await;
    let moves = async {
        let refused = || lab.directory.forgotten.load(Ordering::Relaxed);
        until("it was refused again and again", async || refused() >= 3).await;
        // The pool has one connection, and whoever waits for the move does not hold it.
        begin(&db, theirs, Access::Write).await.commit().await.unwrap();
        run(&mut owner, &set("state = 'active', epoch = 2")).await;
        lab.directory.place(ours.tenant_id(), Placement::Shared(lab.database), 2);
    };
    let (begun, ()) = tokio::join!(db.begin(ours, Access::Write), moves);
    begun.expect("it begins once the move is over").commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_locked_for_too_long_is_told_to_writers_alone() {
    let timeouts = TxTimeouts { lock: Duration::from_millis(30), ..TxTimeouts::default() };
    let lab =
        Lab::start_with(TenantPoolSettings { max_connections: 1, timeouts, ..Default::default() }).await;
    let db = lab.tenants();
    let [ours, theirs] = &lab.scopes;
    let mut mover = connect(&lab.admin).await;
    let lock = format!("BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('{}', 7))", ours.tenant_id());
    run(&mut mover, &lock).await;
    let refused = db.begin(ours, Access::Write).await;
    assert!(matches!(refused, Err(BeginError::Locked(_))), "{refused:?}");
    begin(&db, ours, Access::Read).await.commit().await.unwrap();
    begin(&db, theirs, Access::Write).await.commit().await.unwrap();
    run(&mut mover, "ROLLBACK").await;
    begin(&db, ours, Access::Write).await.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_and_a_lock_take_no_longer_than_they_may() {
    let short = Duration::from_millis(500);
    let timeouts = TxTimeouts { statement: short, lock: short / 2, ..TxTimeouts::default() };
    let lab =
        Lab::start_with(TenantPoolSettings { max_connections: 2, timeouts, ..Default::default() }).await;
    let db = lab.tenants();
    let [scope, _] = &lab.scopes;
    let mut tx = begin(&db, scope, Access::Write).await;
    insert(&mut tx, 1, "Violin").await.unwrap();
    tx.commit().await.unwrap();

    let mut slow = begin(&db, scope, Access::Read).await;
    let error = sqlx::query("SELECT pg_sleep(600)").execute(&mut slow).await.unwrap_err();
    assert_eq!(sqlstate(&error), "57014", "the statement's own bound");
    drop(slow);

    let row = "SELECT no FROM tenant.instrument WHERE tenant_id = app.tenant_id() FOR UPDATE";
    let mut holder = connect(&lab.admin).await;
    run(&mut holder, "BEGIN; LOCK TABLE tenant.instrument IN ACCESS EXCLUSIVE MODE").await;
    let mut waiting = begin(&db, scope, Access::Write).await;
    let error = sqlx::query(row).execute(&mut waiting).await.unwrap_err();
    assert_eq!(sqlstate(&error), "55P03", "the lock's own bound");
    drop(waiting);
    run(&mut holder, "ROLLBACK").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_does_nothing_for_too_long_is_ended() {
    let timeouts = TxTimeouts { idle: Duration::from_millis(200), ..TxTimeouts::default() };
    let lab =
        Lab::start_with(TenantPoolSettings { max_connections: 1, timeouts, ..Default::default() }).await;
    let db = lab.tenants();
    let [scope, _] = &lab.scopes;
    let idle = begin(&db, scope, Access::Write).await;
    lab.until_backends("state = 'idle in transaction'", 0).await;
    let ended = idle.commit().await;
    assert!(ended.is_err(), "it is not kept");
    begin(&db, scope, Access::Write).await.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_admitted_once_and_never_back_to_an_older_epoch() {
    let lab = Lab::start(1).await;
    let [scope, _] = &lab.scopes;
    let admit = async |epoch| admit_tenant(&lab.migrator, scope.tenant_id(), PlacementEpoch(epoch)).await;
    assert!(admit(1).await.is_ok(), "again");
    assert!(admit(3).await.is_ok(), "at a newer epoch");
    assert!(matches!(admit(2).await, Err(AdmitError::OtherEpoch)));
    run(&mut connect(&lab.admin).await, "UPDATE app.tenant_fence SET state = 'moved'").await;
    assert!(matches!(admit(3).await, Err(AdmitError::OtherEpoch)), "an epoch that ended stays ended");
    assert!(
        admit_tenant(&lab.app, scope.tenant_id(), PlacementEpoch(9)).await.is_err(),
        "not as the application"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_the_one_meant_is_not_used() {
    let lab = Lab::start(1).await;
    let db = lab.tenants();
    let [scope, _] = &lab.scopes;
    let other = DatabaseId::from_uuid(Uuid::now_v7());
    for wrong in [Placement::Shared(other), Placement::Dedicated(lab.database), Placement::Dedicated(other)] {
        lab.directory.place(scope.tenant_id(), wrong, 1);
        let refused = db.begin(scope, Access::Read).await;
        assert!(
            matches!(&refused, Err(BeginError::Route(RouteError::Open(error)))
                if matches!(error.root(), OpenError::WrongDatabase { .. })),
            "{wrong:?}: {refused:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_died_while_idle_are_replaced_unnoticed() {
    let lab = Lab::start(4).await;
    let db = lab.tenants();
    let [scope, _] = &lab.scopes;
    for _ in 0..3 {
        let mut open = Vec::new();
        for _ in 0..4 {
            open.push(begin(&db, scope, Access::Write).await);
        }
        for tx in open {
            tx.commit().await.unwrap();
        }
        assert_eq!(lab.backends("state = 'idle'").await, 4);
        end_backends(&lab).await;
    }
    for _ in 0..8 {
        begin(&db, scope, Access::Write).await.commit().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_abandoned_is_cancelled_and_its_connection_kept() {
    let lab = Lab::start(1).await;
    let db = lab.tenants();
    let [ours, theirs] = &lab.scopes;
    let mut tx = begin(&db, ours, Access::Write).await;
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut tx).await.unwrap();
    let sleeping = sqlx::query("SELECT pg_sleep(600)").execute(&mut tx);
    tokio::select! {
        ended = sleeping => panic!("it sleeps for long: {ended:?}"),
        () = lab.until_backends("wait_event = 'PgSleep'", 1) => {}
    }
    drop(tx);
    // The pool has one connection, so the next transaction waits for the clean-up.
    let mut tx = begin(&db, theirs, Access::Read).await;
    let next: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut tx).await.unwrap();
    assert_eq!(next, pid);
    assert_eq!(lab.backends("wait_event = 'PgSleep'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_finds_every_connection_busy_is_told_in_time() {
    let wait = Duration::from_millis(50);
    let lab = Lab::start_with(TenantPoolSettings { max_connections: 1, wait, ..Default::default() }).await;
    let db = lab.tenants();
    let [ours, theirs] = &lab.scopes;
    let held = begin(&db, ours, Access::Read).await;
    assert!(matches!(db.begin(theirs, Access::Read).await, Err(BeginError::Busy)));
    held.commit().await.unwrap();
    begin(&db, theirs, Access::Read).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_shut_down_leaves_no_backend() {
    let lab = Lab::start(3).await;
    let db = lab.tenants();
    let [scope, _] = &lab.scopes;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(begin(&db, scope, Access::Write).await);
    }
    let committed = open.pop().expect("three were begun");
    committed.commit().await.unwrap();
    // One rolls back, one is dropped in the middle of a statement.
    let mut left = open.pop().expect("two are left");
    polled(1, sqlx::query("SELECT pg_sleep(600)").execute(&mut left)).await;
    drop((left, open));
    lab.router.shutdown().await;
    lab.until_backends("true", 0).await;
    assert!(db.begin(scope, Access::Read).await.is_err());
}

/// Ends every backend of the application in the lab's database, and waits until they are gone.
async fn end_backends(lab: &Lab) {
    let mut admin = connect(&lab.admin).await;
    run(
        &mut admin,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND usename = 'stagesub_app'",
    )
    .await;
    until("the backends are gone", async || lab.backends("true").await == 0).await;
}
