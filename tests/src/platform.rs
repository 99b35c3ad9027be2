//! One platform with databases of its own: what a test starts with.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use stagesub_domain::actor::Actor;
use stagesub_domain::audit::{AuditAction, AuditEntry};
use stagesub_domain::ports::Units;
use stagesub_domain::ports::registry::NewMember;
use stagesub_domain::role::Role;
use stagesub_server::bootstrap::ensure_superadmin;
use stagesub_server::config::{
    Bounds, ConnectionSettings, DatabaseSettings, LimitSettings, MoveSettings, PoolShares, PoolSizes,
    ServingSettings, SuperadminSettings,
};
use stagesub_server::jobs::Jobs;
use stagesub_server::jobs::changes::Follow;
use stagesub_server::routes::build_router;
use stagesub_server::state::AppState;
use stagesub_server::wiring::Platform;
use stagesub_storage::databases::AllowedHosts;
use stagesub_storage::doctor::Expectations;
use stagesub_storage::moves::plane::Burden;
use stagesub_storage::target::ConnectionTarget;
use stagesub_tenancy::{Addressed, HostPolicy, TenantId, TenantScope};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::client::Client;
use crate::cluster::{Cluster, keys};
use crate::database::{AuditRow, connect, copy, point_at_copies};
use crate::orchestra::{Kept, Member, Orchestra, PASSWORD, sign_in};
use crate::proxy::CutProxy;

const SUPERADMIN: &str = "ceo@stagesub.test";
const SUPERADMIN_PASSWORD: &str = "en dirigent utan taktpinne";

/// Numbers the databases of this process.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// A platform as `serve` wires it, on a registry and a shared database that nobody else uses.
pub struct TestPlatform {
    wired: Platform,
    state: AppState,
    serving: ServingSettings,
    client: Client,
    superadmin: OnceCell<Client>,
    registry: ConnectionTarget,
    orchestras: AtomicU32,
    /// The node's background jobs; they end with the test's runtime.
    _jobs: Jobs,
}

