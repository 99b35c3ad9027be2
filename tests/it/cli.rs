//! The program itself: what it says when it cannot, and what it does beside a server that runs.

use std::net::TcpListener;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret;
use serde_json::{Value, json};
use stagesub_domain::role::Role;
use stagesub_tests::cluster::{Cluster, keys_text};
use stagesub_tests::database::{connect, run as run_sql};
use stagesub_tests::{Kept, TestPlatform, program};
use tokio::io::AsyncWriteExt;
use tokio::time::{interval, timeout};

const DEADLINE: Duration = Duration::from_mins(1);

/// Runs the program to its end.
pub(crate) async fn run(arguments: &[&str], environment: &[(&str, &str)], stdin: &str) -> Output {
    let mut command = program::command().await;
    command.args(arguments).envs(environment.iter().copied());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).await.unwrap();
    timeout(DEADLINE, child.wait_with_output()).await.expect("it ends in time").unwrap()
}

/// The last line on stderr of a run that failed with exit code 1: the sentence that says what and what to do.
pub(crate) async fn failure(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let output = run(arguments, environment, "").await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {:?}", String::from_utf8_lossy(&output.stdout));
    let told = stderr.lines().last().unwrap_or_default().to_owned();
    assert!(told.starts_with("stagesub: "), "{arguments:?}: {stderr}");
    assert!(!stderr.contains("hunter2"), "a password is in it: {stderr}");
    told
}

pub(crate) async fn success(arguments: &[&str], environment: &[(&str, &str)], stdin: &str) -> Value {
    let output = run(arguments, environment, stdin).await;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a line of JSON")
}

