//! One copied shared database with two tenants admitted, and the data path over it as storage wires it: real
//! resolver, router and pools, a directory that the test holds in its hand.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chrono::DateTime;
use secrecy::ExposeSecret;
use sqlx::{AssertSqlSafe, PgConnection};
use stagesub_domain::ports::Units;
use stagesub_sabotage as sabotage;
use stagesub_storage::factory::{FactorySettings, LeanPoolFactory, TenantDb};
use stagesub_storage::fence::admit_tenant;
use stagesub_storage::logins::{DatabaseLogins, LoginRole};
use stagesub_storage::pool::TenantPoolSettings;
use stagesub_storage::seal::Sealed;
use stagesub_storage::target::ConnectionTarget;
use stagesub_storage::unit::PgUnitOfWorkFactory;
use stagesub_tenancy::{
    ConfigVersion, DatabaseId, DirectoryError, HostPolicy, Located, Placement, PlacementEpoch, PoolSettings,
    Purpose, Resolver, Router, Subdomain, Tenant, TenantDirectory, TenantId, TenantScope, TenantStatus,
};
use stagesub_tests::cluster::{Cluster, keys};
use stagesub_tests::database::{associated_data, connect, copy, run};
use stagesub_tests::proxy::CutProxy;
use tokio::sync::OnceCell;
use uuid::Uuid;

static NEXT: AtomicU32 = AtomicU32::new(1);
static LOGINS: OnceCell<HashMap<&'static str, ConnectionTarget>> = OnceCell::const_new();

/// The logins that a test may use.
const ROLES: [LoginRole; 3] = [LoginRole::App, LoginRole::Migrator, LoginRole::Mover];

/// Longest that a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(20);

/// A database with the data path over it.
pub(crate) struct Lab {
    /// The administrator's way in, to look and to break things.
    pub(crate) admin: ConnectionTarget,
    /// The application's login.
    pub(crate) app: ConnectionTarget,
    /// The migrator's login.
    pub(crate) migrator: ConnectionTarget,
    /// The mover's login.
    pub(crate) mover: ConnectionTarget,
    /// What the marker says.
    pub(crate) database: DatabaseId,
    /// Where the tenants are said to be.
    pub(crate) directory: Arc<HandHeldDirectory>,
    /// Pools.
    pub(crate) router: Router<LeanPoolFactory>,
    /// Permission for either tenant.
    pub(crate) scopes: [TenantScope; 2],
}

impl Lab {
    /// A database with pools of this many connections, of which one tenant may have them all.
    pub(crate) async fn start(connections: u32) -> Self {
        let pools =
            TenantPoolSettings { max_connections: connections, share: 100, ..TenantPoolSettings::default() };
        Self::start_with(pools).await
    }

    /// A database with such pools.
    pub(crate) async fn start_with(shared: TenantPoolSettings) -> Self {
        let cluster = Cluster::get().await;
        let logins = LOGINS.get_or_init(|| stored_logins(cluster)).await;
        Self::start_on(cluster, logins, shared).await
    }

    /// A database with such pools on a server apart.
    pub(crate) async fn start_apart(cluster: &Cluster, shared: TenantPoolSettings) -> Self {
        Self::start_on(cluster, &stored_logins(cluster).await, shared).await
    }

