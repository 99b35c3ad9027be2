//! Every route of the table, asked by those whom it has to refuse.

use super::*;

/// A body that each changing operation accepts, so that what refuses the caller is the caller.
pub(super) fn sound_body(operation: &str) -> Option<Value> {
    match operation {
        "create_musician" => Some(anna()),
        "create_instrument" => Some(json!({"name": "Theremin"})),
        "create_position" => Some(json!({"instrument": "GOT-INST-001", "name": "Solo", "hierarchyLevel": 1})),
        "create_project" => Some(json!({"name": "Mahler 2", "startDate": "2026-12-01"})),
        "create_tenant" => Some(json!({
            "name": "Nya orkestern", "subdomain": "nya", "subscription": "small",
            "admin": {"email": "a@example.com", "firstName": "A", "lastName": "B"},
        })),
        "create_member" => {
            Some(json!({"email": "a@example.com", "firstName": "A", "lastName": "B", "role": "user"}))
        }
        "start_move" => Some(json!({"to": "shared"})),
        "change_member" => Some(json!({"role": "viewer"})),
        operation if operation.starts_with("update_") || operation.starts_with("change_") => Some(json!({})),
        _ => None,
    }
}

/// A path of the table with an id that may be one.
pub(super) fn sound_path(path: &str) -> String {
    let id = match path.split('/').nth(3) {
        Some("musicians") => "GOT-MUS-001",
        Some("instruments") => "GOT-INST-001",
        Some("positions") => "GOT-POS-001",
        Some("projects") => "GOT-PROJ-001",
        _ => "00000000-0000-0000-0000-000000000001",
    };
    path.replace("{id}", id)
}

/// Walks the table of routes as it is served: a route that forgets to ask who calls, or what they may do,
/// fails here without anybody having to think of it.
#[tokio::test]
async fn every_route_refuses_strangers_and_every_change_refuses_viewers() {
    let description = serde_json::to_value(crate::routes::openapi()).expect("the description is JSON");
    let mut walked = 0;
    for (path, item) in description["paths"].as_object().expect("there are paths") {
        for (method, operation) in item.as_object().expect("a path has operations") {
            let operation = operation["operationId"].as_str().expect("every operation has a name");
            if operation == "login" {
                continue;
            }
            walked += 1;
            let ends = Ends::default();
            let viewers = server(ends.factory(|_| {}), Role::Viewer);
            let platform = path.starts_with("/api/v1/platform");
            let host = if platform { "stagesub.test" } else { "got.stagesub.test" };
            let (method, path) = (method.to_uppercase(), sound_path(path));
            let ask = |token: Option<String>| {
                let body = sound_body(operation);
                request(&method, host, &path, token.as_deref(), body)
            };
            for stranger in [None, Some(token(Some(2), Role::Admin))] {
                let (status, body, _) = send(&viewers, ask(stranger)).await;
                assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}: {body}");
            }
            if platform {
                let (status, body, _) = send(&viewers, ask(Some(token(None, Role::Superadmin)))).await;
                assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}: {body}");
            } else if method != "GET" {
                let (status, body, _) = send(&viewers, ask(Some(token(Some(1), Role::Viewer)))).await;
                assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}: {body}");
            }
            assert_eq!(ends.counts(), (0, 0), "{method} {path} reached the data");
        }
    }
    assert!(walked >= 28, "the walk is of the whole table: {walked}");
}
