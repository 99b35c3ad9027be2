//! What is not adopted as it is, each with its remedy: run, it is out of the way.

use stagesub_storage::adopt::{AdoptError, Adoption, Refusal};
use uuid::Uuid;

use super::{SHARED, Shop};

/// A reason, and what to make so that it is given.
const CASES: &[(&str, &str)] = &[
    (
        "partitioned-table",
        "CREATE TABLE crm.parts (tenant_id uuid NOT NULL, id int, PRIMARY KEY (tenant_id, id)) PARTITION BY HASH (tenant_id)",
    ),
    ("inheritance", "CREATE TABLE crm.heir (PRIMARY KEY (tenant_id, id)) INHERITS (crm.deal)"),
    ("materialized-view", "CREATE MATERIALIZED VIEW crm.frozen AS SELECT * FROM crm.deal"),
    ("view-not-invoker", "CREATE VIEW crm.\"all; \"\"deals\" AS SELECT * FROM crm.deal"),
    (
        "trigger",
        "CREATE TRIGGER \"odd \"\"trigger\" BEFORE UPDATE ON crm.deal FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    ),
    ("rule", "CREATE RULE sly AS ON INSERT TO crm.deal DO ALSO NOTHING"),
    (
        "security-definer",
        "CREATE FUNCTION crm.total() RETURNS bigint LANGUAGE sql SECURITY DEFINER RETURN (SELECT count(*) FROM crm.deal)",
    ),
    ("sequence-of-no-column", "CREATE SEQUENCE crm.numbers"),
    ("primary-key-missing", "CREATE TABLE crm.loose (tenant_id uuid NOT NULL, id int)"),
    ("tenant-column-type", "CREATE TABLE crm.texts (tenant_id text NOT NULL, id int PRIMARY KEY)"),
    ("tenant-column-type", "CREATE TABLE crm.numbers (tenant_id bigint NOT NULL, id int PRIMARY KEY)"),
    (
        "tenant-column-computed",
        "CREATE TABLE crm.computed (owner uuid, tenant_id uuid GENERATED ALWAYS AS (owner) STORED, id int PRIMARY KEY)",
    ),
    ("reference-from-outside", "CREATE TABLE public.outside (id int PRIMARY KEY REFERENCES crm.deal (id))"),
    (
        "reference-to-outside",
        "CREATE TABLE public.outside (id int PRIMARY KEY); INSERT INTO public.outside VALUES (1), (2); ALTER TABLE crm.deal ADD CONSTRAINT away FOREIGN KEY (id) REFERENCES public.outside",
    ),
    (
        "reference-sets-on-update",
        "ALTER TABLE crm.deal ADD CONSTRAINT odd FOREIGN KEY (above) REFERENCES crm.deal (id) ON UPDATE SET NULL",
    ),
    (
        "reference-match-full",
        "UPDATE crm.deal SET above = id; ALTER TABLE crm.deal ADD UNIQUE (id, above), ADD CONSTRAINT odd FOREIGN KEY (id, above) REFERENCES crm.deal (id, above) MATCH FULL",
    ),
    ("reference-by-tenant", CLIENTS),
    (
        "exclusion-across-tenants",
        "CREATE SCHEMA extensions; CREATE EXTENSION btree_gist SCHEMA extensions; ALTER TABLE crm.deal ADD CONSTRAINT one_tenant EXCLUDE USING gist (above WITH =, tenant_id WITH <>)",
    ),
    (
        "index-method",
        "ALTER TABLE crm.deal ADD COLUMN words tsvector; CREATE INDEX words ON crm.deal USING gin (words)",
    ),
    ("replica-identity", "ALTER TABLE crm.deal REPLICA IDENTITY USING INDEX deal_pkey"),
    ("policy-wider", "CREATE POLICY \"odd \"\"policy\" ON crm.deal USING (true)"),
];

/// A list of the tenants, to which a tenant's rows refer.
const CLIENTS: &str = "CREATE TABLE crm.client (id uuid PRIMARY KEY);
    INSERT INTO crm.client SELECT tenant_id FROM crm.deal;
    ALTER TABLE crm.deal ADD FOREIGN KEY (tenant_id) REFERENCES crm.client ON DELETE CASCADE";

/// What undoes a case whose remedy is in words, or leaves something behind.
const UNDO: &str = "DROP TABLE IF EXISTS public.outside CASCADE; DROP SCHEMA crm CASCADE;";

const CRM: &str = "CREATE SCHEMA crm;
    CREATE TABLE crm.deal (id int PRIMARY KEY, tenant_id uuid NOT NULL, above int);
    INSERT INTO crm.deal VALUES (1, '{A}', NULL), (2, '{B}', NULL);";

fn crm() -> Adoption {
    Adoption::of("crm")
}

fn refusals(done: Result<impl std::fmt::Debug, AdoptError>) -> Vec<Refusal> {
    match done {
        Err(AdoptError::Refused(refused)) => refused,
        other => panic!("it was not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_oddity_is_refused_with_its_remedy() {
    let shop = Shop::with("", "").await;
    for (reason, make) in CASES {
        shop.run(CRM).await;
        shop.run(make).await;
        let before = shop.state().await;
        let refused = refusals(shop.adopt(&crm()).await);
        assert_eq!(refusals(shop.plan(&crm()).await), refused);
        assert_eq!(shop.state().await, before, "{reason}: something was changed");
        let given: Vec<&str> = refused.iter().map(|refusal| refusal.reason).collect();
        assert_eq!(given, [*reason], "{make}: {refused:#?}");
        let remedy = &refused[0].remedy;
        // A remedy that is SQL, without a blank to fill in, is run as it stands.
        if !remedy.starts_with("--")
            && !remedy.contains("\"its columns\"")
            && !remedy.contains("\"a table\"")
            && *reason != "tenant-column-type"
        {
            shop.run(remedy).await;
            let done = shop.adopt(&crm()).await;
            assert!(done.is_ok(), "{reason}: {remedy}: {done:?}");
            assert_eq!(shop.findings(&crm()).await, [""; 0], "{reason}: {remedy}");
        }
        shop.run(UNDO).await;
        shop.run("DROP SCHEMA IF EXISTS extensions CASCADE").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_the_tenants_is_adopted_as_everybodys() {
    let shop = Shop::with(CRM, CLIENTS).await;
    shop.run("ALTER TABLE crm.deal RENAME tenant_id TO client_id").await;
    let renamed = crm().tenant_column("client_id");
    let reasons: Vec<&str> =
        refusals(shop.adopt(&renamed).await).iter().map(|refusal| refusal.reason).collect();
    assert_eq!(reasons, ["reference-by-tenant"]);
    let said = renamed.reference_table("client");
    shop.adopt(&said).await.unwrap();
    assert_eq!(shop.findings(&said).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_in_the_way_is_told_at_once() {
    let shop = Shop::with(
        CRM,
        "CREATE SEQUENCE crm.numbers; CREATE TABLE crm.loose (id int); CREATE VIEW crm.v AS SELECT 1 AS one",
    )
    .await;
    let reasons: Vec<&str> =
        refusals(shop.adopt(&crm()).await).iter().map(|refusal| refusal.reason).collect();
    assert_eq!(reasons, ["view-not-invoker", "sequence-of-no-column", "primary-key-missing"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_may_not_give_it_away_is_told_so() {
    let shop = Shop::with(CRM, "CREATE ROLE somebody; ALTER TABLE crm.deal OWNER TO somebody").await;
    let mut migrator = stagesub_tests::database::connect(&shop.migrator).await;
    let refused = refusals(stagesub_storage::adopt::adopt(&mut migrator, &crm()).await);
    let told: Vec<(&str, &str)> =
        refused.iter().map(|refusal| (refusal.reason, refusal.object.as_str())).collect();
    assert_eq!(told, [("owner", "crm.deal, owned by somebody"), ("owner", "schema crm, owned by postgres")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_nobody_are_given_to_whom_they_are_said_to_be() {
    let shop = Shop::with(CRM, "ALTER TABLE crm.deal ALTER tenant_id DROP NOT NULL; UPDATE crm.deal SET tenant_id = NULL WHERE id = 2").await;
    assert!(matches!(shop.adopt(&crm()).await, Err(AdoptError::Undecided(asked)) if asked.len() == 1));
    shop.adopt(&crm().tenant(shop.b)).await.unwrap();
    assert_eq!(shop.as_tenant(shop.b, "SELECT FROM crm.deal").await, Ok(1));
    assert_eq!(shop.as_tenant(shop.a, "SELECT FROM crm.deal").await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_or_not_a_services_is_said() {
    let shop = Shop::with(CRM, "").await;
    let nobody = stagesub_tenancy::TenantId::from_uuid(Uuid::from_u128(9));
    assert!(matches!(shop.adopt(&crm().tenant(nobody)).await, Err(AdoptError::UnknownTenant { .. })));
    assert!(matches!(shop.adopt(&crm().reference_table("nothing")).await, Err(AdoptError::NoTable { .. })));
    assert!(matches!(shop.adopt(&Adoption::of("nothing")).await, Err(AdoptError::NoSchema { .. })));
    for schema in ["public", "tenant", "app", "pg_catalog"] {
        assert!(
            matches!(shop.adopt(&Adoption::of(schema)).await, Err(AdoptError::Reserved { .. })),
            "{schema}"
        );
    }
    let mut plain = shop.server.connect("postgres").await;
    let done = stagesub_storage::adopt::adopt(&mut plain, &crm()).await;
    assert!(matches!(done, Err(AdoptError::NotPrepared)), "{done:?}");
    // A name is a name, whatever is in it.
    let sly = Adoption::of("crm\"; DROP SCHEMA crm CASCADE; --");
    assert!(matches!(shop.adopt(&sly).await, Err(AdoptError::NoSchema { .. })));
    assert_eq!(shop.server.texts(SHARED, "SELECT count(*)::text FROM crm.deal").await, ["2"]);
}
