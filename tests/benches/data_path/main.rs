//! What isolation costs: reads and writes of one tenant, fenced and not, near and far.
//!
//! The read is the product's list of musicians, a page of 20, with its qualifications; the write changes where a
//! musician lives, by itself or in one transaction with what the audit says of it. Everybody uses the same tables,
//! columns and policies, and reads the rows' values. Who has no tenancy works in sessions that are bound to one tenant
//! for good, as if there were no other.
//!
//! `cargo bench -p stagesub-tests --bench data_path`; with `-- quick` in a tenth of the time, to see that it runs.

mod candidates;
mod shapes;

use std::time::Duration;

use stagesub_tests::bench::ground::Ground;
use stagesub_tests::bench::rounds::{Candidate, Cell, Rounds, interleaved, warm};
use stagesub_tests::bench::{load, network, runtime};
use tikv_jemallocator::Jemalloc;

use candidates::{
    CLASSIC_CHANGE, CLASSIC_READ, CLASSIC_WRITE, DEFAULT_CHANGE, DEFAULT_READ, DEFAULT_WRITE, FENCED_CHANGE,
    FENCED_READ, FENCED_WRITE, HOT_READ, HOT_WRITE, PORT_HOT_READ, PORT_READ,
};

/// The product's.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Connections of every pool.
const CONNECTIONS: u32 = 12;
/// How far the server is, each way, when it is far.
const DELAY: Duration = Duration::from_micros(250);
/// The figures that count are those of so many tasks.
const TASKS: usize = 8;

fn main() {
    let quick = std::env::args().any(|argument| argument == "quick");
    let scale = |rounds: usize| if quick { 2 } else { rounds };
    let time = Duration::from_millis(if quick { 100 } else { 250 });
    runtime(2).block_on(async {
        let ground = Ground::lay().await;
        let logins = ground.bench_logins().await;
        println!("load {} at the beginning", load());

        let near = candidates::all(&ground, &logins, None).await;
        let mut at_eight = None;
        for tasks in [1, TASKS, 32] {
            let rounds = scale(if tasks == TASKS { 41 } else { 7 });
            let measured = measure(&ground, &near, (rounds, tasks, time)).await;
            println!("{}", measured.table(&format!("near, {tasks} tasks"), DEFAULT_READ));
            if tasks == TASKS {
                at_eight = Some(measured);
            }
        }
        let near = at_eight.expect("eight tasks were measured");

        let shapes = shapes::all(&ground).await;
        let measured = measure(&ground, &shapes, (scale(11), TASKS, time)).await;
        println!("{}", measured.table("shapes of a fenced read, near, 8 tasks", shapes::PLAIN));

        let address = network::to_socket(ground.socket(), DELAY);
        let far = candidates::all(&ground, &logins, Some(address)).await;
        let mut at_eight = None;
        for tasks in [1, TASKS, 32] {
            let rounds = scale(if tasks == TASKS { 31 } else { 5 });
            let measured = measure(&ground, &far, (rounds, tasks, time)).await;
            println!("{}", measured.table(&format!("0.25 ms away each way, {tasks} tasks"), DEFAULT_READ));
            if tasks == TASKS {
                at_eight = Some(measured);
            }
        }
        report(&near, &at_eight.expect("eight tasks were measured"));
    });
}

async fn measure(
    ground: &Ground,
    candidates: &[Candidate],
    (rounds, tasks, time): (usize, usize, Duration),
) -> Rounds {
    warm(candidates, tasks.max(CONNECTIONS as usize), time).await;
    interleaved(candidates, (rounds, tasks, time), &ground.meter().await).await
}

fn report(near: &Rounds, far: &Rounds) {
    let cpu = |cell: &Cell| cell.cpu;
    let rate = |cell: &Cell| cell.rate;
    let figures = [
        ("read_vs_sqlx_default", near.ratio(FENCED_READ, DEFAULT_READ, cpu)),
        ("hot_read_vs_sqlx_default", near.ratio(HOT_READ, DEFAULT_READ, cpu)),
        ("read_vs_classic", near.ratio(FENCED_READ, CLASSIC_READ, cpu)),
        ("read_vs_sqlx_default_to_the_domain", near.ratio(PORT_READ, DEFAULT_READ, cpu)),
        ("read_vs_classic_to_the_domain", near.ratio(PORT_READ, CLASSIC_READ, cpu)),
        ("hot_read_vs_sqlx_default_to_the_domain", near.ratio(PORT_HOT_READ, DEFAULT_READ, cpu)),
        ("hot_write_vs_unfenced", near.ratio(HOT_WRITE, DEFAULT_WRITE, cpu)),
        ("hot_write_vs_classic", near.ratio(HOT_WRITE, CLASSIC_WRITE, cpu)),
        ("write_vs_unfenced", near.ratio(FENCED_WRITE, DEFAULT_WRITE, cpu)),
        ("write_vs_classic", near.ratio(FENCED_WRITE, CLASSIC_WRITE, cpu)),
        ("change_vs_unfenced", near.ratio(FENCED_CHANGE, DEFAULT_CHANGE, cpu)),
        ("change_vs_classic", near.ratio(FENCED_CHANGE, CLASSIC_CHANGE, cpu)),
        ("hot_read_far", far.ratio(HOT_READ, DEFAULT_READ, rate)),
        ("read_far", far.ratio(FENCED_READ, DEFAULT_READ, rate)),
        ("hot_write_far", far.ratio(HOT_WRITE, DEFAULT_WRITE, rate)),
        ("write_far", far.ratio(FENCED_WRITE, DEFAULT_WRITE, rate)),
        ("change_far", far.ratio(FENCED_CHANGE, DEFAULT_CHANGE, rate)),
    ];
    println!("medians over the rounds (and the least and most of any), load {} at the end", load());
    for (name, spread) in &figures {
        println!("  {name:<40} {spread}");
    }
    let result: Vec<String> =
        figures.iter().map(|(name, spread)| format!("{name}={:.3}", spread.median)).collect();
    println!("RESULT {}", result.join(" "));
}
