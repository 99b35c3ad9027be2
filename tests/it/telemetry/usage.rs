//! Who used how much.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Connection as _;
use stagesub_server::jobs::changes::Follow;
use stagesub_storage::factory::TenantDb;
use stagesub_tenancy::usage::{HOURS_KEPT, Usage, UsageBy, UsageSums};
use stagesub_tenancy::{Access, TenantId};
use stagesub_tests::database::{connect, run};
use stagesub_tests::{Kept, Orchestra, SecondNode, TestPlatform};
use tracing::instrument::WithSubscriber as _;
use uuid::Uuid;

use super::spans::Spans;
use super::{MUSICIANS, musician};
use crate::tenant_tx::lab::until;

const USAGE: &str = "/api/v1/platform/usage";

/// The report, after this node has added its part.
async fn report(platform: &TestPlatform, query: &str) -> Value {
    platform.wired().add_usage().await.unwrap();
    platform.superadmin().await.get(&format!("{USAGE}{query}")).await.ok()
}

/// Figures of one orchestra; null while it is not listed.
fn of<'a>(report: &'a Value, orchestra: &Orchestra) -> &'a Value {
    let items = report["items"].as_array().unwrap();
    items.iter().find(|item| item["id"] == orchestra.tenant_text()).unwrap_or(&Value::Null)
}

