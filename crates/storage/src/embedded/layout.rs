//! The files in the data directory.
//!
//! ```text
//! DIR/lock                  held while a process uses DIR
//! DIR/superuser-password    0600, ours
//! DIR/postgres.log          what Postgres says
//! DIR/pgdata/               Postgres's own data directory, of the user that runs it
//! DIR/pgdata.new/           initdb at work; removed when a start finds it
//! DIR/run/                  the socket, 0700 (or a private directory under the temporary one)
//! ```

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::LaunchError;
use super::account::Account;

/// The number in the socket's name. Nothing listens on TCP, so it need not be free.
pub(super) const PORT: u16 = 5432;

/// What `sockaddr_un` holds on every platform is 103 bytes and a NUL.
const MAX_SOCKET_PATH_BYTES: usize = 100;

/// Not `TMPDIR`, which may differ at the next start, when a Postgres that still runs is looked for there.
const SHARED_TEMP: &str = "/tmp";

const MAX_LOG_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Makes the directory if it is not there.
    pub(super) fn create(dir: &Path) -> Result<Self, LaunchError> {
        make_dirs(dir)?;
        let root = dir.canonicalize().map_err(LaunchError::file(dir, "read"))?;
        if root.join("PG_VERSION").exists() {
            return Err(LaunchError::NotOurs { dir: root, fault: "is a Postgres cluster of its own" });
        }
        Ok(Self { root })
    }

    /// The directory of a cluster that is there; makes nothing.
    pub(super) fn find(dir: &Path) -> Result<Self, LaunchError> {
        match dir.canonicalize() {
            Ok(root) => Ok(Self { root }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(LaunchError::NoCluster { dir: dir.into() })
            }
            Err(error) => Err(LaunchError::file(dir, "read")(error)),
        }
    }

    /// Checks that the directory holds nothing yet, for a cluster that will remove it.
    pub(super) fn check_empty(&self) -> Result<(), LaunchError> {
        let mut entries = std::fs::read_dir(&self.root).map_err(LaunchError::file(&self.root, "read"))?;
        if entries.next().is_some() {
            return Err(LaunchError::NotOurs { dir: self.root.clone(), fault: "is not empty" });
        }
        Ok(())
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn pgdata(&self) -> PathBuf {
        self.root.join("pgdata")
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.root.join("pgdata.new")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.root.join("postgres.log")
    }

    fn password_file(&self) -> PathBuf {
        self.root.join("superuser-password")
    }

    /// Takes the directory for this process, until the file is closed.
    pub(super) fn lock(&self) -> Result<File, LaunchError> {
        let path = self.root.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(LaunchError::file(&path, "opened"))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(LaunchError::InUse { dir: self.root.clone() }),
            Err(TryLockError::Error(source)) => Err(LaunchError::file(path, "locked")(source)),
        }
    }

    /// The major version that made the data. `None`: there is no data yet.
    pub(super) fn data_major(&self) -> Result<Option<u32>, LaunchError> {
        let not_ours = |fault| LaunchError::NotOurs { dir: self.pgdata(), fault };
        match std::fs::read_to_string(self.pgdata().join("PG_VERSION")) {
            Ok(text) => {
                let major = text.trim().split('.').next().and_then(|major| major.parse().ok());
                major.map(Some).ok_or_else(|| not_ours("has a PG_VERSION that is no version"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if self.pgdata().exists() {
                    return Err(not_ours("is there and holds no Postgres data"));
                }
                Ok(None)
            }
            Err(error) => Err(LaunchError::file(self.pgdata(), "read")(error)),
        }
    }

    /// The superuser's password: the one that is there, or, for a new cluster, a random one.
    pub(super) fn password(&self, cluster_exists: bool) -> Result<SecretString, LaunchError> {
        let path = self.password_file();
        match std::fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => return Ok(SecretString::from(text.trim())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(LaunchError::file(path, "read")(error)),
        }
        if cluster_exists {
            return Err(LaunchError::PasswordLost { path });
        }
        let password = SecretString::from(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
        // A half-written password would lock the data away, so it is renamed into place.
        let staging = self.root.join("superuser-password.new");
        remove_file(&staging)?;
        write_private(&staging, password.expose_secret())?;
        std::fs::rename(&staging, &path).map_err(LaunchError::file(&path, "written"))?;
        self.sync()?;
        Ok(password)
    }

    /// The password where `initdb`, run by `account`, reads it. The caller removes it.
    pub(super) fn lend_password(
        &self,
        password: &SecretString,
        account: &Account,
    ) -> Result<PathBuf, LaunchError> {
        let path = self.root.join("initdb-password");
        remove_file(&path)?;
        write_private(&path, password.expose_secret())?;
        account.own(&path)?;
        Ok(path)
    }

    /// Makes renames in the directory outlive a power failure.
    pub(super) fn sync(&self) -> Result<(), LaunchError> {
        File::open(&self.root)
            .and_then(|dir| dir.sync_all())
            .map_err(LaunchError::file(&self.root, "written"))
    }

    /// Lets `account` pass through the directory, which stays ours.
    pub(super) fn let_through(&self, account: &Account) -> Result<(), LaunchError> {
        if !account.can_enter(&self.root)? {
            let change = |path: &Path| {
                let mode = std::fs::metadata(path)?.permissions().mode();
                std::fs::set_permissions(path, PermissionsExt::from_mode(mode | 0o111))
            };
            change(&self.root).map_err(LaunchError::file(&self.root, "opened to the user of Postgres"))?;
        }
        account.check_reach(&self.root)
    }

    /// Makes `pgdata.new`, empty and of `account`.
    pub(super) fn make_staging(&self, account: &Account) -> Result<PathBuf, LaunchError> {
        let staging = self.staging();
        self.remove_staging()?;
        make_private_dir(&staging, account)?;
        Ok(staging)
    }

    pub(super) fn remove_staging(&self) -> Result<(), LaunchError> {
        match std::fs::remove_dir_all(self.staging()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(LaunchError::file(self.staging(), "removed")(error))
            }
            _ => Ok(()),
        }
    }

    /// The socket's directory, made if it is not there.
    pub(super) fn socket_dir(&self, account: &Account) -> Result<PathBuf, LaunchError> {
        let inside = self.root.join("run");
        let dir = if fits(&inside) { inside } else { self.hashed_dir(Path::new(SHARED_TEMP)) };
        match std::fs::symlink_metadata(&dir) {
            // In a temporary directory others could have made it, to listen in our place.
            Ok(metadata)
                if metadata.is_dir()
                    && account.owns(&metadata)
                    && metadata.permissions().mode() & 0o777 == 0o700 => {}
            Ok(_) => {
                let fault = "is not a private directory of the user that runs Postgres";
                return Err(LaunchError::NotOurs { dir, fault });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_private_dir(&dir, account)?,
            Err(error) => return Err(LaunchError::file(dir, "read")(error)),
        }
        let canonical = dir.canonicalize().map_err(LaunchError::file(&dir, "read"))?;
        account.check_reach(&canonical)?;
        Ok(canonical)
    }

    /// A short name that is the same at every start.
    fn hashed_dir(&self, parent: &Path) -> PathBuf {
        let hash = Sha256::digest(self.root.as_os_str().as_encoded_bytes());
        parent.join(format!("stagesub-{}", URL_SAFE_NO_PAD.encode(&hash[..12])))
    }

    /// Opens the log for another start, and moves a long one aside.
    pub(super) fn open_log(&self) -> Result<File, LaunchError> {
        let path = self.log();
        if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES) {
            std::fs::rename(&path, path.with_extension("log.1"))
                .map_err(LaunchError::file(&path, "moved aside"))?;
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(LaunchError::file(&path, "opened"))
    }
}

fn fits(socket_dir: &Path) -> bool {
    socket_dir.join(format!(".s.PGSQL.{PORT}")).as_os_str().len() <= MAX_SOCKET_PATH_BYTES
}

/// Makes `dir` and what is missing above it. Ours are open to pass through whatever the umask says, because
/// the user that runs Postgres may be another.
fn make_dirs(dir: &Path) -> Result<(), LaunchError> {
    let missing: Vec<&Path> =
        dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    for dir in missing.into_iter().rev() {
        std::fs::create_dir(dir)
            .and_then(|()| std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)))
            .map_err(LaunchError::file(dir, "created"))?;
    }
    if dir.is_dir() {
        Ok(())
    } else {
        Err(LaunchError::NotOurs { dir: dir.into(), fault: "is no directory" })
    }
}

