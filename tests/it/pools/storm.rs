//! Many dedicated tenants on few slots: what is lent survives eviction, the budget holds, and in the end nothing is
//! left.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use futures::future::join_all;
use futures::stream::{self, StreamExt};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sqlx::PgConnection;
use stagesub_storage::directory::PgTenantDirectory;
use stagesub_storage::factory::{FactorySettings, LeanPoolFactory, TenantDb};
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_storage::tx::TenantTx;
use stagesub_tenancy::{
    Access, CacheSettings, CachedDirectory, PoolSettings, PoolStats, Purpose, Router, TenantScope,
};
use stagesub_tests::TestPlatform;
use stagesub_tests::cluster::{Cluster, keys};
use stagesub_tests::database::connect;
use stagesub_tests::dedicated::{Dedicated, INSTRUMENTS};
use stagesub_tests::storm::polled;
use tokio::sync::Notify;
use tokio::time::{Duration, timeout};
use uuid::Uuid;

use crate::tenant_tx::lab::until;

/// No condition is waited for longer.
const PATIENCE: Duration = Duration::from_mins(1);
/// All that a tenant is to see, and whatever else is shown to it.
const ROWS: &str = "SELECT tenant_id FROM tenant.instrument";

/// Dedicated tenants, and a router of few slots over their databases.
struct Slots<'p> {
    dedicated: Dedicated<'p>,
    scopes: Vec<TenantScope>,
    router: Arc<Router<LeanPoolFactory>>,
    db: TenantDb,
}

impl<'p> Slots<'p> {
    async fn of(
        platform: &'p TestPlatform,
        group: &'static str,
        tenants: usize,
        pools: PoolSettings,
    ) -> Self {
        let dedicated = Dedicated::group(platform, group).await;
        let made: Vec<_> = stream::iter(0..tenants)
            .map(|n| dedicated.make(format!("S{n}")))
            .buffer_unordered(4)
            .collect()
            .await;
        let mut scopes = Vec::new();
        for one in made {
            let scope = platform.state().resolver.resolve_for(one.tenant, Purpose::Job, platform.now()).await;
            scopes.push(scope.unwrap());
        }
        let keys = Arc::new(keys());
        let registry = RegistryPools::open(platform.registry(), &keys).await.unwrap();
        let directory = CachedDirectory::new(
            Arc::new(PgTenantDirectory::new(registry.clone())),
            CacheSettings::default(),
        );
        let logins = PgDatabaseLogins::new(registry, keys);
        let factory = LeanPoolFactory::new(Arc::new(logins), FactorySettings::default());
        let router = Arc::new(Router::new(Arc::new(directory), Arc::new(factory), pools));
        let db = TenantDb::new(Arc::clone(&router));
        Self { dedicated, scopes, router, db }
    }

    async fn begin(&self, tenant: usize) -> TenantTx {
        self.db.begin(&self.scopes[tenant], Access::Read).await.expect("a transaction begins")
    }

    async fn until_stats(&self, what: &str, holds: impl Fn(&PoolStats) -> bool) {
        until(what, async || holds(&self.router.stats())).await;
    }

    /// Closes everything, and waits until the server knows of no connection.
    async fn until_nothing_is_left(&self, admin: &mut PgConnection) {
        timeout(PATIENCE, self.router.shutdown()).await.expect("every pool closes");
        let stats = self.router.stats();
        assert_eq!((stats.live, stats.connections), (0, 0), "{stats:?}");
        until("no connection is left", async || self.dedicated.connections(admin).await == 0).await;
    }
}

