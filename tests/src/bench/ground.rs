//! A platform with a shared database of many tenants, and logins that only benches have.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;
use stagesub_server::config::{LimitSettings, PoolShares};
use stagesub_storage::directory::PgTenantDirectory;
use stagesub_storage::factory::{FactorySettings, LeanPoolFactory, TenantDb};
use stagesub_storage::logins::{DatabaseLogins, LoginRole};
use stagesub_storage::pool::TenantPoolSettings;
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_storage::target::{ConnectionTarget, ServerHost};
use stagesub_tenancy::{
    CacheSettings, CachedDirectory, DatabaseId, DirectoryError, PoolSettings, Router, TenantScope,
};
use uuid::Uuid;

use super::meter::Meter;
use crate::cluster::keys;
use crate::database::{connect, run};
use crate::orchestra::Kept;
use crate::platform::TestPlatform;

/// Orchestras that are worked on.
pub const WORKED_ON: usize = 8;
/// Tenants beside them, whose rows fill the tables.
const BYSTANDERS: usize = 992;
/// Musicians of each.
pub const MUSICIANS: i64 = 200;

/// Where benches work.
pub struct Ground {
    /// The platform.
    pub platform: TestPlatform,
    /// Permission for each orchestra that is worked on.
    pub scopes: Vec<TenantScope>,
    /// Access token of each one's administrator.
    pub tokens: Vec<String>,
    /// The administrator's way into the shared database.
    pub admin: ConnectionTarget,
    /// The application's login there.
    pub app: ConnectionTarget,
    directory: CachedDirectory,
}

impl Ground {
    /// A platform whose shared database holds a thousand tenants.
    ///
    /// # Panics
    /// When something of it cannot be made.
    pub async fn lay() -> Self {
        // Everybody may ask as often as they like; all else is as the product has it.
        let at_once = LimitSettings::default().tenant_requests_at_once;
        let platform = TestPlatform::start_sharing(PoolShares::default(), at_once).await;
        let (mut scopes, mut tokens) = (Vec::new(), Vec::new());
        for n in 0..WORKED_ON {
            let orchestra = platform.orchestra(Kept::Shared, &format!("bench-{n}")).await;
            scopes.push(platform.scope(&orchestra).await);
            tokens.push(orchestra.admin.token().expect("signed in").to_owned());
        }
        let registry = RegistryPools::open(platform.registry(), &keys()).await.expect("the registry opens");
        let (id, name): (Uuid, String) =
            sqlx::query_as("SELECT id, name FROM registry.databases WHERE kind = 'shared'")
                .fetch_one(&mut connect(platform.registry()).await)
                .await
                .expect("there is one shared database");
        let logins = PgDatabaseLogins::new(registry.clone(), Arc::new(keys()));
        let app = logins.find_login(DatabaseId::from_uuid(id), LoginRole::App).await.expect("it is known");
        let admin = platform.registry().with_database(&name);
        let ground = Self {
            platform,
            scopes,
            tokens,
            app: app.expect("it has a login"),
            admin,
            directory: CachedDirectory::new(
                Arc::new(PgTenantDirectory::new(registry)),
                CacheSettings::default(),
            ),
        };
        ground.fill().await;
        ground
    }

    /// Gives everybody musicians, two thirds of whom play something.
    async fn fill(&self) {
        let mut admin = connect(&self.admin).await;
        let own: Vec<Uuid> = self.scopes.iter().map(|scope| scope.tenant_id().as_uuid()).collect();
        let others = (0..BYSTANDERS).map(|_| Uuid::now_v7());
        let tenants: Vec<Uuid> = own.iter().copied().chain(others).collect();
        let musicians = "INSERT INTO tenant.musician
                (tenant_id, no, first_name, last_name, email, phone, preferred_language, local_residence, notes,
                 is_active, archived_at, created_at, updated_at)
            SELECT t, n, 'Anna', 'Vik ' || n, 'anna.' || n || '@example.se', '070-' || n, 'sv', true,
                CASE WHEN n % 3 = 0 THEN 'Spelar gärna i helgerna' END, n % 9 <> 0, NULL, now(), now()
            FROM UNNEST($1::uuid[]) AS t CROSS JOIN generate_series(1, $2) AS n";
        let qualified = "INSERT INTO tenant.musician_qualification
                (tenant_id, musician_no, position_no, created_at, updated_at)
            SELECT p.tenant_id, n, p.no, now(), now()
            FROM tenant.position AS p CROSS JOIN generate_series(1, $2) AS n
            WHERE p.tenant_id = ANY($1) AND p.no = 1 + n % 3 AND n % 3 <> 2";
        for (sql, tenants) in [(musicians, &tenants), (qualified, &own)] {
            sqlx::query(sql).bind(tenants).bind(MUSICIANS).execute(&mut admin).await.expect("rows are made");
        }
        run(&mut admin, "VACUUM ANALYZE").await;
    }

