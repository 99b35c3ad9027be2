//! A COMMIT whose connection was cut: the client is told that nobody knows, and asking again with the key does it
//! once, whether it had been kept or not.

use serde_json::json;
use stagesub_domain::actor::Actor;
use stagesub_domain::audit::{AuditAction, AuditEntry};
use stagesub_domain::error::StoreError;
use stagesub_tests::cluster::Cluster;
use stagesub_tests::proxy::{Cut, CutProxy};

use super::*;

async fn behind(roles: &[&str]) -> (CutProxy, TestPlatform) {
    let proxy = CutProxy::start(Cluster::get().await.admin()).await;
    let platform = TestPlatform::start_behind_proxy(&proxy, roles).await;
    (proxy, platform)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_cut_off_is_told_apart_and_asking_again_does_it_once() {
    let (proxy, platform) = behind(&["stagesub_app"]).await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        for (round, cut) in Cut::ALL.into_iter().enumerate() {
            for (table, path, body) in [
                ("tenant.instrument", "/api/v1/instruments", json!({ "name": format!("Theremin {round}") })),
                ("tenant.musician", MUSICIANS, musician(&format!("asa{round}@example.se"))),
                (
                    "tenant.project",
                    "/api/v1/projects",
                    json!({ "name": format!("Mahler {round}"), "startDate": "2026-12-01" }),
                ),
            ] {
                let before = platform.count(&ours, table).await;
                let cuts = proxy.cuts();
                let client = keyed(&ours.admin, &format!("{table}-{round}"));
                proxy.cut(cut, 1);
                let unknown = client.post(path, &body).await;
                assert_eq!(proxy.cuts(), cuts + 1, "the COMMIT went through the proxy");
                unknown.problem(503, "commit-unknown");
                assert!(unknown.headers.contains_key("retry-after"));
                let was_kept = i64::from(cut == Cut::AfterCommit);
                assert_eq!(platform.count(&ours, table).await, before + was_kept, "{kept} {cut:?} {table}");

                let again = client.post(path, &body).await;
                assert_eq!(is_replayed(&again), cut == Cut::AfterCommit, "{kept} {cut:?} {table}");
                let made = again.created();
                assert_eq!(platform.count(&ours, table).await, before + 1, "{kept} {cut:?} {table}");
                let location = again.headers["location"].to_str().expect("an address");
                assert_eq!(ours.admin.get(location).await.ok(), made);
            }
        }
        let file = "Förnamn;Efternamn;E-post\nEva;Fors;eva@example.se\n";
        proxy.cut(Cut::AfterCommit, 1);
        let client = keyed(&ours.admin, "import");
        client.upload(IMPORT, file).await.problem(503, "commit-unknown");
        let again = client.upload(IMPORT, file).await;
        assert!(is_replayed(&again));
        assert_eq!(again.ok()["created"], 1, "what the first one did, not what a second would do");
        assert_eq!(platform.count(&theirs, "tenant.musician").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_no_creation_is_told_apart_too() {
    let (proxy, platform) = behind(&["stagesub_app"]).await;
    let [ours, _] = platform.pair(Kept::Shared).await;
    let path = ours.path("instruments", "INST", 1);
    for cut in Cut::ALL {
        proxy.cut(cut, 1);
        let body = json!({ "name": format!("{cut:?}") });
        ours.admin.patch(&path, &body).await.problem(503, "commit-unknown");
        let stands = ours.admin.get(&path).await.ok()["name"] == body["name"];
        assert_eq!(stands, cut == Cut::AfterCommit);
    }
}

/// The registry's commits of one creation, in order: the reservation, the placement, the end.
#[tokio::test(flavor = "multi_thread")]
async fn an_orchestra_whose_making_was_cut_off_at_any_commit_is_finished_by_asking_again() {
    let (proxy, platform) = behind(&["stagesub_control"]).await;
    let superadmin = platform.superadmin().await;
    let mut made = 0;
    for cut in Cut::ALL {
        for number in 1..=3 {
            let subdomain = format!("ny-{number}-{}", u8::from(cut == Cut::AfterCommit));
            let (client, body) = (keyed(&superadmin, &subdomain), tenant(&subdomain, Kept::Shared));
            let cuts = proxy.cuts();
            proxy.cut(cut, number);
            client.post(TENANTS, &body).await.problem(503, "commit-unknown");
            assert_eq!(proxy.cuts(), cuts + 1);
            let again = client.post(TENANTS, &body).await;
            let orchestra = again.created();
            assert_eq!(orchestra["status"], "active", "{cut:?} {number}");
            let was_reserved = number > 1 || cut == Cut::AfterCommit;
            assert_eq!(is_replayed(&again), was_reserved, "{cut:?} {number}");
            made += 1;
            assert_eq!(platform.count_in_registry("registry.tenants").await, made, "{cut:?} {number}");
            let id = orchestra["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
            assert_eq!(platform.count_of(id, "tenant.instrument").await, 14);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_the_registry_tells_a_commit_that_was_cut_off() {
    let (proxy, platform) = behind(&["stagesub_control", "stagesub_auth"]).await;
    let [ours, _] = platform.pair(Kept::Shared).await;
    let superadmin = platform.superadmin().await;
    let path = format!("{TENANTS}/{}", ours.tenant_text());
    for cut in Cut::ALL {
        let stands = cut == Cut::AfterCommit;
        proxy.cut(cut, 1);
        let change = json!({ "name": format!("{cut:?}") });
        superadmin.patch(&path, &change).await.problem(503, "commit-unknown");
        assert_eq!(superadmin.get(&path).await.ok()["name"] == change["name"], stands);
        proxy.cut(cut, 1);
        superadmin.order(&format!("{path}/suspend")).await.problem(503, "commit-unknown");
        let status = superadmin.get(&path).await.ok()["status"].clone();
        assert_eq!(status, if stands { "suspended" } else { "active" });
        let _ = superadmin.order(&format!("{path}/resume")).await.ok();

        let entry = AuditEntry {
            actor: Actor::system(),
            at: platform.now(),
            action: AuditAction::Update,
            model: "user",
            record_id: None,
            changes: None,
        };
        proxy.cut(cut, 1);
        let changed = platform.state().people.set_password(&ours.admin_email(), "hash", &entry).await;
        assert!(matches!(changed, Err(StoreError::CommitUnknown(_))), "{changed:?}");
    }
    // Of a sign-in nothing but its record is in doubt: signing in again does no harm.
    proxy.cut(Cut::BeforeCommit, 1);
    let login = json!({ "email": "ceo@stagesub.test", "password": "en dirigent utan taktpinne" });
    superadmin.anonymous().post("/api/v1/auth/login", &login).await.problem(503, "unavailable");
    let _ = superadmin.anonymous().post("/api/v1/auth/login", &login).await.ok();
}
