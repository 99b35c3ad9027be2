//! The composition root: the one place that knows which adapter stands behind which port.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use chrono::{DateTime, Utc};
use stagesub_auth::ports::{AuthorityStore, CredentialStore};
use stagesub_auth::{
    AccessTokens, Authenticator, CachedAuthority, HasherSettings, LoginService, PasswordError,
    PasswordHasher, WeakSecret,
};
use stagesub_domain::actor::Actor;
use stagesub_domain::ports::databases::PlatformDatabases;
use stagesub_domain::ports::registry::{PersonRegistry, TenantDatabases, TenantRegistry};
use stagesub_domain::ports::{HotLists, Units};
use stagesub_domain::service::moves::Moving;
use stagesub_domain::service::people::People;
use stagesub_domain::service::provisioning::recover_provisioning;
use stagesub_domain::service::tenants;
use stagesub_storage::directory::PgTenantDirectory;
use stagesub_storage::doctor::{DoctorError, Expectations, Report};
use stagesub_storage::factory::{FactorySettings, LeanPoolFactory, TenantDb};
use stagesub_storage::logins::{DatabaseLogins, REMEMBERED, RememberedLogins};
use stagesub_storage::migrate::MigrateError;
use stagesub_storage::pool::{BoundsBy, TenantPoolSettings};
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::changes::{PgChangeFeed, PgChangeSignal};
use stagesub_storage::registry::credentials::{PgAuthorityStore, PgCredentialStore};
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_storage::registry::nodes::PgNodeRegistry;
use stagesub_storage::registry::people::PgPersonRegistry;
use stagesub_storage::registry::platform_databases::PgPlatformDatabases;
use stagesub_storage::registry::shared::check_shared;
use stagesub_storage::registry::tenant_databases::PgTenantDatabases;
use stagesub_storage::registry::tenants::PgTenantRegistry;
use stagesub_storage::registry::usage::PgUsageLedger;
use stagesub_storage::repo::PgHotLists;
use stagesub_storage::seal::KeyRing;
use stagesub_storage::target::ConnectionTarget;
use stagesub_storage::unit::PgUnitOfWorkFactory;
use stagesub_tenancy::nodes::Membership;
use stagesub_tenancy::{
    CacheSettings, CachedDirectory, ChangeFollower, ChangeSignal, ChangeSink, DirectoryError, HostPolicy,
    NodeId, NodeRegistry, PoolSettings, Resolver, Router, TenantDirectory, TenantId, UsageLedger, UsageMeter,
    UsageSink,
};
use uuid::Uuid;

use crate::clock::SystemClock;
use crate::config::{DatabaseSettings, PoolShares, PoolSizes, ServingSettings};
use crate::doctor;
use crate::idempotency::{Fingerprints, KeyTurns};
use crate::jobs::changes::Heard;
use crate::jobs::{Jobs, changes, nodes, upkeep, usage};
use crate::limits::Limits;
use crate::metrics::{Metrics, Sources};
use crate::problem::error_chain;
use crate::readiness::Remembered;
use crate::state::{AppState, Invalidate, InvalidatePerson, Parts};

mod answer;
mod fleet;
mod moves;

use answer::DatabasesAnswer;
use moves::Moves;

pub use fleet::Fleet;

/// Everything that works on the platform's databases, connected.
pub struct Platform {
    database_url: ConnectionTarget,
    keys: Arc<KeyRing>,
    expected: Expectations,
    registry: RegistryPools,
    directory: CachedDirectory,
    authority: Arc<CachedAuthority>,
    router: Arc<Router<LeanPoolFactory>>,
    factory: Arc<LeanPoolFactory>,
    logins: Arc<PgDatabaseLogins>,
    resolver: Resolver,
    units: Units,
    hot_lists: Arc<dyn HotLists>,
    tenants: Arc<dyn TenantRegistry>,
    people: Arc<dyn PersonRegistry>,
    databases: Arc<dyn TenantDatabases>,
    known_databases: Arc<dyn PlatformDatabases>,
    credentials: Arc<dyn CredentialStore>,
    passwords: Arc<PasswordHasher>,
    invalidate: Invalidate,
    invalidate_person: InvalidatePerson,
    moves: Moves,
    nodes: Arc<dyn NodeRegistry>,
    usage: Arc<dyn UsageLedger>,
    meter: Arc<UsageMeter>,
    metrics: Metrics,
    heard: Arc<Heard>,
    live: Arc<AtomicU32>,
    sizes: PoolSizes,
    shares: PoolShares,
    /// Longest wait for a request that has the same key.
    key_wait: Duration,
}

