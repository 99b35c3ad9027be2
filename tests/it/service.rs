//! A service of somebody's own, opened in one call: what it makes, finds again, refuses and mends.

use std::path::Path;

use secrecy::ExposeSecret;
use sqlx::migrate::Migrator;
use stagesub_storage::adopt::AdoptError;
use stagesub_storage::registry::roster::RosterError;
use stagesub_storage::seal::KeyRing;
use stagesub_storage::service::{Service, ServiceError, ServiceOptions};
use stagesub_tenancy::{Access, ResolveError};

use crate::registry::Server;
use crate::tenant_tx::lab::until;

/// The database of the service on a [`Server`].
const DESK: &str = "desk";

async fn server() -> Server {
    let server = Server::start().await;
    server.create(DESK).await;
    server
}

/// The help desk of the examples.
async fn options(server: &Server) -> ServiceOptions {
    let keys = KeyRing::parse(server.keys.to_text_secret().expose_secret()).unwrap();
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/helpdesk/migrations");
    let migrations = Migrator::new(migrations).await.unwrap();
    ServiceOptions::new(server.admin(DESK), keys, "desk.example").unwrap().schema("helpdesk", migrations)
}

async fn open(server: &Server) -> Result<Service, ServiceError> {
    options(server).await.open().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_is_found_again() {
    let server = server().await;
    let desk = open(&server).await.unwrap();
    let nordic = desk.ensure_tenant("NOR", "nordic", "Nordic Bikes AB").await.unwrap();
    assert_eq!(desk.ensure_tenant("NOR", "nordic", "Nordic Bikes AB").await.unwrap(), nordic);
    let mut tx = desk.db().begin(&desk.scope(nordic).await.unwrap(), Access::Write).await.unwrap();
    sqlx::query("INSERT INTO helpdesk.ticket (tenant_id, subject) VALUES ($1, 'kept')")
        .bind(nordic.as_uuid())
        .execute(&mut tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    desk.close().await;

    let desk = open(&server).await.unwrap();
    assert_eq!(desk.ensure_tenant("NOR", "nordic", "Nordic Bikes AB").await.unwrap(), nordic);
    for (code, subdomain) in [("NOR", "other"), ("OTH", "nordic")] {
        let taken = desk.ensure_tenant(code, subdomain, "Somebody").await;
        assert!(matches!(taken, Err(ServiceError::Roster(RosterError::Taken { .. }))), "{taken:?}");
    }
    assert!(matches!(desk.ensure_tenant("nor", "nordic", "x").await, Err(ServiceError::Code(_))));
    let mut tx = desk.db().begin(&desk.scope(nordic).await.unwrap(), Access::Read).await.unwrap();
    let kept: Vec<String> =
        sqlx::query_scalar("SELECT subject FROM helpdesk.ticket").fetch_all(&mut tx).await.unwrap();
    assert_eq!(kept, ["kept"]);
    tx.commit().await.unwrap();
    let log = "SELECT action FROM registry.platform_audit ORDER BY id";
    assert_eq!(server.texts(DESK, log).await, ["create", "provision"]);
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_locked_is_not_served_by_any_node() {
    let server = server().await;
    let (desk, other) = (open(&server).await.unwrap(), open(&server).await.unwrap());
    let nordic = desk.ensure_tenant("NOR", "nordic", "Nordic Bikes AB").await.unwrap();
    other.scope(nordic).await.unwrap();
    assert!(desk.roster().suspend(nordic).await.unwrap());
    assert!(!desk.roster().suspend(nordic).await.unwrap(), "it is locked already");
    let refused =
        async |node: &Service| matches!(node.scope(nordic).await, Err(ResolveError::Refused { .. }));
    for node in [&desk, &other] {
        until("it is refused", async || refused(node).await).await;
    }
    assert!(desk.roster().resume(nordic).await.unwrap());
    until("it is served again", async || other.scope(nordic).await.is_ok()).await;
    desk.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_keeps_it_shut_and_setting_up_mends_what_it_can() {
    let server = server().await;
    open(&server).await.unwrap().close().await;
    server.run(DESK, "ALTER TABLE helpdesk.comment NO FORCE ROW LEVEL SECURITY").await;
    let shut = options(&server).await.connect().await;
    let Err(ServiceError::Hole(hole)) = shut else { panic!("{shut:?}") };
    assert_eq!((hole.lint, hole.object.as_str()), ("rls-not-forced", "helpdesk.comment"));
    open(&server).await.unwrap().close().await;

    server.run(DESK, "CREATE POLICY everything ON helpdesk.ticket USING (true)").await;
    let shut = open(&server).await;
    assert!(matches!(&shut, Err(ServiceError::Fence(AdoptError::Refused(_)))), "{shut:?}");
    server.run(DESK, "DROP POLICY everything ON helpdesk.ticket").await;

    // A grant that its owner narrowed stays narrow.
    server.run(DESK, "REVOKE DELETE ON helpdesk.ticket FROM stagesub_app").await;
    open(&server).await.unwrap().close().await;
    let may = "SELECT has_table_privilege('stagesub_app', 'helpdesk.ticket', 'DELETE')::text";
    assert_eq!(server.texts(DESK, may).await, ["false"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenant_attacks_another_and_gets_nothing() {
    let server = server().await;
    let desk = open(&server).await.unwrap();
    let mut tenants = Vec::new();
    for (code, subdomain) in [("NOR", "nordic"), ("HAR", "harbor")] {
        let tenant = desk.ensure_tenant(code, subdomain, code).await.unwrap();
        let mut tx = desk.db().begin(&desk.scope(tenant).await.unwrap(), Access::Write).await.unwrap();
        let seed =
            "WITH t AS (INSERT INTO helpdesk.ticket (tenant_id, subject) VALUES ($1, 'x') RETURNING id)
            INSERT INTO helpdesk.comment (tenant_id, ticket_id, body) SELECT $1, id, 'y' FROM t";
        sqlx::query(seed).bind(tenant.as_uuid()).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        tenants.push(tenant);
    }
    let proof = desk.proof(tenants[0], tenants[1]).await.unwrap();
    let report = proof.run().await.unwrap();
    assert!(report.passed(), "{:#?}", report.failures().collect::<Vec<_>>());

    // The same attacks find the hole when there is one.
    server.run(DESK, "ALTER TABLE helpdesk.ticket DISABLE ROW LEVEL SECURITY").await;
    assert!(!proof.run().await.unwrap().passed());
    desk.close().await;
}
