//! Changes that triggers log, brought into the other database.
//!
//! - here: every kind of change and of value, and who sees nothing of it
//! - `log.rs` the log itself: how it begins, is read again, forgets and goes
//! - `concurrent.rs` writers against each other
//! - `whole.rs` whole moves, on a server that decodes nothing

mod concurrent;
mod log;
mod whole;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::PgConnection;
use stagesub_storage::moves::apply::{ApplyError, Writers};
use stagesub_storage::moves::change_log::{ChangeLog, LogStream, Polling, Waker, mark};
use stagesub_storage::moves::lsn::Lsn;
use stagesub_storage::moves::progress::{self, Direction};
use stagesub_tests::database::{connect, run};

use super::streamed::{Flow, Pair, chain};
use crate::tenant_tx::lab::{scalar, sqlstate};

const PATIENCE: Duration = Duration::from_mins(1);

const ACCOUNTS: &str = "INSERT INTO moved.account
    SELECT '{t}', n, 'mail ' || n, n FROM generate_series(1, 5) AS n";

/// A pair whose changes are logged by triggers.
struct Logged {
    pair: Pair,
    marks: AtomicU64,
}

/// One direction that is applied in the background.
struct Log {
    flow: Flow,
    waker: Waker,
}

impl Logged {
    /// With tables that can be logged.
    async fn start() -> Self {
        let pair = Pair::start().await;
        for side in [0, 1] {
            pair.write(side, "ALTER TABLE moved.kinds DROP COLUMN acl").await;
        }
        Self { pair, marks: AtomicU64::new(0) }
    }

    fn log(&self, direction: Direction) -> ChangeLog {
        ChangeLog::new(self.pair.move_id, direction, self.pair.tenant, Pair::tables())
    }

    async fn source(&self, direction: Direction, what: &str) -> PgConnection {
        self.pair.session(Pair::ends(direction)[0], what).await
    }

    /// Makes log and progress of a direction.
    async fn open(&self, direction: Direction) {
        let mut source = self.source(direction, "log").await;
        let log = self.log(direction);
        log.create(&mut source, PATIENCE).await.expect("a log");
        let from = log.begin_empty(&mut source).await.expect("it begins");
        let mut target = self.pair.session(Pair::ends(direction)[1], "progress").await;
        progress::begin(&mut target, self.pair.move_id, direction, from).await.expect("a row");
    }

    /// Applies in the background what is logged.
    async fn flow(&self, direction: Direction, writers: Writers) -> Log {
        let applier = self.pair.applier(direction, writers).await;
        let control = applier.control();
        let stream = self.stream(direction, applier.from()).await;
        let waker = stream.waker();
        Log { flow: Flow { direction, control, task: tokio::spawn(applier.run(stream)) }, waker }
    }

    async fn stream(&self, direction: Direction, from: Lsn) -> LogStream {
        let conn = self.source(direction, "log-stream").await;
        let log = self.log(direction);
        LogStream::open(conn, &log, &self.pair.prefix, from, Polling::default()).await.expect("a stream")
    }

    async fn begin(&self, direction: Direction, writers: Writers) -> Log {
        self.open(direction).await;
        self.flow(direction, writers).await
    }

    /// Sets a mark, and has it looked for.
    async fn mark(&self, log: &Log) -> u64 {
        let number = self.marks.fetch_add(1, Ordering::Relaxed) + 1;
        let direction = log.flow.direction;
        let mut source = self.source(direction, "mark").await;
        mark(&mut source, self.log(direction).name(), number).await.expect("a mark");
        log.waker.wake();
        number
    }

    /// Waits until everything is applied that was written before.
    async fn settle(&self, log: &mut Log) {
        let number = self.mark(log).await;
        let passed = tokio::time::timeout(PATIENCE, log.flow.control.passed(number)).await;
        if passed.expect("it arrives").is_err() {
            let ended = log.flow.ended().await;
            unreachable!("it goes on: {}", chain(&ended));
        }
    }

    /// How many entries a direction's log has, of rows and not of marks.
    async fn entries(&self, direction: Direction) -> i64 {
        let sql = format!("SELECT count(*) FROM app.{} WHERE mark IS NULL", self.log(direction).name());
        self.pair.read(Pair::ends(direction)[0], &sql).await
    }

