//! Two databases, a registry and the tenant's clients, in memory. Every question takes two turns, one before it has an
//! effect and one after, and after each effect the clients try all they can and it is looked whether all is well.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::DateTime;
use tokio::time::Instant;
use uuid::Uuid;

use super::memory::unavailable;
use crate::moves::plane::PlaneError;
use crate::moves::record::{
    Cleanup, FencingToken, Move, MoveId, MovePrefix, NewMove, Object, Requester, TableProgress,
};
use crate::moves::state::{MovePath, MoveState, Request, Side};
use crate::nodes::NodeId;
use crate::placement::{DatabaseId, Located, Placement, PlacementEpoch};
use crate::tenant::TenantId;

pub(super) const TENANT: TenantId = TenantId::from_uuid(Uuid::from_u128(1));
pub(super) const MOVE: MoveId = MoveId::from_uuid(Uuid::from_u128(2));
pub(super) const SOURCE: DatabaseId = DatabaseId::from_uuid(Uuid::from_u128(3));
pub(super) const TARGET: DatabaseId = DatabaseId::from_uuid(Uuid::from_u128(4));
pub(super) const FIRST: i64 = 7;

/// A fence row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fence {
    pub(super) active: bool,
    pub(super) epoch: i64,
}

/// What goes wrong, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The decision cannot be prepared.
    NotReady,
    /// The decision is made and its answer is lost.
    DecisionKept,
    /// The decision is not made, and nobody says so.
    DecisionLost,
    /// The answer is lost, and the decision comes through so many effects later, if its row is still there to be hit.
    DecisionLate(u32),
    /// Giving up is done and its answer is lost.
    GivingUpKept,
    /// This step takes longer than any budget.
    Hangs(Step),
    /// This step fails, and may succeed later.
    Fails(Step),
    /// This step says no for good.
    Refuses(Step),
    /// The rows that changed differ.
    Differs,
}

/// Steps that may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Sever,
    Sweep,
    Preflight,
    Prepare,
    Open,
    Copy,
    Bearable,
    CatchUp,
    Verify,
    Lock,
    Fence,
    Applied,
    Equal,
    Activate,
    Unlock,
    Secure,
    Reopen,
    Remove,
}

#[derive(Debug)]
pub(super) struct World {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) directory: Located,
    /// Everything the directory ever said: some router may still believe it.
    pub(super) said: Vec<Located>,
    pub(super) moved: Move,
    pub(super) owner: Option<NodeId>,
    pub(super) token: i64,
    pub(super) until: Instant,
    pub(super) cleanups: Vec<(Cleanup, bool)>,
    pub(super) made: BTreeSet<(u128, String)>,
    pub(super) tables: Vec<TableProgress>,
    pub(super) lag: Option<Duration>,
    pub(super) fences: [Option<Fence>; 2],
    /// Which session has the tenant's lock, at which side.
    pub(super) lock: Option<(Side, u64)>,
    pub(super) rows: [BTreeSet<u64>; 2],
    /// Which sessions are older than the last time that all were ended.
    pub(super) generation: u64,
    pub(super) faults: Vec<Fault>,
    pub(super) late: Option<u32>,
    /// Writes that were acknowledged.
    pub(super) written: BTreeSet<u64>,
    /// How many effects found nobody who lets the tenant's clients in.
    pub(super) closed: u64,
    pub(super) states: Vec<MoveState>,
    pub(super) calls: BTreeMap<&'static str, u32>,
    pub(super) preflight: Vec<String>,
    /// How often the lock is still busy.
    pub(super) busy: u32,
    pub(super) silent: bool,
    /// The side whose database is out of reach.
    pub(super) gone: Option<Side>,
    /// Whether leases cannot be renewed.
    pub(super) away: bool,
    /// What an administrator wants, in that order.
    pub(super) wishes: VecDeque<Wish>,
}

/// Something that an administrator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Have it aborted in this state.
    Abort(MoveState),
    /// Have it back, however often that has to be said.
    Back,
    /// Have it stay.
    Finish,
}

