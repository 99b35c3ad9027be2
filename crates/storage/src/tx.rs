//! The transaction that is bound to one tenant: with [`crate::one_message`] and [`crate::one_write`] the only place that
//! begins one.

use std::fmt;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{AssertSqlSafe, Either, Execute, Executor, Postgres, Row as _, SqlStr};
use stagesub_tenancy::router::Routed;
use stagesub_tenancy::{Access, BeginError, Lease, PlacementEpoch, Tally, TenantId, TenantScope};

use crate::bounds::{TxTimeouts, bounds_text};
use crate::connection::Borrowed;
use crate::deadline::{self, Unanswered};
use crate::error::{CommitError, begin_error, is_dead, is_unprepared, leaves_open};
use crate::metered::Metered;
use crate::pool::TenantPool;
use crate::statement::Statement;

/// One transaction on one tenant's data.
///
/// It begins with one message that binds the tenant, bounds the transaction and enters at the epoch that the
/// router gave; Postgres refuses every row of another tenant from then on. It is an [`Executor`], so queries
/// run on it and no connection ever leaves it.
///
/// There is no way to begin one without a scope:
///
/// ```compile_fail,E0061
/// # async fn begin(routed: stagesub_tenancy::router::Routed<stagesub_storage::pool::TenantPool>) {
/// let tx = stagesub_storage::tx::TenantTx::begin(routed, stagesub_tenancy::Access::Read).await;
/// # }
/// ```
///
/// # Cancel safety
/// Dropping it, or any future of it, rolls back: a background task waits for the statement under way
/// (cancelling it on the server when it takes long), ends the transaction, resets all settings and only then
/// gives the connection back; if that fails the connection is closed.
pub struct TenantTx {
    borrowed: Borrowed,
    tenant: TenantId,
    access: Access,
    /// Longest time until a statement is answered: the server's own bound, and a bit for the way.
    answer_within: Duration,
    /// Whether every statement so far was answered to its end.
    settled: bool,
    /// Whether every statement so far read or wrote rows and did nothing else.
    rows_only: bool,
    tally: Tally,
    /// Keeps the pool open, and hears of its database.
    lease: Lease<TenantPool>,
}

impl fmt::Debug for TenantTx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantTx")
            .field("tenant", &self.tenant)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

