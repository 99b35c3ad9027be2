//! Clients of nodes in this process: each writes or reads as often as it can, and notes what it was told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::Row as _;
use stagesub_storage::error::{CommitError, sqlstate};
use stagesub_storage::factory::TenantDb;
use stagesub_storage::one_message::ReadError;
use stagesub_storage::one_write::WriteError;
use stagesub_tenancy::{Access, BeginError, TenantScope};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::ledger::{READ, READ_AT_ONCE, WRITE, WRITE_AT_ONCE, seen};
use super::record::{Entry, History, Outcome, Read, Write};

/// Longest that one operation may take. The data path's own bounds are shorter.
const PATIENCE: Duration = Duration::from_mins(2);
/// After a refusal; a closed loop over a server that is away would do nothing else.
const REFUSED: Duration = Duration::from_millis(5);

/// How much there is to do at each node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Clients that write.
    pub writers: usize,
    /// Clients that read.
    pub readers: usize,
    /// The number of the first writer, who is to have no other's.
    pub first: i32,
    /// How long each waits between two operations.
    pub rest: Duration,
}

/// Clients at work.
#[derive(Debug)]
pub struct Clients {
    stop: Arc<AtomicBool>,
    kept: watch::Receiver<Vec<i64>>,
    tasks: JoinSet<History>,
}

/// One client.
#[derive(Clone)]
struct Client {
    db: TenantDb,
    scope: TenantScope,
    node: usize,
    rest: Duration,
    stop: Arc<AtomicBool>,
}

/// A row that is touched, of so many; any will do, and each is as likely.
fn row_of(entry: Entry, rows: i64) -> i64 {
    // A prime that does not divide their number walks over all of them.
    1 + (entry.number * 7_919 + i64::from(entry.writer) * 104_729) % rows
}

impl Clients {
    /// Lets clients work on a tenant at all of these nodes. Writers are numbered node by node; the tenant has their
    /// counts, and rows to touch from 1 to `rows`.
    #[must_use]
    pub fn start(nodes: &[TenantDb], scope: &TenantScope, load: Load, rows: i64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, kept) = watch::channel(vec![0; nodes.len() * load.writers]);
        let tell = Arc::new(tell);
        let mut tasks = JoinSet::new();
        let mut writers = 0..;
        for (node, db) in nodes.iter().enumerate() {
            let client = Client {
                db: db.clone(),
                scope: scope.clone(),
                node,
                rest: load.rest,
                stop: Arc::clone(&stop),
            };
            for _ in 0..load.writers {
                let at = writers.next().expect("there are enough numbers");
                let writer = load.first + i32::try_from(at).expect("a few");
                tasks.spawn(client.clone().write((writer, at), rows, Arc::clone(&tell)));
            }
            for _ in 0..load.readers {
                tasks.spawn(client.clone().read());
            }
        }
        Self { stop, kept, tasks }
    }

    /// How many writes were acknowledged so far, of all writers.
    #[must_use]
    pub fn kept(&self) -> i64 {
        self.kept.borrow().iter().sum()
    }

    /// Waits until each writer was told `more` times from now that a write is kept.
    pub async fn write_on(&self, more: i64) {
        let mut kept = self.kept.clone();
        let wanted: Vec<i64> = kept.borrow().iter().map(|kept| kept + more).collect();
        let all = kept.wait_for(|kept| kept.iter().zip(&wanted).all(|(kept, wanted)| kept >= wanted));
        let all = timeout(PATIENCE, all).await;
        assert!(all.is_ok_and(|all| all.is_ok()), "writers get on: {:?}, not {wanted:?}", self.kept.borrow());
    }

    /// Lets each finish what it does; what all of them did.
    pub async fn stop(mut self) -> History {
        self.stop.store(true, Ordering::Release);
        let mut history = History::default();
        while let Some(part) = self.tasks.join_next().await {
            history.merge(part.expect("a client does not fail"));
        }
        history
    }
}

impl Client {
    async fn write(
        self,
        (writer, at): (i32, usize),
        rows: i64,
        tell: Arc<watch::Sender<Vec<i64>>>,
    ) -> History {
        let mut history = History::default();
        let mut number = 0;
        while !self.stop.load(Ordering::Acquire) {
            number += 1;
            let entry = Entry { writer, number };
            let began = Instant::now();
            let done = timeout(PATIENCE, self.make(entry, row_of(entry, rows)));
            let (outcome, database) = done.await.expect("a write ends in time");
            let ended = Instant::now();
            let refused = matches!(outcome, Outcome::Refused(_));
            if outcome == Outcome::Acknowledged {
                tell.send_modify(|kept| kept[at] += 1);
            }
            history.writes.push(Write { entry, node: self.node, began, ended, outcome, database });
            self.pause(refused).await;
        }
        history
    }

