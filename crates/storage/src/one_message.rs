//! A whole read in one message: begin, bind, execute, commit, and one answer to all of it.
//!
//! For the few lists that are asked for most. What is executed was prepared once on the connection, so it is not
//! planned again; what goes into the message's text is a UUID and integers, nothing else.
//!
//! No `CALL app.enter` stands before it. What was prepared is the read behind a condition on the tenant's fence, which
//! PostgreSQL asks once, before the first row is read, and which raises what `app.enter` raises. Both are of the
//! statement's one snapshot: rows come as they were at a moment when the database served the tenant at that epoch.
//! A reader takes no lock, so `app.enter` did nothing more for it.
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

use crate::bounds::milliseconds;
use crate::deadline::Unanswered;
use crate::error::{Failure, begin_error, classify, is_dead, is_unprepared, sqlstate};
use crate::factory::TenantDb;
use crate::patience::Tries;
use crate::pool::{Borrowed, TenantPool};

/// How much later than the server's own bound an answer may come. Such a read is short: the server has as long for
/// it as any begin may take, and one that lies frozen is told apart from one that is slow.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// A `SELECT` that a connection prepares when it first runs it. `$1` is the tenant, which the scope gives; what
/// follows are integers.
///
/// It is prepared within another, which refuses to read at an epoch that is not the tenant's: see
/// [`PreparedRead::prepared`]. Its rows come in its own order, and as many as it says.
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
    /// When the name is not made of lower-case letters and underscores. When the text could be anything but one
    /// statement in brackets: it holds a semicolon, a comment, a backslash or a dollar that is no parameter's, or
    /// closes a bracket or a quote that it did not open. In a `const` that fails the build.
    #[must_use]
    pub const fn new(name: &'static str, sql: &'static str, numbers: usize) -> Self {
        checked_name(name);
        stays_in_brackets(sql.as_bytes());
        Self { name, sql, numbers }
    }

    /// The statement that a connection prepares. The parameter after its own is the epoch at which the tenant is
    /// said to be served here. Where the tenant's fence says otherwise, or there is none, `app.refuse` raises.
    ///
    /// The condition names no column and nothing in it is volatile, so it is asked once and before anything is read,
    /// of an empty table too. `OFFSET 0` keeps the read's own conditions out of it: of two that are joined by AND the
    /// cheaper is asked first, and where it does not hold the other is not asked.
    #[must_use]
    pub fn prepared(&self) -> String {
        let (sql, epoch) = (self.sql, self.numbers + 2);
        format!(
            "SELECT q.* FROM (SELECT r.* FROM (\n{sql}\n) AS r OFFSET 0) AS q WHERE CASE WHEN \
             (SELECT f.epoch FROM app.tenant_fence AS f WHERE f.tenant_id = $1 AND f.state = 'active') = ${epoch} \
             THEN true ELSE app.refuse(${epoch}) END"
        )
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

/// Panics unless a name needs no quotes.
pub(crate) const fn checked_name(name: &str) {
    let mut at = 0;
    while at < name.len() {
        assert!(matches!(name.as_bytes()[at], b'a'..=b'z' | b'_'), "a name is [a-z_]+");
        at += 1;
    }
    assert!(!name.is_empty(), "a name is [a-z_]+");
}

/// Panics unless a text ends where it began: within the brackets that it is put in.
pub(crate) const fn stays_in_brackets(sql: &[u8]) {
    let (mut at, mut open, mut quote) = (0, 0_usize, None);
    while at < sql.len() {
        let next = if at + 1 < sql.len() { sql[at + 1] } else { b' ' };
        assert!(!matches!(sql[at], b';' | b'\\'), "it is one statement");
        match (quote, sql[at]) {
            (None, b'\'' | b'"') => quote = Some(sql[at]),
            // Doubled, it ends one text and begins the next.
            (Some(b'\''), b'\'') | (Some(b'"'), b'"') => quote = None,
            (None, b'(') => open += 1,
            (None, b')') => {
                assert!(open > 0, "it closes no bracket that it did not open");
                open -= 1;
            }
            (None, b'$') => {
                let name = at > 0
                    && (sql[at - 1].is_ascii_alphanumeric() || sql[at - 1] == b'_' || sql[at - 1] > 127);
                assert!(next.is_ascii_digit() && !name, "a dollar is a parameter's");
            }
            (None, b'-') => assert!(next != b'-', "it has no comments"),
            (None, b'/') => assert!(next != b'*', "it has no comments"),
            _ => {}
        }
        at += 1;
    }
    assert!(open == 0 && quote.is_none(), "it closes its brackets and quotes");
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
                Err(ReadError::Begin(BeginError::Moved)) if self.again(scope, &mut tries).await => {}
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
    // The session may have a longer one.
    let statement = routed.lease.timeouts().statement.min(routed.lease.answer_within());
    let lock = routed.lease.bounds_to_set().map(|bounds| bounds.lock);
    let answer_within = routed.lease.answer_within().saturating_add(ON_ITS_WAY);
    loop {
        let (mut borrowed, reused) =
            routed.lease.borrow(tenant).await.map_err(|none| none.tell(&mut routed))?;
        routed.tally.connected();
        let prepares = borrowed.prepared().will_have((what.name, what.sql));
        let message = Message::new(tenant, routed.located.epoch, (statement, lock), what, numbers, prepares);
        let mut heard = Heard::default();
        let mut asking = routed.tally.asks();
        let sent = tokio::time::timeout(answer_within, send(&mut borrowed, &message, &mut heard)).await;
        if let Ok(Ok(())) = &sent {
            asking.ran();
            asking.rows(heard.rows.len() as u64);
        }
        drop(asking);
        let Ok(sent) = sent else {
            routed.lease.silent();
            return Err(BeginError::Unavailable(Box::new(Unanswered { within: answer_within })).into());
        };
        let answered = heard.answered;
        match sent {
            Ok(()) => {
                routed.lease.answered();
                routed.tally.begun();
                borrowed.prepared().has();
                borrowed.release();
                return Ok(heard.rows);
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
                    borrowed.prepared().has();
                }
                return Err(if is_unprepared(&error) {
                    borrowed.discard();
                    ReadError::Unprepared(error)
                } else if classify(&error) == Failure::StaleEpoch
                    || answered < message.prepare_at && !is_syntax(&error)
                {
                    ReadError::Begin(begin_error(error))
                } else {
                    ReadError::Statement(error)
                });
            }
        }
    }
}

