//! Processor time by the scheduler's own account, in nanoseconds.

use std::fs;
use std::time::Duration;

use super::WORKERS;

/// Reads the time that the worker threads of this process and some backends have run.
#[derive(Debug)]
pub struct Meter {
    backends: Vec<i32>,
    workers: bool,
}

impl Meter {
    /// A meter that counts these backends.
    #[must_use]
    pub fn new(backends: Vec<i32>) -> Self {
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
    /// When a backend is gone or the system has no schedstat: a figure that leaves some out would be wrong.
    #[must_use]
    pub fn read(&self) -> Duration {
        let backends: u64 = self.backends.iter().map(|pid| run(&format!("/proc/{pid}/schedstat"))).sum();
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
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.split_whitespace().next().and_then(|ran| ran.parse().ok()).expect("it begins with nanoseconds")
}
