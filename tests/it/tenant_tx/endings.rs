//! What a commit says after statements that may have ended the transaction, and when it asks who is bound.

use futures::TryStreamExt as _;
use sqlx::AssertSqlSafe;
use stagesub_storage::error::CommitError;
use stagesub_storage::tx::TenantTx;
use stagesub_tenancy::Access;
use stagesub_tests::database::{connect, run};

use super::lab::{Lab, scalar, sqlstate};
use super::{begin, insert, visible};

/// The last message of a transaction in which it is certain that it is open.
const CERTAIN: &str = "COMMIT;RESET ALL";
/// The last message of one in which it is not.
const ASKING: &str = "SHOW app.tenant_id;COMMIT;RESET ALL";

/// What ends a transaction, and whether it keeps what was written.
const ENDINGS: [(&str, bool); 12] = [
    ("COMMIT", true),
    ("commit work", true),
    ("END", true),
    ("COMMIT AND CHAIN", true),
    ("ROLLBACK", false),
    ("\n\tRollback Transaction", false),
    ("ABORT", false),
    ("ROLLBACK AND CHAIN", false),
    ("-- SELECT\nROLLBACK", false),
    ("/* SELECT */ COMMIT", true),
    // To PostgreSQL a line ends at a carriage return.
    ("-- a word\rROLLBACK /*\nSELECT */", false),
    ("--\r\nCOMMIT", true),
];

/// Runs a statement that the driver prepares, or sends it as text.
async fn say(tx: &mut TenantTx, sql: &'static str, prepared: bool) -> Result<(), sqlx::Error> {
    if prepared {
        sqlx::query(sql).execute(tx).await.map(drop)
    } else {
        sqlx::raw_sql(sql).execute(tx).await.map(drop)
    }
}

/// The last message that the lab's only connection was sent.
async fn last_message(lab: &Lab) -> String {
    let sql = "SELECT query FROM pg_stat_activity
               WHERE datname = current_database() AND usename = 'stagesub_app'";
    scalar(&mut connect(&lab.admin).await, sql).await
}

/// How many instruments there are, of anybody.
async fn kept(lab: &Lab) -> i64 {
    scalar(&mut connect(&lab.admin).await, "SELECT count(*) FROM tenant.instrument").await
}