/// One message, the last of whose statements is `COMMIT`, after the one that is wanted.
pub(crate) struct Message {
    pub(crate) text: String,
    /// How many of its statements come before `PREPARE`, or before the one that is wanted where it prepares nothing.
    pub(crate) prepare_at: usize,
    /// How many come before the one that is wanted.
    pub(crate) execute_at: usize,
}

/// What was heard of a message.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// How many of its statements were answered.
    pub(crate) answered: usize,
    /// The rows of the one that is wanted.
    pub(crate) rows: Vec<PgRow>,
    /// How many rows it made, changed, removed or brought.
    pub(crate) affected: u64,
}

impl Message {
    /// Bounded in its statements and, where the session is not, in its waits for locks; not in pauses, since there are
    /// none between the statements of one message. The plan is made once: with one made for each number the planner
    /// would cost more than the read.
    fn new(
        tenant: TenantId,
        epoch: PlacementEpoch,
        (statement, lock): (Duration, Option<Duration>),
        what: &PreparedRead,
        numbers: &[i64],
        prepares: bool,
    ) -> Self {
        let name = what.name;
        let mut text = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY;\
             SET LOCAL app.tenant_id='{tenant}';\
             SET LOCAL plan_cache_mode=force_generic_plan;\
             SET LOCAL statement_timeout={};",
            milliseconds(statement),
        );
        if let Some(lock) = lock {
            write!(text, "SET LOCAL lock_timeout={};", milliseconds(lock))
                .expect("a String takes every text");
        }
        let prepare_at = 4 + usize::from(lock.is_some());
        if prepares {
            // The epoch as well.
            let types = ",bigint".repeat(what.numbers + 1);
            write!(text, "PREPARE {name}(uuid{types}) AS {};", what.prepared())
                .expect("a String takes every text");
        }
        write!(text, "EXECUTE {name}('{tenant}'").expect("a String takes every text");
        for number in numbers {
            write!(text, ",{number}").expect("a String takes every text");
        }
        write!(text, ",{epoch});COMMIT").expect("a String takes every text");
        Self { text, prepare_at, execute_at: prepare_at + usize::from(prepares) }
    }
}

