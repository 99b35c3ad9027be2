//! A whole read in one message, which is one statement: it binds its own transaction to the tenant, looks at the tenant's
//! fence, and reads.
//!
//! For the few lists that are asked for most. A connection prepares it when it first runs it, and it is planned once;
//! what is asked for is bound to parameters, and rows come in PostgreSQL's own form.
//!
//! `app.bind` binds, which does so only where a transaction may do nothing but read and is bound to nobody yet. Sessions
//! begin so ([`TenantPool`]), and the transaction is over, its tenant with it, when the statement is.
//!
//! No `CALL app.enter` stands before it. The statement has a condition on the tenant's fence, which PostgreSQL asks once,
//! before the first row is read, and which raises what `app.enter` raises. Fence and rows are of the statement's one
//! snapshot: rows come as they were at a moment when the database served the tenant at that epoch. (What a VOLATILE
//! function reads in it is of another; a text that calls one has to do with that.) A reader takes no lock, so `app.enter`
//! would do nothing more for it.
//!
//! No `RESET ALL` follows: a function of your own that says `SET` without `LOCAL` would leave that to whoever has the
//! connection next. Read by an ordinary transaction what calls one. (The tenant is no such setting.)

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Executor as _};
use stagesub_tenancy::router::Routed;
use stagesub_tenancy::{BeginError, TenantScope};

use crate::deadline::Unanswered;
use crate::error::{
    Failure, begin_error, classify, ends_session, is_dead, is_unbindable, is_unprepared, lacks_function,
};
use crate::factory::TenantDb;
use crate::parameters::{checked_name, holds, replaced, stays_in_brackets, takes_any, takes_at_most};
use crate::patience::Tries;
use crate::pool::TenantPool;

/// How much later than the server's own bound an answer may come: a server that is slow is told by it from one that lies
/// frozen.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// A `SELECT` that a connection prepares when it first runs it. `$1` is the tenant, which the scope gives; what
/// follows are integers.
///
/// It is prepared within another, which binds the tenant and refuses to read at an epoch that is not the tenant's: see
/// [`PreparedRead::prepared`]. Its rows come in its own order, and as many as it says. Its parameters become columns of
/// that one; an aggregate of nothing else, as `count($2)`, would be that one's, and PostgreSQL refuses it.
///
/// Keep it in a `static`: what is prepared is put together once for each.
///
/// ```
/// use stagesub_storage::one_message::PreparedRead;
///
/// static FREE: PreparedRead = PreparedRead::new(
///     "seats_free",
///     "SELECT no FROM hall.seat WHERE tenant_id = $1 AND no > $2 AND taken_by IS NULL ORDER BY no LIMIT $3",
///     2,
/// );
/// ```
#[derive(Debug, Clone)]
pub struct PreparedRead {
    name: &'static str,
    sql: &'static str,
    numbers: usize,
    prepared: OnceLock<Arc<str>>,
}

impl PreparedRead {
    /// A read by a name, which tells it in messages, with so many integers after the tenant.
    ///
    /// # Panics
    /// When the name is not made of lower-case letters and underscores. When the text could be anything but one
    /// statement in brackets: it holds a semicolon, a comment, a backslash or a dollar that is no parameter's, or
    /// closes a bracket or a quote that it did not open. When it takes more parameters than that, names `stagesub_bound`, or
    /// asks for `app.tenant_id()`, which is planned before anybody is bound: say `$1`. In a `static` that fails the build.
    #[must_use]
    pub const fn new(name: &'static str, sql: &'static str, numbers: usize) -> Self {
        checked_name(name);
        stays_in_brackets(sql.as_bytes());
        takes_at_most(sql.as_bytes(), numbers);
        assert!(!holds(sql.as_bytes(), b"stagesub_bound"), "that name is taken");
        assert!(!holds(sql.as_bytes(), b"app.tenant_id"), "its tenant is $1");
        Self { name, sql, numbers, prepared: OnceLock::new() }
    }

