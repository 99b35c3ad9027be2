//! Slots, publications and what is streamed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use stagesub_storage::catalogue::TableName;
use stagesub_storage::moves::lsn::Lsn;
use stagesub_storage::moves::pgoutput::{Message, Old, Relations, Tuple, Value};
use stagesub_storage::moves::progress::{self, Direction};
use stagesub_storage::moves::slot::{
    ChangeStream, Changes, Event, PublicationError, SlotError, SlotSession, StreamError, create_publication,
    drop_publication, drop_slot, session_name, sever, stream_name,
};
use stagesub_tests::database::{connect, run};

use super::streamed::Pair;
use crate::tenant_tx::lab::{scalar, sqlstate, until};

const PATIENCE: Duration = Duration::from_secs(20);

/// The changes of the next transaction that has some, with their tables' names.
async fn next_changes(stream: &mut ChangeStream, relations: &mut Relations) -> Vec<(String, Message)> {
    let mut changes = Vec::new();
    loop {
        let event = tokio::time::timeout(PATIENCE, stream.next()).await.expect("it comes");
        let Event::Message(message) = event.expect("it streams") else { continue };
        match message {
            Message::Relation(relation) => {
                relations.learn(relation);
            }
            Message::Insert { relation, .. }
            | Message::Update { relation, .. }
            | Message::Delete { relation, .. } => {
                changes.push((relations.table(relation).expect("it was described").name.clone(), message));
            }
            Message::Commit { .. } if !changes.is_empty() => return changes,
            _ => {}
        }
    }
}

