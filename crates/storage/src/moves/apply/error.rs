//! Why applying has ended.

use crate::catalogue::TableName;
use crate::moves::lsn::Lsn;
use crate::moves::pgoutput::DecodeError;
use crate::moves::progress::ProgressError;
use crate::moves::slot::StreamError;

/// Applying has ended. What was committed in the target stands, with its progress; nothing else does.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The stream failed.
    #[error("the changes could not be read")]
    Stream(#[from] StreamError),
    /// What came cannot be understood.
    #[error("the changes cannot be understood")]
    Decode(#[from] DecodeError),
    /// The stream says something that it cannot say at this point.
    #[error("the stream does not follow its protocol: {0}")]
    Protocol(&'static str),
    /// A statement on the target failed.
    #[error("{doing} failed")]
    Target {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// A change could not be made on the target.
    #[error("a change of {table} could not be made")]
    Change {
        /// Of which table.
        table: TableName,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The progress could not be read or written.
    #[error("the progress of applying could not be kept")]
    Progress(#[from] ProgressError),
    /// The stream has not begun: nobody wrote down from where.
    #[error("nothing says from where changes are to be applied")]
    NotBegun,
    /// The progress is not what it was left at: somebody else applies this stream. Nothing was committed.
    #[error("somebody else applies this stream")]
    Overtaken,
    /// A row that changed is not there.
    #[error("a row of {table} that changed on the source is not on the target")]
    MissingRow {
        /// Of which table.
        table: TableName,
    },
    /// A row of another tenant came.
    #[error("a row of {table} that is another tenant's came")]
    ForeignRow {
        /// Of which table.
        table: TableName,
    },
    /// Somebody wrote where nobody may write but the opposite stream.
    #[error("{table} was written to by somebody else, at {lsn}")]
    Rogue {
        /// What was written to.
        table: TableName,
        /// Where it was committed in the log.
        lsn: Lsn,
    },
    /// A table was emptied.
    #[error("a table was emptied on the source")]
    Truncated,
    /// A table is not the same on both sides.
    #[error("{table} is not the same on both sides: {detail}")]
    Schema {
        /// Which.
        table: TableName,
        /// What differs.
        detail: String,
    },
}
