//! The program: with any one guard removed `doctor` fails and nothing is served.

use secrecy::ExposeSecret;
use serde_json::{Value, json};
use stagesub_tests::cluster::keys_text;
use stagesub_tests::database::{connect, run as run_sql};
use stagesub_tests::{Kept, TestPlatform};

use crate::cli::{environment, failure, run};

/// What is removed, and the lint that tells.
const GUARDS: &[(&str, &str)] = &[
    ("fence-missing", "DROP POLICY tenant_fence ON tenant.musician"),
    ("rls-not-forced", "ALTER TABLE tenant.musician NO FORCE ROW LEVEL SECURITY"),
    ("rls-off", "ALTER TABLE tenant.musician DISABLE ROW LEVEL SECURITY"),
    (
        "foreign-key-without-tenant",
        "ALTER TABLE tenant.position DROP CONSTRAINT position_instrument_fkey;
        CREATE UNIQUE INDEX instrument_no ON tenant.instrument (no);
        ALTER TABLE tenant.position ADD CONSTRAINT position_instrument_fkey
            FOREIGN KEY (instrument_no) REFERENCES tenant.instrument (no)",
    ),
    (
        "key-without-tenant",
        "ALTER TABLE tenant.email_template DROP CONSTRAINT email_template_pkey,
            ADD CONSTRAINT email_template_pkey PRIMARY KEY (mail_type, language, tenant_id)",
    ),
    (
        "guard-changed",
        "CREATE OR REPLACE PROCEDURE app.enter(expected_epoch bigint) LANGUAGE plpgsql AS $enter$
        BEGIN
            PERFORM pg_catalog.pg_advisory_xact_lock_shared(pg_catalog.hashtextextended(app.tenant_id()::text, 7));
        END
        $enter$",
    ),
    (
        "guard-changed",
        "CREATE OR REPLACE FUNCTION app.refuse(expected_epoch bigint) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE
        AS $refuse$ BEGIN RETURN true; END $refuse$",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn without_any_one_guard_doctor_fails_and_nothing_is_served() {
    let platform = TestPlatform::start().await;
    let keys = keys_text();
    let registry = platform.registry().to_url();
    let serving = environment(registry.expose_secret(), keys.expose_secret());
    let got = platform.orchestra(Kept::Shared, "got").await;
    let own = platform.orchestra(Kept::Dedicated, "own").await;

    // In a database of its own a tenant is fenced by the same; one guard shows that it is looked at.
    for (orchestra, guards) in [(&got, GUARDS), (&own, &GUARDS[..1])] {
        let database = platform.registry().with_database(&platform.database_of(orchestra).await);
        for (lint, remove) in guards {
            assert_eq!(examined(&serving, 0).await["findings"], json!([]));
            run_sql(&mut connect(&database).await, remove).await;
            let report = examined(&serving, 1).await;
            assert_eq!(report["ok"], false);
            let findings = report["findings"].as_array().expect("findings");
            let hole = findings.iter().find(|finding| finding["lint"] == *lint);
            let hole = hole.unwrap_or_else(|| panic!("{lint}: {report:#}"));
            assert_eq!(hole["level"], "hole");
            assert!(hole["database"].as_str().expect("a place").ends_with(database.database()), "{hole}");

            let told = failure(&["serve", "--listen", "127.0.0.1:0"], &serving).await;
            assert!(
                told.contains("stagesub doctor") && told.contains(findings[0]["lint"].as_str().unwrap()),
                "{told}"
            );
            // Everything that was printed, in its order.
            let mends: Vec<&str> = findings.iter().map(|finding| finding["mend"].as_str().unwrap()).collect();
            for mend in mends {
                run_sql(&mut connect(&database).await, mend).await;
            }
            run_sql(&mut connect(&database).await, "DROP INDEX IF EXISTS tenant.instrument_no").await;
        }
    }
    let text = run(&["doctor"], &serving, "").await;
    assert!(String::from_utf8_lossy(&text.stdout).starts_with("Nothing was found"), "{text:?}");
}

/// The report of a run that ends with this exit code.
async fn examined(serving: &[(&str, &str)], code: i32) -> Value {
    let output = run(&["doctor", "--json"], serving, "").await;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    assert_eq!(output.status.code(), Some(code), "{stderr} {report:#}");
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn people_get_a_table_with_the_sql_and_a_dead_dedicated_database_keeps_nobody_from_serving() {
    let platform = TestPlatform::start().await;
    let keys = keys_text();
    let registry = platform.registry().to_url();
    let serving = environment(registry.expose_secret(), keys.expose_secret());
    let own = platform.orchestra(Kept::Dedicated, "own").await;
    let database = platform.database_of(&own).await;
    let mut admin = connect(platform.registry()).await;
    run_sql(&mut admin, &format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false")).await;

    let output = run(&["doctor"], &serving, "").await;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{told}");
    for part in ["LEVEL", "unreachable", "partial", &database, "holes: 0, partial: 1, notes: 1"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // A start goes by the same report: nothing in it is a hole.
    let report = platform.wired().examine().await.expect("the registry answers");
    stagesub_server::doctor::refuse_on_hole(&report).expect("the others are served");

    // A shared one is another matter: nobody knows what is open there.
    let shared = platform.orchestra(Kept::Shared, "got").await;
    let database = platform.database_of(&shared).await;
    run_sql(&mut admin, &format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false")).await;
    let report = platform.wired().examine().await.expect("the registry answers");
    let refused = stagesub_server::doctor::refuse_on_hole(&report).expect_err("a hole");
    assert_eq!((refused.first.lint, refused.holes), ("unreachable", 1));
}
