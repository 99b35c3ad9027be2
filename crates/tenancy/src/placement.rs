//! Where a tenant's data is.

use std::fmt;

use serde::Serialize;
use uuid::Uuid;

use crate::tenant::TenantId;

/// One database the platform keeps tenants in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct DatabaseId(Uuid);

impl DatabaseId {
    /// Wraps an id that is known to name a database.
    #[must_use]
    pub const fn from_uuid(id: Uuid) -> Self {
        Self(id)
    }

    /// The id as it is stored.
    #[must_use]
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for DatabaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

/// Which database holds a tenant, and whether it has it for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Placement {
    /// A database that many tenants share, isolated by row-level security.
    Shared(DatabaseId),
    /// A database of the tenant's own (isolated by row-level security all the same).
    Dedicated(DatabaseId),
}

impl Placement {
    /// The database.
    #[must_use]
    pub const fn database(self) -> DatabaseId {
        match self {
            Self::Shared(id) | Self::Dedicated(id) => id,
        }
    }

    /// `shared` or `dedicated`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shared(_) => "shared",
            Self::Dedicated(_) => "dedicated",
        }
    }
}

/// Version of a tenant's placement. Every move takes a new one; the tenant's fence in the database
/// refuses a transaction that was begun for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlacementEpoch(pub i64);

impl fmt::Display for PlacementEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A tenant's placement together with the epoch it is valid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Located {
    /// The tenant.
    pub tenant: TenantId,
    /// Where its data is.
    pub placement: Placement,
    /// The version of that answer.
    pub epoch: PlacementEpoch,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placement_says_its_database_and_its_kind() {
        let id = DatabaseId::from_uuid(Uuid::from_u128(1));
        for (placement, word) in [(Placement::Shared(id), "shared"), (Placement::Dedicated(id), "dedicated")]
        {
            assert_eq!((placement.database(), placement.as_str()), (id, word));
        }
    }

    #[test]
    fn same_database_shared_and_dedicated_are_different_placements() {
        let id = DatabaseId::from_uuid(Uuid::from_u128(1));
        assert_ne!(Placement::Shared(id), Placement::Dedicated(id));
    }
}
