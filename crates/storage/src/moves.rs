//! Moving a tenant from one database to another while it is in use: the parts that touch the databases.
//!
//! - [`plan`] which tables there are to move, in which order, and whether both sides are made alike
//! - [`preflight`] what stands in the way of a move, in words
//! - [`session`] the mover's sessions on the two databases
//! - [`pace`] how fast, so that the neighbours notice little
//! - [`copy`] the rows of one snapshot, streamed from the source into the target
//! - [`slot`] the replication slot, its publication, and the session that streams from it
//! - [`change_log`] the same without logical decoding: triggers, the log that they write, and what reads it
//! - [`lsn`] positions in a write-ahead log
//! - [`pgoutput`] what logical decoding says of a transaction
//! - [`apply`] brings what was streamed into the other database, exactly once
//! - [`progress`] how far that is, kept beside what was applied
//! - [`survey`] how large tenants are, and what their servers can do, before a move
//! - [`verify`] whether both sides hold the same rows, and which ones differ
//! - [`fence`] closes the tenant on the one side and opens it on the other
//! - [`plane`] puts them together: what the state machine of `stagesub_tenancy::moves` calls
//!
//! Nothing here decides where a tenant is: that is one row of the registry.
//!
//! # A node that drives moves
//!
//! Any node may; a move is one node's at a time, and another's when that one dies. What is to be moved is begun in the
//! registry, by whoever may, and driven from there:
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use stagesub_storage::logins::DatabaseLogins;
//! use stagesub_storage::moves::plan::Contents;
//! use stagesub_storage::moves::plane::{PgDataPlane, PlaneSettings};
//! use stagesub_storage::registry::RegistryPools;
//! use stagesub_storage::registry::moves::PgMoveRegistry;
//! use stagesub_tenancy::NodeId;
//! use stagesub_tenancy::moves::{MoveRegistry, Mover, MoverSettings};
//!
//! async fn drive(registry: RegistryPools, logins: Arc<dyn DatabaseLogins>, node: NodeId) {
//!     let moves: Arc<dyn MoveRegistry> = Arc::new(PgMoveRegistry::new(registry));
//!     let contents = Contents { schemas: vec!["billing".to_owned()], reference_tables: Vec::new() };
//!     let plane = PgDataPlane::new(logins, Arc::clone(&moves), contents, PlaneSettings::default());
//!     let mover = Mover::new(moves, Arc::new(plane), node, MoverSettings::default());
//!     loop {
//!         match mover.step().await {
//!             Ok(Some(driven)) => tracing::info!(?driven, "a move was driven"),
//!             Ok(None) => tokio::time::sleep(Duration::from_secs(1)).await,
//!             Err(error) => {
//!                 tracing::warn!(error = &error as &dyn std::error::Error, "no move was claimed");
//!                 tokio::time::sleep(Duration::from_secs(1)).await;
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! # Invariants
//!
//! - Everything runs as the mover (`stagesub_mover`), on sessions of its own.
//! - Tables, columns and keys are read from the catalogue of the database; what cannot be moved is refused in words
//!   before anything is made.
//! - Row-level security is switched off on every session, so a login that is bound to policies meets an error and never
//!   a copy without rows.
//! - Memory does not grow with the tenant: a stream of a copy holds a few blocks and one row, a comparison one chunk of keys.
//!   What a copy has read ahead lies in files, and is bounded.

pub mod apply;
pub mod change_log;
pub mod copy;
pub mod fence;
pub mod lsn;
pub mod pace;
pub mod pgoutput;
pub mod plan;
pub mod plane;
pub mod preflight;
pub mod progress;
pub mod session;
pub mod slot;
pub mod survey;
pub mod verify;