impl std::fmt::Debug for TestPlatform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestPlatform").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl TestPlatform {
    /// The domain its orchestras are served under.
    pub const DOMAIN: &str = "stagesub.test";

    /// What its access tokens are signed with; another process that has it takes them.
    pub const JWT_SECRET: &str = "a secret of the tests, long enough to sign with";

    /// A platform that trusts no proxy.
    pub async fn start() -> Self {
        Self::start_with("", PoolSizes { shared: 10, dedicated: 2, dedicated_pools: 50 }).await
    }

    /// A platform on a server of the test's own.
    pub async fn start_apart(cluster: &Cluster) -> Self {
        let pools = PoolSizes { shared: 10, dedicated: 2, dedicated_pools: 50 };
        Self::start_on(fresh_databases_on(cluster).await, "", pools, Bounds::default()).await
    }

    /// A platform behind proxies with these addresses.
    pub async fn start_behind(proxies: &str) -> Self {
        Self::start_with(proxies, PoolSizes { shared: 10, dedicated: 2, dedicated_pools: 50 }).await
    }

    /// A platform behind proxies with these addresses, which may be asked only so often. The others may be asked
    /// as often as a test likes.
    pub async fn start_limited(proxies: &str, limits: LimitSettings) -> Self {
        Self::start_limited_within(proxies, limits, Bounds::default()).await
    }

    /// The same, with other bounds of transactions.
    pub async fn start_limited_within(proxies: &str, limits: LimitSettings, bounds: Bounds) -> Self {
        let pools = PoolSizes { shared: 10, dedicated: 2, dedicated_pools: 50 };
        let serving = ServingSettings { limits, ..serving(proxies, Follow::default()) };
        Self::start_as(settings(&fresh_databases().await, pools, bounds), serving).await
    }

    /// A platform whose own node drives moves.
    pub async fn start_moving() -> Self {
        let pools = PoolSizes { shared: 10, dedicated: 2, dedicated_pools: 50 };
        let serving = ServingSettings { moves: MoveSettings::default(), ..serving("", Follow::default()) };
        Self::start_as(settings(&fresh_databases().await, pools, Bounds::default()), serving).await
    }

    /// A platform that shares its pools and its time in another way. It counts requests as the product does, and nobody
    /// meets a limit.
    pub async fn start_sharing(shares: PoolShares, tenant_requests_at_once: Option<NonZeroU32>) -> Self {
        const UNMET: Option<NonZeroU32> = NonZeroU32::new(u32::MAX);
        let pools = PoolSizes { shared: 10, dedicated: 2, dedicated_pools: 50 };
        let settings = settings(&fresh_databases().await, pools, Bounds::default());
        let limits = LimitSettings {
            tenant_requests_at_once,
            requests_per_address: UNMET,
            requests_per_tenant: UNMET,
            ..LimitSettings::off()
        };
        let serving = ServingSettings { limits, ..serving("", Follow::default()) };
        Self::start_as(DatabaseSettings { shares, ..settings }, serving).await
    }

    /// A platform whose transactions have these bounds.
    pub async fn start_bounded(bounds: Bounds) -> Self {
        let pools = PoolSizes { shared: 10, dedicated: 2, dedicated_pools: 50 };
        Self::start_on(fresh_databases().await, "", pools, bounds).await
    }

    /// A platform that reaches its databases through [`CutProxy`] wherever `roles` do.
    pub async fn start_behind_proxy(proxy: &CutProxy, roles: &[&str]) -> Self {
        let registry = fresh_databases().await;
        proxy.stand_before(&registry, roles).await;
        let pools = PoolSizes { shared: 10, dedicated: 2, dedicated_pools: 50 };
        Self::start_on(registry, "", pools, Bounds::default()).await
    }

    /// A platform on a registry that somebody made, and on the databases that it names.
    pub async fn start_at(registry: ConnectionTarget) -> Self {
        let pools = PoolSizes { shared: 10, dedicated: 2, dedicated_pools: 50 };
        Self::start_on(registry, "", pools, Bounds::default()).await
    }

    /// A platform with pools of these sizes.
    pub async fn start_with_pools(pools: PoolSizes) -> Self {
        Self::start_with("", pools).await
    }

    /// A platform whose own node has no part in what the nodes share, and hears of no changes.
    pub async fn start_without_jobs() -> Self {
        let pools = PoolSizes { shared: 10, dedicated: 2, dedicated_pools: 50 };
        let settings = settings(&fresh_databases().await, pools, Bounds::default());
        let (registry, serving) = (settings.database_url.clone(), serving("", Follow::default()));
        let (wired, state) = open_idle(settings, &serving).await;
        Self::of(wired, state, serving, registry, Jobs::default())
    }

    /// Closes the pools of the platform's own node, which serves nobody after that.
    pub async fn close_pools(&self) {
        self.wired.router().shutdown().await;
    }

    async fn start_with(proxies: &str, pools: PoolSizes) -> Self {
        Self::start_on(fresh_databases().await, proxies, pools, Bounds::default()).await
    }

    async fn start_on(registry: ConnectionTarget, proxies: &str, pools: PoolSizes, bounds: Bounds) -> Self {
        Self::start_as(settings(&registry, pools, bounds), serving(proxies, Follow::default())).await
    }

    async fn start_as(settings: DatabaseSettings, serving: ServingSettings) -> Self {
        let registry = settings.database_url.clone();
        let (wired, state, jobs) = open(settings, &serving).await;
        Self::of(wired, state, serving, registry, jobs)
    }

    fn of(
        wired: Platform,
        state: AppState,
        serving: ServingSettings,
        registry: ConnectionTarget,
        jobs: Jobs,
    ) -> Self {
        let client = Client::new(build_router(state.clone()), Self::DOMAIN);
        Self {
            wired,
            state,
            serving,
            client,
            superadmin: OnceCell::new(),
            registry,
            orchestras: AtomicU32::new(1),
            _jobs: jobs,
        }
    }

    /// The adapters behind the ports, as the composition root made them.
    #[must_use]
    pub fn wired(&self) -> &Platform {
        &self.wired
    }

    /// What handlers work with.
    #[must_use]
    pub fn state(&self) -> &AppState {
        &self.state
    }

    /// How requests are served.
    #[must_use]
    pub fn serving(&self) -> &ServingSettings {
        &self.serving
    }

    /// The platform's time.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.state.now()
    }

    /// A client of the apex host that is not signed in.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The host of a subdomain.
    #[must_use]
    pub fn host(&self, subdomain: &str) -> String {
        format!("{subdomain}.{}", Self::DOMAIN)
    }

    /// The platform's administrator, signed in.
    pub async fn superadmin(&self) -> Client {
        let signed_in = async { sign_in(&self.client, SUPERADMIN, SUPERADMIN_PASSWORD).await.0 };
        self.superadmin.get_or_init(|| signed_in).await.clone()
    }

    /// What the platform's administrator signs in with.
    #[must_use]
    pub fn superadmin_login(&self) -> Value {
        json!({ "email": SUPERADMIN, "password": SUPERADMIN_PASSWORD })
    }

    /// Makes an orchestra the way the platform's administrator does, without limits.
    pub async fn orchestra(&self, kept: Kept, subdomain: &str) -> Orchestra {
        let code = format!("T{}", self.orchestras.fetch_add(1, Ordering::Relaxed));
        let body = json!({
            "name": format!("Orkester {subdomain}"), "subdomain": subdomain, "code": code,
            "subscription": "institution", "placement": kept.as_str(),
            "admin": {
                "email": format!("chef@{subdomain}.example"), "firstName": "Chef", "lastName": "Ek",
                "password": PASSWORD,
            },
        });
        let made = self.superadmin().await.post("/api/v1/platform/tenants", &body).await.created();
        assert_eq!(made["placement"], kept.as_str());
        let tenant_text = made["id"].as_str().expect("an id").to_owned();
        let host = self.host(subdomain);
        let email = format!("chef@{subdomain}.example");
        let (admin, admin_user) = sign_in(&self.client.at(&host), &email, PASSWORD).await;
        Orchestra {
            tenant: tenant_text.parse().expect("a tenant's id"),
            subdomain: subdomain.to_owned(),
            code,
            host,
            kept,
            admin,
            tenant_text,
            admin_user,
        }
    }

    /// The orchestra that a contract test is about, and another one that must not notice: beside it in the
    /// shared database, or in the shared one while the first has its own.
    pub async fn pair(&self, kept: Kept) -> [Orchestra; 2] {
        let ours = self.orchestra(kept, &format!("ours-{kept}")).await;
        let theirs = self.orchestra(Kept::Shared, &format!("theirs-{kept}")).await;
        [ours, theirs]
    }

    /// Makes somebody a member of an orchestra and signs them in there.
    pub async fn member(&self, orchestra: &Orchestra, role: Role) -> Client {
        self.person(orchestra, role).await.client
    }

    /// The same, with who it is.
    pub async fn person(&self, orchestra: &Orchestra, role: Role) -> Member {
        let email = format!("{}-{}@{}.example", role.as_str(), Uuid::now_v7().simple(), orchestra.subdomain);
        let hash = self.state.passwords.hash(&SecretString::from(PASSWORD)).await.expect("a hash");
        let member = NewMember {
            id: Uuid::now_v7(),
            email: email.clone(),
            first_name: "Medlem".to_owned(),
            last_name: "Ek".to_owned(),
            password_hash: Some(hash.expose_secret().to_owned()),
        };
        let entry = AuditEntry {
            actor: Actor::system(),
            at: self.now(),
            action: AuditAction::Create,
            model: "user",
            record_id: Some(member.id.to_string()),
            changes: None,
        };
        let people = &self.state.people;
        people.add_member(orchestra.tenant, &member, role, &entry).await.expect("a new member");
        let (client, user) = sign_in(&self.client.at(&orchestra.host), &email, PASSWORD).await;
        Member { user, email, client }
    }

    /// Permission to touch an orchestra's data, as a request to its host gets it.
    pub async fn scope(&self, orchestra: &Orchestra) -> TenantScope {
        match self.state.resolver.resolve(&orchestra.host, self.now()).await {
            Ok(Addressed::Tenant(scope)) => scope,
            other => panic!("{} is not served: {other:?}", orchestra.host),
        }
    }

    /// The administrator's connection string of the registry.
    #[must_use]
    pub fn registry(&self) -> &ConnectionTarget {
        &self.registry
    }

    /// The name of the database that holds an orchestra.
    pub async fn database_of(&self, orchestra: &Orchestra) -> String {
        self.database_of_tenant(orchestra.tenant).await.expect("the orchestra is placed")
    }

    /// The name of the database that holds a tenant, if it is placed.
    pub async fn database_of_tenant(&self, tenant: TenantId) -> Option<String> {
        sqlx::query_scalar(
            "SELECT b.name FROM registry.directory AS d JOIN registry.databases AS b ON b.id = d.database_id
            WHERE d.tenant_id = $1",
        )
        .bind(tenant.as_uuid())
        .fetch_optional(&mut connect(&self.registry).await)
        .await
        .expect("the directory can be read")
    }

    /// How many rows of an orchestra a table has, seen by the administrator.
    pub async fn count(&self, orchestra: &Orchestra, table: &'static str) -> i64 {
        self.count_of(orchestra.tenant, table).await
    }

    /// How many rows of a placed tenant a table has, seen by the administrator.
    pub async fn count_of(&self, tenant: TenantId, table: &'static str) -> i64 {
        let database = self.database_of_tenant(tenant).await.expect("the tenant is placed");
        let sql = format!("SELECT count(*) FROM {table} WHERE tenant_id = $1");
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .bind(tenant.as_uuid())
            .fetch_one(&mut connect(&self.registry.with_database(&database)).await)
            .await
            .expect("the table can be read")
    }

    /// How many rows a table of the registry has.
    pub async fn count_in_registry(&self, table: &'static str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
            .fetch_one(&mut connect(&self.registry).await)
            .await
            .expect("the table can be read")
    }

    /// An orchestra's audit log, in the order it was written.
    pub async fn audit(&self, orchestra: &Orchestra) -> Vec<AuditRow> {
        let target = self.registry.with_database(&self.database_of(orchestra).await);
        sqlx::query_as(
            "SELECT actor, actor_id, action, model, record_id, changes, user_agent, request_id
            FROM tenant.audit WHERE tenant_id = $1 ORDER BY at, id",
        )
        .bind(orchestra.tenant.as_uuid())
        .fetch_all(&mut connect(&target).await)
        .await
        .expect("the audit log can be read")
    }

    /// The platform's audit log, of one orchestra or whole, in the order it was written.
    pub async fn platform_audit(&self, orchestra: Option<&Orchestra>) -> Vec<AuditRow> {
        sqlx::query_as(
            "SELECT actor, actor_id, action, model, record_id, changes, user_agent, request_id
            FROM registry.platform_audit WHERE $1::uuid IS NULL OR tenant_id = $1 ORDER BY id",
        )
        .bind(orchestra.map(|orchestra| orchestra.tenant.as_uuid()))
        .fetch_all(&mut connect(&self.registry).await)
        .await
        .expect("the platform's audit log can be read")
    }

    /// Another node on the same databases, whose background jobs are the test's to do, and what begins its
    /// transactions.
    pub async fn node_without_jobs(&self, pools: PoolSizes, shares: PoolShares) -> (Platform, Units) {
        // Those who get no connection are told soon.
        let bounds = Bounds { wait: Duration::from_millis(200), ..Bounds::default() };
        let settings = DatabaseSettings { shares, ..settings(&self.registry, pools, bounds) };
        let node =
            Platform::open(settings, self.serving.hosts.clone()).await.expect("the databases are there");
        let units = Arc::clone(&node.state(&self.serving).expect("it can sign tokens").units);
        (node, units)
    }

    /// A second node on the same databases, wired anew as after a restart.
    pub async fn restarted(&self) -> Platform {
        let pools = PoolSizes { shared: 4, dedicated: 2, dedicated_pools: 50 };
        let hosts = HostPolicy::new(Self::DOMAIN).expect("a domain");
        let settings = settings(&self.registry, pools, Bounds::default());
        Platform::open(settings, hosts).await.expect("the databases are there")
    }
}