impl TenantTx {
    /// Begins a transaction for the scope's tenant on the pool that the router leased for it.
    ///
    /// # Errors
    /// [`BeginError::Moved`] when the database serves the tenant no more, or at another epoch;
    /// [`BeginError::Busy`] when no connection was to be had in time, or too many of the tenant wait for one;
    /// [`BeginError::Locked`] when the tenant was locked for longer than a lock is waited for;
    /// [`BeginError::Unavailable`] also when the server took the message and did not answer.
    pub async fn begin(
        mut routed: Routed<TenantPool>,
        scope: &TenantScope,
        access: Access,
    ) -> Result<Self, BeginError> {
        let tenant = scope.tenant_id();
        if routed.located.tenant != tenant {
            return Err(BeginError::Unavailable("the pool was leased for another tenant".into()));
        }
        let timeouts = routed.lease.timeouts();
        let bounds = routed.lease.bounds_to_set();
        // Where bounds are the session's, so is what was prepared on it.
        let mut looks = access == Access::Read && bounds.is_none();
        let answer_within = match access {
            Access::Read => routed.lease.answer_within(),
            Access::Write => routed.lease.answer_within().saturating_add(timeouts.lock),
        };
        loop {
            let (mut borrowed, reused) =
                routed.lease.borrow(tenant).await.map_err(|none| none.tell(&mut routed))?;
            routed.tally.connected();
            let enters = if !looks {
                Enters::Call
            } else if borrowed.prepared().will_have((LOOK, LOOK_SQL)) {
                Enters::PrepareAndLook
            } else {
                Enters::Look
            };
            let begin = begin_statements(access, borrowed.lingers());
            let text = begin_text(begin, tenant, routed.located.epoch, bounds, enters);
            let asking = routed.tally.asks();
            let sent = sqlx::raw_sql(AssertSqlSafe(text.as_str())).execute(borrowed.connection());
            // The server's own bounds do not hold on a server that is frozen.
            let answer = tokio::time::timeout(answer_within, sent).await;
            drop(asking);
            let Ok(answer) = answer else {
                routed.lease.silent();
                return Err(BeginError::Unavailable(Box::new(Unanswered { within: answer_within })));
            };
            match answer {
                Ok(_) => {
                    routed.lease.answered();
                    routed.tally.begun();
                    borrowed.prepared().has();
                    let answer_within = timeouts.statement.saturating_add(routed.lease.answer_within());
                    return Ok(Self {
                        borrowed,
                        tenant,
                        access,
                        answer_within,
                        settled: true,
                        rows_only: true,
                        tally: routed.tally,
                        lease: routed.lease,
                    });
                }
                // A connection that died while it lay idle says nothing of the server, and neither does an
                // error of what was sent on it before; begin has no effect: take the next. Each turn removes
                // one, so this ends.
                Err(error) if reused && (is_dead(&error) || borrowed.is_of_what_was_left(&error)) => {
                    borrowed.discard();
                    routed.tally.waits_again();
                }
                // Somebody else's session, or one whose statements were taken away: nothing was done.
                Err(error) if looks && is_unprepared(&error) => {
                    tracing::warn!(
                        %error,
                        "a reader's statement is not prepared; behind a pooler set STAGESUB_ONE_MESSAGE_READS=off"
                    );
                    borrowed.discard();
                    routed.tally.waits_again();
                    looks = false;
                }
                Err(error) => {
                    if is_dead(&error) {
                        routed.lease.lost();
                    } else {
                        routed.lease.answered();
                    }
                    return Err(begin_error(error));
                }
            }
        }
    }

    /// The tenant, for the `WHERE tenant_id = $1` that every statement says as well.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Whether it may write.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Commits. A transaction that was begun for reading has nothing to keep: it is over at once for whoever reads on
    /// with what it brought, which spares them a round trip. It is rolled back, and with it whatever else it did: a
    /// setting of the session, a notification.
    ///
    /// # Errors
    /// [`CommitError::Refused`]: nothing was kept. [`CommitError::Unknown`]: the connection was lost in
    /// between. A transaction that only read always commits.
    pub async fn commit(self) -> Result<(), CommitError> {
        if self.access == Access::Write {
            return self.end().await;
        }
        // What is not settled is cleaned up, or closed, as whatever is dropped.
        if self.settled {
            if self.rows_only && self.lease.lets_linger() {
                self.borrowed.linger();
            } else {
                self.borrowed.end();
            }
        }
        Ok(())
    }

    /// Sends the last message and waits for its answer.
    async fn end(mut self) -> Result<(), CommitError> {
        // What was begun is still open when nothing but rows was read and written and nothing failed.
        let certain = self.settled && self.rows_only;
        let (text, committed_after) = commit_text(certain);
        let (tenant, mut bound, mut ended) = (self.tenant, certain, 0);
        let outcome = {
            let Self { borrowed, answer_within, settled, tally, lease, .. } = &mut self;
            let _asking = tally.asks();
            let answers = borrowed.connection().fetch_many(sqlx::raw_sql(text));
            let mut answers = deadline::answers(answers, *answer_within, settled, || lease.silent());
            loop {
                match answers.next().await {
                    None => break Ok(()),
                    Some(Ok(Either::Left(_))) => ended += 1,
                    Some(Ok(Either::Right(row))) => bound = is_bound(&row, tenant),
                    Some(Err(error)) => break Err(error),
                }
            }
        };
        match outcome {
            Ok(()) if !bound => Err(CommitError::Refused(Box::new(Unbound))),
            Ok(()) => {
                self.borrowed.release();
                Ok(())
            }
            // The server had answered COMMIT: it is kept, only the connection is of doubtful use.
            Err(_) if ended >= committed_after => Ok(()),
            Err(error) if leaves_open(&error) => Err(CommitError::Unknown(Box::new(error))),
            Err(error) => Err(CommitError::Refused(Box::new(error))),
        }
    }
}

