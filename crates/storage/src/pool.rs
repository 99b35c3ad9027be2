//! Pools of connections for tenant transactions, and what happens to a connection that a transaction left
//! behind.
//!
//! Leaner than sqlx's own pool, which pings at every return: lending and taking back cost no message. The
//! price is that a connection says of itself whether it may be lent: it is dirty from before the first
//! message of a transaction until that transaction ended cleanly, and a dirty one is never lent. But for one whose
//! transaction only read, which may leave two things to the next ([`Left`]): the answer to the message that ended it, or
//! the end itself ([`crate::lingering`]). The server does both before it looks at anything that is sent later.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::managed::{self, Metrics, Object, RecycleError, RecycleResult};
use futures::{FutureExt as _, StreamExt as _};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor as _, PgConnection};
use stagesub_tenancy::fair::Permit;
use stagesub_tenancy::router::Routed;
use stagesub_tenancy::{
    BeginError, BoxError, Crowded, FairGate, FairSettings, FairStats, OpenError, TenantId,
};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};

use crate::bounds::milliseconds;
use crate::canceller::Canceller;
use crate::error::{is_dead, sqlstate};
use crate::identity::{ConnectError, Identity};
use crate::lingering::Lingering;
use crate::prepared::{Doubtful, Prepared};

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
/// Nothing lingers where a transaction may be idle for less than this.
const LINGERS_FROM: Duration = Duration::from_millis(100);
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
    /// behind it, but for one that lingers where two saw one that is idle.
    gate: FairGate<TenantId>,
    settings: TenantPoolSettings,
    canceller: Arc<Canceller>,
    lingering: Arc<Lingering<Object<Manager>>>,
    warming: Mutex<()>,
    /// Closes those that lie idle for long.
    reaper: tokio::task::AbortHandle,
    /// Ends those that linger.
    watch: tokio::task::AbortHandle,
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
        let lingering = Arc::new(Lingering::new());
        let watched = Arc::clone(&lingering);
        let watch = tokio::spawn(async move { watched.watch(send_end).await }).abort_handle();
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
            lingering,
            warming: Mutex::default(),
            reaper,
            watch,
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
        let beyond = self.inner.status().size.saturating_sub(most);
        let mut unwanted = beyond;
        let keep = |_: &Conn, _: Metrics| {
            let close = unwanted > 0;
            unwanted = unwanted.saturating_sub(1);
            !close
        };
        let mut closing = self.inner.retain(keep).removed;
        while closing.len() < beyond
            && let Some(lingers) = self.lingering.take()
        {
            closing.push(Object::take(lingers));
        }
        close_all(closing).await;
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

    /// Whether a transaction that only read may stay open until somebody ends it. Not behind a pooler, where it keeps a
    /// server's session from everybody else; nor where the server ends what is idle as quickly.
    pub(crate) fn lets_linger(&self) -> bool {
        self.settings.bounds == BoundsBy::Session && self.settings.timeouts.idle >= LINGERS_FROM
    }

    /// Connections that exist now, those being cleaned up included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.inner.status().size
    }

    /// Borrows a connection when it is the tenant's turn, marked dirty before anybody can send anything on it. For whom
    /// what [lingers](Borrowed::lingers) on it costs no message: they get one that does, if there is any.
    /// The flag tells whether it was used before, so that its being dead is no news about the server.
    pub(crate) async fn borrow(&self, tenant: TenantId) -> Result<(Borrowed, bool), NoConnection> {
        let turn = self.gate.enter(tenant).await.map_err(NoConnection::Busy)?;
        match self.lingering.take() {
            Some(object) => Ok((self.lend(object, turn), true)),
            None => self.lend_idle(turn).await,
        }
    }

    /// The same for whom it costs one: they get one on which nothing lingers, if there is any.
    pub(crate) async fn borrow_ended(&self, tenant: TenantId) -> Result<(Borrowed, bool), NoConnection> {
        let turn = self.gate.enter(tenant).await.map_err(NoConnection::Busy)?;
        if self.inner.status().available == 0
            && let Some(object) = self.lingering.take()
        {
            return Ok((self.lend(object, turn), true));
        }
        self.lend_idle(turn).await
    }

    fn lend(&self, mut object: Object<Manager>, turn: Permit<TenantId>) -> Borrowed {
        let (State::Idle(left) | State::Dirty(left)) = object.state;
        object.state = State::Dirty(left);
        let (canceller, lingering) = (Arc::clone(&self.canceller), Arc::clone(&self.lingering));
        Borrowed { object: Some(object), canceller, lingering, turn: Some(turn) }
    }

    /// Lends one that lies idle, or a new one. Those that linger are lent as far as the pool knows, so that
    /// there are never more connections than it may have.
    async fn lend_idle(&self, turn: Permit<TenantId>) -> Result<(Borrowed, bool), NoConnection> {
        match self.inner.get().await {
            Ok(object) => {
                let reused = Object::metrics(&object).recycle_count > 0;
                Ok((self.lend(object, turn), reused))
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
        self.watch.abort();
        let mut idle = self.inner.retain(|_, _| false).removed;
        idle.extend(self.lingering.close().into_iter().map(Object::take));
        close_all(idle).await;
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
        self.watch.abort();
        drop(self.lingering.close());
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
        let used = |conn: &Conn, metrics: Metrics| {
            let lingered = conn.lingered.map_or(Duration::MAX, |since| since.elapsed());
            metrics.last_used().min(lingered) < idle
        };
        close_all(pool.retain(used).removed).await;
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
    /// It may, and has whoever gets it do this first.
    Idle(Left),
    /// It is lent, or was left behind; this is what it had to do first.
    Dirty(Left),
}

/// What a transaction that only read left to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// The answer to the message that ended it, which was sent, is to be read.
    Answer,
    /// It is open, and to be ended.
    End,
}

/// Ends a transaction that only read, and did nothing but that: there is nothing to keep, and what a function that it
/// called set for the session is taken back with it.
const END: &str = "ROLLBACK;";
/// Ends any other that only read, whatever its statements did to it, and takes back what they set for the session.
const END_ANY: &str = "ROLLBACK;RESET ALL";

/// One connection.
pub(crate) struct Conn {
    pg: PgConnection,
    state: State,
    pid: i32,
    prepared: Prepared,
    /// When it began to linger, the last time.
    lingered: Option<Instant>,
    /// After `pg`, so that it counts until the socket is closed.
    _present: Present,
}

impl Conn {
    /// Sends a message without waiting for its answer; tells whether it is on its way. Whoever has the connection next
    /// finds the answer there before its own, which saves waking somebody up for it.
    ///
    /// Nothing is on its way when the connection failed. All earlier answers must have come: with one outstanding
    /// the driver would wait for it before it sends anything.
    fn send(&mut self, text: &'static str) -> bool {
        let mut answers = self.pg.fetch_many(sqlx::raw_sql(text));
        // One poll sends it: what was sent before was answered, so the socket takes these few bytes. Without the
        // runtime's budget, which could be used up and put the sending off.
        let answered = tokio::task::unconstrained(answers.next()).now_or_never();
        !matches!(answered, Some(Some(Err(_))))
    }
}

/// Ends the transaction of one that lingered, and gives it back.
fn send_end(mut object: Object<Manager>) {
    if object.send(END) {
        object.state = State::Idle(Left::Answer);
    } else {
        drop(Object::take(object));
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
        Ok(Conn {
            pg,
            state: State::Idle(Left::Nothing),
            pid,
            prepared: Prepared::default(),
            lingered: None,
            _present: present,
        })
    }

    async fn recycle(&self, conn: &mut Conn, _: &Metrics) -> RecycleResult<ConnectError> {
        // The fail-safe, not the clean-up: that happens before a connection comes back here.
        match conn.state {
            State::Idle(Left::Nothing | Left::Answer) => Ok(()),
            State::Idle(Left::End) => Err(RecycleError::message("left open by a transaction that read")),
            State::Dirty(_) => Err(RecycleError::message("left dirty by a transaction")),
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
    lingering: Arc<Lingering<Object<Manager>>>,
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

    /// Whether a transaction lingers on the connection, which the first message has to end before anything else.
    pub(crate) fn lingers(&self) -> bool {
        self.left() == Left::End
    }

    /// Does what was left to do first, so that an error of it is told from one of what is sent next. `flush` is the
    /// driver's name for waiting until nothing is outstanding.
    pub(crate) async fn settle(&mut self) -> Result<(), sqlx::Error> {
        let left = self.left();
        let object = self.object.as_mut().expect("a borrowed connection is present until it is given back");
        match left {
            Left::Nothing => return Ok(()),
            Left::Answer => object.pg.flush().await?,
            Left::End => {
                sqlx::raw_sql(END).execute(&mut object.pg).await?;
            }
        }
        object.state = State::Dirty(Left::Nothing);
        Ok(())
    }

    fn left(&self) -> Left {
        let state = self.object.as_ref().map(|object| object.state);
        state.map_or(Left::Nothing, |(State::Idle(left) | State::Dirty(left))| left)
    }

    /// Gives back a connection whose transaction ended cleanly and whose settings were reset.
    pub(crate) fn release(mut self) {
        if let Some(mut object) = self.object.take() {
            object.state = State::Idle(Left::Nothing);
        }
    }

    /// Gives back a connection whose transaction is open, only read, and did nothing but that, when everything was
    /// answered. Whoever has it next ends it, or it is ended soon.
    pub(crate) fn linger(mut self) {
        if let Some(mut object) = self.object.take() {
            object.state = State::Idle(Left::End);
            object.lingered = Some(Instant::now());
            if let Err(object) = self.lingering.keep(object) {
                // Of a pool that is closed.
                drop(Object::take(object));
            }
        }
    }

    /// Gives back a connection whose transaction only read, when everything was answered: it is ended, whatever its
    /// statements did to it, without waiting for the answer. Where that cannot be sent, the connection is closed.
    pub(crate) fn end(mut self) {
        if let Some(mut object) = self.object.take() {
            if object.send(END_ANY) {
                object.state = State::Idle(Left::Answer);
            } else {
                drop(Object::take(object));
            }
        }
    }

    /// Whether this first error on the connection, which is not dead, is of what was left to do first. Ending a transaction
    /// that read raises nothing of itself. But the server may have been told to cancel while it did, and one that is not
    /// open cannot be followed by another.
    pub(crate) fn is_of_what_was_left(&self, error: &sqlx::Error) -> bool {
        let expected = match self.left() {
            Left::Nothing => return false,
            Left::Answer => "57014",
            Left::End => "25P01",
        };
        sqlstate(error).as_deref() == Some(expected)
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
        object.state = State::Idle(Left::Nothing);
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
    sqlx::raw_sql(END_ANY).execute(&mut *pg).await?;
    if let Some(doubtful) = prepared.doubtful() {
        let Doubtful::ByName((name, _)) = doubtful else {
            // Nobody could ever name it again.
            return Err(sqlx::Error::Protocol("a statement may have been left on the connection".to_owned()));
        };
        match sqlx::raw_sql(AssertSqlSafe(format!("DEALLOCATE {name}"))).execute(pg).await {
            Ok(_) => {}
            Err(error) if sqlstate(&error).as_deref() == Some(NO_SUCH_STATEMENT) => {}
            Err(error) => return Err(error),
        }
        // Another text of that name went with it.
        prepared.is_gone(name);
    }
    Ok(())
}
