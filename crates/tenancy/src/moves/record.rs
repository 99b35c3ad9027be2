//! The stored move, and what belongs to it.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::state::{MovePath, MoveState, Request, Side};
use crate::nodes::NodeId;
use crate::placement::{DatabaseId, Located, Placement, PlacementEpoch};
use crate::tenant::TenantId;

/// One move of one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MoveId(Uuid);

impl MoveId {
    /// From a UUID that no other move has; of version 7, so that lists are in the order of time.
    #[must_use]
    pub const fn from_uuid(id: Uuid) -> Self {
        Self(id)
    }

    /// The UUID.
    #[must_use]
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

/// What the transactions of a move's own appliers are told by. Whoever knows it can make a transaction look like one of
/// them, and so lost: it is secret, random, and a move's own.
#[derive(Clone, PartialEq, Eq)]
pub struct MovePrefix(String);

impl MovePrefix {
    /// Out of random bytes.
    #[must_use]
    pub fn from_bytes(random: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(random).simple().to_string())
    }

    /// As it was stored; `None` if no prefix looks like that.
    #[must_use]
    pub fn from_stored(text: &str) -> Option<Self> {
        let fits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        fits.then(|| Self(text.to_owned()))
    }

    /// The text; for the databases' ears alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for MovePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MovePrefix(..)")
    }
}

/// Who asks for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Requester {
    /// The platform: a job, the command line.
    Platform,
    /// An administrator of the platform.
    Person(Uuid),
}

/// A move that is to begin. Its epoch and where it starts from are the directory's to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMove {
    /// Its id.
    pub id: MoveId,
    /// Whom it moves.
    pub tenant: TenantId,
    /// Where to.
    pub target: DatabaseId,
    /// How.
    pub path: MovePath,
    /// Random.
    pub prefix: MovePrefix,
    /// Who wants it.
    pub by: Requester,
    /// Most bytes a second that may be written by copying, or read by comparing; `None`: as fast as it goes.
    pub pace: Option<NonZeroU32>,
}

/// A move as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Its id.
    pub id: MoveId,
    /// Whom it moves.
    pub tenant: TenantId,
    /// Where the tenant was when it began.
    pub source: Placement,
    /// Where it is to go.
    pub target: Placement,
    /// How.
    pub path: MovePath,
    /// Where it stands.
    pub state: MoveState,
    /// Where the last cutover went, or the next one goes: the target, until the tenant is to go back.
    pub heading: Side,
    /// `e` of that cutover: at which epoch the tenant is served until it is decided.
    pub epoch: PlacementEpoch,
    /// Secret.
    pub prefix: MovePrefix,
    /// What both sides' schemas are like, once they were compared. Whatever differs later aborts.
    pub fingerprint: Option<String>,
    /// Who wanted it.
    pub by: Requester,
    /// Most bytes a second that may be written by copying, or read by comparing.
    pub pace: Option<NonZeroU32>,
    /// How many cutovers were given up.
    pub attempts: u32,
    /// What somebody asks of it.
    pub wanted: Option<Request>,
    /// What last went wrong, in words.
    pub error: Option<String>,
    /// How long the last cutover held the tenant up, from the lock to its end; `None`: nobody knows, or there was none.
    pub pause: Option<Duration>,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// When all that it had made was removed. Until then it is live, and the tenant's only move.
    pub ended_at: Option<DateTime<Utc>>,
}

impl Move {
    /// A move that begins: of a tenant that is at `source`, to the database that was wanted, as the registry places it.
    #[must_use]
    pub fn begun(wanted: NewMove, source: Located, target: Placement, at: DateTime<Utc>) -> Self {
        let NewMove { id, tenant, target: _, path, prefix, by, pace } = wanted;
        Self {
            id,
            tenant,
            source: source.placement,
            target,
            path,
            state: MoveState::Prepare,
            heading: Side::Target,
            epoch: source.epoch,
            prefix,
            fingerprint: None,
            by,
            pace,
            attempts: 0,
            wanted: None,
            error: None,
            pause: None,
            created_at: at,
            updated_at: at,
            ended_at: None,
        }
    }

    /// A side's placement.
    #[must_use]
    pub const fn placement(&self, side: Side) -> Placement {
        match side {
            Side::Source => self.source,
            Side::Target => self.target,
        }
    }

    /// Which side a database is; `None`: neither.
    #[must_use]
    pub fn side_at(&self, database: DatabaseId) -> Option<Side> {
        Side::ALL.into_iter().find(|side| self.placement(*side).database() == database)
    }

    /// Who serves the tenant in this state. During a cutover: until it is decided.
    #[must_use]
    pub const fn serving(&self) -> Side {
        match self.state {
            MoveState::Decided | MoveState::Active | MoveState::Finished => self.heading,
            _ => self.heading.other(),
        }
    }

    /// What the directory says in this state. During a cutover it may have been decided or given up since.
    #[must_use]
    pub const fn located(&self) -> Located {
        match self.state {
            MoveState::Decided | MoveState::Active | MoveState::Finished => self.decided(),
            _ => self.at(self.heading.other(), 0),
        }
    }

