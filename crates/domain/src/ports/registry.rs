//! The platform's own records: tenants as administrators of the platform see them, and people.
//!
//! These ports take no scope: they reach the registry only, where no tenant data is.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use stagesub_tenancy::moves::NewTarget;
use stagesub_tenancy::{ConfigVersion, DatabaseId, Subdomain, Tenant, TenantCode, TenantId, TenantStatus};
use uuid::Uuid;

use crate::audit::AuditEntry;
use crate::error::{DatabaseError, StoreError};
use crate::idempotency::{Asked, Fingerprint};
use crate::page::Paged;
use crate::role::Role;
use crate::subscription::{Limits, Tier};

/// A tenant as the platform's administrators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantAccount {
    /// Its identity.
    pub id: TenantId,
    /// Prefix of its ids.
    pub code: TenantCode,
    /// Its name.
    pub name: String,
    /// Its host label.
    pub subdomain: Subdomain,
    /// What it subscribes to.
    pub tier: Tier,
    /// Its limits: the tier's, or as set by hand.
    pub limits: Limits,
    /// Where it stands in its life.
    pub status: TenantStatus,
    /// End of the trial.
    pub trial_ends_at: Option<DateTime<Utc>>,
    /// End of the paid subscription.
    pub subscription_ends_at: Option<DateTime<Utc>>,
    /// Logo, colours, fonts.
    pub custom_branding: Option<serde_json::Value>,
    /// Its own mail domain (institution only).
    pub email_domain: Option<String>,
    /// Which database holds it; `None` until it is placed.
    pub placement: Option<stagesub_tenancy::Placement>,
    /// Version of this record.
    pub version: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// What a tenant's own people see of its record.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantProfile {
    /// Its identity.
    pub id: TenantId,
    /// Prefix of its ids.
    pub code: TenantCode,
    /// Its name.
    pub name: String,
    /// Its host label.
    pub subdomain: Subdomain,
    /// What it subscribes to.
    pub tier: Tier,
    /// End of the trial.
    pub trial_ends_at: Option<DateTime<Utc>>,
    /// End of the paid subscription.
    pub subscription_ends_at: Option<DateTime<Utc>>,
    /// Logo, colours, fonts.
    pub custom_branding: Option<serde_json::Value>,
}

impl TenantAccount {
    /// Whether people may use it at `now`: derived from its status and dates.
    #[must_use]
    pub fn is_active_at(&self, now: DateTime<Utc>) -> bool {
        let tenant = Tenant {
            id: self.id,
            code: self.code.clone(),
            name: self.name.clone(),
            subdomain: self.subdomain.clone(),
            status: self.status,
            trial_ends_at: self.trial_ends_at,
            subscription_ends_at: self.subscription_ends_at,
            version: ConfigVersion(self.version),
        };
        tenant.access_at(now).is_ok()
    }
}

/// A tenant to be made: what is reserved in the registry first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTenant {
    /// Its identity, made by the caller.
    pub id: TenantId,
    /// Prefix of its ids.
    pub code: TenantCode,
    /// Its name.
    pub name: String,
    /// Its host label.
    pub subdomain: Subdomain,
    /// What it subscribes to.
    pub tier: Tier,
    /// Its limits.
    pub limits: Limits,
    /// End of the trial.
    pub trial_ends_at: Option<DateTime<Utc>>,
    /// A database of its own is to be made for it.
    pub dedicated: bool,
    /// Its first administrator.
    pub admin: Option<NewMember>,
    /// The request that asks for it, if it was given a key.
    pub asked: Option<Asked>,
    /// When.
    pub now: DateTime<Utc>,
}

/// What became of a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reservation {
    /// Code and subdomain are the new tenant's.
    Made(TenantAccount),
    /// The request's key was given before; nothing was reserved.
    Before {
        /// What was asked then.
        fingerprint: Fingerprint,
        /// The tenant that was made then, as it is now.
        account: TenantAccount,
        /// Whether it is to have a database of its own.
        dedicated: bool,
    },
}

/// A person who becomes a member of a tenant.
#[derive(Clone, PartialEq, Eq)]
pub struct NewMember {
    /// Identity to use if no person has this address yet, made by the caller.
    pub id: Uuid,
    /// Login address.
    pub email: String,
    /// First name.
    pub first_name: String,
    /// Last name.
    pub last_name: String,
    /// PHC string of the password; `None` for a person who has to be given one later.
    pub password_hash: Option<String>,
}

