//! Two databases on one server, and the mover's way to both.

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use stagesub_storage::catalogue::TableName;
use stagesub_storage::identity::Identity;
use stagesub_storage::moves::copy::{CopyProgress, CopySettings, TenantCopy};
use stagesub_storage::moves::plan::{Checks, Contents, MovePlan, PlanError};
use stagesub_storage::moves::session::{Site, application_prefix};
use stagesub_storage::target::ConnectionTarget;
use stagesub_tenancy::{DatabaseId, PoolTarget, TenantId};
use stagesub_tests::TestPlatform;
use stagesub_tests::cluster::keys;
use stagesub_tests::database::{connect, open_login, run};
use stagesub_tests::dedicated::Dedicated;
use tokio::sync::watch;
use uuid::Uuid;

/// A schema whose name has to be quoted with care.
pub(crate) const SHOP: &str = r#"Odd "Shop"#;

/// Tables of every kind of value. `made_before` stands for what gives the types other oids on one side.
const TABLES: &str = r#"
    SET ROLE stagesub_owner;
    CREATE SCHEMA "Odd ""Shop"; SET search_path = "Odd ""Shop";
    CREATE TYPE mood AS ENUM ('glad', 'sad', 'so "so"');
    CREATE TYPE spot AS (x integer, label text);
    CREATE DOMAIN price AS numeric CHECK (VALUE <> 7);
    CREATE TABLE country (code text PRIMARY KEY);
    INSERT INTO country VALUES ('SE'), ('NO');
    CREATE TABLE account (
        tenant_id uuid NOT NULL, "no" bigint NOT NULL, "e""mail" text NOT NULL, country text REFERENCES country,
        above bigint, amount numeric NOT NULL DEFAULT 0, half float8 NOT NULL DEFAULT 0,
        PRIMARY KEY (tenant_id, "no") INCLUDE (half), CONSTRAINT "account's e-mail" UNIQUE (tenant_id, "e""mail"),
        FOREIGN KEY (tenant_id, above) REFERENCES account (tenant_id, "no"));
    CREATE TABLE "A; hard one" (
        tenant_id uuid NOT NULL, name varchar(20) NOT NULL, id uuid NOT NULL, at timestamptz NOT NULL,
        amount numeric, gross numeric GENERATED ALWAYS AS (amount * 2) STORED, doc jsonb, plain json, words text[], grid integer[],
        raw bytea, half float8, day date, span interval, feeling mood, feelings mood[], place spot, cost price,
        cut char(5), flags bit(3), range int4range, address inet, story text, account bigint,
        PRIMARY KEY (tenant_id, name, id, at),
        FOREIGN KEY (tenant_id, account) REFERENCES account (tenant_id, "no") ON DELETE CASCADE);
    CREATE TABLE one_row (tenant_id uuid PRIMARY KEY, note text);
    CALL app.protect('account'); CALL app.protect('"A; hard one"'); CALL app.protect('one_row');
    CREATE VIEW accounts WITH (security_invoker) AS SELECT * FROM account;
    RESET ROLE; RESET search_path;"#;

/// A tenant's rows in them: `{T}` stands for it.
const ROWS: &str = r#"
    SET search_path = "Odd ""Shop";
    INSERT INTO account (tenant_id, "no", "e""mail", country, above)
    SELECT '{T}', n, n || '@a.example', CASE WHEN n % 3 = 0 THEN 'SE' END, CASE WHEN n > 1 THEN n / 2 END
    FROM generate_series(1, 200) AS n;
    INSERT INTO one_row VALUES ('{T}', E'a\ttab, a\nline and a \\');
    INSERT INTO "A; hard one"
        (tenant_id, name, id, at, amount, doc, plain, words, grid, raw, half, day, span, feeling, feelings, place, cost, cut, flags,
         range, address, story, account)
    VALUES
        ('{T}', '', '00000000-0000-0000-0000-000000000000', '-infinity', 'NaN', '{"a": [1.00, null]}', '{"b":1, "a":  2}',
         '{}', '{{1,2},{3,NULL}}', '', '-0', '-infinity', '1 mon -3 days', 'so "so"', '{glad,NULL}', '(1,"a ""b""")', 1.10, 'a',
         B'101', '[1,5)', '10.0.0.1/8', NULL, 1),
        ('{T}', 'Åsa "A" \', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'infinity', '1.000', 'null', 'null', '{NULL,"NULL",""}',
         '[0:1]={7,8}', '\x00ff0a', 'NaN', 'infinity', '-1 year', NULL, '{}', NULL, NULL, NULL, NULL, 'empty', '::1', '', NULL),
        ('{T}', 'BC', '00000000-0000-0000-0000-000000000001', '0044-03-15 12:00:00 BC', -12345678901234567890.0123456789, '[]', NULL,
         NULL, NULL, NULL, 'Infinity', '0001-01-01 BC', NULL, 'sad', NULL, '(,)', NULL, 'abcde', NULL, NULL, NULL,
         (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 4000) AS n), 200);
    INSERT INTO "A; hard one" (tenant_id, name, id, at, half, amount)
    SELECT '{T}', 'many ' || n, '00000000-0000-0000-0000-000000000002', timestamptz '2026-01-01' + n * interval '1 microsecond', n / 3.0, n
    FROM generate_series(1, 300) AS n;
    RESET search_path;"#;

