//! What a request costs where there are 100,000 tenants, over what it costs where there are 10.
//!
//! Two registries and two shared databases on one server, worked on in turn. Every tenant has the same rows, those of a
//! tenant lie in several places of the tables, and requests go to all tenants evenly, each found by its host: what a node
//! remembers of tenants, it has to remember of all of them. Everything is the product's, with the product's settings.
//!
//! `cargo bench -p stagesub-tests --bench scale`; with `-- quick` among fewer tenants, to see that it runs. `-- buffers=SIZE`
//! gives Postgres that much memory of its own in place of 2 GB; `-- remembered=COUNT` lets a node remember so many tenants.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use stagesub_domain::page::Page;
use stagesub_domain::ports::musicians::MusicianFilter;
use stagesub_domain::ports::{HotLists, Units};
use stagesub_storage::directory::PgTenantDirectory;
use stagesub_storage::factory::{FactorySettings, LeanPoolFactory, TenantDb};
use stagesub_storage::pool::TenantPoolSettings;
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_storage::repo::PgHotLists;
use stagesub_storage::target::ConnectionTarget;
use stagesub_storage::unit::PgUnitOfWorkFactory;
use stagesub_tenancy::{
    Access, Addressed, CacheSettings, CachedDirectory, HostPolicy, PoolSettings, Resolver, Router,
    TenantScope,
};
use stagesub_tests::bench::counted::Counted;
use stagesub_tests::bench::meter::Meter;
use stagesub_tests::bench::rounds::{Candidate, Cell, Rounds, Spread, interleaved, warm};
use stagesub_tests::bench::{load, runtime};
use stagesub_tests::cluster::{Cluster, keys};
use stagesub_tests::database::{connect, run};
use stagesub_tests::platform::TestPlatform;
use tikv_jemallocator::Jemalloc;

/// The product's.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Connections of either pool.
const CONNECTIONS: u32 = 12;
const TASKS: usize = 8;
/// Rows of a page; each tenant has some more musicians.
const PAGE: u32 = 20;
const MUSICIANS: usize = 24;
/// Times that everybody's musicians came, a few each: so many places of the table a tenant's rows lie in.
const SEASONS: usize = 4;
/// Look-ups that are timed as one operation: one alone is too short.
const LOOK_UPS: usize = 100;

/// So many of the kinds are requests; what comes after is a part of each of them, and asks Postgres for nothing.
const REQUESTS: usize = 3;
/// What is asked, in the order of the tables.
const KINDS: [&str; 4] = ["ordinary read", "read in one message", "write", "100 look-ups of a host"];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let told = |what: &str| arguments.iter().find_map(|argument| argument.strip_prefix(what));
    let quick = told("quick").is_some();
    let buffers = told("buffers=").unwrap_or("2GB");
    let remembered = told("remembered=").map(|most| most.parse().expect("a number of tenants"));
    let many = if quick { 2_000 } else { 100_000 };
    let (rounds, time) = if quick { (2, 100) } else { (15, 300) };
    Cluster::set("shared_buffers", buffers);
    Cluster::set("max_wal_size", "8GB");
    let cache = match remembered {
        Some(capacity) => CacheSettings { capacity, ..CacheSettings::default() },
        None => CacheSettings::default(),
    };
    runtime(2).block_on(async {
        let sides = [Side::lay(10, cache).await, Side::lay(many, cache).await];
        println!(
            "{many} tenants, {buffers} of shared_buffers, a node remembers {} (load {})",
            cache.capacity,
            load()
        );
        // Those of one kind stand side by side, so that what disturbs one disturbs the other.
        let [few, most] = [sides[0].candidates(), sides[1].candidates()];
        let candidates: Vec<Candidate> =
            few.iter().zip(&most).flat_map(|(few, most)| [few.clone(), most.clone()]).collect();
        // Everybody is asked for once, so that all is known that a node remembers and in memory what fits there.
        sides[0].visit_all().await;
        let before = resident();
        sides[1].visit_all().await;
        let grown = resident().saturating_sub(before);
        warm(&candidates, CONNECTIONS as usize, Duration::from_millis(time)).await;

        let asked = sides.each_ref().map(|side| side.counted.questions());
        let span = (rounds, TASKS, Duration::from_millis(time));
        let measured = interleaved(&candidates, span, &meter(&sides).await).await;
        let asked = [0, 1].map(|side| sides[side].counted.questions() - asked[side]);

        println!("{}", measured.table("8 tasks", few[0].name));
        let ratios = over_few(&measured, &few, &most);
        // Where a difference comes from.
        let alone = meter(&sides).await.of_backends_alone();
        let span = (rounds / 3 + 1, TASKS, Duration::from_millis(time));
        let alone = over_few(&interleaved(&candidates, span, &alone).await, &few, &most);
        println!(
            "processor time over that among 10, and Postgres' alone; medians of the rounds (and the least"
        );
        println!("and the most of any), load {} at the end", load());
        for (kind, (whole, alone)) in KINDS.iter().zip(ratios.iter().zip(&alone)).take(REQUESTS) {
            println!("  {kind:<22} {:<22} {alone}", whole.to_string());
        }
        println!("  {:<22} {}", KINDS[REQUESTS], ratios[REQUESTS]);
        let [few, most] = asked;
        println!("questions to the registry meanwhile: {few} and {most}; {} bytes a tenant", grown / many);
        // A look-up is a part of each request; by itself it is too small for its ratio to say anything of them.
        let worst = ratios[..REQUESTS].iter().map(|ratio| ratio.median).fold(0.0, f64::max);
        println!(
            "RESULT cost_100k_vs_10={worst:.3} read={:.3} hot_read={:.3} write={:.3} lookup={:.3}",
            ratios[0].median, ratios[1].median, ratios[2].median, ratios[3].median
        );
    });
}

