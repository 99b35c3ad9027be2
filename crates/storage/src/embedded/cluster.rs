//! The cluster as its users see it.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use nix::sys::signal::Signal;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::launch::{Launcher, Process, signal};
use super::layout::{Layout, PORT};
use super::options::{ClusterOptions, Durability};
use super::{LaunchError, supervise};
use crate::target::ConnectionTarget;

/// A Postgres of our own, supervised: if it dies by itself it is started again.
///
/// Call [`Cluster::stop`]. A cluster that is dropped instead is told to stop and not waited for. One whose
/// process is killed goes on running if it is durable, and the next [`Cluster::start`] on its directory
/// adopts it; a throw-away one is stopped and removed by a small helper process.
pub struct Cluster {
    launcher: Arc<Launcher>,
    admin: ConnectionTarget,
    adopted: bool,
    pid: watch::Receiver<Option<i32>>,
    running: Option<Running>,
    reaper: Option<Reaper>,
    _lock: File,
}

struct Running {
    stop: oneshot::Sender<()>,
    supervisor: JoinHandle<Result<(), LaunchError>>,
}

impl Cluster {
    /// Makes the cluster if there is none, and starts it; returns when it accepts connections.
    ///
    /// After a crash this waits up to 30 s for the last of the old processes to end, and then for recovery.
    ///
    /// # Errors
    /// [`LaunchError`]; every variant's text says what to do where something can be done.
    ///
    /// # Cancel safety
    /// Dropping the future stops what was started. A half-made cluster is made anew by the next start.
    pub async fn start(options: ClusterOptions) -> Result<Self, LaunchError> {
        let (launcher, lock) = match tokio::task::spawn_blocking(move || prepare(&options)).await {
            Ok(prepared) => prepared?,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let reaper = match launcher.durability {
            Durability::Throwaway => Some(Reaper::start(&launcher)?),
            Durability::Durable => None,
        };
        launcher.init().await?;
        let process = launcher.launch().await?;
        let admin = launcher.admin()?;
        let adopted = matches!(process, Process::Adopted(_));
        let launcher = Arc::new(launcher);
        let (pid_sender, pid) = watch::channel(Some(process.pid()));
        let (stop, stopped) = oneshot::channel();
        let supervisor =
            tokio::spawn(supervise::supervise(Arc::clone(&launcher), process, stopped, pid_sender));
        let running = Some(Running { stop, supervisor });
        Ok(Self { launcher, admin, adopted, pid, running, reaper, _lock: lock })
    }

    /// Stops Postgres and waits for its end; a throw-away cluster's data is then gone.
    ///
    /// # Errors
    /// [`LaunchError::DidNotStop`].
    pub async fn stop(mut self) -> Result<(), LaunchError> {
        if let Some(running) = self.running.take() {
            // The supervisor ends only by being told to, so it is there to be told.
            let _ = running.stop.send(());
            match running.supervisor.await {
                Ok(stopped) => stopped?,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            }
        }
        if let Some(reaper) = self.reaper.take() {
            reaper.reap().await?;
        }
        Ok(())
    }

    /// The superuser `postgres` on the database `postgres`.
    #[must_use]
    pub const fn admin(&self) -> &ConnectionTarget {
        &self.admin
    }

    /// The directory of the socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.launcher.socket_dir
    }

    /// The number in the socket's name. Nothing listens on TCP.
    #[must_use]
    pub const fn port(&self) -> u16 {
        PORT
    }

    /// The data directory, canonical.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.launcher.layout.root()
    }

    /// Whether it ran already when this process came.
    #[must_use]
    pub const fn was_adopted(&self) -> bool {
        self.adopted
    }

    /// The process of Postgres. `None` while it is down.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        *self.pid.borrow()
    }

    /// Watches [`Cluster::pid`]: every restart is a change.
    #[must_use]
    pub fn watch_pid(&self) -> watch::Receiver<Option<i32>> {
        self.pid.clone()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Dropping the sender tells the supervisor, which waits and reaps if the runtime lives long enough.
        // The signal is for when it does not.
        if self.running.take().is_some()
            && let Some(pid) = *self.pid.borrow()
        {
            signal(pid, Signal::SIGINT);
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("data_dir", &self.data_dir())
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}

fn prepare(options: &ClusterOptions) -> Result<(Launcher, File), LaunchError> {
    let layout = Layout::create(&options.data_dir)?;
    if options.durability == Durability::Throwaway {
        layout.check_empty()?;
    }
    let lock = layout.lock()?;
    Ok((Launcher::prepare(options, layout)?, lock))
}

/// Stops a throw-away Postgres and removes its data once our end of its input closes, which is what happens
/// however this process ends.
struct Reaper {
    child: Child,
    input: ChildStdin,
}

/// Gets the data directory and the socket's. `postmaster.pid` goes away with Postgres.
const REAP: &str = r#"
read -r _
file="$1/pgdata/postmaster.pid"
if read -r pid <"$file"; then
    kill -QUIT "$pid"
    tries=0
    while [ -e "$file" ] && kill -0 "$pid" && [ $tries -lt 100 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
fi
rm -rf -- "$1" "$2"
"#;

impl Reaper {
    fn start(launcher: &Launcher) -> Result<Self, LaunchError> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", REAP, "sh"])
            .args([launcher.layout.root(), &launcher.socket_dir])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // An interrupt from the terminal is for us; the helper has work to do then.
            .process_group(0)
            .spawn()
            .map_err(LaunchError::program("/bin/sh"))?;
        match child.stdin.take() {
            Some(input) => Ok(Self { child, input }),
            None => Err(LaunchError::program("/bin/sh")(std::io::Error::other("it has no input"))),
        }
    }

    async fn reap(self) -> Result<(), LaunchError> {
        let Self { mut child, input } = self;
        drop(input);
        child.wait().await.map_err(LaunchError::program("/bin/sh"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throwaway_cluster_refuses_a_directory_with_something_in_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.txt"), "x").unwrap();
        let options = ClusterOptions::new(dir.path(), Durability::Throwaway);
        assert!(matches!(prepare(&options), Err(LaunchError::NotOurs { .. })));
        assert!(dir.path().join("thesis.txt").exists());
    }
}
