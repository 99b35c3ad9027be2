//! What others see of applying while it goes on, and say to it.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::change::Key;
use crate::catalogue::TableName;
use crate::moves::lsn::Lsn;

/// How far changes are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Up to where of the source's log; durable on the target.
    pub lsn: Lsn,
    /// The greatest mark that was passed.
    pub mark: Option<u64>,
    /// How many transactions were applied since this applier began, without those that it passed over.
    pub transactions: u64,
    /// How many changes they had.
    pub changes: u64,
}

/// What becomes of transactions that the opposite stream did not make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// They are the tenant's own, and are applied.
    Tenant,
    /// There must be none: one is an error, and applying ends.
    Nobody,
}

/// Applying has ended before what was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("applying has ended")]
pub struct Ended;

/// A hold on an applier that runs elsewhere.
#[derive(Debug, Clone)]
pub struct Control {
    shared: Arc<Shared>,
    position: watch::Receiver<Position>,
}

/// What an applier and those who hold it share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) stop: watch::Sender<bool>,
    tables: Vec<TableName>,
    writers: watch::Sender<Writers>,
    hurry: AtomicBool,
    dirty: Mutex<Dirty>,
}

/// How long a transaction waits for others to be committed with. A commit waits for the disk, and the tenant's neighbours
/// share it: many small ones cost them more than what is in them. Nobody waits for the target but who leaves a mark,
/// which ends the batch at once, and who compares rows that changed, for whom nothing lingers.
const LINGER: Duration = Duration::from_millis(100);

/// Keys of rows that changed.
#[derive(Debug)]
struct Dirty {
    bound: usize,
    keys: HashSet<(usize, Key)>,
    overflowed: bool,
}

/// Rows that changed since a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirtyRows {
    /// These, each table's in no order.
    Keys(BTreeMap<TableName, Vec<Key>>),
    /// More than were to be remembered: nothing is known but that many did.
    TooMany,
}

impl Control {
    pub(super) fn new(
        tables: Vec<TableName>,
        writers: Writers,
        bound: usize,
        from: Lsn,
    ) -> (Self, Arc<Shared>, watch::Sender<Position>) {
        let (tell, position) = watch::channel(Position { lsn: from, ..Position::default() });
        let shared = Arc::new(Shared {
            stop: watch::Sender::new(false),
            tables,
            writers: watch::Sender::new(writers),
            hurry: AtomicBool::new(false),
            dirty: Mutex::new(Dirty { bound, keys: HashSet::new(), overflowed: false }),
        });
        (Self { shared: Arc::clone(&shared), position }, shared, tell)
    }

    /// How far changes are applied.
    #[must_use]
    pub fn position(&self) -> Position {
        *self.position.borrow()
    }

    /// Waits until everything before a mark is applied, and durable on the target.
    ///
    /// # Errors
    /// [`Ended`].
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn passed(&mut self, mark: u64) -> Result<Position, Ended> {
        self.position.wait_for(|at| at.mark >= Some(mark)).await.map(|at| *at).map_err(|_| Ended)
    }

    /// Waits until everything that was committed before this position of the source's log is applied. Where nothing is
    /// done that concerns the stream, the source tells how far it is from time to time; a mark is told at once.
    ///
    /// # Errors
    /// [`Ended`].
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn reached(&mut self, lsn: Lsn) -> Result<Position, Ended> {
        self.position.wait_for(|at| at.lsn >= lsn).await.map(|at| *at).map_err(|_| Ended)
    }

    /// Has transactions wait for no others while somebody waits for them, or lets them again.
    pub fn hurry(&self, on: bool) {
        self.shared.hurry.store(on, Ordering::Release);
    }

    /// Says what becomes of transactions that the opposite stream did not make, from the next one on.
    pub fn expect(&self, writers: Writers) {
        self.shared.writers.send_replace(writers);
    }

    /// Begins to remember which rows change, and forgets those from before.
    pub fn clear_dirty(&self) {
        self.shared.dirty().clear();
    }

    /// The rows that changed on the target since it was asked last, or since the beginning.
    #[must_use]
    pub fn take_dirty(&self) -> DirtyRows {
        let (keys, overflowed) = self.shared.dirty().clear();
        if overflowed {
            return DirtyRows::TooMany;
        }
        let mut by_table: Vec<Vec<Key>> = vec![Vec::new(); self.shared.tables.len()];
        for (table, key) in keys {
            by_table[table].push(key);
        }
        let changed = self.shared.tables.iter().cloned().zip(by_table);
        DirtyRows::Keys(changed.filter(|(_, keys)| !keys.is_empty()).collect())
    }

