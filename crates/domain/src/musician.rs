//! Musicians: the orchestra's own and its substitutes.

use chrono::{DateTime, Utc};

use crate::ids::{MusicianNo, PositionNo};
use crate::language::Language;

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
