//! Writes in one message on a real PostgreSQL: fenced as any, kept whole or not at all, and told apart when nobody knows.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Row as _};
use stagesub_storage::error::CommitError;
use stagesub_storage::factory::TenantDb;
use stagesub_storage::literal::Value;
use stagesub_storage::one_write::{PreparedWrite, WriteError, Written};
use stagesub_storage::patience::MovePatience;
use stagesub_storage::pool::{BoundsBy, TenantPoolSettings, TxTimeouts};
use stagesub_tenancy::{Access, BeginError, Placement, TenantScope};
use stagesub_tests::cluster::Cluster;
use stagesub_tests::database::{connect, run};
use stagesub_tests::proxy::{Cut, CutProxy};
use stagesub_tests::storm::polled;
use uuid::Uuid;

use crate::one_message::{end_backend, session};
use crate::tenant_tx::lab::{Lab, scalar, sqlstate, until};

const ADD: PreparedWrite = PreparedWrite::new(
    "add_instrument",
    "INSERT INTO tenant.instrument (tenant_id, no, name, display_order, created_at, updated_at)
     VALUES ($1, $2, 'Nr ' || $2::bigint, $3, now(), now()) RETURNING no, name, display_order",
    2,
);
const PLACE: PreparedWrite = PreparedWrite::new(
    "place_instrument",
    "UPDATE tenant.instrument SET display_order = $3 WHERE tenant_id = $1 AND no = $2",
    2,
);
/// Says nothing of the tenant: the policies alone hold it.
const PLACE_ALL: PreparedWrite = PreparedWrite::new(
    "place_all",
    "UPDATE tenant.instrument SET display_order = $2 WHERE $1 IS NOT NULL",
    1,
);
/// Names whose row it is by a value.
const PLANT: PreparedWrite = PreparedWrite::new(
    "plant",
    "INSERT INTO tenant.instrument (tenant_id, no, name, created_at, updated_at)
     SELECT $2::uuid, 99, 'Planted', now(), now() WHERE $1 IS NOT NULL",
    1,
);

/// An instrument's number, and its place in the order.
type Placed = (i64, Option<i32>);

async fn add(db: &TenantDb, scope: &TenantScope, no: i64, place: i32) -> Result<Written, WriteError> {
    db.write_in_one_message(scope, &ADD, &[no.into(), place.into()]).await
}

/// The instruments, as the administrator sees them.
async fn instruments(lab: &Lab, scope: &TenantScope) -> Vec<Placed> {
    sqlx::query_as("SELECT no, display_order FROM tenant.instrument WHERE tenant_id = $1 ORDER BY no")
        .bind(scope.tenant_id().as_uuid())
        .fetch_all(&mut connect(&lab.admin).await)
        .await
        .expect("they can be read")
}

fn placed(all: &[(i64, i32)]) -> Vec<Placed> {
    all.iter().map(|(no, place)| (*no, Some(*place))).collect()
}

fn fails_with(write: &Result<Written, WriteError>, code: &str) -> bool {
    matches!(write, Err(WriteError::Statement(error)) if sqlstate(error) == code)
}

