//! How far a stream is applied: a row beside what was applied, changed in the same transaction.
//!
//! Who applies says from where to where it goes on. If the row says otherwise, somebody else has gone on, and the
//! transaction must not be committed.

use std::fmt;

use sqlx::PgConnection;
use uuid::Uuid;

use super::lsn::{InvalidLsn, Lsn};

/// Which way changes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From where the tenant was when the move began, to where it moves.
    Forward,
    /// Back.
    Reverse,
}

impl Direction {
    /// The word as it is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reverse => "reverse",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A move's progress could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgressError {
    /// The statement failed.
    #[error("the progress of a move could not be read or written")]
    Database(#[from] sqlx::Error),
    /// What is stored is no position.
    #[error("the stored progress of a move is no position in a log")]
    Corrupt(#[from] InvalidLsn),
}

/// Writes down where a stream begins, before anything of it is applied. A stream that has begun is left as it is.
///
/// # Errors
/// [`ProgressError::Database`].
pub async fn begin(
    conn: &mut PgConnection,
    move_id: Uuid,
    direction: Direction,
    lsn: Lsn,
) -> Result<(), ProgressError> {
    sqlx::query!(
        "INSERT INTO app.move_progress (move_id, stream, lsn) VALUES ($1, $2, $3::text::pg_lsn)
         ON CONFLICT (move_id, stream) DO NOTHING",
        move_id,
        direction.as_str(),
        lsn.to_string()
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Up to where a stream is applied. `None`: it has not begun.
///
/// # Errors
/// [`ProgressError`].
pub async fn find(
    conn: &mut PgConnection,
    move_id: Uuid,
    direction: Direction,
) -> Result<Option<Lsn>, ProgressError> {
    let found = sqlx::query_scalar!(
        r#"SELECT lsn::text AS "lsn!" FROM app.move_progress WHERE move_id = $1 AND stream = $2"#,
        move_id,
        direction.as_str()
    )
    .fetch_optional(conn)
    .await?;
    Ok(found.map(|lsn| lsn.parse()).transpose()?)
}

/// Says that what lies between `from` and `to` is applied, in the transaction that applied it. False: the row does
/// not stand at `from`, so somebody else applies this stream.
///
/// # Errors
/// [`ProgressError::Database`].
pub async fn advance(
    conn: &mut PgConnection,
    move_id: Uuid,
    direction: Direction,
    (from, to): (Lsn, Lsn),
) -> Result<bool, ProgressError> {
    let done = sqlx::query!(
        "UPDATE app.move_progress SET lsn = $4::text::pg_lsn, updated_at = now()
         WHERE move_id = $1 AND stream = $2 AND lsn = $3::text::pg_lsn",
        move_id,
        direction.as_str(),
        from.to_string(),
        to.to_string()
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Forgets both streams of a move that has ended.
///
/// # Errors
/// [`ProgressError::Database`].
pub async fn forget(conn: &mut PgConnection, move_id: Uuid) -> Result<(), ProgressError> {
    sqlx::query!("DELETE FROM app.move_progress WHERE move_id = $1", move_id).execute(conn).await?;
    Ok(())
}
