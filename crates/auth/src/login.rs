//! Signing in with address and password.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use stagesub_domain::actor::{Actor, Identity, Origin};
use stagesub_domain::audit::{AuditAction, AuditEntry};
use stagesub_domain::error::StoreError;
use stagesub_domain::role::Role;
use stagesub_tenancy::{BoxError, TenantId};
use uuid::Uuid;

use crate::authority::role_at;
use crate::password::{PASSWORD_MAX_BYTES, PasswordError, PasswordHasher, Verification};
use crate::ports::{Credential, CredentialStore};
use crate::token::{ACCESS_TOKEN_LIFETIME, AccessTokens, TokenError, TokenSubject};

/// Longest login address, in bytes: what SMTP can carry. A longer one belongs to nobody.
const MAX_EMAIL_BYTES: usize = 254;

/// Signs people in.
pub struct LoginService {
    credentials: Arc<dyn CredentialStore>,
    hasher: Arc<PasswordHasher>,
    tokens: Arc<AccessTokens>,
}

impl fmt::Debug for LoginService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginService").field("hasher", &self.hasher).finish_non_exhaustive()
    }
}

/// What a sign-in gives. The token is redacted in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedIn {
    /// To be sent as `Authorization: Bearer ...`.
    pub access_token: String,
    /// Seconds until the token ends.
    pub expires_in_secs: u64,
    /// Who signed in.
    pub person: Person,
    /// What they are here.
    pub role: Role,
}

impl fmt::Debug for SignedIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedIn")
            .field("person", &self.person)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// A person, as they see themselves. Name and address are left out of `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Person {
    /// Identity.
    pub id: Uuid,
    /// Login address, as stored.
    pub email: String,
    /// First name.
    pub first_name: String,
    /// Last name.
    pub last_name: String,
}

impl fmt::Debug for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Person").field("id", &self.id).finish_non_exhaustive()
    }
}

impl LoginService {
    /// Signs people in whom `credentials` knows.
    #[must_use]
    pub fn new(
        credentials: Arc<dyn CredentialStore>,
        hasher: Arc<PasswordHasher>,
        tokens: Arc<AccessTokens>,
    ) -> Self {
        Self { credentials, hasher, tokens }
    }

    /// Signs a person in on a tenant's host, or on the platform's own when `tenant` is `None`.
    ///
    /// On a tenant's host a membership is needed, whoever it is; on the platform's own host only a superadmin
    /// signs in. Each sign-in and each refusal is audited before it is answered.
    ///
    /// # Errors
    /// [`LoginError::Refused`] tells neither in its text nor in its timing whether the address, the password,
    /// the account or the membership was at fault: each case looks the person up, hashes once and writes one
    /// audit entry. (A hash that the earlier system left takes bcrypt's time until it is replaced.)
    /// [`LoginError::Overloaded`] and [`LoginError::Store`] say that nothing was decided.
    pub async fn login(
        &self,
        email: &str,
        password: SecretString,
        tenant: Option<TenantId>,
        origin: Origin,
        now: DateTime<Utc>,
    ) -> Result<SignedIn, LoginError> {
        // Limits on attempts by address and by origin come later, and belong here: before the look-up, so
        // that a blocked attempt costs nothing.
        let found = self.find(email, tenant).await?;
        let verified = self.verify(&password, found.as_ref()).await?;
        match decide(found, verified, tenant) {
            Ok(granted) => self.grant(granted, &password, tenant, origin, now).await,
            Err(refusal) => {
                let entry = refusal.entry(origin, now);
                self.credentials.record_refusal(tenant, &entry).await.map_err(LoginError::Store)?;
                Err(LoginError::Refused)
            }
        }
    }

    async fn find(&self, email: &str, tenant: Option<TenantId>) -> Result<Option<Credential>, LoginError> {
        let email = email.trim();
        // No stored address is like these, and the store cannot even be asked about some of them (NUL).
        if email.is_empty() || email.len() > MAX_EMAIL_BYTES || email.chars().any(char::is_control) {
            return Ok(None);
        }
        self.credentials.find_credential(email, tenant).await.map_err(LoginError::Store)
    }

    /// Always hashes once: with the person's hash, or with nobody's.
    async fn verify(
        &self,
        password: &SecretString,
        found: Option<&Credential>,
    ) -> Result<Verification, LoginError> {
        let stored = found.and_then(|credential| credential.password_hash.as_ref());
        if password.expose_secret().len() > PASSWORD_MAX_BYTES {
            self.hasher.verify(&SecretString::default(), None).await?;
            return Ok(Verification::NoMatch);
        }
        Ok(self.hasher.verify(password, stored).await?)
    }

