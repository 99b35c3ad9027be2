//! The orchestra's audit log.

use async_trait::async_trait;

use crate::audit::AuditEntry;
use crate::error::StoreError;

/// Writes entries in the unit's own transaction: a change without its entry cannot be committed.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait AuditLog: Send {
    /// Writes one entry.
    async fn record(&mut self, entry: &AuditEntry) -> Result<(), StoreError>;
}
