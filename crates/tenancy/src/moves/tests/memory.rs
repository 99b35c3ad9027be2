//! The two ports over the world in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chrono::DateTime;
use tokio::time::{Instant, sleep};

use super::world::{EVER, Fault, Fence, Inner, Step, World, at};
use crate::directory::DirectoryError;
use crate::moves::plane::{CopyProgress, DataPlane, Lag, Lock, NewTarget, PlaneError, Verdict};
use crate::moves::record::{
    Cleanup, FencingToken, Held, Move, MoveId, NewMove, Note, Object, Requester, TableProgress,
};
use crate::moves::registry::{
    BeginMoveError, Decision, MoveKind, MovePage, MoveRegistry, MoveRegistryError, Renewed, Requested,
};
use crate::moves::state::{MovePath, MoveState, Request, Side};
use crate::nodes::NodeId;
use crate::placement::Located;
use crate::tenant::TenantId;

/// The registry of the world.
pub(super) struct Memory(pub(super) Arc<World>);

fn lost() -> MoveRegistryError {
    MoveRegistryError::Unknown("the connection was cut".into())
}

#[async_trait]
impl MoveRegistry for Memory {
    async fn begin(&self, _wanted: &NewMove) -> Result<Move, BeginMoveError> {
        Err(MoveRegistryError::Registry(DirectoryError::Unavailable("a world has its one move".into()))
            .into())
    }

    async fn find(&self, _id: MoveId) -> Result<Option<Move>, MoveRegistryError> {
        Ok(self.0.effect("find", |inner| Some(inner.moved.clone())).await)
    }

    async fn live_of(&self, _tenant: TenantId) -> Result<Option<Move>, MoveRegistryError> {
        self.find(super::world::MOVE).await
    }

    async fn list(&self, _after: Option<MoveId>, _limit: u32) -> Result<MovePage, MoveRegistryError> {
        Ok(MovePage { items: Vec::new(), next: None })
    }

    async fn list_of(
        &self,
        _tenant: TenantId,
        after: Option<MoveId>,
        limit: u32,
    ) -> Result<MovePage, MoveRegistryError> {
        self.list(after, limit).await
    }

    async fn count_live(&self) -> Result<Vec<(MoveState, u64)>, MoveRegistryError> {
        let inner = self.0.inner();
        let is_live = u64::from(inner.moved.ended_at.is_none());
        Ok(vec![(inner.moved.state, is_live)])
    }

    async fn tables(&self, _id: MoveId) -> Result<Vec<TableProgress>, MoveRegistryError> {
        Ok(self.0.inner().tables.clone())
    }

    async fn lag(&self, _id: MoveId) -> Result<Option<Duration>, MoveRegistryError> {
        Ok(self.0.inner().lag)
    }

    async fn placement(&self, _tenant: TenantId) -> Result<Option<Located>, MoveRegistryError> {
        Ok(self.0.effect("placement", |inner| Some(inner.directory)).await)
    }

    async fn request(
        &self,
        _id: MoveId,
        request: Request,
        _by: Requester,
    ) -> Result<Requested, MoveRegistryError> {
        let mut inner = self.0.inner();
        let moved = inner.moved.clone();
        if !moved.state.takes(request, moved.path)
            || moved.wanted.is_some_and(|wanted| !request.may_replace(wanted))
        {
            return Ok(Requested::Refused(moved));
        }
        inner.moved.wanted = Some(request);
        Ok(Requested::Accepted(inner.moved.clone()))
    }

    async fn claim(&self, node: NodeId, lease: Duration) -> Result<Option<Held>, MoveRegistryError> {
        let claimed = self.0.effect("claim", |inner| {
            if inner.moved.ended_at.is_some() || Instant::now() < inner.until {
                return None;
            }
            (inner.owner, inner.token, inner.until) = (Some(node), inner.token + 1, Instant::now() + lease);
            Some(Held { moved: inner.moved.clone(), node, token: FencingToken(inner.token) })
        });
        Ok(claimed.await)
    }

    async fn claim_kind(
        &self,
        node: NodeId,
        lease: Duration,
        kind: MoveKind,
    ) -> Result<Option<Held>, MoveRegistryError> {
        if MoveKind::of(self.0.inner().moved.state) != kind {
            return Ok(None);
        }
        self.claim(node, lease).await
    }

