//! Where a move's changes come from on a server that does not decode its log (`wal_level` below `logical`): triggers
//! that write what becomes of one tenant's rows into a log of the move's own, and a stream that reads it
//! ([`LogStream`]). Whoever applies it cannot tell it from a slot's: the same messages, and a position that grows.
//!
//! ```text
//! writer    AFTER ROW triggers  -> app.<log>           kind, table, old row, new row, as types send them; the number of
//!                                                      the transaction
//! mover     mark                -> app.<log>           a number, behind everything that was committed before
//! reader    a batch             -> app.<log>_batches   number and snapshot, one commit, whenever there is something new
//!           its entries, in order: what its snapshot sees and the one before did not
//!           Begin ... Commit    -> the applier         one transaction a batch; the position is twice its number
//! applier   acknowledged        -> entries and batches up to there are deleted, some at a time
//! ```
//!
//! A log is called after the move and its direction ([`stream_name`]), and so are its
//! function and its triggers. It lies in the database that changes are read from, belongs to the owner, and is granted
//! to nobody: a row gets in through the triggers' function alone, which runs as the owner, and only rows of the tenant
//! that moves do. The application neither reads nor writes it.
//!
//! # Nothing is missed
//! Making the triggers of a table takes its `SHARE ROW EXCLUSIVE` lock, which waits for all who write to it. So when all
//! tables have theirs, whatever was written before is committed or gone, and whatever is written from then on is
//! logged. The snapshot of batch 0 is taken after that, and is the one that rows are copied in: a transaction that it
//! sees is copied, one that it does not see is logged whole, and its entries are in no batch before the first.
//!
//! A batch is what a snapshot sees and the snapshot before it did not. A transaction is in a snapshot or it is not, so
//! each is in one batch, whole. The number and the snapshot are committed before the batch is delivered, and kept until
//! it is acknowledged: after a crash the same batch is read again under the same number, and the progress of whoever
//! applies it tells whether it was applied. A number is never given twice. A log that lacks the batch that the progress
//! stands at has lost what it said (a standby took over that lacked it), and is refused.
//!
//! # The order is a possible one
//! Entries are numbered by a sequence, as their triggers fire, and a batch is made in that order. Two transactions
//! whose order matters wait for each other, and the later one's entry is written after the wait:
//!
//! - of one row: the second writer waits for the row until the first has committed;
//! - of one value of a unique key, or of an exclusion: the second waits at the index until the first has ended. A
//!   constraint that is checked later is checked by a trigger;
//! - of a foreign key: its checks are triggers. A child's waits for a parent that goes and does not see one that has not
//!   been committed; a parent's waits for children that go.
//!
//! Triggers of one event fire in the order of their names, Postgres's own are called `RI_ConstraintTrigger` and
//! `PK_ConstraintTrigger`, and ours sort behind them. So when an entry is written the row has passed its checks, and what
//! it relies on was committed and had its numbers before. (Before them, a child could be logged ahead of a parent that
//! was committed in between.) What cascades from a row is logged behind it: Postgres queues those events at the end.
//! Constraints that are deferred are checked at the commit, and so they are on the target, where a batch is one
//! transaction.
//!
//! Whoever waited began to log after the other had committed; so a snapshot that sees him sees the other, and batches
//! in the order of their numbers are in a possible order too. Unlike in a slot's stream, two transactions of one batch may be
//! interleaved. That is why a batch is never cut: its memory is bounded by reading a part of it at a time, and whoever
//! applies it makes it in runs within one transaction.
//!
//! # No echo
//! The triggers do not fire for sessions of the mover's login, told by `SESSION_USER`, which a superuser alone can
//! change. So what an applier writes does not come back, and the log of the side that does not serve shows who else
//! wrote there. They fire for everybody else, even where `session_replication_role` is set.
//!
//! # What it costs
//! Each row that the tenant writes is written once more, whole (and the old one too where it goes or its key changes): about
//! 11 µs of the server's CPU, whether the row comes, changes or goes (PostgreSQL 15, 150 bytes a row, 50,000 rows a statement,
//! which took 3.5, 6 and 0.3 µs a row without). Rows of other tenants cost the conditions of the triggers, 0.1 to 0.4 µs. A row whose values have more than 1 GB together cannot be
//! written while it is logged. Columns whose type has no binary form cannot be logged, and are refused before anything
//! is made. Until the move ends nobody can empty a table (`TRUNCATE`): that would name no rows.

mod install;
mod reader;
mod record;
mod stream;
mod tables;

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};
use stagesub_tenancy::TenantId;
use uuid::Uuid;

