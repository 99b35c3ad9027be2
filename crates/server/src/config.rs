//! Configuration: from a file, overridden by the environment.
//!
//! Every variable is described in `docs/deployment.md`. A secret that is missing is named and nothing
//! starts; none has a default.

mod fairness;

use std::env::VarError;
use std::fmt;
use std::net::{AddrParseError, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use stagesub_storage::databases::{AllowedHosts, InvalidHosts};
use stagesub_storage::doctor::Expectations;
use stagesub_storage::migrate::{DatabaseTargets, MigrateOptions};
use stagesub_storage::moves::plane::Burden;
use stagesub_storage::seal::KeyRing;
use stagesub_storage::target::ConnectionTarget;
use stagesub_tenancy::{HostPolicy, InvalidProxies, TrustedProxies};

pub use self::fairness::{ConnectionSettings, LimitSettings, PoolShares};
use crate::jobs::changes::Follow;
use crate::telemetry::{LogFormat, UnknownLogFormat};

mod bounds;
mod moves;
mod one_message;
mod own_data;

pub use bounds::Bounds;
pub use moves::{MoveSettings, burden};
pub use one_message::one_message_reads;
pub use own_data::{expectations, reference_table};

/// Where `serve` listens when nothing else is said: on this machine only, behind a proxy.
const DEFAULT_LISTEN: &str = "127.0.0.1:8080";

/// What can be set, as text: from the file named by `STAGESUB_CONFIG`, then from the environment.
///
/// In the file the names are the variables' in lower case (`database_url`, `stagesub_listen`).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    /// `DATABASE_URL`
    pub database_url: Option<SecretString>,
    /// `SHARED_TENANT_DB_URL`
    pub shared_tenant_db_url: Option<SecretString>,
    /// `JWT_SECRET`
    pub jwt_secret: Option<SecretString>,
    /// `SUPERADMIN_EMAIL`
    pub superadmin_email: Option<String>,
    /// `SUPERADMIN_PASSWORD`
    pub superadmin_password: Option<SecretString>,
    /// `APP_DOMAIN`
    pub app_domain: Option<String>,
    /// `STAGESUB_KEYS`
    pub stagesub_keys: Option<SecretString>,
    /// `STAGESUB_ADMIN_DATABASE_URL`
    pub stagesub_admin_database_url: Option<SecretString>,
    /// `STAGESUB_ADMIN_SHARED_TENANT_DB_URL`
    pub stagesub_admin_shared_tenant_db_url: Option<SecretString>,
    /// `STAGESUB_LISTEN`
    pub stagesub_listen: Option<String>,
    /// `STAGESUB_METRICS_LISTEN`
    pub stagesub_metrics_listen: Option<String>,
    /// `STAGESUB_TRUSTED_PROXIES`
    pub stagesub_trusted_proxies: Option<String>,
    /// `STAGESUB_DATA_DIR`
    pub stagesub_data_dir: Option<PathBuf>,
    /// `STAGESUB_SHARED_POOL_SIZE`
    pub stagesub_shared_pool_size: Option<u32>,
    /// `STAGESUB_DEDICATED_POOL_SIZE`
    pub stagesub_dedicated_pool_size: Option<u32>,
    /// `STAGESUB_DEDICATED_POOLS`
    pub stagesub_dedicated_pools: Option<usize>,
    /// `STAGESUB_STATEMENT_TIMEOUT_MS`
    pub stagesub_statement_timeout_ms: Option<u64>,
    /// `STAGESUB_LOCK_TIMEOUT_MS`
    pub stagesub_lock_timeout_ms: Option<u64>,
    /// `STAGESUB_IDLE_TIMEOUT_MS`
    pub stagesub_idle_timeout_ms: Option<u64>,
    /// `STAGESUB_CONNECTION_WAIT_MS`
    pub stagesub_connection_wait_ms: Option<u64>,
    /// `STAGESUB_MOVE_WAIT_MS`
    pub stagesub_move_wait_ms: Option<u64>,
    /// `STAGESUB_TENANT_SHARE`
    pub stagesub_tenant_share: Option<u32>,
    /// `STAGESUB_SHARED_CONNECTIONS`
    pub stagesub_shared_connections: Option<u32>,
    /// `STAGESUB_DEDICATED_CONNECTIONS`
    pub stagesub_dedicated_connections: Option<u32>,
    /// `STAGESUB_REQUESTS_PER_ADDRESS`
    pub stagesub_requests_per_address: Option<u32>,
    /// `STAGESUB_REQUESTS_PER_TENANT`
    pub stagesub_requests_per_tenant: Option<u32>,
    /// `STAGESUB_TENANT_REQUESTS_AT_ONCE`
    pub stagesub_tenant_requests_at_once: Option<u32>,
    /// `STAGESUB_FAILED_SIGN_INS_PER_ADDRESS`
    pub stagesub_failed_sign_ins_per_address: Option<u32>,
    /// `STAGESUB_FAILED_SIGN_INS_PER_ACCOUNT`
    pub stagesub_failed_sign_ins_per_account: Option<u32>,
    /// `STAGESUB_MAX_CONNECTIONS`
    pub stagesub_max_connections: Option<u32>,
    /// `STAGESUB_HEAD_SECS`
    pub stagesub_head_secs: Option<u32>,
    /// `STAGESUB_ONE_MESSAGE_READS`
    pub stagesub_one_message_reads: Option<String>,
    /// `STAGESUB_DATA_SCHEMAS`
    pub stagesub_data_schemas: Option<String>,
    /// `STAGESUB_REFERENCE_TABLES`
    pub stagesub_reference_tables: Option<String>,
    /// `STAGESUB_DATABASE_HOSTS`
    pub stagesub_database_hosts: Option<String>,
    /// `STAGESUB_TRUSTED_ROLES`
    pub stagesub_trusted_roles: Option<String>,
    /// `STAGESUB_MOVES_AT_ONCE`
    pub stagesub_moves_at_once: Option<u32>,
    /// `STAGESUB_MOVES_KEPT`
    pub stagesub_moves_kept: Option<u32>,
    /// `STAGESUB_MOVE_LOG_GIB`
    pub stagesub_move_log_gib: Option<u32>,
    /// `STAGESUB_SHUTDOWN_SECS`
    pub stagesub_shutdown_secs: Option<u64>,
    /// `STAGESUB_REGISTRY_LISTEN`
    pub stagesub_registry_listen: Option<String>,
    /// `STAGESUB_LOG`
    pub stagesub_log: Option<String>,
    /// `STAGESUB_LOG_FORMAT`
    pub stagesub_log_format: Option<String>,
    /// `RUST_LOG`, which `STAGESUB_LOG` comes before
    pub rust_log: Option<String>,
}

