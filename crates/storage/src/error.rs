//! What a database error means for the caller, without knowing what was stored.

use std::borrow::Cow;

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use stagesub_tenancy::{BeginError, BoxError};

/// SQLSTATE that `app.enter` and `app.refuse` raise: this database does not serve the tenant at the given epoch.
pub const STALE_EPOCH: &str = "TN001";
/// SQLSTATE that `app.enter` raises: a writing transaction above READ COMMITTED.
pub const ISOLATION: &str = "TN002";
/// SQLSTATE that `app.bind` raises: of a transaction that may write, or is bound already.
pub const NOT_BINDABLE: &str = "TN003";

/// SQLSTATE of a lock that was not to be had in time.
pub const LOCK_NOT_AVAILABLE: &str = "55P03";
/// SQLSTATE of a session that the server ended because its transaction did nothing for too long.
pub(crate) const IDLE_IN_TRANSACTION: &str = "25P03";

/// What a database error means.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// A constraint refused the change; its name, where Postgres gives it.
    Constraint(String),
    /// Another transaction was in the way: deadlock, serialization, a lock that was not to be had.
    Contended,
    /// The connection is gone, refused, or the server is going down: nothing is wrong with the statement.
    ConnectionLost,
    /// The statement took longer than it may.
    TimedOut,
    /// The server has no connection or memory left.
    Exhausted,
    /// The tenant is served elsewhere, or at another epoch.
    StaleEpoch,
    /// The statement itself is wrong, or not allowed.
    Statement,
}

/// Classifies an error of the driver.
#[must_use]
pub fn classify(error: &sqlx::Error) -> Failure {
    match error {
        sqlx::Error::Database(database) => classify_database(database.as_ref()),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::PoolClosed => {
            Failure::ConnectionLost
        }
        sqlx::Error::PoolTimedOut => Failure::Exhausted,
        _ => Failure::Statement,
    }
}

fn classify_database(error: &dyn DatabaseError) -> Failure {
    classify_code(error.code().as_deref().unwrap_or_default(), error.constraint())
}

/// The table of SQLSTATEs.
fn classify_code(code: &str, constraint: Option<&str>) -> Failure {
    match code {
        STALE_EPOCH => Failure::StaleEpoch,
        "23505" | "23503" | "23514" | "23502" | "23P01" => {
            Failure::Constraint(constraint.unwrap_or_default().to_owned())
        }
        "40P01" | "40001" | "55P03" => Failure::Contended,
        "57014" => Failure::TimedOut,
        // 25P03 and 57P05: the server ended a session that was idle for too long.
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => Failure::ConnectionLost,
        code if code.starts_with("08") => Failure::ConnectionLost,
        code if code.starts_with("53") => Failure::Exhausted,
        _ => Failure::Statement,
    }
}

/// Whether the connection itself is of no more use.
#[must_use]
pub fn is_dead(error: &sqlx::Error) -> bool {
    classify(error) == Failure::ConnectionLost
}

/// The SQLSTATE, if the server gave one.
#[must_use]
pub fn sqlstate(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error().and_then(DatabaseError::code)
}

/// Why a begin failed.
pub(crate) fn begin_error(error: sqlx::Error) -> BeginError {
    match classify(&error) {
        Failure::StaleEpoch => BeginError::Moved,
        Failure::Contended => BeginError::Locked(Box::new(error)),
        _ => BeginError::Unavailable(Box::new(error)),
    }
}

/// A transaction was not, or not surely, committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The database refused: nothing was kept. An earlier statement failed, or the transaction was ended
    /// behind its owner's back.
    #[error("the transaction was not committed")]
    Refused(#[source] BoxError),
    /// The connection was lost while committing: whether it was kept is not known.
    #[error("the connection was lost while committing")]
    Unknown(#[source] BoxError),
}

/// Whether an error of a COMMIT leaves it open what became of the transaction. A server that ended the session for
/// being idle says that no COMMIT had reached it. One that gives up in the middle of it, as when its log cannot be
/// flushed, may find the commit there when it is up again.
pub(crate) fn leaves_open(error: &sqlx::Error) -> bool {
    (is_dead(error) || ends_session(error)) && sqlstate(error).as_deref() != Some(IDLE_IN_TRANSACTION)
}

/// Whether the server ended the session, or itself, with this error.
pub(crate) fn ends_session(error: &sqlx::Error) -> bool {
    let error = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    error.is_some_and(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

/// Whether the session is not as it was told to be when it was made: its transactions write, or it has a tenant.
pub(crate) fn is_unbindable(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some(NOT_BINDABLE)
}

/// Whether a function is missing, as `app.bind` is in a database that was not migrated yet.
pub(crate) fn lacks_function(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("42883")
}

/// Of a statement that was prepared: it is not there (26000), there already (42P05), or its result has changed
/// its type (0A000).
pub(crate) fn is_unprepared(error: &sqlx::Error) -> bool {
    matches!(sqlstate(error).as_deref(), Some("26000" | "42P05" | "0A000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sqlstate_we_act_on_has_its_meaning() {
        for (code, meaning) in [
            ("TN001", Failure::StaleEpoch),
            ("TN002", Failure::Statement),
            ("TN003", Failure::Statement),
            ("23505", Failure::Constraint("musician_email_key".to_owned())),
            ("40P01", Failure::Contended),
            ("40001", Failure::Contended),
            ("55P03", Failure::Contended),
            ("57014", Failure::TimedOut),
            ("57P01", Failure::ConnectionLost),
            ("57P05", Failure::ConnectionLost),
            ("25P03", Failure::ConnectionLost),
            ("08006", Failure::ConnectionLost),
            ("53300", Failure::Exhausted),
            ("42501", Failure::Statement),
            ("42704", Failure::Statement),
        ] {
            assert_eq!(classify_code(code, Some("musician_email_key")), meaning, "{code}");
        }
    }

    #[test]
    fn a_broken_socket_is_a_lost_connection() {
        let error = sqlx::Error::Io(std::io::ErrorKind::BrokenPipe.into());
        assert!(is_dead(&error));
        assert!(leaves_open(&error));
        assert!(matches!(begin_error(error), BeginError::Unavailable(_)));
    }
}
