//! A million operations of sixty-four tenants on small pools, whose owners go away at any await: in this process
//! on tenant transactions, and over HTTP at two servers. No row of another, no connection with something of
//! another on it, no connection lost, no acknowledged write lost.
//!
//! `cargo bench -p stagesub-tests --bench isolation_soak [-- --operations N]`. Ends with one line that begins with
//! `RESULT`, and with an exit code other than 0 unless it shows what it must. Part of it is a run without the
//! clean-up of abandoned connections, which must find poison; `--without-clean-up` runs that alone.

mod closing;
mod controls;
mod http;
mod judge;
mod ledger;
mod process;
mod report;
mod stage;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use stagesub_tests::program;
use stagesub_tests::serve::Server;
use stagesub_tests::storm::Seen;
use tokio::time::{MissedTickBehavior, interval};

use crate::http::Web;
use crate::ledger::Ledger;
use crate::process::Process;
use crate::report::Report;
use crate::stage::Stage;

/// Tenants, some of them with databases of their own.
const TENANTS: usize = 64;
/// Connections of each pool, in each process.
const POOL: u32 = 4;
/// Tasks that work in this process, and as many that ask the servers.
const TASKS: u64 = 12;

/// A million operations, cancelled at any await: nobody meets anything of another.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// Operations, a fifth of them over HTTP.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    operations: u64,
    /// Minutes after which the operations must be done.
    #[arg(long, default_value_t = 40)]
    minutes: u64,
    /// Decides every choice that is not the machine's.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only the run without the clean-up, which must find poison.
    #[arg(long)]
    without_clean_up: bool,
    /// What `cargo bench` passes.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    let report = runtime.block_on(run(&arguments));
    println!("{report}");
    if report.shown() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(arguments: &Arguments) -> Report {
    // Built before access tokens are given, which do not last.
    program::path().await;
    let began = Instant::now();
    let stage = Arc::new(Stage::build(arguments.seed).await);
    let mut report = Report::default();
    if !arguments.without_clean_up {
        let servers = [serve(&stage).await, serve(&stage).await];
        eprintln!("{TENANTS} tenants and two servers after {} s", began.elapsed().as_secs());
        soak(arguments, &stage, &servers, &mut report).await;
        controls::foreign(&stage, &servers, &mut report).await;
        for server in servers {
            for wrong in server.stop().await {
                report.surprise(wrong);
            }
        }
    }
    controls::without_clean_up(&stage, arguments, &mut report).await;
    report.seconds = began.elapsed().as_secs();
    report
}

/// A server on the stage's databases, with as small pools as this process has.
async fn serve(stage: &Stage) -> Server {
    let pool = POOL.to_string();
    let pools =
        [("STAGESUB_SHARED_POOL_SIZE", pool.as_str()), ("STAGESUB_DEDICATED_POOL_SIZE", pool.as_str())];
    Server::start(stage.platform.registry(), &pools).await
}

/// The operations, and what must be so afterwards.
async fn soak(arguments: &Arguments, stage: &Arc<Stage>, servers: &[Server; 2], report: &mut Report) {
    let over_http = arguments.operations.div_ceil(5);
    let process = Arc::new(Process::new(stage, arguments.operations - over_http).await);
    let web = Arc::new(Web::new(stage, servers, over_http));
    let begun = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for n in 0..TASKS {
        let seed = arguments.seed.wrapping_mul(1_000).wrapping_add(n);
        tasks.push(tokio::spawn(Arc::clone(&process).work(seed, Arc::clone(&stop))));
        tasks.push(tokio::spawn(Arc::clone(&web).work(seed, Arc::clone(&stop))));
    }
    let all = futures::future::join_all(tasks);
    tokio::pin!(all);
    let mut tick = interval(Duration::from_secs(5));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ledger = Ledger::default();
    loop {
        tokio::select! {
            parts = &mut all => {
                for part in parts {
                    ledger.merge(part.expect("a task judges, and does not fail"));
                }
                break;
            }
            _ = tick.tick() => {
                eprintln!(
                    "{:>4} s: {} of {} in this process, {} of {over_http} over HTTP, {} foreign, {} poisoned",
                    begun.elapsed().as_secs(),
                    Seen::of(&process.done),
                    process.wanted,
                    Seen::of(&web.sent),
                    Seen::of(&process.storm.seen.foreign) + Seen::of(&web.seen.foreign),
                    Seen::of(&process.storm.seen.poisoned) + Seen::of(&web.seen.poisoned),
                );
                report.note_connections(closing::most_connections(stage).await);
                stage.renew_tokens().await;
                if begun.elapsed() > Duration::from_mins(arguments.minutes) {
                    stop.store(true, Ordering::Relaxed);
                }
            }
        }
    }
    report.soak_seconds = begun.elapsed().as_secs_f64();
    report.wanted = (arguments.operations, over_http);
    eprintln!("the operations are done; looking at what is left of them");
    report.take_process(&process);
    closing::everything_is_back(stage, servers, &process, report).await;
    closing::nothing_is_lost(stage, &ledger, report).await;
    // Its last probes are judged as well.
    report.take_process(&process);
    report.take_web(&web);
}

/// A number that no other task gets.
fn take(counter: &AtomicI64) -> i64 {
    counter.fetch_add(1, Ordering::Relaxed)
}

/// Whether there is one more to do.
fn one_more(done: &AtomicU64, wanted: u64, stop: &AtomicBool) -> bool {
    done.load(Ordering::Relaxed) < wanted && !stop.load(Ordering::Relaxed)
}
