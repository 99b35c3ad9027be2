//! A whole read in one message: begin, bind, enter, execute, commit, and one answer to all of it.
//!
//! For the few lists that are asked for most. What is executed was prepared once on the connection, so it is not
//! planned again; what goes into the message's text is a UUID and integers, nothing else.
//!
//! No `RESET ALL` ends it, as it ends every other transaction: what was set is set `LOCAL`, the statement is a fixed
//! `SELECT` of this program in a read-only transaction, and the application may not call `set_config`. So there is
//! nothing of a session to take back.

use std::fmt::Write as _;
use std::time::Duration;

use futures::StreamExt as _;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Either, Executor as _};
use stagesub_tenancy::router::Routed;
use stagesub_tenancy::{BeginError, PlacementEpoch, TenantId, TenantScope};

use crate::deadline::Unanswered;
use crate::error::{Failure, begin_error, classify, is_dead, sqlstate};
use crate::factory::TenantDb;
use crate::patience::Tries;
use crate::pool::{Borrowed, TenantPool, TxTimeouts};
use crate::tx::milliseconds;

/// How much later than the server's own bound an answer may come. Such a read is short: the server has as long for
/// it as any begin may take, and one that lies frozen is told apart from one that is slow.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// A `SELECT` that a connection prepares when it first runs it. `$1` is the tenant, which the scope gives; what
/// follows are integers.
#[derive(Debug, Clone, Copy)]
pub struct PreparedRead {
    name: &'static str,
    sql: &'static str,
    numbers: usize,
}

