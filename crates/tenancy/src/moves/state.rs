//! The states of a move, and what may follow on what.

use std::fmt;
use std::str::FromStr;

/// How a tenant's rows get to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MovePath {
    /// A copy in a slot's snapshot, then the stream of changes; both ways until the move is finished.
    Stream,
    /// The same states, with triggers that write a log of changes: for a server without logical decoding.
    Triggers,
    /// Everything inside the fence. For a few thousand rows, since the tenant waits for all of it; no way back.
    Short,
}

impl MovePath {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Stream, Self::Triggers, Self::Short];

    /// The word as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Triggers => "triggers",
            Self::Short => "short",
        }
    }
}

/// Where a move stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MoveState {
    /// It is looked whether the tenant can be moved; the target is made ready.
    Prepare,
    /// What streams the changes is made, with the snapshot that is copied.
    Slot,
    /// The rows are copied.
    Copy,
    /// The target follows until it is close behind.
    CatchUp,
    /// Both sides are compared.
    Verify,
    /// The cutover to the target is on. Written before anything is locked.
    Fence,
    /// The directory has the other side; it may not be open yet.
    Decided,
    /// The other side serves; the one before follows it, so that the tenant can go back.
    Active,
    /// A cutover to where the tenant came from is on.
    Back,
    /// It stays where it is. What the move had made is being removed, or has been.
    Finished,
    /// It stays where it was. What the move had made is being removed, or has been.
    Aborted,
}

impl MoveState {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Prepare,
        Self::Slot,
        Self::Copy,
        Self::CatchUp,
        Self::Verify,
        Self::Fence,
        Self::Decided,
        Self::Active,
        Self::Back,
        Self::Finished,
        Self::Aborted,
    ];

    /// The word as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Slot => "slot",
            Self::Copy => "copy",
            Self::CatchUp => "catch_up",
            Self::Verify => "verify",
            Self::Fence => "fence",
            Self::Decided => "decided",
            Self::Active => "active",
            Self::Back => "back",
            Self::Finished => "finished",
            Self::Aborted => "aborted",
        }
    }

    /// Whether nothing but tidying is left.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::Aborted)
    }

    /// Whether a cutover is on that is not decided, as far as the row knows; the directory may know better.
    #[must_use]
    pub const fn is_cutover(self) -> bool {
        matches!(self, Self::Fence | Self::Back)
    }

    /// Whether the move may be aborted: the tenant was never anywhere but at its source.
    #[must_use]
    pub const fn may_abort(self) -> bool {
        matches!(self, Self::Prepare | Self::Slot | Self::Copy | Self::CatchUp | Self::Verify | Self::Fence)
    }

    /// Whether a move on this path may step from here to `to`. Nothing else may.
    ///
    /// From the fence back to an earlier state, and from going back to active, is a cutover that was given up.
    #[must_use]
    pub const fn may_become(self, to: Self, path: MovePath) -> bool {
        let short = matches!(path, MovePath::Short);
        match (self, to) {
            (Self::Prepare, Self::Fence) | (Self::Fence, Self::Prepare) => short,
            (Self::Prepare, Self::Slot)
            | (Self::Slot, Self::Copy)
            // The snapshot went with the session that held it: opened again.
            | (Self::Copy, Self::Slot | Self::CatchUp)
            | (Self::CatchUp, Self::Verify)
            | (Self::Verify, Self::Fence)
            | (Self::Fence, Self::CatchUp)
            | (Self::Active, Self::Back)
            | (Self::Back, Self::Decided | Self::Active) => !short,
            (Self::Fence, Self::Decided)
            | (Self::Decided, Self::Active)
            | (Self::Active, Self::Finished) => true,
            (from, Self::Aborted) => from.may_abort(),
            _ => false,
        }
    }

    /// Where a cutover that was given up is tried again from.
    #[must_use]
    pub const fn again(path: MovePath) -> Self {
        match path {
            MovePath::Short => Self::Prepare,
            MovePath::Stream | MovePath::Triggers => Self::CatchUp,
        }
    }

    /// Which request is answered when the move comes to this state.
    #[must_use]
    pub const fn answers(self) -> Option<Request> {
        match self {
            Self::Back => Some(Request::Back),
            Self::Finished => Some(Request::Finish),
            Self::Aborted => Some(Request::Abort),
            _ => None,
        }
    }

    /// Whether somebody may ask for this now.
    #[must_use]
    pub const fn takes(self, request: Request, path: MovePath) -> bool {
        match request {
            Request::Abort => self.may_abort(),
            Request::Back => self.may_become(Self::Back, path),
            Request::Finish => self.may_become(Self::Finished, path),
        }
    }
}

