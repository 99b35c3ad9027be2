//! What a person is to the platform or to an orchestra.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A role. `Superadmin` belongs to a person and reaches the registry; the others belong to a membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Runs the platform.
    Superadmin,
    /// Runs an orchestra's account.
    Admin,
    /// Plans and edits.
    User,
    /// Reads.
    Viewer,
}

impl Role {
    /// The word as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Superadmin => "superadmin",
            Self::Admin => "admin",
            Self::User => "user",
            Self::Viewer => "viewer",
        }
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Superadmin, Self::Admin, Self::User, Self::Viewer]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or(UnknownRole)
    }
}

/// The text names no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a role is superadmin, admin, user or viewer")]
pub struct UnknownRole;
