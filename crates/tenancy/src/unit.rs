//! The transaction that is bound to one tenant, as a port.

use async_trait::async_trait;

use crate::directory::BoxError;
use crate::router::RouteError;
use crate::scope::TenantScope;

/// What a transaction may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read only; the database refuses writes, and nothing is kept when it ends.
    Read,
    /// Read and write; holds the tenant's shared lock until it ends.
    Write,
}

/// Begins units of work: one connection and one transaction, bound to the scope's tenant.
///
/// `Unit` is the service's own trait object (here an orchestra's repositories), so that tenancy needs no
/// knowledge of what is stored. Dropping a unit rolls it back.
#[async_trait]
pub trait UnitOfWorkFactory: Send + Sync {
    /// What is begun.
    type Unit;

    /// Begins a transaction on the database that holds the scope's tenant.
    ///
    /// # Cancel safety
    /// A dropped call leaves no open transaction behind.
    async fn begin(&self, scope: &TenantScope, access: Access) -> Result<Self::Unit, BeginError>;
}

/// No transaction was begun; nothing was read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BeginError {
    /// No pool for the tenant.
    #[error("no database for the tenant")]
    Route(#[from] RouteError),
    /// The tenant is elsewhere now: the database refused the epoch.
    #[error("the tenant has moved")]
    Moved,
    /// The tenant was locked, as while it is moved, for longer than a lock is waited for.
    #[error("the tenant is locked")]
    Locked(#[source] BoxError),
    /// Every connection was busy for the whole bounded wait.
    #[error("all connections to the tenant's database are busy")]
    Busy,
    /// The database cannot be reached or failed.
    #[error("the tenant's database is unavailable")]
    Unavailable(#[source] BoxError),
}
