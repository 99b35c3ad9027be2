//! The rows of one tenant, as one snapshot has them, streamed from the source into the target.
//!
//! ```text
//! source, in the snapshot -> COPY (SELECT ...) TO STDOUT -> Ahead, Pieces -> COPY ... FROM STDIN -> target
//! ```
//!
//! Both are in Postgres's binary format, which is passed on as it comes. Several streams take the tables in turns; while
//! the target checks foreign keys, a table waits until those its rows refer to are there. Where there is a pace, writing
//! keeps to it and reading runs ahead, so that the snapshot is let go long before everything is written.
//!
//! A table is written in one transaction of its own, which is committed if the target took as many rows as the source
//! sent. So whatever interrupts a copy, a table is there whole or not at all; the next copy begins with [`purge`]. What the
//! target holds afterwards is for [`verify`](super::verify) to say.

mod ahead;
mod block;
mod pipe;
mod purge;
mod queue;
mod rows;

use std::io;
use std::num::{NonZeroU64, NonZeroUsize};

use futures::TryStreamExt as _;
use futures::future::{try_join, try_join_all};
use futures::stream::FuturesUnordered;
use sqlx::AssertSqlSafe;
use stagesub_tenancy::TenantId;
use tokio::sync::watch;

use crate::catalogue::TableName;
use crate::moves::pace::Pace;
use crate::moves::plan::{Checks, MovePlan, TablePlan};
use crate::moves::session::{MoverSession, SessionError, Site};
use crate::roles::quote;

use ahead::{Ahead, Piece, Pieces, ahead};
use pipe::{PipeError, Statements};
use queue::Queue;

pub use ahead::SpillRoom;
pub use purge::{PurgeSettings, purge};

/// Reading ahead is so many times as fast as writing, unless that were more than [`READ_AHEAD_AT_MOST`].
const READ_AHEAD: NonZeroU64 = NonZeroU64::new(8).expect("not zero");
/// Bytes a second above which reading is not faster than writing.
const READ_AHEAD_AT_MOST: NonZeroU64 = NonZeroU64::new(48_000_000).expect("not zero");

/// How a copy goes.
#[derive(Debug, Clone)]
pub struct CopySettings {
    /// How many tables are copied at once, each over two connections of its own.
    pub streams: NonZeroUsize,
    /// How fast all of them together may write. With a pace they read ahead.
    pub pace: Pace,
    /// Where what is ahead may lie.
    pub spill: SpillRoom,
}

impl Default for CopySettings {
    fn default() -> Self {
        Self {
            streams: NonZeroUsize::MIN.saturating_add(1),
            pace: Pace::unlimited(),
            spill: SpillRoom::default(),
        }
    }
}

/// Why a copy ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// A session could not be had.
    #[error("a session of the copy could not be had")]
    Session(#[source] SessionError),
    /// The name is none that Postgres gives to an exported snapshot.
    #[error("`{0}` is not the name of a snapshot")]
    SnapshotName(String),
    /// The snapshot is gone with the session that exported it.
    #[error("the snapshot cannot be read from")]
    Snapshot(#[source] sqlx::Error),
    /// The target serves the tenant: its rows there are not copies, and nothing of them is removed.
    #[error("the target serves tenant {0}; its rows there are not removed")]
    InUse(TenantId),
    /// The source could not be read.
    #[error("{table} could not be read from the source")]
    Source {
        /// Which table.
        table: TableName,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The target could not be written.
    #[error("{table} could not be written to the target")]
    Target {
        /// Which table.
        table: TableName,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// What was read ahead could not be read back.
    #[error("what was read of {table} and kept in a file could not be read back")]
    Spilled {
        /// Which table.
        table: TableName,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What the source sent is not what a binary copy of these columns looks like.
    #[error("what came of {table} is no copy of its rows: {what}")]
    Malformed {
        /// Which table.
        table: TableName,
        /// What is wrong.
        what: &'static str,
    },
    /// Rows were lost or doubled on the way. The table's transaction was rolled back.
    #[error("of {table} the source sent {sent} rows, and the target took {taken}")]
    Miscounted {
        /// Which table.
        table: TableName,
        /// Rows that went by.
        sent: u64,
        /// Rows that the target says it stored.
        taken: u64,
    },
}

/// How far a copy is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyProgress {
    /// Its tables, in the order of the plan.
    pub tables: Vec<TableProgress>,
}

impl CopyProgress {
    /// Rows of all tables so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// Bytes of all tables so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.bytes).sum()
    }
}

/// How far a table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableProgress {
    /// Which.
    pub table: TableName,
    /// Rows that went by.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The target has committed and counted them.
    pub done: bool,
}

/// A copy whose streams stand in the snapshot and have not begun.
///
/// Once it is open, the session that exported the snapshot is no longer needed.
#[derive(Debug)]
pub struct TenantCopy<'p> {
    plan: &'p MovePlan,
    tenant: TenantId,
    pace: Pace,
    spill: SpillRoom,
    streams: Vec<Stream>,
}

