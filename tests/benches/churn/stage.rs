//! The tenants, the databases they are in, and a router over them.

use std::collections::HashMap;
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use secrecy::SecretString;
use sqlx::postgres::PgConnectOptions;
use stagesub_storage::directory::PgTenantDirectory;
use stagesub_storage::factory::{FactorySettings, LeanPoolFactory};
use stagesub_storage::logins::{REMEMBERED, RememberedLogins};
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_tenancy::{
    CacheSettings, CachedDirectory, DatabaseId, PoolSettings, Purpose, Router, TenantDirectory, TenantScope,
};
use stagesub_tests::TestPlatform;
use stagesub_tests::cluster::{Cluster, keys};
use stagesub_tests::database::{connect, run};
use stagesub_tests::dedicated::{Dedicated, Recorded};

use crate::factory::CrowdFactory;

/// Shared databases that stand behind the tenants without a real one.
const CROWDS: usize = 4;
/// How much is made at once.
const AT_ONCE: usize = 4;
/// A login that is bound to one tenant for good, in each database to that database's own.
const BOUND: &str = "bench_bound";

/// A tenant whose database is its own, and how one reaches it who knows no tenancy.
pub(crate) struct Real {
    pub(crate) scope: TenantScope,
    pub(crate) bound: PgConnectOptions,
}

/// Where the bench works.
pub(crate) struct Stage<'p> {
    pub(crate) dedicated: Dedicated<'p>,
    /// Everybody, those with a real database first.
    pub(crate) scopes: Vec<TenantScope>,
    pub(crate) real: Vec<Real>,
    pub(crate) factory: Arc<CrowdFactory>,
    pub(crate) router: Router<CrowdFactory>,
}

impl<'p> Stage<'p> {
    /// So many tenants, so many of whom really have databases of their own, over pools as a node has them.
    pub(crate) async fn set(
        platform: &'p TestPlatform,
        tenants: usize,
        real: usize,
        pools: PoolSettings,
    ) -> Self {
        let dedicated = Dedicated::group(platform, "churn").await;
        let owners: Vec<Recorded> = stream::iter(0..real)
            .map(|n| dedicated.make(format!("R{n:05}")))
            .buffered(AT_ONCE)
            .collect()
            .await;
        let (crowd, crowded) = crowd(&dedicated, tenants - real).await;

        let keys = Arc::new(keys());
        let registry = RegistryPools::open(platform.registry(), &keys).await.expect("the registry opens");
        // With room for everybody, so that what grows is not this.
        let settings = CacheSettings { capacity: 2 * tenants, ..CacheSettings::default() };
        let directory =
            Arc::new(CachedDirectory::new(Arc::new(PgTenantDirectory::new(registry.clone())), settings));
        let logins = PgDatabaseLogins::new(registry, keys);
        let logins = Arc::new(RememberedLogins::new(logins, REMEMBERED));
        // A database of one's own, taken for what it is or for a crowd's, has pools of the same size.
        let each = FactorySettings::default().dedicated;
        let product = LeanPoolFactory::new(logins, FactorySettings { shared: each, dedicated: each });
        let factory = Arc::new(CrowdFactory::new(product, crowded));
        let router = Router::new(Arc::clone(&directory) as _, Arc::clone(&factory), pools);

        let state = platform.state();
        let mut scopes = Vec::with_capacity(tenants);
        for one in owners.iter().chain(&crowd) {
            let scope = state.resolver.resolve_for(one.tenant, Purpose::Job, platform.now()).await;
            scopes.push(scope.expect("a tenant that is served"));
            let known = directory.find_placement(one.tenant).await.expect("the registry answers");
            assert!(known.is_some_and(|located| located.tenant == one.tenant), "it is placed");
        }
        let real = bound_to_each(&owners)
            .await
            .into_iter()
            .zip(&scopes)
            .map(|(bound, scope)| Real { scope: scope.clone(), bound })
            .collect();
        Self { dedicated, scopes, real, factory, router }
    }
}

/// Tenants who are recorded with databases of their own and live in a few shared ones.
async fn crowd(
    dedicated: &Dedicated<'_>,
    tenants: usize,
) -> (Vec<Recorded>, HashMap<DatabaseId, DatabaseId>) {
    let crowd: Vec<Recorded> = (0..tenants).map(|n| dedicated.name(format!("C{n:05}"))).collect();
    dedicated.record(&crowd).await;
    let mut crowded = HashMap::new();
    for held in crowd.chunks(tenants.div_ceil(CROWDS)) {
        let shared = dedicated.make_shared(held).await;
        crowded.extend(held.iter().map(|one| (DatabaseId::from_uuid(one.database), shared)));
    }
    (crowd, crowded)
}

/// A login for each database whose sessions are that database's tenant's from the start.
async fn bound_to_each(owners: &[Recorded]) -> Vec<PgConnectOptions> {
    let admin = Cluster::get().await.admin();
    let mut conn = connect(admin).await;
    run(
        &mut conn,
        &format!(
            "DO $$ BEGIN CREATE ROLE {BOUND} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             ALTER ROLE {BOUND} PASSWORD '{BOUND}';
             GRANT stagesub_app TO {BOUND}"
        ),
    )
    .await;
    let mut options = Vec::new();
    for Recorded { tenant, name, .. } in owners {
        run(
            &mut conn,
            &format!(
                "GRANT CONNECT ON DATABASE {name} TO {BOUND};
                 ALTER ROLE {BOUND} IN DATABASE {name} SET app.tenant_id = '{tenant}'"
            ),
        )
        .await;
        let login = admin.with_database(name).with_user(BOUND, SecretString::from(BOUND));
        options.push(login.to_connect_options());
    }
    options
}