    async fn grant(
        &self,
        granted: Granted,
        password: &SecretString,
        tenant: Option<TenantId>,
        origin: Origin,
        now: DateTime<Utc>,
    ) -> Result<SignedIn, LoginError> {
        let Granted { credential, role, needs_rehash } = granted;
        let user = credential.user;
        // The token first: nothing is written down as a sign-in that then fails.
        let subject = TokenSubject { user, tenant, role, auth_epoch: credential.auth_epoch };
        let access_token = self.tokens.issue(subject, now)?;
        if needs_rehash && let Some(old) = &credential.password_hash {
            self.rehash(user, old, password).await?;
        }
        let identity = match role {
            Role::Superadmin => Identity::Superadmin { user },
            role @ (Role::Admin | Role::User | Role::Viewer) => Identity::User { user, role },
        };
        let entry = AuditEntry {
            actor: Actor { identity, origin },
            at: now,
            action: AuditAction::Login,
            model: "user",
            record_id: Some(user.to_string()),
            changes: None,
        };
        self.credentials.record_login(user, tenant, now, &entry).await.map_err(LoginError::Store)?;
        Ok(SignedIn {
            access_token,
            expires_in_secs: ACCESS_TOKEN_LIFETIME.num_seconds().unsigned_abs(),
            person: Person {
                id: user,
                email: credential.email,
                first_name: credential.first_name,
                last_name: credential.last_name,
            },
            role,
        })
    }

    async fn rehash(
        &self,
        user: Uuid,
        old: &SecretString,
        password: &SecretString,
    ) -> Result<(), LoginError> {
        match self.hasher.hash(password).await {
            Ok(new) => self.credentials.rehash(user, old, &new).await.map_err(LoginError::Store),
            // The old hash still works, and the next sign-in tries again.
            Err(PasswordError::Overloaded) => Ok(()),
            Err(error @ PasswordError::Failed(_)) => Err(error.into()),
        }
    }
}

/// A sign-in that is to be.
struct Granted {
    credential: Credential,
    role: Role,
    needs_rehash: bool,
}

/// Why not, for the audit log alone.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    reason: &'static str,
    user: Option<Uuid>,
}

impl Refusal {
    fn entry(self, origin: Origin, now: DateTime<Utc>) -> AuditEntry {
        AuditEntry {
            // Nobody is known to act: whoever it was did not show to be the person they named. What was typed
            // as an address is not kept, since it may be a password in the wrong field.
            actor: Actor { identity: Identity::System, origin },
            at: now,
            action: AuditAction::LoginFailed,
            model: "user",
            record_id: self.user.map(|user| user.to_string()),
            changes: Some(json!({ "reason": self.reason })),
        }
    }
}

fn decide(
    found: Option<Credential>,
    verified: Verification,
    tenant: Option<TenantId>,
) -> Result<Granted, Refusal> {
    // A tenant's administrators read these entries, so they do not tell a person whom the platform knows
    // elsewhere from one whom it does not know.
    let nobody = |user| Refusal { reason: "no_account_here", user };
    let credential = found.ok_or_else(|| nobody(None))?;
    let user = Some(credential.user);
    let role = role_at(tenant, credential.is_superadmin, credential.role)
        .ok_or_else(|| nobody(user.filter(|_| tenant.is_none())))?;
    match verified {
        _ if credential.password_hash.is_none() => Err(Refusal { reason: "no_password", user }),
        Verification::Unusable => Err(Refusal { reason: "unusable_hash", user }),
        Verification::NoMatch => Err(Refusal { reason: "wrong_password", user }),
        Verification::Match { .. } if !credential.is_active => Err(Refusal { reason: "inactive", user }),
        Verification::Match { needs_rehash } => Ok(Granted { credential, role, needs_rehash }),
    }
}

/// Nobody was signed in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// Address and password do not sign anybody in here. Which part was wrong is in the audit log alone.
    #[error("the sign-in was refused")]
    Refused,
    /// Too many sign-ins at once; the same call may succeed in a moment.
    #[error("too many people are signing in")]
    Overloaded,
    /// The store did not answer or did not record it.
    #[error("the sign-in could not be looked up or recorded")]
    Store(#[source] StoreError),
    /// Hashing or signing failed: a defect, or a machine without memory.
    #[error("the sign-in failed")]
    Failed(#[source] BoxError),
}

impl From<PasswordError> for LoginError {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Overloaded => Self::Overloaded,
            PasswordError::Failed(source) => Self::Failed(source),
        }
    }
}

impl From<TokenError> for LoginError {
    fn from(error: TokenError) -> Self {
        Self::Failed(Box::new(error))
    }
}

#[cfg(test)]
mod tests;
