//! How large tenants are, and what their servers can do: asked before a move, to choose how it is made.

use async_trait::async_trait;

use super::plane::PlaneError;
use crate::placement::{DatabaseId, Placement};
use crate::tenant::TenantId;

/// Looks at databases before a move. Changes nothing, and waits for nothing without a bound of its own.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Surveyor: Send + Sync {
    /// Whether the server of a tenant's placement has logical decoding.
    async fn decodes(&self, tenant: TenantId, placement: Placement) -> Result<bool, PlaneError>;

    /// How many rows a tenant has there, counted no further than one more than `most`. A large row counts as one more for
    /// each KiB that it has, since what takes time is to copy it.
    async fn rows(&self, tenant: TenantId, placement: Placement, most: u64) -> Result<u64, PlaneError>;

    /// Every tenant of a shared database with its size, in no order. Of large tables a part is looked at, so that this
    /// takes seconds; sizes are about right.
    async fn sizes(&self, shared: DatabaseId) -> Result<Vec<TenantSize>, PlaneError>;
}

/// About how much a tenant has in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantSize {
    /// Whose.
    pub tenant: TenantId,
    /// Rows.
    pub rows: u64,
    /// Bytes of the rows, without indexes.
    pub bytes: u64,
}
