//! Attacks on the isolation of tenants, and what became of each.
//!
//! A proof is a list of attacks that were carried out. An attack that held is evidence only beside a control:
//! the same attack with the guard removed must be seen to succeed, or it would hold against nothing. So a
//! proof passes when every attack held, every control succeeded, and none could not be carried out.
//!
//! Whoever attacks (requests over HTTP, which `http` makes; statements as the application's login) adds its
//! attacks to one [`Proof`].

use serde::{Deserialize, Serialize};

#[cfg(feature = "axum")]
pub mod http;

/// What an attack is meant to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expectation {
    /// The guards stand: the attack must fail.
    Held,
    /// A guard was removed, on something made for that alone: the attack must succeed.
    Control,
    /// What its owner may do, done as its owner: it must succeed, or a refusal elsewhere would prove nothing.
    Allowed,
}

/// What became of an attack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome", content = "detail")]
pub enum Outcome {
    /// It was refused, or reached nothing.
    Refused,
    /// It reached what it was after; how that showed.
    Reached(String),
    /// It could not be carried out, so it shows nothing; why.
    NotCarriedOut(String),
}

/// One attack and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attack {
    /// The family it belongs to, in kebab-case: `tables`, `foreign-keys`, `routes`.
    pub suite: String,
    /// What was attacked: a table, a key, a route.
    pub target: String,
    /// What was tried: an operation and what it was bound to, a caller and a host.
    pub attempt: String,
    /// What it is meant to show.
    pub expectation: Expectation,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Attack {
    /// Whether it became what it was expected to.
    #[must_use]
    pub fn passed(&self) -> bool {
        match (self.expectation, &self.outcome) {
            (Expectation::Held, Outcome::Refused)
            | (Expectation::Control | Expectation::Allowed, Outcome::Reached(_)) => true,
            (_, Outcome::NotCarriedOut(_))
            | (Expectation::Held, Outcome::Reached(_))
            | (Expectation::Control | Expectation::Allowed, Outcome::Refused) => false,
        }
    }
}

/// Attacks that were carried out, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Proof {
    attacks: Vec<Attack>,
}

/// How many attacks of one suite there were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    /// The suite.
    pub suite: String,
    /// Attacks that had to fail.
    pub attacks: usize,
    /// Attacks with a guard removed, that had to succeed.
    pub controls: usize,
    /// What an owner may do.
    pub allowed: usize,
    /// Those of all three that did not become what they were expected to.
    pub failed: usize,
}

impl Proof {
    /// No attack yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { attacks: Vec::new() }
    }

    /// Adds one.
    pub fn push(&mut self, attack: Attack) {
        self.attacks.push(attack);
    }

    /// Adds those of another.
    pub fn append(&mut self, other: Self) {
        self.attacks.extend(other.attacks);
    }

    /// Every attack.
    #[must_use]
    pub fn attacks(&self) -> &[Attack] {
        &self.attacks
    }

    /// Those that did not become what they were expected to.
    pub fn failures(&self) -> impl Iterator<Item = &Attack> {
        self.attacks.iter().filter(|attack| !attack.passed())
    }

    /// Whether there were attacks, and each became what it was expected to. No attack proves nothing.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.attacks.iter().any(|attack| attack.expectation == Expectation::Held)
            && self.failures().next().is_none()
    }

    /// Counts by suite, in the order in which suites began.
    #[must_use]
    pub fn counts(&self) -> Vec<Count> {
        let mut counts: Vec<Count> = Vec::new();
        for attack in &self.attacks {
            let place = counts.iter().position(|count| count.suite == attack.suite);
            let place = place.unwrap_or_else(|| {
                counts.push(Count { suite: attack.suite.clone(), ..Count::default() });
                counts.len() - 1
            });
            let count = &mut counts[place];
            match attack.expectation {
                Expectation::Held => count.attacks += 1,
                Expectation::Control => count.controls += 1,
                Expectation::Allowed => count.allowed += 1,
            }
            count.failed += usize::from(!attack.passed());
        }
        counts
    }
}

impl Extend<Attack> for Proof {
    fn extend<T: IntoIterator<Item = Attack>>(&mut self, attacks: T) {
        self.attacks.extend(attacks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attack(suite: &str, expectation: Expectation, outcome: Outcome) -> Attack {
        Attack {
            suite: suite.to_owned(),
            target: "tenant.musician".to_owned(),
            attempt: "SELECT, bound to another tenant".to_owned(),
            expectation,
            outcome,
        }
    }

    fn reached() -> Outcome {
        Outcome::Reached("3 rows".to_owned())
    }

    fn not_carried_out() -> Outcome {
        Outcome::NotCarriedOut("no row to attack".to_owned())
    }

    #[test]
    fn an_attack_passes_as_it_was_expected_to_and_never_uncarried() {
        for expectation in [Expectation::Held, Expectation::Control, Expectation::Allowed] {
            let held = expectation == Expectation::Held;
            assert_eq!(attack("t", expectation, Outcome::Refused).passed(), held);
            assert_eq!(attack("t", expectation, reached()).passed(), !held);
            assert!(!attack("t", expectation, not_carried_out()).passed());
        }
    }

    #[test]
    fn nothing_tried_proves_nothing() {
        let mut proof = Proof::new();
        assert!(!proof.passed());
        proof.push(attack("t", Expectation::Control, reached()));
        assert!(!proof.passed(), "controls alone prove nothing");
        proof.push(attack("t", Expectation::Held, Outcome::Refused));
        assert!(proof.passed());
        proof.push(attack("t", Expectation::Control, Outcome::Refused));
        assert!(!proof.passed(), "an attack that fails without the guard is no attack");
    }

    #[test]
    fn suites_are_counted_in_their_order() {
        let mut proof = Proof::new();
        proof.push(attack("tables", Expectation::Held, Outcome::Refused));
        proof.push(attack("routes", Expectation::Allowed, reached()));
        proof.push(attack("tables", Expectation::Held, reached()));
        let counts: Vec<_> = proof
            .counts()
            .into_iter()
            .map(|c| (c.suite, c.attacks, c.controls, c.allowed, c.failed))
            .collect();
        assert_eq!(counts, [("tables".to_owned(), 2, 0, 0, 1), ("routes".to_owned(), 0, 0, 1, 0)]);
    }
}
