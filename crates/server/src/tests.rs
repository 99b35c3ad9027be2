//! The HTTP API over mocks: what reaches the ports, what is committed, what the client is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response, StatusCode, header};
use chrono::{DateTime, TimeZone, Utc};
use http_body_util::BodyExt;
use secrecy::SecretString;
use serde_json::{Value, json};
use stagesub_auth::ports::{AuthEpoch, Authority, MockAuthorityStore, MockCredentialStore};
use stagesub_auth::{
    AccessTokens, Authenticator, HasherSettings, LoginService, PasswordHasher, TokenSubject,
};
use stagesub_domain::error::{Constraint, StoreError, UseCaseError};
use stagesub_domain::instrument::Instrument;
use stagesub_domain::musician::Musician;
use stagesub_domain::page::{Page, Paged};
use stagesub_domain::ports::audit::MockAuditLog;
use stagesub_domain::ports::databases::MockPlatformDatabases;
use stagesub_domain::ports::hot_lists::MockHotLists;
use stagesub_domain::ports::musicians::MockMusicianRepository;
use stagesub_domain::ports::quotas::{MockQuotaRepository, Quota};
use stagesub_domain::ports::registry::{MockPersonRegistry, MockTenantDatabases};
use stagesub_domain::ports::settings::MockSettingsRepository;
use stagesub_domain::ports::{HotLists, MockUnitOfWork, MockUnitOfWorkFactory, Units};
use stagesub_domain::project::Project;
use stagesub_domain::role::Role;
use stagesub_domain::settings::Settings;
use stagesub_domain::subscription::Resource;
use stagesub_id_gen::{MockSequenceStore, Reserved};
use stagesub_tenancy::testing::{FixedClock, InMemoryDirectory, tenant};
use stagesub_tenancy::{Access, HostPolicy, Resolver, TenantId, TenantScope, TenantStatus, TrustedProxies};
use tower::ServiceExt;
use uuid::Uuid;

use crate::config::LimitSettings;
use crate::idempotency::{Fingerprints, KeyTurns};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::readiness::MockReadiness;
use crate::routes::build_router;
use crate::state::{AppState, Parts};

mod moves;
mod protocol;
mod route_table;
mod tenants;
mod usage;

const USER: Uuid = Uuid::from_u128(7);

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 23, 12, 0, 0).single().expect("the time exists")
}

fn tokens() -> Arc<AccessTokens> {
    let secret = SecretString::from("a secret of the tests that is long enough");
    Arc::new(AccessTokens::new(&secret, "https://stagesub.test").expect("the secret is long enough"))
}

fn token(tenant: Option<u128>, role: Role) -> String {
    let tenant = tenant.map(|id| TenantId::from_uuid(Uuid::from_u128(id)));
    tokens()
        .issue(TokenSubject { user: USER, tenant, role, auth_epoch: AuthEpoch(1) }, now())
        .expect("tokens can be issued")
}

/// A server over mocks: two orchestras (GOT, MLM), a person whose role is `role` everywhere.
fn server(units: MockUnitOfWorkFactory, role: Role) -> Router {
    server_on(Arc::new(units), role)
}

/// The same over any factory.
fn server_on(units: Units, role: Role) -> Router {
    let hot_lists = EmptyLists(Arc::clone(&units));
    server_with(units, hot_lists, role)
}

/// Lists without anything in them, for whoever may begin to read.
struct EmptyLists(Units);

impl EmptyLists {
    async fn list<T>(&self, scope: &TenantScope) -> Result<Paged<T>, UseCaseError> {
        self.0.begin(scope, Access::Read).await.map_err(UseCaseError::Begin)?;
        Ok(Paged { items: Vec::new(), next: None })
    }
}

#[async_trait::async_trait]
impl HotLists for EmptyLists {
    async fn musicians(&self, scope: &TenantScope, _: Page) -> Result<Paged<Musician>, UseCaseError> {
        self.list(scope).await
    }

    async fn instruments(&self, scope: &TenantScope, _: Page) -> Result<Paged<Instrument>, UseCaseError> {
        self.list(scope).await
    }

    async fn projects(&self, scope: &TenantScope, _: Page) -> Result<Paged<Project>, UseCaseError> {
        self.list(scope).await
    }
}

/// The same with the lists that are asked for most.
fn server_with(units: Units, hot_lists: impl HotLists + 'static, role: Role) -> Router {
    build_router(AppState::new(parts_with(units, hot_lists, role)))
}

