//! What was promised to be kept or gone, and what was not said of.

use stagesub_tenancy::TenantId;

/// What became of the writes of one task, or of all.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Musicians that a server said it made: whose, and by which address.
    pub(crate) musicians: Vec<(TenantId, String)>,
    /// Musicians whose maker went away before the answer.
    pub(crate) doubtful_musicians: Vec<(TenantId, String)>,
    /// Projects that are there, by number.
    pub(crate) projects: Vec<(TenantId, i64)>,
    /// Projects whose maker or remover went away before the answer; they are there once or not at all.
    pub(crate) doubtful_projects: Vec<(TenantId, i64)>,
    /// Projects that a server said are gone.
    pub(crate) removed_projects: Vec<(TenantId, i64)>,
}

impl Ledger {
    /// Adds what another task knows.
    pub(crate) fn merge(&mut self, other: Self) {
        self.musicians.extend(other.musicians);
        self.doubtful_musicians.extend(other.doubtful_musicians);
        self.projects.extend(other.projects);
        self.doubtful_projects.extend(other.doubtful_projects);
        self.removed_projects.extend(other.removed_projects);
    }
}
