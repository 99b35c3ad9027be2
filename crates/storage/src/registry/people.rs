//! People's accounts and their memberships.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use stagesub_domain::audit::AuditEntry;
use stagesub_domain::error::StoreError;
use stagesub_domain::ports::registry::{NewMember, Person, PersonRegistry};
use stagesub_domain::role::Role;
use stagesub_tenancy::TenantId;

use super::version::next_version;
use super::{RegistryPools, audit, commit};
use crate::repo::store_error;

/// [`PersonRegistry`] on Postgres. It writes password hashes and cannot read them.
#[derive(Clone, Debug)]
pub struct PgPersonRegistry {
    registry: RegistryPools,
}

impl PgPersonRegistry {
    /// Over the registry.
    #[must_use]
    pub const fn new(registry: RegistryPools) -> Self {
        Self { registry }
    }
}

#[async_trait]
impl PersonRegistry for PgPersonRegistry {
    async fn find_by_email(&self, email: &str) -> Result<Option<Person>, StoreError> {
        sqlx::query_as!(
            Person,
            "SELECT id, email, first_name, last_name, is_active, is_superadmin
            FROM registry.users
            WHERE lower(email) = lower($1)",
            email
        )
        .fetch_optional(self.registry.control())
        .await
        .map_err(store_error)
    }

    async fn has_superadmin(&self) -> Result<bool, StoreError> {
        sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM registry.users WHERE is_superadmin AND is_active) AS "has!""#
        )
        .fetch_one(self.registry.control())
        .await
        .map_err(store_error)
    }

    async fn add_member(
        &self,
        tenant: TenantId,
        member: &NewMember,
        role: Role,
        entry: &AuditEntry,
    ) -> Result<Person, StoreError> {
        let mut tx = self.registry.begin_control().await.map_err(store_error)?;
        let version = next_version(&mut tx).await?;
        let person = add_member(&mut tx, version, tenant, member, role, entry.at).await?;
        audit::record(&mut tx, Some(tenant), entry).await?;
        commit(tx).await?;
        Ok(person)
    }

    async fn add_superadmin(&self, member: &NewMember, entry: &AuditEntry) -> Result<Person, StoreError> {
        let mut tx = self.registry.begin_control().await.map_err(store_error)?;
        let version = next_version(&mut tx).await?;
        let person = sqlx::query_as!(
            Person,
            "INSERT INTO registry.users (id, email, password_hash, first_name, last_name, is_superadmin,
                auth_epoch, version, created_at, updated_at)
            VALUES ($1, $2, $3, $4, $5, true, $6, $6, $7, $7)
            RETURNING id, email, first_name, last_name, is_active, is_superadmin",
            member.id,
            member.email,
            member.password_hash,
            member.first_name,
            member.last_name,
            version,
            entry.at
        )
        .fetch_one(&mut *tx)
        .await
        .map_err(store_error)?;
        audit::record(&mut tx, None, entry).await?;
        commit(tx).await?;
        Ok(person)
    }

    async fn set_password(
        &self,
        email: &str,
        password_hash: &str,
        entry: &AuditEntry,
    ) -> Result<bool, StoreError> {
        let mut tx = self.registry.begin_control().await.map_err(store_error)?;
        let version = next_version(&mut tx).await?;
        let changed = sqlx::query!(
            "UPDATE registry.users
            SET password_hash = $2, auth_epoch = $3, version = $3, updated_at = $4
            WHERE lower(email) = lower($1)",
            email,
            password_hash,
            version,
            entry.at
        )
        .execute(&mut *tx)
        .await
        .map_err(store_error)?
        .rows_affected();
        if changed == 0 {
            tx.rollback().await.map_err(store_error)?;
            return Ok(false);
        }
        audit::record(&mut tx, None, entry).await?;
        commit(tx).await?;
        Ok(true)
    }
}

/// Makes a person a member of a tenant, as part of a change that took `version`. Somebody who has an
/// account keeps it as it is, password included: it is theirs, not the tenant's.
pub(super) async fn add_member(
    conn: &mut PgConnection,
    version: i64,
    tenant: TenantId,
    member: &NewMember,
    role: Role,
    at: DateTime<Utc>,
) -> Result<Person, StoreError> {
    sqlx::query!(
        "INSERT INTO registry.users (id, email, password_hash, first_name, last_name, auth_epoch, version,
            created_at, updated_at)
        VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $7)
        ON CONFLICT (lower(email)) DO NOTHING",
        member.id,
        member.email,
        member.password_hash,
        member.first_name,
        member.last_name,
        version,
        at
    )
    .execute(&mut *conn)
    .await
    .map_err(store_error)?;
    // The authority of whoever was there already grows too: their tokens are checked anew.
    let person = sqlx::query_as!(
        Person,
        "UPDATE registry.users SET auth_epoch = $2, version = $2, updated_at = $3
        WHERE lower(email) = lower($1)
        RETURNING id, email, first_name, last_name, is_active, is_superadmin",
        member.email,
        version,
        at
    )
    .fetch_one(&mut *conn)
    .await
    .map_err(store_error)?;
    sqlx::query!(
        "INSERT INTO registry.memberships (tenant_id, user_id, role, created_at, updated_at)
        VALUES ($1, $2, $3, $4, $4)",
        tenant.as_uuid(),
        person.id,
        role.as_str(),
        at
    )
    .execute(conn)
    .await
    .map_err(store_error)?;
    Ok(person)
}
