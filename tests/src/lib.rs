//! The harness of the integration tests: a throw-away PostgreSQL, fresh databases for each test, the whole
//! platform wired as `serve` wires it, and a client that talks to its router without a socket.
//!
//! - `cluster.rs` the PostgreSQL of this test process, and the templates that databases are copied from
//! - `platform.rs` one platform with databases of its own: what a test starts with
//! - `node.rs` a second node on the same databases
//! - `orchestra.rs` an orchestra on it, shared or dedicated, with its people signed in
//! - `client.rs` requests and answers
//! - `proxy.rs` what stands between a pool and PostgreSQL, and cuts a connection at its COMMIT
//! - `canary.rs` marks of tenants' rows
//! - `program.rs` the program `stagesub` as its users run it
//! - `serve.rs` that program serving
//! - `data_path.rs` tenant transactions as the product has them, and with a guard removed; `storm.rs` owners of
//!   such transactions who go away in the middle
//! - `frozen.rs` server processes that stand still
//! - `history.rs` clients of a tenant that moves, and a judge of what they were told
//! - `bench.rs` what the benches measure with and on
//! - `dedicated.rs` tenants with databases of their own, many and soon
//! - `database.rs` looking into a database as its owner, to see what the platform cannot be asked
//!
//! # Invariants
//! - Tenant data is reached as the application's login; the administrator's login prepares and inspects only.
//! - Without a PostgreSQL a test fails. Nothing is skipped.

#![expect(clippy::missing_panics_doc, reason = "a harness panics: that is how a test fails")]

pub mod bench;
pub mod canary;
pub mod client;
pub mod cluster;
pub mod data_path;
pub mod database;
pub mod dedicated;
pub mod frozen;
pub mod history;
pub mod node;
pub mod orchestra;
pub mod platform;
pub mod program;
pub mod proxy;
pub mod serve;
pub mod storm;

pub use client::{Answer, Client};
pub use frozen::Frozen;
pub use node::SecondNode;
pub use orchestra::{Kept, Member, Orchestra};
pub use platform::TestPlatform;

/// What the README of the tenancy shows compiles.
#[cfg(doctest)]
#[doc = include_str!("../../crates/tenancy/README.md")]
struct TenancyReadme;
