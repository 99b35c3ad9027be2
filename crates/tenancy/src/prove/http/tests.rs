//! The attacks against a little service, whole and with each of its guards removed.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum_core::body::Body;
use axum_core::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};

use super::*;

/// A check that the service may have lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    Nothing,
    /// Any host whose first label is a tenant's is that tenant's.
    Host,
    /// Spellings of a host are compared for tenants and not for tokens.
    Spelling,
    Token,
    Signature,
    Suspension,
    Role,
    /// A note is looked for among all tenants' notes.
    Ids,
    /// Whether a note exists elsewhere is told by the status.
    Existence,
    /// A header names the tenant.
    Header,
    /// The platform's people look into tenants.
    Platform,
    /// An error quotes what it found.
    Words,
    /// Everything fails.
    Everything,
}

const DOMAIN: &str = "notes.example";

/// Keeps one note a tenant; notes can be read, written and listed.
#[derive(Clone)]
struct Notes {
    lost: Lost,
    written: Arc<Mutex<Vec<String>>>,
}

impl Notes {
    fn lacking(lost: Lost) -> Self {
        Self { lost, written: Arc::default() }
    }

    fn tenant(&self, headers: &HeaderMap) -> Option<&'static str> {
        if self.lost == Lost::Header
            && let Some(label) = headers.get("x-tenant-subdomain")
        {
            return known(label.to_str().ok()?);
        }
        let host = headers.get(HOST)?.to_str().ok()?;
        if self.lost == Lost::Host {
            return known(host.split('.').next()?);
        }
        let (name, port) = host.split_once(':').unwrap_or((host, ""));
        if !port.is_empty() && port.parse::<u16>().is_err() {
            return None;
        }
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        match name.strip_suffix(DOMAIN)?.strip_suffix('.') {
            None => (name == DOMAIN).then_some("platform"),
            Some(label) => known(label).filter(|label| *label != "platform"),
        }
    }

    fn answer(&self, request: &Request<Body>) -> Result<String, (StatusCode, &'static str)> {
        const NOT_FOUND: (StatusCode, &str) = (StatusCode::NOT_FOUND, "nothing here");
        const UNAUTHORIZED: (StatusCode, &str) = (StatusCode::UNAUTHORIZED, "who are you?");
        if self.lost == Lost::Everything {
            return Err((StatusCode::SERVICE_UNAVAILABLE, "not now"));
        }
        let headers = request.headers();
        let tenant = self.tenant(headers).ok_or(NOT_FOUND)?;
        if tenant == "old" && self.lost != Lost::Suspension {
            return Err((StatusCode::FORBIDDEN, "suspended"));
        }
        let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut parts = token.strip_prefix("Bearer ").ok_or(UNAUTHORIZED)?.split('.');
        let (head, claims, signature) = (parts.next(), parts.next(), parts.next());
        let (of, role) = claims.and_then(|claims| claims.split_once('-')).ok_or(UNAUTHORIZED)?;
        let signed = head == Some("head") && signature == Some(&sign(of, role));
        if !signed && self.lost != Lost::Signature {
            return Err(UNAUTHORIZED);
        }
        let is_spelt_otherwise =
            headers.get(HOST).is_some_and(|host| host.as_bytes() != format!("{tenant}.{DOMAIN}").as_bytes());
        let passes = match self.lost {
            Lost::Token => of != "platform",
            Lost::Platform => of == "platform" || of == tenant,
            Lost::Spelling => is_spelt_otherwise && tenant != "platform" || of == tenant,
            _ => of == tenant,
        };
        if !passes {
            return Err(UNAUTHORIZED);
        }
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/tenants") if tenant == "platform" => Ok("alto bass".to_owned()),
            (_, "/tenants") => Err(NOT_FOUND),
            (&Method::GET, "/notes") if tenant != "platform" => Ok(format!("[{}]", canary(tenant))),
            (&Method::POST, "/notes") if tenant != "platform" => {
                if role != "writer" && self.lost != Lost::Role {
                    return Err((StatusCode::FORBIDDEN, "you only read"));
                }
                self.written.lock().unwrap().push(tenant.to_owned());
                Ok("written".to_owned())
            }
            (&Method::GET, path) => {
                let id = path.strip_prefix("/notes/").ok_or(NOT_FOUND)?;
                let owner = match id {
                    "1" => "alto",
                    "2" => "bass",
                    "3" => "old",
                    _ => return Err(NOT_FOUND),
                };
                match self.lost {
                    Lost::Ids => Ok(canary(owner)),
                    Lost::Existence if owner != tenant => Err((StatusCode::FORBIDDEN, "not yours")),
                    Lost::Words if owner == "bass" && tenant != owner => {
                        Err((StatusCode::NOT_FOUND, "it is bass-canary"))
                    }
                    _ if owner == tenant => Ok(canary(owner)),
                    _ => Err(NOT_FOUND),
                }
            }
            _ => Err(NOT_FOUND),
        }
    }
}

