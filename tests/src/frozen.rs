//! Server processes that stand still, as when a machine hangs: connected, and never answering.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stagesub_storage::target::ConnectionTarget;

use crate::database::connect;

/// The application's server processes of one database, stopped until this is dropped.
#[derive(Debug)]
pub struct Frozen {
    pids: Vec<Pid>,
}

impl Frozen {
    /// Stops every process that serves the application in `database`. The run needs the right to signal them,
    /// as it has over a server of its own.
    pub async fn database(admin: &ConnectionTarget, database: &str) -> Self {
        let pids: Vec<i32> = sqlx::query_scalar(
            "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND usename = 'stagesub_app'",
        )
        .bind(database)
        .fetch_all(&mut connect(admin).await)
        .await
        .expect("the server lists its processes");
        let mut frozen = Self { pids: Vec::new() };
        for pid in pids.into_iter().map(Pid::from_raw) {
            kill(pid, Signal::SIGSTOP).expect("a process of the test's own server can be stopped");
            frozen.pids.push(pid);
        }
        frozen
    }

    /// How many were stopped.
    #[must_use]
    pub fn processes(&self) -> usize {
        self.pids.len()
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.pids {
            // One that is gone by now needs no waking.
            let _gone = kill(*pid, Signal::SIGCONT);
        }
    }
}