/// How every node of a test serves.
pub(crate) fn serving(proxies: &str, follow: Follow) -> ServingSettings {
    ServingSettings {
        jwt_secret: SecretString::from(TestPlatform::JWT_SECRET),
        hosts: HostPolicy::new(TestPlatform::DOMAIN).expect("a domain"),
        trusted_proxies: proxies.parse().expect("networks"),
        listen: ([127, 0, 0, 1], 0).into(),
        metrics: None,
        superadmin: Some(SuperadminSettings {
            email: SUPERADMIN.to_owned(),
            password: SecretString::from(SUPERADMIN_PASSWORD),
        }),
        shutdown: Duration::from_secs(5),
        follow,
        limits: LimitSettings::off(),
        connections: ConnectionSettings::default(),
        // A test that moves somebody says who drives it.
        moves: MoveSettings::none(),
    }
}

impl TestPlatform {
    /// The router of a node of its own on the same databases, which reads no list in one message.
    pub async fn node_of_ordinary_reads(&self) -> axum::Router {
        let pools = PoolSizes { shared: 4, dedicated: 2, dedicated_pools: 50 };
        let settings = settings(&self.registry, pools, Bounds::default());
        let settings = DatabaseSettings { one_message_reads: false, ..settings };
        let serving = serving("", Follow::default());
        let node = Platform::open(settings, serving.hosts.clone()).await.expect("the databases are there");
        build_router(node.state(&serving).expect("it can sign tokens"))
    }
}

