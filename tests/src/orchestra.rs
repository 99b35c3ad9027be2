//! An orchestra on a test's platform.

use std::fmt;

use serde_json::json;
use stagesub_tenancy::{Subdomain, TenantId};
use uuid::Uuid;

use crate::client::Client;

/// Where an orchestra's data is kept. Contract tests run for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Among others, behind row-level security.
    Shared,
    /// In a database of its own, behind the same.
    Dedicated,
}

impl Kept {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Shared, Self::Dedicated];

    /// As the API has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Dedicated => "dedicated",
        }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What its first administrator signs in with.
pub const PASSWORD: &str = "kontrabas och tuba i takt";

/// An orchestra, and its administrator signed in.
#[derive(Debug, Clone)]
pub struct Orchestra {
    /// Its identity.
    pub tenant: TenantId,
    /// Its host label.
    pub subdomain: String,
    /// Prefix of its ids.
    pub code: String,
    /// Its host.
    pub host: String,
    /// Where it is kept.
    pub kept: Kept,
    /// Its administrator.
    pub admin: Client,
    pub(crate) tenant_text: String,
    pub(crate) admin_user: Uuid,
}

impl Orchestra {
    /// An id of it, as people see it.
    #[must_use]
    pub fn id(&self, kind: &str, no: u32) -> String {
        format!("{}-{kind}-{no:03}", self.code)
    }

    /// The address of one of its things.
    #[must_use]
    pub fn path(&self, resource: &str, kind: &str, no: u32) -> String {
        format!("/api/v1/{resource}/{}", self.id(kind, no))
    }

    /// Its identity as text.
    #[must_use]
    pub fn tenant_text(&self) -> &str {
        &self.tenant_text
    }

    /// Its host label, as the domain has it.
    #[must_use]
    pub fn label(&self) -> Subdomain {
        self.subdomain.parse().expect("a subdomain")
    }

    /// Its administrator's identity.
    #[must_use]
    pub fn admin_user(&self) -> Uuid {
        self.admin_user
    }

    /// Its administrator's login address.
    #[must_use]
    pub fn admin_email(&self) -> String {
        format!("chef@{}.example", self.subdomain)
    }

    /// Its administrator's password.
    #[must_use]
    pub fn admin_password(&self) -> &'static str {
        PASSWORD
    }

    /// Its administrator with a new access token.
    pub async fn sign_in_again(&self) -> Client {
        sign_in(&self.admin, &self.admin_email(), PASSWORD).await.0
    }
}

/// A member of an orchestra, signed in there.
#[derive(Debug, Clone)]
pub struct Member {
    /// Identity.
    pub user: Uuid,
    /// Login address.
    pub email: String,
    /// Signed in.
    pub client: Client,
}

impl Member {
    /// The same person with a new access token.
    pub async fn sign_in_again(&self) -> Self {
        let (client, user) = sign_in(&self.client, &self.email, PASSWORD).await;
        Self { user, email: self.email.clone(), client }
    }
}

/// Signs a person in at the client's host, and tells who that is.
pub(crate) async fn sign_in(client: &Client, email: &str, password: &str) -> (Client, Uuid) {
    let login = json!({ "email": email, "password": password });
    let answer = client.anonymous().post("/api/v1/auth/login", &login).await.ok();
    let token = answer["accessToken"].as_str().expect("an access token");
    let user = answer["user"]["id"].as_str().and_then(|id| id.parse().ok()).expect("a person's id");
    (client.with_token(token), user)
}
