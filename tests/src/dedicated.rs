//! Tenants with databases of their own, made by the hundred and by the thousand. `tests/it/provisioning.rs` shows that
//! the platform makes them itself; here there have to be many, soon.

use secrecy::ExposeSecret;
use sqlx::PgConnection;
use stagesub_storage::seal::Sealed;
use stagesub_storage::target::ConnectionTarget;
use stagesub_tenancy::{DatabaseId, TenantId};
use uuid::Uuid;

use crate::cluster::{Cluster, keys};
use crate::database::{associated_data, connect, copy, run, store_login};
use crate::platform::TestPlatform;

/// What each of them has: instruments whose names begin with its id.
pub const INSTRUMENTS: usize = 5;
/// The role whose connection string is stored.
const APP: &str = "stagesub_app";

/// A tenant as it is recorded, with the database that is said to be its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its identity.
    pub tenant: TenantId,
    /// Prefix of its ids.
    pub code: String,
    /// The database in the registry.
    pub database: Uuid,
    /// The database's name in the registry.
    pub name: String,
}

/// Makes them on a platform. Those of one group are counted together.
#[derive(Debug)]
pub struct Dedicated<'p> {
    platform: &'p TestPlatform,
    group: &'static str,
    /// The application's connection string on the shared database: roles belong to the server, so it opens the
    /// dedicated ones too.
    app: ConnectionTarget,
}

impl<'p> Dedicated<'p> {
    /// A group by a name of six letters at most: names of databases are short.
    pub async fn group(platform: &'p TestPlatform, group: &'static str) -> Self {
        Self { platform, group, app: app_login(&mut connect(platform.registry()).await).await }
    }

    /// Makes a tenant with a database of its own, which holds its instruments.
    pub async fn make(&self, code: String) -> Recorded {
        let own = self.name(code);
        let mut data = copy_of_shared(&own).await;
        mark(&mut data, own.database, Some(own.tenant)).await;
        admit(&mut data, std::slice::from_ref(&own)).await;
        self.record(std::slice::from_ref(&own)).await;
        self.store_login(&own, Some(own.tenant)).await;
        own
    }

    /// Makes a shared database beside the platform's own one, which holds all of these tenants and their
    /// instruments. Where the tenants are is for the caller to record.
    pub async fn make_shared(&self, held: &[Recorded]) -> DatabaseId {
        let shared = self.name(String::new());
        let mut data = copy_of_shared(&shared).await;
        mark(&mut data, shared.database, None).await;
        admit(&mut data, held).await;
        run(&mut data, "VACUUM ANALYZE").await;
        sqlx::query(
            "INSERT INTO registry.databases (id, kind, status, server_identifier, host, port, name)
            SELECT $1, 'shared', 'ready', server_identifier, host, port, $2
            FROM registry.databases WHERE kind = 'registry'",
        )
        .bind(shared.database)
        .bind(&shared.name)
        .execute(&mut connect(self.platform.registry()).await)
        .await
        .expect("a database can be recorded");
        self.store_login(&shared, None).await;
        DatabaseId::from_uuid(shared.database)
    }

    /// A tenant that nobody has recorded yet, with a database that nobody has made.
    #[must_use]
    pub fn name(&self, code: String) -> Recorded {
        let (tenant, database) = (Uuid::now_v7(), Uuid::now_v7());
        let name = format!("{}{}", self.prefix(), tenant.simple());
        Recorded { tenant: TenantId::from_uuid(tenant), code, database, name }
    }

    /// Records tenants, each placed in the database that is said to be its own.
    pub async fn record(&self, all: &[Recorded]) {
        record(&mut connect(self.platform.registry()).await, all).await;
    }

    /// The application's connections to this group's databases, as PostgreSQL counts them.
    pub async fn connections(&self, conn: &mut PgConnection) -> i64 {
        sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND starts_with(datname, $2)",
        )
        .bind(APP)
        .bind(self.prefix())
        .fetch_one(conn)
        .await
        .expect("the server counts its sessions")
    }

    fn prefix(&self) -> String {
        format!("stagesub_test_run{}_{}", std::process::id(), self.group)
    }

    async fn store_login(&self, database: &Recorded, tenant: Option<TenantId>) {
        let whose = (database.database, APP, tenant.map(TenantId::as_uuid));
        let login = self.app.with_database(&database.name);
        store_login(&mut connect(self.platform.registry()).await, &keys(), whose, &login).await;
    }
}

