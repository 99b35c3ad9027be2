//! A service of somebody's own on one Postgres: set up, wired and followed, in as few lines as can be.
//!
//! [`ServiceOptions::open`] does what a platform does by hand: it makes roles, logins and the schemas `registry` and
//! `app`, runs the service's own migrations as the owner, puts every table that they made behind the fence, asks the
//! doctor, and wires directory, resolver, pools and the following of changes. Each of these is public by itself, in
//! this crate or in `stagesub-tenancy`, for a service that outgrows this.
//!
//! ```no_run
//! use stagesub_storage::seal::KeyRing;
//! use stagesub_storage::service::Service;
//! use stagesub_storage::target::ConnectionTarget;
//! use stagesub_tenancy::Access;
//!
//! async fn notes(database: ConnectionTarget, keys: KeyRing) -> Result<i64, Box<dyn std::error::Error>> {
//!     let migrations = sqlx::migrate::Migrator::new(std::path::Path::new("migrations")).await?;
//!     let service = Service::open(database, keys, "notes.example", "notes", migrations).await?;
//!     let choir = service.ensure_tenant("ALT", "alto", "Alto").await?;
//!
//!     let mut tx = service.db().begin(&service.scope(choir).await?, Access::Read).await?;
//!     let count = sqlx::query_scalar("SELECT count(*) FROM notes.note").fetch_one(&mut tx).await?;
//!     tx.commit().await?;
//!     Ok(count)
//! }
//! ```
//!
//! # Invariants
//! - No service opens on a hole: what the doctor finds is an error, with the SQL that mends it.
//! - The administrator's connection is used while it is set up, and requests are never served with it.
//! - Tables of the service's schema are tenant tables unless it lists them, also those of its next migration.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::migrate::Migrator;
use stagesub_tenancy::subdomain::InvalidSubdomain;
use stagesub_tenancy::tenant::InvalidTenantCode;
use stagesub_tenancy::{
    CacheSettings, CachedDirectory, ChangeFollower, Clock, DatabaseId, DirectoryError, HostPolicy,
    InvalidAppDomain, PoolSettings, Purpose, ResolveError, Resolver, Router, TenantId, TenantScope,
    UsageSink,
};
use tokio::task::JoinHandle;

use crate::adopt::{AdoptError, Adoption, adopt};
use crate::catalogue::TableName;
use crate::directory::PgTenantDirectory;
use crate::doctor::{Bounds, DoctorError, Finding, examine_platform};
use crate::factory::{FactorySettings, LeanPoolFactory, TenantDb};
use crate::logins::{DatabaseLogins, LoginRole, REMEMBERED, RememberedLogins};
use crate::marker::DatabaseKind;
use crate::migrate::session::{Gate, connect};
use crate::migrate::{DatabaseTargets, MigrateError, MigrateOptions, migrate};
use crate::prove::DatabaseProof;
use crate::registry::RegistryPools;
use crate::registry::changes::PgChangeFeed;
use crate::registry::logins::PgDatabaseLogins;
use crate::registry::roster::{Roster, RosterError, TenantEntry};
use crate::registry::shared::check_shared;
use crate::seal::KeyRing;
use crate::target::ConnectionTarget;

/// How often a node asks what changed, and closes pools whose time is up.
const FOLLOW: Duration = Duration::from_secs(1);
/// Longest name of a schema: a table of schema `app` is called after it.
const LONGEST_SCHEMA: usize = 40;
/// Tells the gate of a service's own migrations apart from the platform's.
const OWN_MIGRATIONS: i64 = 1;

/// What a service is made of.
pub struct ServiceOptions {
    database: DatabaseTargets,
    keys: Arc<KeyRing>,
    hosts: HostPolicy,
    schema: Option<(String, Migrator)>,
    reference: Vec<String>,
    pools: FactorySettings,
    pool_cache: PoolSettings,
    usage: Option<Arc<dyn UsageSink>>,
}

impl fmt::Debug for ServiceOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { database, hosts, schema, reference, pools, pool_cache, .. } = self;
        f.debug_struct("ServiceOptions")
            .field("database", database)
            .field("hosts", hosts)
            .field("schema", &schema.as_ref().map(|(name, _)| name))
            .field("reference", reference)
            .field("pools", pools)
            .field("pool_cache", pool_cache)
            .finish_non_exhaustive()
    }
}

