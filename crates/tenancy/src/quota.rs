//! Limits of countable things: when to warn, what is tolerated, when to refuse.
//!
//! Pure: whoever counts holds the lock that makes the count exact.

use chrono::{DateTime, TimeDelta, Utc};

/// How long a little more than the limit is tolerated, from the first passing.
pub const GRACE: TimeDelta = TimeDelta::days(7);

/// What is tolerated during the grace, in percent of the limit (rounded down, never less than the limit).
pub const CEILING_PERCENT: i64 = 110;

/// Whether more may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It may; `grace_until` is to be kept with the count.
    Admitted {
        /// Until when the count may stand above its limit; `None` while it does not.
        grace_until: Option<DateTime<Utc>>,
    },
    /// It may not. Reading, changing and deleting go on.
    Refused,
}

/// Decides whether `add` more may be made where there are `used` of at most `limit` (`None`: unlimited).
///
/// Up to the limit everything is admitted and a grace that was running ends. Above it at most
/// [`CEILING_PERCENT`] is admitted, for [`GRACE`] from the first passing. A higher limit unblocks at once,
/// since nothing but these arguments decides.
#[must_use]
pub fn admit(
    used: i64,
    add: i64,
    limit: Option<i64>,
    grace_until: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Decision {
    let total = used.saturating_add(add);
    let Some(limit) = limit.filter(|limit| total > *limit) else {
        return Decision::Admitted { grace_until: None };
    };
    if total > ceiling(limit) {
        return Decision::Refused;
    }
    match grace_until {
        Some(until) if until <= now => Decision::Refused,
        running => Decision::Admitted { grace_until: Some(running.unwrap_or(now + GRACE)) },
    }
}

/// The grace to keep when the count falls to `used`: none once it is within the limit.
#[must_use]
pub fn grace_after_release(
    used: i64,
    limit: Option<i64>,
    grace_until: Option<DateTime<Utc>>,
) -> Option<DateTime<Utc>> {
    grace_until.filter(|_| limit.is_some_and(|limit| used > limit))
}

/// The most that is tolerated under a limit.
#[must_use]
pub fn ceiling(limit: i64) -> i64 {
    limit.max(limit.saturating_mul(CEILING_PERCENT) / 100)
}

/// How near a count is to its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Warning {
    /// 80 % or more.
    Near,
    /// 90 % or more.
    Nearer,
    /// 95 % or more.
    Nearest,
}

impl Warning {
    /// The percentage that was passed.
    #[must_use]
    pub const fn percent(self) -> u8 {
        match self {
            Self::Near => 80,
            Self::Nearer => 90,
            Self::Nearest => 95,
        }
    }
}

/// The highest warning that `used` of `limit` deserves. A limit of nothing deserves none until it is passed.
#[must_use]
pub fn warning(used: i64, limit: Option<i64>) -> Option<Warning> {
    let limit = limit?;
    [Warning::Nearest, Warning::Nearer, Warning::Near].into_iter().find(|warning| {
        used > 0 && used.saturating_mul(100) >= limit.saturating_mul(i64::from(warning.percent()))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(day: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + day * 86_400, 0).expect("within chrono's range")
    }

    #[test]
    fn the_limit_itself_is_admitted_without_grace() {
        assert_eq!(admit(49, 1, Some(50), None, at(0)), Decision::Admitted { grace_until: None });
    }

    #[test]
    fn passing_the_limit_starts_seven_days_of_grace() {
        assert_eq!(admit(50, 1, Some(50), None, at(0)), Decision::Admitted { grace_until: Some(at(7)) });
    }

    #[test]
    fn a_running_grace_is_not_prolonged() {
        assert_eq!(
            admit(51, 1, Some(50), Some(at(7)), at(3)),
            Decision::Admitted { grace_until: Some(at(7)) }
        );
    }

    #[test]
    fn an_ended_grace_refuses_and_so_does_more_than_the_ceiling() {
        assert_eq!(admit(51, 1, Some(50), Some(at(7)), at(7)), Decision::Refused);
        assert_eq!(admit(55, 1, Some(50), Some(at(7)), at(1)), Decision::Refused);
        assert_eq!(admit(50, 6, Some(50), None, at(0)), Decision::Refused);
    }

    #[test]
    fn a_small_limit_has_no_room_above_it() {
        assert_eq!(admit(5, 1, Some(5), None, at(0)), Decision::Refused);
    }

    #[test]
    fn a_higher_limit_unblocks_at_once_and_ends_the_grace() {
        assert_eq!(admit(55, 1, Some(200), Some(at(7)), at(30)), Decision::Admitted { grace_until: None });
        assert_eq!(admit(55, 1, None, Some(at(7)), at(30)), Decision::Admitted { grace_until: None });
    }

    #[test]
    fn falling_to_the_limit_ends_the_grace() {
        assert_eq!(grace_after_release(50, Some(50), Some(at(7))), None);
        assert_eq!(grace_after_release(51, Some(50), Some(at(7))), Some(at(7)));
        assert_eq!(grace_after_release(51, None, Some(at(7))), None);
    }

    #[test]
    fn warnings_come_at_80_90_and_95_percent() {
        let percent = |used| warning(used, Some(200)).map(Warning::percent);
        assert_eq!(percent(159), None);
        assert_eq!(percent(160), Some(80));
        assert_eq!(percent(180), Some(90));
        assert_eq!(percent(190), Some(95));
        assert_eq!(percent(230), Some(95));
        assert_eq!(warning(1_000_000, None), None);
        assert_eq!(warning(0, Some(0)), None);
    }

    proptest! {
        #[test]
        fn never_more_than_the_ceiling(
            used in 0_i64..2_000, add in 1_i64..500, limit in 0_i64..1_000, grace in proptest::option::of(0_i64..20),
        ) {
            if let Decision::Admitted { grace_until } = admit(used, add, Some(limit), grace.map(at), at(10)) {
                prop_assert!(used + add <= ceiling(limit));
                prop_assert_eq!(grace_until.is_some(), used + add > limit);
                prop_assert!(grace_until.is_none_or(|until| until > at(10) && until <= at(20)));
            }
        }

        #[test]
        fn what_is_refused_is_admitted_under_a_high_enough_limit(
            used in 0_i64..2_000, add in 1_i64..500, grace in proptest::option::of(0_i64..20),
        ) {
            prop_assert_eq!(
                admit(used, add, Some(used + add), grace.map(at), at(10)),
                Decision::Admitted { grace_until: None }
            );
        }

        #[test]
        fn one_by_one_is_never_stricter_than_at_once(
            used in 0_i64..300, add in 1_i64..60, limit in 0_i64..300,
        ) {
            let at_once = admit(used, add, Some(limit), None, at(0));
            let mut grace = None;
            let mut admitted = true;
            for made in 0..add {
                match admit(used + made, 1, Some(limit), grace, at(0)) {
                    Decision::Admitted { grace_until } => grace = grace_until,
                    Decision::Refused => { admitted = false; break; }
                }
            }
            prop_assert_eq!(admitted, at_once != Decision::Refused);
        }
    }
}
