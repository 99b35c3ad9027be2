//! What each route asks of the data path: a route that reads begins read only, a route that creates honours a key,
//! and an outcome that is not known is told as that. All of it over the table of routes as it is served.

use std::sync::Mutex;

use stagesub_domain::idempotency::KeptAnswer;
use stagesub_domain::ports::UnitOfWork;
use stagesub_domain::ports::idempotency::{Claim, MockIdempotencyStore};
use stagesub_tenancy::{Access, BeginError, TenantScope, UnitOfWorkFactory};

use super::route_table::{sound_body, sound_path};
use super::*;

/// One operation of the table: its method, its address with a sound id, its name, and how it is described.
struct Operation {
    method: String,
    path: String,
    name: String,
    described: Value,
}

impl Operation {
    fn host(&self) -> &'static str {
        if self.is_platforms() { "stagesub.test" } else { "got.stagesub.test" }
    }

    fn is_platforms(&self) -> bool {
        self.path.starts_with("/api/v1/platform")
    }

    /// A sound request by somebody who may.
    fn request(&self, key: Option<&str>) -> Request<Body> {
        let token =
            if self.is_platforms() { token(None, Role::Superadmin) } else { token(Some(1), Role::Admin) };
        let mut request =
            request(&self.method, self.host(), &self.path, Some(&token), sound_body(&self.name));
        if self.name == "import_musicians" {
            *request.body_mut() = Body::from("Förnamn;Efternamn;E-post\nCilla;Dahl;cilla@example.se\n");
        }
        if let Some(key) = key {
            request.headers_mut().insert("idempotency-key", key.parse().expect("the value is a header"));
        }
        request
    }

    fn role(&self) -> Role {
        if self.is_platforms() { Role::Superadmin } else { Role::Admin }
    }

    /// Whether asking twice could make two: every POST but those that act on a thing that is named, and signing in.
    fn creates(&self) -> bool {
        let acts_on_one = ["archive", "restore", "suspend", "resume", "abort", "back", "finish", "check"];
        let last = self.path.rsplit('/').next().unwrap_or_default();
        self.method == "POST" && self.name != "login" && !acts_on_one.contains(&last)
    }
}

fn operations() -> Vec<Operation> {
    let description = serde_json::to_value(crate::routes::openapi()).expect("the description is JSON");
    let paths = description["paths"].as_object().expect("there are paths");
    let operations = paths.iter().flat_map(|(path, item)| {
        item.as_object().expect("a path has operations").iter().map(move |(method, described)| Operation {
            method: method.to_uppercase(),
            path: sound_path(path),
            name: described["operationId"].as_str().expect("every operation has a name").to_owned(),
            described: described.clone(),
        })
    });
    operations.collect()
}

/// A factory that begins nothing and notes what it was asked for.
fn noting(begun: &Arc<Mutex<Vec<Access>>>) -> MockUnitOfWorkFactory {
    let mut units = MockUnitOfWorkFactory::new();
    let begun = Arc::clone(begun);
    units.expect_begin().returning(move |_, access| {
        begun.lock().expect("nobody panics here").push(access);
        Err(BeginError::Busy)
    });
    units
}

#[tokio::test]
async fn what_only_reads_begins_read_only_and_what_changes_begins_to_write() {
    let (mut reading, mut writing) = (0, 0);
    for operation in operations() {
        // Signing in, and an orchestra's people, who stand in the registry.
        if operation.name == "login" || operation.path.starts_with("/api/v1/users") {
            continue;
        }
        let begun = Arc::new(Mutex::new(Vec::new()));
        let server = server(noting(&begun), operation.role());
        let (status, body, _) = send(&server, operation.request(None)).await;
        let begun = begun.lock().expect("nobody panics here").clone();
        let what = format!("{} {}: {status} {body}", operation.method, operation.path);
        let wanted = if operation.method == "GET" { Access::Read } else { Access::Write };
        // The platform's own routes, and who holds the token, reach no orchestra's data.
        if operation.is_platforms() || operation.name == "me" {
            assert!(begun.is_empty() || wanted == Access::Write, "{what}");
            continue;
        }
        assert_eq!(begun, [wanted], "{what}");
        if wanted == Access::Read { reading += 1 } else { writing += 1 }
    }
    assert!(reading >= 9 && writing >= 16, "the walk is of the whole table: {reading} and {writing}");
}

#[tokio::test]
async fn every_route_that_creates_describes_and_honours_a_key() {
    let mut creating = Vec::new();
    for operation in operations() {
        let parameters = operation.described["parameters"].as_array().cloned().unwrap_or_default();
        let is_described = parameters
            .iter()
            .any(|one| one["in"] == "header" && one["name"] == "Idempotency-Key" && one["required"] != true);
        assert_eq!(is_described, operation.creates(), "{} {}", operation.method, operation.path);
        let answers = &operation.described["responses"];
        if answers["201"].is_object() {
            assert!(operation.creates(), "{} {} creates", operation.method, operation.path);
        }
        if !operation.creates() {
            continue;
        }
        for status in ["409", "422", "503"] {
            assert!(answers[status].is_object(), "{} {}: {status}", operation.method, operation.path);
        }
        // A key that is none is refused, so the key is read.
        let server = server(MockUnitOfWorkFactory::new(), operation.role());
        let long = "k".repeat(256);
        for key in ["", " ", "a b", "\"a", &long] {
            let (status, body, _) = send(&server, operation.request(Some(key))).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{} {key:?}: {body}", operation.path);
            assert_eq!(body["errors"][0]["field"], "Idempotency-Key", "{} {key:?}", operation.path);
        }
        creating.push(operation.name);
    }
    creating.sort_unstable();
    assert_eq!(
        creating,
        [
            "add_database",
            "create_instrument",
            "create_member",
            "create_musician",
            "create_position",
            "create_project",
            "create_tenant",
            "import_musicians",
            "start_move"
        ]
    );
}