    async fn renew(&self, held: &Held, lease: Duration) -> Result<Renewed, MoveRegistryError> {
        let renewed = self.0.effect("renew", |inner| {
            if inner.away {
                return Err(DirectoryError::Unavailable("the registry is away".into()).into());
            }
            if !inner.holds(held) {
                return Ok(Renewed::Lost);
            }
            inner.until = Instant::now() + lease;
            Ok(Renewed::Held { wanted: inner.moved.wanted })
        });
        renewed.await
    }

    async fn release(
        &self,
        held: &Held,
        error: Option<String>,
        pause: Duration,
    ) -> Result<bool, MoveRegistryError> {
        let released = self.0.effect("release", |inner| {
            let holds = inner.holds(held);
            if holds {
                (inner.owner, inner.until) = (None, Instant::now() + pause);
                inner.moved.error = error;
            }
            holds
        });
        Ok(released.await)
    }

    async fn advance(
        &self,
        held: &Held,
        to: MoveState,
        note: &Note,
    ) -> Result<Option<Move>, MoveRegistryError> {
        let advanced = self.0.effect("advance", |inner| {
            if !inner.holds(held) || inner.moved.state != held.moved.state {
                return None;
            }
            let stepped = inner.moved.stepped(to)?;
            let is_unwanted = to == MoveState::Back && inner.moved.wanted != Some(Request::Back);
            if stepped.located() != inner.directory || is_unwanted {
                return None;
            }
            inner.step(to);
            inner.moved = stepped;
            if let Some(error) = &note.error {
                inner.moved.error = Some(error.clone());
            }
            inner.moved.pause = note.pause.or(inner.moved.pause);
            Some(inner.moved.clone())
        });
        Ok(advanced.await)
    }

    async fn withdraw(
        &self,
        held: &Held,
        request: Request,
        why: &str,
    ) -> Result<Option<Move>, MoveRegistryError> {
        let withdrawn = self.0.effect("withdraw", |inner| {
            if !inner.holds(held) || inner.moved.wanted != Some(request) {
                return None;
            }
            (inner.moved.wanted, inner.moved.error) = (None, Some(why.to_owned()));
            Some(inner.moved.clone())
        });
        Ok(withdrawn.await)
    }

    async fn get_ready(&self, _: &Held) -> Result<(), MoveRegistryError> {
        match self.0.due(|fault| matches!(fault, Fault::NotReady)) {
            Some(_) => Err(DirectoryError::Unavailable("switched off by the test".into()).into()),
            None => Ok(()),
        }
    }

    async fn decide(&self, held: &Held) -> Result<Decision, MoveRegistryError> {
        let fault = self
            .0
            .due(|fault| matches!(fault, Fault::DecisionKept | Fault::DecisionLost | Fault::DecisionLate(_)));
        let decided = self.0.effect("decide", |inner| {
            if !inner.holds(held) || inner.moved.state != held.moved.state {
                return Decision::Stale;
            }
            match fault {
                Some(Fault::DecisionLost) => return Decision::Lost,
                Some(Fault::DecisionLate(late)) => {
                    inner.late = Some(late);
                    return Decision::Lost;
                }
                _ => {}
            }
            if inner.decide() { Decision::Made(Box::new(inner.moved.clone())) } else { Decision::Lost }
        });
        let decided = decided.await;
        if fault.is_some() { Err(lost()) } else { Ok(decided) }
    }

    async fn give_up(&self, held: &Held, why: &str) -> Result<Decision, MoveRegistryError> {
        let fault = self.0.due(|fault| fault == Fault::GivingUpKept);
        let given_up = self.0.effect("give_up", |inner| {
            if !inner.holds(held) || inner.moved.state != held.moved.state {
                return Decision::Stale;
            }
            let (from, to) = (inner.moved.undecided(), inner.moved.given_up());
            if !inner.direct(from, to) {
                return Decision::Lost;
            }
            inner.moved.attempts += 1;
            inner.moved.error = Some(why.to_owned());
            Decision::Made(Box::new(inner.moved.clone()))
        });
        let given_up = given_up.await;
        if fault.is_some() { Err(lost()) } else { Ok(given_up) }
    }

