//! The mover's sessions on the two databases of a move.

use std::io;
use std::time::Duration;

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use uuid::Uuid;

use crate::deadline;
use crate::identity::{ConnectError, Identity};
use crate::target::ConnectionTarget;

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a server may say nothing where it has an answer or bytes to give. Long enough to find the first row of a
/// tenant in a large table.
pub(crate) const SILENCE: Duration = Duration::from_mins(5);
/// Statements that a session keeps prepared. Changes are made by statements of many shapes: by table, columns and
/// number of rows.
const STATEMENTS: usize = 1_000;
/// What is left of an application name's 63 bytes after `stagesub-move:`, a move's id and a colon.
const LONGEST_WHAT: usize = 12;

/// What every session begins with, in one message.
///
/// Policies are off: a login that may not switch them off meets an error where it would have seen no rows. Names are
/// looked up in the system's schema alone, since this login is not bound to any policy. Texts of values are the same
/// on every server, for they are compared. A lock that somebody else holds is waited for within a bound; statements
/// and transactions take as long as the tenant is large. Nothing is compiled: a plan that keeps to indexes looks dear to the
/// planner, and compiling it takes longer than the answer. `synchronous_commit` stays what the server says. The server
/// notices a mover that is gone.
const SETTINGS: &str = "SET row_security = off; SET search_path = pg_catalog;
    SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET timezone = 'UTC'; SET extra_float_digits = 1;
    SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET xmloption = 'content';
    SET statement_timeout = 0; SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = 0;
    SET client_connection_check_interval = '2s'; SET client_min_messages = 'warning'; SET jit = off";

/// Has pages that a session writes be on their way to the disk soon. By itself the server's system would begin half a minute
/// later, with whole tables of them at once, and everybody's commits would wait behind them.
const WRITE_OUT: &str = "SET backend_flush_after = '256kB'";

/// Within the time that a server may say nothing. The session is to be dropped after it.
pub(crate) async fn unless_silent<T>(
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let mut settled = true;
    deadline::answer(answer, SILENCE, &mut settled, || ()).await
}

/// Keeps a session's plans to indexes, and to one row after the other in a join: right for looking keys up, whatever
/// the statistics of a table that was filled a moment ago.
const INDEXES: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";

/// The name under which a session of a move is seen in `pg_stat_activity`.
///
/// # Panics
/// If `what` is longer than 12 bytes: Postgres would cut the name off, and nobody would find the session by it.
#[must_use]
pub fn application_name(move_id: Uuid, what: &str) -> String {
    assert!(what.len() <= LONGEST_WHAT, "{what} does not fit into an application name");
    format!("{}{what}", application_prefix(move_id))
}

/// What the names of all sessions of a move begin with.
#[must_use]
pub fn application_prefix(move_id: Uuid) -> String {
    format!("stagesub-move:{move_id}:")
}

/// A session of the mover could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// No connection, or one to another database.
    #[error("the mover cannot use the database {database}")]
    Connect {
        /// Which, without secrets.
        database: String,
        /// Why.
        #[source]
        source: ConnectError,
    },
    /// The session could not be set up, or asked what it may.
    #[error("a session of the mover on {database} could not be set up")]
    Setup {
        /// Which, without secrets.
        database: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
}

/// One of the two databases of a move, and how the mover reaches it.
#[derive(Debug, Clone)]
pub struct Site {
    move_id: Uuid,
    login: ConnectionTarget,
    identity: Identity,
    gentle: bool,
}

impl Site {
    /// A database as the mover's login reaches it. Each session asks it whether it is the one meant.
    #[must_use]
    pub const fn new(move_id: Uuid, login: ConnectionTarget, identity: Identity) -> Self {
        Self { move_id, login, identity, gentle: false }
    }

    /// Sessions that are opened from here on have what they write written out as it comes, for those who flush to the same
    /// disk. A copy that may go as fast as it can takes up to a fifth longer by it.
    #[must_use]
    pub const fn gentle(mut self) -> Self {
        self.gentle = true;
        self
    }

    /// How the mover reaches it.
    pub(crate) const fn login(&self) -> &ConnectionTarget {
        &self.login
    }

    /// Of which move it is a side.
    pub(crate) const fn move_id(&self) -> Uuid {
        self.move_id
    }

    /// Opens a session. `what` says what it does, in 12 bytes at most.
    ///
    /// The driver sets no `TCP_NODELAY`: what is sent in several small packets waits some 40 ms for an acknowledgement
    /// over TCP. So what is asked in haste is one message, and a copy is large blocks.
    ///
    /// # Errors
    /// [`SessionError`].
    ///
    /// # Panics
    /// As [`application_name`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn open(&self, what: &str) -> Result<MoverSession, SessionError> {
        self.open_as(&application_name(self.move_id, what)).await
    }

    /// Opens a session that is not found by the move's name, for whoever ends those that are.
    ///
    /// # Errors
    /// [`SessionError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn open_apart(&self, what: &str) -> Result<MoverSession, SessionError> {
        self.open_as(&format!("stagesub-mover:{what}")).await
    }

    async fn open_as(&self, name: &str) -> Result<MoverSession, SessionError> {
        let options = self
            .login
            .to_connect_options()
            .application_name(name)
            .statement_cache_capacity(STATEMENTS)
            .disable_statement_logging();
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.identity.connect(&options)).await;
        let (mut conn, pid) = connected
            .unwrap_or_else(|elapsed| {
                let late = io::Error::new(io::ErrorKind::TimedOut, elapsed);
                Err(ConnectError::Database(sqlx::Error::Io(late)))
            })
            .map_err(|source| SessionError::Connect { database: self.login.describe(), source })?;
        let settings = if self.gentle { format!("{SETTINGS};{WRITE_OUT}") } else { SETTINGS.to_owned() };
        let set = sqlx::raw_sql(AssertSqlSafe(settings)).execute(&mut conn).await;
        let database = self.login.describe();
        set.map_err(|source| SessionError::Setup { database: database.clone(), source })?;
        Ok(MoverSession { conn, pid, database, keeps_to_indexes: false })
    }
}

