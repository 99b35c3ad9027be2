//! Tenants and people by whom a node tries its own guards before it serves.

use chrono::{DateTime, Utc};
use stagesub_auth::AuthEpoch;
use stagesub_domain::role::Role;
use stagesub_tenancy::{DirectoryError, Subdomain, TenantId};
use uuid::Uuid;

use super::{RegistryPools, corrupt, unavailable};

/// Somebody who may sign in at a tenant that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// The tenant.
    pub tenant: TenantId,
    /// Its host label.
    pub subdomain: Subdomain,
    /// The person.
    pub user: Uuid,
    /// What they are there.
    pub role: Role,
    /// Version of their authority.
    pub auth_epoch: AuthEpoch,
}

impl RegistryPools {
    /// One member of each of at most two tenants that are served at `now`: those that were made first. Nothing
    /// is written.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub async fn find_witnesses(&self, now: DateTime<Utc>) -> Result<Vec<Witness>, DirectoryError> {
        let rows = sqlx::query!(
            "SELECT DISTINCT ON (t.id) t.id AS tenant, t.subdomain, u.id AS user_id, m.role, u.auth_epoch
            FROM registry.tenants AS t
            JOIN registry.memberships AS m ON m.tenant_id = t.id
            JOIN registry.users AS u ON u.id = m.user_id
            WHERE t.status = 'active' AND u.is_active
                AND coalesce(greatest(t.trial_ends_at, t.subscription_ends_at) > $1, true)
            ORDER BY t.id, u.id
            LIMIT 2",
            now
        )
        .fetch_all(&self.control)
        .await
        .map_err(unavailable)?;
        rows.into_iter()
            .map(|row| {
                Ok(Witness {
                    tenant: TenantId::from_uuid(row.tenant),
                    subdomain: row.subdomain.parse().map_err(|source| corrupt("subdomain", source))?,
                    user: row.user_id,
                    role: row.role.parse().map_err(|source| corrupt("role of a member", source))?,
                    auth_epoch: AuthEpoch(row.auth_epoch),
                })
            })
            .collect()
    }
}
