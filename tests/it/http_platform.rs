//! The platform's administrators over HTTP: making, listing, changing, suspending orchestras.

use serde_json::{Value, json};
use stagesub_domain::role::Role;
use stagesub_tests::{Kept, TestPlatform};

const TENANTS: &str = "/api/v1/platform/tenants";

fn draft(subdomain: &str) -> Value {
    json!({
        "name": format!("Orkester {subdomain}"), "subdomain": subdomain, "subscription": "medium",
        "admin": { "email": format!("chef@{subdomain}.example"), "firstName": "Chef", "lastName": "Ek", "password": "en ganska lång mening" },
    })
}

fn subdomains(items: &[Value]) -> Vec<&str> {
    items.iter().filter_map(|item| item["subdomain"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orchestra_is_made_in_one_request_and_its_administrator_signs_in() {
    let platform = TestPlatform::start().await;
    let superadmin = platform.superadmin().await;
    for kept in Kept::ALL {
        let subdomain = format!("ork-{}", kept.as_str());
        let mut body = draft(&subdomain);
        body["subscription"] = json!("institution");
        body["placement"] = json!(kept.as_str());
        let answer = superadmin.post(TENANTS, &body).await;
        let made = answer.created();
        assert_eq!(
            (&made["status"], &made["isActive"], &made["placement"]),
            (&json!("active"), &json!(true), &json!(kept.as_str()))
        );
        assert_eq!((&made["maxMusicians"], &made["subscription"]), (&Value::Null, &json!("institution")));
        assert!(made["trialEndsAt"].is_string());
        let path = format!("{TENANTS}/{}", made["id"].as_str().unwrap());
        assert_eq!(answer.headers["location"], path);
        assert_eq!(superadmin.get(&path).await.ok(), made);

        let host = platform.host(&subdomain);
        let login =
            json!({ "email": format!("CHEF@{subdomain}.example"), "password": "en ganska lång mening" });
        let signed_in = superadmin.anonymous().at(&host).post("/api/v1/auth/login", &login).await.ok();
        assert_eq!(
            (&signed_in["user"]["role"], &signed_in["tokenType"]),
            (&json!("admin"), &json!("Bearer"))
        );
        let chef = superadmin.at(&host).with_token(signed_in["accessToken"].as_str().unwrap());
        assert_eq!(chef.list_all("/api/v1/instruments").await.len(), 14);
        assert!(chef.list_all("/api/v1/musicians").await.is_empty());
    }
    assert_eq!(superadmin.list_all(TENANTS).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn orchestras_are_listed_in_pages_searched_and_filtered() {
    let platform = TestPlatform::start().await;
    let superadmin = platform.superadmin().await;
    for subdomain in ["gbg", "mmo", "sthlm", "umea"] {
        superadmin.post(TENANTS, &draft(subdomain)).await.expect(201);
    }
    let mmo =
        superadmin.get(&format!("{TENANTS}?q=MMO")).await.ok()["items"][0]["id"].as_str().unwrap().to_owned();
    superadmin.order(&format!("{TENANTS}/{mmo}/suspend")).await.expect(200);

    let all = superadmin.list_all(&format!("{TENANTS}?limit=1")).await;
    assert_eq!(subdomains(&all), ["gbg", "mmo", "sthlm", "umea"]);
    let found = |query: &str| {
        let path = format!("{TENANTS}?{query}");
        let superadmin = superadmin.clone();
        async move { subdomains(&superadmin.list_all(&path).await).join(" ") }
    };
    assert_eq!(found("status=suspended").await, "mmo");
    assert_eq!(found("status=active&limit=2").await, "gbg sthlm umea");
    assert_eq!(found("q=orkester%20S").await, "sthlm");
    assert_eq!(found("subscription=small").await, "");
    superadmin.get(&format!("{TENANTS}?status=asleep")).await.invalid(&[("status", "enum")]);
    superadmin.get(&format!("{TENANTS}?cursor=%21")).await.invalid(&[("cursor", "cursor")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_a_rule_makes_no_orchestra() {
    let platform = TestPlatform::start().await;
    let superadmin = platform.superadmin().await;
    let with = |change: fn(&mut Value)| {
        let mut body = draft("gbg");
        change(&mut body);
        body
    };
    for (body, field) in [
        (with(|body| body["name"] = json!("")), "name"),
        (with(|body| body["subdomain"] = json!("Gö teborg")), "subdomain"),
        (with(|body| body["subdomain"] = json!("www")), "subdomain"),
        (with(|body| body["subdomain"] = json!("-gbg")), "subdomain"),
        (with(|body| body["code"] = json!("G")), "code"),
        (with(|body| body["code"] = json!("TOOLONG")), "code"),
        (with(|body| body["subscription"] = json!("huge")), "subscription"),
        (with(|body| body["placement"] = json!("moon")), "placement"),
        (with(|body| body["placement"] = json!("dedicated")), "placement"),
        (with(|body| body["admin"]["email"] = json!("chef")), "admin.email"),
        (with(|body| body["admin"]["password"] = json!("short")), "admin.password"),
    ] {
        let problem = superadmin.post(TENANTS, &body).await.problem(400, "invalid-input");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    superadmin
        .post(TENANTS, &with(|body| body["status"] = json!("active")))
        .await
        .problem(400, "invalid-input");
    assert!(superadmin.list_all(TENANTS).await.is_empty());
    assert_eq!(platform.count_in_registry("registry.users").await, 1, "the superadmin");
    assert_eq!(platform.count_in_registry("registry.codes").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn subdomains_and_codes_belong_to_one_orchestra() {
    let platform = TestPlatform::start().await;
    let superadmin = platform.superadmin().await;
    let mut first = draft("gbg");
    first["code"] = json!("GBG");
    superadmin.post(TENANTS, &first).await.expect(201);

    let taken = superadmin.post(TENANTS, &draft("gbg")).await.problem(409, "taken");
    assert_eq!(taken["errors"][0]["field"], "subdomain");
    let mut second = draft("gbg2");
    second["code"] = json!("GBG");
    let taken = superadmin.post(TENANTS, &second).await.problem(409, "taken");
    assert_eq!(taken["errors"][0]["field"], "code");
    // A proposed code steps aside by itself.
    let codes = futures::future::join_all((0..4).map(|n| {
        let superadmin = superadmin.clone();
        async move {
            let mut body = draft(&format!("lika{n}"));
            body["name"] = json!("Gbg");
            superadmin.post(TENANTS, &body).await.created()["code"].as_str().unwrap().to_owned()
        }
    }))
    .await;
    let mut distinct = codes.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 4, "{codes:?}");
    assert!(!codes.contains(&"GBG".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_holds_at_once_and_is_in_the_platforms_audit() {
    let platform = TestPlatform::start().await;
    let [ours, theirs] = platform.pair(Kept::Shared).await;
    let superadmin = platform.superadmin().await;
    let path = format!("{TENANTS}/{}", ours.tenant);
    let change =
        json!({ "name": "Nya namnet", "maxMusicians": 1, "customBranding": { "primaryColour": "#003366" } });
    let changed = superadmin.patch(&path, &change).await.ok();
    assert_eq!((&changed["name"], &changed["maxMusicians"]), (&json!("Nya namnet"), &json!(1)));
    let profile = ours.admin.get("/api/v1/tenant").await.ok();
    assert_eq!(
        (&profile["name"], &profile["limits"]["musicians"]["limit"]),
        (&json!("Nya namnet"), &json!(1))
    );
    assert_eq!(profile["customBranding"]["primaryColour"], "#003366");

    // A new host is served at once and the old one is nobody's.
    superadmin.patch(&path, &json!({ "subdomain": "nytt" })).await.expect(200);
    ours.admin.get("/api/v1/tenant").await.problem(404, "not-found");
    ours.admin.at(platform.host("nytt")).get("/api/v1/tenant").await.expect(200);
    superadmin.patch(&path, &json!({ "subdomain": theirs.subdomain })).await.problem(409, "taken");
    superadmin.patch(&path, &json!({ "code": "NEW" })).await.problem(400, "invalid-input");
    superadmin.order(&format!("{path}/suspend")).await.expect(200);
    superadmin.order(&format!("{path}/resume")).await.expect(200);
    let nobody = "018f0000-0000-7000-8000-000000000000";
    for missing in [nobody, "nonsense"] {
        superadmin.get(&format!("{TENANTS}/{missing}")).await.problem(404, "not-found");
        superadmin.patch(&format!("{TENANTS}/{missing}"), &json!({})).await.problem(404, "not-found");
        superadmin.order(&format!("{TENANTS}/{missing}/suspend")).await.problem(404, "not-found");
    }

    let actions: Vec<_> = platform
        .platform_audit(Some(&ours))
        .await
        .into_iter()
        .filter(|entry| entry.actor == "superadmin" && entry.action != "login")
        .map(|entry| entry.action)
        .collect();
    assert_eq!(actions, ["create", "provision", "update", "update", "suspend", "resume"]);
    assert_eq!(theirs.admin.get("/api/v1/tenant").await.ok()["limits"]["musicians"]["limit"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orchestras_people_are_nobody_on_the_platform() {
    let platform = TestPlatform::start().await;
    let got = platform.orchestra(Kept::Shared, "got").await;
    let apex = got.admin.at(TestPlatform::DOMAIN);
    let user = platform.member(&got, Role::User).await.at(TestPlatform::DOMAIN);
    for client in [&apex, &user, &apex.anonymous()] {
        client.get(TENANTS).await.problem(401, "unauthenticated");
        client.post(TENANTS, &draft("evil")).await.problem(401, "unauthenticated");
        client.order(&format!("{TENANTS}/{}/suspend", got.tenant)).await.problem(401, "unauthenticated");
    }
    assert_eq!(platform.superadmin().await.list_all(TENANTS).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_describes_itself_and_says_whether_it_can_serve() {
    let platform = TestPlatform::start().await;
    let got = platform.orchestra(Kept::Shared, "got").await;
    let apex = got.admin.at(TestPlatform::DOMAIN).anonymous();
    for client in [&apex, &got.admin] {
        let description = client.get("/api/openapi.json").await.ok();
        let paths = description["paths"].as_object().unwrap();
        for path in
            ["/api/v1/auth/login", "/api/v1/musicians/import", "/api/v1/platform/tenants/{id}/suspend"]
        {
            assert!(paths.contains_key(path), "{path}");
        }
        client.get("/api/docs/").await.expect(200);
    }
    // Probes come by address.
    let probe = apex.at("10.0.0.7:8080");
    probe.get("/healthz").await.expect(200);
    probe.get("/readyz").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_two_administrators_set_at_once_both_hold() {
    let platform = TestPlatform::start().await;
    let [ours, theirs] = platform.pair(Kept::Shared).await;
    let superadmin = platform.superadmin().await;
    let path = format!("{TENANTS}/{}", ours.tenant);
    let untouched = superadmin.get(&format!("{TENANTS}/{}", theirs.tenant)).await.ok();
    for limit in 100..110 {
        let (musicians, instruments) = (json!({ "maxMusicians": limit }), json!({ "maxInstruments": limit }));
        let (one, other) =
            futures::join!(superadmin.patch(&path, &musicians), superadmin.patch(&path, &instruments));
        one.expect(200);
        other.expect(200);
        let now = superadmin.get(&path).await.ok();
        assert_eq!((&now["maxMusicians"], &now["maxInstruments"]), (&json!(limit), &json!(limit)));
        let inside = ours.admin.get("/api/v1/tenant").await.ok();
        assert_eq!(inside["limits"]["musicians"]["limit"], limit);
        assert_eq!(inside["limits"]["instruments"]["limit"], limit);
    }
    assert_eq!(superadmin.get(&format!("{TENANTS}/{}", theirs.tenant)).await.ok(), untouched);
}
