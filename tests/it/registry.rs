//! Setting databases up, and the registry's adapters, on servers that each test has for itself: the
//! platform's roles belong to a whole server.

use std::sync::Arc;

use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use stagesub_storage::embedded::{Cluster, ClusterOptions};
use stagesub_storage::migrate::{MigrateError, MigrateOptions, MigrateReport, migrate};
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::seal::KeyRing;
use stagesub_storage::target::ConnectionTarget;

mod adapters;
mod changes;
mod dedicated;
mod grants;
mod opening;
mod setup;

/// A server, and the keys of the installation on it.
pub(crate) struct Server {
    cluster: Cluster,
    pub(crate) keys: Arc<KeyRing>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::on(Cluster::start(ClusterOptions::throwaway()).await.unwrap())
    }

    pub(crate) fn on(cluster: Cluster) -> Self {
        Self { cluster, keys: Arc::new(KeyRing::generate("test")) }
    }

    /// The superuser's connection string on a database.
    pub(crate) fn admin(&self, database: &str) -> ConnectionTarget {
        self.cluster.admin().with_database(database)
    }

    pub(crate) async fn create(&self, database: &str) -> ConnectionTarget {
        self.run("postgres", &format!("CREATE DATABASE {database}")).await;
        self.admin(database)
    }

    pub(crate) async fn connect(&self, database: &str) -> PgConnection {
        connect(&self.admin(database)).await
    }

    pub(crate) async fn run(&self, database: &str, sql: &str) {
        let mut conn = self.connect(database).await;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
    }

    pub(crate) async fn texts(&self, database: &str, sql: &str) -> Vec<String> {
        let mut conn = self.connect(database).await;
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&mut conn).await.unwrap()
    }

    /// A registry `reg` and a shared database `shr`, set up.
    pub(crate) async fn installed() -> Self {
        let server = Self::start().await;
        server.create("reg").await;
        server.create("shr").await;
        server.migrate(&server.options()).await.unwrap();
        server
    }

    pub(crate) fn options(&self) -> MigrateOptions {
        let mut options = MigrateOptions::new(self.admin("reg"));
        options.shared = Some(self.admin("shr").into());
        options
    }

    pub(crate) async fn migrate(&self, options: &MigrateOptions) -> Result<MigrateReport, MigrateError> {
        migrate(options, &self.keys).await
    }

    pub(crate) async fn open(&self) -> RegistryPools {
        RegistryPools::open(&self.admin("reg"), &self.keys).await.unwrap()
    }

    /// The superuser's address with another login.
    pub(crate) fn login(&self, database: &str, user: &str, password: &str) -> ConnectionTarget {
        self.admin(database).with_user(user, SecretString::from(password))
    }
}

pub(crate) async fn connect(target: &ConnectionTarget) -> PgConnection {
    PgConnection::connect_with(&target.to_connect_options()).await.unwrap()
}

/// The SQLSTATE of a statement that has to fail.
pub(crate) async fn refusal(target: &ConnectionTarget, sql: &str) -> String {
    let mut conn = connect(target).await;
    let error = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.unwrap_err();
    error.as_database_error().and_then(|error| error.code().map(Into::into)).unwrap()
}

/// When things happen here.
pub(crate) fn now() -> chrono::DateTime<chrono::Utc> {
    adapters::now()
}

/// An entry of the platform's log, as use cases write them.
pub(crate) fn audit_entry() -> stagesub_domain::audit::AuditEntry {
    adapters::entry(stagesub_domain::audit::AuditAction::Create)
}
