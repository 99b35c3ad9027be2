//! Tenant-bound transactions, row-level security and databases on Postgres.

pub mod embedded;
pub mod logins;
pub mod seal;
pub mod target;
