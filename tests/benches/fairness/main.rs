//! What one orchestra that asks 20 times as often, and one whose database is frozen, cost the others.
//!
//!     cargo bench -p stagesub-tests --bench fairness
//!
//! Eight orchestras each make requests, one after the other, and look at a page of musicians with each. In one kind of
//! cell they are alone; in the next one more orchestra of the same database makes the requests of 20 such clients at
//! once; in the third one more is there whose dedicated database was stopped (SIGSTOP of its server processes) while
//! its clients go on. Rounds are interleaved, and each kind is compared with `alone` of its own round. All that is
//! done on units of work and over HTTP, through the listener that `serve` has.
//! `--rounds N` and `--millis N` (the length of a cell) change how long it takes; `--share P` changes what one
//! orchestra may hold of the shared pool, 100 being no bound but turns, and `--at-once N` how many of its requests are
//! worked on at one time, 0 being as many as there are; `--by units` and `--by http` measure one way.

mod client;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use stagesub_server::config::{ConnectionSettings, LimitSettings, PoolShares};
use stagesub_server::routes::build_router;
use stagesub_server::serving::{Stop, bind, serve_within};
use stagesub_tests::bench::load;
use stagesub_tests::{Frozen, Kept, Orchestra, TestPlatform};
use tikv_jemallocator::Jemalloc;

use crate::client::{Client, Looker, Ways};

/// The product's.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// The others: in the shared database, and in databases of their own.
const SHARED: usize = 6;
const DEDICATED: usize = 2;
/// Clients of the one that asks too often; each of the others has one.
const NOISY_CLIENTS: usize = 20;
/// Clients of the one whose database is frozen.
const FROZEN_CLIENTS: usize = 4;
/// Musicians of each orchestra.
const MUSICIANS: u32 = 40;
/// Pauses between requests of the others in the paced part.
const PACE: Duration = Duration::from_millis(10);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench(Arguments::parse()));
}

struct Arguments {
    rounds: usize,
    cell: Duration,
    share: u8,
    at_once: Option<NonZeroU32>,
    ways: Vec<Ways>,
}

impl Arguments {
    fn parse() -> Self {
        let mut arguments = Self {
            rounds: 12,
            cell: Duration::from_secs(1),
            share: PoolShares::default().tenant_percent,
            at_once: LimitSettings::default().tenant_requests_at_once,
            ways: Ways::ALL.to_vec(),
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            if word == "--by" {
                let way = words.next().unwrap_or_default();
                arguments.ways.retain(|known| known.name() == way);
                assert!(!arguments.ways.is_empty(), "--by units or --by http");
                continue;
            }
            let mut number = || -> u64 {
                words
                    .next()
                    .and_then(|number| number.parse().ok())
                    .unwrap_or_else(|| panic!("{word} needs a number"))
            };
            match word.as_str() {
                "--rounds" => arguments.rounds = usize::try_from(number()).expect("a small number"),
                "--millis" => arguments.cell = Duration::from_millis(number()),
                "--share" => arguments.share = u8::try_from(number()).expect("a percentage"),
                "--at-once" => arguments.at_once = u32::try_from(number()).ok().and_then(NonZeroU32::new),
                // cargo's own.
                "--bench" => {}
                other => panic!("{other} is no argument of this bench"),
            }
        }
        arguments
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Alone,
    Noisy,
    Frozen,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Alone, Self::Noisy, Self::Frozen];

    const fn key(self) -> &'static str {
        match self {
            Self::Alone => "p99_alone",
            Self::Noisy => "p99_noisy",
            Self::Frozen => "p99_frozen",
        }
    }
}

/// The orchestras of the bench.
struct Stage {
    platform: TestPlatform,
    server: SocketAddr,
    others: Vec<Looker>,
    noisy: Looker,
    frozen: Looker,
    frozen_database: String,
}

