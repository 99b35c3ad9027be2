//! Pools of connections for tenant transactions, and what happens to a connection that a transaction left
//! behind.
//!
//! Leaner than sqlx's own pool, which pings at every return: lending and taking back cost no message. The
//! price is that a connection says of itself whether it may be lent: it is dirty from before the first
//! message of a transaction until that transaction ended cleanly, and a dirty one is never lent. One whose
//! transaction only read is lent again once the message that ends it is sent, and owes the answer until then:
//! the server ends the transaction at once, and before it looks at anything that is sent later.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{self, Metrics, Object, RecycleError, RecycleResult};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use stagesub_tenancy::fair::Permit;
use stagesub_tenancy::router::Routed;
use stagesub_tenancy::{
    BeginError, BoxError, Crowded, FairGate, FairSettings, FairStats, OpenError, TenantId,
};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};

use crate::bounds::milliseconds;
use crate::canceller::Canceller;
use crate::error::{Failure, classify, is_dead, is_unprepared, sqlstate};
use crate::identity::{ConnectError, Identity};

pub use crate::bounds::{BoundsBy, TxTimeouts};

/// How a pool of one database behaves.
#[derive(Debug, Clone, Copy)]
pub struct TenantPoolSettings {
    /// Most connections, at least 1. Never exceeded, clean-up included.
    pub max_connections: u32,
    /// Longest wait for a connection before [`BeginError::Busy`].
    pub wait: Duration,
    /// How much of what no other tenant holds one tenant may hold, in percent; see [`FairSettings::share`].
    pub share: u8,
    /// Longest time until a begin is answered, waiting for the tenant's lock not counted. A server that is
    /// frozen does not keep the bounds below.
    pub answer: Duration,
    /// Longest time to make a connection.
    pub connect: Duration,
    /// Connections that were not used for so long are closed.
    pub idle: Duration,
    /// What each transaction may take.
    pub timeouts: TxTimeouts,
    /// Who knows that.
    pub bounds: BoundsBy,
}

impl Default for TenantPoolSettings {
    fn default() -> Self {
        Self {
            max_connections: 10,
            wait: Duration::from_secs(5),
            share: FairSettings::default().share,
            answer: Duration::from_secs(5),
            connect: Duration::from_secs(5),
            idle: Duration::from_mins(10),
            timeouts: TxTimeouts::default(),
            bounds: BoundsBy::default(),
        }
    }
}

/// After this long without an answer, the statement that was left behind is cancelled on the server.
const CANCEL_AFTER: Duration = Duration::from_millis(50);
/// After this long a connection that does not come back is closed.
const GIVE_UP_AFTER: Duration = Duration::from_secs(2);
/// Longest wait for the connections of a pool that is closed: the clean-ups that still run, and a bit.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// SQLSTATE of a prepared statement that is not there.
const NO_SUCH_STATEMENT: &str = "26000";
/// Answers to statements that were left behind, at most, and one more: the end of a transaction that read, one that
/// ran, one that was sent after it.
const PENDING_ANSWERS: u32 = 4;

/// A connection's first words.
fn told(options: PgConnectOptions, settings: &TenantPoolSettings) -> PgConnectOptions {
    let TxTimeouts { statement, lock, idle } = settings.timeouts;
    match settings.bounds {
        BoundsBy::Session => options.options([
            ("statement_timeout", milliseconds(statement).to_string()),
            ("lock_timeout", milliseconds(lock).to_string()),
            ("idle_in_transaction_session_timeout", milliseconds(idle).to_string()),
            // Who writes says so where it begins. What does not begin, a statement by itself, reads, and as everybody does.
            ("default_transaction_read_only", "on".to_owned()),
            ("default_transaction_isolation", "read committed".to_owned()),
            ("default_transaction_deferrable", "off".to_owned()),
        ]),
        BoundsBy::Transaction => options,
    }
}

/// Connections to one database, as the application's login. Lent to [`crate::tx::TenantTx`] and to what is done in one
/// message alone: neither the pool nor a connection can be taken out of it.
pub struct TenantPool {
    inner: managed::Pool<Manager>,
    /// Whose turn it is. Its permits are never more than the pool may have connections, so that nobody waits
    /// behind it.
    gate: FairGate<TenantId>,
    settings: TenantPoolSettings,
    canceller: Arc<Canceller>,
    warming: Mutex<()>,
    reaper: tokio::task::AbortHandle,
    /// How many connections there are, wherever they are.
    present: watch::Sender<usize>,
}

