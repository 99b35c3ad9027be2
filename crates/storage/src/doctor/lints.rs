//! Lints that are one query each: a row is a finding, its object and the SQL that mends it.
//!
//! Each query begins with `design`, one row of what is expected: `data` and `ours` (schemas of tenant data; all of
//! the platform's), `reference` (tables without tenants), `trusted` (roles), `open` (schemas beside), `app` (the
//! application's role, NULL without one). The search path is `pg_catalog`, so names come back with their schemas.
//! Queries are run from this table and not through the compiler's macros; a test makes each of them find its hole.

mod relations;
mod roles;
mod routines;
mod schemas;

use sqlx::{AssertSqlSafe, PgConnection};

use super::expectations::Expectations;
use super::report::{Finding, Level};

/// What a lint looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// One database.
    Database,
    /// The whole server, whichever of its databases is asked.
    Server,
}

/// One lint.
#[derive(Debug)]
pub(super) struct Lint {
    pub(super) name: &'static str,
    pub(super) level: Level,
    pub(super) of: Of,
    pub(super) why: &'static str,
    sql: &'static str,
}

/// Every lint, in the order its findings are to be mended in.
pub(super) fn all() -> impl Iterator<Item = &'static Lint> {
    [relations::LINTS, routines::LINTS, schemas::LINTS, roles::LINTS].into_iter().flatten()
}

const DESIGN: &str = "WITH RECURSIVE design AS (
    SELECT $1::text[] AS data, $2::text[] AS ours, $3::text[] AS reference, $4::text[] AS trusted, $5::text[] AS open,
        (SELECT oid FROM pg_roles WHERE rolname = 'stagesub_app') AS app
)";

impl Lint {
    /// Asks. `ours` are the platform's schemas that this database may have.
    pub(super) async fn findings(
        &self,
        conn: &mut PgConnection,
        database: &str,
        expected: &Expectations,
    ) -> Result<Vec<Finding>, sqlx::Error> {
        let reference: Vec<String> = expected.reference.iter().map(ToString::to_string).collect();
        // Both halves are literals of this crate.
        let rows: Vec<(String, String)> = sqlx::query_as(AssertSqlSafe(format!("{DESIGN}{}", self.sql)))
            .bind(&expected.data)
            .bind(expected.ours())
            .bind(reference)
            .bind(&expected.roles)
            .bind(&expected.schemas)
            .fetch_all(conn)
            .await?;
        Ok(rows.into_iter().map(|(object, mend)| self.finding(database, object, mend)).collect())
    }

    fn finding(&self, database: &str, object: String, mend: String) -> Finding {
        Finding {
            level: self.level,
            lint: self.name,
            database: database.to_owned(),
            object,
            why: self.why.to_owned(),
            mend,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_words() {
        for lint in all() {
            assert!(lint.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", lint.name);
            assert!(!lint.why.ends_with('.') && !lint.why.is_empty(), "{}", lint.name);
        }
    }
}
