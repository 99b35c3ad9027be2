//! A whole write in one message: begin, bind, enter, execute, commit, and one answer to all of it.
//!
//! For what changes a tenant by one statement whose values are known beforehand. It is fenced as any transaction that
//! writes: `CALL app.enter` takes the tenant's lock and looks at its fence before the statement is carried out. It
//! costs one round trip in place of three.
//!
//! What is executed was prepared once on the connection, so it is not planned again. Values go into the message's text:
//! numbers, identifiers, yes and no ([`Value`]). A change that takes a text is an ordinary transaction's. Where
//! sessions are not the connection's own (behind a pooler), or have lost what was prepared, they stand in the statement
//! itself, and nothing is prepared.
//!
//! No `RESET ALL` ends it, as it ends every other transaction that writes: what was set is set `LOCAL`, the statement is this
//! program's own, of those that read and write rows, and the application may not call `set_config`. A function or trigger
//! of your own that says `SET` without `LOCAL` would leave that to whoever has the connection next: write by an ordinary
//! transaction what calls one. (The tenant is no such setting: each transaction says its own.)

use std::fmt::Write as _;
use std::time::Duration;

use futures::StreamExt as _;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Either, Executor as _};
use stagesub_tenancy::router::Routed;
use stagesub_tenancy::{BeginError, BoxError, PlacementEpoch, TenantId, TenantScope};

use crate::bounds::{TxTimeouts, bounds_text};
use crate::connection::Borrowed;
use crate::deadline::Unanswered;
use crate::error::{IDLE_IN_TRANSACTION, begin_error, is_dead, is_unprepared, leaves_open, sqlstate};
use crate::factory::TenantDb;
use crate::literal::Value;
use crate::parameters::{checked_name, replaced, stays_in_brackets, takes_at_most};
use crate::patience::Tries;
use crate::pool::TenantPool;

/// An `INSERT`, `UPDATE`, `DELETE` or `MERGE`, with or without `RETURNING`, alone or behind `WITH`, that a connection
/// prepares when it first runs it. `$1` is the tenant, which the scope gives; what follows are [values](Value).
///
/// ```
/// use stagesub_storage::one_write::PreparedWrite;
///
/// const TAKE: PreparedWrite = PreparedWrite::new(
///     "seat_take",
///     "UPDATE hall.seat SET taken_by = $3 WHERE tenant_id = $1 AND no = $2 AND taken_by IS NULL",
///     2,
/// );
/// ```
#[derive(Debug, Clone, Copy)]
pub struct PreparedWrite {
    name: &'static str,
    sql: &'static str,
    values: usize,
}