async fn app_login(registry: &mut PgConnection) -> ConnectionTarget {
    let (database, sealed): (Uuid, String) = sqlx::query_as(
        "SELECT l.database_id, l.sealed FROM registry.database_logins AS l
        JOIN registry.databases AS d ON d.id = l.database_id
        WHERE d.kind = 'shared' AND l.role = $1",
    )
    .bind(APP)
    .fetch_one(registry)
    .await
    .expect("the shared database has a login");
    let sealed: Sealed = sealed.parse().expect("a sealed value");
    let url = keys().open_text(&sealed, &associated_data(database, APP, None)).expect("it opens");
    ConnectionTarget::parse(url.expose_secret()).expect("a connection string")
}

async fn copy_of_shared(named: &Recorded) -> PgConnection {
    let cluster = Cluster::get().await;
    copy(&mut connect(cluster.admin()).await, cluster.shared_template(), &named.name).await;
    connect(&cluster.admin().with_database(&named.name)).await
}

async fn record(registry: &mut PgConnection, all: &[Recorded]) {
    let tenants: Vec<Uuid> = all.iter().map(|one| one.tenant.as_uuid()).collect();
    let codes: Vec<&str> = all.iter().map(|one| one.code.as_str()).collect();
    let databases: Vec<Uuid> = all.iter().map(|one| one.database).collect();
    let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
    for sql in [
        "INSERT INTO registry.codes (code, tenant_id)
        SELECT code, tenant FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::text[]) AS t (tenant, code, db, name)",
        "INSERT INTO registry.tenants
            (id, code, name, subdomain, subscription, status, wants_dedicated, version)
        SELECT tenant, code, code, lower(code), 'institution', 'active', true, 1
        FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::text[]) AS t (tenant, code, db, name)",
        "INSERT INTO registry.databases (id, kind, tenant_id, status, server_identifier, host, port, name)
        SELECT t.db, 'dedicated', t.tenant, 'ready', r.server_identifier, r.host, r.port, t.name
        FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::text[]) AS t (tenant, code, db, name)
        CROSS JOIN registry.databases AS r WHERE r.kind = 'registry'",
        "INSERT INTO registry.directory (tenant_id, database_id, placement, epoch)
        SELECT tenant, db, 'dedicated', 1
        FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::text[]) AS t (tenant, code, db, name)",
    ] {
        sqlx::query(sql)
            .bind(&tenants)
            .bind(&codes)
            .bind(&databases)
            .bind(&names)
            .execute(&mut *registry)
            .await
            .expect("tenants can be recorded");
    }
}

/// Says which database this is.
async fn mark(data: &mut PgConnection, database: Uuid, tenant: Option<TenantId>) {
    sqlx::query("UPDATE app.marker SET role = $1, database_id = $2, tenant_id = $3")
        .bind(if tenant.is_some() { "dedicated" } else { "shared" })
        .bind(database)
        .bind(tenant.map(TenantId::as_uuid))
        .execute(data)
        .await
        .expect("a copy can be marked");
}

/// Lets tenants in at their first epoch, with their instruments.
async fn admit(data: &mut PgConnection, held: &[Recorded]) {
    let tenants: Vec<Uuid> = held.iter().map(|one| one.tenant.as_uuid()).collect();
    sqlx::query(
        "INSERT INTO app.tenant_fence (tenant_id, state, epoch) SELECT t, 'active', 1 FROM UNNEST($1::uuid[]) AS t",
    )
    .bind(&tenants)
    .execute(&mut *data)
    .await
    .expect("tenants can be admitted");
    sqlx::query(
        "INSERT INTO tenant.instrument (tenant_id, no, name, created_at, updated_at)
        SELECT t, n, t || ' ' || n, now(), now() FROM UNNEST($1::uuid[]) AS t CROSS JOIN generate_series(1, $2) AS n",
    )
    .bind(&tenants)
    .bind(i64::try_from(INSTRUMENTS).expect("a few"))
    .execute(&mut *data)
    .await
    .expect("instruments can be made");
}