/// Variables that are read; the file takes the same names in lower case.
const VARIABLES: &[&str] = &[
    "DATABASE_URL",
    "SHARED_TENANT_DB_URL",
    "JWT_SECRET",
    "SUPERADMIN_EMAIL",
    "SUPERADMIN_PASSWORD",
    "APP_DOMAIN",
    "STAGESUB_KEYS",
    "STAGESUB_ADMIN_DATABASE_URL",
    "STAGESUB_ADMIN_SHARED_TENANT_DB_URL",
    "STAGESUB_LISTEN",
    "STAGESUB_METRICS_LISTEN",
    "STAGESUB_TRUSTED_PROXIES",
    "STAGESUB_DATA_DIR",
    "STAGESUB_SHARED_POOL_SIZE",
    "STAGESUB_DEDICATED_POOL_SIZE",
    "STAGESUB_DEDICATED_POOLS",
    "STAGESUB_STATEMENT_TIMEOUT_MS",
    "STAGESUB_LOCK_TIMEOUT_MS",
    "STAGESUB_IDLE_TIMEOUT_MS",
    "STAGESUB_CONNECTION_WAIT_MS",
    "STAGESUB_MOVE_WAIT_MS",
    "STAGESUB_TENANT_SHARE",
    "STAGESUB_SHARED_CONNECTIONS",
    "STAGESUB_DEDICATED_CONNECTIONS",
    "STAGESUB_REQUESTS_PER_ADDRESS",
    "STAGESUB_REQUESTS_PER_TENANT",
    "STAGESUB_TENANT_REQUESTS_AT_ONCE",
    "STAGESUB_FAILED_SIGN_INS_PER_ADDRESS",
    "STAGESUB_FAILED_SIGN_INS_PER_ACCOUNT",
    "STAGESUB_MAX_CONNECTIONS",
    "STAGESUB_HEAD_SECS",
    "STAGESUB_ONE_MESSAGE_READS",
    "STAGESUB_DATA_SCHEMAS",
    "STAGESUB_REFERENCE_TABLES",
    "STAGESUB_DATABASE_HOSTS",
    "STAGESUB_TRUSTED_ROLES",
    "STAGESUB_MOVES_AT_ONCE",
    "STAGESUB_MOVES_KEPT",
    "STAGESUB_MOVE_LOG_GIB",
    "STAGESUB_SHUTDOWN_SECS",
    "STAGESUB_REGISTRY_LISTEN",
    "STAGESUB_LOG",
    "STAGESUB_LOG_FORMAT",
    "RUST_LOG",
];