impl Platform {
    /// Connects to the registry; tenants' databases are opened when they are first asked for.
    ///
    /// # Errors
    /// [`WiringError`], a sentence for whoever starts the program.
    pub async fn open(databases: DatabaseSettings, hosts: HostPolicy) -> Result<Self, WiringError> {
        let pooled = factory_settings(&databases);
        let keys = Arc::new(databases.keys);
        let registry = RegistryPools::open(&databases.database_url, &keys).await?;
        let passwords = Arc::new(PasswordHasher::new(HasherSettings::default())?);
        let stored: Arc<dyn TenantDirectory> = Arc::new(PgTenantDirectory::new(registry.clone()));
        let directory = CachedDirectory::new(stored, CacheSettings::default());
        let logins = PgDatabaseLogins::new(registry.clone(), Arc::clone(&keys));
        let logins = Arc::new(logins.naming(databases.allowed.clone()));
        let remembered = RememberedLogins::new((*logins).clone(), REMEMBERED);
        let factory = Arc::new(LeanPoolFactory::new(Arc::new(remembered), pooled));
        let cached: Arc<dyn TenantDirectory> = Arc::new(directory.clone());
        let (meter, metrics) = (Arc::new(UsageMeter::new()), Metrics::default());
        let sinks: Vec<Arc<dyn UsageSink>> = vec![Arc::clone(&meter) as _, Arc::new(metrics.clone())];
        let pools = pool_settings(databases.pools);
        let router =
            Router::new(Arc::clone(&cached), Arc::clone(&factory), pools).with_usage(Arc::new(sinks));
        let router = Arc::new(router);
        let invalidated = directory.clone();
        let authority = Arc::new(CachedAuthority::new(Arc::new(PgAuthorityStore::new(registry.clone()))));
        let revoked = Arc::clone(&authority);
        Ok(Self {
            resolver: Resolver::new(cached, hosts),
            units: Arc::new(PgUnitOfWorkFactory::new(
                TenantDb::new(Arc::clone(&router)).with_patience(databases.bounds.patience()),
            )),
            hot_lists: Arc::new(PgHotLists::new(
                TenantDb::new(Arc::clone(&router)).with_patience(databases.bounds.patience()),
                databases.one_message_reads,
            )),
            tenants: Arc::new(PgTenantRegistry::new(registry.clone())),
            people: Arc::new(PgPersonRegistry::new(registry.clone())),
            databases: Arc::new(
                PgTenantDatabases::new(registry.clone(), Arc::clone(&keys))
                    .naming(databases.allowed.clone(), databases.expected.clone()),
            ),
            known_databases: Arc::new(PgPlatformDatabases::new(
                registry.clone(),
                Arc::clone(&keys),
                databases.allowed,
                databases.expected.clone(),
            )),
            credentials: Arc::new(PgCredentialStore::new(registry.clone())),
            authority,
            invalidate: Arc::new(move |tenant: TenantId| invalidated.invalidate(tenant)),
            invalidate_person: Arc::new(move |user: Uuid| revoked.invalidate(&[user])),
            moves: Moves::new(&registry, Arc::clone(&logins) as _, &databases.expected, databases.burden),
            database_url: databases.database_url,
            keys,
            expected: databases.expected,
            nodes: Arc::new(PgNodeRegistry::new(registry.clone())),
            usage: Arc::new(PgUsageLedger::new(registry.clone())),
            meter,
            metrics,
            heard: Arc::default(),
            live: Arc::default(),
            sizes: databases.pools,
            shares: databases.shares,
            key_wait: databases.bounds.timeouts.lock,
            registry,
            directory,
            router,
            factory,
            logins,
            passwords,
        })
    }