impl fmt::Debug for TenantPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantPool").field("status", &self.inner.status()).finish_non_exhaustive()
    }
}

impl TenantPool {
    /// A pool with its first connection, which shows that the database is the one meant and is there for whoever
    /// wanted the pool. Others are made when they are wanted, and show the same. Call within a Tokio runtime.
    pub(crate) async fn open(
        options: PgConnectOptions,
        settings: TenantPoolSettings,
        identity: Identity,
    ) -> Result<Self, OpenError> {
        let pool = Self::new(options, settings, identity)
            .map_err(|source| OpenError::Unavailable(Box::new(source)))?;
        drop(pool.inner.get().await.map_err(unavailable)?);
        Ok(pool)
    }

    fn new(
        options: PgConnectOptions,
        settings: TenantPoolSettings,
        identity: Identity,
    ) -> Result<Self, sqlx::Error> {
        let options = told(options, &settings).disable_statement_logging();
        let size = usize::try_from(settings.max_connections.max(1)).unwrap_or(1);
        let present = watch::Sender::new(0);
        let manager = Manager { options: options.clone(), identity, present: present.clone() };
        let inner = managed::Pool::builder(manager)
            .max_size(size)
            // The one that was used last: what it needs is in the processor's caches, and those that are not needed
            // lie idle until they are closed.
            .queue_mode(managed::QueueMode::Lifo)
            .wait_timeout(Some(settings.wait))
            .create_timeout(Some(settings.connect))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(|error| sqlx::Error::Configuration(Box::new(error)))?;
        let reaper = tokio::spawn(close_idle(inner.clone(), settings.idle)).abort_handle();
        let gate = FairGate::new(FairSettings {
            permits: settings.max_connections,
            share: settings.share,
            wait: settings.wait,
            ..FairSettings::default()
        });
        Ok(Self {
            inner,
            gate,
            settings,
            canceller: Arc::new(Canceller::new(options, GIVE_UP_AFTER)),
            warming: Mutex::default(),
            reaper,
            present,
        })
    }

    /// Uses at most `connections` from now on, at least 1 and never more than
    /// [`TenantPoolSettings::max_connections`]. Idle ones beyond that are closed; those that are lent are not
    /// called back, so call this now and then.
    pub async fn resize(&self, connections: u32) {
        let connections = connections.clamp(1, self.settings.max_connections.max(1));
        self.gate.resize(connections);
        let most = usize::try_from(connections).unwrap_or(usize::MAX);
        let mut beyond = self.inner.status().size.saturating_sub(most);
        let keep = |_: &Conn, _: Metrics| {
            let close = beyond > 0;
            beyond = beyond.saturating_sub(1);
            !close
        };
        close_all(self.inner.retain(keep).removed).await;
    }

    /// Makes connections until there are as many as one tenant may have at a time, whoever uses them.
    ///
    /// # Cancel safety
    /// What was made by then is in the pool, or closed.
    pub(crate) async fn warm(&self) -> Result<(), OpenError> {
        // One at a time: two would make twice as many, or wait for what the other has.
        let Ok(_turn) = self.warming.try_lock() else { return Ok(()) };
        let wanted = usize::try_from(self.gate.most_of_one()).unwrap_or(usize::MAX);
        let in_use = usize::try_from(self.gate.stats().held).unwrap_or(usize::MAX);
        let status = self.inner.status();
        let missing = wanted.saturating_sub(status.size.max(in_use));
        if missing == 0 {
            return Ok(());
        }
        // Those that are idle are lent first, so that so many more are made. It waits for nobody who has one.
        let at_once = managed::Timeouts { wait: Some(Duration::ZERO), ..self.inner.timeouts() };
        let lends = (0..status.available + missing).map(|_| self.inner.timeout_get(&at_once));
        for lent in futures::future::join_all(lends).await {
            match lent {
                Ok(_) | Err(managed::PoolError::Timeout(managed::TimeoutType::Wait)) => {}
                Err(error) => return Err(unavailable(error)),
            }
        }
        Ok(())
    }

    /// Who holds connections and who waits for one.
    #[must_use]
    pub fn turns(&self) -> FairStats {
        self.gate.stats()
    }

    /// Longest time until a begin is answered.
    pub(crate) fn answer_within(&self) -> Duration {
        self.settings.answer
    }

