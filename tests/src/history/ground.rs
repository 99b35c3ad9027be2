//! A registry, two databases on one server or on three, tenants that move between them, and nodes that serve them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use stagesub_server::jobs::changes::{Follow, follow};
use stagesub_storage::directory::PgTenantDirectory;
use stagesub_storage::factory::{FactorySettings, LeanPoolFactory, TenantDb};
use stagesub_storage::identity::Identity;
use stagesub_storage::logins::{DatabaseLogins as _, LoginRole};
use stagesub_storage::moves::plan::{Checks, Contents, MovePlan};
use stagesub_storage::moves::session::Site;
use stagesub_storage::moves::verify::{Verified, VerifySettings, everything};
use stagesub_storage::pool::TenantPoolSettings;
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::changes::{PgChangeFeed, PgChangeSignal};
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_storage::target::ConnectionTarget;
use stagesub_tenancy::moves::MoveId;
use stagesub_tenancy::{
    Access, CacheSettings, CachedDirectory, ChangeFollower, ChangeSink, DatabaseId, PlacementEpoch,
    PoolSettings, PoolTarget, Router, TenantId, TenantScope,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ledger;
use super::record::Found;
use crate::cluster::{Cluster, keys};
use crate::database::{connect, copy, open_login, point_at_copies, run, store_login};
use crate::{Kept, Orchestra, TestPlatform};

static NEXT: AtomicU32 = AtomicU32::new(1);

/// The logins that a database which holds tenants has.
const ROLES: [&str; 3] = ["stagesub_app", "stagesub_migrator", "stagesub_mover"];

/// A database that tenants may be in.
#[derive(Debug, Clone)]
pub struct Place {
    /// In the registry.
    pub id: DatabaseId,
    /// By its own word.
    pub name: String,
    /// The administrator's way in.
    pub admin: ConnectionTarget,
    /// Whose it is, if it is dedicated.
    pub owner: Option<TenantId>,
}

/// A tenant that moves.
#[derive(Debug, Clone)]
pub struct Resident {
    /// As the platform made it.
    pub orchestra: Orchestra,
    /// Permission to touch its data.
    pub scope: TenantScope,
    /// How many rows there are to touch.
    pub rows: i64,
}

impl Resident {
    /// Its identity.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.orchestra.tenant
    }
}

/// Where tenants move.
#[derive(Debug)]
pub struct Ground {
    /// The platform, whose own node is one that hears of changes.
    pub platform: TestPlatform,
    /// The registry, as a node holds it.
    pub registry: RegistryPools,
    /// Where residents are in the beginning.
    pub source: Place,
    /// Another database for many tenants.
    pub target: Place,
    server: Server,
    prefix: String,
    has_ledger: bool,
}

/// What a server's databases are reached by.
#[derive(Debug)]
struct Server {
    admin: ConnectionTarget,
    template: String,
    identifier: String,
    host: String,
    port: i32,
    logins: Vec<(&'static str, ConnectionTarget)>,
}

impl Ground {
    /// On the server of all tests, with such residents, who have the clients' tables, and no rows in them.
    pub async fn start(residents: &[&str]) -> (Self, Vec<Resident>) {
        Self::on([Cluster::get().await; 3], residents).await
    }

    /// The same with the product's tables alone, as `serve` wants it.
    pub async fn of_the_product(residents: &[&str]) -> (Self, Vec<Resident>) {
        Self::lay([Cluster::get().await; 3], residents, false).await
    }

    /// The registry, the source and the target each on its own server.
    pub async fn on(servers: [&Cluster; 3], residents: &[&str]) -> (Self, Vec<Resident>) {
        Self::lay(servers, residents, true).await
    }

