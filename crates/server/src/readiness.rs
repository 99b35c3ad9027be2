//! Whether this node can answer requests now.

use std::time::Duration;

use async_trait::async_trait;

/// Longest that a probe may take: load balancers ask often, and an answer that is late is a no.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Tells whether requests can be served.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait Readiness: Send + Sync {
    /// Asks each database that every request needs one bounded question.
    async fn check(&self) -> Result<(), NotReady>;
}

/// Something that every request needs does not answer.
#[derive(Debug, thiserror::Error)]
#[error("{what} does not answer")]
pub struct NotReady {
    /// What: said to clients, so no address and no name of a login.
    pub what: &'static str,
    /// Why: for the log.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}