/// A registry and a shared database, copied from the templates; the registry's connection string.
async fn fresh_databases() -> ConnectionTarget {
    fresh_databases_on(Cluster::get().await).await
}

async fn fresh_databases_on(cluster: &Cluster) -> ConnectionTarget {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let prefix = format!("stagesub_test_run{}_{n}", std::process::id());
    let (registry, shared) = (format!("{prefix}_registry"), format!("{prefix}_shared"));
    let mut admin = connect(cluster.admin()).await;
    copy(&mut admin, cluster.registry_template(), &registry).await;
    copy(&mut admin, cluster.shared_template(), &shared).await;
    let target = cluster.admin().with_database(&registry);
    let moved =
        [(cluster.registry_template(), registry.as_str()), (cluster.shared_template(), shared.as_str())];
    point_at_copies(&mut connect(&target).await, &keys(), &moved).await;
    target
}

pub(crate) fn settings(registry: &ConnectionTarget, pools: PoolSizes, bounds: Bounds) -> DatabaseSettings {
    DatabaseSettings {
        database_url: registry.clone(),
        shared_database_url: None,
        keys: keys(),
        pools,
        bounds,
        shares: PoolShares::default(),
        one_message_reads: true,
        expected: Expectations::default(),
        allowed: AllowedHosts::default(),
        burden: Burden::default(),
    }
}

pub(crate) async fn open(
    settings: DatabaseSettings,
    serving: &ServingSettings,
) -> (Platform, AppState, Jobs) {
    let (wired, state) = open_idle(settings, serving).await;
    let jobs = wired.jobs(serving, &state);
    (wired, state, jobs)
}

async fn open_idle(settings: DatabaseSettings, serving: &ServingSettings) -> (Platform, AppState) {
    let wired = Platform::open(settings, serving.hosts.clone())
        .await
        .unwrap_or_else(|error| panic!("the platform opens on its databases: {error:?}"));
    let state = wired.state(serving).expect("the platform can sign tokens");
    ensure_superadmin(wired.people().as_ref(), wired.passwords(), serving.superadmin.as_ref(), state.now())
        .await
        .expect("the platform gets its administrator");
    (wired, state)
}
