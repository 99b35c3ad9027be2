//! A cluster that another process runs.

use std::path::Path;

use super::LaunchError;
use super::launch::SUPERUSER;
use super::layout::Layout;
use super::pid_file::{PidFile, is_alive};
use crate::target::ConnectionTarget;

/// How the cluster is reached that another process runs in this data directory. Nothing is started, made or
/// locked.
///
/// # Errors
/// [`LaunchError::NoCluster`] where there is none, [`LaunchError::NotRunning`] where it is down or not yet up,
/// and [`LaunchError::File`] where another user's files are in the way.
pub fn running_in(data_dir: &Path) -> Result<ConnectionTarget, LaunchError> {
    let layout = Layout::find(data_dir)?;
    if layout.data_major()?.is_none() {
        return Err(LaunchError::NoCluster { dir: layout.root().to_path_buf() });
    }
    let password = layout.password(true)?;
    let pgdata = layout.pgdata();
    let file = PidFile::read(&pgdata).map_err(LaunchError::file(pgdata.join("postmaster.pid"), "read"))?;
    let Some(PidFile { port: Some(port), socket_dir: Some(socket_dir), .. }) =
        file.filter(|file| file.ready && file.data_dir == pgdata && is_alive(file.pid))
    else {
        return Err(LaunchError::NotRunning { dir: layout.root().to_path_buf() });
    };
    ConnectionTarget::on_socket(&socket_dir, port, SUPERUSER, password, "postgres")
        .map_err(LaunchError::Target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_or_does_not_run_is_told_and_nothing_is_made() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("demo");
        assert!(matches!(running_in(&dir), Err(LaunchError::NoCluster { .. })));
        assert!(!dir.exists());
        std::fs::create_dir_all(dir.join("pgdata")).unwrap();
        std::fs::write(dir.join("pgdata/PG_VERSION"), "15\n").unwrap();
        assert!(matches!(running_in(&dir), Err(LaunchError::PasswordLost { .. })));
        std::fs::write(dir.join("superuser-password"), "secret").unwrap();
        assert!(matches!(running_in(&dir), Err(LaunchError::NotRunning { .. })));
    }

    #[test]
    fn a_file_that_a_crash_left_behind_is_no_running_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let pgdata = root.join("pgdata");
        std::fs::create_dir(&pgdata).unwrap();
        std::fs::write(pgdata.join("PG_VERSION"), "15\n").unwrap();
        std::fs::write(root.join("superuser-password"), "secret").unwrap();
        let write = |pid: u32, status: &str| {
            let text = format!("{pid}\n{}\n1\n5432\n/srv/run\n\n 1 2\n{status}\n", pgdata.display());
            std::fs::write(pgdata.join("postmaster.pid"), text).unwrap();
        };
        write(i32::MAX as u32, "ready");
        assert!(matches!(running_in(dir.path()), Err(LaunchError::NotRunning { .. })));
        write(std::process::id(), "starting");
        assert!(matches!(running_in(dir.path()), Err(LaunchError::NotRunning { .. })));
        write(std::process::id(), "ready");
        assert_eq!(running_in(dir.path()).unwrap().database(), "postgres");
    }
}
