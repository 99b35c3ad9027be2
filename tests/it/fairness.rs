//! What one tenant, one client or one database takes from the others: nothing they need.

mod attacks;
mod frozen;
mod nodes;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use stagesub_server::config::LimitSettings;
use stagesub_storage::directory::PgTenantDirectory;
use stagesub_storage::factory::{FactorySettings, LeanPoolFactory, TenantDb};
use stagesub_storage::pool::{TenantPool, TenantPoolSettings};
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_tenancy::{
    Access, BeginError, BreakerSettings, FairStats, Lease, OpenError, PoolSettings, RouteError, Router,
    TenantScope,
};
use stagesub_tests::cluster::keys;
use stagesub_tests::database::connect;
use stagesub_tests::{Client, Frozen, Kept, TestPlatform};

use crate::tenant_tx::lab::until;

const MUSICIANS: &str = "/api/v1/musicians";
const LOGIN: &str = "/api/v1/auth/login";
const TENANT: &str = "/api/v1/tenant";

fn musician(n: u32) -> serde_json::Value {
    json!({ "firstName": "Anna", "lastName": format!("Berg{n}"), "email": format!("anna{n}@example.com") })
}

/// The platform's one shared pool, which is open.
fn shared_pool(platform: &TestPlatform) -> Lease<TenantPool> {
    platform.wired().router().shared_pools().pop().expect("an orchestra was made in it")
}

