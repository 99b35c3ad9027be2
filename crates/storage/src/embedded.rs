//! The Postgres launcher: runs the installed Postgres binaries as a cluster of our own.
//!
//! `stagesub demo` keeps its data in a [durable](Durability::Durable) cluster, tests run on a
//! [throw-away](Durability::Throwaway) one. Neither touches a Postgres that is already installed and running:
//! the cluster listens on a Unix socket in a directory of its own and on nothing else.
//!
//! - `options.rs` which cluster; `cluster.rs` the cluster as its users see it
//! - `binaries.rs` finds `initdb` and `postgres`; `account.rs` decides which user runs them
//! - `layout.rs` the files in the data directory; `pid_file.rs` what `postmaster.pid` says
//! - `launch.rs` makes the cluster, starts it or adopts the one that still runs; `supervise.rs` restarts it
//! - `running.rs` finds the one that another process runs
//!
//! # Invariants
//! - One process at a time uses a data directory (a file lock, which ends with the process).
//! - `postmaster.pid` is Postgres's own interlock and is never deleted here.
//! - A data directory is either absent or complete: `initdb` works beside it and is renamed into place.
//! - No `PG*` variable of the environment reaches the cluster, and no variable with a secret.

mod account;
mod binaries;
mod cluster;
mod launch;
mod layout;
mod options;
mod pid_file;
mod running;
mod supervise;

use std::io;
use std::path::PathBuf;

pub use binaries::PostgresBinaries;
pub use cluster::Cluster;
pub use options::{ClusterOptions, Durability, default_data_dir};
pub use running::running_in;

use crate::target::TargetError;

/// The oldest major version of Postgres that the schemas work with.
pub const OLDEST_MAJOR: u32 = 15;

/// Why a cluster could not be started or stopped. The text says what to do where something can be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// `initdb` and `postgres` were found nowhere.
    #[error(
        "no Postgres binaries (initdb and postgres) were found; {install}, or set PG_BIN_DIR to their \
         directory, or set DATABASE_URL to use a Postgres that runs already"
    )]
    NoBinaries {
        /// Which package to install on this platform.
        install: String,
    },
    /// `PG_BIN_DIR` names a directory without them.
    #[error("PG_BIN_DIR names {}, where {missing} cannot be run", dir.display())]
    WrongBinDir {
        /// The directory.
        dir: PathBuf,
        /// The program that is not there.
        missing: &'static str,
    },
    /// The only binaries found are too old.
    #[error("Postgres {major} in {} is too old; install {OLDEST_MAJOR} or newer", dir.display())]
    TooOld {
        /// Where they are.
        dir: PathBuf,
        /// Their major version.
        major: u32,
    },
    /// The data was made by another major version than the installed ones.
    #[error(
        "the data in {} was made by Postgres {major}, which is not installed; install it (on Debian the \
         package postgresql-{major})", dir.display()
    )]
    OtherVersion {
        /// The data directory.
        dir: PathBuf,
        /// The version that made it.
        major: u32,
    },
    /// A program did not run or gave an answer that makes no sense.
    #[error("{} could not be run", program.display())]
    Program {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or a directory could not be read or written.
    #[error("{} could not be {action}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What was tried: `read`, `written`, `created`, ...
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process has this data directory.
    #[error("the data directory {} is used by another process", dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
    },
    /// The directory holds something that this launcher did not make.
    #[error("{} {fault}; choose another data directory", dir.display())]
    NotOurs {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The data belongs to another user.
    #[error(
        "the data in {} belongs to {owner} and this process runs as {account}; run it as {owner} or as root, \
         or choose another data directory", dir.display()
    )]
    WrongOwner {
        /// The data directory.
        dir: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who we are.
        account: String,
    },
    /// Postgres refuses to run as root, and there is no user to run it as.
    #[error("Postgres does not run as root, and there is neither a user postgres nor a user nobody")]
    NoAccount,
    /// The user that Postgres runs as cannot reach a directory that it needs.
    #[error(
        "Postgres does not run as root, and the user {account} cannot enter {}, which is on the way to {}; \
         run `chmod o+x {}` or choose another directory", dir.display(), wanted.display(), dir.display()
    )]
    Unreachable {
        /// The directory that cannot be entered.
        dir: PathBuf,
        /// What lies beyond it.
        wanted: PathBuf,
        /// The user.
        account: String,
    },
    /// The superuser's password is gone while the data is there.
    #[error("{} is missing; without it the data beside it cannot be opened", path.display())]
    PasswordLost {
        /// Where it should be.
        path: PathBuf,
    },
    /// `initdb` failed.
    #[error("initdb failed: {output}")]
    InitDb {
        /// The end of what it printed.
        output: String,
    },
    /// Postgres did not start, although it was tried for as long as is reasonable.
    #[error("Postgres did not start: {reason} (its log is {})", log.display())]
    DidNotStart {
        /// The last of what it said.
        reason: String,
        /// Its log.
        log: PathBuf,
    },
    /// Postgres runs and our password does not open it.
    #[error("the Postgres that runs in {} could not be logged in to", dir.display())]
    Login {
        /// The data directory.
        dir: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No data directory was named, and there is no home directory to put one in.
    #[error("there is no home directory (HOME is not set); name a data directory")]
    NoHome,
    /// No cluster was ever made in this directory.
    #[error("there is no Postgres of ours in {}", dir.display())]
    NoCluster {
        /// The data directory.
        dir: PathBuf,
    },
    /// The cluster in this directory is down, or not yet up.
    #[error("the Postgres in {} does not run", dir.display())]
    NotRunning {
        /// The data directory.
        dir: PathBuf,
    },
    /// Postgres did not stop.
    #[error("Postgres (process {pid}) did not stop")]
    DidNotStop {
        /// Its process.
        pid: i32,
    },
    /// The connection to it cannot be described.
    #[error("the cluster's connection cannot be described")]
    Target(#[source] TargetError),
}

impl LaunchError {
    fn file(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, action, source }
    }

    fn program(program: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let program = program.into();
        move |source| Self::Program { program, source }
    }
}
