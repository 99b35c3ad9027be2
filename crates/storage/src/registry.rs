//! Connections to the registry, and the adapters that work on it.
//!
//! The registry holds no tenant data, so nothing here binds a tenant; its fence is grants. Two small pools,
//! one a login: `control` reads and writes the platform's records, `auth` checks credentials. Neither
//! leaves this crate.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{Connection, PgConnection, Postgres, Transaction};
#[cfg(feature = "orchestra")]
use stagesub_domain::error::StoreError;
use stagesub_tenancy::{BoxError, DatabaseId, DirectoryError};

#[cfg(feature = "orchestra")]
use crate::error::leaves_open;
use crate::error::{Failure, classify};
use crate::logins::LoginRole;
use crate::marker::{self, Marker, MarkerError};
use crate::migrate::error::{MigrateError, during};
use crate::migrate::logins::find_login;
use crate::migrate::session;
use crate::migrate::sets::MigrationSet;
use crate::migrate::verify_login;
#[cfg(feature = "orchestra")]
use crate::repo::store_error;
use crate::roles::is_refused;
use crate::seal::KeyRing;
use crate::target::ConnectionTarget;

#[cfg(feature = "orchestra")]
mod audit;
pub mod changes;
#[cfg(feature = "orchestra")]
pub mod constraints;
#[cfg(feature = "orchestra")]
pub mod credentials;
#[cfg(feature = "orchestra")]
mod idempotency;
pub mod known;
mod lock;
pub mod logins;
#[cfg(feature = "orchestra")]
pub mod move_desk;
pub mod moves;
pub mod nodes;
#[cfg(feature = "orchestra")]
pub mod people;
#[cfg(feature = "orchestra")]
pub mod platform_databases;
pub mod roster;
pub mod shared;
#[cfg(feature = "orchestra")]
pub mod tenant_databases;
#[cfg(feature = "orchestra")]
pub mod tenants;
pub mod usage;
mod version;
#[cfg(feature = "orchestra")]
mod witnesses;

pub use lock::PlatformLock;
#[cfg(feature = "orchestra")]
pub use witnesses::Witness;

/// Connections of each pool. What is asked of the registry is cached, or rare.
const MAX_CONNECTIONS: u32 = 4;
/// How long a caller waits for one of them.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// The registry, connected to as the platform's own logins. Clones share their connections.
#[derive(Clone, Debug)]
pub struct RegistryPools {
    control: PgPool,
    auth: PgPool,
    marker: Marker,
}

impl RegistryPools {
    /// Reads the registry's sealed connection strings with `database_url`, once, and connects with them.
    ///
    /// # Errors
    /// [`MigrateError`], a sentence with what to do: the registry cannot be reached, is another database,
    /// is not migrated, was migrated by a newer program, may not be read, or its strings do not open.
    pub async fn open(database_url: &ConnectionTarget, keys: &KeyRing) -> Result<Self, MigrateError> {
        let target = database_url.describe();
        let mut conn = session::connect(database_url)
            .await
            .map_err(|source| MigrateError::Unreachable { target: target.clone(), source })?;
        let marker = read_marker(&mut conn, &target).await?;
        check_schema(&mut conn, MigrationSet::Registry, &target).await?;
        let control = stored_login(&mut conn, keys, &marker, LoginRole::Control).await?;
        let auth = stored_login(&mut conn, keys, &marker, LoginRole::Auth).await?;
        conn.close().await.map_err(during("closing the connection"))?;
        // The strings say where the registry was when it was migrated; that must still be this database.
        verify_login(LoginRole::Control, &control, &marker).await?;
        verify_login(LoginRole::Auth, &auth, &marker).await?;
        Ok(Self { control: pool(&control), auth: pool(&auth), marker })
    }

    /// The registry's own id among the databases.
    #[must_use]
    pub const fn database(&self) -> DatabaseId {
        self.marker.database
    }

    /// Whether a demonstration made it.
    #[must_use]
    pub const fn is_demo(&self) -> bool {
        self.marker.demo
    }

    /// Whether the registry answers now.
    ///
    /// # Errors
    /// [`DirectoryError::Unavailable`].
    pub async fn ping(&self) -> Result<(), DirectoryError> {
        sqlx::query("SELECT 1").execute(&self.control).await.map_err(unavailable)?;
        Ok(())
    }