impl PreparedRead {
    /// A read by a name that no other has, with so many integers after the tenant.
    ///
    /// # Panics
    /// When the name is not made of lower-case letters and underscores, or the text holds a semicolon. In a `const`
    /// that fails the build.
    #[must_use]
    pub const fn new(name: &'static str, sql: &'static str, numbers: usize) -> Self {
        let mut at = 0;
        while at < name.len() {
            assert!(matches!(name.as_bytes()[at], b'a'..=b'z' | b'_'), "a name is [a-z_]+");
            at += 1;
        }
        assert!(!name.is_empty(), "a name is [a-z_]+");
        at = 0;
        while at < sql.len() {
            assert!(sql.as_bytes()[at] != b';', "a read is one statement");
            at += 1;
        }
        Self { name, sql, numbers }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

/// A read in one message did not bring its rows.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The transaction was not begun.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// The connection does not keep what was prepared on it, or the tables were changed since. It was closed; an
    /// ordinary transaction brings the rows.
    #[error("the statement is not prepared as it should be")]
    Unprepared(#[source] sqlx::Error),
    /// The statement failed.
    #[error("the read failed")]
    Statement(#[source] sqlx::Error),
}

impl TenantDb {
    /// Reads the scope's tenant in one message, wherever its data is now.
    ///
    /// # Errors
    /// As [`read`]; [`BeginError::Moved`] only when the time was up, as where a transaction begins.
    ///
    /// # Cancel safety
    /// As [`read`].
    pub async fn read_in_one_message(
        &self,
        scope: &TenantScope,
        what: &PreparedRead,
        numbers: &[i64],
    ) -> Result<Vec<PgRow>, ReadError> {
        let mut tries = Tries::new(self.patience);
        loop {
            let routed = self.router.lease(scope).await.map_err(BeginError::from)?;
            match read(routed, scope, what, numbers).await {
                Err(ReadError::Begin(BeginError::Moved)) => {
                    self.router.forget(scope.tenant_id());
                    if !tries.another().await {
                        return Err(BeginError::Moved.into());
                    }
                }
                other => return other,
            }
        }
    }
}

/// Reads in one message, on the pool that the router leased for the scope's tenant. The rows' values are text, and
/// decode as any.
///
/// There is no way without a scope:
///
/// ```compile_fail,E0061
/// # use stagesub_storage::one_message::{PreparedRead, read};
/// # async fn no_scope(routed: stagesub_tenancy::router::Routed<stagesub_storage::pool::TenantPool>) {
/// const ALL: PreparedRead = PreparedRead::new("all", "SELECT no FROM tenant.musician WHERE tenant_id = $1", 0);
/// let rows = read(routed, &ALL, &[]).await;
/// # }
/// ```
///
/// # Errors
/// [`ReadError::Begin`] as [`TenantTx::begin`](crate::tx::TenantTx::begin); [`ReadError::Unprepared`] when an ordinary
/// transaction is the way; [`ReadError::Statement`] otherwise.
///
/// # Cancel safety
/// As a transaction's: what was left is cleaned up in the background, or the connection is closed.
///
/// # Panics
/// When it is not given as many integers as the statement takes.
pub async fn read(
    mut routed: Routed<TenantPool>,
    scope: &TenantScope,
    what: &PreparedRead,
    numbers: &[i64],
) -> Result<Vec<PgRow>, ReadError> {
    assert_eq!(numbers.len(), what.numbers, "{} takes so many integers", what.name);
    let tenant = scope.tenant_id();
    if routed.located.tenant != tenant {
        return Err(BeginError::Unavailable("the pool was leased for another tenant".into()).into());
    }
    let mut timeouts = routed.lease.timeouts();
    timeouts.statement = timeouts.statement.min(routed.lease.answer_within());
    let answer_within = routed.lease.answer_within().saturating_add(ON_ITS_WAY);
    loop {
        let (mut borrowed, reused) =
            routed.lease.borrow(tenant).await.map_err(|none| none.tell(&mut routed))?;
        routed.tally.connected();
        let prepares = borrowed.prepared().will_have(what.name);
        let message = Message::new(tenant, routed.located.epoch, timeouts, what, numbers, prepares);
        let mut answered = 0;
        let mut asking = routed.tally.asks();
        let sent = tokio::time::timeout(answer_within, send(&mut borrowed, &message, &mut answered)).await;
        if let Ok(Ok(rows)) = &sent {
            asking.ran();
            asking.rows(rows.len() as u64);
        }
        drop(asking);
        let Ok(sent) = sent else {
            routed.lease.silent();
            return Err(BeginError::Unavailable(Box::new(Unanswered { within: answer_within })).into());
        };
        match sent {
            Ok(rows) => {
                routed.lease.answered();
                routed.tally.begun();
                borrowed.prepared().has(what.name);
                borrowed.release();
                return Ok(rows);
            }
            // As where a transaction begins: it died while it lay idle, and nothing was done.
            Err(error) if reused && answered == 0 && (is_dead(&error) || borrowed.owed(&error)) => {
                borrowed.discard();
                routed.tally.waits_again();
            }
            Err(error) => {
                if is_dead(&error) {
                    routed.lease.lost();
                } else {
                    routed.lease.answered();
                }
                if answered > message.prepare_at {
                    borrowed.prepared().has(what.name);
                }
                return Err(if is_unprepared(&error) {
                    borrowed.discard();
                    ReadError::Unprepared(error)
                } else if answered < message.prepare_at || classify(&error) == Failure::StaleEpoch {
                    ReadError::Begin(begin_error(error))
                } else {
                    ReadError::Statement(error)
                });
            }
        }
    }
}

/// One message.
struct Message {
    text: String,
    /// How many of its statements come before `PREPARE`, or before `EXECUTE` where it prepares nothing.
    prepare_at: usize,
    /// How many come before `EXECUTE`.
    execute_at: usize,
}

impl Message {
    /// Bounds as any transaction has them, but for pauses: there are none between the statements of one message. The
    /// plan is made once: with one made for each number the planner would cost more than the read.
    fn new(
        tenant: TenantId,
        epoch: PlacementEpoch,
        timeouts: TxTimeouts,
        what: &PreparedRead,
        numbers: &[i64],
        prepares: bool,
    ) -> Self {
        let PreparedRead { name, sql, .. } = what;
        let mut text = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY;\
             SET LOCAL app.tenant_id='{tenant}';\
             SET LOCAL statement_timeout={};\
             SET LOCAL lock_timeout={};\
             SET LOCAL plan_cache_mode=force_generic_plan;\
             CALL app.enter({epoch});",
            milliseconds(timeouts.statement),
            milliseconds(timeouts.lock),
        );
        let prepare_at = 6;
        if prepares {
            let types = ",bigint".repeat(what.numbers);
            write!(text, "PREPARE {name}(uuid{types}) AS {sql};").expect("a String takes every text");
        }
        write!(text, "EXECUTE {name}('{tenant}'").expect("a String takes every text");
        for number in numbers {
            write!(text, ",{number}").expect("a String takes every text");
        }
        text.push_str(");COMMIT");
        Self { text, prepare_at, execute_at: prepare_at + usize::from(prepares) }
    }
}

/// Sends it and takes the rows of `EXECUTE`; counts the statements that were answered.
async fn send(
    borrowed: &mut Borrowed,
    message: &Message,
    answered: &mut usize,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let mut rows = Vec::new();
    let query = sqlx::raw_sql(AssertSqlSafe(message.text.as_str()));
    let mut answers = borrowed.connection().fetch_many(query);
    while let Some(answer) = answers.next().await {
        match answer? {
            Either::Left(_) => *answered += 1,
            Either::Right(row) if *answered == message.execute_at => rows.push(row),
            Either::Right(_) => {
                return Err(sqlx::Error::Protocol("a row of a statement that has none".to_owned()));
            }
        }
    }
    if *answered == message.execute_at + 2 {
        Ok(rows)
    } else {
        Err(sqlx::Error::Protocol(format!("{answered} statements were answered")))
    }
}

/// It is not there (26000), there already (42P05), or its result has changed its type (0A000).
fn is_unprepared(error: &sqlx::Error) -> bool {
    matches!(sqlstate(error).as_deref(), Some("26000" | "42P05" | "0A000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: PreparedRead =
        PreparedRead::new("hot", "SELECT no FROM t WHERE tenant_id = $1 AND no > $2 LIMIT $3", 2);

    fn message(prepares: bool) -> Message {
        let tenant = "01932c07-0000-7000-8000-000000000001".parse().unwrap();
        let timeouts = TxTimeouts {
            statement: Duration::from_secs(15),
            lock: Duration::from_millis(50),
            idle: Duration::from_secs(30),
        };
        Message::new(tenant, PlacementEpoch(7), timeouts, &READ, &[-3, 21], prepares)
    }

    #[test]
    fn the_message_is_made_of_a_uuid_and_integers_only() {
        assert_eq!(
            message(false).text,
            "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY;\
             SET LOCAL app.tenant_id='01932c07-0000-7000-8000-000000000001';\
             SET LOCAL statement_timeout=15000;SET LOCAL lock_timeout=50;\
             SET LOCAL plan_cache_mode=force_generic_plan;CALL app.enter(7);\
             EXECUTE hot('01932c07-0000-7000-8000-000000000001',-3,21);COMMIT"
        );
    }

    #[test]
    fn rows_are_looked_for_where_execute_stands() {
        for prepares in [true, false] {
            let message = message(prepares);
            let statements: Vec<&str> = message.text.split(';').collect();
            assert!(statements[message.execute_at].starts_with("EXECUTE hot("), "{statements:?}");
            assert_eq!(statements.len(), message.execute_at + 2);
            assert_eq!(
                statements[message.prepare_at].starts_with("PREPARE hot(uuid,bigint,bigint) AS SELECT no"),
                prepares
            );
        }
    }
}
