//! From a host to a tenant's rows: the same routes for orchestras that share a database and for one that
//! has its own.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};
use stagesub_tests::{Answer, Client, Kept, TestPlatform};

fn musician(email: &str) -> Value {
    json!({ "firstName": "Åsa", "lastName": "Öberg", "email": email })
}

fn emails(items: &[Value]) -> Vec<&str> {
    items.iter().filter_map(|item| item["email"].as_str()).collect()
}

/// What a client can tell an answer by: status, headers, body.
type Seen = (u16, Vec<(String, Vec<u8>)>, Vec<u8>);

/// What a client can see of an answer, apart from the request's id, which is its own each time.
fn seen(answer: &Answer) -> Seen {
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| name.as_str() != "x-request-id")
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect();
    headers.sort();
    (answer.status.as_u16(), headers, answer.body.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_orchestras_in_two_databases_each_see_their_own_rows_only() {
    let platform = TestPlatform::start().await;
    let got = platform.orchestra(Kept::Shared, "got").await;
    let mal = platform.orchestra(Kept::Shared, "mal").await;
    let sto = platform.orchestra(Kept::Dedicated, "sto").await;
    assert_eq!(platform.database_of(&got).await, platform.database_of(&mal).await);
    assert_ne!(platform.database_of(&got).await, platform.database_of(&sto).await);

    let all = [&got, &mal, &sto];
    for orchestra in all {
        // The same address and the same number in each of them.
        let made = orchestra.admin.post("/api/v1/musicians", &musician("asa@example.se")).await.created();
        assert_eq!(made["id"], orchestra.id("MUS", 1));
        let own = format!("{}@example.se", orchestra.subdomain);
        let made = orchestra.admin.post("/api/v1/musicians", &musician(&own)).await.created();
        assert_eq!(made["id"], orchestra.id("MUS", 2));
    }
    for orchestra in all {
        let own = format!("{}@example.se", orchestra.subdomain);
        let listed = orchestra.admin.list_all("/api/v1/musicians").await;
        assert_eq!(emails(&listed), ["asa@example.se", own.as_str()]);
        let instruments = orchestra.admin.list_all("/api/v1/instruments").await;
        assert!(instruments.iter().all(|item| item["id"].as_str().unwrap().starts_with(&orchestra.code)));
        let profile = orchestra.admin.get("/api/v1/tenant").await.ok();
        assert_eq!(
            (&profile["code"], &profile["subdomain"]),
            (&json!(orchestra.code), &json!(orchestra.subdomain))
        );
        assert_eq!(profile["limits"]["musicians"]["used"], 2);
    }
    // A change in one is a change in one.
    got.admin.patch(&got.path("musicians", "MUS", 1), &json!({ "firstName": "Elsa" })).await.expect(200);
    got.admin.delete(&got.path("musicians", "MUS", 2)).await.expect(204);
    assert_eq!(emails(&got.admin.list_all("/api/v1/musicians").await), ["asa@example.se"]);
    for other in [&mal, &sto] {
        let first = other.admin.get(&other.path("musicians", "MUS", 1)).await.ok();
        assert_eq!(first["firstName"], "Åsa");
        assert_eq!(other.admin.list_all("/api/v1/musicians").await.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_orchestras_id_is_byte_for_byte_the_answer_for_a_missing_one() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        for orchestra in [&ours, &theirs] {
            orchestra.admin.post("/api/v1/musicians", &musician("asa@example.se")).await.expect(201);
        }
        // Theirs, and there; ours, and missing; of another kind; malformed; lower case.
        let asked = [
            theirs.id("MUS", 1),
            ours.id("MUS", 999),
            ours.id("INST", 1),
            format!("{}-MUS-1", ours.code),
            format!("{}-MUS-0001", ours.code),
            ours.id("MUS", 1).to_lowercase(),
            "x".to_owned(),
        ];
        for method in ["GET", "PATCH", "DELETE"] {
            let mut answers = Vec::new();
            for id in &asked {
                let path = format!("/api/v1/musicians/{id}");
                answers.push(match method {
                    "GET" => ours.admin.get(&path).await,
                    "PATCH" => ours.admin.patch(&path, &json!({ "firstName": "Mallory" })).await,
                    _ => ours.admin.delete(&path).await,
                });
            }
            answers[0].problem(404, "not-found");
            for answer in &answers[1..] {
                assert_eq!(seen(answer), seen(&answers[0]), "{method}");
            }
        }
        let untouched = theirs.admin.get(&theirs.path("musicians", "MUS", 1)).await.ok();
        assert_eq!((&untouched["firstName"], &untouched["archivedAt"]), (&json!("Åsa"), &Value::Null));
        assert_eq!(ours.admin.list_all("/api/v1/musicians").await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_no_tenants_is_not_found() {
    let platform = TestPlatform::start().await;
    let got = platform.orchestra(Kept::Shared, "got").await;
    let domain = TestPlatform::DOMAIN;
    let hosts = [
        format!("nobody.{domain}"),
        format!("deep.got.{domain}"),
        format!("got.{domain}.evil.example"),
        format!("got-{domain}"),
        "got.example.com".to_owned(),
        "127.0.0.1".to_owned(),
        "[::1]:8080".to_owned(),
        format!("api.{domain}"),
        format!("xn--gt-fka.{domain}"),
    ];
    for host in hosts {
        let client = got.admin.at(&host);
        client.get("/api/v1/tenant").await.problem(404, "not-found");
        client.get("/api/v1/musicians").await.problem(404, "not-found");
        client
            .post("/api/v1/auth/login", &json!({ "email": "a@b.se", "password": "x" }))
            .await
            .problem(404, "not-found");
    }
    // What is the same host in other words.
    for host in [format!("GOT.{domain}"), format!("got.{domain}."), format!("got.{domain}:8080")] {
        got.admin.at(&host).get("/api/v1/tenant").await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_or_expired_orchestra_is_told_why_and_served_again_after() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        let superadmin = platform.superadmin().await;
        let tenant = format!("/api/v1/platform/tenants/{}", ours.tenant);
        let login = json!({ "email": ours.admin_email(), "password": ours.admin_password() });

        superadmin.order(&format!("{tenant}/suspend")).await.expect(200);
        ours.admin.get("/api/v1/musicians").await.problem(403, "tenant-suspended");
        ours.admin.anonymous().post("/api/v1/auth/login", &login).await.problem(403, "tenant-suspended");
        theirs.admin.get("/api/v1/musicians").await.expect(200);
        superadmin.order(&format!("{tenant}/resume")).await.expect(200);
        ours.sign_in_again().await.get("/api/v1/musicians").await.expect(200);

        superadmin.patch(&tenant, &json!({ "trialEndsAt": "2020-01-01T00:00:00Z" })).await.expect(200);
        ours.admin.get("/api/v1/musicians").await.problem(403, "tenant-expired");
        theirs.admin.get("/api/v1/musicians").await.expect(200);
        superadmin.patch(&tenant, &json!({ "subscriptionEndsAt": "2999-01-01T00:00:00Z" })).await.expect(200);
        ours.sign_in_again().await.get("/api/v1/musicians").await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_counts_at_the_host_it_was_given_for_only() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        let superadmin = platform.superadmin().await;
        let refused = |answer: Answer| answer.problem(401, "unauthenticated");

        refused(ours.admin.at(&theirs.host).get("/api/v1/musicians").await);
        refused(theirs.admin.at(&ours.host).get("/api/v1/musicians").await);
        // The platform's own administrator has no role in an orchestra, and the other way round.
        refused(superadmin.at(&ours.host).get("/api/v1/musicians").await);
        refused(ours.admin.at(TestPlatform::DOMAIN).get("/api/v1/platform/tenants").await);
        refused(ours.admin.anonymous().get("/api/v1/musicians").await);
        refused(ours.admin.with_token("not.a.token").get("/api/v1/musicians").await);
        let token = ours.admin.token().unwrap();
        let (head, signature) = token.rsplit_once('.').unwrap();
        let forged: String = signature.chars().rev().collect();
        refused(ours.admin.with_token(format!("{head}.{forged}")).get("/api/v1/musicians").await);
        ours.admin.get("/api/v1/musicians").await.expect(200);
        theirs.admin.get("/api/v1/musicians").await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_orchestra_does_not_sign_them_in() {
    let platform = TestPlatform::start().await;
    let [ours, theirs] = platform.pair(Kept::Shared).await;
    let right = json!({ "email": ours.admin_email(), "password": ours.admin_password() });
    let wrong = json!({ "email": ours.admin_email(), "password": "not it, whatever it is" });
    let nobody = json!({ "email": "nobody@example.se", "password": "not it, whatever it is" });

    let at_theirs = theirs.admin.anonymous();
    let at_ours = ours.admin.anonymous();
    let login = "/api/v1/auth/login";
    let foreign = at_theirs.post(login, &right).await;
    foreign.problem(401, "unauthenticated");
    // Nobody learns which part was wrong.
    assert_eq!(seen(&at_ours.post(login, &wrong).await), seen(&foreign));
    assert_eq!(seen(&at_ours.post(login, &nobody).await), seen(&foreign));
    assert_eq!(seen(&at_ours.at(TestPlatform::DOMAIN).post(login, &right).await), seen(&foreign));
    at_ours.post(login, &right).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn platform_routes_answer_on_the_apex_only_and_tenant_routes_on_tenant_hosts_only() {
    let platform = TestPlatform::start().await;
    let got = platform.orchestra(Kept::Shared, "got").await;
    let superadmin = platform.superadmin().await;

    superadmin.get("/api/v1/platform/tenants").await.expect(200);
    superadmin.at(&got.host).get("/api/v1/platform/tenants").await.problem(404, "not-found");
    got.admin.get("/api/v1/platform/tenants").await.problem(404, "not-found");
    for path in [
        "/api/v1/tenant",
        "/api/v1/musicians",
        "/api/v1/instruments",
        "/api/v1/positions",
        "/api/v1/projects",
    ] {
        superadmin.get(path).await.problem(404, "not-found");
        superadmin.anonymous().get(path).await.problem(404, "not-found");
        got.admin.get(path).await.expect(200);
    }
    // `www` is the apex in other words.
    let www = superadmin.at(format!("www.{}:8080", TestPlatform::DOMAIN)).get("/api/docs?x=1").await;
    assert_eq!(www.expect(308).headers["location"], format!("//{}:8080/api/docs?x=1", TestPlatform::DOMAIN));
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_a_client_sends_choose_no_tenant() {
    let platform = TestPlatform::start().await;
    let [ours, theirs] = platform.pair(Kept::Shared).await;
    theirs.admin.post("/api/v1/musicians", &musician("theirs@example.se")).await.expect(201);

    let named = [
        ("x-forwarded-host", theirs.host.as_str()),
        ("x-original-host", theirs.host.as_str()),
        ("x-tenant-id", theirs.tenant_text()),
        ("x-tenant", theirs.subdomain.as_str()),
        ("x-stagesub-tenant", theirs.subdomain.as_str()),
        ("forwarded", "host=theirs.stagesub.test"),
    ];
    for (name, value) in named {
        let client = ours.admin.with_header(name, value);
        let profile = client.get("/api/v1/tenant").await.ok();
        assert_eq!(profile["code"], ours.code, "{name}");
        assert!(client.list_all("/api/v1/musicians").await.is_empty(), "{name}");
        // Nor does such a header make a tenant's host of another one.
        client.at(TestPlatform::DOMAIN).get("/api/v1/tenant").await.problem(404, "not-found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_host_counts_from_a_trusted_proxy_only() {
    let proxy = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));
    let stranger = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
    let platform = TestPlatform::start_behind("10.0.0.0/8").await;
    let got = platform.orchestra(Kept::Shared, "got").await;
    let forwarded: Client = got.admin.at("internal.example").with_header("x-forwarded-host", &got.host);

    let profile = forwarded.from_address(proxy).get("/api/v1/tenant").await.ok();
    assert_eq!(profile["code"], got.code);
    forwarded.from_address(stranger).get("/api/v1/tenant").await.problem(404, "not-found");
    got.admin.from_address(stranger).get("/api/v1/tenant").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_nothing_is_a_problem_too_and_every_answer_bears_an_id_of_ours() {
    let platform = TestPlatform::start().await;
    let got = platform.orchestra(Kept::Shared, "got").await;
    got.admin.get("/api/v1/nothing").await.problem(404, "not-found");
    got.admin.order("/api/v1/tenant").await.problem(405, "method-not-allowed");
    let answer = got.admin.with_header("x-request-id", "chosen-by-client").get("/api/v1/tenant").await;
    let id = answer.expect(200).headers["x-request-id"].to_str().unwrap();
    assert_ne!(id, "chosen-by-client");
    assert_eq!(id.len(), 36);
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    assert_eq!(answer.headers["cache-control"], "no-store");
}
