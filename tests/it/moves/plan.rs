//! What can be moved, what is refused, and whether two databases are made alike.

use stagesub_storage::identity::{ConnectError, Identity};
use stagesub_storage::moves::plan::{Checks, PlanError};
use stagesub_storage::moves::session::{SessionError, Site};
use stagesub_storage::target::ConnectionTarget;
use stagesub_tenancy::{DatabaseId, PoolTarget};
use stagesub_tests::cluster::keys;
use stagesub_tests::database::{connect, open_login};
use uuid::Uuid;

use super::pair::{Pair, SHOP, plan};

#[tokio::test(flavor = "multi_thread")]
async fn both_schemas_are_planned_parents_first() {
    let pair = Pair::with_shop(&[]).await;
    let plan = pair.plan().await;
    let place = |name: &str| plan.tables.iter().position(|table| table.name.name == name).unwrap();
    assert!(place("instrument") < place("position") && place("position") < place("musician_qualification"));
    assert!(place("account") < place("A; hard one"));
    assert_eq!(plan.tables[place("A; hard one")].parents, [place("account")]);
    assert!(plan.tables[place("account")].parents.is_empty(), "it refers to itself and to no tenant's table");
    assert!(!plan.tables.iter().any(|table| ["country", "accounts"].contains(&table.name.name.as_str())));

    let hard = &plan.tables[place("A; hard one")];
    let key: Vec<(&str, &str)> =
        hard.key.iter().map(|column| (column.name.as_str(), column.data_type.as_str())).collect();
    assert_eq!(key, [("name", "character varying"), ("id", "uuid"), ("at", "timestamp with time zone")]);
    assert_eq!(hard.written().count() + 1, hard.columns.len());
    assert!(hard.written().all(|column| column.name != "gross"));
    assert!(plan.tables[place("one_row")].key.is_empty());
    let cut = hard.columns.iter().find(|column| column.name == "cut").unwrap();
    assert_eq!(cut.data_type, "bpchar", "`character` would be one character long");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_was_changed_on_one_side_is_refused_in_words() {
    let pair = Pair::with_shop(&[]).await;
    let (source, target) = (pair.plan().await, pair.target_plan_of(&["tenant", SHOP]).await.unwrap());
    assert_eq!(source.fingerprint.differences(&target.fingerprint), [""; 0]);
    assert_eq!(source.fingerprint.digest(), target.fingerprint.digest());

    pair.on_target(
        r#"SET search_path = "Odd ""Shop";
        DROP VIEW accounts;
        ALTER TABLE account ALTER amount TYPE numeric(10, 2);
        ALTER TABLE account ALTER country SET NOT NULL, DROP CONSTRAINT "account's e-mail";
        ALTER TABLE account ALTER "e""mail" TYPE text COLLATE "C", ALTER half DROP DEFAULT;
        ALTER TYPE mood ADD VALUE 'angry' BEFORE 'sad';
        ALTER DOMAIN price DROP CONSTRAINT price_check;
        ALTER TABLE "A; hard one" ALTER gross DROP EXPRESSION, ADD note text;
        ALTER TABLE one_row ADD CHECK (note <> ''), REPLICA IDENTITY FULL;
        CREATE TABLE another (tenant_id uuid PRIMARY KEY);
        ALTER TABLE tenant.settings DROP COLUMN timezone"#,
    )
    .await;
    let target = pair.target_plan_of(&["tenant", SHOP]).await.unwrap();
    assert_ne!(source.fingerprint.digest(), target.fingerprint.digest());
    let differences = source.fingerprint.differences(&target.fingerprint).join("\n");
    for words in [
        r#"column Odd "Shop.account.amount is `numeric NOT NULL DEFAULT 0` at the source and `numeric(10,2) NOT NULL DEFAULT 0` at the target"#,
        r#"account.country is `text COLLATE pg_catalog."default"` at the source and `text NOT NULL COLLATE"#,
        r#"the target has no unique index account's e-mail on Odd "Shop.account"#,
        r#"account.e"mail is `text NOT NULL COLLATE pg_catalog."default"` at the source and `text NOT NULL COLLATE pg_catalog."C"` at the target"#,
        "account.half is",
        r#"type "Odd ""Shop".mood is `enum 'glad', 'sad', 'so "so"'` at the source and `enum 'glad', 'angry', 'sad', 'so "so"'`"#,
        r#"type "Odd ""Shop".price is `domain"#,
        "A; hard one.gross is",
        r#"the source has no column Odd "Shop.A; hard one.note"#,
        r#"the source has no constraint one_row_note_check on Odd "Shop.one_row"#,
        r#"table Odd "Shop.one_row is `replica identity d` at the source and `replica identity f` at the target"#,
        r#"the source has no table Odd "Shop.another"#,
        "the target has no column tenant.settings.timezone",
        "the target has no constraint settings_timezone_check",
    ] {
        assert!(differences.contains(words), "{words} is not in:\n{differences}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_moved_is_refused_all_at_once() {
    let pair = Pair::start().await;
    pair.on_source(
        "SET ROLE stagesub_owner; CREATE SCHEMA bad; CREATE SCHEMA elsewhere; SET search_path = bad;
        CREATE TABLE elsewhere.parent (tenant_id uuid, no bigint, PRIMARY KEY (tenant_id, no));
        CREATE TABLE no_key (tenant_id uuid, no bigint);
        CREATE TABLE wrong_key (tenant_id uuid, no bigint, PRIMARY KEY (no, tenant_id));
        CREATE TABLE text_tenant (tenant_id text PRIMARY KEY);
        CREATE TABLE silent (tenant_id uuid PRIMARY KEY); ALTER TABLE silent REPLICA IDENTITY NOTHING;
        CREATE UNLOGGED TABLE forgotten (tenant_id uuid PRIMARY KEY);
        CREATE TABLE parted (tenant_id uuid PRIMARY KEY) PARTITION BY HASH (tenant_id);
        CREATE TABLE part PARTITION OF parted FOR VALUES WITH (MODULUS 1, REMAINDER 0);
        CREATE TABLE above (tenant_id uuid PRIMARY KEY); CREATE TABLE below (PRIMARY KEY (tenant_id)) INHERITS (above);
        CREATE TABLE ruled (tenant_id uuid PRIMARY KEY); CREATE RULE r AS ON INSERT TO ruled DO ALSO NOTHING;
        CREATE TABLE numbered (tenant_id uuid, no bigint GENERATED ALWAYS AS IDENTITY, o serial, PRIMARY KEY (tenant_id, no));
        CREATE TABLE pointing (tenant_id uuid PRIMARY KEY, c regclass[], a aclitem, o oid);
        CREATE SEQUENCE counted;
        CREATE TABLE computed (tenant_id uuid, a int, b int GENERATED ALWAYS AS (a + 1) STORED, PRIMARY KEY (tenant_id, b));
        CREATE TABLE child (tenant_id uuid, no bigint, PRIMARY KEY (tenant_id, no),
            FOREIGN KEY (tenant_id, no) REFERENCES elsewhere.parent (tenant_id, no));
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TABLE triggered (tenant_id uuid PRIMARY KEY);
        CREATE TRIGGER usual BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION f();
        CREATE TRIGGER off BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION f();
        CREATE TRIGGER stubborn BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION f();
        ALTER TABLE triggered DISABLE TRIGGER off, ENABLE ALWAYS TRIGGER stubborn;
        CREATE MATERIALIZED VIEW kept AS SELECT * FROM silent;
        CREATE VIEW seen AS SELECT * FROM silent;",
    )
    .await;
    let refused = |error| match error {
        PlanError::Refused(refused) => refused.iter().map(ToString::to_string).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let kept = refused(pair.plan_of(&["bad"]).await.unwrap_err());
    let wanted = [
        ("bad.kept", "keeps rows of tenants"),
        ("bad.no_key", "no primary key"),
        ("bad.wrong_key", "no primary key that begins with tenant_id"),
        ("bad.text_tenant.tenant_id", "not uuid"),
        ("bad.silent", "replica identity"),
        ("bad.forgotten", "unlogged"),
        ("bad.parted", "partitioned"),
        ("bad.part", "partitioned"),
        ("bad.above", "inherit"),
        ("bad.below", "inherit"),
        ("bad.ruled", "rules"),
        ("bad.numbered.no", "bad.numbered_no_seq"),
        ("bad.numbered.o", "bad.numbered_o_seq"),
        ("bad.pointing.c", "regclass is an oid"),
        ("bad.pointing.a", "aclitem has no binary form"),
        ("bad.pointing.o", "oid is an oid"),
        ("bad.counted", "a sequence of no column"),
        ("bad.computed.b", "computed, and part of the primary key"),
        ("bad.child", "elsewhere.parent, which is not moved"),
        ("bad.triggered", "would fire on the target: usual;"),
        ("bad.triggered", "even for replicated rows: stubborn)"),
    ];
    for (object, why) in wanted {
        let told = |text: &&String| text.starts_with(&format!("{object} (")) && text.contains(why);
        assert!(kept.iter().any(|text| told(&text)), "{object}, {why} is not in {kept:#?}");
    }
    assert_eq!(kept.len(), wanted.len(), "{kept:#?}");

    // Where triggers stay silent, the usual one is no obstacle.
    let skipped = refused(plan(&pair.source, &["bad"], Checks::Skipped).await.unwrap_err());
    assert_eq!(skipped.len(), wanted.len() - 1, "{skipped:#?}");
    assert!(matches!(pair.plan_of(&["nowhere"]).await, Err(PlanError::Nothing(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_in_a_circle_move_only_where_nothing_is_checked() {
    let pair = Pair::start().await;
    pair.on_source(
        "SET ROLE stagesub_owner; CREATE SCHEMA ring; SET search_path = ring;
        CREATE TABLE a (tenant_id uuid, no bigint, b bigint, PRIMARY KEY (tenant_id, no));
        CREATE TABLE b (tenant_id uuid, no bigint, PRIMARY KEY (tenant_id, no),
            FOREIGN KEY (tenant_id, no) REFERENCES a (tenant_id, no));
        ALTER TABLE a ADD FOREIGN KEY (tenant_id, b) REFERENCES b (tenant_id, no);",
    )
    .await;
    let refused = pair.plan_of(&["ring"]).await.unwrap_err();
    assert!(matches!(refused, PlanError::Cyclic(_)), "{refused:?}");
    let words = refused.to_string();
    assert!(words.contains("ring.a, ring.b") && words.contains("session_replication_role"), "{words}");
    let taken = plan(&pair.source, &["ring"], Checks::Skipped).await.unwrap();
    assert!(taken.tables.len() == 2 && taken.tables.iter().all(|table| table.parents.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_says_whose_it_is_and_asks_where_it_is() {
    let pair = Pair::start().await;
    let session = pair.target.open("here").await.unwrap();
    assert_eq!(pair.sessions().await, 1);
    let name: String = sqlx::query_scalar("SELECT application_name FROM pg_stat_activity WHERE pid = $1")
        .bind(session.pid())
        .fetch_one(&mut connect(pair.platform.registry()).await)
        .await
        .unwrap();
    assert_eq!(name, format!("stagesub-move:{}:here", pair.move_id));
    session.close().await;

    let mut registry = connect(pair.platform.registry()).await;
    let mover: ConnectionTarget = open_login(&mut registry, &keys(), "shared", "stagesub_mover").await;
    let another = Identity::of(&PoolTarget::Shared(DatabaseId::from_uuid(Uuid::now_v7())));
    let refused = Site::new(pair.move_id, mover, another).open("lost").await.unwrap_err();
    assert!(
        matches!(&refused, SessionError::Connect { source: ConnectError::WrongDatabase { .. }, .. }),
        "{refused:?}"
    );
}
