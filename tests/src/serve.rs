//! A server: the program as its users run it, on a test's databases.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::ExposeSecret;
use serde_json::Value;
use stagesub_storage::target::ConnectionTarget;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

use crate::cluster::keys_text;
use crate::{TestPlatform, program};

/// Longest that a start or a stop may take.
const DEADLINE: Duration = Duration::from_secs(90);

/// A server process.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    log: PathBuf,
    _dir: TempDir,
}

impl Server {
    /// Starts one and waits until it serves. Its clients, who come from one address, may ask as often as they can.
    pub async fn start(registry: &ConnectionTarget, more: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("log");
        let mut child = program::command()
            .await
            .args(["serve", "--listen", "127.0.0.1:0", "--json"])
            .env("DATABASE_URL", registry.to_url().expose_secret())
            .env("STAGESUB_KEYS", keys_text().expose_secret())
            .env("JWT_SECRET", TestPlatform::JWT_SECRET)
            .env("APP_DOMAIN", TestPlatform::DOMAIN)
            .env("STAGESUB_REQUESTS_PER_ADDRESS", "0")
            .env("STAGESUB_REQUESTS_PER_TENANT", "0")
            .env("STAGESUB_TENANT_REQUESTS_AT_ONCE", "0")
            .env("STAGESUB_TENANT_SHARE", "100")
            .env("STAGESUB_LOG", "warn")
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let line = timeout(DEADLINE, lines.next_line()).await.expect("it is ready in time").expect("a line");
        let line = line.unwrap_or_else(|| panic!("{}", std::fs::read_to_string(&log).unwrap_or_default()));
        let facts: Value = serde_json::from_str(&line).expect("a line of JSON");
        let address = facts["listen"].as_str().and_then(|text| text.parse().ok()).expect("an address");
        Self { child, address, log, _dir: dir }
    }

    /// Kills it, as a machine that goes down does.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it ends");
    }

    /// Tells it to stop. What was wrong with that, and the errors that it logged while it ran.
    pub async fn stop(mut self) -> Vec<String> {
        let pid = i32::try_from(self.child.id().expect("it went on to the end")).expect("a process id");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it can be signalled");
        let ended = timeout(DEADLINE, self.child.wait()).await.expect("it stops in time").expect("it ends");
        let mut wrong = Vec::new();
        if !ended.success() {
            wrong.push(format!("a server ended with {ended}"));
        }
        let log = std::fs::read_to_string(&self.log).expect("its log");
        let errors = log.lines().filter(|line| line.contains("ERROR"));
        wrong.extend(errors.map(|line| format!("a server logged {line}")));
        wrong
    }
}
