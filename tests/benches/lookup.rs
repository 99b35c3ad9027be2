//! What finding a tenant costs once it is known: by its host, with its placement; and that no SQL is run for it. And
//! what it costs to measure a transaction.
//!
//! `cargo bench -p stagesub-tests --bench lookup`

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::AssertSqlSafe;
use stagesub_storage::directory::PgTenantDirectory;
use stagesub_storage::registry::RegistryPools;
use stagesub_tenancy::usage::{Gathered, gather};
use stagesub_tenancy::{
    Addressed, CacheSettings, CachedDirectory, HostPolicy, OpenError, PoolFactory, PoolSettings, PoolTarget,
    Resolver, Router, Subdomain, TenantDirectory as _, TenantScope, UsageMeter,
};
use stagesub_tests::bench::counted::Counted;
use stagesub_tests::bench::rounds::Spread;
use stagesub_tests::bench::{load, runtime};
use stagesub_tests::cluster::keys;
use stagesub_tests::database::{connect, run};
use stagesub_tests::platform::TestPlatform;
use tikv_jemallocator::Jemalloc;

/// The product's.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Tenants that are looked up.
const TENANTS: u32 = 1_000;
/// Look-ups in a round.
const LOOKUPS: u32 = 200_000;
const ROUNDS: usize = 21;

fn main() {
    runtime(1).block_on(async {
        let platform = TestPlatform::start().await;
        register(&platform).await;
        let registry = RegistryPools::open(platform.registry(), &keys()).await.expect("the registry opens");
        let counted = Arc::new(Counted::new(PgTenantDirectory::new(registry)));
        let directory = CachedDirectory::new(Arc::clone(&counted) as _, CacheSettings::default());
        let policy = HostPolicy::new(TestPlatform::DOMAIN).expect("a domain");
        let resolver = Resolver::new(Arc::new(directory.clone()), policy);
        let labels: Vec<Subdomain> =
            (0..TENANTS).map(|n| format!("lookup-{n}").parse().expect("a label")).collect();
        let hosts: Vec<String> =
            labels.iter().map(|label| format!("{label}.{}", TestPlatform::DOMAIN)).collect();
        let now = platform.now();

        let mut figures = Vec::new();
        let mut questions = Vec::new();
        for round in 0..=ROUNDS {
            let asked = counted.questions();
            let figure = [
                by_label(&directory, &labels).await,
                by_host(&resolver, &hosts, now).await,
                whole(&resolver, &directory, &hosts, now).await,
            ];
            // The first round asks Postgres: after it, everybody is known.
            if round > 0 {
                figures.push(figure);
                questions.push(counted.questions() - asked);
            }
        }
        assert!(counted.questions() >= u64::from(TENANTS), "the first round asked");
        assert!(questions.iter().all(|questions| *questions == 0), "SQL was run: {questions:?}");

        println!(
            "{TENANTS} tenants, one thread, ns a look-up (load {}); no question reached Postgres",
            load()
        );
        for (at, name) in
            ["cached record by subdomain", "host to scope", "host to scope, and placement"].iter().enumerate()
        {
            println!("  {name:<30} {}", Spread::of(figures.iter().map(|figure| figure[at])));
        }
        measuring(&resolver, &directory, &hosts, now).await;
        println!("RESULT cached_ns={:.1}", Spread::of(figures.iter().map(|figure| figure[0])).median);
    });
}

/// Opens nothing.
struct Nothing;

#[async_trait]
impl PoolFactory for Nothing {
    type Pool = ();

    fn connections(&self, _: &PoolTarget) -> u32 {
        1
    }

    async fn open(&self, _: &PoolTarget) -> Result<(), OpenError> {
        Ok(())
    }

    async fn close(&self, (): ()) {}
}

