//! People over HTTP: an orchestra's members for its administrators, everybody for the platform's.

use serde_json::{Value, json};
use stagesub_domain::role::Role;
use stagesub_tests::{Answer, Kept, Orchestra, TestPlatform};
use uuid::Uuid;

const USERS: &str = "/api/v1/users";
const PEOPLE: &str = "/api/v1/platform/users";

fn draft(email: &str, role: &str) -> Value {
    json!({ "email": email, "firstName": "Åsa", "lastName": "Öberg", "role": role })
}

fn emails(items: &[Value]) -> Vec<&str> {
    items.iter().filter_map(|item| item["email"].as_str()).collect()
}

async fn roles(orchestra: &Orchestra) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let items = orchestra.admin.list_all(&format!("{USERS}?limit=1")).await;
    items.iter().map(|item| (text(&item["email"]), text(&item["role"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_made_changed_and_removed_and_the_neighbours_do_not_notice() {
    let platform = TestPlatform::start().await;
    let [ours, theirs] = platform.pair(Kept::Shared).await;
    let neighbours = roles(&theirs).await;

    let mut body = draft("asa@ours.example", "user");
    body["password"] = json!("en ganska lång mening");
    let answer = ours.admin.post(USERS, &body).await;
    let made = answer.created();
    assert_eq!((&made["role"], &made["isActive"]), (&json!("user"), &json!(true)));
    let path = format!("{USERS}/{}", made["id"].as_str().unwrap());
    assert_eq!(answer.headers["location"], path);
    assert_eq!(ours.admin.get(&path).await.ok(), made);
    let login = json!({ "email": "ASA@ours.example", "password": "en ganska lång mening" });
    let token = ours.admin.post("/api/v1/auth/login", &login).await.ok()["accessToken"].clone();
    let asa = ours.admin.with_token(token.as_str().unwrap());
    asa.post("/api/v1/instruments", &json!({ "name": "Theremin" })).await.expect(201);

    ours.admin.post(USERS, &draft("Asa@OURS.example", "viewer")).await.problem(409, "taken");
    let changed = ours.admin.patch(&path, &json!({ "role": "admin" })).await.ok();
    assert_eq!((&changed["role"], &changed["id"]), (&json!("admin"), &made["id"]));
    asa.get("/api/v1/instruments").await.problem(401, "unauthenticated");
    let expected =
        [(ours.admin_email(), "admin".to_owned()), ("asa@ours.example".to_owned(), "admin".to_owned())];
    assert_eq!(roles(&ours).await, expected);

    ours.admin.delete(&path).await.expect(204);
    ours.admin.get(&path).await.problem(404, "not-found");
    ours.admin.delete(&path).await.problem(404, "not-found");
    ours.admin.post("/api/v1/auth/login", &login).await.problem(401, "unauthenticated");
    assert_eq!(roles(&theirs).await, neighbours);

    let log: Vec<_> = platform
        .platform_audit(Some(&ours))
        .await
        .into_iter()
        .filter(|entry| entry.model == "membership")
        .map(|entry| (entry.actor_id, entry.action, entry.record_id, entry.changes))
        .collect();
    let (by, whom) = (Some(ours.admin_user()), made["id"].as_str().map(str::to_owned));
    let entry = |action: &str, changes| (by, action.to_owned(), whom.clone(), Some(changes));
    assert_eq!(
        log,
        [
            entry("create", json!({ "after": { "role": "user" } })),
            entry("update", json!({ "before": { "role": "user" }, "after": { "role": "admin" } })),
            entry("delete", json!({ "before": { "role": "admin" } })),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbours_member_is_as_unknown_as_nobody() {
    let platform = TestPlatform::start().await;
    let [ours, theirs] = platform.pair(Kept::Shared).await;
    let member = platform.person(&theirs, Role::User).await;
    let mut bodies = Vec::new();
    for id in
        [member.user.to_string(), theirs.admin_user().to_string(), Uuid::now_v7().to_string(), "x".into()]
    {
        let path = format!("{USERS}/{id}");
        for answer in [
            ours.admin.get(&path).await,
            ours.admin.patch(&path, &json!({ "role": "viewer" })).await,
            ours.admin.delete(&path).await,
        ] {
            answer.problem(404, "not-found");
            bodies.push(answer.text());
        }
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    member.client.get("/api/v1/musicians").await.expect(200);

    // Somebody who is there already becomes a member here too, with the name and the password they have.
    let mut body = draft(&member.email, "viewer");
    body["password"] = json!("en helt annan mening");
    let added = ours.admin.post(USERS, &body).await.created();
    assert_eq!(added["id"], member.user.to_string());
    assert_eq!(added["firstName"], "Medlem");
    let sign_in = |password: &str| json!({ "email": member.email, "password": password });
    ours.admin
        .post("/api/v1/auth/login", &sign_in("en helt annan mening"))
        .await
        .problem(401, "unauthenticated");
    ours.admin.post("/api/v1/auth/login", &sign_in(ours.admin_password())).await.expect(200);
    // What they are here says nothing of what they are there.
    ours.admin.delete(&format!("{USERS}/{}", member.user)).await.expect(204);
    let there = member.sign_in_again().await.client;
    there.post("/api/v1/instruments", &json!({ "name": "Theremin" })).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_made_once_however_often_it_is_asked_for() {
    let platform = TestPlatform::start().await;
    let [ours, theirs] = platform.pair(Kept::Shared).await;
    let keyed = ours.admin.with_header("idempotency-key", "k1");
    let body = draft("asa@ours.example", "user");
    let answers = futures::future::join_all((0..8).map(|_| keyed.post(USERS, &body))).await;
    let made = answers[0].created();
    let is_replayed = |answer: &Answer| answer.headers.contains_key("idempotent-replayed");
    assert!(answers.iter().all(|answer| answer.created() == made));
    assert_eq!(answers.iter().filter(|answer| is_replayed(answer)).count(), 7);
    assert_eq!(roles(&ours).await.len(), 2);

    keyed.post(USERS, &draft("asa@ours.example", "viewer")).await.problem(422, "idempotency-key-reused");
    // As they are now.
    let path = format!("{USERS}/{}", made["id"].as_str().unwrap());
    ours.admin.patch(&path, &json!({ "role": "viewer" })).await.expect(200);
    assert_eq!(keyed.post(USERS, &body).await.created()["role"], "viewer");
    ours.admin.delete(&path).await.expect(204);
    keyed.post(USERS, &body).await.problem(404, "not-found");

    // The same key of the same person at another orchestra is another request.
    theirs.admin.post(USERS, &draft(&ours.admin_email(), "admin")).await.expect(201);
    let login = json!({ "email": ours.admin_email(), "password": ours.admin_password() });
    let token = theirs.admin.post("/api/v1/auth/login", &login).await.ok()["accessToken"].clone();
    let same = theirs.admin.with_token(token.as_str().unwrap()).with_header("idempotency-key", "k1");
    let other = same.post(USERS, &body).await;
    assert!(!is_replayed(&other));
    assert_eq!(other.created()["id"], made["id"], "the person is there already, the membership is new");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_administrator_stays_one_whoever_races() {
    let platform = TestPlatform::start().await;
    let got = platform.orchestra(Kept::Shared, "got").await;
    let path = |user: Uuid| format!("{USERS}/{user}");
    let admin = path(got.admin_user());
    got.admin.patch(&admin, &json!({ "role": "viewer" })).await.problem(409, "last-administrator");
    got.admin.delete(&admin).await.problem(409, "last-administrator");
    got.admin.patch(&admin, &json!({ "role": "admin" })).await.expect(200);

    // An administrator who may not sign in is none.
    let superadmin = platform.superadmin().await;
    let other = platform.person(&got, Role::Admin).await;
    let person = format!("{PEOPLE}/{}", other.user);
    superadmin.patch(&person, &json!({ "isActive": false })).await.expect(200);
    got.admin.delete(&admin).await.problem(409, "last-administrator");
    superadmin.patch(&person, &json!({ "isActive": true })).await.expect(200);

    let mut pair = [got.sign_in_again().await, other.sign_in_again().await.client];
    let users = [got.admin_user(), other.user];
    for round in 0..8 {
        // Each takes the other's administration away, at once: by another role and by the end of it, in turn.
        let (first, second) = (path(users[1]), path(users[0]));
        let viewer = json!({ "role": "viewer" });
        let (one, two) = if round % 2 == 0 {
            futures::join!(pair[0].patch(&first, &viewer), pair[1].patch(&second, &viewer))
        } else {
            futures::join!(pair[0].delete(&first), pair[1].patch(&second, &viewer))
        };
        let statuses = [one.status.as_u16(), two.status.as_u16()];
        // Whoever came second was told so, or was signed out by then.
        assert_eq!(statuses.iter().filter(|status| matches!(status, 200 | 204)).count(), 1, "{statuses:?}");
        assert!(statuses.iter().all(|status| matches!(status, 200 | 204 | 401 | 409)), "{statuses:?}");
        let winner = usize::from(!matches!(statuses[0], 200 | 204));
        let left = pair[winner].list_all(USERS).await;
        assert_eq!(left.iter().filter(|member| member["role"] == "admin").count(), 1, "{left:?}");
        let loser = 1 - winner;
        let body = draft(&[got.admin_email(), other.email.clone()][loser], "admin");
        let lost = path(users[loser]);
        if pair[winner].patch(&lost, &json!({ "role": "admin" })).await.status == 404 {
            pair[winner].post(USERS, &body).await.expect(201);
        }
        pair[loser] = if loser == 0 { got.sign_in_again().await } else { other.sign_in_again().await.client };
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_a_rule_makes_no_member() {
    let platform = TestPlatform::start().await;
    let got = platform.orchestra(Kept::Shared, "got").await;
    let with = |field: &str, value: Value| {
        let mut body = draft("asa@got.example", "user");
        body[field] = value;
        body
    };
    for (body, field, rule) in [
        (with("email", json!("asa")), "email", "email"),
        (with("firstName", json!(" ")), "firstName", "length"),
        (with("role", json!("superadmin")), "role", "enum"),
        (with("role", json!("owner")), "role", "enum"),
        (with("password", json!("short")), "password", "length"),
    ] {
        got.admin.post(USERS, &body).await.invalid(&[(field, rule)]);
    }
    got.admin.post(USERS, &with("isActive", json!(false))).await.problem(400, "invalid-input");
    let admin = format!("{USERS}/{}", got.admin_user());
    got.admin.patch(&admin, &json!({ "role": "superadmin" })).await.invalid(&[("role", "enum")]);
    got.admin.patch(&admin, &json!({})).await.problem(400, "invalid-input");
    got.admin.get(&format!("{USERS}?limit=0")).await.invalid(&[("limit", "range")]);
    got.admin.get(&format!("{USERS}?cursor=%21")).await.invalid(&[("cursor", "cursor")]);
    assert_eq!(roles(&got).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_lists_disables_and_enables_everybody_but_its_last_administrator() {
    let platform = TestPlatform::start().await;
    let [ours, theirs] = platform.pair(Kept::Shared).await;
    let superadmin = platform.superadmin().await;
    let all = superadmin.list_all(&format!("{PEOPLE}?limit=2")).await;
    let (boss, chefs) = (&all[0], &all[1..]);
    assert_eq!((&boss["isSuperadmin"], boss["email"].as_str()), (&json!(true), Some("ceo@stagesub.test")));
    assert_eq!(emails(chefs), [ours.admin_email(), theirs.admin_email()]);
    assert!(chefs.iter().all(|chef| chef["isSuperadmin"] == json!(false)));
    let found = superadmin.list_all(&format!("{PEOPLE}?q=CHEF%40theirs")).await;
    assert_eq!(emails(&found), [theirs.admin_email()]);
    assert_eq!(superadmin.list_all(&format!("{PEOPLE}?q=chef%20ek")).await.len(), 2);
    assert!(superadmin.list_all(&format!("{PEOPLE}?q=%25")).await.is_empty(), "% is a letter");

    let chef = format!("{PEOPLE}/{}", ours.admin_user());
    let disabled = superadmin.patch(&chef, &json!({ "isActive": false })).await.ok();
    assert_eq!(disabled["isActive"], false);
    assert_eq!(superadmin.get(&chef).await.ok(), disabled);
    // On the node that did it there is nothing to wait for.
    ours.admin.get("/api/v1/musicians").await.problem(401, "unauthenticated");
    let login = json!({ "email": ours.admin_email(), "password": ours.admin_password() });
    ours.admin.anonymous().post("/api/v1/auth/login", &login).await.problem(401, "unauthenticated");
    theirs.admin.get("/api/v1/musicians").await.expect(200);
    superadmin.patch(&chef, &json!({ "isActive": false })).await.expect(200);
    superadmin.patch(&chef, &json!({ "isActive": true })).await.expect(200);
    superadmin.patch(&chef, &json!({})).await.expect(200);
    ours.sign_in_again().await.get("/api/v1/musicians").await.expect(200);

    let boss = format!("{PEOPLE}/{}", boss["id"].as_str().unwrap());
    let refused = superadmin.patch(&boss, &json!({ "isActive": false })).await;
    assert!(refused.problem(409, "last-administrator")["detail"].as_str().unwrap().contains("platform"));
    superadmin.get(&boss).await.expect(200);
    for missing in [Uuid::now_v7().to_string(), "nonsense".to_owned()] {
        superadmin.get(&format!("{PEOPLE}/{missing}")).await.problem(404, "not-found");
        superadmin
            .patch(&format!("{PEOPLE}/{missing}"), &json!({ "isActive": true }))
            .await
            .problem(404, "not-found");
    }
    let actions: Vec<_> = platform
        .platform_audit(None)
        .await
        .into_iter()
        .filter(|entry| entry.record_id.as_deref() == Some(&ours.admin_user().to_string()))
        .filter(|entry| entry.model == "user" && !entry.action.starts_with("login"))
        .map(|entry| (entry.actor, entry.action))
        .collect();
    let by = |action: &str| ("superadmin".to_owned(), action.to_owned());
    assert_eq!(actions, [by("disable"), by("enable")], "doing it twice is doing it once");
}