/// Processor time of each kind among many over that among few.
fn over_few(measured: &Rounds, few: &[Candidate], most: &[Candidate]) -> Vec<Spread> {
    few.iter()
        .zip(most)
        .map(|(few, most)| measured.ratio(most.name, few.name, |cell: &Cell| cell.cpu))
        .collect()
}

/// Memory of this process, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux tells of a process");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("with its memory");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("in kB") * 1024
}

/// A platform of so many tenants, and a node's way to them.
struct Side {
    platform: TestPlatform,
    shared: ConnectionTarget,
    hosts: Arc<[String]>,
    resolver: Resolver,
    registry: RegistryPools,
    counted: Arc<Counted>,
    directory: CachedDirectory,
    next: Arc<AtomicUsize>,
}

impl Side {
    /// Registers them and gives them rows.
    async fn lay(tenants: usize, cache: CacheSettings) -> Self {
        let platform = TestPlatform::start().await;
        let mut admin = connect(platform.registry()).await;
        let sql = format!(
            "SET session_replication_role = replica;
             CREATE TEMPORARY TABLE made AS SELECT n, gen_random_uuid() AS id FROM generate_series(1, {tenants}) AS n;
             INSERT INTO registry.codes (code, tenant_id) SELECT upper(lpad(to_hex(n), 6, '0')), id FROM made;
             INSERT INTO registry.tenants (id, code, name, subdomain, subscription, status, version)
             SELECT id, upper(lpad(to_hex(n), 6, '0')), 'Orkester ' || n, 'orkester-' || n, 'small', 'active', 1 FROM made;
             INSERT INTO registry.directory (tenant_id, database_id, placement, epoch)
             SELECT made.id, d.id, 'shared', 1 FROM made JOIN registry.databases AS d ON d.kind = 'shared'"
        );
        run(&mut admin, &sql).await;
        run(&mut admin, "VACUUM ANALYZE").await;
        let ids: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT id FROM made ORDER BY n")
            .fetch_all(&mut admin)
            .await
            .expect("they were made");
        let name: String = sqlx::query_scalar("SELECT name FROM registry.databases WHERE kind = 'shared'")
            .fetch_one(&mut admin)
            .await
            .expect("there is one shared database");
        let shared = platform.registry().with_database(&name);
        let mut admin = connect(&shared).await;
        run(
            &mut admin,
            "SET session_replication_role = replica; CREATE TEMPORARY TABLE made (n bigint, id uuid)",
        )
        .await;
        sqlx::query("INSERT INTO made SELECT n, id FROM UNNEST($1::uuid[]) WITH ORDINALITY AS u (id, n)")
            .bind(&ids)
            .execute(&mut admin)
            .await
            .expect("they are written down");
        run(&mut admin, &rows()).await;
        run(&mut admin, "VACUUM ANALYZE").await;
        run(&mut admin, "CHECKPOINT").await;

        let registry = RegistryPools::open(platform.registry(), &keys()).await.expect("the registry opens");
        let counted = Arc::new(Counted::new(PgTenantDirectory::new(registry.clone())));
        let directory = CachedDirectory::new(Arc::clone(&counted) as _, cache);
        let policy = HostPolicy::new(TestPlatform::DOMAIN).expect("a domain");
        Self {
            shared,
            hosts: (1..=tenants).map(|n| format!("orkester-{n}.{}", TestPlatform::DOMAIN)).collect(),
            resolver: Resolver::new(Arc::new(directory.clone()), policy),
            registry,
            counted,
            directory,
            next: Arc::new(AtomicUsize::new(0)),
            platform,
        }
    }