/// A platform's shared database, another one beside it, and the mover of a move from the first to the second.
pub(crate) struct Pair {
    pub(crate) platform: TestPlatform,
    pub(crate) move_id: Uuid,
    pub(crate) source: Site,
    pub(crate) target: Site,
    source_admin: ConnectionTarget,
    target_admin: ConnectionTarget,
}

impl Pair {
    pub(crate) async fn start() -> Self {
        Self::on(TestPlatform::start().await).await
    }

    /// Of a platform that makes no more tenants: the other database is no home for them.
    pub(crate) async fn on(platform: TestPlatform) -> Self {
        let target = Dedicated::group(&platform, "pair").await.make_shared(&[]).await;
        let mut registry = connect(platform.registry()).await;
        let mover = open_login(&mut registry, &keys(), "shared", "stagesub_mover").await;
        let (name, source): (String, Uuid) =
            sqlx::query_as("SELECT name, id FROM registry.databases WHERE kind = 'shared' AND id <> $1")
                .bind(target.as_uuid())
                .fetch_one(&mut registry)
                .await
                .unwrap();
        let there: String = sqlx::query_scalar("SELECT name FROM registry.databases WHERE id = $1")
            .bind(target.as_uuid())
            .fetch_one(&mut registry)
            .await
            .unwrap();
        let move_id = Uuid::now_v7();
        let site = |name: &str, id| {
            Site::new(move_id, mover.with_database(name), Identity::of(&PoolTarget::Shared(id)))
        };
        Self {
            move_id,
            source: site(&name, DatabaseId::from_uuid(source)),
            target: site(&there, target),
            source_admin: platform.registry().with_database(&name),
            target_admin: platform.registry().with_database(&there),
            platform,
        }
    }

    /// With a shop's tables on both sides, whose types have other oids there, and the rows of some tenants on the
    /// source.
    pub(crate) async fn with_shop(tenants: &[TenantId]) -> Self {
        let pair = Self::start().await;
        pair.on_target("CREATE TYPE public.made_before AS ENUM ('x')").await;
        pair.on_both(TABLES).await;
        for tenant in tenants {
            pair.on_source(&ROWS.replace("{T}", &tenant.to_string())).await;
        }
        pair
    }

    /// As the administrator.
    pub(crate) async fn on_source(&self, sql: &str) {
        run(&mut connect(&self.source_admin).await, sql).await;
    }

    /// As the administrator.
    pub(crate) async fn on_target(&self, sql: &str) {
        run(&mut connect(&self.target_admin).await, sql).await;
    }

    pub(crate) async fn on_both(&self, sql: &str) {
        self.on_source(sql).await;
        self.on_target(sql).await;
    }

    /// What a side holds of a tenant, as the administrator sees it: every column of every row.
    pub(crate) async fn rows(&self, on_target: bool, table: &str, tenant: TenantId) -> Vec<String> {
        let admin = if on_target { &self.target_admin } else { &self.source_admin };
        let sql = format!("SELECT t::text FROM {table} AS t WHERE tenant_id = $1 ORDER BY 1");
        let mut conn = connect(admin).await;
        run(&mut conn, "SET extra_float_digits = 1").await;
        sqlx::query_scalar(AssertSqlSafe(sql)).bind(tenant.as_uuid()).fetch_all(&mut conn).await.unwrap()
    }

    pub(crate) async fn target_conn(&self) -> PgConnection {
        connect(&self.target_admin).await
    }

