//! Schemas of services that knew no tenants, put behind the fence: what comes out is attacked, and what cannot be
//! adopted is left as it was.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection};
use stagesub_storage::adopt::{AdoptError, Adoption, Plan, adopt, plan};
use stagesub_storage::catalogue::TableName;
use stagesub_storage::doctor::examine;
use stagesub_storage::fence::admit_tenant;
use stagesub_storage::logins::{DatabaseLogins, LoginRole};
use stagesub_storage::prove::DatabaseProof;
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_storage::target::ConnectionTarget;
use stagesub_tenancy::{DatabaseId, PlacementEpoch, TenantId};
use stagesub_tests::database::connect;
use uuid::Uuid;

use crate::registry::Server;

mod cli;
mod refused;

/// The database of tenants on a [`Server`].
const SHARED: &str = "shr";
/// A schema whose name has to be quoted with care.
const SHOP: &str = r#"Odd "Shop"#;

/// Ten tables of a shop that had one owner, one login, and customers who were known by `client` in one table alone.
const LEGACY: &str = r#"
    CREATE ROLE legacy_owner; CREATE ROLE legacy_app LOGIN;
    CREATE SCHEMA "Odd ""Shop" AUTHORIZATION legacy_owner;
    ALTER DEFAULT PRIVILEGES FOR ROLE legacy_owner IN SCHEMA "Odd ""Shop" GRANT ALL ON TABLES TO legacy_app;
    SET ROLE legacy_owner; SET search_path = "Odd ""Shop";
    GRANT USAGE ON SCHEMA "Odd ""Shop" TO legacy_app, PUBLIC;
    CREATE FUNCTION price_ok(numeric) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN $1 >= 0;
    CREATE TABLE country (code text PRIMARY KEY);
    CREATE TABLE account (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, client uuid NOT NULL, email text NOT NULL,
        country text NOT NULL REFERENCES country, nick text NOT NULL, active boolean NOT NULL DEFAULT true,
        CONSTRAINT "account's email" UNIQUE (email));
    CREATE UNIQUE INDEX "lower USING btree (" ON account (lower(nick)) WHERE active;
    CREATE INDEX account_active ON account (active) INCLUDE (email);
    CREATE TABLE category (
        id serial PRIMARY KEY, above integer REFERENCES category ON DELETE SET NULL, name text NOT NULL);
    CREATE INDEX category_name ON category USING hash (name);
    CREATE TABLE "Order; DROP TABLE account" (
        "no" bigint PRIMARY KEY, account bigint NOT NULL REFERENCES account ON DELETE CASCADE,
        "referred ""by" bigint REFERENCES account ON DELETE SET NULL, placed timestamptz NOT NULL DEFAULT now());
    CREATE INDEX ON "Order; DROP TABLE account" (placed DESC NULLS LAST);
    CREATE TABLE line (
        "order" bigint NOT NULL REFERENCES "Order; DROP TABLE account" ON DELETE CASCADE, position integer NOT NULL,
        price numeric NOT NULL CHECK (price_ok(price)), gross numeric GENERATED ALWAYS AS (price * 1.25) STORED,
        PRIMARY KEY ("order", position) INCLUDE (price));
    CREATE TABLE product (
        sku text PRIMARY KEY, category integer REFERENCES category (id) ON UPDATE CASCADE ON DELETE SET NULL, note text);
    CREATE TABLE tag (id integer PRIMARY KEY, label text, UNIQUE NULLS NOT DISTINCT (label));
    CREATE TABLE product_tag (
        sku text REFERENCES product ON UPDATE CASCADE ON DELETE CASCADE,
        tag integer REFERENCES tag DEFERRABLE INITIALLY DEFERRED, PRIMARY KEY (sku, tag));
    CREATE TABLE "empty" (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), word text UNIQUE DEFERRABLE);
    CREATE TABLE pair (a integer, b integer, tenant_id uuid, PRIMARY KEY (a, tenant_id), UNIQUE (b, tenant_id), above integer,
        FOREIGN KEY (above, tenant_id) REFERENCES pair (a, tenant_id) ON DELETE SET NULL (above));
    CREATE VIEW open_orders WITH (security_invoker) AS SELECT "no", account FROM "Order; DROP TABLE account";
    RESET ROLE; RESET search_path;"#;