impl PreparedWrite {
    /// A write by a name that no other has, with so many values after the tenant.
    ///
    /// # Panics
    /// When the name is not made of lower-case letters and underscores. When the text could be anything but one such
    /// statement, or takes more parameters than that. In a `const` that fails the build.
    #[must_use]
    pub const fn new(name: &'static str, sql: &'static str, values: usize) -> Self {
        checked_name(name);
        stays_in_brackets(sql.as_bytes());
        assert!(
            begins_with_a_change(sql.as_bytes()),
            "it is an INSERT, UPDATE, DELETE or MERGE, or begins WITH"
        );
        takes_at_most(sql.as_bytes(), values);
        Self { name, sql, values }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

/// Whether the first word is one that begins a change of rows; what does anything to the session does not begin so.
const fn begins_with_a_change(sql: &[u8]) -> bool {
    let mut begin = 0;
    while begin < sql.len() && sql[begin].is_ascii_whitespace() {
        begin += 1;
    }
    let mut end = begin;
    while end < sql.len() && sql[end].is_ascii_alphabetic() {
        end += 1;
    }
    let (_, rest) = sql.split_at(begin);
    let (word, _) = rest.split_at(end - begin);
    word.eq_ignore_ascii_case(b"INSERT")
        || word.eq_ignore_ascii_case(b"UPDATE")
        || word.eq_ignore_ascii_case(b"DELETE")
        || word.eq_ignore_ascii_case(b"MERGE")
        || word.eq_ignore_ascii_case(b"WITH")
}

/// What a write came to. It is kept.
#[derive(Debug)]
#[non_exhaustive]
pub struct Written {
    /// What `RETURNING` brought. The values are text, and decode as any.
    pub rows: Vec<PgRow>,
    /// How many rows were made, changed or removed; brought, by a statement that only reads.
    pub affected: u64,
}

/// A write in one message was not, or not surely, kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The transaction was not begun: nothing was done.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// The statement failed, or what is deferred to the commit did: nothing was kept.
    #[error("the write failed")]
    Statement(#[source] sqlx::Error),
    /// The connection was lost before the answer came: whether the change was kept is not known.
    #[error("the connection was lost while writing")]
    Unknown(#[source] BoxError),
}

impl TenantDb {
    /// Changes the scope's tenant by one statement, in one message, wherever its data is now.
    ///
    /// # Errors
    /// As [`write()`]; [`BeginError::Moved`] only when the time was up, as where a transaction begins.
    ///
    /// # Cancel safety
    /// As [`write()`].
    pub async fn write_in_one_message(
        &self,
        scope: &TenantScope,
        what: &PreparedWrite,
        values: &[Value],
    ) -> Result<Written, WriteError> {
        let mut tries = Tries::new(self.patience);
        loop {
            let routed = self.router.lease(scope).await.map_err(BeginError::from)?;
            match write(routed, scope, what, values).await {
                Err(WriteError::Begin(BeginError::Moved)) if self.again(scope, &mut tries).await => {}
                other => return other,
            }
        }
    }
}

/// Writes in one message, on the pool that the router leased for the scope's tenant.
///
/// There is no way without a scope:
///
/// ```compile_fail,E0061
/// # use stagesub_storage::one_write::{PreparedWrite, write};
/// # async fn no_scope(routed: stagesub_tenancy::router::Routed<stagesub_storage::pool::TenantPool>) {
/// const ALL: PreparedWrite = PreparedWrite::new("none", "DELETE FROM tenant.musician WHERE tenant_id = $1", 0);
/// let written = write(routed, &ALL, &[]).await;
/// # }
/// ```
///
/// # Errors
/// [`WriteError::Begin`] as [`TenantTx::begin`](crate::tx::TenantTx::begin); [`WriteError::Statement`] when nothing was
/// kept; [`WriteError::Unknown`] when that is not known: the message holds its own commit, so a connection that breaks
/// once it was sent, without a word from the server, tells nothing. One that the server ended in good order while it
/// lay idle is replaced; one that was cut without a word may only show when it is used.
///
/// # Cancel safety
/// Dropped once it was polled, it is not known whether the change is kept. Nothing else is left of it.
///
/// # Panics
/// When it is not given as many values as the statement takes.
pub async fn write(
    mut routed: Routed<TenantPool>,
    scope: &TenantScope,
    what: &PreparedWrite,
    values: &[Value],
) -> Result<Written, WriteError> {
    assert_eq!(values.len(), what.values, "{} takes so many values", what.name);
    let tenant = scope.tenant_id();
    if routed.located.tenant != tenant {
        return Err(BeginError::Unavailable("the pool was leased for another tenant".into()).into());
    }
    let literals = literals(tenant, values);
    let timeouts = routed.lease.timeouts();
    let bounds = routed.lease.bounds_to_set();
    let (settled_within, answer_within) =
        (routed.lease.answer_within(), longest(timeouts, routed.lease.answer_within()));
    let mut inline = bounds.is_some();
    loop {
        let (mut borrowed, reused) =
            routed.lease.borrow_ended(tenant).await.map_err(|none| none.tell(&mut routed))?;
        routed.tally.connected();
        // What the one before left to be done: whatever is wrong with it, nothing of this was sent.
        match tokio::time::timeout(settled_within, borrowed.settle()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                borrowed.discard();
                routed.tally.waits_again();
                continue;
            }
            Err(_) => {
                routed.lease.silent();
                return Err(BeginError::Unavailable(Box::new(Unanswered { within: settled_within })).into());
            }
        }
        let how = if inline {
            How::Inline
        } else if borrowed.prepared().will_have((what.name, what.sql)) {
            How::Prepare
        } else {
            How::Prepared
        };
        let message = message(tenant, routed.located.epoch, bounds, what, &literals, how);
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
            return Err(WriteError::Unknown(Box::new(Unanswered { within: answer_within })));
        };
        if heard.answered > message.prepare_at && how == How::Prepare {
            borrowed.prepared().has();
        }
        let Err(error) = sent else {
            routed.lease.answered();
            routed.tally.begun();
            borrowed.release();
            return Ok(Written { rows: heard.rows, affected: heard.affected });
        };
        // It died while it lay idle, which says nothing of the server.
        if reused && is_untouched(&heard, &error) {
            borrowed.discard();
            routed.tally.waits_again();
            continue;
        }
        if is_dead(&error) {
            routed.lease.lost();
        } else {
            routed.lease.answered();
        }
        match outcome(&heard, &message, &error) {
            Came::Kept => {
                routed.tally.begun();
                return Ok(Written { rows: heard.rows, affected: heard.affected });
            }
            Came::Unknown => return Err(WriteError::Unknown(Box::new(error))),
            Came::NotPrepared if !inline => {
                borrowed.discard();
                routed.tally.waits_again();
                inline = true;
            }
            Came::NotBegun => return Err(begin_error(error).into()),
            Came::NotKept | Came::NotPrepared => return Err(WriteError::Statement(error)),
        }
    }
}

/// The tenant and the values, as they stand in the message.
fn literals(tenant: TenantId, values: &[Value]) -> Vec<String> {
    let tenant = format!("'{tenant}'::uuid");
    std::iter::once(tenant).chain(values.iter().map(|value| value.to_literal())).collect()
}

/// Longest until the whole is answered: the server bounds each statement by itself, of which entering and the one that
/// is wanted may take long and wait for locks; and a bit for the way.
fn longest(timeouts: TxTimeouts, answer_within: Duration) -> Duration {
    timeouts.statement.saturating_add(timeouts.lock).saturating_mul(2).saturating_add(answer_within)
}

/// How the statement is in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// Prepared by it, and executed.
    Prepare,
    /// Executed: the connection has it.
    Prepared,
    /// As text with its values.
    Inline,
}

