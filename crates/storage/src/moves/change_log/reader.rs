//! Reads a log, batch by batch, and forgets what was acknowledged.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sqlx::postgres::types::Oid;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;

use super::record::tuple;
use super::stream::Polling;
use super::tables::{self, LoggedTable};
use super::{ChangeLog, ChangeLogError, batch_at, position_of};
use crate::moves::lsn::Lsn;
use crate::moves::pgoutput::{DecodeError, Message, Old};
use crate::moves::session::flush_commits;
use crate::moves::slot::StreamError;

/// Most entries that are read at once.
const MANY_ENTRIES: i64 = 512;
/// About as many bytes of rows; one row may have more.
const MANY_BYTES: i64 = 4 << 20;
/// Most entries that are forgotten at once, so that nobody waits long for the next batch.
const MANY_FORGOTTEN: i64 = 2_000;
/// So many batches are delivered before something is forgotten, where there is always a next one.
const BATCHES_BETWEEN: u32 = 16;
/// How long the server may take for an answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Messages, in order, or why there are no more.
pub(super) type Part = Result<Vec<Message>, StreamError>;

/// What reads a log.
#[derive(Debug)]
pub(super) struct Reader {
    conn: PgConnection,
    tables: Vec<LoggedTable>,
    /// Which of them were described.
    described: Vec<bool>,
    /// Under which name marks are told.
    marks: String,
    sql: Statements,
    polling: Polling,
    /// The last batch that was delivered, or that was applied before.
    last: Batch,
    /// Batches that were made and not applied when reading began.
    left: Vec<Batch>,
    /// The batch that was acknowledged last, if not all of it is forgotten.
    to_forget: Option<u64>,
    forgotten: u64,
}

/// What the reader and those who hold its stream share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) parts: mpsc::Sender<Part>,
    pub(super) durable: watch::Receiver<Lsn>,
    pub(super) wake: Arc<Notify>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Batch {
    number: u64,
    snapshot: String,
}

/// Nobody reads the stream any more, or it failed.
enum End {
    Dropped,
    Failed(StreamError),
}

impl From<StreamError> for End {
    fn from(error: StreamError) -> Self {
        Self::Failed(error)
    }
}

impl From<sqlx::Error> for End {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(StreamError::Session(error.into()))
    }
}

impl From<DecodeError> for End {
    fn from(error: DecodeError) -> Self {
        Self::Failed(error.into())
    }
}

impl Reader {
    /// Makes ready to read behind a position.
    pub(super) async fn open(
        mut conn: PgConnection,
        log: &ChangeLog,
        marks: String,
        from: Lsn,
        polling: Polling,
    ) -> Result<Self, ChangeLogError> {
        let failed = |source| ChangeLogError::Database { doing: "opening a log of changes", source };
        // What is delivered may be applied elsewhere at once, so that the source must not forget that it was. There
        // are no statistics of a log.
        sqlx::raw_sql("SET enable_seqscan = off; SET enable_bitmapscan = off; SET row_security = off")
            .execute(&mut conn)
            .await
            .map_err(failed)?;
        flush_commits(&mut conn).await.map_err(failed)?;
        let tables = tables::read(&mut conn, &log.tables).await?;
        let sql = Statements::of(log);
        let first = i64::try_from(batch_at(from)).map_err(|_| ChangeLogError::Lost(from))?;
        // Names were quoted.
        let rows: Vec<(i64, String)> = sqlx::query_as(AssertSqlSafe(sql.known.clone()))
            .bind(first)
            .fetch_all(&mut conn)
            .await
            .map_err(failed)?;
        let mut left = Vec::with_capacity(rows.len());
        for (number, snapshot) in rows {
            let number = u64::try_from(number).map_err(|_| ChangeLogError::Lost(from))?;
            left.push(Batch { number, snapshot });
        }
        if left.first().is_none_or(|batch| position_of(batch.number) != from) {
            return Err(ChangeLogError::Lost(from));
        }
        let last = left.remove(0);
        Ok(Self {
            conn,
            described: vec![false; tables.len()],
            tables,
            marks,
            sql,
            polling,
            forgotten: last.number,
            last,
            left,
            to_forget: None,
        })
    }

