//! What `postmaster.pid` says.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// The lines of `postmaster.pid` that matter here. Postgres writes them one after the other, so that a file
/// that is being written lacks the later ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PidFile {
    pub(super) pid: i32,
    pub(super) data_dir: PathBuf,
    pub(super) port: Option<u16>,
    pub(super) socket_dir: Option<PathBuf>,
    /// Whether connections are accepted. Postgres says `starting`, `ready`, `standby` or `stopping`.
    pub(super) ready: bool,
}

impl PidFile {
    /// Reads the file of a data directory. `None`: there is none, or it does not hold a pid and a directory yet.
    pub(super) fn read(data_dir: &Path) -> io::Result<Option<Self>> {
        match std::fs::read_to_string(data_dir.join("postmaster.pid")) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        // A standalone backend writes its pid negated.
        let pid = lines.next()?.trim().parse::<i32>().ok().filter(|pid| *pid > 0)?;
        let data_dir = lines.next().filter(|line| !line.is_empty())?.into();
        let _started_at = lines.next();
        let port = lines.next().and_then(|line| line.trim().parse().ok());
        let socket_dir = lines.next().filter(|line| !line.is_empty()).map(PathBuf::from);
        let _listens_on = lines.next();
        let _shared_memory = lines.next();
        let ready = lines.next().is_some_and(|status| status.trim_end() == "ready");
        Some(Self { pid, data_dir, port, socket_dir, ready })
    }
}

/// Whether a process with this id exists, whoever owns it.
pub(super) fn is_alive(pid: i32) -> bool {
    matches!(kill(Pid::from_raw(pid), None), Ok(()) | Err(Errno::EPERM))
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &str = "4711\n/srv/pgdata\n1763899999\n5432\n/srv/run\n\n  5432001    65536\nready   \n";

    #[test]
    fn complete_file_is_read() {
        let file = PidFile::parse(READY).unwrap();
        assert_eq!((file.pid, file.port, file.ready), (4711, Some(5432), true));
        assert_eq!(file.data_dir, Path::new("/srv/pgdata"));
        assert_eq!(file.socket_dir.as_deref(), Some(Path::new("/srv/run")));
    }

    #[test]
    fn only_the_word_ready_is_ready() {
        for status in ["starting", "stopping", "standby", "readyish", ""] {
            let text = READY.replace("ready   ", status);
            assert!(!PidFile::parse(&text).unwrap().ready, "{status}");
        }
    }

    #[test]
    fn file_in_the_making_has_no_status_yet() {
        let file = PidFile::parse("4711\n/srv/pgdata\n1763899999\n5432\n").unwrap();
        assert_eq!((file.socket_dir, file.ready), (None, false));
        assert_eq!(PidFile::parse("4711\n"), None);
        assert_eq!(PidFile::parse(""), None);
        assert_eq!(PidFile::parse("-12\n/srv/pgdata\n"), None);
    }

    #[test]
    fn missing_file_is_nothing_and_no_error() {
        assert_eq!(PidFile::read(Path::new("/nonexistent")).unwrap(), None);
    }

    #[test]
    fn own_process_is_alive() {
        assert!(is_alive(std::process::id().try_into().unwrap()));
        assert!(!is_alive(i32::MAX));
    }
}