    async fn start_on(
        cluster: &Cluster,
        logins: &HashMap<&'static str, ConnectionTarget>,
        shared: TenantPoolSettings,
    ) -> Self {
        let name =
            format!("stagesub_test_run{}_lab{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        copy(&mut connect(cluster.admin()).await, cluster.shared_template(), &name).await;
        let admin = cluster.admin().with_database(&name);
        let id = scalar(&mut connect(&admin).await, "SELECT database_id FROM app.marker").await;
        let database = DatabaseId::from_uuid(id);
        let [app, migrator, mover] = ROLES.map(|role| logins[role.as_str()].with_database(&name));

        let directory = Arc::new(HandHeldDirectory::default());
        let tenants = [tenant("AAA", "alfa"), tenant("BBB", "beta")];
        for tenant in &tenants {
            admit_tenant(&migrator, tenant.id, PlacementEpoch(1)).await.expect("a new tenant is admitted");
            directory.put(tenant.clone(), Placement::Shared(database), 1);
        }
        let router = router(&directory, &app, shared);
        let hosts = HostPolicy::new("stagesub.test").expect("a domain");
        let resolver = Resolver::new(directory.clone(), hosts);
        let [a, b] = tenants.map(|tenant| tenant.id);
        let scopes = [grant(&resolver, a).await, grant(&resolver, b).await];
        Self { admin, app, migrator, mover, database, directory, router, scopes }
    }

    /// The same by way of a proxy, over pools of their own.
    pub(crate) fn through(self, proxy: &CutProxy, shared: TenantPoolSettings) -> Self {
        let router = router(&self.directory, &proxy.before(&self.app), shared);
        Self { router, ..self }
    }

    /// What opens pools of these settings.
    pub(crate) fn factory(&self, shared: TenantPoolSettings) -> LeanPoolFactory {
        factory(&self.app, shared)
    }

    /// Begins transactions as an embedder does.
    pub(crate) fn tenants(&self) -> TenantDb {
        TenantDb::new(Arc::new(self.router.clone()))
    }

    /// The same without the clean-up of connections whose owner went away, over pools of their own.
    pub(crate) fn unclean(&self, pools: TenantPoolSettings) -> sabotage::factory::TenantDb {
        let size = sabotage::pool::TenantPoolSettings {
            max_connections: pools.max_connections,
            wait: pools.wait,
            timeouts: sabotage::pool::TxTimeouts {
                lock: pools.timeouts.lock,
                ..sabotage::pool::TxTimeouts::default()
            },
            ..sabotage::pool::TenantPoolSettings::default()
        };
        let factory = sabotage::factory::LeanPoolFactory::new(
            Arc::new(OneLogin(self.app.clone())),
            sabotage::factory::FactorySettings { shared: size, dedicated: size },
        );
        let router = Router::new(self.directory.clone(), Arc::new(factory), PoolSettings::default());
        sabotage::factory::TenantDb::new(Arc::new(router))
    }

    /// Begins units of work as handlers do.
    pub(crate) fn units(&self) -> Units {
        Arc::new(PgUnitOfWorkFactory::new(self.tenants()))
    }

    /// Backends of the application's login in this database for which a condition holds.
    pub(crate) async fn backends(&self, condition: &str) -> i64 {
        scalar(
            &mut connect(&self.admin).await,
            &format!(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND usename = 'stagesub_app' AND ({condition})"
            ),
        )
        .await
    }

    /// Waits until so many backends of the application fulfil a condition.
    pub(crate) async fn until_backends(&self, condition: &str, count: i64) {
        until(condition, async || self.backends(condition).await == count).await;
    }
}

fn router(
    directory: &Arc<HandHeldDirectory>,
    app: &ConnectionTarget,
    shared: TenantPoolSettings,
) -> Router<LeanPoolFactory> {
    Router::new(directory.clone(), Arc::new(factory(app, shared)), PoolSettings::default())
}

fn factory(app: &ConnectionTarget, shared: TenantPoolSettings) -> LeanPoolFactory {
    LeanPoolFactory::new(Arc::new(OneLogin(app.clone())), FactorySettings { shared, dedicated: shared })
}

async fn grant(resolver: &Resolver, tenant: TenantId) -> TenantScope {
    resolver
        .resolve_for(tenant, Purpose::Provisioning, DateTime::UNIX_EPOCH)
        .await
        .expect("the tenant may be served")
}

/// Asks until the answer is yes; fails when that takes too long. Each question is a round trip to the server.
pub(crate) async fn until(what: &str, mut question: impl AsyncFnMut() -> bool) {
    let asked = tokio::time::timeout(PATIENCE, async {
        while !question().await {
            tokio::task::yield_now().await;
        }
    });
    assert!(asked.await.is_ok(), "still not so: {what}");
}

/// One value.
pub(crate) async fn scalar<T>(conn: &mut PgConnection, sql: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(conn)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// SQLSTATE of an error.
pub(crate) fn sqlstate(error: &sqlx::Error) -> String {
    stagesub_storage::error::sqlstate(error).unwrap_or_default().into_owned()
}

fn tenant(code: &str, subdomain: &str) -> Tenant {
    Tenant {
        id: TenantId::from_uuid(Uuid::now_v7()),
        code: code.parse().expect("a code"),
        name: format!("Orkester {code}"),
        subdomain: subdomain.parse().expect("a subdomain"),
        status: TenantStatus::Active,
        trial_ends_at: None,
        subscription_ends_at: None,
        version: ConfigVersion(1),
    }
}

/// The shared database's logins, from a copy of the registry that is thrown away again.
async fn stored_logins(cluster: &Cluster) -> HashMap<&'static str, ConnectionTarget> {
    let template = cluster.admin().with_database(cluster.shared_template());
    let mut marked = connect(&template).await;
    let database: Uuid = scalar(&mut marked, "SELECT database_id FROM app.marker").await;
    // Nobody may be connected to a template that is copied.
    sqlx::Connection::close(marked).await.expect("the connection closes");
    let name = format!("stagesub_test_run{}_logins", std::process::id());
    let mut admin = connect(cluster.admin()).await;
    copy(&mut admin, cluster.registry_template(), &name).await;
    let mut registry = connect(&cluster.admin().with_database(&name)).await;
    let mut logins = HashMap::new();
    for role in ROLES.map(LoginRole::as_str) {
        let stored: String = sqlx::query_scalar(
            "SELECT sealed FROM registry.database_logins WHERE database_id = $1 AND role = $2",
        )
        .bind(database)
        .bind(role)
        .fetch_one(&mut registry)
        .await
        .expect("the registry holds the login");
        let sealed: Sealed = stored.parse().expect("a sealed value");
        let url = keys().open_text(&sealed, &associated_data(database, role, None)).expect("it opens");
        logins.insert(role, ConnectionTarget::parse(url.expose_secret()).expect("a connection string"));
    }
    sqlx::Connection::close(registry).await.expect("the connection closes");
    run(&mut admin, &format!("DROP DATABASE {name}")).await;
    logins
}

/// Knows one login, whatever database is asked for.
pub(crate) struct OneLogin(pub(crate) ConnectionTarget);

#[async_trait]
impl DatabaseLogins for OneLogin {
    async fn find_login(
        &self,
        _: DatabaseId,
        role: LoginRole,
    ) -> Result<Option<ConnectionTarget>, DirectoryError> {
        Ok((role == LoginRole::App).then(|| self.0.clone()))
    }
}

/// A directory whose answers the test sets, with others to come once somebody finds the present one wrong.
#[derive(Default)]
pub(crate) struct HandHeldDirectory {
    known: Mutex<HashMap<TenantId, (Arc<Tenant>, Located)>>,
    fresh: Mutex<HashMap<TenantId, Located>>,
    /// How often an answer turned out to be wrong.
    pub(crate) forgotten: AtomicU32,
}

impl HandHeldDirectory {
    /// Says where a tenant is.
    pub(crate) fn put(&self, tenant: Tenant, placement: Placement, epoch: i64) {
        let located = Located { tenant: tenant.id, placement, epoch: PlacementEpoch(epoch) };
        self.known.lock().unwrap().insert(tenant.id, (Arc::new(tenant), located));
    }