fn codes(report: &Value) -> Vec<&str> {
    report["items"].as_array().unwrap().iter().map(|item| item["code"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_uses_most_is_first_and_all_parts_make_the_total() {
    let platform = TestPlatform::start().await;
    let [light, heavy] = platform.pair(Kept::Dedicated).await;
    for n in 0..20 {
        heavy.admin.post(MUSICIANS, &musician(n)).await.expect(201);
    }
    let before = report(&platform, "?by=rows").await;
    let rows = |report: &Value, of: &Orchestra| self::of(report, of)["rows"].as_u64().unwrap();
    for _ in 0..5 {
        heavy.admin.get(MUSICIANS).await.expect(200);
    }
    until("the lists are counted, 20 rows each", async || {
        let now = report(&platform, "?by=rows").await;
        rows(&now, &heavy) == rows(&before, &heavy) + 100
    })
    .await;
    let by_rows = report(&platform, "?by=rows").await;
    assert_eq!(codes(&by_rows), [&heavy.code, &light.code]);
    assert_eq!(by_rows["by"], "rows");

    // Making an orchestra writes much more than reading it five times, and takes no second.
    let db = TenantDb::new(platform.wired().router().clone());
    let mut tx = db.begin(&platform.scope(&light).await, Access::Read).await.unwrap();
    sqlx::query("SELECT pg_sleep(3)").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    let slept = |report: &Value| of(report, &light)["databaseTimeMs"].as_f64().unwrap() >= 3_000.0;
    until("the sleep is counted", async || slept(&report(&platform, "").await)).await;
    let by_time = report(&platform, "?limit=1").await;
    assert_eq!((by_time["by"].as_str(), codes(&by_time)), (Some("databaseTime"), vec![light.code.as_str()]));
    assert_eq!(of(&by_time, &light)["subdomain"], light.subdomain);

    let all = report(&platform, "?by=poolWait&hours=48&limit=100").await;
    for figure in ["databaseTimeMs", "poolWaitMs", "rows", "statements", "transactions"] {
        let parts: f64 =
            all["items"].as_array().unwrap().iter().map(|item| item[figure].as_f64().unwrap()).sum();
        let total = all["total"][figure].as_f64().unwrap();
        assert!((parts - total).abs() < 0.01 && total > 0.0, "{figure}: {all}");
        assert_eq!(all["others"][figure].as_f64(), Some(0.0));
    }
    assert!(of(&all, &heavy)["poolWaitMs"].as_f64().unwrap() > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_given_up_is_counted_and_has_its_span() {
    let spans = Spans::watch();
    let platform = TestPlatform::start().await;
    let ours = platform.orchestra(Kept::Shared, "ours").await;
    let database = platform.registry().with_database(&platform.database_of(&ours).await);
    let mut other = connect(&database).await;
    run(&mut other, "BEGIN").await;
    let held = "SELECT FROM tenant.quota WHERE tenant_id = $1 AND resource = 'musicians' FOR UPDATE";
    sqlx::query(held).bind(ours.tenant.as_uuid()).fetch_all(&mut other).await.unwrap();
    let before = report(&platform, "").await;

    let admin = ours.admin.clone();
    let asked = async move { admin.post(MUSICIANS, &musician(1)).await }.with_subscriber(spans.dispatch());
    let asked = tokio::spawn(asked);
    let mut looks = connect(&database).await;
    until("it waits for the row", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'stagesub_app'";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut looks).await.unwrap() > 0
    })
    .await;
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    let transactions = |report: &Value| of(report, &ours)["transactions"].as_u64().unwrap();
    let time = |report: &Value| of(report, &ours)["databaseTimeMs"].as_f64().unwrap();
    until("it is counted", async || {
        let now = report(&platform, "").await;
        transactions(&now) == transactions(&before) + 1 && time(&now) > time(&before)
    })
    .await;
    let span = spans.one();
    assert_eq!(span["cancelled"], "true", "{span:?}");
    assert!(!span.contains_key("http.response.status_code"), "{span:?}");
    assert_eq!((span["http.route"].as_str(), span["database.transactions"].as_str()), (MUSICIANS, "1"));
    other.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_nodes_did_is_summed() {
    let platform = TestPlatform::start().await;
    let second = SecondNode::beside(&platform, Follow::default()).await;
    let ours = platform.orchestra(Kept::Shared, "ours").await;
    let before = report(&platform, "").await;
    let there = second.asked_by(&ours.admin);
    for _ in 0..3 {
        ours.admin.get(MUSICIANS).await.expect(200);
        there.get(MUSICIANS).await.expect(200);
        there.get(MUSICIANS).await.expect(200);
    }
    let transactions = |report: &Value| of(report, &ours)["transactions"].as_u64().unwrap();
    until("all nine are counted", async || {
        second.wired().add_usage().await.unwrap();
        transactions(&report(&platform, "").await) == transactions(&before) + 9
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hours_are_kept_apart_and_old_ones_go() {
    let platform = TestPlatform::start().await;
    let [one, two] = platform.pair(Kept::Shared).await;
    let ledger = platform.wired().usage();
    let ms = Duration::from_millis;
    let usage = |time: u64, wait: u64, rows: u64| Usage {
        database_time: ms(time),
        pool_wait: ms(wait),
        rows,
        statements: 2,
        transactions: 1,
    };
    let gone = TenantId::from_uuid(Uuid::from_u128(1));
    let huge = 1_000_000_000;
    let sums = UsageSums {
        tenants: vec![
            (one.tenant, usage(3 * huge, huge, 2 * huge)),
            (two.tenant, usage(2 * huge, 2 * huge, 3 * huge)),
            (gone, usage(5, 0, 0)),
        ],
        others: usage(7, 0, 0),
    };
    for _ in 0..2 {
        ledger.add(&sums).await.unwrap();
    }
    let top = async |by, hours| ledger.top(by, hours, 10).await.unwrap();
    let now = top(UsageBy::DatabaseTime, 1).await;
    let order = async |by| {
        let report = top(by, 1).await;
        report.tenants.iter().map(|tenant| tenant.tenant).collect::<Vec<_>>()
    };
    assert_eq!(order(UsageBy::DatabaseTime).await, [one.tenant, two.tenant]);
    assert_eq!(order(UsageBy::Rows).await, [two.tenant, one.tenant]);
    assert_eq!(order(UsageBy::PoolWait).await, [two.tenant, one.tenant]);
    assert_eq!(now.others.database_time, ms(24), "of those who are gone, and of those not told apart");
    assert!(now.tenants[0].usage.database_time >= ms(6 * huge));
    assert!(now.total.database_time >= now.others.database_time + ms(10 * huge));

    platform.wired().add_usage().await.unwrap();
    // As if it had been an hour ago, and then longer ago than is kept.
    let mut registry = connect(platform.registry()).await;
    run(&mut registry, "UPDATE registry.tenant_usage SET hour = hour - interval '1 hour'").await;
    assert!(top(UsageBy::Rows, 1).await.tenants.is_empty());
    assert_eq!(top(UsageBy::Rows, 2).await.tenants.len(), 2);
    let back = format!("UPDATE registry.tenant_usage SET hour = hour - interval '{} hours'", HOURS_KEPT - 1);
    sqlx::raw_sql(sqlx::AssertSqlSafe(back)).execute(&mut registry).await.unwrap();
    assert!(top(UsageBy::Rows, 1_000).await.tenants.is_empty());
    let small = UsageSums { tenants: vec![(one.tenant, usage(1, 1, 1))], others: Usage::default() };
    ledger.add(&small).await.unwrap();
    until("old hours are gone", async || {
        let old = "SELECT count(*) FROM registry.tenant_usage WHERE hour < now() - interval '2 hours'";
        sqlx::query_scalar::<_, i64>(old).fetch_one(&mut registry).await.unwrap() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_add_at_once_lose_nothing() {
    let platform = TestPlatform::start().await;
    let [one, two] = platform.pair(Kept::Shared).await;
    let ledger = platform.wired().usage();
    let rows = 1_000_000;
    let sums = |tenants: [&Orchestra; 2]| UsageSums {
        tenants: tenants.map(|of| (of.tenant, Usage { rows, ..Usage::default() })).to_vec(),
        others: Usage { rows, ..Usage::default() },
    };
    let adding = (0..20).map(|n| {
        let sums = if n % 2 == 0 { sums([&one, &two]) } else { sums([&two, &one]) };
        async move { ledger.add(&sums).await }
    });
    for added in futures::future::join_all(adding).await {
        added.unwrap();
    }
    let report = ledger.top(UsageBy::Rows, 2, 10).await.unwrap();
    assert_eq!(report.others.rows, 20 * rows);
    for tenant in report.tenants {
        assert!((20 * rows..21 * rows).contains(&tenant.usage.rows), "{tenant:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_told() {
    let platform = TestPlatform::start().await;
    let admin = platform.superadmin().await;
    for (query, field, rule) in [
        ("by=memory", "by", "enum"),
        ("limit=0", "limit", "range"),
        ("limit=101", "limit", "range"),
        ("hours=0", "hours", "range"),
        ("hours=49", "hours", "range"),
    ] {
        admin.get(&format!("{USAGE}?{query}")).await.invalid(&[(field, rule)]);
    }
    let ours = platform.orchestra(Kept::Shared, "ours").await;
    ours.admin.get(USAGE).await.problem(404, "not-found");
    let empty =
        json!({ "databaseTimeMs": 0.0, "poolWaitMs": 0.0, "rows": 0, "statements": 0, "transactions": 0 });
    assert_eq!(admin.get(USAGE).await.ok()["others"], empty);
}
