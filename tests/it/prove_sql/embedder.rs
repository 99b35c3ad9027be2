//! Tables of another service, of which the kit knows nothing: columns of every kind, keys of every kind.

use async_trait::async_trait;
use stagesub_storage::catalogue::TableName;
use stagesub_storage::factory::TenantDb;
use stagesub_storage::prove::{DatabaseProof, Sample};
use stagesub_storage::target::ConnectionTarget;
use stagesub_tenancy::{Access, BoxError, TenantScope};
use stagesub_tests::database::{connect, run};

use super::failures;
use crate::tenant_tx::lab::Lab;

const SCHEMA: &str = "
SET ROLE stagesub_owner;
CREATE SCHEMA billing;
GRANT USAGE ON SCHEMA billing TO stagesub_app;
CREATE TYPE billing.state AS ENUM ('open', 'paid');
CREATE TABLE billing.currency (code text PRIMARY KEY);
INSERT INTO billing.currency VALUES ('SEK');
CREATE TABLE billing.customer (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    \"Legal Name\" varchar(20) NOT NULL,
    kind smallint NOT NULL CHECK (kind BETWEEN 1 AND 3),
    tags text[] NOT NULL,
    parent uuid,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, \"Legal Name\"),
    FOREIGN KEY (tenant_id, parent) REFERENCES billing.customer (tenant_id, id)
);
CREATE TABLE billing.invoice (
    tenant_id uuid NOT NULL,
    no bigint GENERATED ALWAYS AS IDENTITY,
    customer uuid NOT NULL,
    currency text NOT NULL REFERENCES billing.currency,
    state billing.state NOT NULL,
    net numeric(12, 2) NOT NULL,
    gross numeric GENERATED ALWAYS AS (net * 1.25) STORED,
    seal bytea,
    PRIMARY KEY (tenant_id, no),
    FOREIGN KEY (tenant_id, customer) REFERENCES billing.customer (tenant_id, id)
        ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
);
CREATE UNIQUE INDEX invoice_open ON billing.invoice (tenant_id, customer) WHERE state = 'open';
CALL app.protect('billing.customer');
CALL app.protect('billing.invoice');
GRANT SELECT, INSERT, UPDATE, DELETE ON billing.customer TO stagesub_app;
GRANT SELECT (tenant_id, no, customer, currency, state, net), INSERT (tenant_id, no, customer, currency, state, net),
    UPDATE (state), DELETE ON billing.invoice TO stagesub_app;
RESET ROLE";

struct Billing;

#[async_trait]
impl Sample for Billing {
    async fn prepare(&self, migrator: &ConnectionTarget) -> Result<(), BoxError> {
        run(&mut connect(migrator).await, SCHEMA).await;
        Ok(())
    }

    async fn seed(&self, db: &TenantDb, scope: &TenantScope) -> Result<(), BoxError> {
        let mut tx = db.begin(scope, Access::Write).await?;
        sqlx::query(
            "WITH parent AS (
                 INSERT INTO billing.customer (tenant_id, \"Legal Name\", kind, tags)
                 VALUES ($1, 'Göteborgs \\ \"O''hara\"', 1, ARRAY['a', 'b'])
                 RETURNING id),
             child AS (
                 INSERT INTO billing.customer (tenant_id, \"Legal Name\", kind, tags, parent)
                 SELECT $1, 'Dotter', 2, ARRAY[]::text[], id FROM parent
                 RETURNING id)
             INSERT INTO billing.invoice (tenant_id, customer, currency, state, net)
             SELECT $1, id, 'SEK', 'open', 99.5 FROM child",
        )
        .bind(tx.tenant().as_uuid())
        .execute(&mut tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }
}

fn currency() -> TableName {
    TableName { schema: "billing".to_owned(), name: "currency".to_owned() }
}

async fn lab() -> (Lab, DatabaseProof) {
    let lab = Lab::start(1).await;
    Billing.prepare(&lab.migrator).await.expect("the service's tables can be made");
    for scope in &lab.scopes {
        Billing.seed(&lab.tenants(), scope).await.expect("a tenant can be given rows");
    }
    let [attacker, victim] = [0, 1].map(|n| lab.scopes[n].tenant_id());
    let proof = DatabaseProof::new(lab.app.clone(), attacker, victim)
        .schemas(["billing"])
        .reference_tables([currency()])
        .owner(lab.migrator.clone());
    (lab, proof)
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_another_service_are_attacked() {
    let (lab, attacks) = lab().await;
    let proof = attacks.run().await.expect("the database can be attacked");
    assert!(proof.passed(), "{:#?}", failures(&proof));
    assert!(proof.attacks().iter().any(|attack| attack.target == "billing.invoice invoice_open"));

    // A table that was forgotten, and a list that is not said to be one.
    run(
        &mut connect(&lab.admin).await,
        "CREATE TABLE billing.forgotten (no bigint PRIMARY KEY); INSERT INTO billing.forgotten VALUES (1);
         GRANT SELECT ON billing.forgotten TO stagesub_app",
    )
    .await;
    let proof = attacks.run().await.expect("the database can be attacked");
    assert!(!proof.passed());
    assert!(
        proof.failures().all(|attack| attack.target.starts_with("billing.forgotten")),
        "{:#?}",
        failures(&proof)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_not_here_attacks_as_well() {
    let (lab, _) = lab().await;
    let nobody = stagesub_tenancy::TenantId::from_uuid(uuid::Uuid::now_v7());
    let proof = DatabaseProof::new(lab.app.clone(), nobody, lab.scopes[1].tenant_id())
        .schemas(["billing"])
        .reference_tables([currency()])
        .without_hardening()
        .run()
        .await
        .expect("the database can be attacked");
    // The application may write over a customer's tenant_id, and the attacker has no customer to try it on.
    let failed: Vec<_> = failures(&proof).iter().map(|attack| (&*attack.target, &*attack.attempt)).collect();
    let planting = "UPDATE of tenant_id, planting rows on the victim, bound to another tenant";
    assert_eq!(failed, [("billing.customer", planting)]);
    let suites: Vec<String> = proof.counts().into_iter().map(|count| count.suite).collect();
    assert_eq!(suites, ["tables", "foreign-keys", "unique-keys", "epoch", "fence-lifting"]);
}