fn known(label: &str) -> Option<&'static str> {
    ["alto", "bass", "old", "platform"].into_iter().find(|known| known.eq_ignore_ascii_case(label))
}

fn canary(tenant: &str) -> String {
    format!("{tenant}-canary")
}

fn sign(of: &str, role: &str) -> String {
    format!("signedby{of}{role}")
}

fn site(name: &str, host: &str, note: &str, roles: &[&str]) -> Site {
    let callers = roles.iter().map(|role| {
        let token = format!("Bearer head.{name}-{role}.{}", sign(name, role));
        Caller::new(*role, HeaderValue::from_str(&token).unwrap())
    });
    callers.fold(
        Site::new(name, host).id(note).canary(canary(name)).value("note", note).absent("note", "999"),
        Site::caller,
    )
}

fn plan() -> Plan {
    let tenant = |name: &str, note| site(name, &format!("{name}.{DOMAIN}"), note, &["writer", "reader"]);
    Plan::new([tenant("alto", "1"), tenant("bass", "2")], format!("nobody.{DOMAIN}"))
        .suspended(tenant("old", "3"))
        .platform(site("platform", DOMAIN, "4", &["operator"]))
        .route(Route::new(Method::GET, "/notes").allowed(["writer", "reader"]).reveals())
        .route(Route::new(Method::GET, "/notes?after={note}").allowed(["writer", "reader"]).reveals())
        .route(Route::new(Method::GET, "/notes/{note}").allowed(["writer", "reader"]).reveals())
        .route(Route::new(Method::POST, "/notes").allowed(["writer"]).body("text/plain", "note {unique}"))
        .route(Route::new(Method::GET, "/tenants").at(At::Platform).allowed(["operator"]))
}

async fn prove(notes: &Notes, plan: &Plan) -> Proof {
    prove_isolation(&service(notes), plan).await
}

fn service(notes: &Notes) -> impl Target + use<> {
    let notes = notes.clone();
    InProcess::new(tower::service_fn(move |request: Request<Body>| {
        let answer: Response = match notes.answer(&request) {
            Ok(text) => text.into_response(),
            Err(refusal) => refusal.into_response(),
        };
        async move { Ok::<_, Infallible>(answer) }
    }))
}

fn failed_suites(proof: &Proof) -> BTreeSet<&str> {
    proof.failures().map(|attack| attack.suite.as_str()).collect()
}