    /// Writes both as one transaction each, applies, and compares.
    async fn brings(&self, log: &mut Log, statements: &[&str], rows: usize) {
        for sql in statements {
            self.pair.write(0, sql).await;
        }
        self.settle(log).await;
        assert_eq!(self.pair.same().await, rows);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_kind_arrive_as_they_were() {
    let logged = Logged::start().await;
    let mut log = logged.begin(Direction::Forward, Writers::Tenant).await;
    // What the writer's session has set does not matter.
    let settings = "SET timezone = 'Asia/Kolkata'; SET datestyle = 'German'; SET intervalstyle = 'sql_standard';
        SET extra_float_digits = -3; SET bytea_output = 'escape'; SET client_encoding = 'LATIN1'; SET search_path = public;";
    let rows = r#"
        INSERT INTO moved.kinds (tenant_id, no, f8, f4, n, narrow, d, ts, plain, t, span, ints, texts, doc, js, raw, flag,
            mood, moods, word, part, ip, id, within, long, other)
        VALUES
            ('{t}', 1, 'NaN', 'NaN', 'NaN', 1234.56, 'infinity', '-infinity', 'infinity', '24:00', '1 mon -2 days 03:04:05.6',
             '{}', '{"a,b","NULL",NULL,"\"q\""}', '{"a": 1.00, "b": [null, "e"]}', '{"b": 1,  "b": 2}', '', true,
             'bright', '{calm,bright,NULL}', 'ord', '(1,)', '::1/64', gen_random_uuid(), '[1,5)', 'x', ''),
            ('{t}', 2, '-0', 'infinity', 'infinity', -0.01, '4713-01-01 BC', '4713-01-01 00:00+00 BC', '0001-01-01 BC', '00:00',
             '-178000000 years', '{{1,NULL},{-2147483648,2147483647}}', '[0:1]={a,b}', 'null', '1e-400', '\x00ff27', false,
             'calm', '{}', '', '(,)', '255.255.255.255', '00000000-0000-0000-0000-000000000000', 'empty', NULL, chr(229)),
            ('{t}', 3, '-infinity', 1e-45, '-infinity', NULL, '5874897-12-31', '294276-12-31 23:59:59.999999+00', NULL, NULL,
             NULL, '{{{1}}}', '{}', '"text"', '[]', decode(repeat('ab', 9000), 'hex'), NULL, NULL, NULL, NULL, NULL, NULL,
             NULL, '(,)', repeat('long ', 9000), E'tab\tnewline\nquote''backslash\\'),
            ('{t}', 4, 4.9e-324, 0.1, 1e-1000, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
             NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"#;
    logged.brings(&mut log, &[&format!("{settings}{rows}")], 4).await;
    logged
        .brings(
            &mut log,
            &["UPDATE moved.kinds SET n = n + 1, ints = CASE WHEN coalesce(array_ndims(ints), 1) = 1 THEN array_append(ints, 7) END,
                mood = 'bright', moods = moods || 'calm'::moved.mood, part = ROW(no::integer, NULL)::moved.span",
              "UPDATE moved.kinds SET no = no + 100, long = long || 'er'"],
            4,
        )
        .await;
    let twice: i64 = logged.pair.read(1, "SELECT sum(twice)::bigint FROM moved.kinds").await;
    assert_eq!(twice, 820, "the target computes it");
    let enums = "SELECT 'moved.mood'::regtype::oid::bigint";
    assert_ne!(logged.pair.read::<i64>(0, enums).await, logged.pair.read::<i64>(1, enums).await);
    log.flow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_go_and_come_again_keys_that_change_and_what_cascades_arrive() {
    let logged = Logged::start().await;
    let mut log = logged.begin(Direction::Forward, Writers::Tenant).await;
    let made = format!(
        "{ACCOUNTS}; INSERT INTO moved.entry SELECT '{{t}}', n, 1 + n % 5, 'words' FROM generate_series(1, 50) AS n;
        INSERT INTO moved.leaf SELECT '{{t}}', a, p, p FROM generate_series(1, 5) AS a, generate_series(1, 3) AS p"
    );
    logged
        .brings(
            &mut log,
            &[
                &made,
                "BEGIN; DELETE FROM moved.account WHERE no = 1; INSERT INTO moved.account VALUES ('{t}', 1, 'again', 7);
                 UPDATE moved.account SET balance = 8 WHERE no = 1; COMMIT",
                "UPDATE moved.account SET no = 22 WHERE no = 2",
                "BEGIN; UPDATE moved.entry SET account_no = 3 WHERE account_no = 4; DELETE FROM moved.account WHERE no = 4; COMMIT",
                "BEGIN; DELETE FROM moved.account WHERE no = 5; INSERT INTO moved.account VALUES ('{t}', 5, 'mail 5', 5);
                 INSERT INTO moved.leaf VALUES ('{t}', 5, 1, 1); COMMIT",
                // Several that cascade in one statement, and a chain of statements in one.
                "UPDATE moved.account SET no = no + 1000 WHERE no IN (3, 22)",
                "WITH gone AS (DELETE FROM moved.account WHERE no = 1003 RETURNING *)
                 INSERT INTO moved.account SELECT tenant_id, no + 1, email || '!', balance FROM gone",
            ],
            4 + 10 + 4,
        )
        .await;
    log.flow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unique_values_that_pass_from_row_to_row_arrive() {
    let logged = Logged::start().await;
    let mut log = logged.begin(Direction::Forward, Writers::Tenant).await;
    logged
        .brings(
            &mut log,
            &[
                ACCOUNTS,
                "INSERT INTO moved.leaf SELECT '{t}', 1, p, p FROM generate_series(1, 4) AS p",
                "BEGIN; UPDATE moved.account SET email = 'aside' WHERE no = 1; UPDATE moved.account SET email = 'mail 1' WHERE no = 2;
                 UPDATE moved.account SET email = 'mail 2' WHERE no = 1; COMMIT",
                "BEGIN; DELETE FROM moved.account WHERE no = 3; INSERT INTO moved.account VALUES ('{t}', 30, 'mail 3', 3); COMMIT",
                "BEGIN; UPDATE moved.account SET email = 'other' WHERE no = 4;
                 INSERT INTO moved.account VALUES ('{t}', 40, 'mail 4', 4); COMMIT",
                "UPDATE moved.leaf SET rank = 5 - rank",
            ],
            6 + 4,
        )
        .await;
    log.flow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rolled_back_never_arrives() {
    let logged = Logged::start().await;
    let mut log = logged.begin(Direction::Forward, Writers::Tenant).await;
    let saved = format!(
        "BEGIN; {ACCOUNTS}; SAVEPOINT a; UPDATE moved.account SET balance = -1; SAVEPOINT b; DELETE FROM moved.account;
        ROLLBACK TO a; UPDATE moved.account SET balance = balance + 1 WHERE no = 2; COMMIT"
    );
    logged.brings(&mut log, &[&saved, "BEGIN; DELETE FROM moved.account; ROLLBACK"], 5).await;
    let sum: i64 = logged.pair.read(1, "SELECT sum(balance)::bigint FROM moved.account").await;
    assert_eq!(sum, 16);
    log.flow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_rows_and_many_of_them_arrive_as_one_transaction() {
    let logged = Logged::start().await;
    let mut log = logged.begin(Direction::Forward, Writers::Tenant).await;
    logged
        .brings(
            &mut log,
            &[
                "BEGIN;
                INSERT INTO moved.account SELECT '{t}', n, 'mail ' || n, n FROM generate_series(1, 10000) AS n;
                INSERT INTO moved.entry SELECT '{t}', n, n, 'entry ' || n FROM generate_series(1, 10000) AS n;
                INSERT INTO moved.kinds (tenant_id, no, long) SELECT '{t}', n, repeat(md5(n::text), 100000) FROM generate_series(1, 12) AS n;
                UPDATE moved.account SET balance = -balance WHERE no % 2 = 0;
                DELETE FROM moved.entry WHERE no % 2 = 1;
                COMMIT",
            ],
            15_012,
        )
        .await;
    let position = log.flow.control.position();
    assert_eq!((position.transactions, position.changes), (1, 30_012));
    log.flow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_tenants_are_left_alone_and_nothing_of_theirs_is_logged() {
    let logged = Logged::start().await;
    let pair = &logged.pair;
    let others =
        "INSERT INTO moved.account SELECT '{o}', n, 'other ' || n, 0 FROM generate_series(1, 5) AS n";
    for side in [0, 1] {
        pair.write(side, others).await;
    }
    let before = pair.rows(1, pair.other).await;
    logged.open(Direction::Forward).await;
    pair.write(0, "INSERT INTO moved.account VALUES ('{o}', 7, 'seven', 0)").await;
    pair.write(0, "UPDATE moved.account SET no = no + 10, balance = 1 WHERE tenant_id = '{o}'").await;
    pair.write(0, "DELETE FROM moved.account WHERE tenant_id = '{o}' AND no = 11").await;
    assert_eq!(logged.entries(Direction::Forward).await, 0);
    pair.write(0, ACCOUNTS).await;
    // A row that changes hands goes, or comes.
    pair.write(0, "UPDATE moved.account SET tenant_id = '{o}', no = 99 WHERE tenant_id = '{t}' AND no = 5")
        .await;
    pair.write(0, "UPDATE moved.account SET tenant_id = '{t}' WHERE tenant_id = '{o}' AND no = 12").await;
    let other = pair.other.as_uuid().simple().to_string();
    let rows = format!(
        "SELECT count(*) FROM app.{} WHERE position(decode('{other}', 'hex') IN coalesce(old_row, '') || coalesce(new_row, '')) > 0",
        logged.log(Direction::Forward).name()
    );
    assert_eq!(logged.entries(Direction::Forward).await, 7);
    assert_eq!(pair.read::<i64>(0, &rows).await, 0);
    let mut log = logged.flow(Direction::Forward, Writers::Tenant).await;
    logged.settle(&mut log).await;
    assert_eq!(pair.same().await, 5);
    assert_eq!(pair.rows(1, pair.other).await, before);
    log.flow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_logs_against_each_other_bring_each_change_once() {
    let logged = Logged::start().await;
    let mut there = logged.begin(Direction::Forward, Writers::Tenant).await;
    let mut back = logged.begin(Direction::Reverse, Writers::Tenant).await;
    for no in 1..=10 {
        let sql = format!("INSERT INTO moved.account VALUES ('{{t}}', {no}, 'mail {no}', 0)");
        logged.pair.write(no % 2, &sql).await;
    }
    for _ in 0..3 {
        // Whatever went round would have gone round by the third time.
        logged.settle(&mut there).await;
        logged.settle(&mut back).await;
    }
    assert_eq!(logged.pair.same().await, 10);
    assert_eq!(there.flow.control.position().changes, 5);
    assert_eq!(back.flow.control.position().changes, 5);
    there.flow.stop().await;
    back.flow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_writes_where_nobody_may_is_found_out() {
    let logged = Logged::start().await;
    let mut back = logged.begin(Direction::Reverse, Writers::Nobody).await;
    logged.settle(&mut back).await;
    // Not even one who has switched triggers off.
    logged
        .pair
        .write(1, "SET session_replication_role = 'replica'; INSERT INTO moved.account VALUES ('{t}', 1, 'rogue', 0)")
        .await;
    logged.mark(&back).await;
    let ended = back.flow.ended().await;
    assert!(matches!(&ended, ApplyError::Rogue { table, .. } if table.name == "account"), "{ended:?}");
    assert_eq!(logged.pair.read::<i64>(0, "SELECT count(*) FROM moved.account").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_has_nothing_to_do_with_a_log() {
    let logged = Logged::start().await;
    logged.open(Direction::Forward).await;
    let name = logged.log(Direction::Forward).name().to_owned();
    let mut admin = connect(&logged.pair.admin[0]).await;
    let may: i64 = scalar(
        &mut admin,
        &format!(
            "SELECT count(*) FROM unnest(ARRAY['stagesub_app', 'stagesub_auth', 'stagesub_control', 'public']) AS role
             WHERE has_table_privilege(role, 'app.{name}', 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
                 OR has_table_privilege(role, 'app.{name}_batches', 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')
                 OR has_any_column_privilege(role, 'app.{name}', 'SELECT, INSERT, UPDATE')
                 OR has_sequence_privilege(role, 'app.{name}_seq_seq', 'USAGE, SELECT, UPDATE')
                 OR has_function_privilege(role, 'app.{name}()', 'EXECUTE')"
        ),
    )
    .await;
    assert_eq!(may, 0);
    // It writes, and what it writes is logged for it.
    run(
        &mut admin,
        "GRANT USAGE ON SCHEMA moved TO stagesub_app; GRANT SELECT, INSERT ON moved.account TO stagesub_app",
    )
    .await;
    let tenant = logged.pair.tenant;
    run(
        &mut admin,
        &format!(
            "SET SESSION AUTHORIZATION stagesub_app; BEGIN; SET LOCAL app.tenant_id = '{tenant}';
            INSERT INTO moved.account VALUES ('{tenant}', 1, 'mail', 0); COMMIT"
        ),
    )
    .await;
    let refused =
        sqlx::query(sqlx::AssertSqlSafe(format!("SELECT 1 FROM app.{name}"))).execute(&mut admin).await;
    assert_eq!(sqlstate(&refused.unwrap_err()), "42501");
    assert_eq!(logged.entries(Direction::Forward).await, 1);
}