/// A server whose every claim becomes this.
fn claiming(claim: Claim, ends: &Ends) -> Router {
    let units = ends.factory(move |unit| {
        let claim = claim.clone();
        unit.expect_idempotency().returning(move || {
            let mut store = MockIdempotencyStore::new();
            let claim = claim.clone();
            store.expect_claim().returning(move |_, _| Ok(claim.clone()));
            Box::new(store)
        });
    });
    server(units, Role::User)
}

fn with_key(key: &str) -> Request<Body> {
    let token = token(Some(1), Role::User);
    let mut request = request("POST", "got.stagesub.test", "/api/v1/musicians", Some(&token), Some(anna()));
    request.headers_mut().insert("idempotency-key", key.parse().expect("the value is a header"));
    request
}

#[tokio::test]
async fn a_key_that_names_another_request_or_one_at_work_is_told_apart() {
    let ends = Ends::default();
    let answer = KeptAnswer {
        status: 201,
        location: None,
        content_type: "application/json".to_owned(),
        body: b"{}".to_vec(),
    };
    let fingerprint = stagesub_domain::idempotency::Fingerprint::new([0; 32]);
    let server = claiming(Claim::Answered { fingerprint, answer }, &ends);
    let (status, body, _) = send(&server, with_key("k")).await;
    assert_eq!(
        (status, &body["type"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("urn:stagesub:problem:idempotency-key-reused"))
    );
    let server = claiming(Claim::Underway, &ends);
    let (status, body, response) = send(&server, with_key("k")).await;
    assert_eq!(
        (status, &body["type"]),
        (StatusCode::CONFLICT, &json!("urn:stagesub:problem:idempotency-key-underway"))
    );
    assert!(response.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(ends.counts(), (2, 0), "nothing was made");
}

#[tokio::test]
async fn two_keys_are_none() {
    let server = server(MockUnitOfWorkFactory::new(), Role::User);
    let mut twice = with_key("a");
    twice.headers_mut().append("idempotency-key", "b".parse().expect("the value is a header"));
    let (status, body, _) = send(&server, twice).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(body["errors"][0]["field"], "Idempotency-Key");
}

/// A server whose every unit commits with this error.
fn failing_at_commit(error: fn() -> StoreError) -> Router {
    let mut units = MockUnitOfWorkFactory::new();
    units.expect_begin().returning(move |_, _| {
        let mut unit = MockUnitOfWork::new();
        can_create(&mut unit);
        unit.expect_musicians().returning(|| {
            let mut musicians = MockMusicianRepository::new();
            musicians.expect_find_by_emails().returning(|_| Ok(Vec::new()));
            musicians.expect_insert().returning(|_| Ok(()));
            Box::new(musicians)
        });
        unit.expect_commit().returning(move || Err(error()));
        Ok(Box::new(unit))
    });
    server(units, Role::User)
}

#[tokio::test]
async fn a_commit_that_nobody_knows_of_is_told_apart_from_one_that_was_refused() {
    let ask = || {
        let token = token(Some(1), Role::User);
        request("POST", "got.stagesub.test", "/api/v1/musicians", Some(&token), Some(anna()))
    };
    for (error, kind) in [
        ((|| StoreError::CommitUnknown("cut".into())) as fn() -> StoreError, "commit-unknown"),
        (|| StoreError::Contended("deadlock".into()), "unavailable"),
        (|| StoreError::Unavailable("down".into()), "unavailable"),
    ] {
        let (status, body, response) = send(&failing_at_commit(error), ask()).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body["type"], format!("urn:stagesub:problem:{kind}"));
        assert!(response.headers().contains_key(header::RETRY_AFTER));
        let tells_of_the_key = body["detail"].as_str().is_some_and(|text| text.contains("Idempotency-Key"));
        assert_eq!(tells_of_the_key, kind == "commit-unknown", "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_time_was_up_is_of_unknown_outcome_and_a_read_is_not() {
    for (method, kind) in [("POST", "commit-unknown"), ("GET", "unavailable")] {
        let server = server_on(Arc::new(Stuck), Role::User);
        let token = token(Some(1), Role::User);
        let body = (method == "POST").then(anna);
        let (status, body, _) =
            send(&server, request(method, "got.stagesub.test", "/api/v1/musicians", Some(&token), body))
                .await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
        assert_eq!(body["type"], format!("urn:stagesub:problem:{kind}"));
    }
}

/// A database that never answers.
struct Stuck;

#[async_trait::async_trait]
impl UnitOfWorkFactory for Stuck {
    type Unit = Box<dyn UnitOfWork>;

    async fn begin(&self, _: &TenantScope, _: Access) -> Result<Self::Unit, BeginError> {
        std::future::pending().await
    }
}