#[tokio::test]
async fn a_service_with_all_its_guards_passes_and_every_suite_was_tried() {
    let notes = Notes::lacking(Lost::Nothing);
    let plan = plan();
    let proof = prove(&notes, &plan).await;
    let failures: Vec<_> = proof.failures().collect();
    assert!(proof.passed(), "{failures:#?}");
    let tried: BTreeSet<&str> = proof.attacks().iter().map(|attack| attack.suite.as_str()).collect();
    assert_eq!(tried, suites::ALL.into_iter().collect());
    // What was written is what was allowed: one note by each tenant's writer.
    let mut written = notes.written.lock().unwrap().clone();
    written.sort();
    assert_eq!(written, ["alto", "bass"]);
    for route in plan.routes.iter().filter(|route| route.at == At::Tenants) {
        for suite in suites::ALL {
            let there = proof.attacks().iter().any(|it| it.suite == suite && it.target == route.name);
            let may_lack = suite == suites::OTHER_IDS && !route.names_things();
            assert!(there || may_lack, "{suite} of {}", route.name);
        }
    }
}

#[tokio::test]
async fn every_lost_guard_is_seen_where_it_belongs() {
    for (lost, expected) in [
        (Lost::Host, suites::FOREIGN_HOST),
        (Lost::Token, suites::OTHER_TOKEN),
        (Lost::Spelling, suites::OTHER_TOKEN),
        (Lost::Signature, suites::FORGED_TOKEN),
        (Lost::Suspension, suites::SUSPENDED),
        (Lost::Role, suites::OWN),
        (Lost::Ids, suites::OTHER_IDS),
        (Lost::Existence, suites::OTHER_IDS),
        (Lost::Words, suites::OTHER_IDS),
        (Lost::Header, suites::HEADERS),
        (Lost::Platform, suites::PLATFORM),
        (Lost::Everything, suites::OWN),
    ] {
        let proof = prove(&Notes::lacking(lost), &plan()).await;
        assert!(!proof.passed(), "{lost:?}");
        assert!(failed_suites(&proof).contains(expected), "{lost:?}: {:?}", failed_suites(&proof));
    }
}

#[tokio::test]
async fn a_difference_in_words_and_a_canary_are_told_apart() {
    let told = |proof: Proof| -> BTreeSet<String> {
        let details = proof.failures().map(|attack| match &attack.outcome {
            Outcome::Reached(detail) | Outcome::NotCarriedOut(detail) => detail.clone(),
            Outcome::Refused => "refused".to_owned(),
        });
        details.collect()
    };
    let words = told(prove(&Notes::lacking(Lost::Words), &plan()).await);
    assert_eq!(words.len(), 1, "{words:?}");
    assert!(words.iter().all(|detail| detail.contains("carries bass-canary")), "{words:?}");
    let existence = told(prove(&Notes::lacking(Lost::Existence), &plan()).await);
    assert!(existence.iter().any(|detail| detail.contains("by its status")), "{existence:?}");
    let everything = prove(&Notes::lacking(Lost::Everything), &plan()).await;
    assert!(
        everything.failures().all(|attack| matches!(attack.outcome, Outcome::NotCarriedOut(_))),
        "a service that fails refuses nothing"
    );
}

#[tokio::test]
async fn controls_succeed_without_the_guard_and_fail_with_it() {
    let plan = plan();
    let whole = service(&Notes::lacking(Lost::Nothing));
    let unsuspended = service(&Notes::lacking(Lost::Suspension));
    for guard in Guard::ALL {
        let proof = match guard {
            Guard::Host => see_it_fail(&Unguarded::without_host_check(&whole, &plan), &plan, guard).await,
            Guard::Token => see_it_fail(&Unguarded::without_token_check(&whole, &plan), &plan, guard).await,
            Guard::Suspension => see_it_fail(&unsuspended, &plan, guard).await,
        };
        assert!(!proof.attacks().is_empty(), "{guard:?}");
        assert!(proof.attacks().iter().all(|attack| attack.expectation == Expectation::Control));
        assert_eq!(proof.failures().count(), 0, "{guard:?}: {:#?}", proof.failures().collect::<Vec<_>>());
        let held = see_it_fail(&whole, &plan, guard).await;
        assert_eq!(held.failures().count(), held.attacks().len(), "{guard:?} stands");
    }
}