impl RawConfig {
    /// Reads the file that `STAGESUB_CONFIG` names, if any, and the environment over it. A variable that is no
    /// text is an error: taken for not set, it would put something else in its place.
    pub fn load() -> Result<Self, ConfigError> {
        let is_no_text = |name: &&&str| matches!(std::env::var(name), Err(VarError::NotUnicode(_)));
        if let Some(variable) = VARIABLES.iter().find(is_no_text) {
            return Err(ConfigError::malformed(variable, "it is not UTF-8"));
        }
        let file = std::env::var_os("STAGESUB_CONFIG").map(PathBuf::from);
        Self::load_from(file.as_deref(), &|name| std::env::var(name).ok())
    }

    /// As [`RawConfig::load`], with the environment as an argument. A variable that is set and empty counts
    /// as not set.
    pub fn load_from(
        file: Option<&Path>,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut builder = config::Config::builder();
        if let Some(path) = file {
            builder = builder.add_source(config::File::from(path).format(config::FileFormat::Toml));
        }
        for name in VARIABLES {
            if let Some(value) = environment(name).filter(|value| !value.is_empty()) {
                builder = builder
                    .set_override(name.to_ascii_lowercase(), value)
                    .map_err(ConfigError::unreadable)?;
            }
        }
        builder.build().and_then(config::Config::try_deserialize).map_err(ConfigError::unreadable)
    }

    /// What is to be logged, if that was said.
    #[must_use]
    pub fn log_filter(&self) -> Option<&str> {
        self.stagesub_log.as_deref().or(self.rust_log.as_deref())
    }

    /// The keys that seal secrets, if they are named.
    pub fn key_ring(&self) -> Result<Option<KeyRing>, ConfigError> {
        self.stagesub_keys.as_ref().map(key_ring).transpose()
    }

    /// How a log line is written.
    pub fn log_format(&self) -> Result<LogFormat, ConfigError> {
        match &self.stagesub_log_format {
            None => Ok(LogFormat::default()),
            Some(text) => text
                .parse()
                .map_err(|source: UnknownLogFormat| ConfigError::malformed("STAGESUB_LOG_FORMAT", source)),
        }
    }
}

/// What `serve` runs with: everything is there and well formed.
#[derive(Debug)]
pub struct Settings {
    /// Its databases.
    pub databases: DatabaseSettings,
    /// How requests are served.
    pub serving: ServingSettings,
}

/// How requests are served.
pub struct ServingSettings {
    /// Signs access tokens.
    pub jwt_secret: SecretString,
    /// The platform's own host names.
    pub hosts: HostPolicy,
    /// Whose forwarded headers count.
    pub trusted_proxies: TrustedProxies,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where figures are given to Prometheus, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// The first administrator of the platform, if given.
    pub superadmin: Option<SuperadminSettings>,
    /// How long requests under way may take after the order to stop.
    pub shutdown: Duration,
    /// How changes in the registry are heard of.
    pub follow: Follow,
    /// How often the API may be asked.
    pub limits: LimitSettings,
    /// Bounds of the listener's connections.
    pub connections: ConnectionSettings,
    /// How many moves this node drives.
    pub moves: MoveSettings,
}