    /// How many rows changed since it was asked. `None`: too many to know.
    #[must_use]
    pub fn dirty_len(&self) -> Option<usize> {
        let dirty = self.shared.dirty();
        (!dirty.overflowed).then_some(dirty.keys.len())
    }

    /// Tells the applier to end where a transaction ends.
    pub fn stop(&self) {
        self.shared.stop.send_replace(true);
    }
}

impl Shared {
    /// How long a transaction waits for others.
    pub(super) fn linger(&self) -> Duration {
        if self.hurry.load(Ordering::Acquire) { Duration::ZERO } else { LINGER }
    }

    pub(super) fn writers(&self) -> Writers {
        *self.writers.borrow()
    }

    /// Remembers rows that are about to be committed. Rather too many than too few: a commit that fails leaves them.
    pub(super) fn remember(&self, keys: HashSet<(usize, Key)>) {
        let mut dirty = self.dirty();
        if dirty.overflowed {
            return;
        }
        if dirty.keys.is_empty() {
            dirty.keys = keys;
        } else {
            dirty.keys.extend(keys);
        }
        if dirty.keys.len() > dirty.bound {
            dirty.keys = HashSet::new();
            dirty.overflowed = true;
        }
    }

    fn dirty(&self) -> MutexGuard<'_, Dirty> {
        // Nothing is left half done where it is held.
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dirty {
    fn clear(&mut self) -> (HashSet<(usize, Key)>, bool) {
        (std::mem::take(&mut self.keys), std::mem::take(&mut self.overflowed))
    }
}

#[cfg(test)]
mod tests {
    use super::super::change::tests::value;
    use super::*;

    fn keys(names: &[&str]) -> HashSet<(usize, Key)> {
        names.iter().map(|name| (0, Key(vec![value(name)]))).collect()
    }

    fn tables() -> Vec<TableName> {
        vec![TableName { schema: "tenant".to_owned(), name: "note".to_owned() }]
    }

    /// So many of the one table there is.
    fn told(control: &Control) -> usize {
        let DirtyRows::Keys(changed) = control.take_dirty() else { panic!("there are few") };
        changed[&tables()[0]].len()
    }

    #[test]
    fn rows_that_changed_are_told_once() {
        let (control, shared, _tell) = Control::new(tables(), Writers::Tenant, 3, Lsn(5));
        assert_eq!(control.position().lsn, Lsn(5));
        shared.remember(keys(&["a", "b"]));
        shared.remember(keys(&["b", "c"]));
        assert_eq!(control.dirty_len(), Some(3));
        assert_eq!(told(&control), 3);
        assert_eq!(control.take_dirty(), DirtyRows::Keys(BTreeMap::new()));
        shared.remember(keys(&["d"]));
        control.clear_dirty();
        assert_eq!(control.dirty_len(), Some(0));
    }

    #[test]
    fn more_rows_than_are_remembered_are_too_many_until_they_were_asked_for() {
        let (control, shared, _tell) = Control::new(tables(), Writers::Tenant, 2, Lsn(5));
        shared.remember(keys(&["a", "b", "c"]));
        shared.remember(keys(&["a"]));
        assert_eq!(control.dirty_len(), None);
        assert_eq!(control.take_dirty(), DirtyRows::TooMany);
        shared.remember(keys(&["a"]));
        assert_eq!(told(&control), 1);
    }

    #[tokio::test]
    async fn who_waits_for_a_mark_is_told_when_it_was_passed_or_never_will_be() {
        let (mut control, _shared, tell) = Control::new(tables(), Writers::Tenant, 2, Lsn(5));
        let mut other = control.clone();
        let waiting = tokio::spawn(async move { other.passed(7).await });
        tell.send_replace(Position { mark: Some(6), ..Position::default() });
        tell.send_replace(Position { mark: Some(8), lsn: Lsn(9), ..Position::default() });
        assert_eq!(waiting.await.unwrap().unwrap().mark, Some(8));
        assert!(control.reached(Lsn(9)).await.is_ok());
        drop(tell);
        assert!(control.passed(8).await.is_ok(), "it was passed");
        assert_eq!(control.passed(9).await, Err(Ended));
    }
}
