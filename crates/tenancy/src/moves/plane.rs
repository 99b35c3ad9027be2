//! Everything that is done to the two databases of a move.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::record::{Cleanup, Move, TableProgress};
use super::state::{MovePath, Side};
use crate::directory::BoxError;
use crate::placement::Located;

/// The server that a database would be made on, as it was found before anything is made there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewTarget {
    /// The same for all databases of one server, however it is addressed.
    pub server_identifier: String,
    /// Whether it writes its log so that changes can be streamed.
    pub decodes: bool,
    /// What it lacks for a move without streams, in words.
    pub obstacles: Vec<String>,
    /// What it lacks for a move that streams, in words; among that what it lacks for any.
    pub streaming: Vec<String>,
}

/// What the state machine asks of the engine.
///
/// For every method:
///
/// - It takes what it needs out of the move's row and the databases, never out of an earlier call: whoever holds the
///   move now may be another process. Sessions, streams and the set of changed rows that an implementation keeps by the
///   move's id are a saving, and made again where they are gone.
/// - Called twice it does once. What it finds done, it leaves.
/// - Dropping its future stops it; what it had begun is rolled back, or is removed or finished by the next call.
/// - It waits for nothing without a bound of its own, so that a server that is frozen is [`PlaneError::Unavailable`].
/// - Sides are the row's: the *serving* side is [`Move::undecided`]'s, the *other* side is [`Move::decided`]'s, during
///   a cutover and before one. Going back is the same call with the sides swapped.
/// - Every session names the move and what it does, so that [`DataPlane::sever`] finds it.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait DataPlane: Send + Sync {
    /// Ends every session of the move that there is in one side's database, and returns when none is left: those of an
    /// older owner could otherwise still apply what they had buffered, or commit a fence. Replication sessions too.
    /// Called for both sides at once, since one of them may be out of reach.
    async fn sever(&self, moved: &Move, side: Side) -> Result<(), PlaneError>;

    /// Lets go of what this process has: its sessions of the move are closed, and nothing is written.
    async fn abandon(&self, moved: &Move);

    /// Removes from both databases what moves that have ended left there, if anything was missed. A slot among it keeps
    /// the server's log for ever, and takes a place that this move may need.
    async fn sweep(&self, moved: &Move) -> Result<(), PlaneError>;

    /// What stands in the way of the move, in words; nothing does: empty. Changes nothing.
    async fn preflight(&self, moved: &Move) -> Result<Vec<String>, PlaneError>;

    /// What stands in the way of a move along this path to a database that is not there yet: where the tenant is, and
    /// where the database would be made, as far as that was looked at. Changes nothing.
    async fn preflight_source(
        &self,
        source: &Located,
        path: MovePath,
        target: Option<NewTarget>,
    ) -> Result<Vec<String>, PlaneError>;

    /// Names everything that the move will make in either database, in the order it is made, the rows at both sides
    /// included. They are written down before
    /// [`DataPlane::prepare`] and before [`DataPlane::open`] is called. Changes nothing.
    async fn plan(&self, moved: &Move) -> Result<Vec<Cleanup>, PlaneError>;

    /// Makes the target ready and compares the schemas; their fingerprint. With one in the row already: the same, or
    /// [`PlaneError::Refused`].
    async fn prepare(&self, moved: &Move) -> Result<String, PlaneError>;

    /// Makes what streams the changes both ways, with a snapshot of the source. What an earlier call left is removed
    /// first, the tenant's rows at the target included.
    async fn open(&self, moved: &Move) -> Result<(), PlaneError>;

    /// Copies every row of the snapshot, written no faster than the move's pace, and says how far it is. A copy whose snapshot is
    /// gone is [`PlaneError::Unavailable`]; it begins again with [`DataPlane::open`].
    async fn copy(&self, moved: &Move, progress: CopyProgress) -> Result<(), PlaneError>;

    /// Has the changes stream, both ways, from where each stream was last applied. Where they do already, nothing.
    async fn resume(&self, moved: &Move) -> Result<(), PlaneError>;

    /// Whether the source bears what it keeps for the move: log, above all, which fills everybody's disk. Looked at by
    /// whatever takes long, too. More than it may: [`PlaneError::Refused`]. Needs nothing of the target.
    async fn bearable(&self, moved: &Move) -> Result<(), PlaneError>;

    /// How far the other side is behind: a word is sent through the stream, and waited for.
    async fn catch_up(&self, moved: &Move) -> Result<Lag, PlaneError>;

    /// Compares all rows of both sides. Where this process has compared them before and followed every change since, it
    /// may compare those that changed.
    async fn verify(&self, moved: &Move) -> Result<Verdict, PlaneError>;

    /// Compares rows that changed since they were last compared, outside the fence; how many are left to compare.
    async fn settle(&self, moved: &Move) -> Result<u64, PlaneError>;

    /// Step 1, at the serving side: the tenant's exclusive lock, on a session that the server ends soon if it is left
    /// alone. Waits no longer than `within`, since writers queue behind it. One that is held is held. Busy, too, where
    /// more was left to compare right before it than can be while the tenant waits.
    async fn lock(&self, moved: &Move, within: Duration) -> Result<Lock, PlaneError>;

    /// Step 2, at the serving side: in one commit, the fence row from active at `e` to moving at `e+1`, and the marker.
    /// Exactly one row, or [`PlaneError::Refused`]. Found moving at `e+1`: only the marker.
    async fn fence(&self, moved: &Move) -> Result<(), PlaneError>;

    /// Step 3: the other side has committed everything before the marker. On the short path the rows are copied here.
    /// Checks the schemas' fingerprint once more.
    async fn applied(&self, moved: &Move) -> Result<(), PlaneError>;

    /// Step 4: what changed since it was last compared is equal on both sides. On the short path: everything is.
    async fn equal(&self, moved: &Move) -> Result<Verdict, PlaneError>;

    /// Step 6, after the decision, at the other side: the fence row to active at [`Move::decided`]'s epoch. Never over a
    /// later epoch. It need not be durable before [`DataPlane::secure`] returns.
    async fn activate(&self, moved: &Move) -> Result<(), PlaneError>;

    /// Step 7, at the serving side: the lock goes. One that is gone is gone.
    async fn unlock(&self, moved: &Move) -> Result<(), PlaneError>;

    /// After steps 6 and 7, when nobody waits any more: what step 6 did is durable when this returns. If the other side went
    /// down meanwhile, [`PlaneError::Unavailable`]: step 6 is done again.
    async fn secure(&self, moved: &Move) -> Result<(), PlaneError>;

    /// After giving up, at the serving side: the fence row to active at [`Move::given_up`]'s epoch, from active at `e`
    /// or moving at `e+1` and from nothing else.
    async fn reopen(&self, moved: &Move) -> Result<(), PlaneError>;

    /// Removes one thing. What is not there is removed. Rows only where the fence row, locked in each transaction,
    /// is not active, and after the side that serves has said that it does: whatever the row of the move says, no rows go
    /// that anybody may be served from, and none of which there may be no other copy. The fence row itself stays, as moved
    /// and at its epoch: where there is none, a mover that was stopped and wakes could open an epoch of long ago.
    async fn remove(&self, moved: &Move, cleanup: &Cleanup) -> Result<(), PlaneError>;
}

