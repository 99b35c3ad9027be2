//! The authorization matrix: every method of every route by everybody who might call it, on a real platform.
//!
//! The table is written out, so that it can be read; what it says is compared with what the server says of itself
//! and then tried. A route that is served and missing here fails, and so does a row whose route is gone.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::body::Body;
use http::Method;
use serde_json::{Value, json};
use stagesub_domain::role::Role;
use stagesub_server::routes::{HostKind, RouteAuthority, Who, authority};
use stagesub_tests::database::connect;
use stagesub_tests::{Answer, Client, Kept, Orchestra, TestPlatform};
use uuid::Uuid;

/// One method of one route on one kind of host, and what each caller gets. `200` is any success.
type Row = (&'static str, &'static str, On, [u16; 6]);

/// The columns of [`TABLE`].
const CALLERS: [&str; 6] = ["anonymous", "viewer", "user", "admin", "foreign admin", "superadmin"];

/// Where a route is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum On {
    /// By address, as a probe does.
    Address,
    /// At the platform's own host.
    Apex,
    /// At the orchestra's host, whose viewer, user and admin the callers are.
    Tenant,
}
use On::{Address, Apex, Tenant};

#[rustfmt::skip]
const TABLE: &[Row] = &[
    //                                                              nobody viewer user admin foreign superadmin
    ("GET",    "/healthz",                              Address, [200, 200, 200, 200, 200, 200]),
    ("GET",    "/readyz",                               Address, [200, 200, 200, 200, 200, 200]),
    ("GET",    "/api/docs",                             Apex,    [200, 200, 200, 200, 200, 200]),
    ("GET",    "/api/docs",                             Tenant,  [200, 200, 200, 200, 200, 200]),
    ("GET",    "/api/docs/",                            Apex,    [200, 200, 200, 200, 200, 200]),
    ("GET",    "/api/docs/",                            Tenant,  [200, 200, 200, 200, 200, 200]),
    ("GET",    "/api/docs/{*rest}",                     Apex,    [200, 200, 200, 200, 200, 200]),
    ("GET",    "/api/docs/{*rest}",                     Tenant,  [200, 200, 200, 200, 200, 200]),
    ("GET",    "/api/openapi.json",                     Apex,    [200, 200, 200, 200, 200, 200]),
    ("GET",    "/api/openapi.json",                     Tenant,  [200, 200, 200, 200, 200, 200]),

    ("POST",   "/api/v1/auth/login",                    Apex,    [200, 200, 200, 200, 200, 200]),
    ("POST",   "/api/v1/auth/login",                    Tenant,  [200, 200, 200, 200, 200, 200]),
    ("GET",    "/api/v1/auth/me",                       Apex,    [401, 401, 401, 401, 401, 200]),
    ("GET",    "/api/v1/auth/me",                       Tenant,  [401, 200, 200, 200, 401, 401]),

    ("GET",    "/api/v1/tenant",                        Tenant,  [401, 200, 200, 200, 401, 401]),
    ("GET",    "/api/v1/instruments",                   Tenant,  [401, 200, 200, 200, 401, 401]),
    ("POST",   "/api/v1/instruments",                   Tenant,  [401, 403, 200, 200, 401, 401]),
    ("GET",    "/api/v1/instruments/{id}",              Tenant,  [401, 200, 200, 200, 401, 401]),
    ("PATCH",  "/api/v1/instruments/{id}",              Tenant,  [401, 403, 200, 200, 401, 401]),
    ("DELETE", "/api/v1/instruments/{id}",              Tenant,  [401, 403, 200, 200, 401, 401]),
    ("POST",   "/api/v1/instruments/{id}/archive",      Tenant,  [401, 403, 200, 200, 401, 401]),
    ("POST",   "/api/v1/instruments/{id}/restore",      Tenant,  [401, 403, 200, 200, 401, 401]),
    ("GET",    "/api/v1/positions",                     Tenant,  [401, 200, 200, 200, 401, 401]),
    ("POST",   "/api/v1/positions",                     Tenant,  [401, 403, 200, 200, 401, 401]),
    ("GET",    "/api/v1/positions/{id}",                Tenant,  [401, 200, 200, 200, 401, 401]),
    ("PATCH",  "/api/v1/positions/{id}",                Tenant,  [401, 403, 200, 200, 401, 401]),
    ("DELETE", "/api/v1/positions/{id}",                Tenant,  [401, 403, 200, 200, 401, 401]),
    ("GET",    "/api/v1/musicians",                     Tenant,  [401, 200, 200, 200, 401, 401]),
    ("POST",   "/api/v1/musicians",                     Tenant,  [401, 403, 200, 200, 401, 401]),
    ("POST",   "/api/v1/musicians/import",              Tenant,  [401, 403, 200, 200, 401, 401]),
    ("GET",    "/api/v1/musicians/{id}",                Tenant,  [401, 200, 200, 200, 401, 401]),
    ("PATCH",  "/api/v1/musicians/{id}",                Tenant,  [401, 403, 200, 200, 401, 401]),
    ("DELETE", "/api/v1/musicians/{id}",                Tenant,  [401, 403, 200, 200, 401, 401]),
    ("POST",   "/api/v1/musicians/{id}/restore",        Tenant,  [401, 403, 200, 200, 401, 401]),
    ("GET",    "/api/v1/projects",                      Tenant,  [401, 200, 200, 200, 401, 401]),
    ("POST",   "/api/v1/projects",                      Tenant,  [401, 403, 200, 200, 401, 401]),
    ("GET",    "/api/v1/projects/{id}",                 Tenant,  [401, 200, 200, 200, 401, 401]),
    ("PATCH",  "/api/v1/projects/{id}",                 Tenant,  [401, 403, 200, 200, 401, 401]),
    ("DELETE", "/api/v1/projects/{id}",                 Tenant,  [401, 403, 200, 200, 401, 401]),
    ("GET",    "/api/v1/users",                         Tenant,  [401, 403, 403, 200, 401, 401]),
    ("POST",   "/api/v1/users",                         Tenant,  [401, 403, 403, 200, 401, 401]),
    ("GET",    "/api/v1/users/{id}",                    Tenant,  [401, 403, 403, 200, 401, 401]),
    ("PATCH",  "/api/v1/users/{id}",                    Tenant,  [401, 403, 403, 200, 401, 401]),
    ("DELETE", "/api/v1/users/{id}",                    Tenant,  [401, 403, 403, 200, 401, 401]),

    ("GET",    "/api/v1/platform/tenants",              Apex,    [401, 401, 401, 401, 401, 200]),
    ("POST",   "/api/v1/platform/tenants",              Apex,    [401, 401, 401, 401, 401, 200]),
    ("GET",    "/api/v1/platform/tenants/{id}",         Apex,    [401, 401, 401, 401, 401, 200]),
    ("PATCH",  "/api/v1/platform/tenants/{id}",         Apex,    [401, 401, 401, 401, 401, 200]),
    ("POST",   "/api/v1/platform/tenants/{id}/suspend", Apex,    [401, 401, 401, 401, 401, 200]),
    ("POST",   "/api/v1/platform/tenants/{id}/resume",  Apex,    [401, 401, 401, 401, 401, 200]),
    ("GET",    "/api/v1/platform/tenants/{id}/moves",   Apex,    [401, 401, 401, 401, 401, 200]),
    ("POST",   "/api/v1/platform/tenants/{id}/moves",   Apex,    [401, 401, 401, 401, 401, 200]),
    ("GET",    "/api/v1/platform/moves",                Apex,    [401, 401, 401, 401, 401, 200]),
    ("GET",    "/api/v1/platform/moves/{id}",           Apex,    [401, 401, 401, 401, 401, 200]),
    ("POST",   "/api/v1/platform/moves/{id}/abort",     Apex,    [401, 401, 401, 401, 401, 200]),
    ("POST",   "/api/v1/platform/moves/{id}/back",      Apex,    [401, 401, 401, 401, 401, 200]),
    ("POST",   "/api/v1/platform/moves/{id}/finish",    Apex,    [401, 401, 401, 401, 401, 200]),
    ("GET",    "/api/v1/platform/moves/{id}/events",    Apex,    [401, 401, 401, 401, 401, 200]),
    ("GET",    "/api/v1/platform/databases",            Apex,    [401, 401, 401, 401, 401, 200]),
    ("POST",   "/api/v1/platform/databases",            Apex,    [401, 401, 401, 401, 401, 200]),
    ("GET",    "/api/v1/platform/databases/{id}",       Apex,    [401, 401, 401, 401, 401, 200]),
    ("POST",   "/api/v1/platform/databases/{id}/check", Apex,    [401, 401, 401, 401, 401, 200]),
    ("GET",    "/api/v1/platform/usage",                Apex,    [401, 401, 401, 401, 401, 200]),
    ("GET",    "/api/v1/platform/users",                Apex,    [401, 401, 401, 401, 401, 200]),
    ("GET",    "/api/v1/platform/users/{id}",           Apex,    [401, 401, 401, 401, 401, 200]),
    ("PATCH",  "/api/v1/platform/users/{id}",           Apex,    [401, 401, 401, 401, 401, 200]),
];

