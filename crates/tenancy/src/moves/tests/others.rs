//! Movers beside each other: one that was stopped and wakes, one whose lease is gone, two at once.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::crashes::{COURSES, StopAt, finish, mover};
use super::world::{EVER, Fault, Step, Wish, World};
use crate::moves::failpoint::Point;
use crate::moves::mover::{Drive, Driven, Grip, MoverSettings};
use crate::moves::state::{MovePath, MoveState, Side};

#[tokio::test(start_paused = true)]
async fn a_mover_that_was_stopped_does_nothing_more_when_it_wakes() {
    for course in COURSES {
        for point in Point::all() {
            let world = course.world();
            let stop = StopAt::new(point, Some(Notify::new()));
            let stopped = mover(&world, 1).with_failpoints(stop.clone());
            let mut driven = pin!(stopped.step());
            tokio::select! {
                biased;
                () = stop.reached.notified() => {}
                _ = &mut driven => continue,
            }
            finish(&world).await;
            course.assert_ended(&world);
            let calls = world.inner().calls.clone();
            stop.go.as_ref().unwrap().notify_one();
            assert_eq!(driven.await.unwrap(), Some(Driven::Lost), "{course:?} {point:?}");
            // It may ask whether it still has the move; then it lets go of what it has.
            let mut after = world.inner().calls.clone();
            after.retain(|name, _| !["renew", "abandon"].contains(name));
            let mut before = calls;
            before.retain(|name, _| !["renew", "abandon"].contains(name));
            assert_eq!(after, before, "{course:?} {point:?}");
            course.assert_ended(&world);
        }
    }
}

/// One that does not even look at its lease: what it still writes hits nothing.
#[tokio::test(start_paused = true)]
async fn a_stale_mover_that_goes_on_changes_nothing() {
    for course in COURSES {
        for point in Point::all() {
            let world = course.world();
            let stop = StopAt::new(point, Some(Notify::new()));
            let stale = mover(&world, 1).with_failpoints(stop.clone());
            let held =
                stale.registry.claim(stale.node, MoverSettings::default().lease).await.unwrap().unwrap();
            let (tell, wanted) = watch::channel(None);
            let grip = Grip::default();
            let away = (None, None);
            let mut drive = Drive { mover: &stale, held, wanted, grip: &grip, away, cut_short: false };
            let mut work = pin!(drive.work());
            let reached = tokio::select! {
                biased;
                () = stop.reached.notified() => true,
                _ = &mut work => false,
                // Where it waits for an administrator whom only a lease's renewal tells of.
                () = sleep(EVER) => false,
            };
            if !reached {
                continue;
            }
            finish(&world).await;
            course.assert_ended(&world);
            world.inner().silent = true;
            let before = world.inner().directory;
            stop.go.as_ref().unwrap().notify_one();
            // It may take a step that is repeated without harm, as the next one finds; it never succeeds.
            let went_on = timeout(EVER, work).await;
            assert!(!matches!(went_on, Ok(Ok(()))), "{course:?} {point:?}");
            drop(tell);
            assert_eq!(world.inner().directory, before);
            let inner = world.inner();
            let served = &inner.rows[super::world::at(inner.moved.serving())];
            assert_eq!(served, &inner.written, "{course:?} {point:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_movers_one_has_the_move() {
    let world = COURSES[0].world();
    let (first, second) = (mover(&world, 1), mover(&world, 2));
    let (first, second) = tokio::join!(first.step(), second.step());
    let driven = [first.unwrap(), second.unwrap()];
    assert!(driven.iter().any(|driven| matches!(driven, Some(Driven::Ended(_)))), "{driven:?}");
    assert!(driven.iter().any(Option::is_none), "{driven:?}");
    COURSES[0].assert_ended(&world);
    assert_eq!(world.calls("sever"), 2, "once at each side");
}

/// A move in this state, whose leases cannot be renewed from then on.
async fn cut_off(world: &Arc<World>, driven: &mut (impl Future<Output = Outcome> + Unpin), state: MoveState) {
    let stands = async {
        while world.inner().moved.state != state {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = stands => {}
        driven = driven => panic!("{driven:?}"),
    }
    world.inner().away = true;
}

type Outcome = Result<Option<Driven>, crate::moves::registry::MoveRegistryError>;

#[tokio::test(start_paused = true)]
async fn in_a_cutover_a_mover_lets_go_before_its_lease_is_over() {
    let world = World::new(MovePath::Stream);
    world.inner().faults.push(Fault::Hangs(Step::Activate));
    let first = mover(&world, 1);
    let mut driven = pin!(first.step());
    cut_off(&world, &mut driven, MoveState::Decided).await;
    let since = Instant::now();
    assert_eq!(driven.await.unwrap(), Some(Driven::Lost));
    assert!(since.elapsed() <= MoverSettings::default().lease, "{:?}", since.elapsed());
    assert!(Instant::now() <= world.inner().until, "nobody else could have it by then");
    assert_eq!(world.calls("abandon"), 1);
    world.inner().away = false;
    world.inner().wishes.push_back(Wish::Finish);
    finish(&world).await;
    world.assert_ended(MoveState::Finished, Side::Target);
}

#[tokio::test(start_paused = true)]
async fn a_mover_that_does_not_know_whether_it_holds_its_move_does_nothing() {
    let MoverSettings { lease, grace, .. } = MoverSettings::default();
    for away in [Duration::from_secs(20), EVER] {
        let world = World::new(MovePath::Stream);
        let first = mover(&world, 1);
        let mut driven = pin!(first.step());
        cut_off(&world, &mut driven, MoveState::Active).await;
        let since = Instant::now();
        let held = timeout(lease + Duration::from_millis(1), &mut driven).await;
        assert!(held.is_err(), "{held:?}");
        let calls = world.inner().calls.clone();
        if away == EVER {
            assert_eq!(driven.as_mut().await.unwrap(), Some(Driven::Lost));
            assert!(since.elapsed() <= lease + grace + lease, "{:?}", since.elapsed());
        } else {
            let waited = timeout(away, &mut driven).await;
            assert!(waited.is_err(), "{waited:?}");
        }
        for (name, count) in &world.inner().calls {
            let may = ["renew", "abandon"].contains(name);
            assert!(may || calls.get(name) == Some(count), "{name} while nobody knew");
        }
        if away != EVER {
            // It is told that it does, and goes on with the streams that it has.
            world.inner().away = false;
            world.inner().wishes.push_back(Wish::Finish);
            assert!(matches!(driven.await.unwrap(), Some(Driven::Ended(_))));
            assert_eq!((world.calls("claim"), world.calls("sever")), (1, 2));
            world.assert_ended(MoveState::Finished, Side::Target);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_that_does_not_go_on_is_left_to_others_after_a_rest() {
    let world = COURSES[0].world();
    world.inner().faults.push(Fault::Fails(Step::Open));
    let driven = mover(&world, 1).step().await.unwrap();
    assert_eq!(driven, Some(Driven::Released("a step did not succeed: the session was ended".to_owned())));
    assert_eq!(mover(&world, 2).step().await.unwrap(), None, "not at once");
    sleep(Duration::from_secs(1)).await;
    assert!(matches!(mover(&world, 2).step().await.unwrap(), Some(Driven::Ended(_))));
    COURSES[0].assert_ended(&world);
}