impl fmt::Debug for ServingSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServingSettings")
            .field("app_domain", &self.hosts.app_domain())
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

/// The first administrator of the platform.
#[derive(Debug, Clone)]
pub struct SuperadminSettings {
    /// Login address.
    pub email: String,
    /// Password.
    pub password: SecretString,
}

/// Sizes of pools.
#[derive(Debug, Clone, Copy)]
pub struct PoolSizes {
    /// Connections to each shared database.
    pub shared: u32,
    /// Connections to each dedicated database.
    pub dedicated: u32,
    /// Dedicated databases that are kept open.
    pub dedicated_pools: usize,
}

impl Settings {
    /// Checks that everything is there before anything else, so that one start tells all that is missing.
    pub fn for_serve(raw: &RawConfig) -> Result<Self, ConfigError> {
        let mut missing = Missing::default();
        missing.note("DATABASE_URL", raw.database_url.as_ref());
        let jwt_secret = missing.note("JWT_SECRET", raw.jwt_secret.as_ref());
        missing.note("STAGESUB_KEYS", raw.stagesub_keys.as_ref());
        let app_domain = missing.note("APP_DOMAIN", raw.app_domain.as_ref());
        let (Some(jwt_secret), Some(app_domain), true) = (jwt_secret, app_domain, missing.0.is_empty())
        else {
            return Err(missing.into());
        };
        Ok(Self {
            databases: DatabaseSettings::from_raw(raw)?,
            serving: ServingSettings {
                jwt_secret: jwt_secret.clone(),
                hosts: HostPolicy::new(app_domain)
                    .map_err(|source| ConfigError::malformed("APP_DOMAIN", source))?,
                trusted_proxies: match &raw.stagesub_trusted_proxies {
                    None => TrustedProxies::default(),
                    Some(text) => text.parse().map_err(|source: InvalidProxies| {
                        ConfigError::malformed("STAGESUB_TRUSTED_PROXIES", source)
                    })?,
                },
                listen: raw
                    .stagesub_listen
                    .as_deref()
                    .unwrap_or(DEFAULT_LISTEN)
                    .parse()
                    .map_err(|source: AddrParseError| ConfigError::malformed("STAGESUB_LISTEN", source))?,
                metrics: metrics_listen(raw)?,
                superadmin: superadmin(raw)?,
                shutdown: Duration::from_secs(raw.stagesub_shutdown_secs.unwrap_or(30)),
                follow: Follow { listen: listens(raw)?, ..Follow::default() },
                limits: LimitSettings::from_raw(raw)?,
                connections: ConnectionSettings::from_raw(raw)?,
                moves: MoveSettings::from_raw(raw)?,
            },
        })
    }
}

/// Where figures are given to Prometheus.
pub fn metrics_listen(raw: &RawConfig) -> Result<Option<SocketAddr>, ConfigError> {
    let parse = |text: &str| {
        text.parse()
            .map_err(|source: AddrParseError| ConfigError::malformed("STAGESUB_METRICS_LISTEN", source))
    };
    raw.stagesub_metrics_listen.as_deref().map(parse).transpose()
}

/// Whether the registry's notifications are listened to.
fn listens(raw: &RawConfig) -> Result<bool, ConfigError> {
    match raw.stagesub_registry_listen.as_deref() {
        None | Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(_) => Err(ConfigError::malformed("STAGESUB_REGISTRY_LISTEN", "it is neither on nor off")),
    }
}

/// What every command that works on databases needs.
#[derive(Debug)]
pub struct DatabaseSettings {
    /// The registry.
    pub database_url: ConnectionTarget,
    /// The shared tenant database, when it is not the registry's own.
    pub shared_database_url: Option<ConnectionTarget>,
    /// Seals secrets.
    pub keys: KeyRing,
    /// Sizes of pools.
    pub pools: PoolSizes,
    /// How long transactions of tenants may take and wait.
    pub bounds: Bounds,
    /// How they are shared.
    pub shares: PoolShares,
    /// Whether the lists that are asked for most are read in one message each.
    pub one_message_reads: bool,
    /// What the databases hold on purpose.
    pub expected: Expectations,
    /// Which servers may be named for databases of tenants.
    pub allowed: AllowedHosts,
    /// What a move may have its source keep.
    pub burden: Burden,
}

