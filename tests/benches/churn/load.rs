//! Many tasks that ask for tenants, and somebody who counts meanwhile.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::stream::{self, StreamExt};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sqlx::Row;
use stagesub_storage::tx::TenantTx;
use stagesub_tenancy::{Access, TenantScope};
use stagesub_tests::bench::resident_mib;
use stagesub_tests::cluster::Cluster;
use stagesub_tests::database::connect;
use stagesub_tests::dedicated::INSTRUMENTS;

use crate::stage::Stage;

/// Everything that the database shows, whoever's it is.
const ROWS: &str = "SELECT tenant_id, name FROM tenant.instrument";
/// Longest that a request keeps its transaction open between two looks.
const LONGEST_HOLD: Duration = Duration::from_millis(20);

/// What came of a load.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Requests that were answered.
    pub(crate) answered: u64,
    /// Rows of another tenant, and rows that were missing.
    pub(crate) wrong_rows: u64,
    /// Requests that were not answered.
    pub(crate) errors: u64,
    /// Most connections that Postgres had at once.
    pub(crate) max_connections: i64,
    /// Most connections that the budget had given to pools at once.
    pub(crate) most_granted: u32,
    /// How often both were looked at.
    pub(crate) samples: u64,
    /// Most pools that were out of the cache and still lent, where crowds held them.
    pub(crate) evicted_in_use: usize,
    /// Pools that left the cache.
    pub(crate) evictions: u64,
    /// Memory of this process after a tenth of the requests, and at their end.
    pub(crate) rss_mib: (f64, f64),
    /// Time that requests took, sorted.
    times: Vec<Duration>,
    took: Duration,
}

/// How many of a crowd come at once.
const OPENED_AT_ONCE: usize = 8;

/// How requests come.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// By so many tasks, each with one at a time.
    Tasks(usize),
    /// So many in a row, all of them held until the last has seen its rows.
    Crowds(usize),
}

/// Serves these tenants in this order.
pub(crate) async fn serve(stage: &Stage<'_>, order: &[usize], way: Way) -> Load {
    let seen = Seen::default();
    let evictions = stage.router.stats().evictions;
    let begun = Instant::now();
    let working = async {
        match way {
            Way::Tasks(tasks) => {
                join_all((0..tasks).map(|task| work(stage, order, &seen, task))).await;
            }
            Way::Crowds(size) => crowds(stage, order, &seen, size).await,
        }
        seen.done.store(true, Ordering::Release);
    };
    let (counted, ()) = tokio::join!(count(stage, &seen), working);
    let mut times = seen.times.into_inner().expect("nobody panics while holding it");
    times.sort_unstable();
    Load {
        answered: times.len() as u64,
        wrong_rows: seen.wrong_rows.into_inner(),
        errors: seen.errors.into_inner(),
        evictions: stage.router.stats().evictions - evictions,
        evicted_in_use: seen.evicted_in_use.into_inner(),
        rss_mib: (
            seen.rss.into_inner().expect("nobody panics while holding it"),
            resident_mib(std::process::id()),
        ),
        times,
        took: begun.elapsed(),
        ..counted
    }
}

impl Load {
    /// A line about it.
    pub(crate) fn line(&self, name: &str) -> String {
        let at = |percent: usize| {
            let place = (self.times.len() * percent / 100).min(self.times.len().saturating_sub(1));
            self.times.get(place).copied().unwrap_or_default().as_secs_f64() * 1e3
        };
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
        let rate = self.answered as f64 / self.took.as_secs_f64();
        format!(
            "{name:<10} {:>8} {rate:>9.0} {:>8.1} {:>8.1} {:>9} {:>6} {:>10} {:>9} {:>11} {:>8} {:>14} {:>6.1} {:>6.1}",
            self.answered,
            at(50),
            at(99),
            self.evictions,
            self.errors,
            self.wrong_rows,
            self.samples,
            self.max_connections,
            self.most_granted,
            self.evicted_in_use,
            self.rss_mib.0,
            self.rss_mib.1,
        )
    }

    /// What the columns of [`Self::line`] are.
    pub(crate) fn heading() -> String {
        format!(
            "{:<10} {:>8} {:>9} {:>8} {:>8} {:>9} {:>6} {:>10} {:>9} {:>11} {:>8} {:>14} {:>6} {:>6}",
            "",
            "requests",
            "/s",
            "p50 ms",
            "p99 ms",
            "evictions",
            "errors",
            "wrong rows",
            "samples",
            "connections",
            "granted",
            "evicted in use",
            "MiB",
            "MiB"
        )
    }
}

#[derive(Default)]
struct Seen {
    next: AtomicUsize,
    done: AtomicBool,
    wrong_rows: AtomicU64,
    errors: AtomicU64,
    evicted_in_use: AtomicUsize,
    rss: Mutex<f64>,
    times: Mutex<Vec<Duration>>,
}

