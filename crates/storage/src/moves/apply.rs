//! Brings what was streamed from one database into the other, exactly once.
//!
//! ```text
//! Changes  -> Mapper   a row of the stream becomes a change of the target; another tenant's row, or another table's
//!                      shape, ends everything
//!          -> Run      changes of a row come to one; what cannot be told so begins a new run
//!          -> batch    whole transactions, for a moment, or until a mark comes or there are many; a large transaction
//!                      goes to the target in runs while it is read
//!          -> target   BEGIN; the move's message; the runs; the progress; COMMIT
//!          -> source   acknowledged, because it is durable now
//! ```
//!
//! # Invariants
//! - A change and the word that it was applied are committed together, and the word is a compare-and-set: what is
//!   delivered twice is passed over, and of two appliers of one stream one fails before it commits anything.
//! - The first thing that a transaction on the target writes is the move's message, by which the opposite stream
//!   knows it and passes over it. So nothing goes round in a circle.
//! - A row that changed and is not there ends everything. One that went and is not there was taken away by the
//!   target's own foreign keys.
//! - What is held in memory is bounded by a run, however large a transaction is.
//!
//! Foreign keys that the target checks hold only as far as the source kept their order: rows that refer to each other
//! and came in one statement the wrong way round are refused, unless the constraint is deferrable or the session does
//! not check (`session_replication_role`).

mod change;
mod control;
mod error;
mod keys;
mod net;
mod prefix;
mod statements;
mod tables;

use std::collections::HashSet;
use std::sync::Arc;

use futures::FutureExt;
use sqlx::{AssertSqlSafe, PgConnection};
use stagesub_tenancy::TenantId;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::lsn::Lsn;
use super::pgoutput::Message;
use super::progress::{self, Direction};
use super::session::flush_commits;
use super::slot::{Changes, Event, StreamError};
use crate::catalogue::TableName;
use crate::error::sqlstate;
use change::Change;
use control::Shared;
use net::{Run, Step};
use tables::Mapper;

pub use change::Key;
pub use control::{Control, DirtyRows, Ended, Position, Writers};
pub use error::ApplyError;
pub use keys::key_texts;
pub use prefix::{InvalidPrefix, Prefix, mark};

/// As many changes end a batch where a transaction ends, and a run wherever they are.
const MANY_CHANGES: usize = 2_000;
/// So many bytes of values end a run.
const MANY_BYTES: usize = 4 << 20;

/// Violations that another order may not meet: of a unique key, an exclusion, a foreign key.
const BY_ORDER: [&str; 3] = ["23505", "23P01", "23503"];

/// What is applied, and how.
#[derive(Debug, Clone)]
pub struct ApplyOptions {
    /// The move.
    pub move_id: Uuid,
    /// Which of its streams.
    pub direction: Direction,
    /// Whose rows. Those of others are refused.
    pub tenant: TenantId,
    /// By what the streams know each other's transactions.
    pub prefix: Prefix,
    /// The tables, parents first.
    pub tables: Vec<TableName>,
    /// What becomes of transactions that the opposite stream did not make.
    pub writers: Writers,
    /// How many rows are remembered of those that changed.
    pub dirty_bound: usize,
}

/// Applies one stream.
#[derive(Debug)]
pub struct Applier {
    options: ApplyOptions,
    conn: PgConnection,
    mapper: Mapper,
    control: Control,
    shared: Arc<Shared>,
    position: watch::Sender<Position>,
    /// What the stored progress was left at.
    progress: Lsn,
    transaction: Option<Transaction>,
    batch: Batch,
}

/// A transaction that is being read.
#[derive(Debug)]
struct Transaction {
    final_lsn: Lsn,
    fate: Fate,
    writers: Writers,
    mark: Option<u64>,
    changes: u64,
    /// Nothing of it was seen yet.
    fresh: bool,
}

/// What becomes of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is applied.
    Taken,
    /// It was applied before.
    Known,
    /// The opposite stream made it.
    Echo,
}

/// What the next commit on the target makes durable.
#[derive(Debug, Default)]
struct Batch {
    run: Run,
    /// The target's transaction is open.
    begun: bool,
    /// Where its last transaction ends.
    end: Option<Lsn>,
    /// When it is to be committed, whatever is still to come.
    due: Option<Instant>,
    /// Up to where the source has nothing behind it.
    idle: Option<Lsn>,
    mark: Option<u64>,
    transactions: u64,
    changes: u64,
}

