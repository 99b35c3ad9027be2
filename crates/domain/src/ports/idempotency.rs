//! What creating requests were answered.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::error::StoreError;
use crate::idempotency::{Asked, Fingerprint, KeptAnswer};

/// What became of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The key is this unit's: what it makes, and the answer, are kept together or not at all.
    Claimed,
    /// A request with this key was answered before.
    Answered {
        /// What that request asked.
        fingerprint: Fingerprint,
        /// What it was answered.
        answer: KeptAnswer,
    },
    /// A request with this key is still at work, and was so for longer than a lock is waited for. The unit is of
    /// no more use.
    Underway,
}

/// The orchestra's keys and answers.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait IdempotencyStore: Send {
    /// Claims the key for this unit, before anything else is locked. Waits for a unit that claimed it before, and
    /// removes some of the orchestra's answers that are too old.
    async fn claim(&mut self, asked: &Asked, now: DateTime<Utc>) -> Result<Claim, StoreError>;

    /// Stores the answer with the key that this unit claimed.
    async fn keep(
        &mut self,
        asked: &Asked,
        answer: &KeptAnswer,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError>;
}
