//! The program `stagesub` as its users run it.

use std::path::PathBuf;

use reqwest::ClientBuilder;
use tokio::process::Command;
use tokio::sync::OnceCell;

/// Where the program is: `STAGESUB_BIN`, else as the build of these tests would make it.
pub async fn path() -> &'static PathBuf {
    static PATH: OnceCell<PathBuf> = OnceCell::const_new();
    PATH.get_or_init(build).await
}

/// A client that asks the program over its socket. (The workspace's client can do TLS and wants to be told with
/// what, also where it never does.)
pub fn http() -> ClientBuilder {
    // Whoever installed a provider first decides, and any of them will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    ClientBuilder::new()
}

/// A command of the program, in an environment that configures nothing.
pub async fn command() -> Command {
    let mut command = Command::new(path().await);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let configures = name.starts_with("STAGESUB_")
            || name.starts_with("SUPERADMIN_")
            || name.starts_with("PG")
            || name.ends_with("DATABASE_URL")
            || name.ends_with("_DB_URL")
            || matches!(name.as_ref(), "JWT_SECRET" | "APP_DOMAIN");
        if configures && name != "PG_BIN_DIR" {
            command.env_remove(name.as_ref());
        }
    }
    command.kill_on_drop(true);
    command
}

async fn build() -> PathBuf {
    if let Some(path) = std::env::var_os("STAGESUB_BIN").filter(|path| !path.is_empty()) {
        return path.into();
    }
    // `<target>/<profile>/deps/it-<hash>`
    let test = std::env::current_exe().expect("a test knows where it is");
    let profile = test.ancestors().nth(2).expect("a test is two directories deep");
    let target = profile.parent().expect("a profile is in the target directory");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--offline", "--quiet", "-p", "stagesub-server", "--bin", "stagesub"]);
    if cfg!(feature = "otel") {
        cargo.args(["--features", "otel"]);
    }
    if profile.file_name().is_some_and(|name| name == "release") {
        cargo.arg("--release");
    }
    let built = cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", target)
        .status()
        .await
        .expect("cargo runs");
    assert!(built.success(), "the program does not build");
    profile.join("stagesub")
}