    async fn record_tables(
        &self,
        held: &Held,
        tables: Vec<TableProgress>,
    ) -> Result<bool, MoveRegistryError> {
        let recorded = self.0.effect("record_tables", |inner| {
            let holds = inner.holds(held);
            if holds {
                inner.tables = tables;
            }
            holds
        });
        Ok(recorded.await)
    }

    async fn record_lag(&self, held: &Held, lag: Duration) -> Result<bool, MoveRegistryError> {
        let recorded = self.0.effect("record_lag", |inner| {
            let holds = inner.holds(held);
            if holds {
                inner.lag = Some(lag);
            }
            holds
        });
        Ok(recorded.await)
    }

    async fn plan_cleanups(&self, held: &Held, cleanups: Vec<Cleanup>) -> Result<bool, MoveRegistryError> {
        let planned = self.0.effect("plan_cleanups", |inner| {
            let holds = inner.holds(held);
            if holds {
                inner.cleanups.retain(|(known, _)| !cleanups.contains(known));
                inner.cleanups.extend(cleanups.into_iter().map(|cleanup| (cleanup, false)));
            }
            holds
        });
        Ok(planned.await)
    }

    async fn outstanding(&self, _id: MoveId) -> Result<Vec<Cleanup>, MoveRegistryError> {
        let left = self.0.effect("outstanding", |inner| {
            let left = inner.cleanups.iter().rev().filter(|(_, done)| !done);
            left.map(|(cleanup, _)| cleanup.clone()).collect()
        });
        Ok(left.await)
    }

    async fn cleaned(&self, held: &Held, cleanup: &Cleanup) -> Result<bool, MoveRegistryError> {
        let cleaned = self.0.effect("cleaned", |inner| {
            let holds = inner.holds(held);
            for (known, done) in &mut inner.cleanups {
                *done |= holds && known == cleanup;
            }
            holds
        });
        Ok(cleaned.await)
    }

    async fn end(&self, held: &Held) -> Result<Option<Move>, MoveRegistryError> {
        let ended = self.0.effect("end", |inner| {
            let left = inner.cleanups.iter().any(|(_, done)| !done);
            if !inner.holds(held) || !inner.moved.state.is_over() || left {
                return None;
            }
            inner.moved.ended_at = Some(DateTime::UNIX_EPOCH);
            Some(inner.moved.clone())
        });
        Ok(ended.await)
    }
}

/// Sessions are numbered, so that those which were ended are known.
static SESSIONS: AtomicU64 = AtomicU64::new(1);

/// The two databases, as one process sees them.
pub(super) struct Plane {
    world: Arc<World>,
    session: u64,
    /// Since when its streams run: they end with the sessions.
    streams: AtomicU64,
}

impl Plane {
    pub(super) fn new(world: Arc<World>) -> Self {
        let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
        Self { world, session, streams: AtomicU64::new(u64::MAX) }
    }

    async fn step<T>(
        &self,
        step: Step,
        name: &'static str,
        does: impl FnOnce(&mut Inner) -> Result<T, PlaneError> + Send,
    ) -> Result<T, PlaneError> {
        let concerns =
            |fault| matches!(fault, Fault::Hangs(of) | Fault::Fails(of) | Fault::Refuses(of) if of == step);
        match self.world.due(concerns) {
            Some(Fault::Hangs(_)) => {
                sleep(EVER).await;
                unreachable!("whoever waited gave up long ago")
            }
            Some(Fault::Fails(_)) => Err(unavailable("a step")),
            Some(_) => Err(PlaneError::Refused("it is forbidden".to_owned())),
            None => self.world.effect(name, does).await,
        }
    }

    /// Streams that were ended with their sessions apply nothing.
    fn streams(&self, inner: &Inner) -> Result<(), PlaneError> {
        if self.streams.load(Ordering::Relaxed) == inner.generation {
            Ok(())
        } else {
            Err(unavailable("streaming"))
        }
    }
}

pub(super) fn unavailable(doing: &'static str) -> PlaneError {
    PlaneError::Unavailable { doing, source: "the session was ended".into() }
}

fn sides(moved: &Move) -> (Side, Side) {
    (moved.heading.other(), moved.heading)
}

