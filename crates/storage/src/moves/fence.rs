//! A tenant's fence while it moves: closed on the one side, opened on the other.
//!
//! `app.enter` reads one row of `app.tenant_fence`. Every write of that row here is conditional on its epoch, so that a
//! mover that slept through its own replacement changes nothing. Within a move that begins at epoch e:
//!
//! | step | on | row afterwards |
//! |---|---|---|
//! | [`Exclusive::take`] | source | untouched: writers that entered have ended, new ones queue at the tenant's lock |
//! | [`Exclusive::close`] | source | `moving`, e+1: nobody enters any more, and the stream holds the mark |
//! | (the registry's decision) | | |
//! | [`open`] | target | `active`, e+1 |
//! | [`Exclusive::release`] | source | who queued is refused, and asks the directory again |
//! | [`retire`] | source | `moved`, e+1 |
//!
//! A move that is given up decides e+2 for the source in the registry first, and then calls [`reopen`]: e+1 is never
//! used again.
//!
//! # Why no write is lost
//! A writer holds the tenant's lock, shared, from before it reads the row until it has ended. So with the lock taken
//! exclusively every write is committed or not there, and the mark comes after all of them in the stream; whoever
//! waited for the lock reads the row after it, in a snapshot of that moment, and is refused. Reads take no lock: one
//! that entered before may read on here.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use stagesub_tenancy::{PlacementEpoch, TenantId};

use super::change_log;
use super::session::flush_commits;
use crate::bounds::milliseconds;
use crate::error::{LOCK_NOT_AVAILABLE, sqlstate};

/// Namespace of tenants' locks among the server's advisory locks, as `app.enter` has it.
pub(super) const LOCKS: i64 = 7;

/// Longest that the session which holds the lock may say nothing before the server ends it, and with it the lock: a
/// mover that is frozen holds a tenant's writers no longer.
const SILENCE: Duration = Duration::from_millis(500);

/// An epoch that no tenant is at.
const NEVER: PlacementEpoch = PlacementEpoch(-1);

/// What a transaction of the fence leaves in the stream, after everything that was committed before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The move's own prefix: random, so that nobody else can make one.
    pub prefix: String,
    /// Which one it is.
    pub number: u64,
}

impl Mark {
    /// The prefix that the stream tells it under.
    #[must_use]
    pub fn stream_prefix(&self) -> String {
        format!("{}.mark", self.prefix)
    }
}

/// The fence was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FenceError {
    /// The row is not at the epoch that it was expected at: somebody else moves the tenant, or did.
    #[error("the tenant's fence is not at epoch {expected} here")]
    Lost {
        /// Where it was expected.
        expected: PlacementEpoch,
    },
    /// A statement failed. Whether a commit was kept is for the row itself to tell.
    #[error("the tenant's fence could not be written")]
    Failed(#[from] sqlx::Error),
}

/// Whether a database serves a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It does.
    Active,
    /// It did, until a cutover that is on, or was.
    Moving,
    /// It did.
    Moved,
}

impl State {
    /// The word as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Moving => "moving",
            Self::Moved => "moved",
        }
    }

    fn from_stored(word: &str) -> Option<Self> {
        match word {
            "active" => Some(Self::Active),
            "moving" => Some(Self::Moving),
            "moved" => Some(Self::Moved),
            _ => None,
        }
    }
}

/// What a database says of a tenant: whether it serves it, and of which epoch that is. `None`: it never did.
///
/// # Errors
/// [`FenceError::Failed`].
pub async fn find(
    session: &mut PgConnection,
    tenant: TenantId,
) -> Result<Option<(State, PlacementEpoch)>, FenceError> {
    let found =
        sqlx::query!("SELECT state, epoch FROM app.tenant_fence WHERE tenant_id = $1", tenant.as_uuid())
            .fetch_optional(session)
            .await?;
    let Some(found) = found else { return Ok(None) };
    let unknown = || sqlx::Error::Protocol(format!("{} is no state of a fence", found.state));
    let state = State::from_stored(&found.state).ok_or_else(unknown)?;
    Ok(Some((state, PlacementEpoch(found.epoch))))
}

/// A session, with the tenant's lock or without it.
#[derive(Debug)]
pub enum Taken {
    /// It holds the lock.
    Held(Exclusive),
    /// Writers kept it for longer than was to be waited. The session is as it was.
    Busy(PgConnection),
}

/// A session on the source that holds the tenant's lock exclusively: nobody writes.
///
/// # Cancel safety
/// Dropping it, or a future of it, closes the session; the server gives the lock back. The row stays as it is.
#[derive(Debug)]
pub struct Exclusive {
    session: PgConnection,
    tenant: TenantId,
    waited: Duration,
}

