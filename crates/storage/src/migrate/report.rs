//! What setting up did, for the one who ran it.

use stagesub_tenancy::DatabaseId;

use super::error::MigrateError;
use crate::marker::DatabaseKind;

/// What `migrate` did and what it could not do.
#[derive(Debug)]
pub struct MigrateReport {
    /// Roles that were made on some server.
    pub created_roles: Vec<String>,
    /// Each database, the registry first.
    pub databases: Vec<DatabaseReport>,
    /// What this user's privileges did not allow. The platform works without it, less well defended.
    pub partial: Vec<Partial>,
}

impl MigrateReport {
    /// Whether every registered database stands at this program's schema.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.databases.iter().all(|database| database.outcome.is_ok())
    }
}

/// What was done to one database.
#[derive(Debug)]
pub struct DatabaseReport {
    /// Its id in the registry.
    pub id: DatabaseId,
    /// What it holds.
    pub kind: DatabaseKind,
    /// Where it is: `host:port/name`.
    pub place: String,
    /// Versions of the migrations that were applied now, or why they could not be. One database's failure
    /// does not stop the others.
    pub outcome: Result<Vec<i64>, MigrateError>,
}

/// Something that needs more privileges than were given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial {
    /// What is missing.
    pub name: String,
    /// Why it could not be done.
    pub why: String,
    /// What a superuser runs to mend it.
    pub sql: String,
}
