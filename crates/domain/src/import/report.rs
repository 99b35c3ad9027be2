//! What an import did.

/// Most refusals, and most notices, that a report lists; the rest is counted.
pub const MAX_LISTED: usize = 10_000;

/// What becomes of the good rows when others are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImportMode {
    /// Nothing is kept.
    #[default]
    AllOrNothing,
    /// The good rows are kept.
    Valid,
}

/// What an import did, or would have done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportReport {
    /// Rows that are not blank.
    pub rows: u64,
    /// Musicians entered.
    pub created: u64,
    /// Musicians that a row said something new of.
    pub updated: u64,
    /// Rows that say what is known already.
    pub unchanged: u64,
    /// Rows that say what an earlier row said.
    pub repeated: u64,
    /// Rows that were refused.
    pub refused_count: u64,
    /// What is wrong with them: the first [`MAX_LISTED`].
    pub refused: Vec<Remark>,
    /// How many more refusals there are than are listed.
    pub refused_more: u64,
    /// What else is worth telling: the first [`MAX_LISTED`].
    pub notices: Vec<Remark>,
    /// How many more notices there are than are listed.
    pub notices_more: u64,
    /// Whether the unit is to be committed. When it is not, it must be dropped: part of it may be written, and
    /// the counts say what the rows come to.
    pub applied: bool,
}

/// Something about a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// The number of the row's first line in the file.
    pub line: u64,
    /// What the file calls the column; `None` when it is about the whole row.
    pub column: Option<String>,
    /// What there is to say, for people.
    pub reason: String,
}
