//! Work that goes on beside requests, until the server stops.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

pub mod changes;
pub mod moves;
pub mod nodes;
pub mod upkeep;
pub mod usage;

/// The jobs of one server. Dropping it ends them where they stand.
#[derive(Debug, Default)]
pub struct Jobs {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    running: Running,
}

/// Which jobs run, seen from elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Running(Arc<Mutex<Vec<(&'static str, AbortHandle)>>>);

impl Running {
    /// Each job that was started, and whether it still runs.
    #[must_use]
    pub fn list(&self) -> Vec<(&'static str, bool)> {
        let jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.iter().map(|(name, job)| (*name, !job.is_finished())).collect()
    }
}

impl Jobs {
    /// Starts a job, which is to end when its token is cancelled. Its name is known to metrics.
    pub fn start<F, J>(&mut self, name: &'static str, job: J)
    where
        J: FnOnce(CancellationToken) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let job = self.tasks.spawn(job(self.stop.clone()));
        self.running.0.lock().unwrap_or_else(PoisonError::into_inner).push((name, job));
    }

    /// Which of them run, also after they were given away.
    #[must_use]
    pub fn running(&self) -> Running {
        self.running.clone()
    }

    /// Asks every job to end and waits for them, at most `grace`; what is not done by then is cut off.
    pub async fn stop(mut self, grace: Duration) {
        self.stop.cancel();
        let ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(cause = %error, "a job had failed");
                }
            }
        };
        if tokio::time::timeout(grace, ended).await.is_err() {
            tracing::warn!("a job did not end in time and was cut off");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn stopping_waits_for_a_job_that_ends() {
        let ended = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ended);
        let mut jobs = Jobs::default();
        jobs.start("ends", |stop| async move {
            stop.cancelled().await;
            told.store(true, Ordering::SeqCst);
        });
        let running = jobs.running();
        assert_eq!(running.list(), [("ends", true)]);
        jobs.stop(Duration::from_mins(1)).await;
        assert!(ended.load(Ordering::SeqCst));
        assert_eq!(running.list(), [("ends", false)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_does_not_listen_is_cut_off() {
        let mut jobs = Jobs::default();
        jobs.start("goes on", |_| std::future::pending());
        jobs.stop(Duration::from_secs(5)).await;
    }
}
