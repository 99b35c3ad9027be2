//! Musicians: the orchestra's own and its substitutes.

use chrono::{DateTime, Utc};
use garde::Validate;

use crate::ids::{MusicianNo, PositionNo};
use crate::language::Language;
use crate::validate::{self, Draft, Text};

/// Someone the orchestra may ask to play.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Musician {
    /// Their number.
    pub no: MusicianNo,
    /// First name.
    pub first_name: String,
    /// Last name.
    pub last_name: String,
    /// Address, unique within the orchestra without regard to case.
    pub email: String,
    /// Telephone number as written.
    pub phone: Option<String>,
    /// The language to write to them in.
    pub preferred_language: Language,
    /// Whether they live where the orchestra plays.
    pub local_residence: bool,
    /// Anything else.
    pub notes: Option<String>,
    /// Whether they may be asked at present.
    pub is_active: bool,
    /// Since when they are put away; never contacted again, history stays.
    pub archived_at: Option<DateTime<Utc>>,
    /// The positions they can play, in the order of their numbers.
    pub qualifications: Vec<PositionNo>,
    /// When they were entered.
    pub created_at: DateTime<Utc>,
    /// When they were last changed.
    pub updated_at: DateTime<Utc>,
}

/// A musician to be entered.
#[derive(Debug, Clone, PartialEq, Eq, Validate)]
pub struct NewMusician {
    /// First name: 1 to 100 characters.
    #[garde(custom(validate::name))]
    pub first_name: String,
    /// Last name: 1 to 100 characters.
    #[garde(custom(validate::name))]
    pub last_name: String,
    /// Address: at most 254 characters, kept as typed, compared without regard to case.
    #[garde(custom(validate::email))]
    pub email: String,
    /// Telephone number as written: at most 40 characters.
    #[garde(custom(validate::phone))]
    pub phone: Option<String>,
    /// The language to write to them in; the orchestra's when none is stated.
    #[garde(skip)]
    pub preferred_language: Option<Language>,
    /// Whether they live where the orchestra plays.
    #[garde(skip)]
    pub local_residence: bool,
    /// Anything else: at most 4,000 characters.
    #[garde(custom(validate::free_text))]
    pub notes: Option<String>,
    /// Whether they may be asked at present.
    #[garde(skip)]
    pub is_active: bool,
    /// The positions they can play: at most 100, each once.
    #[garde(custom(validate::qualifications))]
    pub qualifications: Vec<PositionNo>,
}

impl Draft for NewMusician {
    fn clean(&mut self) {
        self.first_name.trim_text();
        self.last_name.trim_text();
        self.email.trim_text();
        validate::empty_is_none(&mut self.phone);
        validate::empty_is_none(&mut self.notes);
    }
}

/// Changes of a musician; `None` leaves a field as it is, `Some(None)` empties it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Validate)]
pub struct MusicianChange {
    /// First name.
    #[garde(custom(validate::name))]
    pub first_name: Option<String>,
    /// Last name.
    #[garde(custom(validate::name))]
    pub last_name: Option<String>,
    /// Address.
    #[garde(custom(validate::email))]
    pub email: Option<String>,
    /// Telephone number.
    #[garde(custom(validate::phone))]
    pub phone: Option<Option<String>>,
    /// The language to write to them in.
    #[garde(skip)]
    pub preferred_language: Option<Language>,
    /// Whether they live where the orchestra plays.
    #[garde(skip)]
    pub local_residence: Option<bool>,
    /// Anything else.
    #[garde(custom(validate::free_text))]
    pub notes: Option<Option<String>>,
    /// Whether they may be asked at present.
    #[garde(skip)]
    pub is_active: Option<bool>,
    /// All the positions they can play, in place of those before.
    #[garde(custom(validate::changed_qualifications))]
    pub qualifications: Option<Vec<PositionNo>>,
}

impl Draft for MusicianChange {
    fn clean(&mut self) {
        self.first_name.trim_text();
        self.last_name.trim_text();
        self.email.trim_text();
        validate::empty_empties(&mut self.phone);
        validate::empty_empties(&mut self.notes);
    }
}
