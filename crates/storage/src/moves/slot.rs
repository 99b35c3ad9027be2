//! Where a move's changes come from: a publication that lets one tenant's rows through, a replication slot that keeps
//! the log for it, and the session that reads both ([`SlotSession`], then [`ChangeStream`]).
//!
//! Slot, publication and sessions are called after the move, so that whoever takes it over finds them: sessions by
//! their `application_name`, the others by [`stream_name`].
//!
//! # Invariants
//! - Nothing is acknowledged but what somebody said is durable elsewhere ([`Changes::acknowledge`]).
//! - A publication is made only if every table's rows are identified by their primary key and that has the tenant in
//!   it. Otherwise Postgres would refuse every update and delete of the table, those of all other tenants too.
//! - A publication goes only after every transaction that may have read of it has ended.
//! - A slot is dropped only after the session that reads it has ended.

mod publication;
mod session;

use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgConnection;
use stagesub_tenancy::BoxError;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::lsn::Lsn;
use super::pgoutput::{DecodeError, Message};
use super::progress::Direction;
use crate::error::sqlstate;

pub use publication::{PublicationError, create_publication, drop_publication};
pub use session::{ChangeStream, SlotSession, Snapshot};

/// SQLSTATE of a slot that is read by somebody.
const IN_USE: &str = "55006";
/// SQLSTATE of a slot that is not there.
const UNDEFINED: &str = "42704";
/// How often a session or transaction that is to end is looked for.
const LOOK: Duration = Duration::from_millis(10);

/// What the slot and the publication of a move's stream are called, each in its own database.
#[must_use]
pub fn stream_name(move_id: Uuid, direction: Direction) -> String {
    let way = match direction {
        Direction::Forward => "fwd",
        Direction::Reverse => "rev",
    };
    format!("stagesub_move_{}_{way}", move_id.simple())
}

/// What the sessions of a move's stream are called in `pg_stat_activity`.
#[must_use]
pub fn session_name(move_id: Uuid, what: &str) -> String {
    format!("{}{what}", session_prefix(move_id))
}

/// How the names of all sessions of a move begin.
fn session_prefix(move_id: Uuid) -> String {
    format!("stagesub-move:{move_id}:")
}

/// What comes out of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something was done.
    Message(Message),
    /// Nothing more was done up to here that concerns the stream; everything that does was delivered before.
    Idle(Lsn),
}

/// A stream of changes.
#[async_trait]
pub trait Changes: Send {
    /// The next event. It waits for as long as nothing is done.
    ///
    /// # Errors
    /// [`StreamError`]; the stream has ended then.
    ///
    /// # Cancel safety
    /// No event is lost with a dropped future.
    async fn next(&mut self) -> Result<Event, StreamError>;

    /// Says that everything up to here is durable where it was brought to. The source forgets it.
    fn acknowledge(&mut self, lsn: Lsn);
}

/// A stream has ended, or did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The session failed: the server refused, or is gone.
    #[error("the session that streams changes failed")]
    Session(#[source] BoxError),
    /// The server ended the stream.
    #[error("the source ended the stream of changes")]
    Ended,
    /// What it sent cannot be understood.
    #[error("the stream of changes cannot be understood")]
    Decode(#[from] DecodeError),
    /// The connection string's kind of address is not to be had for a replication session.
    #[error("a replication session cannot be opened over {0}")]
    Unsupported(&'static str),
    /// The server's answer to a command lacks what it should have.
    #[error("the server did not say {0}")]
    Answer(&'static str),
}

/// Something of a slot could not be removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlotError {
    /// The statement failed.
    #[error("the slots or sessions of a move could not be read or removed")]
    Database(#[from] sqlx::Error),
    /// A session that was told to end has not.
    #[error("a session of the move did not end in time")]
    StillAlive,
}

/// Drops a move's slot, which may be read by a session of somebody who is gone: that is ended first. A slot that is
/// not there is none to drop.
///
/// # Errors
/// [`SlotError`]; with [`SlotError::StillAlive`] a session still reads the slot after `patience`.
pub async fn drop_slot(conn: &mut PgConnection, slot: &str, patience: Duration) -> Result<(), SlotError> {
    let until = Instant::now() + patience;
    loop {
        sqlx::query!(
            "SELECT pg_catalog.pg_terminate_backend(active_pid) FROM pg_catalog.pg_replication_slots
             WHERE slot_name = $1 AND active_pid IS NOT NULL",
            slot
        )
        .fetch_optional(&mut *conn)
        .await?;
        let dropped = sqlx::query!(
            "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots
             WHERE slot_name = $1",
            slot
        )
        .fetch_optional(&mut *conn)
        .await;
        match dropped {
            Ok(_) => return Ok(()),
            Err(error) if sqlstate(&error).as_deref() == Some(UNDEFINED) => return Ok(()),
            Err(error) if sqlstate(&error).as_deref() == Some(IN_USE) => {}
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= until {
            return Err(SlotError::StillAlive);
        }
        sleep(LOOK).await;
    }
}

/// Ends every other session of a move on this server, streams and ordinary ones, and waits until they are gone: who
/// takes a move over does this first, so that nothing of what the other had begun arrives later. Sessions of other
/// logins are left alone, whatever they call themselves.
///
/// # Errors
/// [`SlotError`]; with [`SlotError::StillAlive`] one is still there after `patience`.
pub async fn sever(conn: &mut PgConnection, move_id: Uuid, patience: Duration) -> Result<(), SlotError> {
    let until = Instant::now() + patience;
    loop {
        let left = sqlx::query_scalar!(
            r#"SELECT count(pg_catalog.pg_terminate_backend(pid)) AS "left!" FROM pg_catalog.pg_stat_activity
             WHERE starts_with(application_name, $1) AND usename = current_user
                 AND pid <> pg_catalog.pg_backend_pid()"#,
            session_prefix(move_id)
        )
        .fetch_one(&mut *conn)
        .await?;
        if left == 0 {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(SlotError::StillAlive);
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_what_postgres_keeps() {
        let id = Uuid::from_u128(u128::MAX);
        let name = stream_name(id, Direction::Forward);
        assert_eq!(name, "stagesub_move_ffffffffffffffffffffffffffffffff_fwd");
        assert!(name.len() < 64);
        assert_ne!(name, stream_name(id, Direction::Reverse));
        assert_eq!(
            session_name(id, "apply-rev"),
            "stagesub-move:ffffffff-ffff-ffff-ffff-ffffffffffff:apply-rev"
        );
        assert!(session_name(id, "stream-rev").len() < 64);
    }
}
