//! Positions in a write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A position in a server's write-ahead log. Positions of two servers say nothing of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    /// As Postgres writes it: two hexadecimal numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text is no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a position in the log is two hexadecimal numbers with a slash between them, not {0:?}")]
pub struct InvalidLsn(String);

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            plain.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(u64::from(half(high)?) << 32 | u64::from(half(low)?))))
            .ok_or_else(|| InvalidLsn(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_back_and_are_ordered_as_numbers() {
        for (text, number) in
            [("0/0", 0), ("0/16B3748", 0x016B_3748), ("1/0", 1 << 32), ("FFFFFFFF/FFFFFFFF", u64::MAX)]
        {
            assert_eq!(text.parse(), Ok(Lsn(number)));
            assert_eq!(Lsn(number).to_string(), text);
        }
        assert!("9/0".parse::<Lsn>().unwrap() < "10/0".parse().unwrap());
    }

    #[test]
    fn what_is_no_position_is_refused() {
        for text in ["", "/", "0", "0/", "/0", "+1/0", "0/100000000", "0/g", "0/0/0", " 0/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }
}
