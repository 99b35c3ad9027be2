//! Keeps Postgres running until it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::LaunchError;
use super::launch::{Launcher, Process, signal};
use super::options::Durability;
use super::pid_file::{PidFile, is_alive};

/// A fast shutdown writes a checkpoint first.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const QUIT_PATIENCE: Duration = Duration::from_secs(10);
/// After this long the next death counts as the first one again.
const STABLE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);

/// Waits between attempts: doubling, bounded.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    const LONGEST: Duration = Duration::from_secs(10);

    fn next(&mut self) -> Duration {
        let delay = Duration::from_millis(100 << self.failures.min(10));
        self.failures += 1;
        delay.min(Self::LONGEST)
    }

    const fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Restarts Postgres whenever it ends by itself, until `stop` is sent or dropped; then stops it. `pid` is
/// `None` while it is down.
pub(super) async fn supervise(
    launcher: Arc<Launcher>,
    mut process: Process,
    mut stop: oneshot::Receiver<()>,
    pid: watch::Sender<Option<i32>>,
) -> Result<(), LaunchError> {
    let mut backoff = Backoff::default();
    loop {
        let began = Instant::now();
        let how = tokio::select! {
            biased;
            _ = &mut stop => return stop_process(process, launcher.durability).await,
            how = process.wait() => how,
        };
        pid.send_replace(None);
        tracing::error!(pid = process.pid(), how, "Postgres ended by itself; starting it again");
        if began.elapsed() > STABLE {
            backoff.reset();
        }
        process = tokio::select! {
            biased;
            _ = &mut stop => return wait_until_gone(&launcher).await,
            process = launch_again(&launcher, &mut backoff) => process,
        };
        tracing::info!(pid = process.pid(), "Postgres serves again");
        pid.send_replace(Some(process.pid()));
    }
}

async fn launch_again(launcher: &Launcher, backoff: &mut Backoff) -> Process {
    loop {
        sleep(backoff.next()).await;
        match launcher.launch().await {
            Ok(process) => return process,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "Postgres could not be started again; trying on");
            }
        }
    }
}

async fn stop_process(mut process: Process, durability: Durability) -> Result<(), LaunchError> {
    let pid = process.pid();
    let gentle = match durability {
        Durability::Durable => Signal::SIGINT,
        // Nobody will read what a checkpoint would save.
        Durability::Throwaway => Signal::SIGQUIT,
    };
    signal(pid, gentle);
    if timeout(STOP_PATIENCE, process.wait()).await.is_ok() {
        return Ok(());
    }
    tracing::warn!(pid, "Postgres does not stop; it will recover at its next start");
    signal(pid, Signal::SIGQUIT);
    match timeout(QUIT_PATIENCE, process.wait()).await {
        Ok(_) => Ok(()),
        Err(_) => Err(LaunchError::DidNotStop { pid }),
    }
}

/// Waits for a start that was interrupted on the way.
async fn wait_until_gone(launcher: &Launcher) -> Result<(), LaunchError> {
    let deadline = Instant::now() + STOP_PATIENCE;
    let pgdata = launcher.layout.pgdata();
    loop {
        match PidFile::read(&pgdata).map_err(LaunchError::file(&pgdata, "read"))? {
            Some(file) if is_alive(file.pid) && Instant::now() > deadline => {
                return Err(LaunchError::DidNotStop { pid: file.pid });
            }
            Some(file) if is_alive(file.pid) => sleep(POLL).await,
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_bound_and_begins_anew() {
        let mut backoff = Backoff::default();
        let first: Vec<u128> = (0..4).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(first, [100, 200, 400, 800]);
        for _ in 0..40 {
            assert!(backoff.next() <= Backoff::LONGEST);
        }
        backoff.reset();
        assert_eq!(backoff.next().as_millis(), 100);
    }
}
