//! Paging: every list is bounded.

/// Which part of a list is wanted. Lists are ordered by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Only what comes after this number.
    pub after: Option<i64>,
    limit: u32,
}

impl Page {
    /// Most items that one page holds.
    pub const MAX_LIMIT: u32 = 200;
    /// Items in a page when the client names no limit.
    pub const DEFAULT_LIMIT: u32 = 50;

    /// A page of at most `limit` items; `None` when it is not 1 to [`Page::MAX_LIMIT`].
    #[must_use]
    pub fn new(after: Option<i64>, limit: u32) -> Option<Self> {
        (1..=Self::MAX_LIMIT).contains(&limit).then_some(Self { after, limit })
    }

    /// The first page of the largest size.
    #[must_use]
    pub const fn first() -> Self {
        Self { after: None, limit: Self::MAX_LIMIT }
    }

    /// Most items wanted.
    #[must_use]
    pub const fn limit(self) -> u32 {
        self.limit
    }
}

/// One page of a list; `K` is what the list is ordered by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paged<T, K = i64> {
    /// The items, in order.
    pub items: Vec<T>,
    /// The key to continue after, when there is more.
    pub next: Option<K>,
}
