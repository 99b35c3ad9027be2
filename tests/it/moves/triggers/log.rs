//! A log itself: how it begins, is read again, forgets, is looked after, and goes.

use std::time::Duration;

use sqlx::Connection as _;
use stagesub_storage::moves::apply::Writers;
use stagesub_storage::moves::change_log::{ChangeLog, ChangeLogError, LogStream, Polling, remove};
use stagesub_storage::moves::lsn::Lsn;
use stagesub_storage::moves::pgoutput::Message;
use stagesub_storage::moves::progress::{self, Direction};
use stagesub_storage::moves::slot::{Changes, Event, StreamError};
use stagesub_tests::database::{connect, run};

use super::super::streamed::{Pair, chain};
use super::{ACCOUNTS, Logged, PATIENCE};
use crate::tenant_tx::lab::{scalar, sqlstate, until};

const FORWARD: Direction = Direction::Forward;

/// The next transaction that a stream delivers.
async fn transaction(stream: &mut LogStream) -> Vec<Message> {
    let mut messages = Vec::new();
    loop {
        let event = tokio::time::timeout(PATIENCE, stream.next()).await.expect("it comes");
        let Event::Message(message) = event.expect("it streams") else { panic!("a log is never idle") };
        let ends = matches!(message, Message::Commit { .. });
        messages.push(message);
        if ends {
            return messages;
        }
    }
}

/// How many rows came in it.
fn inserts(messages: &[Message]) -> usize {
    messages.iter().filter(|message| matches!(message, Message::Insert { .. })).count()
}

fn ends(messages: &[Message]) -> Lsn {
    let Some(Message::Commit { end_lsn, .. }) = messages.last() else { panic!("{messages:?}") };
    *end_lsn
}

async fn progress_of(logged: &Logged) -> Lsn {
    let mut conn = logged.pair.session(1, "look").await;
    progress::find(&mut conn, logged.pair.move_id, FORWARD)
        .await
        .expect("it can be read")
        .expect("it has begun")
}

