//! Passwords and connection strings on the command line: read from stdin or made, never an argument.

use std::io::{self, BufRead, IsTerminal};

use secrecy::{ExposeSecret, SecretString};
use stagesub_auth::{PasswordHasher, check_password};
use stagesub_domain::error::UseCaseError;

use super::Failure;
use crate::passphrase;

/// Longest line that is read, in bytes; a longer one is no secret of ours.
const MAX_LINE_BYTES: u64 = 4096;

/// A password and whether the person who asked has to be told it.
#[derive(Debug)]
pub enum Password {
    /// Read from stdin: known to whoever wrote it there.
    Given(SecretString),
    /// Made here: printed once, in the answer.
    Generated(SecretString),
}

impl Password {
    /// The password.
    #[must_use]
    pub fn secret(&self) -> &SecretString {
        match self {
            Self::Given(secret) | Self::Generated(secret) => secret,
        }
    }

    /// The password, if it has to be told.
    #[must_use]
    pub fn to_tell(&self) -> Option<&SecretString> {
        match self {
            Self::Given(_) => None,
            Self::Generated(secret) => Some(secret),
        }
    }
}

/// Makes a password or reads one from stdin. A terminal is read only when that was asked for by name: a
/// command that waits without a word looks broken.
pub fn obtain(from_stdin: bool, generate: bool) -> Result<Password, Failure> {
    if generate {
        return Ok(Password::Generated(passphrase::generate()));
    }
    let stdin = io::stdin();
    if !from_stdin && stdin.is_terminal() {
        return Err(Failure::wrong_use(
            "no password was given; pipe it in, or say --password-stdin to type it (it is shown), or --generate to have \
             one made",
        ));
    }
    read_line(stdin.lock(), "password").map(Password::Given)
}

/// Checks a password against the rules and hashes it.
pub async fn hash(hasher: &PasswordHasher, password: &Password, email: &str) -> Result<String, Failure> {
    check_password(password.secret(), email).map_err(UseCaseError::from)?;
    let hash = hasher.hash(password.secret()).await.map_err(|error| Failure::of(&error))?;
    Ok(hash.expose_secret().to_owned())
}

/// Reads a connection string from stdin's first line.
pub fn connection_string() -> Result<SecretString, Failure> {
    read_line(io::stdin().lock(), "connection string")
}

fn read_line(input: impl BufRead, what: &str) -> Result<SecretString, Failure> {
    let mut line = String::new();
    input
        .take(MAX_LINE_BYTES)
        .read_line(&mut line)
        .map_err(|error| Failure::new(format!("the {what} could not be read from stdin: {error}")))?;
    let password = line.strip_suffix('\n').unwrap_or(&line);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() {
        return Err(Failure::new(format!("stdin's first line is empty, so there is no {what}")));
    }
    Ok(SecretString::from(password))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_password_without_its_end() {
        for text in ["two words\nmore", "two words\r\n", "two words"] {
            assert_eq!(read_line(text.as_bytes(), "password").unwrap().expose_secret(), "two words");
        }
    }

    #[test]
    fn an_empty_line_is_no_password() {
        assert_eq!(read_line(&b"\n"[..], "password").unwrap_err().code(), 1);
        assert_eq!(read_line(&b""[..], "password").unwrap_err().code(), 1);
    }

    #[test]
    fn only_a_generated_password_is_told() {
        assert!(Password::Given("x".into()).to_tell().is_none());
        assert!(obtain(false, true).unwrap().to_tell().is_some());
    }
}
