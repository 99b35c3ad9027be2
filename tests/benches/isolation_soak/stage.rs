//! The platform with its tenants, each of whose rows bears its canary.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use stagesub_server::config::PoolSizes;
use stagesub_storage::directory::PgTenantDirectory;
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_storage::target::ConnectionTarget;
use stagesub_tenancy::{CacheSettings, CachedDirectory, TenantId};
use stagesub_tests::canary::Canary;
use stagesub_tests::cluster::keys;
use stagesub_tests::database::{connect, run};
use stagesub_tests::storm::Guest;
use stagesub_tests::{Kept, Orchestra, TestPlatform};

use crate::{POOL, TENANTS};

/// Every eighth tenant has a database of its own.
const DEDICATED_EVERY: usize = 8;
/// Musicians that each tenant has from the beginning.
const MUSICIANS: usize = 10;
/// Access tokens live for a quarter of an hour.
const RENEW_AFTER: Duration = Duration::from_mins(8);

/// A tenant.
pub(crate) struct House {
    /// As the platform made it.
    pub(crate) orchestra: Orchestra,
    /// As the storm knows it.
    pub(crate) guest: Guest,
    /// The database that holds it, as its administrator sees it.
    pub(crate) database: ConnectionTarget,
    /// Ids and addresses of its first musicians.
    pub(crate) musicians: Vec<(String, String)>,
    token: Mutex<Arc<str>>,
}

impl House {
    /// Its identity.
    pub(crate) fn tenant(&self) -> TenantId {
        self.guest.scope.tenant_id()
    }

    /// An access token of its administrator.
    pub(crate) fn token(&self) -> Arc<str> {
        Arc::clone(&self.token.lock().expect("nobody panics while holding it"))
    }
}

/// The platform and its tenants.
pub(crate) struct Stage {
    /// On databases that the servers use as well.
    pub(crate) platform: TestPlatform,
    /// The tenants.
    pub(crate) houses: Vec<House>,
    renewed: Mutex<Instant>,
}

impl Stage {
    /// Makes the tenants.
    pub(crate) async fn build(seed: u64) -> Self {
        let pools = PoolSizes { shared: POOL, dedicated: POOL, dedicated_pools: 50 };
        let platform = TestPlatform::start_with_pools(pools).await;
        let mut random = StdRng::seed_from_u64(seed);
        let mut orchestras = Vec::new();
        for n in 0..TENANTS {
            let kept = if n % DEDICATED_EVERY == 0 { Kept::Dedicated } else { Kept::Shared };
            orchestras.push(platform.orchestra(kept, &format!("hus{n}")).await);
        }
        let mut houses = Vec::new();
        for (n, orchestra) in orchestras.iter().enumerate() {
            let canary = Canary::new(random.next_u64());
            let other = orchestras[(n + 1) % TENANTS].tenant;
            houses.push(furnish(&platform, orchestra, canary, other).await);
        }
        Self { platform, houses, renewed: Mutex::new(Instant::now()) }
    }

    /// The data path's parts on these databases: a directory that caches, and who knows the logins.
    pub(crate) async fn data_path(&self) -> (Arc<CachedDirectory>, Arc<PgDatabaseLogins>) {
        let keys = Arc::new(keys());
        let registry =
            RegistryPools::open(self.platform.registry(), &keys).await.expect("the registry opens");
        let feed = Arc::new(PgTenantDirectory::new(registry.clone()));
        let directory = CachedDirectory::new(feed, CacheSettings::default());
        (Arc::new(directory), Arc::new(PgDatabaseLogins::new(registry, keys)))
    }

    /// What the storm knows of the tenants.
    pub(crate) fn guests(&self) -> Vec<Guest> {
        self.houses.iter().map(|house| house.guest.clone()).collect()
    }

    /// One tenant of each database: the shared one's first, then each that has its own.
    pub(crate) fn one_of_each_database(&self) -> Vec<&House> {
        let shared = self.houses.iter().find(|house| house.orchestra.kept == Kept::Shared);
        let dedicated = self.houses.iter().filter(|house| house.orchestra.kept == Kept::Dedicated);
        shared.into_iter().chain(dedicated).collect()
    }

    /// Signs everybody in again before their tokens end.
    pub(crate) async fn renew_tokens(&self) {
        if self.renewed.lock().expect("nobody panics while holding it").elapsed() < RENEW_AFTER {
            return;
        }
        for house in &self.houses {
            let client = house.orchestra.sign_in_again().await;
            let token = client.token().expect("signed in").into();
            *house.token.lock().expect("nobody panics while holding it") = token;
        }
        *self.renewed.lock().expect("nobody panics while holding it") = Instant::now();
    }
}

/// Puts the canary into the first contents, and adds musicians.
async fn furnish(platform: &TestPlatform, orchestra: &Orchestra, canary: Canary, other: TenantId) -> House {
    let database = platform.registry().with_database(&platform.database_of(orchestra).await);
    let mut admin = connect(&database).await;
    let tenant = orchestra.tenant;
    for (table, column) in [("instrument", "name"), ("position", "name"), ("email_template", "subject")] {
        let mark = format!(
            "UPDATE tenant.{table} SET {column} = '{canary} ' || {column} WHERE tenant_id = '{tenant}'"
        );
        run(&mut admin, &mark).await;
    }
    let rows = count(&mut admin, &format!(
        "SELECT CASE WHEN max(no) = count(*) THEN count(*) END FROM tenant.instrument WHERE tenant_id = '{tenant}'"
    ))
    .await;
    admin.close().await.expect("the connection closes");
    let mut musicians = Vec::new();
    for n in 0..MUSICIANS {
        let email = format!("first-{n}@{canary}.example");
        let body = json!({ "firstName": "Åsa", "lastName": canary.as_str(), "email": email, "notes": canary.as_str() });
        let made = orchestra.admin.post("/api/v1/musicians", &body).await.created();
        musicians.push((made["id"].as_str().expect("an id").to_owned(), email));
    }
    let scope = platform.scope(orchestra).await;
    let token = Mutex::new(orchestra.admin.token().expect("signed in").into());
    let guest = Guest { scope, canary, rows, other };
    House { orchestra: orchestra.clone(), guest, database, musicians, token }
}

/// One number.
pub(crate) async fn count(conn: &mut PgConnection, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(conn)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}
