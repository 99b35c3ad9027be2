//! Who used how much of the databases: measured where transactions begin and end, for whoever asks.
//!
//! [`Router::lease`](crate::Router::lease) begins a [`Tally`] for each transaction, which goes with it: how long it
//! waited for its turn and its connection, how long its database worked, what it ran. When the transaction is over, however it
//! ended, its sums go to the router's [`UsageSink`], and to whoever [`gather`]s what one task does, such as a request.
//!
//! [`UsageMeter`] is a sink that sums by tenant, in bounded memory; [`UsageLedger`] is where nodes put their sums
//! together.

use std::ops::{AddAssign, Sub};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, mem};

use tokio::time::Instant;

use crate::fair::Crowded;
use crate::placement::Placement;
use crate::tenant::TenantId;

mod ledger;
mod meter;

#[cfg(any(test, feature = "testing"))]
pub use ledger::MockUsageLedger;
pub use ledger::{HOURS_KEPT, TenantUsage, UnknownOrder, UsageBy, UsageLedger, UsageReport, UsageSums};
pub use meter::UsageMeter;

/// What was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Waiting for a connection: for the tenant's turn, for the pool, and for its opening where it was cold.
    pub pool_wait: Duration,
    /// From sending to the database to its answer: beginning, statements, commit.
    pub database_time: Duration,
    /// Transactions that were begun.
    pub transactions: u64,
    /// Statements that were run in them.
    pub statements: u64,
    /// Rows that they read or changed.
    pub rows: u64,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, more: Self) {
        self.pool_wait = self.pool_wait.saturating_add(more.pool_wait);
        self.database_time = self.database_time.saturating_add(more.database_time);
        self.transactions = self.transactions.saturating_add(more.transactions);
        self.statements = self.statements.saturating_add(more.statements);
        self.rows = self.rows.saturating_add(more.rows);
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, less: Self) -> Self {
        Self {
            pool_wait: self.pool_wait.saturating_sub(less.pool_wait),
            database_time: self.database_time.saturating_sub(less.database_time),
            transactions: self.transactions.saturating_sub(less.transactions),
            statements: self.statements.saturating_sub(less.statements),
            rows: self.rows.saturating_sub(less.rows),
        }
    }
}

/// What one transaction used, or an attempt to begin one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Whose it was.
    pub tenant: TenantId,
    /// Where its data is.
    pub placement: Placement,
    /// How much.
    pub usage: Usage,
    /// Why it got no turn, if it got none.
    pub crowded: Option<Crowded>,
}

/// Hears what every transaction used, when it is over.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
pub trait UsageSink: Send + Sync {
    /// Called once for each; within a drop, so it must neither block nor panic.
    fn used(&self, used: &Used);
}

/// Several sinks, told one after the other.
impl UsageSink for Vec<Arc<dyn UsageSink>> {
    fn used(&self, used: &Used) {
        for sink in self {
            sink.used(used);
        }
    }
}

/// What one task's transactions used, and where the last one was.
#[derive(Debug, Default)]
pub struct Gathered(Mutex<Sums>);

#[derive(Debug, Default)]
struct Sums {
    usage: Usage,
    placement: Option<Placement>,
    /// What was waited before the next transaction was asked for.
    waited: Duration,
}

impl Gathered {
    /// The sums so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.lock().usage
    }

    /// Where the last transaction was; `None`: there was none.
    #[must_use]
    pub fn placement(&self) -> Option<Placement> {
        self.lock().placement
    }

    fn add(&self, usage: Usage, placement: Placement) {
        let mut sums = self.lock();
        sums.usage += usage;
        sums.placement = Some(placement);
    }

    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

tokio::task_local! {
    static GATHERED: Arc<Gathered>;
}

/// Runs `work`, and adds what its transactions use to `sums`. What it leaves to tasks that it spawns counts as far
/// as the transaction was handed over to them; what they use after that is no longer waited for.
///
/// ```
/// use std::sync::Arc;
///
/// use stagesub_tenancy::usage::{Gathered, gather};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let sums = Arc::new(Gathered::default());
/// let answer = gather(Arc::clone(&sums), async { "no transaction here" }).await;
/// assert_eq!(sums.usage().transactions, 0);
/// # assert_eq!(answer, "no transaction here");
/// # }
/// ```
pub async fn gather<F: Future>(sums: Arc<Gathered>, work: F) -> F::Output {
    GATHERED.scope(sums, work).await
}