/// How a transaction enters at its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Enters {
    /// By `app.enter`, which locks as well.
    Call,
    /// By [`LOOK_SQL`]: a reader takes no lock, so `app.enter` would do nothing more for it.
    Look,
    /// By the same, which the connection does not have yet.
    PrepareAndLook,
}

/// The name under which a connection has [`LOOK_SQL`].
pub(crate) const LOOK: &str = "stagesub_look";
/// How a transaction that only reads enters: prepared once on each connection, it brings no row. It raises what
/// `app.enter` raises where the tenant's fence (`$1`) has another epoch than `$2`, is not active, or is not there.
pub const LOOK_SQL: &str = "SELECT WHERE NOT CASE WHEN \
    (SELECT f.epoch FROM app.tenant_fence AS f WHERE f.tenant_id = $1 AND f.state = 'active') = $2 \
    THEN true ELSE app.refuse($2) END";

/// What begins a transaction, and ends the one that lingers: that was begun for reading, and what follows it by `AND CHAIN`
/// is begun as it was.
pub(crate) const fn begin_statements(access: Access, ends: bool) -> &'static str {
    match (access, ends) {
        (Access::Read, false) => "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY",
        (Access::Read, true) => "ROLLBACK AND CHAIN",
        (Access::Write, false) => "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
        (Access::Write, true) => "ROLLBACK;BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
    }
}

/// The first message, built of a UUID and integers only. `bounds` are those that the session does not have.
pub(crate) fn begin_text(
    begin: &str,
    tenant: TenantId,
    epoch: PlacementEpoch,
    bounds: Option<TxTimeouts>,
    enters: Enters,
) -> String {
    let bounds = bounds_text(bounds);
    let begin = format!("{begin};SET LOCAL app.tenant_id='{tenant}';{bounds}");
    match enters {
        Enters::Call => format!("{begin}CALL app.enter({epoch})"),
        Enters::Look => format!("{begin}EXECUTE {LOOK}('{tenant}',{epoch})"),
        Enters::PrepareAndLook => {
            format!("{begin}PREPARE {LOOK}(uuid,bigint) AS {LOOK_SQL};EXECUTE {LOOK}('{tenant}',{epoch})")
        }
    }
}

/// The transaction that was begun is open no more.
#[derive(Debug, thiserror::Error)]
#[error("the transaction was ended by a statement of its own: what that kept is kept, nothing after it")]
struct Unbound;

/// Whether this answer to the last message names the tenant that the transaction was begun for.
fn is_bound(row: &PgRow, tenant: TenantId) -> bool {
    row.try_get_unchecked::<&str, _>(0)
        .is_ok_and(|shown| shown.parse::<TenantId>().is_ok_and(|shown| shown == tenant))
}

/// The last message. sqlx takes the `COMMIT` of an aborted transaction for a success (the server answers
/// ROLLBACK). Unless it is certain that the transaction is open, it has the tenant shown first, which fails then, and
/// shows no tenant when what is open is another transaction; it costs a third of what asking for it with `SELECT`
/// does, since nothing is planned.
/// `RESET ALL` takes back settings that a statement made for the session. The number tells how many of its
/// statements must have been answered for the transaction to be kept.
const fn commit_text(certain: bool) -> (&'static str, usize) {
    if certain { ("COMMIT;RESET ALL", 1) } else { ("SHOW app.tenant_id;COMMIT;RESET ALL", 2) }
}

