//! The proof over HTTP on a real platform: what it tries, what it sees, and how it leaves things.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use stagesub_domain::ports::registry::TenantAccount;
use stagesub_server::problem::Problem;
use stagesub_server::prove::{self, Attacked, Extent, ProveError, Remote, Report, routes};
use stagesub_server::routes::{HostKind, authority, build_router};
use stagesub_tenancy::TenantStatus;
use stagesub_tenancy::prove::http::{Guard, suites};
use stagesub_tenancy::prove::{Expectation, Outcome};
use stagesub_tests::{Kept, TestPlatform};
use tokio_util::sync::CancellationToken;

async fn prove(platform: &TestPlatform, attacked: Attacked<'_>) -> Report {
    let stop = CancellationToken::new();
    prove::run(platform.wired(), TestPlatform::DOMAIN, attacked, Extent::Routes, &stop)
        .await
        .unwrap_or_else(|error| panic!("there is a proof: {error:?}"))
}

/// The canaries, in the order of their letters.
async fn canaries(platform: &TestPlatform) -> Vec<TenantAccount> {
    let mut found = Vec::new();
    for letter in ["a", "b", "c"] {
        let label = format!("stagesub-canary-{letter}").parse().expect("a label");
        let canary =
            platform.wired().tenants().find_by_subdomain(&label).await.expect("the registry answers");
        found.push(canary.expect("the canary is there"));
    }
    found
}

/// Nobody is served by the canaries, and the proof's own administrator may not sign in.
async fn assert_at_rest(platform: &TestPlatform) {
    for canary in canaries(platform).await {
        assert_eq!(canary.status, TenantStatus::Suspended, "{}", canary.subdomain);
    }
    let operator = platform.wired().people().find_by_email("operator@canary.stagesub.invalid").await;
    assert!(!operator.expect("the registry answers").expect("the operator is there").is_active);
}

fn failed_suites(report: &Report) -> BTreeSet<&str> {
    report.failures.iter().map(|attack| attack.suite.as_str()).collect()
}

