//! What a process keeps of a move that it drives.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sqlx::PgConnection;
use stagesub_tenancy::moves::{Move, Side};
use tokio::time::Instant;

use super::ends::{Ends, Plans};
use super::flow::Flow;
use crate::moves::copy::CopyStreams;
use crate::moves::fence::Exclusive;
use crate::moves::progress::Direction;
use crate::moves::session::MoverSession;
use crate::moves::slot::SlotSession;
use crate::moves::verify::{RowKey, Verified, VerifySessions};

/// The session that locks the tenant at the side that serves it.
#[derive(Debug)]
pub(super) enum Fencing {
    /// It does not hold the lock.
    Idle(Side, PgConnection),
    /// It does.
    Held(Exclusive),
}

/// What a snapshot is there for as long as it is kept. It is dropped, and nothing else.
#[derive(Debug)]
pub(super) enum SnapshotHolder {
    /// The session that made the slot.
    Slot(#[expect(dead_code, reason = "it is kept, so that its session stays open")] SlotSession),
    /// A session of its own.
    Log(#[expect(dead_code, reason = "it is kept, so that its session stays open")] PgConnection),
}

/// All of it may be missing, and is made again then.
#[derive(Debug, Default)]
pub(super) struct Running {
    pub(super) ends: Option<Arc<Ends>>,
    pub(super) plans: Option<Arc<Plans>>,
    /// The snapshot to copy, by its name.
    pub(super) snapshot: Option<(SnapshotHolder, String)>,
    flows: [Option<Flow>; 2],
    sessions: [Option<MoverSession>; 2],
    pub(super) fencing: Option<Fencing>,
    /// What the short path copies and compares with under the lock.
    pub(super) short: Option<(CopyStreams, VerifySessions)>,
    /// What it found.
    pub(super) verified: Option<Verified>,
    /// The number of the mark that the fence left.
    pub(super) fence_mark: Option<u64>,
    pub(super) compared: Compared,
    /// When it was last looked at what the source keeps for the move.
    pub(super) looked: Option<Instant>,
    last_mark: u64,
}

/// What is known of both sides' being equal.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// All rows were compared, and the stream this way followed since.
    pub(super) way: Option<Direction>,
    /// Rows that are to be compared, beside those that the stream remembers.
    pub(super) pending: BTreeSet<RowKey>,
}

impl Running {
    pub(super) fn flow(&self, way: Direction) -> Option<&Flow> {
        self.flows[place(way)].as_ref()
    }

    pub(super) fn flow_mut(&mut self, way: Direction) -> &mut Option<Flow> {
        &mut self.flows[place(way)]
    }

    /// Ends both streams.
    pub(super) fn end_flows(&mut self) {
        self.flows = [None, None];
        self.compared = Compared::default();
    }

    /// Takes the session on a side, if there is one. Whoever got its answer puts it back.
    pub(super) fn take(&mut self, side: Side) -> Option<MoverSession> {
        self.sessions[side_place(side)].take()
    }

    pub(super) fn put(&mut self, side: Side, session: MoverSession) {
        self.sessions[side_place(side)] = Some(session);
    }

    /// A number above all marks that the stream this way has brought. It may still bring some of an older owner, whose
    /// clock was ahead; they were left before that owner's sessions were ended, so they come before the first of this
    /// one, and every number after the first round trip is above them. A cutover comes after several.
    pub(super) fn next_mark(&mut self, way: Direction) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let brought = self.flow(way).and_then(|flow| flow.control.position().mark).unwrap_or_default();
        let least = self.last_mark.max(brought) + 1;
        self.last_mark = u64::try_from(now).unwrap_or(u64::MAX).max(least);
        self.last_mark
    }
}

/// Which way the stream goes that the next cutover, or the one that is on, depends on.
pub(super) const fn way(moved: &Move) -> Direction {
    match moved.heading {
        Side::Target => Direction::Forward,
        Side::Source => Direction::Reverse,
    }
}

/// Where a stream comes from.
pub(super) const fn from(way: Direction) -> Side {
    match way {
        Direction::Forward => Side::Source,
        Direction::Reverse => Side::Target,
    }
}

pub(super) const fn opposite(way: Direction) -> Direction {
    match way {
        Direction::Forward => Direction::Reverse,
        Direction::Reverse => Direction::Forward,
    }
}

pub(super) const WAYS: [Direction; 2] = [Direction::Forward, Direction::Reverse];

pub(super) const fn place(way: Direction) -> usize {
    match way {
        Direction::Forward => 0,
        Direction::Reverse => 1,
    }
}

pub(super) const fn side_place(side: Side) -> usize {
    match side {
        Side::Source => 0,
        Side::Target => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_grow_however_the_clock_goes() {
        let mut running = Running::default();
        let first = running.next_mark(Direction::Forward);
        running.last_mark = first + 60_000_000;
        assert_eq!(running.next_mark(Direction::Forward), first + 60_000_001);
    }

    #[test]
    fn a_stream_comes_from_one_side_and_its_opposite_from_the_other() {
        for way in WAYS {
            assert_eq!(from(way).other(), from(opposite(way)));
            assert_eq!(opposite(opposite(way)), way);
            assert_eq!(place(way), side_place(from(way)));
        }
    }
}