fn rows(message: &Message) -> Vec<&Tuple> {
    match message {
        Message::Insert { new, .. } => vec![new],
        Message::Update { old, new, .. } => {
            old.as_ref().map(Old::tuple).into_iter().chain(std::iter::once(new)).collect()
        }
        Message::Delete { old, .. } => vec![old.tuple()],
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slots_snapshot_and_stream_are_all_and_nothing_twice() {
    let pair = Pair::start().await;
    pair.write(0, "INSERT INTO moved.account VALUES ('{t}', 1, 'before', 0)").await;
    // A transaction that is under way when the slot is made: the slot waits for it, and it is in the snapshot.
    let mut late = connect(&pair.admin[0]).await;
    run(&mut late, &format!("BEGIN; INSERT INTO moved.account VALUES ('{}', 2, 'during', 0)", pair.tenant))
        .await;
    let mut source = pair.session(0, "publish").await;
    let name = stream_name(pair.move_id, Direction::Forward);
    create_publication(&mut source, &name, pair.tenant, &Pair::tables()).await.expect("a publication");
    let mut slot =
        SlotSession::open(&pair.mover[0], pair.move_id, Direction::Forward).await.expect("a session");
    let making = tokio::spawn(async move {
        let snapshot = slot.create().await;
        (slot, snapshot)
    });
    let waits =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND backend_type = 'walsender'";
    until("the slot waits", async || pair.read::<i64>(0, waits).await > 0).await;
    run(&mut late, "COMMIT").await;
    let (slot, snapshot) = making.await.expect("it does not panic");
    let snapshot = snapshot.expect("a slot");
    assert!(snapshot.consistent > Lsn(0));

    pair.write(0, "INSERT INTO moved.account VALUES ('{t}', 3, 'after', 0)").await;
    let mut seen = pair.session(0, "copy").await;
    run(&mut seen, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await;
    run(&mut seen, &format!("SET TRANSACTION SNAPSHOT '{}'", snapshot.name)).await;
    let copied: String =
        scalar(&mut seen, "SELECT string_agg(email, ',' ORDER BY no) FROM moved.account").await;
    assert_eq!(copied, "before,during");

    let mut stream = slot.start(snapshot.consistent).await.expect("a stream");
    let changes = next_changes(&mut stream, &mut Relations::default()).await;
    assert_eq!(changes.len(), 1, "{changes:?}");
    let Value::Binary(email) = &rows(&changes[0].1)[0].0[2] else { panic!("{changes:?}") };
    assert_eq!(email.as_ref(), b"after");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_rows_never_arrive() {
    let pair = Pair::start().await;
    let mut stream = pair.open(Direction::Forward).await.start(Lsn(0)).await.expect("a stream");
    for tenant in ["{o}", "{t}"] {
        pair.write(
            0,
            &format!(
                "BEGIN;
                INSERT INTO moved.account VALUES ('{tenant}', 1, 'a', 0), ('{{o}}', 2 + length('{tenant}'), 'b', 0)
                    ON CONFLICT DO NOTHING;
                INSERT INTO moved.entry VALUES ('{tenant}', 1, 1, 'x');
                UPDATE moved.account SET email = 'c' || no;
                UPDATE moved.entry SET no = no + 10;
                DELETE FROM moved.entry;
                COMMIT"
            ),
        )
        .await;
    }
    let changes = next_changes(&mut stream, &mut Relations::default()).await;
    let own = Value::Binary(bytes::Bytes::copy_from_slice(pair.tenant.as_uuid().as_bytes()));
    for (_, change) in &changes {
        for row in rows(change) {
            assert_eq!(row.0[0], own, "{change:?}");
        }
    }
    let tables: Vec<&str> = changes.iter().map(|(table, _)| table.as_str()).collect();
    assert_eq!(tables, ["account", "entry", "account", "entry", "entry"]);
    assert!(matches!(&changes[3].1, Message::Update { old: Some(Old::Key(_)), .. }), "{changes:?}");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_has_the_tables_that_were_asked_for_and_what_is_done_to_rows() {
    let pair = Pair::start().await;
    let mut source = pair.session(0, "publish").await;
    let name = stream_name(pair.move_id, Direction::Forward);
    create_publication(&mut source, &name, pair.tenant, &Pair::tables()).await.expect("a publication");
    let listed: Vec<String> = sqlx::query_scalar(
        "SELECT schemaname || '.' || tablename || ' ' || rowfilter FROM pg_publication_tables ORDER BY 1",
    )
    .fetch_all(&mut source)
    .await
    .expect("publications can be read");
    let filter = format!("(tenant_id = '{}'::uuid)", pair.tenant);
    let all = ["account", "entry", "kinds", "leaf"].map(|table| format!("moved.{table} {filter}"));
    assert_eq!(listed, all);
    let done: String = scalar(
        &mut source,
        "SELECT concat_ws(' ', pubinsert, pubupdate, pubdelete, pubtruncate) FROM pg_publication",
    )
    .await;
    assert_eq!(done, "t t t f");
    drop_publication(&mut source, &name, PATIENCE).await.expect("it goes");
    drop_publication(&mut source, &name, PATIENCE).await.expect("it is gone");
    assert_eq!(scalar::<i64>(&mut source, "SELECT count(*) FROM pg_publication").await, 0);
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_would_break_other_tenants_updates_is_refused() {
    let pair = Pair::start().await;
    pair.write(
        0,
        "SET ROLE stagesub_owner;
        CREATE TABLE moved.loose (tenant_id uuid NOT NULL, no bigint PRIMARY KEY);
        CREATE TABLE moved.bare (tenant_id uuid NOT NULL, no bigint);
        CREATE TABLE moved.late (tenant_id uuid, no bigint, PRIMARY KEY (tenant_id, no) DEFERRABLE);
        CREATE VIEW moved.seen AS SELECT * FROM moved.account;
        ALTER TABLE moved.leaf REPLICA IDENTITY NOTHING",
    )
    .await;
    let mut source = pair.session(0, "publish").await;
    let name = stream_name(pair.move_id, Direction::Forward);
    for (table, fault) in [
        ("loose", "its primary key lacks tenant_id"),
        ("bare", "it has no primary key"),
        ("late", "its primary key is deferrable"),
        ("leaf", "its replica identity is NOTHING"),
    ] {
        let tables =
            ["account", table].map(|name| TableName { schema: "moved".to_owned(), name: name.to_owned() });
        match create_publication(&mut source, &name, pair.tenant, &tables).await {
            Err(PublicationError::Identity { table: named, why }) => {
                assert_eq!((named.name.as_str(), why), (table, fault));
            }
            other => panic!("{table}: {other:?}"),
        }
    }
    for table in ["seen", "none"] {
        let tables = [TableName { schema: "moved".to_owned(), name: table.to_owned() }];
        let refused = create_publication(&mut source, &name, pair.tenant, &tables).await;
        assert!(matches!(refused, Err(PublicationError::NoTable(_))), "{table}: {refused:?}");
    }
    assert_eq!(scalar::<i64>(&mut source, "SELECT count(*) FROM pg_publication").await, 0);
    // What it was refused for: with such a publication nobody's rows can be changed.
    pair.write(0, "INSERT INTO moved.loose VALUES ('{o}', 1)").await;
    pair.write(0, "UPDATE moved.loose SET no = 2").await;
    run(
        &mut source,
        &format!("CREATE PUBLICATION broken FOR TABLE moved.loose WHERE (tenant_id = '{}')", pair.tenant),
    )
    .await;
    let mut admin = connect(&pair.admin[0]).await;
    let refused = sqlx::query("UPDATE moved.loose SET no = 3").execute(&mut admin).await.unwrap_err();
    assert_eq!(sqlstate(&refused), "42P10");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_goes_when_those_who_wrote_while_it_was_there_have_ended() {
    let pair = Pair::start().await;
    pair.write(
        0,
        "INSERT INTO moved.account SELECT '{o}', n, 'mail ' || n, 0 FROM generate_series(1, 2) AS n",
    )
    .await;
    let name = stream_name(pair.move_id, Direction::Forward);
    let mut tidy = pair.session(0, "tidy").await;
    create_publication(&mut tidy, &name, pair.tenant, &Pair::tables()).await.expect("a publication");
    let begun = |no: u8| format!("BEGIN; UPDATE moved.account SET balance = 1 WHERE no = {no}");
    let [mut before, mut after] = [connect(&pair.admin[0]).await, connect(&pair.admin[0]).await];
    run(&mut before, &begun(1)).await;
    let writing = scalar::<i32>(&mut before, "SELECT pg_backend_pid()").await;
    // Once with its tables, once when it has none any more.
    for _ in 0..2 {
        match drop_publication(&mut tidy, &name, Duration::ZERO).await {
            Err(PublicationError::StillWritten { name: kept, processes }) => {
                assert_eq!((kept, processes), (name.clone(), vec![writing]));
            }
            other => panic!("{other:?}"),
        }
        let left =
            "SELECT (SELECT count(*) FROM pg_publication) * 10 + (SELECT count(*) FROM pg_publication_rel)";
        assert_eq!(pair.read::<i64>(0, left).await, 10);
    }
    run(&mut before, "COMMIT").await;
    create_publication(&mut tidy, "second", pair.tenant, &Pair::tables()).await.expect("a publication");
    run(&mut before, &begun(1)).await;
    let tidying: i32 = scalar(&mut tidy, "SELECT pg_backend_pid()").await;
    let removing =
        tokio::spawn(async move { drop_publication(&mut tidy, "second", PATIENCE).await.map(|()| tidy) });
    let waits = format!("SELECT query ~ 'virtualxid' FROM pg_stat_activity WHERE pid = {tidying}");
    until("it knows whom it waits for", async || pair.read::<bool>(0, &waits).await).await;
    // Who comes now finds the table without it.
    run(&mut after, &begun(2)).await;
    assert!(!removing.is_finished());
    run(&mut before, "ROLLBACK").await;
    let mut tidy = removing.await.expect("it ends").expect("it goes, whoever came later");
    run(&mut after, "COMMIT").await;
    drop_publication(&mut tidy, &name, PATIENCE).await.expect("the first goes");
    assert_eq!(pair.read::<i64>(0, "SELECT count(*) FROM pg_publication").await, 0);
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_does_not_notice_that_publications_come_and_go() {
    let pair = Pair::start().await;
    pair.write(
        0,
        "INSERT INTO moved.account SELECT '{o}', n, 'mail ' || n, 0 FROM generate_series(1, 6) AS n",
    )
    .await;
    let over = Arc::new(AtomicBool::new(false));
    let mut writing = Vec::new();
    for no in 1..=6 {
        let (over, mut conn) = (Arc::clone(&over), connect(&pair.admin[0]).await);
        writing.push(tokio::spawn(async move {
            // Many short transactions without a way to the client and back between them.
            let updates = format!(
                "DO $$ BEGIN FOR n IN 1..100 LOOP
                    UPDATE moved.account SET balance = balance + 1 WHERE no = {no}; COMMIT;
                END LOOP; END $$"
            );
            let mut written = 0;
            while !over.load(Ordering::Relaxed) {
                sqlx::raw_sql(AssertSqlSafe(updates.as_str())).execute(&mut conn).await?;
                written += 100;
            }
            Ok::<i64, sqlx::Error>(written)
        }));
    }
    let mut tidy = pair.session(0, "tidy").await;
    for _ in 0..500 {
        create_publication(&mut tidy, "often", pair.tenant, &Pair::tables()).await.expect("a publication");
        drop_publication(&mut tidy, "often", PATIENCE).await.expect("it goes");
    }
    over.store(true, Ordering::Relaxed);
    let mut written = 0;
    for writer in writing {
        written += writer.await.expect("it ends").expect("every update is done");
    }
    assert_eq!(pair.read::<i64>(0, "SELECT sum(balance)::bigint FROM moved.account").await, written);
    assert!(written > 200, "{written}");
    pair.close().await;
}

async fn confirmed(admin: &mut PgConnection, slot: &str) -> Lsn {
    let sql =
        format!("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{slot}'");
    scalar::<String>(admin, &sql).await.parse().expect("a position")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_tenants_slot_keeps_no_log() {
    let pair = Pair::start().await;
    let flow = pair.begin(Direction::Forward, stagesub_storage::moves::apply::Writers::Tenant).await;
    pair.write(
        0,
        "INSERT INTO moved.account SELECT '{o}', n, 'mail ' || n, 0 FROM generate_series(1, 2000) AS n",
    )
    .await;
    let mut admin = connect(&pair.admin[0]).await;
    let written: Lsn =
        scalar::<String>(&mut admin, "SELECT pg_current_wal_lsn()::text").await.parse().unwrap();
    let slot = stream_name(pair.move_id, Direction::Forward);
    until("the slot follows", async || confirmed(&mut admin, &slot).await >= written).await;
    assert!(flow.control.position().lsn >= written);
    // Nothing of it concerned the target.
    let mut target = pair.session(1, "look").await;
    let progress = progress::find(&mut target, pair.move_id, Direction::Forward).await.unwrap().unwrap();
    assert!(progress < written);
    flow.stop().await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_is_dropped_although_somebody_reads_it() {
    let pair = Pair::start().await;
    let mut stream = pair.open(Direction::Forward).await.start(Lsn(0)).await.expect("a stream");
    let name = stream_name(pair.move_id, Direction::Forward);
    let mut session = pair.session(0, "tidy").await;
    drop_slot(&mut session, &name, PATIENCE).await.expect("it goes");
    drop_slot(&mut session, &name, PATIENCE).await.expect("it is gone");
    let left = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}'");
    assert_eq!(pair.read::<i64>(0, &left).await, 0);
    let ended = loop {
        match tokio::time::timeout(PATIENCE, stream.next()).await.expect("it ends") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(ended, StreamError::Session(_)), "{ended:?}");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_move_are_ended_and_no_others() {
    let pair = Pair::start().await;
    let mut stream = pair.open(Direction::Forward).await.start(Lsn(0)).await.expect("a stream");
    let mut own = pair.session(1, "apply-fwd").await;
    let other_move = uuid::Uuid::now_v7();
    let options = pair.mover[1].to_connect_options().application_name(&session_name(other_move, "apply-fwd"));
    let mut others = PgConnection::connect_with(&options).await.expect("the mover may come in");
    // Somebody who calls himself so.
    let named = pair.admin[0].to_connect_options().application_name(&session_name(pair.move_id, "copy"));
    let mut pretender = PgConnection::connect_with(&named).await.expect("he may come in");

    let mut session = pair.session(0, "recover").await;
    sever(&mut session, pair.move_id, PATIENCE).await.expect("they end");
    assert_eq!(scalar::<i32>(&mut session, "SELECT 1").await, 1);
    assert_eq!(scalar::<i32>(&mut others, "SELECT 1").await, 1);
    assert_eq!(scalar::<i32>(&mut pretender, "SELECT 1").await, 1);
    assert!(sqlx::query("SELECT 1").execute(&mut own).await.is_err());
    let ended = loop {
        match tokio::time::timeout(PATIENCE, stream.next()).await.expect("it ends") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(ended, StreamError::Session(_)), "{ended:?}");
    let never = sever(&mut session, pair.move_id, Duration::ZERO).await;
    assert!(!matches!(never, Err(SlotError::StillAlive)), "there is nobody left: {never:?}");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_reader_of_a_slot_and_a_second_slot_of_a_name_are_refused() {
    let pair = Pair::start().await;
    let _stream = pair.open(Direction::Forward).await.start(Lsn(0)).await.expect("a stream");
    let mut second = pair.reopen(Direction::Forward).await;
    let refused = second.create().await.unwrap_err();
    assert!(super::streamed::chain(&refused).contains("42710"), "{}", super::streamed::chain(&refused));
    let refused = second.start(Lsn(0)).await.unwrap_err();
    assert!(super::streamed::chain(&refused).contains("55006"), "{}", super::streamed::chain(&refused));
    pair.close().await;
}