    /// Checks that the shared databases are what the registry says they are.
    ///
    /// # Errors
    /// [`WiringError::Registry`], a sentence for whoever starts the server.
    pub async fn check(&self) -> Result<(), WiringError> {
        Ok(check_shared(&self.registry, self.logins.as_ref()).await?)
    }

    /// Looks for holes in every database, within the bounds of a start.
    ///
    /// # Errors
    /// [`DoctorError`]: the registry cannot be examined.
    pub async fn examine(&self) -> Result<Report, DoctorError> {
        doctor::examine(&self.database_url, &self.keys, &self.expected, doctor::AT_START).await
    }

    /// Tenants in the registry.
    #[must_use]
    pub fn tenants(&self) -> &Arc<dyn TenantRegistry> {
        &self.tenants
    }

    /// The platform's databases, for its administrators.
    #[must_use]
    pub fn databases(&self) -> &Arc<dyn PlatformDatabases> {
        &self.known_databases
    }

    /// People in the registry.
    #[must_use]
    pub fn people(&self) -> &Arc<dyn PersonRegistry> {
        &self.people
    }

    /// What use cases on people work with.
    #[must_use]
    pub fn persons(&self) -> People<'_> {
        People { registry: self.people.as_ref(), invalidate: self.invalidate_person.as_ref() }
    }

    /// Hashes passwords.
    #[must_use]
    pub fn passwords(&self) -> &Arc<PasswordHasher> {
        &self.passwords
    }

    /// What use cases on tenants work with.
    #[must_use]
    pub fn tenancy(&self) -> tenants::Platform<'_> {
        tenants::Platform {
            tenants: self.tenants.as_ref(),
            databases: self.databases.as_ref(),
            resolver: &self.resolver,
            units: &self.units,
            invalidate: self.invalidate.as_ref(),
        }
    }

    /// Finishes orchestras whose making a crash cut off. One that cannot be finished now is logged, stays
    /// unserved and is tried again at the next start; it does not keep the others from being served.
    pub async fn recover(&self, now: DateTime<Utc>) {
        match recover_provisioning(&self.tenancy(), &Actor::system(), now).await {
            Ok(recovered) => {
                for one in recovered {
                    match one.outcome {
                        Ok(_) => tracing::info!(tenant = %one.tenant, "finished making an orchestra"),
                        Err(error) => tracing::error!(
                            tenant = %one.tenant, cause = %error_chain(&error),
                            "an orchestra's making could not be finished"
                        ),
                    }
                }
            }
            Err(error) => tracing::error!(
                cause = %error_chain(&error), "unfinished orchestras could not be looked for"
            ),
        }
    }

    /// The registry itself: its locks, and which databases it knows.
    #[must_use]
    pub fn registry(&self) -> &RegistryPools {
        &self.registry
    }

    /// How databases are reached.
    #[must_use]
    pub fn logins(&self) -> &dyn DatabaseLogins {
        self.logins.as_ref()
    }

    /// Where tenants are, as this node remembers it.
    #[must_use]
    pub fn directory(&self) -> Arc<dyn TenantDirectory> {
        Arc::new(self.directory.clone())
    }

    /// What handlers work with.
    ///
    /// # Errors
    /// [`WiringError::WeakSecret`].
    pub fn state(&self, serving: &ServingSettings) -> Result<AppState, WiringError> {
        self.state_resolving(serving, self.resolver.clone())
    }

    /// What handlers work with, where tenants are resolved by another resolver than the platform's own.
    ///
    /// # Errors
    /// [`WiringError::WeakSecret`].
    pub fn state_resolving(
        &self,
        serving: &ServingSettings,
        resolver: Resolver,
    ) -> Result<AppState, WiringError> {
        let app_domain = serving.hosts.app_domain();
        let tokens = Arc::new(AccessTokens::new(&serving.jwt_secret, app_domain)?);
        let authority = Arc::clone(&self.authority) as Arc<dyn AuthorityStore>;
        Ok(AppState::new(Parts {
            units: Arc::clone(&self.units),
            hot_lists: Arc::clone(&self.hot_lists),
            resolver,
            login: LoginService::new(
                Arc::clone(&self.credentials),
                Arc::clone(&self.passwords),
                Arc::clone(&tokens),
            ),
            authenticator: Authenticator::new(tokens, authority),
            passwords: Arc::clone(&self.passwords),
            tenants: Arc::clone(&self.tenants),
            people: Arc::clone(&self.people),
            databases: Arc::clone(&self.databases),
            platform_databases: Arc::clone(&self.known_databases),
            invalidate: Arc::clone(&self.invalidate),
            fingerprints: Fingerprints::new(&serving.jwt_secret),
            // As long as the database would be waited for.
            keys: KeyTurns::new(self.key_wait),
            invalidate_person: Arc::clone(&self.invalidate_person),
            readiness: Arc::new(Remembered::new(DatabasesAnswer {
                registry: self.registry.clone(),
                factory: Arc::clone(&self.factory),
            })),
            clock: Arc::new(SystemClock),
            limits: Arc::new(Limits::new(serving.limits).counted(self.metrics.clone())),
            usage: Arc::clone(&self.usage),
            moves: self.moves.parts(),
            metrics: self.metrics.clone(),
            trusted_proxies: serving.trusted_proxies.clone(),
            app_domain: app_domain.to_owned(),
        }))
    }

    /// Starts what goes on beside requests.
    #[must_use]
    pub fn jobs(&self, serving: &ServingSettings, state: &AppState) -> Jobs {
        let follow = serving.follow;
        let sinks: Vec<Arc<dyn ChangeSink>> = vec![
            Arc::new(self.directory.clone()),
            Arc::clone(&self.authority) as _,
            Arc::clone(&self.router) as _,
        ];
        let follower = ChangeFollower::new(Arc::new(PgChangeFeed::new(&self.registry)), sinks);
        let signal =
            follow.listen.then(|| Box::new(PgChangeSignal::new(&self.registry)) as Box<dyn ChangeSignal>);
        let router = Arc::clone(&self.router);
        let mut jobs = Jobs::default();
        let heard = Arc::clone(&self.heard);
        jobs.start("changes", |stop| changes::follow(follower, follow.period, signal, heard, stop));
        jobs.start("eviction", |stop| upkeep::every(upkeep::EVICTION, move || router.evict_expired(), stop));
        let limits = Arc::clone(&state.limits);
        jobs.start("limits", |stop| upkeep::every(upkeep::FORGETTING, move || limits.forget_idle(), stop));
        let metrics = self.metrics.clone();
        jobs.start("figures", |stop| upkeep::every(upkeep::FIGURES, move || metrics.tidy(), stop));
        let (member, fleet) = (self.membership(), self.fleet());
        let movers = self.moves.movers(member.node(), serving.moves, &self.metrics);
        jobs.start("moves", |stop| movers.drive(stop));
        let (census, registry, counting) = self.moves.counted(&self.metrics);
        jobs.start("census", |stop| census.keep(registry, counting, stop));
        jobs.start("nodes", |stop| nodes::beat(member, fleet, stop));
        let (meter, ledger) = (Arc::clone(&self.meter), Arc::clone(&self.usage));
        jobs.start("usage", |stop| usage::keep(meter, ledger, stop));
        jobs
    }

    /// What a node shares with the others.
    #[must_use]
    pub fn fleet(&self) -> Fleet {
        Fleet {
            router: Arc::clone(&self.router),
            factory: Arc::clone(&self.factory),
            sizes: self.sizes,
            shares: self.shares,
            live: Arc::clone(&self.live),
        }
    }

    /// This node among the others, of which they have not heard yet.
    #[must_use]
    pub fn membership(&self) -> Membership {
        let node = NodeId::from_uuid(Uuid::now_v7());
        Membership::new(Arc::clone(&self.nodes), node, nodes::LEASE, self.fleet().sharing())
    }

    /// Pools of tenants' databases.
    #[must_use]
    pub fn router(&self) -> &Arc<Router<LeanPoolFactory>> {
        &self.router
    }

    /// Where nodes say that they live.
    #[must_use]
    pub fn nodes(&self) -> &Arc<dyn NodeRegistry> {
        &self.nodes
    }

    /// Who used how much, on all nodes.
    #[must_use]
    pub fn usage(&self) -> &Arc<dyn UsageLedger> {
        &self.usage
    }

    /// Adds what this node's tenants used to what all nodes' did; a job does so every few seconds.
    ///
    /// # Errors
    /// As the ledger's; the sums are added the next time.
    pub async fn add_usage(&self) -> Result<(), DirectoryError> {
        usage::add(&self.meter, self.usage.as_ref()).await
    }

    /// How far this node's caches have followed the registry.
    #[must_use]
    pub fn heard(&self) -> &Heard {
        &self.heard
    }

    /// What is counted for Prometheus.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What the figures of the moment are read from.
    #[must_use]
    pub fn sources(&self, state: &AppState, jobs: &Jobs) -> Sources {
        Sources {
            router: Arc::clone(&self.router),
            directory: self.directory.clone(),
            authority: Arc::clone(&self.authority),
            passwords: Arc::clone(&self.passwords),
            limits: Arc::clone(&state.limits),
            heard: Arc::clone(&self.heard),
            live: Arc::clone(&self.live),
            jobs: jobs.running(),
            moves: Arc::clone(&self.moves.census),
        }
    }

    /// What use cases on moves work with.
    #[must_use]
    pub fn moving(&self) -> Moving<'_> {
        self.moves.moving(self.tenants.as_ref(), self.databases.as_ref())
    }

    /// Closes every pool, within `grace`.
    pub async fn close(&self, grace: Duration) {
        let closing = async {
            self.router.shutdown().await;
            self.registry.close().await;
        };
        if tokio::time::timeout(grace, closing).await.is_err() {
            tracing::warn!("connections to databases did not close in time and were cut off");
        }
    }
}