impl Applier {
    /// Makes ready to apply to the database of this connection, which is the mover's and no longer anybody else's.
    ///
    /// # Errors
    /// [`ApplyError::NotBegun`], [`ApplyError::Schema`] for a table that is not there or has no key with the tenant,
    /// and the driver's.
    pub async fn prepare(mut conn: PgConnection, options: ApplyOptions) -> Result<Self, ApplyError> {
        let doing = "making the session ready to apply";
        let failed = |source| ApplyError::Target { doing, source };
        // Lists of values have no statistics, and joined otherwise they would read whole tables. A policy that would
        // hide rows is an error.
        sqlx::raw_sql("SET row_security = off; SET enable_hashjoin = off; SET enable_mergejoin = off")
            .execute(&mut conn)
            .await
            .map_err(failed)?;
        flush_commits(&mut conn).await.map_err(failed)?;
        let targets = tables::read(&mut conn, &options.tables).await?;
        let found = progress::find(&mut conn, options.move_id, options.direction).await?;
        let progress = found.ok_or(ApplyError::NotBegun)?;
        let (control, shared, position) =
            Control::new(options.tables.clone(), options.writers, options.dirty_bound, progress);
        let mapper = Mapper::new(options.tenant, targets);
        Ok(Self {
            options,
            conn,
            mapper,
            control,
            shared,
            position,
            progress,
            transaction: None,
            batch: Batch::default(),
        })
    }

    /// From where the stream is to be started.
    #[must_use]
    pub const fn from(&self) -> Lsn {
        self.progress
    }

    /// A hold on it for whoever watches it.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Applies until it is told to stop ([`Control::stop`]) or something fails.
    ///
    /// # Errors
    /// [`ApplyError`]. What was committed stands; beginning anew goes on behind it.
    ///
    /// # Cancel safety
    /// Dropping the future ends both sessions; the target's open transaction is rolled back.
    pub async fn run<S: Changes>(mut self, mut stream: S) -> Result<(), ApplyError> {
        let mut stop = self.shared.stop.subscribe();
        loop {
            let at_rest = self.transaction.is_none() && self.batch.end.is_none();
            if at_rest && *stop.borrow_and_update() {
                return Ok(());
            }
            let event = if at_rest {
                tokio::select! {
                    event = stream.next() => event?,
                    // The sender is this applier's own and outlives the loop.
                    _ = stop.changed() => continue,
                }
            } else if self.transaction.is_some() {
                stream.next().await?
            } else if let Some(event) = self.more(&mut stream).await {
                event?
            } else {
                self.commit(&mut stream).await?;
                continue;
            };
            self.take(event, &mut stream).await?;
        }
    }

    /// What comes before the batch is to be committed.
    async fn more<S: Changes>(&mut self, stream: &mut S) -> Option<Result<Event, StreamError>> {
        let linger = self.shared.linger();
        if linger.is_zero() {
            return stream.next().now_or_never();
        }
        let due = *self.batch.due.get_or_insert_with(|| Instant::now() + linger);
        // Also where there is always something to read.
        if Instant::now() >= due { None } else { timeout_at(due, stream.next()).await.ok() }
    }

    async fn take<S: Changes>(&mut self, event: Event, stream: &mut S) -> Result<(), ApplyError> {
        match event {
            Event::Idle(lsn) => {
                if self.transaction.is_some() {
                    // It says nothing of what is being read.
                } else if self.batch.end.is_none() {
                    self.idle(lsn, stream);
                } else {
                    self.batch.idle = Some(lsn);
                }
            }
            Event::Message(message) => self.read(message, stream).await?,
        }
        Ok(())
    }

    async fn read<S: Changes>(&mut self, message: Message, stream: &mut S) -> Result<(), ApplyError> {
        self.mapper.learn(&message);
        match message {
            Message::Begin { final_lsn, .. } => self.begin(final_lsn)?,
            Message::Commit { commit_lsn, end_lsn } => self.end(commit_lsn, end_lsn, stream).await?,
            Message::Relation(_)
            | Message::Type(_)
            | Message::Origin { .. }
            | Message::Logical { transactional: false, .. } => {}
            Message::Logical { prefix, content, .. } => self.message(&prefix, &content)?,
            Message::Insert { relation, new } => {
                if self.takes(relation)? {
                    let change = self.mapper.insert(relation, &new)?;
                    self.change(change).await?;
                }
            }
            Message::Update { relation, old, new } => {
                if self.takes(relation)? {
                    let change = self.mapper.update(relation, old.as_ref(), &new)?;
                    self.change(change).await?;
                }
            }
            Message::Delete { relation, old } => {
                if self.takes(relation)? {
                    let change = self.mapper.delete(relation, &old)?;
                    self.change(change).await?;
                }
            }
            Message::Truncate { .. } => return Err(ApplyError::Truncated),
        }
        Ok(())
    }

