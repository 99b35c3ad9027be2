//! Where the Postgres programs are.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{LaunchError, OLDEST_MAJOR};

const NEEDED: [&str; 2] = ["initdb", "postgres"];

/// A directory with `initdb` and `postgres`, and their version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresBinaries {
    dir: PathBuf,
    major: u32,
}

impl PostgresBinaries {
    /// Finds the programs: in `PG_BIN_DIR` alone if that is set, otherwise where `pg_config` says, then where
    /// Debian, Homebrew, Red Hat and others put them (newest version first), then in `PATH`.
    ///
    /// # Errors
    /// [`LaunchError::NoBinaries`], which names the package to install; [`LaunchError::WrongBinDir`];
    /// [`LaunchError::TooOld`].
    pub fn find() -> Result<Self, LaunchError> {
        let found = Self::find_all()?;
        found.iter().find(|binaries| binaries.major >= OLDEST_MAJOR).or(found.first()).map_or_else(
            || Err(LaunchError::NoBinaries { install: install_hint() }),
            |binaries| binaries.clone().not_too_old(),
        )
    }

    /// Finds programs of the version that made the data in `data_dir`.
    pub(super) fn find_for(data_dir: &Path, major: u32) -> Result<Self, LaunchError> {
        Self::find_all()?
            .into_iter()
            .find(|binaries| binaries.major == major)
            .ok_or_else(|| LaunchError::OtherVersion { dir: data_dir.to_path_buf(), major })?
            .not_too_old()
    }

    /// Where the programs are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Their major version, such as 15.
    #[must_use]
    pub const fn major(&self) -> u32 {
        self.major
    }

    /// The path of one of them.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn not_too_old(self) -> Result<Self, LaunchError> {
        if self.major < OLDEST_MAJOR {
            return Err(LaunchError::TooOld { dir: self.dir, major: self.major });
        }
        Ok(self)
    }

    fn find_all() -> Result<Vec<Self>, LaunchError> {
        if let Some(dir) = std::env::var_os("PG_BIN_DIR").filter(|dir| !dir.is_empty()) {
            let dir = PathBuf::from(dir);
            return match missing_from(&dir) {
                Some(missing) => Err(LaunchError::WrongBinDir { dir, missing }),
                None => Ok(vec![Self::in_dir(dir)?]),
            };
        }
        let mut dirs: Vec<PathBuf> = Vec::new();
        for dir in candidates(std::env::var_os("PATH").as_deref()) {
            let complete = missing_from(&dir).is_none();
            if complete && !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        // One broken installation does not hide the others.
        let usable = dirs.into_iter().filter_map(|dir| {
            Self::in_dir(dir)
                .inspect_err(|error| tracing::warn!(%error, "a Postgres installation is passed by"))
                .ok()
        });
        Ok(usable.collect())
    }

    fn in_dir(dir: PathBuf) -> Result<Self, LaunchError> {
        let program = dir.join("postgres");
        let output =
            Command::new(&program).arg("--version").output().map_err(LaunchError::program(&program))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let major = parse_major(&text).ok_or_else(|| LaunchError::Program {
            program,
            source: std::io::Error::other(format!("it gave no version but `{}`", text.trim())),
        })?;
        Ok(Self { dir, major })
    }
}

/// Directories to look in, the best first.
fn candidates(path: Option<&OsStr>) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output()
        && output.status.success()
    {
        dirs.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    for (parent, prefix, suffix) in [
        ("/usr/lib/postgresql", "", "bin"),
        ("/opt/homebrew/opt", "postgresql@", "bin"),
        ("/usr/local/opt", "postgresql@", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/usr/libexec", "postgresql", ""),
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ] {
        let names = std::fs::read_dir(parent)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        dirs.extend(newest_first(names, prefix).into_iter().map(|name| {
            let dir = Path::new(parent).join(name);
            if suffix.is_empty() { dir } else { dir.join(suffix) }
        }));
    }
    dirs.extend(path.into_iter().flat_map(std::env::split_paths).filter(|dir| dir.is_absolute()));
    dirs
}

/// The names that are `prefix` and a version, by version and not by letters: 16 before 9.
fn newest_first(names: Vec<String>, prefix: &str) -> Vec<String> {
    let mut versions: Vec<(Vec<u32>, String)> = names
        .into_iter()
        .filter_map(|name| {
            let version = name.strip_prefix(prefix)?;
            let numbers = version.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>().ok()?;
            Some((numbers, name))
        })
        .collect();
    versions.sort_by(|a, b| b.cmp(a));
    versions.into_iter().map(|(_, name)| name).collect()
}

fn missing_from(dir: &Path) -> Option<&'static str> {
    NEEDED.into_iter().find(|name| {
        !std::fs::metadata(dir.join(name))
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    })
}

/// `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`, `postgres (PostgreSQL) 19devel`.
fn parse_major(text: &str) -> Option<u32> {
    let version = text.split_once("(PostgreSQL)")?.1.trim_start();
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn install_hint() -> String {
    if cfg!(target_os = "macos") {
        return "run `brew install postgresql`".to_owned();
    }
    install_hint_for(&std::fs::read_to_string("/etc/os-release").unwrap_or_default()).to_owned()
}

fn install_hint_for(os_release: &str) -> &'static str {
    let ids: Vec<&str> = os_release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split_whitespace())
        .collect();
    let is = |names: &[&str]| ids.iter().any(|id| names.contains(id));
    if is(&["debian", "ubuntu"]) {
        "install the package `postgresql` (`apt-get install postgresql`)"
    } else if is(&["fedora", "rhel", "centos"]) {
        "install the package `postgresql-server` (`dnf install postgresql-server`)"
    } else if is(&["suse", "opensuse"]) {
        "install the package `postgresql-server` (`zypper install postgresql-server`)"
    } else if is(&["alpine"]) {
        "install the package `postgresql` (`apk add postgresql`)"
    } else if is(&["arch"]) {
        "install the package `postgresql` (`pacman -S postgresql`)"
    } else {
        "install your system's package of the Postgres server"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_line_gives_the_major_version() {
        assert_eq!(parse_major("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 19devel"), Some(19));
        assert_eq!(parse_major("bash 5.2"), None);
    }

    #[test]
    fn directories_are_ordered_by_version_and_not_by_letters() {
        let names = ["9.6", "16", "15", "common"].map(str::to_owned).to_vec();
        assert_eq!(newest_first(names, ""), ["16", "15", "9.6"]);
        let names = ["postgresql@14", "postgresql@17", "python@3"].map(str::to_owned).to_vec();
        assert_eq!(newest_first(names, "postgresql@"), ["postgresql@17", "postgresql@14"]);
    }

    #[test]
    fn directory_without_an_executable_postgres_is_passed_by() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(missing_from(dir.path()), Some("initdb"));
        for name in NEEDED {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(missing_from(dir.path()), Some("initdb"), "not executable");
        for name in NEEDED {
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(dir.path().join(name), mode).unwrap();
        }
        assert_eq!(missing_from(dir.path()), None);
    }

    #[test]
    fn missing_binaries_name_the_package_and_the_other_way() {
        for (os_release, package) in [
            ("NAME=x\nID=debian\n", "apt-get install postgresql"),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", "apt-get install postgresql"),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", "dnf install postgresql-server"),
            ("ID=alpine", "apk add postgresql"),
            ("", "your system's package"),
        ] {
            let error = LaunchError::NoBinaries { install: install_hint_for(os_release).to_owned() };
            let text = error.to_string();
            assert!(text.contains(package) && text.contains("DATABASE_URL"), "{text}");
        }
    }
}
