//! The tenants of a service of somebody's own, in the registry: made, locked and unlocked.
//!
//! A service says who its tenants are and where they are found; what they pay for and how much they may have is its
//! own to keep.

use sqlx::PgConnection;
use stagesub_tenancy::{
    DatabaseId, DirectoryError, PlacementEpoch, Subdomain, TenantCode, TenantId, TenantStatus,
};
use uuid::Uuid;

use super::{RegistryPools, corrupt, unavailable, version};
use crate::fence::{AdmitError, admit_tenant};
use crate::logins::{DatabaseLogins, LoginRole};
use crate::registry::logins::PgDatabaseLogins;

/// Who a tenant is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantEntry {
    /// Prefix of its ids.
    pub code: TenantCode,
    /// Its host label.
    pub subdomain: Subdomain,
    /// Its name, as people write it.
    pub name: String,
}

/// The registry's list of a service's tenants.
#[derive(Debug, Clone)]
pub struct Roster {
    registry: RegistryPools,
    logins: PgDatabaseLogins,
}

/// A tenant that was entered, and what is left to do for it.
struct Entered {
    id: TenantId,
    database: DatabaseId,
    epoch: PlacementEpoch,
    status: TenantStatus,
}

impl Roster {
    /// Over the registry and whoever knows the migrator's login.
    #[must_use]
    pub const fn new(registry: RegistryPools, logins: PgDatabaseLogins) -> Self {
        Self { registry, logins }
    }

    /// Makes a tenant in the shared database with the fewest tenants, or finds the one that was made before. What a
    /// crash left half made is finished.
    ///
    /// # Errors
    /// [`RosterError::Taken`] when somebody else has the code, or the subdomain under another code.
    pub async fn ensure(&self, tenant: &TenantEntry) -> Result<TenantId, RosterError> {
        let Entered { id, database, epoch, status } = self.enter(tenant).await?;
        if status != TenantStatus::Provisioning {
            return Ok(id);
        }
        let migrator = self
            .logins
            .find_login(database, LoginRole::Migrator)
            .await?
            .ok_or(RosterError::NoLogin(database))?;
        admit_tenant(&migrator, id, epoch).await?;
        self.set_status(id, &[TenantStatus::Provisioning], TenantStatus::Active, "provision").await?;
        Ok(id)
    }

    /// Locks a tenant on every node within a second or so. `false`: it is not in use, or there is none.
    ///
    /// # Errors
    /// [`RosterError::Registry`].
    pub async fn suspend(&self, tenant: TenantId) -> Result<bool, RosterError> {
        self.set_status(tenant, &[TenantStatus::Active], TenantStatus::Suspended, "suspend").await
    }

    /// Unlocks a tenant. `false`: it is not locked, or there is none.
    ///
    /// # Errors
    /// [`RosterError::Registry`].
    pub async fn resume(&self, tenant: TenantId) -> Result<bool, RosterError> {
        self.set_status(tenant, &[TenantStatus::Suspended], TenantStatus::Active, "resume").await
    }

