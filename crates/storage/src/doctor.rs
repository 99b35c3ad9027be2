//! What is wrong with a living database: lints read from its catalogue, each with the SQL that mends it.
//!
//! A migration may have forgotten a fence, an administrator may have lifted one, a managed platform may not
//! have let one be put up. None of that shows in what the application answers, so it is looked for:
//!
//! - `tables.rs` tenant tables: row-level security, fence, policies, columns, keys, references
//! - `lints.rs` and `lints/` what one query finds: views, routines, schemas, roles, settings, defaults
//! - `design.rs` the one table of who may do what; `acl.rs` compares the database's privileges with it
//! - `guards.rs` the routines of schema `app`, compared with the migrations that made them
//! - `move_logs.rs` what moves by triggers have made, and have not removed
//! - `rows.rs` marker, schema version, rows of somebody else; `platform.rs` every database of a registry
//!
//! Three levels. A *hole* lets one tenant reach another, or would once something else gives way: the server
//! does not serve. *Partial*: less well defended than it could be, as on a managed platform. A *note* is for
//! whoever runs the database to know.
//!
//! # Embedding
//!
//! A service of your own asks about its own schemas, with any login that may connect; one with BYPASSRLS
//! (`stagesub_mover`) sees most. Every table of a data schema is a tenant table unless it is listed:
//!
//! ```no_run
//! use sqlx::PgConnection;
//! use stagesub_storage::doctor::{Expectations, examine};
//!
//! async fn refuse_on_a_hole(conn: &mut PgConnection) -> Result<(), Box<dyn std::error::Error>> {
//!     let expected = Expectations::default()
//!         .data_schema("billing")
//!         .reference_table("billing", "currency")
//!         .trusted_role("reporting");
//!     let report = examine(conn, &expected).await?;
//!     for finding in report.findings() {
//!         eprintln!("{finding}\n{}", finding.mend);
//!     }
//!     match report.first_hole() {
//!         Some(hole) => Err(hole.to_string().into()),
//!         None => Ok(()),
//!     }
//! }
//! ```
//!
//! # Invariants
//! - It reads and never writes: its transactions are READ ONLY and are rolled back.
//! - What it may not see it says; it never takes it for sound.
//! - No finding carries a row's contents, a password or a connection string.

pub(crate) mod acl;
mod design;
mod examination;
mod expectations;
pub(crate) mod guards;
mod lints;
mod move_logs;
pub mod platform;
mod report;
mod rows;
pub(crate) mod tables;

pub use examination::{DoctorError, examine};
pub use expectations::Expectations;
pub(crate) use guards::findings as guard_findings;
pub use platform::{Bounds, examine_database, examine_known, examine_platform};
pub use report::{Finding, Level, Report};
pub use tables::examine_tables;
