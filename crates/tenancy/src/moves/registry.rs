//! Where moves are stored, leased and decided.

use std::time::Duration;

use async_trait::async_trait;

use super::record::{Cleanup, Held, Move, MoveId, NewMove, Note, Requester, TableProgress};
use super::state::{MoveState, Request};
use crate::directory::{BoxError, DirectoryError};
use crate::nodes::NodeId;
use crate::placement::{DatabaseId, Located};
use crate::tenant::{TenantId, TenantStatus};

/// The platform's list of moves, beside the directory that they change.
///
/// Whatever takes a [`Held`] writes only as long as its node holds the move by its token and the move stands where it
/// says; otherwise it writes nothing and says so.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait MoveRegistry: Send + Sync {
    /// Begins a move, in [`MoveState::Prepare`] and held by nobody. Its source and epoch are the directory's.
    async fn begin(&self, wanted: &NewMove) -> Result<Move, BeginMoveError>;

    /// Finds a move.
    async fn find(&self, id: MoveId) -> Result<Option<Move>, MoveRegistryError>;

    /// Finds the move of a tenant that has not ended.
    async fn live_of(&self, tenant: TenantId) -> Result<Option<Move>, MoveRegistryError>;

    /// Lists moves, the newest first: at most `limit` that are older than `after`.
    async fn list(&self, after: Option<MoveId>, limit: u32) -> Result<MovePage, MoveRegistryError>;

    /// Lists the moves of one tenant, in the same order.
    async fn list_of(
        &self,
        tenant: TenantId,
        after: Option<MoveId>,
        limit: u32,
    ) -> Result<MovePage, MoveRegistryError>;

    /// How many moves there are that have not ended, by their states; of states that are not listed there are none.
    async fn count_live(&self) -> Result<Vec<(MoveState, u64)>, MoveRegistryError>;

    /// How far the copies of a move's tables are, in the order they are copied.
    async fn tables(&self, id: MoveId) -> Result<Vec<TableProgress>, MoveRegistryError>;

    /// How far behind the other side was when that was last looked at; `None`: it never was.
    async fn lag(&self, id: MoveId) -> Result<Option<Duration>, MoveRegistryError>;

    /// Where a tenant is, asked of the registry itself: what a cache remembers decides nothing.
    async fn placement(&self, tenant: TenantId) -> Result<Option<Located>, MoveRegistryError>;

    /// Writes down what somebody asks of a move. What was accepted is done: the decision and an accepted
    /// [`Request::Abort`] exclude each other. What replaces what is [`Request::may_replace`]'s to say.
    async fn request(
        &self,
        id: MoveId,
        request: Request,
        by: Requester,
    ) -> Result<Requested, MoveRegistryError>;

    /// Takes a move that has not ended and that nobody holds, or whose owner's lease is over by the registry's clock;
    /// the one that was free first. Its token is larger than any before.
    async fn claim(&self, node: NodeId, lease: Duration) -> Result<Option<Held>, MoveRegistryError>;

    /// As [`MoveRegistry::claim`], of one kind alone: a node that has its hands full of the one may take the other.
    async fn claim_kind(
        &self,
        node: NodeId,
        lease: Duration,
        kind: MoveKind,
    ) -> Result<Option<Held>, MoveRegistryError>;

    /// Holds it for another `lease` from now.
    async fn renew(&self, held: &Held, lease: Duration) -> Result<Renewed, MoveRegistryError>;

    /// Gives it out of hand, for anybody to claim after `pause`; `error` says why, in words. `false`: it was not held.
    async fn release(
        &self,
        held: &Held,
        error: Option<String>,
        pause: Duration,
    ) -> Result<bool, MoveRegistryError>;

    /// Makes the step that [`Move::stepped`] describes, if the directory has what the move then says
    /// ([`Move::located`]). So no cutover is left that is neither decided nor given up, and no state but
    /// [`MoveRegistry::decide`]'s is called decided. Going back begins only while it is wanted. `None`: nothing was
    /// written.
    async fn advance(
        &self,
        held: &Held,
        to: MoveState,
        note: &Note,
    ) -> Result<Option<Move>, MoveRegistryError>;

    /// Takes back what somebody asks of it and can never have; `why` says so, in words. `None`: nothing was written,
    /// because it was not held, or something else is asked by now.
    async fn withdraw(
        &self,
        held: &Held,
        request: Request,
        why: &str,
    ) -> Result<Option<Move>, MoveRegistryError>;

    /// A decision is near, and a tenant will wait for it: what it needs is made ready. Nothing is written, and nothing
    /// that decisions lock stays locked. A decision is made without it, too, and takes longer.
    ///
    /// # Cancel safety
    /// What was made ready in part is forgotten.
    async fn get_ready(&self, held: &Held) -> Result<(), MoveRegistryError>;

    /// **The decision**, in one transaction: the directory from [`Move::undecided`] to [`Move::decided`], exactly one
    /// row; the version that caches follow; the move to [`MoveState::Decided`]; the entry in the platform's log.
    ///
    /// # Errors
    /// [`MoveRegistryError::Unknown`] when it may or may not have been made. Read the directory, or give up: that
    /// settles it.
    async fn decide(&self, held: &Held) -> Result<Decision, MoveRegistryError>;

    /// Gives the cutover up, in one transaction of the same kind: the directory from [`Move::undecided`] to
    /// [`Move::given_up`], exactly one row. The move stays in its state, until the serving side is open at its new
    /// epoch and [`MoveRegistry::advance`] says so.
    ///
    /// # Errors
    /// [`MoveRegistryError::Unknown`] as for [`MoveRegistry::decide`].
    async fn give_up(&self, held: &Held, why: &str) -> Result<Decision, MoveRegistryError>;

    /// Writes down how far the copies are. `false`: it was not held.
    async fn record_tables(&self, held: &Held, tables: Vec<TableProgress>)
    -> Result<bool, MoveRegistryError>;

    /// Writes down how far behind the other side is. `false`: it was not held.
    async fn record_lag(&self, held: &Held, lag: Duration) -> Result<bool, MoveRegistryError>;

    /// Writes down what will have to be removed, before it is made; what is written down already is to be removed
    /// (again). `false`: it was not held, and nothing may be made.
    async fn plan_cleanups(&self, held: &Held, cleanups: Vec<Cleanup>) -> Result<bool, MoveRegistryError>;

    /// What is still to be removed, the last first.
    async fn outstanding(&self, id: MoveId) -> Result<Vec<Cleanup>, MoveRegistryError>;

    /// Writes down that something was removed. `false`: it was not held.
    async fn cleaned(&self, held: &Held, cleanup: &Cleanup) -> Result<bool, MoveRegistryError>;

    /// Ends a move that is over and of which nothing is left. `None`: nothing was written.
    async fn end(&self, held: &Held) -> Result<Option<Move>, MoveRegistryError>;
}