impl ServiceOptions {
    /// A service whose tenants are the subdomains of `domain`. `database` is an administrator's connection on a database
    /// that is its own; `keys` seals the logins that are made there, and is needed again at every start.
    ///
    /// # Errors
    /// [`InvalidAppDomain`].
    pub fn new(
        database: impl Into<DatabaseTargets>,
        keys: KeyRing,
        domain: &str,
    ) -> Result<Self, InvalidAppDomain> {
        Ok(Self {
            database: database.into(),
            keys: Arc::new(keys),
            hosts: HostPolicy::new(domain)?,
            schema: None,
            reference: Vec::new(),
            pools: FactorySettings::default(),
            pool_cache: PoolSettings::default(),
            usage: None,
        })
    }

    /// The schema that its tables are in, and the migrations that make them. The schema itself is made before the
    /// first of them; each runs as the owner and names the schema with every table.
    #[must_use]
    pub fn schema(mut self, name: &str, migrations: Migrator) -> Self {
        self.schema = Some((name.to_owned(), migrations));
        self
    }

    /// A table of the schema that belongs to no tenant: it can be read by all, and is written by migrations.
    #[must_use]
    pub fn reference_table(mut self, name: &str) -> Self {
        self.reference.push(name.to_owned());
        self
    }

    /// Sizes and bounds of the pools.
    #[must_use]
    pub fn pools(mut self, settings: FactorySettings) -> Self {
        self.pools = settings;
        self
    }

    /// How many pools of dedicated databases are kept and for how long, how many connections they may hold together, how
    /// long is waited for those and for a pool to open, and when a failing database is left alone. Where the budget is used
    /// up a transaction waits, and then does not begin ([`BeginError`](stagesub_tenancy::BeginError)). Each node has that budget for itself: where several nodes serve, give each its part of
    /// what the servers have room for.
    #[must_use]
    pub const fn pool_cache(mut self, settings: PoolSettings) -> Self {
        self.pool_cache = settings;
        self
    }

    /// Who hears what every transaction used, tenant by tenant: how long it waited for its connection, its time in the
    /// database, its statements and rows.
    #[must_use]
    pub fn usage(mut self, sink: Arc<dyn UsageSink>) -> Self {
        self.usage = Some(sink);
        self
    }

    /// Sets the database up and connects: [`ServiceOptions::set_up`], then [`ServiceOptions::connect`].
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn open(self) -> Result<Service, ServiceError> {
        self.set_up().await?;
        self.connect().await
    }

    /// Brings the database, and every other that the registry knows, to this program's schema and the service's own.
    /// It may run any number of times, and runs at each upgrade.
    ///
    /// # Errors
    /// [`ServiceError`]. What was done until then stays, and the next run goes on from there; the service's own
    /// migrations are each done or not.
    pub async fn set_up(&self) -> Result<(), ServiceError> {
        let report = migrate(&MigrateOptions::new(self.database.clone()), &self.keys).await?;
        for database in report.databases {
            database.outcome?;
        }
        let Some((schema, migrations)) = &self.schema else { return Ok(()) };
        refuse_name(schema)?;
        let registry = RegistryPools::open(&self.database.address, &self.keys).await?;
        let logins = PgDatabaseLogins::new(registry.clone(), Arc::clone(&self.keys));
        for database in registry.list_databases().await? {
            if database.kind != DatabaseKind::Registry {
                let (id, role) = (database.id, LoginRole::Migrator);
                let login = logins.find_login(id, role).await?;
                let login = login.ok_or(MigrateError::NoLogin { database: id, role })?;
                self.make_tables(&login, schema, migrations).await?;
            }
        }
        registry.close().await;
        Ok(())
    }