/// Says how far a copy is: each time, of all tables.
#[derive(Debug, Clone)]
pub struct CopyProgress(watch::Sender<Vec<TableProgress>>);

impl CopyProgress {
    /// And what hears it.
    #[must_use]
    pub fn new() -> (Self, watch::Receiver<Vec<TableProgress>>) {
        let (tell, hear) = watch::channel(Vec::new());
        (Self(tell), hear)
    }

    /// So far it is. Costs nothing to say often: what nobody heard is replaced by what is said next.
    pub fn tell(&self, tables: Vec<TableProgress>) {
        self.0.send_replace(tables);
    }
}

/// How far behind the other side is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// How long the word took.
    pub round_trip: Duration,
}

/// Whether both sides are equal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// How many rows were compared.
    pub rows: u64,
    /// What differs, in words: table, key and how. Not all of it, where it is much. Empty: nothing does.
    pub differences: Vec<String>,
}

/// Whether the lock was to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// It is held.
    Held {
        /// How long the tenant's writers queued behind it so far.
        waited: Duration,
    },
    /// Transactions that had begun went on for longer; nobody queues for them any more.
    Busy,
}

/// A step was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaneError {
    /// A database did not do it now; the same call may succeed later.
    #[error("{doing} did not succeed")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// It will not succeed later either: schemas that differ, somebody who wrote to the side that does not serve, a
    /// fence that is another's. The reason, in words.
    #[error("{0}")]
    Refused(String),
}