impl<'c> Executor<'c> for &'c mut TenantTx {
    type Database = Postgres;

    fn fetch_many<'e, 'q, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: Execute<'q, Self::Database>,
        'q: 'e,
        E: 'q,
    {
        let TenantTx { borrowed, answer_within, settled, rows_only, tally, lease, .. } = self;
        let statement = Statement::of(query);
        *rows_only &= statement.is_rows_only();
        let answers = borrowed.connection().fetch_many(statement);
        let answers = deadline::answers(answers, *answer_within, settled, || lease.silent());
        Box::pin(Metered::new(answers, tally.asks()))
    }

    fn fetch_optional<'e, 'q, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: Execute<'q, Self::Database>,
        'q: 'e,
        E: 'q,
    {
        let TenantTx { borrowed, answer_within, settled, rows_only, tally, lease, .. } = self;
        let statement = Statement::of(query);
        *rows_only &= statement.is_rows_only();
        let answer = borrowed.connection().fetch_optional(statement);
        let mut asking = tally.asks();
        Box::pin(async move {
            let found = deadline::answer(answer, *answer_within, settled, || lease.silent()).await;
            asking.ran();
            asking.rows(u64::from(matches!(found, Ok(Some(_)))));
            found
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        let TenantTx { borrowed, answer_within, settled, lease, .. } = self;
        let answer = borrowed.connection().prepare_with(sql, parameters);
        Box::pin(deadline::answer(answer, *answer_within, settled, || lease.silent()))
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Self::Database>, sqlx::Error>>
    where
        'c: 'e,
    {
        let TenantTx { borrowed, answer_within, settled, lease, .. } = self;
        let answer = borrowed.connection().describe(sql);
        Box::pin(deadline::answer(answer, *answer_within, settled, || lease.silent()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::one_message::PreparedRead;

    #[test]
    fn the_first_message_is_made_of_a_uuid_and_integers_only() {
        let tenant: TenantId = "01932c07-0000-7000-8000-000000000001".parse().unwrap();
        let timeouts = TxTimeouts {
            statement: Duration::from_secs(15),
            lock: Duration::from_millis(50),
            idle: Duration::from_secs(30),
        };
        assert_eq!(
            begin_text(
                begin_statements(Access::Write, false),
                tenant,
                PlacementEpoch(7),
                Some(timeouts),
                Enters::Call
            ),
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;\
             SET LOCAL app.tenant_id='01932c07-0000-7000-8000-000000000001';\
             SET LOCAL statement_timeout=15000;SET LOCAL lock_timeout=50;\
             SET LOCAL idle_in_transaction_session_timeout=30000;CALL app.enter(7)"
        );
        assert_eq!(
            begin_text(begin_statements(Access::Read, false), tenant, PlacementEpoch(7), None, Enters::Look),
            "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY;\
             SET LOCAL app.tenant_id='01932c07-0000-7000-8000-000000000001';\
             EXECUTE stagesub_look('01932c07-0000-7000-8000-000000000001',7)"
        );
    }

    /// Nothing of the next is done before what lingers is over.
    #[test]
    fn what_lingers_is_ended_first() {
        for access in [Access::Read, Access::Write] {
            let begins = begin_statements(access, false);
            assert!(begins.starts_with("BEGIN ISOLATION LEVEL READ COMMITTED READ "), "{begins}");
            let ends = begin_statements(access, true);
            assert!(ends == "ROLLBACK AND CHAIN" || ends == format!("ROLLBACK;{begins}"), "{ends}");
        }
    }

    #[test]
    fn a_look_asks_what_a_read_in_one_message_asks() {
        static READ: PreparedRead = PreparedRead::new("read", "SELECT 1", 0);
        let asked = LOOK_SQL.strip_prefix("SELECT WHERE NOT ").expect("it brings no row");
        let asked = asked.replace("f.tenant_id = $1", "f.tenant_id = stagesub_bound.tenant");
        assert!(READ.prepared().ends_with(&asked), "{}", READ.prepared());
    }

    #[test]
    fn a_commit_that_is_not_certain_asks_for_the_tenant_first() {
        for (certain, begins) in [(false, "SHOW app.tenant_id;COMMIT"), (true, "COMMIT")] {
            let (text, committed_after) = commit_text(certain);
            assert!(text.starts_with(begins) && text.ends_with(";RESET ALL"));
            assert_eq!(
                text.split(';').position(|statement| statement == "COMMIT"),
                Some(committed_after - 1)
            );
        }
    }
}
