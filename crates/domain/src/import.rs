//! Musicians from a CSV file, the way an orchestra's office exports them.
//!
//! [`MusicianCsv`] reads a spooled file twice: once to tell its encoding, once to hand its rows out one at a
//! time, so that memory does not grow with the file. What becomes of the rows is decided by
//! [`crate::service::import`].

pub(crate) mod catalogue;
pub(crate) mod decode;
pub mod header;
pub mod reader;
pub mod report;
pub mod row;
pub mod sniff;

pub use header::{Column, Header};
pub use reader::MusicianCsv;
pub use report::{ImportMode, ImportReport, MAX_LISTED, Remark};
pub use row::{CellError, ParsedRow, Row, RowFault};

use crate::error::{StoreError, UseCaseError, ValidationErrors};

/// Most rows that one file may have, the header not counted.
pub const MAX_ROWS: u32 = 100_000;
/// Longest row, in bytes of UTF-8. A quote that is never closed is met by this bound.
pub const MAX_ROW_BYTES: u64 = 64 * 1024;

/// A file that no row can be read from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// There is nothing in it.
    #[error("the file is empty")]
    Empty,
    /// It is no text: a workbook, say.
    #[error("the file is not CSV; save the sheet as CSV (UTF-8) and try again")]
    NotText,
    /// It is text in an encoding that is not read.
    #[error("the file is UTF-16; save it as CSV UTF-8 and try again")]
    Utf16,
    /// The header is longer than any header.
    #[error("the first line is too long to be a header")]
    HeaderTooLong,
    /// Columns that a musician cannot do without.
    #[error("the header lacks {}", missing.join(" and "))]
    MissingColumns {
        /// What is missing, each with the names that are understood.
        missing: Vec<String>,
    },
    /// Two columns of one meaning.
    #[error("the columns {first:?} and {second:?} mean the same")]
    RepeatedColumn {
        /// The one.
        first: String,
        /// The other.
        second: String,
    },
    /// The file could not be read.
    #[error("the file could not be read")]
    Io(#[source] std::io::Error),
}

impl FileError {
    const fn rule(&self) -> &'static str {
        match self {
            Self::Empty => "required",
            Self::NotText | Self::Io(_) => "format",
            Self::Utf16 => "encoding",
            Self::HeaderTooLong => "length",
            Self::MissingColumns { .. } => "missing_columns",
            Self::RepeatedColumn { .. } => "repeated",
        }
    }
}

impl From<FileError> for UseCaseError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Io(source) => StoreError::Unavailable(Box::new(source)).into(),
            other => ValidationErrors::one("file", other.rule(), other.to_string()).into(),
        }
    }
}
