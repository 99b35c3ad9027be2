//! Two hundred dedicated databases through fifty pools, on a real PostgreSQL and under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use futures::stream::{self, StreamExt};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use secrecy::ExposeSecret;
use sqlx::PgConnection;
use stagesub_domain::page::Page;
use stagesub_domain::ports::instruments::InstrumentFilter;
use stagesub_server::config::PoolSizes;
use stagesub_storage::seal::Sealed;
use stagesub_storage::target::ConnectionTarget;
use stagesub_tenancy::{Access, Purpose, TenantId};
use stagesub_tests::TestPlatform;
use stagesub_tests::cluster::{Cluster, keys};
use stagesub_tests::database::{associated_data, connect, copy, store_login};
use tokio::time::{Duration, interval};
use uuid::Uuid;

const TENANTS: usize = 200;
const POOLS: usize = 50;
const TASKS: u64 = 24;
const ROUNDS: usize = 60;

/// The application's connection string on the shared database: roles belong to the server, so it opens the
/// dedicated ones too.
async fn app_login(registry: &mut PgConnection) -> ConnectionTarget {
    let (database, sealed): (Uuid, String) = sqlx::query_as(
        "SELECT l.database_id, l.sealed FROM registry.database_logins AS l
        JOIN registry.databases AS d ON d.id = l.database_id
        WHERE d.kind = 'shared' AND l.role = 'stagesub_app'",
    )
    .fetch_one(registry)
    .await
    .unwrap();
    let sealed: Sealed = sealed.parse().unwrap();
    let url = keys().open_text(&sealed, &associated_data(database, "stagesub_app", None)).unwrap();
    ConnectionTarget::parse(url.expose_secret()).unwrap()
}

/// A tenant with a database of its own, copied from the migrated template: `provisioning.rs` shows that the
/// platform makes them itself, here there have to be many.
async fn dedicated_tenant(platform: &TestPlatform, login: &ConnectionTarget, n: usize) -> TenantId {
    let cluster = Cluster::get().await;
    let (tenant, database) = (Uuid::now_v7(), Uuid::now_v7());
    let name = format!("stagesub_test_run{}_pool{}", std::process::id(), tenant.simple());
    copy(&mut connect(cluster.admin()).await, cluster.shared_template(), &name).await;

    let mut data = connect(&cluster.admin().with_database(&name)).await;
    sqlx::query("UPDATE app.marker SET role = 'dedicated', database_id = $1, tenant_id = $2")
        .bind(database)
        .bind(tenant)
        .execute(&mut data)
        .await
        .unwrap();
    sqlx::query("INSERT INTO app.tenant_fence (tenant_id, state, epoch) VALUES ($1, 'active', 1)")
        .bind(tenant)
        .execute(&mut data)
        .await
        .unwrap();
    sqlx::query("INSERT INTO tenant.instrument (tenant_id, no, name, created_at, updated_at) VALUES ($1, 1, $2, now(), now())")
        .bind(tenant)
        .bind(tenant.to_string())
        .execute(&mut data)
        .await
        .unwrap();

    let mut registry = connect(platform.registry()).await;
    let code = format!("P{n}");
    sqlx::query("INSERT INTO registry.codes (code, tenant_id) VALUES ($1, $2)")
        .bind(&code)
        .bind(tenant)
        .execute(&mut registry)
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO registry.tenants (id, code, name, subdomain, subscription, status, wants_dedicated, version)
        VALUES ($1, $2, $2, lower($2), 'institution', 'active', true, 1)",
    )
    .bind(tenant)
    .bind(&code)
    .execute(&mut registry)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO registry.databases (id, kind, tenant_id, status, server_identifier, host, port, name)
        SELECT $1, 'dedicated', $2, 'ready', server_identifier, host, port, $3
        FROM registry.databases WHERE kind = 'shared'",
    )
    .bind(database)
    .bind(tenant)
    .bind(&name)
    .execute(&mut registry)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO registry.directory (tenant_id, database_id, placement, epoch) VALUES ($1, $2, 'dedicated', 1)",
    )
    .bind(tenant)
    .bind(database)
    .execute(&mut registry)
    .await
    .unwrap();
    let whose = (database, "stagesub_app", Some(tenant));
    store_login(&mut registry, &keys(), whose, &login.with_database(&name)).await;
    TenantId::from_uuid(tenant)
}

/// The application's connections to this test's dedicated databases, as PostgreSQL counts them.
async fn connections(conn: &mut PgConnection) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'stagesub_app' AND datname LIKE $1",
    )
    .bind(format!("stagesub\\_test\\_run{}\\_pool%", std::process::id()))
    .fetch_one(conn)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_dedicated_tenants_cycle_through_fifty_pools() {
    let sizes = PoolSizes { shared: 4, dedicated: 2, dedicated_pools: POOLS };
    let budget = i64::try_from(POOLS * 3).unwrap();
    let platform = Arc::new(TestPlatform::start_with_pools(sizes).await);
    let login = app_login(&mut connect(platform.registry()).await).await;
    let tenants: Vec<TenantId> = stream::iter(0..TENANTS)
        .map(|n| dedicated_tenant(&platform, &login, n))
        .buffer_unordered(4)
        .collect()
        .await;
    let tenants = Arc::new(tenants);

    // Counts while the load lasts.
    let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
    let counting = {
        let (stop, most) = (Arc::clone(&stop), Arc::clone(&most));
        tokio::spawn(async move {
            let mut conn = connect(Cluster::get().await.admin()).await;
            let mut ticks = interval(Duration::from_millis(20));
            while !stop.load(Ordering::Acquire) {
                ticks.tick().await;
                most.fetch_max(connections(&mut conn).await, Ordering::AcqRel);
            }
        })
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
                let names: Vec<_> = found.items.into_iter().map(|instrument| instrument.name).collect();
                assert_eq!(names, [tenant.to_string()], "another tenant's row");
                unit.commit().await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    stop.store(true, Ordering::Release);
    counting.await.unwrap();
    let most = most.load(Ordering::Acquire);
    println!(
        "{} transactions on {TENANTS} dedicated databases: at most {most} of {budget} connections",
        TASKS * ROUNDS as u64
    );
    assert!(most > 0 && most <= budget, "{most} connections of {budget}");
}
