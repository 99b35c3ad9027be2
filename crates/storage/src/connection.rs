//! One connection of a pool, whom it is lent to, and what happens to it when a transaction leaves it behind.
//!
//! It says of itself whether it may be lent: it is dirty from before the first message of a transaction until that
//! transaction ended cleanly, and a dirty one is never lent. One whose transaction only read may leave two things to the
//! next ([`Left`]): the answer to the message that ended it, or the end itself ([`crate::lingering`]). The server does both
//! before it looks at anything that is sent later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::managed::{self, Metrics, Object, RecycleError, RecycleResult};
use futures::{FutureExt as _, StreamExt as _};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, Executor as _, PgConnection};
use stagesub_tenancy::TenantId;
use stagesub_tenancy::fair::Permit;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::canceller::Canceller;
use crate::error::sqlstate;
use crate::identity::{ConnectError, Identity};
use crate::lingering::Lingering;
use crate::prepared::{Doubtful, Prepared};
use crate::warming::warm_up;

/// After this long without an answer, the statement that was left behind is cancelled on the server.
const CANCEL_AFTER: Duration = Duration::from_millis(50);
/// After this long a connection that does not come back is closed.
pub(crate) const GIVE_UP_AFTER: Duration = Duration::from_secs(2);
/// SQLSTATE of a prepared statement that is not there.
const NO_SUCH_STATEMENT: &str = "26000";
/// Answers to statements that were left behind, at most, and one more: the end of a transaction that read, one that
/// ran, one that was sent after it.
const PENDING_ANSWERS: u32 = 4;

/// Whether a connection may be lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It may, and has whoever gets it do this first.
    Idle(Left),
    /// It is lent, or was left behind; this is what it had to do first.
    Dirty(Left),
}

/// What a transaction that only read, or was undone, left to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// The answer to the message that ended it, which was sent, is to be read.
    Answer,
    /// It is open, and to be ended.
    End,
    /// Nothing but the end of an answer is to be read, of a message that was a transaction by itself and raised.
    Rest,
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
    /// Nobody has used it, and it has not been made ready for whoever does.
    fresh: bool,
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

    /// Whether its first user would wait for what a new process of the server has to read.
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Has it do for the first time what its first user would, as far as it comes by then; whether it may be lent. It may not
    /// be while it does, nor when the server did not answer.
    pub(crate) async fn warm_up(&mut self, until: tokio::time::Instant) -> bool {
        if tokio::time::Instant::now() >= until {
            return true;
        }
        self.state = State::Dirty(Left::Nothing);
        let done = warm_up(&mut self.pg, &mut self.prepared, until);
        let done = tokio::time::timeout_at(until + GIVE_UP_AFTER, done).await;
        match done {
            Ok(Ok(())) => {
                (self.state, self.fresh) = (State::Idle(Left::Nothing), false);
                true
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "a connection was not made ready");
                false
            }
            Err(_) => {
                tracing::debug!("a connection was not made ready in time");
                false
            }
        }
    }

    /// For how long nobody has used it, whom the pool knows of or whom it lingered for.
    pub(crate) fn unused_for(&self, metrics: &Metrics) -> Duration {
        let lingered = self.lingered.map_or(Duration::MAX, |since| since.elapsed());
        metrics.last_used().min(lingered)
    }

    /// Takes leave of the server, which then need not find out by itself. One that does not answer is dropped.
    pub(crate) async fn close(self) {
        // The socket is closed before it is counted no more.
        let Self { pg, _present, .. } = self;
        match tokio::time::timeout(GIVE_UP_AFTER, pg.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a connection did not close cleanly"),
            Err(_) => tracing::debug!("a connection did not close in time"),
        }
    }
}

/// Ends the transaction of one that lingered, and gives it back.
pub(crate) fn send_end(mut object: Object<Manager>) {
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

impl Manager {
    /// Connects so, to what this names, and counts what it makes.
    pub(crate) fn new(options: PgConnectOptions, identity: Identity, present: watch::Sender<usize>) -> Self {
        Self { options, identity, present }
    }
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
            fresh: true,
            lingered: None,
            _present: present,
        })
    }

    async fn recycle(&self, conn: &mut Conn, _: &Metrics) -> RecycleResult<ConnectError> {
        // The fail-safe, not the clean-up: that happens before a connection comes back here.
        match conn.state {
            State::Idle(Left::Nothing | Left::Answer | Left::Rest) => Ok(()),
            State::Idle(Left::End) => Err(RecycleError::message("left open by a transaction that read")),
            State::Dirty(_) => Err(RecycleError::message("left dirty by a transaction")),
        }
    }
}

/// A connection that is lent. Dropping it without [`Borrowed::release`] cleans it up, or closes it.
pub(crate) struct Borrowed {
    object: Option<Object<Manager>>,
    /// None where the process that works for a connection is another's in a moment.
    canceller: Option<Arc<Canceller>>,
    lingering: Arc<Lingering<Object<Manager>>>,
    /// After `object`: the turn is over when the connection is back. Absent once clean-up has it.
    turn: Option<Permit<TenantId>>,
}

impl Borrowed {
    /// One that is lent for a turn, dirty from now on.
    pub(crate) fn new(
        mut object: Object<Manager>,
        canceller: Option<Arc<Canceller>>,
        lingering: Arc<Lingering<Object<Manager>>>,
        turn: Permit<TenantId>,
    ) -> Self {
        let (State::Idle(left) | State::Dirty(left)) = object.state;
        (object.state, object.fresh) = (State::Dirty(left), false);
        Self { object: Some(object), canceller, lingering, turn: Some(turn) }
    }

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
            Left::Answer | Left::Rest => object.pg.flush().await?,
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

    /// Gives back a connection whose message was a transaction by itself, which raised: nothing is open, and what it set is
    /// undone. Of the answer nothing but its end is to come, which whoever has the connection next reads.
    pub(crate) fn undone(mut self) {
        if let Some(mut object) = self.object.take() {
            object.state = State::Idle(Left::Rest);
        }
    }

    /// Whether this first error on the connection, which is not dead, is of what was left to do first. Ending a transaction
    /// that read raises nothing of itself. But the server may have been told to cancel while it did, and one that is not
    /// open cannot be followed by another.
    pub(crate) fn is_of_what_was_left(&self, error: &sqlx::Error) -> bool {
        let expected = match self.left() {
            Left::Nothing | Left::Rest => return false,
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
                runtime.spawn(reclaim(object, self.canceller.clone(), self.turn.take()));
            }
            Err(_) => drop(Object::take(object)),
        }
    }
}

/// Brings a connection that was left in the middle of something back, or closes it.
async fn reclaim(
    mut object: Object<Manager>,
    canceller: Option<Arc<Canceller>>,
    turn: Option<Permit<TenantId>>,
) {
    let pid = object.pid;
    let tidied = {
        let conn: &mut Conn = &mut object;
        let tidy = tidy(&mut conn.pg, &mut conn.prepared);
        tokio::pin!(tidy);
        tokio::select! {
            result = &mut tidy => result.is_ok(),
            () = tokio::time::sleep(CANCEL_AFTER) => {
                // The statement still runs on the server: closing the socket would not stop it.
                let asked = match canceller {
                    Some(canceller) => canceller.cancel(pid).await,
                    // Behind a pooler it would be somebody else's statement.
                    None => Ok(()),
                };
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
