//! Changes of one database brought into the other.
//!
//! - here: every kind of change and of value
//! - `going_on.rs` streams that begin again, run against each other, or are disturbed

mod going_on;

use std::collections::{BTreeMap, BTreeSet};

use stagesub_storage::moves::apply::{DirtyRows, Writers};
use stagesub_storage::moves::pgoutput::Value;
use stagesub_storage::moves::progress::Direction;
use stagesub_tests::database::connect;
use tokio_util::sync::CancellationToken;

use super::streamed::Pair;
use crate::tenant_tx::lab::scalar;

const ACCOUNTS: &str = "INSERT INTO moved.account
    SELECT '{t}', n, 'mail ' || n, n FROM generate_series(1, 5) AS n";

#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_kind_arrive_as_they_were() {
    let pair = Pair::start().await;
    let mut flow = pair.begin(Direction::Forward, Writers::Tenant).await;
    pair.write(
        0,
        r#"SET timezone = 'Asia/Kolkata'; SET datestyle = 'German'; SET intervalstyle = 'sql_standard';
        INSERT INTO moved.kinds (tenant_id, no, f8, f4, n, narrow, d, ts, plain, t, span, ints, texts, doc, js, raw, flag,
            mood, moods, word, part, ip, id, within, acl, long, other)
        VALUES
            ('{t}', 1, 'NaN', 'NaN', 'NaN', 1234.56, 'infinity', '-infinity', 'infinity', '24:00', '1 mon -2 days 03:04:05.6',
             '{}', '{"a,b","NULL",NULL,"\"q\""}', '{"a": 1.00, "b": [null, "å"]}', '{"b": 1,  "b": 2}', '', true,
             'bright', '{calm,bright,NULL}', 'ord', '(1,)', '::1/64', gen_random_uuid(), '[1,5)', '=r/stagesub_owner', 'x', ''),
            ('{t}', 2, '-0', 'infinity', 'infinity', -0.01, '4713-01-01 BC', '4713-01-01 00:00+00 BC', '0001-01-01 BC', '00:00',
             '-178000000 years', '{{1,NULL},{-2147483648,2147483647}}', '[0:1]={a,b}', 'null', '1e-400', '\x00ff27', false,
             'calm', '{}', '', '(,)', '255.255.255.255', '00000000-0000-0000-0000-000000000000', 'empty', NULL, NULL, 'Å' ),
            ('{t}', 3, '-infinity', 1e-45, '-infinity', NULL, '5874897-12-31', '294276-12-31 23:59:59.999999+00', NULL, NULL,
             NULL, '{{{1}}}', '{}', '"text"', '[]', decode(repeat('ab', 9000), 'hex'), NULL, NULL, NULL, NULL, NULL, NULL,
             NULL, '(,)', NULL, repeat('long ', 9000), E'tab\tnewline\nquote''backslash\\'),
            ('{t}', 4, 4.9e-324, 0.1, 1e-1000, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
             NULL, NULL, NULL, NULL, NULL, NULL, 'stagesub_app=arwd/stagesub_owner', NULL, NULL)"#,
    )
    .await;
    pair.settle(&mut flow).await;
    assert_eq!(pair.same().await, 4);
    // What changes arrives like what comes; what has no binary form, among what is not there.
    pair.write(
        0,
        "UPDATE moved.kinds SET n = n + 1, acl = CASE WHEN no % 2 = 0 THEN '=w/stagesub_owner'::aclitem END,
            ints = CASE WHEN coalesce(array_ndims(ints), 1) = 1 THEN array_append(ints, 7) END, mood = 'bright', moods = moods || 'calm'::moved.mood, part = ROW(no::integer, NULL)::moved.span",
    )
    .await;
    pair.settle(&mut flow).await;
    assert_eq!(pair.same().await, 4);
    let twice: i64 = pair.read(1, "SELECT sum(twice)::bigint FROM moved.kinds").await;
    assert_eq!(twice, 20, "the target computes it");
    let enums = "SELECT 'moved.mood'::regtype::oid::bigint";
    assert_ne!(pair.read::<i64>(0, enums).await, pair.read::<i64>(1, enums).await);
    flow.stop().await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_value_that_was_not_sent_stays() {
    let pair = Pair::start().await;
    // Incompressible, so that it is stored beside the row.
    pair.write(
        0,
        "ALTER TABLE moved.kinds ALTER long SET STORAGE EXTERNAL, ALTER other SET STORAGE EXTERNAL",
    )
    .await;
    let mut flow = pair.begin(Direction::Forward, Writers::Tenant).await;
    pair.write(
        0,
        "INSERT INTO moved.kinds (tenant_id, no, long, other)
            SELECT '{t}', n, repeat('long ' || n, 3000), repeat('other', 3000) FROM generate_series(1, 20) AS n",
    )
    .await;
    pair.settle(&mut flow).await;
    // In transactions of their own, in one with the row's coming, and with either value changed.
    for sql in [
        "UPDATE moved.kinds SET f8 = no",
        "UPDATE moved.kinds SET long = 'short' WHERE no % 3 = 0",
        "UPDATE moved.kinds SET other = long WHERE no % 3 = 1",
        "BEGIN; UPDATE moved.kinds SET long = repeat('new', 5000) WHERE no < 9; UPDATE moved.kinds SET f8 = -no; COMMIT",
        "BEGIN; INSERT INTO moved.kinds (tenant_id, no, long) VALUES ('{t}', 99, repeat('late', 5000));
         UPDATE moved.kinds SET f8 = 99 WHERE no = 99; COMMIT",
        "UPDATE moved.kinds SET no = no + 1000",
    ] {
        pair.write(0, sql).await;
    }
    pair.settle(&mut flow).await;
    assert_eq!(pair.same().await, 21);
    let long: i64 = pair.read(1, "SELECT count(*) FROM moved.kinds WHERE length(long) > 9000").await;
    assert!(long > 10, "{long} are long");
    flow.stop().await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rolled_back_never_arrives() {
    let pair = Pair::start().await;
    let mut flow = pair.begin(Direction::Forward, Writers::Tenant).await;
    pair.write(
        0,
        &format!(
            "BEGIN; {ACCOUNTS}; SAVEPOINT a; UPDATE moved.account SET balance = -1; SAVEPOINT b; DELETE FROM moved.account;
            ROLLBACK TO a; UPDATE moved.account SET balance = balance + 1 WHERE no = 2; COMMIT"
        ),
    )
    .await;
    pair.write(0, "BEGIN; DELETE FROM moved.account; ROLLBACK").await;
    pair.settle(&mut flow).await;
    assert_eq!(pair.same().await, 5);
    let sum: i64 = pair.read(1, "SELECT sum(balance)::bigint FROM moved.account").await;
    assert_eq!(sum, 16);
    flow.stop().await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_thousand_changes_of_one_transaction_arrive_at_once() {
    let pair = Pair::start().await;
    let mut flow = pair.begin(Direction::Forward, Writers::Tenant).await;
    // Somebody who looks all the time.
    let (target, done) = (pair.admin[1].clone(), CancellationToken::new());
    let looking = tokio::spawn({
        let done = done.clone();
        async move {
            let (mut conn, mut seen) = (connect(&target).await, BTreeSet::new());
            while !done.is_cancelled() {
                let counted =
                    "SELECT (SELECT count(*) FROM moved.account) + (SELECT count(*) FROM moved.entry)";
                seen.insert(scalar::<i64>(&mut conn, counted).await);
            }
            seen
        }
    });
    pair.write(
        0,
        "BEGIN;
        INSERT INTO moved.account SELECT '{t}', n, 'mail ' || n, n FROM generate_series(1, 20000) AS n;
        INSERT INTO moved.entry SELECT '{t}', n, n, 'entry ' || n FROM generate_series(1, 20000) AS n;
        UPDATE moved.account SET balance = -balance WHERE no % 2 = 0;
        DELETE FROM moved.entry WHERE no % 2 = 1;
        COMMIT",
    )
    .await;
    pair.settle(&mut flow).await;
    done.cancel();
    let seen = looking.await.expect("it does not panic");
    assert!(seen.iter().all(|count| [0, 30_000].contains(count)), "{seen:?}");
    assert_eq!(pair.same().await, 30_000);
    let position = flow.control.position();
    assert_eq!((position.transactions, position.changes), (1, 60_000));
    flow.stop().await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_go_and_come_again_and_keys_that_change_arrive() {
    let pair = Pair::start().await;
    let mut flow = pair.begin(Direction::Forward, Writers::Tenant).await;
    pair.write(0, ACCOUNTS).await;
    for sql in [
        // In one transaction, and again in several that may make one batch.
        "BEGIN; DELETE FROM moved.account WHERE no = 1; INSERT INTO moved.account VALUES ('{t}', 1, 'again', 7);
         UPDATE moved.account SET balance = 8 WHERE no = 1; COMMIT",
        "DELETE FROM moved.account WHERE no = 2",
        "INSERT INTO moved.account VALUES ('{t}', 2, 'mail 2', 9)",
        "UPDATE moved.account SET no = no + 100 WHERE no IN (3, 4)",
        "BEGIN; UPDATE moved.account SET no = 3 WHERE no = 1; UPDATE moved.account SET no = 1 WHERE no = 103;
         UPDATE moved.account SET balance = 99 WHERE no = 1; COMMIT",
    ] {
        pair.write(0, sql).await;
    }
    pair.settle(&mut flow).await;
    assert_eq!(pair.same().await, 5);
    flow.stop().await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_targets_own_foreign_keys_did_already_is_no_error() {
    let pair = Pair::start().await;
    let mut flow = pair.begin(Direction::Forward, Writers::Tenant).await;
    pair.write(
        0,
        &format!(
            "{ACCOUNTS}; INSERT INTO moved.entry SELECT '{{t}}', n, 1 + n % 5, 'words' FROM generate_series(1, 50) AS n;
            INSERT INTO moved.leaf SELECT '{{t}}', a, p, p FROM generate_series(1, 5) AS a, generate_series(1, 3) AS p"
        ),
    )
    .await;
    for sql in [
        "DELETE FROM moved.account WHERE no = 1",
        "UPDATE moved.account SET no = 22 WHERE no = 2",
        "BEGIN; UPDATE moved.entry SET account_no = 3 WHERE account_no = 4; DELETE FROM moved.account WHERE no = 4; COMMIT",
        "BEGIN; DELETE FROM moved.account WHERE no = 5; INSERT INTO moved.account VALUES ('{t}', 5, 'mail 5', 5);
         INSERT INTO moved.leaf VALUES ('{t}', 5, 1, 1); COMMIT",
    ] {
        pair.write(0, sql).await;
    }
    pair.settle(&mut flow).await;
    assert_eq!(pair.same().await, 3 + 30 + 7);
    flow.stop().await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unique_values_that_pass_from_row_to_row_arrive() {
    let pair = Pair::start().await;
    let mut flow = pair.begin(Direction::Forward, Writers::Tenant).await;
    pair.write(0, ACCOUNTS).await;
    pair.write(0, "INSERT INTO moved.leaf SELECT '{t}', 1, p, p FROM generate_series(1, 4) AS p").await;
    for sql in [
        // Swapped over a third value, in one transaction: what it comes to cannot be made row by row.
        "BEGIN; UPDATE moved.account SET email = 'aside' WHERE no = 1; UPDATE moved.account SET email = 'mail 1' WHERE no = 2;
         UPDATE moved.account SET email = 'mail 2' WHERE no = 1; COMMIT",
        // From a row that goes to one that comes.
        "BEGIN; DELETE FROM moved.account WHERE no = 3; INSERT INTO moved.account VALUES ('{t}', 30, 'mail 3', 3); COMMIT",
        // From a row that changes to one that comes.
        "BEGIN; UPDATE moved.account SET email = 'other' WHERE no = 4;
         INSERT INTO moved.account VALUES ('{t}', 40, 'mail 4', 4); COMMIT",
        // Swapped by one statement, which a constraint that waits allows.
        "UPDATE moved.leaf SET rank = 5 - rank",
    ] {
        pair.write(0, sql).await;
    }
    pair.settle(&mut flow).await;
    assert_eq!(pair.same().await, 6 + 4);
    flow.stop().await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_tenants_on_either_side_are_left_alone() {
    let pair = Pair::start().await;
    for side in [0, 1] {
        pair.write(
            side,
            &format!("INSERT INTO moved.account SELECT '{{o}}', n, 'side {side} ' || n, 0 FROM generate_series(1, 5) AS n"),
        )
        .await;
    }
    let before = [pair.rows(0, pair.other).await, pair.rows(1, pair.other).await];
    let mut flow = pair.begin(Direction::Forward, Writers::Tenant).await;
    pair.write(0, ACCOUNTS).await;
    pair.write(0, "UPDATE moved.account SET balance = 5 WHERE tenant_id = '{t}'").await;
    pair.write(0, "UPDATE moved.account SET no = no + 10 WHERE tenant_id = '{t}'").await;
    pair.write(0, "DELETE FROM moved.account WHERE tenant_id = '{t}' AND no = 12").await;
    pair.settle(&mut flow).await;
    assert_eq!(pair.same().await, 4);
    assert_eq!([pair.rows(0, pair.other).await, pair.rows(1, pair.other).await], before);
    flow.stop().await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_change_are_told_to_whoever_compares() {
    let pair = Pair::start().await;
    pair.write(0, "ALTER TABLE moved.kinds REPLICA IDENTITY FULL").await;
    let mut flow = pair.begin(Direction::Forward, Writers::Tenant).await;
    pair.write(0, ACCOUNTS).await;
    pair.settle(&mut flow).await;
    assert_eq!(flow.control.dirty_len(), Some(5));
    flow.control.clear_dirty();
    pair.write(
        0,
        "INSERT INTO moved.kinds (tenant_id, no, long) VALUES ('{t}', 7, 'x');
        UPDATE moved.kinds SET long = 'y'; UPDATE moved.account SET no = 50 WHERE no = 5;
        DELETE FROM moved.account WHERE no = 4",
    )
    .await;
    pair.settle(&mut flow).await;
    let DirtyRows::Keys(changed) = flow.control.take_dirty() else { panic!("there are few") };
    let mut told: Vec<(String, i64)> = changed
        .into_iter()
        .flat_map(|(table, keys)| keys.into_iter().map(move |key| (table.clone(), key)))
        .map(|(table, key)| {
            let [Value::Binary(tenant), Value::Binary(no)] = &key.0[..] else { panic!("{key:?}") };
            assert_eq!(tenant.as_ref(), pair.tenant.as_uuid().as_bytes());
            (table.name, i64::from_be_bytes(no.as_ref().try_into().expect("eight bytes")))
        })
        .collect();
    told.sort();
    let expected = [("account", 4), ("account", 5), ("account", 50), ("kinds", 7)];
    assert_eq!(told, expected.map(|(table, no)| (table.to_owned(), no)));
    assert_eq!(flow.control.take_dirty(), DirtyRows::Keys(BTreeMap::new()));
    assert_eq!(pair.same().await, 5);
    flow.stop().await;
    pair.close().await;
}
