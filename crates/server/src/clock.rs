//! The one place that asks the machine what time it is.

use chrono::{DateTime, SubsecRound, Utc};
use stagesub_tenancy::clock::Clock;

/// The machine's clock, in whole microseconds: what PostgreSQL keeps, so that a time that was answered is the
/// time that is read back.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one clock; everything else is given the time")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }
}
