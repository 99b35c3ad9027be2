//! The nodes that live, in the registry.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::types::PgInterval;
use stagesub_tenancy::nodes::{Others, Uses};
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
    async fn beat(&self, node: NodeId, lease: Duration, uses: Uses) -> Result<Others, DirectoryError> {
        let interval = |time| PgInterval::try_from(time).map_err(|source| corrupt("lease", source));
        let (forgotten, lease) = (interval(lease.saturating_mul(FORGOTTEN_AFTER))?, interval(lease)?);
        let number = |uses: u32| i32::try_from(uses).unwrap_or(i32::MAX);
        // A row that another node is removing at this moment is left to it.
        sqlx::query!(
            "WITH gone AS (
                DELETE FROM registry.nodes WHERE id IN (
                    SELECT id FROM registry.nodes
                    WHERE seen_at < now() - $2::interval AND id <> $1
                    ORDER BY id
                    FOR UPDATE SKIP LOCKED
                )
            )
            INSERT INTO registry.nodes (id, seen_at, shared_connections, dedicated_connections)
            VALUES ($1, now(), $3, $4)
            ON CONFLICT (id) DO UPDATE
            SET seen_at = now(), shared_connections = $3, dedicated_connections = $4, updated_at = now()",
            node.as_uuid(),
            forgotten,
            number(uses.shared),
            number(uses.dedicated)
        )
        .execute(self.registry.control())
        .await
        .map_err(unavailable)?;
        // A statement of its own, so that it sees all that was said before this node had spoken.
        let others = sqlx::query!(
            r#"SELECT
                count(*) AS "nodes!",
                coalesce(sum(shared_connections), 0)::bigint AS "shared!",
                coalesce(sum(dedicated_connections), 0)::bigint AS "dedicated!"
            FROM registry.nodes
            WHERE seen_at >= now() - $2::interval AND id <> $1"#,
            node.as_uuid(),
            lease
        )
        .fetch_one(self.registry.control())
        .await
        .map_err(unavailable)?;
        let count = |number| u32::try_from(number).map_err(|source| corrupt("nodes", source));
        Ok(Others {
            nodes: count(others.nodes)?,
            uses: Uses { shared: count(others.shared)?, dedicated: count(others.dedicated)? },
        })
    }

    async fn count(&self, lease: Duration) -> Result<u32, DirectoryError> {
        let lease = PgInterval::try_from(lease).map_err(|source| corrupt("lease", source))?;
        let nodes = sqlx::query_scalar!(
            r#"SELECT count(*) AS "nodes!" FROM registry.nodes WHERE seen_at >= now() - $1::interval"#,
            lease
        )
        .fetch_one(self.registry.control())
        .await
        .map_err(unavailable)?;
        u32::try_from(nodes).map_err(|source| corrupt("nodes", source))
    }

    async fn leave(&self, node: NodeId) -> Result<(), DirectoryError> {
        sqlx::query!("DELETE FROM registry.nodes WHERE id = $1", node.as_uuid())
            .execute(self.registry.control())
            .await
            .map_err(unavailable)?;
        Ok(())
    }
}
