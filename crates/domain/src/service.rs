//! Use cases: one family a file, free functions over `&mut dyn UnitOfWork`.
//!
//! A use case checks its input, keeps the rules, writes its audit entry, and leaves the commit to whoever began
//! the unit. On an error the unit must be dropped: what was written before it is rolled back.

pub mod changes;
pub mod code;
pub mod context;
pub mod databases;
pub mod idempotency;
pub mod import;
pub mod instruments;
pub mod limits;
pub mod moves;
pub mod musicians;
pub mod people;
pub mod positions;
pub mod projects;
pub mod provisioning;
pub mod tenants;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
pub(crate) mod fixture_platform;

pub use context::Act;
