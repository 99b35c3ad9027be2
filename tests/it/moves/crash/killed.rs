//! A mover in a process of its own that is killed, or stopped, and another process that follows it.

use std::process::Stdio;
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::ExposeSecret as _;
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_storage::target::ConnectionTarget;
use stagesub_tenancy::moves::{Failpoints, MovePath, MoveState, Point, Side};
use stagesub_tests::cluster::keys;
use stagesub_tests::history::driving::patient;
use stagesub_tests::history::{Driving, Gate, Ground, ledger, planes};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{Course, PATIENCE, is_writable};

/// This test by its name: the process that is killed is this program, which runs it and nothing else.
const NAME: &str = "moves::crash::killed::a_process_that_is_killed_is_followed_by_another";
/// The registry of a process that is a mover, and where it stops to be killed, as a place in [`Point::all`].
const REGISTRY: &str = "STAGESUB_TEST_MOVER_REGISTRY";
const POINT: &str = "STAGESUB_TEST_MOVER_POINT";
/// What it says there.
const HERE: &str = "the mover has come to its point";

const POINTS: [Point; 6] = [
    Point::State(MoveState::Copy),
    Point::State(MoveState::CatchUp),
    Point::Fenced,
    Point::Equal,
    Point::Decided,
    Point::Activated,
];

/// Where one is stopped: before the decision and after it.
const FROZEN: [Point; 4] = [Point::Fenced, Point::Equal, Point::Decided, Point::Activated];

/// A mover, until it is killed.
async fn moves(registry: &str) {
    let registry = ConnectionTarget::parse(registry).expect("a connection string");
    let registry = RegistryPools::open(&registry, &keys()).await.expect("the registry opens");
    let logins = Arc::new(PgDatabaseLogins::new(registry.clone(), Arc::new(keys())));
    let movers = planes::of(logins, &registry, ledger::contents());
    let driving = Driving::at(registry, movers, patient());
    let point = std::env::var(POINT).ok().and_then(|place| place.parse::<usize>().ok());
    let gate = point.map(|place| Gate::at(Point::all()[place]));
    let _mover = driving.node(gate.clone().map(|gate| gate as Arc<dyn Failpoints>));
    if let Some(gate) = gate {
        gate.reached().await;
        println!("{HERE}");
        let mut word = String::new();
        let told = BufReader::new(tokio::io::stdin()).read_line(&mut word).await;
        told.expect("the test that started it is there");
        gate.open();
    }
    std::future::pending::<()>().await;
}

/// Starts a process that moves whatever is to be moved, and stops at a point.
fn process(ground: &Ground, point: Option<Point>) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("a test knows where it is"));
    command
        .args(["--exact", NAME, "--nocapture"])
        .env(REGISTRY, ground.platform.registry().to_url().expose_secret())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    if let Some(point) = point {
        let place = Point::all().iter().position(|one| *one == point).expect("it is one of them");
        command.env(POINT, place.to_string());
    }
    command.spawn().expect("the program starts")
}

/// Waits until it stands there.
async fn comes_to_its_point(process: &mut Child) {
    let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
    let there = async {
        loop {
            let line =
                lines.next_line().await.expect("it can be read").expect("it goes on until it is killed");
            if line == HERE {
                return;
            }
        }
    };
    timeout(PATIENCE, there).await.expect("it comes to its point");
}

/// Waits until it stands there, and kills it.
async fn killed(mut process: Child) {
    comes_to_its_point(&mut process).await;
    // SIGKILL, and waited for.
    process.kill().await.expect("it ends");
}

fn signal(process: &Child, signal: Signal) {
    let id = process.id().and_then(|id| i32::try_from(id).ok()).expect("it runs");
    kill(Pid::from_raw(id), signal).expect("a process of the test's own can be signalled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_is_followed_by_another() {
    if let Ok(registry) = std::env::var(REGISTRY) {
        return moves(&registry).await;
    }
    let labels: [String; POINTS.len()] = std::array::from_fn(|n| format!("killed{n}"));
    let (ground, mut residents) = Ground::start(&labels.each_ref().map(String::as_str)).await;
    for (resident, point) in residents.iter_mut().zip(POINTS) {
        ground.furnish(resident, 200).await;
        println!("{}: {point:?}", resident.orchestra.subdomain);
        let mut course = Course { decided_elsewhere: true, ..Course::of(&ground, resident) };
        let id = course.begin(MovePath::Stream).await;
        let killing = async {
            killed(process(&ground, Some(point))).await;
            let next = process(&ground, None);
            is_writable(&ground, resident).await;
            next
        };
        let ((), mut next) = tokio::join!(course.there_and_back(id), killing);
        next.kill().await.expect("it ends");
        course.is_over(id, Side::Source).await;
    }
}

/// Everything of it sleeps: what drives the move, and what applies its streams with what they have read.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_stopped_until_another_has_finished_changes_nothing_when_it_wakes() {
    let labels: [String; FROZEN.len()] = std::array::from_fn(|n| format!("stopped{n}"));
    let (ground, mut residents) = Ground::start(&labels.each_ref().map(String::as_str)).await;
    for (resident, point) in residents.iter_mut().zip(FROZEN) {
        ground.furnish(resident, 200).await;
        println!("{}: {point:?}", resident.orchestra.subdomain);
        let mut course = Course { decided_elsewhere: true, ..Course::of(&ground, resident) };
        let clients = course.clients();
        let id = course.begin(MovePath::Stream).await;
        let mut sleeper = process(&ground, Some(point));
        comes_to_its_point(&mut sleeper).await;
        signal(&sleeper, Signal::SIGSTOP);
        // It goes on with this when it wakes.
        let mut input = sleeper.stdin.take().expect("its input");
        input.write_all(b"go on\n").await.expect("it is kept for it");
        let mut other = process(&ground, None);
        is_writable(&ground, resident).await;
        course.driving.until_active(id, Side::Target).await;
        clients.write_on(3).await;
        signal(&sleeper, Signal::SIGCONT);
        course.comes_back(id, clients).await;
        assert_eq!(sleeper.try_wait().expect("it can be asked"), None, "it woke, and lives");
        sleeper.kill().await.expect("it ends");
        other.kill().await.expect("it ends");
    }
}