/// Rows of two customers where the shop knew customers, and of nobody where it did not.
const ROWS: &str = r#"
    SET search_path = "Odd ""Shop";
    INSERT INTO country VALUES ('SE'), ('NO');
    INSERT INTO account (client, email, country, nick) VALUES ('{A}', 'a@a.example', 'SE', 'Ann'), ('{B}', 'b@b.example', 'NO', 'Bo');
    INSERT INTO "Order; DROP TABLE account" VALUES (1, 1, 1), (2, 2, NULL);
    INSERT INTO line VALUES (1, 1, 10), (2, 1, 20);
    INSERT INTO category (name) VALUES ('Top'); INSERT INTO category (above, name) VALUES (1, 'Below');
    INSERT INTO product VALUES ('x', 2); INSERT INTO tag VALUES (1, 'new'), (2, NULL); INSERT INTO product_tag VALUES ('x', 1);
    INSERT INTO pair VALUES (1, 1, '{A}', NULL), (2, 2, '{A}', 1);
    RESET search_path;"#;

/// The other customer's rows, in every table, once there are tenants; with the ids that the first one has.
const ROWS_OF_THE_OTHER: &str = r#"
    SET search_path = "Odd ""Shop";
    INSERT INTO category (tenant_id, id, name) VALUES ('{B}', 1, 'Top');
    INSERT INTO product (tenant_id, sku, category) VALUES ('{B}', 'x', 1);
    INSERT INTO tag (tenant_id, id, label) VALUES ('{B}', 1, 'new');
    INSERT INTO product_tag (tenant_id, sku, tag) VALUES ('{B}', 'x', 1);
    INSERT INTO "empty" (tenant_id, word) VALUES ('{A}', 'w'), ('{B}', 'w');
    INSERT INTO pair (tenant_id, a, b) VALUES ('{B}', 1, 1);
    RESET search_path;"#;

/// A server with a schema to adopt, and two tenants.
struct Shop {
    server: Server,
    a: TenantId,
    b: TenantId,
    app: ConnectionTarget,
    migrator: ConnectionTarget,
}

impl Shop {
    /// With these tables and these rows, in which `{A}` and `{B}` stand for the tenants.
    async fn with(tables: &str, rows: &str) -> Self {
        let server = Server::installed().await;
        let id: Uuid = sqlx::query_scalar("SELECT database_id FROM app.marker")
            .fetch_one(&mut server.connect(SHARED).await)
            .await
            .unwrap();
        let logins = PgDatabaseLogins::new(server.open().await, server.keys.clone());
        let database = DatabaseId::from_uuid(id);
        let app = logins.find_login(database, LoginRole::App).await.unwrap().unwrap();
        let migrator = logins.find_login(database, LoginRole::Migrator).await.unwrap().unwrap();
        let [a, b] = [1, 2].map(|n| TenantId::from_uuid(Uuid::from_u128(n)));
        for tenant in [a, b] {
            admit_tenant(&migrator, tenant, PlacementEpoch(1)).await.unwrap();
        }
        let shop = Self { server, a, b, app, migrator };
        shop.run(tables).await;
        shop.run(rows).await;
        shop
    }

    async fn legacy() -> Self {
        Self::with(LEGACY, ROWS).await
    }

    async fn run(&self, sql: &str) {
        let sql = sql.replace("{A}", &self.a.to_string()).replace("{B}", &self.b.to_string());
        self.server.run(SHARED, &sql).await;
    }

    /// As an administrator.
    async fn adopt(&self, adoption: &Adoption) -> Result<Plan, AdoptError> {
        let mut conn = self.server.connect(SHARED).await;
        let done = adopt(&mut conn, adoption).await;
        conn.close().await.unwrap();
        done
    }

    async fn plan(&self, adoption: &Adoption) -> Result<Plan, AdoptError> {
        let mut conn = self.server.connect(SHARED).await;
        let planned = plan(&mut conn, adoption).await;
        conn.close().await.unwrap();
        planned
    }

    /// Everything that the doctor finds, the whole server's included.
    async fn findings(&self, adoption: &Adoption) -> Vec<String> {
        let mut conn = self.server.connect(SHARED).await;
        let report = examine(&mut conn, &adoption.expectations()).await.unwrap();
        report.findings().iter().map(|finding| format!("{finding}\n{}", finding.mend)).collect()
    }

