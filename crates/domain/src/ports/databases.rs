//! The platform's databases as its administrators see them.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use stagesub_tenancy::{DatabaseId, TenantId};

use crate::audit::AuditEntry;
use crate::error::{DatabaseError, StoreError};
use crate::idempotency::{Asked, Fingerprint};
use crate::page::Paged;

/// What a database holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// The platform's own records.
    Registry,
    /// Many tenants.
    Shared,
    /// This one.
    Dedicated(TenantId),
}

impl Holds {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Shared => "shared",
            Self::Dedicated(_) => "dedicated",
        }
    }

    /// Whose it is, if it is one tenant's.
    #[must_use]
    pub const fn tenant(self) -> Option<TenantId> {
        match self {
            Self::Dedicated(tenant) => Some(tenant),
            Self::Registry | Self::Shared => None,
        }
    }
}

/// A database that the platform knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseRecord {
    /// Its identity.
    pub id: DatabaseId,
    /// What it holds.
    pub holds: Holds,
    /// Whether it can be used; otherwise its making was begun and not finished.
    pub is_ready: bool,
    /// Where its server is: a host's name, an address or a directory of sockets.
    pub host: String,
    /// The server's port.
    pub port: u16,
    /// Its name on the server.
    pub name: String,
    /// How many tenants are placed in it.
    pub tenants: i64,
    /// How large it is; `None`: its server does not say now.
    pub size_bytes: Option<i64>,
    /// When it was recorded.
    pub created_at: DateTime<Utc>,
}

/// Where a further shared database is to be.
#[derive(Debug, Clone)]
pub enum SharedPlace {
    /// On the server of the first one.
    Beside,
    /// On another server: the connection string of a login there that may make databases and roles.
    Server(SecretString),
    /// In a database that is there and empty: the connection string of the login that owns it and may make roles.
    Database(SecretString),
}

/// A further shared database.
#[derive(Debug, Clone)]
pub struct NewSharedDatabase {
    /// Where.
    pub place: SharedPlace,
    /// What it is called, where it is not there yet.
    pub name: Option<String>,
    /// Reset the passwords of logins that another installation may be using.
    pub adopt_logins: bool,
}

/// What became of adding one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedDatabase {
    /// The database.
    pub record: DatabaseRecord,
    /// It was there before.
    pub is_again: bool,
    /// What the privileges of the login did not allow, in words. The platform works without it, less well defended.
    pub partial: Vec<String>,
}

/// One thing that was found at a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseFinding {
    /// `hole`, `partial` or `note`.
    pub level: &'static str,
    /// What it is about.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// The SQL that mends it.
    pub mend: String,
}

/// What a look at a database came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DatabaseCheck {
    /// Why it could not be reached, if it could not: then nothing else is known.
    pub unreachable: Option<String>,
    /// What is wrong with it: its marker, its migrations, its fences.
    pub findings: Vec<DatabaseFinding>,
    /// What stands in the way of moving tenants in and out while they are in use, in words.
    pub obstacles: Vec<String>,
    /// What was removed of moves that are over.
    pub removed: Vec<String>,
}

impl DatabaseCheck {
    /// Whether tenants may be served from it.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.unreachable.is_none() && self.findings.iter().all(|finding| finding.level != "hole")
    }
}

/// The platform's databases.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait PlatformDatabases: Send + Sync {
    /// Lists them in the order they were recorded, after `after`.
    async fn list(
        &self,
        after: Option<DatabaseId>,
        limit: u32,
    ) -> Result<Paged<DatabaseRecord, DatabaseId>, StoreError>;
    /// Finds one.
    async fn find(&self, id: DatabaseId) -> Result<Option<DatabaseRecord>, StoreError>;
    /// Makes a further shared database, migrates and marks it, or finishes one that was begun in that place. From then
    /// on tenants can be put in it, on every node. The entry is written with its id, once.
    async fn add(&self, new: &NewSharedDatabase, audit: &AuditEntry) -> Result<AddedDatabase, DatabaseError>;
    /// Writes down the key that a request to add one is named with. What was asked with it before, if anything was; then
    /// nothing is written.
    async fn claim_key(&self, asked: &Asked, now: DateTime<Utc>) -> Result<Option<Fingerprint>, StoreError>;
    /// Forgets the key of a request that was refused.
    async fn forget_key(&self, asked: &Asked) -> Result<(), StoreError>;
    /// Looks at one as the platform reaches it. `None`: there is no such database of tenants.
    async fn check(&self, id: DatabaseId) -> Result<Option<DatabaseCheck>, StoreError>;
}
