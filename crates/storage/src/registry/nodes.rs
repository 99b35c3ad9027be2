//! The nodes that live, in the registry.

use std::num::NonZeroU32;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::types::PgInterval;
use stagesub_tenancy::{DirectoryError, NodeId, NodeRegistry};

use crate::registry::{RegistryPools, corrupt, unavailable};

/// Leases after which the row of a node that died is removed.
const FORGOTTEN_AFTER: u32 = 30;

/// [`NodeRegistry`] on `registry.nodes`.
#[derive(Debug, Clone)]
pub struct PgNodeRegistry {
    registry: RegistryPools,
}

impl PgNodeRegistry {
    /// Over the registry.
    #[must_use]
    pub fn new(registry: RegistryPools) -> Self {
        Self { registry }
    }
}

#[async_trait]
impl NodeRegistry for PgNodeRegistry {
    async fn beat(&self, node: NodeId, lease: Duration) -> Result<NonZeroU32, DirectoryError> {
        let interval = |time| PgInterval::try_from(time).map_err(|source| corrupt("lease", source));
        let (forgotten, lease) = (interval(lease.saturating_mul(FORGOTTEN_AFTER))?, interval(lease)?);
        // The statement sees the table as it was before it, so this node is counted apart. A row that another
        // node is removing at this moment is left to it.
        let others = sqlx::query_scalar!(
            r#"WITH beat AS (
                INSERT INTO registry.nodes (id, seen_at) VALUES ($1, now())
                ON CONFLICT (id) DO UPDATE SET seen_at = now(), updated_at = now()
            ), gone AS (
                DELETE FROM registry.nodes WHERE id IN (
                    SELECT id FROM registry.nodes
                    WHERE seen_at < now() - $3::interval AND id <> $1
                    ORDER BY id
                    FOR UPDATE SKIP LOCKED
                )
            )
            SELECT count(*) AS "others!" FROM registry.nodes
            WHERE seen_at >= now() - $2::interval AND id <> $1"#,
            node.as_uuid(),
            lease,
            forgotten
        )
        .fetch_one(self.registry.control())
        .await
        .map_err(unavailable)?;
        let others = u32::try_from(others).map_err(|source| corrupt("nodes", source))?;
        Ok(NonZeroU32::MIN.saturating_add(others))
    }

    async fn leave(&self, node: NodeId) -> Result<(), DirectoryError> {
        sqlx::query!("DELETE FROM registry.nodes WHERE id = $1", node.as_uuid())
            .execute(self.registry.control())
            .await
            .map_err(unavailable)?;
        Ok(())
    }
}
