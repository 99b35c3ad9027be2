//! The mover over the registry: what it drives is what stands there, and one that died is followed by another. The two
//! databases are on paper here; who serves the tenant is the directory's to say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use stagesub_tenancy::moves::plane::{CopyProgress, Lag, Lock, NewTarget, Verdict};
use stagesub_tenancy::moves::record::Object;
use stagesub_tenancy::moves::{
    Cleanup, DataPlane, Driven, Move, MoveId, MovePath, MoveRegistry, MoveState, Mover, MoverSettings,
    PlaneError, Request, Requested, Requester, Side, TableProgress,
};
use stagesub_tenancy::{Located, PlacementEpoch};
use stagesub_tests::storm::polled;

use super::registry::{Desk, node, wanted};
use crate::tenant_tx::lab::until;

/// Databases on which everything succeeds.
#[derive(Debug, Default)]
struct Paper {
    severed: AtomicU32,
    /// How many cutovers find that both sides differ for want of time.
    slow: AtomicU32,
}

#[async_trait]
impl DataPlane for Paper {
    async fn sever(&self, _moved: &Move, side: Side) -> Result<(), PlaneError> {
        self.severed.fetch_add(u32::from(side == Side::Source), Ordering::Relaxed);
        Ok(())
    }

    async fn sweep(&self, _moved: &Move) -> Result<(), PlaneError> {
        Ok(())
    }

    async fn preflight_source(
        &self,
        _source: &Located,
        _path: MovePath,
        _target: Option<NewTarget>,
    ) -> Result<Vec<String>, PlaneError> {
        Ok(Vec::new())
    }

    async fn abandon(&self, _moved: &Move) {}

    async fn preflight(&self, _moved: &Move) -> Result<Vec<String>, PlaneError> {
        Ok(Vec::new())
    }

    async fn plan(&self, moved: &Move) -> Result<Vec<Cleanup>, PlaneError> {
        let cleanup = |object, side: Side| Cleanup {
            object,
            database: moved.placement(side).database(),
            name: format!("{}_{side}", object.as_str()),
        };
        Ok(Side::ALL.into_iter().flat_map(|side| Object::ALL.map(|object| cleanup(object, side))).collect())
    }

    async fn prepare(&self, _moved: &Move) -> Result<String, PlaneError> {
        Ok("fingerprint".to_owned())
    }

    async fn open(&self, _moved: &Move) -> Result<(), PlaneError> {
        Ok(())
    }

    async fn copy(&self, _moved: &Move, progress: CopyProgress) -> Result<(), PlaneError> {
        let (schema, table) = ("tenant".to_owned(), "musician".to_owned());
        progress.tell(vec![TableProgress { schema, table, rows: 7, bytes: 700, done: true }]);
        Ok(())
    }

    async fn resume(&self, _moved: &Move) -> Result<(), PlaneError> {
        Ok(())
    }

    async fn bearable(&self, _moved: &Move) -> Result<(), PlaneError> {
        Ok(())
    }

    async fn catch_up(&self, _moved: &Move) -> Result<Lag, PlaneError> {
        Ok(Lag { round_trip: Duration::from_millis(1) })
    }

    async fn verify(&self, _moved: &Move) -> Result<Verdict, PlaneError> {
        Ok(Verdict { rows: 7, differences: Vec::new() })
    }

    async fn settle(&self, _moved: &Move) -> Result<u64, PlaneError> {
        Ok(0)
    }

    async fn lock(&self, _moved: &Move, _within: Duration) -> Result<Lock, PlaneError> {
        Ok(Lock::Held { waited: Duration::ZERO })
    }

    async fn fence(&self, _moved: &Move) -> Result<(), PlaneError> {
        Ok(())
    }

    async fn applied(&self, _moved: &Move) -> Result<(), PlaneError> {
        let slow = self.slow.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if slow.is_ok() {
            return Err(PlaneError::Unavailable { doing: "draining", source: "it took too long".into() });
        }
        Ok(())
    }

    async fn equal(&self, _moved: &Move) -> Result<Verdict, PlaneError> {
        Ok(Verdict { rows: 1, differences: Vec::new() })
    }

    async fn activate(&self, _moved: &Move) -> Result<(), PlaneError> {
        Ok(())
    }

    async fn unlock(&self, _moved: &Move) -> Result<(), PlaneError> {
        Ok(())
    }

    async fn secure(&self, _moved: &Move) -> Result<(), PlaneError> {
        Ok(())
    }

    async fn reopen(&self, _moved: &Move) -> Result<(), PlaneError> {
        Ok(())
    }

    async fn remove(&self, _moved: &Move, _cleanup: &Cleanup) -> Result<(), PlaneError> {
        Ok(())
    }
}

fn mover(desk: &Desk, plane: &Arc<Paper>) -> Mover {
    Mover::new(desk.moves.clone(), plane.clone(), node(), MoverSettings::default())
}