    /// Closes both pools, waiting for statements in progress.
    pub async fn close(&self) {
        self.auth.close().await;
        self.control.close().await;
    }

    pub(crate) const fn control(&self) -> &PgPool {
        &self.control
    }

    #[cfg(feature = "orchestra")]
    pub(crate) const fn auth(&self) -> &PgPool {
        &self.auth
    }

    /// A change of the platform's records.
    #[expect(
        clippy::disallowed_methods,
        reason = "registry adapter: its fence is grants, and it binds no tenant"
    )]
    pub(crate) async fn begin_control(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        self.control.begin().await
    }

    /// A change of credentials.
    #[cfg(feature = "orchestra")]
    #[expect(
        clippy::disallowed_methods,
        reason = "registry adapter: its fence is grants, and it binds no tenant"
    )]
    pub(crate) async fn begin_auth(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        self.auth.begin().await
    }
}

fn pool(target: &ConnectionTarget) -> PgPool {
    PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(target.to_connect_options())
}

async fn read_marker(conn: &mut PgConnection, target: &str) -> Result<Marker, MigrateError> {
    let explain = |source: MarkerError| match source {
        MarkerError::Database(source) if is_refused(&source) => {
            MigrateError::MayNotRead { target: target.to_owned(), source }
        }
        source => MigrateError::Marker { target: target.to_owned(), source },
    };
    if let Some(marker) = marker::read_registry_marker(conn).await.map_err(explain)? {
        return Ok(marker);
    }
    match marker::read_tenant_marker(conn).await {
        Ok(Some(found)) => {
            Err(MigrateError::WrongDatabase { target: target.to_owned(), found, wanted: "the registry" })
        }
        // A schema `app` that this user may not look into changes nothing: there is no registry here.
        Ok(None) | Err(_) => Err(MigrateError::NotMigrated { target: target.to_owned() }),
    }
}

async fn check_schema(conn: &mut PgConnection, set: MigrationSet, target: &str) -> Result<(), MigrateError> {
    let applied = set.applied(conn).await?.last().copied().unwrap_or(0);
    let (target, known) = (target.to_owned(), set.newest());
    match applied.cmp(&known) {
        std::cmp::Ordering::Less => Err(MigrateError::NotMigrated { target }),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => {
            Err(MigrateError::NewerSchema { target, set: set.as_str(), applied, known })
        }
    }
}

async fn stored_login(
    conn: &mut PgConnection,
    keys: &KeyRing,
    marker: &Marker,
    role: LoginRole,
) -> Result<ConnectionTarget, MigrateError> {
    let database = marker.database;
    find_login(conn, keys, database, role).await?.ok_or(MigrateError::NoLogin { database, role })
}

/// Commits a change of the registry.
///
/// # Errors
/// [`StoreError::CommitUnknown`] when the connection was lost in between. (sqlx takes the COMMIT of an aborted
/// transaction for a success; none comes here, since whatever failed before is returned where it failed.)
#[cfg(feature = "orchestra")]
pub(crate) async fn commit(transaction: Transaction<'static, Postgres>) -> Result<(), StoreError> {
    transaction.commit().await.map_err(commit_error)
}

/// What a COMMIT that was not answered with success says.
#[cfg(feature = "orchestra")]
fn commit_error(error: sqlx::Error) -> StoreError {
    if leaves_open(&error) { StoreError::CommitUnknown(Box::new(error)) } else { store_error(error) }
}

/// The directory's view of a driver's error: everything but a stored record is the registry's absence.
pub(crate) fn unavailable(error: sqlx::Error) -> DirectoryError {
    if matches!(classify(&error), Failure::Statement) {
        tracing::error!(error = &error as &dyn std::error::Error, "a statement on the registry failed");
    }
    DirectoryError::Unavailable(Box::new(error))
}

/// A stored record that breaks its type's rules.
pub(crate) fn corrupt(what: &'static str, source: impl Into<BoxError>) -> DirectoryError {
    DirectoryError::Corrupt { what, source: source.into() }
}

/// Keys as the adapters share them.
pub(crate) type Keys = Arc<KeyRing>;

#[cfg(all(test, feature = "orchestra"))]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_unknown_only_when_its_connection_was_lost() {
        let lost = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert!(matches!(commit_error(lost), StoreError::CommitUnknown(_)));
        assert!(matches!(commit_error(sqlx::Error::RowNotFound), StoreError::Failed(_)));
    }
}
