//! What time it is, as a port: nothing in this crate reads a clock of its own.

use chrono::{DateTime, Utc};

/// Tells the time. A service has one, over the machine's clock; tests have a fixed one.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> DateTime<Utc>;
}