    /// Definitions, owners, privileges, policies and rows of everything outside the system's schemas.
    async fn state(&self) -> Vec<String> {
        let facts = "
            SELECT concat_ws(' ', n.nspname, c.relname, c.relkind, c.relowner, c.relacl, c.relrowsecurity, c.relforcerowsecurity,
                (SELECT string_agg(concat_ws(' ', a.attname, a.attnotnull, a.attacl), ',' ORDER BY a.attnum) FROM pg_attribute AS a WHERE a.attrelid = c.oid),
                (SELECT string_agg(k.conname || pg_get_constraintdef(k.oid), ',' ORDER BY k.oid) FROM pg_constraint AS k WHERE k.conrelid = c.oid),
                (SELECT string_agg(p.polname, ',' ORDER BY p.oid) FROM pg_policy AS p WHERE p.polrelid = c.oid), c.relfilenode)
            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
            UNION ALL SELECT concat_ws(' ', nspname, nspowner, nspacl) FROM pg_namespace WHERE nspname !~ '^pg_'
            ORDER BY 1";
        self.server.texts(SHARED, facts).await
    }

    /// A statement of the application's, bound to a tenant: rows, or the SQLSTATE that it met. Nothing is kept.
    async fn as_tenant(&self, tenant: TenantId, sql: &str) -> Result<u64, String> {
        let mut conn = connect(&self.app).await;
        let begin = format!("BEGIN; SET LOCAL app.tenant_id = '{tenant}'; CALL app.enter(1)");
        sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut conn).await.unwrap();
        let sql = sql.replace("{A}", &self.a.to_string()).replace("{B}", &self.b.to_string());
        let done = sqlx::query(AssertSqlSafe(sql)).execute(&mut conn).await;
        let done = done.map(|done| done.rows_affected());
        done.map_err(|error| stagesub_storage::error::sqlstate(&error).unwrap_or_default().into_owned())
    }
}