    /// Transactions over a pool of their own.
    fn tenants(&self) -> TenantDb {
        let pools = TenantPoolSettings { max_connections: CONNECTIONS, ..TenantPoolSettings::default() };
        let logins = PgDatabaseLogins::new(self.registry.clone(), Arc::new(keys()));
        let settings = FactorySettings { shared: pools, dedicated: pools };
        let factory = LeanPoolFactory::new(Arc::new(logins), settings);
        let directory = Arc::new(self.directory.clone());
        TenantDb::new(Arc::new(Router::new(directory, Arc::new(factory), PoolSettings::default())))
    }

    /// One of each kind.
    fn candidates(&self) -> Vec<Candidate> {
        let page = Page::new(None, PAGE).expect("a page");
        let now = self.platform.now();
        let name = |kind: usize| -> &'static str {
            Box::leak(format!("{}, {} tenants", KINDS[kind], self.hosts.len()).into_boxed_str())
        };
        let asker = Asker {
            resolver: self.resolver.clone(),
            hosts: Arc::clone(&self.hosts),
            next: Arc::clone(&self.next),
            now,
        };

        let (who, units) = (asker.clone(), Arc::new(PgUnitOfWorkFactory::new(self.tenants())) as Units);
        let ordinary = Candidate::new(name(0), move |_| {
            let (who, units) = (who.clone(), Arc::clone(&units));
            async move {
                let (_, scope) = who.next().await;
                let mut unit = units.begin(&scope, Access::Read).await.expect("it begins");
                let page = unit.musicians().list(&MusicianFilter::unasked(), page).await.expect("it is read");
                unit.commit().await.expect("it commits");
                assert_eq!(page.items.len(), PAGE as usize);
            }
        });
        let (who, lists) = (asker.clone(), Arc::new(PgHotLists::new(self.tenants(), true)));
        let hot = Candidate::new(name(1), move |_| {
            let (who, lists) = (who.clone(), Arc::clone(&lists));
            async move {
                let (_, scope) = who.next().await;
                let page = lists.musicians(&scope, page).await.expect("it is read");
                assert_eq!(page.items.len(), PAGE as usize);
            }
        });
        let (who, db) = (asker.clone(), Arc::new(self.tenants()));
        let write = Candidate::new(name(2), move |_| {
            let (who, db) = (who.clone(), Arc::clone(&db));
            async move {
                let (turn, scope) = who.next().await;
                let mut tx = db.begin(&scope, Access::Write).await.expect("it begins");
                let tenant = tx.tenant().as_uuid();
                let done = sqlx::query("UPDATE tenant.musician SET notes = $3, updated_at = now() WHERE tenant_id = $1 AND no = $2")
                    .bind(tenant)
                    .bind(i64::try_from(turn % MUSICIANS + 1).expect("a number"))
                    .bind("Spelar gärna i helgerna")
                    .execute(&mut tx)
                    .await
                    .expect("it is written");
                tx.commit().await.expect("it commits");
                assert_eq!(done.rows_affected(), 1);
            }
        });
        let look_up = Candidate::new(name(3), move |_| {
            let who = asker.clone();
            async move {
                for _ in 0..LOOK_UPS {
                    std::hint::black_box(who.next().await);
                }
            }
        });
        vec![ordinary, hot, write, look_up]
    }

    /// Looks everybody up, with their place, and reads their page.
    async fn visit_all(&self) {
        let lists = Arc::new(PgHotLists::new(self.tenants(), true));
        let page = Page::new(None, PAGE).expect("a page");
        let now = self.platform.now();
        let visits = (0..TASKS).map(|task| {
            let (lists, resolver, hosts) =
                (Arc::clone(&lists), self.resolver.clone(), Arc::clone(&self.hosts));
            tokio::spawn(async move {
                for host in hosts.iter().skip(task).step_by(TASKS) {
                    let scope = resolve(&resolver, host, now).await;
                    lists.musicians(&scope, page).await.expect("it is read");
                }
            })
        });
        for visited in futures::future::join_all(visits).await {
            visited.expect("everybody is there");
        }
    }
}

