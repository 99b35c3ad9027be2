//! The program, serving on a test's databases.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::ExposeSecret;
use serde_json::Value;
use stagesub_tests::cluster::keys_text;
use stagesub_tests::{TestPlatform, program};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

use crate::cli::environment;

const DEADLINE: Duration = Duration::from_mins(1);

/// A `stagesub serve` that is ready.
pub(crate) struct Serving {
    child: Child,
    /// What it said when it was.
    pub(crate) told: Value,
}

impl Serving {
    pub(crate) async fn start(platform: &TestPlatform, more: &[(&str, &str)]) -> Self {
        let (keys, registry) = (keys_text(), platform.registry().to_url());
        let mut command = program::command().await;
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--json"])
            .envs(environment(registry.expose_secret(), keys.expose_secret()))
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("it has a stdout")).lines();
        let line = timeout(DEADLINE, lines.next_line()).await.expect("it is ready in time").unwrap();
        let told = serde_json::from_str(&line.expect("it is ready")).expect("a line of JSON");
        Self { child, told }
    }

    /// `http://address` of one of its listeners.
    pub(crate) fn url(&self, listener: &str) -> String {
        format!("http://{}", self.told[listener].as_str().expect("it listens there"))
    }

    /// Ends it where it stands.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("it can be killed");
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) async fn stop(mut self) {
        let pid = i32::try_from(self.child.id().expect("it runs")).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        let status = timeout(DEADLINE, self.child.wait()).await.expect("it stops in time").unwrap();
        assert!(status.success(), "{status}");
    }
}
