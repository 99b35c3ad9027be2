//! Ten thousand dedicated tenants through fifty slots: whether any sees another's rows, what is held meanwhile, and what
//! it costs to be served by a pool that has to be opened.
//!
//!     cargo bench -p stagesub-tests --bench churn            # 3 minutes on a quiet machine
//!     cargo bench -p stagesub-tests --bench churn -- quick   # a tenth of it, to see that it runs
//!
//! 128 tenants have databases of their own, each with its marker and its fence. The others are recorded in the registry
//! as if they had; a factory of the bench's own takes four shared databases for theirs, where row-level security keeps
//! them apart. All else is the product's. Everybody is served once, in random order; then as many requests go to
//! tenants by rank, the second half as often as the first, the third a third as often; then once more to everybody, with
//! a budget of connections that ends before the slots do; then come crowds, each larger than there are slots and held
//! until its last has been served, so that pools are evicted in use. Each request asks twice, within its tenant, for every
//! row there is, and every row says whose it is.
//!
//! A miss is a lease of a pool that is not open, a begin and the first query; beside it, in turn and in the same
//! database, a bare connection and the same query.

mod factory;
mod load;
mod miss;
mod stage;

use std::process::ExitCode;

use rand::distr::weighted::WeightedIndex;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use stagesub_tenancy::PoolSettings;
use stagesub_tests::TestPlatform;
use stagesub_tests::bench::{load as machine_load, runtime};

use load::{Load, Way};
use miss::Misses;
use stage::Stage;
use tikv_jemallocator::Jemalloc;

/// The product's.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Databases that are somebody's own: more than twice the slots, so that asking for each in turn always misses.
const REAL: usize = 128;
/// Requests at once.
const TASKS: usize = 16;
/// Those of a crowd: more than there are slots.
const CROWD: usize = 60;
/// A budget for fewer pools than there are slots, and for more than are asked for at once.
const TIGHT: u32 = 60;
/// How many crowds there are.
const CROWDS: usize = 20;
/// How many at once measure misses; the first figure counts.
const MISSES_AT_ONCE: [usize; 2] = [4, 1];

fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "quick");
    let (tenants, rounds) = if quick { (1_000, 3) } else { (10_000, 9) };
    runtime(2).block_on(bench(tenants, rounds))
}

async fn bench(tenants: usize, rounds: usize) -> ExitCode {
    let platform = TestPlatform::start().await;
    let pools = PoolSettings::default();
    let budget = pools.connection_budget;
    let stage = Stage::set(&platform, tenants, REAL, pools).await;
    println!(
        "{tenants} tenants, {REAL} real databases, {} slots, budget of {budget} connections, {TASKS} tasks, crowds of {CROWD}; load {}",
        PoolSettings::default().capacity,
        machine_load()
    );
    println!("{}", Load::heading());
    let (mut loads, mut random) = (Vec::new(), StdRng::seed_from_u64(1));
    let mut crowds = each_once(tenants, &mut random);
    crowds.truncate(CROWDS * CROWD);
    let mut within = true;
    for (name, order, way, budget) in [
        ("each once", each_once(tenants, &mut random), Way::Tasks(TASKS), budget),
        ("by rank", by_rank(tenants, &mut random), Way::Tasks(TASKS), budget),
        ("tight", each_once(tenants, &mut random), Way::Tasks(TASKS), TIGHT),
        ("in crowds", crowds, Way::Crowds(CROWD), budget),
    ] {
        stage.router.set_connection_budget(budget);
        let load = load::serve(&stage, &order, way).await;
        println!("{}", load.line(name));
        within &= load.max_connections <= i64::from(budget) && load.most_granted <= budget;
        // That the budget was used up shows that it bounded anything.
        within &= budget != TIGHT || load.most_granted == TIGHT;
        loads.push(load);
    }
    let mut ratios = Vec::new();
    for at_once in MISSES_AT_ONCE {
        let misses = Misses::measure(&stage, rounds, at_once).await;
        println!("{}", misses.table());
        ratios.push(misses.ratio());
    }
    stage.router.shutdown().await;

    let sum = |part: fn(&Load) -> u64| loads.iter().map(part).sum::<u64>();
    let (wrong_rows, errors) = (sum(|load| load.wrong_rows), sum(|load| load.errors));
    let max_connections = loads.iter().map(|load| load.max_connections).max().unwrap_or_default();
    let evicted_in_use = loads.iter().map(|load| load.evicted_in_use).max().unwrap_or_default();
    let grown = loads.iter().map(|load| load.rss_mib.1 - load.rss_mib.0).fold(0.0, f64::max);
    println!("load {} at the end", machine_load());
    println!(
        "RESULT wrong_rows={wrong_rows} max_connections={max_connections} miss_vs_connect={:.2} errors={errors} \
         budget={budget} evicted_in_use={evicted_in_use} rss_grown_mib={grown:.1} miss_vs_connect_alone={:.2}",
        ratios[0].median, ratios[1].median
    );
    let sound = wrong_rows == 0 && errors == 0 && within && evicted_in_use > 0;
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Every tenant once.
fn each_once(tenants: usize, random: &mut StdRng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..tenants).collect();
    order.shuffle(random);
    order
}

/// As many requests, to tenants by their rank among all.
fn by_rank(tenants: usize, random: &mut StdRng) -> Vec<usize> {
    let ranked = each_once(tenants, random);
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 tenants")]
    let weights = (1..=tenants).map(|rank| 1.0 / rank as f64);
    let ranks = WeightedIndex::new(weights).expect("there are tenants");
    (0..tenants).map(|_| ranked[random.sample(&ranks)]).collect()
}
