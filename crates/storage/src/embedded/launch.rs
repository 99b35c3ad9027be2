//! Makes a cluster, starts it, or adopts the one that still runs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::SecretString;
use sqlx::{Connection, PgConnection};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::account::Account;
use super::binaries::PostgresBinaries;
use super::layout::{Layout, PORT};
use super::options::Durability;
use super::pid_file::{PidFile, is_alive};
use super::{ClusterOptions, LaunchError};
use crate::target::ConnectionTarget;

pub(super) const SUPERUSER: &str = "postgres";

/// After a kill -9 Postgres refuses to start until the last of its old processes is gone: 2 to 4 s were seen.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(30);
/// What else makes it refuse, such as a wrong setting, does not go away.
const OTHER_PATIENCE: Duration = Duration::from_secs(3);
/// A start that is accepted may have to recover from a long write-ahead log.
const RECOVERY_PATIENCE: Duration = Duration::from_mins(10);
const LOGIN_PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_millis(250);

/// Variables that programs need to find their libraries. Everything else stays here: our environment holds
/// secrets, and `PG*` variables would change settings.
const PASSED_ON: [&str; 5] =
    ["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "TMPDIR"];

/// A running Postgres.
pub(super) enum Process {
    Child(Child, i32),
    /// One that outlived the process that started it, by its pid.
    Adopted(i32),
}

impl Process {
    pub(super) const fn pid(&self) -> i32 {
        match self {
            Self::Child(_, pid) | Self::Adopted(pid) => *pid,
        }
    }

    /// Waits for its end and says how it ended.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn wait(&mut self) -> String {
        match self {
            Self::Child(child, _) => match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => format!("unknown: {error}"),
            },
            Self::Adopted(pid) => {
                // It is no child of ours, so that nothing announces its end.
                while is_alive(*pid) {
                    sleep(RETRY).await;
                }
                "gone".to_owned()
            }
        }
    }
}

/// Sends a signal to a Postgres that may have ended meanwhile.
pub(super) fn signal(pid: i32, signal: Signal) {
    if let Err(error) = kill(Pid::from_raw(pid), signal) {
        tracing::debug!(pid, %signal, %error, "Postgres could not be signalled");
    }
}

/// Everything needed to start one cluster, now and again.
pub(super) struct Launcher {
    binaries: PostgresBinaries,
    account: Account,
    pub(super) layout: Layout,
    pub(super) durability: Durability,
    max_connections: u16,
    settings: Vec<(String, String)>,
    password: SecretString,
    pub(super) socket_dir: PathBuf,
}

enum Attempt {
    Ready(Child, i32),
    Refused(String),
}

/// Interrupts a child that was started and not taken over, as when the start is cancelled.
struct Starting {
    child: Option<Child>,
    pid: i32,
}

impl Drop for Starting {
    fn drop(&mut self) {
        if self.child.is_some() {
            signal(self.pid, Signal::SIGINT);
        }
    }
}

impl Launcher {
    /// Looks at what is there and decides how to run it. Blocks. The caller holds the directory's lock.
    pub(super) fn prepare(options: &ClusterOptions, layout: Layout) -> Result<Self, LaunchError> {
        let major = layout.data_major()?;
        let binaries = match (&options.binaries, major) {
            (Some(binaries), None) => binaries.clone(),
            (Some(binaries), Some(major)) if binaries.major() == major => binaries.clone(),
            (None, None) => PostgresBinaries::find()?,
            (_, Some(major)) => PostgresBinaries::find_for(&layout.pgdata(), major)?,
        };
        let account = Account::choose(&layout.pgdata())?;
        layout.let_through(&account)?;
        let bin_dir =
            binaries.dir().canonicalize().map_err(LaunchError::program(binaries.program("postgres")))?;
        account.check_reach(&bin_dir)?;
        let password = layout.password(major.is_some())?;
        let socket_dir = layout.socket_dir(&account)?;
        Ok(Self {
            binaries,
            account,
            layout,
            durability: options.durability,
            max_connections: options.max_connections,
            settings: options.settings.clone(),
            password,
            socket_dir,
        })
    }

