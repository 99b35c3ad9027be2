//! A tenant's rows in another database: all of them, nobody else's, as they were in one snapshot.

use std::num::{NonZeroU64, NonZeroUsize};

use sqlx::{Connection, PgConnection};
use stagesub_storage::identity::Identity;
use stagesub_storage::moves::copy::{
    CopyError, CopyProgress, CopySettings, PurgeSettings, TenantCopy, purge, take_statistics,
};
use stagesub_storage::moves::pace::Pace;
use stagesub_storage::moves::plan::{Checks, MovePlan, PlanError};
use stagesub_storage::moves::session::Site;
use stagesub_storage::target::ConnectionTarget;
use stagesub_tenancy::{DatabaseId, PoolTarget, TenantId};
use stagesub_tests::database::run;
use stagesub_tests::{Kept, TestPlatform};
use tokio::sync::watch;
use uuid::Uuid;

use super::pair::{Pair, export, plan, tenants};
use crate::registry::Server;
use crate::tenant_tx::lab::until;

/// The shop's tables, as SQL has them.
const SHOPS: [&str; 3] =
    [r#""Odd ""Shop".account"#, r#""Odd ""Shop"."A; hard one""#, r#""Odd ""Shop".one_row"#];

fn streams(number: usize) -> CopySettings {
    CopySettings { streams: NonZeroUsize::new(number).unwrap(), ..CopySettings::default() }
}

async fn open<'p>(
    pair: &Pair,
    plan: &'p MovePlan,
    tenant: TenantId,
    settings: &CopySettings,
) -> (PgConnection, TenantCopy<'p>) {
    let (holder, snapshot) = pair.snapshot().await;
    let copy = TenantCopy::open(&pair.source, &pair.target, plan, tenant, &snapshot, settings).await.unwrap();
    (holder, copy)
}

