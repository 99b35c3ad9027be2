//! Instruments and the positions within them.

use chrono::{DateTime, Utc};
use garde::Validate;

use crate::ids::{InstrumentNo, PositionNo, RankingListNo};
use crate::validate::{self, Draft, Text};

/// An instrument of the orchestra.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instrument {
    /// Its number.
    pub no: InstrumentNo,
    /// Its name, unique within the orchestra.
    pub name: String,
    /// Its place in the score's order, if it has one.
    pub display_order: Option<i32>,
    /// Since when it is put away.
    pub archived_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// A chair or a part of an instrument's section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Its number.
    pub no: PositionNo,
    /// The instrument.
    pub instrument: InstrumentNo,
    /// Its name, unique within the instrument.
    pub name: String,
    /// Its rank in the section; 1 is the top.
    pub hierarchy_level: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// Which of a position's three lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListType {
    /// Asked first.
    A,
    /// Asked next.
    B,
    /// Asked last.
    C,
}

impl ListType {
    /// All three, in order.
    pub const ALL: [Self; 3] = [Self::A, Self::B, Self::C];

    /// The letter as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
        }
    }
}

/// A list of substitutes for a position, in the order they are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankingList {
    /// Its number.
    pub no: RankingListNo,
    /// The position.
    pub position: PositionNo,
    /// Which of the three.
    pub list_type: ListType,
    /// What it is for.
    pub description: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// An instrument to be made.
#[derive(Debug, Clone, PartialEq, Eq, Validate)]
pub struct NewInstrument {
    /// Its name: 1 to 100 characters.
    #[garde(custom(validate::name))]
    pub name: String,
    /// Its place in the score's order: 0 to 9999.
    #[garde(custom(validate::display_order))]
    pub display_order: Option<i32>,
}

impl Draft for NewInstrument {
    fn clean(&mut self) {
        self.name.trim_text();
    }
}

/// Changes of an instrument; `None` leaves a field as it is, `Some(None)` empties it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Validate)]
pub struct InstrumentChange {
    /// Its name.
    #[garde(custom(validate::name))]
    pub name: Option<String>,
    /// Its place in the score's order.
    #[garde(custom(validate::display_order))]
    pub display_order: Option<Option<i32>>,
}

impl Draft for InstrumentChange {
    fn clean(&mut self) {
        self.name.trim_text();
    }
}

/// A position to be made.
#[derive(Debug, Clone, PartialEq, Eq, Validate)]
pub struct NewPosition {
    /// The instrument, which must exist and not be archived.
    #[garde(skip)]
    pub instrument: InstrumentNo,
    /// Its name: 1 to 100 characters.
    #[garde(custom(validate::name))]
    pub name: String,
    /// Its rank in the section: 1 (the top) to 99.
    #[garde(custom(validate::hierarchy_level))]
    pub hierarchy_level: i32,
}

impl Draft for NewPosition {
    fn clean(&mut self) {
        self.name.trim_text();
    }
}

/// Changes of a position; `None` leaves a field as it is. A position stays with its instrument.
#[derive(Debug, Clone, PartialEq, Eq, Default, Validate)]
pub struct PositionChange {
    /// Its name.
    #[garde(custom(validate::name))]
    pub name: Option<String>,
    /// Its rank in the section.
    #[garde(custom(validate::hierarchy_level))]
    pub hierarchy_level: Option<i32>,
}

impl Draft for PositionChange {
    fn clean(&mut self) {
        self.name.trim_text();
    }
}