    /// What the directory says before the cutover is decided: `e`, where it is served.
    #[must_use]
    pub const fn undecided(&self) -> Located {
        self.at(self.heading.other(), 0)
    }

    /// What the decision makes of it: `e+1`, at the other side.
    #[must_use]
    pub const fn decided(&self) -> Located {
        self.at(self.heading, 1)
    }

    /// What giving the cutover up makes of it: `e+2`, where it is served.
    #[must_use]
    pub const fn given_up(&self) -> Located {
        self.at(self.heading.other(), 2)
    }

    /// Where the tenant is about to be: at the other side of a cutover that is near or on. `None`: none is.
    #[must_use]
    pub fn arriving(&self) -> Option<Located> {
        match self.state {
            MoveState::Verify | MoveState::Fence | MoveState::Back => Some(self.decided()),
            MoveState::Active if self.wanted == Some(Request::Back) => {
                self.stepped(MoveState::Back).map(|back| back.decided())
            }
            _ => None,
        }
    }

    const fn at(&self, side: Side, later: i64) -> Located {
        Located {
            tenant: self.tenant,
            placement: self.placement(side),
            epoch: PlacementEpoch(self.epoch.0 + later),
        }
    }

    /// The move one step further; `None` where no such step may be made.
    ///
    /// Out of a cutover it is a step that is made after the directory was: `decided` after the decision, any other
    /// after giving it up. What the move then takes for its epoch is what the directory has.
    #[must_use]
    pub fn stepped(&self, to: MoveState) -> Option<Self> {
        if !self.state.may_become(to, self.path) {
            return None;
        }
        let (heading, later) = match (self.state, to) {
            (MoveState::Active, MoveState::Back) | (MoveState::Back, MoveState::Active) => {
                (self.heading.other(), 1)
            }
            (MoveState::Fence, MoveState::Prepare | MoveState::CatchUp | MoveState::Aborted) => {
                (self.heading, 2)
            }
            _ => (self.heading, 0),
        };
        let answers = to.answers();
        let wanted = if answers.is_some() && self.wanted == answers { None } else { self.wanted };
        let epoch = PlacementEpoch(self.epoch.0 + later);
        Some(Self { state: to, heading, epoch, wanted, ..self.clone() })
    }
}

/// Grows with each owner of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FencingToken(pub i64);

/// A move, in the hands of the node that drives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The move, as it was when it was last read or written.
    pub moved: Move,
    /// Who holds it.
    pub node: NodeId,
    /// By which token.
    pub token: FencingToken,
}

/// What is written down with a step. `None` leaves what is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Note {
    /// What the schemas are like.
    pub fingerprint: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
    /// How long the tenant was held up.
    pub pause: Option<Duration>,
}

impl Note {
    /// What went wrong.
    #[must_use]
    pub fn error(why: impl Into<String>) -> Self {
        Self { error: Some(why.into()), ..Self::default() }
    }
}

/// How far the copy of one table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableProgress {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// Rows that were copied.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Whether it is whole.
    pub done: bool,
}

/// Kinds of objects that a move leaves unless somebody removes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Object {
    /// A replication slot. It keeps the server's log until it is dropped.
    Slot,
    /// A publication.
    Publication,
    /// Triggers and the log that they write.
    ChangeLog,
    /// How far a stream was applied.
    Progress,
    /// The tenant's rows, at the side that does not serve it in the end. Its fence row there stays.
    Rows,
}

impl Object {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Slot, Self::Publication, Self::ChangeLog, Self::Progress, Self::Rows];

    /// The word as it is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Slot => "slot",
            Self::Publication => "publication",
            Self::ChangeLog => "change_log",
            Self::Progress => "progress",
            Self::Rows => "rows",
        }
    }

    /// What a stored word means.
    #[must_use]
    pub fn from_stored(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|object| object.as_str() == word)
    }
}

