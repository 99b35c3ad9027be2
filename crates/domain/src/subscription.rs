//! Tiers: what an orchestra pays for, and what it may have.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an orchestra subscribes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// 50 musicians, 5 active projects, 10 instruments.
    Small,
    /// 200 musicians, 20 active projects.
    Medium,
    /// No limits; a dedicated database on request.
    Institution,
}

/// A countable thing that a tier limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Musicians that are not archived.
    Musicians,
    /// Projects that are planned or active.
    ActiveProjects,
    /// Instruments that are not archived.
    Instruments,
}

impl Resource {
    /// Every resource, in the order their quota rows are locked.
    pub const ALL: [Self; 3] = [Self::ActiveProjects, Self::Instruments, Self::Musicians];

    /// The word as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ActiveProjects => "active_projects",
            Self::Instruments => "instruments",
            Self::Musicians => "musicians",
        }
    }
}

/// How much of each resource an orchestra may have; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Musicians.
    pub musicians: Option<i32>,
    /// Active projects.
    pub active_projects: Option<i32>,
    /// Instruments.
    pub instruments: Option<i32>,
}

impl Limits {
    /// The limit of one resource.
    #[must_use]
    pub const fn of(self, resource: Resource) -> Option<i32> {
        match resource {
            Resource::Musicians => self.musicians,
            Resource::ActiveProjects => self.active_projects,
            Resource::Instruments => self.instruments,
        }
    }
}

impl Tier {
    /// The word as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Institution => "institution",
        }
    }

    /// What the tier allows unless a limit is set by hand.
    #[must_use]
    pub const fn limits(self) -> Limits {
        match self {
            Self::Small => Limits { musicians: Some(50), active_projects: Some(5), instruments: Some(10) },
            Self::Medium => Limits { musicians: Some(200), active_projects: Some(20), instruments: None },
            Self::Institution => Limits { musicians: None, active_projects: None, instruments: None },
        }
    }
}

impl FromStr for Tier {
    type Err = UnknownTier;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Small, Self::Medium, Self::Institution]
            .into_iter()
            .find(|tier| tier.as_str() == text)
            .ok_or(UnknownTier)
    }
}

/// The text names no tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a subscription is small, medium or institution")]
pub struct UnknownTier;
