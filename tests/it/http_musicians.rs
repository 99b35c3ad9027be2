//! Musicians over HTTP, on both placements.

use serde_json::{Value, json};
use stagesub_domain::role::Role;
use stagesub_tests::{Kept, TestPlatform};

const MUSICIANS: &str = "/api/v1/musicians";

fn draft(first: &str, last: &str, email: &str) -> Value {
    json!({ "firstName": first, "lastName": last, "email": email })
}

fn ids(items: &[Value]) -> Vec<&str> {
    items.iter().filter_map(|item| item["id"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_musician_is_kept_as_given_changed_archived_and_taken_back() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        theirs.admin.post(MUSICIANS, &draft("Åsa", "Öberg", "asa@example.se")).await.expect(201);

        let position = ours.id("POS", 4);
        let answer = ours
            .admin
            .post(
                MUSICIANS,
                &json!({
                    "firstName": "  Åsa ", "lastName": "Öberg", "email": "Asa.Oberg@Example.se", "phone": "031-12 34 56",
                    "preferredLanguage": "en", "localResidence": true, "notes": "Spelar även viola.\nRinga först.",
                    "qualifications": [position],
                }),
            )
            .await;
        let made = answer.created();
        let path = ours.path("musicians", "MUS", 1);
        assert_eq!(answer.headers["location"], path);
        let expected = json!({
            "id": ours.id("MUS", 1), "firstName": "Åsa", "lastName": "Öberg", "email": "Asa.Oberg@Example.se",
            "phone": "031-12 34 56", "preferredLanguage": "en", "localResidence": true,
            "notes": "Spelar även viola.\nRinga först.", "isActive": true, "archivedAt": null,
            "qualifications": [position], "createdAt": made["createdAt"], "updatedAt": made["updatedAt"],
        });
        assert_eq!(made, expected);
        assert_eq!(ours.admin.get(&path).await.ok(), expected);

        let changed = ours
            .admin
            .patch(&path, &json!({ "phone": null, "isActive": false, "qualifications": [] }))
            .await
            .ok();
        assert_eq!((&changed["phone"], &changed["isActive"]), (&Value::Null, &json!(false)));
        assert_eq!(changed["qualifications"], json!([]));
        assert_eq!(changed["notes"], expected["notes"]);

        ours.admin.delete(&path).await.expect(204);
        // Archived: not in the list, and there when asked for.
        assert!(ours.admin.list_all(MUSICIANS).await.is_empty());
        assert_eq!(ids(&ours.admin.list_all("/api/v1/musicians?archived=true").await), [ours.id("MUS", 1)]);
        assert!(ours.admin.get(&path).await.ok()["archivedAt"].is_string());
        let restored = ours.admin.order(&format!("{path}/restore")).await.ok();
        assert_eq!(restored["archivedAt"], Value::Null);
        assert_eq!(ours.admin.list_all(MUSICIANS).await.len(), 1);

        // The number of an archived one is not given again.
        ours.admin.delete(&path).await.expect(204);
        let next = ours.admin.post(MUSICIANS, &draft("Bo", "Ek", "bo@example.se")).await.created();
        assert_eq!(next["id"], ours.id("MUS", 2));

        let untouched = theirs.admin.list_all(MUSICIANS).await;
        assert_eq!((untouched.len(), &untouched[0]["archivedAt"]), (1, &Value::Null));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_by_number_and_filters_hold_across_them() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        theirs.admin.post(MUSICIANS, &draft("Anna", "Ek", "anna@example.se")).await.expect(201);
        for n in 1..=7 {
            let mut body = draft(
                if n % 2 == 0 { "Åke" } else { "Östen" },
                &format!("Nr{n}"),
                &format!("m{n}@example.se"),
            );
            body["isActive"] = json!(n != 3);
            if n == 5 {
                body["qualifications"] = json!([ours.id("POS", 1)]);
            }
            ours.admin.post(MUSICIANS, &body).await.expect(201);
        }
        let first = ours.admin.get("/api/v1/musicians?limit=3").await.ok();
        assert_eq!(first["items"].as_array().unwrap().len(), 3);
        let cursor = first["nextCursor"].as_str().unwrap();
        // What is entered and archived between two pages moves no row of the next.
        ours.admin.delete(&ours.path("musicians", "MUS", 1)).await.expect(204);
        let second = ours.admin.get(&format!("/api/v1/musicians?limit=3&cursor={cursor}")).await.ok();
        assert_eq!(ids(second["items"].as_array().unwrap()), [4, 5, 6].map(|n| ours.id("MUS", n)));
        let all = ours.admin.list_all("/api/v1/musicians?limit=2").await;
        assert_eq!(ids(&all), [2, 3, 4, 5, 6, 7].map(|n| ours.id("MUS", n)));

        let found = |query: &str| {
            let path = format!("/api/v1/musicians?{query}");
            let admin = ours.admin.clone();
            async move { ids(&admin.list_all(&path).await).join(" ") }
        };
        let numbers =
            |numbers: &[u32]| numbers.iter().map(|n| ours.id("MUS", *n)).collect::<Vec<_>>().join(" ");
        // Part of a name or an address, without regard to case, å as å.
        assert_eq!(found("q=%C3%A5ke").await, numbers(&[2, 4, 6]));
        assert_eq!(found("q=%C3%96STEN&limit=1").await, numbers(&[3, 5, 7]));
        assert_eq!(found("q=m4%40EXAMPLE").await, numbers(&[4]));
        // Signs that a pattern would mean something by are just themselves.
        assert_eq!(found("q=%25").await, "");
        assert_eq!(found("q=_").await, "");
        assert_eq!(found("isActive=false").await, numbers(&[3]));
        assert_eq!(found(&format!("position={}", ours.id("POS", 1))).await, numbers(&[5]));
        assert_eq!(found(&format!("instrument={}", ours.id("INST", 1))).await, numbers(&[5]));
        assert_eq!(found(&format!("instrument={}", ours.id("INST", 2))).await, "");

        let bad = [
            ("limit=0", "limit", "range"),
            ("limit=201", "limit", "range"),
            ("cursor=%21", "cursor", "cursor"),
            ("position=nonsense", "position", "id"),
        ];
        for (query, field, rule) in bad {
            ours.admin.get(&format!("/api/v1/musicians?{query}")).await.invalid(&[(field, rule)]);
        }
        let foreign = format!("/api/v1/musicians?position={}", theirs.id("POS", 1));
        ours.admin.get(&foreign).await.invalid(&[("position", "id")]);
        ours.admin.get("/api/v1/musicians?sort=name").await.problem(400, "invalid-input");
        let long = "x".repeat(101);
        ours.admin.get(&format!("/api/v1/musicians?q={long}")).await.invalid(&[("q", "length")]);
        assert_eq!(theirs.admin.list_all(MUSICIANS).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_names_every_field_with_its_rule_and_changes_nothing() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        let long = "å".repeat(101);
        let all_wrong = json!({
            "firstName": "", "lastName": long, "email": "not an address", "phone": "0\u{7}31",
            "notes": "n".repeat(4001),
        });
        ours.admin.post(MUSICIANS, &all_wrong).await.invalid(&[
            ("firstName", "length"),
            ("lastName", "length"),
            ("email", "email"),
            ("phone", "characters"),
            ("notes", "length"),
        ]);
        let with = |field: &str, value: Value| {
            let mut body = draft("Åsa", "Öberg", "asa@example.se");
            body[field] = value;
            body
        };
        ours.admin
            .post(MUSICIANS, &with("preferredLanguage", json!("fi")))
            .await
            .invalid(&[("preferredLanguage", "enum")]);
        ours.admin
            .post(MUSICIANS, &with("qualifications", json!(["nonsense"])))
            .await
            .invalid(&[("qualifications[0]", "id")]);
        let foreign = with("qualifications", json!([theirs.id("POS", 1)]));
        ours.admin.post(MUSICIANS, &foreign).await.invalid(&[("qualifications[0]", "id")]);
        let twice = with("qualifications", json!([ours.id("POS", 1), ours.id("POS", 1)]));
        ours.admin.post(MUSICIANS, &twice).await.invalid(&[("qualifications", "repeated")]);
        let missing = with("qualifications", json!([ours.id("POS", 1), ours.id("POS", 999)]));
        ours.admin.post(MUSICIANS, &missing).await.invalid(&[("qualifications[1]", "unknown_reference")]);

        // Unknown fields, wrong types, what is no JSON, what is too long.
        for body in [
            with("tenantId", json!(theirs.tenant_text())),
            with("id", json!("X")),
            with("localResidence", json!("yes")),
            json!({ "firstName": "Åsa" }),
            json!([]),
        ] {
            ours.admin.post(MUSICIANS, &body).await.problem(400, "invalid-input");
        }
        let raw = |text: String| {
            let admin = ours.admin.clone();
            async move { admin.send(http::Method::POST, MUSICIANS, Some("application/json"), text.into()).await }
        };
        raw("{\"firstName\": ".to_owned()).await.problem(400, "malformed-request");
        let huge = with("notes", json!("n".repeat(300 * 1024))).to_string();
        assert_eq!(raw(huge).await.status, 413);
        let form =
            ours.admin.send(http::Method::POST, MUSICIANS, Some("text/plain"), "firstName=Åsa".into()).await;
        form.problem(415, "malformed-request");

        assert!(ours.admin.list_all(MUSICIANS).await.is_empty());
        assert_eq!(ours.admin.get("/api/v1/tenant").await.ok()["limits"]["musicians"]["used"], 0);
        assert!(platform.audit(&ours).await.iter().all(|entry| entry.model != "musician"));
        // What was refused used up no number.
        let made = ours.admin.post(MUSICIANS, &draft("Åsa", "Öberg", "asa@example.se")).await.created();
        assert_eq!(made["id"], ours.id("MUS", 1));
        assert!(theirs.admin.list_all(MUSICIANS).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_an_orchestras_only_once_whatever_its_case() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        ours.admin.post(MUSICIANS, &draft("Åsa", "Öberg", "asa@example.se")).await.expect(201);
        theirs.admin.post(MUSICIANS, &draft("Åsa", "Öberg", "asa@example.se")).await.expect(201);
        let taken =
            ours.admin.post(MUSICIANS, &draft("Bo", "Ek", "ASA@example.se")).await.problem(409, "taken");
        assert_eq!(taken["errors"][0]["field"], "email");
        ours.admin.post(MUSICIANS, &draft("Bo", "Ek", "bo@example.se")).await.expect(201);
        let change = json!({ "email": "Asa@Example.se" });
        ours.admin.patch(&ours.path("musicians", "MUS", 2), &change).await.problem(409, "taken");
        // Its own address in another case is no conflict.
        ours.admin.patch(&ours.path("musicians", "MUS", 1), &change).await.expect(200);

        // Of many who enter one address at once, one does.
        let racing = (0..8).map(|n| {
            let admin = ours.admin.clone();
            async move {
                admin
                    .post(MUSICIANS, &draft(&format!("N{n}"), "Race", "race@example.se"))
                    .await
                    .status
                    .as_u16()
            }
        });
        let mut statuses = futures::future::join_all(racing).await;
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);
        assert_eq!(ours.admin.list_all(MUSICIANS).await.len(), 3);
        assert_eq!(theirs.admin.list_all(MUSICIANS).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_in_the_audit_log_with_who_did_what_and_refused_ones_are_not() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        let path = ours.path("musicians", "MUS", 1);
        ours.admin.post(MUSICIANS, &draft("Åsa", "Öberg", "asa@example.se")).await.expect(201);
        ours.admin
            .with_header("user-agent", "office/1.0")
            .patch(&path, &json!({ "firstName": "Elsa" }))
            .await
            .expect(200);
        // A change of nothing is none.
        ours.admin.patch(&path, &json!({ "firstName": "Elsa" })).await.expect(200);
        ours.admin.delete(&path).await.expect(204);
        ours.admin.order(&format!("{path}/restore")).await.expect(200);
        // Refused after it had begun to write: all of it is gone, the entry too.
        ours.admin.post(MUSICIANS, &draft("Bo", "Ek", "asa@example.se")).await.problem(409, "taken");

        let entries: Vec<_> =
            platform.audit(&ours).await.into_iter().filter(|entry| entry.model == "musician").collect();
        let actions: Vec<_> = entries.iter().map(|entry| entry.action.as_str()).collect();
        assert_eq!(actions, ["create", "update", "archive", "restore"]);
        for entry in &entries {
            assert_eq!(entry.actor, "user");
            assert_eq!(entry.actor_id, Some(ours.admin_user()));
            assert_eq!(entry.record_id.as_deref(), Some(ours.id("MUS", 1).as_str()));
        }
        let change = entries[1].changes.as_ref().unwrap().to_string();
        assert!(change.contains("Åsa") && change.contains("Elsa"), "{change}");
        assert!(!change.contains("Öberg"), "what did not change is not repeated: {change}");
        assert_eq!(entries[1].user_agent.as_deref(), Some("office/1.0"));
        assert!(platform.audit(&theirs).await.iter().all(|entry| entry.model != "musician"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_reads_a_user_edits_and_what_they_may_not_is_refused() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        let viewer = platform.member(&ours, Role::Viewer).await;
        let user = platform.member(&ours, Role::User).await;
        let body = draft("Åsa", "Öberg", "asa@example.se");
        let path = ours.path("musicians", "MUS", 1);

        viewer.post(MUSICIANS, &body).await.problem(403, "forbidden");
        user.post(MUSICIANS, &body).await.expect(201);
        for reader in [&viewer, &user, &ours.admin] {
            assert_eq!(reader.list_all(MUSICIANS).await.len(), 1);
            reader.get(&path).await.expect(200);
            reader.get("/api/v1/tenant").await.expect(200);
        }
        viewer.patch(&path, &json!({ "firstName": "Elsa" })).await.problem(403, "forbidden");
        viewer.delete(&path).await.problem(403, "forbidden");
        viewer.order(&format!("{path}/restore")).await.problem(403, "forbidden");
        viewer.upload("/api/v1/musicians/import", "email\n").await.problem(403, "forbidden");
        viewer.post("/api/v1/instruments", &json!({ "name": "Luta" })).await.problem(403, "forbidden");
        user.patch(&path, &json!({ "firstName": "Elsa" })).await.expect(200);
        // A member of one orchestra is nobody in another.
        for member in [&viewer, &user] {
            member.at(&theirs.host).get(MUSICIANS).await.problem(401, "unauthenticated");
        }
        let me = viewer.get("/api/v1/auth/me").await.ok();
        assert_eq!((&me["role"], &me["tenantCode"]), (&json!("viewer"), &json!(ours.code)));
        assert!(theirs.admin.list_all(MUSICIANS).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_subscriptions_limit_holds_exactly_under_concurrency() {
    let platform = TestPlatform::start().await;
    let [ours, theirs] = platform.pair(Kept::Shared).await;
    let superadmin = platform.superadmin().await;
    let limit = json!({ "maxMusicians": 10 });
    superadmin.patch(&format!("/api/v1/platform/tenants/{}", ours.tenant), &limit).await.expect(200);

    let racing = (0..24).map(|n| {
        let admin = ours.admin.clone();
        async move {
            let answer =
                admin.post(MUSICIANS, &draft("M", &format!("Nr{n}"), &format!("m{n}@example.se"))).await;
            if answer.status != 201 {
                answer.problem(403, "limit-reached");
            }
            answer.status == 201
        }
    });
    let made = futures::future::join_all(racing).await.into_iter().filter(|made| *made).count();
    // Past the limit a grace begins, in which at most 110 % are taken.
    assert_eq!(made, 11);
    assert_eq!(ours.admin.list_all(MUSICIANS).await.len(), 11);
    let used = &ours.admin.get("/api/v1/tenant").await.ok()["limits"]["musicians"];
    assert_eq!((&used["used"], &used["limit"]), (&json!(11), &json!(10)));
    // Reading, editing and deleting go on; the one that went makes no room below the limit yet.
    ours.admin.patch(&ours.path("musicians", "MUS", 1), &json!({ "firstName": "N" })).await.expect(200);
    ours.admin.delete(&ours.path("musicians", "MUS", 1)).await.expect(204);
    ours.admin.delete(&ours.path("musicians", "MUS", 2)).await.expect(204);
    ours.admin.post(MUSICIANS, &draft("Ny", "Plats", "ny@example.se")).await.expect(201);
    theirs.admin.post(MUSICIANS, &draft("Ny", "Plats", "ny@example.se")).await.expect(201);
}
