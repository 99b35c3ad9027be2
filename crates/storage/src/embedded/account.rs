//! The user that runs Postgres: ourselves, and as root somebody else, since Postgres refuses to run as root.

use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User};
use tokio::process::Command;

use super::LaunchError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    uid: u32,
    gid: u32,
    /// Whether this is another user than the one we run as.
    switch: bool,
}

impl Account {
    /// Ourselves; as root the owner of the data that is there, or `postgres`, or `nobody`.
    pub(super) fn choose(data: &Path) -> Result<Self, LaunchError> {
        let owner = match std::fs::metadata(data) {
            Ok(metadata) => Some((metadata.uid(), metadata.gid())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(LaunchError::file(data, "read")(error)),
        };
        let me = Uid::effective();
        let wrong_owner = |owner: u32| LaunchError::WrongOwner {
            dir: data.to_path_buf(),
            owner: name_of(owner),
            account: name_of(me.as_raw()),
        };
        match owner {
            None if me.is_root() => Self::unprivileged(),
            None => Ok(Self::ourselves(me)),
            Some((owner, gid)) if me.is_root() && owner != 0 => {
                Ok(Self { name: name_of(owner), uid: owner, gid, switch: true })
            }
            Some((owner, _)) if !me.is_root() && owner == me.as_raw() => Ok(Self::ourselves(me)),
            Some((owner, _)) => Err(wrong_owner(owner)),
        }
    }

    fn ourselves(me: Uid) -> Self {
        Self { name: name_of(me.as_raw()), uid: me.as_raw(), gid: Gid::effective().as_raw(), switch: false }
    }

    fn unprivileged() -> Result<Self, LaunchError> {
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .map(|user| Self {
                name: user.name,
                uid: user.uid.as_raw(),
                gid: user.gid.as_raw(),
                switch: true,
            })
            .ok_or(LaunchError::NoAccount)
    }

    /// Makes a command run as this user. The standard library also drops our supplementary groups.
    pub(super) fn run(&self, command: &mut Command) {
        if self.switch {
            command.uid(self.uid).gid(self.gid);
        }
    }

    /// Gives a file or directory that we made to this user.
    pub(super) fn own(&self, path: &Path) -> Result<(), LaunchError> {
        if self.switch {
            chown(path, Some(self.uid), Some(self.gid)).map_err(LaunchError::file(path, "given away"))?;
        }
        Ok(())
    }

    pub(super) fn owns(&self, metadata: &std::fs::Metadata) -> bool {
        metadata.uid() == self.uid
    }

    /// Checks that this user can enter every directory from the root to `dir`, which must be canonical.
    pub(super) fn check_reach(&self, dir: &Path) -> Result<(), LaunchError> {
        if !self.switch {
            return Ok(());
        }
        let mut on_the_way: Vec<&Path> = dir.ancestors().collect();
        on_the_way.reverse();
        for ancestor in on_the_way {
            if !self.can_enter(ancestor)? {
                return Err(LaunchError::Unreachable {
                    dir: ancestor.to_path_buf(),
                    wanted: dir.to_path_buf(),
                    account: self.name.clone(),
                });
            }
        }
        Ok(())
    }

    pub(super) fn can_enter(&self, dir: &Path) -> Result<bool, LaunchError> {
        let metadata = std::fs::metadata(dir).map_err(LaunchError::file(PathBuf::from(dir), "read"))?;
        let (owner, group, mode) = (metadata.uid(), metadata.gid(), metadata.mode());
        Ok(!self.switch || may_enter(mode, owner == self.uid, group == self.gid))
    }
}

/// The first class that applies decides, even if a later one would allow more.
const fn may_enter(mode: u32, is_owner: bool, is_in_group: bool) -> bool {
    let bit = if is_owner {
        0o100
    } else if is_in_group {
        0o010
    } else {
        0o001
    };
    mode & bit != 0
}

fn name_of(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| format!("user {uid}"), |user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permission_class_that_applies_first_decides() {
        assert!(may_enter(0o711, false, false));
        assert!(!may_enter(0o770, false, false));
        assert!(may_enter(0o710, false, true));
        assert!(!may_enter(0o701, false, true), "a group without x is not saved by others' x");
        assert!(may_enter(0o700, true, true));
        assert!(!may_enter(0o077, true, true));
    }

    #[test]
    fn directory_on_the_way_that_cannot_be_entered_is_named() {
        use std::os::unix::fs::PermissionsExt;

        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let closed = root.join("closed");
        let data = closed.join("data");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::set_permissions(&root, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
        // A user that owns none of it.
        let account = Account { name: "stranger".into(), uid: 4_000_001, gid: 4_000_001, switch: true };
        let error = account.check_reach(&data).unwrap_err();
        assert!(matches!(&error, LaunchError::Unreachable { dir, .. } if *dir == closed));
        assert!(error.to_string().contains(&format!("chmod o+x {}", closed.display())));
        std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o711)).unwrap();
        std::fs::set_permissions(&data, PermissionsExt::from_mode(0o711)).unwrap();
        account.check_reach(&data).unwrap();
    }

    #[test]
    fn ourselves_needs_no_check() {
        let account = Account { name: "me".into(), uid: 1, gid: 1, switch: false };
        account.check_reach(Path::new("/nonexistent/data")).unwrap();
    }
}