    /// The statement that a connection prepares. The parameter after its own is the epoch at which the tenant is
    /// said to be served here. Where the tenant's fence says otherwise, or there is none, `app.refuse` raises.
    ///
    /// `stagesub_bound` has one row, and is read before everything else: all of the read hangs on it, as LATERAL (one that
    /// takes nothing is made to), and neither can be taken apart, for `OFFSET 0` and because binding is VOLATILE. The
    /// condition on the fence names nothing but it, so it is asked of that one row, before anything that the read reads.
    /// Were any of it asked too early, nobody would be bound, and the policies raise.
    ///
    /// What the read is given are columns of that row as well. So the planner knows of no value, and a plan for any is as
    /// good to it as one for these: after the five that PostgreSQL tries it keeps the one. (What is seen to bring nothing when it is planned, as a join that is `AND false`, may not be carried out at
    /// all: it brings nothing at any epoch.)
    #[must_use]
    pub fn prepared(&self) -> &str {
        self.text()
    }

    fn text(&self) -> &Arc<str> {
        self.prepared.get_or_init(|| {
            let epoch = self.numbers + 2;
            let (mut numbers, mut given) = (String::new(), vec!["stagesub_bound.tenant".to_owned()]);
            for n in 2..epoch {
                write!(numbers, ", ${n}::bigint AS n{n}").expect("a String takes every text");
                given.push(format!("stagesub_bound.n{n}"));
            }
            let sql = replaced(self.sql, &given);
            let hangs = if takes_any(self.sql.as_bytes()) { "" } else { "WHERE stagesub_bound.tenant IS NOT NULL " };
            format!(
                "SELECT q.* FROM (SELECT app.bind($1) AS tenant{numbers} OFFSET 0) AS stagesub_bound, LATERAL (\
                 SELECT r.* FROM (\n{sql}\n) AS r {hangs}OFFSET 0) AS q WHERE CASE WHEN \
                 (SELECT f.epoch FROM app.tenant_fence AS f WHERE f.tenant_id = stagesub_bound.tenant \
                 AND f.state = 'active') = ${epoch} THEN true ELSE app.refuse(${epoch}) END"
            )
            .into()
        })
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
    /// An ordinary transaction brings the rows. The connection does not keep what was prepared on it or what it was told when
    /// it was made, or the tables were changed since: it was closed. Or no connection of the pool is told anything, or the
    /// database lacks a function, as it does `app.bind` until it is migrated.
    #[error("what a read in one message needs is not there")]
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

/// Reads in one message, on the pool that the router leased for the scope's tenant.
///
/// There is no way without a scope:
///
/// ```compile_fail,E0061
/// # use stagesub_storage::one_message::{PreparedRead, read};
/// # async fn no_scope(routed: stagesub_tenancy::router::Routed<stagesub_storage::pool::TenantPool>) {
/// static ALL: PreparedRead = PreparedRead::new("all", "SELECT no FROM tenant.musician WHERE tenant_id = $1", 0);
/// let rows = read(routed, &ALL, &[]).await;
/// # }
/// ```
///
/// # Errors
/// [`ReadError::Begin`] as [`TenantTx::begin`](crate::tx::TenantTx::begin), and when the connection was lost;
/// [`ReadError::Unprepared`] when an ordinary transaction is the way, as on every pool whose sessions are not its own
/// ([`BoundsBy::Transaction`](crate::pool::BoundsBy::Transaction)); [`ReadError::Statement`] otherwise.
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
    if routed.lease.bounds_to_set().is_some() {
        let why = "each transaction of this pool is told its bounds, which a statement by itself cannot be";
        return Err(ReadError::Unprepared(sqlx::Error::Configuration(why.into())));
    }
    let settled_within = routed.lease.answer_within();
    // The server ends it at the session's bound; one that says nothing for longer lies frozen.
    let answer_within = routed.lease.timeouts().statement.saturating_add(ON_ITS_WAY);
    loop {
        let (mut borrowed, reused) =
            routed.lease.borrow_ended(tenant).await.map_err(|none| none.tell(&mut routed))?;
        routed.tally.connected();
        // What the one before left to be done: whatever is wrong with it, nothing of this was sent.
        match tokio::time::timeout(settled_within, borrowed.settle()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "a transaction that read did not end cleanly");
                borrowed.discard();
                routed.tally.waits_again();
                continue;
            }
            Err(_) => return Err(silent(&routed, settled_within)),
        }
        borrowed.prepared().driver_will_have((what.name, what.sql));
        let mut query = sqlx::query(AssertSqlSafe(Arc::clone(what.text()))).bind(tenant.as_uuid());
        for number in numbers {
            query = query.bind(number);
        }
        let query = query.bind(routed.located.epoch.0);
        let mut asking = routed.tally.asks();
        let sent = tokio::time::timeout(answer_within, borrowed.connection().fetch_all(query)).await;
        if let Ok(Ok(rows)) = &sent {
            asking.ran();
            asking.rows(rows.len() as u64);
        }
        drop(asking);
        let Ok(read) = sent else { return Err(silent(&routed, answer_within)) };
        match read {
            Ok(rows) => {
                routed.lease.answered();
                routed.tally.begun();
                borrowed.prepared().has();
                borrowed.release();
                return Ok(rows);
            }
            // It died while it lay idle, or while it read, which changes nothing. Each turn removes one, so this ends.
            Err(error) if reused && is_dead(&error) => {
                borrowed.discard();
                routed.tally.waits_again();
            }
            Err(error) if is_dead(&error) => {
                routed.lease.lost();
                return Err(begin_error(error).into());
            }
            Err(error) => {
                routed.lease.answered();
                borrowed.prepared().answered();
                let unfit = is_unprepared(&error) || is_unbindable(&error);
                if unfit {
                    borrowed.discard();
                } else if error.as_database_error().is_some() && !ends_session(&error) {
                    borrowed.undone();
                }
                return Err(if unfit || lacks_function(&error) {
                    ReadError::Unprepared(error)
                } else if classify(&error) == Failure::StaleEpoch {
                    begin_error(error).into()
                } else {
                    ReadError::Statement(error)
                });
            }
        }
    }
}