impl std::fmt::Debug for NewMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewMember").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Which tenants are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TenantFilter {
    /// Part of name, subdomain or code, without regard to case.
    pub search: Option<String>,
    /// In this status.
    pub status: Option<TenantStatus>,
    /// Of this tier.
    pub tier: Option<Tier>,
}

/// Changes to a tenant's record; `None` leaves a field as it is, `Some(None)` empties it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TenantChange {
    /// Only if the record stands at this version still; `None`: whatever it stands at.
    pub if_version: Option<i64>,
    /// Name.
    pub name: Option<String>,
    /// Subdomain.
    pub subdomain: Option<Subdomain>,
    /// Tier.
    pub tier: Option<Tier>,
    /// Limits.
    pub limits: Option<Limits>,
    /// End of the trial.
    pub trial_ends_at: Option<Option<DateTime<Utc>>>,
    /// End of the subscription.
    pub subscription_ends_at: Option<Option<DateTime<Utc>>>,
    /// Branding.
    pub custom_branding: Option<Option<serde_json::Value>>,
    /// Mail domain.
    pub email_domain: Option<Option<String>>,
}

/// Tenants in the registry. Each change writes its audit entry in its own transaction and takes a new version.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait TenantRegistry: Send + Sync {
    /// Reserves code and subdomain, and records the tenant as `provisioning`, with its first administrator's
    /// account and membership and the key of the request. A key that was given before comes before any conflict.
    async fn reserve(&self, tenant: &NewTenant, audit: &AuditEntry) -> Result<Reservation, StoreError>;
    /// Finds one.
    async fn find(&self, id: TenantId) -> Result<Option<TenantAccount>, StoreError>;
    /// Finds what its own people see of one.
    async fn find_profile(&self, id: TenantId) -> Result<Option<TenantProfile>, StoreError>;
    /// Whether there is one.
    async fn exists(&self, id: TenantId) -> Result<bool, StoreError>;
    /// Finds one by subdomain.
    async fn find_by_subdomain(&self, subdomain: &Subdomain) -> Result<Option<TenantAccount>, StoreError>;
    /// Whether a tenant has, or ever had, this code.
    async fn code_is_taken(&self, code: &TenantCode) -> Result<bool, StoreError>;
    /// Lists by creation (ids are ordered by time), after `after`.
    async fn list(
        &self,
        filter: &TenantFilter,
        after: Option<TenantId>,
        limit: u32,
    ) -> Result<Paged<TenantAccount, TenantId>, StoreError>;
    /// Changes fields. `None`: there is no such tenant, or its record stands at another version than wanted.
    async fn change(
        &self,
        id: TenantId,
        change: &TenantChange,
        audit: &AuditEntry,
    ) -> Result<Option<TenantAccount>, StoreError>;
    /// Sets the status if it is now one of `from`; tells whether it did.
    async fn set_status(
        &self,
        id: TenantId,
        from: Vec<TenantStatus>,
        to: TenantStatus,
        audit: &AuditEntry,
    ) -> Result<bool, StoreError>;
    /// Records the database that a provisioning tenant is placed in, at its first epoch.
    async fn place(&self, id: TenantId, database: DatabaseId, dedicated: bool) -> Result<(), StoreError>;
    /// Tenants whose setting up was begun and not ended.
    async fn list_provisioning(&self) -> Result<Vec<(TenantAccount, bool)>, StoreError>;
    /// Writes an entry on its own (a sign-in).
    async fn record(&self, tenant: Option<TenantId>, entry: &AuditEntry) -> Result<(), StoreError>;
}

/// Where a tenant's own database is to be.
#[derive(Debug, Clone)]
pub enum DedicatedPlace {
    /// On the server of the shared database.
    Beside,
    /// On another server: the connection string of a login there that may make databases and roles.
    Server(SecretString),
    /// In a database that is there and empty: the connection string of the login that owns it and may make roles.
    Database(SecretString),
}

/// What there is where a tenant's own database is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prospect {
    /// The database itself, ready.
    Ready(DatabaseId),
    /// Nothing that stands in the way of making it, or what an earlier try left of it; and what the server is like.
    ToBeMade(NewTarget),
}

/// Databases that tenants are kept in, and the making of new ones.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait TenantDatabases: Send + Sync {
    /// A shared database to put a new tenant in.
    async fn choose_shared(&self) -> Result<DatabaseId, StoreError>;
    /// Looks at where [`TenantDatabases::create_dedicated`] would make a tenant's own database, and changes nothing. What
    /// that would refuse before it makes anything is refused here in the same words.
    async fn look_at(&self, tenant: TenantId, place: &DedicatedPlace) -> Result<Prospect, DatabaseError>;
    /// Creates, migrates and marks a tenant's own database; finishes one that was begun. A tenant has one at most: one
    /// that is ready is the answer, unless it is somewhere else than `place` says.
    async fn create_dedicated(
        &self,
        tenant: TenantId,
        place: &DedicatedPlace,
    ) -> Result<DatabaseId, DatabaseError>;
    /// Lets transactions of the tenant, at its first epoch, begin in the database it was placed in. Idempotent.
    async fn admit(&self, tenant: TenantId, database: DatabaseId) -> Result<(), StoreError>;
}

