//! What the first request of a tenant costs whose pool is not open, and what a bare connection with the same query does.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::future::join_all;
use sqlx::{Connection, PgConnection, Postgres};
use stagesub_storage::tx::TenantTx;
use stagesub_tenancy::Access;
use stagesub_tests::bench::rounds::Spread;

use crate::stage::{Real, Stage};

/// A page of a tenant's instruments.
const PAGE: &str =
    "SELECT tenant_id, no, name FROM tenant.instrument WHERE tenant_id = $1 ORDER BY no LIMIT 20";

/// Medians of one round, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// A bare connection.
    connect: f64,
    /// The same, and its first query.
    bare: f64,
    /// A lease of a pool that was not open.
    lease: f64,
    /// The same, and a transaction begun.
    begun: f64,
    /// The same, and its first query.
    miss: f64,
}

/// Medians round by round.
pub(crate) struct Misses {
    rounds: Vec<Round>,
    tasks: usize,
}

impl Misses {
    /// So many rounds over all real databases, each divided among the tasks. Every one is connected to barely and
    /// missed in turn; which comes first changes.
    pub(crate) async fn measure(stage: &Stage<'_>, rounds: usize, tasks: usize) -> Self {
        // What is open now is in the way: from here on each has been evicted when its turn comes again.
        pass(stage, tasks, 0).await;
        let mut measured = Vec::new();
        for round in 0..rounds {
            let opened = stage.factory.opened.load(Ordering::Relaxed);
            let samples = pass(stage, tasks, round).await;
            let misses = stage.factory.opened.load(Ordering::Relaxed) - opened;
            assert_eq!(misses, stage.real.len() as u64, "every request of a round is a miss");
            let median = |part: fn(&Sample) -> Duration| {
                Spread::of(samples.iter().map(|sample| part(sample).as_secs_f64() * 1e3)).median
            };
            measured.push(Round {
                connect: median(|sample| sample.connect),
                bare: median(|sample| sample.bare),
                lease: median(|sample| sample.lease),
                begun: median(|sample| sample.begun),
                miss: median(|sample| sample.miss),
            });
        }
        Self { rounds: measured, tasks }
    }

    /// The median miss over the median bare connection with its query.
    pub(crate) fn ratio(&self) -> Spread {
        self.of(|round| round.miss / round.bare)
    }

    /// Lines about it.
    pub(crate) fn table(&self) -> String {
        let tasks = self.tasks;
        format!(
            "a miss, {tasks} at once, medians in ms: connect {}, with a query {}; lease {}, begun {}, with a query {}; \
             ratio {}",
            self.of(|round| round.connect),
            self.of(|round| round.bare),
            self.of(|round| round.lease),
            self.of(|round| round.begun),
            self.of(|round| round.miss),
            self.ratio()
        )
    }

    fn of(&self, part: impl Fn(&Round) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(part))
    }
}

struct Sample {
    connect: Duration,
    bare: Duration,
    lease: Duration,
    begun: Duration,
    miss: Duration,
}

/// Every real database once, divided among the tasks.
async fn pass(stage: &Stage<'_>, tasks: usize, round: usize) -> Vec<Sample> {
    let parts = stage.real.chunks(stage.real.len().div_ceil(tasks));
    join_all(parts.map(|part| each(stage, part, round))).await.into_iter().flatten().collect()
}

async fn each(stage: &Stage<'_>, part: &[Real], round: usize) -> Vec<Sample> {
    let mut samples = Vec::new();
    for (n, real) in part.iter().enumerate() {
        let ((connect, bare), (lease, begun, miss)) = if (n + round).is_multiple_of(2) {
            let bare = bare(real).await;
            (bare, miss(stage, real).await)
        } else {
            let miss = miss(stage, real).await;
            (bare(real).await, miss)
        };
        samples.push(Sample { connect, bare, lease, begun, miss });
    }
    samples
}

async fn bare(real: &Real) -> (Duration, Duration) {
    let begun = Instant::now();
    let mut pg = PgConnection::connect_with(&real.bound).await.expect("it lets us in");
    let connected = begun.elapsed();
    page(&mut pg, real).await;
    let done = begun.elapsed();
    pg.close().await.expect("it closes");
    (connected, done)
}

async fn miss(stage: &Stage<'_>, real: &Real) -> (Duration, Duration, Duration) {
    let begun = Instant::now();
    let routed = stage.router.lease(&real.scope).await.expect("it opens");
    let leased = begun.elapsed();
    let mut tx = TenantTx::begin(routed, &real.scope, Access::Read).await.expect("it begins");
    let entered = begun.elapsed();
    page(&mut tx, real).await;
    let done = begun.elapsed();
    tx.commit().await.expect("it ends");
    (leased, entered, done)
}

async fn page<'c>(executor: impl sqlx::Executor<'c, Database = Postgres>, real: &Real) {
    let tenant = real.scope.tenant_id().as_uuid();
    let rows: Vec<(uuid::Uuid, i64, String)> =
        sqlx::query_as(PAGE).bind(tenant).fetch_all(executor).await.expect("it answers");
    assert!(!rows.is_empty() && rows.iter().all(|row| row.0 == tenant), "its own rows and no others");
}