/// Everything of the move that is left on the source.
async fn objects(logged: &Logged) -> i64 {
    logged
        .pair
        .read(
            0,
            "SELECT (SELECT count(*) FROM pg_class WHERE relname LIKE 'stagesub\\_move\\_%')
                + (SELECT count(*) FROM pg_proc WHERE proname LIKE 'stagesub\\_move\\_%')
                + (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'stagesub\\_move\\_%')",
        )
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logs_snapshot_and_stream_are_all_and_nothing_twice() {
    let logged = Logged::start().await;
    let pair = &logged.pair;
    pair.write(0, "INSERT INTO moved.account VALUES ('{t}', 1, 'before', 0)").await;
    // Somebody who wrote before the triggers are there: they wait for him.
    let mut early = connect(&pair.admin[0]).await;
    let tenant = pair.tenant;
    run(&mut early, &format!("BEGIN; INSERT INTO moved.account VALUES ('{tenant}', 2, 'early', 0)")).await;
    let mut source = pair.session(0, "log").await;
    let log = logged.log(FORWARD);
    let making = tokio::spawn(async move {
        log.create(&mut source, PATIENCE).await.expect("a log");
        (log, source)
    });
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'moved.account'::regclass";
    until("the triggers wait", async || pair.read::<i64>(0, waits).await > 0).await;
    run(&mut early, "COMMIT").await;
    let (log, mut source) = making.await.expect("it does not panic");

    // Somebody who writes before the snapshot, and commits after.
    let mut late = connect(&pair.admin[0]).await;
    run(&mut late, &format!("BEGIN; INSERT INTO moved.account VALUES ('{tenant}', 3, 'late', 0)")).await;
    // Logged, and in the snapshot as well.
    pair.write(0, "INSERT INTO moved.account VALUES ('{t}', 4, 'both', 0)").await;
    let holder = pair.session(0, "snapshot").await;
    let snapshot = log.begin(&mut source, holder).await.expect("it begins");
    run(&mut late, "COMMIT").await;
    pair.write(0, "INSERT INTO moved.account VALUES ('{t}', 5, 'after', 0)").await;

    let mut seen = pair.session(0, "copy").await;
    run(&mut seen, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await;
    run(&mut seen, &format!("SET TRANSACTION SNAPSHOT '{}'", snapshot.name)).await;
    snapshot.holder.close().await.expect("the snapshot is held by others");
    let copied: String =
        scalar(&mut seen, "SELECT string_agg(email, ',' ORDER BY no) FROM moved.account").await;
    assert_eq!(copied, "before,early,both");
    let mut stream = logged.stream(FORWARD, snapshot.position).await;
    let first = transaction(&mut stream).await;
    assert_eq!(inserts(&first), 2, "late and after: {first:?}");
    assert!(log.begin_empty(&mut source).await.is_err(), "it has begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_stays_in_use_is_not_queued_for() {
    let logged = Logged::start().await;
    let pair = &logged.pair;
    let mut busy_one = connect(&pair.admin[0]).await;
    run(&mut busy_one, &format!("BEGIN; INSERT INTO moved.account VALUES ('{}', 1, 'long', 0)", pair.tenant))
        .await;
    let mut source = pair.session(0, "log").await;
    let log = logged.log(FORWARD);
    let told = log.create(&mut source, Duration::ZERO).await;
    assert!(matches!(&told, Err(ChangeLogError::Busy { table, .. }) if table.name == "account"), "{told:?}");
    // Who comes later writes on.
    pair.write(0, "SET lock_timeout = '1s'; INSERT INTO moved.account VALUES ('{t}', 2, 'other', 0)").await;
    run(&mut busy_one, "COMMIT").await;
    remove(&mut source, log.name(), PATIENCE).await.expect("what there is goes");
    assert_eq!(objects(&logged).await, 0);
    log.create(&mut source, PATIENCE).await.expect("a log");
    // Removing waits for readers, and not for long either.
    run(&mut busy_one, "BEGIN; SELECT count(*) FROM moved.entry").await;
    let told = remove(&mut source, log.name(), Duration::ZERO).await;
    assert!(matches!(&told, Err(ChangeLogError::Busy { table, .. }) if table.name == "entry"), "{told:?}");
    pair.write(0, "SET lock_timeout = '1s'; SELECT count(*) FROM moved.entry").await;
    run(&mut busy_one, "COMMIT").await;
    for _ in 0..2 {
        remove(&mut source, log.name(), PATIENCE).await.expect("it goes");
    }
    assert_eq!(objects(&logged).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_logged_is_refused_before_anything_is_made() {
    let logged = Logged::start().await;
    logged
        .pair
        .write(
            0,
            "SET ROLE stagesub_owner; CREATE TYPE moved.odd AS (a aclitem[]);
            CREATE TABLE moved.loose (tenant_id uuid NOT NULL, no bigint PRIMARY KEY);
            CREATE TABLE moved.inner_odd (tenant_id uuid NOT NULL, no bigint, odd moved.odd, PRIMARY KEY (tenant_id, no));
            CREATE VIEW moved.seen AS SELECT * FROM moved.account",
        )
        .await;
    let mut source = logged.pair.session(0, "log").await;
    for (table, why) in [
        ("loose", "it has no primary key with tenant_id in it"),
        ("inner_odd", "aclitem, of column odd, has no binary form"),
        ("seen", "it is not there, or no table"),
        ("none", "it is not there, or no table"),
    ] {
        let mut tables = Pair::tables();
        tables[1].name = table.to_owned();
        let log = ChangeLog::new(logged.pair.move_id, FORWARD, logged.pair.tenant, tables);
        match log.create(&mut source, PATIENCE).await {
            Err(ChangeLogError::Unfit { table: named, why: told }) => {
                assert_eq!((named.name.as_str(), told.as_str()), (table, why));
            }
            other => panic!("{table}: {other:?}"),
        }
    }
    assert_eq!(objects(&logged).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_delivered_and_not_applied_is_delivered_again_as_it_was() {
    let logged = Logged::start().await;
    logged.open(FORWARD).await;
    logged.pair.write(0, ACCOUNTS).await;
    let from = progress_of(&logged).await;
    let mut first = logged.stream(FORWARD, from).await;
    let delivered = transaction(&mut first).await;
    assert_eq!(inserts(&delivered), 5);
    logged.pair.write(0, "INSERT INTO moved.account VALUES ('{t}', 6, 'six', 0)").await;
    let next = transaction(&mut first).await;
    // Whoever was to apply both dies. What came since is no part of either.
    drop(first);
    logged.pair.write(0, "INSERT INTO moved.account VALUES ('{t}', 7, 'seven', 0)").await;
    let mut second = logged.stream(FORWARD, from).await;
    assert_eq!(transaction(&mut second).await, delivered);
    let again = transaction(&mut second).await;
    assert_eq!((inserts(&again), ends(&again)), (1, ends(&next)));
    assert_eq!(inserts(&transaction(&mut second).await), 1);
    drop(second);
    // Applied as far as the first: the rest alone.
    let mut third = logged.stream(FORWARD, ends(&delivered)).await;
    let rest = transaction(&mut third).await;
    assert_eq!((inserts(&rest), ends(&rest)), (1, ends(&next)));
    drop(third);
    let mut flow = logged.flow(FORWARD, Writers::Tenant).await;
    logged.settle(&mut flow).await;
    assert_eq!(logged.pair.same().await, 7);
    flow.flow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_applier_that_is_killed_anywhere_leaves_each_change_once() {
    let logged = Logged::start().await;
    let pair = &logged.pair;
    let mut flow = logged.begin(FORWARD, Writers::Tenant).await;
    for round in 0..6 {
        for no in 1..=30 {
            let no = round * 30 + no;
            pair.write(
                0,
                &format!(
                    "BEGIN; INSERT INTO moved.account VALUES ('{{t}}', {no}, 'mail {no}', 0);
                    INSERT INTO moved.entry VALUES ('{{t}}', {no}, {no}, 'deposit'); COMMIT"
                ),
            )
            .await;
        }
        // The server ends its sessions at some point of what they do; the next ones go on from there.
        until("something is applied", async || {
            flow.flow.control.position().transactions > 0 || flow.flow.task.is_finished()
        })
        .await;
        let kill = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE starts_with(application_name, 'stagesub-move:{}:')",
            pair.move_id
        );
        pair.write(0, &kill).await;
        let ended = flow.flow.ended().await;
        assert!(!chain(&ended).contains("duplicate"), "{}", chain(&ended));
        flow = logged.flow(FORWARD, Writers::Tenant).await;
    }
    logged.settle(&mut flow).await;
    assert_eq!(pair.same().await, 360);
    flow.flow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_is_forgotten() {
    let logged = Logged::start().await;
    let mut flow = logged.begin(FORWARD, Writers::Tenant).await;
    for no in 0..5 {
        let sql = format!(
            "INSERT INTO moved.account SELECT '{{t}}', n + 1000 * {no}, 'mail ' || n + 1000 * {no}, n FROM generate_series(1, 1000) AS n"
        );
        logged.pair.write(0, &sql).await;
        logged.settle(&mut flow).await;
    }
    let name = logged.log(FORWARD).name().to_owned();
    let left = format!(
        "SELECT (SELECT count(*) FROM app.{name}) * 1000 + (SELECT count(*) FROM app.{name}_batches)"
    );
    until("one batch is left to go on from", async || {
        flow.waker.wake();
        logged.pair.read::<i64>(0, &left).await == 1
    })
    .await;
    // It goes on from there, here and anew.
    logged.pair.write(0, "UPDATE moved.account SET balance = -1 WHERE no < 10").await;
    logged.settle(&mut flow).await;
    flow.flow.stop().await;
    logged.pair.write(0, "DELETE FROM moved.account WHERE no < 5").await;
    let mut flow = logged.flow(FORWARD, Writers::Tenant).await;
    logged.settle(&mut flow).await;
    assert_eq!(logged.pair.same().await, 4_996);
    flow.flow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lacks_what_was_applied_is_not_read() {
    let logged = Logged::start().await;
    let mut flow = logged.begin(FORWARD, Writers::Tenant).await;
    logged.pair.write(0, ACCOUNTS).await;
    logged.settle(&mut flow).await;
    flow.flow.stop().await;
    let from = progress_of(&logged).await;
    let (log, prefix) = (logged.log(FORWARD), &logged.pair.prefix);
    for lost in [Lsn(from.0 + 2), Lsn(from.0 + 1), Lsn(from.0 - 1), Lsn(u64::MAX)] {
        let conn = logged.source(FORWARD, "log-stream").await;
        let opened = LogStream::open(conn, &log, prefix, lost, Polling::default()).await;
        assert!(matches!(opened, Err(ChangeLogError::Lost(at)) if at == lost), "{opened:?}");
    }
    drop(logged.stream(FORWARD, from).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_readers_of_a_log_do_not_both_go_on() {
    let logged = Logged::start().await;
    logged.open(FORWARD).await;
    let from = progress_of(&logged).await;
    let mut streams = [logged.stream(FORWARD, from).await, logged.stream(FORWARD, from).await];
    logged.pair.write(0, ACCOUNTS).await;
    let [one, two] = &mut streams;
    let mut refused = None;
    for stream in [one, two] {
        while refused.is_none() {
            match tokio::time::timeout(PATIENCE, stream.next()).await.expect("it answers") {
                Ok(Event::Message(Message::Commit { .. })) => break,
                Ok(_) => {}
                Err(error) => refused = Some(error),
            }
        }
    }
    let refused = refused.expect("one finds the other's batch");
    assert!(
        matches!(refused, StreamError::Session(_)) && chain(&refused).contains("duplicate"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_written_when_the_table_was_another_is_none() {
    let logged = Logged::start().await;
    logged.open(FORWARD).await;
    logged.pair.write(0, ACCOUNTS).await;
    // Nobody's writes fail for that.
    logged
        .pair
        .write(0, "ALTER TABLE moved.account ADD COLUMN more text; INSERT INTO moved.account VALUES ('{t}', 6, 'six', 0, 'more')")
        .await;
    let mut flow = logged.flow(FORWARD, Writers::Tenant).await;
    let ended = flow.flow.ended().await;
    assert!(chain(&ended).contains("columns of moved.account"), "{}", chain(&ended));
    assert_eq!(logged.pair.read::<i64>(1, "SELECT count(*) FROM moved.account").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_that_were_switched_off_are_missed() {
    let logged = Logged::start().await;
    logged.open(FORWARD).await;
    let log = logged.log(FORWARD);
    let mut source = logged.pair.session(0, "check").await;
    log.check(&mut source).await.expect("they are there");
    let drop = format!("DROP TRIGGER {}_u ON moved.entry", log.name());
    // Enabled as others are, they do not fire for every session.
    for broken in [
        "ALTER TABLE moved.entry DISABLE TRIGGER ALL",
        "ALTER TABLE moved.entry ENABLE TRIGGER ALL",
        drop.as_str(),
    ] {
        logged.pair.write(0, broken).await;
        let found = log.check(&mut source).await;
        assert!(matches!(&found, Err(ChangeLogError::Broken(table)) if table.name == "entry"), "{found:?}");
    }
    let mut admin = connect(&logged.pair.admin[0]).await;
    let refused = sqlx::query("TRUNCATE moved.account CASCADE").execute(&mut admin).await.unwrap_err();
    assert_eq!(sqlstate(&refused), "55006");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_logged_when_it_has_passed_its_checks() {
    let logged = Logged::start().await;
    logged.open(FORWARD).await;
    let early: i64 = logged
        .pair
        .read(
            0,
            "SELECT count(*) FROM pg_trigger AS ours JOIN pg_trigger AS theirs ON theirs.tgrelid = ours.tgrelid
             WHERE ours.tgname LIKE 'stagesub\\_move\\_%' AND theirs.tgisinternal
                 AND ours.tgname COLLATE \"C\" < theirs.tgname COLLATE \"C\"",
        )
        .await;
    assert_eq!(early, 0, "triggers fire in the order of their names");
    let both =
        "SELECT count(*) FROM pg_trigger AS ours JOIN pg_trigger AS theirs ON theirs.tgrelid = ours.tgrelid
        WHERE ours.tgname LIKE 'stagesub\\_move\\_%' AND theirs.tgisinternal";
    assert!(logged.pair.read::<i64>(0, both).await > 0);
}
