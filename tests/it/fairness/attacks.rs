//! What one client or one orchestra may try against the others over HTTP.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::task::Poll;
use std::time::Duration;

use futures::future::join_all;
use http::Method;
use serde_json::json;
use sqlx::Connection;
use stagesub_server::config::{Bounds, LimitSettings};
use stagesub_server::routes::{HostKind, authority};
use stagesub_storage::pool::TxTimeouts;
use stagesub_tenancy::FairStats;
use stagesub_tests::database::connect;
use stagesub_tests::orchestra::PASSWORD;
use stagesub_tests::{Answer, Kept, TestPlatform};

use super::{LOGIN, MUSICIANS, hold_quota, limited, musician, shared_pool, too_often};
use crate::tenant_tx::lab::until;

/// A platform whose own bounds do not come between: what waits does so until the test lets it go.
async fn patient() -> TestPlatform {
    patient_with(LimitSettings::off()).await
}

async fn patient_with(limits: LimitSettings) -> TestPlatform {
    let timeouts = TxTimeouts {
        statement: Duration::from_secs(50),
        lock: Duration::from_secs(40),
        ..TxTimeouts::default()
    };
    let bounds = Bounds { timeouts, wait: Duration::from_secs(40), ..Bounds::default() };
    TestPlatform::start_limited_within("", limits, bounds).await
}

