//! The library call: somebody else's schemas, roles and lists, over any login.

use sqlx::Connection;
use stagesub_storage::doctor::{Expectations, Level, examine};
use stagesub_storage::logins::{DatabaseLogins, LoginRole};
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_tenancy::DatabaseId;
use stagesub_tests::database::connect;
use uuid::Uuid;

use super::{SHARED, sound};
use crate::registry::Server;

const BILLING: &str = "SET ROLE stagesub_owner;
    CREATE SCHEMA billing;
    CREATE TABLE billing.currency (code text PRIMARY KEY);
    CREATE TABLE billing.invoice (tenant_id uuid NOT NULL, no bigint NOT NULL, currency text REFERENCES billing.currency,
        PRIMARY KEY (tenant_id, no));
    CALL app.protect('billing.invoice');
    GRANT USAGE ON SCHEMA billing TO stagesub_app, stagesub_mover, reporting;
    GRANT SELECT, INSERT, DELETE ON billing.invoice TO stagesub_app;
    GRANT UPDATE (currency) ON billing.invoice TO stagesub_app;
    GRANT SELECT ON billing.currency TO stagesub_app;
    GRANT SELECT ON billing.invoice TO reporting;";

async fn lints(server: &Server, expected: &Expectations) -> Vec<(&'static str, String)> {
    let mut conn = server.connect(SHARED).await;
    let report = examine(&mut conn, expected).await.expect("it can be examined");
    conn.close().await.expect("the connection closes");
    report.into_iter().map(|finding| (finding.lint, finding.object)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_ones_own_lists_what_is_there_on_purpose() {
    let server = sound().await;
    server.run(SHARED, "CREATE ROLE reporting").await;
    server.run(SHARED, BILLING).await;
    let listed = Expectations::default()
        .data_schema("billing")
        .reference_table("billing", "currency")
        .trusted_role("reporting");
    assert_eq!(lints(&server, &listed).await, []);

    // Not said: it is a schema that the application may use for no known reason, with tables in it.
    let unlisted = lints(&server, &Expectations::default()).await;
    for (lint, object) in [("schema-unknown", "schema billing"), ("table-outside", "billing.invoice")] {
        assert!(unlisted.iter().any(|(l, o)| *l == lint && o == object), "{lint}: {unlisted:?}");
    }
    assert_eq!(lints(&server, &Expectations::default().open_schema("billing")).await, []);

    // A table that nobody listed is a tenant table, and a role that nobody trusts is a stranger.
    let forgot = Expectations::default().data_schema("billing");
    let found = lints(&server, &forgot).await;
    assert!(found.iter().any(|(l, o)| *l == "tenant-column-missing" && o == "billing.currency"), "{found:?}");
    assert!(
        found.iter().any(|(l, o)| *l == "grant-beyond" && o.ends_with("billing.invoice for reporting")),
        "{found:?}"
    );

    server.run(SHARED, "GRANT INSERT ON billing.currency TO stagesub_app; GRANT UPDATE ON billing.invoice TO stagesub_app").await;
    let wide = ("grant-beyond", "UPDATE on billing.invoice for stagesub_app".to_owned());
    assert_eq!(
        lints(&server, &listed).await,
        [("grant-beyond", "INSERT on billing.currency for stagesub_app".to_owned()), wide.clone()]
    );
    let allowed = listed.grant("stagesub_app", "billing", "currency", "INSERT");
    assert_eq!(lints(&server, &allowed).await, [wide]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_login_may_not_see_is_said() {
    let server = sound().await;
    let id: Uuid = {
        let mut conn = server.connect(SHARED).await;
        sqlx::query_scalar("SELECT database_id FROM app.marker").fetch_one(&mut conn).await.unwrap()
    };
    let logins = PgDatabaseLogins::new(server.open().await, server.keys.clone());
    let app = logins.find_login(DatabaseId::from_uuid(id), LoginRole::App).await.unwrap().unwrap();
    let look = async || {
        let mut conn = connect(&app).await;
        let report = examine(&mut conn, &Expectations::default()).await.expect("it can be examined");
        report.into_iter().collect::<Vec<_>>()
    };
    // The application's own login sees as much of the catalogue as anybody.
    assert_eq!(look().await, []);
    server.run(SHARED, "REVOKE SELECT ON pg_catalog.pg_db_role_setting FROM PUBLIC; REVOKE SELECT ON app.migrations FROM stagesub_app").await;
    let found = look().await;
    let told: Vec<(&str, Level, &str)> =
        found.iter().map(|finding| (finding.lint, finding.level, finding.object.as_str())).collect();
    let not = |what| ("not-examined", Level::Partial, what);
    assert_eq!(told, [not("setting"), not("setting"), not("the applied migrations")]);
    assert!(found[0].why.contains("permission denied"), "{}", found[0].why);

    // And it goes on after that: a hole behind it is found.
    server.run(SHARED, "GRANT SELECT ON tenant.note TO PUBLIC").await;
    assert!(look().await.iter().any(|finding| finding.lint == "grant-beyond"));
}
