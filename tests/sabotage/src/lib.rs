//! The data path of `stagesub-storage` with one guard removed, so that the tests can show that they would
//! notice: a connection whose owner went away is lent again as it is.
//!
//! The sources are the product's own, compiled a second time; `build.rs` takes the one line out of the connection's.
//! So the product has no switch for it that anybody could throw by accident, and no feature that a build of
//! the whole workspace could bring into the program. Where that line changes, this crate does not build.

use stagesub_storage::{identity, logins};

/// Bounds within one transaction.
pub mod bounds {
    include!(concat!(env!("OUT_DIR"), "/bounds.rs"));
}

mod canceller {
    include!(concat!(env!("OUT_DIR"), "/canceller.rs"));
}

/// Connections that nobody cleans up.
#[expect(dead_code, reason = "what cleaned up is not called any more")]
mod connection {
    include!(concat!(env!("OUT_DIR"), "/connection.rs"));
}

/// Bounds on the client's side.
pub mod deadline {
    include!(concat!(env!("OUT_DIR"), "/deadline.rs"));
}

/// What a database error means.
pub mod error {
    include!(concat!(env!("OUT_DIR"), "/error.rs"));
}

/// Opens pools, and begins transactions over them.
pub mod factory {
    include!(concat!(env!("OUT_DIR"), "/factory.rs"));
}

mod lingering {
    include!(concat!(env!("OUT_DIR"), "/lingering.rs"));
}

/// Values of writes in one message.
pub mod literal {
    include!(concat!(env!("OUT_DIR"), "/literal.rs"));
}

mod metered {
    include!(concat!(env!("OUT_DIR"), "/metered.rs"));
}

/// Reads in one message.
pub mod one_message {
    include!(concat!(env!("OUT_DIR"), "/one_message.rs"));
}

/// Writes in one message.
pub mod one_write {
    include!(concat!(env!("OUT_DIR"), "/one_write.rs"));
}

mod parameters {
    include!(concat!(env!("OUT_DIR"), "/parameters.rs"));
}

/// How long a begin is tried again.
pub mod patience {
    include!(concat!(env!("OUT_DIR"), "/patience.rs"));
}

/// Pools of them.
pub mod pool {
    include!(concat!(env!("OUT_DIR"), "/pool.rs"));
}

mod prepared {
    include!(concat!(env!("OUT_DIR"), "/prepared.rs"));
}

mod warming {
    include!(concat!(env!("OUT_DIR"), "/warming.rs"));
}

mod statement {
    include!(concat!(env!("OUT_DIR"), "/statement.rs"));
}

/// Transactions on them.
pub mod tx {
    include!(concat!(env!("OUT_DIR"), "/tx.rs"));
}
