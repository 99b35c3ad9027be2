//! Writes in one message on a real PostgreSQL: fenced as any, kept whole or not at all, and told apart when nobody knows.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Row as _};
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

use crate::one_message::{TEXTS, end_backend, session};
use crate::tenant_tx::lab::{Lab, scalar, sqlstate, until};

const ADD: PreparedWrite = PreparedWrite::new(
    "add_instrument",
    "INSERT INTO tenant.instrument (tenant_id, no, name, created_at, updated_at)
     VALUES ($1, $2, $3, now(), now()) RETURNING no, name",
    2,
);
const RENAME: PreparedWrite = PreparedWrite::new(
    "rename_instrument",
    "UPDATE tenant.instrument SET name = $3 WHERE tenant_id = $1 AND no = $2",
    2,
);
/// Says nothing of the tenant: the policies alone hold it.
const RENAME_ALL: PreparedWrite = PreparedWrite::new(
    "rename_all",
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

async fn add_as(db: &TenantDb, scope: &TenantScope, no: i64, name: &str) -> Result<Written, WriteError> {
    db.write_in_one_message(scope, &ADD, &[no.into(), name.into()]).await
}

/// Of one name there may be one: each has its number in its name.
async fn add(db: &TenantDb, scope: &TenantScope, no: i64, kind: &str) -> Result<Written, WriteError> {
    add_as(db, scope, no, &format!("{kind} {no}")).await
}

/// Numbers and names of the instruments, as the administrator sees them.
async fn instruments(lab: &Lab, scope: &TenantScope) -> Vec<(i64, String)> {
    sqlx::query_as("SELECT no, name FROM tenant.instrument WHERE tenant_id = $1 ORDER BY no")
        .bind(scope.tenant_id().as_uuid())
        .fetch_all(&mut connect(&lab.admin).await)
        .await
        .expect("they can be read")
}

fn as_given(names: &[(i64, &str)]) -> Vec<(i64, String)> {
    names.iter().map(|(no, name)| (*no, (*name).to_owned())).collect()
}

fn named(kinds: &[(i64, &str)]) -> Vec<(i64, String)> {
    kinds.iter().map(|(no, kind)| (*no, format!("{kind} {no}"))).collect()
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
        for (no, text) in (1..).zip(TEXTS) {
            let written = add_as(&db, ours, no, text).await.expect("it is written");
            assert_eq!(written.affected, 1);
            let row = &written.rows[0];
            assert_eq!((row.get::<i64, _>(0), row.get::<&str, _>(1)), (no, text));
        }
        assert_eq!(instruments(&lab, ours).await, as_given(&(1..).zip(TEXTS).collect::<Vec<_>>()));
        let none = db.write_in_one_message(theirs, &RENAME, &[1.into(), "x".into()]).await.unwrap();
        assert_eq!((none.affected, none.rows.len()), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_value_arrives_as_it_was_given() {
    const KEEP: PreparedWrite = PreparedWrite::new(
        "keep_answer",
        "INSERT INTO tenant.idempotency_key
             (tenant_id, user_id, key, fingerprint, status, location, content_type, body, created_at, updated_at)
         VALUES ($1, $2, $3, $4, CASE WHEN $5 THEN $6::integer END, $7, $8, $9, $10, $10)",
        9,
    );
    let at = DateTime::<Utc>::from_timestamp_micros(-1_234_567_890_123).expect("a time");
    let (user, print) = (Uuid::now_v7(), [0xA7_u8; 32]);
    let body: Vec<u8> = (0..=255).collect();
    for bounds in [BoundsBy::Session, BoundsBy::Transaction] {
        let lab = Lab::start_with(one_connection(bounds)).await;
        let scope = &lab.scopes[0];
        let values: [Value<'_>; 9] = [
            user.into(),
            "nyckel'1".into(),
            print.as_slice().into(),
            true.into(),
            201.into(),
            None::<&str>.into(),
            Some("application/json").into(),
            body.as_slice().into(),
            at.into(),
        ];
        let written = lab.tenants().write_in_one_message(scope, &KEEP, &values).await.expect("it is written");
        assert_eq!(written.affected, 1);
        let kept = sqlx::query("SELECT * FROM tenant.idempotency_key")
            .fetch_one(&mut connect(&lab.admin).await)
            .await
            .expect("it is there");
        assert_eq!(kept.get::<Uuid, _>("tenant_id"), scope.tenant_id().as_uuid());
        assert_eq!(kept.get::<Uuid, _>("user_id"), user);
        assert_eq!(kept.get::<&str, _>("key"), "nyckel'1");
        assert_eq!(kept.get::<&[u8], _>("fingerprint"), print);
        assert_eq!(kept.get::<i32, _>("status"), 201);
        assert_eq!(kept.get::<Option<&str>, _>("location"), None);
        assert_eq!(kept.get::<&str, _>("content_type"), "application/json");
        assert_eq!(kept.get::<&[u8], _>("body"), body);
        assert_eq!(kept.get::<DateTime<Utc>, _>("created_at"), at);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_tenants_row_is_changed_made_or_named() {
    let lab = Lab::start_with(one_connection(BoundsBy::Session)).await;
    let db = lab.tenants();
    let [ours, theirs] = &lab.scopes;
    add(&db, ours, 1, "Violin").await.expect("it is written");
    add(&db, theirs, 1, "Viola").await.expect("it is written");
    let all = db.write_in_one_message(ours, &RENAME_ALL, &[7.into()]).await.expect("it is written");
    assert_eq!(all.affected, 1, "the policies hold what the statement does not say");
    let planted = db.write_in_one_message(ours, &PLANT, &[theirs.tenant_id().as_uuid().into()]).await;
    assert!(fails_with(&planted, "42501"), "{planted:?}");
    let text = format!("x', tenant_id = '{}", ours.tenant_id());
    for value in [text.as_str(), "\\'; DELETE FROM tenant.instrument; --", "$1", r"\u0027"] {
        let written = db.write_in_one_message(theirs, &RENAME, &[1.into(), value.into()]).await.unwrap();
        assert_eq!(written.affected, 1);
        assert_eq!(instruments(&lab, theirs).await, as_given(&[(1, value)]));
    }
    assert_eq!(instruments(&lab, ours).await, named(&[(1, "Violin")]));
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
        let refused = add(&impatient, ours, no, "Violin").await;
        assert!(matches!(refused, Err(WriteError::Begin(BeginError::Moved))), "{set}: {refused:?}");
        assert!(add(&impatient, theirs, no, "Viola").await.is_ok());
        run(&mut admin, &fence("state = 'active', epoch = 1")).await;
    }
    assert_eq!(instruments(&lab, ours).await, []);
    run(&mut admin, &fence("epoch = 2")).await;
    lab.directory.place_when_forgotten(ours.tenant_id(), Placement::Shared(lab.database), 2);
    add(&db, ours, 9, "Violin").await.expect("a fresh placement is asked for");
    assert_eq!(instruments(&lab, ours).await, named(&[(9, "Violin")]));
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
        let write = add(&db, ours, no, "Violin");
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
    assert_eq!(instruments(&lab, ours).await, named(&[(1, "Violin")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_held_for_too_long_is_told_as_such() {
    let timeouts = TxTimeouts { lock: Duration::from_millis(50), ..TxTimeouts::default() };
    let lab = Lab::start_with(TenantPoolSettings { timeouts, ..one_connection(BoundsBy::Session) }).await;
    let [ours, _] = &lab.scopes;
    let mut mover = connect(&lab.admin).await;
    let close = format!("SELECT pg_advisory_lock(hashtextextended('{}', 7))", ours.tenant_id());
    run(&mut mover, &close).await;
    let written = add(&lab.tenants(), ours, 1, "Violin").await;
    assert!(matches!(written, Err(WriteError::Begin(BeginError::Locked(_)))), "{written:?}");
    run(&mut mover, "SELECT pg_advisory_unlock_all()").await;
    add(&lab.tenants(), ours, 1, "Violin").await.expect("it is written");
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
            add(&db, scope, no, "Violin").await.expect("it is written");
            let name = format!("Viola {no}");
            let values = [no.into(), name.as_str().into()];
            let renamed = db.write_in_one_message(scope, &RENAME, &values).await.expect("it is written");
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
        "UPDATE tenant.instrument SET name = 'Changed' WHERE tenant_id = $1 AND no = $2 RETURNING 1 / (no - no)",
        1,
    );
    const SLOW: PreparedWrite = PreparedWrite::new(
        "slow",
        "UPDATE tenant.instrument SET name = 'Changed' WHERE tenant_id = $1 AND no = $2 RETURNING pg_sleep(600)",
        1,
    );
    const NO_TABLE: PreparedWrite =
        PreparedWrite::new("no_table", "DELETE FROM tenant.nothing WHERE tenant_id = $1 AND no = $2", 1);
    let timeouts = TxTimeouts { statement: Duration::from_millis(100), ..TxTimeouts::default() };
    for bounds in [BoundsBy::Session, BoundsBy::Transaction] {
        let lab = Lab::start_with(TenantPoolSettings { timeouts, ..one_connection(bounds) }).await;
        let db = lab.tenants();
        let [ours, _] = &lab.scopes;
        add(&db, ours, 1, "Violin").await.expect("it is written");
        let deferred = "ALTER TABLE tenant.instrument ADD CONSTRAINT twice UNIQUE (tenant_id, display_order)
            DEFERRABLE INITIALLY DEFERRED";
        run(&mut connect(&lab.admin).await, deferred).await;
        add(&db, ours, 2, "Viola").await.expect("it is written");
        for (what, values, code) in [
            (&WRONG, vec![Value::Int(1)], "22012"),
            (&SLOW, vec![Value::Int(1)], "57014"),
            (&NO_TABLE, vec![Value::Int(1)], "42P01"),
            (&ADD, vec![Value::Int(1), Value::Text("Twice")], "23505"),
            (&RENAME, vec![Value::Text("one"), Value::Text("Changed")], "22P02"),
            // Refused by the commit itself.
            (&RENAME_ALL, vec![Value::Int(5)], "23505"),
        ] {
            for _ in 0..2 {
                let failed = db.write_in_one_message(ours, what, &values).await;
                assert!(fails_with(&failed, code), "{}: {failed:?}", what.name());
                assert_eq!(instruments(&lab, ours).await, named(&[(1, "Violin"), (2, "Viola")]));
            }
        }
        assert_eq!(lab.backends("true").await, 1, "it is the same connection");
        let prepared = if bounds == BoundsBy::Session { 5 } else { 0 };
        assert_eq!(session(&db, ours).await.0, prepared, "{bounds:?}");
        let nul = add_as(&db, ours, 3, "a\0b").await;
        assert!(matches!(&nul, Err(WriteError::Statement(sqlx::Error::Encode(_)))), "{nul:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_lost_its_statement_writes_once_all_the_same() {
    const NAMESAKE: PreparedWrite = PreparedWrite::new(
        "add_instrument",
        "UPDATE tenant.instrument SET display_order = $2 WHERE tenant_id = $1 AND name <> $3",
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
        add(&db, ours, 10 * no, "Violin").await.expect("it is written");
        if as_owner {
            run(&mut connect(&lab.admin).await, meddle).await;
        } else {
            let mut tx = db.begin(ours, Access::Read).await.expect("it begins");
            sqlx::raw_sql(AssertSqlSafe(meddle.to_owned())).execute(&mut tx).await.expect("it is done");
            tx.commit().await.expect("it ends");
        }
        let written = add(&db, ours, 10 * no + 1, "Viola").await.expect("it is written");
        assert_eq!(written.affected, 1, "{meddle}");
        expected.extend([(10 * no, "Violin"), (10 * no + 1, "Viola")]);
        assert_eq!(instruments(&lab, ours).await, named(&expected), "{meddle}");
    }
    // Another statement of that name is not taken for it.
    let written = db.write_in_one_message(ours, &NAMESAKE, &[40.into(), "x".into()]).await;
    assert_eq!(written.expect("it is written").affected, 4);
    assert_eq!(instruments(&lab, ours).await, named(&expected));
    // Somebody else's statement of that name, on a connection on which this was never prepared.
    end_backend(&lab).await;
    let mut tx = db.begin(ours, Access::Read).await.expect("it begins");
    sqlx::raw_sql("PREPARE add_instrument AS SELECT 1").execute(&mut tx).await.expect("it is done");
    tx.commit().await.expect("it ends");
    add(&db, ours, 50, "Viola").await.expect("it is written");
    expected.push((50, "Viola"));
    assert_eq!(instruments(&lab, ours).await, named(&expected));
    until("one backend is left", async || lab.backends("true").await == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_server_ended_while_it_lay_idle_is_replaced_unnoticed() {
    let lab = Lab::start_with(one_connection(BoundsBy::Session)).await;
    let db = lab.tenants();
    let [ours, _] = &lab.scopes;
    for no in 1..=3 {
        let written = add(&db, ours, no, "Violin").await.expect("it is written");
        assert_eq!(written.affected, 1);
        end_backend(&lab).await;
        // Such a one may still owe the answer to the end of a read.
        if no == 2 {
            db.begin(ours, Access::Read).await.expect("it begins").commit().await.expect("it ends");
            end_backend(&lab).await;
        }
    }
    assert_eq!(instruments(&lab, ours).await.len(), 3);
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
            add(&db, ours, 10 * no, "Violin").await.expect("it is written");
            kept.push((10 * no, "Violin"));
        }
        proxy.cut(cut, 1);
        let unknown = add(&db, ours, no, "Viola").await;
        assert!(matches!(unknown, Err(WriteError::Unknown(_))), "{cut:?}: {unknown:?}");
        if cut == Cut::AfterCommit {
            kept.push((no, "Viola"));
        }
        kept.sort_unstable();
        until("the cut connection is gone", async || lab.backends("true").await == 0).await;
        assert_eq!(instruments(&lab, ours).await, named(&kept), "{cut:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_dropped_at_any_point_is_kept_whole_or_not_at_all() {
    let lab = Lab::start_with(one_connection(BoundsBy::Session)).await;
    let db = lab.tenants();
    let [ours, theirs] = &lab.scopes;
    let untouched = session(&db, ours).await.1;
    let (mut finished, mut no) = (0, 0);
    for polls in (1..12).cycle().take(120) {
        if polls % 2 == 0 {
            end_backend(&lab).await;
        }
        no += 1;
        let write = polled(polls, add(&db, ours, no, "Violin")).await;
        finished += usize::from(write.is_some());
        let other = add(&db, theirs, no, "Viola").await.expect("it is written");
        assert_eq!(other.affected, 1, "after {polls} polls");
        assert_eq!(session(&db, theirs).await, (1, untouched.clone()), "after {polls} polls");
    }
    assert!(finished < 120, "some were dropped");
    let count: i64 = scalar(
        &mut connect(&lab.admin).await,
        "SELECT count(*) FROM tenant.instrument WHERE name LIKE 'Violin %'",
    )
    .await;
    assert!(usize::try_from(count).unwrap() >= finished, "{count} of {finished}");
    assert_eq!(lab.backends("state <> 'idle'").await, 0);
}
