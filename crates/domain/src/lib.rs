//! Orchestras: their musicians, instruments and projects, the rules, and the use cases.

pub mod actor;
pub mod audit;
pub mod error;
pub mod ids;
pub mod import;
pub mod instrument;
pub mod language;
pub mod musician;
pub mod page;
pub mod ports;
pub mod project;
pub mod role;
pub mod service;
pub mod settings;
pub mod starter;
pub mod subscription;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod validate;
