//! Whether the databases are fit to be served from: asked at each start, and by `stagesub doctor`.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use stagesub_storage::doctor::{Bounds, DoctorError, Expectations, Finding, Level, Report, examine_platform};
use stagesub_storage::seal::KeyRing;
use stagesub_storage::target::ConnectionTarget;

use crate::config::ServingSettings;
use crate::guards::{self, Guard, Guards, Probe};
use crate::problem::error_chain;
use crate::wiring::Platform;

/// Where the guards stand that no database has.
const ROUTER: &str = "the server";
/// They could not be tried, or did not answer as they have to and let nobody through.
const GUARDS_NOT_PROBED: &str = "guards-not-probed";

/// What a start gives it. A dedicated database that is away must not keep the others' tenants waiting.
pub const AT_START: Bounds =
    Bounds { database: Duration::from_secs(10), dedicated: Some(Duration::from_secs(20)), at_once: 8 };

/// Examines every database of the platform.
pub async fn examine(
    database_url: &ConnectionTarget,
    keys: &KeyRing,
    expected: &Expectations,
    bounds: Bounds,
) -> Result<Report, DoctorError> {
    examine_platform(database_url, keys, expected, bounds).await
}

/// Adds what the guards of a router came to when they were tried: somebody who got through is a hole, and so is
/// nothing else, since a node must not stay away for an answer that was late.
pub async fn probe_guards(
    report: &mut Report,
    platform: &Platform,
    serving: &ServingSettings,
    router: Router,
) {
    match guards::probe_router(platform, serving, router).await {
        Ok(guards) => report.extend(guard_findings(&guards)),
        Err(error) => report.add(not_probed(Level::Partial, &error_chain(&error))),
    }
}

/// What was found of the guards that stand before any database.
#[must_use]
pub fn guard_findings(guards: &Guards) -> Vec<Finding> {
    if *guards == Guards::TooFewTenants {
        return vec![not_probed(Level::Note, "fewer than two orchestras that are served have a member")];
    }
    guards.failures().map(guard_finding).collect()
}

fn guard_finding(probe: &Probe) -> Finding {
    let through = probe.guard != Guard::Control && probe.answered.is_success();
    let (level, lint) = match probe.guard {
        Guard::Host if through => (Level::Hole, "host-check"),
        Guard::Token if through => (Level::Hole, "token-check"),
        Guard::Host | Guard::Token | Guard::Control => (Level::Partial, GUARDS_NOT_PROBED),
    };
    let mend = match level {
        Level::Hole => {
            "No SQL mends it: what stands before the databases was changed. Serve a build that was not."
        }
        Level::Partial | Level::Note => {
            "Ask again; if it is answered so again, the log of the node says why."
        }
    };
    Finding {
        level,
        lint,
        database: ROUTER.to_owned(),
        object: probe.attempt.clone(),
        why: format!("it was answered {}, and has to be answered {}", probe.answered, probe.expected),
        mend: mend.to_owned(),
    }
}

/// The check of hosts and tokens was not tried.
#[must_use]
pub fn not_probed(level: Level, why: &str) -> Finding {
    Finding {
        level,
        lint: GUARDS_NOT_PROBED,
        database: ROUTER.to_owned(),
        object: "the checks of hosts and of tokens".to_owned(),
        why: format!("they were not tried: {why}"),
        mend: "Once that is so no more, ask again.".to_owned(),
    }
}

/// Refuses to serve on a hole. What is less than a hole is logged, once a lint.
///
/// # Errors
/// [`Unsound`], a sentence for whoever starts the server.
pub fn refuse_on_hole(report: &Report) -> Result<(), Unsound> {
    if let Some(first) = report.first_hole() {
        return Err(Unsound { first: Box::new(first.clone()), holes: report.count(Level::Hole) });
    }
    let mut by_lint: BTreeMap<&str, Vec<&Finding>> = BTreeMap::new();
    for finding in report.findings().iter().filter(|finding| finding.level == Level::Partial) {
        by_lint.entry(finding.lint).or_default().push(finding);
    }
    for (lint, found) in by_lint {
        tracing::warn!(
            lint,
            times = found.len(),
            database = found[0].database,
            what = found[0].object,
            why = found[0].why,
            "less well defended than it could be; `stagesub doctor` says how to mend it"
        );
    }
    Ok(())
}

/// A tenant's data could be reached by another.
#[derive(Debug, thiserror::Error)]
#[error(
    "the platform is not served, because its tenants are not isolated: {} in {} ({}: {}){}; `stagesub doctor` shows each \
     hole with the SQL that mends it",
    .first.object, .first.database, .first.lint, .first.why,
    match .holes { 1 => String::new(), holes => format!(", the first of {holes} holes") }
)]
pub struct Unsound {
    /// The hole to mend first.
    pub first: Box<Finding>,
    /// How many there are.
    pub holes: usize,
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn finding(level: Level) -> Finding {
        Finding {
            level,
            lint: "rls-off",
            database: "db:5432/shared".to_owned(),
            object: "tenant.musician".to_owned(),
            why: "its policies do not hold".to_owned(),
            mend: "ALTER TABLE;".to_owned(),
        }
    }

    #[test]
    fn a_hole_is_named_counted_and_led_to_its_mending() {
        let report = Report::from_iter([finding(Level::Hole), finding(Level::Hole), finding(Level::Note)]);
        let told = refuse_on_hole(&report).unwrap_err().to_string();
        for part in ["tenant.musician", "db:5432/shared", "rls-off", "2 holes", "stagesub doctor"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let told = refuse_on_hole(&Report::from_iter([finding(Level::Hole)])).unwrap_err().to_string();
        assert!(!told.contains("holes"), "{told}");
    }

    fn probe(guard: Guard, answered: StatusCode) -> Guards {
        let expected = StatusCode::NOT_FOUND;
        Guards::Asked(vec![Probe { guard, attempt: "a token".to_owned(), expected, answered }])
    }

    #[test]
    fn who_gets_through_is_a_hole_and_a_late_answer_none() {
        let found = |guards: &Guards| -> Vec<(Level, &str)> {
            guard_findings(guards).iter().map(|finding| (finding.level, finding.lint)).collect()
        };
        assert_eq!(found(&probe(Guard::Host, StatusCode::OK)), [(Level::Hole, "host-check")]);
        assert_eq!(found(&probe(Guard::Token, StatusCode::OK)), [(Level::Hole, "token-check")]);
        assert_eq!(found(&probe(Guard::Token, StatusCode::NOT_FOUND)), []);
        for (guard, answered) in
            [(Guard::Host, StatusCode::SERVICE_UNAVAILABLE), (Guard::Control, StatusCode::OK)]
        {
            assert_eq!(found(&probe(guard, answered)), [(Level::Partial, GUARDS_NOT_PROBED)]);
        }
        assert_eq!(found(&Guards::TooFewTenants), [(Level::Note, GUARDS_NOT_PROBED)]);
    }

    #[test]
    fn less_than_a_hole_is_served() {
        let report = Report::from_iter([finding(Level::Partial), finding(Level::Note)]);
        refuse_on_hole(&report).unwrap();
    }
}
