//! What signing in is checked against: the only adapters that read password hashes, as the `auth` login.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use stagesub_auth::ports::{AuthEpoch, Authority, AuthorityStore, Credential, CredentialStore};
use stagesub_domain::audit::AuditEntry;
use stagesub_domain::error::StoreError;
use stagesub_domain::role::Role;
use stagesub_tenancy::TenantId;
use uuid::Uuid;

use super::people::membership_role;
use super::{RegistryPools, audit, commit};
use crate::repo::store_error;

/// [`CredentialStore`] on Postgres.
#[derive(Clone, Debug)]
pub struct PgCredentialStore {
    registry: RegistryPools,
}

impl PgCredentialStore {
    /// Over the registry.
    #[must_use]
    pub const fn new(registry: RegistryPools) -> Self {
        Self { registry }
    }
}

#[async_trait]
impl CredentialStore for PgCredentialStore {
    async fn find_credential(
        &self,
        email: &str,
        tenant: Option<TenantId>,
    ) -> Result<Option<Credential>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT u.id, u.email, u.first_name, u.last_name, u.password_hash, u.is_active,
                u.is_superadmin, u.auth_epoch, m.role AS "role?"
            FROM registry.users AS u
            LEFT JOIN registry.memberships AS m ON m.user_id = u.id AND m.tenant_id = $2
            WHERE lower(u.email) = lower($1)"#,
            email,
            tenant.map(TenantId::as_uuid)
        )
        .fetch_optional(self.registry.auth())
        .await
        .map_err(store_error)?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Credential {
            user: row.id,
            email: row.email,
            first_name: row.first_name,
            last_name: row.last_name,
            password_hash: row.password_hash.map(SecretString::from),
            is_active: row.is_active,
            is_superadmin: row.is_superadmin,
            auth_epoch: AuthEpoch(row.auth_epoch),
            role: role(row.id, row.role.as_deref())?,
        }))
    }

    async fn record_login(
        &self,
        user: Uuid,
        tenant: Option<TenantId>,
        at: DateTime<Utc>,
        entry: &AuditEntry,
    ) -> Result<(), StoreError> {
        let mut tx = self.registry.begin_auth().await.map_err(store_error)?;
        sqlx::query!("UPDATE registry.users SET last_login = $2, updated_at = $2 WHERE id = $1", user, at)
            .execute(&mut *tx)
            .await
            .map_err(store_error)?;
        audit::record(&mut tx, tenant, entry).await?;
        commit(tx).await
    }

    async fn record_refusal(&self, tenant: Option<TenantId>, entry: &AuditEntry) -> Result<(), StoreError> {
        let mut tx = self.registry.begin_auth().await.map_err(store_error)?;
        audit::record(&mut tx, tenant, entry).await?;
        commit(tx).await
    }

    async fn rehash(&self, user: Uuid, old: &SecretString, new: &SecretString) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE registry.users SET password_hash = $3, updated_at = now()
            WHERE id = $1 AND password_hash = $2",
            user,
            old.expose_secret(),
            new.expose_secret()
        )
        .execute(self.registry.auth())
        .await
        .map_err(store_error)?;
        Ok(())
    }
}

/// [`AuthorityStore`] on Postgres.
#[derive(Clone, Debug)]
pub struct PgAuthorityStore {
    registry: RegistryPools,
}

impl PgAuthorityStore {
    /// Over the registry.
    #[must_use]
    pub const fn new(registry: RegistryPools) -> Self {
        Self { registry }
    }
}

#[async_trait]
impl AuthorityStore for PgAuthorityStore {
    async fn find_authority(
        &self,
        user: Uuid,
        tenant: Option<TenantId>,
    ) -> Result<Option<Authority>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT u.id, u.is_active, u.is_superadmin, u.auth_epoch, m.role AS "role?"
            FROM registry.users AS u
            LEFT JOIN registry.memberships AS m ON m.user_id = u.id AND m.tenant_id = $2
            WHERE u.id = $1"#,
            user,
            tenant.map(TenantId::as_uuid)
        )
        .fetch_optional(self.registry.auth())
        .await
        .map_err(store_error)?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Authority {
            user: row.id,
            is_active: row.is_active,
            is_superadmin: row.is_superadmin,
            role: role(row.id, row.role.as_deref())?,
            auth_epoch: AuthEpoch(row.auth_epoch),
        }))
    }
}

/// The role of a membership, if there is one.
fn role(user: Uuid, stored: Option<&str>) -> Result<Option<Role>, StoreError> {
    stored.map(|stored| membership_role(user, stored)).transpose()
}
