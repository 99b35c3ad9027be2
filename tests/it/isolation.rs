//! The third and fourth fence: PostgreSQL itself, asked as the application's login, about every table that its
//! catalogue names. No list of tables stands here, so one that is added without its fence fails.

pub(crate) mod seeded;

use std::future::ready;

use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, PgConnection};
use stagesub_storage::catalogue::{self, Table, TableName, faults, parents_first};
use stagesub_storage::repo::CONSTRAINTS;
use stagesub_tenancy::TenantId;
use stagesub_tests::database::{connect, run};

use crate::tenant_tx::lab::{Lab, scalar, sqlstate};

/// What a connection may be bound to when no tenant is.
const UNBOUND: [(&str, &str); 3] = [
    ("never bound", ""),
    ("bound to nothing", "SET app.tenant_id = ''"),
    ("bound to garbage", "SET app.tenant_id = 'x'' OR 1=1 --'"),
];
/// The setting is unknown; its text is no UUID.
const NO_TENANT: [&str; 2] = ["42704", "22P02"];
const NO_PRIVILEGE: &str = "42501";

async fn tenant_tables(lab: &Lab) -> Vec<Table> {
    let mut admin = connect(&lab.admin).await;
    catalogue::read(&mut admin, &["tenant".to_owned()]).await.expect("the catalogue can be read")
}

/// How many rows a statement touched, or the SQLSTATE of its refusal.
async fn try_sql(conn: &mut PgConnection, sql: &str) -> Result<u64, String> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(conn)
        .await
        .map(|done| done.rows_affected())
        .map_err(|error| sqlstate(&error))
}

/// The same of a copy to the client.
async fn try_copy(conn: &mut PgConnection, table: &TableName) -> Result<(), String> {
    let copied = async {
        conn.copy_out_raw(&format!("COPY {table} TO STDOUT")).await?.try_for_each(|_| ready(Ok(()))).await
    };
    copied.await.map_err(|error| sqlstate(&error))
}

/// The application's login, with this said first.
async fn as_app(lab: &Lab, first: &str) -> PgConnection {
    let mut conn = connect(&lab.app).await;
    run(&mut conn, first).await;
    conn
}

async fn as_tenant(lab: &Lab, tenant: TenantId) -> PgConnection {
    as_app(lab, &format!("SET app.tenant_id = '{tenant}'")).await
}