    /// Logins with the application's rights, for what the application may not do. `bench_bound` works in sessions
    /// that are bound to the first orchestra, as if there were one only; `bench_classic` may bind a transaction by
    /// `set_config`. Policies hold both.
    ///
    /// # Panics
    /// When they cannot be made.
    pub async fn bench_logins(&self) -> [ConnectionTarget; 2] {
        let mut admin = connect(&self.admin).await;
        let (tenant, database) = (self.scopes[0].tenant_id(), self.admin.database());
        for role in ["bench_bound", "bench_classic"] {
            run(
                &mut admin,
                &format!(
                    "DO $$ BEGIN CREATE ROLE {role} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
                     ALTER ROLE {role} PASSWORD '{role}';
                     GRANT stagesub_app TO {role};
                     GRANT CONNECT ON DATABASE {database} TO {role}"
                ),
            )
            .await;
        }
        run(
            &mut admin,
            &format!(
                "ALTER ROLE bench_bound IN DATABASE {database} SET app.tenant_id = '{tenant}';
                 GRANT EXECUTE ON FUNCTION pg_catalog.set_config(text, text, boolean) TO bench_classic"
            ),
        )
        .await;
        ["bench_bound", "bench_classic"].map(|role| self.app.with_user(role, SecretString::from(role)))
    }

    /// The product's transactions, over a pool of so many connections and from so far away.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn tenants(&self, connections: u32, through: Option<SocketAddr>) -> TenantDb {
        let pools = TenantPoolSettings { max_connections: connections, ..TenantPoolSettings::default() };
        let login = OneLogin(match through {
            None => self.app.clone(),
            Some(address) => at(&self.app, address),
        });
        let settings = FactorySettings { shared: pools, dedicated: pools };
        let factory = LeanPoolFactory::new(Arc::new(login), settings);
        let directory = Arc::new(self.directory.clone());
        TenantDb::new(Arc::new(Router::new(directory, Arc::new(factory), PoolSettings::default())))
    }

    /// The socket that Postgres listens on.
    ///
    /// # Panics
    /// When the server is reached otherwise.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        match self.app.host() {
            ServerHost::Socket(dir) => dir.join(format!(".s.PGSQL.{}", self.app.port())),
            ServerHost::Tcp(name) => panic!("the benches' Postgres listens on a socket, not on {name}"),
        }
    }

    /// A meter of the workers and of every backend of the shared database that there is now.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn meter(&self) -> Meter {
        let pids = sqlx::query_scalar(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .fetch_all(&mut connect(&self.admin).await)
        .await
        .expect("the backends are listed");
        Meter::new(pids)
    }
}

/// Options of a login, from so far away.
///
/// # Panics
/// When the login's connection string is not as it is written.
#[must_use]
pub fn options(login: &ConnectionTarget, through: Option<SocketAddr>) -> PgConnectOptions {
    match through {
        None => login.to_connect_options(),
        Some(address) => at(login, address).to_connect_options(),
    }
}

/// The same login at another address.
fn at(login: &ConnectionTarget, address: SocketAddr) -> ConnectionTarget {
    let url = login.to_url();
    let (user, rest) = url.expose_secret().split_once('@').expect("a login comes before its host");
    let (_, database) = rest.split_once('/').expect("a database comes after its host");
    ConnectionTarget::parse(&format!("{user}@{address}/{database}")).expect("a connection string")
}

/// Knows one login, whatever database is asked for.
struct OneLogin(ConnectionTarget);

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
