//! Projects over HTTP, on both placements.

use serde_json::{Value, json};
use stagesub_tests::{Kept, TestPlatform};

const PROJECTS: &str = "/api/v1/projects";

fn ids(items: &[Value]) -> Vec<&str> {
    items.iter().filter_map(|item| item["id"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_made_changed_counted_and_deleted() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        let active = |answer: Value| answer["limits"]["activeProjects"]["used"].clone();
        let answer = ours
            .admin
            .post(
                PROJECTS,
                &json!({ "name": "Mahler 2", "startDate": "2027-01-04", "concertInfo": "Lördag 18.00" }),
            )
            .await;
        let made = answer.created();
        let path = ours.path("projects", "PROJ", 1);
        assert_eq!(answer.headers["location"], path);
        // The week is the first day's, and a project is planned, unless something else is said.
        assert_eq!((&made["weekNumber"], &made["status"]), (&json!(1), &json!("planned")));
        assert_eq!(ours.admin.get(&path).await.ok(), made);
        assert_eq!(active(ours.admin.get("/api/v1/tenant").await.ok()), 1);

        let changed = ours
            .admin
            .patch(&path, &json!({ "status": "completed", "concertInfo": null, "notes": "Utsålt" }))
            .await
            .ok();
        assert_eq!(
            (&changed["status"], &changed["concertInfo"], &changed["notes"]),
            (&json!("completed"), &Value::Null, &json!("Utsålt"))
        );
        assert_eq!(active(ours.admin.get("/api/v1/tenant").await.ok()), 0);
        ours.admin.patch(&path, &json!({ "status": "active" })).await.expect(200);
        assert_eq!(active(ours.admin.get("/api/v1/tenant").await.ok()), 1);

        ours.admin.delete(&path).await.expect(204);
        ours.admin.get(&path).await.problem(404, "not-found");
        assert_eq!(active(ours.admin.get("/api/v1/tenant").await.ok()), 0);
        let next = ours
            .admin
            .post(PROJECTS, &json!({ "name": "Sibelius", "startDate": "2027-12-31" }))
            .await
            .created();
        assert_eq!((&next["id"], &next["weekNumber"]), (&json!(ours.id("PROJ", 2)), &json!(52)));

        let actions: Vec<_> = platform
            .audit(&ours)
            .await
            .into_iter()
            .filter(|entry| entry.model == "project")
            .map(|entry| entry.action)
            .collect();
        assert_eq!(actions, ["create", "update", "update", "delete", "create"]);
        assert!(theirs.admin.list_all(PROJECTS).await.is_empty());
        assert_eq!(active(theirs.admin.get("/api/v1/tenant").await.ok()), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn projects_page_search_and_filter_by_status() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        for (n, status) in ["planned", "active", "completed", "cancelled", "planned"].into_iter().enumerate()
        {
            let body = json!({ "name": format!("Konsert {n}"), "startDate": "2027-05-03", "status": status });
            ours.admin.post(PROJECTS, &body).await.expect(201);
            theirs.admin.post(PROJECTS, &body).await.expect(201);
        }
        let numbers = |numbers: &[u32]| numbers.iter().map(|n| ours.id("PROJ", *n)).collect::<Vec<_>>();
        assert_eq!(ids(&ours.admin.list_all("/api/v1/projects?limit=2").await), numbers(&[1, 2, 3, 4, 5]));
        assert_eq!(
            ids(&ours.admin.list_all("/api/v1/projects?status=planned&limit=1").await),
            numbers(&[1, 5])
        );
        assert_eq!(ids(&ours.admin.list_all("/api/v1/projects?q=KONSERT%203").await), numbers(&[4]));
        ours.admin.get("/api/v1/projects?status=open").await.invalid(&[("status", "enum")]);
        ours.admin.delete(&ours.path("projects", "PROJ", 1)).await.expect(204);
        assert_eq!(theirs.admin.list_all(PROJECTS).await.len(), 5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_breaks_a_rule_is_refused_with_the_rule() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        let wrong =
            json!({ "name": "", "startDate": "1066-10-14", "weekNumber": 54, "notes": "n".repeat(4001) });
        ours.admin.post(PROJECTS, &wrong).await.invalid(&[
            ("name", "length"),
            ("startDate", "range"),
            ("weekNumber", "range"),
            ("notes", "length"),
        ]);
        for body in [
            json!({ "name": "Mahler" }),
            json!({ "name": "Mahler", "startDate": "2027-02-30" }),
            json!({ "name": "Mahler", "startDate": "2027-02-03", "status": "open" }),
            json!({ "name": "Mahler", "startDate": "2027-02-03", "tenant": theirs.tenant_text() }),
        ] {
            ours.admin.post(PROJECTS, &body).await.problem(400, "invalid-input");
        }
        assert!(ours.admin.list_all(PROJECTS).await.is_empty());
        assert!(theirs.admin.list_all(PROJECTS).await.is_empty());
    }
}
