//! What a proof found, for people and for programs.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stagesub_tenancy::prove::{Attack, Count, Expectation, Outcome, Proof};

use super::answers::{Answer, answers};

/// Failures that are told one by one.
const TOLD: usize = 20;

/// A dated account of one proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What was attacked.
    pub product: String,
    /// Its version.
    pub version: String,
    /// When the proof was begun.
    pub begun_at: DateTime<Utc>,
    /// When it was done.
    pub ended_at: DateTime<Utc>,
    /// Whether every attack became what it was expected to.
    pub passed: bool,
    /// The domain that tenants are served under.
    pub app_domain: String,
    /// `in process`, or the address of the service.
    pub target: String,
    /// The registry.
    pub registry: AttackedDatabase,
    /// The databases that hold tenants.
    pub databases: Vec<AttackedDatabase>,
    /// Attacks on customers' own databases that found nothing to attack: a table that is empty there.
    pub left_out: Vec<String>,
    /// How many operations of the API were attacked.
    pub operations: usize,
    /// As whom.
    pub roles: Vec<String>,
    /// How many tables were attacked, counted once for each database.
    pub tables: usize,
    /// Milliseconds until a suspension was seen by the service.
    pub suspension_seen_after_millis: u64,
    /// Attacks by family.
    pub counts: Vec<Count>,
    /// What did not become what it was expected to.
    pub failures: Vec<Attack>,
    /// A customer's questions, answered.
    pub answers: Vec<Answer>,
    /// Every attack.
    pub attacks: Proof,
}

/// A database, without its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttackedDatabase {
    /// Its id in the registry.
    pub id: String,
    /// `registry`, `shared` or `dedicated`.
    pub kind: String,
    /// Version of its server.
    pub server_version: String,
    /// Its newest migration.
    pub schema_version: i64,
}

/// What a run learnt beside the attacks.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) begun_at: DateTime<Utc>,
    pub(super) ended_at: DateTime<Utc>,
    pub(super) app_domain: String,
    pub(super) target: String,
    pub(super) registry: AttackedDatabase,
    pub(super) databases: Vec<AttackedDatabase>,
    pub(super) left_out: Vec<String>,
    pub(super) operations: usize,
    pub(super) roles: Vec<String>,
    pub(super) suspension_seen_after_millis: u64,
}

impl Report {
    pub(super) fn new(facts: Facts, proof: Proof) -> Self {
        let tables = proof
            .attacks()
            .iter()
            .filter(|attack| attack.suite == "tables" && attack.expectation == Expectation::Held);
        let tables: std::collections::BTreeSet<&str> = tables.map(|attack| attack.target.as_str()).collect();
        Self {
            product: "StageSub".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            begun_at: facts.begun_at,
            ended_at: facts.ended_at,
            passed: proof.passed(),
            app_domain: facts.app_domain,
            target: facts.target,
            registry: facts.registry,
            databases: facts.databases,
            left_out: facts.left_out,
            operations: facts.operations,
            roles: facts.roles,
            tables: tables.len(),
            suspension_seen_after_millis: facts.suspension_seen_after_millis,
            counts: proof.counts(),
            failures: proof.failures().cloned().collect(),
            answers: answers(&proof),
            attacks: proof,
        }
    }