fn make_private_dir(dir: &Path, account: &Account) -> Result<(), LaunchError> {
    DirBuilder::new().mode(0o700).create(dir).map_err(LaunchError::file(dir, "created"))?;
    account.own(dir)
}

fn write_private(path: &Path, content: &str) -> Result<(), LaunchError> {
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| {
            file.write_all(content.as_bytes())?;
            file.sync_all()
        })
        .map_err(LaunchError::file(path, "written"))
}

fn remove_file(path: &Path) -> Result<(), LaunchError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LaunchError::file(path, "removed")(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(&dir.path().join("a/b")).unwrap();
        (dir, layout)
    }

    #[test]
    fn second_lock_is_refused_until_the_first_is_dropped() {
        let (_dir, layout) = layout();
        let lock = layout.lock().unwrap();
        assert!(matches!(layout.lock(), Err(LaunchError::InUse { .. })));
        drop(lock);
        layout.lock().unwrap();
    }

    #[test]
    fn password_is_kept_private_and_stays_the_same() {
        let (_dir, layout) = layout();
        let first = layout.password(false).unwrap();
        assert!(first.expose_secret().len() >= 40);
        assert_eq!(layout.password(true).unwrap().expose_secret(), first.expose_secret());
        let mode = std::fs::metadata(layout.password_file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn lost_password_is_an_error_and_not_a_new_one() {
        let (_dir, layout) = layout();
        assert!(matches!(layout.password(true), Err(LaunchError::PasswordLost { .. })));
    }

    #[test]
    fn data_that_is_not_ours_is_refused() {
        let (_dir, layout) = layout();
        assert_eq!(layout.data_major().unwrap(), None);
        std::fs::create_dir(layout.pgdata()).unwrap();
        assert!(matches!(layout.data_major(), Err(LaunchError::NotOurs { .. })));
        std::fs::write(layout.pgdata().join("PG_VERSION"), "15\n").unwrap();
        assert_eq!(layout.data_major().unwrap(), Some(15));
        std::fs::write(layout.root().join("PG_VERSION"), "15\n").unwrap();
        assert!(matches!(Layout::create(layout.root()), Err(LaunchError::NotOurs { .. })));
    }

    #[test]
    fn long_data_directory_gets_a_short_socket_directory() {
        let long = Layout { root: PathBuf::from(format!("/srv/{}", "x".repeat(90))) };
        assert!(!fits(&long.root.join("run")));
        let short = long.hashed_dir(Path::new("/tmp"));
        assert!(fits(&short));
        assert_eq!(short, long.hashed_dir(Path::new("/tmp")));
        assert_ne!(short, Layout { root: "/srv/y".into() }.hashed_dir(Path::new("/tmp")));
    }
}