    /// The hard table's names in the order of its key.
    pub(crate) async fn ordered_names(&self, on_target: bool, tenant: TenantId) -> Vec<String> {
        let admin = if on_target { &self.target_admin } else { &self.source_admin };
        sqlx::query_scalar(
            r#"SELECT name::text FROM "Odd ""Shop"."A; hard one" AS t WHERE tenant_id = $1 ORDER BY t.name"#,
        )
        .bind(tenant.as_uuid())
        .fetch_all(&mut connect(admin).await)
        .await
        .unwrap()
    }

    pub(crate) async fn plan_of(&self, schemas: &[&str]) -> Result<MovePlan, PlanError> {
        plan(&self.source, schemas, Checks::Kept).await
    }

    pub(crate) async fn target_plan_of(&self, schemas: &[&str]) -> Result<MovePlan, PlanError> {
        plan(&self.target, schemas, Checks::Kept).await
    }

    /// Of the platform's schema and the shop's.
    pub(crate) async fn plan(&self) -> MovePlan {
        self.plan_of(&["tenant", SHOP]).await.unwrap()
    }

    /// Holds a snapshot of the source for as long as the connection is there.
    pub(crate) async fn snapshot(&self) -> (PgConnection, String) {
        export(&self.source_admin).await
    }

    /// Copies a tenant from now.
    pub(crate) async fn copied(&self, plan: &MovePlan, tenant: TenantId) -> CopyProgress {
        let (holder, snapshot) = self.snapshot().await;
        let settings = CopySettings::default();
        let copy =
            TenantCopy::open(&self.source, &self.target, plan, tenant, &snapshot, &settings).await.unwrap();
        // The streams stand in the snapshot; nobody else needs to hold it.
        holder.close().await.unwrap();
        copy.run(&watch::Sender::new(CopyProgress::default())).await.unwrap()
    }

    /// The move's sessions on both sides, which are on one server.
    pub(crate) async fn sessions(&self) -> i64 {
        self.sessions_for("", &mut connect(&self.source_admin).await).await
    }

    /// Those that do something.
    async fn sessions_for(&self, what: &str, conn: &mut PgConnection) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, $1)")
            .bind(format!("{}{what}", application_prefix(self.move_id)))
            .fetch_one(conn)
            .await
            .unwrap()
    }

    /// Waits for that. What they read is counted by then.
    pub(crate) async fn sessions_are_gone(&self) {
        while self.sessions().await > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Waits until nobody reads for a copy.
    pub(crate) async fn readers_are_gone(&self) {
        let mut conn = connect(&self.source_admin).await;
        while self.sessions_for("copy-out", &mut conn).await > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// What sessions that have ended read of the shop's tables.
    pub(crate) async fn reads(&self, on_target: bool) -> Reads {
        let admin = if on_target { &self.target_admin } else { &self.source_admin };
        let (table_scans, index_entries) = sqlx::query_as(
            "SELECT sum(seq_scan)::bigint,
                (SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE schemaname = $1)
            FROM pg_stat_user_tables WHERE schemaname = $1",
        )
        .bind(SHOP)
        .fetch_one(&mut connect(admin).await)
        .await
        .unwrap();
        Reads { table_scans, index_entries }
    }
}

/// What was read of the tables of a database.
pub(crate) struct Reads {
    pub(crate) table_scans: i64,
    pub(crate) index_entries: i64,
}

/// The shop's tables and those of no tenant.
pub(crate) fn contents(schemas: &[&str]) -> Contents {
    let country = TableName { schema: SHOP.to_owned(), name: "country".to_owned() };
    Contents { schemas: schemas.iter().map(ToString::to_string).collect(), reference_tables: vec![country] }
}

pub(crate) async fn plan(site: &Site, schemas: &[&str], checks: Checks) -> Result<MovePlan, PlanError> {
    let mut session = site.open("plan").await.unwrap();
    let plan = MovePlan::read(&mut session, &contents(schemas), checks).await;
    session.close().await;
    plan
}

/// Exports a snapshot, which lives as long as the connection.
pub(crate) async fn export(admin: &ConnectionTarget) -> (PgConnection, String) {
    let mut conn = connect(admin).await;
    run(&mut conn, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await;
    let name = sqlx::query_scalar("SELECT pg_export_snapshot()").fetch_one(&mut conn).await.unwrap();
    (conn, name)
}

/// Tenants that no registry knows.
pub(crate) fn tenants<const N: usize>() -> [TenantId; N] {
    std::array::from_fn(|_| TenantId::from_uuid(Uuid::now_v7()))
}
