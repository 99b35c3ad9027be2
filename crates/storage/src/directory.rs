//! The directory of tenants in the registry.

use std::sync::Arc;

use async_trait::async_trait;
use stagesub_tenancy::{
    ConfigVersion, DatabaseId, DirectoryError, Located, Placement, PlacementEpoch, Subdomain, Tenant,
    TenantDirectory, TenantId,
};
use uuid::Uuid;

use crate::registry::{RegistryPools, corrupt, unavailable};

/// [`TenantDirectory`] on Postgres. Each call asks the registry; put the cache over it.
#[derive(Clone, Debug)]
pub struct PgTenantDirectory {
    registry: RegistryPools,
}

impl PgTenantDirectory {
    /// Over the registry.
    #[must_use]
    pub const fn new(registry: RegistryPools) -> Self {
        Self { registry }
    }
}

/// A row of `registry.tenants`, as far as the directory needs it.
struct TenantRow {
    id: Uuid,
    code: String,
    name: String,
    subdomain: String,
    status: String,
    trial_ends_at: Option<chrono::DateTime<chrono::Utc>>,
    subscription_ends_at: Option<chrono::DateTime<chrono::Utc>>,
    version: i64,
}

impl TryFrom<TenantRow> for Arc<Tenant> {
    type Error = DirectoryError;

    fn try_from(row: TenantRow) -> Result<Self, DirectoryError> {
        Ok(Self::new(Tenant {
            id: TenantId::from_uuid(row.id),
            code: row.code.parse().map_err(|source| corrupt("tenant code", source))?,
            name: row.name,
            subdomain: row.subdomain.parse().map_err(|source| corrupt("subdomain", source))?,
            status: row.status.parse().map_err(|source| corrupt("tenant status", source))?,
            trial_ends_at: row.trial_ends_at,
            subscription_ends_at: row.subscription_ends_at,
            version: ConfigVersion(row.version),
        }))
    }
}

#[async_trait]
impl TenantDirectory for PgTenantDirectory {
    async fn find_by_subdomain(&self, subdomain: &Subdomain) -> Result<Option<Arc<Tenant>>, DirectoryError> {
        sqlx::query_as!(
            TenantRow,
            "SELECT id, code, name, subdomain, status, trial_ends_at, subscription_ends_at, version
            FROM registry.tenants
            WHERE subdomain = $1",
            subdomain.as_str()
        )
        .fetch_optional(self.registry.control())
        .await
        .map_err(unavailable)?
        .map(TryInto::try_into)
        .transpose()
    }

    async fn find_by_id(&self, id: TenantId) -> Result<Option<Arc<Tenant>>, DirectoryError> {
        sqlx::query_as!(
            TenantRow,
            "SELECT id, code, name, subdomain, status, trial_ends_at, subscription_ends_at, version
            FROM registry.tenants
            WHERE id = $1",
            id.as_uuid()
        )
        .fetch_optional(self.registry.control())
        .await
        .map_err(unavailable)?
        .map(TryInto::try_into)
        .transpose()
    }

    async fn find_placement(&self, id: TenantId) -> Result<Option<Located>, DirectoryError> {
        let row = sqlx::query!(
            "SELECT database_id, placement, epoch FROM registry.directory WHERE tenant_id = $1",
            id.as_uuid()
        )
        .fetch_optional(self.registry.control())
        .await
        .map_err(unavailable)?;
        let Some(row) = row else { return Ok(None) };
        let placement = placement(&row.placement, row.database_id)
            .ok_or_else(|| corrupt("placement", format!("no placement is called {}", row.placement)))?;
        Ok(Some(Located { tenant: id, placement, epoch: PlacementEpoch(row.epoch) }))
    }
}

/// Reads a placement's stored form.
pub(crate) fn placement(word: &str, database: Uuid) -> Option<Placement> {
    let database = DatabaseId::from_uuid(database);
    match word {
        "shared" => Some(Placement::Shared(database)),
        "dedicated" => Some(Placement::Dedicated(database)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use stagesub_tenancy::TenantStatus;

    use super::*;

    fn row() -> TenantRow {
        TenantRow {
            id: Uuid::from_u128(1),
            code: "GOT".into(),
            name: "Göteborg".into(),
            subdomain: "gbg".into(),
            status: "active".into(),
            trial_ends_at: None,
            subscription_ends_at: None,
            version: 4,
        }
    }

    #[test]
    fn row_becomes_a_tenant() {
        let tenant: Arc<Tenant> = row().try_into().unwrap();
        assert_eq!((tenant.code.as_str(), tenant.subdomain.as_str()), ("GOT", "gbg"));
        assert_eq!((tenant.status, tenant.version), (TenantStatus::Active, ConfigVersion(4)));
    }

    #[test]
    fn row_that_breaks_a_rule_is_corrupt_and_named() {
        let broken = [
            (TenantRow { code: "got".into(), ..row() }, "tenant code"),
            (TenantRow { subdomain: "www".into(), ..row() }, "subdomain"),
            (TenantRow { status: "gone".into(), ..row() }, "tenant status"),
        ];
        for (row, expected) in broken {
            let read: Result<Arc<Tenant>, _> = row.try_into();
            assert!(matches!(read, Err(DirectoryError::Corrupt { what, .. }) if what == expected));
        }
    }

    #[test]
    fn placement_of_an_unknown_kind_is_none() {
        assert_eq!(placement("elsewhere", Uuid::nil()), None);
    }
}