/// Something that has to be removed before the move has ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cleanup {
    /// What it is.
    pub object: Object,
    /// In which database.
    pub database: DatabaseId,
    /// Its name there.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use MoveState::{Aborted, Active, Back, CatchUp, Copy, Decided, Fence, Finished, Prepare, Slot, Verify};

    fn moved(path: MovePath) -> Move {
        let database = |id| DatabaseId::from_uuid(Uuid::from_u128(id));
        let tenant = TenantId::from_uuid(Uuid::from_u128(2));
        let wanted = NewMove {
            id: MoveId::from_uuid(Uuid::from_u128(1)),
            tenant,
            target: database(4),
            path,
            prefix: MovePrefix::from_bytes([0xab; 16]),
            by: Requester::Platform,
            pace: None,
        };
        let source = Located { tenant, placement: Placement::Shared(database(3)), epoch: PlacementEpoch(5) };
        Move::begun(wanted, source, Placement::Dedicated(database(4)), DateTime::UNIX_EPOCH)
    }

    fn through(path: MovePath, states: &[MoveState]) -> Move {
        let step = |moved: Move, to: &MoveState| moved.stepped(*to).expect("such a step is made");
        states.iter().fold(moved(path), step)
    }

    fn at(moved: &Move) -> (i64, Side) {
        let located = moved.located();
        assert_eq!(located.placement, moved.placement(moved.serving()));
        (located.epoch.0, moved.serving())
    }

    const TO_FENCE: [MoveState; 5] = [Slot, Copy, CatchUp, Verify, Fence];

    #[test]
    fn each_cutover_takes_the_next_epoch_and_giving_up_the_one_after() {
        let fence = through(MovePath::Stream, &TO_FENCE);
        assert_eq!(at(&fence), (5, Side::Source));
        assert_eq!((fence.undecided().epoch.0, fence.decided().epoch.0, fence.given_up().epoch.0), (5, 6, 7));
        assert_eq!((fence.decided().placement, fence.given_up().placement), (fence.target, fence.source));
        assert_eq!(at(&fence.stepped(CatchUp).unwrap()), (7, Side::Source));
        assert_eq!(at(&fence.stepped(Aborted).unwrap()), (7, Side::Source));
        assert_eq!(at(&through(MovePath::Stream, &[Slot, Aborted])), (5, Side::Source));
        assert_eq!(at(&through(MovePath::Short, &[Fence, Prepare])), (7, Side::Source));

        let active = fence.stepped(Decided).unwrap().stepped(Active).unwrap();
        assert_eq!(at(&active), (6, Side::Target));
        let back = active.stepped(Back).unwrap();
        assert_eq!(at(&back), (6, Side::Target));
        assert_eq!((back.decided().epoch.0, back.decided().placement), (7, back.source));
        let given_up = back.stepped(Active).unwrap();
        assert_eq!((at(&given_up), given_up.located()), ((8, Side::Target), back.given_up()));
        let returned = back.stepped(Decided).unwrap().stepped(Active).unwrap();
        assert_eq!(at(&returned.stepped(Finished).unwrap()), (7, Side::Source));
        // And there once more.
        let again = returned.stepped(Back).unwrap();
        assert_eq!((again.undecided().epoch.0, again.decided().placement), (7, again.target));
    }

    #[test]
    fn a_tenant_is_about_to_be_where_the_next_decision_brings_it() {
        let arrives = |moved: &Move| moved.arriving().map(|there| (there.epoch.0, there.placement));
        let stream = moved(MovePath::Stream);
        for early in [&[][..], &[Slot], &[Slot, Copy], &[Slot, Copy, CatchUp]] {
            assert_eq!(arrives(&through(MovePath::Stream, early)), None, "{early:?}");
        }
        let verify = through(MovePath::Stream, &[Slot, Copy, CatchUp, Verify]);
        assert_eq!(arrives(&verify), Some((6, stream.target)));
        assert_eq!(arrives(&through(MovePath::Short, &[Fence])), Some((6, stream.target)));
        let fence = verify.stepped(Fence).unwrap();
        assert_eq!(arrives(&fence), Some((6, stream.target)));
        let again = fence.stepped(CatchUp).unwrap().stepped(Verify).unwrap();
        assert_eq!(arrives(&again), Some((8, stream.target)));

        let mut active = fence.stepped(Decided).unwrap().stepped(Active).unwrap();
        assert_eq!(arrives(&active), None);
        active.wanted = Some(Request::Finish);
        assert_eq!(arrives(&active), None);
        active.wanted = Some(Request::Back);
        assert_eq!(arrives(&active), Some((7, stream.source)));
        let back = active.stepped(Back).unwrap();
        assert_eq!(arrives(&back), Some((7, stream.source)));
        assert_eq!(arrives(&back.stepped(Decided).unwrap()), None);
    }

    #[test]
    fn a_request_is_answered_by_its_state_and_no_other() {
        let mut active =
            through(MovePath::Stream, &TO_FENCE).stepped(Decided).unwrap().stepped(Active).unwrap();
        active.wanted = Some(Request::Back);
        assert_eq!(active.stepped(Back).unwrap().wanted, None);
        assert_eq!(active.stepped(Finished).unwrap().wanted, Some(Request::Back));
        let mut slot = through(MovePath::Stream, &[Slot]);
        slot.wanted = Some(Request::Abort);
        assert_eq!(slot.stepped(Copy).unwrap().wanted, Some(Request::Abort));
        assert_eq!(slot.stepped(Aborted).unwrap().wanted, None);
    }

    #[test]
    fn a_prefix_is_not_shown_and_is_read_as_it_is_stored() {
        let moved = moved(MovePath::Stream);
        assert_eq!(moved.prefix.expose(), "ab".repeat(16));
        assert_eq!(MovePrefix::from_stored(moved.prefix.expose()), Some(moved.prefix.clone()));
        assert!(!format!("{moved:?}").contains("abab"));
        for text in ["", "AB", &"g".repeat(32), &"a".repeat(33), "'; DROP TABLE a; --"] {
            assert_eq!(MovePrefix::from_stored(text), None, "{text}");
        }
        for object in Object::ALL {
            assert_eq!(Object::from_stored(object.as_str()), Some(object));
        }
    }
}
