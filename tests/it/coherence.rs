//! Two nodes on one registry: what is changed on one is refused on the other.
//!
//! The second node hears of changes in one way at a time: told, with so long between two askings that nothing
//! but a notification can have told it; asking, with nobody listening; and with a listener whose connection is
//! cut again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use stagesub_domain::actor::Actor;
use stagesub_domain::audit::{AuditAction, AuditEntry};
use stagesub_domain::role::Role;
use stagesub_server::jobs::changes::Follow;
use stagesub_tests::database::connect;
use stagesub_tests::{Answer, Client, Kept, Orchestra, SecondNode, TestPlatform};
use tokio::time::{MissedTickBehavior, interval, timeout};

mod busy;
mod loading;

const MUSICIANS: &str = "/api/v1/musicians";
const INSTRUMENTS: &str = "/api/v1/instruments";

/// What is promised when nothing is heard.
const PROMISED: Duration = Duration::from_secs(5);

/// After this it never comes.
const DEADLINE: Duration = Duration::from_mins(1);

/// Asks until the answer has this status; tells how long that was since `begun`.
async fn until(client: &Client, status: u16, begun: Instant) -> (Answer, Duration) {
    let mut ticks = interval(Duration::from_millis(5));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let asking = async {
        loop {
            ticks.tick().await;
            let answer = client.get(MUSICIANS).await;
            if answer.status.as_u16() == status {
                return answer;
            }
        }
    };
    let answer = timeout(DEADLINE, asking).await.expect("it holds at last");
    (answer, begun.elapsed())
}

/// Does each kind of change on the first node, each to somebody whom the second one has just answered.
async fn every_change_is_held_to(
    platform: &TestPlatform,
    node: &SecondNode,
    got: &Orchestra,
    bound: Duration,
) {
    let superadmin = platform.superadmin().await;
    let tenant = format!("/api/v1/platform/tenants/{}", got.tenant);
    let mut told = Vec::new();
    let mut held = |what: &'static str, took: Duration| {
        assert!(took < bound, "{what} after {took:?}");
        told.push(format!("{what} {} ms", took.as_millis()));
    };

    let there = node.asked_by(&got.admin);
    there.get(MUSICIANS).await.expect(200);
    superadmin.order(&format!("{tenant}/suspend")).await.expect(200);
    let (refused, took) = until(&there, 403, Instant::now()).await;
    refused.problem(403, "tenant-suspended");
    held("suspended", took);
    superadmin.order(&format!("{tenant}/resume")).await.expect(200);
    held("resumed", until(&there, 200, Instant::now()).await.1);

    let member = platform.person(got, Role::User).await;
    let there = node.asked_by(&member.client);
    there.get(MUSICIANS).await.expect(200);
    let person = format!("/api/v1/platform/users/{}", member.user);
    superadmin.patch(&person, &json!({ "isActive": false })).await.expect(200);
    held("disabled", until(&there, 401, Instant::now()).await.1);
    let login = json!({ "email": member.email, "password": got.admin_password() });
    there.post("/api/v1/auth/login", &login).await.problem(401, "unauthenticated");
    superadmin.patch(&person, &json!({ "isActive": true })).await.expect(200);
    // The access token of before stays ended; a new one is accepted at once, whatever the node remembers.
    there.get(MUSICIANS).await.problem(401, "unauthenticated");
    let member = member.sign_in_again().await;

    let there = node.asked_by(&member.client);
    there.get(MUSICIANS).await.expect(200);
    there.post(INSTRUMENTS, &json!({ "name": "Theremin" })).await.expect(201);
    let membership = format!("/api/v1/users/{}", member.user);
    got.admin.patch(&membership, &json!({ "role": "viewer" })).await.expect(200);
    held("role changed", until(&there, 401, Instant::now()).await.1);
    let member = member.sign_in_again().await;
    let there = node.asked_by(&member.client);
    there.get(MUSICIANS).await.expect(200);
    there.post(INSTRUMENTS, &json!({ "name": "Ondes Martenot" })).await.problem(403, "forbidden");

    got.admin.delete(&membership).await.expect(204);
    held("removed", until(&there, 401, Instant::now()).await.1);
    there.post("/api/v1/auth/login", &login).await.problem(401, "unauthenticated");

    let member = platform.person(got, Role::User).await;
    let there = node.asked_by(&member.client);
    there.get(MUSICIANS).await.expect(200);
    set_password(platform, &member.email).await;
    held("new password", until(&there, 401, Instant::now()).await.1);
    println!("{}", told.join(", "));
}

/// As the command line does.
async fn set_password(platform: &TestPlatform, email: &str) {
    let state = platform.state();
    let hash = state.passwords.hash(&SecretString::from("en alldeles ny mening")).await.expect("a hash");
    let entry = AuditEntry {
        actor: Actor::system(),
        at: platform.now(),
        action: AuditAction::SetPassword,
        model: "user",
        record_id: None,
        changes: None,
    };
    assert!(state.people.set_password(email, hash.expose_secret(), &entry).await.expect("it is stored"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_is_enough() {
    let platform = TestPlatform::start().await;
    let [got, other] = platform.pair(Kept::Shared).await;
    let node = SecondNode::beside(&platform, Follow { period: Duration::from_hours(1), listen: true }).await;
    let neighbour = node.asked_by(&other.admin);
    neighbour.get(MUSICIANS).await.expect(200);
    every_change_is_held_to(&platform, &node, &got, PROMISED).await;
    neighbour.get(MUSICIANS).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_each_second_is_enough() {
    let platform = TestPlatform::start().await;
    let [got, other] = platform.pair(Kept::Dedicated).await;
    let node = SecondNode::beside(&platform, Follow { listen: false, ..Follow::default() }).await;
    until_listening(&platform, 1).await;
    every_change_is_held_to(&platform, &node, &got, PROMISED).await;
    node.asked_by(&other.admin).get(MUSICIANS).await.expect(200);
}

/// Waits until exactly so many connections listen to the platform's registry.
async fn until_listening(platform: &TestPlatform, count: i64) {
    let mut admin = connect(platform.registry()).await;
    let listening = async {
        loop {
            let listening: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity
                WHERE application_name = 'stagesub listener' AND datname = current_database()",
            )
            .fetch_one(&mut admin)
            .await
            .expect("the activity can be read");
            if listening == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, listening).await.expect("they listen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_cut_again_and_again_costs_no_truth_and_comes_back() {
    let platform = TestPlatform::start().await;
    let got = platform.orchestra(Kept::Shared, "got").await;
    let node = SecondNode::beside(&platform, Follow::default()).await;
    let cuts = Arc::new(AtomicU64::new(0));
    let cutting = {
        let (cuts, registry) = (Arc::clone(&cuts), platform.registry().clone());
        tokio::spawn(async move {
            let mut admin = connect(&registry).await;
            let mut ticks = interval(Duration::from_millis(10));
            loop {
                ticks.tick().await;
                let cut: i64 = sqlx::query_scalar(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                    WHERE application_name = 'stagesub listener' AND datname = current_database()",
                )
                .fetch_one(&mut admin)
                .await
                .expect("the administrator may");
                cuts.fetch_add(cut.unsigned_abs(), Ordering::Relaxed);
            }
        })
    };
    every_change_is_held_to(&platform, &node, &got, PROMISED).await;
    cutting.abort();
    let cut = cuts.load(Ordering::Relaxed);
    println!("listeners were cut {cut} times");
    assert!(cut >= 4, "both nodes came back and were cut again: {cut}");
    until_listening(&platform, 2).await;
}
