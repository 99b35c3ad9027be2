//! Databases as the platform's administrators handle them: over HTTP, by the program, and what that does to a platform
//! that runs.

use secrecy::ExposeSecret;
use serde_json::json;
use stagesub_server::prove::{self, Attacked, Extent};
use stagesub_tests::cluster::keys_text;
use stagesub_tests::database::{connect, run as run_sql};
use stagesub_tests::{Kept, TestPlatform};
use tokio_util::sync::CancellationToken;

use crate::cli;

const DATABASES: &str = "/api/v1/platform/databases";

/// A name that a later run of the tests removes, should this one not come to its end.
fn name(what: &str) -> String {
    format!("stagesub_test_run{}_{what}", std::process::id())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_added_serves_at_once_and_a_platform_with_several_is_proved() {
    let platform = TestPlatform::start().await;
    let superadmin = platform.superadmin().await;
    let first = platform.orchestra(Kept::Shared, "first").await;
    let second = name("second");
    let keyed = superadmin.with_header("idempotency-key", "one");
    let answer = keyed.post(DATABASES, &json!({ "name": second })).await;
    let made = answer.created();
    assert_eq!(
        (&made["kind"], &made["status"], &made["tenants"]),
        (&json!("shared"), &json!("ready"), &json!(0))
    );
    let path = format!("{DATABASES}/{}", made["id"].as_str().unwrap());
    assert_eq!(answer.headers["location"], path);
    let again = keyed.post(DATABASES, &json!({ "name": second })).await;
    assert_eq!(
        (&again.created()["id"], &again.headers["idempotent-replayed"]),
        (&made["id"], &"true".parse().unwrap())
    );
    assert_eq!(platform.count_in_registry("registry.platform_audit WHERE model = 'database'").await, 1);

    // The node that was running before serves from it.
    let newcomer = platform.orchestra(Kept::Shared, "newcomer").await;
    assert_eq!(platform.database_of(&newcomer).await, second);
    assert_ne!(platform.database_of(&first).await, second);
    assert_eq!(newcomer.admin.list_all("/api/v1/instruments").await.len(), 14);
    let shown = superadmin.get(&path).await.ok();
    assert_eq!(shown["tenants"], 1);
    assert!(shown["sizeBytes"].as_i64().unwrap() > 0);
    let all = superadmin.list_all(&format!("{DATABASES}?limit=1")).await;
    assert_eq!(all.iter().filter(|one| one["kind"] == "shared").count(), 2);
    let check = superadmin.order(&format!("{path}/check")).await.ok();
    assert_eq!((&check["isSound"], &check["unreachable"]), (&json!(true), &json!(null)));
    assert_eq!(check["obstacles"], json!([]), "{check}");

    // The proof attacks both, and the canaries live together.
    let stop = CancellationToken::new();
    let attacked = Attacked::InProcess(platform.serving());
    let report =
        prove::run(platform.wired(), TestPlatform::DOMAIN, attacked, Extent::Whole, &stop).await.unwrap();
    assert!(report.holds(), "{:#?}", report.failures);
    let attacked: Vec<&str> = report.databases.iter().map(|database| database.kind.as_str()).collect();
    assert_eq!(attacked, ["shared", "shared"]);
    let doctor = platform.wired().examine().await.unwrap();
    assert!(doctor.is_ok(), "{doctor:?}");

    // One that is away takes its own tenants alone with it.
    let mut admin = connect(&platform.registry().with_database("postgres")).await;
    run_sql(&mut admin, &format!("ALTER DATABASE {second} ALLOW_CONNECTIONS false")).await;
    platform.client().at("10.0.0.7").get("/readyz").await.expect(200);
    assert_eq!(first.admin.list_all("/api/v1/instruments").await.len(), 14);
    let check = superadmin.order(&format!("{path}/check")).await.ok();
    assert_eq!(check["isSound"], false);
    run_sql(&mut admin, &format!("ALTER DATABASE {second} ALLOW_CONNECTIONS true")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_told_without_a_secret() {
    let platform = TestPlatform::start().await;
    let superadmin = platform.superadmin().await;
    let secret = "postgres://somebody:hunter2@10.0.0.1/postgres";
    for body in [json!({ "server": secret }), json!({ "database": secret })] {
        let answer = superadmin.post(DATABASES, &body).await;
        let problem = answer.problem(409, "wrong-state");
        assert!(problem["detail"].as_str().unwrap().contains("STAGESUB_DATABASE_HOSTS"), "{problem}");
        assert!(!answer.text().contains("hunter2"), "{}", answer.text());
    }
    let malformed = superadmin.post(DATABASES, &json!({ "server": "mysql://u:hunter2@h/d" })).await;
    assert!(malformed.problem(409, "wrong-state")["detail"].as_str().unwrap().contains("postgres://"));
    assert!(!malformed.text().contains("hunter2"));
    superadmin
        .post(DATABASES, &json!({ "server": secret, "database": secret }))
        .await
        .invalid(&[("database", "unexpected")]);
    superadmin.post(DATABASES, &json!({ "name": "Robert'); --" })).await.invalid(&[("name", "format")]);
    superadmin.get(&format!("{DATABASES}/{}", uuid::Uuid::now_v7())).await.expect(404);
    superadmin.order(&format!("{DATABASES}/nonsense/check")).await.expect(404);
    assert_eq!(platform.count_in_registry("registry.platform_audit WHERE model = 'database'").await, 0);
    assert_eq!(platform.count_in_registry("registry.databases").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_adds_lists_and_checks_beside_a_server_that_runs() {
    let platform = TestPlatform::start().await;
    let url = platform.registry().to_url();
    let keys = keys_text();
    let environment = cli::environment(url.expose_secret(), keys.expose_secret());
    let name = name("added");
    let add = ["database", "add", "--beside", "--name", &name, "--json"];
    let added = cli::success(&add, &environment, "").await;
    assert_eq!((&added["name"], &added["kind"]), (&json!(name), &json!("shared")));
    assert_eq!(cli::success(&add, &environment, "").await["id"], added["id"]);
    let listed = cli::success(&["database", "list", "--json"], &environment, "").await;
    assert_eq!(listed.as_array().unwrap().len(), 3);
    let id = added["id"].as_str().unwrap();
    let checked = cli::success(&["database", "check", id, "--json"], &environment, "").await;
    assert_eq!(checked[0]["check"]["isSound"], true);

    // A connection string comes by stdin, and goes nowhere else.
    let output = cli::run(
        &["database", "add", "--server-stdin"],
        &environment,
        "postgres://somebody:hunter2@10.0.0.1/postgres\n",
    )
    .await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("STAGESUB_DATABASE_HOSTS") && !stderr.contains("hunter2"), "{stderr}");
    let mut listed = environment.clone();
    listed.push(("STAGESUB_DATABASE_HOSTS", "10.0.0.0/40"));
    let told = cli::failure(&["database", "list"], &listed).await;
    assert!(told.contains("STAGESUB_DATABASE_HOSTS") && told.contains("10.0.0.0/40"), "{told}");
}