/// One message, the last of whose statements is `COMMIT`, after the one that is wanted.
struct Message {
    text: String,
    /// How many of its statements come before `PREPARE`, or before the one that is wanted where it prepares nothing.
    prepare_at: usize,
    /// How many come before the one that is wanted.
    execute_at: usize,
}

/// What was heard of a message.
#[derive(Debug, Default)]
struct Heard {
    /// How many of its statements were answered.
    answered: usize,
    /// The rows of the one that is wanted.
    rows: Vec<PgRow>,
    /// How many rows it made, changed, removed or brought.
    affected: u64,
}

/// The message. The plan is made once: with one made for each value the planner would cost more than the write.
fn message(
    tenant: TenantId,
    epoch: PlacementEpoch,
    bounds: Option<TxTimeouts>,
    what: &PreparedWrite,
    literals: &[String],
    how: How,
) -> Message {
    let mut text = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;SET LOCAL app.tenant_id='{tenant}';{}",
        bounds_text(bounds)
    );
    if how != How::Inline {
        text.push_str("SET LOCAL plan_cache_mode=force_generic_plan;");
    }
    write!(text, "CALL app.enter({epoch});").expect("a String takes every text");
    let prepare_at = text.matches(';').count();
    let PreparedWrite { name, sql, .. } = what;
    if how == How::Prepare {
        let types = ",unknown".repeat(what.values);
        write!(text, "PREPARE {name}(uuid{types}) AS {sql};").expect("a String takes every text");
    }
    if how == How::Inline {
        let bracketed: Vec<String> = literals.iter().map(|literal| format!("({literal})")).collect();
        text.push_str(&replaced(sql, &bracketed));
    } else {
        write!(text, "EXECUTE {name}({})", literals.join(",")).expect("a String takes every text");
    }
    text.push_str(";COMMIT");
    Message { text, prepare_at, execute_at: prepare_at + usize::from(how == How::Prepare) }
}

