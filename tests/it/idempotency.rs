//! Requests that create something, asked twice: by a client that does not know, at once, after a crash, after a
//! COMMIT that nobody saw the end of. However often it is asked, it is done once.

mod unknown;

use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};
use sqlx::PgConnection;
use stagesub_domain::role::Role;
use stagesub_server::config::Bounds;
use stagesub_server::jobs::changes::Follow;
use stagesub_storage::pool::TxTimeouts;
use stagesub_tests::database::{connect, run};
use stagesub_tests::storm::polled;
use stagesub_tests::{Answer, Client, Kept, Orchestra, SecondNode, TestPlatform};

const MUSICIANS: &str = "/api/v1/musicians";
const IMPORT: &str = "/api/v1/musicians/import";
const TENANTS: &str = "/api/v1/platform/tenants";
const FILE: &str = "Förnamn;Efternamn;E-post\nCilla;Dahl;cilla@example.se\nDag;Ek;dag@example.se\n";

fn keyed(client: &Client, key: &str) -> Client {
    client.with_header("idempotency-key", key)
}

fn is_replayed(answer: &Answer) -> bool {
    answer.headers.get("idempotent-replayed").is_some_and(|value| value == "true")
}

/// The second answer is the first one's, to the byte, and says so.
#[track_caller]
fn assert_same(first: &Answer, again: &Answer) {
    assert!(!is_replayed(first), "{}", first.text());
    assert!(is_replayed(again), "{}", again.text());
    assert_eq!(first.status, again.status);
    assert_eq!(first.text(), again.text());
    for header in ["location", "content-type"] {
        assert_eq!(first.headers.get(header), again.headers.get(header), "{header}");
    }
}

fn musician(email: &str) -> Value {
    json!({ "firstName": "Åsa", "lastName": "Öberg", "email": email })
}

fn tenant(subdomain: &str, kept: Kept) -> Value {
    json!({
        "name": "Nya orkestern", "subdomain": subdomain, "subscription": "institution", "placement": kept.as_str(),
        "admin": {
            "email": format!("chef@{subdomain}.example"), "firstName": "Chef", "lastName": "Ek",
            "password": "en ganska lång mening",
        },
    })
}