    fn begin(&mut self, final_lsn: Lsn) -> Result<(), ApplyError> {
        if self.transaction.is_some() {
            return Err(ApplyError::Protocol("a transaction begins in another"));
        }
        // The progress is where a commit record ended, so that one which begins before it had ended by then.
        let fate = if final_lsn < self.progress { Fate::Known } else { Fate::Taken };
        let writers = self.shared.writers();
        self.transaction =
            Some(Transaction { final_lsn, fate, writers, mark: None, changes: 0, fresh: true });
        Ok(())
    }

    fn message(&mut self, prefix: &str, content: &[u8]) -> Result<(), ApplyError> {
        let transaction = self.transaction.as_mut();
        let transaction = transaction.ok_or(ApplyError::Protocol("a message of no transaction"))?;
        let fresh = std::mem::take(&mut transaction.fresh);
        if fresh && transaction.fate == Fate::Taken && prefix == self.options.prefix.as_str() {
            transaction.fate = Fate::Echo;
        } else if prefix == self.options.prefix.of_marks() {
            let number = std::str::from_utf8(content).ok().and_then(|text| text.parse().ok());
            transaction.mark = Some(number.ok_or(ApplyError::Protocol("a mark has no number"))?);
        }
        Ok(())
    }

    /// Whether a change of this table is one to make.
    fn takes(&mut self, relation: u32) -> Result<bool, ApplyError> {
        let transaction = self.transaction.as_mut();
        let transaction = transaction.ok_or(ApplyError::Protocol("a change of no transaction"))?;
        transaction.fresh = false;
        if transaction.fate != Fate::Taken {
            return Ok(false);
        }
        if transaction.writers == Writers::Nobody {
            let table = self.mapper.name(relation)?;
            return Err(ApplyError::Rogue { table, lsn: transaction.final_lsn });
        }
        transaction.changes += 1;
        Ok(true)
    }

    async fn change(&mut self, change: Change) -> Result<(), ApplyError> {
        if let Err(change) = self.batch.run.add(change) {
            self.flush().await?;
            if self.batch.run.add(change).is_err() {
                return Err(ApplyError::Protocol("a run that is empty takes any change"));
            }
        }
        if self.batch.run.len() >= MANY_CHANGES || self.batch.run.size() >= MANY_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// The end of a transaction.
    async fn end<S: Changes>(
        &mut self,
        commit_lsn: Lsn,
        end_lsn: Lsn,
        stream: &mut S,
    ) -> Result<(), ApplyError> {
        let transaction = self.transaction.take();
        let transaction = transaction.ok_or(ApplyError::Protocol("a transaction ends that has not begun"))?;
        if commit_lsn != transaction.final_lsn {
            return Err(ApplyError::Protocol("a transaction ends where another should"));
        }
        if transaction.fate == Fate::Known {
            if end_lsn > self.progress {
                return Err(ApplyError::Protocol("a transaction ends behind the progress that it is in"));
            }
            return Ok(());
        }
        self.batch.end = Some(end_lsn);
        self.batch.mark = self.batch.mark.max(transaction.mark);
        if transaction.changes > 0 {
            self.batch.transactions += 1;
            self.batch.changes += transaction.changes;
        }
        if self.batch.changes == 0 && self.batch.mark.is_none() {
            // Nothing of it concerns the target.
            self.batch = Batch::default();
            self.idle(end_lsn, stream);
        } else if self.batch.changes >= MANY_CHANGES as u64 || self.batch.mark.is_some() {
            self.commit(stream).await?;
        }
        Ok(())
    }

    /// Nothing more is to be applied up to here.
    fn idle<S: Changes>(&self, lsn: Lsn, stream: &mut S) {
        self.position.send_if_modified(|position| {
            let further = lsn > position.lsn;
            position.lsn = position.lsn.max(lsn);
            further
        });
        stream.acknowledge(self.position.borrow().lsn);
    }

    /// Makes the batch durable and says so.
    async fn commit<S: Changes>(&mut self, stream: &mut S) -> Result<(), ApplyError> {
        // COMMIT releases the savepoint.
        self.make_run().await?;
        self.open("").await?;
        let batch = std::mem::take(&mut self.batch);
        let end = batch.end.ok_or(ApplyError::Protocol("a batch ends that has not begun"))?;
        let ApplyOptions { move_id, direction, .. } = self.options;
        if !progress::advance(&mut self.conn, move_id, direction, (self.progress, end)).await? {
            return Err(ApplyError::Overtaken);
        }
        let doing = "committing changes";
        sqlx::raw_sql("COMMIT")
            .execute(&mut self.conn)
            .await
            .map_err(|source| ApplyError::Target { doing, source })?;
        self.progress = end;
        self.position.send_modify(|position| {
            position.lsn = position.lsn.max(end);
            position.mark = position.mark.max(batch.mark);
            position.transactions += batch.transactions;
            position.changes += batch.changes;
        });
        stream.acknowledge(end);
        if let Some(lsn) = batch.idle {
            self.idle(lsn, stream);
        }
        Ok(())
    }

    /// Opens the target's transaction, if it is not open, and does something more in the same message.
    async fn open(&mut self, more: &'static str) -> Result<(), ApplyError> {
        let doing = "beginning a transaction";
        if self.batch.begun {
            return if more.is_empty() { Ok(()) } else { self.savepoint(more).await };
        }
        // The message is the first thing in the log, so that whoever reads it knows before the first change. The
        // prefix needs no quoting. Constraints that may wait do, as they did for the source's statement.
        let sql = format!(
            "BEGIN; SELECT pg_catalog.pg_logical_emit_message(true, '{}', ''); SET CONSTRAINTS ALL DEFERRED; {more}",
            self.options.prefix.as_str()
        );
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut self.conn)
            .await
            .map_err(|source| ApplyError::Target { doing, source })?;
        self.batch.begun = true;
        Ok(())
    }

