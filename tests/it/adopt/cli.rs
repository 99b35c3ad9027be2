//! `stagesub adopt` and `stagesub doctor --schema`, as they are typed.

use secrecy::ExposeSecret;
use serde_json::Value;

use super::{SHARED, SHOP, Shop};
use crate::cli::run;

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_then_applies_and_the_doctor_agrees() {
    let shop = Shop::legacy().await;
    let url = shop.server.admin(SHARED).to_url();
    let tenant = shop.a.to_string();
    let adopt =
        ["adopt", "--database-url", url.expose_secret(), "--schema", SHOP, "--tenant-column", "client"];
    let decided = ["--reference-table", "country", "--tenant", &tenant];
    let doctor = [
        "doctor",
        "--database-url",
        url.expose_secret(),
        "--schema",
        SHOP,
        "--reference-table",
        "country",
        "--json",
    ];
    let before = shop.state().await;

    // Without the decisions it says what is to be decided, and applies nothing.
    let asked = run(&[&adopt[..], &["--reference-table", "country", "--apply"]].concat(), &[], "").await;
    assert_eq!((asked.status.code(), asked.stdout.len()), (Some(1), 0));
    assert!(String::from_utf8_lossy(&asked.stderr).contains("--tenant ID"), "{asked:?}");

    let printed = run(&[&adopt[..], &decided].concat(), &[], "").await;
    let script = String::from_utf8(printed.stdout).unwrap();
    assert_eq!(printed.status.code(), Some(0), "{}", String::from_utf8_lossy(&printed.stderr));
    assert!(script.starts_with("BEGIN;") && script.contains("FORCE ROW LEVEL SECURITY"), "{script}");
    assert_eq!(shop.state().await, before);
    let found = run(&doctor, &[], "").await;
    assert_eq!(found.status.code(), Some(1), "there are holes before it is applied");

    let applied = run(&[&adopt[..], &decided, &["--apply", "--json"]].concat(), &[], "").await;
    let told: Value = serde_json::from_slice(&applied.stdout).unwrap();
    assert_eq!((applied.status.code(), &told["applied"]), (Some(0), &Value::Bool(true)), "{told}");
    let found = run(&doctor, &[], "").await;
    let report: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!((found.status.code(), &report["findings"]), (Some(0), &serde_json::json!([])), "{report}");

    // A second run prints nothing.
    for apply in [&[][..], &["--apply"]] {
        let again = run(&[&adopt[..], &decided, apply].concat(), &[], "").await;
        assert_eq!((again.status.code(), again.stdout.len()), (Some(0), 0), "{again:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_wrong_use_end_as_they_should() {
    let shop =
        Shop::with("CREATE SCHEMA crm; CREATE TABLE crm.loose (id int); CREATE SEQUENCE crm.numbers", "")
            .await;
    let url = shop.server.admin(SHARED).to_url();
    let refused = run(&["adopt", "--database-url", url.expose_secret(), "--schema", "crm"], &[], "").await;
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0));
    assert!(
        told.contains("crm.loose") && told.contains("crm.numbers") && told.contains("nothing was changed"),
        "{told}"
    );
    let refused =
        run(&["adopt", "--database-url", url.expose_secret(), "--schema", "crm", "--json"], &[], "").await;
    let told: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(told["refused"].as_array().map(Vec::len), Some(2), "{told}");
    let wrong = run(&["adopt", "--database-url", "hunter2", "--schema", "crm"], &[], "").await;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(!String::from_utf8_lossy(&wrong.stderr).contains("hunter2"));
}