/// Who was tried on which operation in which family: `(operation, suite, role, where from)`.
fn tried(report: &Report) -> BTreeSet<(String, String, String, String)> {
    let attacks = report.attacks.attacks().iter();
    attacks
        .filter(|attack| attack.expectation != Expectation::Control)
        .map(|attack| {
            let (who, _) = attack.attempt.split_once(": ").expect("an attempt says who");
            let (role, of) = who.split_once(" of ").expect("somebody is from somewhere");
            (attack.target.clone(), attack.suite.clone(), role.to_owned(), of.to_owned())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_passes_and_every_operation_was_tried_as_every_role_in_every_way() {
    let platform = TestPlatform::start().await;
    let [ours, theirs] = platform.pair(Kept::Shared).await;
    ours.admin.post("/api/v1/instruments", &serde_json::json!({ "name": "Theremin" })).await.expect(201);
    let before = (platform.audit(&ours).await.len(), platform.audit(&theirs).await.len());

    let report = prove(&platform, Attacked::InProcess(platform.serving())).await;
    assert!(report.holds(), "{}\n{:#?}", report.to_text(), report.failures);
    println!("{}", report.to_text());

    let tried = tried(&report);
    let was_tried = |operation: &str, suite: &str, role: &str, of: &str| {
        let case = (operation.to_owned(), suite.to_owned(), role.to_owned(), of.to_owned());
        assert!(tried.contains(&case), "{case:?} was not tried");
    };
    let described = authority().iter().filter(|row| row.is_described());
    let mut operations = 0;
    for row in described {
        operations += 1;
        let operation = format!("{} {}", row.method, row.path);
        if row.host == HostKind::Apex {
            was_tried(&operation, suites::OWN, "superadmin", "the platform");
            was_tried(&operation, suites::OWN, "nobody", "the platform");
            for suite in [suites::UNKNOWN_HOST, suites::FOREIGN_HOST, suites::FORGED_TOKEN, suites::HEADERS] {
                was_tried(&operation, suite, "superadmin", "the platform");
            }
            for of in ["canary A", "canary B"] {
                for role in ["admin", "user", "viewer"] {
                    was_tried(&operation, suites::PLATFORM, role, of);
                }
            }
            continue;
        }
        // Whoever signs in is nobody yet.
        let open = row.allows(None);
        let roles: &[&str] = if open { &["nobody"] } else { &["admin", "user", "viewer"] };
        for role in roles {
            for of in ["canary A", "canary B"] {
                for suite in [suites::OWN, suites::UNKNOWN_HOST, suites::FOREIGN_HOST] {
                    was_tried(&operation, suite, role, of);
                }
                if row.path.contains("{id}") || open {
                    was_tried(&operation, suites::OTHER_IDS, role, of);
                }
                if !open {
                    was_tried(&operation, suites::OTHER_TOKEN, role, of);
                    was_tried(&operation, suites::OWN, "nobody", of);
                }
                was_tried(&operation, suites::PLATFORM, role, of);
            }
            was_tried(&operation, suites::SUSPENDED, role, "canary C");
        }
        if !open {
            was_tried(&operation, suites::FORGED_TOKEN, "admin", "canary A");
            was_tried(&operation, suites::PLATFORM, "superadmin", "the platform");
        }
        was_tried(&operation, suites::HEADERS, roles[0], "canary A");
    }
    assert_eq!((operations, report.operations), (routes::operations().len(), operations));

    // What each role may was done, in either canary; by the table of authority and not by the proof's own word.
    for row in authority().iter().filter(|row| row.is_described() && row.host == HostKind::Tenant) {
        let allowed: BTreeMap<&str, usize> = report
            .attacks
            .attacks()
            .iter()
            .filter(|attack| attack.expectation == Expectation::Allowed)
            .filter(|attack| attack.target == format!("{} {}", row.method, row.path))
            .fold(BTreeMap::new(), |mut counts, attack| {
                *counts.entry(attack.attempt.split(' ').next().unwrap_or_default()).or_default() += 1;
                counts
            });
        let expected: BTreeMap<&str, usize> = routes::ROLES
            .iter()
            .filter(|role| row.allows(Some(**role)))
            .map(|role| (role.as_str(), 2))
            .collect();
        assert_eq!(allowed, expected, "{} {}", row.method, row.path);
    }
    for guard in Guard::ALL {
        let count = report.counts.iter().find(|count| count.suite == guard.suite()).expect("it was tried");
        assert!(count.controls > 0, "{guard:?} was never removed");
    }

    assert_at_rest(&platform).await;
    assert_eq!((platform.audit(&ours).await.len(), platform.audit(&theirs).await.len()), before);
    let entries = platform.platform_audit(None).await;
    let proofs: Vec<_> = entries.iter().filter(|entry| entry.action == "prove").collect();
    assert_eq!(proofs.len(), 1);
    assert_eq!(proofs[0].changes.as_ref().expect("what came of it")["passed"], true);

    // The second run finds what the first one made.
    let tenants = platform.count_in_registry("registry.tenants").await;
    let people = platform.count_in_registry("registry.users").await;
    let canary = canaries(&platform).await.remove(0);
    let instruments = platform.count_of(canary.id, "tenant.instrument").await;
    let again = prove(&platform, Attacked::InProcess(platform.serving())).await;
    assert!(again.holds(), "{}", again.to_text());
    assert_eq!(again.attacks.attacks().len(), report.attacks.attacks().len());
    assert_eq!(canaries(&platform).await[0].id, canary.id);
    assert_eq!(platform.count_in_registry("registry.tenants").await, tenants);
    assert_eq!(platform.count_in_registry("registry.users").await, people);
    assert_eq!(platform.count_of(canary.id, "tenant.instrument").await, instruments, "probes are removed");
    assert_at_rest(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_check_of_hosts_it_fails() {
    fails_without(Guard::Host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_check_of_tokens_it_fails() {
    fails_without(Guard::Token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_check_of_suspension_it_fails() {
    fails_without(Guard::Suspension).await;
}

async fn fails_without(guard: Guard) {
    let platform = TestPlatform::start().await;
    let report = prove(&platform, Attacked::Lacking(platform.serving(), guard)).await;
    assert!(!report.holds());
    assert!(failed_suites(&report).contains(guard.suite()), "{guard:?}: {:?}", failed_suites(&report));
    let reached = report
        .failures
        .iter()
        .filter(|attack| attack.suite == guard.suite() && matches!(attack.outcome, Outcome::Reached(_)));
    assert!(reached.count() > 10, "{}", report.to_text());
    assert!(report.to_text().ends_with("FAIL"));
    assert!(report.answers.iter().any(|answer| !answer.supported));
    assert_at_rest(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_runs_is_attacked_over_the_network() {
    let platform = TestPlatform::start().await;
    let put_off = Arc::new(AtomicUsize::new(0));
    let (address, served) = serve(grudging(&platform, &put_off)).await;
    let remote = Remote::new(&format!("http://{address}")).expect("an address");
    let report = prove(&platform, Attacked::Service(&remote)).await;
    assert!(report.holds(), "{}\n{:#?}", report.to_text(), report.failures);
    assert!(put_off.load(Ordering::Relaxed) > report.attacks.attacks().len() / 4, "it was told to wait");
    assert_eq!(report.target, format!("http://{address}"));
    assert!(report.counts.iter().all(|count| count.controls == 0), "no guard of a service is removed");
    println!("a suspension was seen after {} ms", report.suspension_seen_after_millis);
    assert_at_rest(&platform).await;
    served.abort();

    // A service of another platform does not know the canaries.
    let other = TestPlatform::start().await;
    let (address, served) = serve(build_router(other.state().clone())).await;
    let remote = Remote::new(&format!("http://{address}")).expect("an address");
    let stop = CancellationToken::new();
    let attacked = Attacked::Service(&remote);
    let proved = prove::run(platform.wired(), TestPlatform::DOMAIN, attacked, Extent::Routes, &stop).await;
    assert!(matches!(proved, Err(ProveError::NotServed { status: 404, .. })), "{proved:?}");
    assert_at_rest(&platform).await;
    served.abort();
}

/// The service, which finds that it is asked too often by every third request. What it says then is said to nobody
/// by name, so a proof that took it for an answer would find hosts and rows refused that are not.
fn grudging(platform: &TestPlatform, put_off: &Arc<AtomicUsize>) -> axum::Router {
    let (asked, put_off) = (Arc::new(AtomicUsize::new(0)), Arc::clone(put_off));
    build_router(platform.state().clone()).layer(middleware::from_fn(move |request: Request, next: Next| {
        let refuses = asked.fetch_add(1, Ordering::Relaxed) % 3 == 2;
        put_off.fetch_add(usize::from(refuses), Ordering::Relaxed);
        async move {
            if refuses {
                return Problem::rate_limited(Duration::ZERO).into_response();
            }
            next.run(request).await
        }
    }))
}

async fn serve(router: axum::Router) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let served = tokio::spawn(async move {
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        axum::serve(listener, service).await.expect("it serves");
    });
    (address, served)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_go_one_after_the_other_and_one_that_is_stopped_leaves_the_canaries_at_rest() {
    let platform = TestPlatform::start().await;
    let node = platform.restarted().await;
    let stop = CancellationToken::new();
    let attacked = Attacked::InProcess(platform.serving());
    let (one, other) = tokio::join!(
        prove::run(platform.wired(), TestPlatform::DOMAIN, attacked, Extent::Routes, &stop),
        prove::run(&node, TestPlatform::DOMAIN, attacked, Extent::Routes, &stop),
    );
    let (one, other) = (one.expect("a proof"), other.expect("a proof"));
    assert!(one.holds() && other.holds(), "{}\n{}", one.to_text(), other.to_text());
    assert!(one.ended_at <= other.begun_at || other.ended_at <= one.begun_at, "they ran at once");
    assert_at_rest(&platform).await;

    let stopped = async {
        // By then it has woken the canaries, and is far from done.
        let awake = async {
            while canaries(&platform).await.iter().any(|canary| canary.status == TenantStatus::Suspended) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        awake.await;
        stop.cancel();
    };
    let (proved, ()) = tokio::join!(
        prove::run(platform.wired(), TestPlatform::DOMAIN, attacked, Extent::Routes, &stop),
        stopped
    );
    assert!(matches!(proved, Err(ProveError::Stopped)), "{proved:?}");
    assert_at_rest(&platform).await;
    node.close(Duration::from_secs(5)).await;
}