async fn ask(desk: &Desk, id: MoveId, request: Request) {
    let asked = desk.moves.request(id, request, Requester::Platform).await.unwrap();
    assert!(matches!(asked, Requested::Accepted(_)), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_goes_there_and_back_and_ends_where_it_is_told_to() {
    let mut desk = Desk::new().await;
    let moved = desk.begun("GOT").await;
    let plane = Arc::new(Paper::default());
    plane.slow.store(2, Ordering::Relaxed);
    let driven = tokio::spawn({
        let node = mover(&desk, &plane);
        async move { node.step().await }
    });
    let served_by = async |side| {
        until("it is active", async || {
            let found = desk.moves.find(moved.id).await.unwrap().unwrap();
            found.state == MoveState::Active && found.serving() == side
        })
        .await;
        desk.located(moved.tenant).await
    };
    // Given up twice on the way there: 5, 7, 9, and there at 10.
    let there = served_by(Side::Target).await;
    assert_eq!((there.placement, there.epoch), (moved.target, PlacementEpoch(10)));
    assert_eq!(desk.moves.tables(moved.id).await.unwrap().len(), 1);
    ask(&desk, moved.id, Request::Back).await;
    let back = served_by(Side::Source).await;
    assert_eq!((back.placement, back.epoch), (moved.source, PlacementEpoch(11)));
    ask(&desk, moved.id, Request::Finish).await;
    let Some(Driven::Ended(ended)) = driven.await.unwrap().unwrap() else { panic!("it ends") };
    assert_eq!((ended.state, ended.attempts, ended.wanted), (MoveState::Finished, 2, None));
    assert_eq!(ended.fingerprint.as_deref(), Some("fingerprint"));
    assert!(ended.pause.is_some() && ended.ended_at.is_some());
    assert_eq!(desk.moves.outstanding(moved.id).await.unwrap(), []);
    let log = desk.log(moved.tenant).await;
    let actions: Vec<&str> = log.iter().map(|entry| entry.split(' ').nth(1).unwrap()).collect();
    assert_eq!(
        actions,
        [
            "move_begin",
            "move_give_up",
            "move_give_up",
            "move_decide",
            "move_ask_back",
            "move_decide",
            "move_ask_finish",
            "move_end",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_stops_a_move_that_is_being_driven() {
    let mut desk = Desk::new().await;
    let moved = desk.begun("GOT").await;
    let plane = Arc::new(Paper::default());
    ask(&desk, moved.id, Request::Abort).await;
    let driven = mover(&desk, &plane).step().await.unwrap();
    let Some(Driven::Ended(ended)) = driven else { panic!("{driven:?}") };
    assert_eq!((ended.state, ended.error.as_deref()), (MoveState::Aborted, Some("it was asked for")));
    assert_eq!(desk.located(moved.tenant).await, moved.located());
}

/// Asks for the end of a move as soon as that can be asked for.
async fn have_it_finish(desk: &Desk, id: MoveId) {
    loop {
        let found = desk.moves.find(id).await.unwrap().unwrap();
        if found.state == MoveState::Active && found.path != MovePath::Short && found.wanted.is_none() {
            desk.moves.request(id, Request::Finish, Requester::Platform).await.unwrap();
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mover_that_died_anywhere_is_followed_by_another() {
    let mut desk = Desk::new().await;
    let plane = Arc::new(Paper::default());
    let (mut died, mut times) = (0, 1);
    loop {
        let (tenant, own) = desk.tenant(&format!("T{died}")).await;
        let path = if died % 2 == 0 { MovePath::Short } else { MovePath::Stream };
        let new = stagesub_tenancy::moves::NewMove { path, ..wanted(tenant, own) };
        let moved = desk.moves.begin(&new).await.unwrap();
        let first = mover(&desk, &plane);
        let ended = tokio::select! {
            ended = polled(times, first.step()) => ended,
            () = have_it_finish(&desk, moved.id) => None,
        };
        while desk.moves.live_of(tenant).await.unwrap().is_some() {
            desk.lease_is_over(moved.id).await;
            let next = mover(&desk, &plane);
            tokio::select! {
                // On a machine that is busy it may lose its lease; the next one goes on.
                driven = next.step() => assert!(driven.is_ok(), "{driven:?}"),
                () = have_it_finish(&desk, moved.id) => {}
            }
        }
        let ended_as = desk.moves.find(moved.id).await.unwrap().unwrap();
        let located = desk.located(tenant).await;
        assert_eq!((ended_as.state, located), (MoveState::Finished, ended_as.located()));
        assert_eq!(located.placement, moved.target, "after {times} steps of its future");
        let given_up = i64::from(ended_as.attempts);
        assert_eq!(located.epoch, PlacementEpoch(5 + 2 * given_up + 1));
        assert!(given_up < i64::from(MoverSettings::default().attempts));
        if ended.is_some() {
            break;
        }
        died += 1;
        times += 3;
    }
    assert!(died > 10, "it died {died} times");
}