pub(super) const fn at(side: Side) -> usize {
    match side {
        Side::Source => 0,
        Side::Target => 1,
    }
}

impl World {
    pub(super) fn new(path: MovePath) -> Arc<Self> {
        let directory =
            Located { tenant: TENANT, placement: Placement::Shared(SOURCE), epoch: PlacementEpoch(FIRST) };
        let wanted = NewMove {
            id: MOVE,
            tenant: TENANT,
            target: TARGET,
            path,
            prefix: MovePrefix::from_bytes([7; 16]),
            by: Requester::Platform,
            pace: None,
        };
        let moved = Move::begun(wanted, directory, Placement::Dedicated(TARGET), DateTime::UNIX_EPOCH);
        let inner = Inner {
            directory,
            said: vec![directory],
            moved,
            owner: None,
            token: 0,
            until: Instant::now(),
            cleanups: Vec::new(),
            made: BTreeSet::new(),
            tables: Vec::new(),
            lag: None,
            fences: [Some(Fence { active: true, epoch: FIRST }), None],
            lock: None,
            rows: [BTreeSet::new(), BTreeSet::new()],
            generation: 0,
            faults: Vec::new(),
            late: None,
            written: BTreeSet::new(),
            closed: 0,
            states: vec![MoveState::Prepare],
            calls: BTreeMap::new(),
            preflight: Vec::new(),
            busy: 0,
            silent: false,
            gone: None,
            away: false,
            wishes: VecDeque::new(),
        };
        Arc::new(Self { inner: Mutex::new(inner) })
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that has an effect, between two turns.
    pub(super) async fn effect<T>(&self, name: &'static str, does: impl FnOnce(&mut Inner) -> T + Send) -> T {
        tokio::task::yield_now().await;
        let done = {
            let mut inner = self.inner();
            *inner.calls.entry(name).or_default() += 1;
            let done = does(&mut inner);
            inner.wish();
            inner.look(name);
            done
        };
        tokio::task::yield_now().await;
        done
    }

    /// Whether this fault is due; then it is no more.
    pub(super) fn due(&self, wanted: impl Fn(Fault) -> bool) -> Option<Fault> {
        let mut inner = self.inner();
        let found = inner.faults.iter().position(|fault| wanted(*fault))?;
        Some(inner.faults.remove(found))
    }

    /// How many cutovers were given up, and at which epoch the tenant is.
    pub(super) fn standing(&self) -> (u32, i64) {
        let inner = self.inner();
        (inner.moved.attempts, inner.directory.epoch.0)
    }

    pub(super) fn calls(&self, name: &str) -> u32 {
        self.inner().calls.get(name).copied().unwrap_or(0)
    }

    /// The tenant is served by one side, nothing is lost or doubled, and nothing of the move is left.
    pub(super) fn assert_ended(&self, state: MoveState, serving: Side) {
        let inner = self.inner();
        let moved = &inner.moved;
        assert_eq!((moved.state, moved.serving()), (state, serving), "{inner:?}");
        assert!(moved.ended_at.is_some(), "{inner:?}");
        assert_eq!(inner.directory, moved.located());
        let open = Fence { active: true, epoch: inner.directory.epoch.0 };
        assert_eq!(inner.fences[at(serving)], Some(open), "{inner:?}");
        assert_eq!(inner.rows[at(serving)], inner.written, "every write that was acknowledged, and no other");
        assert!(inner.rows[at(serving.other())].is_empty(), "{inner:?}");
        assert!(inner.made.is_empty(), "{:?}", inner.made);
        assert!(inner.cleanups.iter().all(|(_, done)| *done), "{:?}", inner.cleanups);
        assert!(inner.lock.is_none());
        assert!(!inner.written.is_empty());
    }
}

impl Inner {
    /// Asks something of a side.
    pub(super) fn reach(&self, side: Side) -> Result<(), PlaneError> {
        if self.gone == Some(side) { Err(unavailable("reaching a database")) } else { Ok(()) }
    }

    pub(super) fn step(&mut self, to: MoveState) {
        if self.moved.state != to {
            self.states.push(to);
        }
    }

