//! A node whose connections to the registry are all held up still hears of changes.

use std::time::{Duration, Instant};

use serde_json::json;
use stagesub_domain::role::Role;
use stagesub_server::jobs::changes::Follow;
use stagesub_tests::database::{connect, run};
use stagesub_tests::{Kept, SecondNode, TestPlatform};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{DEADLINE, MUSICIANS, PROMISED, until};

/// Connections of this name that wait for a lock, or for anything else that is not the client.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = $1 AND wait_event_type = 'Lock'";

async fn waiting(platform: &TestPlatform, name: &str) -> i64 {
    let mut admin = connect(platform.registry()).await;
    sqlx::query_scalar(WAITING).bind(name).fetch_one(&mut admin).await.expect("the activity can be read")
}

async fn until_waiting(platform: &TestPlatform, name: &str, count: i64) {
    let waiting = async {
        while waiting(platform, name).await < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("{count} of {name} wait"));
}

/// Waits until so many nodes have asked for the first time, which empties their caches.
async fn until_fed(platform: &TestPlatform, nodes: i64) {
    let mut admin = connect(platform.registry()).await;
    let fed = async {
        loop {
            let idle: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'stagesub feed'
                    AND state = 'idle' AND query LIKE '%registry.version%'",
            )
            .fetch_one(&mut admin)
            .await
            .expect("the activity can be read");
            if idle == nodes {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, fed).await.expect("the nodes ask");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asking_that_hangs_is_given_up_for_another() {
    let platform = TestPlatform::start().await;
    let got = platform.orchestra(Kept::Shared, "got").await;
    let node = SecondNode::beside(&platform, Follow { listen: false, ..Follow::default() }).await;
    until_fed(&platform, 2).await;
    let there = node.asked_by(&got.admin);
    there.get(MUSICIANS).await.expect(200);
    // Signed in before nobody can be looked up.
    let superadmin = platform.superadmin().await;
    superadmin.get("/api/v1/platform/tenants").await.expect(200);

    // The feed reads this table; suspending an orchestra does not.
    let mut admin = connect(platform.registry()).await;
    run(&mut admin, "BEGIN; LOCK TABLE registry.users IN ACCESS EXCLUSIVE MODE").await;
    // Both nodes' feeds hang in it.
    until_waiting(&platform, "stagesub feed", 2).await;
    there.get(MUSICIANS).await.expect(200);
    let suspend = format!("/api/v1/platform/tenants/{}/suspend", got.tenant);
    superadmin.order(&suspend).await.expect(200);
    let begun = Instant::now();
    there.get(MUSICIANS).await.expect(200);
    // Given up by the node; what it left behind still waits, and others stand beside it.
    until_waiting(&platform, "stagesub feed", 4).await;
    run(&mut admin, "ROLLBACK").await;
    let (_, took) = until(&there, 403, begun).await;
    println!("refused {} ms after the change, while askings hung", took.as_millis());
    assert!(took < PROMISED, "it took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_pools_are_used_up_does_not_serve_what_it_remembers() {
    let platform = TestPlatform::start().await;
    let got = platform.orchestra(Kept::Shared, "got").await;
    let node = SecondNode::beside(&platform, Follow { listen: false, ..Follow::default() }).await;
    let there = node.asked_by(&got.admin);
    let members: Vec<_> = {
        let mut members = Vec::new();
        for _ in 0..6 {
            members.push(node.asked_by(&platform.person(&got, Role::Viewer).await.client));
        }
        members
    };
    // Each orchestra leaves something over for one that has nothing, so it takes four to use four up.
    let mut all = vec![there.clone()];
    for subdomain in ["one", "two", "three"] {
        all.push(node.asked_by(&platform.orchestra(Kept::Shared, subdomain).await.admin));
    }
    let superadmin = platform.superadmin().await;
    superadmin.get("/api/v1/platform/tenants").await.expect(200);
    // What the node remembers from here on it keeps: their requests come as far as the orchestras' people.
    node.until_followed(&platform).await;
    for one in &all {
        one.get(MUSICIANS).await.expect(200);
    }

    // Neither the feed nor suspending an orchestra reads this table.
    let mut admin = connect(platform.registry()).await;
    run(&mut admin, "BEGIN; LOCK TABLE registry.memberships IN ACCESS EXCLUSIVE MODE").await;
    let mut stuck = JoinSet::new();
    for member in members {
        // Their authority, which the node asks as one login.
        stuck.spawn(async move { member.get(MUSICIANS).await });
    }
    for one in all.iter().cycle().take(12) {
        // The orchestras' people, which it asks as the other.
        let one = one.clone();
        stuck.spawn(async move { one.get("/api/v1/users").await });
    }
    until_waiting(&platform, "stagesub", 8).await;

    superadmin.order(&format!("/api/v1/platform/tenants/{}/suspend", got.tenant)).await.expect(200);
    let begun = Instant::now();
    // It cannot be told why by a node that reaches nothing, but it is not served what was before.
    let unserved = async {
        let mut last = Duration::ZERO;
        loop {
            let asked = begun.elapsed();
            if there.get(MUSICIANS).await.status.as_u16() != 200 {
                return last;
            }
            last = asked;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let last = timeout(DEADLINE, unserved).await.expect("it is refused at last");
    run(&mut admin, "ROLLBACK").await;
    println!("the last that was served was asked {} ms after the change", last.as_millis());
    assert!(last < PROMISED, "served {last:?} after the change");
    let (refused, _) = until(&there, 403, begun).await;
    refused.problem(403, "tenant-suspended");
    while stuck.join_next().await.is_some() {}
    superadmin.order(&format!("/api/v1/platform/tenants/{}/resume", got.tenant)).await.expect(200);
    until(&there, 200, begun).await;
    there.patch("/api/v1/users/nobody", &json!({ "role": "user" })).await.expect(404);
}
