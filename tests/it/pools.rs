//! Two hundred dedicated databases through fifty pools, on a real PostgreSQL and under load.

mod opening;
mod remembered;
mod storm;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use futures::future::join_all;
use futures::stream::{self, StreamExt};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stagesub_domain::page::Page;
use stagesub_domain::ports::instruments::InstrumentFilter;
use stagesub_server::config::PoolSizes;
use stagesub_tenancy::{Access, Purpose, TenantId};
use stagesub_tests::TestPlatform;
use stagesub_tests::cluster::Cluster;
use stagesub_tests::database::connect;
use stagesub_tests::dedicated::{Dedicated, INSTRUMENTS};
use tokio::time::{Duration, interval};

const TENANTS: usize = 200;
const POOLS: usize = 50;
const TASKS: u64 = 24;
const ROUNDS: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_dedicated_tenants_cycle_through_fifty_pools() {
    let sizes = PoolSizes { shared: 4, dedicated: 2, dedicated_pools: POOLS };
    let budget = i64::try_from(POOLS * 3).unwrap();
    let platform = Arc::new(TestPlatform::start_with_pools(sizes).await);
    let dedicated = Dedicated::group(&platform, "pool").await;
    let tenants: Vec<TenantId> = stream::iter(0..TENANTS)
        .map(async |n| dedicated.make(format!("P{n}")).await.tenant)
        .buffer_unordered(4)
        .collect()
        .await;
    let tenants = Arc::new(tenants);

    // Counts while the load lasts.
    let (stop, most) = (AtomicBool::new(false), AtomicI64::new(0));
    let counting = async {
        let mut conn = connect(Cluster::get().await.admin()).await;
        let mut ticks = interval(Duration::from_millis(20));
        while !stop.load(Ordering::Acquire) {
            ticks.tick().await;
            most.fetch_max(dedicated.connections(&mut conn).await, Ordering::AcqRel);
        }
    };

    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let (platform, tenants) = (Arc::clone(&platform), Arc::clone(&tenants));
        tasks.push(tokio::spawn(async move {
            let mut rng = StdRng::seed_from_u64(task);
            for _ in 0..ROUNDS {
                let tenant = tenants[rng.random_range(0..TENANTS)];
                let state = platform.state();
                let scope = state.resolver.resolve_for(tenant, Purpose::Job, platform.now()).await.unwrap();
                // An evicted pool that was still in use, or one closed too early, would fail here.
                let mut unit = state.units.begin(&scope, Access::Read).await.unwrap();
                let found =
                    unit.instruments().list(&InstrumentFilter::default(), Page::first()).await.unwrap();
                let own = |name: &str| name.starts_with(&tenant.to_string());
                let owned = found.items.iter().filter(|instrument| own(&instrument.name)).count();
                assert_eq!((owned, found.items.len()), (INSTRUMENTS, INSTRUMENTS), "another tenant's row");
                unit.commit().await.unwrap();
            }
        }));
    }
    let load = async {
        let ended = join_all(tasks).await;
        stop.store(true, Ordering::Release);
        for task in ended {
            task.unwrap();
        }
    };
    tokio::join!(counting, load);
    let most = most.load(Ordering::Acquire);
    println!(
        "{} transactions on {TENANTS} dedicated databases: at most {most} of {budget} connections",
        TASKS * ROUNDS as u64
    );
    assert!(most > 0 && most <= budget, "{most} connections of {budget}");
}