    /// Reads until nobody listens any more or something fails.
    pub(super) async fn run(mut self, shared: Shared) {
        if let Err(End::Failed(error)) = self.deliver(&shared).await {
            // Whoever does not listen any more does not want to know.
            let _ = shared.parts.send(Err(error)).await;
        }
    }

    async fn deliver(&mut self, shared: &Shared) -> Result<(), End> {
        for batch in std::mem::take(&mut self.left) {
            self.batch(batch, shared).await?;
        }
        let (mut pause, mut since) = (self.polling.soon, 0);
        loop {
            let next = self.next().await?;
            let found = next.is_some();
            if let Some(batch) = next {
                self.batch(batch, shared).await?;
            }
            since += 1;
            if !found || since >= BATCHES_BETWEEN {
                since = 0;
                let durable = *shared.durable.borrow();
                self.forget(durable).await?;
            }
            if found {
                pause = self.polling.soon;
            }
            // Batches that come one by one would cost a commit each.
            tokio::select! {
                () = shared.wake.notified() => pause = self.polling.soon,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(self.polling.idle),
                () = shared.parts.closed() => return Err(End::Dropped),
            }
        }
    }

    /// Makes the next batch, if there is anything that no batch has.
    async fn next(&mut self) -> Result<Option<Batch>, End> {
        let number = self.last.number + 1;
        let made = sqlx::query_scalar(AssertSqlSafe(self.sql.next.clone()))
            .bind(signed(number)?)
            .bind(&self.last.snapshot)
            .fetch_optional(&mut self.conn);
        let snapshot: Option<String> = answered(made).await?;
        Ok(snapshot.map(|snapshot| Batch { number, snapshot }))
    }

    /// Delivers a batch as a transaction.
    async fn batch(&mut self, batch: Batch, shared: &Shared) -> Result<(), End> {
        let end_lsn = position_of(batch.number);
        let commit_lsn = Lsn(end_lsn.0 - 1);
        let mut messages = vec![Message::Begin { final_lsn: commit_lsn, xid: 0 }];
        let mut after = 0;
        loop {
            let entries = sqlx::query_as(AssertSqlSafe(self.sql.entries.clone()))
                .bind(after)
                .bind(&batch.snapshot)
                .bind(&self.last.snapshot)
                .fetch_all(&mut self.conn);
            let entries: Vec<Entry> = answered(entries).await?;
            let read = i64::try_from(entries.len()).unwrap_or(i64::MAX);
            let last = entries.last().is_none_or(|entry| entry.found == read && read < MANY_ENTRIES);
            after = entries.last().map_or(after, |entry| entry.seq);
            for entry in entries {
                self.entry(entry, commit_lsn, &mut messages)?;
            }
            if last {
                break;
            }
            shared.parts.send(Ok(std::mem::take(&mut messages))).await.map_err(|_| End::Dropped)?;
        }
        messages.push(Message::Commit { commit_lsn, end_lsn });
        self.last = batch;
        shared.parts.send(Ok(messages)).await.map_err(|_| End::Dropped)
    }

    fn entry(&mut self, entry: Entry, lsn: Lsn, messages: &mut Vec<Message>) -> Result<(), End> {
        if let Some(mark) = entry.mark {
            let content = Bytes::from(mark.to_string().into_bytes());
            let prefix = self.marks.clone();
            messages.push(Message::Logical { transactional: true, lsn, prefix, content });
            return Ok(());
        }
        let Some(Oid(relation)) = entry.relation else {
            return Err(StreamError::Answer("which table was changed").into());
        };
        let place = self.tables.iter().position(|table| table.oid == relation);
        let place = place.ok_or(DecodeError::UnknownRelation)?;
        let table = &self.tables[place];
        if !std::mem::replace(&mut self.described[place], true) {
            messages.extend(table.types().into_iter().map(Message::Type));
            messages.push(Message::Relation(table.relation()));
        }
        let row = |bytes: Option<Vec<u8>>| match bytes {
            Some(bytes) => Ok(tuple(Bytes::from(bytes), table)?),
            None => Err(End::Failed(StreamError::Answer("what a row was"))),
        };
        messages.push(match entry.kind.as_str() {
            "I" => Message::Insert { relation, new: row(entry.new_row)? },
            "U" => Message::Update { relation, old: None, new: row(entry.new_row)? },
            "K" => Message::Update {
                relation,
                old: Some(Old::Row(row(entry.old_row)?)),
                new: row(entry.new_row)?,
            },
            "D" => Message::Delete { relation, old: Old::Row(row(entry.old_row)?) },
            _ => return Err(StreamError::Answer("what became of a row").into()),
        });
        Ok(())
    }