#[derive(Debug)]
struct Stream {
    source: MoverSession,
    target: MoverSession,
}

/// The connections of a copy that is to be: whoever is in haste opens them before.
#[derive(Debug)]
pub struct CopyStreams(Vec<Stream>);

impl CopyStreams {
    /// Opens the connections of all streams of a copy of `plan`, the source's.
    ///
    /// # Errors
    /// [`CopyError::Session`].
    ///
    /// # Cancel safety
    /// Dropping the future, or the streams, closes the connections.
    pub async fn open(
        source: &Site,
        target: &Site,
        plan: &MovePlan,
        settings: &CopySettings,
    ) -> Result<Self, CopyError> {
        // Never more than there are tables, and one at least.
        let streams = settings.streams.get().min(plan.tables.len()).max(1);
        let streams = (1..=streams).map(|number| Stream::open(source, target, plan, number));
        Ok(Self(try_join_all(streams).await?))
    }

    /// Has what is copied be durable as it is committed, where that is not so by itself: for whoever decides by it.
    ///
    /// # Errors
    /// [`CopyError::Session`].
    pub async fn flush_commits(&mut self) -> Result<(), CopyError> {
        try_join_all(self.0.iter_mut().map(|stream| stream.target.flush_commits()))
            .await
            .map(drop)
            .map_err(CopyError::Session)
    }

    /// Takes them into a snapshot, `pg_export_snapshot()`'s or that of a replication slot.
    ///
    /// # Errors
    /// [`CopyError::SnapshotName`], [`CopyError::Snapshot`].
    ///
    /// # Cancel safety
    /// Dropping the future, or the copy, closes the connections; nothing was written.
    pub async fn enter<'p>(
        mut self,
        plan: &'p MovePlan,
        tenant: TenantId,
        snapshot: &str,
        settings: &CopySettings,
    ) -> Result<TenantCopy<'p>, CopyError> {
        let begin = begin_in(snapshot)?;
        try_join_all(self.0.iter_mut().map(|stream| stream.enter(&begin))).await?;
        let (pace, spill) = (settings.pace.clone(), settings.spill.clone());
        Ok(TenantCopy { plan, tenant, pace, spill, streams: self.0 })
    }
}

impl<'p> TenantCopy<'p> {
    /// Opens the connections of all streams and takes them into the snapshot: [`CopyStreams`] at once.
    ///
    /// # Errors
    /// Those of both.
    ///
    /// # Cancel safety
    /// As they.
    pub async fn open(
        source: &Site,
        target: &Site,
        plan: &'p MovePlan,
        tenant: TenantId,
        snapshot: &str,
        settings: &CopySettings,
    ) -> Result<Self, CopyError> {
        let streams = CopyStreams::open(source, target, plan, settings).await?;
        streams.enter(plan, tenant, snapshot, settings).await
    }

