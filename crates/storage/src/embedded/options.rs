//! Which cluster to run, and where.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nix::unistd::Uid;

use super::LaunchError;
use super::binaries::PostgresBinaries;

/// Whether what is written must outlive a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Everything that was acknowledged is on disk. What people's data needs.
    Durable,
    /// Nothing is flushed, and the data directory is removed with the [`Cluster`](super::Cluster), also when this process is
    /// killed. For tests.
    Throwaway,
}

/// What cluster to run.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    pub(super) data_dir: PathBuf,
    pub(super) durability: Durability,
    pub(super) binaries: Option<PostgresBinaries>,
    pub(super) max_connections: u16,
    pub(super) settings: Vec<(String, String)>,
}

impl ClusterOptions {
    /// A cluster in `data_dir`, which is made if it is not there. For a throw-away cluster it must be empty.
    ///
    /// The files of Postgres are in the directory `pgdata` in it; other names than those of the launcher
    /// (`lock`, `run`, `postgres.log`, `superuser-password` and what begins with `pgdata` or `initdb`) are
    /// free for the caller's own files.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, durability: Durability) -> Self {
        Self {
            data_dir: data_dir.into(),
            durability,
            binaries: None,
            max_connections: 200,
            settings: Vec::new(),
        }
    }

    /// A throw-away cluster in a new directory under the system's temporary one.
    #[must_use]
    pub fn throwaway() -> Self {
        let name = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 9]>());
        Self::new(std::env::temp_dir().join(format!("stagesub-pg-{name}")), Durability::Throwaway)
    }

    /// The programs to use instead of those that [`PostgresBinaries::find`] finds. Data made by another
    /// major version still gets that version's programs.
    #[must_use]
    pub fn binaries(mut self, binaries: PostgresBinaries) -> Self {
        self.binaries = Some(binaries);
        self
    }

    /// How many connections Postgres accepts; 200 unless said otherwise.
    #[must_use]
    pub fn max_connections(mut self, max_connections: u16) -> Self {
        self.max_connections = max_connections;
        self
    }

    /// One more setting of Postgres, which also overrides the launcher's own.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Where data is kept when nobody says where: `/var/lib/stagesub` for root, because Postgres then runs as a
/// user who cannot reach root's home, otherwise `stagesub` in the user's data directory (`XDG_DATA_HOME`, by
/// default `~/.local/share`).
///
/// # Errors
/// [`LaunchError::NoHome`].
pub fn default_data_dir() -> Result<PathBuf, LaunchError> {
    if Uid::effective().is_root() {
        return Ok(PathBuf::from("/var/lib/stagesub"));
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("stagesub"))
        .ok_or(LaunchError::NoHome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throwaway_clusters_have_directories_of_their_own() {
        assert_ne!(ClusterOptions::throwaway().data_dir, ClusterOptions::throwaway().data_dir);
    }
}