/// A lease, and a transaction of one statement measured on it as storage does: with nobody who hears of it, and
/// summed by tenant and by request.
async fn measuring(resolver: &Resolver, directory: &CachedDirectory, hosts: &[String], now: DateTime<Utc>) {
    let mut scopes = Vec::new();
    for host in hosts {
        let Ok(Addressed::Tenant(scope)) = resolver.resolve(host, now).await else {
            panic!("{host} is a tenant's");
        };
        scopes.push(scope);
    }
    let router = || Router::new(Arc::new(directory.clone()), Arc::new(Nothing), PoolSettings::default());
    let (deaf, heard) = (router(), router().with_usage(Arc::new(UsageMeter::new())));
    let mut figures = Vec::new();
    for _ in 0..=ROUNDS {
        let leased = transactions(&deaf, &scopes, false).await;
        let measured = transactions(&deaf, &scopes, true).await;
        let sums = Arc::new(Gathered::default());
        let summed = gather(sums, transactions(&heard, &scopes, true)).await;
        figures.push([leased, measured - leased, summed - leased]);
    }
    for (at, name) in ["a lease", "measuring on it", "measuring on it, summed twice"].iter().enumerate() {
        println!("  {name:<30} {}", Spread::of(figures[1..].iter().map(|figure| figure[at])));
    }
}

async fn transactions(router: &Router<Nothing>, scopes: &[TenantScope], measured: bool) -> f64 {
    let begun = Instant::now();
    for scope in scopes.iter().cycle().take(LOOKUPS as usize) {
        let mut leased = router.lease(black_box(scope)).await.expect("a lease");
        if measured {
            leased.tally.connected();
            drop(black_box(leased.tally.asks()));
            leased.tally.begun();
            let mut asking = leased.tally.asks();
            asking.ran();
            asking.rows(20);
            drop(black_box(asking));
            drop(black_box(leased.tally.asks()));
        }
        drop(black_box(leased));
    }
    each(begun)
}

/// Puts tenants into the registry as provisioning leaves them.
async fn register(platform: &TestPlatform) {
    let sql = format!(
        "CREATE TEMPORARY TABLE made AS SELECT n, gen_random_uuid() AS id FROM generate_series(0, {TENANTS} - 1) AS n;
         INSERT INTO registry.codes (code, tenant_id) SELECT 'L' || n, id FROM made;
         INSERT INTO registry.tenants (id, code, name, subdomain, subscription, status, version)
         SELECT id, 'L' || n, 'Orkester ' || n, 'lookup-' || n, 'small', 'active', 1 FROM made;
         INSERT INTO registry.directory (tenant_id, database_id, placement, epoch)
         SELECT made.id, d.id, 'shared', 1 FROM made JOIN registry.databases AS d ON d.kind = 'shared'"
    );
    let mut registry = connect(platform.registry()).await;
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut registry).await.expect("tenants are registered");
    run(&mut registry, "ANALYZE registry.tenants").await;
}

/// Nanoseconds that each of so many calls took.
fn each(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e9 / f64::from(LOOKUPS)
}

async fn by_label(directory: &CachedDirectory, labels: &[Subdomain]) -> f64 {
    let begun = Instant::now();
    for label in labels.iter().cycle().take(LOOKUPS as usize) {
        let found = directory.find_by_subdomain(black_box(label)).await.expect("an answer");
        assert!(black_box(found).is_some());
    }
    each(begun)
}

async fn by_host(resolver: &Resolver, hosts: &[String], now: DateTime<Utc>) -> f64 {
    let begun = Instant::now();
    for host in hosts.iter().cycle().take(LOOKUPS as usize) {
        let found = resolver.resolve(black_box(host), now).await.expect("an answer");
        assert!(matches!(black_box(found), Addressed::Tenant(_)));
    }
    each(begun)
}

async fn whole(
    resolver: &Resolver,
    directory: &CachedDirectory,
    hosts: &[String],
    now: DateTime<Utc>,
) -> f64 {
    let begun = Instant::now();
    for host in hosts.iter().cycle().take(LOOKUPS as usize) {
        let Addressed::Tenant(scope) = resolver.resolve(black_box(host), now).await.expect("an answer")
        else {
            panic!("{host} is a tenant's");
        };
        let located = directory.find_placement(scope.tenant_id()).await.expect("an answer");
        assert!(black_box(located).is_some());
    }
    each(begun)
}