    /// Bounds of each transaction.
    #[must_use]
    pub fn timeouts(&self) -> TxTimeouts {
        self.settings.timeouts
    }

    /// Those that a transaction has to set itself.
    pub(crate) fn bounds_to_set(&self) -> Option<TxTimeouts> {
        match self.settings.bounds {
            BoundsBy::Session => None,
            BoundsBy::Transaction => Some(self.settings.timeouts),
        }
    }

    /// Connections that exist now, those being cleaned up included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.inner.status().size
    }

    /// Borrows a connection when it is the tenant's turn, marked dirty before anybody can send anything on it.
    /// The flag tells whether it was used before, so that its being dead is no news about the server.
    pub(crate) async fn borrow(&self, tenant: TenantId) -> Result<(Borrowed, bool), NoConnection> {
        let turn = self.gate.enter(tenant).await.map_err(NoConnection::Busy)?;
        match self.inner.get().await {
            Ok(mut object) => {
                object.state = State::Dirty { owing: object.state == State::Owing };
                let reused = Object::metrics(&object).recycle_count > 0;
                let canceller = Arc::clone(&self.canceller);
                Ok((Borrowed { object: Some(object), canceller, turn: Some(turn) }, reused))
            }
            Err(managed::PoolError::Timeout(managed::TimeoutType::Wait)) => {
                Err(NoConnection::Busy(Crowded::TimedOut))
            }
            Err(managed::PoolError::Timeout(late)) => {
                Err(NoConnection::Silent(format!("no connection was made in time: {late:?}").into()))
            }
            Err(managed::PoolError::Backend(ConnectError::Database(error))) if is_dead(&error) => {
                Err(NoConnection::Lost(Box::new(error)))
            }
            Err(managed::PoolError::Backend(error)) => Err(NoConnection::Refused(Box::new(error))),
            Err(error) => Err(NoConnection::Refused(error.to_string().into())),
        }
    }

    /// Closes the pool; returns when its connections are gone, those that are still being cleaned up included.
    pub(crate) async fn close(&self) {
        self.reaper.abort();
        close_all(self.inner.retain(|_, _| false).removed).await;
        // What comes back from now on is dropped.
        self.inner.close();
        let mut present = self.present.subscribe();
        let gone = tokio::time::timeout(CLOSE_WITHIN, present.wait_for(|count| *count == 0)).await.is_ok();
        if !gone {
            tracing::warn!(left = *self.present.borrow(), "connections of a closed pool are still in use");
        }
        self.canceller.close().await;
    }
}

impl Drop for TenantPool {
    fn drop(&mut self) {
        self.reaper.abort();
        self.inner.close();
    }
}

fn unavailable(error: managed::PoolError<ConnectError>) -> OpenError {
    match error {
        managed::PoolError::Backend(error) => error.into(),
        error => OpenError::Unavailable(Box::new(error)),
    }
}

async fn close_idle(pool: managed::Pool<Manager>, idle: Duration) {
    let mut tick = tokio::time::interval(idle.max(Duration::from_secs(1)) / 2);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !pool.is_closed() {
        tick.tick().await;
        close_all(pool.retain(|_, metrics| metrics.last_used() < idle).removed).await;
    }
}

/// Takes leave of the server, which then need not find out by itself. One that does not answer is dropped.
async fn close_all(connections: Vec<Conn>) {
    let closings = connections.into_iter().map(|conn| async move {
        let Conn { pg, _present, .. } = conn;
        match tokio::time::timeout(GIVE_UP_AFTER, pg.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a connection did not close cleanly"),
            Err(_) => tracing::debug!("a connection did not close in time"),
        }
    });
    futures::future::join_all(closings).await;
}

/// Whether a connection may be lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Clean,
    /// Lent, or left behind. `owing` tells that the answer to the message that ended its last transaction had not
    /// been seen when it was lent.
    Dirty {
        owing: bool,
    },
    /// Its last transaction's end was sent, and is not answered yet.
    Owing,
}

/// One connection.
pub(crate) struct Conn {
    pg: PgConnection,
    state: State,
    pid: i32,
    prepared: Prepared,
    /// After `pg`, so that it counts until the socket is closed.
    _present: Present,
}

/// Statements that were prepared on a connection. What is prepared outlives every transaction.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    known: Vec<Named>,
    /// The one that was sent to be prepared and has not been seen answered.
    doubtful: Option<Doubtful>,
}

