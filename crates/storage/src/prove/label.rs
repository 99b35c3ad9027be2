//! What is written down of an attack.

use stagesub_tenancy::prove::{Attack, Expectation, Outcome};

/// What the attacks of one run are meant to show, and under which circumstances.
#[derive(Debug, Clone)]
pub(super) struct Label {
    pub(super) expectation: Expectation,
    /// Which guard was removed or put back.
    circumstances: String,
}

impl Label {
    /// Every guard stands.
    pub(super) const fn held() -> Self {
        Self { expectation: Expectation::Held, circumstances: String::new() }
    }

    /// A guard was removed.
    pub(super) fn without(guard: &str) -> Self {
        Self { expectation: Expectation::Control, circumstances: format!(", without {guard}") }
    }

    /// What else guards is removed, to see one guard alone.
    pub(super) fn with_only(guard: &str) -> Self {
        Self { expectation: Expectation::Held, circumstances: format!(", with nothing but {guard}") }
    }

    /// A guard was put back.
    pub(super) fn with(guard: &str) -> Self {
        Self { expectation: Expectation::Held, circumstances: format!(", with {guard} back") }
    }

    pub(super) fn attack(
        &self,
        suite: &str,
        target: impl Into<String>,
        attempt: impl AsRef<str>,
        outcome: Outcome,
    ) -> Attack {
        Attack {
            suite: suite.to_owned(),
            target: target.into(),
            attempt: format!("{}{}", attempt.as_ref(), self.circumstances),
            expectation: self.expectation,
            outcome,
        }
    }

    /// What its owner may do.
    pub(super) fn allowed(
        suite: &str,
        target: impl Into<String>,
        attempt: impl Into<String>,
        outcome: Outcome,
    ) -> Attack {
        Attack {
            suite: suite.to_owned(),
            target: target.into(),
            attempt: attempt.into(),
            expectation: Expectation::Allowed,
            outcome,
        }
    }
}

/// It could not be carried out; why.
pub(super) fn not_carried_out(why: impl Into<String>) -> Outcome {
    Outcome::NotCarriedOut(why.into())
}

/// Whether an attack was not carried out for want of a row that somebody would have to seed. In a database
/// that is somebody's own that is no hole: where there is no row, there is nothing to reach.
#[must_use]
pub fn wants_a_row(attack: &Attack) -> bool {
    matches!(&attack.outcome, Outcome::NotCarriedOut(why) if why.contains(": seed one"))
}