use super::lsn::Lsn;
use super::progress::Direction;
use super::slot::stream_name;
use crate::catalogue::TableName;
use crate::roles::quote;

pub(crate) use install::trigger_body;
pub use stream::{LogStream, Polling, Waker};

/// How names of logs look, as a regular expression of Postgres.
pub(crate) const NAMES: &str = "^stagesub_move_[0-9a-f]{32}_(fwd|rev)$";

/// One direction's log of a move: of this tenant's rows in these tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeLog {
    name: String,
    tenant: TenantId,
    tables: Vec<TableName>,
}

/// The snapshot that a log begins at.
#[derive(Debug)]
pub struct LogSnapshot {
    /// What to name it by in `SET TRANSACTION SNAPSHOT`.
    pub name: String,
    /// Where whoever applies the log begins.
    pub position: Lsn,
    /// The snapshot is there for as long as this session is left alone.
    pub holder: PgConnection,
}

/// Something of a log could not be made, read or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeLogError {
    /// A statement failed.
    #[error("{doing} failed")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// Others kept a table's lock for longer than was to be waited. Nobody queues for it any more.
    #[error("{table} was in use for too long to {what} it")]
    Busy {
        /// The table.
        table: TableName,
        /// What was to be done.
        what: &'static str,
    },
    /// Changes of a table cannot be logged.
    #[error("changes of {table} cannot be logged: {why}")]
    Unfit {
        /// The table.
        table: TableName,
        /// Why not.
        why: String,
    },
    /// A table's triggers are not as they were made: changes may have got past them.
    #[error("the triggers that log changes of {0} are gone or switched off")]
    Broken(TableName),
    /// The log has no batch that it should have: it is not the one that was read before, or has lost what it said.
    #[error("the log of changes does not know position {0}")]
    Lost(Lsn),
}

impl ChangeLog {
    /// Names the log of a move's direction. The tables are in the database that its changes are read from.
    #[must_use]
    pub fn new(move_id: Uuid, direction: Direction, tenant: TenantId, tables: Vec<TableName>) -> Self {
        Self { name: stream_name(move_id, direction), tenant, tables }
    }

    /// What it is called: for [`remove`] and [`mark`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the log, and then the triggers, a table at a time. The session is the mover's. No lock is waited for
    /// longer than a moment, since others queue behind whoever waits; a table that is busy is tried again until
    /// `patience` is up for all of them.
    ///
    /// # Errors
    /// [`ChangeLogError`]. What was made is there until it is removed.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the session in a transaction: the session is to be dropped too. [`remove`] removes what
    /// was made.
    pub async fn create(&self, conn: &mut PgConnection, patience: Duration) -> Result<(), ChangeLogError> {
        let tables = tables::read(conn, &self.tables).await?;
        install::create(conn, self, &tables, patience).await
    }

    /// Begins the log with a snapshot to copy from. `holder` keeps the snapshot and is the mover's session too.
    ///
    /// # Errors
    /// [`ChangeLogError::Database`], also where the log has begun already.
    pub async fn begin(
        &self,
        conn: &mut PgConnection,
        mut holder: PgConnection,
    ) -> Result<LogSnapshot, ChangeLogError> {
        let doing = "taking the snapshot of a log of changes";
        let failed = |source| ChangeLogError::Database { doing, source };
        sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .execute(&mut holder)
            .await
            .map_err(failed)?;
        let snapshot = sqlx::query!(
            r#"SELECT pg_catalog.pg_export_snapshot() AS "name!",
                      pg_catalog.pg_current_snapshot()::text AS "seen!""#
        )
        .fetch_one(&mut holder)
        .await
        .map_err(failed)?;
        self.first_batch(conn, &snapshot.seen).await?;
        Ok(LogSnapshot { name: snapshot.name, position: position_of(0), holder })
    }