/// Sends it and hears its answers.
async fn send(borrowed: &mut Borrowed, message: &Message, heard: &mut Heard) -> Result<(), sqlx::Error> {
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

/// It is not SQL. A message is parsed whole before any of it is carried out, and what is not the write's is.
fn is_syntax(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("42601")
}

/// What an error means for the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Kept,
    NotBegun,
    NotPrepared,
    NotKept,
    Unknown,
}

/// Whether nothing can have been done, of a connection that is of no more use. What the server says of its end before
/// it has answered BEGIN, it says in place of doing anything; and a socket that takes nothing more has not handed on the
/// whole of a message.
fn is_untouched(heard: &Heard, error: &sqlx::Error) -> bool {
    let unsent = matches!(error, sqlx::Error::Io(io) if io.kind() == std::io::ErrorKind::BrokenPipe);
    heard.answered == 0 && (unsent || is_server_ending(error))
}

/// Whether it is PostgreSQL's own word that it ends the session. Others that end one, 08P01 and the like, may be a
/// pooler's, which says them of a server that goes on with what it was sent, and commits.
fn is_server_ending(error: &sqlx::Error) -> bool {
    matches!(sqlstate(error).as_deref(), Some("57P01" | "57P02" | "57P03" | "57P05" | IDLE_IN_TRANSACTION))
}

