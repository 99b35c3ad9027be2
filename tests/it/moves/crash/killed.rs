//! A mover in a process of its own that is killed, and another process that follows it.

use std::process::Stdio;
use std::sync::Arc;

use secrecy::ExposeSecret as _;
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_storage::target::ConnectionTarget;
use stagesub_tenancy::moves::{Failpoints, MovePath, MoveState, Point, Side};
use stagesub_tests::cluster::keys;
use stagesub_tests::history::driving::patient;
use stagesub_tests::history::{Driving, Gate, Ground, ledger, planes};
use tokio::io::{AsyncBufReadExt, BufReader};
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
    }
    std::future::pending::<()>().await;
}

/// Starts a process that moves whatever is to be moved, and stops at a point.
fn process(ground: &Ground, point: Option<Point>) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("a test knows where it is"));
    command
        .args(["--exact", NAME, "--nocapture"])
        .env(REGISTRY, ground.platform.registry().to_url().expose_secret())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    if let Some(point) = point {
        let place = Point::all().iter().position(|one| *one == point).expect("it is one of them");
        command.env(POINT, place.to_string());
    }
    command.spawn().expect("the program starts")
}

/// Waits until it stands there, and kills it.
async fn killed(mut process: Child) {
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
    // SIGKILL, and waited for.
    process.kill().await.expect("it ends");
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
