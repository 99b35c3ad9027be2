//! Who may do what: one row for each method of each route.
//!
//! Handlers check; this table says what they are to check, for whoever wants to know without asking each of
//! them: the matrix of the tests, and the proof that attacks a service over HTTP. A route that is served and not
//! listed here, and a row whose route is gone, fail this crate's own tests.

use axum::http::Method;
use stagesub_auth::{Permission, authorize};
use stagesub_domain::role::Role;

/// Which hosts answer a route. On others that the platform knows it is the one 404.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostKind {
    /// Whatever the host is called: probes come by address.
    Any,
    /// The platform's own host and every orchestra's.
    Known,
    /// The platform's own host.
    Apex,
    /// An orchestra's host.
    Tenant,
}

/// Who is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    /// Everybody, without a token.
    Anyone,
    /// Whoever has a token of the host that is asked.
    SignedIn,
    /// Whose role at the host that is asked allows it.
    May(Permission),
}

/// One method of one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteAuthority {
    /// The method.
    pub method: Method,
    /// The path, with its parameters in braces, as in the description of the API.
    pub path: &'static str,
    /// Where it is answered.
    pub host: HostKind,
    /// Who is answered.
    pub who: Who,
}

impl RouteAuthority {
    /// Whether somebody is answered who holds `role` at the host that is asked; `None`: nobody is signed in.
    #[must_use]
    pub fn allows(&self, role: Option<Role>) -> bool {
        match self.who {
            Who::Anyone => true,
            Who::SignedIn => role.is_some(),
            Who::May(permission) => role.is_some_and(|role| authorize(role, permission).is_ok()),
        }
    }

    /// Whether the description of the API has it. Probes and the description itself are outside of it.
    #[must_use]
    pub fn is_described(&self) -> bool {
        self.path.starts_with("/api/v1/")
    }
}

/// Every method of every route that is served, with who is answered.
#[must_use]
pub fn authority() -> &'static [RouteAuthority] {
    AUTHORITY
}

const fn row(method: Method, path: &'static str, host: HostKind, who: Who) -> RouteAuthority {
    RouteAuthority { method, path, host, who }
}