impl DatabaseSettings {
    /// Checks everything at once.
    pub fn from_raw(raw: &RawConfig) -> Result<Self, ConfigError> {
        let mut missing = Missing::default();
        let database_url = missing.note("DATABASE_URL", raw.database_url.as_ref());
        let keys = missing.note("STAGESUB_KEYS", raw.stagesub_keys.as_ref());
        let (Some(database_url), Some(keys)) = (database_url, keys) else { return Err(missing.into()) };
        Ok(Self {
            database_url: target("DATABASE_URL", database_url)?,
            shared_database_url: optional_target("SHARED_TENANT_DB_URL", raw.shared_tenant_db_url.as_ref())?,
            keys: key_ring(keys)?,
            pools: pool_sizes(raw)?,
            bounds: Bounds::from_raw(raw)?,
            shares: PoolShares::from_raw(raw)?,
            one_message_reads: one_message_reads(raw)?,
            expected: expectations(raw)?,
            allowed: database_hosts(raw)?,
            burden: burden(raw)?,
        })
    }
}

/// Which servers may be named: none, where nothing is said.
pub fn database_hosts(raw: &RawConfig) -> Result<AllowedHosts, ConfigError> {
    let parse = |text: &str| {
        text.parse().map_err(|source: InvalidHosts| ConfigError::malformed("STAGESUB_DATABASE_HOSTS", source))
    };
    raw.stagesub_database_hosts.as_deref().map_or_else(|| Ok(AllowedHosts::default()), parse)
}

/// What `migrate` needs beside: administrators' logins, which are used once and never stored.
#[derive(Debug)]
pub struct MigrateSettings {
    /// What is migrated.
    pub databases: DatabaseSettings,
    /// An administrator on the registry's database.
    pub registry_admin: ConnectionTarget,
    /// An administrator on the shared database, when that is not the registry's own.
    pub shared_admin: Option<ConnectionTarget>,
}

impl MigrateSettings {
    /// Checks everything at once. An administrator who is not named is who the database's own URL names; an
    /// administrator of the registry's server is also the shared database's when both are on one server.
    pub fn from_raw(raw: &RawConfig) -> Result<Self, ConfigError> {
        let databases = DatabaseSettings::from_raw(raw)?;
        let named = optional_target("STAGESUB_ADMIN_DATABASE_URL", raw.stagesub_admin_database_url.as_ref())?;
        let shared_admin = match &databases.shared_database_url {
            None => None,
            Some(shared) => Some(
                match optional_target(
                    "STAGESUB_ADMIN_SHARED_TENANT_DB_URL",
                    raw.stagesub_admin_shared_tenant_db_url.as_ref(),
                )? {
                    Some(admin) => admin,
                    None => match &named {
                        Some(admin) if (admin.host(), admin.port()) == (shared.host(), shared.port()) => {
                            admin.with_database(shared.database())
                        }
                        _ => shared.clone(),
                    },
                },
            ),
        };
        let registry_admin = named.unwrap_or_else(|| databases.database_url.clone());
        Ok(Self { databases, registry_admin, shared_admin })
    }

    /// What storage is asked to do.
    #[must_use]
    pub fn options(&self) -> MigrateOptions {
        let shared = self.databases.shared_database_url.clone().zip(self.shared_admin.clone());
        MigrateOptions {
            shared: shared.map(|(address, admin)| DatabaseTargets { admin, address }),
            ..MigrateOptions::new(DatabaseTargets {
                admin: self.registry_admin.clone(),
                address: self.databases.database_url.clone(),
            })
        }
    }
}

/// The names of what is not set, so that one start tells them all.
#[derive(Debug, Default)]
struct Missing(Vec<&'static str>);

impl Missing {
    fn note<T>(&mut self, variable: &'static str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.0.push(variable);
        }
        value
    }
}

impl From<Missing> for ConfigError {
    fn from(missing: Missing) -> Self {
        Self::Missing(missing.0)
    }
}

