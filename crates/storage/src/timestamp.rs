//! Times as a read in one message brings them cheaply.

use chrono::{DateTime, Utc};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgTypeInfo, PgValueRef};
use sqlx::{Decode, Postgres, Type};

/// Microseconds from 1970 to 2000, where PostgreSQL's count begins.
const TO_2000_MICROS: i64 = 946_684_800_000_000;

/// What `timestamptz_send` of a time gives: the eight bytes in which PostgreSQL keeps it. Written out as text and
/// parsed again, a time costs both sides more than all other columns of a list's row together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentTimestamp(DateTime<Utc>);

impl From<SentTimestamp> for DateTime<Utc> {
    fn from(sent: SentTimestamp) -> Self {
        sent.0
    }
}

impl Type<Postgres> for SentTimestamp {
    fn type_info() -> PgTypeInfo {
        <[u8] as Type<Postgres>>::type_info()
    }
}

impl<'r> Decode<'r, Postgres> for SentTimestamp {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        read(value.as_str()?)
    }
}

/// Reads `\x` and sixteen digits. PostgreSQL's infinities are no time, and an error.
fn read(text: &str) -> Result<SentTimestamp, BoxDynError> {
    let digits = text.strip_prefix("\\x").filter(|digits| digits.len() == 16);
    let digits = digits.ok_or("a time that was sent has eight bytes, in hexadecimal digits")?;
    let since_2000 = u64::from_str_radix(digits, 16)?.cast_signed();
    let time = since_2000.checked_add(TO_2000_MICROS).and_then(DateTime::from_timestamp_micros);
    Ok(SentTimestamp(time.ok_or("a time beyond the calendar")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_to_the_microsecond() {
        for (sent, time) in [
            ("\\x0000000000000000", "2000-01-01T00:00:00Z"),
            ("\\x0000000000000001", "2000-01-01T00:00:00.000001Z"),
            ("\\xffffffffffffffff", "1999-12-31T23:59:59.999999Z"),
            ("\\x0002ed5a6f7d5e40", "2026-02-09T03:23:46.747968Z"),
        ] {
            assert_eq!(DateTime::<Utc>::from(read(sent).unwrap()).to_rfc3339(), time.replace('Z', "+00:00"));
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        // The last two are PostgreSQL's infinities.
        for sent in [
            "",
            "\\x",
            "0000000000000000",
            "\\x00000000000000",
            "\\x00000000000000zz",
            "\\x7fffffffffffffff",
            "\\x8000000000000000",
        ] {
            assert!(read(sent).is_err(), "{sent}");
        }
    }
}
