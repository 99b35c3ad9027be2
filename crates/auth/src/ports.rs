//! What signing in needs of the registry, as traits.

use std::fmt;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use stagesub_domain::audit::AuditEntry;
use stagesub_domain::error::StoreError;
use stagesub_domain::role::Role;
use stagesub_tenancy::TenantId;
use uuid::Uuid;

/// Version of a person's authority: password, account state, memberships. A token made for an older one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuthEpoch(pub i64);

/// What a sign-in is checked against. Hash, name and address are left out of `Debug`.
#[derive(Clone)]
pub struct Credential {
    /// The person.
    pub user: Uuid,
    /// Login address, as stored.
    pub email: String,
    /// First name.
    pub first_name: String,
    /// Last name.
    pub last_name: String,
    /// PHC string (argon2id) or an earlier system's bcrypt hash; `None` for sign-in by provider only.
    pub password_hash: Option<SecretString>,
    /// Whether the person may sign in.
    pub is_active: bool,
    /// Whether the person runs the platform.
    pub is_superadmin: bool,
    /// Version of their authority.
    pub auth_epoch: AuthEpoch,
    /// Role in the tenant that was asked about, if a member.
    pub role: Option<Role>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("user", &self.user)
            .field("is_active", &self.is_active)
            .field("is_superadmin", &self.is_superadmin)
            .field("auth_epoch", &self.auth_epoch)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// What a person may do now, in a tenant or on the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority {
    /// The person.
    pub user: Uuid,
    /// Whether the account is usable.
    pub is_active: bool,
    /// Whether the person runs the platform.
    pub is_superadmin: bool,
    /// Role in the tenant that was asked about, if a member.
    pub role: Option<Role>,
    /// Version of their authority.
    pub auth_epoch: AuthEpoch,
}

/// Credentials in the registry. The only port that reads password hashes.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait CredentialStore: Send + Sync {
    /// Finds a person by login address (without regard to case), with the role in `tenant`.
    async fn find_credential(
        &self,
        email: &str,
        tenant: Option<TenantId>,
    ) -> Result<Option<Credential>, StoreError>;
    /// Records a sign-in: last login and its audit entry, in one transaction.
    async fn record_login(
        &self,
        user: Uuid,
        tenant: Option<TenantId>,
        at: DateTime<Utc>,
        entry: &AuditEntry,
    ) -> Result<(), StoreError>;
    /// Records a refused sign-in.
    async fn record_refusal(&self, tenant: Option<TenantId>, entry: &AuditEntry) -> Result<(), StoreError>;
    /// Replaces an outdated hash of the same password, if it is still `old`. Tokens stay valid.
    async fn rehash(&self, user: Uuid, old: &SecretString, new: &SecretString) -> Result<(), StoreError>;
}

/// What people may do now.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait AuthorityStore: Send + Sync {
    /// Finds a person's authority in `tenant`, or on the platform when `None`.
    async fn find_authority(
        &self,
        user: Uuid,
        tenant: Option<TenantId>,
    ) -> Result<Option<Authority>, StoreError>;

    /// The same, but never from memory: for a caller who has seen a later version than the one it was told.
    /// A store that remembers nothing need not say more than this.
    async fn find_current_authority(
        &self,
        user: Uuid,
        tenant: Option<TenantId>,
    ) -> Result<Option<Authority>, StoreError> {
        self.find_authority(user, tenant).await
    }
}
