//! What a demo tells once it is ready: where it is and how to get in.

use std::fmt::Write;
use std::net::SocketAddr;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use stagesub_tenancy::TenantId;

/// The domain of a demo: browsers resolve every name under it to this machine.
pub const APP_DOMAIN: &str = "localhost";

/// A login.
#[derive(Debug, Clone)]
pub struct Login {
    /// Address.
    pub email: String,
    /// Password.
    pub password: SecretString,
}

impl Login {
    fn to_json(&self) -> Value {
        json!({ "email": self.email, "password": self.password.expose_secret() })
    }
}

/// An orchestra that is served.
#[derive(Debug, Clone)]
pub struct Served {
    /// Its identity.
    pub id: TenantId,
    /// Its name.
    pub name: String,
    /// Its host label.
    pub subdomain: String,
    /// Prefix of its ids.
    pub code: String,
    /// `shared` or `dedicated`.
    pub placement: &'static str,
    /// Its administrator.
    pub admin: Login,
}

/// A demo that is ready.
#[derive(Debug, Clone)]
pub struct Report {
    /// Where it listens.
    pub address: SocketAddr,
    /// The platform's administrator.
    pub superadmin: Login,
    /// Its orchestras.
    pub tenants: Vec<Served>,
}

impl Report {
    /// The platform's own URL.
    #[must_use]
    pub fn apex(&self) -> String {
        format!("http://{APP_DOMAIN}:{}", self.address.port())
    }

    /// An orchestra's URL.
    #[must_use]
    pub fn url(&self, subdomain: &str) -> String {
        format!("http://{subdomain}.{APP_DOMAIN}:{}", self.address.port())
    }

    /// One value for programs.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let tenants: Vec<Value> = self
            .tenants
            .iter()
            .map(|tenant| {
                json!({
                    "id": tenant.id,
                    "subdomain": tenant.subdomain,
                    "code": tenant.code,
                    "url": self.url(&tenant.subdomain),
                    "placement": tenant.placement,
                    "admin": tenant.admin.to_json(),
                })
            })
            .collect();
        json!({
            "ready": true,
            "apex": self.apex(),
            "superadmin": self.superadmin.to_json(),
            "tenants": tenants,
        })
    }

    /// Text for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut entry = |url: &str, what: &str, login: &Login| {
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "  {url}\n    {what}\n    {}  {}\n",
                login.email,
                login.password.expose_secret()
            );
        };
        entry(&self.apex(), "the platform (superadmin)", &self.superadmin);
        for tenant in &self.tenants {
            let what = format!("{} ({}, {} database)", tenant.name, tenant.code, tenant.placement);
            entry(&self.url(&tenant.subdomain), &what, &tenant.admin);
        }
        format!(
            "StageSub is ready.\n\n{text}  The API is described at {}/api/docs. Ctrl-C stops everything; the data stays.",
            self.apex()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let login = |email: &str| Login { email: email.to_owned(), password: "s3cret".into() };
        Report {
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            superadmin: login("superadmin@stagesub.example"),
            tenants: vec![Served {
                id: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
                name: "Götaälvens Symfoniorkester".to_owned(),
                subdomain: "got".to_owned(),
                code: "GOT".to_owned(),
                placement: "shared",
                admin: login("admin@got.example"),
            }],
        }
    }

    #[test]
    fn programs_get_one_line_with_the_agreed_names() {
        let line = serde_json::to_string(&report().to_json()).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(
            report().to_json(),
            json!({
                "ready": true,
                "apex": "http://localhost:8080",
                "superadmin": { "email": "superadmin@stagesub.example", "password": "s3cret" },
                "tenants": [{
                    "id": "01890a5d-ac96-774b-bcce-b302099a8057",
                    "subdomain": "got",
                    "code": "GOT",
                    "url": "http://got.localhost:8080",
                    "placement": "shared",
                    "admin": { "email": "admin@got.example", "password": "s3cret" },
                }],
            })
        );
    }

    #[test]
    fn people_get_every_url_and_login() {
        let text = report().to_text();
        for part in ["http://localhost:8080\n", "http://got.localhost:8080\n", "admin@got.example  s3cret"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn passwords_are_not_in_the_debug_form() {
        assert!(!format!("{:?}", report()).contains("s3cret"));
    }
}