#[async_trait]
impl DataPlane for Plane {
    async fn sever(&self, _moved: &Move, side: Side) -> Result<(), PlaneError> {
        self.step(Step::Sever, "sever", |inner| {
            inner.reach(side)?;
            inner.generation += 1;
            inner.lock.take_if(|(locked, _)| *locked == side);
            Ok(())
        })
        .await
    }

    async fn abandon(&self, _moved: &Move) {
        self.streams.store(u64::MAX, Ordering::Relaxed);
        self.world
            .effect("abandon", |inner| {
                if inner.lock.is_some_and(|(_, session)| session == self.session) {
                    inner.lock = None;
                }
            })
            .await;
    }

    async fn sweep(&self, _moved: &Move) -> Result<(), PlaneError> {
        self.step(Step::Sweep, "sweep", |_| Ok(())).await
    }

    async fn preflight(&self, _moved: &Move) -> Result<Vec<String>, PlaneError> {
        self.step(Step::Preflight, "preflight", |inner| Ok(inner.preflight.clone())).await
    }

    async fn preflight_source(
        &self,
        _source: &Located,
        _path: MovePath,
        _target: Option<NewTarget>,
    ) -> Result<Vec<String>, PlaneError> {
        Ok(self.world.inner().preflight.clone())
    }

    async fn plan(&self, _moved: &Move) -> Result<Vec<Cleanup>, PlaneError> {
        Ok(self.world.effect("plan", |_| Inner::plan()).await)
    }

    async fn prepare(&self, _moved: &Move) -> Result<String, PlaneError> {
        self.step(Step::Prepare, "prepare", |_| Ok("fingerprint".to_owned())).await
    }

    async fn open(&self, _moved: &Move) -> Result<(), PlaneError> {
        self.step(Step::Open, "open", |inner| {
            if !inner.remove_rows(Side::Target) {
                return Err(PlaneError::Refused("the target serves the tenant".to_owned()));
            }
            for cleanup in Inner::plan().iter().filter(|cleanup| cleanup.object != Object::Rows) {
                let planned = inner.cleanups.iter().any(|(known, done)| known == cleanup && !done);
                assert!(planned, "{cleanup:?} is written down before it is made");
                inner.made.insert(Inner::key(cleanup));
            }
            self.streams.store(inner.generation, Ordering::Relaxed);
            Ok(())
        })
        .await
    }

    async fn copy(&self, _moved: &Move, progress: CopyProgress) -> Result<(), PlaneError> {
        self.step(Step::Copy, "copy", |inner| {
            self.streams(inner)?;
            inner.reach(Side::Target)?;
            inner.apply(Side::Source);
            let (schema, table) = ("app".to_owned(), "notes".to_owned());
            let rows = inner.rows[1].len() as u64;
            progress.tell(vec![TableProgress { schema, table, rows, bytes: rows, done: true }]);
            Ok(())
        })
        .await
    }

    async fn resume(&self, _moved: &Move) -> Result<(), PlaneError> {
        let resumed = self.world.effect("resume", |inner| {
            inner.reach(Side::Source)?;
            inner.reach(Side::Target)?;
            if inner.made.is_empty() {
                return Err(PlaneError::Refused("there is no slot".to_owned()));
            }
            self.streams.store(inner.generation, Ordering::Relaxed);
            Ok(())
        });
        resumed.await
    }

    async fn bearable(&self, _moved: &Move) -> Result<(), PlaneError> {
        self.step(Step::Bearable, "bearable", |inner| inner.reach(Side::Source)).await
    }

    async fn catch_up(&self, moved: &Move) -> Result<Lag, PlaneError> {
        let (serving, _) = sides(moved);
        self.step(Step::CatchUp, "catch_up", |inner| {
            self.streams(inner)?;
            inner.reach(serving.other())?;
            inner.apply(serving);
            Ok(Lag { round_trip: Duration::from_millis(1) })
        })
        .await
    }

    async fn verify(&self, _moved: &Move) -> Result<Verdict, PlaneError> {
        self.step(Step::Verify, "verify", |_| Ok(Verdict::default())).await
    }

    async fn settle(&self, _moved: &Move) -> Result<u64, PlaneError> {
        Ok(self.world.effect("settle", |_| 0).await)
    }