    /// Begins the log here and now, with nothing to copy. Answers where whoever applies it begins.
    ///
    /// # Errors
    /// As [`ChangeLog::begin`].
    pub async fn begin_empty(&self, conn: &mut PgConnection) -> Result<Lsn, ChangeLogError> {
        let seen = sqlx::query_scalar!(r#"SELECT pg_catalog.pg_current_snapshot()::text AS "seen!""#)
            .fetch_one(&mut *conn)
            .await
            .map_err(|source| ChangeLogError::Database { doing: "beginning a log of changes", source })?;
        self.first_batch(conn, &seen).await?;
        Ok(position_of(0))
    }

    /// Looks whether every table still has its triggers, switched on. Asked when all that is to be applied was written,
    /// it says that nothing got past them.
    ///
    /// # Errors
    /// [`ChangeLogError::Broken`], and the driver's.
    pub async fn check(&self, conn: &mut PgConnection) -> Result<(), ChangeLogError> {
        install::check(conn, self).await
    }

    async fn first_batch(&self, conn: &mut PgConnection, seen: &str) -> Result<(), ChangeLogError> {
        let sql =
            format!("INSERT INTO {} (number, snapshot) VALUES (0, $1::text::pg_snapshot)", self.batches());
        // The name was quoted.
        sqlx::query(AssertSqlSafe(sql)).bind(seen).execute(conn).await.map_err(|source| {
            ChangeLogError::Database { doing: "writing down where a log of changes begins", source }
        })?;
        Ok(())
    }

    /// The table of entries, for a statement.
    fn entries(&self) -> String {
        entries(&self.name)
    }

    /// The table of batches, for a statement.
    fn batches(&self) -> String {
        batches(&self.name)
    }
}

/// Sets a mark in a log, in the transaction that is open: who applies the log tells when everything before it is
/// applied.
///
/// # Errors
/// The driver's.
pub async fn mark(conn: &mut PgConnection, log: &str, number: u64) -> Result<(), sqlx::Error> {
    let number = i64::try_from(number).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let sql = format!("INSERT INTO {} (kind, mark) VALUES ('M', $1)", entries(log));
    // The name was quoted.
    sqlx::query(AssertSqlSafe(sql)).bind(number).execute(conn).await?;
    Ok(())
}

/// Removes a log and its triggers, as far as they are there. Waits for locks as [`ChangeLog::create`] does.
///
/// # Errors
/// [`ChangeLogError`]; what was removed is gone.
///
/// # Cancel safety
/// As [`ChangeLog::create`]; called again it removes the rest.
pub async fn remove(conn: &mut PgConnection, log: &str, patience: Duration) -> Result<(), ChangeLogError> {
    install::remove(conn, log, patience).await
}

fn entries(log: &str) -> String {
    format!("app.{}", quote(log))
}

fn batches(log: &str) -> String {
    format!("app.{}", quote(&format!("{log}_batches")))
}

/// Which move's log it is, if it is called like one.
pub(crate) fn move_of(name: &str) -> Option<Uuid> {
    let id = name.strip_prefix("stagesub_move_")?.get(..32)?.parse().ok()?;
    let directions = [Direction::Forward, Direction::Reverse];
    directions.into_iter().any(|direction| stream_name(id, direction) == name).then_some(id)
}

/// Where a batch ends. What it begins with is before that, so that a batch which was applied is told from the next.
const fn position_of(batch: u64) -> Lsn {
    Lsn(batch * 2)
}

/// The last batch that ends at a position or before it.
const fn batch_at(position: Lsn) -> u64 {
    position.0 / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_whose_they_are_and_fit_into_what_postgres_keeps() {
        let tenant = TenantId::from_uuid(Uuid::nil());
        let log = ChangeLog::new(Uuid::max(), Direction::Reverse, tenant, Vec::new());
        assert_eq!(log.entries(), "app.\"stagesub_move_ffffffffffffffffffffffffffffffff_rev\"");
        assert!(log.batches().len() - "app.\"\"".len() < 64);
        // Behind Postgres's own, which has to have checked a row before it is logged.
        assert!(log.name() > "RI_ConstraintTrigger_z" && log.name() > "PK_ConstraintTrigger_z");
    }

    #[test]
    fn a_log_is_known_by_its_name() {
        for direction in [Direction::Forward, Direction::Reverse] {
            assert_eq!(move_of(&stream_name(Uuid::max(), direction)), Some(Uuid::max()));
        }
        let id = "0123456789abcdef0123456789abcdef";
        assert!(move_of(&format!("stagesub_move_{id}_fwd")).is_some());
        for other in [
            "enter".to_owned(),
            format!("stagesub_move_{id}"),
            format!("stagesub_move_{id}_fwd_batches"),
            format!("stagesub_move_{}_fwd", id.to_uppercase()),
            format!("stagesub_move_{}å_fwd", &id[1..]),
        ] {
            assert_eq!(move_of(&other), None, "{other}");
        }
    }

    #[test]
    fn a_batch_that_was_applied_is_told_from_the_next() {
        for batch in 0..5 {
            assert_eq!(batch_at(position_of(batch)), batch);
            // Where it begins is behind the one before, and before its own end.
            assert!(position_of(batch) < position_of(batch + 1));
            assert_eq!(batch_at(Lsn(position_of(batch + 1).0 - 1)), batch);
        }
    }
}