#[rustfmt::skip]
static AUTHORITY: &[RouteAuthority] = {
    use HostKind::{Any, Apex, Known, Tenant};
    use Permission::{EditOrchestra, ImportMusicians, ManageOrchestra, ManageTenants, ManageUsers, ReadOrchestra};
    use Who::{Anyone, May, SignedIn};
    const GET: Method = Method::GET;
    const POST: Method = Method::POST;
    const PATCH: Method = Method::PATCH;
    const DELETE: Method = Method::DELETE;
    &[
        row(GET,    "/healthz",                              Any,    Anyone),
        row(GET,    "/readyz",                               Any,    Anyone),
        row(GET,    "/api/docs",                             Known,  Anyone),
        row(GET,    "/api/docs/",                            Known,  Anyone),
        row(GET,    "/api/docs/{*rest}",                     Known,  Anyone),
        row(GET,    "/api/openapi.json",                     Known,  Anyone),

        row(POST,   "/api/v1/auth/login",                    Known,  Anyone),
        row(GET,    "/api/v1/auth/me",                       Known,  SignedIn),

        row(GET,    "/api/v1/tenant",                        Tenant, May(ReadOrchestra)),
        row(GET,    "/api/v1/instruments",                   Tenant, May(ReadOrchestra)),
        row(POST,   "/api/v1/instruments",                   Tenant, May(EditOrchestra)),
        row(GET,    "/api/v1/instruments/{id}",              Tenant, May(ReadOrchestra)),
        row(PATCH,  "/api/v1/instruments/{id}",              Tenant, May(EditOrchestra)),
        row(DELETE, "/api/v1/instruments/{id}",              Tenant, May(EditOrchestra)),
        row(POST,   "/api/v1/instruments/{id}/archive",      Tenant, May(EditOrchestra)),
        row(POST,   "/api/v1/instruments/{id}/restore",      Tenant, May(EditOrchestra)),
        row(GET,    "/api/v1/positions",                     Tenant, May(ReadOrchestra)),
        row(POST,   "/api/v1/positions",                     Tenant, May(EditOrchestra)),
        row(GET,    "/api/v1/positions/{id}",                Tenant, May(ReadOrchestra)),
        row(PATCH,  "/api/v1/positions/{id}",                Tenant, May(EditOrchestra)),
        row(DELETE, "/api/v1/positions/{id}",                Tenant, May(EditOrchestra)),
        row(GET,    "/api/v1/musicians",                     Tenant, May(ReadOrchestra)),
        row(POST,   "/api/v1/musicians",                     Tenant, May(EditOrchestra)),
        row(POST,   "/api/v1/musicians/import",              Tenant, May(ImportMusicians)),
        row(GET,    "/api/v1/musicians/{id}",                Tenant, May(ReadOrchestra)),
        row(PATCH,  "/api/v1/musicians/{id}",                Tenant, May(EditOrchestra)),
        row(DELETE, "/api/v1/musicians/{id}",                Tenant, May(EditOrchestra)),
        row(POST,   "/api/v1/musicians/{id}/restore",        Tenant, May(EditOrchestra)),
        row(GET,    "/api/v1/projects",                      Tenant, May(ReadOrchestra)),
        row(POST,   "/api/v1/projects",                      Tenant, May(EditOrchestra)),
        row(GET,    "/api/v1/projects/{id}",                 Tenant, May(ReadOrchestra)),
        row(PATCH,  "/api/v1/projects/{id}",                 Tenant, May(EditOrchestra)),
        row(DELETE, "/api/v1/projects/{id}",                 Tenant, May(EditOrchestra)),
        row(GET,    "/api/v1/users",                         Tenant, May(ManageOrchestra)),
        row(POST,   "/api/v1/users",                         Tenant, May(ManageOrchestra)),
        row(GET,    "/api/v1/users/{id}",                    Tenant, May(ManageOrchestra)),
        row(PATCH,  "/api/v1/users/{id}",                    Tenant, May(ManageOrchestra)),
        row(DELETE, "/api/v1/users/{id}",                    Tenant, May(ManageOrchestra)),

        row(GET,    "/api/v1/platform/tenants",              Apex,   May(ManageTenants)),
        row(POST,   "/api/v1/platform/tenants",              Apex,   May(ManageTenants)),
        row(GET,    "/api/v1/platform/tenants/{id}",         Apex,   May(ManageTenants)),
        row(PATCH,  "/api/v1/platform/tenants/{id}",         Apex,   May(ManageTenants)),
        row(POST,   "/api/v1/platform/tenants/{id}/suspend", Apex,   May(ManageTenants)),
        row(POST,   "/api/v1/platform/tenants/{id}/resume",  Apex,   May(ManageTenants)),
        row(GET,    "/api/v1/platform/tenants/{id}/moves",   Apex,   May(ManageTenants)),
        row(POST,   "/api/v1/platform/tenants/{id}/moves",   Apex,   May(ManageTenants)),
        row(GET,    "/api/v1/platform/moves",                Apex,   May(ManageTenants)),
        row(GET,    "/api/v1/platform/moves/{id}",           Apex,   May(ManageTenants)),
        row(POST,   "/api/v1/platform/moves/{id}/abort",     Apex,   May(ManageTenants)),
        row(POST,   "/api/v1/platform/moves/{id}/back",      Apex,   May(ManageTenants)),
        row(POST,   "/api/v1/platform/moves/{id}/finish",    Apex,   May(ManageTenants)),
        row(GET,    "/api/v1/platform/moves/{id}/events",    Apex,   May(ManageTenants)),
        row(GET,    "/api/v1/platform/databases",            Apex,   May(ManageTenants)),
        row(POST,   "/api/v1/platform/databases",            Apex,   May(ManageTenants)),
        row(GET,    "/api/v1/platform/databases/{id}",       Apex,   May(ManageTenants)),
        row(POST,   "/api/v1/platform/databases/{id}/check", Apex,   May(ManageTenants)),
        row(GET,    "/api/v1/platform/usage",                Apex,   May(ManageTenants)),
        row(GET,    "/api/v1/platform/users",                Apex,   May(ManageUsers)),
        row(GET,    "/api/v1/platform/users/{id}",           Apex,   May(ManageUsers)),
        row(PATCH,  "/api/v1/platform/users/{id}",           Apex,   May(ManageUsers)),
    ]
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::{addressed, api, openapi, probes};
    use super::*;

    /// Method and path of what the table lists.
    fn listed(described: bool) -> BTreeSet<(String, String)> {
        let rows = authority().iter().filter(|row| row.is_described() == described);
        rows.map(|row| (row.method.to_string(), row.path.to_owned())).collect()
    }

    /// Each operation of the description: method, path, and what it says of itself.
    fn operations() -> Vec<(String, String, serde_json::Value)> {
        let description = serde_json::to_value(openapi()).unwrap();
        let mut all = Vec::new();
        for (path, methods) in description["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                all.push((method.to_uppercase(), path.clone(), operation.clone()));
            }
        }
        all
    }

    /// Every path that a router matches. Axum tells them in its `Debug` alone.
    fn registered(router: &impl std::fmt::Debug) -> BTreeSet<String> {
        let text = format!("{router:?}");
        let (_, node) = text.split_once("node: Node { paths: {").expect("axum shows its paths");
        let (paths, _) = node.split_once("} }").expect("axum's paths end");
        paths.split('"').filter(|part| part.starts_with('/')).map(str::to_owned).collect()
    }

    #[test]
    fn every_described_operation_has_one_row_and_every_row_its_operation() {
        let described = operations().into_iter().map(|(method, path, _)| (method, path)).collect();
        assert_eq!(listed(true), described);
        let rows: BTreeSet<_> = authority().iter().map(|row| (row.method.as_str(), row.path)).collect();
        assert_eq!(rows.len(), authority().len(), "a row is there twice");
    }

    #[test]
    fn every_path_that_is_registered_is_listed() {
        // A route that was added past the description would be here too.
        let served = &registered(&addressed(api())) | &registered(&probes());
        let listed: BTreeSet<String> = authority().iter().map(|row| row.path.to_owned()).collect();
        assert_eq!(listed, served);
    }

    #[test]
    fn what_asks_for_a_token_says_so_and_what_does_not_is_public() {
        for (method, path, operation) in operations() {
            let row =
                authority().iter().find(|row| row.method.as_str() == method && row.path == path).unwrap();
            let asks = operation["security"].as_array().is_some_and(|schemes| !schemes.is_empty());
            assert_eq!(asks, row.who != Who::Anyone, "{method} {path}");
        }
    }

    #[test]
    fn paths_say_which_host_answers() {
        for row in authority().iter().filter(|row| row.is_described()) {
            let expected = match row.path {
                path if path.starts_with("/api/v1/platform/") => HostKind::Apex,
                path if path.starts_with("/api/v1/auth/") => HostKind::Known,
                _ => HostKind::Tenant,
            };
            assert_eq!(row.host, expected, "{} {}", row.method, row.path);
        }
    }

    #[test]
    fn permissions_fit_the_host_that_asks_for_them() {
        for row in authority() {
            let allowed: Vec<Role> = [Role::Viewer, Role::User, Role::Admin, Role::Superadmin]
                .into_iter()
                .filter(|role| row.allows(Some(*role)))
                .collect();
            match (row.host, row.who) {
                (HostKind::Apex, _) => assert_eq!(allowed, [Role::Superadmin], "{row:?}"),
                (HostKind::Tenant, Who::May(_)) => {
                    assert!(allowed.contains(&Role::Admin), "{row:?}");
                    assert!(!allowed.contains(&Role::Superadmin), "{row:?}");
                }
                (HostKind::Tenant, who) => panic!("{row:?}: an orchestra's route is open to {who:?}"),
                (HostKind::Any | HostKind::Known, _) => assert_eq!(allowed.len(), 4, "{row:?}"),
            }
            assert_eq!(row.allows(None), row.who == Who::Anyone, "{row:?}");
        }
    }
}
