//! The rules of tenant tables, read from PostgreSQL's catalogue. No list of tables stands here, so one that is
//! added without its fence fails. `prove_sql.rs` attacks them.

pub(crate) mod seeded;

use sqlx::{AssertSqlSafe, PgConnection};
use stagesub_storage::catalogue::{self, Table, TableName, parents_first};
use stagesub_storage::doctor::{Finding, examine_tables};
use stagesub_storage::repo::CONSTRAINTS;
use stagesub_tenancy::TenantId;
use stagesub_tests::database::{connect, run};

use crate::tenant_tx::lab::{Lab, scalar, sqlstate};

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

/// The application's login, with this said first.
async fn as_app(lab: &Lab, first: &str) -> PgConnection {
    let mut conn = connect(&lab.app).await;
    run(&mut conn, first).await;
    conn
}

async fn as_tenant(lab: &Lab, tenant: TenantId) -> PgConnection {
    as_app(lab, &format!("SET app.tenant_id = '{tenant}'")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_keeps_the_rules_of_tenant_tables() {
    let lab = Lab::start(1).await;
    let tables = tenant_tables(&lab).await;
    assert!(!tables.is_empty());
    assert!(tables.iter().all(|table| table.is_table), "{tables:?}");
    let broken: Vec<String> = examine_tables("lab", &tables, &[]).iter().map(ToString::to_string).collect();
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
         ALTER TABLE tenant.project NO FORCE ROW LEVEL SECURITY;
         CREATE POLICY wide ON tenant.musician USING (true)",
    )
    .await;
    let broken = examine_tables("lab", &tenant_tables(&lab).await, &[]);
    let names = |finding: &Finding, name: &str| finding.object.ends_with(&format!("tenant.{name}"));
    for name in ["forgotten", "project", "musician"] {
        assert!(broken.iter().any(|finding| names(finding, name)), "{name}: {broken:?}");
    }
    let listed = TableName { schema: "tenant".to_owned(), name: "forgotten".to_owned() };
    assert!(
        examine_tables("lab", &tenant_tables(&lab).await, &[listed])
            .iter()
            .all(|finding| !names(finding, "forgotten"))
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
    for anybody in [&mut unbound, &mut conn] {
        for epoch in ["1", "2", "NULL"] {
            let refuse = format!("SELECT app.refuse({epoch})");
            assert_eq!(try_sql(anybody, &refuse).await, Err("TN001".to_owned()), "{epoch}");
        }
    }
    // Binding within a statement: whoever reads and is nobody yet, alone.
    let bind = format!("SELECT app.bind('{theirs}')");
    for (is_bound, begin, outcome) in [
        (true, "BEGIN READ ONLY", Err("TN003".to_owned())),
        (true, "BEGIN READ WRITE", Err("TN003".to_owned())),
        (false, "BEGIN READ WRITE", Err("TN003".to_owned())),
        (false, "BEGIN READ ONLY", Ok(1)),
    ] {
        let sql = format!("{begin}; {bind}; ROLLBACK");
        let anybody = if is_bound { &mut conn } else { &mut unbound };
        assert_eq!(try_sql(anybody, &sql).await.map(|_| 1), outcome, "{begin}");
        try_sql(anybody, "ROLLBACK").await.expect("it ends");
    }
    // Once, and until the end of its transaction.
    let twice = format!("BEGIN READ ONLY; {bind}; SELECT app.bind('{ours}')");
    assert_eq!(try_sql(&mut unbound, &twice).await, Err("TN003".to_owned()));
    try_sql(&mut unbound, "ROLLBACK").await.expect("it ends");
    assert_eq!(
        try_sql(&mut unbound, "SELECT * FROM app.tenant_fence").await,
        Err("22P02".to_owned()),
        "it was bound until the end of its transaction"
    );
    let above = "BEGIN ISOLATION LEVEL REPEATABLE READ; CALL app.enter(1)";
    assert_eq!(
        try_sql(&mut conn, above).await,
        Err("TN002".to_owned()),
        "it could read a fence row of before"
    );
}