/// A connection as the mover, with policies off.
#[derive(Debug)]
pub struct MoverSession {
    conn: PgConnection,
    pid: i32,
    database: String,
    keeps_to_indexes: bool,
}

impl MoverSession {
    /// The server's process.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Which database it is on, in words and without secrets.
    #[must_use]
    pub fn describe(&self) -> &str {
        &self.database
    }

    /// What statements run on. It does not leave this crate.
    pub(crate) const fn conn(&mut self) -> &mut PgConnection {
        &mut self.conn
    }

    /// Whether this login may set `session_replication_role`, which keeps triggers and foreign keys from being
    /// checked: a superuser does, and from PostgreSQL 15 on whoever was granted `SET ON PARAMETER`.
    ///
    /// # Errors
    /// [`SessionError::Setup`].
    pub async fn may_skip_checks(&mut self) -> Result<bool, SessionError> {
        let may = sqlx::query_scalar!(
            r#"SELECT pg_catalog.has_parameter_privilege('session_replication_role', 'SET') AS "may!""#
        )
        .fetch_one(&mut self.conn)
        .await;
        may.map_err(self.failed())
    }

    /// Checks no foreign key and fires no trigger from here on, for rows that were checked where they come from.
    ///
    /// # Errors
    /// [`SessionError::Setup`], also where the login may not.
    pub async fn skip_checks(&mut self) -> Result<(), SessionError> {
        let set = sqlx::raw_sql("SET session_replication_role = 'replica'").execute(&mut self.conn).await;
        set.map(drop).map_err(self.failed())
    }

    /// Waits for its commits to be durable from here on, on a synchronous standby too: others decide by them.
    ///
    /// # Errors
    /// [`SessionError::Setup`].
    pub async fn flush_commits(&mut self) -> Result<(), SessionError> {
        flush_commits(&mut self.conn).await.map_err(self.failed())
    }

    /// Begins a transaction whose snapshot others may read in, until [`MoverSession::leave_snapshot`]; its name.
    ///
    /// # Errors
    /// [`SessionError::Setup`].
    pub async fn export_snapshot(&mut self) -> Result<String, SessionError> {
        let begun =
            sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut self.conn).await;
        begun.map_err(self.failed())?;
        let name = sqlx::query_scalar!(r#"SELECT pg_catalog.pg_export_snapshot() AS "name!""#)
            .fetch_one(&mut self.conn)
            .await;
        name.map_err(self.failed())
    }

    /// Ends that transaction.
    ///
    /// # Errors
    /// [`SessionError::Setup`].
    pub async fn leave_snapshot(&mut self) -> Result<(), SessionError> {
        let ended = sqlx::raw_sql("COMMIT").execute(&mut self.conn).await;
        ended.map(drop).map_err(self.failed())
    }

    /// The bare connection, for whoever works on it alone from here on.
    pub(crate) fn into_conn(self) -> PgConnection {
        self.conn
    }

    /// Looks keys up by an index from here on, however the planner counts.
    ///
    /// # Errors
    /// [`SessionError::Setup`].
    pub async fn keep_to_indexes(&mut self) -> Result<(), SessionError> {
        if !self.keeps_to_indexes {
            sqlx::raw_sql(INDEXES).execute(&mut self.conn).await.map_err(self.failed())?;
            self.keeps_to_indexes = true;
        }
        Ok(())
    }

    /// Plans each statement once from here on, for any values: what is asked while a tenant waits is looked up by keys,
    /// and takes less time than its plan.
    ///
    /// # Errors
    /// [`SessionError::Setup`].
    pub async fn plan_once(&mut self) -> Result<(), SessionError> {
        let set = sqlx::raw_sql("SET plan_cache_mode = force_generic_plan").execute(&mut self.conn).await;
        set.map(drop).map_err(self.failed())
    }

    /// Ends the session in good order.
    pub async fn close(self) {
        if let Err(error) = self.conn.close().await {
            tracing::debug!(%error, "a session of the mover did not close cleanly");
        }
    }

    fn failed(&self) -> impl FnOnce(sqlx::Error) -> SessionError + use<> {
        let database = self.database.clone();
        |source| SessionError::Setup { database, source }
    }
}

/// Has the session's commits be durable before they are answered, on a synchronous standby too where there is one:
/// others decide by them. A server that waits for more than that goes on to.
pub(crate) async fn flush_commits(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let durable = sqlx::query_scalar!(
        r#"SELECT current_setting('synchronous_commit') IN ('on', 'remote_apply') AS "durable!""#
    )
    .fetch_one(&mut *conn)
    .await?;
    if !durable {
        sqlx::raw_sql("SET synchronous_commit = on").execute(conn).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_found_by_its_move() {
        let name = application_name(Uuid::max(), "x".repeat(LONGEST_WHAT).as_str());
        assert_eq!(name.len(), 63);
        assert!(name.starts_with(&application_prefix(Uuid::max())));
        assert!(!name.starts_with(&application_prefix(Uuid::nil())));
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn a_name_that_postgres_would_cut_off_is_refused() {
        let _ = application_name(Uuid::max(), "thirteenbytes");
    }
}
