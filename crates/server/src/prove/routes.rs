//! The routes that are attacked: every operation of the API's description, with a request that is sound.
//!
//! Who may call which is not said here: that is the table of [`authority`], which asks
//! the table of permissions. What is said here is what a sound request looks like; an operation without one is
//! in the proof as not carried out, and fails it.

use http::{Method, StatusCode};
use stagesub_domain::role::Role;
use stagesub_tenancy::prove::http::{At, Route};

use crate::routes::{HostKind, RouteAuthority, authority, openapi};

/// Roles that the proof has somebody for.
pub const ROLES: [Role; 4] = [Role::Admin, Role::User, Role::Viewer, Role::Superadmin];

/// Domain of the addresses of people that the proof makes: one that no mail reaches.
pub const MAIL_DOMAIN: &str = "canary.stagesub.invalid";

/// Someone who is made a member by the attacks, once, and stays one.
pub const NEWCOMER: &str = "newcomer@canary.stagesub.invalid";

/// Every operation of the description, those on orchestras first, and last those that lock them.
///
/// # Panics
/// Never: the description is JSON.
#[must_use]
pub fn routes() -> Vec<Route> {
    let mut routes: Vec<Route> =
        operations().iter().flat_map(|(method, path, name)| of_operation(method, path, name)).collect();
    // Locking and unlocking the third canary comes when everything else was tried, and leaves it locked.
    routes.sort_by_key(|route| match route {
        route if route.path.ends_with("/resume") => 2,
        route if route.path.ends_with("/suspend") => 3,
        route if route.at == At::Platform => 1,
        _ => 0,
    });
    routes
}

/// Method, path and name of every operation of the description.
///
/// # Panics
/// Never: the description is JSON.
#[must_use]
pub fn operations() -> Vec<(Method, String, String)> {
    let description = serde_json::to_value(openapi()).expect("the description is JSON");
    let mut operations = Vec::new();
    for (path, methods) in description["paths"].as_object().into_iter().flatten() {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            let method = method.to_ascii_uppercase().parse().expect("the description names methods");
            let name = operation["operationId"].as_str().unwrap_or_default();
            operations.push((method, path.clone(), name.to_owned()));
        }
    }
    operations
}

/// What is read and has nothing of a canary's. Figures are there when a node has added them; moves when there are some.
const SHOW_NO_CANARY: [&str; 6] =
    ["me", "list_usage", "list_moves", "list_tenant_moves", "list_databases", "show_database"];

fn of_operation(method: &Method, path: &str, name: &str) -> Vec<Route> {
    let row = authority().iter().find(|row| row.method == *method && row.path == path);
    let (Some(row), Some(sound)) = (row, sound(name)) else {
        let why = format!("nobody has said what a sound request for `{name}` is, or who may make it");
        return vec![Route::unknown(method.clone(), path, why)];
    };
    let main = route(row, method, path, name, &sound);
    let mut routes = vec![main.clone()];
    // Lists are narrowed by ids too, and an id of another orchestra must narrow to nothing.
    for filter in sound.filters {
        routes.push(Route {
            name: format!("{method} {path}?{filter}={{id}}"),
            path: format!("{path}?{filter}={{{filter}}}"),
            ..main.clone()
        });
    }
    routes
}

fn route(row: &RouteAuthority, method: &Method, path: &str, name: &str, sound: &Sound) -> Route {
    let at = match row.host {
        HostKind::Apex => At::Platform,
        HostKind::Tenant => At::Tenants,
        HostKind::Known | HostKind::Any => At::Both,
    };
    let path_here = path.replace("{id}", &format!("{{{}}}", sound.id));
    let mut route = Route::new(method.clone(), format!("{path_here}{}", sound.query))
        .named(format!("{method} {path}"))
        .at(at)
        .allowed(ROLES.into_iter().filter(|role| row.allows(Some(*role))).map(Role::as_str));
    match &sound.body {
        Sent::Nothing => {}
        Sent::Json(text) => route = route.body("application/json", *text),
        Sent::Csv(text) => route = route.body("text/csv", *text),
    }
    if row.allows(None) {
        route = route.open();
    }
    if sound.taken {
        route = route.passes(StatusCode::CONFLICT);
    }
    // Answers to those who may read say what there is; those to a change of nothing need not.
    if sound.refused {
        route = route.passes(StatusCode::BAD_REQUEST);
    }
    if *method == Method::GET && !sound.refused && !SHOW_NO_CANARY.contains(&name) {
        route = route.reveals();
    }
    route
}

/// What a request for an operation needs to be sound.
struct Sound {
    /// The placeholder that `{id}` in the path stands for.
    id: &'static str,
    query: &'static str,
    body: Sent,
    /// Asks with a parameter that there is not: of what a canary never has, this shows that it got through, and that
    /// nothing was asked for.
    refused: bool,
    /// Asks for what is taken already, so that nothing is made: a conflict is what shows that it got through.
    taken: bool,
    filters: &'static [&'static str],
}