impl Exclusive {
    /// Waits so long for all who write to end. Those who come meanwhile queue behind it, so the bound is short, and a
    /// tenant with a long transaction is tried again later.
    ///
    /// # Errors
    /// The driver's.
    pub async fn take(
        mut session: PgConnection,
        tenant: TenantId,
        within: Duration,
    ) -> Result<Taken, sqlx::Error> {
        // The stream has what is durable, and so has whoever decides by it.
        flush_commits(&mut session).await?;
        let bounds = format!(
            "SET plan_cache_mode=force_generic_plan;SET lock_timeout={};SET idle_session_timeout={}",
            milliseconds(within),
            milliseconds(SILENCE)
        );
        sqlx::raw_sql(AssertSqlSafe(bounds)).execute(&mut session).await?;
        // It changes nothing. What the server has to plan it does before anybody waits.
        close(&mut session, tenant, NEVER, &Mark { prefix: String::new(), number: 0 }).await?;
        let asked = Instant::now();
        let locked = sqlx::query!(
            "SELECT pg_catalog.pg_advisory_lock(pg_catalog.hashtextextended($1::uuid::text, $2))",
            tenant.as_uuid(),
            LOCKS
        )
        .execute(&mut session)
        .await;
        match locked {
            Ok(_) => Ok(Taken::Held(Self { session, tenant, waited: asked.elapsed() })),
            Err(error) if sqlstate(&error).as_deref() == Some(LOCK_NOT_AVAILABLE) => {
                // A lock that is granted at the moment in which the wait ends is the session's all the same: an error
                // gives back a transaction's locks, and no others.
                sqlx::raw_sql("SELECT pg_catalog.pg_advisory_unlock_all()").execute(&mut session).await?;
                unbound(&mut session).await?;
                Ok(Taken::Busy(session))
            }
            Err(error) => Err(error),
        }
    }

    /// How long the lock was waited for.
    #[must_use]
    pub const fn waited(&self) -> Duration {
        self.waited
    }

    /// Ends epoch `epoch` on this side, and leaves the mark, in one commit that is durable when this returns.
    ///
    /// # Errors
    /// [`FenceError::Lost`] when the tenant is not served here at that epoch; then nothing was written and nothing is
    /// in the stream.
    pub async fn close(&mut self, epoch: PlacementEpoch, mark: &Mark) -> Result<(), FenceError> {
        let closed = close(&mut self.session, self.tenant, epoch, mark).await?;
        one(u64::from(closed), epoch)
    }

    /// The same where changes are read from a [`change_log`]: the mark is left there.
    ///
    /// # Errors
    /// As [`Exclusive::close`].
    pub async fn close_logged(
        &mut self,
        epoch: PlacementEpoch,
        log: &str,
        mark: u64,
    ) -> Result<(), FenceError> {
        let mut transaction = self.session.begin().await?;
        let closed = sqlx::query!(
            "UPDATE app.tenant_fence SET state = 'moving', epoch = epoch + 1, updated_at = now()
             WHERE tenant_id = $1 AND state = 'active' AND epoch = $2",
            self.tenant.as_uuid(),
            epoch.0
        )
        .execute(&mut *transaction)
        .await?;
        if closed.rows_affected() != 1 {
            transaction.rollback().await?;
            return Err(FenceError::Lost { expected: epoch });
        }
        change_log::mark(&mut transaction, log, mark).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The session under the lock, for what is compared while nobody writes.
    pub fn session(&mut self) -> &mut PgConnection {
        &mut self.session
    }

    /// Gives the lock back, and the session without bounds.
    ///
    /// # Errors
    /// The driver's; also when the lock was not held any more, as after the server ended the session.
    pub async fn release(mut self) -> Result<PgConnection, sqlx::Error> {
        let held = sqlx::query_scalar!(
            r#"SELECT pg_catalog.pg_advisory_unlock(pg_catalog.hashtextextended($1::uuid::text, $2)) AS "held!""#,
            self.tenant.as_uuid(),
            LOCKS
        )
        .fetch_one(&mut self.session)
        .await?;
        if !held {
            return Err(sqlx::Error::Protocol("the tenant's lock was not held".to_owned()));
        }
        unbound(&mut self.session).await?;
        Ok(self.session)
    }
}

/// Closes a tenant that is served here at `epoch` and leaves the mark, in one message; whether it did.
async fn close(
    session: &mut PgConnection,
    tenant: TenantId,
    epoch: PlacementEpoch,
    mark: &Mark,
) -> Result<bool, sqlx::Error> {
    let left = sqlx::query_scalar!(
        r#"WITH closed AS (
            UPDATE app.tenant_fence SET state = 'moving', epoch = epoch + 1, updated_at = now()
            WHERE tenant_id = $1 AND state = 'active' AND epoch = $2 RETURNING tenant_id)
        SELECT pg_catalog.pg_logical_emit_message(true, $3, $4::text)::text AS "mark!" FROM closed"#,
        tenant.as_uuid(),
        epoch.0,
        mark.stream_prefix(),
        mark.number.to_string()
    )
    .fetch_optional(session)
    .await?;
    Ok(left.is_some())
}