/// A column that the application may change, if there is one.
async fn changeable(admin: &mut PgConnection, table: &Table) -> Option<String> {
    for column in &table.columns {
        let may = format!(
            "SELECT has_column_privilege('stagesub_app', '{}', '{}', 'UPDATE')",
            table.name, column.name
        );
        if scalar(admin, &may).await {
            return Some(format!("\"{}\"", column.name));
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_keeps_the_rules_of_tenant_tables() {
    let lab = Lab::start(1).await;
    let tables = tenant_tables(&lab).await;
    assert!(!tables.is_empty());
    let broken: Vec<String> = faults(&tables, &[]).iter().map(ToString::to_string).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    for table in &tables {
        for column in ["created_at", "updated_at"] {
            assert!(table.columns.iter().any(|c| c.name == column && c.not_null), "{}: {column}", table.name);
        }
    }
    let ordered = parents_first(tables).expect("an order to copy in");
    let place = |name: &str| ordered.iter().position(|table| table.name.name == name).expect(name);
    assert!(place("instrument") < place("position"));
    assert!(place("musician") < place("musician_qualification"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_its_fence_is_found() {
    let lab = Lab::start(1).await;
    run(
        &mut connect(&lab.admin).await,
        "SET ROLE stagesub_owner;
         CREATE TABLE tenant.forgotten (no bigint PRIMARY KEY, of bigint REFERENCES tenant.forgotten);
         CREATE VIEW tenant.window AS SELECT * FROM tenant.musician;
         ALTER TABLE tenant.project NO FORCE ROW LEVEL SECURITY;
         CREATE POLICY wide ON tenant.musician USING (true)",
    )
    .await;
    let broken = faults(&tenant_tables(&lab).await, &[]);
    for name in ["forgotten", "window", "project", "musician"] {
        assert!(broken.iter().any(|fault| fault.table.name == name), "{name}: {broken:?}");
    }
    let listed = TableName { schema: "tenant".to_owned(), name: "forgotten".to_owned() };
    assert!(
        faults(&tenant_tables(&lab).await, &[listed]).iter().all(|fault| fault.table.name != "forgotten")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_constraint_that_use_cases_act_on_exists() {
    let lab = Lab::start(1).await;
    let mut admin = connect(&lab.admin).await;
    for (name, constraint) in CONSTRAINTS {
        let known = format!(
            "SELECT EXISTS (SELECT FROM pg_constraint WHERE connamespace = 'tenant'::regnamespace AND conname = '{name}')
                 OR EXISTS (SELECT FROM pg_class AS c JOIN pg_index AS i ON i.indexrelid = c.oid
                            WHERE c.relnamespace = 'tenant'::regnamespace AND c.relname = '{name}' AND i.indisunique)"
        );
        assert!(scalar::<bool>(&mut admin, &known).await, "{name} ({constraint:?})");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_tenant_bound_every_table_refuses_everything() {
    let lab = seeded::lab().await;
    let tenant = lab.scopes[0].tenant_id();
    let mut admin = connect(&lab.admin).await;
    for table in tenant_tables(&lab).await {
        let name = &table.name;
        let column = changeable(&mut admin, &table).await;
        for (how, first) in UNBOUND {
            let mut conn = as_app(&lab, first).await;
            for sql in [
                format!("SELECT * FROM {name}"),
                format!("SELECT count(*) FROM {name}"),
                format!("SELECT * FROM {name} WHERE tenant_id = '{tenant}'"),
                format!("INSERT INTO {name} (tenant_id) VALUES ('{tenant}')"),
            ] {
                let answer = try_sql(&mut conn, &sql).await;
                assert!(
                    matches!(&answer, Err(code) if NO_TENANT.contains(&code.as_str())),
                    "{how}: {sql}: {answer:?}"
                );
            }
            let answer = try_copy(&mut as_app(&lab, first).await, name).await;
            assert!(
                matches!(&answer, Err(code) if NO_TENANT.contains(&code.as_str())),
                "{how}: {name}: {answer:?}"
            );
            let update = format!("UPDATE {name} SET {0} = {0}", column.as_deref().unwrap_or("created_at"));
            for sql in [update, format!("DELETE FROM {name}")] {
                let answer = try_sql(&mut conn, &sql).await;
                let refused = matches!(&answer, Err(code) if NO_TENANT.contains(&code.as_str()) || code == NO_PRIVILEGE);
                assert!(refused, "{how}: {sql}: {answer:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bound_to_another_tenant_every_table_hides_and_protects_the_row() {
    let lab = seeded::lab().await;
    let [ours, theirs] = [0, 1].map(|n| lab.scopes[n].tenant_id());
    let mut admin = connect(&lab.admin).await;
    for table in tenant_tables(&lab).await {
        let name = &table.name;
        let count = |tenant| format!("SELECT count(*) FROM {name} WHERE tenant_id = '{tenant}'");
        let digest = format!(
            "SELECT md5(string_agg(t::text || t.xmin, '|' ORDER BY t::text)) FROM {name} AS t WHERE tenant_id = '{ours}'"
        );
        let rows: [i64; 2] =
            [scalar(&mut admin, &count(ours)).await, scalar(&mut admin, &count(theirs)).await];
        assert!(
            rows.iter().all(|rows| *rows > 0),
            "{name} has rows of both tenants: isolation/seeded.rs must make some"
        );
        let before: String = scalar(&mut admin, &digest).await;
        let column = changeable(&mut admin, &table).await;

        let mut conn = as_tenant(&lab, theirs).await;
        assert_eq!(
            scalar::<i64>(&mut conn, &format!("SELECT count(*) FROM {name}")).await,
            rows[1],
            "{name}"
        );
        assert_eq!(scalar::<i64>(&mut conn, &count(ours)).await, 0, "{name}");
        let insert = format!("INSERT INTO {name} (tenant_id) VALUES ('{ours}')");
        assert_eq!(try_sql(&mut conn, &insert).await, Err(NO_PRIVILEGE.to_owned()), "{insert}");
        let whole = format!("INSERT INTO {name} SELECT * FROM {name} WHERE tenant_id = '{ours}'");
        assert_eq!(try_sql(&mut conn, &whole).await, Ok(0), "{whole}");
        let steal = format!("UPDATE {name} SET tenant_id = '{theirs}'");
        assert_eq!(try_sql(&mut conn, &steal).await, Err(NO_PRIVILEGE.to_owned()), "{steal}");
        if let Some(column) = &column {
            let update = format!("UPDATE {name} SET {column} = {column} WHERE tenant_id = '{ours}'");
            assert_eq!(try_sql(&mut conn, &update).await, Ok(0), "{update}");
            let all = format!("UPDATE {name} SET {column} = {column}");
            assert_eq!(try_sql(&mut conn, &all).await, Ok(u64::try_from(rows[1]).unwrap()), "{all}");
        }
        let delete = try_sql(&mut conn, &format!("DELETE FROM {name} WHERE tenant_id = '{ours}'")).await;
        assert!(delete == Ok(0) || delete == Err(NO_PRIVILEGE.to_owned()), "{name}: {delete:?}");
        assert_eq!(scalar::<String>(&mut admin, &digest).await, before, "{name}: not one row was touched");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_cannot_lift_the_fence() {
    let lab = seeded::lab().await;
    let tenant = lab.scopes[0].tenant_id();
    let mut conn = as_tenant(&lab, tenant).await;
    for table in tenant_tables(&lab).await {
        let name = &table.name;
        for sql in [
            format!("TRUNCATE {name}"),
            format!("ALTER TABLE {name} DISABLE ROW LEVEL SECURITY"),
            format!("DROP POLICY tenant_fence ON {name}"),
            format!("SET row_security = off; SELECT * FROM {name}"),
        ] {
            assert_eq!(try_sql(&mut conn, &sql).await, Err(NO_PRIVILEGE.to_owned()), "{sql}");
            run(&mut conn, "SET row_security = on").await;
        }
    }
    for sql in [
        "SET ROLE stagesub_owner",
        "SET ROLE stagesub_migrator",
        "SET SESSION AUTHORIZATION stagesub_owner",
        "CREATE TABLE tenant.mine (tenant_id uuid)",
        "CREATE TABLE public.mine (tenant_id uuid)",
        "CREATE TEMPORARY TABLE mine (tenant_id uuid)",
        "CREATE FUNCTION app.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE FUNCTION app.tenant_id() RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid'",
        "CREATE SCHEMA mine",
        "SET session_replication_role = replica",
    ] {
        assert_eq!(try_sql(&mut conn, sql).await, Err(NO_PRIVILEGE.to_owned()), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_reads_its_own_fence_and_writes_none() {
    let lab = Lab::start(1).await;
    let [ours, theirs] = [0, 1].map(|n| lab.scopes[n].tenant_id());
    let mut conn = as_tenant(&lab, ours).await;
    assert_eq!(scalar::<i64>(&mut conn, "SELECT count(*) FROM app.tenant_fence").await, 1);
    for sql in [
        format!("INSERT INTO app.tenant_fence (tenant_id, state, epoch) VALUES ('{theirs}', 'active', 9)"),
        "UPDATE app.tenant_fence SET epoch = 9".to_owned(),
        "DELETE FROM app.tenant_fence".to_owned(),
        "UPDATE app.marker SET demo = true".to_owned(),
    ] {
        assert_eq!(try_sql(&mut conn, &sql).await, Err(NO_PRIVILEGE.to_owned()), "{sql}");
    }
    let mut unbound = as_app(&lab, "").await;
    assert_eq!(try_sql(&mut unbound, "SELECT * FROM app.tenant_fence").await, Err("42704".to_owned()));
    assert_eq!(try_sql(&mut unbound, "CALL app.enter(1)").await, Err("42704".to_owned()));
    let above = "BEGIN ISOLATION LEVEL REPEATABLE READ; CALL app.enter(1)";
    assert_eq!(
        try_sql(&mut conn, above).await,
        Err("TN002".to_owned()),
        "it could read a fence row of before"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_cannot_name_another_tenants_row() {
    let lab = seeded::lab().await;
    let [ours, theirs] = [0, 1].map(|n| lab.scopes[n].tenant_id());
    let mut admin = connect(&lab.admin).await;
    // An instrument that only the other tenant has.
    run(
        &mut admin,
        &format!("INSERT INTO tenant.instrument (tenant_id, no, name, created_at, updated_at) VALUES ('{theirs}', 77, 'Harpa', now(), now())"),
    )
    .await;
    let position = format!(
        "INSERT INTO tenant.position (tenant_id, no, instrument_no, name, hierarchy_level, created_at, updated_at)
         VALUES ('{ours}', 77, 77, 'Soloharpa', 1, now(), now())"
    );
    assert_eq!(try_sql(&mut as_tenant(&lab, ours).await, &position).await, Err("23503".to_owned()));
}
