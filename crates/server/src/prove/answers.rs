//! What a customer's security questionnaire asks, answered in words, each with the attacks that support it.

use serde::{Deserialize, Serialize};
use stagesub_tenancy::prove::{Count, Proof};

/// A question, its answer, and what supports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// What is asked.
    pub question: String,
    /// What there is to say.
    pub answer: String,
    /// Whether this run supports it: each family of attacks below was tried, and none failed.
    pub supported: bool,
    /// The attacks, by family.
    pub evidence: Vec<Count>,
}

struct Text {
    question: &'static str,
    answer: &'static str,
    /// Families that this rests on.
    suites: &'static [&'static str],
}

const TEXTS: &[Text] = &[
    Text {
        question: "Is our data separated from that of other customers, and how?",
        answer: "Yes. Every row of every tenant table carries its tenant. PostgreSQL itself enforces it: row-level \
                 security is enabled and forced on every such table, with a restrictive policy that compares the \
                 row's tenant with the one the transaction is bound to, for reading and for writing. Keys and \
                 foreign keys contain the tenant, so a row cannot even refer to another tenant's. A customer may \
                 have a database of their own, behind the same rules. Each table was attacked with each operation, \
                 bound to no tenant, to another and to garbage; each foreign key and unique key across tenants.",
        suites: &["tables", "foreign-keys", "unique-keys"],
    },
    Text {
        question: "Can a request of one customer reach another customer's data?",
        answer: "No. The tenant is that of the host alone; no header, parameter or id chooses it. A token opens the \
                 host that it was given out at and no other. Every route of the API was tried as every role with \
                 another customer's ids, with another customer's token, with forged tokens, at hosts that are \
                 nobody's and with headers that claim to be another customer. The answer to another customer's id \
                 is, byte for byte, the answer to an id that does not exist.",
        suites: &[
            "http-own",
            "http-other-ids",
            "http-other-token",
            "http-unknown-host",
            "http-foreign-host",
            "http-forged-token",
            "http-headers",
        ],
    },
    Text {
        question: "What if a developer forgets a filter in a query?",
        answer: "The query still returns the rows of the bound tenant only, and raises an error where no tenant is \
                 bound: the policy is the database's and is no part of the query. The tables were attacked with \
                 statements that have no filter at all. That the attacks are sound was shown on a database made \
                 for it, where the same statements succeeded once the policy was removed.",
        suites: &["tables"],
    },
    Text {
        question: "Can the application switch the protection off?",
        answer: "No. It signs in as a role that owns nothing, bypasses nothing and may change no table, policy or \
                 function; row-level security is forced, so that it holds the owner of the tables too.",
        suites: &["fence-lifting", "owner"],
    },
    Text {
        question: "Can an operator of the platform look into a customer's data with their account?",
        answer: "Not through the API: an administrator of the platform reaches the list of customers, and is nobody \
                 at a customer's host. Nor do a customer's people reach the platform's own routes.",
        suites: &["http-platform"],
    },
    Text {
        question: "What happens to the access of a customer who is suspended?",
        answer: "It ends at once. Tokens that were good before are refused at the suspended customer's host on every \
                 route, and open no other host.",
        suites: &["http-suspended"],
    },
    Text {
        question: "Can stale routing reach the wrong database after a customer was moved?",
        answer: "No. Each transaction names the epoch of the placement it goes by, and a database refuses the \
                 transaction of a tenant that it does not serve at that epoch. Each database is marked with what it \
                 is, and a pool is opened on none that is marked otherwise.",
        suites: &["epoch"],
    },
    Text {
        question: "Do background jobs cross between customers?",
        answer: "They reach data the way requests do: through a scope that names one tenant, in a transaction bound \
                 to that tenant. Code that holds no scope does not compile into a query. The database's rules above \
                 hold for them as for requests.",
        suites: &["tables", "epoch"],
    },
    Text {
        question: "Are the credentials of the databases encrypted?",
        answer: "Connection strings are sealed with AES-256-GCM, each bound to its database, role and tenant, with \
                 keys that are kept outside of the database and can be rotated. This run opened its databases with \
                 strings sealed so.",
        suites: &["tables"],
    },
    Text {
        question: "How is this verified, and how often?",
        answer: "By this report: a program attacked the system as it runs, and repeated attacks with a guard removed, \
                 where they had to succeed. It can be run at any time, by the operator, on the live system, without \
                 touching customers' data: it works with tenants of its own that are suspended between runs, and \
                 with transactions that are rolled back. The report is dated and signed (Ed25519); `stagesub prove \
                 --verify` checks it against the operator's public key. The same attacks are part of the tests that \
                 every change of the product has to pass.",
        suites: &["tables", "http-own", "http-foreign-host", "http-other-token"],
    },
];

/// The questionnaire, answered with what this proof shows.
#[must_use]
pub fn answers(proof: &Proof) -> Vec<Answer> {
    let counts = proof.counts();
    TEXTS
        .iter()
        .map(|text| {
            let evidence: Vec<Count> = text.suites.iter().filter_map(|suite| find(&counts, suite)).collect();
            let supported = evidence.len() == text.suites.len()
                && evidence.iter().all(|count| count.failed == 0 && count.attacks > 0);
            Answer { question: text.question.to_owned(), answer: text.answer.to_owned(), supported, evidence }
        })
        .collect()
}

fn find(counts: &[Count], suite: &str) -> Option<Count> {
    counts.iter().find(|count| count.suite == suite).cloned()
}

#[cfg(test)]
mod tests {
    use stagesub_tenancy::prove::{Attack, Expectation, Outcome};

    use super::*;

    fn proof(outcome: &Outcome) -> Proof {
        let mut proof = Proof::new();
        for suite in TEXTS.iter().flat_map(|text| text.suites) {
            proof.push(Attack {
                suite: (*suite).to_owned(),
                target: "t".to_owned(),
                attempt: "a".to_owned(),
                expectation: Expectation::Held,
                outcome: outcome.clone(),
            });
        }
        proof
    }

    #[test]
    fn an_answer_is_supported_by_what_was_tried_and_held_alone() {
        assert!(answers(&proof(&Outcome::Refused)).iter().all(|answer| answer.supported));
        let reached = Outcome::Reached("3 rows".to_owned());
        assert!(answers(&proof(&reached)).iter().all(|answer| !answer.supported));
        let untried = answers(&Proof::new());
        assert!(untried.iter().all(|answer| !answer.supported && answer.evidence.is_empty()));
    }
}
