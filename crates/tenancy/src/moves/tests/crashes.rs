//! A mover that is gone at any await and at any point, and another that comes after it.

use std::collections::HashSet;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::sleep;
use uuid::Uuid;

use super::memory::{Memory, Plane};
use super::world::{Fault, Step, Wish, World};
use crate::moves::failpoint::{Failpoints, Point};
use crate::moves::mover::{Driven, Mover, MoverSettings};
use crate::moves::state::{MovePath, MoveState, Side};
use crate::nodes::NodeId;

pub(super) fn mover(world: &Arc<World>, node: u128) -> Mover {
    let (registry, plane) = (Memory(world.clone()), Plane::new(world.clone()));
    let node = NodeId::from_uuid(Uuid::from_u128(node));
    Mover::new(Arc::new(registry), Arc::new(plane), node, MoverSettings::default())
}

/// Other movers, until the move has ended.
pub(super) async fn finish(world: &Arc<World>) {
    for node in 100..200 {
        match mover(world, node).step().await.expect("the registry answers") {
            Some(Driven::Ended(_)) => return,
            Some(Driven::Released(_) | Driven::Lost | Driven::Stopped) => {}
            None if world.inner().moved.ended_at.is_some() => return,
            None => sleep(Duration::from_millis(500)).await,
        }
    }
    panic!("it does not end: {:?}", world.inner());
}

/// A future that is polled so often and then dropped.
async fn polled<F: Future>(times: u32, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = times;
    poll_fn(move |cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

/// A course that a move takes, with where the tenant is in the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Course {
    path: MovePath,
    wishes: &'static [Wish],
    faults: &'static [Fault],
    end: (MoveState, Side),
}

pub(super) const COURSES: [Course; 6] = [
    Course {
        path: MovePath::Stream,
        wishes: &[Wish::Finish],
        faults: &[],
        end: (MoveState::Finished, Side::Target),
    },
    Course {
        path: MovePath::Stream,
        wishes: &[Wish::Finish],
        faults: &[Fault::Hangs(Step::Equal), Fault::DecisionLost, Fault::GivingUpKept],
        end: (MoveState::Finished, Side::Target),
    },
    Course {
        path: MovePath::Triggers,
        wishes: &[Wish::Back, Wish::Finish],
        faults: &[],
        end: (MoveState::Finished, Side::Source),
    },
    Course {
        path: MovePath::Stream,
        wishes: &[Wish::Abort(MoveState::Verify)],
        faults: &[],
        end: (MoveState::Aborted, Side::Source),
    },
    Course {
        path: MovePath::Stream,
        wishes: &[Wish::Abort(MoveState::Fence)],
        faults: &[],
        end: (MoveState::Aborted, Side::Source),
    },
    Course { path: MovePath::Short, wishes: &[], faults: &[], end: (MoveState::Finished, Side::Target) },
];

impl Course {
    pub(super) fn world(&self) -> Arc<World> {
        let world = World::new(self.path);
        world.inner().wishes.extend(self.wishes);
        world.inner().faults.extend(self.faults);
        world
    }

    pub(super) fn assert_ended(&self, world: &World) {
        let (state, serving) = self.end;
        world.assert_ended(state, serving);
    }
}

#[tokio::test(start_paused = true)]
async fn a_mover_that_nothing_happens_to_takes_each_course() {
    use MoveState::{Active, CatchUp, Copy, Decided, Fence, Finished, Prepare, Slot, Verify};
    for course in COURSES {
        let world = course.world();
        finish(&world).await;
        course.assert_ended(&world);
    }
    let world = COURSES[0].world();
    finish(&world).await;
    let states = [Prepare, Slot, Copy, CatchUp, Verify, Fence, Decided, Active, Finished];
    assert_eq!(world.inner().states, states);
    assert!(world.inner().moved.pause.is_some() && world.inner().moved.attempts == 0);
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_await_it_is_finished_by_another() {
    for course in COURSES {
        let mut times = 0;
        loop {
            let world = course.world();
            let ended = polled(times, mover(&world, 1).step()).await;
            finish(&world).await;
            course.assert_ended(&world);
            if ended.is_some() {
                break;
            }
            times += 1;
        }
        assert!(times > 60, "{course:?} has {times} awaits");
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_twice_and_thrice_it_is_finished_by_another() {
    let mut random = 7_u32;
    let mut next = |below: u32| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 16) % below
    };
    for round in 0..1_500_usize {
        let course = COURSES[round % COURSES.len()];
        let world = course.world();
        for node in 1..=3 {
            polled(next(200), mover(&world, node).step()).await;
            sleep(Duration::from_secs(4)).await;
        }
        finish(&world).await;
        // A cutover whose mover died was given up too, and after so many the move is.
        if world.standing().0 == MoverSettings::default().attempts {
            world.assert_ended(MoveState::Aborted, Side::Source);
        } else {
            course.assert_ended(&world);
        }
    }
}

/// Holds a mover at one point, until it is let go.
pub(super) struct StopAt {
    point: Point,
    pub(super) reached: Notify,
    pub(super) go: Option<Notify>,
}

impl StopAt {
    pub(super) fn new(point: Point, go: Option<Notify>) -> Arc<Self> {
        Arc::new(Self { point, reached: Notify::new(), go })
    }
}

#[async_trait]
impl Failpoints for StopAt {
    async fn reached(&self, point: Point) {
        if point == self.point {
            self.reached.notify_one();
            match &self.go {
                Some(go) => go.notified().await,
                None => pending().await,
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_point_it_is_finished_by_another() {
    let mut reached = HashSet::new();
    for course in COURSES {
        for point in Point::all() {
            let world = course.world();
            let stop = StopAt::new(point, None);
            let mover = mover(&world, 1).with_failpoints(stop.clone());
            tokio::select! {
                biased;
                () = stop.reached.notified() => {
                    reached.insert(point);
                }
                _ = mover.step() => {}
            }
            finish(&world).await;
            course.assert_ended(&world);
        }
    }
    let mut missing = Point::all();
    missing.retain(|point| !reached.contains(point));
    // A move begins in the one, and the decision's point is that of the other.
    assert_eq!(missing, [Point::State(MoveState::Prepare), Point::State(MoveState::Decided)]);
}
