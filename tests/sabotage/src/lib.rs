//! The data path of `stagesub-storage` with one guard removed, so that the tests can show that they would
//! notice: a connection whose owner went away is lent again as it is.
//!
//! The sources are the product's own, compiled a second time; `build.rs` takes the one line out of the pool's.
//! So the product has no switch for it that anybody could throw by accident, and no feature that a build of
//! the whole workspace could bring into the program. Where that line changes, this crate does not build.

#[path = "../../../crates/storage/src/error.rs"]
pub mod error;
#[path = "../../../crates/storage/src/factory.rs"]
pub mod factory;
/// Connections that nobody cleans up.
#[expect(dead_code, reason = "what cleaned up is not called any more")]
pub mod pool {
    include!(concat!(env!("OUT_DIR"), "/pool.rs"));
}
#[path = "../../../crates/storage/src/tx.rs"]
pub mod tx;

use stagesub_storage::{logins, marker, target};