async fn bench(arguments: Arguments) {
    let stage = Stage::set(&arguments).await;
    println!(
        "{} others, {NOISY_CLIENTS} noisy clients, {} rounds of {:?} a cell, share {} %, {} requests at once, load {}",
        stage.others.len(),
        arguments.rounds,
        arguments.cell,
        arguments.share,
        arguments.at_once.map_or("all".to_owned(), |most| most.to_string()),
        load()
    );
    println!(
        "by    others ask           kind    requests/s   p50 us   p99 us  p99 / alone (least, most)  errors  noisy/s"
    );
    let (mut errors, mut ratios) = (0, Vec::new());
    for way in &arguments.ways {
        for (paced, name) in [(None, "one after the other"), (Some(PACE), "every 10 ms")] {
            let cells = stage.measure(&arguments, *way, paced).await;
            for kind in Kind::ALL {
                errors += cells[kind as usize].iter().map(|cell| cell.errors).sum::<u64>();
                let ratio = report(&format!("{:<5} {name}", way.name()), kind, &cells, arguments.cell);
                let key = format!(
                    "{}_{}_{}",
                    kind.key(),
                    way.name(),
                    if paced.is_some() { "paced" } else { "busy" }
                );
                ratios.push((kind, key, ratio));
            }
        }
    }
    // What counts is the worst of the ways to ask.
    let worst = |wanted: Kind| {
        let of_kind = ratios.iter().filter(|(kind, ..)| *kind == wanted).map(|(.., ratio)| *ratio);
        of_kind.fold(0.0, f64::max)
    };
    let each: Vec<_> = ratios
        .iter()
        .filter(|(kind, ..)| *kind != Kind::Alone)
        .map(|(_, key, ratio)| format!("{key}={ratio:.2}"))
        .collect();
    println!("load {} at the end", load());
    println!(
        "RESULT p99_noisy={:.2} p99_frozen={:.2} errors={errors} share={} {}",
        worst(Kind::Noisy),
        worst(Kind::Frozen),
        arguments.share,
        each.join(" ")
    );
}

impl Stage {
    async fn set(arguments: &Arguments) -> Self {
        let shares = PoolShares { tenant_percent: arguments.share, ..PoolShares::default() };
        let platform = TestPlatform::start_sharing(shares, arguments.at_once).await;
        let server = serve(&platform).await;
        let mut others = Vec::new();
        for n in 0..SHARED + DEDICATED {
            let kept = if n < SHARED { Kept::Shared } else { Kept::Dedicated };
            others.push(ready(&platform, kept, &format!("other{n}")).await.1);
        }
        let (_, noisy) = ready(&platform, Kept::Shared, "noisy").await;
        let (orchestra, frozen) = ready(&platform, Kept::Dedicated, "frozen").await;
        let frozen_database = platform.database_of(&orchestra).await;
        Self { platform, server, others, noisy, frozen, frozen_database }
    }

    fn client(&self, way: Ways, looker: &Looker) -> Client {
        match way {
            Ways::Units => Client::of_units(&self.platform.state().units, looker),
            Ways::Http => Client::of_http(self.server, looker),
        }
    }

    /// The cells of each kind, round by round.
    async fn measure(&self, arguments: &Arguments, way: Ways, paced: Option<Duration>) -> [Vec<Cell>; 3] {
        let mut cells: [Vec<Cell>; 3] = Default::default();
        // The first is not counted: pools and caches fill.
        for round in 0..=arguments.rounds {
            for turn in 0..Kind::ALL.len() {
                // Each kind comes at each place of a round.
                let kind = Kind::ALL[(turn + round) % Kind::ALL.len()];
                let (looker, count) = match kind {
                    Kind::Alone => (&self.noisy, 0),
                    Kind::Noisy => (&self.noisy, NOISY_CLIENTS),
                    Kind::Frozen => (&self.frozen, FROZEN_CLIENTS),
                };
                let still = if kind == Kind::Frozen {
                    self.warm().await;
                    Some(Frozen::database(self.platform.registry(), &self.frozen_database).await)
                } else {
                    None
                };
                let others = self.others.iter().map(|other| self.client(way, other)).collect();
                let beside = (0..count).map(|_| self.client(way, looker)).collect();
                let cell = cell(others, beside, paced, arguments.cell).await;
                if round > 0 {
                    cells[kind as usize].push(cell);
                }
                assert!(still.is_none_or(|still| still.processes() > 0), "nothing was frozen");
            }
        }
        cells
    }