#[tokio::test]
async fn attacks_as_a_whole_fail_against_an_unguarded_target() {
    let plan = plan();
    let whole = service(&Notes::lacking(Lost::Nothing));
    let proof = prove_isolation(&Unguarded::without_host_check(&whole, &plan), &plan).await;
    assert!(failed_suites(&proof).contains(suites::FOREIGN_HOST), "{:?}", failed_suites(&proof));
    let proof = prove_isolation(&Unguarded::without_token_check(&whole, &plan), &plan).await;
    assert!(failed_suites(&proof).contains(suites::OTHER_TOKEN), "{:?}", failed_suites(&proof));
}

#[tokio::test]
async fn what_cannot_be_tried_fails_the_proof() {
    let service = service(&Notes::lacking(Lost::Nothing));
    let unknown = plan().route(Route::unknown(Method::PUT, "/notes", "nobody says what its body is"));
    let proof = prove_isolation(&service, &unknown).await;
    assert_eq!(proof.failures().count(), 1);
    let no_value = plan().route(Route::new(Method::GET, "/notes/{page}").allowed(["reader"]));
    let proof = prove_isolation(&service, &no_value).await;
    let failure = proof.failures().next().expect("it fails");
    assert_eq!(failure.outcome, Outcome::NotCarriedOut("the plan has no value for {page}".to_owned()));
    // Data without the canary would hide a leak.
    let silent = plan().route(Route::new(Method::POST, "/notes").allowed(["writer"]).reveals());
    let proof = prove_isolation(&service, &silent).await;
    assert!(proof.failures().all(|attack| matches!(attack.outcome, Outcome::NotCarriedOut(_))));
    assert_eq!(proof.failures().count(), 2);
}

/// Uses up what was made for each allowed request.
struct Made;

#[async_trait::async_trait]
impl Fixtures for Made {
    async fn prepare(
        &self,
        _: &dyn Target,
        route: &Route,
        site: &Site,
    ) -> Result<std::collections::BTreeMap<String, String>, String> {
        if route.path == "/notes" {
            return Err("no ink".to_owned());
        }
        Ok([("note".to_owned(), site.values["note"].clone())].into())
    }
}

#[tokio::test]
async fn what_a_request_uses_up_is_made_for_the_allowed_ones_alone() {
    let plan = plan().fixtures(Arc::new(Made));
    let proof = prove(&Notes::lacking(Lost::Nothing), &plan).await;
    assert!(proof.failures().all(|attack| {
        attack.expectation == Expectation::Allowed
            && attack.outcome == Outcome::NotCarriedOut("no ink".to_owned())
    }));
    assert_eq!(proof.failures().count(), 6, "two roles listing and one writing, of two tenants");
}

#[tokio::test]
async fn a_target_in_this_process_tells_its_peer_and_gives_the_whole_answer() {
    let target = InProcess::new(tower::service_fn(|request: Request<Body>| async move {
        let peer = request.extensions().get::<crate::http::PeerAddr>().map(|peer| peer.0.to_string());
        Ok::<_, Infallible>(peer.into_response_or_404())
    }))
    .from_address([192, 0, 2, 1].into());
    let answer = target.send(Request::new(Bytes::new())).await.unwrap();
    assert_eq!(answer.body().as_ref(), b"192.0.2.1");
}

trait Respond {
    fn into_response_or_404(self) -> Response;
}

impl Respond for Option<String> {
    fn into_response_or_404(self) -> Response {
        self.map_or_else(|| StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response)
    }
}

#[test]
fn placeholders_are_names_in_braces_and_json_has_none() {
    let found = |text| plan::placeholders(text).collect::<Vec<_>>();
    assert_eq!(found("/notes/{note}?by={person}"), ["note", "person"]);
    assert_eq!(found(r#"{"name": "{unique}", "of": {"id": "{note}"}}"#), ["unique", "note"]);
    assert_eq!(found("{} {a b} {"), Vec::<&str>::new());
}
