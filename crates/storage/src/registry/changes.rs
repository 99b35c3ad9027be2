//! How nodes hear of changes in the registry: they ask, and they are told when to.
//!
//! Both have a connection of their own, so that neither a busy pool nor a statement that hangs in it makes a
//! node believe what is no longer true.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{Connection, PgConnection};
use stagesub_tenancy::{
    ChangeFeed, ChangeSignal, Changes, ConfigVersion, DirectoryError, Standing, TenantId,
};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{RegistryPools, moves, unavailable};

/// What changes are told on; the payload is the version. `version.rs` has it in a statement.
const CHANNEL: &str = "stagesub_registry";

/// After so long without a word the listening connection is asked whether it is still there.
const QUIET: Duration = Duration::from_secs(30);
/// Longest that a connection may take to be made, or to say that it is there.
const ANSWER: Duration = Duration::from_secs(5);
/// Pause before a lost connection is made again.
const PAUSE: Duration = Duration::from_secs(1);

fn options(registry: &RegistryPools, name: &str) -> PgConnectOptions {
    PgConnectOptions::clone(&registry.control().connect_options()).application_name(name)
}

/// [`ChangeFeed`] on Postgres.
pub struct PgChangeFeed {
    options: PgConnectOptions,
    /// Empty while it is in use: what an asking that was given up leaves behind is never used again.
    connection: Mutex<Option<PgConnection>>,
}

impl PgChangeFeed {
    /// Over the registry. Connects when it is first asked.
    #[must_use]
    pub fn new(registry: &RegistryPools) -> Self {
        Self { options: options(registry, "stagesub feed"), connection: Mutex::new(None) }
    }

    async fn ask(&self, since: Option<ConfigVersion>) -> Result<Changes, DirectoryError> {
        let mut slot = self.connection.lock().await;
        if let Some(mut known) = slot.take() {
            match ask(&mut known, since).await {
                Ok(changes) => {
                    *slot = Some(known);
                    return Ok(changes);
                }
                // It may be this connection that ended and not the registry.
                Err(error) => tracing::debug!(%error, "the registry is asked over a new connection"),
            }
        }
        let mut fresh = PgConnection::connect_with(&self.options).await.map_err(unavailable)?;
        let changes = ask(&mut fresh, since).await?;
        *slot = Some(fresh);
        Ok(changes)
    }
}

impl fmt::Debug for PgChangeFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgChangeFeed").finish_non_exhaustive()
    }
}

#[async_trait]
impl ChangeFeed for PgChangeFeed {
    async fn current(&self) -> Result<Standing, DirectoryError> {
        Ok(self.ask(None).await?.standing)
    }

    async fn changes_since(&self, since: ConfigVersion) -> Result<Changes, DirectoryError> {
        self.ask(Some(since)).await
    }
}

/// What changed after a version; `None`: nothing is listed.
///
/// One statement, so one snapshot: what it shows of tenants and people is what there is at the version it shows. Who is
/// about to move is asked for apart, and seldom.
/// A history ends when the server is started (a restored one was, and a replica that was made the server counts
/// from its own start) and when the table is made again.
async fn ask(conn: &mut PgConnection, since: Option<ConfigVersion>) -> Result<Changes, DirectoryError> {
    let row = sqlx::query!(
        r#"SELECT
            v.version,
            concat_ws('/', extract(epoch FROM pg_postmaster_start_time()), d.oid, v.tableoid) AS "history!",
            EXISTS(SELECT FROM registry.moves AS m WHERE m.ended_at IS NULL) AS "moving!",
            ARRAY(SELECT t.id FROM registry.tenants AS t WHERE t.version > $1 ORDER BY t.id) AS "tenants!",
            ARRAY(SELECT u.id FROM registry.users AS u WHERE u.version > $1 ORDER BY u.id) AS "users!"
        FROM registry.version AS v
        CROSS JOIN pg_catalog.pg_database AS d
        WHERE d.datname = current_database()"#,
        since.map(|version| version.0)
    )
    .fetch_one(&mut *conn)
    .await
    .map_err(unavailable)?;
    let arriving = if row.moving { moves::arriving(conn).await? } else { Vec::new() };
    Ok(Changes {
        tenants: row.tenants.into_iter().map(TenantId::from_uuid).collect(),
        users: row.users,
        arriving,
        standing: Standing { version: ConfigVersion(row.version), history: row.history },
    })
}

/// [`ChangeSignal`] on Postgres: `LISTEN`, which needs a session of its own and so no pooler in between that
/// lends one for each transaction.
pub struct PgChangeSignal {
    options: Arc<PgConnectOptions>,
    listener: Option<PgListener>,
    /// Why it hears nothing, if that was logged.
    deaf: bool,
}

impl PgChangeSignal {
    /// Over the registry. Connects when it is first waited for.
    #[must_use]
    pub fn new(registry: &RegistryPools) -> Self {
        Self { options: Arc::new(options(registry, "stagesub listener")), listener: None, deaf: false }
    }

    async fn connect(&self) -> Result<PgListener, sqlx::Error> {
        // A listener wants a pool to take its one connection from. Each gets a new one, so that nothing waits
        // for a connection that never came back.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ANSWER)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(PgConnectOptions::clone(&self.options));
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.ignore_pool_close_event(true);
        // A connection that is made again by itself would hide that something was missed.
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(listener)
    }

    fn lost(&mut self, cause: &dyn fmt::Display) {
        self.listener = None;
        if self.deaf {
            tracing::debug!(%cause, "the registry's notifications are still not heard");
        } else {
            tracing::warn!(%cause, "the registry's notifications are not heard; it is asked each second");
            self.deaf = true;
        }
    }
}

impl fmt::Debug for PgChangeSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgChangeSignal").field("deaf", &self.deaf).finish_non_exhaustive()
    }
}

#[async_trait]
impl ChangeSignal for PgChangeSignal {
    async fn changed(&mut self) {
        loop {
            let Some(listener) = &mut self.listener else {
                match timeout(ANSWER, self.connect()).await {
                    Ok(Ok(listener)) => {
                        if std::mem::take(&mut self.deaf) {
                            tracing::info!("the registry's notifications are heard again");
                        }
                        self.listener = Some(listener);
                        return;
                    }
                    Ok(Err(error)) => self.lost(&error),
                    Err(elapsed) => self.lost(&elapsed),
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let lost = match timeout(QUIET, listener.try_recv()).await {
                Ok(Ok(Some(_))) => {
                    // All that is there by now is one change.
                    while listener.next_buffered().is_some() {}
                    return;
                }
                Ok(Ok(None)) => "the connection was lost".to_owned(),
                Ok(Err(error)) => error.to_string(),
                // A connection that a firewall forgot looks like one on which nothing happens.
                Err(_quiet) => match timeout(ANSWER, sqlx::query("SELECT 1").execute(&mut *listener)).await {
                    Ok(Ok(_)) => continue,
                    Ok(Err(error)) => error.to_string(),
                    Err(elapsed) => elapsed.to_string(),
                },
            };
            self.lost(&lost);
            tokio::time::sleep(PAUSE).await;
        }
    }
}