    /// Removes what the target holds of the tenant and copies everything. `progress` is told of every block. What was
    /// copied is for [`take_statistics`] then.
    ///
    /// # Errors
    /// [`CopyError`]. Tables that were copied before it stay there, to be purged.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connections. Tables that were done stay there, the others are as [`purge`] left
    /// them.
    pub async fn run(mut self, progress: &watch::Sender<CopyProgress>) -> Result<CopyProgress, CopyError> {
        progress.send_replace(self.nothing_yet());
        if let Some(first) = self.streams.first_mut() {
            // Whoever opens a copy has done so before; what is left is not worth a rest within the snapshot.
            purge(&mut first.target, self.plan, self.tenant, &PurgeSettings::default()).await?;
        }
        let queue = Queue::new(self.plan.tables.iter().map(|table| table.parents.clone()).collect());
        let shared = Shared {
            queue: &queue,
            plan: self.plan,
            tenant: self.tenant,
            reads: &self.pace.faster(READ_AHEAD, READ_AHEAD_AT_MOST),
            writes: &self.pace,
            spill: self.pace.is_limited().then_some(&self.spill),
            progress,
        };
        let streams: FuturesUnordered<_> =
            self.streams.into_iter().map(|stream| stream.run(&shared)).collect();
        streams.try_collect::<()>().await?;
        Ok(progress.borrow().clone())
    }

    fn nothing_yet(&self) -> CopyProgress {
        let table =
            |table: &TablePlan| TableProgress { table: table.name.clone(), rows: 0, bytes: 0, done: false };
        CopyProgress { tables: self.plan.tables.iter().map(table).collect() }
    }
}

/// What the streams of a copy have in common.
struct Shared<'c> {
    queue: &'c Queue,
    plan: &'c MovePlan,
    tenant: TenantId,
    reads: &'c Pace,
    writes: &'c Pace,
    /// None: nothing is read ahead.
    spill: Option<&'c SpillRoom>,
    progress: &'c watch::Sender<CopyProgress>,
}

impl Stream {
    async fn open(source: &Site, target: &Site, plan: &MovePlan, number: usize) -> Result<Self, CopyError> {
        let from = source.open(&format!("copy-out{number}")).await.map_err(CopyError::Session)?;
        let mut to = target.open(&format!("copy-in{number}")).await.map_err(CopyError::Session)?;
        // A table that was filled a moment ago has no statistics.
        to.keep_to_indexes().await.map_err(CopyError::Session)?;
        if plan.checks == Checks::Skipped {
            to.skip_checks().await.map_err(CopyError::Session)?;
        }
        Ok(Self { source: from, target: to })
    }

    async fn enter(&mut self, begin: &str) -> Result<(), CopyError> {
        let entered = sqlx::raw_sql(AssertSqlSafe(begin)).execute(self.source.conn()).await;
        entered.map(drop).map_err(CopyError::Snapshot)
    }

    /// Takes one table after the other, until none is left.
    async fn run(self, shared: &Shared<'_>) -> Result<(), CopyError> {
        let Self { source, mut target } = self;
        let (ahead, mut pieces) = ahead(shared.spill.cloned());
        try_join(shared.read(source, ahead), shared.write(&mut target, &mut pieces)).await?;
        target.close().await;
        Ok(())
    }
}

