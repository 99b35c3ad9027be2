//! What one transaction may take, and how the server is told.

use std::time::Duration;

/// How the server is told what a transaction may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BoundsBy {
    /// By the connection's first words: they are the session's defaults, and what a transaction sets otherwise is taken
    /// back to them when it ends (ROLLBACK, or `RESET ALL`). Saves each transaction three statements of its first message.
    #[default]
    Session,
    /// By each transaction's first message: behind a pooler that lends server sessions by transaction, where a session's
    /// first words are somebody else's.
    Transaction,
}

/// Bounds within one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxTimeouts {
    /// Longest statement.
    pub statement: Duration,
    /// Longest wait for a lock.
    pub lock: Duration,
    /// Longest pause between statements.
    pub idle: Duration,
}

impl Default for TxTimeouts {
    fn default() -> Self {
        Self {
            statement: Duration::from_secs(15),
            lock: Duration::from_secs(5),
            idle: Duration::from_secs(30),
        }
    }
}

/// A bound as the server takes it, which 0 would switch off.
pub(crate) fn milliseconds(bound: Duration) -> i32 {
    i32::try_from(bound.as_millis()).unwrap_or(i32::MAX).max(1)
}

/// Statements that give a transaction those bounds that its session does not have.
pub(crate) fn bounds_text(bounds: Option<TxTimeouts>) -> String {
    bounds.map_or_else(String::new, |TxTimeouts { statement, lock, idle }| {
        format!(
            "SET LOCAL statement_timeout={};\
             SET LOCAL lock_timeout={};\
             SET LOCAL idle_in_transaction_session_timeout={};",
            milliseconds(statement),
            milliseconds(lock),
            milliseconds(idle),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bound_is_switched_off_by_being_short_or_long() {
        assert_eq!(milliseconds(Duration::ZERO), 1);
        assert_eq!(milliseconds(Duration::from_micros(500)), 1);
        assert_eq!(milliseconds(Duration::from_secs(15)), 15_000);
        assert_eq!(milliseconds(Duration::MAX), i32::MAX);
    }
}
