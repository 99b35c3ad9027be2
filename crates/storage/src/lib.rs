//! Tenant-bound transactions, row-level security and databases on Postgres.

pub mod catalogue;
pub mod databases;
pub mod directory;
pub mod embedded;
pub mod error;
pub mod factory;
pub mod fence;
mod hardening;
pub mod logins;
pub mod marker;
pub mod migrate;
pub mod pool;
pub mod registry;
mod roles;
pub mod seal;
pub mod target;
pub mod tx;

#[cfg(feature = "orchestra")]
pub mod repo;
#[cfg(feature = "orchestra")]
pub mod unit;