    /// The tenant's record and place, in one transaction. Whoever enters another meanwhile waits at the version.
    async fn enter(&self, tenant: &TenantEntry) -> Result<Entered, RosterError> {
        let mut tx = self.registry.begin_control().await.map_err(unavailable)?;
        let version = version::take(&mut tx).await.map_err(unavailable)?;
        if let Some(found) = find(&mut tx, tenant).await? {
            tx.rollback().await.map_err(unavailable)?;
            return Ok(found);
        }
        let id = Uuid::now_v7();
        sqlx::query!(
            "INSERT INTO registry.codes (code, tenant_id) VALUES ($1, $2)",
            tenant.code.as_str(),
            id
        )
        .execute(&mut *tx)
        .await
        .map_err(unavailable)?;
        // The registry's limits are an orchestra's; a service without any is of the kind that has none.
        sqlx::query!(
            "INSERT INTO registry.tenants (id, code, name, subdomain, subscription, status, version)
            VALUES ($1, $2, $3, $4, 'institution', 'provisioning', $5)",
            id,
            tenant.code.as_str(),
            tenant.name,
            tenant.subdomain.as_str(),
            version
        )
        .execute(&mut *tx)
        .await
        .map_err(unavailable)?;
        let placed = sqlx::query!(
            "INSERT INTO registry.directory (tenant_id, database_id, placement, epoch)
            SELECT $1, d.id, 'shared', 1
            FROM registry.databases AS d
            WHERE d.kind = 'shared' AND d.status = 'ready'
            ORDER BY (SELECT count(*) FROM registry.directory AS p WHERE p.database_id = d.id), d.id
            LIMIT 1
            RETURNING database_id, epoch",
            id
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(unavailable)?
        .ok_or(RosterError::NoDatabase)?;
        record(&mut tx, id, "create").await?;
        tx.commit().await.map_err(unavailable)?;
        Ok(Entered {
            id: TenantId::from_uuid(id),
            database: DatabaseId::from_uuid(placed.database_id),
            epoch: PlacementEpoch(placed.epoch),
            status: TenantStatus::Provisioning,
        })
    }

    async fn set_status(
        &self,
        id: TenantId,
        from: &[TenantStatus],
        to: TenantStatus,
        action: &str,
    ) -> Result<bool, RosterError> {
        let from: Vec<String> = from.iter().map(|status| status.as_str().to_owned()).collect();
        let mut tx = self.registry.begin_control().await.map_err(unavailable)?;
        let version = version::take(&mut tx).await.map_err(unavailable)?;
        let changed = sqlx::query!(
            "UPDATE registry.tenants SET status = $3, version = $4, updated_at = now()
            WHERE id = $1 AND status = ANY ($2)",
            id.as_uuid(),
            &from,
            to.as_str(),
            version
        )
        .execute(&mut *tx)
        .await
        .map_err(unavailable)?
        .rows_affected();
        if changed == 0 {
            tx.rollback().await.map_err(unavailable)?;
            return Ok(false);
        }
        record(&mut tx, id.as_uuid(), action).await?;
        tx.commit().await.map_err(unavailable)?;
        Ok(true)
    }
}

/// The tenant as it stands, if it is there.
async fn find(conn: &mut PgConnection, tenant: &TenantEntry) -> Result<Option<Entered>, RosterError> {
    let row = sqlx::query!(
        r#"SELECT t.id, t.code, t.subdomain, t.status, d.database_id, d.epoch
        FROM registry.tenants AS t JOIN registry.directory AS d ON d.tenant_id = t.id
        WHERE t.subdomain = $1 OR t.code = $2
        ORDER BY t.id LIMIT 1"#,
        tenant.subdomain.as_str(),
        tenant.code.as_str()
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(unavailable)?;
    let taken = || RosterError::Taken { code: tenant.code.clone(), subdomain: tenant.subdomain.clone() };
    let Some(row) = row else {
        // A code outlives its tenant.
        let code = tenant.code.as_str();
        let given = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM registry.codes WHERE code = $1) AS "given!""#,
            code
        )
        .fetch_one(conn)
        .await
        .map_err(unavailable)?;
        return if given { Err(taken()) } else { Ok(None) };
    };
    if (row.code.as_str(), row.subdomain.as_str()) != (tenant.code.as_str(), tenant.subdomain.as_str()) {
        return Err(taken());
    }
    Ok(Some(Entered {
        id: TenantId::from_uuid(row.id),
        database: DatabaseId::from_uuid(row.database_id),
        epoch: PlacementEpoch(row.epoch),
        status: row.status.parse().map_err(|source| corrupt("tenant status", source))?,
    }))
}

/// Each change is in the platform's log, in its own transaction.
async fn record(conn: &mut PgConnection, tenant: Uuid, action: &str) -> Result<(), RosterError> {
    sqlx::query!(
        "INSERT INTO registry.platform_audit (tenant_id, at, actor, action, model, record_id)
        VALUES ($1, now(), 'system', $2, 'tenant', $1::uuid::text)",
        tenant,
        action
    )
    .execute(conn)
    .await
    .map_err(unavailable)?;
    Ok(())
}

/// A tenant was not made or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RosterError {
    /// Somebody else has it.
    #[error("another tenant has the code {code} or the subdomain {subdomain}")]
    Taken {
        /// The code.
        code: TenantCode,
        /// The subdomain.
        subdomain: Subdomain,
    },
    /// There is nowhere to put it.
    #[error("the registry knows no shared database that is ready")]
    NoDatabase,
    /// The migrator's login on the tenant's database is not known.
    #[error("the registry has no migrator's login on the database {0}")]
    NoLogin(DatabaseId),
    /// The registry cannot be used now.
    #[error("the registry cannot be used")]
    Registry(#[from] DirectoryError),
    /// Its database did not let it in.
    #[error("the tenant's database did not admit it")]
    Admit(#[from] AdmitError),
}