/// What such a server works with.
fn parts_with(units: Units, hot_lists: impl HotLists + 'static, role: Role) -> Parts {
    let directory = Arc::new(InMemoryDirectory::new());
    directory.insert(tenant(1, "GOT", "got"));
    directory.insert(tenant(2, "MLM", "mlm"));
    let mut gone = tenant(3, "OLD", "old");
    gone.status = TenantStatus::Suspended;
    directory.insert(gone);
    let mut authority = MockAuthorityStore::new();
    authority.expect_find_authority().returning(move |user, tenant| {
        Ok(Some(Authority {
            user,
            is_active: true,
            is_superadmin: role == Role::Superadmin,
            role: tenant.map(|_| role),
            auth_epoch: AuthEpoch(1),
        }))
    });
    let hasher = Arc::new(
        PasswordHasher::new(HasherSettings { memory_kib: 8, passes: 1, ..HasherSettings::default() })
            .expect("the settings are allowed"),
    );
    let mut readiness = MockReadiness::new();
    readiness.expect_check().returning(|| Ok(()));
    Parts {
        units,
        hot_lists: Arc::new(hot_lists),
        resolver: Resolver::new(
            directory,
            HostPolicy::new("stagesub.test").expect("the domain is well formed"),
        ),
        login: LoginService::new(Arc::new(MockCredentialStore::new()), Arc::clone(&hasher), tokens()),
        authenticator: Authenticator::new(tokens(), Arc::new(authority)),
        passwords: hasher,
        tenants: Arc::new(tenants::registry()),
        people: Arc::new(MockPersonRegistry::new()),
        databases: Arc::new(MockTenantDatabases::new()),
        platform_databases: Arc::new(MockPlatformDatabases::new()),
        invalidate: Arc::new(|_| {}),
        fingerprints: Fingerprints::new(&SecretString::from("a secret of the tests")),
        keys: KeyTurns::new(std::time::Duration::from_secs(5)),
        invalidate_person: Arc::new(|_| {}),
        readiness: Arc::new(readiness),
        clock: Arc::new(FixedClock::at(now())),
        limits: Arc::new(Limits::new(LimitSettings::off())),
        usage: Arc::new(usage::ledger()),
        moves: moves::parts(),
        metrics: Metrics::default(),
        trusted_proxies: TrustedProxies::default(),
        app_domain: "stagesub.test".to_owned(),
    }
}

/// Counts how the units that a factory begins end.
#[derive(Clone, Default)]
struct Ends {
    committed: Arc<AtomicUsize>,
    begun: Arc<AtomicUsize>,
}

impl Ends {
    /// A factory whose every unit is prepared by `prepare` and whose commits are counted.
    fn factory(
        &self,
        prepare: impl Fn(&mut MockUnitOfWork) + Send + Sync + 'static,
    ) -> MockUnitOfWorkFactory {
        let mut units = MockUnitOfWorkFactory::new();
        let ends = self.clone();
        units.expect_begin().returning(move |_, _| {
            ends.begun.fetch_add(1, Ordering::SeqCst);
            let mut unit = MockUnitOfWork::new();
            prepare(&mut unit);
            let committed = Arc::clone(&ends.committed);
            unit.expect_commit().returning(move || {
                committed.fetch_add(1, Ordering::SeqCst);
                Ok(())
            });
            Ok(Box::new(unit))
        });
        units
    }

    fn counts(&self) -> (usize, usize) {
        (self.begun.load(Ordering::SeqCst), self.committed.load(Ordering::SeqCst))
    }
}

/// Everything that entering a musician needs.
fn can_create(unit: &mut MockUnitOfWork) {
    unit.expect_quotas().returning(|| {
        let mut quotas = MockQuotaRepository::new();
        quotas.expect_lock().returning(|_| {
            Ok(Quota { resource: Resource::Musicians, used: 0, limit: None, grace_until: None })
        });
        quotas.expect_update().returning(|_| Ok(()));
        Box::new(quotas)
    });
    unit.expect_settings().returning(|| {
        let mut settings = MockSettingsRepository::new();
        settings.expect_get().returning(|| Ok(Settings::default()));
        Box::new(settings)
    });
    unit.expect_sequences().returning(|| {
        let mut sequences = MockSequenceStore::new();
        sequences.expect_reserve().returning(|_, count| Ok(Reserved { first: 1, count }));
        Box::new(sequences)
    });
    unit.expect_audit().returning(|| {
        let mut audit = MockAuditLog::new();
        audit.expect_record().returning(|_| Ok(()));
        Box::new(audit)
    });
}