    /// Makes the changes of the run, with others to follow.
    async fn flush(&mut self) -> Result<(), ApplyError> {
        if self.make_run().await? { self.savepoint("RELEASE SAVEPOINT run").await } else { Ok(()) }
    }

    /// Makes the changes of the run: what they come to, and if the target's constraints do not let them be made in
    /// that order, as they came. Whether a savepoint was set for it.
    async fn make_run(&mut self) -> Result<bool, ApplyError> {
        let run = std::mem::take(&mut self.batch.run);
        if run.len() == 0 {
            return Ok(false);
        }
        let mut touched = HashSet::new();
        for change in run.changes() {
            change.touch(&mut touched);
        }
        self.shared.remember(touched);
        if run.len() == 1 {
            self.open("").await?;
            self.make(&run.steps()).await?;
            return Ok(false);
        }
        self.open("SAVEPOINT run").await?;
        match self.make(&run.steps()).await {
            Ok(()) => {}
            Err(ApplyError::Change { source, .. }) if is_by_order(&source) => {
                self.savepoint("ROLLBACK TO SAVEPOINT run").await?;
                self.make(&run.steps_as_they_came()).await?;
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    async fn savepoint(&mut self, sql: &'static str) -> Result<(), ApplyError> {
        let doing = "setting a savepoint";
        sqlx::raw_sql(sql)
            .execute(&mut self.conn)
            .await
            .map(drop)
            .map_err(|source| ApplyError::Target { doing, source })
    }

    async fn make(&mut self, steps: &[Step<'_>]) -> Result<(), ApplyError> {
        for step in steps {
            let (Step::Insert(table, _)
            | Step::Update(table, _)
            | Step::Rekey(table, ..)
            | Step::Delete(table, _)) = step;
            let target = self.mapper.target(*table);
            let conn = &mut self.conn;
            let made = match step {
                Step::Insert(_, rows) => {
                    statements::insert(conn, target, rows).await.map(|done| done == rows.len() as u64)
                }
                Step::Update(_, rows) => {
                    statements::update(conn, target, rows).await.map(|done| done == rows.len() as u64)
                }
                Step::Rekey(_, was, row, is) => match statements::rekey(conn, target, was, row).await {
                    // A foreign key of the target's may have changed the key already.
                    Ok(0) => statements::update(conn, target, &[(*is, *row)]).await.map(|done| done == 1),
                    other => other.map(|done| done == 1),
                },
                Step::Delete(_, keys) => statements::delete(conn, target, keys).await.map(|_| true),
            };
            let table = || target.name.clone();
            if !made.map_err(|source| ApplyError::Change { table: table(), source })? {
                return Err(ApplyError::MissingRow { table: table() });
            }
        }
        Ok(())
    }
}

/// Whether the order of changes may have been what a constraint refused.
fn is_by_order(error: &sqlx::Error) -> bool {
    sqlstate(error).is_some_and(|code| BY_ORDER.contains(&code.as_ref()))
}