/// A person's account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Identity.
    pub id: Uuid,
    /// Login address.
    pub email: String,
    /// First name.
    pub first_name: String,
    /// Last name.
    pub last_name: String,
    /// Whether they may sign in.
    pub is_active: bool,
    /// Whether they run the platform.
    pub is_superadmin: bool,
}

/// A person as a member of an orchestra.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The person.
    pub person: Person,
    /// What they are there.
    pub role: Role,
}

/// What a request for a new member came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// The person became one.
    Now(Person),
    /// The key named a request before.
    Before {
        /// What was asked then.
        fingerprint: Fingerprint,
        /// Who became a member.
        user: Uuid,
    },
}

/// Which people are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PersonFilter {
    /// Part of address or name, without regard to case.
    pub search: Option<String>,
}

/// What became of a change to a person or a membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was made.
    Done,
    /// The record is gone, or is not what the caller had read any more; nothing was changed.
    Otherwise,
    /// Nobody who may sign in would be left to administer; nothing was changed.
    Last,
}

/// People in the registry.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait PersonRegistry: Send + Sync {
    /// Finds one by address, without regard to case.
    async fn find_by_email(&self, email: &str) -> Result<Option<Person>, StoreError>;
    /// Whether anybody who may sign in runs the platform.
    async fn has_superadmin(&self) -> Result<bool, StoreError>;
    /// Creates a person or takes the one with this address, and makes them a member in a role. The entry is
    /// written with the id of whoever it is.
    async fn add_member(
        &self,
        tenant: TenantId,
        member: &NewMember,
        role: Role,
        audit: &AuditEntry,
    ) -> Result<Person, StoreError>;
    /// As [`PersonRegistry::add_member`], for a request with a key, which stands beside the membership that it
    /// made: asked again, nothing is done.
    async fn add_member_once(
        &self,
        tenant: TenantId,
        member: &NewMember,
        role: Role,
        asked: &Asked,
        audit: &AuditEntry,
    ) -> Result<Joined, StoreError>;
    /// Creates an administrator of the platform.
    async fn add_superadmin(&self, member: &NewMember, audit: &AuditEntry) -> Result<Person, StoreError>;
    /// Stores a new password and ends every access token given before; tells whether the person exists.
    async fn set_password(
        &self,
        email: &str,
        password_hash: &str,
        audit: &AuditEntry,
    ) -> Result<bool, StoreError>;
    /// Finds one.
    async fn find(&self, user: Uuid) -> Result<Option<Person>, StoreError>;
    /// Lists by creation (ids are ordered by time), after `after`.
    async fn list(
        &self,
        filter: &PersonFilter,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Paged<Person, Uuid>, StoreError>;
    /// Lets a person sign in, or ends every access token and lets them no more. Refused as [`Outcome::Last`] for
    /// the only administrator of the platform who may sign in.
    async fn set_active(
        &self,
        user: Uuid,
        is_active: bool,
        audit: &AuditEntry,
    ) -> Result<Outcome, StoreError>;
    /// Finds a member of a tenant.
    async fn find_member(&self, tenant: TenantId, user: Uuid) -> Result<Option<Member>, StoreError>;
    /// Lists a tenant's members as [`PersonRegistry::list`] does.
    async fn list_members(
        &self,
        tenant: TenantId,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Paged<Member, Uuid>, StoreError>;
    /// Gives a member another role, if theirs is `from` still, and ends their access tokens. Refused as
    /// [`Outcome::Last`] if no administrator of the tenant who may sign in would be left.
    async fn set_role(
        &self,
        tenant: TenantId,
        user: Uuid,
        from: Role,
        to: Role,
        audit: &AuditEntry,
    ) -> Result<Outcome, StoreError>;
    /// Ends a membership, if its role is `from` still, and the person's access tokens. Refused as
    /// [`PersonRegistry::set_role`] is.
    async fn remove_member(
        &self,
        tenant: TenantId,
        user: Uuid,
        from: Role,
        audit: &AuditEntry,
    ) -> Result<Outcome, StoreError>;
}
