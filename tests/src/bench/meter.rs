//! Processor time by the scheduler's own account, in nanoseconds.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::WORKERS;

/// Reads the time that the worker threads of this process and some backends have run.
#[derive(Debug)]
pub struct Meter {
    backends: Vec<Backend>,
    workers: bool,
}

/// A process, and what it had run when it was last read.
#[derive(Debug)]
struct Backend {
    pid: i32,
    ran: AtomicU64,
}

impl Backend {
    /// A pool may have given one up that nobody used for long; what it ran stays in the sum.
    fn read(&self) -> u64 {
        match fs::read_to_string(format!("/proc/{}/schedstat", self.pid)) {
            Ok(text) => {
                let ran = nanoseconds(&text);
                self.ran.store(ran, Ordering::Relaxed);
                ran
            }
            Err(error) => {
                let ran = self.ran.load(Ordering::Relaxed);
                assert!(ran > 0, "the backend {} was never there: {error}", self.pid);
                ran
            }
        }
    }
}

impl Meter {
    /// A meter that counts these backends.
    #[must_use]
    pub fn new(backends: Vec<i32>) -> Self {
        let backends = backends.into_iter().map(|pid| Backend { pid, ran: AtomicU64::new(0) }).collect();
        Self { backends, workers: true }
    }

    /// The same backends without the threads of this process: what it costs Postgres.
    #[must_use]
    pub fn of_backends_alone(self) -> Self {
        Self { workers: false, ..self }
    }

    /// What they have run since they began.
    ///
    /// # Panics
    /// When a backend was never there or the system has no schedstat: a figure that leaves some out would be wrong.
    #[must_use]
    pub fn read(&self) -> Duration {
        let backends: u64 = self.backends.iter().map(Backend::read).sum();
        let workers = if self.workers { workers() } else { 0 };
        Duration::from_nanos(workers + backends)
    }
}

fn workers() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux lists a process's threads");
    tasks
        .map(|task| task.expect("a thread is listed").path())
        .filter(|task| {
            // A thread that has just ended has no name any more, and was no worker.
            fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim_end() == WORKERS)
        })
        .map(|task| run(&task.join("schedstat").to_string_lossy()))
        .sum()
}

fn run(path: &str) -> u64 {
    nanoseconds(&fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}")))
}

/// What a `schedstat` begins with.
fn nanoseconds(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|ran| ran.parse().ok()).expect("it begins with nanoseconds")
}
