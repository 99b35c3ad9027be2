//! Values as SQL text: what a message without parameters is made of besides fixed text.
//!
//! Nothing of a value is ever a character that means something to the parser. A text is written between quotes in
//! letters, digits, spaces and `\u` escapes alone, whatever is in it; of the form that no setting changes the meaning of.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use uuid::Uuid;

/// A value that a statement takes. What it becomes is decided by where it stands in the statement, as with a
/// parameter that has no type: a text becomes an interval, a JSON document, or an enum there.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// None.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A text, or anything else that PostgreSQL reads from one. Without the character NUL, which it cannot keep.
    Text(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
    /// An identifier.
    Uuid(Uuid),
    /// A moment, to the microsecond.
    Time(DateTime<Utc>),
}

/// A text holds the character NUL, which PostgreSQL keeps in none.
#[derive(Debug, thiserror::Error)]
#[error("a text with the character NUL cannot be stored; take it out")]
pub struct HoldsNul;

impl Value<'_> {
    /// Writes it to the end of a statement.
    pub(crate) fn write_to(&self, sql: &mut String) -> Result<(), HoldsNul> {
        match *self {
            Self::Null => sql.push_str("NULL"),
            Self::Bool(true) => sql.push_str("TRUE"),
            Self::Bool(false) => sql.push_str("FALSE"),
            Self::Int(number) => push(sql, format_args!("{number}")),
            Self::Uuid(id) => push(sql, format_args!("'{id}'")),
            Self::Time(at) => {
                push(sql, format_args!("'{}'", at.to_rfc3339_opts(SecondsFormat::Micros, true)));
            }
            Self::Bytes(bytes) => {
                sql.push_str(r"E'\\x");
                for byte in bytes {
                    push(sql, format_args!("{byte:02x}"));
                }
                sql.push('\'');
            }
            Self::Text(text) => {
                sql.push_str("E'");
                for c in text.chars() {
                    match c {
                        '\0' => return Err(HoldsNul),
                        'a'..='z' | 'A'..='Z' | '0'..='9' | ' ' => sql.push(c),
                        c => push(sql, format_args!("\\U{:08x}", u32::from(c))),
                    }
                }
                sql.push('\'');
            }
        }
        Ok(())
    }
}

fn push(sql: &mut String, what: std::fmt::Arguments<'_>) {
    sql.write_fmt(what).expect("a String takes every text");
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i32> for Value<'_> {
    fn from(value: i32) -> Self {
        Self::Int(value.into())
    }
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(value: &'a String) -> Self {
        Self::Text(value)
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self::Bytes(value)
    }
}

impl From<Uuid> for Value<'_> {
    fn from(value: Uuid) -> Self {
        Self::Uuid(value)
    }
}

impl From<DateTime<Utc>> for Value<'_> {
    fn from(value: DateTime<Utc>) -> Self {
        Self::Time(value)
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: impl Into<Value<'static>>) -> String {
        let mut sql = String::new();
        value.into().write_to(&mut sql).unwrap();
        sql
    }

    #[test]
    fn every_kind_has_one_form() {
        assert_eq!(written(None::<i64>), "NULL");
        assert_eq!(written(true), "TRUE");
        assert_eq!(written(i64::MIN), "-9223372036854775808");
        assert_eq!(written(-7), "-7");
        assert_eq!(written(Uuid::nil()), "'00000000-0000-0000-0000-000000000000'");
        assert_eq!(written(DateTime::<Utc>::UNIX_EPOCH), "'1970-01-01T00:00:00.000000Z'");
        assert_eq!(written(&b"\x00'\\"[..]), r"E'\\x00275c'");
        assert_eq!(written(Some("Nils 1")), "E'Nils 1'");
    }

    #[test]
    fn no_character_of_a_text_means_anything() {
        let sql = written("');DROP TABLE t;--\\'\"$1{}\n\u{2019}\u{1F3BB}");
        let inner = sql.strip_prefix("E'").and_then(|rest| rest.strip_suffix('\'')).unwrap();
        assert!(inner.chars().all(|c| c.is_ascii_alphanumeric() || c == ' ' || c == '\\'), "{sql}");
        assert_eq!(
            inner.matches('\\').count(),
            inner.matches("\\U00").count(),
            "each backslash begins an escape"
        );
        assert!(inner.ends_with("\\U00002019\\U0001f3bb"));
    }

    #[test]
    fn a_text_that_cannot_be_kept_is_refused() {
        assert!(Value::Text("a\0b").write_to(&mut String::new()).is_err());
    }
}