fn outcome(heard: &Heard, message: &Message, error: &sqlx::Error) -> Came {
    let before_commit = heard.answered <= message.execute_at;
    if heard.answered >= message.execute_at + 2 {
        // The server had answered COMMIT; only the connection is of doubtful use.
        Came::Kept
    } else if is_untouched(heard, error) {
        Came::NotBegun
    } else if leaves_open(error) && !(before_commit && is_server_ending(error)) {
        // Not a word, or the last one while it may have committed.
        Came::Unknown
    } else if is_unprepared(error) && heard.answered >= message.prepare_at {
        Came::NotPrepared
    } else if heard.answered < message.prepare_at && !is_syntax(error) {
        Came::NotBegun
    } else {
        Came::NotKept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RENAME: PreparedWrite = PreparedWrite::new(
        "rename",
        "UPDATE t SET name = $3, \"$2\" = '$1 ''$2''' WHERE tenant_id = $1 AND no = -$2 RETURNING no",
        2,
    );
    const TENANT: &str = "01932c07-0000-7000-8000-000000000001";

    fn sent(values: &[Value], how: How, bounds: Option<TxTimeouts>) -> Message {
        let tenant = TENANT.parse().unwrap();
        let literals = literals(tenant, values);
        message(tenant, PlacementEpoch(7), bounds, &RENAME, &literals, how)
    }

    #[test]
    fn the_message_enters_before_it_writes_and_ends_with_its_commit() {
        assert_eq!(
            sent(&[Value::Int(-3), Value::Bool(true)], How::Prepared, None).text,
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;\
             SET LOCAL app.tenant_id='01932c07-0000-7000-8000-000000000001';\
             SET LOCAL plan_cache_mode=force_generic_plan;CALL app.enter(7);\
             EXECUTE rename('01932c07-0000-7000-8000-000000000001'::uuid,'-3','true');COMMIT"
        );
    }

    #[test]
    fn a_value_within_the_statement_stands_in_brackets() {
        let text = sent(&[Value::Int(-3), Value::Null], How::Inline, None).text;
        let (_, statement) = text.split_once("CALL app.enter(7);").expect("it enters");
        assert_eq!(
            statement,
            format!(
                "UPDATE t SET name = (NULL), \"$2\" = '$1 ''$2''' WHERE tenant_id = ('{TENANT}'::uuid) \
                 AND no = -('-3') RETURNING no;COMMIT"
            )
        );
    }

    #[test]
    fn statements_are_counted_as_they_are_answered() {
        let timeouts = TxTimeouts {
            statement: Duration::from_secs(15),
            lock: Duration::from_millis(50),
            idle: Duration::from_secs(30),
        };
        let values = [Value::Int(1), Value::Null];
        for (how, bounds) in
            [(How::Prepare, None), (How::Prepared, None), (How::Inline, None), (How::Inline, Some(timeouts))]
        {
            let Message { text, prepare_at, execute_at } = sent(&values, how, bounds);
            let statements: Vec<&str> = text.split(';').collect();
            assert!(statements[prepare_at - 1].starts_with("CALL app.enter("), "{text}");
            assert_eq!(
                statements[prepare_at].starts_with("PREPARE rename(uuid,unknown,unknown) AS UPDATE"),
                how == How::Prepare
            );
            let begins = if how == How::Inline { "UPDATE t SET name = (NULL" } else { "EXECUTE rename('" };
            assert!(statements[execute_at].starts_with(begins), "{text}");
            assert_eq!(statements.get(execute_at + 1), Some(&"COMMIT"), "{text}");
            assert_eq!(statements.len(), execute_at + 2, "{text}");
        }
    }

    #[test]
    fn a_text_that_takes_more_than_it_says_is_refused() {
        assert!(std::panic::catch_unwind(|| PreparedWrite::new("few", "UPDATE t SET a = $3", 1)).is_err());
        assert!(std::panic::catch_unwind(|| PreparedWrite::new("none", "UPDATE t SET a = $0", 1)).is_err());
        assert!(std::panic::catch_unwind(|| PreparedWrite::new("two", "DELETE FROM t; COMMIT", 1)).is_err());
        assert!(std::panic::catch_unwind(|| PreparedWrite::new("Name", "DELETE FROM t", 1)).is_err());
        for other in
            ["SET work_mem = '3MB'", "SELECT 1", "CALL p()", "", "-- a word\nDELETE FROM t", "DELETED"]
        {
            assert!(std::panic::catch_unwind(|| PreparedWrite::new("other", other, 1)).is_err(), "{other}");
        }
        assert_eq!(PreparedWrite::new("lower", " \n delete from t", 0).name(), "lower");
    }

    /// What a server said.
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str);

    impl sqlx::error::DatabaseError for Said {
        fn message(&self) -> &str {
            self.0
        }
        fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
            Some(self.0.into())
        }
        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }
        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }
        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }
        fn kind(&self) -> sqlx::error::ErrorKind {
            sqlx::error::ErrorKind::Other
        }
    }

    #[test]
    fn what_is_not_known_to_be_undone_is_not_said_to_be() {
        let io = |kind: std::io::ErrorKind| sqlx::Error::Io(kind.into());
        let said = |code| sqlx::Error::Database(Box::new(Said(code)));
        let message = sent(&[Value::Null, Value::Null], How::Prepared, None);
        let (begun, executed) = (message.prepare_at, message.execute_at + 1);
        for answered in 0..=executed {
            let came = |error| outcome(&Heard { answered, ..Heard::default() }, &message, &error);
            for open in [io(std::io::ErrorKind::UnexpectedEof), said("08P01"), said("08006")] {
                assert_eq!(came(open), Came::Unknown, "{answered}");
            }
            let ended = match answered {
                0 => Came::NotBegun,
                n if n == executed => Came::Unknown,
                n if n < begun => Came::NotBegun,
                _ => Came::NotKept,
            };
            assert_eq!(came(said("57P01")), ended, "{answered}");
            let refused = if answered < begun { Came::NotBegun } else { Came::NotKept };
            assert_eq!(came(said("42601")), Came::NotKept, "what is no SQL is the statement's fault");
            for code in ["TN001", "23505", "57014", "25P03"] {
                assert_eq!(came(said(code)), refused, "{answered} {code}");
            }
            let unprepared = if answered < begun { Came::NotBegun } else { Came::NotPrepared };
            assert_eq!(came(said("0A000")), unprepared, "{answered}");
        }
        let kept = Heard { answered: executed + 1, ..Heard::default() };
        assert_eq!(outcome(&kept, &message, &io(std::io::ErrorKind::UnexpectedEof)), Came::Kept);
        let unsent = io(std::io::ErrorKind::BrokenPipe);
        assert_eq!(outcome(&Heard::default(), &message, &unsent), Came::NotBegun);
        assert!(is_untouched(&Heard::default(), &unsent) && is_untouched(&Heard::default(), &said("57P01")));
        assert!(!is_untouched(&Heard::default(), &said("08P01")));
    }
}
