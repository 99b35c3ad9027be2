//! Numbers under concurrency: unique, past 999, and never given twice once they were committed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use stagesub_domain::actor::Actor;
use stagesub_domain::musician::NewMusician;
use stagesub_domain::service::{Act, musicians};
use stagesub_tenancy::Access;
use stagesub_tests::{Kept, TestPlatform};

const TASKS: u64 = 16;
const MUSICIANS: i64 = 2_000;

fn draft(email: String) -> NewMusician {
    NewMusician {
        first_name: "Åsa".to_owned(),
        last_name: "Öberg".to_owned(),
        email,
        phone: None,
        preferred_language: None,
        local_residence: false,
        notes: None,
        is_active: true,
        qualifications: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_tasks_make_two_thousand_musicians_with_random_rollbacks() {
    let platform = Arc::new(TestPlatform::start().await);
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        let scope = platform.scope(&ours).await;
        let left = Arc::new(AtomicI64::new(MUSICIANS));
        let mut tasks = Vec::new();
        for task in 0..TASKS {
            let (platform, scope, left) = (Arc::clone(&platform), scope.clone(), Arc::clone(&left));
            tasks.push(tokio::spawn(async move {
                let mut rng = StdRng::seed_from_u64(task);
                let (mut committed, mut rolled_back) = (Vec::new(), 0);
                while left.fetch_sub(1, Ordering::AcqRel) > 0 {
                    // Each is tried until one is kept; what is dropped gives its number back or leaves a gap.
                    loop {
                        let email = format!("m{task}-{}@example.se", committed.len());
                        let mut unit = platform.state().units.begin(&scope, Access::Write).await.unwrap();
                        let actor = Actor::system();
                        let act = Act { actor: &actor, code: scope.code(), now: platform.now() };
                        let made = musicians::create_musician(&mut *unit, &act, draft(email)).await.unwrap();
                        if rng.random_bool(0.25) {
                            drop(unit);
                            rolled_back += 1;
                            continue;
                        }
                        unit.commit().await.unwrap();
                        committed.push(made.no.get());
                        break;
                    }
                }
                (committed, rolled_back)
            }));
        }
        let (mut numbers, mut rolled_back) = (Vec::new(), 0);
        for task in tasks {
            let (committed, dropped) = task.await.unwrap();
            // One task's numbers grow: nothing committed later gets a smaller one.
            assert!(committed.is_sorted());
            numbers.extend(committed);
            rolled_back += dropped;
        }
        let unique: BTreeSet<i64> = numbers.iter().copied().collect();
        assert_eq!((numbers.len(), unique.len()), (2_000, 2_000));
        assert!(rolled_back > 300, "{rolled_back} rollbacks are too few to show anything");
        let last = *unique.last().unwrap();
        assert!(last >= MUSICIANS);
        println!("2,000 ids in a {kept} database, {rolled_back} rolled back, the last is {last}");

        assert_eq!(platform.count(&ours, "tenant.musician").await, MUSICIANS);
        let listed = ours.admin.list_all("/api/v1/musicians?limit=200").await;
        let ids: BTreeSet<String> =
            listed.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ids.len(), 2_000);
        assert!(ids.contains(&ours.id("MUS", u32::try_from(last).unwrap())), "past 999 it just grows");
        assert_eq!(ours.admin.get("/api/v1/tenant").await.ok()["limits"]["musicians"]["used"], MUSICIANS);
        assert_eq!(platform.count(&theirs, "tenant.musician").await, 0);
        let first = json!({ "firstName": "Bo", "lastName": "Ek", "email": "bo@example.se" });
        assert_eq!(theirs.admin.post("/api/v1/musicians", &first).await.created()["id"], theirs.id("MUS", 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_what_was_deleted_is_not_given_again() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        for n in 1..=3 {
            let body = json!({ "name": format!("Konsert {n}"), "startDate": "2027-05-03" });
            assert_eq!(ours.admin.post("/api/v1/projects", &body).await.created()["id"], ours.id("PROJ", n));
            // The newest goes each time, which is where highest-plus-one would give it again.
            ours.admin.delete(&ours.path("projects", "PROJ", n)).await.expect(204);
        }
        let body = json!({ "name": "Konsert", "startDate": "2027-05-03" });
        assert_eq!(ours.admin.post("/api/v1/projects", &body).await.created()["id"], ours.id("PROJ", 4));
        assert_eq!(theirs.admin.post("/api/v1/projects", &body).await.created()["id"], theirs.id("PROJ", 1));
    }
}
