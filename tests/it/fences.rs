//! The lint among the four fences: a handler that reaches for a pool does not pass.
//!
//! The others are shown where they stand: the compiler by the `compile_fail` doctests of
//! `stagesub_tenancy::scope` and `stagesub_storage::tx`, PostgreSQL and the walk over its catalogue in
//! `isolation.rs`.

use std::path::Path;
use std::process::{Command, Output};

/// Every way to a connection that `clippy.toml` closes. Each stands behind a feature of the scratch crate, so
/// that the same crate is seen to pass without it.
const DOORS: [(&str, &str, &str); 6] = [
    ("begin", "pool.begin().await.map(drop)", "sqlx::Pool::begin"),
    ("begin_with", "pool.begin_with(\"BEGIN\").await.map(drop)", "sqlx::Pool::begin_with"),
    ("acquire", "pool.acquire().await.map(drop)", "sqlx::Pool::acquire"),
    ("try_acquire", "{ drop(pool.try_acquire()); Ok(()) }", "sqlx::Pool::try_acquire"),
    ("connect", "sqlx::PgPool::connect(\"\").await.map(drop)", "sqlx::Pool::connect"),
    ("connect_lazy", "sqlx::PgPool::connect_lazy(\"\").map(drop)", "sqlx::Pool::connect_lazy"),
];

/// A crate of a handler that has a pool in its hands, with the workspace's lock and lints.
fn scratch(workspace: &Path, dir: &Path) {
    let features = DOORS.map(|(name, ..)| format!("{name} = []\n")).concat();
    let manifest = format!(
        "[package]\nname = \"scratch\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n\n\
         [features]\n{features}\n\
         [dependencies]\nsqlx = {{ version = \"0.9.0\", default-features = false, features = [\"runtime-tokio\", \"postgres\"] }}\n\n\
         [workspace]\n"
    );
    let handlers = DOORS
        .map(|(name, body, _)| {
            format!(
                "#[cfg(feature = \"{name}\")]\npub async fn {name}(pool: &sqlx::PgPool) -> Result<(), sqlx::Error> {{\n    \
                 let _ = pool;\n    {body}\n}}\n"
            )
        })
        .concat();
    let source = format!(
        "//! A handler that was given a pool.\n\n\
         pub async fn fine(pool: &sqlx::PgPool) -> bool {{\n    pool.is_closed()\n}}\n{handlers}"
    );
    std::fs::create_dir_all(dir.join("src")).unwrap();
    std::fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    std::fs::write(dir.join("src/lib.rs"), source).unwrap();
    std::fs::copy(workspace.join("Cargo.lock"), dir.join("Cargo.lock")).unwrap();
}

fn clippy(workspace: &Path, dir: &Path, features: &[&str]) -> Output {
    Command::new(env!("CARGO"))
        .args(["clippy", "--offline", "--quiet", "--features", &features.join(",")])
        .args(["--", "-D", "warnings"])
        .current_dir(dir)
        .env("CLIPPY_CONF_DIR", workspace)
        .env("CARGO_TARGET_DIR", dir.join("target"))
        .env_remove("RUSTFLAGS")
        .output()
        .expect("cargo runs")
}

#[test]
fn a_handler_that_reaches_for_a_pool_fails_clippy() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    // Below the workspace's target directory, so that what it compiled is there the next time.
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("side-door");
    scratch(&workspace, &dir);

    let without = clippy(&workspace, &dir, &[]);
    let stderr = String::from_utf8_lossy(&without.stderr);
    assert!(without.status.success(), "the crate passes without a door: {stderr}");

    // Warnings of one run are all told, so one run tries every door.
    let with = clippy(&workspace, &dir, &DOORS.map(|(name, ..)| name));
    let stderr = String::from_utf8_lossy(&with.stderr);
    assert!(!with.status.success(), "a door stands open");
    for (_, _, method) in DOORS {
        let told = format!("use of a disallowed method `{method}`");
        assert!(stderr.contains(&told), "`{told}` is not in: {stderr}");
    }
    assert!(!stderr.contains("error[E"), "it fails for the lint and nothing else: {stderr}");
}

/// The lint can be silenced where a reason is given; this is the list of who does.
#[test]
fn only_adapters_of_the_registry_say_why_they_may() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut doors = Vec::new();
    walk(&crates, &mut |path, text| {
        if text.contains("clippy::disallowed_methods") && !text.contains("reason = \"the one clock") {
            doors.push(path.strip_prefix(&crates).unwrap().to_str().unwrap().to_owned());
        }
    });
    doors.retain(|path| !path.starts_with("storage/src/registry"));
    assert!(doors.is_empty(), "these take connections and are no adapters of the registry: {doors:?}");
}

/// What of `storage` is behind the feature `orchestra`.
const BEHIND_THE_FEATURE: [&str; 13] = [
    "repo",
    "unit.rs",
    "prove/orchestra.rs",
    "registry/audit.rs",
    "registry/constraints.rs",
    "registry/credentials.rs",
    "registry/idempotency.rs",
    "registry/move_desk.rs",
    "registry/people.rs",
    "registry/platform_databases.rs",
    "registry/tenant_databases.rs",
    "registry/tenants.rs",
    "registry/witnesses.rs",
];

/// Whoever embeds the tenancy and the storage gets no word of an orchestra in code that runs. (That they get none of its
/// crates, cargo says in `.ci/run`.)
#[test]
fn what_others_embed_speaks_of_no_orchestra() {
    const WORDS: [&str; 8] = [
        "musician",
        "instrument",
        "rehears",
        "concert",
        "ranking",
        "\"project",
        "stagesub_domain",
        "stagesub_auth::",
    ];
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let (mut found, mut files) = (Vec::new(), 0);
    for half in ["tenancy/src", "storage/src"] {
        let dir = crates.join(half);
        walk(&dir, &mut |path, text| {
            let name = path.strip_prefix(&dir).unwrap();
            let behind = BEHIND_THE_FEATURE
                .iter()
                .any(|part| name.starts_with(part) || name == Path::new(part).with_extension("rs"));
            if half == "storage/src" && behind || name.ends_with("tests.rs") {
                return;
            }
            files += 1;
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            // An item behind the feature ends with the next blank line, a row of a table where it is closed.
            let mut behind = false;
            for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
                behind |= line.contains("feature = \"orchestra\"");
                let said = WORDS.iter().find(|word| line.to_ascii_lowercase().contains(**word));
                if let Some(word) = said.filter(|_| !behind) {
                    found.push(format!("{word} in {}: {line}", path.display()));
                }
                behind &= !(line.is_empty()
                    || line == "    ),"
                    || line.starts_with("    right(") && line.ends_with("),"));
            }
        });
    }
    assert!(found.is_empty(), "{found:#?}");
    assert!(files > 60, "only {files} files were read");
}

fn walk(dir: &Path, visit: &mut impl FnMut(&Path, &str)) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, visit);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            visit(&path, &std::fs::read_to_string(&path).unwrap());
        }
    }
}
