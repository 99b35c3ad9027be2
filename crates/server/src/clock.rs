//! The one place that asks the machine what time it is.

use chrono::{DateTime, Utc};
use stagesub_tenancy::clock::Clock;

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one clock; everything else is given the time")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}