/// What somebody asks of a move. Its owner sees it at its next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// Stay where it is and remove what was made.
    Abort,
    /// Go back to where it came from.
    Back,
    /// Stay where it is now, for good.
    Finish,
}

impl Request {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Abort, Self::Back, Self::Finish];

    /// Whether this may be asked where `before` was asked already and is not done yet. The same again may; and whoever
    /// asked for the way back, which may be barred for good, may have it finished where it is instead. The way back is
    /// begun only while it is still wanted.
    #[must_use]
    pub const fn may_replace(self, before: Self) -> bool {
        matches!(
            (before, self),
            (Self::Back, Self::Back | Self::Finish)
                | (Self::Abort, Self::Abort)
                | (Self::Finish, Self::Finish)
        )
    }

    /// The word as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Back => "back",
            Self::Finish => "finish",
        }
    }
}

/// One of the two databases of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Where the tenant was when the move began.
    Source,
    /// Where it was to go.
    Target,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Source, Self::Target];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Source => Self::Target,
            Self::Target => Self::Source,
        }
    }

    /// The word as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}

/// The text is none of the words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {of} of a move")]
pub struct UnknownWord {
    of: &'static str,
    text: String,
}

macro_rules! words {
    ($($type:ty: $of:literal),*) => {$(
        impl FromStr for $type {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                Self::ALL
                    .into_iter()
                    .find(|one| one.as_str() == text)
                    .ok_or_else(|| UnknownWord { of: $of, text: text.to_owned() })
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}

words!(MovePath: "path", MoveState: "state", Request: "request", Side: "side");

#[cfg(test)]
mod tests {
    use super::*;
    use MoveState::{Aborted, Active, Back, CatchUp, Copy, Decided, Fence, Finished, Prepare, Slot, Verify};

    #[test]
    fn the_transitions_are_these_and_no_others() {
        let common = [
            (Fence, Decided),
            (Decided, Active),
            (Active, Finished),
            (Prepare, Aborted),
            (Slot, Aborted),
            (Copy, Aborted),
            (CatchUp, Aborted),
            (Verify, Aborted),
            (Fence, Aborted),
        ];
        let streamed = [
            (Prepare, Slot),
            (Slot, Copy),
            (Copy, Slot),
            (Copy, CatchUp),
            (CatchUp, Verify),
            (Verify, Fence),
            (Fence, CatchUp),
            (Active, Back),
            (Back, Decided),
            (Back, Active),
        ];
        let short = [(Prepare, Fence), (Fence, Prepare)];
        for path in MovePath::ALL {
            let own: &[_] = if path == MovePath::Short { &short } else { &streamed };
            for from in MoveState::ALL {
                for to in MoveState::ALL {
                    let meant = common.contains(&(from, to)) || own.contains(&(from, to));
                    assert_eq!(from.may_become(to, path), meant, "{path}: {from} to {to}");
                }
            }
        }
    }

    #[test]
    fn nothing_that_is_over_goes_on_and_what_was_decided_is_not_aborted() {
        for path in MovePath::ALL {
            for to in MoveState::ALL {
                assert!(!Finished.may_become(to, path) && !Aborted.may_become(to, path));
            }
            for from in [Decided, Active, Back] {
                assert!(!from.may_become(Aborted, path) && !from.takes(Request::Abort, path));
            }
            assert!(Fence.may_become(MoveState::again(path), path));
            assert_eq!(Active.takes(Request::Back, path), path != MovePath::Short);
            assert!(Active.takes(Request::Finish, path));
        }
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for state in MoveState::ALL {
            assert_eq!(state.to_string().parse(), Ok(state));
        }
        for path in MovePath::ALL {
            assert_eq!(path.to_string().parse(), Ok(path));
        }
        for request in Request::ALL {
            assert_eq!(request.to_string().parse(), Ok(request));
        }
        for side in Side::ALL {
            assert_eq!((side.to_string().parse(), side.other().other()), (Ok(side), side));
        }
        assert_eq!("gone".parse::<MoveState>().unwrap_err().to_string(), "\"gone\" is no state of a move");
    }

    #[test]
    fn a_way_back_that_has_not_begun_may_be_given_up_for_good() {
        for before in Request::ALL {
            for after in Request::ALL {
                let may = before == after || (before, after) == (Request::Back, Request::Finish);
                assert_eq!(after.may_replace(before), may, "{before} {after}");
            }
        }
    }
}