async fn send(server: &Router, request: Request<Body>) -> (StatusCode, Value, Response<()>) {
    let mut request = request;
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 40_000))));
    let response = server.clone().oneshot(request).await.expect("the router is infallible");
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("the body arrives").to_bytes();
    let value =
        if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap_or(Value::Null) };
    (parts.status, value, Response::from_parts(parts, ()))
}

fn request(method: &str, host: &str, path: &str, token: Option<&str>, body: Option<Value>) -> Request<Body> {
    let mut builder = Request::builder().method(method).uri(path).header(header::HOST, host);
    if let Some(token) = token {
        builder = builder.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    match body {
        Some(body) => builder
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_string()))
            .expect("the request is well formed"),
        None => builder.body(Body::empty()).expect("the request is well formed"),
    }
}

fn anna() -> Value {
    json!({"firstName": "Anna", "lastName": "Berg", "email": "anna@example.com"})
}

#[tokio::test]
async fn a_musician_is_created_and_committed_once() {
    let ends = Ends::default();
    let server = server(
        ends.factory(|unit| {
            can_create(unit);
            unit.expect_musicians().returning(|| {
                let mut musicians = MockMusicianRepository::new();
                musicians.expect_find_by_emails().returning(|_| Ok(Vec::new()));
                musicians.expect_insert().returning(|_| Ok(()));
                Box::new(musicians)
            });
        }),
        Role::User,
    );
    let token = token(Some(1), Role::User);
    let (status, body, response) =
        send(&server, request("POST", "got.stagesub.test", "/api/v1/musicians", Some(&token), Some(anna())))
            .await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    assert_eq!(body["id"], "GOT-MUS-001");
    assert_eq!(response.headers()[header::LOCATION], "/api/v1/musicians/GOT-MUS-001");
    assert_eq!(ends.counts(), (1, 1));
}

#[tokio::test]
async fn a_refused_change_is_dropped_and_never_committed() {
    let ends = Ends::default();
    let server = server(
        ends.factory(|unit| {
            can_create(unit);
            unit.expect_musicians().returning(|| {
                let mut musicians = MockMusicianRepository::new();
                musicians.expect_find_by_emails().returning(|_| Ok(Vec::new()));
                musicians
                    .expect_insert()
                    .returning(|_| Err(StoreError::Conflict { constraint: Constraint::MusicianEmail }));
                Box::new(musicians)
            });
        }),
        Role::User,
    );
    let token = token(Some(1), Role::User);
    let (status, body, response) =
        send(&server, request("POST", "got.stagesub.test", "/api/v1/musicians", Some(&token), Some(anna())))
            .await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    assert_eq!(body["type"], "urn:stagesub:problem:taken");
    assert_eq!(body["errors"][0]["field"], "email");
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    assert_eq!(ends.counts(), (1, 0));
}

#[tokio::test]
async fn bad_input_is_told_by_field_and_rule_before_anything_is_begun() {
    let ends = Ends::default();
    let server = server(ends.factory(can_create), Role::User);
    let token = token(Some(1), Role::User);
    let mut misspelt = anna();
    misspelt["fristName"] = json!("Anna");
    let (status, body, _) = send(
        &server,
        request("POST", "got.stagesub.test", "/api/v1/musicians", Some(&token), Some(misspelt)),
    )
    .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body["errors"][0]["message"].as_str().is_some_and(|text| text.contains("fristName")), "{body}");
    let mut foreign = anna();
    foreign["qualifications"] = json!(["MLM-POS-001"]);
    let (status, body, _) =
        send(&server, request("POST", "got.stagesub.test", "/api/v1/musicians", Some(&token), Some(foreign)))
            .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(body["errors"][0]["field"], "qualifications[0]");
    assert_eq!(ends.counts().1, 0);
}