/// What refuses for a while says so in the one form there is, and when to come again.
#[track_caller]
fn told_to_come_again(answer: &Answer) {
    let kind = match answer.status.as_u16() {
        429 => "rate-limited",
        503 => "unavailable",
        409 => "idempotency-key-underway",
        other => panic!("{other}: {}", answer.text()),
    };
    answer.problem(answer.status.as_u16(), kind);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_header_makes_another_client_of_a_stranger() {
    let limits = limited(|limits| limits.requests_per_address = NonZeroU32::new(40));
    let platform = TestPlatform::start_limited("10.0.0.0/8", limits).await;
    let stranger = platform.client().from_address([198, 51, 100, 9].into());
    let behind = platform.client().from_address([10, 0, 0, 1].into());
    // A stranger names a new address each time; a client of the proxy sends one along, after which the proxy writes
    // the true one; a network of IPv6 uses its addresses one after the other.
    let headers = ["x-forwarded-for", "x-real-ip", "forwarded", "true-client-ip", "cf-connecting-ip"];
    for asks in [0_u8, 1, 2] {
        let mut answered = 0;
        let refused = loop {
            let made_up = format!("203.0.113.{answered}");
            let client = match asks {
                0 => headers.iter().fold(stranger.clone(), |client, name| client.with_header(name, &made_up)),
                1 => behind.with_header("x-forwarded-for", &format!("{made_up}, 192.0.2.7")),
                _ => stranger.from_address(format!("2001:db8:7:7::{answered:x}").parse().unwrap()),
            };
            let answer = client.get("/api/v1/auth/me").await;
            if answer.status.as_u16() != 401 {
                break answer;
            }
            answered += 1;
            assert!(answered < 200, "{asks}: there is no limit");
        };
        too_often(&refused, "rate-limited");
        assert!(answered >= 40, "{asks}: {answered}");
    }
    // Whom the proxy names is counted apart from the others behind it.
    behind.with_header("x-forwarded-for", "192.0.2.8").get("/api/v1/auth/me").await.expect(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_try_an_account_do_not_keep_its_owner_out() {
    let limits = limited(|limits| limits.failed_sign_ins_per_account = NonZeroU32::new(5));
    let platform = TestPlatform::start_limited("", limits).await;
    let ours = platform.orchestra(Kept::Shared, "ours").await;
    let chef = format!("chef@{}.example", ours.subdomain);
    let login = |password: &str| json!({ "email": chef, "password": password });
    let from = |address: [u8; 4]| platform.client().at(&ours.host).from_address(address.into());
    let home = from([203, 0, 113, 80]);
    home.post(LOGIN, &login(PASSWORD)).await.expect(200);
    for n in 0..5 {
        from([198, 51, 100, n]).post(LOGIN, &login("wrong wrong wrong")).await.expect(401);
    }
    for n in 5..20 {
        too_often(&from([198, 51, 100, n]).post(LOGIN, &login("wrong wrong wrong")).await, "sign-in-limited");
        home.post(LOGIN, &login(PASSWORD)).await.expect(200);
        ours.admin.get(MUSICIANS).await.expect(200);
    }
    too_often(&from([192, 0, 2, 1]).post(LOGIN, &login(PASSWORD)).await, "sign-in-limited");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_again_and_again_with_a_key_holds_one_connection() {
    let platform = patient().await;
    let [ours, theirs] = platform.pair(Kept::Shared).await;
    let database = platform.registry().with_database(&platform.database_of(&ours).await);
    let mut import = connect(&database).await;
    hold_quota(&mut import, &platform.scope(&ours).await).await;
    let retries: Vec<_> = (0..60)
        .map(|_| {
            let admin = ours.admin.with_header("idempotency-key", "again-and-again");
            tokio::spawn(async move { admin.post(MUSICIANS, &musician(1)).await })
        })
        .collect();
    let pool = shared_pool(&platform);
    let one = FairStats { permits: 10, held: 1, waiting: 0, keys: 1 };
    until("one is at work, and more than may wait were told", async || {
        pool.turns() == one && retries.iter().filter(|retry| retry.is_finished()).count() >= 20
    })
    .await;
    for n in 2..8 {
        // Its own orchestra is served as well as the others.
        ours.admin.get(MUSICIANS).await.expect(200);
        ours.admin.post("/api/v1/instruments", &json!({ "name": format!("Theremin {n}") })).await.expect(201);
        theirs.admin.post(MUSICIANS, &musician(n)).await.expect(201);
    }
    sqlx::raw_sql("COMMIT").execute(&mut import).await.unwrap();
    let mut made = Vec::new();
    for retry in retries {
        let answer = retry.await.unwrap();
        if answer.status.as_u16() == 201 {
            made.push(answer.text());
        } else {
            told_to_come_again(&answer);
        }
    }
    assert!(!made.is_empty() && made.iter().all(|text| *text == made[0]), "{made:?}");
    assert_eq!(platform.count(&ours, "tenant.musician").await, 1);
    import.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_asks_for_everything_at_once_is_told_to_wait_and_the_others_are_served() {
    let limits = limited(|limits| {
        limits.failed_sign_ins_per_address = NonZeroU32::new(30);
        limits.failed_sign_ins_per_account = NonZeroU32::new(10);
    });
    let platform = TestPlatform::start_limited("", limits).await;
    let [noisy, quiet] = platform.pair(Kept::Shared).await;
    let database = platform.registry().with_database(&platform.database_of(&noisy).await);
    let mut import = connect(&database).await;
    // Every write of theirs waits for the row of an import, and what it holds all the others of theirs wait for.
    hold_quota(&mut import, &platform.scope(&noisy).await).await;
    let file = |n: u32| format!("Förnamn;Efternamn;E-post\nEva;Fors;eva{n}@example.se\n");
    let mut asked = Vec::new();
    for n in 0..60 {
        let admin = noisy.admin.from_address([198, 51, 100, 7].into());
        for kind in ["create", "import", "list", "search", "project", "members", "member", "sign in"] {
            let (admin, file) = (admin.clone(), file(n));
            let chef = format!("chef@{}.example", noisy.subdomain);
            let host = noisy.host.clone();
            asked.push(tokio::spawn(async move {
                let answer = match kind {
                    "create" => admin.post(MUSICIANS, &musician(n)).await,
                    "import" => admin.upload("/api/v1/musicians/import", file).await,
                    "list" => admin.get("/api/v1/musicians?limit=200").await,
                    "search" => admin.get("/api/v1/musicians?limit=200&q=a").await,
                    "project" => {
                        let body = json!({ "name": format!("Mahler {n}"), "startDate": "2026-12-01" });
                        admin.post("/api/v1/projects", &body).await
                    }
                    "members" => admin.get("/api/v1/users?limit=200").await,
                    "member" => {
                        let body = json!({
                            "email": format!("medlem{n}@example.se"), "firstName": "M", "lastName": "Ek",
                            "role": "viewer", "password": PASSWORD,
                        });
                        admin.post("/api/v1/users", &body).await
                    }
                    _ => {
                        let body = json!({ "email": chef, "password": PASSWORD });
                        admin.anonymous().at(host).post(LOGIN, &body).await
                    }
                };
                (kind, answer)
            }));
        }
    }
    let pool = shared_pool(&platform);
    until("the noisy one has its share and waits for more", async || {
        let turns = pool.turns();
        turns.held == 3 && turns.waiting > 20
    })
    .await;
    // One after the other, from elsewhere: none is refused, whatever it is.
    let theirs = quiet.admin.from_address([203, 0, 113, 80].into());
    let chef = json!({ "email": format!("chef@{}.example", quiet.subdomain), "password": PASSWORD });
    for n in 0..3 {
        theirs.post(MUSICIANS, &musician(n)).await.expect(201);
        theirs.upload("/api/v1/musicians/import", file(n)).await.expect(200);
        theirs.get("/api/v1/musicians?limit=200").await.expect(200);
        theirs.get("/api/v1/musicians?q=a").await.expect(200);
        theirs.get("/api/v1/users").await.expect(200);
        let member = json!({
            "email": format!("ny{n}@example.se"), "firstName": "Ny", "lastName": "Ek", "role": "viewer",
            "password": PASSWORD,
        });
        theirs.post("/api/v1/users", &member).await.expect(201);
        theirs.anonymous().post(LOGIN, &chef).await.expect(200);
    }
    sqlx::raw_sql("COMMIT").execute(&mut import).await.unwrap();
    let mut refused = BTreeMap::new();
    for answer in asked {
        let (kind, answer) = answer.await.unwrap();
        match answer.status.as_u16() {
            200 | 201 => {}
            429 if kind == "sign in" => too_often(&answer, "sign-in-limited"),
            _ => {
                told_to_come_again(&answer);
                *refused.entry(kind).or_insert(0) += 1;
            }
        }
    }
    println!("refused of 60 each: {refused:?}");
    until("nothing is left behind", async || (pool.turns().held, pool.turns().keys) == (0, 0)).await;
    noisy.admin.get(MUSICIANS).await.expect(200);
    import.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_full_is_told_at_once() {
    let platform = patient().await;
    let [noisy, quiet] = platform.pair(Kept::Shared).await;
    let database = platform.registry().with_database(&platform.database_of(&noisy).await);
    let mut import = connect(&database).await;
    hold_quota(&mut import, &platform.scope(&noisy).await).await;
    let pool = shared_pool(&platform);
    let crowd: Vec<_> = (0..3 + 256 + 40)
        .map(|n| {
            let admin = noisy.admin.clone();
            tokio::spawn(async move { admin.post(MUSICIANS, &musician(n)).await })
        })
        .collect();
    until("the queue is full, and those who found it so were told", async || {
        let told = crowd.iter().filter(|one| one.is_finished()).count();
        (pool.turns().held, pool.turns().waiting) == (3, 256) && told == 40
    })
    .await;
    quiet.admin.post(MUSICIANS, &musician(1)).await.expect(201);
    for one in &crowd {
        if !one.is_finished() {
            one.abort();
        }
    }
    for answer in join_all(crowd).await.into_iter().flatten() {
        told_to_come_again(&answer);
    }
    import.close().await.unwrap();
    until("nobody holds or waits", async || (pool.turns().held, pool.turns().keys) == (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orchestra_has_so_many_requests_at_work_and_whoever_sends_slowly_or_waits_for_a_key_none() {
    let limits = limited(|limits| limits.tenant_requests_at_once = NonZeroU32::new(2));
    let platform = patient_with(limits).await;
    let [noisy, quiet] = platform.pair(Kept::Shared).await;
    // Three that never say all they have to say.
    let (polled, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let slow: Vec<_> = (0..3)
        .map(|_| {
            let (admin, polled) = (noisy.admin.clone(), polled.clone());
            let body = axum::body::Body::from_stream(futures::stream::poll_fn(move |_| {
                let _ = polled.send(());
                Poll::<Option<Result<&'static [u8], std::io::Error>>>::Pending
            }));
            tokio::spawn(
                async move { admin.send(Method::POST, MUSICIANS, Some("application/json"), body).await },
            )
        })
        .collect();
    for _ in &slow {
        seen.recv().await.expect("a body is read");
    }
    noisy.admin.get(MUSICIANS).await.expect(200);

    let database = platform.registry().with_database(&platform.database_of(&noisy).await);
    let mut import = connect(&database).await;
    hold_quota(&mut import, &platform.scope(&noisy).await).await;
    let create = |n: u32| {
        let admin = noisy.admin.with_header("idempotency-key", "one");
        tokio::spawn(async move { admin.post(MUSICIANS, &musician(n)).await })
    };
    // One waits for the row, and five with the same key for that one.
    let same: Vec<_> = (0..6).map(|_| create(1)).collect();
    let pool = shared_pool(&platform);
    let waiting = || platform.state().limits.requests_waiting();
    until("one is at work", async || (pool.turns().held, waiting()) == (1, 0)).await;
    noisy.admin.get(MUSICIANS).await.expect(200);

    let other = {
        let admin = noisy.admin.clone();
        tokio::spawn(async move { admin.post(MUSICIANS, &musician(2)).await })
    };
    until("two are at work", async || pool.turns().held == 2).await;
    let third = {
        let admin = noisy.admin.clone();
        tokio::spawn(async move { admin.get(MUSICIANS).await })
    };
    until("one more waits for them, and not for a connection", async || {
        (waiting(), pool.turns().waiting) == (1, 0)
    })
    .await;
    quiet.admin.get(MUSICIANS).await.expect(200);
    quiet.admin.post(MUSICIANS, &musician(1)).await.expect(201);
    assert!(!third.is_finished(), "its turn had not come");

    sqlx::raw_sql("COMMIT").execute(&mut import).await.unwrap();
    let third = third.await.unwrap();
    // Its turn is waited for within a bound that is not a test's.
    if third.status.as_u16() != 200 {
        told_to_come_again(&third);
    }
    other.await.unwrap().expect(201);
    for answer in join_all(same).await {
        answer.unwrap().expect(201);
    }
    for one in slow {
        one.abort();
    }
    until("every turn is given back", async || (pool.turns().keys, waiting()) == (0, 0)).await;
    import.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_to_an_orchestras_data_waits_for_its_turn() {
    let platform = patient_with(limited(|limits| limits.tenant_requests_at_once = NonZeroU32::new(1))).await;
    let ours = platform.orchestra(Kept::Shared, "ours").await;
    let database = platform.registry().with_database(&platform.database_of(&ours).await);
    let mut import = connect(&database).await;
    hold_quota(&mut import, &platform.scope(&ours).await).await;
    let holder = {
        let admin = ours.admin.clone();
        tokio::spawn(async move { admin.post(MUSICIANS, &musician(1)).await })
    };
    let pool = shared_pool(&platform);
    until("the only turn is taken", async || pool.turns().held == 1).await;

    let waiting = || platform.state().limits.requests_waiting();
    let of_members = |path: &str| path.starts_with("/api/v1/users");
    let mut walked = 0;
    for row in authority().iter().filter(|row| row.host == HostKind::Tenant && !of_members(row.path)) {
        let id = [("instruments", "INST"), ("positions", "POS"), ("musicians", "MUS"), ("projects", "PROJ")]
            .into_iter()
            .find(|(name, _)| row.path.contains(name))
            .map(|(_, kind)| format!("{}-{kind}-001", ours.code));
        let path = row.path.replace("{id}", &id.unwrap_or_default());
        let (kind, body) = match (row.method.as_str(), row.path) {
            (_, "/api/v1/musicians/import") => {
                ("text/csv", "Förnamn;Efternamn;E-post\nEva;Fors;e@x.example\n".into())
            }
            ("POST", "/api/v1/musicians") => ("application/json", musician(2).to_string()),
            ("POST", "/api/v1/positions") => {
                let body = json!({ "name": "Solo", "instrument": format!("{}-INST-001", ours.code), "hierarchyLevel": 1 });
                ("application/json", body.to_string())
            }
            ("POST", "/api/v1/projects") => {
                ("application/json", json!({ "name": "Mahler 2", "startDate": "2026-12-01" }).to_string())
            }
            ("PATCH", "/api/v1/musicians/{id}") => ("application/json", json!({ "notes": "-" }).to_string()),
            ("POST" | "PATCH", _) => ("application/json", json!({ "name": "Theremin" }).to_string()),
            _ => ("application/json", String::new()),
        };
        let (admin, method) = (ours.admin.clone(), row.method.clone());
        let asked = tokio::spawn(async move { admin.send(method, &path, Some(kind), body.into()).await });
        until("it waits for its turn", async || {
            assert!(!asked.is_finished(), "{} {} does not wait", row.method, row.path);
            waiting() == 1
        })
        .await;
        asked.abort();
        until("it has gone", async || waiting() == 0).await;
        walked += 1;
    }
    assert!(walked > 20, "{walked}");
    // What is not there.
    for path in ["/api/v1/users", "/api/v1/auth/me"] {
        ours.admin.get(path).await.expect(200);
    }
    sqlx::raw_sql("COMMIT").execute(&mut import).await.unwrap();
    holder.await.unwrap().expect(201);
    until("the turn is given back", async || pool.turns().keys == 0).await;
    import.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_do_not_exist_are_refused_however_many_they_are() {
    let limits = LimitSettings::off();
    let platform = TestPlatform::start_limited("", limits).await;
    let ours = platform.orchestra(Kept::Shared, "ours").await;
    let body = json!({ "email": "a@x.example", "password": "wrong wrong wrong" }).to_string();
    let flood = (0..500).map(|n| {
        let stranger = platform.client().at(platform.host(&format!("nobody-{n}")));
        let body = body.clone();
        async move {
            stranger
                .send(Method::POST, LOGIN, Some("application/json"), body.into())
                .await
                .problem(404, "not-found");
        }
    });
    let served = async {
        for _ in 0..20 {
            ours.admin.get(MUSICIANS).await.expect(200);
        }
    };
    tokio::join!(join_all(flood), served);
}