/// What the shop's owner decides.
fn decided(shop: &Shop) -> Adoption {
    Adoption::of(SHOP).reference_table("country").tenant_column("client").tenant(shop.a)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_every_oddity_is_adopted_and_holds() {
    let shop = Shop::legacy().await;
    let adoption = decided(&shop);
    let planned = shop.plan(&adoption).await.unwrap();
    let done = shop.adopt(&adoption).await.unwrap();
    assert_eq!(planned.decisions, []);
    // What was printed is what was done, but for the locks.
    assert_eq!(done.steps, planned.steps);
    assert_eq!(shop.findings(&adoption).await, [""; 0]);

    // Rows are the tenants' that the rows they belong to are; the others' whom they were given to.
    let whose = shop
        .server
        .texts(
            SHARED,
            r#"SELECT concat_ws(' ', "order", tenant_id = (SELECT tenant_id FROM "Odd ""Shop".account WHERE id = "order"))
            FROM "Odd ""Shop".line ORDER BY 1"#,
        )
        .await;
    assert_eq!(whose, ["1 t", "2 t"]);

    shop.run(ROWS_OF_THE_OTHER).await;
    // The kit attacks tables; what the view shows is asked below.
    shop.run(r#"DROP VIEW "Odd ""Shop".open_orders"#).await;
    let table = |name: &str| TableName { schema: SHOP.to_owned(), name: name.to_owned() };
    for (attacker, victim) in [(shop.a, shop.b), (shop.b, shop.a)] {
        let proof = DatabaseProof::new(shop.app.clone(), attacker, victim)
            .schemas([SHOP])
            .reference_tables([table("country")])
            .owner(shop.migrator.clone())
            .run()
            .await
            .unwrap();
        assert!(proof.passed(), "{:#?}", proof.failures().collect::<Vec<_>>());
        for name in [
            "account",
            "category",
            "Order; DROP TABLE account",
            "line",
            "product",
            "tag",
            "product_tag",
            "pair",
        ] {
            let name = table(name).to_string();
            assert!(
                proof.attacks().iter().any(|attack| attack.target.starts_with(&name)),
                "{name} was not attacked"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_schema_works_on_for_its_own_tenants() {
    let shop = Shop::legacy().await;
    shop.adopt(&decided(&shop)).await.unwrap();
    shop.run(ROWS_OF_THE_OTHER).await;
    let own = |sql: &'static str| shop.as_tenant(shop.b, sql);

    // Serial, identity, computed columns and functions of checks go on working.
    assert_eq!(
        own(r#"INSERT INTO "Odd ""Shop".category (tenant_id, name) VALUES ('{B}', 'New')"#).await,
        Ok(1)
    );
    assert_eq!(own(r#"INSERT INTO "Odd ""Shop".account (tenant_id, email, country, nick) VALUES ('{B}', 'c@c.example', 'SE', 'Cia')"#).await, Ok(1));
    assert_eq!(
        own(r#"INSERT INTO "Odd ""Shop".line (tenant_id, "order", position, price) VALUES ('{B}', 2, 2, 5)"#)
            .await,
        Ok(1)
    );
    assert_eq!(
        own(
            r#"INSERT INTO "Odd ""Shop".line (tenant_id, "order", position, price) VALUES ('{B}', 2, 2, -5)"#
        )
        .await,
        Err("23514".into())
    );
    assert_eq!(own(r#"UPDATE "Odd ""Shop".product SET note = 'n'"#).await, Ok(1));
    assert_eq!(own(r#"SELECT FROM "Odd ""Shop".open_orders"#).await, Ok(1));
    assert_eq!(own(r#"SELECT FROM "Odd ""Shop".country"#).await, Ok(2));

    // What was unique for all is unique for each: somebody else's address does not show by being taken.
    assert_eq!(own(r#"INSERT INTO "Odd ""Shop".account (tenant_id, email, country, nick) VALUES ('{B}', 'a@a.example', 'SE', 'Ann')"#).await, Ok(1));
    assert_eq!(own(r#"INSERT INTO "Odd ""Shop".account (tenant_id, email, country, nick) VALUES ('{B}', 'd@d.example', 'SE', 'BO')"#).await, Err("23505".into()));
    // NULLS NOT DISTINCT and DEFERRABLE are what they were.
    let definitions = shop
        .server
        .texts(SHARED, "SELECT pg_get_constraintdef(oid) FROM pg_constraint
             WHERE conname IN ('tag_label_key', 'empty_word_key', 'line_pkey', 'product_tag_tag_fkey') ORDER BY conname")
        .await;
    assert_eq!(
        definitions,
        [
            "UNIQUE (tenant_id, word) DEFERRABLE",
            "PRIMARY KEY (tenant_id, \"order\", \"position\") INCLUDE (price)",
            "FOREIGN KEY (tenant_id, tag) REFERENCES \"Odd \"\"Shop\".tag(tenant_id, id) DEFERRABLE INITIALLY DEFERRED",
            "UNIQUE NULLS NOT DISTINCT (tenant_id, label)",
        ]
    );

    // A delete clears what pointed there, and never whose the row is; and it goes no further than the tenant.
    assert_eq!(own(r#"DELETE FROM "Odd ""Shop".category WHERE id = 1"#).await, Ok(1));
    shop.run(r#"DELETE FROM "Odd ""Shop".category WHERE id = 1 AND tenant_id = '{A}'"#).await;
    let left = r#"SELECT concat_ws(' ', tenant_id = '00000000-0000-0000-0000-000000000001', category) FROM "Odd ""Shop".product ORDER BY 1"#;
    assert_eq!(shop.server.texts(SHARED, left).await, ["f 1", "t 2"]);

    // The attacks, one by one: reading, planting, giving away, hanging on, deleting by a reference.
    assert_eq!(own(r#"SELECT FROM "Odd ""Shop".account WHERE tenant_id = '{A}'"#).await, Ok(0));
    assert_eq!(
        own(r#"INSERT INTO "Odd ""Shop".tag (tenant_id, id) VALUES ('{A}', 9)"#).await,
        Err("42501".into())
    );
    assert_eq!(own(r#"UPDATE "Odd ""Shop".tag SET tenant_id = '{A}'"#).await, Err("42501".into()));
    assert_eq!(own(r#"UPDATE "Odd ""Shop".tag SET id = 9"#).await, Err("42501".into()));
    assert_eq!(own(r#"INSERT INTO "Odd ""Shop"."Order; DROP TABLE account" (tenant_id, "no", account) VALUES ('{B}', 3, 1)"#).await, Err("23503".into()));
    assert_eq!(own(r#"TRUNCATE "Odd ""Shop".account CASCADE"#).await, Err("42501".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_has_nothing_to_do() {
    let shop = Shop::legacy().await;
    let adoption = decided(&shop);
    assert!(!shop.adopt(&adoption).await.unwrap().is_empty());
    let before = shop.state().await;
    assert_eq!(shop.adopt(&adoption).await.unwrap(), Plan::default());
    assert_eq!(shop.plan(&adoption).await.unwrap().to_sql(), "");
    // Not even for the login that will make its next tables.
    let mut migrator = connect(&shop.migrator).await;
    assert_eq!(
        adopt(&mut migrator, &Adoption::of(SHOP).reference_table("country")).await.unwrap(),
        Plan::default()
    );
    assert_eq!(shop.state().await, before);

    // A table that is added later is adopted by the same command, as the migrator, and the others are left alone.
    // (Its reference is made by a superuser: policies that are forced hold the owner too.)
    let later = r#"CREATE TABLE "Odd ""Shop".later (id integer PRIMARY KEY, sku text, tenant_id uuid);
        INSERT INTO "Odd ""Shop".later VALUES (1, 'x', '{A}');
        ALTER TABLE "Odd ""Shop".later ADD FOREIGN KEY (tenant_id, sku) REFERENCES "Odd ""Shop".product ON DELETE CASCADE;
        ALTER TABLE "Odd ""Shop".later OWNER TO stagesub_owner"#;
    shop.run(later).await;
    let done = adopt(&mut migrator, &Adoption::of(SHOP).reference_table("country")).await.unwrap();
    assert!(
        done.steps.iter().all(|step| !step.object.contains("account") || step.sql.contains("FORCE")),
        "{done:#?}"
    );
    assert_eq!(shop.findings(&adoption).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_script_does_the_same() {
    let shop = Shop::legacy().await;
    let adoption = decided(&shop);
    let script = shop.plan(&adoption).await.unwrap().to_sql();
    shop.server.run(SHARED, &script).await;
    assert_eq!(shop.plan(&adoption).await.unwrap(), Plan::default());
    assert_eq!(shop.findings(&adoption).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn planning_changes_nothing() {
    let shop = Shop::legacy().await;
    let before = shop.state().await;
    shop.plan(&decided(&shop)).await.unwrap();
    assert_eq!(shop.state().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_across_tenants_fails_and_leaves_everything_as_it_was() {
    let shop = Shop::legacy().await;
    // The first customer's order was referred by the other's account.
    shop.run(r#"UPDATE "Odd ""Shop"."Order; DROP TABLE account" SET "referred ""by" = 2 WHERE "no" = 1"#)
        .await;
    let before = shop.state().await;
    let failed = shop.adopt(&decided(&shop)).await;
    let Err(AdoptError::Statement { sql, source }) = failed else { panic!("{failed:?}") };
    assert!(sql.contains("FOREIGN KEY") && sql.contains("referred"), "{sql}");
    assert_eq!(stagesub_storage::error::sqlstate(&source).as_deref(), Some("23503"));
    assert_eq!(shop.state().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_in_use_is_not_waited_for_long() {
    let shop = Shop::legacy().await;
    let before = shop.state().await;
    let mut reader = shop.server.connect(SHARED).await;
    let hold = r#"BEGIN; SELECT FROM "Odd ""Shop".line"#;
    sqlx::raw_sql(hold).execute(&mut reader).await.unwrap();
    let patient = decided(&shop).lock_timeout(Duration::from_millis(50));
    let busy = shop.adopt(&patient).await;
    assert!(matches!(&busy, Err(AdoptError::Busy { .. })), "{busy:?}");
    sqlx::raw_sql("ROLLBACK").execute(&mut reader).await.unwrap();
    assert_eq!(shop.state().await, before);
    shop.adopt(&patient).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_rows_they_are_is_asked_of_those_who_know() {
    let shop = Shop::legacy().await;
    let undecided = Adoption::of(SHOP).reference_table("country").tenant_column("client");
    let asked = shop.plan(&undecided).await.unwrap().decisions;
    let asked: BTreeSet<&str> = asked.iter().map(|decision| decision.table.as_str()).collect();
    // Lines and orders belong to accounts, and nothing is in the one that is empty.
    let wanted = [r#"Odd "Shop.category"#, r#"Odd "Shop.product"#, r#"Odd "Shop.tag"#];
    assert_eq!(asked, BTreeSet::from(wanted));
    let before = shop.state().await;
    assert!(matches!(shop.adopt(&undecided).await, Err(AdoptError::Undecided(asked)) if asked.len() == 3));
    assert_eq!(shop.state().await, before);
}
