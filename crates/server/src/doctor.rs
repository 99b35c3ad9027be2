//! Whether the databases are fit to be served from: asked at each start, and by `stagesub doctor`.

use std::collections::BTreeMap;
use std::time::Duration;

use stagesub_storage::doctor::{Bounds, DoctorError, Expectations, Finding, Level, Report, examine_platform};
use stagesub_storage::seal::KeyRing;
use stagesub_storage::target::ConnectionTarget;

/// What a start gives it. A dedicated database that is away must not keep the others' tenants waiting.
pub const AT_START: Bounds =
    Bounds { database: Duration::from_secs(10), dedicated: Some(Duration::from_secs(20)), at_once: 8 };

/// Examines every database of the platform.
pub async fn examine(
    database_url: &ConnectionTarget,
    keys: &KeyRing,
    bounds: Bounds,
) -> Result<Report, DoctorError> {
    examine_platform(database_url, keys, &Expectations::default(), bounds).await
}

/// Refuses to serve on a hole. What is less than a hole is logged, once a lint.
///
/// # Errors
/// [`Unsound`], a sentence for whoever starts the server.
pub fn refuse_on_hole(report: &Report) -> Result<(), Unsound> {
    if let Some(first) = report.first_hole() {
        return Err(Unsound { first: first.clone(), holes: report.count(Level::Hole) });
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
    pub first: Finding,
    /// How many there are.
    pub holes: usize,
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn less_than_a_hole_is_served() {
        let report = Report::from_iter([finding(Level::Partial), finding(Level::Note)]);
        refuse_on_hole(&report).unwrap();
    }
}