/// The variables of a server on a test's databases.
pub(crate) fn environment<'a>(database_url: &'a str, keys: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("DATABASE_URL", database_url),
        ("STAGESUB_KEYS", keys),
        ("JWT_SECRET", TestPlatform::JWT_SECRET),
        ("APP_DOMAIN", TestPlatform::DOMAIN),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_in_the_way_is_told_in_a_sentence_with_a_way_out() {
    let keys = keys_text();
    let keys = keys.expose_secret();
    let told = failure(&["serve"], &[]).await;
    for name in ["DATABASE_URL", "JWT_SECRET", "STAGESUB_KEYS", "APP_DOMAIN"] {
        assert!(told.contains(name), "{told}");
    }
    let nowhere = "postgres://somebody:hunter2@127.0.0.1:1/registry?sslmode=disable";
    let told = failure(&["serve", "--listen", "127.0.0.1:0"], &environment(nowhere, keys)).await;
    assert!(told.contains("127.0.0.1:1/registry") && told.contains("cannot be reached"), "{told}");
    let told = failure(&["migrate"], &environment(nowhere, keys)).await;
    assert!(told.contains("cannot be reached"), "{told}");
    let malformed = environment("mysql://somebody:hunter2@db/registry", keys);
    assert!(failure(&["serve"], &malformed).await.contains("DATABASE_URL"));

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = std::env::temp_dir().join(format!("stagesub-cli-{}", std::process::id()));
    let dir = dir.to_str().unwrap();
    let told = failure(&["demo", "--listen", &address, "--data-dir", dir], &[]).await;
    assert!(told.contains(&address) && told.contains("--listen"), "{told}");
    assert!(!std::path::Path::new(dir).join("pgdata").exists(), "it was told before anything slow");

    let no_programs = [("PG_BIN_DIR", "/nonexistent")];
    let told = failure(&["demo", "--listen", "127.0.0.1:0", "--data-dir", dir], &no_programs).await;
    assert!(told.contains("PG_BIN_DIR"), "{told}");
    let _ = std::fs::remove_dir_all(dir);

    for wrong in [&["serve", "--port", "8080"][..], &["tenant"], &["conduct"]] {
        assert_eq!(run(wrong, &[], "").await.status.code(), Some(2), "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_role_or_a_newer_schema_is_refused() {
    let platform = TestPlatform::start().await;
    let keys = keys_text();
    let keys = keys.expose_secret();
    let got = platform.orchestra(Kept::Shared, "got").await;
    let shared = platform.registry().with_database(&platform.database_of(&got).await).to_url();
    let registry = platform.registry().to_url();

    let told =
        failure(&["serve", "--listen", "127.0.0.1:0"], &environment(shared.expose_secret(), keys)).await;
    assert!(told.contains("shared database") && told.contains("registry"), "{told}");
    let empty = Cluster::get().await.admin().to_url();
    let told =
        failure(&["serve", "--listen", "127.0.0.1:0"], &environment(empty.expose_secret(), keys)).await;
    assert!(told.contains("migrate"), "{told}");
    // Neither empty nor a demonstration's.
    let told =
        failure(&["demo", "--listen", "127.0.0.1:0"], &[("DATABASE_URL", registry.expose_secret())]).await;
    assert!(told.contains("demonstration"), "{told}");

    let newer = "INSERT INTO registry.migrations (version, description, success, checksum, execution_time)
        VALUES (29990101000000, 'of a later program', true, '', 0)";
    run_sql(&mut connect(platform.registry()).await, newer).await;
    let serving = environment(registry.expose_secret(), keys);
    for command in [&["serve", "--listen", "127.0.0.1:0"][..], &["migrate"]] {
        let told = failure(command, &serving).await;
        assert!(told.contains("29990101000000") && told.contains("newer"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_command_line_changes_holds_on_a_running_node_within_a_second() {
    let platform = TestPlatform::start().await;
    let keys = keys_text();
    let registry = platform.registry().to_url();
    let serving = environment(registry.expose_secret(), keys.expose_secret());
    let [got, other] = platform.pair(Kept::Shared).await;

    // Made by another process, served by this one.
    let made = success(
        &[
            "tenant",
            "create",
            "Kammarkören Alt",
            "--subdomain",
            "alt",
            "--code",
            "ALT",
            "--subscription",
            "small",
            "--admin-email",
            "ann@alt.example",
            "--admin-first-name",
            "Ann",
            "--admin-last-name",
            "Berg",
            "--password-stdin",
            "--json",
        ],
        &serving,
        "sjunger varje tisdag\n",
    )
    .await;
    assert_eq!(
        (&made["code"], &made["status"], &made["placement"]),
        (&json!("ALT"), &json!("active"), &json!("shared"))
    );
    let alt = platform.client().at(platform.host("alt"));
    let login = json!({ "email": "ann@alt.example", "password": "sjunger varje tisdag" });
    alt.post("/api/v1/auth/login", &login).await.expect(200);

    let listed = success(&["tenant", "list", "--json"], &serving, "").await;
    let listed = listed.as_array().or_else(|| listed["items"].as_array()).expect("a list").len();
    assert_eq!(listed, 3);

    got.admin.get("/api/v1/musicians").await.expect(200);
    let shown = success(&["tenant", "suspend", &got.subdomain, "--json"], &serving, "").await;
    assert_eq!(shown["status"], "suspended");
    let took = until(async || got.admin.get("/api/v1/musicians").await.status == 403).await;
    println!("a tenant suspended by another process is refused after {} ms", took.as_millis());
    // A second is what is promised; the rest is for a machine that is busy with other tests.
    assert!(took < Duration::from_secs(3), "it took {took:?}");
    got.admin.get("/api/v1/musicians").await.problem(403, "tenant-suspended");
    other.admin.get("/api/v1/musicians").await.expect(200);
    success(&["tenant", "resume", &got.subdomain, "--json"], &serving, "").await;
    until(async || got.admin.get("/api/v1/musicians").await.status == 200).await;

    // A new password ends the access tokens that were given before.
    let email = got.admin_email();
    success(&["user", "set-password", &email, "--json"], &serving, "en alldeles ny mening\n").await;
    until(async || got.admin.get("/api/v1/musicians").await.status == 401).await;
    other.admin.get("/api/v1/musicians").await.expect(200);
    let login = json!({ "email": email, "password": "en alldeles ny mening" });
    got.admin.anonymous().post("/api/v1/auth/login", &login).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_listed_disabled_enabled_and_given_roles() {
    let platform = TestPlatform::start().await;
    let keys = keys_text();
    let registry = platform.registry().to_url();
    let serving = environment(registry.expose_secret(), keys.expose_secret());
    let [got, other] = platform.pair(Kept::Shared).await;
    let member = platform.person(&got, Role::User).await;

    let everybody = success(&["user", "list", "--json"], &serving, "").await;
    assert_eq!(everybody.as_array().unwrap().len(), 4);
    let found = success(&["user", "list", "--search", &other.admin_email(), "--json"], &serving, "").await;
    assert_eq!((&found[0]["role"], &found[0]["isActive"]), (&Value::Null, &json!(true)));
    let members = success(&["user", "list", "--tenant", &got.subdomain, "--json"], &serving, "").await;
    let of = |value: &Value| {
        let rows = value.as_array().unwrap().iter();
        rows.map(|row| (row["email"].clone(), row["role"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(
        of(&members),
        [(json!(got.admin_email()), json!("admin")), (json!(member.email), json!("user"))]
    );

    member.client.get("/api/v1/musicians").await.expect(200);
    let disabled = success(&["user", "disable", &member.email, "--json"], &serving, "").await;
    assert_eq!(disabled["isActive"], false);
    until(async || member.client.get("/api/v1/musicians").await.status == 401).await;
    success(&["user", "enable", &member.email, "--json"], &serving, "").await;
    let member = member.sign_in_again().await;
    member.client.get("/api/v1/musicians").await.expect(200);
    let set = ["user", "set-role", &member.email, "--tenant", &got.subdomain, "--role", "viewer", "--json"];
    assert_eq!(success(&set, &serving, "").await["role"], "viewer");
    until(async || member.client.get("/api/v1/musicians").await.status == 401).await;

    let told = failure(&["user", "disable", "ceo@stagesub.test"], &serving).await;
    assert!(told.contains("nobody else administers the platform"), "{told}");
    let demote = ["user", "set-role", &got.admin_email(), "--tenant", &got.subdomain, "--role", "user"];
    let told = failure(&demote, &serving).await;
    assert!(told.contains("nobody else administers the orchestra"), "{told}");
    let elsewhere = ["user", "set-role", &member.email, "--tenant", &other.subdomain, "--role", "user"];
    assert!(failure(&elsewhere, &serving).await.contains("no member"));
    assert!(
        failure(&["user", "enable", "nobody@x.example"], &serving).await.contains("nobody has this address")
    );
}

/// Asks until it holds, and tells how long that was.
async fn until(holds: impl AsyncFn() -> bool) -> Duration {
    let begun = Instant::now();
    let mut ticks = interval(Duration::from_millis(20));
    let waiting = async {
        while !holds().await {
            ticks.tick().await;
        }
    };
    timeout(DEADLINE, waiting).await.expect("it holds in time");
    begun.elapsed()
}