/// What an import holds for its whole length: the orchestra's quota of musicians.
async fn hold_quota(admin: &mut PgConnection, scope: &TenantScope) {
    sqlx::raw_sql("BEGIN").execute(&mut *admin).await.unwrap();
    let held =
        sqlx::query("SELECT FROM tenant.quota WHERE tenant_id = $1 AND resource = 'musicians' FOR UPDATE")
            .bind(scope.tenant_id().as_uuid())
            .fetch_all(admin)
            .await
            .unwrap();
    assert_eq!(held.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_creates_that_wait_for_their_own_import_leave_the_neighbours_alone() {
    let platform = TestPlatform::start().await;
    let [noisy, quiet] = platform.pair(Kept::Shared).await;
    let database = platform.registry().with_database(&platform.database_of(&noisy).await);
    let mut import = connect(&database).await;
    hold_quota(&mut import, &platform.scope(&noisy).await).await;

    let creates = (0..40).map(|n| {
        let admin = noisy.admin.clone();
        tokio::spawn(async move { admin.post(MUSICIANS, &musician(n)).await })
    });
    let creates: Vec<_> = creates.collect();
    let pool = shared_pool(&platform);
    let crowd = FairStats { permits: 10, held: 3, waiting: 37, keys: 1 };
    until("the orchestra's share of the pool waits for the row, the rest for a turn", async || {
        pool.turns() == crowd
    })
    .await;

    // Nothing that the noisy one does ends before its row is free, or its waits are over after 5 seconds.
    for n in 0..10 {
        quiet.admin.post(MUSICIANS, &musician(n)).await.expect(201);
        for answer in join_all((0..3).map(|_| quiet.admin.get(MUSICIANS))).await {
            answer.expect(200);
        }
    }
    assert_eq!(pool.turns(), crowd, "the neighbours were served while all forty waited");

    sqlx::raw_sql("COMMIT").execute(&mut import).await.unwrap();
    let mut made = 0;
    for create in creates {
        let answer = create.await.unwrap();
        if answer.status.as_u16() == 201 {
            made += 1;
        } else {
            // Whoever waited for too long by then is told so, and when to come again.
            answer.problem(503, "unavailable");
            assert!(answer.headers.contains_key("retry-after"));
        }
    }
    assert!(made > 0);
    assert_eq!(platform.count(&noisy, "tenant.musician").await, made);
    assert_eq!(platform.count(&quiet, "tenant.musician").await, 10);
    until("every turn is given back", async || pool.turns().held == 0 && pool.turns().keys == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_given_up_gives_its_turn_back_after_the_clean_up() {
    let platform = TestPlatform::start().await;
    let [noisy, _] = platform.pair(Kept::Shared).await;
    let database = platform.registry().with_database(&platform.database_of(&noisy).await);
    let mut import = connect(&database).await;
    hold_quota(&mut import, &platform.scope(&noisy).await).await;
    let creates: Vec<_> = (0..20)
        .map(|n| {
            let admin = noisy.admin.clone();
            tokio::spawn(async move { admin.post(MUSICIANS, &musician(n)).await })
        })
        .collect();
    let pool = shared_pool(&platform);
    until("all wait", async || pool.turns().held == 3 && pool.turns().waiting == 17).await;
    for create in &creates {
        create.abort();
    }
    until("nobody holds or waits", async || (pool.turns().held, pool.turns().keys) == (0, 0)).await;
    import.close().await.unwrap();
    noisy.admin.post(MUSICIANS, &musician(1)).await.expect(201);
    assert_eq!(platform.count(&noisy, "tenant.musician").await, 1);
}

/// The platform's data path with other bounds of time.
async fn impatient(platform: &TestPlatform, pool: TenantPoolSettings, breaker: BreakerSettings) -> TenantDb {
    let registry = RegistryPools::open(platform.registry(), &keys()).await.unwrap();
    let logins = PgDatabaseLogins::new(registry.clone(), Arc::new(keys()));
    let factory = LeanPoolFactory::new(Arc::new(logins), FactorySettings { shared: pool, dedicated: pool });
    let directory = Arc::new(PgTenantDirectory::new(registry));
    let settings = PoolSettings { breaker, ..PoolSettings::default() };
    TenantDb::new(Arc::new(Router::new(directory, Arc::new(factory), settings)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_dedicated_database_trips_its_own_breaker_and_the_others_see_nothing() {
    let platform = TestPlatform::start().await;
    let frozen = platform.orchestra(Kept::Dedicated, "frozen").await;
    let others =
        [platform.orchestra(Kept::Dedicated, "own").await, platform.orchestra(Kept::Shared, "shared").await];
    let pool = TenantPoolSettings {
        max_connections: 4,
        share: 100,
        answer: Duration::from_millis(300),
        ..TenantPoolSettings::default()
    };
    let breaker = BreakerSettings { failures: 3, open_for: Duration::from_secs(1) };
    let db = impatient(&platform, pool, breaker).await;
    let scope = platform.scope(&frozen).await;
    let other_scopes = [platform.scope(&others[0]).await, platform.scope(&others[1]).await];
    let begin = |scope| db.begin(scope, Access::Read);
    // Every connection that there may be, and one of each of the others.
    for tx in join_all((0..4).map(|_| begin(&scope))).await {
        tx.unwrap().commit().await.unwrap();
    }
    let database = platform.database_of(&frozen).await;
    let still = Frozen::database(platform.registry(), &database).await;
    assert!(still.processes() >= 4, "{still:?}");

    for _ in 0..3 {
        let since = tokio::time::Instant::now();
        let silent = begin(&scope).await;
        assert!(matches!(silent, Err(BeginError::Unavailable(_))), "{silent:?}");
        assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
        for other in &other_scopes {
            begin(other).await.expect("the others see nothing").commit().await.unwrap();
        }
    }
    let left_alone = begin(&scope).await;
    let Err(BeginError::Route(RouteError::Open(OpenError::BreakerOpen { .. }))) = left_alone else {
        panic!("{left_alone:?}")
    };
    for other in &other_scopes {
        begin(other).await.expect("the others see nothing").commit().await.unwrap();
    }
    drop(still);
    until("the database is tried again and answers", async || match begin(&scope).await {
        Ok(tx) => {
            tx.commit().await.unwrap();
            true
        }
        Err(BeginError::Route(RouteError::Open(OpenError::BreakerOpen { .. }))) => false,
        Err(error) => panic!("{error:?}"),
    })
    .await;
}

fn limited(of: impl Fn(&mut LimitSettings)) -> LimitSettings {
    let mut limits = LimitSettings::off();
    of(&mut limits);
    limits
}

#[track_caller]
fn too_often(answer: &stagesub_tests::Answer, kind: &str) {
    answer.problem(429, kind);
    let wait = answer.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
}

/// Asks until it is refused; how often it was answered.
async fn until_refused(client: &Client, path: &str) -> u32 {
    for answered in 0.. {
        let answer = client.get(path).await;
        if answer.status.as_u16() == 429 {
            too_often(&answer, "rate-limited");
            return answered;
        }
        assert!(answered < 1_000, "there is no limit");
    }
    unreachable!("it counts up to the limit")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_limited_as_the_trusted_proxy_names_it() {
    let limits = limited(|limits| limits.requests_per_address = NonZeroU32::new(60));
    let platform = TestPlatform::start_limited("10.0.0.0/8", limits).await;
    let proxy = platform.client().from_address([10, 0, 0, 1].into());
    let behind = |address| proxy.with_header("x-forwarded-for", address);
    // One token comes back each second, so that a slow run may be answered a few times more.
    let answered = until_refused(&behind("2001:db8::1"), "/api/v1/auth/me").await;
    assert!((60..90).contains(&answered), "{answered}");
    // Nor is a host that does not exist looked up.
    let elsewhere = behind("2001:db8::2").at(platform.host("nobody"));
    assert!(until_refused(&elsewhere, "/").await < 30, "the rest of its network is the same client");
    behind("2001:db8:0:1::1").get("/api/v1/auth/me").await.expect(401);
    // Nobody's word counts from an address that is no proxy; probes are not counted.
    let direct = platform.client().with_header("x-forwarded-for", "2001:db8::1");
    direct.get("/api/v1/auth/me").await.expect(401);
    for _ in 0..100 {
        behind("2001:db8::1").get("/healthz").await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orchestra_is_limited_and_its_neighbours_are_not() {
    let limits = limited(|limits| limits.requests_per_tenant = NonZeroU32::new(60));
    let platform = TestPlatform::start_limited("", limits).await;
    let [ours, theirs] = platform.pair(Kept::Shared).await;
    let answered = until_refused(&ours.admin, TENANT).await;
    assert!((30..90).contains(&answered), "{answered}");
    theirs.admin.get(TENANT).await.expect(200);
    platform.superadmin().await.get("/api/v1/platform/tenants").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_connections_of_bad_sign_ins_do_not_keep_a_right_one_out() {
    let limits = limited(|limits| {
        limits.failed_sign_ins_per_address = NonZeroU32::new(30);
        limits.failed_sign_ins_per_account = NonZeroU32::new(10);
    });
    let platform = TestPlatform::start_limited("", limits).await;
    let [ours, theirs] = platform.pair(Kept::Shared).await;
    let attack = platform.client().at(&ours.host).from_address([198, 51, 100, 7].into());
    let login = |email: String, password: &str| json!({ "email": email, "password": password });
    let before = platform.count_in_registry("registry.platform_audit").await;

    let stop = Arc::new(AtomicBool::new(false));
    let mut bad = Vec::new();
    for task in 0..20 {
        let (attack, stop) = (attack.clone(), Arc::clone(&stop));
        bad.push(tokio::spawn(async move {
            let (mut refused, mut limited, mut n) = (0, 0, 0);
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                let body = json!({ "email": format!("nobody{task}-{n}@x.example"), "password": "wrong wrong wrong" });
                let answer = attack.post(LOGIN, &body).await;
                match answer.status.as_u16() {
                    401 => refused += 1,
                    429 => {
                        too_often(&answer, "sign-in-limited");
                        limited += 1;
                    }
                    // On a slow machine the turn may not come in time.
                    503 => assert!(answer.headers.contains_key("retry-after")),
                    other => panic!("{other}: {}", answer.text()),
                }
                tokio::task::yield_now().await;
            }
            (refused, limited)
        }));
    }
    // Ten people of another orchestra come while it lasts, and get in at the first try.
    let people = platform.client().at(&theirs.host).from_address([203, 0, 113, 80].into());
    let chef = format!("chef@{}.example", theirs.subdomain);
    for _ in 0..10 {
        people.post(LOGIN, &login(chef.clone(), stagesub_tests::orchestra::PASSWORD)).await.expect(200);
    }
    stop.store(true, Ordering::Relaxed);
    let (mut refused, mut limited) = (0, 0);
    for task in bad {
        let (of_refused, of_limited) = task.await.unwrap();
        refused += of_refused;
        limited += of_limited;
    }
    // A slot comes back every two seconds; those who had begun when the last was taken pass too.
    assert!((1..60).contains(&refused) && limited > 0, "{refused} refused, {limited} limited");
    let written = platform.count_in_registry("registry.platform_audit").await - before;
    assert_eq!(written, refused + 10, "one entry for each that was decided, and none for the rest");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_account_is_not_tried_from_many_addresses() {
    let limits = limited(|limits| limits.failed_sign_ins_per_account = NonZeroU32::new(5));
    let platform = TestPlatform::start_limited("", limits).await;
    let ours = platform.orchestra(Kept::Shared, "ours").await;
    let chef = format!("chef@{}.example", ours.subdomain);
    let body = json!({ "email": chef, "password": "wrong wrong wrong" });
    let from = |n: u8| platform.client().at(&ours.host).from_address([198, 51, 100, n].into());
    for n in 0..5 {
        from(n).post(LOGIN, &body).await.problem(401, "unauthenticated");
    }
    too_often(&from(6).post(LOGIN, &body).await, "sign-in-limited");
    // Written another way it is the same account, and the right password waits as well.
    let right = json!({ "email": format!(" {} ", chef.to_uppercase()), "password": stagesub_tests::orchestra::PASSWORD });
    too_often(&from(7).post(LOGIN, &right).await, "sign-in-limited");
    let other = json!({ "email": "somebody@else.example", "password": "wrong wrong wrong" });
    from(8).post(LOGIN, &other).await.problem(401, "unauthenticated");
}