    /// In a transaction and in one message, in turns.
    async fn make(&self, entry: Entry, row: i64) -> (Outcome, Option<String>) {
        if entry.number % 2 == 0 {
            self.make_at_once(entry, row).await
        } else {
            self.make_by_steps(entry, row).await
        }
    }

    async fn make_at_once(&self, entry: Entry, row: i64) -> (Outcome, Option<String>) {
        let values = [entry.writer.into(), entry.number.into(), row.into()];
        match self.db.write_in_one_message(&self.scope, &WRITE_AT_ONCE, &values).await {
            Ok(written) => (Outcome::Acknowledged, written.rows.first().map(|row| row.get(0))),
            Err(WriteError::Begin(error)) => (Outcome::Refused(why(&error)), None),
            Err(WriteError::Statement(error)) => (Outcome::Refused(statement(&error)), None),
            Err(_) => (Outcome::Unknown, None),
        }
    }

    async fn make_by_steps(&self, entry: Entry, row: i64) -> (Outcome, Option<String>) {
        let mut tx = match self.db.begin(&self.scope, Access::Write).await {
            Ok(tx) => tx,
            Err(error) => return (Outcome::Refused(why(&error)), None),
        };
        let made = sqlx::query_scalar::<_, String>(WRITE)
            .bind(tx.tenant().as_uuid())
            .bind(entry.writer)
            .bind(entry.number)
            .bind(row)
            .fetch_one(&mut tx)
            .await;
        let database = match made {
            Ok(database) => database,
            // Nothing is kept without a commit.
            Err(error) => return (Outcome::Refused(statement(&error)), None),
        };
        match tx.commit().await {
            Ok(()) => (Outcome::Acknowledged, Some(database)),
            Err(CommitError::Refused(error)) => (Outcome::Refused(format!("commit: {error}")), None),
            Err(_) => (Outcome::Unknown, Some(database)),
        }
    }

    /// In a transaction and in one message, in turns.
    async fn read(self) -> History {
        let mut history = History::default();
        let mut at_once = false;
        while !self.stop.load(Ordering::Acquire) {
            at_once = !at_once;
            let began = Instant::now();
            let read =
                async { if at_once { self.look_at_once(began).await } else { self.look(began).await } };
            let read = timeout(PATIENCE, read).await.expect("a read ends in time");
            let refused = read.is_err();
            match read {
                Ok(read) => history.reads.push(read),
                Err(why) => history.refused_reads.push((began, why)),
            }
            self.pause(refused).await;
        }
        history
    }

    async fn look(&self, began: Instant) -> Result<Read, String> {
        let mut tx = self.db.begin(&self.scope, Access::Read).await.map_err(|error| why(&error))?;
        let entered = Instant::now();
        let rows = sqlx::query(READ)
            .bind(tx.tenant().as_uuid())
            .fetch_all(&mut tx)
            .await
            .map_err(|error| statement(&error))?;
        tx.commit().await.map_err(|error| format!("commit: {error}"))?;
        let (database, last, counted) = seen(&rows);
        Ok(Read { node: self.node, began, entered, ended: Instant::now(), database, last, counted })
    }

    async fn look_at_once(&self, began: Instant) -> Result<Read, String> {
        let rows = match self.db.read_in_one_message(&self.scope, &READ_AT_ONCE, &[]).await {
            Ok(rows) => rows,
            // The ordinary way is there for that.
            Err(ReadError::Unprepared(_)) => return self.look(began).await,
            Err(ReadError::Begin(error)) => return Err(why(&error)),
            Err(ReadError::Statement(error)) => return Err(statement(&error)),
            Err(error) => return Err(error.to_string()),
        };
        let ended = Instant::now();
        let (database, last, counted) = seen(&rows);
        Ok(Read { node: self.node, began, entered: ended, ended, database, last, counted })
    }

    async fn pause(&self, refused: bool) {
        let pause = if refused { self.rest.max(REFUSED) } else { self.rest };
        if pause.is_zero() { tokio::task::yield_now().await } else { sleep(pause).await }
    }
}

/// Why a transaction was not begun, in a word.
fn why(error: &BeginError) -> String {
    let word = match error {
        BeginError::Moved => "moved",
        BeginError::Locked(_) => "locked",
        BeginError::Busy => "busy",
        BeginError::Route(_) => "no route",
        _ => "unavailable",
    };
    word.to_owned()
}

fn statement(error: &sqlx::Error) -> String {
    match sqlstate(error) {
        Some(code) => format!("statement: {code}"),
        None => "statement: the connection".to_owned(),
    }
}

/// What a history says of each node: how many of its operations were answered.
#[must_use]
pub fn by_node(history: &History) -> BTreeMap<usize, usize> {
    let mut nodes = BTreeMap::new();
    let kept = history.writes.iter().filter(|write| write.outcome == Outcome::Acknowledged);
    for node in kept.map(|write| write.node).chain(history.reads.iter().map(|read| read.node)) {
        *nodes.entry(node).or_default() += 1;
    }
    nodes
}