/// A statement of which it is not known whether it is prepared.
#[derive(Debug, Clone, Copy)]
enum Doubtful {
    /// By its name, with `PREPARE`.
    ByName(Named),
    /// By the driver, which has names of its own.
    ByDriver(Named),
}

/// A name, and the text that it stands for: of two texts by one name the second is not taken for the first.
pub(crate) type Named = (&'static str, &'static str);

impl Prepared {
    /// Whether the next message has to prepare it; it is doubtful from then on.
    pub(crate) fn will_have(&mut self, statement: Named) -> bool {
        let wanting = !self.known.contains(&statement);
        if wanting {
            self.doubtful = Some(Doubtful::ByName(statement));
        }
        wanting
    }

    /// The driver prepares it with the next message, unless it is known; it is doubtful from then on.
    pub(crate) fn driver_will_have(&mut self, statement: Named) {
        if !self.known.contains(&statement) {
            self.doubtful = Some(Doubtful::ByDriver(statement));
        }
    }

    /// The driver has seen whether what was doubtful is there.
    pub(crate) fn answered(&mut self) {
        self.doubtful = None;
    }

    /// What was doubtful was seen to be there.
    pub(crate) fn has(&mut self) {
        self.known
            .extend(self.doubtful.take().map(|(Doubtful::ByName(known) | Doubtful::ByDriver(known))| known));
    }
}

/// Counts one connection for as long as it exists.
struct Present(watch::Sender<usize>);

impl Present {
    fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

pub(crate) struct Manager {
    options: PgConnectOptions,
    /// What each connection has to reach.
    identity: Identity,
    present: watch::Sender<usize>,
}

impl managed::Manager for Manager {
    type Type = Conn;
    type Error = ConnectError;

    async fn create(&self) -> Result<Conn, ConnectError> {
        let present = Present::new(&self.present);
        // Apart: a future as large as a driver's whole greeting would be carried along by each loan.
        let (pg, pid) = Box::pin(self.identity.connect(&self.options)).await?;
        Ok(Conn { pg, state: State::Clean, pid, prepared: Prepared::default(), _present: present })
    }

    async fn recycle(&self, conn: &mut Conn, _: &Metrics) -> RecycleResult<ConnectError> {
        // The fail-safe, not the clean-up: that happens before a connection comes back here.
        match conn.state {
            State::Clean | State::Owing => Ok(()),
            State::Dirty { .. } => Err(RecycleError::message("left dirty by a transaction")),
        }
    }
}

/// Why no connection was lent.
#[derive(Debug)]
pub(crate) enum NoConnection {
    /// None was to be had in time, or too many wait.
    Busy(Crowded),
    /// The server did not answer in time.
    Silent(BoxError),
    /// The server cannot be reached.
    Lost(BoxError),
    /// The server answered that it takes no more.
    Refused(BoxError),
}

impl NoConnection {
    /// What it means to the caller; the pool's cache is told what it says of the database, the tally what of the tenant.
    pub(crate) fn tell(self, routed: &mut Routed<TenantPool>) -> BeginError {
        match self {
            Self::Busy(why) => {
                routed.tally.crowded(why);
                BeginError::Busy
            }
            Self::Silent(error) => {
                routed.lease.silent();
                BeginError::Unavailable(error)
            }
            Self::Lost(error) => {
                routed.lease.lost();
                BeginError::Unavailable(error)
            }
            Self::Refused(error) => BeginError::Unavailable(error),
        }
    }
}

/// A connection that is lent. Dropping it without [`Borrowed::release`] cleans it up, or closes it.
pub(crate) struct Borrowed {
    object: Option<Object<Manager>>,
    canceller: Arc<Canceller>,
    /// After `object`: the turn is over when the connection is back. Absent once clean-up has it.
    turn: Option<Permit<TenantId>>,
}

impl Borrowed {
    /// The connection, for the transaction that holds this.
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.object.as_mut().expect("a borrowed connection is present until it is given back").pg
    }

    /// What was prepared on the connection.
    pub(crate) fn prepared(&mut self) -> &mut Prepared {
        &mut self.object.as_mut().expect("a borrowed connection is present until it is given back").prepared
    }

    /// Takes the answer that the connection still owed. The driver does so before it sends anything; here an error of
    /// it is told from one of what is sent next. `flush` is the driver's name for waiting until nothing is outstanding.
    pub(crate) async fn settle(&mut self) -> Result<(), sqlx::Error> {
        let object = self.object.as_mut().expect("a borrowed connection is present until it is given back");
        if object.state == (State::Dirty { owing: true }) {
            object.pg.flush().await?;
            object.state = State::Dirty { owing: false };
        }
        Ok(())
    }

