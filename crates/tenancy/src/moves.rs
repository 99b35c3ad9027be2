//! A tenant's move from one database to another while it is in use: what is stored of it, who may do what next, and
//! the machine that drives it. No SQL and no connection; those are behind two ports.
//!
//! | module | has |
//! |---|---|
//! | [`state`](mod@state) | the states, what may follow on what, the two sides |
//! | [`record`] | the stored move, and what belongs to it |
//! | [`registry`] | port: where moves are stored, leased and **decided** |
//! | [`plane`] | port: everything that is done to the two databases |
//! | [`survey`] | port: how large tenants are, asked before a move |
//! | [`failpoint`] | where a test may stop a mover |
//! | [`mover`] | drives one move that it holds, and recovers what another left |
//!
//! # A cutover
//!
//! The tenant is served at epoch `e` by one side. The numbered steps, each with a deadline that rolls back:
//!
//! ```text
//!    verify     row by row, chunks; the rows changed since are settled until they are few; three live round trips
//!    fence      is written in the registry before anything is locked
//! 1  lock       serving side: the tenant's exclusive lock
//! 2  fence      serving side, one commit: its fence row from (active, e) to (moving, e+1), and the marker
//! 3  applied    the other side has everything before the marker
//! 4  equal      rows changed since the verification are equal on both sides
//! 5  DECISION   registry: the directory from (e, serving side) to (e+1, other side), one row or none
//! 6  activate   other side: its fence row to (active, e+1)
//! 7  unlock     serving side: the lock goes; what is left of it is tidied later
//! ```
//!
//! Before step 5 a cutover is given up by a decision of the same kind: the directory from `(e, serving side)` to
//! `(e+2, serving side)`, and only then the fence row to `(active, e+2)`. Whichever of the two is first, the other hits
//! no row. Going back is the same with the sides swapped.
//!
//! # Invariants
//!
//! - The directory's row decides, and nothing else. An answer that did not arrive is asked of the directory again.
//! - An epoch is handed out once: `e+1` of a cutover that was given up is never anybody's.
//! - Whoever writes holds the move by a token that grows with each owner; an older owner's writes hit no row.
//! - A new owner ends the sessions of the one before it first. Then it reads the directory: a cutover that is not
//!   decided is rolled back, one that is goes forward.
//! - What has to be removed one day is written down before it is made.
//! - An abort that was accepted is never followed by the decision.

pub mod failpoint;
pub mod mover;
pub mod plane;
pub mod record;
pub mod registry;
pub mod state;
pub mod survey;
#[cfg(test)]
mod tests;

pub use failpoint::{Failpoints, Point};
pub use mover::{Driven, MoveObserver, Mover, MoverSettings};
pub use plane::{DataPlane, NewTarget, PlaneError};
pub use record::{
    Cleanup, FencingToken, Held, Move, MoveId, MovePrefix, NewMove, Note, Requester, TableProgress,
};
pub use registry::{
    BeginMoveError, Decision, MoveKind, MoveRegistry, MoveRegistryError, Refusal, Renewed, Requested,
};
pub use state::{MovePath, MoveState, Request, Side};
pub use survey::{Surveyor, TenantSize};
