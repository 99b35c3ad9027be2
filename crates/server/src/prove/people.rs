//! Who attacks: members of the canaries, and an administrator of the platform that is the proof's own.
//!
//! They sign in as everybody does, with a password that is made for each run and kept in memory alone. So a
//! proof needs no signing secret and forges nothing, and a service that was asked over the network proves with
//! its own tokens that it is the one on these databases. At rest nobody knows the passwords, the members'
//! orchestras are suspended, and the administrator is disabled: a run that was killed leaves an administrator
//! whom nobody can sign in as.

use chrono::{DateTime, Utc};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use stagesub_domain::actor::Actor;
use stagesub_domain::audit::{AuditAction, AuditEntry};
use stagesub_domain::ports::registry::{NewMember, Outcome, Person};
use stagesub_domain::role::Role;
use stagesub_tenancy::TenantId;
use stagesub_tenancy::prove::http::{Caller, Target};
use uuid::Uuid;

use super::canaries::Canary;
use super::error::ProveError;
use super::routes::MAIL_DOMAIN;
use crate::passphrase;
use crate::wiring::Platform;

/// Roles that somebody has in each canary.
const ROLES: [Role; 3] = [Role::Admin, Role::User, Role::Viewer];

/// The password of everybody in one run.
pub(super) struct Password {
    secret: SecretString,
    hash: String,
}

impl Password {
    /// A new one. It is hashed once, for all: nobody else has it, and it lasts as long as the run.
    pub(super) async fn make(platform: &Platform) -> Result<Self, ProveError> {
        let secret = passphrase::generate();
        let hash = platform.passwords().hash(&secret).await?.expose_secret().to_owned();
        Ok(Self { secret, hash })
    }

    pub(super) fn expose(&self) -> &str {
        self.secret.expose_secret()
    }
}

/// A canary's people.
pub(super) struct People {
    /// Who signs in.
    pub(super) callers: Vec<(Role, String)>,
    /// Somebody who does not, for routes that change people.
    pub(super) spare: Uuid,
}

/// Makes sure that a canary has its people, and gives them the run's password.
pub(super) async fn enlist(
    platform: &Platform,
    canary: &Canary,
    password: &Password,
    now: DateTime<Utc>,
) -> Result<People, ProveError> {
    let mut callers = Vec::new();
    for role in ROLES {
        let email = format!("{}@{}.{MAIL_DOMAIN}", role.as_str(), canary.letter);
        member(platform, canary.id, &canary.marker, &email, role, now).await?;
        give_password(platform, &email, password, now).await?;
        callers.push((role, email));
    }
    let email = format!("spare@{}.{MAIL_DOMAIN}", canary.letter);
    let spare = member(platform, canary.id, &canary.marker, &email, Role::Viewer, now).await?;
    Ok(People { callers, spare: spare.id })
}

async fn member(
    platform: &Platform,
    tenant: TenantId,
    marker: &str,
    email: &str,
    role: Role,
    now: DateTime<Utc>,
) -> Result<Person, ProveError> {
    if let Some(person) = platform.people().find_by_email(email).await? {
        return Ok(person);
    }
    let member = new_person(marker, email);
    let changes = json!({ "after": { "role": role.as_str() } });
    let entry = entry(AuditAction::Create, member.id, Some(changes), now);
    Ok(platform.people().add_member(tenant, &member, role, &entry).await?)
}

fn new_person(marker: &str, email: &str) -> NewMember {
    NewMember {
        id: Uuid::now_v7(),
        email: email.to_owned(),
        first_name: "Canary".to_owned(),
        last_name: marker.to_owned(),
        password_hash: None,
    }
}

async fn give_password(
    platform: &Platform,
    email: &str,
    password: &Password,
    now: DateTime<Utc>,
) -> Result<(), ProveError> {
    let person = platform.people().find_by_email(email).await?;
    let id = person.map_or_else(Uuid::nil, |person| person.id);
    let entry = entry(AuditAction::SetPassword, id, None, now);
    platform.people().set_password(email, &password.hash, &entry).await?;
    Ok(())
}

fn entry(action: AuditAction, person: Uuid, changes: Option<Value>, now: DateTime<Utc>) -> AuditEntry {
    AuditEntry {
        actor: Actor::system(),
        at: now,
        action,
        model: "user",
        record_id: Some(person.to_string()),
        changes,
    }
}

/// Login address of the proof's own administrator of the platform.
fn operator() -> String {
    format!("operator@{MAIL_DOMAIN}")
}

/// Lets the proof's own administrator of the platform in, for as long as the run lasts.
pub(super) async fn wake_operator(
    platform: &Platform,
    marker: &str,
    password: &Password,
    now: DateTime<Utc>,
) -> Result<String, ProveError> {
    let email = operator();
    let people = platform.people();
    let person = match people.find_by_email(&email).await? {
        Some(person) if !person.is_superadmin => return Err(ProveError::NotTheOperator { email }),
        Some(person) => person,
        None => {
            let member = new_person(marker, &email);
            people.add_superadmin(&member, &crate::bootstrap::created(member.id, now)).await?
        }
    };
    give_password(platform, &email, password, now).await?;
    if !person.is_active {
        people.set_active(person.id, true, &entry(AuditAction::Enable, person.id, None, now)).await?;
    }
    Ok(email)
}

/// Lets the administrator in no more, if there is one.
pub(super) async fn rest_operator(platform: &Platform, now: DateTime<Utc>) -> Result<(), ProveError> {
    let people = platform.people();
    let Some(person) = people.find_by_email(&operator()).await?.filter(|person| person.is_active) else {
        return Ok(());
    };
    let entry = entry(AuditAction::Disable, person.id, None, now);
    match people.set_active(person.id, false, &entry).await? {
        Outcome::Done | Outcome::Otherwise => Ok(()),
        Outcome::Last => Err(ProveError::LastOperator { email: person.email }),
    }
}

/// Signs somebody in at a host of the service that is attacked.
pub(super) async fn sign_in(
    target: &dyn Target,
    host: &str,
    email: &str,
    password: &Password,
) -> Result<Result<HeaderValue, Response<bytes::Bytes>>, ProveError> {
    let body = json!({ "email": email, "password": password.expose() }).to_string();
    let request = Request::builder()
        .method(Method::POST)
        .uri("/api/v1/auth/login")
        .header(HOST, host)
        .header(CONTENT_TYPE, "application/json")
        .body(body.into())
        .expect("a host and a path make a request");
    let answer = target.send(request).await?;
    if !answer.status().is_success() {
        return Ok(Err(answer));
    }
    let body: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    let token = body["accessToken"].as_str().unwrap_or_default();
    match HeaderValue::from_str(&format!("Bearer {token}")) {
        Ok(mut value) if !token.is_empty() => {
            value.set_sensitive(true);
            Ok(Ok(value))
        }
        _ => Ok(Err(answer)),
    }
}

/// A caller of a plan.
pub(super) fn caller(role: Role, authorization: HeaderValue) -> Caller {
    Caller::new(role.as_str(), authorization)
}

/// A request for who is signed in.
pub(super) fn who_am_i(host: &str, authorization: &HeaderValue) -> Request<bytes::Bytes> {
    let mut request = Request::builder()
        .uri("/api/v1/auth/me")
        .header(HOST, host)
        .body(bytes::Bytes::new())
        .expect("a host and a path make a request");
    request.headers_mut().insert(AUTHORIZATION, authorization.clone());
    request
}
