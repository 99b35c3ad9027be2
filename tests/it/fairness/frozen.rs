//! A server that stands still in the middle of something: whoever waits for it is told in bounded time, and nobody
//! else notices.

use std::time::Duration;

use futures::FutureExt;
use serde_json::json;
use stagesub_server::config::Bounds;
use stagesub_storage::error::CommitError;
use stagesub_storage::factory::TenantDb;
use stagesub_storage::pool::{TenantPoolSettings, TxTimeouts};
use stagesub_tenancy::{Access, BeginError, BreakerSettings, OpenError, RouteError, TenantScope};
use stagesub_tests::database::connect;
use stagesub_tests::{Frozen, Kept, TestPlatform};
use tokio::time::timeout;

use super::{MUSICIANS, hold_quota, impatient, musician};
use crate::tenant_tx::lab::until;

/// Longer than every bound below together, and far shorter than a test may take.
const BOUNDED: Duration = Duration::from_secs(10);

const TIMEOUTS: TxTimeouts = TxTimeouts {
    statement: Duration::from_millis(500),
    lock: Duration::from_millis(400),
    idle: Duration::from_secs(30),
};

async fn served(db: &TenantDb, scope: &TenantScope) {
    let mut tx = db.begin(scope, Access::Write).await.expect("the others see nothing");
    sqlx::query("SELECT app.tenant_id()").execute(&mut tx).await.expect("the others see nothing");
    tx.commit().await.expect("the others see nothing");
}

fn is_left_alone<T>(begun: &Result<T, BeginError>) -> bool {
    matches!(begun, Err(BeginError::Route(RouteError::Open(OpenError::BreakerOpen { .. }))))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_freezes_in_mid_transaction_holds_nobody_for_long() {
    let platform = TestPlatform::start().await;
    let frozen = platform.orchestra(Kept::Dedicated, "frozen").await;
    let others =
        [platform.orchestra(Kept::Dedicated, "own").await, platform.orchestra(Kept::Shared, "shared").await];
    let pool = TenantPoolSettings {
        max_connections: 4,
        share: 100,
        answer: Duration::from_millis(300),
        timeouts: TIMEOUTS,
        ..TenantPoolSettings::default()
    };
    let breaker = BreakerSettings { failures: 3, open_for: Duration::from_secs(2) };
    let db = impatient(&platform, pool, breaker).await;
    let scope = platform.scope(&frozen).await;
    let others = [platform.scope(&others[0]).await, platform.scope(&others[1]).await];
    for other in &others {
        served(&db, other).await;
    }
    let mut asking = db.begin(&scope, Access::Write).await.unwrap();
    let mut committing = db.begin(&scope, Access::Write).await.unwrap();
    let mut reading = db.begin(&scope, Access::Read).await.unwrap();
    for tx in [&mut asking, &mut committing, &mut reading] {
        sqlx::query("SELECT app.tenant_id()").execute(&mut *tx).await.unwrap();
    }
    let still = Frozen::database(platform.registry(), &platform.database_of(&frozen).await).await;
    assert!(still.processes() >= 3, "{still:?}");

    // Nobody waits for the end of a read.
    assert!(matches!(reading.commit().now_or_never(), Some(Ok(()))));
    let asked = sqlx::query("SELECT app.tenant_id()").execute(&mut asking);
    let (asked, committed, ()) =
        tokio::join!(timeout(BOUNDED, asked), timeout(BOUNDED, committing.commit()), async {
            for other in others.iter().cycle().take(10) {
                served(&db, other).await;
            }
        });
    let asked = asked.expect("a statement ends in bounded time");
    assert!(asked.is_err(), "{asked:?}");
    let committed = committed.expect("a COMMIT ends in bounded time");
    assert!(matches!(committed, Err(CommitError::Unknown(_))), "{committed:?}");
    drop(asking);

    until("the database is left alone", async || {
        let begun = timeout(BOUNDED, db.begin(&scope, Access::Read)).await.expect("a begin is bounded");
        assert!(begun.is_err(), "it is frozen");
        is_left_alone(&begun)
    })
    .await;
    for other in &others {
        served(&db, other).await;
    }
    drop(still);
    until("the database is tried again and answers", async || match db.begin(&scope, Access::Read).await {
        Ok(tx) => {
            tx.commit().await.unwrap();
            true
        }
        begun @ Err(_) if is_left_alone(&begun) => false,
        Err(error) => panic!("{error:?}"),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_server_freezes_is_told_to_come_again() {
    let platform = TestPlatform::start_bounded(Bounds { timeouts: TIMEOUTS, ..Bounds::default() }).await;
    let frozen = platform.orchestra(Kept::Dedicated, "frozen").await;
    let other = platform.orchestra(Kept::Shared, "other").await;
    let database = platform.database_of(&frozen).await;
    let mut import = connect(&platform.registry().with_database(&database)).await;
    hold_quota(&mut import, &platform.scope(&frozen).await).await;
    let admin = frozen.admin.clone();
    let asked = tokio::spawn(async move { admin.post(MUSICIANS, &musician(1)).await });
    // It is in the middle of its transaction, and waits for a row.
    let waits = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = $1 AND usename = 'stagesub_app' AND wait_event_type = 'Lock'";
    until("it waits for the row", async || {
        let waiting: i64 = sqlx::query_scalar(waits).bind(&database).fetch_one(&mut import).await.unwrap();
        assert!(!asked.is_finished(), "it was frozen too late");
        waiting == 1
    })
    .await;
    let still = Frozen::database(platform.registry(), &database).await;
    let neighbours = async {
        for n in 0..5 {
            other.admin.post(MUSICIANS, &musician(n)).await.expect(201);
            other.admin.get(MUSICIANS).await.expect(200);
        }
    };
    let (answer, ()) = tokio::join!(timeout(BOUNDED * 2, asked), neighbours);
    let answer = answer.expect("the request ends in bounded time").unwrap();
    answer.problem(503, "unavailable");
    assert!(answer.headers.contains_key("retry-after"));
    drop(still);
    sqlx::raw_sql("COMMIT").execute(&mut import).await.unwrap();
    until("it answers again", async || {
        let answer = frozen
            .admin
            .post(
                MUSICIANS,
                &json!({
                    "firstName": "Anna", "lastName": "Berg", "email": "again@example.com"
                }),
            )
            .await;
        matches!(answer.status.as_u16(), 201 | 409)
    })
    .await;
    assert_eq!(
        platform.count(&frozen, "tenant.musician").await,
        1,
        "what was told to have failed was not kept"
    );
}