/// Asks for everything and takes what comes: it must be all of the tenant's, and nothing else.
async fn look(tx: &mut TenantTx) {
    let seen: Vec<Uuid> = sqlx::query_scalar(ROWS).fetch_all(&mut *tx).await.expect("a pool in use is open");
    let own = tx.tenant().as_uuid();
    assert_eq!(seen, [own; INSTRUMENTS], "a row of another");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lent_survives_the_eviction_of_its_pool_and_the_budget_waits_for_it() {
    let platform = TestPlatform::start().await;
    // Two slots, and connections for four pools of three.
    let pools =
        PoolSettings { capacity: 2, connection_budget: 12, budget_wait: PATIENCE, ..PoolSettings::default() };
    let slots = Slots::of(&platform, "evict", 5, pools).await;
    let mut admin = connect(Cluster::get().await.admin()).await;
    let mut held = Vec::new();
    for tenant in 0..4 {
        let mut tx = slots.begin(tenant).await;
        look(&mut tx).await;
        held.push(tx);
    }
    let stats = slots.router.stats();
    assert_eq!((stats.dedicated, stats.live, stats.evictions, stats.connections), (2, 4, 2, 12), "{stats:?}");

    // The fifth finds no connection in the budget: those that are lent, evicted or not, are left alone.
    let fifth = async {
        let mut tx = slots.begin(4).await;
        look(&mut tx).await;
        tx
    };
    let others = async {
        slots.until_stats("the fifth waits", |stats| stats.opening == 1).await;
        for tx in &mut held {
            look(tx).await;
        }
        let stats = slots.router.stats();
        assert_eq!((stats.opening, stats.connections), (1, 12), "{stats:?}");
        assert_eq!(slots.dedicated.connections(&mut admin).await, 4);
        held.remove(0).commit().await.unwrap();
    };
    let (fifth, ()) = tokio::join!(fifth, others);
    assert!(slots.router.stats().connections <= 12);
    for mut tx in held.into_iter().chain([fifth]) {
        look(&mut tx).await;
        tx.commit().await.unwrap();
    }
    slots.until_nothing_is_left(&mut admin).await;
}

const TENANTS: usize = 12;
const TASKS: u64 = 6;
const ROUNDS: usize = 80;
const BUDGET: u32 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_on_few_slots_keeps_the_budget_and_leaves_nothing_behind() {
    let platform = TestPlatform::start().await;
    let pools = PoolSettings {
        capacity: 2,
        connection_budget: BUDGET,
        budget_wait: PATIENCE,
        ..PoolSettings::default()
    };
    let slots = Slots::of(&platform, "storm", TENANTS, pools).await;
    let (done, most, most_counted, cancelled) =
        (Notify::new(), AtomicI64::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let counting = async {
        let mut admin = connect(Cluster::get().await.admin()).await;
        loop {
            most.fetch_max(slots.dedicated.connections(&mut admin).await, Ordering::Relaxed);
            most_counted.fetch_max(slots.router.stats().connections, Ordering::Relaxed);
        }
    };
    let tasks = (0..TASKS).map(async |task| {
        let mut random = StdRng::seed_from_u64(task);
        for _ in 0..ROUNDS {
            let (tenant, access) =
                (random.random_range(0..TENANTS), [Access::Read, Access::Write][random.random_range(0..2)]);
            let work = async {
                let mut tx =
                    slots.db.begin(&slots.scopes[tenant], access).await.expect("a transaction begins");
                look(&mut tx).await;
                // Others open pools meanwhile.
                tokio::task::yield_now().await;
                look(&mut tx).await;
                tx.commit().await.expect("it ends");
            };
            // Some go away in the middle: of an opening, of a begin, of a statement.
            let stays = random.random_bool(0.7);
            let waits = if stays { u32::MAX } else { random.random_range(1..=12) };
            if Box::pin(polled(waits, work)).await.is_none() {
                cancelled.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let storm = async {
        join_all(tasks).await;
        done.notify_one();
    };
    tokio::join!(storm, async {
        tokio::select! {
            () = done.notified() => {}
            () = counting => {}
        }
    });
    let (most, counted) = (most.into_inner(), most_counted.into_inner());
    let evictions = slots.router.stats().evictions;
    println!("at most {most} connections and {counted} of the budget of {BUDGET}; {evictions} evictions");
    assert!(most > 0 && most <= i64::from(BUDGET), "{most} connections of {BUDGET}");
    assert!(counted <= BUDGET, "{counted} of {BUDGET} were given out");
    assert!(cancelled.into_inner() > 0 && evictions > 0);
    slots.until_nothing_is_left(&mut connect(Cluster::get().await.admin()).await).await;
}