fn progress() -> watch::Sender<CopyProgress> {
    watch::Sender::new(CopyProgress::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_value_arrives_and_nobody_elses() {
    let [moved, other, there] = tenants();
    let pair = Pair::with_shop(&[moved, other]).await;
    pair.on_target(&format!(
        r#"INSERT INTO "Odd ""Shop".account (tenant_id, "no", "e""mail") VALUES ('{there}', 1, '1@a.example')"#
    ))
    .await;
    let plan = pair.plan().await;
    let done = pair.copied(&plan, moved).await;

    for table in SHOPS {
        let here = pair.rows(false, table, moved).await;
        assert!(!here.is_empty());
        assert!(pair.rows(true, table, moved).await == here, "{table} is not the same");
        assert_eq!(pair.rows(true, table, other).await, [""; 0], "{table}");
        assert!(!pair.rows(false, table, other).await.is_empty(), "{table} of another tenant is untouched");
    }
    assert_eq!(pair.rows(true, SHOPS[0], there).await.len(), 1, "it was there before");
    let counted: Vec<(&str, u64)> = done
        .tables
        .iter()
        .filter(|table| table.rows > 0)
        .map(|table| (table.table.name.as_str(), table.rows))
        .collect();
    assert_eq!(counted, [("account", 200), ("one_row", 1), ("A; hard one", 303)]);
    assert!(done.tables.iter().all(|table| table.done) && done.rows() == 504 && done.bytes() > 128_000);
    // The planner knows of the rows, once it was told to look.
    let mut session = pair.target.open("statistics").await.unwrap();
    take_statistics(&mut session, &done).await.unwrap();
    let known: f32 = sqlx::query_scalar("SELECT reltuples FROM pg_class WHERE relname = 'A; hard one'")
        .fetch_one(&mut pair.target_conn().await)
        .await
        .unwrap();
    assert!((known - 303.0).abs() < 0.5, "{known}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orchestra_arrives_with_everything_it_has() {
    let platform = TestPlatform::start().await;
    let [ours, theirs] = platform.pair(Kept::Shared).await;
    let pair = Pair::on(platform).await;
    let plan = pair.plan_of(&["tenant"]).await.unwrap();
    let done = pair.copied(&plan, ours.tenant).await;
    assert!(done.rows() > 10, "{done:?}");
    for table in &plan.tables {
        let table = table.quoted();
        assert_eq!(
            pair.rows(true, &table, ours.tenant).await,
            pair.rows(false, &table, ours.tenant).await,
            "{table}"
        );
        assert_eq!(pair.rows(true, &table, theirs.tenant).await, [""; 0], "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_after_the_snapshot_is_not_in_the_copy() {
    let [moved] = tenants();
    let pair = Pair::with_shop(&[moved]).await;
    let plan = pair.plan().await;
    let before = pair.rows(false, SHOPS[0], moved).await;
    let (holder, copy) = open(&pair, &plan, moved, &streams(3)).await;
    pair.on_source(&format!(
        r#"SET search_path = "Odd ""Shop";
        DELETE FROM "A; hard one" WHERE tenant_id = '{moved}' AND account = 200;
        DELETE FROM account WHERE tenant_id = '{moved}' AND "no" = 200;
        UPDATE account SET amount = 5 WHERE tenant_id = '{moved}';
        INSERT INTO account (tenant_id, "no", "e""mail") VALUES ('{moved}', 1000, 'late@a.example')"#
    ))
    .await;
    // The streams are in the snapshot; who exported it may go.
    holder.close().await.unwrap();
    copy.run(&progress()).await.unwrap();
    assert!(pair.rows(true, SHOPS[0], moved).await == before);
    assert!(pair.rows(false, SHOPS[0], moved).await != before);

    let gone =
        TenantCopy::open(&pair.source, &pair.target, &plan, moved, "00000003-0000001B-1", &streams(1)).await;
    assert!(matches!(gone, Err(CopyError::Snapshot(_))), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snapshot_is_let_go_before_everything_is_written() {
    let [moved] = tenants();
    let pair = Pair::with_shop(&[moved]).await;
    let plan = pair.plan().await;
    let before = pair.rows(false, SHOPS[1], moved).await;
    // Some 180 kB are read in half a second, and written in four.
    let slow = CopySettings { pace: Pace::bytes_per_second(NonZeroU64::new(40_000).unwrap()), ..streams(2) };
    let (holder, copy) = open(&pair, &plan, moved, &slow).await;
    holder.close().await.unwrap();
    let told = progress();
    let mut copying = std::pin::pin!(copy.run(&told));
    tokio::select! {
        done = copying.as_mut() => panic!("it was written before it was read: {done:?}"),
        () = pair.readers_are_gone() => {}
    }
    assert!(told.borrow().tables.iter().any(|table| !table.done));
    assert_eq!(pair.rows(true, SHOPS[1], moved).await, [""; 0]);
    pair.on_source(&format!(r#"DELETE FROM "Odd ""Shop"."A; hard one" WHERE tenant_id = '{moved}'"#)).await;
    let done = copying.await.unwrap();
    assert_eq!(done.rows(), 504);
    assert!(pair.rows(true, SHOPS[1], moved).await == before, "what was read is what is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_dropped_leaves_no_session_and_is_begun_again() {
    let [moved, there] = tenants();
    let pair = Pair::with_shop(&[moved]).await;
    pair.on_target(&format!(
        r#"INSERT INTO "Odd ""Shop".account (tenant_id, "no", "e""mail") VALUES ('{there}', 1, '1@a.example')"#
    ))
    .await;
    let plan = pair.plan().await;
    // So slow that it cannot end by itself while anybody watches: 128 KiB are in one value.
    let slow = CopySettings { pace: Pace::bytes_per_second(NonZeroU64::new(1_000).unwrap()), ..streams(2) };
    let (_holder, copy) = open(&pair, &plan, moved, &slow).await;
    let told = progress();
    let mut heard = told.subscribe();
    let begun = heard.wait_for(|progress| progress.tables.iter().any(|table| table.done && table.rows > 100));
    tokio::select! {
        done = copy.run(&told) => panic!("it ended: {done:?}"),
        begun = begun => drop(begun.unwrap()),
    }
    pair.sessions_are_gone().await;
    assert!(!pair.rows(true, SHOPS[0], moved).await.is_empty(), "a table that was done is there whole");
    assert_eq!(pair.rows(true, SHOPS[1], moved).await, [""; 0], "one that was not is not there");

    pair.copied(&plan, moved).await;
    for table in SHOPS {
        assert!(pair.rows(true, table, moved).await == pair.rows(false, table, moved).await, "{table}");
    }
    let mut target = pair.target.open("purge").await.unwrap();
    assert_eq!(purge(&mut target, &plan, moved, &PurgeSettings::default()).await.unwrap(), 504);
    assert_eq!(purge(&mut target, &plan, moved, &PurgeSettings::default()).await.unwrap(), 0);
    assert_eq!(pair.rows(true, SHOPS[0], there).await.len(), 1, "another tenant's rows stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_removed_so_many_at_a_time_and_who_was_given_up_is_followed() {
    let [moved, there] = tenants();
    let pair = Pair::with_shop(&[moved, there]).await;
    let plan = pair.plan().await;
    pair.copied(&plan, moved).await;
    pair.copied(&plan, there).await;
    let pace = Pace::bytes_per_second(NonZeroU64::new(1).unwrap());
    let at_once = |at_once| PurgeSettings { at_once, pace: pace.clone() };

    // Some of its rows refer to others of it, so that table goes at once, and last. It has to wait.
    let mut holder = pair.target_conn().await;
    run(&mut holder, &format!("BEGIN; SELECT FROM {} WHERE tenant_id = '{moved}' FOR UPDATE", SHOPS[0]))
        .await;
    let mut target = pair.target.open("purge").await.unwrap();
    {
        let settings = at_once(100);
        let mut purging = std::pin::pin!(purge(&mut target, &plan, moved, &settings));
        // The last of the others go in one transaction with the first of it.
        let gone =
            until("others see what was removed", async || pair.rows(true, SHOPS[1], moved).await.len() < 100);
        tokio::select! {
            purged = purging.as_mut() => panic!("a row of it is locked: {purged:?}"),
            () = gone => {}
        }
        assert_eq!(pair.rows(true, SHOPS[0], moved).await.len(), 200);
    }
    drop(target);
    // What was given up may still wait for its row: then it is waited for, or it has ended.
    run(&mut holder, "COMMIT").await;
    let mut target = pair.target.open("purge").await.unwrap();
    let left = purge(&mut target, &plan, moved, &at_once(100)).await.unwrap();
    assert!(left <= 204, "three transactions of a hundred were kept: {left}");
    for table in SHOPS {
        assert_eq!(pair.rows(true, table, moved).await, [""; 0], "{table}");
        assert!(pair.rows(true, table, there).await == pair.rows(false, table, there).await, "{table}");
    }
    assert_eq!(purge(&mut target, &plan, there, &at_once(1)).await.unwrap(), 504);
    assert_eq!(purge(&mut target, &plan, there, &at_once(0)).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_serves_the_tenant_is_left_alone() {
    let [moved] = tenants();
    let pair = Pair::with_shop(&[moved]).await;
    let plan = pair.plan().await;
    pair.copied(&plan, moved).await;
    let fence = |state: &str| {
        format!(
            "INSERT INTO app.tenant_fence (tenant_id, state, epoch) VALUES ('{moved}', '{state}', 2)
            ON CONFLICT (tenant_id) DO UPDATE SET state = excluded.state"
        )
    };
    pair.on_target(&fence("active")).await;
    let (_holder, copy) = open(&pair, &plan, moved, &streams(2)).await;
    let refused = copy.run(&progress()).await.unwrap_err();
    assert!(matches!(refused, CopyError::InUse(tenant) if tenant == moved), "{refused:?}");
    assert_eq!(pair.rows(true, SHOPS[0], moved).await.len(), 200);

    pair.on_target(&fence("moved")).await;
    let (_holder, copy) = open(&pair, &plan, moved, &streams(2)).await;
    copy.run(&progress()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_get_lost_on_the_way_are_noticed() {
    let [moved] = tenants();
    let pair = Pair::with_shop(&[moved]).await;
    let plan = pair.plan().await;
    // As if somebody had added it after the plan was made.
    pair.on_target(
        r#"CREATE FUNCTION public.swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN CASE WHEN NEW."no" = 200 THEN NULL ELSE NEW END; END';
        CREATE TRIGGER swallow BEFORE INSERT ON "Odd ""Shop".account FOR EACH ROW EXECUTE FUNCTION public.swallow()"#,
    )
    .await;
    let (_holder, copy) = open(&pair, &plan, moved, &streams(1)).await;
    let told = progress();
    let refused = copy.run(&told).await.unwrap_err();
    assert!(matches!(&refused, CopyError::Miscounted { sent: 200, taken: 199, .. }), "{refused:?}");
    assert_eq!(pair.rows(true, SHOPS[0], moved).await, [""; 0], "it was rolled back");

    // A target that refuses a row says so, and the source's rows behind it are of no use.
    pair.on_target(
        r#"DROP TRIGGER swallow ON "Odd ""Shop".account;
        ALTER TABLE "Odd ""Shop"."A; hard one" ADD CHECK (name <> 'many 300')"#,
    )
    .await;
    for pace in [Pace::unlimited(), Pace::bytes_per_second(NonZeroU64::new(10_000_000).unwrap())] {
        let (_holder, copy) = open(&pair, &plan, moved, &CopySettings { pace, ..streams(2) }).await;
        let refused = copy.run(&told).await.unwrap_err();
        assert!(
            matches!(&refused, CopyError::Target { table, .. } if table.name == "A; hard one"),
            "{refused:?}"
        );
    }
}

/// Two databases on a server of their own, where roles may be changed.
struct Own {
    server: Server,
    tenant: TenantId,
}

impl Own {
    async fn with(tables: &str) -> Self {
        let server = Server::installed().await;
        server.run("postgres", "CREATE DATABASE two TEMPLATE shr").await;
        let [tenant] = tenants();
        let own = Self { server, tenant };
        // A copy of a database has none of its grants.
        let grants =
            "GRANT CONNECT, CREATE ON DATABASE two TO stagesub_owner; ALTER ROLE stagesub_mover PASSWORD 'm'";
        own.server.run("postgres", grants).await;
        for database in ["shr", "two"] {
            own.server.run(database, tables).await;
        }
        own
    }

    async fn site(&self, database: &str, user: &str) -> Site {
        let id: Vec<String> = self.server.texts(database, "SELECT database_id::text FROM app.marker").await;
        let id = DatabaseId::from_uuid(id[0].parse().unwrap());
        let login: ConnectionTarget = self.server.login(database, user, "m");
        Site::new(Uuid::nil(), login, Identity::of(&PoolTarget::Shared(id)))
    }

    async fn rows(&self, database: &str, table: &str) -> Vec<String> {
        let sql = format!("SELECT t::text FROM {table} AS t WHERE tenant_id = '{}' ORDER BY 1", self.tenant);
        self.server.texts(database, &sql).await
    }
}

/// Two tables in a circle, and a trigger that would change what is copied.
const RING: &str = "
    SET ROLE stagesub_owner; CREATE SCHEMA ring; SET search_path = ring;
    CREATE TABLE a (tenant_id uuid, no bigint, b bigint, note text, PRIMARY KEY (tenant_id, no));
    CREATE TABLE b (tenant_id uuid, no bigint, PRIMARY KEY (tenant_id, no),
        FOREIGN KEY (tenant_id, no) REFERENCES a (tenant_id, no) ON DELETE CASCADE);
    ALTER TABLE a ADD FOREIGN KEY (tenant_id, b) REFERENCES b (tenant_id, no) DEFERRABLE INITIALLY DEFERRED;
    CALL app.protect('a'); CALL app.protect('b');
    CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.note := ''stamped''; RETURN NEW; END';
    CREATE TRIGGER stamp BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION stamp();";

#[tokio::test(flavor = "multi_thread")]
async fn circles_and_triggers_move_once_the_mover_may_skip_checks() {
    let own = Own::with(RING).await;
    let rows = format!(
        "BEGIN; SET session_replication_role = replica;
        INSERT INTO ring.a SELECT '{0}', n, n, 'plain' FROM generate_series(1, 50) AS n;
        INSERT INTO ring.b SELECT '{0}', n FROM generate_series(1, 50) AS n; COMMIT",
        own.tenant
    );
    own.server.run("shr", &rows).await;
    let (source, target) = (own.site("shr", "stagesub_mover").await, own.site("two", "stagesub_mover").await);
    let mut session = target.open("asks").await.unwrap();
    assert!(!session.may_skip_checks().await.unwrap());
    assert!(session.skip_checks().await.is_err());
    session.close().await;
    let refused = plan(&source, &["ring"], Checks::Kept).await.unwrap_err();
    assert!(matches!(refused, PlanError::Refused(_)), "the trigger is named first: {refused:?}");

    own.server.run("two", "GRANT SET ON PARAMETER session_replication_role TO stagesub_mover").await;
    let mut session = target.open("asks").await.unwrap();
    assert!(session.may_skip_checks().await.unwrap());
    session.close().await;
    let plan = plan(&source, &["ring"], Checks::Skipped).await.unwrap();
    for _ in 0..2 {
        let (_holder, snapshot) = export(&own.server.admin("shr")).await;
        let copy =
            TenantCopy::open(&source, &target, &plan, own.tenant, &snapshot, &streams(2)).await.unwrap();
        assert_eq!(copy.run(&progress()).await.unwrap().rows(), 100);
    }
    for table in ["ring.a", "ring.b"] {
        assert_eq!(own.rows("two", table).await, own.rows("shr", table).await, "{table}");
    }
}

/// One table and one row of it.
async fn plain() -> (Own, [Site; 2], MovePlan) {
    let own = Own::with(
        "SET ROLE stagesub_owner; CREATE SCHEMA plain; CREATE TABLE plain.a (tenant_id uuid PRIMARY KEY, note text);
        CALL app.protect('plain.a')",
    )
    .await;
    own.server.run("shr", &format!("INSERT INTO plain.a VALUES ('{}', 'here')", own.tenant)).await;
    let (source, target) = (own.site("shr", "stagesub_mover").await, own.site("two", "stagesub_mover").await);
    let plan = plan(&source, &["plain"], Checks::Kept).await.unwrap();
    (own, [source, target], plan)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gentle_copy_writes_is_on_its_way_to_the_disk_soon() {
    let (own, [source, target], plan) = plain().await;
    // A trigger there tells how the session is set that writes.
    let tell = "CREATE FUNCTION plain.tell() RETURNS trigger LANGUAGE plpgsql
            AS 'BEGIN NEW.note := current_setting(''backend_flush_after''); RETURN NEW; END';
        CREATE TRIGGER tell BEFORE INSERT ON plain.a FOR EACH ROW EXECUTE FUNCTION plain.tell()";
    own.server.run("two", tell).await;
    for (target, told) in [(target.clone(), "0"), (target.gentle(), "256kB")] {
        own.server.run("two", "DELETE FROM plain.a").await;
        let (_holder, snapshot) = export(&own.server.admin("shr")).await;
        let copy = TenantCopy::open(&source, &target, &plan, own.tenant, &snapshot, &streams(1)).await;
        copy.unwrap().run(&progress()).await.unwrap();
        assert_eq!(own.server.texts("two", "SELECT note FROM plain.a").await, [told]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mover_that_policies_bind_copies_nothing_and_says_so() {
    let (own, [source, target], plan) = plain().await;
    own.server.run("postgres", "ALTER ROLE stagesub_mover NOBYPASSRLS").await;
    let (_holder, snapshot) = export(&own.server.admin("shr")).await;
    let copy = TenantCopy::open(&source, &target, &plan, own.tenant, &snapshot, &streams(1)).await.unwrap();
    let refused = copy.run(&progress()).await.unwrap_err();
    let why = std::error::Error::source(&refused).unwrap().to_string();
    assert!(why.contains("row-level security"), "{why}");

    // With the right to pass them by it is the same call.
    own.server.run("postgres", "ALTER ROLE stagesub_mover BYPASSRLS").await;
    let copy = TenantCopy::open(&source, &target, &plan, own.tenant, &snapshot, &streams(1)).await.unwrap();
    assert_eq!(copy.run(&progress()).await.unwrap().rows(), 1);
}
