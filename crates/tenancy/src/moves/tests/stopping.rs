//! Movers that are told to stop, that are watched, and that take one kind of move alone.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::crashes::{COURSES, finish, mover};
use super::world::{World, at};
use crate::moves::mover::{Driven, MoveObserver};
use crate::moves::record::Move;
use crate::moves::registry::MoveKind;
use crate::moves::state::{MoveState, Side};

/// Polls a future so often, then does something, then waits for it.
async fn then<F: Future>(times: u32, future: F, act: impl FnOnce()) -> F::Output {
    let mut future = pin!(future);
    let (mut left, mut act) = (times, Some(act));
    poll_fn(move |cx| {
        if left == 0 {
            if let Some(act) = act.take() {
                act();
            }
        } else {
            left -= 1;
        }
        future.as_mut().poll(cx)
    })
    .await
}

/// The tenant is let in where the directory says, and nobody holds its move.
fn assert_let_go(world: &World) {
    let inner = world.inner();
    assert!(!inner.moved.state.is_cutover() && inner.moved.state != MoveState::Decided, "{inner:?}");
    let fence = inner.fences[at(inner.moved.serving())].expect("it has a fence");
    assert_eq!((fence.active, fence.epoch), (true, inner.directory.epoch.0), "{inner:?}");
    assert_eq!((inner.owner, inner.lock), (None, None), "{inner:?}");
    assert!(inner.until <= Instant::now(), "another may go on at once");
}

#[tokio::test(start_paused = true)]
async fn told_to_stop_at_any_await_it_leaves_the_tenant_open_and_the_move_to_others() {
    for course in COURSES {
        let world = course.world();
        finish(&world).await;
        let (undisturbed, mut times, mut stopped) = (world.standing().0, 0, 0);
        loop {
            let world = course.world();
            let (stop, told) = watch::channel(false);
            let one = mover(&world, 1).with_stop(told);
            let mut over = true;
            let driven = then(times, one.step(), || {
                over = false;
                stop.send_replace(true);
            })
            .await;
            match driven.expect("the registry answers") {
                Some(Driven::Stopped) => {
                    stopped += 1;
                    assert_let_go(&world);
                }
                Some(Driven::Ended(_)) => {}
                // The answer to the last question was not waited for.
                Some(Driven::Lost) if world.inner().moved.ended_at.is_some() => {}
                other => panic!("{course:?} after {times}: {other:?}"),
            }
            finish(&world).await;
            course.assert_ended(&world);
            let given_up = world.standing().0;
            assert!(given_up <= undisturbed, "{course:?} after {times}: stopping gave a cutover up");
            if over {
                break;
            }
            times += 1;
        }
        assert!(stopped > 30, "{course:?} was stopped {stopped} times");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_left_to_tell_it_to_stop_is_not_being_told() {
    let world = COURSES[0].world();
    let (stop, told) = watch::channel(false);
    drop(stop);
    let driven = mover(&world, 1).with_stop(told).step().await;
    assert!(matches!(driven, Ok(Some(Driven::Ended(_)))), "{driven:?}");
    COURSES[0].assert_ended(&world);
}

/// Writes down what it hears.
#[derive(Default)]
struct Heard(Mutex<Vec<(MoveState, Side, bool)>>);

impl MoveObserver for Heard {
    fn stands(&self, moved: &Move) {
        self.0.lock().unwrap().push((moved.state, moved.serving(), moved.pause.is_some()));
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_hears_each_state_and_how_long_the_tenant_waited() {
    use MoveState::{Active, CatchUp, Copy, Fence, Finished, Prepare, Slot, Verify};
    let world = COURSES[0].world();
    let heard = Arc::new(Heard::default());
    let driven = mover(&world, 1).with_observer(heard.clone()).step().await;
    assert!(matches!(driven, Ok(Some(Driven::Ended(_)))), "{driven:?}");
    let before = [Prepare, Slot, Copy, CatchUp, Verify, Fence].map(|state| (state, Side::Source, false));
    let after = [Active, Finished].map(|state| (state, Side::Target, true));
    assert_eq!(*heard.0.lock().unwrap(), [&before[..], &after[..]].concat());
}

#[tokio::test(start_paused = true)]
async fn how_far_behind_the_other_side_is_is_looked_at_now_and_then() {
    let course = &COURSES[0];
    let world = course.world();
    // Nobody says where it is to stay.
    world.inner().wishes.clear();
    let one = mover(&world, 1);
    let accompanied = timeout(Duration::from_mins(1), one.step()).await;
    assert!(accompanied.is_err(), "it is active until somebody says so");
    assert_eq!(world.inner().moved.state, MoveState::Active);
    assert!(world.inner().lag.is_some());
    // On its way there at most once a second, then every ten seconds.
    let noted = world.calls("record_lag");
    assert!((6..=9).contains(&noted), "{noted} in a minute");
    world.inner().wishes.extend([super::world::Wish::Finish]);
    finish(&world).await;
    course.assert_ended(&world);
}

#[tokio::test(start_paused = true)]
async fn a_mover_takes_the_kind_that_it_has_room_for() {
    let world = COURSES[0].world();
    let one = mover(&world, 1);
    assert_eq!(one.step_kind(MoveKind::Active).await.unwrap(), None);
    assert!(matches!(one.step_kind(MoveKind::Working).await, Ok(Some(Driven::Ended(_)))));
    for state in MoveState::ALL {
        assert_eq!(MoveKind::of(state) == MoveKind::Active, state == MoveState::Active);
    }
}