async fn work(stage: &Stage<'_>, order: &[usize], seen: &Seen, task: usize) {
    let mut random = StdRng::seed_from_u64(task as u64);
    loop {
        let at = seen.next.fetch_add(1, Ordering::Relaxed);
        let Some(tenant) = order.get(at) else { return };
        if at == order.len() / 10 {
            *seen.rss.lock().expect("nobody panics while holding it") = resident_mib(std::process::id());
        }
        // Every other one is in flight for a while: its pool is evicted meanwhile, or not.
        let hold = random.random_bool(0.5).then(|| random.random_range(Duration::ZERO..LONGEST_HOLD));
        seen.note(request(stage, &stage.scopes[*tenant], hold).await);
    }
}

impl Seen {
    fn note(&self, request: Result<(u64, Duration), String>) {
        match request {
            Ok((wrong, took)) => {
                self.wrong_rows.fetch_add(wrong, Ordering::Relaxed);
                self.times.lock().expect("nobody panics while holding it").push(took);
            }
            Err(error) => {
                println!("a request failed: {error}");
                self.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

async fn crowds(stage: &Stage<'_>, order: &[usize], seen: &Seen, size: usize) {
    *seen.rss.lock().expect("nobody panics while holding it") = resident_mib(std::process::id());
    for crowd in order.chunks(size) {
        let begun = Instant::now();
        let begins = crowd.iter().map(|tenant| begin(stage, &stage.scopes[*tenant]));
        let held: Vec<_> = stream::iter(begins).buffered(OPENED_AT_ONCE).collect().await;
        // Each holds another tenant's pool; those that the cache does not count were evicted from it.
        let lent = held.iter().filter(|held| held.is_ok()).count();
        let evicted = lent.saturating_sub(stage.router.stats().leased);
        seen.evicted_in_use.fetch_max(evicted, Ordering::Relaxed);
        let ended = held.into_iter().map(async |held| {
            let (tx, wrong) = held?;
            end(tx, wrong).await
        });
        for request in join_all(ended).await {
            seen.note(request.map(|wrong| (wrong, begun.elapsed())));
        }
    }
}

/// Two looks in one transaction, with a pause between them that is not counted.
async fn request(
    stage: &Stage<'_>,
    scope: &TenantScope,
    hold: Option<Duration>,
) -> Result<(u64, Duration), String> {
    let begun = Instant::now();
    let (tx, wrong) = begin(stage, scope).await?;
    let mut took = begun.elapsed();
    if let Some(hold) = hold {
        tokio::time::sleep(hold).await;
    }
    let begun = Instant::now();
    let wrong = end(tx, wrong).await?;
    took += begun.elapsed();
    Ok((wrong, took))
}

/// The first look.
async fn begin(stage: &Stage<'_>, scope: &TenantScope) -> Result<(TenantTx, u64), String> {
    let routed = stage.router.lease(scope).await.map_err(|error| format!("{error:?}"))?;
    let begun = TenantTx::begin(routed, scope, Access::Read).await;
    let mut tx = begun.map_err(|error| format!("{error:?}"))?;
    let wrong = look(&mut tx).await?;
    Ok((tx, wrong))
}

/// The second look.
async fn end(mut tx: TenantTx, wrong: u64) -> Result<u64, String> {
    let wrong = wrong + look(&mut tx).await?;
    tx.commit().await.map_err(|error| format!("{error:?}"))?;
    Ok(wrong)
}

/// How many rows are not the tenant's, or are not there.
async fn look(tx: &mut TenantTx) -> Result<u64, String> {
    let rows = sqlx::query(ROWS).fetch_all(&mut *tx).await.map_err(|error| format!("{error:?}"))?;
    let own = tx.tenant();
    let mut right = 0;
    for row in &rows {
        let (tenant, name): (uuid::Uuid, &str) = (row.get(0), row.get(1));
        right += usize::from(tenant == own.as_uuid() && name.starts_with(&own.to_string()));
    }
    let (foreign, missing) = (rows.len() - right, INSTRUMENTS.saturating_sub(right));
    Ok((foreign + missing) as u64)
}

/// Counts connections until the load ends, as Postgres has them and as the budget has given them.
async fn count(stage: &Stage<'_>, seen: &Seen) -> Load {
    let mut admin = connect(Cluster::get().await.admin()).await;
    let mut load = Load::default();
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !seen.done.load(Ordering::Acquire) {
        ticks.tick().await;
        load.max_connections = load.max_connections.max(stage.dedicated.connections(&mut admin).await);
        load.most_granted = load.most_granted.max(stage.router.stats().connections);
        load.samples += 1;
    }
    load
}
