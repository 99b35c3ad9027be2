//! The platform's logins on a database, and who knows their connection strings.

use async_trait::async_trait;
use stagesub_tenancy::{DatabaseId, DirectoryError};

use crate::target::ConnectionTarget;

/// A login that the platform makes on its databases. See the table of roles in `docs/roles.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoginRole {
    /// Runs migrations; member of the owner.
    Migrator,
    /// Reads and writes tenant data, fenced by row-level security. No privilege in the registry.
    App,
    /// Reads and writes credentials in the registry.
    Auth,
    /// Reads and writes the registry, sealed connection strings included.
    Control,
    /// Moves and backs up tenants.
    Mover,
}

impl LoginRole {
    /// Every login.
    pub const ALL: [Self; 5] = [Self::Migrator, Self::App, Self::Auth, Self::Control, Self::Mover];

    /// The role's name in Postgres.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Migrator => "stagesub_migrator",
            Self::App => "stagesub_app",
            Self::Auth => "stagesub_auth",
            Self::Control => "stagesub_control",
            Self::Mover => "stagesub_mover",
        }
    }
}

/// Knows how to reach each database as each login.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait DatabaseLogins: Send + Sync {
    /// Finds the connection string of `role` on `database`. `None`: there is none, and none is guessed.
    async fn find_login(
        &self,
        database: DatabaseId,
        role: LoginRole,
    ) -> Result<Option<ConnectionTarget>, DirectoryError>;
}
