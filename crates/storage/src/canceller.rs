//! Ending statements that were left behind.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::sync::Mutex;

/// Cancels statements over a connection of its own, opened when first wanted.
pub(crate) struct Canceller {
    options: PgConnectOptions,
    connection: Mutex<Option<PgConnection>>,
    patience: Duration,
}

impl Canceller {
    /// One that gives each statement so long to be cancelled.
    pub(crate) fn new(options: PgConnectOptions, patience: Duration) -> Self {
        Self { options, connection: Mutex::new(None), patience }
    }

    /// Has a process's statement cancelled.
    pub(crate) async fn cancel(&self, pid: i32) -> Result<(), sqlx::Error> {
        let attempt = async {
            let mut slot = self.connection.lock().await;
            let mut pg = match slot.take() {
                Some(pg) => pg,
                None => PgConnection::connect_with(&self.options).await?,
            };
            sqlx::query("SELECT pg_catalog.pg_cancel_backend($1)").bind(pid).execute(&mut pg).await?;
            *slot = Some(pg);
            Ok(())
        };
        tokio::time::timeout(self.patience, attempt)
            .await
            .unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
    }

    /// Takes leave of the server.
    pub(crate) async fn close(&self) {
        if let Some(pg) = self.connection.lock().await.take()
            && let Err(error) = pg.close().await
        {
            tracing::debug!(%error, "the control connection did not close cleanly");
        }
    }
}
