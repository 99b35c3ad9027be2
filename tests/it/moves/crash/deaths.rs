//! A mover that dies at each point of a move, and one that follows it.

use std::collections::HashSet;

use stagesub_tenancy::moves::{MovePath, MoveState, Point, Request, Side};
use stagesub_tests::history::{Ground, Resident};

use super::{Course, Deaths, is_writable};

/// While the target is made and filled.
const FILLING: [Point; 7] = [
    Point::Claimed,
    Point::Severed,
    Point::Planned,
    Point::State(MoveState::Slot),
    Point::State(MoveState::Copy),
    Point::State(MoveState::CatchUp),
    Point::State(MoveState::Verify),
];

/// In the cutover, until it is decided.
const FENCED: [Point; 5] =
    [Point::State(MoveState::Fence), Point::Locked, Point::Fenced, Point::Applied, Point::Equal];

/// After it was decided.
const DECIDED: [Point; 4] =
    [Point::Decided, Point::Activated, Point::Unlocked, Point::State(MoveState::Active)];

/// On the way back and while it is tidied.
const LATER: [Point; 3] = [Point::State(MoveState::Back), Point::State(MoveState::Finished), Point::Removed];

/// Reached only by who follows one that died in a cutover.
const GIVEN_UP: [Point; 2] = [Point::GivenUp, Point::Reopened];

/// Reached only on the short path, and by who follows one that died in a cutover.
const SHORT: Point = Point::State(MoveState::Prepare);

const ABORTED: Point = Point::State(MoveState::Aborted);

/// Reached in the registry by the decision itself, which is a point of its own.
const BY_THE_DECISION: Point = Point::State(MoveState::Decided);

#[test]
fn every_point_is_one_that_a_mover_dies_at() {
    let named: HashSet<Point> = FILLING
        .into_iter()
        .chain(FENCED)
        .chain(DECIDED)
        .chain(LATER)
        .chain(GIVEN_UP)
        .chain([SHORT, ABORTED, BY_THE_DECISION])
        .collect();
    assert_eq!(named, Point::all().into_iter().collect::<HashSet<_>>());
}

fn labels<const N: usize>(what: &str) -> [String; N] {
    std::array::from_fn(|n| format!("{what}{n}"))
}

async fn furnished(labels: &[String]) -> (Ground, Vec<Resident>) {
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let (ground, mut residents) = Ground::start(&labels).await;
    for resident in &mut residents {
        ground.furnish(resident, 200).await;
    }
    (ground, residents)
}

/// Movers die at these points one after the other, and the tenant goes there and back all the same.
async fn goes_there_and_back(ground: &Ground, resident: &Resident, points: &[Point]) {
    goes_along(MovePath::Stream, ground, resident, points).await;
}

async fn goes_along(path: MovePath, ground: &Ground, resident: &Resident, points: &[Point]) {
    println!("{}: {points:?}", resident.orchestra.subdomain);
    let mut course = Course::of(ground, resident);
    let id = course.begin(path).await;
    let deaths = Deaths::at(&course.driving, points);
    let again = async {
        deaths.are_over().await;
        is_writable(ground, resident).await;
    };
    tokio::join!(course.there_and_back(id), again);
    let survivor = deaths.survivor().await;
    course.is_over(id, Side::Source).await;
    survivor.die().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_dies_while_the_target_is_filled_is_followed_and_nothing_is_lost() {
    let (ground, residents) = furnished(&labels::<{ FILLING.len() }>("fill")).await;
    for (resident, point) in residents.iter().zip(FILLING) {
        goes_there_and_back(&ground, resident, &[point]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_dies_in_a_cutover_before_the_decision_is_rolled_back_and_tried_again() {
    let (ground, residents) = furnished(&labels::<{ FENCED.len() }>("fence")).await;
    for (resident, point) in residents.iter().zip(FENCED) {
        goes_there_and_back(&ground, resident, &[point]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_dies_after_the_decision_is_followed_forward() {
    let (ground, residents) = furnished(&labels::<{ DECIDED.len() }>("done")).await;
    for (resident, point) in residents.iter().zip(DECIDED) {
        goes_there_and_back(&ground, resident, &[point]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_dies_on_the_way_back_or_while_tidying_is_followed() {
    let (ground, residents) = furnished(&labels::<{ LATER.len() + 1 }>("late")).await;
    for (resident, point) in residents.iter().zip(LATER) {
        goes_there_and_back(&ground, resident, &[point]).await;
    }
    // And at the fence of the way back, and after its decision.
    let back = [Point::State(MoveState::Back), Point::Fenced, Point::Decided];
    goes_there_and_back(&ground, &residents[LATER.len()], &back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_dies_while_rolling_back_is_followed() {
    let (ground, residents) = furnished(&labels::<{ GIVEN_UP.len() }>("give")).await;
    for (resident, point) in residents.iter().zip(GIVEN_UP) {
        goes_there_and_back(&ground, resident, &[Point::Fenced, point]).await;
    }
}

/// Triggers fill a log in place of the stream: it is made, read, marked and removed at other steps.
#[tokio::test(flavor = "multi_thread")]
async fn who_dies_where_triggers_take_the_changes_down_is_followed() {
    const POINTS: usize = FILLING.len() + FENCED.len() + DECIDED.len() + LATER.len();
    let points: Vec<Point> = FILLING.into_iter().chain(FENCED).chain(DECIDED).chain(LATER).collect();
    let (ground, residents) = furnished(&labels::<{ POINTS + GIVEN_UP.len() }>("log")).await;
    let alone = points.iter().map(|point| vec![*point]);
    let after = GIVEN_UP.into_iter().map(|point| vec![Point::Fenced, point]);
    for (resident, points) in residents.iter().zip(alone.chain(after)) {
        Box::pin(goes_along(MovePath::Triggers, &ground, resident, &points)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_dies_on_the_short_path_is_followed() {
    let (ground, residents) = furnished(&labels::<3>("short")).await;
    let all = [&[Point::Fenced, SHORT][..], &[Point::Applied], &[Point::Decided]];
    for (resident, points) in residents.iter().zip(all) {
        let mut course = Course::of(&ground, resident);
        let id = course.begin(MovePath::Short).await;
        let deaths = Deaths::at(&course.driving, points);
        let again = async {
            deaths.are_over().await;
            is_writable(&ground, resident).await;
        };
        let (ended, ()) = tokio::join!(course.ends(id), again);
        assert_eq!(ended.state, MoveState::Finished, "{ended:?}");
        let survivor = deaths.survivor().await;
        course.is_over(id, Side::Target).await;
        survivor.die().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_dies_while_aborting_is_followed_and_the_tenant_stays() {
    let (ground, residents) = furnished(&labels::<2>("abort")).await;
    for (resident, at) in residents.iter().zip([Point::State(MoveState::CatchUp), Point::Planned]) {
        let mut course = Course::of(&ground, resident);
        let id = course.begin(MovePath::Stream).await;
        // The first stops where there is something to remove; before the second begins, somebody has asked.
        let deaths = Deaths::at(&course.driving, &[at]);
        deaths.are_over().await;
        course.driving.ask(id, Request::Abort).await;
        let survivor = deaths.survivor().await;
        survivor.die().await;
        let deaths = Deaths::at(&course.driving, &[ABORTED]);
        let again = async {
            deaths.are_over().await;
            is_writable(&ground, resident).await;
        };
        let (ended, ()) = tokio::join!(course.ends(id), again);
        assert_eq!(ended.state, MoveState::Aborted, "{ended:?}");
        let survivor = deaths.survivor().await;
        course.is_over(id, Side::Source).await;
        survivor.die().await;
    }
}
