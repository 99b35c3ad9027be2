//! Projects: a production, its rehearsals and concerts.

use std::str::FromStr;

use chrono::{DateTime, NaiveDate, Utc};

use crate::ids::ProjectNo;

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