/// Asks one tenant after the other, in an order in which neighbours are far apart.
#[derive(Clone)]
struct Asker {
    resolver: Resolver,
    hosts: Arc<[String]>,
    next: Arc<AtomicUsize>,
    now: DateTime<Utc>,
}

impl Asker {
    /// The turn it is, and the next tenant's scope.
    async fn next(&self) -> (usize, TenantScope) {
        // A prime larger than any number of tenants here: all of them are met before one is again.
        const STEP: usize = 1_000_003;
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let host = &self.hosts[turn.wrapping_mul(STEP) % self.hosts.len()];
        (turn, resolve(&self.resolver, host, self.now).await)
    }
}

async fn resolve(resolver: &Resolver, host: &str, now: DateTime<Utc>) -> TenantScope {
    match resolver.resolve(host, now).await {
        Ok(Addressed::Tenant(scope)) => scope,
        other => panic!("{host} is a tenant's: {other:?}"),
    }
}

/// Every tenant's rows, from the table `made`.
fn rows() -> String {
    let each = MUSICIANS / SEASONS;
    format!(
        "INSERT INTO app.tenant_fence (tenant_id, state, epoch) SELECT id, 'active', 1 FROM made;
         INSERT INTO tenant.quota (tenant_id, resource, used, allowed, limits_version)
         SELECT id, resource, {MUSICIANS}, NULL, 1
         FROM made CROSS JOIN UNNEST('{{active_projects,instruments,musicians}}'::text[]) AS resource;
         INSERT INTO tenant.instrument (tenant_id, no, name, created_at, updated_at)
         SELECT id, no, 'Instrument ' || no, now(), now() FROM made CROSS JOIN generate_series(1, 3) AS no;
         INSERT INTO tenant.position (tenant_id, no, instrument_no, name, hierarchy_level, created_at, updated_at)
         SELECT id, no, no, 'Stämma', 1, now(), now() FROM made CROSS JOIN generate_series(1, 3) AS no;
         INSERT INTO tenant.musician
             (tenant_id, no, first_name, last_name, email, phone, preferred_language, local_residence, notes, is_active,
              archived_at, created_at, updated_at)
         SELECT id, no, 'Anna', 'Vik ' || no, 'anna.' || no || '@example.se', '070-' || no, 'sv', true,
             CASE WHEN no % 3 = 0 THEN 'Spelar gärna i helgerna' END, no % 9 <> 0, NULL, now(), now()
         FROM generate_series(0, {SEASONS} - 1) AS season CROSS JOIN made
         CROSS JOIN LATERAL generate_series(season * {each} + 1, season * {each} + {each}) AS no;
         INSERT INTO tenant.musician_qualification (tenant_id, musician_no, position_no, created_at, updated_at)
         SELECT id, no, 1 + no % 3, now(), now()
         FROM generate_series(0, {SEASONS} - 1) AS season CROSS JOIN made
         CROSS JOIN LATERAL generate_series(season * {each} + 1, season * {each} + {each}) AS no
         WHERE no % 3 <> 2"
    )
}

/// A meter of the workers and of every backend of all four databases.
async fn meter(sides: &[Side; 2]) -> Meter {
    let mut names = Vec::new();
    for side in sides {
        names.extend([side.shared.database().to_owned(), side.platform.registry().database().to_owned()]);
    }
    let pids = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity WHERE datname = ANY($1) AND pid <> pg_backend_pid()",
    )
    .bind(&names)
    .fetch_all(&mut connect(&sides[0].shared).await)
    .await
    .expect("the backends are listed");
    Meter::new(pids)
}
