//! Who acts.

use std::net::IpAddr;

use uuid::Uuid;

use crate::role::Role;

/// Who or what causes a change, as the audit log records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// Who.
    pub identity: Identity,
    /// From where.
    pub origin: Origin,
}

impl Actor {
    /// The platform itself, acting without a request.
    #[must_use]
    pub fn system() -> Self {
        Self { identity: Identity::System, origin: Origin::default() }
    }

    /// The role it acts in; the system has none.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        match &self.identity {
            Identity::User { role, .. } => Some(*role),
            Identity::Superadmin { .. } => Some(Role::Superadmin),
            Identity::System => None,
        }
    }

    /// The person's id, if a person acts.
    #[must_use]
    pub fn user_id(&self) -> Option<Uuid> {
        match &self.identity {
            Identity::User { user, .. } | Identity::Superadmin { user } => Some(*user),
            Identity::System => None,
        }
    }

    /// The word for the kind of actor, as it is stored.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.identity {
            Identity::User { .. } => "user",
            Identity::Superadmin { .. } => "superadmin",
            Identity::System => "system",
        }
    }
}

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Identity {
    /// A member of the orchestra.
    User {
        /// The person.
        user: Uuid,
        /// What the membership allows.
        role: Role,
    },
    /// An administrator of the platform.
    Superadmin {
        /// The person.
        user: Uuid,
    },
    /// The platform: jobs, the command line.
    System,
}

/// Where a request came from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// The client's address.
    pub ip_address: Option<IpAddr>,
    /// What the client calls itself, cut to 512 characters.
    pub user_agent: Option<String>,
    /// The request's id, as in the logs.
    pub request_id: Option<String>,
}