/// Sends it and hears its answers.
pub(crate) async fn send(
    borrowed: &mut Borrowed,
    message: &Message,
    heard: &mut Heard,
) -> Result<(), sqlx::Error> {
    let query = sqlx::raw_sql(AssertSqlSafe(message.text.as_str()));
    let mut answers = borrowed.connection().fetch_many(query);
    while let Some(answer) = answers.next().await {
        let wanted = heard.answered == message.execute_at;
        match answer? {
            Either::Left(done) => {
                heard.answered += 1;
                if wanted {
                    heard.affected = done.rows_affected();
                }
            }
            Either::Right(row) if wanted => heard.rows.push(row),
            Either::Right(_) => {
                return Err(sqlx::Error::Protocol("a row of a statement that has none".to_owned()));
            }
        }
    }
    if heard.answered == message.execute_at + 2 {
        Ok(())
    } else {
        Err(sqlx::Error::Protocol(format!("{} statements were answered", heard.answered)))
    }
}

/// It is not SQL. A message is parsed whole before any of it is carried out, and what is not the read's is.
pub(crate) fn is_syntax(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("42601")
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: PreparedRead =
        PreparedRead::new("hot", "SELECT no FROM t WHERE tenant_id = $1 AND no > $2 LIMIT $3", 2);

    fn message(lock: Option<u64>, prepares: bool) -> Message {
        let tenant = "01932c07-0000-7000-8000-000000000001".parse().unwrap();
        let bounds = (Duration::from_secs(15), lock.map(Duration::from_millis));
        Message::new(tenant, PlacementEpoch(7), bounds, &READ, &[-3, 21], prepares)
    }

    #[test]
    fn the_message_is_made_of_a_uuid_and_integers_only() {
        for (lock, bound) in [(None, ""), (Some(50), "SET LOCAL lock_timeout=50;")] {
            assert_eq!(
                message(lock, false).text,
                format!(
                    "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY;\
                     SET LOCAL app.tenant_id='01932c07-0000-7000-8000-000000000001';\
                     SET LOCAL plan_cache_mode=force_generic_plan;\
                     SET LOCAL statement_timeout=15000;{bound}\
                     EXECUTE hot('01932c07-0000-7000-8000-000000000001',-3,21,7);COMMIT"
                )
            );
        }
    }

    #[test]
    fn rows_are_looked_for_where_execute_stands() {
        for (lock, prepares) in [(None, true), (None, false), (Some(50), true), (Some(50), false)] {
            let message = message(lock, prepares);
            let statements: Vec<&str> = message.text.split(';').collect();
            assert!(statements[message.execute_at].starts_with("EXECUTE hot("), "{statements:?}");
            assert_eq!(statements.len(), message.execute_at + 2);
            let prepare = "PREPARE hot(uuid,bigint,bigint,bigint) AS SELECT q.* FROM (SELECT r.* FROM (\nSELECT no FROM t";
            assert_eq!(statements[message.prepare_at].starts_with(prepare), prepares, "{statements:?}");
        }
    }

    #[test]
    fn the_epoch_is_the_last_parameter() {
        assert_eq!(
            READ.prepared(),
            "SELECT q.* FROM (SELECT r.* FROM (\n\
             SELECT no FROM t WHERE tenant_id = $1 AND no > $2 LIMIT $3\n) AS r OFFSET 0) AS q \
             WHERE CASE WHEN (SELECT f.epoch FROM app.tenant_fence AS f \
             WHERE f.tenant_id = $1 AND f.state = 'active') = $4 THEN true ELSE app.refuse($4) END"
        );
    }

    #[test]
    fn what_would_leave_its_brackets_is_no_read() {
        for sound in
            ["SELECT ')''('", "SELECT \"a)\" FROM t", "SELECT (1 - 2) / (3)", "SELECT 'a--', '/*', '$$', $1"]
        {
            assert_eq!(PreparedRead::new("hot", sound, 0).name(), "hot");
        }
        for wrong in [
            "SELECT 1) AS q UNION ALL SELECT * FROM (SELECT 2",
            "SELECT (1",
            "SELECT 'a",
            "SELECT 'a''",
            "SELECT \"a",
            "SELECT 1 -- ",
            "SELECT 1 /* ",
            "SELECT E'\\') AS q -- '",
            "SELECT $$)$$",
            "SELECT $a$)$a$",
            "SELECT 1; COMMIT",
            "SELECT a$1",
        ] {
            assert!(std::panic::catch_unwind(|| PreparedRead::new("hot", wrong, 0)).is_err(), "{wrong}");
        }
    }
}