enum Sent {
    Nothing,
    Json(&'static str),
    Csv(&'static str),
}

impl Sound {
    const fn with(body: Sent) -> Self {
        Self { id: "id", query: "", body, refused: false, taken: false, filters: &[] }
    }

    const fn plain() -> Self {
        Self::with(Sent::Nothing)
    }

    const fn of(self, id: &'static str) -> Self {
        Self { id, ..self }
    }

    /// A list, narrowed to what carries the canary.
    const fn list(filters: &'static [&'static str]) -> Self {
        Self { query: "?q={canary}", filters, ..Self::plain() }
    }

    /// Canaries are never moved: an id that is none, and a parameter that is refused.
    const fn no_move() -> Self {
        Self { query: "?probe", refused: true, ..Self::plain().of("tenant") }
    }

    const fn taken(self) -> Self {
        Self { taken: true, ..self }
    }
}

fn sound(operation: &str) -> Option<Sound> {
    use Sent::{Csv, Json};
    Some(match operation {
        "login" => Sound::with(Json(r#"{"email": "{login_email}", "password": "{login_password}"}"#)),
        "me" | "show_tenant" | "list_usage" | "list_moves" | "list_databases" => Sound::plain(),
        // To a database that there is not: it is told so, and nothing is begun.
        "start_move" => {
            let body = r#"{"to": "shared", "database": "00000000-0000-0000-0000-000000000000", "dryRun": true}"#;
            Sound::with(Json(body)).of("tenant").taken()
        }
        "show_move" | "abort_move" | "move_back" | "finish_move" | "watch_move" => Sound::no_move(),

        "list_instruments" | "list_projects" | "list_tenants" | "list_people" => Sound::list(&[]),

        "create_instrument" => Sound::with(Json(r#"{"name": "probe {unique}"}"#)),
        "show_instrument" | "delete_instrument" | "archive_instrument" | "restore_instrument" => {
            Sound::plain().of("instrument")
        }
        "update_instrument" => Sound::with(Json(r#"{"displayOrder": 9000}"#)).of("instrument"),

        "list_positions" => Sound::list(&["instrument"]),
        "create_position" => Sound::with(Json(
            r#"{"instrument": "{instrument}", "name": "probe {unique}", "hierarchyLevel": 9}"#,
        )),
        "show_position" | "delete_position" => Sound::plain().of("position"),
        "update_position" => Sound::with(Json(r#"{"hierarchyLevel": 1}"#)).of("position"),

        "list_musicians" => Sound::list(&["position", "instrument"]),
        "create_musician" => Sound::with(Json(
            r#"{"firstName": "Probe", "lastName": "Probe", "email": "{unique}@canary.stagesub.invalid",
                "qualifications": ["{position}"]}"#,
        )),
        "show_musician" | "archive_musician" | "restore_musician" => Sound::plain().of("musician"),
        "update_musician" => Sound::with(Json(r#"{"notes": "{canary}"}"#)).of("musician"),
        "import_musicians" => {
            Sound::with(Csv("email;firstname;lastname\nimported@canary.stagesub.invalid;Probe;Import\n"))
        }

        "create_project" => Sound::with(Json(r#"{"name": "probe {unique}", "startDate": "2027-01-04"}"#)),
        "show_project" | "delete_project" => Sound::plain().of("project"),
        "update_project" => Sound::with(Json(r#"{"notes": "{canary}"}"#)).of("project"),

        "list_members" => Sound { query: "?limit=200", ..Sound::plain() },
        "create_member" => Sound::with(Json(
            r#"{"email": "newcomer@canary.stagesub.invalid", "firstName": "Probe", "lastName": "Newcomer",
                "role": "viewer"}"#,
        ))
        .taken(),
        "show_member" | "remove_member" | "show_person" => Sound::plain().of("member"),
        "change_member" => Sound::with(Json(r#"{"role": "viewer"}"#)).of("member"),

        "create_tenant" => Sound::with(Json(
            r#"{"name": "Canary", "subdomain": "{subdomain}", "code": "{code}", "subscription": "institution",
                "admin": {"email": "nobody@canary.stagesub.invalid", "firstName": "Probe", "lastName": "Probe"}}"#,
        ))
        .taken(),
        "show_platform_tenant" | "suspend_tenant" | "resume_tenant" | "list_tenant_moves" => {
            Sound::plain().of("tenant")
        }
        "show_database" | "check_database" => Sound::plain().of("database"),
        // No name of a machine ends so: it is refused before anything is connected to.
        "add_database" => {
            Sound::with(Json(r#"{"server": "postgres://canary@canary.stagesub.invalid/canary"}"#)).taken()
        }
        "change_tenant" => Sound::with(Json("{}")).of("tenant"),
        "change_person" => Sound::with(Json("{}")).of("member"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_sound_request() {
        let routes = routes();
        let unknown: Vec<_> = routes.iter().filter(|route| route.unknown.is_some()).collect();
        assert!(unknown.is_empty(), "{unknown:#?}");
        for (method, path, name) in operations() {
            let named = format!("{method} {path}");
            assert!(routes.iter().any(|route| route.name == named), "{named} ({name})");
        }
        assert!(routes.len() >= operations().len());
    }

    #[test]
    fn bodies_are_json_once_they_are_filled() {
        for route in routes() {
            let Some((content_type, text)) = route.body else { continue };
            if content_type == "application/json" {
                let parsed: Result<serde_json::Value, _> = serde_json::from_str(&text);
                assert!(parsed.is_ok(), "{}: {text}", route.name);
            }
        }
    }

    #[test]
    fn roles_are_those_of_the_table_and_locking_comes_last() {
        let routes = routes();
        let allowed = |name: &str| {
            routes.iter().find(|route| route.name == name).map(|route| route.allowed.clone()).unwrap()
        };
        assert_eq!(allowed("GET /api/v1/musicians"), ["admin", "user", "viewer"]);
        assert_eq!(allowed("POST /api/v1/musicians"), ["admin", "user"]);
        assert_eq!(allowed("GET /api/v1/platform/tenants"), ["superadmin"]);
        assert!(routes.iter().any(|route| route.open && route.name == "POST /api/v1/auth/login"));
        let last: Vec<&str> = routes.iter().rev().take(2).map(|route| route.name.as_str()).collect();
        assert_eq!(
            last,
            ["POST /api/v1/platform/tenants/{id}/suspend", "POST /api/v1/platform/tenants/{id}/resume"]
        );
    }
}