    /// Whether the proof passed: by its attacks, whatever else it says of itself.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.passed && self.failures.is_empty() && self.attacks.passed()
    }

    /// JSON that people can read: indented, with one attack a line.
    ///
    /// # Panics
    /// Never: a report is JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut head = self.clone();
        head.attacks = Proof::new();
        let head = serde_json::to_string_pretty(&head).expect("a report is JSON");
        let lines: Vec<String> = self
            .attacks
            .attacks()
            .iter()
            .map(|attack| format!("    {}", serde_json::to_string(attack).expect("an attack is JSON")))
            .collect();
        let (before, after) = head.rsplit_once("[]").expect("the attacks come last");
        format!("{before}[\n{}\n  ]{after}", lines.join(",\n"))
    }

    /// Counts and the verdict, for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "Isolation of {} {}, {}, {}",
            self.product,
            self.version,
            self.target,
            self.ended_at.format("%Y-%m-%d %H:%M:%S UTC")
        );
        let _ = writeln!(
            text,
            "{} operations as {}; {} tables in {} databases\n",
            self.operations,
            self.roles.join(", "),
            self.tables,
            self.databases.len()
        );
        let _ = writeln!(
            text,
            "{:<20} {:>8} {:>8} {:>8} {:>8}",
            "SUITE", "ATTACKS", "CONTROLS", "ALLOWED", "FAILED"
        );
        for count in &self.counts {
            let _ = writeln!(
                text,
                "{:<20} {:>8} {:>8} {:>8} {:>8}",
                count.suite, count.attacks, count.controls, count.allowed, count.failed
            );
        }
        let sum = |of: fn(&Count) -> usize| self.counts.iter().map(of).sum::<usize>();
        let _ = writeln!(
            text,
            "{:<20} {:>8} {:>8} {:>8} {:>8}\n",
            "all",
            sum(|count| count.attacks),
            sum(|count| count.controls),
            sum(|count| count.allowed),
            sum(|count| count.failed)
        );
        if !self.left_out.is_empty() {
            let _ = writeln!(
                text,
                "{} attacks found an empty table in a customer's own database; leftOut in the report names them\n",
                self.left_out.len()
            );
        }
        for failure in self.failures.iter().take(TOLD) {
            let _ = writeln!(text, "{}", describe(failure));
        }
        if self.failures.len() > TOLD {
            let _ = writeln!(text, "... and {} more, in the report", self.failures.len() - TOLD);
        }
        let verdict = if self.holds() { "PASS" } else { "FAIL" };
        let _ = write!(text, "{verdict}");
        text
    }
}

fn describe(attack: &Attack) -> String {
    let outcome = match (&attack.outcome, attack.expectation) {
        (Outcome::Reached(how), _) => format!("REACHED: {how}"),
        (Outcome::NotCarriedOut(why), _) => format!("NOT CARRIED OUT: {why}"),
        (Outcome::Refused, Expectation::Control) => "was refused although the guard was removed".to_owned(),
        (Outcome::Refused, _) => "was refused to one who may".to_owned(),
    };
    format!("{}: {}: {}: {outcome}", attack.suite, attack.target, attack.attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcome: &Outcome) -> Report {
        let database = |kind: &str| AttackedDatabase {
            id: "d".to_owned(),
            kind: kind.to_owned(),
            server_version: "15.1".to_owned(),
            schema_version: 1,
        };
        let mut proof = Proof::new();
        for attempt in ["[]", "SELECT, bound to another"] {
            proof.push(Attack {
                suite: "tables".to_owned(),
                target: "tenant.musician".to_owned(),
                attempt: attempt.to_owned(),
                expectation: Expectation::Held,
                outcome: outcome.clone(),
            });
        }
        let facts = Facts {
            begun_at: DateTime::UNIX_EPOCH,
            ended_at: DateTime::UNIX_EPOCH,
            app_domain: "stagesub.test".to_owned(),
            target: "in process".to_owned(),
            registry: database("registry"),
            databases: vec![database("shared")],
            left_out: Vec::new(),
            operations: 30,
            roles: vec!["admin".to_owned()],
            suspension_seen_after_millis: 3,
        };
        Report::new(facts, proof)
    }

    #[test]
    fn json_reads_back_and_has_one_attack_a_line() {
        let report = report(&Outcome::Refused);
        let text = report.to_json();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        assert_eq!(text.lines().filter(|line| line.contains("\"outcome\":\"refused\"")).count(), 2, "{text}");
        assert_eq!(report.tables, 1);
    }

    #[test]
    fn the_verdict_is_that_of_the_attacks() {
        let passed = report(&Outcome::Refused);
        assert!(passed.holds() && passed.to_text().ends_with("PASS"));
        let mut failed = report(&Outcome::Reached("3 rows".to_owned()));
        assert!(!failed.holds() && failed.to_text().ends_with("FAIL"));
        assert!(failed.to_text().contains("REACHED: 3 rows"));
        failed.passed = true;
        failed.failures.clear();
        assert!(!failed.holds(), "what it says of itself does not count");
    }
}
