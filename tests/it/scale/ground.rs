//! A shared database and a registry with many tenants, made once for all tests of this process.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use stagesub_storage::logins::LoginRole;
use stagesub_storage::target::ConnectionTarget;
use stagesub_tests::cluster::{Cluster, keys};
use stagesub_tests::database::{connect, copy, open_login, point_at_copies, run};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::plan::Indexes;
use super::statements::Statement;
use crate::tenant_tx::lab::Lab;

/// Rows that a table has to have for a plan to say anything.
const MANY: i64 = 1_000;

/// One of the two databases.
pub(crate) struct Ground {
    /// The administrator's way in.
    pub(crate) admin: ConnectionTarget,
    /// Who runs statements here, whoever may first.
    pub(crate) logins: Vec<ConnectionTarget>,
    /// Its indexes.
    pub(crate) indexes: Indexes,
    /// Tenants to ask for: the largest and the smallest. None in the registry.
    pub(crate) tenants: Vec<Uuid>,
    rows: HashMap<String, i64>,
}

impl Ground {
    /// A million musicians of a thousand tenants.
    pub(crate) async fn of_tenants() -> &'static Self {
        static GROUND: OnceCell<Ground> = OnceCell::const_new();
        GROUND
            .get_or_init(async || {
                let lab = Lab::start(1).await;
                let mut admin = connect(&lab.admin).await;
                run(&mut admin, include_str!("tenants.sql")).await;
                let tenants = sqlx::query_scalar(
                    "SELECT tenant_id FROM (
                        SELECT tenant_id, row_number() OVER (ORDER BY size DESC, tenant_id) AS place, count(*) OVER () AS last
                        FROM sized) AS placed
                    WHERE place IN (1, last) ORDER BY place",
                )
                .fetch_all(&mut admin)
                .await
                .expect("they were made");
                let ground = Self::new(admin, lab.admin, vec![lab.app, lab.mover], tenants).await;
                assert!(ground.rows["tenant.musician"] >= 1_000_000, "{:?}", ground.rows);
                ground
            })
            .await
    }

    /// A registry of a hundred thousand tenants.
    pub(crate) async fn of_registry() -> &'static Self {
        static GROUND: OnceCell<Ground> = OnceCell::const_new();
        GROUND
            .get_or_init(async || {
                let cluster = Cluster::get().await;
                let name = format!("stagesub_test_run{}_scale_registry", std::process::id());
                copy(&mut connect(cluster.admin()).await, cluster.registry_template(), &name).await;
                let target = cluster.admin().with_database(&name);
                let mut admin = connect(&target).await;
                point_at_copies(&mut admin, &keys(), &[(cluster.registry_template(), &name)]).await;
                let mut logins = Vec::new();
                for role in [LoginRole::Control, LoginRole::Auth] {
                    logins.push(open_login(&mut admin, &keys(), "registry", role.as_str()).await);
                }
                run(&mut admin, include_str!("registry.sql")).await;
                let ground = Self::new(admin, target, logins, Vec::new()).await;
                assert!(ground.rows["registry.tenants"] >= 100_000, "{:?}", ground.rows);
                ground
            })
            .await
    }

    async fn new(
        mut conn: PgConnection,
        admin: ConnectionTarget,
        logins: Vec<ConnectionTarget>,
        tenants: Vec<Uuid>,
    ) -> Self {
        let indexes = Indexes::read(&mut conn).await;
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT n.nspname || '.' || c.relname, c.reltuples::bigint
            FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
            WHERE n.nspname IN ('app', 'registry', 'tenant') AND c.relkind = 'r'",
        )
        .fetch_all(&mut conn)
        .await
        .expect("the catalogue can be read");
        conn.close().await.expect("the connection closes");
        Self { admin, logins, indexes, tenants, rows: rows.into_iter().collect() }
    }

    /// Tables of the statement that are held to have many rows and have few here, so that their plans say nothing.
    pub(crate) fn too_small(&self, statement: &Statement) -> Vec<String> {
        let few = |table: &&String| {
            !super::plan::stays_small(table) && self.rows.get(*table).is_some_and(|rows| *rows < MANY)
        };
        statement.tables.iter().filter(few).cloned().collect()
    }

    /// Someone who may run the statement as the owner, where no login of the platform's may: what is done while a
    /// database is set up or a tenant is admitted.
    pub(crate) async fn owner(&self) -> PgConnection {
        let mut conn = connect(&self.admin).await;
        sqlx::query(AssertSqlSafe("SET ROLE stagesub_owner".to_owned()))
            .execute(&mut conn)
            .await
            .expect("an administrator may be the owner");
        conn
    }
}