/// What a move asks of the node that drives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MoveKind {
    /// Work: it copies, compares, cuts over, tidies.
    Working,
    /// Company: it is active, and its streams are kept until somebody says where the tenant stays. For days, perhaps.
    Active,
}

impl MoveKind {
    /// The kind of a move in this state.
    #[must_use]
    pub const fn of(state: MoveState) -> Self {
        match state {
            MoveState::Active => Self::Active,
            _ => Self::Working,
        }
    }
}

/// One page of moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovePage {
    /// The moves, the newest first.
    pub items: Vec<Move>,
    /// The move to continue after, when there are more.
    pub next: Option<MoveId>,
}

/// What became of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It was made, and the move is this.
    Made(Box<Move>),
    /// Nothing was written: the directory had been changed, or (a decision to move) an abort was asked for.
    Lost,
    /// Nothing was written: the move is another's, or stands elsewhere.
    Stale,
}

/// Whether a move is still held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// It is.
    Held {
        /// What somebody asks of it.
        wanted: Option<Request>,
    },
    /// It is another's, or has ended.
    Lost,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requested {
    /// It was written down; the owner sees it at its next step.
    Accepted(Move),
    /// The move stands where that cannot be asked, or something else was asked before.
    Refused(Move),
    /// There is no such move.
    Unknown,
}

/// A move was not begun.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BeginMoveError {
    /// It may not be begun.
    #[error("the tenant cannot be moved")]
    Refused(#[source] Refusal),
    /// The registry could not do it.
    #[error("the move was not begun")]
    Registry(#[from] MoveRegistryError),
}

/// Why a move may not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no such tenant, or it has no place yet.
    #[error("there is no such tenant")]
    UnknownTenant,
    /// Only a tenant that is in use moves.
    #[error("the tenant is {}", .0.as_str())]
    NotActive(TenantStatus),
    /// It is there.
    #[error("the tenant is in that database already")]
    AlreadyThere,
    /// One at a time.
    #[error("the tenant is being moved already, by move {0}")]
    Moving(MoveId),
    /// The registry knows no such database for tenants, or it is not ready.
    #[error("the database {0} is not one that a tenant can move to")]
    NoDatabase(DatabaseId),
    /// It is another tenant's own.
    #[error("the database {0} is another tenant's own")]
    Anothers(DatabaseId),
}

/// The registry could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MoveRegistryError {
    /// Nothing was written.
    #[error("the registry of moves cannot be used")]
    Registry(#[from] DirectoryError),
    /// The connection was lost while committing: whether it was written is not known.
    #[error("the connection to the registry was lost while committing")]
    Unknown(#[source] BoxError),
}
