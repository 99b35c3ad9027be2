//! Ids people can read over the phone: `GOT-MUS-001`.

pub mod kind;
pub mod sequence;

mod display_id;

pub use display_id::{DisplayId, InvalidDisplayId, MismatchedDisplayId};
pub use kind::Kind;
pub use sequence::{Reserved, SequenceError, SequenceStore};

#[cfg(any(test, feature = "testing"))]
pub use sequence::MockSequenceStore;
