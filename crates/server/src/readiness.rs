//! Whether this node can answer requests now.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Longest that a probe may take: load balancers ask often, and an answer that is late is a no.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an answer holds: anybody may ask, and asking often must cost no connection.
pub const PROBE_HOLDS: Duration = Duration::from_secs(1);

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

/// An answer that several may be given.
type Answer = Result<(), Arc<NotReady>>;

/// Asks at most once a [`PROBE_HOLDS`], whoever asks and however often: one asks, the others wait for that answer.
pub struct Remembered<R> {
    inner: R,
    last: Mutex<Option<(Instant, Answer)>>,
}

impl<R: Readiness> Remembered<R> {
    /// Over the probe that asks.
    pub fn new(inner: R) -> Self {
        Self { inner, last: Mutex::new(None) }
    }
}

#[async_trait]
impl<R: Readiness> Readiness for Remembered<R> {
    async fn check(&self) -> Result<(), NotReady> {
        let mut last = self.last.lock().await;
        let answer = match &*last {
            Some((at, answer)) if at.elapsed() < PROBE_HOLDS => answer.clone(),
            _ => {
                let answer = self.inner.check().await.map_err(Arc::new);
                *last = Some((Instant::now(), answer.clone()));
                answer
            }
        };
        answer.map_err(|error| NotReady { what: error.what, source: Box::new(error) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_probes_ask_the_databases_once_a_second() {
        let mut inner = MockReadiness::new();
        inner.expect_check().times(2).returning(|| Ok(()));
        let remembered = Remembered::new(inner);
        for _ in 0..100 {
            assert!(remembered.check().await.is_ok());
        }
        tokio::time::advance(PROBE_HOLDS).await;
        assert!(remembered.check().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_remembered_no_longer_than_an_assent() {
        let mut inner = MockReadiness::new();
        let mut answers = vec![Ok(()), Err(NotReady { what: "the registry", source: "gone".into() })];
        inner.expect_check().times(2).returning(move || answers.pop().unwrap_or(Ok(())));
        let remembered = Remembered::new(inner);
        assert!(remembered.check().await.is_err());
        assert!(remembered.check().await.is_err());
        tokio::time::advance(PROBE_HOLDS).await;
        assert!(remembered.check().await.is_ok());
    }
}
