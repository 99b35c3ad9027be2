//! What a statement may do to the transaction that it runs in, told by how it begins.

use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArguments, PgStatement};
use sqlx::{Execute, Postgres, SqlStr};

/// What reads and writes rows, and does nothing to the transaction around it.
const ROWS: [&str; 6] = ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "MERGE"];

/// A statement on its way to the driver.
///
/// With arguments it is prepared, and what is prepared is one statement, so how it begins tells what it does.
/// Without it is text, which may be several.
pub(crate) struct Statement {
    sql: SqlStr,
    prepared: Option<PgStatement>,
    arguments: Result<Option<PgArguments>, BoxDynError>,
    persistent: bool,
}

impl Statement {
    pub(crate) fn of<'q>(mut query: impl Execute<'q, Postgres>) -> Self {
        let prepared = query.statement().cloned();
        let arguments = query.take_arguments();
        let persistent = query.persistent();
        Self { sql: query.sql(), prepared, arguments, persistent }
    }

    /// Whether it reads and writes rows and does nothing else. Never of text without arguments.
    pub(crate) fn is_rows_only(&self) -> bool {
        matches!(self.arguments, Ok(Some(_))) && begins_with_one_of(self.sql.as_str(), &ROWS)
    }
}

impl Execute<'_, Postgres> for Statement {
    fn sql(self) -> SqlStr {
        self.sql
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.prepared.as_ref()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        std::mem::replace(&mut self.arguments, Ok(None))
    }

    fn persistent(&self) -> bool {
        self.persistent
    }
}

/// Whether the first word, after white space and comments of one line, is one of these, in any case. A line ends where
/// PostgreSQL ends one, at a carriage return too: what is behind it would be taken for a comment and run.
fn begins_with_one_of(sql: &str, words: &[&str]) -> bool {
    let mut rest = sql.trim_start();
    while let Some(comment) = rest.strip_prefix("--") {
        let Some((_, next)) = comment.split_once(['\n', '\r']) else { return false };
        rest = next.trim_start();
    }
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    words.iter().any(|word| word.eq_ignore_ascii_case(&rest[..end]))
}

#[cfg(test)]
mod tests {
    use sqlx::{Arguments as _, AssertSqlSafe};

    use super::*;

    #[test]
    fn one_statement_that_reads_or_writes_rows_is_told_by_its_first_word() {
        let told = |sql: &'static str| Statement::of(sqlx::query(sql)).is_rows_only();
        for rows in [
            "SELECT 1",
            " \n\tselect 1",
            "-- a word\n-- and one\r\n UPDATE t SET a = 1",
            "-- a word\rMERGE INTO t",
            "WITH(x)",
            "DELETE",
        ] {
            assert!(told(rows), "{rows}");
        }
        for other in [
            "COMMIT",
            "rollback",
            "END",
            "ABORT",
            "BEGIN",
            "START TRANSACTION",
            "PREPARE TRANSACTION 'a'",
            "SAVEPOINT a",
            "RELEASE a",
            "SET a = 1",
            "RESET ALL",
            "CALL p()",
            "DO $$ $$",
            "SELECTED",
            "/* */ SELECT 1",
            "-- SELECT",
            "-- a word\rROLLBACK /*\nSELECT */",
            "--\nCOMMIT -- \nSELECT",
            "",
        ] {
            assert!(!told(other), "{other}");
        }
    }

    #[test]
    fn text_is_never_taken_for_one_statement() {
        assert!(!Statement::of(sqlx::raw_sql("SELECT 1")).is_rows_only());
        assert!(!Statement::of(AssertSqlSafe("SELECT 1; COMMIT; BEGIN")).is_rows_only());
    }

    #[test]
    fn the_driver_gets_what_was_asked() {
        let mut asked = Statement::of(sqlx::query("SELECT $1").bind(7_i64).persistent(false));
        assert!(!asked.persistent() && asked.statement().is_none());
        assert_eq!(asked.take_arguments().unwrap().map(|arguments| arguments.len()), Some(1));
        assert_eq!(asked.sql().as_str(), "SELECT $1");
    }
}
