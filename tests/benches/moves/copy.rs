//! What it takes to copy a tenant to another database and to compare the two.
//!
//! A copy is measured beside as many pipes of `psql`, one a table, which copy the same rows in the same format and do
//! nothing else. The statistics that are taken behind a copy are told apart: they read a sample, however many rows there
//! are. A comparison, which reads both sides, is measured beside one scan of the source that hashes every row's text, by
//! one process. Rounds alternate; ratios are those of medians, higher is better. Behind them a row is changed, one removed
//! and one added at the target, and the comparison has to name these three.

use std::num::NonZeroUsize;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret;
use sqlx::{AssertSqlSafe, Connection};
use stagesub_storage::identity::Identity;
use stagesub_storage::moves::copy::{CopyProgress, CopySettings, TenantCopy, take_statistics};
use stagesub_storage::moves::plan::{Checks, Contents, MovePlan};
use stagesub_storage::moves::session::Site;
use stagesub_storage::moves::verify::{VerifySettings, everything};
use stagesub_storage::target::ConnectionTarget;
use stagesub_tenancy::{DatabaseId, PoolTarget, TenantId};
use stagesub_tests::TestPlatform;
use stagesub_tests::bench::resident_mib;
use stagesub_tests::cluster::keys;
use stagesub_tests::database::{connect, open_login, run};
use stagesub_tests::dedicated::Dedicated;
use tokio::sync::watch;
use uuid::Uuid;

/// The two tables, alike but for their names.
const TABLES: [&str; 2] = ["load.orders", "load.letters"];
/// What they are made of.
const COLUMNS: &str = "tenant_id, no, amount, placed, doc, words, note";

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copying {
    /// The pipes' time over the copy's.
    pub(crate) copy_vs_pipe: f64,
    /// The scan's time over the comparison's.
    pub(crate) verify_vs_scan: f64,
    /// What this process grew by.
    pub(crate) grown_mib: f64,
}

