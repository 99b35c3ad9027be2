//! Figures for Prometheus.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::json;
use stagesub_server::config::LimitSettings;
use stagesub_server::jobs::Jobs;
use stagesub_server::metrics::listener;
use stagesub_tenancy::Access;
use stagesub_tests::{Kept, TestPlatform, program};
use tower::ServiceExt as _;
use uuid::Uuid;

use super::serving::Serving;
use super::{MUSICIANS, musician};
use crate::tenant_tx::lab::until;

/// What the listener of a platform's figures answers.
fn page(platform: &TestPlatform) -> axum::Router {
    let sources = platform.wired().sources(platform.state(), &Jobs::default());
    listener::router(platform.wired().metrics().clone(), Arc::new(sources))
}

async fn scrape(page: &axum::Router) -> String {
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let Ok(answer) = page.clone().oneshot(request).await;
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// Each series: its name and its labels.
fn series(text: &str) -> BTreeSet<&str> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').expect("a series has a value").0).collect()
}

/// The value of a series that counts whole things.
#[track_caller]
fn value(text: &str, series: &str) -> u64 {
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("{series} is missing in\n{text}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_hosts_paths_methods_and_ids_make_no_series() {
    let platform = TestPlatform::start().await;
    platform.wired().metrics().turn_on();
    let ours = platform.orchestra(Kept::Shared, "labels").await;
    ours.admin.post(MUSICIANS, &musician(0)).await.expect(201);
    let page = page(&platform);
    let ask = async |n: u32| {
        let word = Uuid::from_u128(u128::from(n)).simple().to_string();
        let body = || Body::from(format!("{{\"{word}\": 1}}"));
        let method = Method::from_bytes(format!("M{n}").as_bytes()).unwrap();
        let admin = &ours.admin;
        admin.at(platform.host(&format!("h{n}"))).get(MUSICIANS).await.expect(404);
        admin.at(format!("{word}.example")).get("/").await.expect(404);
        admin.get(&format!("/api/v1/{word}")).await.expect(404);
        admin.get(&format!("{MUSICIANS}/{}-MUS-{:03}", ours.code, n + 100)).await.expect(404);
        admin.get(&format!("{MUSICIANS}/{}", ours.id("MUS", 1))).await.expect(200);
        admin.get(&format!("{MUSICIANS}?q={word}")).await.expect(200);
        admin.send(method.clone(), MUSICIANS, None, Body::empty()).await.expect(405);
        admin.send(method, &format!("/{word}"), None, Body::empty()).await.expect(404);
        admin.send(Method::POST, MUSICIANS, Some("application/json"), body()).await.expect(400);
        admin.with_token(&word).get(MUSICIANS).await.expect(401);
        let login = json!({ "email": format!("{word}@x.example"), "password": "wrong wrong wrong" });
        if n < 2 {
            platform.client().at(&ours.host).post("/api/v1/auth/login", &login).await.expect(401);
        }
    };
    ask(0).await;
    let before = scrape(&page).await;
    for n in 1..=100 {
        ask(n).await;
    }
    let after = scrape(&page).await;
    assert_eq!(series(&after), series(&before));
    let other = "stagesub_http_requests_total{method=\"other\",route=\"/api/v1/musicians\",status=\"4xx\"}";
    assert_eq!((value(&before, other), value(&after, other)), (1, 101), "they were counted");
    let unmatched = "stagesub_http_requests_total{method=\"GET\",route=\"unmatched\",status=\"4xx\"}";
    assert!(value(&after, unmatched) >= 200);
    for known in ["labels", &ours.code, ours.tenant_text(), "example", "MUS-", TestPlatform::DOMAIN] {
        assert!(!after.contains(known), "{known} is in the figures");
    }
    assert!(series(&after).len() < 600, "{} series", series(&after).len());
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_follow_what_happens() {
    let limits =
        LimitSettings { failed_sign_ins_per_account: std::num::NonZeroU32::new(1), ..LimitSettings::off() };
    let platform = TestPlatform::start_limited("", limits).await;
    platform.wired().metrics().turn_on();
    let page = page(&platform);
    let shared = platform.orchestra(Kept::Shared, "shared").await;
    let own = platform.orchestra(Kept::Dedicated, "own").await;
    for orchestra in [&shared, &own] {
        orchestra.admin.post(MUSICIANS, &musician(1)).await.expect(201);
        orchestra.admin.get(MUSICIANS).await.expect(200);
    }
    let wrong = json!({ "email": "nobody@x.example", "password": "wrong wrong wrong" });
    let client = platform.client().at(&shared.host);
    client.post("/api/v1/auth/login", &wrong).await.expect(401);
    client.post("/api/v1/auth/login", &wrong).await.expect(429);

    let held = platform.state().units.begin(&platform.scope(&own).await, Access::Read).await.unwrap();
    let text = scrape(&page).await;
    let at = |series: &str| value(&text, series);
    assert_eq!(at("stagesub_sign_ins_total{outcome=\"refused\"}"), 1);
    assert_eq!(at("stagesub_sign_ins_total{outcome=\"limited\"}"), 1);
    assert!(at("stagesub_sign_ins_total{outcome=\"granted\"}") >= 3);
    assert_eq!(at("stagesub_limit_refusals_total{limit=\"sign_in_account\"}"), 1);
    for placement in ["shared", "dedicated"] {
        assert_eq!(at(&format!("stagesub_pools{{placement=\"{placement}\"}}")), 1);
        assert!(at(&format!("stagesub_pool_connections{{placement=\"{placement}\"}}")) >= 1);
        assert!(at(&format!("stagesub_database_time_seconds_count{{placement=\"{placement}\"}}")) >= 2);
        assert!(at(&format!("stagesub_pool_wait_seconds_count{{placement=\"{placement}\"}}")) >= 2);
        assert!(at(&format!("stagesub_database_rows_total{{placement=\"{placement}\"}}")) >= 2);
        assert_eq!(
            at(&format!("stagesub_pool_refusals_total{{placement=\"{placement}\",reason=\"queue_full\"}}")),
            0
        );
    }
    assert_eq!(at("stagesub_pools_by_state{state=\"leased\"}"), 1);
    assert_eq!(at("stagesub_pool_turns_held{placement=\"dedicated\"}"), 1);
    assert_eq!(at("stagesub_dedicated_connection_budget"), 150);
    assert_eq!(at("stagesub_dedicated_connections_counted"), 3);
    assert_eq!(at("stagesub_databases_failing"), 0);
    assert!(at("stagesub_cache_lookups_total{cache=\"subdomain\",outcome=\"hit\"}") > 0);
    assert!(at("stagesub_cache_lookups_total{cache=\"placement\",outcome=\"miss\"}") > 0);
    let created = "stagesub_http_requests_total{method=\"POST\",route=\"/api/v1/musicians\",status=\"2xx\"}";
    assert_eq!(at(created), 2);
    let timed = "stagesub_http_request_duration_seconds_count{method=\"POST\",route=\"/api/v1/musicians\"}";
    assert_eq!(at(timed), 2);
    #[cfg(target_os = "linux")]
    assert!(at("process_resident_memory_bytes") > 1_000_000 && at("process_open_fds") > 3);
    drop(held);
    until("the turn is given back", async || {
        value(&scrape(&page).await, "stagesub_pool_turns_held{placement=\"dedicated\"}") == 0
    })
    .await;
    until("the node follows the registry", async || {
        let text = scrape(&page).await;
        text.contains("stagesub_change_feed_age_seconds ")
            && value(&text, "stagesub_change_feed_version") >= 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_have_a_listener_of_their_own_and_it_gives_nothing_else() {
    let platform = TestPlatform::start().await;
    let server = Serving::start(&platform, &[("STAGESUB_METRICS_LISTEN", "127.0.0.1:0")]).await;
    let http = program::http().build().unwrap();
    let (app, metrics) = (server.url("listen"), server.url("metrics"));
    let status = async |url: String| http.get(url).send().await.unwrap().status().as_u16();
    assert_eq!(status(format!("{app}/healthz")).await, 200);
    let answer = http.get(format!("{metrics}/metrics")).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.text().await.unwrap();
    assert_eq!(value(&text, "stagesub_job_running{job=\"changes\"}"), 1);
    assert_eq!(value(&text, "stagesub_job_running{job=\"metrics\"}"), 1);
    assert_eq!(
        value(&text, "stagesub_http_requests_total{method=\"GET\",route=\"/healthz\",status=\"2xx\"}"),
        1
    );

    for path in ["/", "/healthz", "/readyz", "/api/v1/auth/me", "/api/openapi.json", "/metrics/x"] {
        assert_eq!(status(format!("{metrics}{path}")).await, 404, "{path}");
    }
    assert_eq!(http.post(format!("{metrics}/metrics")).send().await.unwrap().status(), 405);
    for host in ["127.0.0.1", TestPlatform::DOMAIN] {
        let asked = http.get(format!("{app}/metrics")).header("host", host).send().await.unwrap();
        assert_eq!(asked.status(), 404, "{host}");
    }
    server.stop().await;

    let quiet = Serving::start(&platform, &[]).await;
    assert!(quiet.told["metrics"].is_null(), "{}", quiet.told);
    quiet.stop().await;
}
