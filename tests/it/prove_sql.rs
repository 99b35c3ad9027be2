//! The attacks on a database: all of them fail where the fences stand, and where one is missing the kit says
//! which.

mod dedicated;
mod embedder;
mod scratch;

use std::collections::BTreeSet;

use stagesub_storage::catalogue::{self, Table};
use stagesub_storage::prove::{DatabaseProof, ProveError};
use stagesub_tenancy::TenantId;
use stagesub_tenancy::prove::{Attack, Expectation, Outcome, Proof};
use stagesub_tests::database::{connect, run};
use uuid::Uuid;

use crate::isolation::seeded;
use crate::tenant_tx::lab::{Lab, scalar};

/// What is tried on each table.
const OPERATIONS: [&str; 17] = [
    "SELECT",
    "SELECT count(*)",
    "SELECT by the victim's tenant_id",
    "SELECT with a condition that would quote the row",
    "SELECT .. FOR UPDATE",
    "INSERT naming the victim",
    "INSERT .. SELECT of the victim's rows",
    "INSERT naming the victim .. ON CONFLICT",
    "UPDATE of the victim's rows",
    "UPDATE of both tenants' rows",
    "UPDATE of tenant_id, taking the victim's rows",
    "UPDATE of tenant_id, planting rows on the victim",
    "DELETE",
    "MERGE",
    "COPY TO",
    "COPY FROM",
    "TRUNCATE",
];
/// What it is bound to.
const BINDINGS: [&str; 4] =
    ["bound to no tenant", "bound to ''", "bound to garbage", "bound to another tenant"];

/// Some of what is tried on everything else.
const LIFTS: [(&str, &str); 22] = [
    ("the login", "attributes beyond those of a login"),
    ("stagesub_owner", "SET ROLE"),
    ("stagesub_migrator", "SET ROLE"),
    ("stagesub_mover", "SET ROLE"),
    ("stagesub_owner", "SET SESSION AUTHORIZATION"),
    ("tenant", "CREATE TABLE"),
    ("public", "CREATE TABLE"),
    ("app", "CREATE FUNCTION"),
    ("the database", "CREATE TEMPORARY TABLE"),
    ("the database", "CREATE SCHEMA"),
    ("app.tenant_id()", "CREATE OR REPLACE FUNCTION"),
    ("app.enter(bigint)", "CREATE OR REPLACE PROCEDURE"),
    ("app.refuse(bigint)", "CREATE OR REPLACE FUNCTION"),
    ("app.refuse(bigint)", "ALTER FUNCTION"),
    ("app.bind(uuid)", "CREATE OR REPLACE FUNCTION"),
    ("app.bind(uuid)", "ALTER FUNCTION"),
    ("app.tenant_fence", "SELECT of other tenants' rows"),
    ("app.tenant_fence", "UPDATE"),
    ("app.marker", "UPDATE"),
    ("pg_catalog.pg_authid", "SELECT"),
    ("session_replication_role", "SET"),
    ("programs of the server", "COPY TO PROGRAM"),
];

