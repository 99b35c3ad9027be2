//! Work that one process at a time may do on a platform.

use sqlx::{Connection, PgConnection};
use stagesub_tenancy::DirectoryError;

use super::unavailable;
use crate::migrate::session;
use crate::target::ConnectionTarget;

/// Held by a connection of its own: it ends with [`PlatformLock::release`], with the process, and with the
/// connection.
#[derive(Debug)]
pub struct PlatformLock {
    conn: PgConnection,
    key: i64,
}

impl PlatformLock {
    /// Takes the lock of this number on one database. `None`: somebody else holds it now.
    ///
    /// `login` is the migrator's: advisory locks are taken from every other role, since a lock that is never
    /// let go of stops whoever waits for it.
    ///
    /// # Errors
    /// [`DirectoryError::Unavailable`].
    pub async fn try_take(login: &ConnectionTarget, key: i64) -> Result<Option<Self>, DirectoryError> {
        let mut conn = session::connect(login).await.map_err(unavailable)?;
        let taken = sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock($1) AS "taken!""#, key)
            .fetch_one(&mut conn)
            .await
            .map_err(unavailable)?;
        if taken {
            return Ok(Some(Self { conn, key }));
        }
        conn.close().await.map_err(unavailable)?;
        Ok(None)
    }

    /// Lets go of it. `false`: it was lost before, so another may have worked at the same time.
    pub async fn release(mut self) -> bool {
        let held = sqlx::query_scalar!(r#"SELECT pg_advisory_unlock($1) AS "held!""#, self.key)
            .fetch_one(&mut self.conn)
            .await;
        let held = held.unwrap_or(false);
        if let Err(error) = self.conn.close().await {
            tracing::debug!(%error, "the connection of a lock did not close cleanly");
        }
        held
    }
}
