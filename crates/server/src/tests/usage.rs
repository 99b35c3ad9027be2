//! Who used how much, as the API tells it.

use std::time::Duration;

use stagesub_tenancy::usage::{MockUsageLedger, TenantUsage, Usage, UsageBy, UsageReport};

use super::*;

const PATH: &str = "/api/v1/platform/usage";

/// A ledger whose one tenant used what was asked for: so many rows as hours, so many statements as the limit.
pub(super) fn ledger() -> MockUsageLedger {
    let mut ledger = MockUsageLedger::new();
    ledger.expect_top().returning(|by, hours, limit| {
        let usage = Usage {
            database_time: Duration::from_micros(1_500 * u64::from(by == UsageBy::Rows)),
            pool_wait: Duration::from_micros(250),
            transactions: 1,
            statements: limit.into(),
            rows: hours.into(),
        };
        let got = tenant(1, "GOT", "got");
        let tenants = vec![TenantUsage { tenant: got.id, code: got.code, subdomain: got.subdomain, usage }];
        Ok(UsageReport { since: now(), tenants, total: usage, others: Usage::default() })
    });
    ledger
}

async fn ask(query: &str) -> (StatusCode, Value) {
    let server = server(MockUnitOfWorkFactory::new(), Role::Superadmin);
    let token = token(None, Role::Superadmin);
    let path = format!("{PATH}{query}");
    let (status, body, _) = send(&server, request("GET", "stagesub.test", &path, Some(&token), None)).await;
    (status, body)
}

#[tokio::test]
async fn what_is_asked_reaches_the_ledger_and_is_told_in_milliseconds() {
    let (status, body) = ask("?by=rows&hours=48&limit=100").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let figures = json!({
        "databaseTimeMs": 1.5, "poolWaitMs": 0.25, "rows": 48, "statements": 100, "transactions": 1,
    });
    let none =
        json!({ "databaseTimeMs": 0.0, "poolWaitMs": 0.0, "rows": 0, "statements": 0, "transactions": 0 });
    let mut item = json!({ "id": Uuid::from_u128(1), "code": "GOT", "subdomain": "got" });
    item.as_object_mut().unwrap().extend(figures.as_object().unwrap().clone());
    assert_eq!(
        body,
        json!({ "by": "rows", "since": "2026-11-23T12:00:00Z", "items": [item], "total": figures, "others": none })
    );
}

#[tokio::test]
async fn left_out_it_is_ten_of_a_day_by_database_time() {
    let (_, body) = ask("").await;
    assert_eq!((&body["by"], &body["items"][0]["databaseTimeMs"]), (&json!("databaseTime"), &json!(0.0)));
    assert_eq!((&body["total"]["rows"], &body["total"]["statements"]), (&json!(24), &json!(10)));
}

#[tokio::test]
async fn bounds_and_words_are_kept() {
    for query in ["?by=memory", "?limit=0", "?limit=101", "?hours=0", "?hours=49", "?limit=x", "?top=3"] {
        let (status, body) = ask(query).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}: {body}");
    }
}
