//! Making an orchestra, killed wherever it can be: the next start finishes it or finds nothing.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use serde_json::json;
use sqlx::PgConnection;
use stagesub_domain::actor::Actor;
use stagesub_domain::service::provisioning::{create_tenant, recover_provisioning};
use stagesub_domain::service::tenants::TenantDraft;
use stagesub_domain::subscription::Tier;
use stagesub_tenancy::TenantId;
use stagesub_tests::database::connect;
use stagesub_tests::{Kept, TestPlatform};
use uuid::Uuid;

/// Instruments, positions, lists and mail templates of a tenant.
async fn contents(platform: &TestPlatform, tenant: TenantId) -> [i64; 4] {
    let mut counts = [0; 4];
    let tables = ["tenant.instrument", "tenant.position", "tenant.ranking_list", "tenant.email_template"];
    for (count, table) in counts.iter_mut().zip(tables) {
        *count = platform.count_of(tenant, table).await;
    }
    counts
}

/// How often an undisturbed `future` is polled until it is done.
async fn polls_of<F: Future>(future: F) -> usize {
    let mut future = pin!(future);
    let mut polls = 0;
    std::future::poll_fn(|context| {
        polls += 1;
        future.as_mut().poll(context)
    })
    .await;
    polls
}

/// Polls `future` that many times and drops it: a crash at one of its awaits. `None`: it was killed.
async fn killed_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

fn draft(subdomain: &str, kept: Kept) -> TenantDraft {
    TenantDraft {
        name: format!("Orkester {subdomain}"),
        subdomain: subdomain.to_owned(),
        // A proposed code would be looked up once for each that is taken, more often each time.
        code: Some(subdomain.to_uppercase()),
        tier: Tier::Institution,
        dedicated: kept == Kept::Dedicated,
        admin: None,
    }
}

/// How far a killed making had come, as the registry has it.
async fn progress(registry: &mut PgConnection, tenant: TenantId) -> &'static str {
    let found: Option<(String, bool, bool)> = sqlx::query_as(
        "SELECT t.status,
            EXISTS (SELECT FROM registry.databases AS b WHERE b.tenant_id = t.id),
            EXISTS (SELECT FROM registry.directory AS d WHERE d.tenant_id = t.id)
        FROM registry.tenants AS t WHERE t.id = $1",
    )
    .bind(tenant.as_uuid())
    .fetch_optional(registry)
    .await
    .unwrap();
    match found.as_ref().map(|(status, database, placed)| (status.as_str(), *database, *placed)) {
        None => "nothing",
        Some(("provisioning", _, true)) => "placed",
        Some(("provisioning", true, false)) => "database begun",
        Some(("provisioning", false, false)) => "reserved",
        Some(("active", _, true)) => "active",
        Some(other) => panic!("no such state: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_orchestra_has_what_its_tier_starts_with() {
    let platform = TestPlatform::start().await;
    let superadmin = platform.superadmin().await;
    let mut made = Vec::new();
    for (subscription, placement, expected) in [
        ("small", "shared", [7, 24, 72, 4]),
        ("medium", "shared", [14, 43, 129, 8]),
        ("institution", "shared", [14, 43, 129, 8]),
        ("institution", "dedicated", [14, 43, 129, 8]),
    ] {
        let subdomain = format!("{subscription}-{placement}");
        let body = json!({
            "name": subdomain, "subdomain": subdomain, "subscription": subscription, "placement": placement,
            "admin": { "email": format!("chef@{subdomain}.example"), "firstName": "Chef", "lastName": "Ek",
                "password": "en ganska lång mening" },
        });
        let answer = superadmin.post("/api/v1/platform/tenants", &body).await.created();
        let tenant: TenantId = answer["id"].as_str().unwrap().parse().unwrap();
        made.push((tenant, expected));
    }
    for (tenant, expected) in made {
        assert_eq!(contents(&platform, tenant).await, expected);
        assert_eq!(platform.count_of(tenant, "tenant.quota").await, 3);
        assert_eq!(platform.count_of(tenant, "tenant.settings").await, 1);
        assert_eq!(platform.count_of(tenant, "tenant.musician").await, 0);
    }
}

/// Kills spread over the whole of a making.
const KILLS: usize = 24;

async fn killed_everywhere(kept: Kept, halfway: &[&str]) {
    let platform = TestPlatform::start().await;
    let bystander = platform.orchestra(Kept::Shared, "bystander").await;
    let before = platform.audit(&bystander).await;
    let actor = Actor::system();
    let mut registry = connect(platform.registry()).await;
    let id = || TenantId::from_uuid(Uuid::now_v7());
    let tenancy = platform.wired().tenancy();
    // The first opens what later ones find open, so the second tells how long one takes.
    create_tenant(&tenancy, &actor, id(), draft("first", kept), platform.now()).await.unwrap();
    let whole = polls_of(create_tenant(&tenancy, &actor, id(), draft("second", kept), platform.now())).await;

    let mut seen = BTreeSet::new();
    for kill in 0..KILLS {
        let polls = whole * kill / KILLS;
        let tenant = id();
        let subdomain = format!("k{kill}");
        let making = create_tenant(&tenancy, &actor, tenant, draft(&subdomain, kept), platform.now());
        if let Some(made) = killed_after(polls, making).await {
            // This one took fewer steps than the one that was counted.
            made.unwrap();
        }
        // What a dropped future had sent may still be on its way in the database; a restart would meet it too.
        seen.insert(progress(&mut registry, tenant).await);

        // The next start, before it serves.
        let restarted = platform.restarted().await;
        let recovered = recover_provisioning(&restarted.tenancy(), &actor, platform.now()).await.unwrap();
        for one in recovered {
            one.outcome.unwrap_or_else(|error| panic!("after {polls} polls: {error:?}"));
        }
        let tenant = match progress(&mut registry, tenant).await {
            "active" => tenant,
            // It had not begun, so its name is free.
            "nothing" => {
                let again = id();
                create_tenant(&restarted.tenancy(), &actor, again, draft(&subdomain, kept), platform.now())
                    .await
                    .unwrap();
                again
            }
            half => panic!("after {polls} polls and a recovery it is {half}"),
        };
        assert_eq!(contents(&platform, tenant).await, [14, 43, 129, 8], "after {polls} polls");
        restarted.close(std::time::Duration::from_secs(5)).await;
    }
    println!("{KILLS} kills over the {whole} polls of a {kept} orchestra's making left it: {seen:?}");
    for state in halfway {
        assert!(seen.contains(state), "no kill left it {state}: {seen:?}");
    }
    assert_eq!(platform.audit(&bystander).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_orchestras_making_is_finished_after_a_kill_at_any_await() {
    killed_everywhere(Kept::Shared, &["nothing", "placed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dedicated_orchestras_making_is_finished_after_a_kill_at_any_await() {
    killed_everywhere(Kept::Dedicated, &["nothing", "database begun", "placed"]).await;
}
