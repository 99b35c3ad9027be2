//! What each row of a tenant has in its name, and no row of another: whoever reads a row sees whose it is,
//! whatever else it says.

use std::fmt;

/// What each canary begins with. No id, number or time has it in it.
const PREFIX: &str = "canary-";
/// Hexadecimal digits after it.
const DIGITS: usize = 12;

/// The mark of a tenant's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary(String);

impl Canary {
    /// One of as many as there are numbers of 48 bits.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(format!("{PREFIX}{:012x}", number & 0xffff_ffff_ffff))
    }

    /// As it stands in a row.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How many canaries of others are in a text, which may be cut off at its end.
    #[must_use]
    pub fn others_in(&self, text: &[u8]) -> u64 {
        let mut others = 0;
        let mut rest = text;
        while let Some(at) = rest.windows(PREFIX.len()).position(|window| window == PREFIX.as_bytes()) {
            let end = (at + PREFIX.len() + DIGITS).min(rest.len());
            // Of one that is cut off only what is there can be compared.
            if !self.0.as_bytes().starts_with(&rest[at..end]) {
                others += 1;
            }
            rest = &rest[end..];
        }
        others
    }
}

impl fmt::Display for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canaries_of_others_are_counted() {
        let (own, other) = (Canary::new(1), Canary::new(2));
        let text = format!("[{{\"name\":\"{own} Violin\"}},{{\"name\":\"{other} Viola\"}},\"{other}{own}\"]");
        assert_eq!(own.others_in(text.as_bytes()), 2);
        assert_eq!(other.others_in(text.as_bytes()), 2);
        assert_eq!(Canary::new(3).others_in(text.as_bytes()), 4);
        assert_eq!(own.others_in(b"no canary in it"), 0);
    }

    #[test]
    fn one_that_is_cut_off_is_anothers_only_if_it_shows() {
        let own = Canary::new(0xabcd_ef01_2345);
        assert_eq!(own.others_in(b"\"canary-abcd"), 0);
        assert_eq!(own.others_in(b"\"canary-abce"), 1);
        assert_eq!(own.others_in(b"\"canar"), 0);
    }
}