#[tokio::test]
async fn every_id_that_is_not_there_gets_the_same_answer() {
    let ends = Ends::default();
    let server = server(
        ends.factory(|unit| {
            unit.expect_musicians().returning(|| {
                let mut musicians = MockMusicianRepository::new();
                musicians.expect_find().returning(|_, _| Ok(None));
                Box::new(musicians)
            });
        }),
        Role::Viewer,
    );
    let token = token(Some(1), Role::Viewer);
    let mut answers = Vec::new();
    for id in ["GOT-MUS-999", "MLM-MUS-001", "GOT-INST-001", "GOT-MUS-1", "got-mus-001", "%00", "nothing"] {
        let path = format!("/api/v1/musicians/{id}");
        let (status, body, _) =
            send(&server, request("GET", "got.stagesub.test", &path, Some(&token), None)).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{id}");
        answers.push(body);
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
}

#[tokio::test]
async fn a_token_opens_only_the_host_it_was_made_for() {
    let ends = Ends::default();
    let server = server(ends.factory(|_| {}), Role::Admin);
    let foreign = token(Some(2), Role::Admin);
    let platform = token(None, Role::Superadmin);
    for token in [foreign.as_str(), platform.as_str(), "nonsense", ""] {
        let (status, body, response) =
            send(&server, request("GET", "got.stagesub.test", "/api/v1/musicians", Some(token), None)).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
    }
    let (status, _, _) =
        send(&server, request("GET", "got.stagesub.test", "/api/v1/musicians", None, None)).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(ends.counts(), (0, 0), "nobody reached the data");
}

#[tokio::test]
async fn a_viewer_reads_and_changes_nothing() {
    let ends = Ends::default();
    // What is listed when nothing is asked for comes in one message; anything else takes a unit of work.
    let mut hot_lists = MockHotLists::new();
    let page = Page::new(Some(7), 20).expect("a page");
    let asked = move |scope: &TenantScope, got: &Page| scope.code().as_str() == "GOT" && *got == page;
    let none = |_: &TenantScope, _: Page| Ok(Paged { items: Vec::new(), next: None });
    hot_lists.expect_musicians().withf(asked).once().returning(none);
    let server = server_with(
        Arc::new(ends.factory(|unit| {
            unit.expect_musicians().returning(|| {
                let mut musicians = MockMusicianRepository::new();
                musicians.expect_list().returning(|_, _| Ok(Paged { items: Vec::new(), next: None }));
                Box::new(musicians)
            });
        })),
        hot_lists,
        Role::Viewer,
    );
    let token = token(Some(1), Role::Viewer);
    for (query, begun) in [("cursor=Nw&limit=20", 0), ("cursor=Nw&limit=20&isActive=true", 1)] {
        let path = format!("/api/v1/musicians?{query}");
        let (status, body, _) =
            send(&server, request("GET", "got.stagesub.test", &path, Some(&token), None)).await;
        assert_eq!((status, body), (StatusCode::OK, json!({"items": [], "nextCursor": null})));
        assert_eq!(ends.counts(), (begun, begun));
    }
    let (status, body, _) =
        send(&server, request("POST", "got.stagesub.test", "/api/v1/musicians", Some(&token), Some(anna())))
            .await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(body["type"], "urn:stagesub:problem:forbidden");
    assert_eq!(ends.begun.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn hosts_decide_which_routes_there_are() {
    let server = server(MockUnitOfWorkFactory::new(), Role::Superadmin);
    let member = token(Some(1), Role::Superadmin);
    let platform = token(None, Role::Superadmin);
    for (host, path, token) in [
        ("nobody.stagesub.test", "/api/v1/musicians", &member),
        ("a.got.stagesub.test", "/api/v1/musicians", &member),
        ("got.stagesub.test.evil.example", "/api/v1/musicians", &member),
        ("127.0.0.1", "/api/v1/musicians", &member),
        ("stagesub.test", "/api/v1/musicians", &platform),
        ("got.stagesub.test", "/api/v1/platform/tenants", &platform),
    ] {
        let (status, _, _) = send(&server, request("GET", host, path, Some(token), None)).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{host}{path}");
    }
}

#[tokio::test]
async fn headers_of_the_client_choose_no_tenant() {
    let ends = Ends::default();
    let server = server(ends.factory(|_| {}), Role::User);
    let token = token(Some(2), Role::User);
    let mut forged = request("GET", "got.stagesub.test", "/api/v1/musicians", Some(&token), None);
    for (name, value) in [
        ("x-forwarded-host", "mlm.stagesub.test"),
        ("x-tenant-subdomain", "mlm"),
        ("x-tenant-id", "00000000-0000-0000-0000-000000000002"),
    ] {
        forged.headers_mut().insert(name, value.parse().expect("the value is a header"));
    }
    let (status, _, _) = send(&server, forged).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "the host is got's, the token mlm's");
    assert_eq!(ends.counts(), (0, 0));
}

#[tokio::test]
async fn a_suspended_orchestra_is_told_so_with_a_type_of_its_own() {
    let server = server(MockUnitOfWorkFactory::new(), Role::Admin);
    let (status, body, _) =
        send(&server, request("GET", "old.stagesub.test", "/api/v1/tenant", None, None)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(body["type"], "urn:stagesub:problem:tenant-suspended");
}

#[tokio::test]
async fn probes_answer_on_any_host_and_www_is_sent_to_the_apex() {
    let server = server(MockUnitOfWorkFactory::new(), Role::User);
    for path in ["/healthz", "/readyz"] {
        let (status, _, _) = send(&server, request("GET", "10.0.0.7:8080", path, None, None)).await;
        assert_eq!(status, StatusCode::OK, "{path}");
    }
    let (status, _, response) =
        send(&server, request("GET", "www.stagesub.test:8080", "/x?y=1", None, None)).await;
    assert_eq!(status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(response.headers()[header::LOCATION], "//stagesub.test:8080/x?y=1");
}

#[tokio::test]
async fn the_description_of_the_api_is_served_with_every_route() {
    let server = server(MockUnitOfWorkFactory::new(), Role::User);
    let (status, body, _) =
        send(&server, request("GET", "stagesub.test", "/api/openapi.json", None, None)).await;
    assert_eq!(status, StatusCode::OK);
    for path in
        ["/api/v1/auth/login", "/api/v1/musicians/{id}", "/api/v1/musicians/import", "/api/v1/projects"]
    {
        assert!(body["paths"][path].is_object(), "{path}");
    }
    let (status, _, _) = send(&server, request("GET", "stagesub.test", "/api/docs/", None, None)).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_body_that_is_too_large_or_no_json_is_a_problem() {
    let server = server(Ends::default().factory(can_create), Role::User);
    let token = token(Some(1), Role::User);
    let mut large = anna();
    large["notes"] = json!("x".repeat(300 * 1024));
    let (status, _, _) =
        send(&server, request("POST", "got.stagesub.test", "/api/v1/musicians", Some(&token), Some(large)))
            .await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let broken = Request::builder()
        .method("POST")
        .uri("/api/v1/musicians")
        .header(header::HOST, "got.stagesub.test")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from("{"))
        .expect("the request is well formed");
    let (status, body, _) = send(&server, broken).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(body["type"], "urn:stagesub:problem:malformed-request");
}

#[tokio::test]
async fn a_file_larger_than_other_bodies_comes_as_a_form_too() {
    let ends = Ends::default();
    let server = server(ends.factory(can_create), Role::User);
    let mut form =
        String::from("--x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"m.csv\"\r\n\r\n");
    form.push_str("no such column\n");
    form.push_str(&"x\n".repeat(200_000));
    form.push_str("\r\n--x--\r\n");
    let mut request = request(
        "POST",
        "got.stagesub.test",
        "/api/v1/musicians/import",
        Some(&token(Some(1), Role::User)),
        None,
    );
    request.headers_mut().insert(
        header::CONTENT_TYPE,
        "multipart/form-data; boundary=x".parse().expect("the value is a header"),
    );
    *request.body_mut() = Body::from(form);
    let (status, body, _) = send(&server, request).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "read whole, then refused for its header: {body}");
    assert_eq!(body["errors"][0]["rule"], "missing_columns");
}

#[tokio::test]
async fn a_body_is_an_object_with_names_and_a_path_that_is_no_text_is_not_there() {
    let server = server(Ends::default().factory(can_create), Role::User);
    let token = token(Some(1), Role::User);
    let values = json!(["Anna", "Berg", "anna@example.com", null, null, false, null, true, []]);
    let (status, body, _) =
        send(&server, request("POST", "got.stagesub.test", "/api/v1/musicians", Some(&token), Some(values)))
            .await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    let (status, body, _) =
        send(&server, request("GET", "got.stagesub.test", "/api/v1/musicians/%ff", Some(&token), None)).await;
    assert_eq!((status, &body["type"]), (StatusCode::NOT_FOUND, &json!("urn:stagesub:problem:not-found")));
}

#[tokio::test]
async fn an_error_of_ours_names_the_request() {
    let mut units = MockUnitOfWorkFactory::new();
    units.expect_begin().returning(|_, _| Err(stagesub_tenancy::BeginError::Busy));
    let server = server(units, Role::Viewer);
    let token = token(Some(1), Role::Viewer);
    let (status, body, response) =
        send(&server, request("GET", "got.stagesub.test", "/api/v1/musicians", Some(&token), None)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        body["requestId"].as_str().map(str::as_bytes),
        Some(response.headers()["x-request-id"].as_bytes())
    );
    assert!(response.headers().contains_key(header::RETRY_AFTER));
}
