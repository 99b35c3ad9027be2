//! Where a test may stop a mover. In production there is nobody who could.

use async_trait::async_trait;

use super::state::MoveState;

/// A place in a move's course, reached when what it is named for is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Point {
    /// The mover has the move in hand, and has done nothing.
    Claimed,
    /// The sessions of an older owner are ended.
    Severed,
    /// The registry has this state.
    State(MoveState),
    /// What will have to be removed is written down.
    Planned,
    /// Step 1.
    Locked,
    /// Step 2.
    Fenced,
    /// Step 3.
    Applied,
    /// Step 4.
    Equal,
    /// Step 5: the decision was made.
    Decided,
    /// Step 6.
    Activated,
    /// Step 7.
    Unlocked,
    /// The directory says that the cutover was given up.
    GivenUp,
    /// The serving side is open again.
    Reopened,
    /// One thing was removed, which is not written down yet.
    Removed,
}

impl Point {
    /// Every point of a course that reaches all of them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = vec![
            Self::Claimed,
            Self::Severed,
            Self::Planned,
            Self::Locked,
            Self::Fenced,
            Self::Applied,
            Self::Equal,
            Self::Decided,
            Self::Activated,
            Self::Unlocked,
            Self::GivenUp,
            Self::Reopened,
            Self::Removed,
        ];
        all.extend(MoveState::ALL.map(Self::State));
        all
    }
}

/// Told of each point. A test's waits there for good, and the test drops the mover or ends its process.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Failpoints: Send + Sync {
    /// The mover is at `point`, and goes on when this returns.
    async fn reached(&self, point: Point);
}