/// The task waited so long for its tenant's turn, before it asked for a connection: counts as waiting for the pool, with its
/// next transaction. Outside of [`gather`] nobody counts it.
pub fn waited(wait: Duration) {
    // An error says that nobody gathers here.
    let _ = GATHERED.try_with(|sums| sums.lock().waited += wait);
}

/// One transaction's use of its database, from the wish for a connection on. Dropping it reports it.
pub struct Tally {
    tenant: TenantId,
    placement: Placement,
    sink: Option<Arc<dyn UsageSink>>,
    gathered: Option<Arc<Gathered>>,
    usage: Usage,
    /// The part that the task has been told already.
    told: Usage,
    waiting_since: Option<Instant>,
    crowded: Option<Crowded>,
}

impl Tally {
    /// Begins to wait for a connection, as of `since`.
    pub(crate) fn waiting(
        tenant: TenantId,
        placement: Placement,
        since: Instant,
        sink: Option<Arc<dyn UsageSink>>,
    ) -> Self {
        let gathered = GATHERED.try_with(Arc::clone).ok();
        let before = gathered.as_ref().map(|sums| mem::take(&mut sums.lock().waited));
        Self {
            tenant,
            placement,
            sink,
            gathered,
            usage: Usage { pool_wait: before.unwrap_or_default(), ..Usage::default() },
            told: Usage::default(),
            waiting_since: Some(since),
            crowded: None,
        }
    }

    /// A connection is there.
    pub fn connected(&mut self) {
        if let Some(since) = self.waiting_since.take() {
            self.usage.pool_wait += since.elapsed();
        }
    }

    /// The connection was of no use: another one is waited for.
    pub fn waits_again(&mut self) {
        self.waiting_since = Some(Instant::now());
    }

    /// No turn was given.
    pub fn crowded(&mut self, why: Crowded) {
        self.crowded = Some(why);
    }

    /// The transaction is begun.
    pub fn begun(&mut self) {
        self.usage.transactions += 1;
    }

    /// Something is sent to the database, which works until the answer is dropped. Cancelling counts what was
    /// waited until then.
    #[must_use]
    pub fn asks(&mut self) -> Asking<'_> {
        Asking { tally: self, since: Instant::now() }
    }

    /// Tells the task what was used up to here: before the rest is left to another task.
    pub fn tell(&mut self) {
        if let Some(gathered) = &self.gathered
            && self.told != self.usage
        {
            gathered.add(self.usage - self.told, self.placement);
            self.told = self.usage;
        }
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tenant, placement, usage, .. } = self;
        f.debug_struct("Tally")
            .field("tenant", tenant)
            .field("placement", placement)
            .field("usage", usage)
            .finish_non_exhaustive()
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.connected();
        self.tell();
        if let Some(sink) = &self.sink {
            let Self { tenant, placement, usage, crowded, .. } = *self;
            sink.used(&Used { tenant, placement, usage, crowded });
        }
    }
}

/// The database works on something.
#[derive(Debug)]
pub struct Asking<'a> {
    tally: &'a mut Tally,
    since: Instant,
}

