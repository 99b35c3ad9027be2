//! Integration tests on a real Postgres.

mod embedded;
mod registry;
