//! Steps that fail, hang or say no, and answers that are lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::crashes::finish;
use super::world::{FIRST, Fault, SOURCE, Step, TARGET, Wish, World};
use crate::moves::mover::{Driven, MoverSettings};
use crate::moves::state::{MovePath, MoveState, Request, Side};
use crate::placement::DatabaseId;

fn world(path: MovePath, wishes: &[Wish], faults: &[Fault]) -> Arc<World> {
    let world = World::new(path);
    world.inner().wishes.extend(wishes);
    world.inner().faults.extend(faults);
    world
}

async fn ended(path: MovePath, wishes: &[Wish], faults: &[Fault], end: (MoveState, Side)) -> Arc<World> {
    let world = world(path, wishes, faults);
    finish(&world).await;
    world.assert_ended(end.0, end.1);
    assert!(world.inner().faults.is_empty(), "it happened: {:?}", world.inner().faults);
    world
}

const MOVED: (MoveState, Side) = (MoveState::Finished, Side::Target);
const STAYED: (MoveState, Side) = (MoveState::Aborted, Side::Source);

#[tokio::test(start_paused = true)]
async fn a_step_in_the_fence_that_takes_too_long_is_rolled_back_and_tried_again() {
    for path in MovePath::ALL {
        for step in [Step::Fence, Step::Applied, Step::Equal] {
            for fault in [Fault::Hangs(step), Fault::Fails(step)] {
                let wishes: &[Wish] = if path == MovePath::Short { &[] } else { &[Wish::Finish] };
                let world = ended(path, wishes, &[fault], MOVED).await;
                let inner = world.inner();
                assert_eq!(
                    (inner.moved.attempts, inner.directory.epoch.0),
                    (1, FIRST + 3),
                    "{path} {fault:?}"
                );
                let fence = inner.states.iter().position(|state| *state == MoveState::Fence).unwrap();
                assert_eq!(inner.states[fence + 1], MoveState::again(path), "{path} {fault:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cutover_that_never_works_is_given_up_for_good() {
    let world = ended(MovePath::Stream, &[], &[Fault::Hangs(Step::Applied); 5], STAYED).await;
    let inner = world.inner();
    assert_eq!((inner.moved.attempts, inner.directory.epoch.0), (5, FIRST + 10));
    assert!(inner.moved.error.as_deref().unwrap().contains("budget"));
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_busy_is_waited_for_again_without_giving_anything_up() {
    let busy = world(MovePath::Stream, &[Wish::Finish], &[]);
    busy.inner().busy = 5;
    finish(&busy).await;
    busy.assert_ended(MoveState::Finished, Side::Target);
    assert_eq!((busy.standing(), busy.calls("lock")), ((0, FIRST + 1), 6));

    let never = world(MovePath::Stream, &[], &[]);
    never.inner().busy = u32::MAX;
    finish(&never).await;
    never.assert_ended(MoveState::Aborted, Side::Source);
    assert_eq!((never.standing(), never.calls("fence"), never.calls("lock")), ((5, FIRST + 10), 0, 100));
}

#[tokio::test(start_paused = true)]
async fn what_says_no_for_good_ends_the_move_where_it_began() {
    for step in [
        Step::Prepare,
        Step::Open,
        Step::Copy,
        Step::CatchUp,
        Step::Verify,
        Step::Lock,
        Step::Fence,
        Step::Applied,
        Step::Equal,
    ] {
        let world = ended(MovePath::Stream, &[], &[Fault::Refuses(step)], STAYED).await;
        assert_eq!(world.inner().moved.error.as_deref(), Some("it is forbidden"), "{step:?}");
    }
    let world = ended(MovePath::Stream, &[], &[Fault::Differs], STAYED).await;
    assert_eq!(world.inner().moved.error.as_deref(), Some("both sides differ: app.notes 7: changed"));
}

#[tokio::test(start_paused = true)]
async fn what_stands_in_the_way_is_said_before_anything_is_made() {
    let world = world(MovePath::Stream, &[], &[]);
    world.inner().preflight = vec!["notes has no key".to_owned(), "so has tags".to_owned()];
    finish(&world).await;
    world.assert_ended(MoveState::Aborted, Side::Source);
    assert_eq!(world.inner().moved.error.as_deref(), Some("notes has no key; so has tags"));
    assert_eq!((world.calls("prepare"), world.calls("open"), world.calls("plan_cleanups")), (0, 0, 0));
    assert_eq!(world.calls("sweep"), 1, "what others left is no obstacle any more");
}

#[tokio::test(start_paused = true)]
async fn a_database_that_cannot_be_reached_at_first_stands_in_the_way() {
    let world = ended(MovePath::Stream, &[], &[Fault::Fails(Step::Preflight)], STAYED).await;
    let why = "a step did not succeed: the session was ended";
    assert_eq!(world.inner().moved.error.as_deref(), Some(why));
    assert_eq!(world.calls("plan_cleanups"), 0);
}

/// That nobody is left of an older owner cannot be made sure of there either, and nothing needs it yet.
#[tokio::test(start_paused = true)]
async fn a_database_that_is_gone_from_the_start_ends_the_move_with_a_reason() {
    for path in [MovePath::Short, MovePath::Stream] {
        for side in [Side::Source, Side::Target] {
            let world = world(path, &[], &[]);
            world.inner().gone = Some(side);
            finish(&world).await;
            world.assert_ended(MoveState::Aborted, Side::Source);
            let inner = world.inner();
            let why = inner.moved.error.clone().unwrap();
            assert!(why.contains(&format!("at the {side}: ")), "{why}");
            drop(inner);
            assert_eq!((world.calls("claim"), world.calls("plan_cleanups")), (1, 0), "{path:?} {side}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_abort_interrupted_has_ended_before_anything_is_removed() {
    let world = ended(MovePath::Stream, &[Wish::Abort(MoveState::Copy)], &[], STAYED).await;
    assert_eq!(world.calls("sever"), 4, "at both sides, when the move was taken up and when it was given up");
    let world = ended(MovePath::Stream, &[], &[Fault::Refuses(Step::Open)], STAYED).await;
    assert_eq!(world.calls("sever"), 4);
    let world = ended(MovePath::Stream, &[Wish::Finish], &[], MOVED).await;
    assert_eq!(world.calls("sever"), 2, "nothing was interrupted");
}

#[tokio::test(start_paused = true)]
async fn what_fails_for_now_is_done_later() {
    for step in [
        Step::Sweep,
        Step::Prepare,
        Step::Open,
        Step::Copy,
        Step::CatchUp,
        Step::Verify,
        Step::Lock,
        Step::Fence,
        Step::Applied,
        Step::Equal,
        Step::Activate,
        Step::Unlock,
        Step::Secure,
        Step::Remove,
    ] {
        ended(MovePath::Stream, &[Wish::Finish], &[Fault::Fails(step)], MOVED).await;
        let failing = [Fault::Hangs(Step::Equal), Fault::Fails(Step::Reopen), Fault::Fails(step)];
        ended(MovePath::Stream, &[Wish::Finish], &failing, MOVED).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_could_not_be_prepared_is_made_all_the_same() {
    let world = ended(MovePath::Stream, &[Wish::Finish], &[Fault::NotReady], MOVED).await;
    assert_eq!(world.standing(), (0, FIRST + 1));
}

#[tokio::test(start_paused = true)]
async fn a_decision_whose_answer_is_lost_is_what_the_directory_says() {
    let world = ended(MovePath::Stream, &[Wish::Finish], &[Fault::DecisionKept], MOVED).await;
    assert_eq!(world.standing(), (0, FIRST + 1));
    assert_eq!(world.calls("give_up"), 0);

    let world = ended(MovePath::Stream, &[Wish::Finish], &[Fault::DecisionLost], MOVED).await;
    assert_eq!(world.standing(), (1, FIRST + 3));

    let faults = [Fault::DecisionLost, Fault::GivingUpKept];
    let world = ended(MovePath::Stream, &[Wish::Finish], &faults, MOVED).await;
    assert_eq!(world.standing(), (1, FIRST + 3));
}

/// The decision is on its way while its mover believes that it failed. Either it comes through before it is given up, or
/// it hits no row.
#[tokio::test(start_paused = true)]
async fn a_decision_that_comes_through_late_is_found_or_hits_no_row() {
    let mut seen = [0, 0];
    for late in 0..40 {
        let world = ended(MovePath::Stream, &[Wish::Finish], &[Fault::DecisionLate(late)], MOVED).await;
        let inner = world.inner();
        match (inner.moved.attempts, inner.directory.epoch.0 - FIRST) {
            (0, 1) => seen[0] += 1,
            (1, 3) => seen[1] += 1,
            other => panic!("{late}: {other:?}"),
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn an_abort_is_heard_in_every_state_before_the_decision() {
    for state in MoveState::ALL.into_iter().filter(|state| state.may_abort()) {
        let world = ended(MovePath::Stream, &[Wish::Abort(state)], &[], STAYED).await;
        assert_eq!(world.inner().moved.wanted, None);
        // Whoever is about to begin the cutover may hear of it there, and gives it up.
        let fenced = world.inner().states.contains(&MoveState::Fence);
        let late = matches!(state, MoveState::Verify | MoveState::Fence);
        assert!(late || !fenced, "{state}");
        assert_eq!(world.standing().1, if fenced { FIRST + 2 } else { FIRST }, "{state}");
        assert_eq!(world.calls("activate"), 0, "{state}");
        assert!(late || world.calls("open") == u32::from(state != MoveState::Prepare), "{state}");
    }
}

#[tokio::test(start_paused = true)]
async fn going_back_that_fails_leaves_the_tenant_where_it_is_and_may_be_asked_for_again() {
    // The faults of the way there come first, so it is on the way back that these are due.
    for step in [Step::Fence, Step::Applied, Step::Equal] {
        for fault in [Fault::Hangs(step), Fault::Refuses(step), Fault::Fails(step)] {
            let world = world(MovePath::Stream, &[Wish::Back, Wish::Finish], &[]);
            let first = super::crashes::mover(&world, 1);
            let mut driven = std::pin::pin!(first.step());
            let active = async {
                while world.inner().moved.state != MoveState::Active {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                () = active => {}
                driven = &mut driven => panic!("{driven:?}"),
            }
            world.inner().faults.push(fault);
            driven.await.unwrap();
            finish(&world).await;
            world.assert_ended(MoveState::Finished, Side::Source);
            let inner = world.inner();
            // e, there e+1; given up on the way back, e+3; back, e+4.
            assert_eq!((inner.moved.attempts, inner.directory.epoch.0), (1, FIRST + 4), "{fault:?}");
        }
    }
}

/// Waits for something of the world.
async fn until(world: &World, reached: impl Fn(&World) -> bool) {
    while !reached(world) {
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_way_back_that_is_barred_for_good_is_said_once_and_not_tried_again() {
    let world = world(MovePath::Stream, &[], &[]);
    let first = super::crashes::mover(&world, 1);
    let mut driven = std::pin::pin!(first.step());
    let course = async {
        until(&world, |world| world.inner().moved.state == MoveState::Active).await;
        {
            let mut inner = world.inner();
            inner.faults.push(Fault::Refuses(Step::Verify));
            inner.moved.wanted = Some(Request::Back);
        }
        until(&world, |world| world.inner().moved.wanted.is_none()).await;
        let moved = world.inner().moved.clone();
        assert_eq!((moved.state, moved.serving()), (MoveState::Active, Side::Target));
        assert_eq!(moved.error.as_deref(), Some("it is forbidden"));
        let compared = world.calls("verify");
        sleep(Duration::from_mins(1)).await;
        assert_eq!(
            (world.calls("verify"), world.calls("release")),
            (compared, 0),
            "nobody asks for it any more"
        );
        assert_eq!(world.standing(), (0, FIRST + 1), "no cutover was begun");
        world.inner().moved.wanted = Some(Request::Back);
        until(&world, |world| world.inner().directory.epoch.0 == FIRST + 2).await;
        until(&world, |world| world.inner().moved.state == MoveState::Active).await;
        world.inner().moved.wanted = Some(Request::Finish);
    };
    let ((), ended) = tokio::join!(course, &mut driven);
    assert!(matches!(ended, Ok(Some(Driven::Ended(_)))), "{ended:?}");
    world.assert_ended(MoveState::Finished, Side::Source);
}

#[tokio::test(start_paused = true)]
async fn that_it_is_to_stay_is_heard_while_a_way_back_is_not_ready() {
    let world = world(MovePath::Stream, &[], &[]);
    let mover = super::crashes::mover(&world, 1);
    let mut driven = std::pin::pin!(mover.step());
    let course = async {
        until(&world, |world| world.inner().moved.state == MoveState::Active).await;
        {
            let mut inner = world.inner();
            inner.faults.push(Fault::Hangs(Step::Verify));
            inner.moved.wanted = Some(Request::Back);
        }
        until(&world, |world| world.inner().faults.is_empty()).await;
        world.inner().moved.wanted = Some(Request::Finish);
    };
    let ((), ended) = tokio::join!(course, &mut driven);
    assert!(matches!(ended, Ok(Some(Driven::Ended(_)))), "{ended:?}");
    world.assert_ended(MoveState::Finished, Side::Target);
    assert_eq!(world.standing(), (0, FIRST + 1), "no cutover was begun");
}

#[tokio::test(start_paused = true)]
async fn there_and_back_and_there_again_takes_a_new_epoch_each_time() {
    let world = world(MovePath::Stream, &[Wish::Back, Wish::Finish], &[]);
    finish(&world).await;
    world.assert_ended(MoveState::Finished, Side::Source);
    let epochs: Vec<i64> = world.inner().said.iter().map(|said| said.epoch.0 - FIRST).collect();
    assert_eq!(epochs, [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn what_the_tenant_waits_for_is_tried_again_by_the_same_mover() {
    for faults in [
        &[Fault::Fails(Step::Activate), Fault::Fails(Step::Activate)][..],
        &[Fault::Hangs(Step::Equal), Fault::Fails(Step::Reopen), Fault::Fails(Step::Reopen)],
    ] {
        let world = ended(MovePath::Stream, &[Wish::Finish], faults, MOVED).await;
        assert_eq!((world.calls("claim"), world.calls("release")), (1, 0), "{faults:?}");
    }
    let never = [Fault::Fails(Step::Activate); 5];
    let world = ended(MovePath::Stream, &[Wish::Finish], &never, MOVED).await;
    assert_eq!(world.calls("release"), 1, "and then by the next one");
}

/// A world whose move stands in this state and whose database at one side is then out of reach, for ever perhaps.
async fn without(side: Side, state: MoveState) -> Arc<World> {
    let world = world(MovePath::Stream, &[], &[]);
    let mover = super::crashes::mover(&world, 1);
    let mut driven = std::pin::pin!(mover.step());
    let stands = async {
        while world.inner().moved.state != state {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = stands => world.inner().gone = Some(side),
        driven = &mut driven => panic!("{driven:?}"),
    }
    world
}

/// Movers, for as long as that makes a difference.
async fn some_movers(world: &Arc<World>) {
    for node in 2..8 {
        sleep(MoverSettings::default().lease).await;
        let driven = super::crashes::mover(world, node).step().await.unwrap();
        assert!(matches!(driven, Some(Driven::Released(_))), "{driven:?}");
    }
}

/// What the world has of a move at each side.
fn made(world: &Arc<World>) -> (usize, usize) {
    let inner = world.inner();
    let at = |database: DatabaseId| {
        inner.made.iter().filter(|(known, _)| *known == database.as_uuid().as_u128()).count()
    };
    (at(SOURCE), at(TARGET))
}

#[tokio::test(start_paused = true)]
async fn an_abort_does_not_wait_for_a_target_that_is_gone() {
    for state in [MoveState::Copy, MoveState::CatchUp, MoveState::Verify] {
        let world = without(Side::Target, state).await;
        some_movers(&world).await;
        assert!(!world.inner().moved.state.is_over(), "nobody asked for an end: {state}");
        world.inner().moved.wanted = Some(Request::Abort);
        some_movers(&world).await;
        assert_eq!(world.inner().moved.state, MoveState::Aborted, "{state}");
        assert_eq!(made(&world), (0, 2), "what is at the source goes: {state}");
        assert!(world.inner().moved.ended_at.is_none(), "something is left: {state}");
        assert!(world.inner().moved.error.as_deref().unwrap().contains("older sessions at the target"));
        world.inner().gone = None;
        finish(&world).await;
        world.assert_ended(MoveState::Aborted, Side::Source);
    }
}

/// Nobody asks for anything, and the source's disk fills up.
#[tokio::test(start_paused = true)]
async fn a_source_does_not_keep_log_for_ever_for_a_target_that_is_gone() {
    for state in [MoveState::Copy, MoveState::CatchUp, MoveState::Verify] {
        let world = without(Side::Target, state).await;
        some_movers(&world).await;
        assert_eq!(world.inner().moved.state, state, "it bears it");
        world.inner().faults.push(Fault::Refuses(Step::Bearable));
        some_movers(&world).await;
        assert_eq!(world.inner().moved.state, MoveState::Aborted, "{state}");
        assert_eq!(made(&world), (0, 2), "what is at the source goes: {state}");
        world.inner().gone = None;
        finish(&world).await;
        world.assert_ended(MoveState::Aborted, Side::Source);
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_stays_where_it_is_though_where_it_was_is_gone() {
    let world = without(Side::Source, MoveState::Active).await;
    some_movers(&world).await;
    assert_eq!(world.inner().moved.state, MoveState::Active, "nobody asked for an end");
    world.inner().moved.wanted = Some(Request::Finish);
    some_movers(&world).await;
    assert_eq!(world.inner().moved.state, MoveState::Finished);
    assert_eq!(made(&world), (2, 0));
    world.inner().gone = None;
    finish(&world).await;
    world.assert_ended(MoveState::Finished, Side::Target);
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_while_the_side_that_serves_is_gone() {
    for (side, state, request) in [
        (Side::Source, MoveState::Verify, Request::Abort),
        (Side::Target, MoveState::Active, Request::Finish),
    ] {
        let world = without(side, state).await;
        world.inner().moved.wanted = Some(request);
        some_movers(&world).await;
        assert_eq!(world.inner().moved.state, state);
        assert_eq!(made(&world), (2, 2));
        world.inner().gone = None;
        finish(&world).await;
        assert!(world.inner().moved.ended_at.is_some());
    }
}