    /// Waits until the database that was frozen answers on as many connections as can be frozen again.
    async fn warm(&self) {
        let patience = Instant::now() + Duration::from_mins(1);
        let mut client = self.client(Ways::Units, &self.frozen);
        while client.look().await.is_err() {
            assert!(Instant::now() < patience, "the database does not come back");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The listener that `serve` has.
async fn serve(platform: &TestPlatform) -> SocketAddr {
    let listener = bind(([127, 0, 0, 1], 0).into()).await.expect("a port is free");
    let address = listener.local_addr().expect("it listens somewhere");
    let router = build_router(platform.state().clone());
    tokio::spawn(async move {
        let bounds = (ConnectionSettings::default(), &"".parse().expect("no proxies"));
        serve_within(listener, router, &Stop::default(), Duration::ZERO, bounds).await
    });
    address
}

/// Prints a line; the median of the rounds' ratios to `alone`.
fn report(name: &str, kind: Kind, cells: &[Vec<Cell>; 3], length: Duration) -> f64 {
    let (cells, alone) = (&cells[kind as usize], &cells[Kind::Alone as usize]);
    let ratio = cells.iter().zip(alone).map(|(cell, alone)| cell.percentile(0.99) / alone.percentile(0.99));
    let ratios: Vec<f64> = ratio.collect();
    let (least, most) =
        ratios.iter().fold((f64::MAX, 0.0_f64), |(least, most), ratio| (least.min(*ratio), most.max(*ratio)));
    let ratio = median(ratios);
    let of = |measure: &dyn Fn(&Cell) -> f64| median(cells.iter().map(measure).collect());
    println!(
        "{name:<26} {:>6} {:>11.0} {:>8.0} {:>8.0} {ratio:>12.2} ({least:>4.2}, {most:>5.2}) {:>7} {:>8.0}",
        format!("{kind:?}").to_lowercase(),
        of(&|cell| per_second(cell.micros.len() as u64, length)),
        of(&|cell| cell.percentile(0.5)),
        of(&|cell| cell.percentile(0.99)),
        cells.iter().map(|cell| cell.errors).sum::<u64>(),
        of(&|cell| per_second(cell.beside, length)),
    );
    ratio
}

#[expect(clippy::cast_precision_loss, reason = "counts of seconds")]
fn per_second(count: u64, length: Duration) -> f64 {
    count as f64 / length.as_secs_f64()
}

/// An orchestra with its musicians, and who looks at them.
async fn ready(platform: &TestPlatform, kept: Kept, subdomain: &str) -> (Orchestra, Looker) {
    let orchestra = platform.orchestra(kept, subdomain).await;
    for n in 0..MUSICIANS {
        let musician = json!({ "firstName": "Anna", "lastName": format!("Berg{n}"), "email": format!("a{n}@x.example") });
        orchestra.admin.post("/api/v1/musicians", &musician).await.expect(201);
    }
    let scope = platform.scope(&orchestra).await;
    let token = orchestra.admin.token().expect("somebody is signed in").to_owned();
    let looker = Looker::new(scope, &orchestra.host, &token);
    (orchestra, looker)
}

struct Cell {
    /// How long each request of the others took, sorted.
    micros: Vec<f64>,
    /// Requests of the others that failed.
    errors: u64,
    /// Requests of the one that is there beside them, answered.
    beside: u64,
}

impl Cell {
    fn percentile(&self, part: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index into a short list"
        )]
        let index = ((self.micros.len() as f64 - 1.0) * part).round() as usize;
        self.micros[index]
    }
}

async fn cell(others: Vec<Client>, beside: Vec<Client>, paced: Option<Duration>, length: Duration) -> Cell {
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let mut clients_beside = Vec::new();
    for mut client in beside {
        let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
        clients_beside.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                match client.look().await {
                    Ok(()) => _ = answered.fetch_add(1, Ordering::Relaxed),
                    // A client that is refused comes back a little later.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        }));
    }
    if !clients_beside.is_empty() {
        // In full swing before anything is measured.
        tokio::time::sleep(Duration::from_millis(100)).await;
        answered.store(0, Ordering::Relaxed);
    }
    let until = Instant::now() + length;
    let tasks: Vec<_> = others
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                let (mut micros, mut errors) = (Vec::new(), 0);
                let mut ticks = paced.map(tokio::time::interval);
                while Instant::now() < until {
                    if let Some(ticks) = &mut ticks {
                        ticks.tick().await;
                    }
                    let began = Instant::now();
                    match client.look().await {
                        Ok(()) => micros.push(began.elapsed().as_secs_f64() * 1e6),
                        Err(error) => {
                            println!("one of the others: {error}");
                            errors += 1;
                        }
                    }
                }
                (micros, errors)
            })
        })
        .collect();
    let (mut micros, mut errors) = (Vec::new(), 0);
    for task in tasks {
        let (of_task, failed) = task.await.expect("a client ends");
        micros.extend(of_task);
        errors += failed;
    }
    let beside = answered.load(Ordering::Relaxed);
    stop.store(true, Ordering::Relaxed);
    for task in clients_beside {
        // Whoever waits for a frozen database is not waited for.
        task.abort();
        drop(task.await);
    }
    micros.sort_by(f64::total_cmp);
    Cell { micros, errors, beside }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