    /// The superuser on the cluster's own database.
    pub(super) fn admin(&self) -> Result<ConnectionTarget, LaunchError> {
        ConnectionTarget::on_socket(&self.socket_dir, PORT, SUPERUSER, self.password.clone(), "postgres")
            .map_err(LaunchError::Target)
    }

    /// Runs `initdb` if there is no data. Killed in the middle, the next call begins anew.
    pub(super) async fn init(&self) -> Result<(), LaunchError> {
        if self.layout.data_major()?.is_some() {
            return self.layout.remove_staging();
        }
        tracing::info!(dir = %self.layout.root().display(), "making a Postgres cluster");
        // Systems without C.UTF-8 (macOS) have C, which sorts the same way.
        let mut failure = String::new();
        for locale in ["C.UTF-8", "C"] {
            match self.initdb(locale).await? {
                Ok(staging) => {
                    std::fs::rename(&staging, self.layout.pgdata())
                        .map_err(LaunchError::file(self.layout.pgdata(), "renamed into place"))?;
                    return self.layout.sync();
                }
                Err(output) => failure = output,
            }
            if !failure.contains("locale") {
                break;
            }
        }
        Err(LaunchError::InitDb { output: failure })
    }

    /// The inner error is the end of what `initdb` printed.
    async fn initdb(&self, locale: &str) -> Result<Result<PathBuf, String>, LaunchError> {
        let staging = self.layout.make_staging(&self.account)?;
        let password_file = self.layout.lend_password(&self.password, &self.account)?;
        let mut command = self.command("initdb");
        command
            .arg("--pgdata")
            .arg(&staging)
            .arg("--pwfile")
            .arg(&password_file)
            .args(["--username", SUPERUSER, "--auth", "scram-sha-256", "--encoding", "UTF8"])
            .args(["--locale", locale, "--data-checksums", "--no-instructions"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if self.durability == Durability::Throwaway {
            command.arg("--no-sync");
        }
        let output = command.output().await;
        std::fs::remove_file(&password_file).map_err(LaunchError::file(&password_file, "removed"))?;
        let output = output.map_err(LaunchError::program(self.binaries.program("initdb")))?;
        if output.status.success() {
            return Ok(Ok(staging));
        }
        self.layout.remove_staging()?;
        let text = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = text.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
        Ok(Err(last.into_iter().rev().collect::<Vec<_>>().join("; ")))
    }

    /// Starts Postgres, or adopts ours if it runs already.
    pub(super) async fn launch(&self) -> Result<Process, LaunchError> {
        let began = Instant::now();
        loop {
            if let Some(pid) = self.find_running().await? {
                tracing::info!(pid, "adopted the Postgres that was still running");
                return Ok(Process::Adopted(pid));
            }
            match self.attempt().await? {
                Attempt::Ready(child, pid) => {
                    let mut starting = Starting { child: Some(child), pid };
                    self.log_in().await.map_err(|source| self.login_error(source))?;
                    if let Some(child) = starting.child.take() {
                        return Ok(Process::Child(child, pid));
                    }
                }
                Attempt::Refused(reason) => {
                    let patience = if is_passing(&reason) { REFUSAL_PATIENCE } else { OTHER_PATIENCE };
                    if began.elapsed() > patience {
                        return Err(LaunchError::DidNotStart { reason, log: self.layout.log() });
                    }
                    tracing::debug!(reason, "Postgres refused to start; trying again");
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Finds a Postgres that serves our data: its pid lives, it names our directory, and our password opens it.
    async fn find_running(&self) -> Result<Option<i32>, LaunchError> {
        let pgdata = self.layout.pgdata();
        let Some(file) = PidFile::read(&pgdata).map_err(LaunchError::file(&pgdata, "read"))? else {
            return Ok(None);
        };
        let at_our_socket = file.socket_dir.as_ref() == Some(&self.socket_dir) && file.port == Some(PORT);
        if !file.ready || !is_alive(file.pid) || file.data_dir != pgdata || !at_our_socket {
            return Ok(None);
        }
        match self.log_in().await {
            Ok(()) => Ok(Some(file.pid)),
            // Nobody listens: the file is what a kill left and its pid now belongs to something else.
            // Postgres itself decides whether it may start.
            Err(LoginError::Unreachable(error)) => {
                tracing::debug!(%error, pid = file.pid, "nobody answers where postmaster.pid points");
                Ok(None)
            }
            Err(source) => Err(self.login_error(source)),
        }
    }

    /// Runs `postgres` until it is ready or gives up.
    async fn attempt(&self) -> Result<Attempt, LaunchError> {
        let program = self.binaries.program("postgres");
        let log = self.layout.open_log()?;
        let said_before = log.metadata().map_err(LaunchError::file(self.layout.log(), "read"))?.len();
        let second = log.try_clone().map_err(LaunchError::file(self.layout.log(), "opened"))?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.layout.pgdata()).stdout(log).stderr(second).process_group(0);
        for setting in self.settings() {
            command.arg("-c").arg(setting);
        }
        let child = command.spawn().map_err(LaunchError::program(&program))?;
        // Zero in its place would be our own process group, which is signalled by it.
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .ok_or_else(|| LaunchError::program(&program)(std::io::Error::other("it has no process id")))?;
        let mut starting = Starting { child: Some(child), pid };
        let began = Instant::now();
        while let Some(child) = starting.child.as_mut() {
            if child.try_wait().map_err(LaunchError::program(&program))?.is_some() {
                starting.child = None;
                return Ok(Attempt::Refused(self.last_words(said_before)));
            }
            let pgdata = self.layout.pgdata();
            let file = PidFile::read(&pgdata).map_err(LaunchError::file(&pgdata, "read"))?;
            if file.is_some_and(|file| file.pid == pid && file.ready) {
                break;
            }
            if began.elapsed() > RECOVERY_PATIENCE {
                let reason = "it is still recovering".to_owned();
                return Err(LaunchError::DidNotStart { reason, log: self.layout.log() });
            }
            sleep(POLL).await;
        }
        match starting.child.take() {
            Some(child) => Ok(Attempt::Ready(child, pid)),
            None => Ok(Attempt::Refused("it ended".to_owned())),
        }
    }

    fn settings(&self) -> Vec<OsString> {
        let mut all: Vec<OsString> = Vec::new();
        let mut socket = OsString::from("unix_socket_directories=");
        socket.push(quoted_in_list(&self.socket_dir));
        all.push(socket);
        for (name, value) in [
            ("listen_addresses", ""),
            ("unix_socket_permissions", "0700"),
            // `app.enter` is written in it: each new connection would load it at its first transaction that writes.
            ("shared_preload_libraries", "plpgsql"),
            ("wal_level", "logical"),
            ("max_wal_senders", "32"),
            ("max_replication_slots", "32"),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
            ("lc_messages", "C"),
            ("log_destination", "stderr"),
            ("logging_collector", "off"),
        ] {
            all.push(format!("{name}={value}").into());
        }
        all.push(format!("port={PORT}").into());
        all.push(format!("max_connections={}", self.max_connections).into());
        let durable = match self.durability {
            Durability::Durable => "on",
            Durability::Throwaway => "off",
        };
        for name in ["fsync", "synchronous_commit", "full_page_writes"] {
            all.push(format!("{name}={durable}").into());
        }
        all.extend(self.settings.iter().map(|(name, value)| format!("{name}={value}").into()));
        all
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.program(program));
        command.env_clear().env("LC_ALL", "C").stdin(Stdio::null());
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        // Where we are may be out of the account's reach, which initdb complains about.
        command.current_dir(self.layout.root());
        self.account.run(&mut command);
        command
    }

    async fn log_in(&self) -> Result<(), LoginError> {
        let options =
            self.admin().map_err(|error| LoginError::Refused(Box::new(error)))?.to_connect_options();
        let ask = async {
            let mut connection = PgConnection::connect_with(&options).await?;
            let dir: String = sqlx::query_scalar("SELECT current_setting('data_directory')")
                .fetch_one(&mut connection)
                .await?;
            connection.close().await?;
            Ok::<_, sqlx::Error>(dir)
        };
        match timeout(LOGIN_PATIENCE, ask).await {
            Ok(Ok(dir)) if Path::new(&dir) == self.layout.pgdata() => Ok(()),
            Ok(Ok(dir)) => Err(LoginError::Refused(format!("it serves {dir}").into())),
            Ok(Err(error @ sqlx::Error::Io(_))) => Err(LoginError::Unreachable(error)),
            Ok(Err(error)) => Err(LoginError::Refused(Box::new(error))),
            Err(elapsed) => Err(LoginError::Refused(Box::new(elapsed))),
        }
    }

    fn login_error(&self, error: LoginError) -> LaunchError {
        let source = match error {
            LoginError::Unreachable(error) => Box::new(error),
            LoginError::Refused(source) => source,
        };
        LaunchError::Login { dir: self.layout.pgdata(), source }
    }

    /// What Postgres said last, best the line that says why it ended.
    fn last_words(&self, said_before: u64) -> String {
        let text = std::fs::read(self.layout.log()).unwrap_or_default();
        let new = text.get(usize::try_from(said_before).unwrap_or(0)..).unwrap_or(&text);
        reason_in(&String::from_utf8_lossy(new))
    }
}

enum LoginError {
    /// Nobody listens on the socket.
    Unreachable(sqlx::Error),
    Refused(Box<dyn std::error::Error + Send + Sync>),
}

/// Whether Postgres refused for a reason that ends by itself: an earlier one's processes are not all gone.
fn is_passing(reason: &str) -> bool {
    ["lock file", "shared memory", "another postmaster", "shutting down", "starting up", "already in use"]
        .iter()
        .any(|passing| reason.contains(passing))
}

fn reason_in(log: &str) -> String {
    let severities = ["FATAL:", "PANIC:", "ERROR:"];
    log.lines()
        .rev()
        .find_map(|line| {
            let at = severities.iter().find_map(|severity| line.find(severity))?;
            Some(line[at..].split_once(':')?.1.trim().to_owned())
        })
        .or_else(|| log.lines().rev().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned()))
        .unwrap_or_else(|| "it ended without a word".to_owned())
}

/// A path as one element of a list of paths, where a comma would begin another.
fn quoted_in_list(path: &Path) -> OsString {
    let text = path.to_string_lossy();
    if text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c)) {
        return path.into();
    }
    format!("\"{}\"", text.replace('"', "\"\"")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_the_last_fatal_line_without_its_prefix() {
        let log = "2026-01-01 10:00:00.000 UTC [7] LOG:  starting\n\
                   2026-01-01 10:00:00.000 UTC [7] FATAL:  pre-existing shared memory block is still in use\n\
                   2026-01-01 10:00:00.000 UTC [7] HINT:  Terminate any old server processes\n";
        assert_eq!(reason_in(log), "pre-existing shared memory block is still in use");
        assert!(is_passing(&reason_in(log)));
        assert_eq!(reason_in("postgres: cannot execute\n\n"), "postgres: cannot execute");
        assert_eq!(reason_in(""), "it ended without a word");
    }

    #[test]
    fn wrong_setting_is_no_reason_to_wait() {
        assert!(!is_passing("unrecognized configuration parameter \"x\""));
        assert!(is_passing("lock file \"postmaster.pid\" already exists"));
    }

    #[test]
    fn path_with_a_comma_stays_one_element() {
        assert_eq!(quoted_in_list(Path::new("/run/x")), "/run/x");
        assert_eq!(quoted_in_list(Path::new("/run/a, \"b\"")), "\"/run/a, \"\"b\"\"\"");
    }
}