/// The administrator's way into the database that holds an orchestra.
async fn inside(platform: &TestPlatform, orchestra: &Orchestra) -> PgConnection {
    connect(&platform.registry().with_database(&platform.database_of(orchestra).await)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_that_creates_does_it_once_and_answers_the_same_again() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        for (table, path, body) in [
            ("tenant.instrument", "/api/v1/instruments", json!({ "name": "Theremin" })),
            (
                "tenant.position",
                "/api/v1/positions",
                json!({ "instrument": ours.id("INST", 1), "name": "Extra", "hierarchyLevel": 9 }),
            ),
            ("tenant.musician", MUSICIANS, musician("asa@example.se")),
            ("tenant.project", "/api/v1/projects", json!({ "name": "Mahler 2", "startDate": "2026-12-01" })),
        ] {
            let before = platform.count(&ours, table).await;
            let client = keyed(&ours.admin, &format!("key-of-{table}"));
            let first = client.post(path, &body).await;
            let audited = platform.count(&ours, "tenant.audit").await;
            let made = first.created();
            let again = client.post(path, &body).await;
            assert_same(&first, &again);
            // The key in quotes, as structured fields have it, is the same key.
            let quoted = keyed(&ours.admin, &format!("\"key-of-{table}\"")).post(path, &body).await;
            assert_same(&first, &quoted);
            assert_eq!(platform.count(&ours, table).await, before + 1, "{kept}: {table}");
            assert_eq!(platform.count(&ours, "tenant.audit").await, audited, "{kept}: nothing was done");
            let location = first.headers["location"].to_str().expect("an address");
            assert_eq!(ours.admin.get(location).await.ok(), made);
        }
        let client = keyed(&ours.admin, "key-of-import");
        let first = client.upload(IMPORT, FILE).await;
        assert_eq!(first.ok()["created"], 2);
        assert_same(&first, &client.upload(IMPORT, FILE).await);
        // The same file in a form is the same request.
        let form = format!(
            "--x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"m.csv\"\r\n\r\n{FILE}\r\n--x--\r\n"
        );
        let form = client.send(Method::POST, IMPORT, Some("multipart/form-data; boundary=x"), form.into());
        assert_same(&first, &form.await);
        client.upload(&format!("{IMPORT}?mode=valid"), FILE).await.problem(422, "idempotency-key-reused");
        let unnamed = ours.admin.upload(IMPORT, FILE).await;
        assert_eq!(unnamed.ok()["unchanged"], 2, "without a key it is another request");
        assert_eq!(platform.count(&theirs, "tenant.idempotency_key").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_at_once_make_one_and_are_told_the_same() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        let client = keyed(&ours.admin, "at-once");
        let body = musician("asa@example.se");
        let answers = join_all((0..20).map(|_| client.post(MUSICIANS, &body))).await;
        assert_eq!(answers.iter().filter(|answer| !is_replayed(answer)).count(), 1, "{kept}");
        for answer in &answers {
            assert_eq!(answer.created(), answers[0].created());
            assert_eq!(answer.text(), answers[0].text());
        }
        assert_eq!(platform.count(&ours, "tenant.musician").await, 1);
        assert_eq!(platform.count(&ours, "tenant.idempotency_key").await, 1);
        assert_eq!(platform.count(&theirs, "tenant.musician").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_its_orchestras_its_persons_and_its_requests_alone() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        let client = keyed(&ours.admin, "k");
        let first = client.post(MUSICIANS, &musician("asa@example.se")).await;
        let _ = first.created();
        // Another orchestra, another person: requests of their own, and nothing of the first is told.
        let _ = keyed(&theirs.admin, "k").post(MUSICIANS, &musician("asa@example.se")).await.created();
        let colleague = platform.member(&ours, Role::User).await;
        let other = keyed(&colleague, "k").post(MUSICIANS, &musician("asa@example.se")).await;
        other.problem(409, "taken");
        let other = keyed(&colleague, "k").post(MUSICIANS, &musician("bo@example.se")).await;
        assert!(!is_replayed(&other));
        assert_eq!(other.created()["email"], "bo@example.se");
        // Another body, another address.
        client.post(MUSICIANS, &musician("cilla@example.se")).await.problem(422, "idempotency-key-reused");
        let instrument = json!({ "name": "Theremin" });
        client.post("/api/v1/instruments", &instrument).await.problem(422, "idempotency-key-reused");
        assert_same(&first, &client.post(MUSICIANS, &musician("asa@example.se")).await);
        assert_eq!(platform.count(&ours, "tenant.musician").await, 2);
        assert_eq!(platform.count(&theirs, "tenant.musician").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_no_more_is_not_told_again() {
    let platform = TestPlatform::start().await;
    let [ours, _] = platform.pair(Kept::Shared).await;
    let member = keyed(&platform.member(&ours, Role::User).await, "k");
    let _ = member.post(MUSICIANS, &musician("asa@example.se")).await.created();
    let demoted = "UPDATE registry.memberships SET role = 'viewer' WHERE role = 'user'";
    run(&mut connect(platform.registry()).await, demoted).await;
    // A node that has no old answer about the person in its memory.
    let node = SecondNode::beside(&platform, Follow::default()).await;
    let refused = node.asked_by(&member).post(MUSICIANS, &musician("asa@example.se")).await;
    refused.problem(403, "forbidden");
    assert!(!is_replayed(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_failed_keeps_nothing_and_may_be_made_again() {
    let platform = TestPlatform::start().await;
    let [ours, _] = platform.pair(Kept::Shared).await;
    let client = keyed(&ours.admin, "k");
    let made = ours.admin.post(MUSICIANS, &musician("asa@example.se")).await.created();
    client.post(MUSICIANS, &musician("asa@example.se")).await.problem(409, "taken");
    client.post(MUSICIANS, &musician("no address")).await.problem(400, "invalid-input");
    let bad = "Förnamn;Efternamn;E-post\nEva;Fors;eva@\n";
    assert_eq!(client.upload(IMPORT, bad).await.expect(422).json()["applied"], false);
    assert_eq!(platform.count(&ours, "tenant.idempotency_key").await, 0);
    let path = format!("{MUSICIANS}/{}", made["id"].as_str().expect("an id"));
    let _ = ours.admin.patch(&path, &json!({ "email": "annan@example.se" })).await.ok();
    let first = client.post(MUSICIANS, &musician("asa@example.se")).await;
    assert!(!is_replayed(&first));
    let _ = first.created();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_kept_for_a_day_and_old_ones_go_a_few_at_a_time() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        let mut admin = inside(&platform, &ours).await;
        for (orchestra, count) in [(&ours, 30), (&theirs, 3)] {
            let mut admin = inside(&platform, orchestra).await;
            let tenant = orchestra.tenant;
            run(
                &mut admin,
                &format!(
                    "INSERT INTO tenant.idempotency_key (tenant_id, user_id, key, fingerprint, status, content_type,
                        body, created_at, updated_at)
                    SELECT '{tenant}', '{tenant}', 'old-' || n, sha256('x'), 201, 'application/json', '{{}}',
                        now() - interval '25 hours', now()
                    FROM generate_series(1, {count}) AS n"
                ),
            )
            .await;
        }
        let client = keyed(&ours.admin, "k");
        let _ = client.post(MUSICIANS, &musician("asa@example.se")).await.created();
        assert_eq!(platform.count(&ours, "tenant.idempotency_key").await, 11, "twenty went");
        let _ = keyed(&ours.admin, "k2").post(MUSICIANS, &musician("bo@example.se")).await.created();
        assert_eq!(platform.count(&ours, "tenant.idempotency_key").await, 2);
        assert_eq!(platform.count(&theirs, "tenant.idempotency_key").await, 3, "another orchestra's stay");

        let aged = format!(
            "UPDATE tenant.idempotency_key SET created_at = created_at - interval '{{}}' WHERE tenant_id = '{}'",
            ours.tenant
        );
        run(&mut admin, &aged.replace("{}", "23 hours 50 minutes")).await;
        client.post(MUSICIANS, &musician("cilla@example.se")).await.problem(422, "idempotency-key-reused");
        run(&mut admin, &aged.replace("{}", "10 minutes")).await;
        // The key is free again, and names another request from now on.
        let first = client.post(MUSICIANS, &musician("cilla@example.se")).await;
        assert_same(&first, &client.post(MUSICIANS, &musician("cilla@example.se")).await);
        assert_eq!(platform.count(&ours, "tenant.musician").await, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_first_is_at_work_for_long_is_told_to_come_again() {
    let timeouts = TxTimeouts { lock: std::time::Duration::from_millis(100), ..TxTimeouts::default() };
    let platform = TestPlatform::start_bounded(Bounds { timeouts, ..Bounds::default() }).await;
    let [ours, theirs] = platform.pair(Kept::Shared).await;
    // What the first one's transaction does, held open.
    let mut first = inside(&platform, &ours).await;
    let claim = format!(
        "BEGIN; INSERT INTO tenant.idempotency_key (tenant_id, user_id, key, fingerprint, created_at, updated_at)
        VALUES ('{}', '{}', 'k', sha256('x'), now(), now())",
        ours.tenant,
        ours.admin_user()
    );
    run(&mut first, &claim).await;
    let client = keyed(&ours.admin, "k");
    let told = client.post(MUSICIANS, &musician("asa@example.se")).await;
    told.problem(409, "idempotency-key-underway");
    assert!(told.headers.contains_key("retry-after"));
    let _ = keyed(&theirs.admin, "k").post(MUSICIANS, &musician("asa@example.se")).await.created();
    let _ = keyed(&ours.admin, "k2").post(MUSICIANS, &musician("bo@example.se")).await.created();
    run(&mut first, "ROLLBACK").await;
    let _ = client.post(MUSICIANS, &musician("asa@example.se")).await.created();
}

/// The server dies at any point of a request: before it claimed, between, after it committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_cut_off_anywhere_is_done_once_by_another_node() {
    const ROUNDS: u32 = 60;
    /// Polls of a request on a quiet machine, and a few more, so that some are not cut off at all.
    const CUTS: u32 = 12;
    let platform = TestPlatform::start().await;
    let node = SecondNode::beside(&platform, Follow::default()).await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        let next = node.asked_by(&ours.admin);
        let (mut cut, mut kept_by_the_first) = (0, 0);
        for round in 1..=ROUNDS {
            let (key, body) = (format!("k{round}"), musician(&format!("m{round}@example.se")));
            // Each point again and again: how often a request is polled depends on how busy the machine is.
            let polls = (round - 1) % CUTS + 1;
            let first = polled(polls, keyed(&ours.admin, &key).post(MUSICIANS, &body)).await;
            cut += u32::from(first.is_none());
            let answer = keyed(&next, &key).post(MUSICIANS, &body).await;
            assert_eq!(answer.created()["email"], body["email"]);
            kept_by_the_first += u32::from(is_replayed(&answer));
            if let Some(first) = first {
                assert_same(&first, &answer);
            }
        }
        assert!(cut >= ROUNDS / CUTS, "{kept}: only {cut} were cut off");
        assert!(kept_by_the_first < ROUNDS, "{kept}: some were cut off before anything was kept");
        assert_eq!(platform.count(&ours, "tenant.musician").await, i64::from(ROUNDS));
        assert_eq!(platform.count(&theirs, "tenant.musician").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orchestra_that_is_asked_for_twice_is_made_once() {
    let platform = TestPlatform::start().await;
    let superadmin = platform.superadmin().await;
    for kept in Kept::ALL {
        let (subdomain, key) = (format!("ny-{kept}"), format!("key-{kept}"));
        let (client, body) = (keyed(&superadmin, &key), tenant(&subdomain, kept));
        let first = client.post(TENANTS, &body).await;
        let made = first.created();
        assert_same(&first, &client.post(TENANTS, &body).await);
        // Without the key it is another request, which finds the name taken.
        superadmin.post(TENANTS, &body).await.problem(409, "taken");
        let mut other = body.clone();
        other["admin"]["password"] = json!("en annan lång mening");
        client.post(TENANTS, &other).await.problem(422, "idempotency-key-reused");
        assert_eq!(
            platform.count_in_registry("registry.tenants").await,
            platform.count_in_registry("registry.idempotency_keys").await
        );
        // What it is now, not what it was then.
        let path = format!("{TENANTS}/{}", made["id"].as_str().expect("an id"));
        let _ = superadmin.patch(&path, &json!({ "name": "Ett annat namn" })).await.ok();
        let again = client.post(TENANTS, &body).await;
        assert!(is_replayed(&again));
        assert_eq!(again.created()["name"], "Ett annat namn");
        assert_eq!(again.headers["location"], path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orchestra_that_is_asked_for_by_many_at_once_is_made_once() {
    let platform = TestPlatform::start().await;
    let superadmin = platform.superadmin().await;
    for kept in Kept::ALL {
        let subdomain = format!("ny-{kept}");
        let (client, body) = (keyed(&superadmin, &format!("key-{kept}")), tenant(&subdomain, kept));
        let answers = join_all((0..5).map(|_| client.post(TENANTS, &body))).await;
        for answer in &answers {
            assert_eq!(answer.created()["id"], answers[0].created()["id"]);
            assert_eq!(answer.created()["status"], "active");
        }
        assert_eq!(answers.iter().filter(|answer| !is_replayed(answer)).count(), 1);
        let id = answers[0].created()["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
        assert_eq!(platform.count_of(id, "tenant.instrument").await, 14);
    }
    assert_eq!(platform.count_in_registry("registry.tenants").await, 2);
}
