//! What a demo stands on: a Postgres of its own, or a database that was named.

use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::ExposeSecret;
use stagesub_storage::embedded::{Cluster, ClusterOptions, Durability, LaunchError, default_data_dir};
use stagesub_storage::migrate::{MigrateError, MigrateReport, migrate};
use stagesub_storage::seal::{KeyRing, SealError};
use stagesub_tenancy::{HostPolicy, InvalidAppDomain, TrustedProxies};

use super::cast::SUPERADMIN_EMAIL;
use super::report::APP_DOMAIN;
use super::secrets::Secrets;
use crate::config::{
    Bounds, ConfigError, ConnectionSettings, DatabaseSettings, LimitSettings, MigrateSettings, MoveSettings,
    PoolShares, RawConfig, ServingSettings, SuperadminSettings, burden, database_hosts, expectations,
    metrics_listen, one_message_reads, pool_sizes,
};
use crate::jobs::changes::Follow;
use crate::problem::error_chain;

/// How long requests under way may take once a demo is told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Where a demo's data is.
pub struct Ground {
    data_dir: PathBuf,
    /// None: a database was named, and somebody else runs it.
    cluster: Option<Cluster>,
}

impl Ground {
    /// Starts a durable Postgres in the data directory, or adopts the one that outlived its server. With
    /// `DATABASE_URL` set, that database is used instead and the directory keeps the secrets only.
    ///
    /// # Errors
    /// [`GroundError`]; with no Postgres installed, what to install.
    ///
    /// # Cancel safety
    /// Dropping the future stops what was started.
    pub async fn lay(data_dir: Option<&Path>, raw: &RawConfig) -> Result<Self, GroundError> {
        let data_dir = match data_dir {
            Some(named) => named.to_path_buf(),
            None => default_data_dir()?,
        };
        if raw.database_url.is_some() {
            make_private(&data_dir)?;
            return Ok(Self { data_dir, cluster: None });
        }
        let cluster = Cluster::start(ClusterOptions::new(data_dir, Durability::Durable)).await?;
        if cluster.was_adopted() {
            tracing::info!("took over the PostgreSQL that an earlier demo left running");
        }
        Ok(Self { data_dir: cluster.data_dir().to_path_buf(), cluster: Some(cluster) })
    }

    /// The directory of data and secrets.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Brings the databases to this version's schema; a named one has to be empty or a demo's already.
    pub async fn migrate(&self, raw: &RawConfig, secrets: &Secrets) -> Result<DatabaseSettings, GroundError> {
        let settings = if let Some(cluster) = &self.cluster {
            MigrateSettings {
                databases: DatabaseSettings {
                    database_url: cluster.admin().clone(),
                    shared_database_url: None,
                    keys: KeyRing::parse(secrets.keys.expose_secret())?,
                    pools: pool_sizes(raw)?,
                    bounds: Bounds::from_raw(raw)?,
                    shares: PoolShares::from_raw(raw)?,
                    one_message_reads: one_message_reads(raw)?,
                    expected: expectations(raw)?,
                    allowed: database_hosts(raw)?,
                    burden: burden(raw)?,
                },
                registry_admin: cluster.admin().clone(),
                shared_admin: None,
            }
        } else {
            let keys = Some(secrets.keys.clone());
            MigrateSettings::from_raw(&RawConfig { stagesub_keys: keys, ..raw.clone() })?
        };
        let mut options = settings.options();
        options.demo = true;
        let report = migrate(&options, &settings.databases.keys).await?;
        log(&report);
        Ok(settings.databases)
    }

    /// Stops the demo's Postgres, if it is its own.
    pub async fn leave(self) -> Result<(), GroundError> {
        match self.cluster {
            Some(cluster) => Ok(cluster.stop().await?),
            None => Ok(()),
        }
    }
}

/// How a demo serves: for names under `localhost`, with its own secrets.
pub fn serving(
    secrets: &Secrets,
    listen: SocketAddr,
    raw: &RawConfig,
) -> Result<ServingSettings, GroundError> {
    Ok(ServingSettings {
        jwt_secret: secrets.jwt_secret.clone(),
        hosts: HostPolicy::new(APP_DOMAIN)?,
        trusted_proxies: TrustedProxies::default(),
        listen,
        metrics: metrics_listen(raw)?,
        superadmin: Some(SuperadminSettings {
            email: SUPERADMIN_EMAIL.to_owned(),
            password: secrets.superadmin_password.clone(),
        }),
        shutdown: GRACE,
        follow: Follow::default(),
        limits: LimitSettings::from_raw(raw)?,
        connections: ConnectionSettings::from_raw(raw)?,
        moves: MoveSettings::from_raw(raw)?,
    })
}

fn make_private(dir: &Path) -> Result<(), GroundError> {
    let failed = |source| GroundError::Directory { dir: dir.to_path_buf(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)
}

fn log(report: &MigrateReport) {
    for part in &report.partial {
        tracing::warn!(what = part.name, why = part.why, "less well defended than it could be");
    }
    for database in &report.databases {
        if let Err(error) = &database.outcome {
            tracing::error!(database = database.place, cause = %error_chain(error), "not migrated");
        }
    }
}

/// A demo has nothing to stand on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroundError {
    /// Its Postgres does not start or stop.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Its databases cannot be set up.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// The databases that were named cannot be understood.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The stored keys are none.
    #[error("the demo's keys are damaged; restore its secrets, or begin anew in another --data-dir")]
    Keys(#[from] SealError),
    /// The directory cannot be made.
    #[error("{} cannot be made; name another directory with --data-dir or STAGESUB_DATA_DIR", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The domain is none.
    #[error(transparent)]
    Domain(#[from] InvalidAppDomain),
}