    /// Deletes some of what is durable elsewhere.
    async fn forget(&mut self, durable: Lsn) -> Result<(), End> {
        let durable = batch_at(durable);
        if durable > self.forgotten.max(self.to_forget.unwrap_or_default()) {
            self.to_forget = Some(durable);
        }
        let Some(number) = self.to_forget else { return Ok(()) };
        let gone = sqlx::query(AssertSqlSafe(self.sql.forget_entries.clone()))
            .bind(signed(number)?)
            .execute(&mut self.conn);
        if answered(gone).await?.rows_affected() < MANY_FORGOTTEN.unsigned_abs() {
            let gone = sqlx::query(AssertSqlSafe(self.sql.forget_batches.clone()))
                .bind(signed(number)?)
                .execute(&mut self.conn);
            answered(gone).await?;
            self.forgotten = number;
            self.to_forget = None;
        }
        Ok(())
    }
}

/// An entry of the log.
#[derive(Debug, sqlx::FromRow)]
struct Entry {
    seq: i64,
    kind: String,
    relation: Option<Oid>,
    old_row: Option<Vec<u8>>,
    new_row: Option<Vec<u8>>,
    mark: Option<i64>,
    /// How many entries there were, up to as many as are read at once.
    found: i64,
}

/// The statements, with the log's names in them. A snapshot is read once a statement and not once a row: it is a
/// subquery of its own.
#[derive(Debug)]
struct Statements {
    known: String,
    next: String,
    entries: String,
    forget_entries: String,
    forget_batches: String,
}

impl Statements {
    fn of(log: &ChangeLog) -> Self {
        let (entries, batches) = (log.entries(), log.batches());
        let sees = |snapshot: &str| {
            format!(
                "pg_catalog.pg_visible_in_snapshot(l.xid, (SELECT {snapshot}::text::pg_catalog.pg_snapshot))"
            )
        };
        Self {
            known: format!("SELECT number, snapshot::text FROM {batches} WHERE number >= $1 ORDER BY number"),
            next: format!(
                "INSERT INTO {batches} (number, snapshot) SELECT $1, pg_catalog.pg_current_snapshot()
                 WHERE EXISTS (SELECT FROM {entries} AS l WHERE NOT {})
                 RETURNING snapshot::text",
                sees("$2")
            ),
            entries: format!(
                "SELECT w.seq, w.kind::text, w.relation, w.old_row, w.new_row, w.mark, w.found
                 FROM (SELECT e.*, count(*) OVER () AS found, sum(e.size) OVER (ORDER BY e.seq) - e.size AS before
                       FROM (SELECT l.seq, l.kind, l.relation, l.old_row, l.new_row, l.mark,
                                 coalesce(octet_length(l.old_row), 0)::bigint + coalesce(octet_length(l.new_row), 0) AS size
                             FROM {entries} AS l
                             WHERE l.seq > $1 AND {} AND NOT {}
                             ORDER BY l.seq LIMIT {MANY_ENTRIES}) AS e) AS w
                 WHERE w.before < {MANY_BYTES}
                 ORDER BY w.seq",
                sees("$2"),
                sees("$3")
            ),
            forget_entries: format!(
                "DELETE FROM {entries} WHERE seq = ANY (ARRAY(
                     SELECT l.seq FROM {entries} AS l
                     WHERE pg_catalog.pg_visible_in_snapshot(l.xid, (SELECT snapshot FROM {batches} WHERE number = $1))
                     ORDER BY l.seq LIMIT {MANY_FORGOTTEN}))"
            ),
            // The one that was acknowledged stays: the next is told from it.
            forget_batches: format!("DELETE FROM {batches} WHERE number < $1"),
        }
    }
}

fn signed(number: u64) -> Result<i64, StreamError> {
    i64::try_from(number).map_err(|_| StreamError::Answer("a number that a batch may have"))
}

/// A server that is frozen is one that is gone.
async fn answered<T>(asked: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let answer = timeout(ANSWER, asked).await;
    answer.unwrap_or_else(|elapsed| Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, elapsed))))
}