/// Pools of one connection, and who sets the bounds.
fn one_connection(bounds: BoundsBy) -> TenantPoolSettings {
    TenantPoolSettings { max_connections: 1, share: 100, bounds, ..TenantPoolSettings::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_kept_and_says_what_it_did() {
    for bounds in [BoundsBy::Session, BoundsBy::Transaction] {
        let lab = Lab::start_with(one_connection(bounds)).await;
        let db = lab.tenants();
        let [ours, theirs] = &lab.scopes;
        let mut expected = Vec::new();
        for (no, place) in [(1, Some(1_000)), (2, Some(3)), (i64::MAX, None)] {
            let written = db.write_in_one_message(ours, &ADD, &[no.into(), place.into()]).await;
            let written = written.expect("it is written");
            assert_eq!(written.affected, 1);
            let row = &written.rows[0];
            let said: (i64, &str, Option<i32>) = (row.get(0), row.get(1), row.get(2));
            assert_eq!(said, (no, format!("Nr {no}").as_str(), place));
            expected.push((no, place));
        }
        assert_eq!(instruments(&lab, ours).await, expected);
        let none = db.write_in_one_message(theirs, &PLACE, &[1.into(), 2.into()]).await.unwrap();
        assert_eq!((none.affected, none.rows.len()), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_becomes_what_stands_where_it_is_whichever_way_it_is_sent() {
    // A number in a text's place, twice; yes and no; an identifier; none.
    const KEEP: PreparedWrite = PreparedWrite::new(
        "keep_answer",
        "INSERT INTO tenant.idempotency_key
             (tenant_id, user_id, key, fingerprint, status, content_type, body, created_at, updated_at)
         VALUES ($1, $2, coalesce($3, 'none'), decode(repeat('a7', 32), 'hex'), CASE WHEN $4 THEN 201 END,
             CASE WHEN $4 THEN $3 END, CASE WHEN $4 THEN 'x'::bytea END, coalesce($5, now()), now())",
        4,
    );
    for bounds in [BoundsBy::Session, BoundsBy::Transaction] {
        let lab = Lab::start_with(one_connection(bounds)).await;
        let scope = &lab.scopes[0];
        for yes in [true, false] {
            let user = Uuid::now_v7();
            let values = [user.into(), (-7).into(), yes.into(), Value::Null];
            let written = lab.tenants().write_in_one_message(scope, &KEEP, &values).await;
            assert_eq!(written.expect("it is written").affected, 1);
            let kept: (Uuid, String, Option<i32>, Option<String>) = sqlx::query_as(
                "SELECT tenant_id, key, status, content_type FROM tenant.idempotency_key WHERE user_id = $1",
            )
            .bind(user)
            .fetch_one(&mut connect(&lab.admin).await)
            .await
            .expect("it is there");
            let told = yes.then(|| "-7".to_owned());
            assert_eq!(kept, (scope.tenant_id().as_uuid(), "-7".to_owned(), yes.then_some(201), told));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_tenants_row_is_changed_made_or_named() {
    for bounds in [BoundsBy::Session, BoundsBy::Transaction] {
        let lab = Lab::start_with(one_connection(bounds)).await;
        let db = lab.tenants();
        let [ours, theirs] = &lab.scopes;
        add(&db, ours, 1, 1).await.expect("it is written");
        add(&db, theirs, 1, 2).await.expect("it is written");
        let all = db.write_in_one_message(ours, &PLACE_ALL, &[7.into()]).await.expect("it is written");
        assert_eq!(all.affected, 1, "the policies hold what the statement does not say");
        let planted = db.write_in_one_message(ours, &PLANT, &[theirs.tenant_id().as_uuid().into()]).await;
        assert!(fails_with(&planted, "42501"), "{planted:?}");
        assert_eq!(instruments(&lab, ours).await, placed(&[(1, 7)]));
        assert_eq!(instruments(&lab, theirs).await, placed(&[(1, 2)]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_serves_the_tenant_no_more_refuses_the_write() {
    let lab = Lab::start_with(one_connection(BoundsBy::Session)).await;
    let db = lab.tenants();
    let impatient = lab.tenants().with_patience(MovePatience::within(Duration::ZERO));
    let [ours, theirs] = &lab.scopes;
    let mut admin = connect(&lab.admin).await;
    let fence =
        |set: &str| format!("UPDATE app.tenant_fence SET {set} WHERE tenant_id = '{}'", ours.tenant_id());
    for (no, set) in (1..).zip(["epoch = 3", "state = 'moving'", "state = 'moved'"]) {
        run(&mut admin, &fence(set)).await;
        let refused = add(&impatient, ours, no, 1).await;
        assert!(matches!(refused, Err(WriteError::Begin(BeginError::Moved))), "{set}: {refused:?}");
        add(&impatient, theirs, no, 2).await.expect("it is written");
        run(&mut admin, &fence("state = 'active', epoch = 1")).await;
    }
    assert_eq!(instruments(&lab, ours).await, []);
    run(&mut admin, &fence("epoch = 2")).await;
    lab.directory.place_when_forgotten(ours.tenant_id(), Placement::Shared(lab.database), 2);
    add(&db, ours, 9, 1).await.expect("a fresh placement is asked for");
    assert_eq!(instruments(&lab, ours).await, placed(&[(9, 1)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_waited_for_the_fence_sees_what_it_became() {
    let lab = Lab::start_with(one_connection(BoundsBy::Session)).await;
    let db = lab.tenants().with_patience(MovePatience::within(Duration::ZERO));
    let [ours, _] = &lab.scopes;
    let tenant = ours.tenant_id();
    for (no, (set, kept)) in
        (1..).zip([("epoch = 1", true), ("epoch = 2", false), ("epoch = 1, state = 'moving'", false)])
    {
        let mut mover = connect(&lab.admin).await;
        let close = format!("SELECT pg_advisory_lock(hashtextextended('{tenant}', 7))");
        run(&mut mover, &close).await;
        let write = add(&db, ours, no, 1);
        let meanwhile = async {
            lab.until_backends("wait_event_type = 'Lock' AND wait_event = 'advisory'", 1).await;
            let fence = format!("UPDATE app.tenant_fence SET {set} WHERE tenant_id = '{tenant}'");
            run(&mut mover, &fence).await;
            run(&mut mover, "SELECT pg_advisory_unlock_all()").await;
        };
        let (written, ()) = tokio::join!(write, meanwhile);
        assert_eq!(written.is_ok(), kept, "{set}: {written:?}");
        if let Err(error) = written {
            assert!(matches!(error, WriteError::Begin(BeginError::Moved)), "{set}: {error:?}");
        }
        run(&mut connect(&lab.admin).await, "UPDATE app.tenant_fence SET epoch = 1, state = 'active'").await;
    }
    assert_eq!(instruments(&lab, ours).await, placed(&[(1, 1)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_held_for_too_long_is_told_as_such() {
    let timeouts = TxTimeouts { lock: Duration::from_millis(50), ..TxTimeouts::default() };
    let lab = Lab::start_with(TenantPoolSettings { timeouts, ..one_connection(BoundsBy::Session) }).await;
    let [ours, _] = &lab.scopes;
    let mut mover = connect(&lab.admin).await;
    let close = format!("SELECT pg_advisory_lock(hashtextextended('{}', 7))", ours.tenant_id());
    run(&mut mover, &close).await;
    let written = add(&lab.tenants(), ours, 1, 1).await;
    assert!(matches!(written, Err(WriteError::Begin(BeginError::Locked(_)))), "{written:?}");
    run(&mut mover, "SELECT pg_advisory_unlock_all()").await;
    add(&lab.tenants(), ours, 1, 1).await.expect("it is written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_is_prepared_once_and_nothing_of_the_write_stays() {
    for (bounds, kept) in [(BoundsBy::Session, 2), (BoundsBy::Transaction, 0)] {
        let lab = Lab::start_with(one_connection(bounds)).await;
        let db = lab.tenants();
        let (prepared, untouched) = session(&db, &lab.scopes[0]).await;
        assert_eq!(prepared, 0);
        for no in 1..20 {
            let scope = &lab.scopes[usize::try_from(no % 2).unwrap()];
            add(&db, scope, no, 1).await.expect("it is written");
            let values = [no.into(), 2.into()];
            let renamed = db.write_in_one_message(scope, &PLACE, &values).await.expect("it is written");
            assert_eq!(renamed.affected, 1);
            assert_eq!(session(&db, scope).await, (kept, untouched.clone()), "{bounds:?}");
        }
        assert_eq!(lab.backends("true").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_not_kept_and_leaves_the_connection_as_it_was() {
    const WRONG: PreparedWrite = PreparedWrite::new(
        "wrong",
        "UPDATE tenant.instrument SET display_order = 9 WHERE tenant_id = $1 AND no = $2 RETURNING 1 / (no - no)",
        1,
    );
    const SLOW: PreparedWrite = PreparedWrite::new(
        "slow",
        "UPDATE tenant.instrument SET display_order = 9 WHERE tenant_id = $1 AND no = $2 RETURNING pg_sleep(600)",
        1,
    );
    const NO_TABLE: PreparedWrite =
        PreparedWrite::new("no_table", "DELETE FROM tenant.nothing WHERE tenant_id = $1 AND no = $2", 1);
    let timeouts = TxTimeouts { statement: Duration::from_millis(100), ..TxTimeouts::default() };
    for bounds in [BoundsBy::Session, BoundsBy::Transaction] {
        let lab = Lab::start_with(TenantPoolSettings { timeouts, ..one_connection(bounds) }).await;
        let db = lab.tenants();
        let [ours, _] = &lab.scopes;
        add(&db, ours, 1, 1).await.expect("it is written");
        let deferred = "ALTER TABLE tenant.instrument ADD CONSTRAINT twice UNIQUE (tenant_id, display_order)
            DEFERRABLE INITIALLY DEFERRED";
        run(&mut connect(&lab.admin).await, deferred).await;
        add(&db, ours, 2, 2).await.expect("it is written");
        let pid = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND usename = 'stagesub_app'";
        let before: i32 = scalar(&mut connect(&lab.admin).await, pid).await;
        for (what, values, code) in [
            (&WRONG, vec![Value::Int(1)], "22012"),
            (&SLOW, vec![Value::Int(1)], "57014"),
            (&NO_TABLE, vec![Value::Int(1)], "42P01"),
            (&ADD, vec![Value::Int(1), Value::Int(9)], "23505"),
            (&PLACE, vec![Value::Bool(true), Value::Int(9)], "22P02"),
            // Refused by the commit itself.
            (&PLACE_ALL, vec![Value::Int(5)], "23505"),
        ] {
            for _ in 0..2 {
                let failed = db.write_in_one_message(ours, what, &values).await;
                assert!(fails_with(&failed, code), "{}: {failed:?}", what.name());
                assert_eq!(instruments(&lab, ours).await, placed(&[(1, 1), (2, 2)]));
            }
        }
        let after: i32 = scalar(&mut connect(&lab.admin).await, pid).await;
        assert_eq!(after, before, "it is the same connection");
        let prepared = if bounds == BoundsBy::Session { 5 } else { 0 };
        assert_eq!(session(&db, ours).await.0, prepared, "{bounds:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_lost_its_statement_writes_once_all_the_same() {
    const NAMESAKE: PreparedWrite = PreparedWrite::new(
        "add_instrument",
        "UPDATE tenant.instrument SET updated_at = now() WHERE tenant_id = $1 AND no <> $2 AND $3 = 0",
        2,
    );
    let lab = Lab::start_with(one_connection(BoundsBy::Session)).await;
    let db = lab.tenants();
    let [ours, _] = &lab.scopes;
    let mut expected = Vec::new();
    for (no, (meddle, as_owner)) in (1..).zip([
        ("DEALLOCATE add_instrument", false),
        ("ALTER TABLE tenant.instrument ALTER COLUMN name TYPE varchar(100)", true),
    ]) {
        add(&db, ours, 10 * no, 1).await.expect("it is written");
        if as_owner {
            run(&mut connect(&lab.admin).await, meddle).await;
        } else {
            let mut tx = db.begin(ours, Access::Read).await.expect("it begins");
            sqlx::raw_sql(AssertSqlSafe(meddle.to_owned())).execute(&mut tx).await.expect("it is done");
            tx.commit().await.expect("it ends");
        }
        let written = add(&db, ours, 10 * no + 1, 2).await.expect("it is written");
        assert_eq!(written.affected, 1, "{meddle}");
        expected.extend([(10 * no, 1), (10 * no + 1, 2)]);
        assert_eq!(instruments(&lab, ours).await, placed(&expected), "{meddle}");
    }
    // Another statement of that name is not taken for it.
    let written = db.write_in_one_message(ours, &NAMESAKE, &[10.into(), 0.into()]).await;
    assert_eq!(written.expect("it is written").affected, 3);
    assert_eq!(instruments(&lab, ours).await, placed(&expected));
    // Somebody else's statement of that name, on a connection on which this was never prepared.
    end_backend(&lab).await;
    let mut tx = db.begin(ours, Access::Read).await.expect("it begins");
    sqlx::raw_sql("PREPARE add_instrument AS SELECT 1").execute(&mut tx).await.expect("it is done");
    tx.commit().await.expect("it ends");
    add(&db, ours, 50, 2).await.expect("it is written");
    expected.push((50, 2));
    assert_eq!(instruments(&lab, ours).await, placed(&expected));
    until("one backend is left", async || lab.backends("true").await == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_server_ended_while_it_lay_idle_is_replaced_unnoticed() {
    let lab = Lab::start_with(one_connection(BoundsBy::Session)).await;
    let db = lab.tenants();
    let [ours, _] = &lab.scopes;
    for no in 1..=4 {
        let written = add(&db, ours, no, 1).await.expect("it is written");
        assert_eq!(written.affected, 1);
        end_backend(&lab).await;
        // On such a one a read may linger, or the answer to its end be owed.
        if no > 1 {
            let mut tx = db.begin(ours, Access::Read).await.expect("it begins");
            if no == 2 {
                sqlx::raw_sql("SELECT 1").execute(&mut tx).await.expect("it is read");
            }
            tx.commit().await.expect("it ends");
            end_backend(&lab).await;
        }
    }
    assert_eq!(instruments(&lab, ours).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_says_of_a_write_whose_answer_was_lost_that_it_was_not_kept() {
    let proxy = CutProxy::start(Cluster::get().await.admin()).await;
    let pool = one_connection(BoundsBy::Session);
    let lab = Lab::start_with(pool).await.through(&proxy, pool);
    let db = lab.tenants();
    let [ours, _] = &lab.scopes;
    let mut kept = Vec::new();
    for (no, cut) in
        [(1, Cut::BeforeCommit), (2, Cut::AfterCommit), (3, Cut::BeforeCommit), (4, Cut::AfterCommit)]
    {
        // A connection that was used before, too: what was sent on it may have been done.
        if no > 2 {
            add(&db, ours, 10 * no, 1).await.expect("it is written");
            kept.push((10 * no, 1));
        }
        proxy.cut(cut, 1);
        let unknown = add(&db, ours, no, 2).await;
        assert!(matches!(unknown, Err(WriteError::Unknown(_))), "{cut:?}: {unknown:?}");
        if cut == Cut::AfterCommit {
            kept.push((no, 2));
        }
        kept.sort_unstable();
        until("the cut connection is gone", async || lab.backends("true").await == 0).await;
        assert_eq!(instruments(&lab, ours).await, placed(&kept), "{cut:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_dropped_at_any_point_is_kept_whole_or_not_at_all() {
    let lab = Lab::start_with(one_connection(BoundsBy::Session)).await;
    let db = lab.tenants();
    let [ours, theirs] = &lab.scopes;
    let untouched = session(&db, ours).await.1;
    let mut finished = Vec::new();
    for (no, polls) in (1..=120).zip((1..12).cycle()) {
        if polls % 2 == 0 {
            end_backend(&lab).await;
        }
        if let Some(written) = polled(polls, add(&db, ours, no, 1)).await {
            assert_eq!(written.expect("it is written").affected, 1);
            finished.push(no);
        }
        let other = add(&db, theirs, no, 2).await.expect("it is written");
        assert_eq!(other.affected, 1, "after {polls} polls");
        assert_eq!(session(&db, theirs).await, (1, untouched.clone()), "after {polls} polls");
    }
    assert!(finished.len() < 120, "some were dropped");
    let there: Vec<i64> = instruments(&lab, ours).await.iter().map(|(no, _)| *no).collect();
    assert!(finished.iter().all(|no| there.contains(no)), "{finished:?} of {there:?}");
    assert_eq!(lab.backends("state <> 'idle'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_statements_by_one_name_neither_is_taken_for_the_other() {
    const NAMESAKE: PreparedWrite = PreparedWrite::new(
        "add_instrument",
        "DELETE FROM tenant.instrument WHERE tenant_id = $1 AND no < $2 AND $3 = 0",
        2,
    );
    let lab = Lab::start_with(one_connection(BoundsBy::Session)).await;
    let db = lab.tenants().with_patience(MovePatience::within(Duration::ZERO));
    let [ours, theirs] = &lab.scopes;
    add(&db, ours, 1, 1).await.expect("it is written");
    // The second is refused before it is prepared, so that what is prepared by the name is taken away.
    lab.directory.place(theirs.tenant_id(), Placement::Shared(lab.database), 2);
    let refused = db.write_in_one_message(theirs, &NAMESAKE, &[0.into(), 0.into()]).await;
    assert!(matches!(refused, Err(WriteError::Begin(BeginError::Moved))), "{refused:?}");
    let none = db.write_in_one_message(ours, &NAMESAKE, &[0.into(), 0.into()]).await.expect("it is written");
    assert_eq!(none.affected, 0);
    let added = add(&db, ours, 2, 2).await.expect("it is written");
    assert_eq!((added.affected, added.rows.len()), (1, 1));
    assert_eq!(instruments(&lab, ours).await, placed(&[(1, 1), (2, 2)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_gives_up_and_a_pooler_that_lost_one_say_nothing_of_the_write() {
    let proxy = CutProxy::start(Cluster::get().await.admin()).await;
    let pool = one_connection(BoundsBy::Session);
    let lab = Lab::start_with(pool).await.through(&proxy, pool);
    let db = lab.tenants();
    let [ours, _] = &lab.scopes;
    let mut kept = Vec::new();
    for (no, (severity, code)) in
        (1..).zip([("PANIC", "58030"), ("FATAL", "XX000"), ("FATAL", "08P01"), ("FATAL", "58000")])
    {
        proxy.tell(severity, code);
        let unknown = add(&db, ours, no, 1).await;
        assert!(matches!(unknown, Err(WriteError::Unknown(_))), "{severity} {code}: {unknown:?}");
        kept.push((no, 1));
        assert_eq!(instruments(&lab, ours).await, placed(&kept), "{severity} {code}");

        let mut tx = db.begin(ours, Access::Write).await.expect("it begins");
        let touch = "UPDATE tenant.instrument SET updated_at = now() WHERE tenant_id = $1";
        sqlx::query(touch).bind(tx.tenant().as_uuid()).execute(&mut tx).await.expect("it is done");
        proxy.tell(severity, code);
        let unknown = tx.commit().await;
        assert!(matches!(unknown, Err(CommitError::Unknown(_))), "{severity} {code}: {unknown:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_lost_before_anything_was_sent_is_replaced() {
    let proxy = CutProxy::start(Cluster::get().await.admin()).await;
    let pool = one_connection(BoundsBy::Session);
    let lab = Lab::start_with(pool).await.through(&proxy, pool);
    let db = lab.tenants();
    let [ours, _] = &lab.scopes;
    // An end that was sent at once, and one that was left to the next.
    for (no, lingers) in [(1, false), (2, true), (3, false), (4, true)] {
        let mut tx = db.begin(ours, Access::Read).await.expect("it begins");
        if !lingers {
            sqlx::raw_sql("SELECT 1").execute(&mut tx).await.expect("it is read");
        }
        let cuts = proxy.cuts();
        proxy.cut_end_of_read();
        // Nobody waits for the answer, and nobody hears that it does not come.
        tx.commit().await.expect("it ends");
        assert_eq!(add(&db, ours, no, 1).await.expect("it is written").affected, 1);
        assert_eq!(proxy.cuts(), cuts + 1);
    }
    for access in [Access::Read, Access::Write] {
        let tx = db.begin(ours, Access::Read).await.expect("it begins");
        let cuts = proxy.cuts();
        proxy.cut_end_of_read();
        tx.commit().await.expect("it ends");
        let next = db.begin(ours, access).await.expect("it begins on another");
        next.commit().await.expect("it ends");
        assert_eq!(proxy.cuts(), cuts + 1);
    }
    assert_eq!(instruments(&lab, ours).await.len(), 4);
}
