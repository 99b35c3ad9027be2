//! The host label of a tenant.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// Labels that no tenant may take: the platform's own names, and names that mail, certificates and
/// browsers give a meaning of their own.
const RESERVED: &[&str] = &[
    "admin",
    "api",
    "app",
    "apex",
    "assets",
    "auth",
    "autoconfig",
    "autodiscover",
    "blog",
    "cdn",
    "console",
    "dev",
    "docs",
    "ftp",
    "help",
    "host",
    "hostmaster",
    "imap",
    "internal",
    "isatap",
    "localhost",
    "login",
    "mail",
    "metrics",
    "mx",
    "ns",
    "ns1",
    "ns2",
    "pop",
    "postmaster",
    "registry",
    "root",
    "sftp",
    "smtp",
    "ssl",
    "staging",
    "stagesub",
    "static",
    "status",
    "superadmin",
    "support",
    "test",
    "tls",
    "webmaster",
    "wpad",
    "www",
];

/// One DNS label in lower case: `gbg` in `gbg.stagesub.com`.
///
/// 1 to 63 of `a-z`, `0-9` and `-`, neither first nor last `-`, not `--` in third place (that is the
/// mark of an encoded label), not a number alone, not a reserved name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Subdomain(String);

impl Subdomain {
    /// Longest label, in characters.
    pub const MAX_LEN: usize = 63;

    /// The label as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Subdomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Subdomain {
    type Err = InvalidSubdomain;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let label = text.as_bytes();
        let allowed = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        let shaped = (1..=Self::MAX_LEN).contains(&label.len())
            && label.iter().all(allowed)
            && !text.starts_with('-')
            && !text.ends_with('-')
            && text.get(2..4) != Some("--")
            && !label.iter().all(u8::is_ascii_digit);
        if !shaped {
            return Err(InvalidSubdomain::Shape);
        }
        if RESERVED.contains(&text) {
            return Err(InvalidSubdomain::Reserved);
        }
        Ok(Self(text.to_owned()))
    }
}

/// The text is not a subdomain that a tenant may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSubdomain {
    /// Not one DNS label.
    #[error("a subdomain is 1 to 63 of a-z, 0-9 and -, with a letter, not starting or ending with -")]
    Shape,
    /// One of the platform's own names.
    #[error("this subdomain is reserved")]
    Reserved,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn label_of_letters_digits_and_inner_hyphens_is_a_subdomain() {
        let longest = "a".repeat(Subdomain::MAX_LEN);
        for text in ["a", "gbg", "gbg-2", "2gbg", "a-b-c", "ab-c", longest.as_str()] {
            assert_eq!(text.parse::<Subdomain>().expect(text).as_str(), text);
        }
    }

    #[test]
    fn misshapen_label_is_refused() {
        let over_long = "a".repeat(Subdomain::MAX_LEN + 1);
        for text in [
            "",
            "-gbg",
            "gbg-",
            "-",
            "xn--gbg",
            "ab--c",
            "GBG",
            "g.bg",
            "g_bg",
            "g bg",
            "göteborg",
            "123",
            "gbg\0",
            "é-",
            over_long.as_str(),
        ] {
            assert_eq!(text.parse::<Subdomain>(), Err(InvalidSubdomain::Shape), "{text:?}");
        }
    }

    #[test]
    fn reserved_names_are_subdomains_in_shape_only() {
        for text in RESERVED {
            assert_eq!(text.parse::<Subdomain>(), Err(InvalidSubdomain::Reserved), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in any::<String>()) {
            let _ = text.parse::<Subdomain>();
        }
    }
}
