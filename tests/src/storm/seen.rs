//! What a storm saw.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most sentences of a kind that are kept.
const KEPT: usize = 10;

/// Counts, and the first sentences of what should not have been.
#[derive(Debug, Default)]
pub struct Seen {
    /// Transactions that were begun.
    pub begun: AtomicU64,
    /// Transactions that were committed.
    pub committed: AtomicU64,
    /// Owners who went away.
    pub cancelled: AtomicU64,
    /// Owners who panicked.
    pub panics: AtomicU64,
    /// Begins that found no connection in time.
    pub busy: AtomicU64,
    /// Transactions whose connection was lost while that was to be expected.
    pub lost: AtomicU64,
    /// Rows that were read and looked at.
    pub rows: AtomicU64,
    /// Rows of another.
    pub foreign: AtomicU64,
    /// Reads in one message that brought their rows.
    pub glances: AtomicU64,
    /// Reads in one message that raised.
    pub stumbles: AtomicU64,
    /// Writes in one message that changed their row.
    pub jots: AtomicU64,
    /// Probes that found a clean connection.
    pub probes: AtomicU64,
    /// Connections that were lent with something of another on them.
    pub poisoned: AtomicU64,
    /// Outcomes that nothing explains.
    pub surprises: AtomicU64,
    sentences: Mutex<Vec<String>>,
}

impl Seen {
    /// One more.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// How many by now.
    pub fn of(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// A row was read.
    pub fn row(&self, own: bool) {
        Self::count(&self.rows);
        if !own {
            Self::count(&self.foreign);
        }
    }

    /// A connection was not clean.
    pub fn poison(&self, sentence: &str) {
        Self::count(&self.poisoned);
        self.keep(format!("poisoned: {sentence}"));
    }

    /// Something was not as it must be.
    pub fn surprise(&self, sentence: String) {
        Self::count(&self.surprises);
        self.keep(sentence);
    }

    fn keep(&self, sentence: String) {
        let mut sentences = self.sentences.lock().expect("nobody panics while holding it");
        if sentences.len() < KEPT {
            sentences.push(sentence);
        }
    }

    /// The first of what should not have been.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        self.sentences.lock().expect("nobody panics while holding it").clone()
    }

    /// Fails if anything was not as it must be.
    #[track_caller]
    pub fn assert_clean(&self) {
        let bad = [&self.foreign, &self.poisoned, &self.surprises].map(Self::of);
        assert_eq!(bad, [0, 0, 0], "foreign rows, poisoned connections, surprises: {:?}", self.sentences());
    }
}
