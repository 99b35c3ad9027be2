//! `stagesub prove` as its users run it: the report, its signature, and who may believe it.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::{Value, json};
use stagesub_storage::seal::KeyRing;
use stagesub_tests::cluster::keys_text;
use stagesub_tests::{TestPlatform, program};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_mins(5);

async fn run(arguments: &[&str], environment: &[(&str, &str)], dir: &Path) -> Output {
    let mut command = program::command().await;
    command.args(arguments).envs(environment.iter().copied()).current_dir(dir);
    timeout(DEADLINE, command.output()).await.expect("it ends in time").expect("the program runs")
}

/// Exit code, stdout and stderr.
fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_written_signed_and_verified_against_a_key_that_is_known() {
    let platform = TestPlatform::start().await;
    let (keys, registry) = (keys_text(), platform.registry().to_url());
    let environment = [
        ("DATABASE_URL", registry.expose_secret()),
        ("STAGESUB_KEYS", keys.expose_secret()),
        ("JWT_SECRET", "a secret of the tests, long enough to sign with"),
        ("APP_DOMAIN", TestPlatform::DOMAIN),
    ];
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let (code, stdout, stderr) = told(&run(&["prove"], &environment, dir).await);
    assert_eq!(code, Some(0), "{stdout}\n{stderr}");
    assert!(stdout.contains("PASS"), "{stdout}");
    println!("{stdout}");
    let written: Vec<_> =
        std::fs::read_dir(dir).expect("it is there").map(|it| it.expect("a file").path()).collect();
    let [file] = written.as_slice() else { panic!("one report: {written:?}") };
    let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
    assert!(name.starts_with("stagesub-proof-2"), "{name}");
    let text = std::fs::read_to_string(file).expect("it can be read");
    let report: Value = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!(report["report"]["passed"], true);
    assert!(report["report"]["answers"].as_array().is_some_and(|answers| answers.len() >= 8));
    for secret in [keys.expose_secret(), environment[2].1, "Bearer ", "password"] {
        assert!(!text.contains(secret), "{secret} is in the report");
    }
    // What is there is never overwritten, and that is told before anything is attacked.
    let (code, _, stderr) = told(&run(&["prove", "--out", name], &environment, dir).await);
    assert_eq!(code, Some(1));
    assert!(stderr.contains(name) && stderr.contains("--out"), "{stderr}");

    // Verified with the ring, with the key that was handed on, and with neither.
    let ring = [("STAGESUB_KEYS", keys.expose_secret())];
    let (code, stdout, stderr) = told(&run(&["prove", "--verify", name], &ring, dir).await);
    assert_eq!(code, Some(0), "{stdout}\n{stderr}");
    let (code, key, _) = told(&run(&["keys", "public"], &ring, dir).await);
    assert_eq!(code, Some(0));
    let key = key.trim();
    let verified = run(&["prove", "--verify", name, "--public-key", key, "--json"], &[], dir).await;
    let answer: Value = serde_json::from_slice(&verified.stdout).expect("a line of JSON");
    assert_eq!((&answer["verified"], &answer["passed"]), (&json!(true), &json!(true)));
    assert_eq!(answer["publicKey"], key);
    let (code, stdout, stderr) = told(&run(&["prove", "--verify", name], &[], dir).await);
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "the key in the report counts for nothing");
    assert!(stderr.contains("--public-key") && stderr.contains("STAGESUB_KEYS"), "{stderr}");

    // Another key; the key of a ring that was rotated, and of one that forgot it.
    let other = KeyRing::generate("test").to_text_secret();
    let others = [("STAGESUB_KEYS", other.expose_secret())];
    let (code, _, stderr) = told(&run(&["prove", "--verify", name], &others, dir).await);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("another public key"), "{stderr}");
    let newer = KeyRing::generate("newer").to_text_secret();
    let rotated = format!("{},{}", newer.expose_secret(), keys.expose_secret());
    let (code, _, stderr) =
        told(&run(&["prove", "--verify", name], &[("STAGESUB_KEYS", &rotated)], dir).await);
    assert_eq!(code, Some(0), "{stderr}");
    let forgot = [("STAGESUB_KEYS", newer.expose_secret())];
    let (code, _, stderr) = told(&run(&["prove", "--verify", name], &forgot, dir).await);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("`test`"), "{stderr}");

    // Changed, and not there.
    let changed = text.replacen("\"outcome\":\"refused\"", "\"outcome\":\"Refused\"", 1);
    assert_ne!(changed, text);
    std::fs::write(dir.join("changed.json"), changed).expect("it is written");
    let (code, _, stderr) = told(&run(&["prove", "--verify", "changed.json"], &ring, dir).await);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("signature"), "{stderr}");
    let (code, _, stderr) = told(&run(&["prove", "--verify", "nowhere.json"], &ring, dir).await);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("nowhere.json"), "{stderr}");

    // Genuine, of a proof that failed.
    let signer = stagesub_server::prove::signing::ReportSigner::new(&stagesub_tests::cluster::keys());
    let mut failed: stagesub_server::prove::Report =
        serde_json::from_value(report["report"].clone()).expect("a report");
    failed.passed = false;
    std::fs::write(dir.join("failed.json"), signer.sign(&failed.to_json())).expect("it is written");
    let (code, stdout, stderr) = told(&run(&["prove", "--verify", "failed.json"], &ring, dir).await);
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("FAIL") && stderr.contains("failed"), "{stdout}\n{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_cannot_be_meant_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let (code, _, stderr) = told(&run(&["prove"], &[], dir.path()).await);
    assert_eq!(code, Some(1));
    for name in ["DATABASE_URL", "JWT_SECRET", "STAGESUB_KEYS", "APP_DOMAIN"] {
        assert!(stderr.contains(name), "{stderr}");
    }
    let (code, _, stderr) = told(&run(&["prove", "--url", "ftp://x"], &[], dir.path()).await);
    assert_eq!(code, Some(2), "{stderr}");
    let (code, _, stderr) = told(&run(&["keys", "public"], &[], dir.path()).await);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("STAGESUB_KEYS"), "{stderr}");
}
