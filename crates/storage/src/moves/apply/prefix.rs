//! By what the streams of a move know each other's transactions.

use std::fmt;
use std::str::FromStr;

use sqlx::PgConnection;

/// Shortest that can be no guess.
const SHORTEST: usize = 16;
/// Longest that is of use.
const LONGEST: usize = 64;

/// The prefix of what a move writes into the logs: a secret of the move, random and long, of ASCII letters, digits,
/// `-`, `_` and `.`.
///
/// A transaction that begins with a message of this prefix was made by the opposite stream and is passed over, so who
/// knows it can make changes that do not move.
#[derive(Clone, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The prefix of marks.
    pub(in crate::moves) fn of_marks(&self) -> String {
        format!("{}.mark", self.0)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prefix(..)")
    }
}

/// A text cannot be a move's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a move's prefix has {SHORTEST} to {LONGEST} ASCII letters, digits, hyphens, underscores and dots")]
pub struct InvalidPrefix;

impl FromStr for Prefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if plain && (SHORTEST..=LONGEST).contains(&text.len()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidPrefix)
        }
    }
}

/// Sets a mark in the log of the database, in the transaction that is open: who applies the stream tells when
/// everything before it is applied.
///
/// # Errors
/// The driver's.
pub async fn mark(conn: &mut PgConnection, prefix: &Prefix, number: u64) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "SELECT pg_catalog.pg_logical_emit_message(true, $1::text, $2::text)::text",
        prefix.of_marks(),
        number.to_string()
    )
    .fetch_one(conn)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_long_and_needs_no_quoting() {
        let prefix: Prefix = "0123456789abcdefXYZ-_.".parse().unwrap();
        assert_eq!(prefix.of_marks(), "0123456789abcdefXYZ-_..mark");
        assert_eq!(format!("{prefix:?}"), "Prefix(..)");
        for text in
            ["", "short", "0123456789abcde'", "0123456789 abcdef", "0123456789abcdeå", &"x".repeat(65)]
        {
            assert_eq!(text.parse::<Prefix>(), Err(InvalidPrefix), "{text}");
        }
    }
}