    /// The directory from one answer to another.
    pub(super) fn direct(&mut self, from: Located, to: Located) -> bool {
        if self.directory != from {
            return false;
        }
        assert!(
            self.said.iter().all(|said| said.epoch < to.epoch),
            "no epoch is handed out twice: {to:?} after {:?}",
            self.said
        );
        self.directory = to;
        self.said.push(to);
        true
    }

    /// The decision, if it is still to be had.
    pub(super) fn decide(&mut self) -> bool {
        let (from, to) = (self.moved.undecided(), self.moved.decided());
        if !self.moved.state.is_cutover()
            || self.moved.wanted == Some(Request::Abort)
            || !self.direct(from, to)
        {
            return false;
        }
        self.step(MoveState::Decided);
        self.moved = self.moved.stepped(MoveState::Decided).expect("out of a cutover");
        true
    }

    fn wish(&mut self) {
        let state = self.moved.state;
        let request = match self.wishes.front() {
            Some(Wish::Abort(within)) if *within == state => Request::Abort,
            Some(Wish::Back) if state == MoveState::Active && self.moved.serving() == Side::Source => {
                self.wishes.pop_front();
                return;
            }
            Some(Wish::Back) if state == MoveState::Active => Request::Back,
            Some(Wish::Finish) if state == MoveState::Active => Request::Finish,
            _ => return,
        };
        if self.moved.wanted.is_none() && state.takes(request, self.moved.path) {
            self.moved.wanted = Some(request);
        }
    }

    pub(super) fn side_of(placement: Placement) -> Side {
        if placement.database() == SOURCE { Side::Source } else { Side::Target }
    }

    /// The clients write wherever they are let in, with every answer that the directory ever gave; never at two sides.
    fn look(&mut self, after: &str) {
        if let Some(late) = &mut self.late {
            if *late == 0 {
                self.late = None;
                self.decide();
            } else {
                *late -= 1;
            }
        }
        let mut open = BTreeSet::new();
        for said in &self.said {
            let side = Self::side_of(said.placement);
            let lets_in = self.fences[at(side)] == Some(Fence { active: true, epoch: said.epoch.0 });
            if lets_in {
                open.insert(at(side));
            }
        }
        assert!(open.len() <= 1, "both sides serve after {after}: {self:?}");
        self.closed += u64::from(open.is_empty());
        for side in open {
            let locked = self.lock.is_some_and(|(locked, _)| at(locked) == side);
            if !locked && !self.silent {
                let next = self.written.last().map_or(0, |last| last + 1);
                self.rows[side].insert(next);
                self.written.insert(next);
            }
        }
    }

    pub(super) fn holds(&self, held: &crate::moves::record::Held) -> bool {
        self.owner == Some(held.node)
            && FencingToken(self.token) == held.token
            && self.moved.ended_at.is_none()
    }

    /// Rows of the serving side are at the other one, too.
    pub(super) fn apply(&mut self, from: Side) {
        self.rows[at(from.other())] = self.rows[at(from)].clone();
    }

    pub(super) fn remove_rows(&mut self, side: Side) -> bool {
        if self.fences[at(side)].is_some_and(|fence| fence.active) {
            return false;
        }
        // The fence row stays: without it a stale mover could open an old epoch again.
        self.rows[at(side)].clear();
        true
    }

    pub(super) fn key(cleanup: &Cleanup) -> (u128, String) {
        (cleanup.database.as_uuid().as_u128(), cleanup.name.clone())
    }

    pub(super) fn plan() -> Vec<Cleanup> {
        let mut plan = Vec::new();
        for (database, name) in [(SOURCE, "fwd"), (TARGET, "rev")] {
            plan.push(Cleanup { object: Object::Rows, database, name: "rows".to_owned() });
            plan.push(Cleanup { object: Object::Publication, database, name: format!("pub_{name}") });
            plan.push(Cleanup { object: Object::Slot, database, name: format!("slot_{name}") });
        }
        plan
    }
}

/// Long after everything.
pub(super) const EVER: Duration = Duration::from_hours(1);