fn optional_target(
    variable: &'static str,
    url: Option<&SecretString>,
) -> Result<Option<ConnectionTarget>, ConfigError> {
    url.map(|url| target(variable, url)).transpose()
}

fn target(variable: &'static str, url: &SecretString) -> Result<ConnectionTarget, ConfigError> {
    ConnectionTarget::parse(url.expose_secret()).map_err(|source| ConfigError::malformed(variable, source))
}

fn key_ring(text: &SecretString) -> Result<KeyRing, ConfigError> {
    KeyRing::parse(text.expose_secret()).map_err(|source| ConfigError::malformed("STAGESUB_KEYS", source))
}

fn superadmin(raw: &RawConfig) -> Result<Option<SuperadminSettings>, ConfigError> {
    match (&raw.superadmin_email, &raw.superadmin_password) {
        (Some(email), Some(password)) => {
            Ok(Some(SuperadminSettings { email: email.clone(), password: password.clone() }))
        }
        (None, None) => Ok(None),
        (Some(_), None) => Err(ConfigError::Missing(vec!["SUPERADMIN_PASSWORD"])),
        (None, Some(_)) => Err(ConfigError::Missing(vec!["SUPERADMIN_EMAIL"])),
    }
}

/// Reads the sizes of pools.
pub fn pool_sizes(raw: &RawConfig) -> Result<PoolSizes, ConfigError> {
    let sizes = PoolSizes {
        shared: raw.stagesub_shared_pool_size.unwrap_or(10),
        dedicated: raw.stagesub_dedicated_pool_size.unwrap_or(2),
        dedicated_pools: raw.stagesub_dedicated_pools.unwrap_or(50),
    };
    for (variable, value) in [
        ("STAGESUB_SHARED_POOL_SIZE", u64::from(sizes.shared)),
        ("STAGESUB_DEDICATED_POOL_SIZE", u64::from(sizes.dedicated)),
        ("STAGESUB_DEDICATED_POOLS", sizes.dedicated_pools as u64),
    ] {
        if !(1..=1000).contains(&value) {
            return Err(ConfigError::OutOfRange { variable, value, least: 1, most: 1000 });
        }
    }
    Ok(sizes)
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Variables that must be set are not.
    #[error("not set: {} (each is described in docs/deployment.md)", .0.join(", "))]
    Missing(Vec<&'static str>),
    /// A variable's text is not what it must be. The text itself may be a secret and is left out.
    #[error("{variable} is not usable")]
    Malformed {
        /// Which.
        variable: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A number is out of bounds.
    #[error("{variable} is {value}, but must be {least} to {most}")]
    OutOfRange {
        /// Which.
        variable: &'static str,
        /// What it is.
        value: u64,
        /// Least.
        least: u64,
        /// Most.
        most: u64,
    },
    /// The file cannot be read, or a value is of another kind than it must be. The values themselves may be
    /// secrets and are left out.
    #[error("the configuration cannot be used: {0}")]
    Unreadable(String),
}

impl ConfigError {
    fn malformed(
        variable: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Malformed { variable, source: source.into() }
    }

    /// The library's own texts quote values and lines of the file, which may hold secrets.
    fn unreadable(source: config::ConfigError) -> Self {
        Self::Unreadable(match source {
            config::ConfigError::FileParse { uri, .. } => {
                format!("{} is not valid TOML", uri.as_deref().unwrap_or("the file"))
            }
            config::ConfigError::Type { key, expected, .. } => {
                format!("{} must be {expected}", key.as_deref().unwrap_or("a value"))
            }
            config::ConfigError::At { error, key, .. } => match (Self::unreadable(*error), key) {
                (Self::Unreadable(text), Some(key)) => format!("{key}: {text}"),
                (Self::Unreadable(text), None) => text,
                (other, _) => other.to_string(),
            },
            config::ConfigError::Message(text) if text.starts_with("unknown field") => text,
            config::ConfigError::NotFound(key) => format!("{key} is missing"),
            _ => "the file that STAGESUB_CONFIG names cannot be read, or a value is of the wrong kind"
                .to_owned(),
        })
    }
}

#[cfg(test)]
mod tests;