    /// The service's own schema and tables in one database, and the fence around them.
    async fn make_tables(
        &self,
        migrator: &ConnectionTarget,
        schema: &str,
        migrations: &Migrator,
    ) -> Result<(), ServiceError> {
        let gate = Gate::enter(migrator, OWN_MIGRATIONS).await?;
        let target = migrator.describe();
        let mut conn =
            connect(migrator).await.map_err(|source| MigrateError::Unreachable { target, source })?;
        let failed = |source| ServiceError::Schema { schema: schema.to_owned(), source };
        run(&mut conn, "SET ROLE stagesub_owner").await.map_err(failed)?;
        run(&mut conn, &format!("CREATE SCHEMA IF NOT EXISTS {schema}")).await.map_err(failed)?;
        let mut own = Migrator::with_migrations(migrations.iter().cloned().collect());
        own.dangerous_set_table_name(format!("app.migrations_{schema}"));
        own.run_direct(None, &mut conn, false)
            .await
            .map_err(|source| ServiceError::Migration { schema: schema.to_owned(), source })?;
        adopt(&mut conn, &self.adoption(schema)).await?;
        sqlx::Connection::close(conn).await.map_err(failed)?;
        gate.leave().await?;
        Ok(())
    }

    fn adoption(&self, schema: &str) -> Adoption {
        self.reference.iter().fold(Adoption::of(schema), |all, name| all.reference_table(name))
    }

    /// Connects to a database that is set up, asks the doctor and begins to follow what changes.
    ///
    /// # Errors
    /// [`ServiceError`]; [`ServiceError::Hole`] when isolation does not stand.
    pub async fn connect(self) -> Result<Service, ServiceError> {
        let Self { database, keys, hosts, schema, reference, pools, pool_cache, usage } = self;
        refuse_budget(&pools, &pool_cache)?;
        let adoption = schema.as_ref().map(|(name, _)| {
            reference.iter().fold(Adoption::of(name), |all, table| all.reference_table(table))
        });
        let expected = adoption.map(|adoption| adoption.expectations()).unwrap_or_default();
        let registry = RegistryPools::open(&database.address, &keys).await?;
        let logins = PgDatabaseLogins::new(registry.clone(), Arc::clone(&keys));
        check_shared(&registry, &logins).await?;
        let report = examine_platform(&database.address, &keys, &expected, Bounds::default()).await?;
        if let Some(hole) = report.first_hole() {
            return Err(ServiceError::Hole(Box::new(hole.clone())));
        }
        let stored = Arc::new(PgTenantDirectory::new(registry.clone()));
        let directory = CachedDirectory::new(stored, CacheSettings::default());
        let remembered = RememberedLogins::new(logins.clone(), REMEMBERED);
        let factory = Arc::new(LeanPoolFactory::new(Arc::new(remembered), pools));
        let router = Router::new(Arc::new(directory.clone()), factory, pool_cache);
        let router = Arc::new(match usage {
            Some(sink) => router.with_usage(sink),
            None => router,
        });
        let follower = ChangeFollower::new(
            Arc::new(PgChangeFeed::new(&registry)),
            vec![Arc::new(directory.clone()), Arc::clone(&router) as _],
        );
        let schema = schema.map(|(name, _)| name);
        Ok(Service {
            resolver: Resolver::new(Arc::new(directory.clone()), hosts),
            roster: Roster::new(registry.clone(), logins.clone()),
            following: tokio::spawn(follow(follower, Arc::clone(&router))),
            data: schema.map(|schema| Data { schema, reference }),
            registry,
            logins,
            directory,
            router,
        })
    }
}

/// A schema of tenant data.
#[derive(Debug)]
struct Data {
    schema: String,
    reference: Vec<String>,
}

/// A service that is set up and connected.
///
/// Call [`Service::close`]. One that is dropped stops following changes, and its connections close by themselves.
#[derive(Debug)]
pub struct Service {
    registry: RegistryPools,
    logins: PgDatabaseLogins,
    directory: CachedDirectory,
    router: Arc<Router<LeanPoolFactory>>,
    resolver: Resolver,
    roster: Roster,
    data: Option<Data>,
    following: JoinHandle<()>,
}

impl Service {
    /// Sets up and opens a service with everything else as it is by default: [`ServiceOptions::open`].
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn open(
        database: ConnectionTarget,
        keys: KeyRing,
        domain: &str,
        schema: &str,
        migrations: Migrator,
    ) -> Result<Self, ServiceError> {
        ServiceOptions::new(database, keys, domain)?.schema(schema, migrations).open().await
    }

