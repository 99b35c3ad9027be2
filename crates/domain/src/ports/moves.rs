//! What a move of an orchestra is asked for with.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use stagesub_tenancy::moves::MoveId;
use stagesub_tenancy::{DatabaseId, TenantId};

use crate::error::StoreError;
use crate::idempotency::{Asked, Fingerprint};

/// Where orchestras can move to, and which requests asked for moves.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait MoveDesk: Send + Sync {
    /// A tenant's own database, if there is one that is ready.
    async fn find_own(&self, tenant: TenantId) -> Result<Option<DatabaseId>, StoreError>;

    /// A shared database that is ready, by its id.
    async fn find_shared(&self, id: DatabaseId) -> Result<Option<DatabaseId>, StoreError>;

    /// The shared database with the fewest tenants that is another than this one.
    async fn choose_other_shared(&self, than: DatabaseId) -> Result<Option<DatabaseId>, StoreError>;

    /// Gives a request's key to the move that will be begun under `id`, unless it was given before.
    async fn claim_key(
        &self,
        asked: &Asked,
        tenant: TenantId,
        id: MoveId,
        now: DateTime<Utc>,
    ) -> Result<KeyedMove, StoreError>;

    /// Forgets the key of a request that was refused, so that nothing is kept of it. A key that is another move's
    /// stays.
    async fn forget_key(&self, asked: &Asked, id: MoveId) -> Result<(), StoreError>;
}

/// Whose a request's key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyedMove {
    /// The move's that is to be begun.
    Now,
    /// It was given before.
    Before {
        /// What was asked then.
        fingerprint: Fingerprint,
        /// Under which id the move was begun, or was to be; `None`: it was no move that was asked for.
        id: Option<MoveId>,
    },
}
