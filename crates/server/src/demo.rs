//! The whole platform on one machine, with nothing configured.

pub mod cast;
pub mod existing;
pub mod ground;
pub mod report;
pub mod secrets;
pub mod seed;
pub mod stage;
