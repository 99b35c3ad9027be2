//! What was done, by whom, when, and what came of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One write: its writer's number, and which of that writer's it is, from 1.
///
/// A writer does one thing after the other, and never uses a number twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// Whose.
    pub writer: i32,
    /// Which.
    pub number: i64,
}

/// What a client was told of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is kept.
    Acknowledged,
    /// It is not, and why in a word or two.
    Refused(String),
    /// Nobody can tell.
    Unknown,
}

/// A write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Which.
    pub entry: Entry,
    /// Through which node.
    pub node: usize,
    /// Before anything was asked.
    pub began: Instant,
    /// After the last answer.
    pub ended: Instant,
    /// What that was.
    pub outcome: Outcome,
    /// Which database did it, by its own word.
    pub database: Option<String>,
}

/// A read of everything that the writers had written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Through which node.
    pub node: usize,
    /// Before anything was asked.
    pub began: Instant,
    /// After the transaction had begun; what is one message enters no earlier than it ends.
    pub entered: Instant,
    /// After the last answer.
    pub ended: Instant,
    /// Which database answered, by its own word.
    pub database: Option<String>,
    /// The last entry of each writer that was seen.
    pub last: BTreeMap<i32, i64>,
    /// How many of each writer's entries there were, by the count that each entry adds to; empty where nobody counts.
    pub counted: BTreeMap<i32, i64>,
}

/// A decision: from then on the tenant is served by `database`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Before it was asked for.
    pub called: Instant,
    /// After it was made. `None`: nobody was told, and it may not have been.
    pub returned: Option<Instant>,
    /// Who serves from then on.
    pub database: String,
}

/// What is there in the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// How often each entry is there.
    pub entries: BTreeMap<Entry, usize>,
    /// What the count of each writer says; empty where nobody counts.
    pub counted: BTreeMap<i32, i64>,
    /// What all of the rows that writes touch were touched together; `None` where nobody counts.
    pub touched: Option<i64>,
}

/// All that clients of one tenant did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Writes, each writer's in order.
    pub writes: Vec<Write>,
    /// Reads.
    pub reads: Vec<Read>,
    /// Reads that were refused, and why.
    pub refused_reads: Vec<(Instant, String)>,
}

impl History {
    /// With what others did.
    pub fn merge(&mut self, other: Self) {
        self.writes.extend(other.writes);
        self.reads.extend(other.reads);
        self.refused_reads.extend(other.refused_reads);
    }

    /// Writes that were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.writes.iter().filter(|write| write.outcome == Outcome::Acknowledged).count()
    }

    /// When each operation began and ended.
    pub fn spans(&self) -> impl Iterator<Item = (Instant, Instant)> {
        let writes = self.writes.iter().map(|write| (write.began, write.ended));
        writes.chain(self.reads.iter().map(|read| (read.began, read.ended)))
    }

    /// The longest operation of which a part lay between two instants.
    #[must_use]
    pub fn longest_within(&self, from: Instant, to: Instant) -> Duration {
        let touching = self.spans().filter(|(began, ended)| *began <= to && *ended >= from);
        touching.map(|(began, ended)| ended - began).max().unwrap_or_default()
    }

    /// When operations began that took at least so long, and how long they took; in that order, and of those that were
    /// on at one time the longest.
    #[must_use]
    pub fn waits(&self, at_least: Duration) -> Vec<(Instant, Duration)> {
        let mut long: Vec<_> = self.spans().filter(|(began, ended)| *ended - *began >= at_least).collect();
        long.sort_unstable();
        let mut waits: Vec<(Instant, Duration)> = Vec::new();
        for (began, ended) in long {
            match waits.last_mut() {
                Some((known, waited)) if began <= *known + *waited => {
                    if ended - began > *waited {
                        (*known, *waited) = (began, ended - began);
                    }
                }
                _ => waits.push((began, ended - began)),
            }
        }
        waits
    }

    /// When the first write was acknowledged that began after an instant.
    #[must_use]
    pub fn first_kept_after(&self, instant: Instant) -> Option<Instant> {
        let kept = self
            .writes
            .iter()
            .filter(|write| write.began >= instant && write.outcome == Outcome::Acknowledged);
        kept.map(|write| write.ended).min()
    }
}