    async fn lock(&self, moved: &Move, _within: Duration) -> Result<Lock, PlaneError> {
        let (serving, _) = sides(moved);
        self.step(Step::Lock, "lock", |inner| {
            if inner.busy > 0 {
                inner.busy -= 1;
                return Ok(Lock::Busy);
            }
            let free = inner.lock.is_none_or(|(_, session)| session == self.session);
            if free {
                inner.lock = Some((serving, self.session));
            }
            Ok(if free { Lock::Held { waited: Duration::ZERO } } else { Lock::Busy })
        })
        .await
    }

    async fn fence(&self, moved: &Move) -> Result<(), PlaneError> {
        let (serving, _) = sides(moved);
        let epoch = moved.epoch.0;
        self.step(Step::Fence, "fence", |inner| {
            let moving = Fence { active: false, epoch: epoch + 1 };
            let row = &mut inner.fences[at(serving)];
            if *row == Some(Fence { active: true, epoch }) || *row == Some(moving) {
                *row = Some(moving);
                return Ok(());
            }
            Err(PlaneError::Refused("the fence is another's".to_owned()))
        })
        .await
    }

    async fn applied(&self, moved: &Move) -> Result<(), PlaneError> {
        let (serving, _) = sides(moved);
        self.step(Step::Applied, "applied", |inner| {
            if moved.path != MovePath::Short {
                self.streams(inner)?;
            }
            let other = inner.fences[at(serving.other())];
            if other.is_some_and(|fence| fence.active) {
                return Err(PlaneError::Refused("the other side serves".to_owned()));
            }
            inner.apply(serving);
            Ok(())
        })
        .await
    }

    async fn equal(&self, moved: &Move) -> Result<Verdict, PlaneError> {
        let (serving, _) = sides(moved);
        let differs = self.world.due(|fault| fault == Fault::Differs).is_some();
        self.step(Step::Equal, "equal", |inner| {
            let equal = inner.rows[at(serving)] == inner.rows[at(serving.other())] && !differs;
            let differences = if equal { Vec::new() } else { vec!["app.notes 7: changed".to_owned()] };
            Ok(Verdict { rows: 1, differences })
        })
        .await
    }

    async fn activate(&self, moved: &Move) -> Result<(), PlaneError> {
        let epoch = moved.decided().epoch.0;
        self.step(Step::Activate, "activate", |inner| {
            let row = &mut inner.fences[at(moved.heading)];
            if row.is_none_or(|row| row.epoch <= epoch) {
                *row = Some(Fence { active: true, epoch });
            }
            Ok(())
        })
        .await
    }

    async fn unlock(&self, _moved: &Move) -> Result<(), PlaneError> {
        self.step(Step::Unlock, "unlock", |inner| {
            if inner.lock.is_some_and(|(_, session)| session == self.session) {
                inner.lock = None;
            }
            Ok(())
        })
        .await
    }

    async fn secure(&self, _moved: &Move) -> Result<(), PlaneError> {
        self.step(Step::Secure, "secure", |_| Ok(())).await
    }

    async fn reopen(&self, moved: &Move) -> Result<(), PlaneError> {
        let (serving, _) = sides(moved);
        let (epoch, open) = (moved.epoch.0, Fence { active: true, epoch: moved.given_up().epoch.0 });
        self.step(Step::Reopen, "reopen", |inner| {
            let row = &mut inner.fences[at(serving)];
            let from = [
                Some(Fence { active: true, epoch }),
                Some(Fence { active: false, epoch: epoch + 1 }),
                Some(open),
            ];
            if !from.contains(row) {
                return Err(PlaneError::Refused("the fence is another's".to_owned()));
            }
            *row = Some(open);
            Ok(())
        })
        .await
    }

    async fn remove(&self, moved: &Move, cleanup: &Cleanup) -> Result<(), PlaneError> {
        let side = if moved.source.database() == cleanup.database { Side::Source } else { Side::Target };
        self.step(Step::Remove, "remove", |inner| {
            inner.reach(side)?;
            if cleanup.object != Object::Rows {
                inner.made.remove(&Inner::key(cleanup));
                return Ok(());
            }
            inner.reach(inner.moved.serving())?;
            assert!(inner.remove_rows(side), "{inner:?}");
            Ok(())
        })
        .await
    }
}
