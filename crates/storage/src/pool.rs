//! Pools of connections for tenant transactions.
//!
//! Leaner than sqlx's own pool, which pings at every return: lending and taking back cost no message. The
//! price is that a connection says of itself whether it may be lent (`connection`).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{self, Metrics, Object};
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use stagesub_tenancy::fair::Permit;
use stagesub_tenancy::router::Routed;
use stagesub_tenancy::{
    BeginError, BoxError, Crowded, FairGate, FairSettings, FairStats, OpenError, TenantId,
};
use tokio::sync::{Mutex, watch};

use crate::bounds::milliseconds;
use crate::canceller::Canceller;
use crate::connection::{Borrowed, Conn, GIVE_UP_AFTER, Manager, send_end};
use crate::error::is_dead;
use crate::identity::{ConnectError, Identity};
use crate::lingering::Lingering;

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

impl TenantPoolSettings {
    /// Connections that a pool takes of its server at most: the one that cancels statements which were left behind, too.
    #[must_use]
    pub fn connections_held(&self) -> u32 {
        self.max_connections.max(1).saturating_add(1)
    }
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

/// Longest wait for the connections of a pool that is closed: the clean-ups that still run, and a bit.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// So long connections that are made ahead are made ready, a statement under way aside. They are lent as far as they are by
/// then.
const WARM_WITHIN: Duration = Duration::from_millis(500);
/// Nothing lingers where a transaction may be idle for less than this.
const LINGERS_FROM: Duration = Duration::from_millis(100);
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
    canceller: Option<Arc<Canceller>>,
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
        // A pooler lends the process that a connection was told of to others.
        let canceller = (settings.bounds == BoundsBy::Session)
            .then(|| Arc::new(Canceller::new(options.clone(), GIVE_UP_AFTER)));
        let present = watch::Sender::new(0);
        let manager = Manager::new(options, identity, present.clone());
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
            canceller,
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

    /// Makes connections until there are as many as one tenant may have at a time, whoever uses them, and has those that
    /// nobody has used yet meet what their first user would wait for.
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
        // What a session met is of no use where the next transaction may be another's.
        let warms = self.settings.bounds == BoundsBy::Session;
        let mut fresh = false;
        self.inner.retain(|conn, _| {
            fresh |= conn.is_fresh();
            true
        });
        if missing == 0 && !(warms && fresh) {
            return Ok(());
        }
        // Those that are idle are lent first, so that so many more are made. It waits for nobody who has one.
        let at_once = managed::Timeouts { wait: Some(Duration::ZERO), ..self.inner.timeouts() };
        let lends = (0..status.available + missing).map(|_| self.inner.timeout_get(&at_once));
        let (mut made, mut failed) = (Vec::new(), None);
        for lent in futures::future::join_all(lends).await {
            match lent {
                Ok(object) if warms && object.is_fresh() => made.push(object),
                Ok(_) | Err(managed::PoolError::Timeout(managed::TimeoutType::Wait)) => {}
                Err(error) => failed = Some(error),
            }
        }
        // One after the other, since others use the processors; and soon, since who comes now waits for one of these.
        let until = tokio::time::Instant::now() + WARM_WITHIN;
        for mut object in made {
            if !object.warm_up(until).await {
                drop(Object::take(object));
            }
        }
        failed.map_or(Ok(()), |error| Err(unavailable(error)))
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

    fn lend(&self, object: Object<Manager>, turn: Permit<TenantId>) -> Borrowed {
        Borrowed::new(object, self.canceller.clone(), Arc::clone(&self.lingering), turn)
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
        if let Some(canceller) = &self.canceller {
            canceller.close().await;
        }
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
        close_all(pool.retain(|conn, metrics| conn.unused_for(&metrics) < idle).removed).await;
    }
}

async fn close_all(connections: Vec<Conn>) {
    futures::future::join_all(connections.into_iter().map(Conn::close)).await;
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