/// The server said nothing for so long.
fn silent(routed: &Routed<TenantPool>, within: Duration) -> ReadError {
    routed.lease.silent();
    BeginError::Unavailable(Box::new(Unanswered { within })).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    static READ: PreparedRead =
        PreparedRead::new("hot", "SELECT no FROM t WHERE tenant_id = $1 AND no > $2 LIMIT $3", 2);

    static NOTHING: PreparedRead = PreparedRead::new("nothing", "SELECT '$1' FROM t", 0);

    #[test]
    fn what_is_prepared_binds_and_asks_for_the_epoch_around_the_statement() {
        assert_eq!(
            READ.prepared(),
            "SELECT q.* FROM (SELECT app.bind($1) AS tenant, $2::bigint AS n2, $3::bigint AS n3 OFFSET 0) \
             AS stagesub_bound, LATERAL (SELECT r.* FROM (\n\
             SELECT no FROM t WHERE tenant_id = stagesub_bound.tenant AND no > stagesub_bound.n2 \
             LIMIT stagesub_bound.n3\n) AS r OFFSET 0) AS q WHERE CASE WHEN \
             (SELECT f.epoch FROM app.tenant_fence AS f WHERE f.tenant_id = stagesub_bound.tenant \
             AND f.state = 'active') = $4 THEN true ELSE app.refuse($4) END"
        );
        let hangs = "(\nSELECT '$1' FROM t\n) AS r WHERE stagesub_bound.tenant IS NOT NULL OFFSET 0) AS q";
        assert!(NOTHING.prepared().contains(hangs), "{}", NOTHING.prepared());
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
            "SELECT $2",
            "SELECT no FROM stagesub_bound",
            "SELECT no FROM t WHERE tenant_id = app.tenant_id()",
        ] {
            assert!(std::panic::catch_unwind(|| PreparedRead::new("hot", wrong, 0)).is_err(), "{wrong}");
        }
    }
}