/// Rounds with a tenant of so many rows in each of two tables.
pub(crate) async fn measure(rows: u32, rounds: usize) -> Copying {
    let ground = Ground::with(rows).await;
    let (mut pipes, mut copies, mut scans, mut comparisons) = (vec![], vec![], vec![], vec![]);
    let before = resident_mib(std::process::id());
    for round in 1..=rounds {
        ground.empty_target().await;
        pipes.push(ground.pipes().await);
        ground.empty_target().await;
        let (copy, statistics) = ground.copy().await;
        copies.push(copy);
        scans.push(ground.scan().await);
        comparisons.push(ground.compare().await);
        let seconds = |times: &[Duration]| times.last().map_or(0.0, Duration::as_secs_f64);
        println!(
            "copying, round {round}: pipes {:.2} s, copy {:.2} s (statistics {:.2} s), scan {:.2} s, comparison {:.2} s",
            seconds(&pipes),
            seconds(&copies),
            statistics.as_secs_f64(),
            seconds(&scans),
            seconds(&comparisons)
        );
    }
    ground.find_faults(rows).await;
    Copying {
        copy_vs_pipe: median(&mut pipes) / median(&mut copies),
        verify_vs_scan: median(&mut scans) / median(&mut comparisons),
        grown_mib: resident_mib(std::process::id()) - before,
    }
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

/// A tenant among others in one database, and another database beside it.
struct Ground {
    _platform: TestPlatform,
    tenant: TenantId,
    mover: ConnectionTarget,
    source: (String, Site),
    target: (String, Site),
    admin: ConnectionTarget,
    plan: MovePlan,
}

impl Ground {
    async fn with(rows: u32) -> Self {
        let platform = TestPlatform::start().await;
        let there = Dedicated::group(&platform, "mcopy").await.make_shared(&[]).await;
        let mut registry = connect(platform.registry()).await;
        let mover = open_login(&mut registry, &keys(), "shared", "stagesub_mover").await;
        let databases: Vec<(Uuid, String)> =
            sqlx::query_as("SELECT id, name FROM registry.databases WHERE kind = 'shared'")
                .fetch_all(&mut registry)
                .await
                .expect("the registry lists its databases");
        let site = |wanted: bool| {
            let (id, name) =
                databases.iter().find(|(id, _)| (*id == there.as_uuid()) == wanted).expect("there are two");
            let identity = Identity::of(&PoolTarget::Shared(DatabaseId::from_uuid(*id)));
            (name.clone(), Site::new(Uuid::nil(), mover.with_database(name), identity))
        };
        let (source, target) = (site(false), site(true));
        let admin = platform.registry().clone();
        let tenant = TenantId::from_uuid(Uuid::now_v7());
        for name in [&source.0, &target.0] {
            run(&mut connect(&admin.with_database(name)).await, &tables()).await;
        }
        fill(&admin.with_database(&source.0), tenant, rows).await;
        let contents = Contents { schemas: vec!["load".to_owned()], reference_tables: Vec::new() };
        let mut session = source.1.open("plan").await.expect("the mover is let in");
        let plan = MovePlan::read(&mut session, &contents, Checks::Kept).await.expect("the tables move");
        session.close().await;
        Self { _platform: platform, tenant, mover, source, target, admin, plan }
    }

    async fn empty_target(&self) {
        let mut conn = connect(&self.admin.with_database(&self.target.0)).await;
        for table in TABLES {
            run(&mut conn, &format!("TRUNCATE {table}")).await;
        }
        // What is still to be written is nobody's in the rounds.
        run(&mut conn, "CHECKPOINT").await;
    }

    /// One pipe of `psql` a table, at once.
    async fn pipes(&self) -> Duration {
        let commands = TABLES.map(|table| {
            let out = format!(
                "COPY (SELECT {COLUMNS} FROM {table} WHERE tenant_id = '{}') TO STDOUT (FORMAT binary)",
                self.tenant
            );
            let into = format!("COPY {table} ({COLUMNS}) FROM STDIN (FORMAT binary)");
            (
                psql(&self.mover.with_database(&self.source.0), &out),
                psql(&self.mover.with_database(&self.target.0), &into),
            )
        });
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let running = commands.map(|(mut out, mut into)| {
                let mut out = out.stdout(Stdio::piped()).spawn().expect("psql runs");
                let pipe = out.stdout.take().expect("it has an output");
                let into = into.stdin(Stdio::from(pipe)).spawn().expect("psql runs");
                (out, into)
            });
            for (mut out, mut into) in running {
                assert!(into.wait().expect("it ends").success() && out.wait().expect("it ends").success());
            }
            began.elapsed()
        })
        .await
        .expect("nobody panics in it")
    }

    /// A copy, and the statistics behind it.
    async fn copy(&self) -> (Duration, Duration) {
        let mut holder = connect(&self.admin.with_database(&self.source.0)).await;
        run(&mut holder, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await;
        let snapshot: String = sqlx::query_scalar("SELECT pg_export_snapshot()")
            .fetch_one(&mut holder)
            .await
            .expect("a snapshot");
        let settings =
            CopySettings { streams: NonZeroUsize::MIN.saturating_add(1), ..CopySettings::default() };
        let (source, target) = (&self.source.1, &self.target.1);
        let began = Instant::now();
        let copy = TenantCopy::open(source, target, &self.plan, self.tenant, &snapshot, &settings)
            .await
            .expect("the copy is opened");
        let copied = copy.run(&watch::Sender::new(CopyProgress::default())).await;
        let (copied, taken) = (copied.expect("the rows are copied"), began.elapsed());
        holder.close().await.expect("the connection closes");
        let mut session = target.open("statistics").await.expect("the mover is let in");
        let began = Instant::now();
        take_statistics(&mut session, &copied).await.expect("the statistics are taken");
        let statistics = began.elapsed();
        session.close().await;
        (taken, statistics)
    }

    /// One hash of every row's text, table by table.
    async fn scan(&self) -> Duration {
        let mut session = connect(&self.mover.with_database(&self.source.0)).await;
        run(&mut session, "SET row_security = off; SET max_parallel_workers_per_gather = 0").await;
        let began = Instant::now();
        for table in TABLES {
            let sql = format!(
                "SELECT sum(hashtextextended(t::text, 0))::text FROM {table} AS t WHERE tenant_id = $1"
            );
            let _: String = sqlx::query_scalar(AssertSqlSafe(sql))
                .bind(self.tenant.as_uuid())
                .fetch_one(&mut session)
                .await
                .expect("the rows can be hashed");
        }
        began.elapsed()
    }

    async fn compare(&self) -> Duration {
        let (source, target) = (&self.source.1, &self.target.1);
        let began = Instant::now();
        let verified = everything(source, target, &self.plan, self.tenant, &VerifySettings::default())
            .await
            .expect("both sides are read");
        let taken = began.elapsed();
        assert!(verified.is_equal(), "{:?}", verified.differences);
        taken
    }

    /// One row that is changed, one that is missing and one too many are found among all of them, by their keys.
    async fn find_faults(&self, rows: u32) {
        let mut conn = connect(&self.admin.with_database(&self.target.0)).await;
        // The tenant's own are numbered 0, 1, 3, 4, 6 and so on.
        let (changed, missing, extra) = (i64::from(rows) / 6 * 3, i64::from(rows) / 12 * 3 + 1, -7);
        let of = format!("WHERE tenant_id = '{}' AND no =", self.tenant);
        let [orders, letters] = TABLES;
        let spoil = format!(
            "UPDATE {orders} SET doc = '{{}}' {of} {changed}; DELETE FROM {letters} {of} {missing};
            INSERT INTO {letters} SELECT tenant_id, {extra}, amount, placed, doc, words, note FROM {letters} {of} {changed}"
        );
        run(&mut conn, &spoil).await;
        let (source, target) = (&self.source.1, &self.target.1);
        let verified = everything(source, target, &self.plan, self.tenant, &VerifySettings::default())
            .await
            .expect("both sides are read");
        let mut found: Vec<String> = verified.differences.iter().map(ToString::to_string).collect();
        found.sort();
        let expected = [
            format!("{letters} ({extra}) is on the target alone"),
            format!("{letters} ({missing}) is missing on the target"),
            format!("{orders} ({changed}) differs on the target"),
        ];
        assert_eq!(found, expected);
        println!("comparing {} rows: {}", verified.rows, found.join("; "));
    }
}