impl Shared<'_> {
    /// Reads until each table was given to one of the streams, and lets the snapshot go.
    async fn read(&self, mut source: MoverSession, mut ahead: Ahead) -> Result<(), CopyError> {
        let mut last = None;
        while let Some(place) = self.next(last).await {
            let table = &self.plan.tables[place];
            let failed = |error: PipeError| error.of(&table.name);
            ahead.put(Piece::Table(place)).await.map_err(|gone| failed(gone.into()))?;
            let statements = Statements::of(table, self.tenant);
            pipe::read(source.conn(), &statements, self.reads, &mut ahead).await.map_err(failed)?;
            last = Some(place);
        }
        source.close().await;
        ahead.finish().await.map_err(|gone| self.failed(last, gone.into()))
    }

    /// The next table for a stream that has read this one before.
    async fn next(&self, last: Option<usize>) -> Option<usize> {
        if self.spill.is_some() {
            return self.queue.next_to_read();
        }
        // Another stream may have time for it sooner.
        if let Some(last) = last {
            self.queue.is_done(last).await;
        }
        self.queue.next_to_write().await
    }

    async fn write(&self, target: &mut MoverSession, pieces: &mut Pieces) -> Result<(), CopyError> {
        let mut last = None;
        loop {
            let piece = pieces.next().await.map_err(|error| self.failed(last, PipeError::Spilled(error)))?;
            match piece {
                Some(Piece::Table(place)) => {
                    self.write_table(place, target, pieces).await?;
                    last = Some(place);
                }
                Some(Piece::Chunk(..) | Piece::End(_)) => {
                    return Err(self.failed(last, PipeError::Malformed("it goes on after its end")));
                }
                None => return Ok(()),
            }
        }
    }

    /// What failed behind this table, or before the first: only a stream that was given one has anything to pass on.
    fn failed(&self, last: Option<usize>, error: PipeError) -> CopyError {
        error.of(&self.plan.tables[last.unwrap_or_default()].name)
    }

    async fn write_table(
        &self,
        place: usize,
        target: &mut MoverSession,
        pieces: &mut Pieces,
    ) -> Result<(), CopyError> {
        let table = &self.plan.tables[place];
        self.queue.may_be_written(place).await;
        let statements = Statements::of(table, self.tenant);
        let failed = |source| CopyError::Target { table: table.name.clone(), source };
        let told = |rows, bytes| {
            self.progress.send_modify(|progress| {
                progress.tables[place].rows = rows;
                progress.tables[place].bytes = bytes;
            });
        };
        sqlx::raw_sql("BEGIN").execute(target.conn()).await.map_err(failed)?;
        let piped = pipe::write(pieces, target.conn(), &statements, self.writes, told).await;
        let piped = piped.map_err(|error| error.of(&table.name))?;
        if piped.sent != piped.taken {
            let table = table.name.clone();
            return Err(CopyError::Miscounted { table, sent: piped.sent, taken: piped.taken });
        }
        sqlx::raw_sql("COMMIT").execute(target.conn()).await.map_err(failed)?;
        self.progress.send_modify(|progress| progress.tables[place].done = true);
        self.queue.done(place);
        Ok(())
    }
}

/// Has the target take the statistics of tables that a copy brought rows to: without them it plans as if there were few.
///
/// # Errors
/// [`CopyError::Target`].
///
/// # Cancel safety
/// The session is to be dropped with the future. Tables that were done keep their statistics.
pub async fn take_statistics(target: &mut MoverSession, copied: &CopyProgress) -> Result<(), CopyError> {
    for TableProgress { table, .. } in copied.tables.iter().filter(|table| table.rows > 0) {
        let sql = format!("ANALYZE {}.{}", quote(&table.schema), quote(&table.name));
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(target.conn()).await;
        done.map_err(|source| CopyError::Target { table: table.clone(), source })?;
    }
    Ok(())
}

/// Begins a transaction in a snapshot, whose name Postgres wants as a literal.
fn begin_in(snapshot: &str) -> Result<String, CopyError> {
    let named = !snapshot.is_empty() && snapshot.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if !named {
        return Err(CopyError::SnapshotName(snapshot.to_owned()));
    }
    Ok(format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{snapshot}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_is_no_name_is_not_sent() {
        assert!(begin_in("00000003-0000001B-1").is_ok());
        for wrong in ["", "1'; DROP TABLE x; --", "0 1", "ö"] {
            assert!(matches!(begin_in(wrong), Err(CopyError::SnapshotName(_))), "{wrong}");
        }
    }
}
