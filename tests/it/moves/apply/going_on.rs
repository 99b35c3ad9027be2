//! Streams that begin again, run against each other, or are disturbed.

use async_trait::async_trait;
use stagesub_storage::moves::apply::{ApplyError, Writers, mark};
use stagesub_storage::moves::lsn::Lsn;
use stagesub_storage::moves::progress::{self, Direction};
use stagesub_storage::moves::slot::{ChangeStream, Changes, Event, StreamError, stream_name};
use stagesub_tests::database::{connect, run};

use super::super::streamed::{Flow, Pair, chain};
use crate::tenant_tx::lab::{scalar, until};

/// A stream whose source is never told what is durable: what is left when whoever applies dies between the target's
/// commit and the acknowledgement.
struct Unheard(ChangeStream);

#[async_trait]
impl Changes for Unheard {
    async fn next(&mut self) -> Result<Event, StreamError> {
        self.0.next().await
    }

    fn acknowledge(&mut self, _: Lsn) {}
}

/// One more account with its entry: neither can come twice, and neither comes without the other.
async fn deposit(pair: &Pair, side: usize, no: usize) {
    pair.write(
        side,
        &format!(
            "BEGIN; INSERT INTO moved.account VALUES ('{{t}}', {no}, 'mail {no}', 0);
            INSERT INTO moved.entry VALUES ('{{t}}', {no}, {no}, 'deposit'); COMMIT"
        ),
    )
    .await;
}

async fn gone(pair: &Pair, direction: Direction) {
    let slot = stream_name(pair.move_id, direction);
    let active = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active");
    until("nobody reads the slot", async || pair.read::<i64>(0, &active).await == 0).await;
}

async fn progress_of(pair: &Pair, direction: Direction) -> Lsn {
    let [_, to] = Pair::ends(direction);
    let mut conn = pair.session(to, "look").await;
    progress::find(&mut conn, pair.move_id, direction).await.expect("it can be read").expect("it has begun")
}

