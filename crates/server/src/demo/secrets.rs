//! A demo's secrets: made once, kept in a file that only its user can read.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use stagesub_storage::seal::KeyRing;
use zeroize::Zeroizing;

use super::cast::SUPERADMIN_EMAIL;
use super::report::Login;
use crate::passphrase;

/// The file's name in the data directory.
const FILE: &str = "secrets.json";

/// What a demo needs to know and nobody else may.
#[derive(Debug)]
pub struct Secrets {
    /// Seals connection strings.
    pub keys: SecretString,
    /// Signs access tokens.
    pub jwt_secret: SecretString,
    /// The platform administrator's.
    pub superadmin_password: SecretString,
    admins: BTreeMap<String, SecretString>,
}

/// As the file has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    keys: Zeroizing<String>,
    jwt_secret: Zeroizing<String>,
    superadmin_password: Zeroizing<String>,
    admin_passwords: BTreeMap<String, Zeroizing<String>>,
}

impl Secrets {
    /// Reads the secrets kept in `dir`; makes them if there are none. An administrator who joined the cast
    /// since gets a password too.
    pub fn load_or_generate(dir: &Path, subdomains: &[&str]) -> Result<Self, SecretsError> {
        let path = dir.join(FILE);
        let mut secrets = match fs::read_to_string(&path).map(Zeroizing::new) {
            Ok(text) => {
                restrict(&path, 0o600)?;
                Self::from_text(&path, &text)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self {
                keys: KeyRing::generate("demo").to_text_secret(),
                jwt_secret: passphrase::signing_secret(),
                superadmin_password: passphrase::generate(),
                admins: BTreeMap::new(),
            },
            Err(source) => return Err(SecretsError::Io { path, source }),
        };
        let mut changed = secrets.admins.is_empty();
        for subdomain in subdomains {
            if !secrets.admins.contains_key(*subdomain) {
                secrets.admins.insert((*subdomain).to_owned(), passphrase::generate());
                changed = true;
            }
        }
        if changed {
            secrets.save(dir, &path)?;
        }
        Ok(secrets)
    }

    /// Reads the secrets kept in `dir` and changes nothing; `None`: no demo keeps any there.
    pub fn load(dir: &Path) -> Result<Option<Self>, SecretsError> {
        let path = dir.join(FILE);
        match fs::read_to_string(&path).map(Zeroizing::new) {
            Ok(text) => Self::from_text(&path, &text).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SecretsError::Io { path, source }),
        }
    }

    /// The platform administrator's login.
    #[must_use]
    pub fn superadmin(&self) -> Login {
        Login { email: SUPERADMIN_EMAIL.to_owned(), password: self.superadmin_password.clone() }
    }

    /// The password of an orchestra's administrator.
    #[must_use]
    pub fn admin_password(&self, subdomain: &str) -> Option<&SecretString> {
        self.admins.get(subdomain)
    }

    fn from_text(path: &Path, text: &str) -> Result<Self, SecretsError> {
        let stored: Stored = serde_json::from_str(text)
            .map_err(|error| SecretsError::Malformed { path: path.to_path_buf(), line: error.line() })?;
        let secret = |text: &Zeroizing<String>| SecretString::from(text.as_str());
        Ok(Self {
            keys: secret(&stored.keys),
            jwt_secret: secret(&stored.jwt_secret),
            superadmin_password: secret(&stored.superadmin_password),
            admins: stored.admin_passwords.iter().map(|(name, text)| (name.clone(), secret(text))).collect(),
        })
    }

    /// Written aside and renamed, with both made durable: a crash leaves the old file or the new one, and data
    /// is never sealed with a key that was lost.
    fn save(&self, dir: &Path, path: &Path) -> Result<(), SecretsError> {
        let text = |secret: &SecretString| Zeroizing::new(secret.expose_secret().to_owned());
        let stored = Stored {
            keys: text(&self.keys),
            jwt_secret: text(&self.jwt_secret),
            superadmin_password: text(&self.superadmin_password),
            admin_passwords: self.admins.iter().map(|(name, secret)| (name.clone(), text(secret))).collect(),
        };
        let io = |source| SecretsError::Io { path: path.to_path_buf(), source };
        let json = serde_json::to_vec_pretty(&stored)
            .map(Zeroizing::new)
            .map_err(|error| io(io::Error::other(error)))?;
        // A temporary file is made with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(dir).map_err(io)?;
        file.write_all(&json).and_then(|()| file.as_file().sync_all()).map_err(io)?;
        file.persist(path).map_err(|error| io(error.error))?;
        fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
    }
}

fn restrict(path: &Path, mode: u32) -> Result<(), SecretsError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|source| SecretsError::Io { path: path.to_path_buf(), source })
}

/// A demo's secrets cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretsError {
    /// The file system refused.
    #[error("the demo's secrets in {} cannot be read or written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not as it was written. Its content stays out of the text.
    #[error(
        "the demo's secrets in {} are damaged at line {line}; without them its data cannot be opened: restore the file, or \
         begin anew in another --data-dir",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where it shows.
        line: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposed(secrets: &Secrets) -> Vec<String> {
        [&secrets.keys, &secrets.jwt_secret, &secrets.superadmin_password]
            .into_iter()
            .chain(secrets.admins.values())
            .map(|secret| secret.expose_secret().to_owned())
            .collect()
    }

    #[test]
    fn secrets_are_made_once_and_stay() {
        let dir = tempfile::tempdir().unwrap();
        let first = Secrets::load_or_generate(dir.path(), &["got", "sjo"]).unwrap();
        let second = Secrets::load_or_generate(dir.path(), &["got", "sjo"]).unwrap();
        assert_eq!(exposed(&first), exposed(&second));
        assert!(first.keys.expose_secret().parse::<KeyRing>().is_ok());
    }

    #[test]
    fn the_file_is_readable_by_its_user_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        Secrets::load_or_generate(dir.path(), &["got"]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        Secrets::load_or_generate(dir.path(), &["got"]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_orchestra_that_joined_later_gets_a_password_and_the_others_keep_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let first = Secrets::load_or_generate(dir.path(), &["got"]).unwrap();
        let second = Secrets::load_or_generate(dir.path(), &["got", "sjo"]).unwrap();
        assert_eq!(
            first.admin_password("got").unwrap().expose_secret(),
            second.admin_password("got").unwrap().expose_secret()
        );
        assert!(second.admin_password("sjo").is_some());
        assert!(first.admin_password("sjo").is_none());
    }

    #[test]
    fn a_damaged_file_is_refused_and_neither_shown_nor_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        fs::write(&path, r#"{"keys": "hunter2""#).unwrap();
        let error = Secrets::load_or_generate(dir.path(), &["got"]).unwrap_err();
        assert!(matches!(error, SecretsError::Malformed { .. }));
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        assert_eq!(fs::read_to_string(&path).unwrap(), r#"{"keys": "hunter2""#);
    }
}
