//! From a scope to the pool of the database that holds its tenant.

use crate::directory::DirectoryError;
use crate::pools::OpenError;
use crate::tenant::TenantId;

/// No pool for the scope's tenant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The directory has no placement for the tenant. There is no default to fall back to.
    #[error("tenant {0} has no placement")]
    NoPlacement(TenantId),
    /// The directory could not answer.
    #[error("the tenant's placement could not be looked up")]
    Directory(#[source] DirectoryError),
    /// Its database could not be opened.
    #[error("the tenant's database could not be opened")]
    Open(#[source] OpenError),
}