    async fn lay(
        [registry, source, target]: [&Cluster; 3],
        residents: &[&str],
        has_ledger: bool,
    ) -> (Self, Vec<Resident>) {
        let prefix =
            format!("stagesub_test_run{}_h{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let name = format!("{prefix}_registry");
        copy(&mut connect(registry.admin()).await, registry.registry_template(), &name).await;
        let at = registry.admin().with_database(&name);
        let mut conn = connect(&at).await;
        point_at_copies(&mut conn, &keys(), &[(registry.registry_template(), name.as_str())]).await;

        let here = Server::of(source, &prefix).await;
        let shared: Uuid = sqlx::query_scalar("SELECT id FROM registry.databases WHERE kind = 'shared'")
            .fetch_one(&mut conn)
            .await
            .expect("there is one shared database");
        let source =
            here.make(&format!("{prefix}_source"), (DatabaseId::from_uuid(shared), None), has_ledger).await;
        sqlx::query(
            "UPDATE registry.databases SET server_identifier = $2, host = $3, port = $4, name = $5 WHERE id = $1",
        )
        .bind(shared)
        .bind(&here.identifier)
        .bind(&here.host)
        .bind(here.port)
        .bind(&source.name)
        .execute(&mut conn)
        .await
        .expect("a database can be recorded");
        here.store_logins(&mut conn, &source, None).await;

        // With one shared database only, so that residents are there.
        let platform = TestPlatform::start_at(at).await;
        let mut all = Vec::new();
        for label in residents {
            let orchestra = platform.orchestra(Kept::Shared, label).await;
            let scope = platform.scope(&orchestra).await;
            all.push(Resident { orchestra, scope, rows: 0 });
        }

        let server = Server::of(target, &prefix).await;
        let id = DatabaseId::from_uuid(Uuid::now_v7());
        let target = server.make(&format!("{prefix}_target"), (id, None), has_ledger).await;
        server.record(&mut conn, &target, None).await;
        let registry = RegistryPools::open(platform.registry(), &keys()).await.expect("the registry opens");
        (Self { platform, registry, source, target, server, prefix, has_ledger }, all)
    }

    /// Gives a resident so many rows to touch, and its writers' counts.
    pub async fn furnish(&self, resident: &mut Resident, rows: i64) {
        ledger::fill(&mut connect(&self.source.admin).await, resident.tenant(), rows).await;
        resident.rows = rows;
    }

    /// Has the server do now what it would do later about the rows that residents were given, while something is measured.
    pub async fn settle(&self) {
        let mut conn = connect(&self.source.admin).await;
        run(&mut conn, "VACUUM ANALYZE").await;
        run(&mut conn, "CHECKPOINT").await;
    }

    /// Makes a database that is a resident's own, and that it is not in.
    pub async fn own_database(&self, resident: &Resident) -> Place {
        let id = DatabaseId::from_uuid(Uuid::now_v7());
        let name = format!("{}_own_{}", self.prefix, resident.orchestra.subdomain.replace('-', "_"));
        let place = self.server.make(&name, (id, Some(resident.tenant())), self.has_ledger).await;
        let mut conn = connect(self.platform.registry()).await;
        self.server.record(&mut conn, &place, Some(resident.tenant())).await;
        place
    }

    /// Another node: a directory, pools and logins of its own. Nobody tells it of changes.
    #[must_use]
    pub fn node(&self) -> TenantDb {
        let (router, _) = self.routing();
        TenantDb::new(Arc::new(router))
    }

    /// The same, with what tells it of changes.
    #[must_use]
    pub fn following(&self) -> (TenantDb, ChangeFollower) {
        let (router, directory) = self.routing();
        let router = Arc::new(router);
        let sinks: Vec<Arc<dyn ChangeSink>> = vec![directory, Arc::clone(&router) as _];
        let follower = ChangeFollower::new(Arc::new(PgChangeFeed::new(&self.registry)), sinks);
        (TenantDb::new(router), follower)
    }

    /// The same, which is told of changes at once, as a server's node is.
    #[must_use]
    pub fn told_node(&self) -> TenantDb {
        let (db, follower) = self.following();
        let signal = Box::new(PgChangeSignal::new(&self.registry));
        let (period, never) = (Follow::default().period, CancellationToken::new());
        tokio::spawn(follow(follower, period, Some(signal), Arc::default(), never));
        db
    }

    fn routing(&self) -> (Router<LeanPoolFactory>, Arc<CachedDirectory>) {
        let pools = TenantPoolSettings { max_connections: 8, share: 100, ..TenantPoolSettings::default() };
        let directory = Arc::new(CachedDirectory::new(
            Arc::new(PgTenantDirectory::new(self.registry.clone())),
            CacheSettings::default(),
        ));
        let factory =
            LeanPoolFactory::new(self.logins(), FactorySettings { shared: pools, dedicated: pools });
        let router = Router::new(Arc::clone(&directory) as _, Arc::new(factory), PoolSettings::default());
        (router, directory)
    }

    /// What is moved of a tenant.
    #[must_use]
    pub fn contents(&self) -> Contents {
        let mut contents = ledger::contents();
        if !self.has_ledger {
            contents.schemas.truncate(1);
        }
        contents
    }

    /// Compares all that two databases hold of a tenant.
    pub async fn compare(&self, [one, other]: [&Place; 2], tenant: TenantId) -> Verified {
        let sites = [self.site(one).await, self.site(other).await];
        let mut session = sites[0].open("compare").await.expect("the mover is let in");
        let plan =
            MovePlan::read(&mut session, &self.contents(), Checks::Kept).await.expect("the tables move");
        session.close().await;
        everything(&sites[0], &sites[1], &plan, tenant, &VerifySettings::default())
            .await
            .expect("both sides are read")
    }

    async fn site(&self, place: &Place) -> Site {
        let login = self.logins().find_login(place.id, LoginRole::Mover).await;
        let login = login.expect("the registry answers").expect("the database has a login");
        let target = match place.owner {
            None => PoolTarget::Shared(place.id),
            Some(tenant) => PoolTarget::Dedicated { tenant, database: place.id, epoch: PlacementEpoch(1) },
        };
        // Of no move: nobody ends it.
        Site::new(Uuid::now_v7(), login, Identity::of(&target))
    }

    /// Who knows the databases' logins.
    #[must_use]
    pub fn logins(&self) -> Arc<PgDatabaseLogins> {
        Arc::new(PgDatabaseLogins::new(self.registry.clone(), Arc::new(keys())))
    }

    /// What clients wrote of a resident, where it is.
    pub async fn found(&self, at: &Place, resident: &Resident) -> Found {
        ledger::found(&mut connect(&at.admin).await, resident.tenant()).await
    }

    /// At which epoch a database serves a tenant; `None`: at none.
    pub async fn serves(&self, at: &Place, tenant: TenantId) -> Option<i64> {
        sqlx::query_scalar("SELECT epoch FROM app.tenant_fence WHERE tenant_id = $1 AND state = 'active'")
            .bind(tenant.as_uuid())
            .fetch_optional(&mut connect(&at.admin).await)
            .await
            .expect("the fence can be read")
    }

    /// How long it takes until somebody new can write to a resident's data.
    ///
    /// # Errors
    /// The time that was allowed, when it takes longer.
    pub async fn until_writable(&self, resident: &Resident, within: Duration) -> Result<Duration, Duration> {
        let began = Instant::now();
        let node = self.node();
        let wrote = tokio::time::timeout(within, async {
            loop {
                if let Ok(tx) = node.begin(&resident.scope, Access::Write).await
                    && tx.commit().await.is_ok()
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        wrote.await.map(|()| began.elapsed()).map_err(|_| within)
    }

    /// How many rows of a tenant a database holds, of the product's tables and of the clients'.
    pub async fn rows(&self, at: &Place, tenant: TenantId) -> i64 {
        let mut conn = connect(&at.admin).await;
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT format('%I.%I', n.nspname, c.relname)
            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE n.nspname = ANY($1) AND c.relkind = 'r' ORDER BY 1",
        )
        .bind(ledger::SCHEMAS)
        .fetch_all(&mut conn)
        .await
        .expect("the catalogue can be read");
        let mut all = 0;
        for table in tables {
            let sql = format!("SELECT count(*) FROM {table} WHERE tenant_id = $1");
            let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
                .bind(tenant.as_uuid())
                .fetch_one(&mut conn)
                .await
                .expect("rows can be counted");
            all += rows;
        }
        all
    }

    /// What a move has left in a database: slots, publications, logs and what fills them, progress, sessions.
    pub async fn leftovers(&self, at: &Place, id: MoveId) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT 'slot ' || slot_name FROM pg_replication_slots
            WHERE database = current_database() AND position($2 IN slot_name) > 0
            UNION ALL SELECT 'publication ' || pubname FROM pg_publication WHERE position($2 IN pubname) > 0
            UNION ALL SELECT 'table ' || relname FROM pg_class WHERE position($2 IN relname) > 0
            UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE position($2 IN proname) > 0
            UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE position($2 IN tgname) > 0
            UNION ALL SELECT 'progress ' || stream FROM app.move_progress WHERE move_id = $1
            UNION ALL SELECT 'session ' || application_name FROM pg_stat_activity
            WHERE datname = current_database() AND position($1::text IN application_name) > 0
            ORDER BY 1",
        )
        .bind(id.as_uuid())
        .bind(id.as_uuid().simple().to_string())
        .fetch_all(&mut connect(&at.admin).await)
        .await
        .expect("the catalogue can be read")
    }
}

impl Server {
    async fn of(cluster: &Cluster, prefix: &str) -> Self {
        let name = format!("{prefix}_look{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut admin = connect(cluster.admin()).await;
        // Nobody may be connected to a template that others copy.
        copy(&mut admin, cluster.registry_template(), &name).await;
        let mut registry = connect(&cluster.admin().with_database(&name)).await;
        let (identifier, host, port) = sqlx::query_as(
            "SELECT server_identifier, host, port FROM registry.databases WHERE kind = 'registry'",
        )
        .fetch_one(&mut registry)
        .await
        .expect("a registry knows its server");
        let mut logins = Vec::new();
        for role in ROLES {
            logins.push((role, open_login(&mut registry, &keys(), "shared", role).await));
        }
        registry.close().await.expect("the connection closes");
        run(&mut admin, &format!("DROP DATABASE {name}")).await;
        let template = cluster.shared_template().to_owned();
        Self { admin: cluster.admin().clone(), template, identifier, host, port, logins }
    }

    /// A database, with the clients' tables or without.
    async fn make(&self, name: &str, (id, owner): (DatabaseId, Option<TenantId>), has_ledger: bool) -> Place {
        copy(&mut connect(&self.admin).await, &self.template, name).await;
        let admin = self.admin.with_database(name);
        let mut conn = connect(&admin).await;
        if has_ledger {
            ledger::make(&mut conn).await;
        }
        sqlx::query("UPDATE app.marker SET role = $1, database_id = $2, tenant_id = $3")
            .bind(if owner.is_some() { "dedicated" } else { "shared" })
            .bind(id.as_uuid())
            .bind(owner.map(TenantId::as_uuid))
            .execute(&mut conn)
            .await
            .expect("a copy can be marked");
        Place { id, name: name.to_owned(), admin, owner }
    }

    async fn record(&self, registry: &mut PgConnection, place: &Place, owner: Option<TenantId>) {
        sqlx::query(
            "INSERT INTO registry.databases (id, kind, tenant_id, status, server_identifier, host, port, name)
            VALUES ($1, $2, $3, 'ready', $4, $5, $6, $7)",
        )
        .bind(place.id.as_uuid())
        .bind(if owner.is_some() { "dedicated" } else { "shared" })
        .bind(owner.map(TenantId::as_uuid))
        .bind(&self.identifier)
        .bind(&self.host)
        .bind(self.port)
        .bind(&place.name)
        .execute(&mut *registry)
        .await
        .expect("a database can be recorded");
        self.store_logins(registry, place, owner).await;
    }

    async fn store_logins(&self, registry: &mut PgConnection, place: &Place, owner: Option<TenantId>) {
        for (role, login) in &self.logins {
            let whose = (place.id.as_uuid(), *role, owner.map(TenantId::as_uuid));
            store_login(registry, &keys(), whose, &login.with_database(&place.name)).await;
        }
    }
}