/// Everybody, and what they act on.
struct Stage {
    platform: TestPlatform,
    got: Orchestra,
    /// Suspended and resumed at will.
    spare: Orchestra,
    callers: [Client; 6],
    next: AtomicU32,
}

impl Stage {
    async fn set() -> Self {
        let platform = TestPlatform::start().await;
        let [got, foreign] = platform.pair(Kept::Shared).await;
        let spare = platform.orchestra(Kept::Shared, "spare").await;
        let callers = [
            platform.client().clone(),
            platform.member(&got, Role::Viewer).await,
            platform.member(&got, Role::User).await,
            got.admin.clone(),
            foreign.admin.clone(),
            platform.superadmin().await,
        ];
        Self { platform, got, spare, callers, next: AtomicU32::new(1) }
    }

    fn host(&self, on: On) -> &str {
        match on {
            Address => "10.0.0.7:8080",
            Apex => TestPlatform::DOMAIN,
            Tenant => &self.got.host,
        }
    }

    /// A word that nothing else is called.
    fn word(&self) -> String {
        format!("w{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Something new of the orchestra, made by its administrator: its id.
    async fn made(&self, resource: &str) -> String {
        let body = self.body("POST", &format!("/api/v1/{resource}"), Tenant).expect("it has a body");
        let made = self.got.admin.post(&format!("/api/v1/{resource}"), &body).await.created();
        made["id"].as_str().expect("an id").to_owned()
    }

    /// The path with an id of something that is there, and in the state that the method is for.
    async fn path(&self, method: &str, path: &str) -> String {
        let id = match path {
            _ if path.starts_with("/api/v1/platform/moves/") => self.a_move(path).await,
            _ if path.starts_with("/api/v1/platform/tenants/") => self.spare.tenant_text().to_owned(),
            _ if path.starts_with("/api/v1/platform/databases/") => {
                let all = self.platform.superadmin().await.list_all("/api/v1/platform/databases").await;
                let shared = all.iter().find(|one| one["kind"] == "shared").expect("a shared one");
                shared["id"].as_str().expect("an id").to_owned()
            }
            _ if path.starts_with("/api/v1/platform/users/") => self.made("users").await,
            _ if path.contains("{id}") => {
                let resource = path.split('/').nth(3).expect("a resource");
                let id = self.made(resource).await;
                let there = format!("/api/v1/{resource}/{id}");
                match (method, path) {
                    ("POST", "/api/v1/instruments/{id}/restore") => {
                        self.got.admin.order(&format!("{there}/archive")).await;
                    }
                    ("POST", "/api/v1/musicians/{id}/restore") => {
                        self.got.admin.delete(&there).await;
                    }
                    _ => {}
                }
                id
            }
            _ => String::new(),
        };
        path.replace("{id}", &id).replace("{*rest}", "index.css")
    }

    /// A move of the orchestra, on paper, in the state that the path is for.
    async fn a_move(&self, path: &str) -> String {
        let (state, is_over) = match path.rsplit('/').next() {
            Some("abort") => ("copy", false),
            Some("back" | "finish") => ("active", false),
            _ => ("finished", true),
        };
        let mut registry = connect(self.platform.registry()).await;
        // A database that is not ready is nobody's home.
        let paper = "INSERT INTO registry.databases (id, kind, status, server_identifier, host, port, name)
            SELECT '018f0000-0000-7000-8000-000000000002', 'shared', 'creating', server_identifier, host, port, 'paper'
            FROM registry.databases WHERE kind = 'registry'
            ON CONFLICT (id) DO NOTHING";
        sqlx::query(paper).execute(&mut registry).await.unwrap();
        let id = sqlx::query_scalar(
            "INSERT INTO registry.moves (id, tenant_id, source_id, source_placement, target_id, target_placement, path,
                state, heading, epoch, prefix)
            SELECT '018f0000-0000-7000-8000-000000000001', $1, s.id, s.kind, t.id, t.kind, 'stream', $2, 'target', 1,
                repeat('0', 32)
            FROM registry.databases AS s
            JOIN registry.databases AS t ON t.name = 'paper'
            WHERE s.kind = 'shared' AND s.status = 'ready'
            ON CONFLICT (id) DO UPDATE SET state = $2, wanted = NULL, ended_at = NULL
            RETURNING id",
        );
        let id: Uuid = id.bind(self.got.tenant.as_uuid()).bind(state).fetch_one(&mut registry).await.unwrap();
        // One that has ended is told once, and then no more.
        sqlx::query("UPDATE registry.moves SET ended_at = now() WHERE id = $1 AND $2")
            .bind(id)
            .bind(is_over)
            .execute(&mut registry)
            .await
            .unwrap();
        id.to_string()
    }

    /// A body that would be taken.
    fn body(&self, method: &str, path: &str, on: On) -> Option<Value> {
        let word = self.word();
        let email = format!("{word}@matrix.example");
        Some(match (method, path) {
            ("POST", "/api/v1/auth/login") if on == Apex => self.platform.superadmin_login(),
            ("POST", "/api/v1/auth/login") => {
                json!({ "email": self.got.admin_email(), "password": self.got.admin_password() })
            }
            ("POST", "/api/v1/instruments") => json!({ "name": word }),
            ("POST", "/api/v1/positions") => {
                let instrument = self.got.id("INST", 1);
                json!({ "instrument": instrument, "name": word, "hierarchyLevel": 1 })
            }
            ("POST", "/api/v1/musicians") => {
                json!({ "firstName": word, "lastName": "Ek", "email": email })
            }
            ("POST", "/api/v1/projects") => json!({ "name": word, "startDate": "2027-03-01" }),
            ("POST", "/api/v1/users") => {
                json!({ "firstName": word, "lastName": "Ek", "email": email, "role": "user" })
            }
            ("POST", "/api/v1/platform/tenants") => json!({
                "name": word, "subdomain": word, "subscription": "small",
                "admin": { "email": email, "firstName": word, "lastName": "Ek" },
            }),
            ("POST", "/api/v1/platform/tenants/{id}/moves") => json!({ "to": "dedicated" }),
            ("POST", "/api/v1/platform/databases") => {
                json!({ "name": format!("stagesub_test_run{}_{word}", std::process::id()) })
            }
            ("PATCH", "/api/v1/users/{id}") => json!({ "role": "viewer" }),
            ("PATCH", "/api/v1/platform/users/{id}") => json!({ "isActive": true }),
            ("PATCH", _) => json!({}),
            _ => return None,
        })
    }

    /// What a caller gets at a host.
    async fn ask(&self, row: &Row, caller: &Client, host: &str) -> Answer {
        let (method, path, on, _) = *row;
        let at = self.path(method, path).await;
        let verb: Method = method.parse().expect("a method");
        let client = caller.at(host);
        if path == "/api/v1/musicians/import" {
            let file = format!("first_name,last_name,email\nÅsa,Ek,{}@matrix.example\n", self.word());
            return client.upload(&at, file).await;
        }
        match self.body(method, path, on) {
            Some(body) => {
                client.send(verb, &at, Some("application/json"), Body::from(body.to_string())).await
            }
            None => client.send(verb, &at, None, Body::empty()).await,
        }
    }
}

fn rows() -> BTreeSet<(&'static str, &'static str, On)> {
    TABLE.iter().map(|(method, path, on, _)| (*method, *path, *on)).collect()
}

/// Where a route is answered.
fn hosts(route: &RouteAuthority) -> &'static [On] {
    match route.host {
        HostKind::Any => &[Address],
        HostKind::Known => &[Apex, Tenant],
        HostKind::Apex => &[Apex],
        HostKind::Tenant => &[Tenant],
    }
}