    /// Says where a known tenant is.
    pub(crate) fn place(&self, tenant: TenantId, placement: Placement, epoch: i64) {
        let located = Located { tenant, placement, epoch: PlacementEpoch(epoch) };
        self.known.lock().unwrap().get_mut(&tenant).expect("a known tenant").1 = located;
    }

    /// What will be answered once the present answer is forgotten.
    pub(crate) fn place_when_forgotten(&self, tenant: TenantId, placement: Placement, epoch: i64) {
        let located = Located { tenant, placement, epoch: PlacementEpoch(epoch) };
        self.fresh.lock().unwrap().insert(tenant, located);
    }
}

#[async_trait]
impl TenantDirectory for HandHeldDirectory {
    async fn find_by_subdomain(&self, _: &Subdomain) -> Result<Option<Arc<Tenant>>, DirectoryError> {
        Ok(None)
    }

    async fn find_by_id(&self, id: TenantId) -> Result<Option<Arc<Tenant>>, DirectoryError> {
        Ok(self.known.lock().unwrap().get(&id).map(|(tenant, _)| Arc::clone(tenant)))
    }

    async fn find_placement(&self, id: TenantId) -> Result<Option<Located>, DirectoryError> {
        Ok(self.known.lock().unwrap().get(&id).map(|(_, located)| *located))
    }

    fn forget(&self, id: TenantId) {
        self.forgotten.fetch_add(1, Ordering::Relaxed);
        if let Some(located) = self.fresh.lock().unwrap().remove(&id) {
            self.place(id, located.placement, located.epoch.0);
        }
    }
}