impl Asking<'_> {
    /// A statement was run.
    pub fn ran(&mut self) {
        self.tally.usage.statements += 1;
    }

    /// Rows were read or changed.
    pub fn rows(&mut self, rows: u64) {
        self.tally.usage.rows += rows;
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.tally.usage.database_time += self.since.elapsed();
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::placement::DatabaseId;

    const TENANT: TenantId = TenantId::from_uuid(Uuid::from_u128(1));
    const HERE: Placement = Placement::Shared(DatabaseId::from_uuid(Uuid::from_u128(2)));

    /// Keeps what it hears.
    #[derive(Default)]
    struct Heard(Mutex<Vec<Used>>);

    impl UsageSink for Heard {
        fn used(&self, used: &Used) {
            self.0.lock().unwrap().push(*used);
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn tally(sink: &Arc<Heard>) -> Tally {
        Tally::waiting(TENANT, HERE, Instant::now(), Some(Arc::clone(sink) as _))
    }

    async fn passes(time: u64) {
        tokio::time::advance(ms(time)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_waited_for_a_turn_waited_for_the_pool() {
        let (sink, sums) = (Arc::new(Heard::default()), Arc::new(Gathered::default()));
        gather(Arc::clone(&sums), async {
            waited(ms(30));
            let mut tally = tally(&sink);
            passes(5).await;
            tally.connected();
            drop(tally);
            tally_of_another(&sink);
        })
        .await;
        let waits: Vec<_> = sink.0.lock().unwrap().iter().map(|used| used.usage.pool_wait).collect();
        assert_eq!((waits, sums.usage().pool_wait), (vec![ms(35), ms(0)], ms(35)));
        // Nobody gathers here.
        waited(ms(30));
    }

    fn tally_of_another(sink: &Arc<Heard>) {
        let mut tally = tally(sink);
        tally.connected();
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_and_working_are_told_apart_and_pauses_are_neither() {
        let sink = Arc::new(Heard::default());
        let mut tally = tally(&sink);
        passes(3).await;
        tally.connected();
        passes(100).await;
        for rows in [20, 1] {
            let mut asking = tally.asks();
            asking.ran();
            passes(5).await;
            asking.rows(rows);
            drop(asking);
            passes(100).await;
        }
        tally.begun();
        assert!(sink.0.lock().unwrap().is_empty(), "it is not over");
        drop(tally);
        let usage =
            Usage { pool_wait: ms(3), database_time: ms(10), transactions: 1, statements: 2, rows: 21 };
        let used = Used { tenant: TENANT, placement: HERE, usage, crowded: None };
        assert_eq!(*sink.0.lock().unwrap(), [used]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_up_counts_as_far_as_it_came() {
        let sink = Arc::new(Heard::default());
        let waits = tally(&sink);
        passes(7).await;
        drop(waits);
        let mut works = tally(&sink);
        works.connected();
        {
            let cancelled = async {
                let _asking = works.asks();
                std::future::pending::<()>().await;
            };
            assert!(tokio::time::timeout(ms(40), cancelled).await.is_err());
        }
        let mut refused = tally(&sink);
        refused.crowded(Crowded::QueueFull);
        drop((works, refused));
        let heard = sink.0.lock().unwrap();
        assert_eq!((heard[0].usage.pool_wait, heard[0].usage.transactions), (ms(7), 0));
        assert_eq!(heard[1].usage.database_time, ms(40));
        assert_eq!((heard[1].crowded, heard[2].crowded), (None, Some(Crowded::QueueFull)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_is_told_its_own_part_once_also_where_the_rest_goes_on_elsewhere() {
        let sink = Arc::new(Heard::default());
        let [ours, theirs] = [(); 2].map(|()| Arc::new(Gathered::default()));
        let begin = async |rows| {
            let mut tally = tally(&sink);
            tally.connected();
            tally.begun();
            let mut asking = tally.asks();
            asking.rows(rows);
            passes(2).await;
            drop(asking);
            tally
        };
        let mut left = gather(Arc::clone(&ours), begin(3)).await;
        gather(Arc::clone(&theirs), async { drop(begin(4).await) }).await;
        left.tell();
        left.tell();
        let sums = |gathered: &Gathered| {
            let Usage { rows, transactions, database_time, .. } = gathered.usage();
            (rows, transactions, database_time)
        };
        assert_eq!((sums(&ours), sums(&theirs)), ((3, 1, ms(2)), (4, 1, ms(2))));
        assert_eq!(ours.placement(), Some(HERE));
        let rest = tokio::spawn(async move {
            let asking = left.asks();
            passes(5).await;
            drop(asking);
        });
        rest.await.unwrap();
        assert_eq!(sums(&ours), (3, 1, ms(7)));
        let rows: u64 = sink.0.lock().unwrap().iter().map(|used| used.usage.rows).sum();
        assert_eq!((rows, sink.0.lock().unwrap().len()), (7, 2), "each transaction is heard of once");
    }
}
