//! Instruments and positions over HTTP, on both placements.

use serde_json::{Value, json};
use stagesub_tests::{Kept, TestPlatform};

const INSTRUMENTS: &str = "/api/v1/instruments";
const POSITIONS: &str = "/api/v1/positions";

fn names(items: &[Value]) -> Vec<&str> {
    items.iter().filter_map(|item| item["name"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instrument_is_made_changed_archived_restored_and_deleted() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        let body = json!({ "name": " Luta ", "displayOrder": 15 });
        let answer = ours.admin.post(INSTRUMENTS, &body).await;
        let made = answer.created();
        let path = ours.path("instruments", "INST", 15);
        assert_eq!(
            (&made["id"], &made["name"], &made["displayOrder"]),
            (&json!(ours.id("INST", 15)), &json!("Luta"), &json!(15))
        );
        assert_eq!(answer.headers["location"], path);
        assert_eq!(ours.admin.get(&path).await.ok(), made);

        let changed =
            ours.admin.patch(&path, &json!({ "name": "Ärkeluta", "displayOrder": null })).await.ok();
        assert_eq!((&changed["name"], &changed["displayOrder"]), (&json!("Ärkeluta"), &Value::Null));
        let used = |answer: Value| answer["limits"]["instruments"]["used"].clone();
        assert_eq!(used(ours.admin.get("/api/v1/tenant").await.ok()), 15);

        assert!(ours.admin.order(&format!("{path}/archive")).await.ok()["archivedAt"].is_string());
        assert_eq!(used(ours.admin.get("/api/v1/tenant").await.ok()), 14);
        assert_eq!(names(&ours.admin.list_all("/api/v1/instruments?archived=true").await), ["Ärkeluta"]);
        assert_eq!(ours.admin.list_all(INSTRUMENTS).await.len(), 14);
        let position = json!({ "instrument": ours.id("INST", 15), "name": "Solo", "hierarchyLevel": 1 });
        ours.admin.post(POSITIONS, &position).await.problem(409, "wrong-state");
        assert_eq!(ours.admin.order(&format!("{path}/restore")).await.ok()["archivedAt"], Value::Null);

        ours.admin.delete(&path).await.expect(204);
        ours.admin.get(&path).await.problem(404, "not-found");
        ours.admin.delete(&path).await.problem(404, "not-found");
        // A deleted number is not given again, nor is the name kept.
        let again = ours.admin.post(INSTRUMENTS, &json!({ "name": "Ärkeluta" })).await.created();
        assert_eq!(again["id"], ours.id("INST", 16));

        let actions: Vec<_> = platform
            .audit(&ours)
            .await
            .into_iter()
            .filter(|entry| entry.record_id.as_deref() == Some(ours.id("INST", 15).as_str()))
            .map(|entry| entry.action)
            .collect();
        assert_eq!(actions, ["create", "update", "archive", "restore", "delete"]);
        assert_eq!(theirs.admin.list_all(INSTRUMENTS).await.len(), 14);
        theirs.admin.get(&theirs.path("instruments", "INST", 15)).await.problem(404, "not-found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_is_not_deleted_and_says_by_what() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        let told = ours.admin.delete(&ours.path("instruments", "INST", 1)).await.problem(409, "in-use");
        assert!(told["detail"].as_str().unwrap().contains("5 positions"), "{told}");

        let musician = json!({ "firstName": "Åsa", "lastName": "Öberg", "email": "asa@example.se", "qualifications": [ours.id("POS", 1)] });
        ours.admin.post("/api/v1/musicians", &musician).await.expect(201);
        let told = ours.admin.delete(&ours.path("positions", "POS", 1)).await.problem(409, "in-use");
        assert!(told["detail"].as_str().unwrap().contains("1 musician"), "{told}");
        // Another orchestra's use is no use here.
        theirs.admin.delete(&theirs.path("positions", "POS", 1)).await.expect(204);

        ours.admin
            .patch(&ours.path("musicians", "MUS", 1), &json!({ "qualifications": [] }))
            .await
            .expect(200);
        ours.admin.delete(&ours.path("positions", "POS", 1)).await.expect(204);
        assert_eq!(ours.admin.list_all(POSITIONS).await.len(), 42);
        assert_eq!(theirs.admin.list_all(POSITIONS).await.len(), 42);
        // A position goes with its lists.
        assert_eq!(platform.count(&ours, "tenant.ranking_list").await, 126);
        assert_eq!(platform.count(&theirs, "tenant.ranking_list").await, 126);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_belong_to_an_instrument_of_the_same_orchestra() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        let body = |instrument: String, name: &str, level: i32| json!({ "instrument": instrument, "name": name, "hierarchyLevel": level });
        let made = ours.admin.post(POSITIONS, &body(ours.id("INST", 12), "Tuba 2", 2)).await.created();
        assert_eq!(
            (&made["id"], &made["instrument"]),
            (&json!(ours.id("POS", 44)), &json!(ours.id("INST", 12)))
        );
        assert_eq!(platform.count(&ours, "tenant.ranking_list").await, 132);
        let listed = ours.admin.list_all(&format!("{POSITIONS}?instrument={}", ours.id("INST", 12))).await;
        assert_eq!(names(&listed), ["Solotuba", "Tuba 2"]);
        assert_eq!(names(&ours.admin.list_all(&format!("{POSITIONS}?q=piccola")).await), ["Piccolaflöjt"]);

        let foreign = body(theirs.id("INST", 12), "Tuba 3", 3);
        ours.admin.post(POSITIONS, &foreign).await.invalid(&[("instrument", "id")]);
        let missing = body(ours.id("INST", 999), "Tuba 3", 3);
        ours.admin.post(POSITIONS, &missing).await.invalid(&[("instrument", "unknown_reference")]);
        let taken =
            ours.admin.post(POSITIONS, &body(ours.id("INST", 12), "Tuba 2", 3)).await.problem(409, "taken");
        assert_eq!(taken["errors"][0]["field"], "name");
        ours.admin
            .post(POSITIONS, &body(ours.id("INST", 12), "", 0))
            .await
            .invalid(&[("name", "length"), ("hierarchyLevel", "range")]);
        // The same name in another instrument is another position.
        ours.admin.post(POSITIONS, &body(ours.id("INST", 11), "Tuba 2", 2)).await.expect(201);

        let path = ours.path("positions", "POS", 44);
        let changed = ours.admin.patch(&path, &json!({ "hierarchyLevel": 3 })).await.ok();
        assert_eq!(changed["hierarchyLevel"], 3);
        ours.admin
            .patch(&path, &json!({ "instrument": ours.id("INST", 1) }))
            .await
            .problem(400, "invalid-input");
        assert_eq!(theirs.admin.list_all(POSITIONS).await.len(), 43);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instruments_name_is_an_orchestras_once_and_lists_page_and_search() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        let taken = ours.admin.post(INSTRUMENTS, &json!({ "name": "Violin" })).await.problem(409, "taken");
        assert_eq!(taken["errors"][0]["field"], "name");
        ours.admin
            .patch(&ours.path("instruments", "INST", 2), &json!({ "name": "Violin" }))
            .await
            .problem(409, "taken");
        ours.admin
            .post(INSTRUMENTS, &json!({ "name": "x".repeat(101), "displayOrder": -1 }))
            .await
            .invalid(&[("name", "length"), ("displayOrder", "range")]);
        ours.admin
            .post(INSTRUMENTS, &json!({ "name": "Luta", "colour": "brown" }))
            .await
            .problem(400, "invalid-input");

        let paged = ours.admin.list_all("/api/v1/instruments?limit=5").await;
        assert_eq!(paged.len(), 14);
        assert_eq!(names(&paged)[..3], ["Violin", "Viola", "Cello"]);
        assert_eq!(names(&ours.admin.list_all("/api/v1/instruments?q=fl%C3%B6").await), ["Flöjt"]);
        assert_eq!(theirs.admin.list_all(INSTRUMENTS).await.len(), 14);
    }
}