async fn empty(lab: &Lab) {
    run(&mut connect(&lab.admin).await, "DELETE FROM tenant.position; DELETE FROM tenant.instrument").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_bound_is_asked_only_where_a_statement_could_have_ended_the_transaction() {
    let lab = Lab::start(1).await;
    let db = lab.tenants();
    let [scope, _] = &lab.scopes;
    let mut tx = begin(&db, scope, Access::Write).await;
    for no in 1..=3 {
        insert(&mut tx, no, &format!("Violin {no}")).await.unwrap();
    }
    for rows in [
        "SELECT no FROM tenant.instrument WHERE tenant_id = app.tenant_id()",
        "-- a word\n  with few AS (SELECT 1 AS no) SELECT no FROM few",
        "UPDATE tenant.instrument SET name = 'Viola' WHERE tenant_id = app.tenant_id() AND no = 2",
        "DELETE FROM tenant.instrument WHERE tenant_id = app.tenant_id() AND no = 3",
        "MERGE INTO tenant.instrument AS i USING (SELECT 1 AS no) AS n ON i.tenant_id = app.tenant_id() AND i.no = n.no
         WHEN MATCHED THEN UPDATE SET name = 'Cello'",
    ] {
        say(&mut tx, rows, true).await.unwrap();
        assert!(sqlx::query(rows).fetch_optional(&mut tx).await.is_ok());
    }
    tx.commit().await.unwrap();
    assert_eq!(last_message(&lab).await, CERTAIN);
    assert_eq!(kept(&lab).await, 2);

    let mut unread = begin(&db, scope, Access::Write).await;
    let mut numbers = sqlx::query("SELECT n FROM generate_series(1, 10) AS n").fetch(&mut unread);
    assert!(numbers.try_next().await.unwrap().is_some());
    drop(numbers);
    unread.commit().await.unwrap();
    assert_eq!(last_message(&lab).await, ASKING, "it was not seen to end");

    for (sql, prepared) in [
        ("SELECT 1", false),
        ("SELECT 1; SELECT 2", false),
        ("SAVEPOINT here", true),
        ("SET LOCAL work_mem = '3MB'", true),
        ("SHOW work_mem", true),
        ("VALUES (1)", true),
        ("/* a word */ SELECT 1", true),
    ] {
        let mut tx = begin(&db, scope, Access::Write).await;
        say(&mut tx, sql, prepared).await.unwrap();
        insert(&mut tx, 3, "Oboe").await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(last_message(&lab).await, ASKING, "{sql}");
        assert_eq!(kept(&lab).await, 3, "{sql}");
        run(&mut connect(&lab.admin).await, "DELETE FROM tenant.instrument WHERE no = 3").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ending_is_noticed_however_it_was_said() {
    let lab = Lab::start(1).await;
    let db = lab.tenants();
    let [scope, _] = &lab.scopes;
    for (ending, keeps) in ENDINGS {
        for prepared in [true, false] {
            let mut tx = begin(&db, scope, Access::Write).await;
            insert(&mut tx, 1, "Violin").await.unwrap();
            say(&mut tx, ending, prepared).await.unwrap();
            let ended = tx.commit().await;
            assert!(matches!(ended, Err(CommitError::Refused(_))), "{ending:?}, {prepared}: {ended:?}");
            // What it kept is kept, whatever the commit would have done.
            assert_eq!(kept(&lab).await, i64::from(keeps), "{ending:?}, {prepared}");
            empty(&lab).await;
        }
    }
    for replaces in [&["ROLLBACK; BEGIN"][..], &["ROLLBACK", "BEGIN"], &["COMMIT", "START TRANSACTION"]] {
        let mut tx = begin(&db, scope, Access::Write).await;
        for statement in replaces {
            say(&mut tx, statement, replaces.len() > 1).await.unwrap();
        }
        let ended = tx.commit().await;
        assert!(matches!(ended, Err(CommitError::Refused(_))), "{replaces:?}: {ended:?}");
    }
    // Nothing of that is left on the connection.
    assert_eq!(visible(&mut begin(&db, scope, Access::Read).await).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_was_passed_over_keeps_nothing() {
    let lab = Lab::start(1).await;
    let db = lab.tenants();
    let [scope, _] = &lab.scopes;
    // Its first rows come, and its error is on its way when nobody reads on.
    let failing = "SELECT 1 / (3 - n) FROM generate_series(1, 1000) AS n";
    for read_on in [false, true] {
        let mut tx = begin(&db, scope, Access::Write).await;
        insert(&mut tx, 1, "Violin").await.unwrap();
        let mut rows = sqlx::query(failing).fetch(&mut tx);
        assert!(rows.try_next().await.unwrap().is_some());
        drop(rows);
        if read_on {
            // The error of before is told in place of an answer, and then that the transaction has failed.
            assert_eq!(sqlstate(&insert(&mut tx, 2, "Viola").await.unwrap_err()), "22012");
            assert_eq!(sqlstate(&insert(&mut tx, 2, "Viola").await.unwrap_err()), "25P02");
        }
        let ended = tx.commit().await;
        assert!(matches!(ended, Err(CommitError::Refused(_))), "{read_on}: {ended:?}");
        assert_eq!(kept(&lab).await, 0);
    }
    // Neither does what could not be planned, or was asked of the server and not run.
    let mut tx = begin(&db, scope, Access::Write).await;
    insert(&mut tx, 1, "Violin").await.unwrap();
    let nowhere = sqlx::Executor::prepare(&mut tx, sqlx::SqlStr::from_static("SELECT 1 FROM nowhere")).await;
    assert_eq!(sqlstate(&nowhere.map(drop).unwrap_err()), "42P01");
    assert!(matches!(tx.commit().await, Err(CommitError::Refused(_))));
    assert_eq!(kept(&lab).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_behind_a_savepoint_is_taken_back_and_the_rest_kept() {
    let lab = Lab::start(1).await;
    let db = lab.tenants();
    let [scope, _] = &lab.scopes;
    for prepared in [true, false] {
        let mut tx = begin(&db, scope, Access::Write).await;
        insert(&mut tx, 1, "Violin").await.unwrap();
        say(&mut tx, "SAVEPOINT here", prepared).await.unwrap();
        insert(&mut tx, 2, "Viola").await.unwrap();
        assert_eq!(sqlstate(&insert(&mut tx, 1, "Violin").await.unwrap_err()), "23505");
        say(&mut tx, "ROLLBACK TO SAVEPOINT here", prepared).await.unwrap();
        insert(&mut tx, 3, "Cello").await.unwrap();
        tx.commit().await.unwrap();
        let names: Vec<String> = visible(&mut begin(&db, scope, Access::Read).await)
            .await
            .into_iter()
            .map(|(_, name)| name)
            .collect();
        assert_eq!(names, ["Violin", "Cello"]);
        empty(&lab).await;

        // The same without going back to it.
        let mut tx = begin(&db, scope, Access::Write).await;
        insert(&mut tx, 1, "Violin").await.unwrap();
        say(&mut tx, "SAVEPOINT here", prepared).await.unwrap();
        assert_eq!(sqlstate(&insert(&mut tx, 1, "Violin").await.unwrap_err()), "23505");
        assert!(matches!(tx.commit().await, Err(CommitError::Refused(_))));
        assert_eq!(kept(&lab).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_at_the_commit_itself_is_refused() {
    let lab = Lab::start(1).await;
    let db = lab.tenants();
    let [scope, _] = &lab.scopes;
    run(
        &mut connect(&lab.admin).await,
        "ALTER TABLE tenant.position ALTER CONSTRAINT position_instrument_fkey DEFERRABLE INITIALLY DEFERRED",
    )
    .await;
    let position = format!(
        "INSERT INTO tenant.position (tenant_id, no, instrument_no, name, hierarchy_level, created_at, updated_at)
         VALUES ('{}', 1, 1, 'Stämma', 1, now(), now())",
        scope.tenant_id()
    );
    for with_instrument in [false, true] {
        let mut tx = begin(&db, scope, Access::Write).await;
        sqlx::query(AssertSqlSafe(position.clone())).execute(&mut tx).await.unwrap();
        if with_instrument {
            insert(&mut tx, 1, "Violin").await.unwrap();
        }
        let ended = tx.commit().await;
        if with_instrument {
            ended.unwrap();
            assert_eq!(last_message(&lab).await, CERTAIN);
        } else {
            assert!(matches!(ended, Err(CommitError::Refused(_))), "{ended:?}");
        }
        assert_eq!(kept(&lab).await, i64::from(with_instrument));
    }
}