    /// Begins tenant transactions: what handlers hold. Clones share their connections.
    #[must_use]
    pub fn db(&self) -> TenantDb {
        TenantDb::new(Arc::clone(&self.router))
    }

    /// What its transactions are routed by: to look at its pools, and to change their budget of connections.
    #[must_use]
    pub fn router(&self) -> &Router<LeanPoolFactory> {
        &self.router
    }

    /// From a host to a scope: what the layer around the routes works with.
    #[must_use]
    pub fn resolver(&self) -> Resolver {
        self.resolver.clone()
    }

    /// The machine's clock, for the layer.
    #[must_use]
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SystemClock)
    }

    /// A tenant's scope for work that no request asked for.
    ///
    /// # Errors
    /// [`ResolveError`]: there is no such tenant, or it is locked.
    pub async fn scope(&self, tenant: TenantId) -> Result<TenantScope, ResolveError> {
        self.resolver.resolve_for(tenant, Purpose::Job, SystemClock.now()).await
    }

    /// Makes the tenant, or finds it as it was made before. The code is for its ids, the subdomain for its host.
    ///
    /// # Errors
    /// [`ServiceError`]; [`RosterError::Taken`] in it when somebody else has one of them.
    pub async fn ensure_tenant(
        &self,
        code: &str,
        subdomain: &str,
        name: &str,
    ) -> Result<TenantId, ServiceError> {
        let entry = TenantEntry { code: code.parse()?, subdomain: subdomain.parse()?, name: name.to_owned() };
        let id = self.roster.ensure(&entry).await?;
        self.directory.invalidate(id);
        Ok(id)
    }

    /// Its tenants in the registry: to lock and unlock them.
    #[must_use]
    pub const fn roster(&self) -> &Roster {
        &self.roster
    }

    /// An attack on the service's own tables by one tenant on another, as it would be made by code that forgot every
    /// rule. Both need rows, and are to be made for this alone.
    ///
    /// # Errors
    /// [`ServiceError`]: there is no shared database, or nothing knows its login.
    pub async fn proof(&self, attacker: TenantId, victim: TenantId) -> Result<DatabaseProof, ServiceError> {
        let shared = self.registry.list_databases().await?;
        let shared = shared.into_iter().find(|database| database.kind == DatabaseKind::Shared);
        let database = shared.ok_or(MigrateError::NoShared)?.id;
        let proof = DatabaseProof::new(self.login(database, LoginRole::App).await?, attacker, victim)
            .owner(self.login(database, LoginRole::Migrator).await?);
        Ok(match &self.data {
            None => proof,
            Some(data) => {
                let name = |name: &String| TableName { schema: data.schema.clone(), name: name.clone() };
                proof.schemas([data.schema.as_str()]).reference_tables(data.reference.iter().map(name))
            }
        })
    }

    async fn login(&self, database: DatabaseId, role: LoginRole) -> Result<ConnectionTarget, ServiceError> {
        let login = self.logins.find_login(database, role).await?;
        Ok(login.ok_or(MigrateError::NoLogin { database, role })?)
    }

    /// Closes every connection, waiting for transactions in progress.
    pub async fn close(self) {
        self.following.abort();
        self.router.shutdown().await;
        self.registry.close().await;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one clock of services that bring none")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// Keeps what is remembered true, and closes pools whose time is up. A registry that is away is logged once when it goes
/// and once when it is back.
async fn follow(mut follower: ChangeFollower, router: Arc<Router<LeanPoolFactory>>) {
    let mut turn = tokio::time::interval(FOLLOW);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut away = false;
    loop {
        turn.tick().await;
        match follower.poll_once().await {
            Ok(version) if away => {
                tracing::info!(version = version.0, "the registry's changes are followed again");
                away = false;
            }
            Ok(_) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                if away {
                    tracing::debug!(error, "the registry is still away");
                } else {
                    tracing::warn!(error, "what changed in the registry is not known");
                    away = true;
                }
            }
        }
        router.evict_expired();
    }
}

