//! Tenants that move while they are in use: what it costs them, what it costs their neighbours, and that nothing is lost.
//!
//!     cargo bench -p stagesub-tests --bench moves [-- --short]
//!
//! Registry, source and target are three servers on this machine that flush what they acknowledge (but with
//! `--unflushed`). One large tenant is moved, paced, and then handed back and forth, while its clients at two nodes write
//! and read, and its neighbours at the source write. Then it moves again and again, and after it small tenants do. What
//! each client did and was told is held against what is there in the end. Ends with one line that begins with `RESULT`,
//! and with an exit code other than 0 when a write was lost or doubled, or somebody read what was not so.

mod copy;
mod cutovers;
mod enter;
mod recovery;
mod timeline;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use stagesub_domain::service::moves::Pace;
use stagesub_tests::bench::{Stolen, load, runtime};
use stagesub_tests::cluster::Cluster;
use stagesub_tests::history::{Ground, Verdict};

use crate::copy::Copying;
use crate::cutovers::Large;

/// Tenants beside the large one.
const NEIGHBOURS: [&str; 3] = ["granne1", "granne2", "granne3"];
/// Small tenants that move.
const SMALL: [&str; 4] = ["liten1", "liten2", "liten3", "liten4"];

/// Moves while tenants are in use.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// Rows of the large tenant.
    #[arg(long, default_value_t = 1_000_000)]
    rows: i64,
    /// How often it changes sides in its first move.
    #[arg(long, default_value_t = 10)]
    cutovers: usize,
    /// Moves of it, each of which copies all of its rows.
    #[arg(long, default_value_t = 10)]
    moves: usize,
    /// Moves of small tenants.
    #[arg(long, default_value_t = 200)]
    small: usize,
    /// Rows of each.
    #[arg(long, default_value_t = 500)]
    small_rows: i64,
    /// Bytes a second that copying and comparing may read of the large tenant; 0: as fast as it goes.
    #[arg(long, default_value_t = Pace::USUAL.get())]
    pace: u32,
    /// Milliseconds that each client rests between two operations; 0: the machine has no time left for anything.
    #[arg(long, default_value_t = 1)]
    rest: u64,
    /// Seconds before the move, in which the neighbours' rate is measured, and how long clients wait without any move.
    #[arg(long, default_value_t = 60)]
    before: u64,
    /// Seconds without a move between two of the large tenant's.
    #[arg(long, default_value_t = 15)]
    between: u64,
    /// The servers do not flush what they acknowledge: shows what waits are the disk's.
    #[arg(long)]
    unflushed: bool,
    /// Rows in each of two tables that are copied and compared at full speed.
    #[arg(long, default_value_t = 500_000)]
    copy_rows: u32,
    /// How often.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Everything once and little of it: shows that it runs, and that nothing is lost.
    #[arg(long)]
    short: bool,
    /// What `cargo bench` passes.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    if arguments.short {
        arguments = Arguments {
            rows: 20_000,
            cutovers: 4,
            moves: 1,
            small: 8,
            small_rows: 100,
            pace: 0,
            before: 2,
            between: 1,
            copy_rows: 20_000,
            rounds: 1,
            ..arguments
        };
    }
    // What is acknowledged is on disk, as it is where tenants live.
    let flushed = if arguments.unflushed { "off" } else { "on" };
    for name in ["fsync", "synchronous_commit", "full_page_writes"] {
        Cluster::set(name, flushed);
    }
    // As servers are set that tenants of this size live on: they write a page once in a while and not at each eviction, and
    // three of them share one disk.
    for (name, value) in [
        ("shared_buffers", "1GB"),
        ("max_wal_size", "4GB"),
        ("min_wal_size", "1GB"),
        ("checkpoint_timeout", "15min"),
        ("wal_compression", "lz4"),
    ] {
        Cluster::set(name, value);
    }
    runtime(2).block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> ExitCode {
    let mut stolen = Stolen::since_now();
    println!("load {} at the beginning", load());
    let copying = copy::measure(arguments.copy_rows, arguments.rounds).await;
    let clusters = [Cluster::apart().await, Cluster::apart().await, Cluster::apart().await];
    let labels: Vec<&str> = ["stor"].into_iter().chain(NEIGHBOURS).chain(SMALL).collect();
    let (ground, mut residents) = Ground::on(clusters.each_ref(), &labels).await;
    for (n, resident) in residents.iter_mut().enumerate() {
        let rows = match n {
            0 => arguments.rows,
            n if n <= NEIGHBOURS.len() => 1_000,
            _ => arguments.small_rows,
        };
        ground.furnish(resident, rows).await;
    }
    ground.settle().await;
    let (first, small) = residents.split_at(1 + NEIGHBOURS.len());
    let enter_us = enter::measure(&ground, &first[0], 2_000).await;
    let large = cutovers::large(&ground, first, arguments).await;
    let (verdict, mut small_pauses) = cutovers::small(&ground, small, arguments).await;
    let recovery = recovery::measure(&ground, &small[0]).await;
    println!("load {} at the end, {} % of the processors stolen meanwhile", load(), stolen.percent());
    report(&copying, (enter_us, recovery), large, verdict, &mut small_pauses)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// A figure, what it must reach, and whether it does.
fn line(name: &str, figure: f64, bar: f64, at_most: bool) {
    let reached = if at_most { figure <= bar } else { figure >= bar };
    let (side, reached) = (if at_most { "at most" } else { "at least" }, if reached { "yes" } else { "NO" });
    println!("{name:<60} {figure:>10.2}   {side} {bar:<8} {reached}");
}

fn report(
    copying: &Copying,
    (enter_us, recovery): (f64, Duration),
    mut large: Large,
    small: Verdict,
    small_pauses: &mut [Duration],
) -> ExitCode {
    let cutovers = large.pauses.len();
    let longest = large.pauses.iter().max().copied().unwrap_or_default();
    let (median_ms, max_ms) = (ms(median(&mut large.pauses)), ms(longest));
    let told = ms(median(&mut large.told));
    let others = large.others;
    println!(
        "\n{cutovers} cutovers in {} moves of the large tenant, each copied and compared in {:.1} s; {:.0} writes a second \
         in all; {told:.1} ms a cutover by the mover's own word, of which {}\n\
         {} moves of small ones, pause median {:.1} ms, max {:.1} ms\n",
        large.fillings.len(),
        median(&mut large.fillings).as_secs_f64(),
        large.rate,
        large.steps,
        small_pauses.len(),
        ms(median(small_pauses)),
        ms(small_pauses.iter().max().copied().unwrap_or_default()),
    );
    line("copy, unpaced, over the raw pipe", copying.copy_vs_pipe, 0.9, false);
    line("memory that copying took, MiB", copying.grown_mib, 16.0, true);
    line("pause that a client sees, median, ms", median_ms, 20.0, true);
    line("pause that a client sees, longest, ms", max_ms, 60.0, true);
    line("longest wait while rows are copied and compared, ms", ms(large.stall), 100.0, true);
    println!(
        "{:<60} {:>10.2}   nothing is to blame but the machine",
        "the same while nothing moves, ms",
        ms(large.calm)
    );
    line("entering an empty transaction, microseconds", enter_us, 50.0, true);
    line("comparing over one hash of every row's text", copying.verify_vs_scan, 0.6, false);
    line("the neighbours' rate, over that before each move", others, 0.8, false);
    line("written to again after a mover died, longest, ms", ms(recovery), 5_000.0, true);
    let mut all = small;
    all.add(large.verdict);
    println!(
        "RESULT copy_vs_pipe={:.2} pause_median_ms={median_ms:.1} pause_max_ms={max_ms:.1} stall_max_ms={:.1} calm_max_ms={:.1} lost={} \
         doubled={} others_vs_before={others:.2} enter_us={enter_us:.0} verify_vs_scan={:.2} recovery_max_ms={:.0} acknowledged={} stale={} \
         strayed={} refused={} cutovers={cutovers} moves={} writes_per_second={:.0} grown_mib={:.1}",
        copying.copy_vs_pipe,
        ms(large.stall),
        ms(large.calm),
        all.lost.len(),
        all.doubled.len() + all.unasked.len() + all.miscounted.len(),
        copying.verify_vs_scan,
        ms(recovery),
        all.acknowledged,
        all.stale.len(),
        all.strayed.len(),
        all.refused.values().sum::<usize>(),
        small_pauses.len(),
        large.rate,
        copying.grown_mib,
    );
    if all.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
