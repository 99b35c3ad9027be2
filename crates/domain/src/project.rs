//! Projects: a production, its rehearsals and concerts.

use std::str::FromStr;

use chrono::{DateTime, NaiveDate, Utc};
use garde::Validate;

use crate::ids::ProjectNo;
use crate::validate::{self, Draft, Text};

/// A production.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// Its number.
    pub no: ProjectNo,
    /// Its name.
    pub name: String,
    /// Its first day.
    pub start_date: NaiveDate,
    /// The ISO week the orchestra plans it in, 1 to 53.
    pub week_number: i32,
    /// When and where is rehearsed.
    pub rehearsal_schedule: Option<String>,
    /// When and where is played.
    pub concert_info: Option<String>,
    /// Anything else.
    pub notes: Option<String>,
    /// Where it stands.
    pub status: ProjectStatus,
    /// When it was entered.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// Where a project stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProjectStatus {
    /// Being planned. Counts as active for the tier's limit.
    Planned,
    /// Going on. Counts as active for the tier's limit.
    Active,
    /// Over.
    Completed,
    /// Called off.
    Cancelled,
}

impl ProjectStatus {
    /// The word as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Active => "active",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it counts against the limit of active projects.
    #[must_use]
    pub const fn counts(self) -> bool {
        matches!(self, Self::Planned | Self::Active)
    }
}

impl FromStr for ProjectStatus {
    type Err = UnknownProjectStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Planned, Self::Active, Self::Completed, Self::Cancelled]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or(UnknownProjectStatus)
    }
}

/// The text names no status of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a project's status is planned, active, completed or cancelled")]
pub struct UnknownProjectStatus;

/// A project to be made.
#[derive(Debug, Clone, PartialEq, Eq, Validate)]
pub struct NewProject {
    /// Its name: 1 to 100 characters.
    #[garde(custom(validate::name))]
    pub name: String,
    /// Its first day.
    #[garde(custom(validate::day))]
    pub start_date: NaiveDate,
    /// The week it is planned in, 1 to 53; the ISO week of its first day when left out.
    #[garde(custom(validate::week))]
    pub week_number: Option<i32>,
    /// When and where is rehearsed: at most 4,000 characters.
    #[garde(custom(validate::free_text))]
    pub rehearsal_schedule: Option<String>,
    /// When and where is played: at most 4,000 characters.
    #[garde(custom(validate::free_text))]
    pub concert_info: Option<String>,
    /// Anything else: at most 4,000 characters.
    #[garde(custom(validate::free_text))]
    pub notes: Option<String>,
    /// Where it stands.
    #[garde(skip)]
    pub status: ProjectStatus,
}

impl Draft for NewProject {
    fn clean(&mut self) {
        self.name.trim_text();
        validate::empty_is_none(&mut self.rehearsal_schedule);
        validate::empty_is_none(&mut self.concert_info);
        validate::empty_is_none(&mut self.notes);
    }
}

/// Changes of a project; `None` leaves a field as it is, `Some(None)` empties it.
///
/// A new first day does not move the week by itself: the week may have been set by hand.
#[derive(Debug, Clone, PartialEq, Eq, Default, Validate)]
pub struct ProjectChange {
    /// Its name.
    #[garde(custom(validate::name))]
    pub name: Option<String>,
    /// Its first day.
    #[garde(custom(validate::day))]
    pub start_date: Option<NaiveDate>,
    /// The week it is planned in.
    #[garde(custom(validate::week))]
    pub week_number: Option<i32>,
    /// When and where is rehearsed.
    #[garde(custom(validate::free_text))]
    pub rehearsal_schedule: Option<Option<String>>,
    /// When and where is played.
    #[garde(custom(validate::free_text))]
    pub concert_info: Option<Option<String>>,
    /// Anything else.
    #[garde(custom(validate::free_text))]
    pub notes: Option<Option<String>>,
    /// Where it stands.
    #[garde(skip)]
    pub status: Option<ProjectStatus>,
}

impl Draft for ProjectChange {
    fn clean(&mut self) {
        self.name.trim_text();
        validate::empty_empties(&mut self.rehearsal_schedule);
        validate::empty_empties(&mut self.concert_info);
        validate::empty_empties(&mut self.notes);
    }
}