/// Nobody leaves a mark: the batch ends by itself, and the source's word that there is nothing more is not lost with it.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_arrives_as_well() {
    let pair = Pair::start().await;
    let mut flow = pair.begin(Direction::Forward, Writers::Tenant).await;
    for no in 1..=3_u32 {
        deposit(&pair, 0, no as usize).await;
        let written: String = pair.read(0, "SELECT pg_current_wal_insert_lsn()::text").await;
        let reached = flow.control.reached(written.parse().unwrap()).await.unwrap();
        assert_eq!((reached.mark, reached.transactions), (None, u64::from(no)));
    }
    let entries: i64 = pair.read(1, "SELECT count(*) FROM moved.entry").await;
    assert_eq!(entries, 3);
    flow.stop().await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_and_not_acknowledged_is_not_applied_again() {
    let pair = Pair::start().await;
    let slot = pair.open(Direction::Forward).await;
    let mut first = pair.flow_through(Direction::Forward, Writers::Tenant, slot, Unheard).await;
    for no in 1..=5 {
        deposit(&pair, 0, no).await;
        pair.settle(&mut first).await;
    }
    first.task.abort();
    drop(first);
    gone(&pair, Direction::Forward).await;
    let name = stream_name(pair.move_id, Direction::Forward);
    let acknowledged: String = pair
        .read(
            0,
            &format!("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{name}'"),
        )
        .await;
    let progress = progress_of(&pair, Direction::Forward).await;
    assert!(acknowledged.parse::<Lsn>().unwrap() < progress, "the source does not know");

    deposit(&pair, 0, 6).await;
    let slot = pair.reopen(Direction::Forward).await;
    let mut second = pair.flow(Direction::Forward, Writers::Tenant, slot).await;
    pair.settle(&mut second).await;
    assert_eq!(pair.same().await, 12);
    assert_eq!(second.control.position().transactions, 1, "the sixth alone was new");
    second.stop().await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_applier_that_is_killed_anywhere_leaves_whole_transactions() {
    let pair = Pair::start().await;
    let slot = pair.open(Direction::Forward).await;
    let mut flow = pair.flow(Direction::Forward, Writers::Tenant, slot).await;
    let mut applied = 0;
    for round in 0_usize..6 {
        for no in 1..=40 {
            deposit(&pair, 0, round * 40 + no).await;
        }
        // The server ends its sessions at some point of what it does; the next one goes on from there.
        until("something is applied", async || {
            flow.control.position().transactions > 0 || flow.task.is_finished()
        })
        .await;
        pair.write(
            1,
            &format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE starts_with(application_name, 'stagesub-move:{}:')",
                pair.move_id
            ),
        )
        .await;
        let ended = flow.ended().await;
        assert!(
            matches!(
                ended,
                ApplyError::Target { .. }
                    | ApplyError::Change { .. }
                    | ApplyError::Stream(_)
                    | ApplyError::Progress(_)
            ),
            "{}",
            chain(&ended)
        );
        let halves: i64 = pair
            .read(1, "SELECT count(*) FROM moved.account FULL JOIN moved.entry USING (tenant_id, no) WHERE account_no IS NULL OR email IS NULL")
            .await;
        assert_eq!(halves, 0);
        let now: i64 = pair.read(1, "SELECT count(*) FROM moved.account").await;
        assert!(now >= applied);
        applied = now;
        gone(&pair, Direction::Forward).await;
        let slot = pair.reopen(Direction::Forward).await;
        flow = pair.flow(Direction::Forward, Writers::Tenant, slot).await;
    }
    pair.settle(&mut flow).await;
    assert_eq!(pair.same().await, 480);
    flow.stop().await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_streams_against_each_other_bring_each_change_once() {
    let pair = Pair::start().await;
    let mut there = pair.begin(Direction::Forward, Writers::Tenant).await;
    let mut back = pair.begin(Direction::Reverse, Writers::Tenant).await;
    for no in 1..=10 {
        deposit(&pair, no % 2, no).await;
    }
    for _ in 0..3 {
        // Whatever went round would have gone round by the third time.
        pair.settle(&mut there).await;
        pair.settle(&mut back).await;
    }
    assert_eq!(pair.same().await, 20);
    assert_eq!(there.control.position().transactions, 5);
    assert_eq!(back.control.position().transactions, 5);
    there.stop().await;
    back.stop().await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_where_nobody_may_is_reported() {
    let pair = Pair::start().await;
    let mut there = pair.begin(Direction::Forward, Writers::Tenant).await;
    let mut back = pair.begin(Direction::Reverse, Writers::Nobody).await;
    deposit(&pair, 0, 1).await;
    pair.settle(&mut there).await;
    pair.write(1, "INSERT INTO moved.account VALUES ('{o}', 1, 'another tenant', 0)").await;
    pair.settle(&mut back).await;
    deposit(&pair, 1, 2).await;
    let ended = back.ended().await;
    assert!(matches!(&ended, ApplyError::Rogue { table, .. } if table.name == "account"), "{ended:?}");
    assert_eq!(pair.read::<i64>(0, "SELECT count(*) FROM moved.account").await, 1, "it was not applied");

    // Once the tenant is served there, the same is its own.
    let slot = pair.reopen(Direction::Reverse).await;
    let mut back = pair.flow(Direction::Reverse, Writers::Nobody, slot).await;
    let ended = back.ended().await;
    assert!(matches!(&ended, ApplyError::Rogue { .. }), "it is still there: {ended:?}");
    let slot = pair.reopen(Direction::Reverse).await;
    let mut back = pair.flow(Direction::Reverse, Writers::Tenant, slot).await;
    pair.settle(&mut back).await;
    pair.settle(&mut there).await;
    assert_eq!(pair.same().await, 4);
    there.stop().await;
    back.stop().await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_is_expected_from_when_it_is_said() {
    let pair = Pair::start().await;
    let mut back = pair.begin(Direction::Reverse, Writers::Nobody).await;
    back.control.expect(Writers::Tenant);
    deposit(&pair, 1, 1).await;
    pair.settle(&mut back).await;
    assert_eq!(pair.same().await, 2);
    back.stop().await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_overtaken_commits_nothing_more() {
    let pair = Pair::start().await;
    let mut flow = pair.begin(Direction::Forward, Writers::Tenant).await;
    deposit(&pair, 0, 1).await;
    pair.settle(&mut flow).await;
    // Somebody else has gone on.
    let mut target = pair.session(1, "other").await;
    let at = progress_of(&pair, Direction::Forward).await;
    assert!(
        progress::advance(&mut target, pair.move_id, Direction::Forward, (at, Lsn(at.0 + 8))).await.unwrap()
    );
    assert!(
        !progress::advance(&mut target, pair.move_id, Direction::Forward, (at, Lsn(at.0 + 16)))
            .await
            .unwrap()
    );
    deposit(&pair, 0, 2).await;
    let ended = flow.ended().await;
    assert!(matches!(ended, ApplyError::Overtaken), "{ended:?}");
    assert_eq!(pair.read::<i64>(1, "SELECT count(*) FROM moved.account").await, 1);
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_appliers_of_one_stream_do_not_both_commit() {
    let pair = Pair::start().await;
    let slot = pair.open(Direction::Forward).await;
    let stale = pair.applier(Direction::Forward, Writers::Tenant).await;
    let mut flow = pair.flow(Direction::Forward, Writers::Tenant, slot).await;
    deposit(&pair, 0, 1).await;
    pair.settle(&mut flow).await;
    flow.stop().await;
    gone(&pair, Direction::Forward).await;
    deposit(&pair, 0, 2).await;
    let stream = pair.reopen(Direction::Forward).await.start(stale.from()).await.expect("a stream");
    let (control, task) = (stale.control(), tokio::spawn(stale.run(stream)));
    let ended = Flow { direction: Direction::Forward, control, task }.ended().await;
    assert!(matches!(ended, ApplyError::Overtaken | ApplyError::Change { .. }), "{ended:?}");
    assert_eq!(pair.read::<i64>(1, "SELECT count(*) FROM moved.account").await, 1);
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_changes_and_is_not_there_ends_everything() {
    let pair = Pair::start().await;
    let mut flow = pair.begin(Direction::Forward, Writers::Tenant).await;
    for no in 1..=3 {
        deposit(&pair, 0, no).await;
    }
    pair.settle(&mut flow).await;
    pair.write(1, "DELETE FROM moved.account WHERE no > 1").await;
    pair.write(0, "DELETE FROM moved.account WHERE no = 2").await;
    pair.settle(&mut flow).await;
    pair.write(0, "UPDATE moved.account SET balance = 1").await;
    let ended = flow.ended().await;
    assert!(matches!(&ended, ApplyError::MissingRow { table } if table.name == "account"), "{ended:?}");
    assert_eq!(pair.read::<i64>(1, "SELECT sum(balance)::bigint FROM moved.account").await, 0, "none of it");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_altered_on_one_side_ends_everything() {
    let pair = Pair::start().await;
    let mut flow = pair.begin(Direction::Forward, Writers::Tenant).await;
    deposit(&pair, 0, 1).await;
    pair.settle(&mut flow).await;
    pair.write(0, "ALTER TABLE moved.account ADD COLUMN phone text").await;
    deposit(&pair, 0, 2).await;
    let ended = flow.ended().await;
    assert!(
        matches!(&ended, ApplyError::Schema { detail, .. } if detail == "the target lacks column phone"),
        "{ended:?}"
    );
    assert_eq!(pair.read::<i64>(1, "SELECT count(*) FROM moved.account").await, 1);
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_is_passed_when_all_before_it_is_durable() {
    let pair = Pair::start().await;
    let mut flow = pair.begin(Direction::Forward, Writers::Tenant).await;
    // Committed after the mark was set and before its transaction was: it comes before the mark's commit.
    let mut fence = pair.session(0, "fence").await;
    run(&mut fence, "BEGIN").await;
    mark(&mut fence, &pair.prefix, 700).await.expect("a mark");
    deposit(&pair, 0, 1).await;
    let before: String = scalar(&mut fence, "SELECT pg_current_wal_insert_lsn()::text").await;
    run(&mut fence, "COMMIT").await;
    let at = tokio::time::timeout(std::time::Duration::from_secs(20), flow.control.passed(700)).await;
    let at = at.expect("it arrives").expect("it goes on");
    assert_eq!(at.mark, Some(700));
    // It is in the progress, and so is all before it.
    assert!(progress_of(&pair, Direction::Forward).await > before.parse().expect("a position"));
    assert_eq!(pair.same().await, 2);
    // Another move's marks are not ours.
    let mut other = connect(&pair.admin[0]).await;
    let prefix = "another-moves-prefix".parse().expect("a prefix");
    mark(&mut other, &prefix, 9_000).await.expect("a mark");
    mark(&mut other, &pair.prefix, 701).await.expect("a mark");
    let at = tokio::time::timeout(std::time::Duration::from_secs(20), flow.control.passed(701)).await;
    assert_eq!(at.expect("it arrives").expect("it goes on").mark, Some(701));
    flow.stop().await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_applied_that_was_not_begun() {
    let pair = Pair::start().await;
    let session = pair.session(1, "apply-fwd").await;
    let options = stagesub_storage::moves::apply::ApplyOptions {
        move_id: pair.move_id,
        direction: Direction::Forward,
        tenant: pair.tenant,
        prefix: pair.prefix.clone(),
        tables: Pair::tables(),
        writers: Writers::Tenant,
        dirty_bound: 10,
    };
    let refused = stagesub_storage::moves::apply::Applier::prepare(session, options).await.unwrap_err();
    assert!(matches!(refused, ApplyError::NotBegun), "{refused:?}");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_begins_once_and_goes_with_the_move() {
    let pair = Pair::start().await;
    let mut conn = pair.session(1, "progress").await;
    for lsn in [Lsn(16), Lsn(32)] {
        progress::begin(&mut conn, pair.move_id, Direction::Forward, lsn).await.expect("a row");
    }
    assert_eq!(progress_of(&pair, Direction::Forward).await, Lsn(16));
    progress::begin(&mut conn, pair.move_id, Direction::Reverse, Lsn(64)).await.expect("a row");
    progress::forget(&mut conn, pair.move_id).await.expect("they go");
    assert_eq!(progress::find(&mut conn, pair.move_id, Direction::Reverse).await.unwrap(), None);
    pair.close().await;
}
