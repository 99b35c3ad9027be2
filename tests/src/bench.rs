//! What the benches measure with and on.
//!
//! - `bench/rounds.rs` cells of work by several tasks, interleaved in rounds; what they cost and took
//! - `bench/meter.rs` processor time, of the tasks' threads and of Postgres
//! - `bench/ground.rs` a shared database with many tenants, and logins that only benches have
//! - `bench/plain.rs` the musicians' list as a service without tenancy reads it
//! - `bench/lean.rs` a pool as lean as the product's, without its guarantees
//! - `bench/counted.rs` a directory that counts what it is asked
//! - `bench/network.rs` a proxy that takes its time

pub mod counted;
pub mod ground;
pub mod lean;
pub mod meter;
pub mod network;
pub mod plain;
pub mod rounds;

/// The name of the threads that work is done on, by which the meter knows them.
pub const WORKERS: &str = "bench-worker";

/// A runtime whose threads bear that name.
///
/// # Panics
/// When the system gives no threads.
#[must_use]
pub fn runtime(threads: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(WORKERS)
        // A thread that ended would take its time out of the meter's sum.
        .thread_keep_alive(std::time::Duration::from_hours(1))
        .enable_all()
        .build()
        .expect("the operating system gives threads")
}

/// The machine's load over the last minute, to be told with every figure.
///
/// # Panics
/// Where there is no `/proc`.
#[must_use]
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").expect("Linux tells its load");
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

/// How much of this machine's processors its host gave to others: nothing that was timed meanwhile is the program's alone.
#[derive(Debug)]
pub struct Stolen {
    /// Ticks that were stolen, and all.
    looked: (u64, u64),
}

impl Stolen {
    /// From now on.
    ///
    /// # Panics
    /// Where there is no `/proc`.
    #[must_use]
    pub fn since_now() -> Self {
        Self { looked: ticks() }
    }

    /// Percent of the time since this was last asked.
    ///
    /// # Panics
    /// Where there is no `/proc`.
    pub fn percent(&mut self) -> u64 {
        let (stolen, all) = ticks();
        let before = std::mem::replace(&mut self.looked, (stolen, all));
        (100 * (stolen - before.0)).checked_div(all - before.1).unwrap_or_default()
    }
}

fn ticks() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/stat").expect("Linux tells its time");
    // user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in the first two.
    let ticks = text.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    let ticks: Vec<u64> = ticks.map(|ticks| ticks.parse().expect("a number of ticks")).collect();
    (ticks.last().copied().unwrap_or_default(), ticks.iter().sum())
}

/// Resident memory of a process, in MiB. Linux tells it.
///
/// # Panics
/// When there is no such process, or no `/proc`.
#[must_use]
pub fn resident_mib(pid: u32) -> f64 {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    let kib: u32 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
    f64::from(kib) / 1024.0
}