/// A name that needs no quotes anywhere, and is nobody else's.
fn refuse_name(schema: &str) -> Result<(), ServiceError> {
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let plain = schema.bytes().all(letters) && schema.starts_with(|first: char| first.is_ascii_lowercase());
    let others = ["app", "registry", "tenant", "public", "information_schema"];
    if plain && schema.len() <= LONGEST_SCHEMA && !schema.starts_with("pg_") && !others.contains(&schema) {
        Ok(())
    } else {
        Err(ServiceError::SchemaName { schema: schema.to_owned() })
    }
}

async fn run(conn: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    // Literals, and a name of plain letters.
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(conn).await?;
    Ok(())
}

/// A service cannot be set up, opened or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The schema's name needs quotes, or is somebody else's.
    #[error(
        "a service's schema is called by a word of a-z, 0-9 and _, at most {LONGEST_SCHEMA} of them, that is not taken, and not {schema}"
    )]
    SchemaName {
        /// The name.
        schema: String,
    },
    /// No pool of a dedicated database would ever be opened.
    #[error(
        "a pool of a dedicated database takes {wanted} connections, one of them to cancel by, and all of them may take {budget}: \
         raise `connection_budget`, or lower `max_connections` of the dedicated pools"
    )]
    Budget {
        /// What one pool takes.
        wanted: u32,
        /// What all of them may take.
        budget: u32,
    },
    /// The text is no domain.
    #[error(transparent)]
    Domain(#[from] InvalidAppDomain),
    /// The platform's part could not be set up or opened; the text says what to do.
    #[error(transparent)]
    Platform(#[from] MigrateError),
    /// The service's schema could not be made.
    #[error("the schema {schema} could not be made")]
    Schema {
        /// Which.
        schema: String,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// A migration of the service's own failed.
    #[error("a migration of the schema {schema} failed")]
    Migration {
        /// Which schema.
        schema: String,
        /// Which migration, and why.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// Its tables cannot be put behind the fence.
    #[error("the service's tables cannot be put behind the fence")]
    Fence(#[from] AdoptError),
    /// The databases could not be examined.
    #[error(transparent)]
    Doctor(#[from] DoctorError),
    /// Isolation does not stand.
    #[error("{0}\n{mend}", mend = .0.mend)]
    Hole(Box<Finding>),
    /// The registry does not answer.
    #[error("the registry cannot be asked")]
    Registry(#[from] DirectoryError),
    /// A tenant was not made.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// The text is no code.
    #[error(transparent)]
    Code(#[from] InvalidTenantCode),
    /// The text is no subdomain.
    #[error(transparent)]
    Subdomain(#[from] InvalidSubdomain),
}

/// One pool fits in what there is for all of them, if there is to be any.
fn refuse_budget(pools: &FactorySettings, all: &PoolSettings) -> Result<(), ServiceError> {
    let (wanted, budget) = (pools.dedicated.connections_held(), all.connection_budget);
    if budget > 0 && wanted > budget { Err(ServiceError::Budget { wanted, budget }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::TenantPoolSettings;

    #[test]
    fn a_pool_fits_in_the_budget() {
        let pools = |max_connections| FactorySettings {
            dedicated: TenantPoolSettings { max_connections, ..TenantPoolSettings::default() },
            ..FactorySettings::default()
        };
        let all = PoolSettings { connection_budget: 50, ..PoolSettings::default() };
        assert!(refuse_budget(&pools(49), &all).is_ok());
        let none = PoolSettings { connection_budget: 0, ..PoolSettings::default() };
        assert!(refuse_budget(&pools(50), &none).is_ok(), "it has no tenant in a database of its own");
        let refused = refuse_budget(&pools(50), &all).map_err(|error| error.to_string());
        assert!(
            refused.is_err_and(|text| text.contains("takes 51 connections") && text.contains("may take 50"))
        );
    }

    #[test]
    fn a_schemas_name_is_a_plain_word_of_its_own() {
        for name in ["helpdesk", "a", "rentals_2", &"a".repeat(40)] {
            assert!(refuse_name(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "app",
            "public",
            "tenant",
            "pg_desk",
            "Desk",
            "2desk",
            "de\"sk",
            "de sk",
            "désk",
            &"a".repeat(41),
        ] {
            assert!(matches!(refuse_name(name), Err(ServiceError::SchemaName { .. })), "{name}");
        }
    }
}