#[test]
fn the_table_has_every_route_once_and_says_what_the_server_says() {
    let listed = rows();
    assert_eq!(listed.len(), TABLE.len(), "a row is there twice");
    let served: BTreeSet<_> = authority()
        .iter()
        .flat_map(|route| hosts(route).iter().map(|on| (route.method.as_str(), route.path, *on)))
        .collect();
    assert_eq!(listed, served);
    for (method, path, on, expected) in TABLE {
        let route = authority().iter().find(|route| route.method.as_str() == *method && route.path == *path);
        let route = route.expect("the server has it");
        // What each caller is at this host; outside of it their tokens are nobody's.
        let roles = match on {
            Address => [None; 6],
            Apex => [None, None, None, None, None, Some(Role::Superadmin)],
            Tenant => [None, Some(Role::Viewer), Some(Role::User), Some(Role::Admin), None, None],
        };
        let says = roles.map(|role| match (route.allows(role), role) {
            (true, _) => 200,
            (false, Some(_)) => 403,
            (false, None) => 401,
        });
        assert_eq!(*expected, says, "{method} {path} at {on:?}, which is for {:?}", route.who);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_gets_what_the_table_says() {
    let stage = Stage::set().await;
    let description = stage.platform.client().get("/api/openapi.json").await.ok();
    let mut described = BTreeSet::new();
    for (path, methods) in description["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            described.insert((method.to_uppercase(), path.clone()));
        }
    }
    let listed: BTreeSet<_> = TABLE
        .iter()
        .filter(|(_, path, ..)| path.starts_with("/api/v1/"))
        .map(|(method, path, ..)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    assert_eq!(listed, described, "the table and what the running platform says of itself");

    let mut wrong = Vec::new();
    for row in TABLE {
        let (method, path, on, expected) = *row;
        for ((caller, name), expected) in stage.callers.iter().zip(CALLERS).zip(expected) {
            let answer = stage.ask(row, caller, stage.host(on)).await;
            let got = match answer.status {
                status if status.is_success() || status.is_redirection() => 200,
                status => status.as_u16(),
            };
            if got != expected {
                wrong.push(format!(
                    "{method} {path} at {on:?} by {name}: {got}, not {expected}: {}",
                    answer.text()
                ));
            }
            if got == expected && got == 403 {
                answer.problem(403, "forbidden");
            }
            if got == expected && got == 401 {
                answer.problem(401, "unauthenticated");
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_wrong_kind_of_host_there_is_nothing_for_anybody() {
    let stage = Stage::set().await;
    let kinds = rows();
    let mut bodies = BTreeSet::new();
    for row in TABLE {
        let (method, path, on, _) = *row;
        let mut elsewhere = vec!["nobody.stagesub.test", "deeper.got.stagesub.test", "example.com"];
        if on == Tenant && !kinds.contains(&(method, path, Apex)) {
            elsewhere.push(TestPlatform::DOMAIN);
        }
        if on == Apex && !kinds.contains(&(method, path, Tenant)) {
            elsewhere.push(&stage.got.host);
        }
        for (caller, name) in stage.callers.iter().zip(CALLERS) {
            if on == Address {
                break;
            }
            for host in &elsewhere {
                let answer = stage.ask(row, caller, host).await;
                assert_eq!(answer.status, 404, "{method} {path} at {host} by {name}: {}", answer.text());
                bodies.insert(answer.text());
            }
            // `www` is the apex's other name, and asks nobody who they are.
            let answer = stage.ask(row, caller, &format!("www.{}", TestPlatform::DOMAIN)).await;
            assert_eq!(answer.status, 308, "{method} {path} at www by {name}: {}", answer.text());
            let location = answer.headers["location"].to_str().expect("text").to_owned();
            assert!(location.starts_with(&format!("//{}/api/", TestPlatform::DOMAIN)), "{location}");
        }
    }
    assert_eq!(bodies.len(), 1, "the one 404 tells nothing apart: {bodies:?}");
}

#[test]
fn what_is_public_is_so_on_purpose() {
    let public: Vec<_> =
        authority().iter().filter(|route| route.who == Who::Anyone).map(|route| route.path).collect();
    assert_eq!(
        public,
        [
            "/healthz",
            "/readyz",
            "/api/docs",
            "/api/docs/",
            "/api/docs/{*rest}",
            "/api/openapi.json",
            "/api/v1/auth/login",
        ]
    );
}
