//! Looking tenants up: the port, and the cache over any implementation of it.

use std::sync::Arc;

use async_trait::async_trait;

use crate::placement::Located;
use crate::subdomain::Subdomain;
use crate::tenant::{ConfigVersion, Tenant, TenantId};

pub mod cache;
pub mod cached;
pub mod follow;

/// What failed beneath an adapter; kept for the log, never shown to a client.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The platform's list of tenants and of where each one's data is.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait TenantDirectory: Send + Sync {
    /// Finds a tenant by its host label, whatever its status.
    async fn find_by_subdomain(&self, subdomain: &Subdomain) -> Result<Option<Arc<Tenant>>, DirectoryError>;

    /// Finds a tenant by its id, whatever its status.
    async fn find_by_id(&self, id: TenantId) -> Result<Option<Arc<Tenant>>, DirectoryError>;

    /// Finds where a tenant's data is. `None`: no tenant of that id has a placement, which is never an
    /// invitation to use another database.
    async fn find_placement(&self, id: TenantId) -> Result<Option<Located>, DirectoryError>;

    /// A caller found that what it was told of a tenant is out of date (the database refused the epoch).
    /// A directory that remembers answers forgets that tenant's; others have nothing to do.
    fn forget(&self, id: TenantId) {
        let _ = id;
    }

    /// Whether somebody asked here where that tenant's data is, not long ago: then a pool that it will need soon is
    /// worth opening before somebody waits for it. A directory that remembers no answers says no.
    fn remembers(&self, id: TenantId) -> bool {
        let _ = id;
        false
    }
}

/// Where the registry stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// The version of its last change.
    pub version: ConfigVersion,
    /// Which history the version counts in, as a name that is only compared. A registry that was restored, or
    /// taken over by a replica that lacked the last changes, counts in another one: there the same number may
    /// stand for something else.
    pub history: String,
}

/// What changed in the registry since a version: the feed that keeps caches true.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Tenants whose record or placement changed.
    pub tenants: Vec<TenantId>,
    /// People whose credentials, memberships or roles changed.
    pub users: Vec<uuid::Uuid>,
    /// Where tenants will be that are about to move: told at each asking for as long as it is so. No promise; the move may
    /// be given up.
    pub arriving: Vec<Located>,
    /// Up to where this answer is complete.
    pub standing: Standing,
}

/// Tells what changed. Nodes ask each second.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait ChangeFeed: Send + Sync {
    /// Where the registry stands.
    async fn current(&self) -> Result<Standing, DirectoryError>;

    /// Everything that changed after `since`, complete up to where the answer says it stands.
    async fn changes_since(&self, since: ConfigVersion) -> Result<Changes, DirectoryError>;
}

/// Tells a node to ask its [`ChangeFeed`] now and not only when the next second is over.
///
/// It carries no news itself, so that a signal that is lost costs time and no truth.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait ChangeSignal: Send {
    /// Waits until something may have changed since the last call. A signal that was deaf for a while (its
    /// connection was lost) returns as soon as it hears again: nobody knows what it missed.
    async fn changed(&mut self);
}

/// The directory could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// The registry cannot be reached now; the same call may succeed later.
    #[error("the tenant directory is unavailable")]
    Unavailable(#[source] BoxError),
    /// A stored record breaks a rule of its type.
    #[error("the tenant directory holds a corrupt {what}")]
    Corrupt {
        /// What is corrupt.
        what: &'static str,
        /// How it shows.
        #[source]
        source: BoxError,
    },
    /// Another caller's look-up of the same record failed while this one waited for it.
    #[error("the tenant directory's look-up failed")]
    Shared(#[source] Arc<DirectoryError>),
}