impl fmt::Debug for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Platform").field("router", &self.router).finish_non_exhaustive()
    }
}

fn factory_settings(databases: &DatabaseSettings) -> FactorySettings {
    let (settings, shares) = (databases.bounds.factory_settings(databases.pools), databases.shares);
    // Whoever keeps no statement keeps no first word either.
    let bounds = if databases.one_message_reads { BoundsBy::Session } else { BoundsBy::Transaction };
    let sharing = |share, pool| TenantPoolSettings { share, bounds, ..pool };
    // A database of one's own is shared with nobody.
    FactorySettings {
        shared: sharing(shares.tenant_percent, settings.shared),
        dedicated: sharing(100, settings.dedicated),
    }
}

/// As many connections as all the dedicated pools may hold, each with the one that cancels statements.
fn pool_settings(sizes: PoolSizes) -> PoolSettings {
    let pools = u32::try_from(sizes.dedicated_pools).unwrap_or(u32::MAX);
    PoolSettings {
        capacity: sizes.dedicated_pools,
        connection_budget: pools.saturating_mul(sizes.dedicated.saturating_add(1)),
        ..PoolSettings::default()
    }
}

/// The platform's databases or secrets cannot be worked with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WiringError {
    /// The registry cannot be used; the text says what to do.
    #[error(transparent)]
    Registry(#[from] MigrateError),
    /// The signing secret is too short.
    #[error(transparent)]
    WeakSecret(#[from] WeakSecret),
    /// Passwords cannot be hashed on this machine.
    #[error("passwords cannot be hashed on this machine")]
    Passwords(#[from] PasswordError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_fits_every_dedicated_pool_at_its_size() {
        let settings = pool_settings(PoolSizes { shared: 10, dedicated: 2, dedicated_pools: 50 });
        assert_eq!((settings.capacity, settings.connection_budget), (50, 150));
    }
}