/// `app.bind` as it must not be.
pub(crate) const BIND_WITHOUT_REFUSAL: &str =
    "CREATE OR REPLACE FUNCTION app.bind(wanted uuid) RETURNS uuid LANGUAGE plpgsql
         AS 'BEGIN EXECUTE ''SET LOCAL app.tenant_id = '''''' || wanted::text || ''''''''; RETURN wanted; END'";

/// Every suite.
const SUITES: [&str; 7] =
    ["tables", "foreign-keys", "unique-keys", "epoch", "fence-lifting", "hardening", "owner"];

/// The first of the lab's tenants attacks the second.
pub(crate) fn attacked(lab: &Lab) -> DatabaseProof {
    let [attacker, victim] = [0, 1].map(|n| lab.scopes[n].tenant_id());
    DatabaseProof::new(lab.app.clone(), attacker, victim).owner(lab.migrator.clone())
}

async fn tables(lab: &Lab) -> Vec<Table> {
    catalogue::read(&mut connect(&lab.admin).await, &["tenant".to_owned()])
        .await
        .expect("the catalogue can be read")
}

/// Every row of every table with its version.
async fn digest(lab: &Lab) -> String {
    let mut admin = connect(&lab.admin).await;
    let mut digest = String::new();
    for table in tables(lab).await {
        let sql = format!(
            "SELECT coalesce(md5(string_agg(t::text || t.xmin || t.ctid, '|' ORDER BY t::text)), '') FROM {} AS t",
            table.name
        );
        digest += &scalar::<String>(&mut admin, &sql).await;
    }
    digest
}

pub(crate) fn failures(proof: &Proof) -> Vec<&Attack> {
    proof.failures().collect()
}

/// Removes a guard as the administrator and says what fails then.
async fn without(sql: &str) -> Vec<Attack> {
    let lab = seeded::lab().await;
    run(&mut connect(&lab.admin).await, sql).await;
    let proof = attacked(&lab).run().await.expect("the database can be attacked");
    proof.failures().cloned().collect()
}

/// Suites and targets of these attacks.
fn places(attacks: &[Attack]) -> BTreeSet<(&str, &str)> {
    attacks.iter().map(|attack| (attack.suite.as_str(), attack.target.as_str())).collect()
}

fn reached(attacks: &[Attack]) -> bool {
    attacks.iter().all(|attack| matches!(attack.outcome, Outcome::Reached(_)))
}

/// Those that reached what they were after. The others could not be carried out, for the same reason.
fn reaching(attacks: &[Attack]) -> Vec<Attack> {
    attacks.iter().filter(|attack| matches!(attack.outcome, Outcome::Reached(_))).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attack_fails_where_the_fences_stand() {
    let lab = seeded::lab().await;
    let before = digest(&lab).await;
    let proof = attacked(&lab).run().await.expect("the database can be attacked");
    assert!(proof.passed(), "{:#?}", failures(&proof));
    assert_eq!(digest(&lab).await, before, "not one row was touched");

    let counts = proof.counts();
    for suite in SUITES {
        assert!(counts.iter().any(|count| count.suite == suite && count.attacks > 0), "{suite}: {counts:?}");
    }
    for suite in ["tables", "foreign-keys", "unique-keys", "epoch", "owner"] {
        assert!(counts.iter().any(|count| count.suite == suite && count.allowed > 0), "{suite}: {counts:?}");
    }
    let held = |suite: &str, target: &str, attempt: &str| {
        proof.attacks().iter().filter(|attack| attack.expectation == Expectation::Held).any(|attack| {
            (attack.suite.as_str(), attack.target.as_str(), attack.attempt.as_str())
                == (suite, target, attempt)
        })
    };
    for (target, attempt) in LIFTS {
        assert!(held("fence-lifting", target, attempt), "{target}: {attempt}");
    }
    for function in ["set_config(text,text,boolean)", "lo_create(oid)", "pg_notify(text,text)"] {
        assert!(held("hardening", function, "a call with no argument"), "{function}");
    }
    for table in tables(&lab).await {
        let name = table.name.to_string();
        for attempt in [
            "ALTER TABLE .. DISABLE ROW LEVEL SECURITY",
            "ALTER TABLE .. NO FORCE ROW LEVEL SECURITY",
            "DROP POLICY \"tenant_fence\"",
            "SELECT with row_security off",
            "TRUNCATE .. CASCADE",
        ] {
            assert!(held("fence-lifting", &name, attempt), "{name}: {attempt}");
        }
        for operation in OPERATIONS {
            for binding in BINDINGS {
                let attempt = format!("{operation}, {binding}");
                assert!(held("tables", &name, &attempt), "{name}: {attempt}");
            }
        }
        for key in &table.foreign_keys {
            let target = format!("{name} {}", key.name);
            assert!(
                held("foreign-keys", &target, "a reference to a row that only the victim has"),
                "{target}"
            );
        }
        for key in table.indexes.iter().filter(|index| index.unique) {
            let target = format!("{name} {}", key.name);
            assert!(held("unique-keys", &target, "a row with the victim's key, in its name"), "{target}");
            let other = held("unique-keys", &target, "a row with the victim's key");
            assert_eq!(other, key.columns.iter().any(|column| column != "tenant_id"), "{target}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stands_in_nobodys_way() {
    let lab = seeded::lab().await;
    let other = TenantId::from_uuid(Uuid::now_v7());
    let mut admin = connect(&lab.admin).await;
    let victim = lab.scopes[1].tenant_id();
    run(
        &mut admin,
        &format!(
            "INSERT INTO tenant.instrument (tenant_id, no, name, created_at, updated_at)
             SELECT '{other}', no, name, created_at, updated_at FROM tenant.instrument WHERE tenant_id = '{victim}'"
        ),
    )
    .await;
    // One transaction of the other tenant's goes on all the time.
    let mut open = connect(&lab.app).await;
    let rename = format!("UPDATE tenant.instrument SET name = 'Viola' WHERE tenant_id = '{other}'");
    run(&mut open, &format!("BEGIN; SET LOCAL app.tenant_id = '{other}'; {rename}")).await;
    // And short ones do not wait for the attacks.
    let proving = tokio::spawn(async move { attacked(&lab).run().await });
    let mut rounds = 0;
    while !proving.is_finished() {
        let change = "INSERT INTO tenant.project (tenant_id, no, name, start_date, week_number, status, created_at, updated_at)
             VALUES (current_setting('app.tenant_id')::uuid, 1, 'Mahler 2', '2026-11-23', 48, 'planned', now(), now())";
        run(&mut admin, &format!("BEGIN; SET LOCAL lock_timeout = '250ms'; SET LOCAL app.tenant_id = '{other}'; {change}; ROLLBACK")).await;
        rounds += 1;
    }
    let proof = proving.await.expect("proving does not panic").expect("the database can be attacked");
    assert!(proof.passed(), "{:#?}", failures(&proof));
    assert!(rounds > 10, "{rounds}");
    run(&mut open, "COMMIT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_victim_that_works_meanwhile_is_told_from_one_that_was_reached() {
    let lab = seeded::lab().await;
    let victim = lab.scopes[1].tenant_id();
    let mut owner = connect(&lab.app).await;
    let change = format!(
        "BEGIN; SET LOCAL app.tenant_id = '{victim}'; UPDATE tenant.project SET name = 'Mahler ' || random(); COMMIT"
    );
    let attacks = attacked(&lab);
    let working = tokio::spawn(async move {
        loop {
            run(&mut owner, &change).await;
            tokio::task::yield_now().await;
        }
    });
    let proof = attacks.clone().while_in_use().run().await.expect("the database can be attacked");
    assert!(proof.passed(), "{:#?}", failures(&proof));
    let proof = attacks.run().await.expect("the database can be attacked");
    working.abort();
    let failed: Vec<Attack> = proof.failures().cloned().collect();
    assert_eq!(places(&failed), BTreeSet::from([("tables", "tenant.project")]), "{failed:#?}");
    assert!(failed.iter().all(|attack| attack.attempt.starts_with("everything in this report")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_row_of_the_victim_is_named() {
    let lab = seeded::lab().await;
    run(&mut connect(&lab.admin).await, "DELETE FROM tenant.project").await;
    let proof = attacked(&lab).run().await.expect("the database can be attacked");
    assert!(!proof.passed());
    let failed: Vec<Attack> = proof.failures().cloned().collect();
    assert!(places(&failed).iter().all(|(_, target)| target.starts_with("tenant.project")), "{failed:#?}");
    let wanted = "the victim has no row in tenant.project: seed one";
    assert!(failed.iter().any(|attack| attack.outcome == Outcome::NotCarriedOut(wanted.to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_holds_no_tenants_is_no_proof() {
    let lab = Lab::start(1).await;
    let [attacker, victim] = [0, 1].map(|n| lab.scopes[n].tenant_id());
    let elsewhere = lab.app.with_database("postgres");
    let proof = DatabaseProof::new(elsewhere, attacker, victim).run().await;
    assert!(matches!(proof, Err(ProveError::NoTenants { .. })), "{proof:?}");
    let proof = DatabaseProof::new(lab.app.clone(), attacker, victim).schemas(["nowhere"]).run().await;
    assert!(matches!(proof, Err(ProveError::NoTables { .. })), "{proof:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_row_level_security_its_table_is_reached() {
    let failed = without("ALTER TABLE tenant.musician DISABLE ROW LEVEL SECURITY").await;
    assert!(places(&failed).contains(&("tables", "tenant.musician")), "{failed:#?}");
    let elsewhere: Vec<_> = places(&failed)
        .into_iter()
        .filter(|(_, target)| target.split(' ').next() != Some("tenant.musician"))
        .collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    for binding in BINDINGS {
        let attempt = format!("SELECT, {binding}");
        assert!(failed.iter().any(|attack| attack.attempt == attempt), "{attempt}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_policies_a_table_is_reached() {
    let failed = without(
        "DROP POLICY tenant_fence ON tenant.musician; ALTER POLICY tenant_rows ON tenant.musician USING (true) WITH CHECK (true)",
    )
    .await;
    assert!(places(&failed).contains(&("tables", "tenant.musician")), "{failed:#?}");
    assert!(
        places(&failed).iter().all(|(_, target)| target.split(' ').next() == Some("tenant.musician")),
        "{failed:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permissive_policy_alone_opens_nothing() {
    let lab = seeded::lab().await;
    run(&mut connect(&lab.admin).await, "CREATE POLICY wide ON tenant.musician USING (true)").await;
    let proof = attacked(&lab).run().await.expect("the database can be attacked");
    assert!(proof.passed(), "{:#?}", failures(&proof));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_force_the_owner_reaches_the_table() {
    let failed = without("ALTER TABLE tenant.musician NO FORCE ROW LEVEL SECURITY").await;
    assert_eq!(places(&failed), BTreeSet::from([("owner", "tenant.musician")]), "{failed:#?}");
    assert!(reached(&failed) && failed.len() == 16, "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_by_number_alone_is_reached() {
    let failed = without(
        "ALTER TABLE tenant.position DROP CONSTRAINT position_instrument_fkey;
         UPDATE tenant.instrument AS i SET no = no + 100 WHERE tenant_id = (SELECT max(tenant_id::text)::uuid FROM tenant.settings);
         UPDATE tenant.position AS p SET instrument_no = i.no FROM tenant.instrument AS i WHERE i.tenant_id = p.tenant_id;
         CREATE UNIQUE INDEX instrument_no_key ON tenant.instrument (no);
         ALTER TABLE tenant.position ADD CONSTRAINT position_instrument_fkey
             FOREIGN KEY (instrument_no) REFERENCES tenant.instrument (no)",
    )
    .await;
    // Such a reference needs a key by number, which is found as well.
    let expected = BTreeSet::from([
        ("foreign-keys", "tenant.position position_instrument_fkey"),
        ("unique-keys", "tenant.instrument instrument_no_key"),
    ]);
    assert_eq!(places(&reaching(&failed)), expected, "{failed:#?}");
    // It stands before the key that carries the tenant, which then cannot be attacked.
    let others = failed.iter().filter(|attack| !matches!(attack.outcome, Outcome::Reached(_)));
    assert!(
        others.into_iter().all(|attack| attack.target == "tenant.instrument instrument_pkey"),
        "{failed:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_key_over_tenants_is_met() {
    let failed = without(
        "UPDATE tenant.musician SET email = tenant_id || '@example.se';
         CREATE UNIQUE INDEX musician_email_everywhere ON tenant.musician (lower(email))",
    )
    .await;
    let expected = BTreeSet::from([("unique-keys", "tenant.musician musician_email_everywhere")]);
    assert_eq!(places(&reaching(&failed)), expected, "{failed:#?}");
    // It stands before the key that carries the tenant, which then cannot be attacked.
    let others = failed.iter().filter(|attack| !matches!(attack.outcome, Outcome::Reached(_)));
    assert!(
        others.into_iter().all(|attack| attack.target == "tenant.musician musician_email_key"),
        "{failed:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_epoch_check_a_stale_node_begins() {
    let failed = without(
        "CREATE OR REPLACE PROCEDURE app.enter(expected_epoch bigint) LANGUAGE plpgsql
         AS 'BEGIN PERFORM app.tenant_id(); END'",
    )
    .await;
    let expected = BTreeSet::from([
        ("epoch", "TenantDb::begin"),
        ("epoch", "TenantDb::write_in_one_message"),
        ("epoch", "app.enter"),
    ]);
    assert_eq!(places(&failed), expected, "{failed:#?}");
    assert!(reached(&failed), "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_refusal_a_stale_node_reads() {
    let expected = BTreeSet::from([("epoch", "TenantDb::begin"), ("epoch", "TenantDb::read_in_one_message")]);
    let failed = without(
        "CREATE OR REPLACE FUNCTION app.refuse(expected_epoch bigint) RETURNS boolean LANGUAGE plpgsql STABLE
         AS 'BEGIN RETURN true; END'",
    )
    .await;
    assert_eq!(places(&failed), expected, "{failed:#?}");
    assert!(reached(&failed) && failed.len() == 8, "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_refusal_to_bind_anybody_becomes_the_victim() {
    let failed = without(BIND_WITHOUT_REFUSAL).await;
    assert_eq!(places(&failed), BTreeSet::from([("epoch", "app.bind")]), "{failed:#?}");
    assert!(reached(&failed) && failed.len() == 5, "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_where_no_tenant_is_bound_is_heard() {
    let failed = without(
        "CREATE OR REPLACE FUNCTION app.tenant_id() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
         RETURN current_setting('app.tenant_id', true)::uuid",
    )
    .await;
    assert!(places(&failed).contains(&("tables", "tenant.musician")), "{failed:#?}");
    assert!(failed.iter().all(|attack| attack.attempt.ends_with("bound to no tenant")), "{failed:#?}");
    assert!(reached(&failed), "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_beyond_the_design_are_used() {
    let failed = without(
        "GRANT TRUNCATE ON tenant.project TO stagesub_app;
         GRANT UPDATE ON app.tenant_fence TO stagesub_app;
         GRANT EXECUTE ON FUNCTION pg_catalog.pg_notify(text, text) TO stagesub_app",
    )
    .await;
    let expected = BTreeSet::from([
        ("tables", "tenant.project"),
        ("fence-lifting", "tenant.project"),
        ("fence-lifting", "app.tenant_fence"),
        ("hardening", "pg_notify(text,text)"),
    ]);
    assert_eq!(places(&failed), expected, "{failed:#?}");
    assert!(reached(&failed), "{failed:#?}");
}
