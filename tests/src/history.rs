//! Whether a move loses, doubles or hides anything: clients that write down what they did and what they were told, and
//! a judge who holds it against what is there in the end.
//!
//! - `history/record.rs` what was done, by whom, when, and what came of it
//! - `history/judge.rs` what of that cannot have happened on one database that is always there
//! - `history/ledger.rs` the tables that clients write to
//! - `history/clients.rs` clients of nodes in this process
//! - `history/web.rs` clients of server processes
//! - `history/watched.rs` a registry of moves that tells when it decided
//! - `history/ground.rs` a registry, two databases on one server or on three, tenants and nodes
//! - `history/planes.rs` what movers move with
//! - `history/driving.rs` movers of such tenants, and what stops them
//!
//! # Invariants
//! - An operation is acknowledged only by an answer that says so. One that may or may not have been kept is neither
//!   lost nor doubled, whichever it was.
//! - Instants are one process's: what ended before something else began was before it.

pub mod clients;
pub mod driving;
pub mod ground;
pub mod judge;
pub mod ledger;
pub mod planes;
pub mod record;
pub mod watched;
pub mod web;

pub use clients::Clients;
pub use driving::{Driving, Gate};
pub use ground::{Ground, Place, Resident};
pub use judge::{Verdict, judge};
pub use record::{Decided, Entry, Found, History, Outcome, Read, Write};
pub use watched::Watched;
