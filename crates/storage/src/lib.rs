//! Tenant-bound transactions, row-level security and databases on Postgres.

pub mod embedded;
pub mod error;
pub mod factory;
pub mod fence;
pub mod logins;
pub mod pool;
pub mod seal;
pub mod target;
pub mod tx;

#[cfg(feature = "orchestra")]
pub mod repo;
#[cfg(feature = "orchestra")]
pub mod unit;
