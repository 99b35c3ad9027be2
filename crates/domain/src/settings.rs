//! How an orchestra wants its requests handled.

use crate::language::Language;

/// An orchestra's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// When to remind, in percent of the response time.
    pub reminder_percentage: i32,
    /// How a musician on several lists is treated.
    pub ranking_conflict_strategy: String,
    /// The language of mails to those who state none.
    pub language: Language,
    /// IANA name of the orchestra's time zone.
    pub timezone: String,
    /// How long musicians have to answer, in hours.
    pub default_response_hours: i32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            reminder_percentage: 75,
            ranking_conflict_strategy: "simple".to_owned(),
            language: Language::Sv,
            timezone: "Europe/Stockholm".to_owned(),
            default_response_hours: 48,
        }
    }
}