    /// Gives back a connection whose transaction ended cleanly and whose settings were reset.
    pub(crate) fn release(mut self) {
        if let Some(mut object) = self.object.take() {
            object.state = State::Clean;
        }
    }

    /// Gives back a connection to which the message was sent that ends its transaction and resets its settings,
    /// when everything before it was answered.
    pub(crate) fn release_owing(mut self) {
        if let Some(mut object) = self.object.take() {
            object.state = State::Owing;
        }
    }

    /// Whether this first error on the connection may be the answer that it owed. Ending a transaction that read
    /// raises nothing of itself, but a server that shuts down, or is told to cancel, answers with an error. It says nothing
    /// of epochs and of what is prepared.
    pub(crate) fn owed(&self, error: &sqlx::Error) -> bool {
        let owing = |object: &Object<Manager>| object.state == State::Dirty { owing: true };
        let own = classify(error) == Failure::StaleEpoch || is_unprepared(error);
        self.object.as_ref().is_some_and(owing) && !own
    }

    /// Closes a connection that is of no more use.
    pub(crate) fn discard(mut self) {
        if let Some(object) = self.object.take() {
            drop(Object::take(object));
        }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        match Handle::try_current() {
            // The task keeps the pool's permit, so cleaning up never makes it exceed its size, and the
            // tenant's turn, so that it is the tenant who waits for it.
            Ok(runtime) => {
                runtime.spawn(reclaim(object, Arc::clone(&self.canceller), self.turn.take()));
            }
            Err(_) => drop(Object::take(object)),
        }
    }
}

/// Brings a connection that was left in the middle of something back, or closes it.
async fn reclaim(mut object: Object<Manager>, canceller: Arc<Canceller>, turn: Option<Permit<TenantId>>) {
    let pid = object.pid;
    let tidied = {
        let conn: &mut Conn = &mut object;
        let tidy = tidy(&mut conn.pg, &mut conn.prepared);
        tokio::pin!(tidy);
        tokio::select! {
            result = &mut tidy => result.is_ok(),
            () = tokio::time::sleep(CANCEL_AFTER) => {
                // The statement still runs on the server: closing the socket would not stop it.
                let asked = canceller.cancel(pid).await;
                if let Err(error) = &asked {
                    tracing::debug!(%error, "a statement that was left behind could not be cancelled");
                }
                // An order to cancel that was not answered may yet arrive, and would then hit whoever has the
                // connection next: so that connection is closed, whatever came of tidying it.
                matches!(tokio::time::timeout(GIVE_UP_AFTER, tidy).await, Ok(Ok(()))) && asked.is_ok()
            }
        }
    };
    if tidied {
        object.state = State::Clean;
        drop(object);
    } else {
        drop(Object::take(object));
    }
    // The connection is back before the next has a turn.
    drop(turn);
}

/// Waits until every answer of the last user has arrived, ends the transaction, resets all settings. An
/// error that is still on its way belongs to the last user and must not reach the next. A statement of which it
/// is not known whether it was prepared is not, after that.
async fn tidy(pg: &mut PgConnection, prepared: &mut Prepared) -> Result<(), sqlx::Error> {
    for _ in 0..PENDING_ANSWERS {
        match pg.ping().await {
            Ok(()) => break,
            Err(sqlx::Error::Database(_)) => {}
            Err(error) => return Err(error),
        }
    }
    sqlx::raw_sql("ROLLBACK;RESET ALL").execute(&mut *pg).await?;
    if let Some(doubtful) = prepared.doubtful {
        let Doubtful::ByName((name, _)) = doubtful else {
            // Nobody could ever name it again.
            return Err(sqlx::Error::Protocol("a statement may have been left on the connection".to_owned()));
        };
        // Another text of that name goes with it.
        prepared.known.retain(|(known, _)| *known != name);
        match sqlx::raw_sql(AssertSqlSafe(format!("DEALLOCATE {name}"))).execute(pg).await {
            Ok(_) => {}
            Err(error) if sqlstate(&error).as_deref() == Some(NO_SUCH_STATEMENT) => {}
            Err(error) => return Err(error),
        }
        prepared.doubtful = None;
    }
    Ok(())
}