fn psql(database: &ConnectionTarget, sql: &str) -> Command {
    let mut command = Command::new("psql");
    command
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql, database.to_url().expose_secret()])
        .env("PGOPTIONS", "-c row_security=off");
    command
}

fn tables() -> String {
    let tables: Vec<String> = TABLES
        .iter()
        .map(|table| {
            format!(
                "CREATE TABLE {table} (tenant_id uuid NOT NULL, no bigint NOT NULL, amount numeric NOT NULL,
                    placed timestamptz NOT NULL, doc jsonb, words text[], note text, PRIMARY KEY (tenant_id, no));
                CALL app.protect('{table}');"
            )
        })
        .collect();
    format!("SET ROLE stagesub_owner; CREATE SCHEMA load; {}", tables.concat())
}

/// The tenant's rows, and half as many of others between them.
async fn fill(source: &ConnectionTarget, tenant: TenantId, rows: u32) {
    let mut conn = connect(source).await;
    for table in TABLES {
        let sql = format!(
            "INSERT INTO {table} ({COLUMNS})
            SELECT CASE WHEN n % 3 < 2 THEN '{tenant}'::uuid ELSE md5((n % 100)::text)::uuid END, n, n / 7.0,
                timestamptz '2026-01-01' + n * interval '1 second', jsonb_build_object('n', n, 'text', md5(n::text)),
                ARRAY[md5(n::text), 'two'], CASE WHEN n % 4 = 0 THEN repeat('x', 60) END
            FROM generate_series(0, {rows} / 2 * 3 - 1) AS n"
        );
        run(&mut conn, &sql).await;
    }
    run(&mut conn, "VACUUM ANALYZE").await;
}
