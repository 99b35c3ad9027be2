//! What was found, and how bad it is.

use std::fmt;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// One tenant reaches another's data, or would once one more fence gives way. The server does not serve.
    Hole,
    /// Less well defended than it could be; told and served.
    Partial,
    /// To be known.
    Note,
}

impl Level {
    /// The word for reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hole => "hole",
            Self::Partial => "partial",
            Self::Note => "note",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad.
    pub level: Level,
    /// Which lint found it: a stable name, for programs.
    pub lint: &'static str,
    /// The database: `host:port/name`, or its name alone.
    pub database: String,
    /// What is wrong: a table, a policy on a table, a role.
    pub object: String,
    /// Why that matters.
    pub why: String,
    /// The SQL that mends it, for an administrator connected to that database; words, as an SQL comment, where no
    /// statement can.
    pub mend: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}: {} ({}: {})", self.level, self.database, self.object, self.lint, self.why)
    }
}

/// Everything that was found, the worst first. Written as
/// `{"ok", "holes", "partials", "notes", "findings": [..]}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    /// Adds a finding, of a lint here or of a probe elsewhere.
    pub fn add(&mut self, finding: Finding) {
        let place = self.findings.partition_point(|other| other.level <= finding.level);
        self.findings.insert(place, finding);
    }

    /// The findings, the worst first and otherwise in the order they are to be mended in.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// How many findings have this level.
    #[must_use]
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    /// Whether there is no hole.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.first_hole().is_none()
    }

    /// The hole to mend first.
    #[must_use]
    pub fn first_hole(&self) -> Option<&Finding> {
        self.findings.first().filter(|finding| finding.level == Level::Hole)
    }
}

impl Extend<Finding> for Report {
    fn extend<T: IntoIterator<Item = Finding>>(&mut self, findings: T) {
        for finding in findings {
            self.add(finding);
        }
    }
}

impl FromIterator<Finding> for Report {
    fn from_iter<T: IntoIterator<Item = Finding>>(findings: T) -> Self {
        let mut report = Self::default();
        report.extend(findings);
        report
    }
}

impl IntoIterator for Report {
    type Item = Finding;
    type IntoIter = std::vec::IntoIter<Finding>;

    fn into_iter(self) -> Self::IntoIter {
        self.findings.into_iter()
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut report = serializer.serialize_struct("Report", 5)?;
        report.serialize_field("ok", &self.is_ok())?;
        report.serialize_field("holes", &self.count(Level::Hole))?;
        report.serialize_field("partials", &self.count(Level::Partial))?;
        report.serialize_field("notes", &self.count(Level::Note))?;
        report.serialize_field("findings", &self.findings)?;
        report.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(level: Level, object: &str) -> Finding {
        Finding {
            level,
            lint: "rls-off",
            database: "db:5432/shared".to_owned(),
            object: object.to_owned(),
            why: "because".to_owned(),
            mend: "ALTER;".to_owned(),
        }
    }

    #[test]
    fn the_worst_comes_first_and_equals_stay_in_their_order() {
        let report: Report = [
            finding(Level::Note, "a"),
            finding(Level::Hole, "b"),
            finding(Level::Partial, "c"),
            finding(Level::Hole, "d"),
        ]
        .into_iter()
        .collect();
        let order: Vec<&str> = report.findings().iter().map(|finding| finding.object.as_str()).collect();
        assert_eq!(order, ["b", "d", "c", "a"]);
        assert_eq!(report.first_hole().map(|hole| hole.object.as_str()), Some("b"));
    }

    #[test]
    fn only_a_hole_is_not_ok() {
        assert!(Report::default().is_ok());
        assert!(Report::from_iter([finding(Level::Partial, "a"), finding(Level::Note, "b")]).is_ok());
        assert!(!Report::from_iter([finding(Level::Hole, "a")]).is_ok());
    }

    #[test]
    fn programs_read_a_shape_that_stays() {
        let report = Report::from_iter([finding(Level::Hole, "tenant.musician")]);
        assert_eq!(
            serde_json::to_value(&report).unwrap(),
            serde_json::json!({
                "ok": false, "holes": 1, "partials": 0, "notes": 0,
                "findings": [{
                    "level": "hole", "lint": "rls-off", "database": "db:5432/shared",
                    "object": "tenant.musician", "why": "because", "mend": "ALTER;",
                }],
            })
        );
    }
}
