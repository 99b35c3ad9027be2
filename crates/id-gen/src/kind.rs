//! What an id names.

use std::fmt;
use std::str::FromStr;

/// A kind of thing that is numbered, with the code that stands in its ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// `MUS`
    Musician,
    /// `INST`
    Instrument,
    /// `POS`
    Position,
    /// `LIST`
    RankingList,
    /// `PROJ`
    Project,
    /// `NEED`
    Need,
    /// `REQ`
    Request,
    /// `FILE`
    File,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Musician,
        Self::Instrument,
        Self::Position,
        Self::RankingList,
        Self::Project,
        Self::Need,
        Self::Request,
        Self::File,
    ];

    /// The code in ids, and the counter's name where it is stored.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Musician => "MUS",
            Self::Instrument => "INST",
            Self::Position => "POS",
            Self::RankingList => "LIST",
            Self::Project => "PROJ",
            Self::Need => "NEED",
            Self::Request => "REQ",
            Self::File => "FILE",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.code() == text).ok_or(UnknownKind)
    }
}

/// The text is no kind's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind of id")]
pub struct UnknownKind;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_parsed_to_their_kinds_and_differ() {
        let mut codes: Vec<_> = Kind::ALL.iter().map(|kind| kind.code()).collect();
        for kind in Kind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Kind::ALL.len());
        assert_eq!("mus".parse::<Kind>(), Err(UnknownKind));
    }
}