async fn unbound(session: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("RESET lock_timeout;RESET idle_session_timeout").execute(session).await?;
    Ok(())
}

/// Opens the tenant on the target, at the epoch that the decision handed out. Idempotent.
///
/// # Errors
/// [`FenceError::Lost`] when the target has served the tenant at a later epoch since.
pub async fn open(
    session: &mut PgConnection,
    tenant: TenantId,
    epoch: PlacementEpoch,
) -> Result<(), FenceError> {
    let opened = sqlx::query!(
        "INSERT INTO app.tenant_fence AS f (tenant_id, state, epoch) VALUES ($1, 'active', $2)
         ON CONFLICT (tenant_id) DO UPDATE SET state = 'active', epoch = excluded.epoch, updated_at = now()
         WHERE f.epoch < excluded.epoch OR f.epoch = excluded.epoch AND f.state = 'active'",
        tenant.as_uuid(),
        epoch.0
    )
    .execute(session)
    .await?;
    one(opened.rows_affected(), epoch)
}

/// Has a session do once what [`open`] does, and undoes it, so that the server has planned it before anybody waits.
///
/// # Errors
/// As [`open`]; one that would be refused is known before the decision.
pub async fn plan_opening(
    session: &mut PgConnection,
    tenant: TenantId,
    epoch: PlacementEpoch,
) -> Result<(), FenceError> {
    let mut transaction = session.begin().await?;
    open(&mut transaction, tenant, epoch).await?;
    Ok(transaction.rollback().await?)
}

/// Has the session wait for no flush of what it commits, until [`secure`]. A tenant that is opened so is let in at once;
/// whoever has a write acknowledged there has waited for that flush with it.
///
/// # Errors
/// [`FenceError::Failed`].
pub async fn put_flushes_off(session: &mut PgConnection) -> Result<(), FenceError> {
    sqlx::raw_sql("SET synchronous_commit = off").execute(session).await?;
    Ok(())
}

/// Waits until [`open`] is durable, on the session that it was done on: it is done once more, and that commit waited for. So
/// it is durable whatever becomes of the server, which has not gone down in between, or the session had gone with it.
///
/// # Errors
/// As [`open`].
pub async fn secure(
    session: &mut PgConnection,
    tenant: TenantId,
    epoch: PlacementEpoch,
) -> Result<(), FenceError> {
    sqlx::raw_sql("RESET synchronous_commit").execute(&mut *session).await?;
    flush_commits(session).await?;
    open(session, tenant, epoch).await
}

/// Opens the tenant on the source again, at the epoch that giving the move up handed out, which is the second after the
/// one that it served. Idempotent.
///
/// # Errors
/// [`FenceError::Lost`] when the row is neither active there nor closed by this move, or is not there: a database that
/// served the tenant at another time only, as one that was restored, is not opened.
pub async fn reopen(
    session: &mut PgConnection,
    tenant: TenantId,
    epoch: PlacementEpoch,
) -> Result<(), FenceError> {
    let opened = sqlx::query!(
        "UPDATE app.tenant_fence SET state = 'active', epoch = $2, updated_at = now()
         WHERE tenant_id = $1 AND (state = 'active' AND (epoch = $2 OR epoch + 2 = $2)
            OR state = 'moving' AND epoch + 1 = $2)",
        tenant.as_uuid(),
        epoch.0
    )
    .execute(session)
    .await?;
    one(opened.rows_affected(), epoch)
}

/// Says on the source that the tenant has gone, at the epoch that the decision handed out. Idempotent.
///
/// # Errors
/// [`FenceError::Lost`] when the row is at another epoch, or open.
pub async fn retire(
    session: &mut PgConnection,
    tenant: TenantId,
    epoch: PlacementEpoch,
) -> Result<(), FenceError> {
    let retired = sqlx::query!(
        "UPDATE app.tenant_fence SET state = 'moved', updated_at = now()
         WHERE tenant_id = $1 AND epoch = $2 AND state IN ('moving', 'moved')",
        tenant.as_uuid(),
        epoch.0
    )
    .execute(session)
    .await?;
    one(retired.rows_affected(), epoch)
}

const fn one(rows: u64, expected: PlacementEpoch) -> Result<(), FenceError> {
    if rows == 1 { Ok(()) } else { Err(FenceError::Lost { expected }) }
}
