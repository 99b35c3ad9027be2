//! Tenants as the platform's administrators see them.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, Postgres, Transaction};
use stagesub_domain::audit::AuditEntry;
use stagesub_domain::error::StoreError;
use stagesub_domain::page::Paged;
use stagesub_domain::ports::registry::{
    NewTenant, Reservation, TenantAccount, TenantChange, TenantFilter, TenantProfile, TenantRegistry,
};
use stagesub_domain::role::Role;
use stagesub_domain::subscription::{Limits, Tier};
use stagesub_tenancy::{DatabaseId, Subdomain, TenantCode, TenantId, TenantStatus};
use uuid::Uuid;

use super::people::add_member;
use super::version::next_version;
use super::{RegistryPools, audit, commit, idempotency};
use crate::directory::placement;
use crate::repo::store_error;

/// [`TenantRegistry`] on Postgres.
#[derive(Clone, Debug)]
pub struct PgTenantRegistry {
    registry: RegistryPools,
}

impl PgTenantRegistry {
    /// Over the registry.
    #[must_use]
    pub const fn new(registry: RegistryPools) -> Self {
        Self { registry }
    }

    async fn begin(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        self.registry.begin_control().await.map_err(store_error)
    }
}

struct AccountRow {
    id: Uuid,
    code: String,
    name: String,
    subdomain: String,
    subscription: String,
    max_musicians: Option<i32>,
    max_active_projects: Option<i32>,
    max_instruments: Option<i32>,
    custom_branding: Option<serde_json::Value>,
    email_domain: Option<String>,
    trial_ends_at: Option<DateTime<Utc>>,
    subscription_ends_at: Option<DateTime<Utc>>,
    status: String,
    wants_dedicated: bool,
    version: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    database_id: Option<Uuid>,
    placement: Option<String>,
}

impl TryFrom<AccountRow> for TenantAccount {
    type Error = StoreError;

    fn try_from(row: AccountRow) -> Result<Self, StoreError> {
        let id = row.id;
        let corrupt = || StoreError::Corrupt { table: "registry.tenants", id: id.to_string() };
        let placement = match (row.placement, row.database_id) {
            (Some(word), Some(database)) => Some(placement(&word, database).ok_or_else(corrupt)?),
            _ => None,
        };
        Ok(Self {
            id: TenantId::from_uuid(id),
            code: row.code.parse().map_err(|_| corrupt())?,
            name: row.name,
            subdomain: row.subdomain.parse().map_err(|_| corrupt())?,
            tier: row.subscription.parse().map_err(|_| corrupt())?,
            limits: Limits {
                musicians: row.max_musicians,
                active_projects: row.max_active_projects,
                instruments: row.max_instruments,
            },
            status: row.status.parse().map_err(|_| corrupt())?,
            trial_ends_at: row.trial_ends_at,
            subscription_ends_at: row.subscription_ends_at,
            custom_branding: row.custom_branding,
            email_domain: row.email_domain,
            placement,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// A query for accounts: the columns are the same in each, the condition is not.
macro_rules! accounts {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            AccountRow,
            r#"SELECT t.id, t.code, t.name, t.subdomain, t.subscription, t.max_musicians,
                t.max_active_projects, t.max_instruments, t.custom_branding, t.email_domain,
                t.trial_ends_at, t.subscription_ends_at, t.status, t.wants_dedicated, t.version,
                t.created_at, t.updated_at, d.database_id AS "database_id?", d.placement AS "placement?"
            FROM registry.tenants AS t
            LEFT JOIN registry.directory AS d ON d.tenant_id = t.id
            "# + $rest
            $(, $argument)*
        )
    };
}

async fn find(on: impl PgExecutor<'_>, id: TenantId) -> Result<Option<TenantAccount>, StoreError> {
    Ok(find_wanted(on, id).await?.map(|(account, _)| account))
}

/// A tenant, and whether it is to have a database of its own.
async fn find_wanted(
    on: impl PgExecutor<'_>,
    id: TenantId,
) -> Result<Option<(TenantAccount, bool)>, StoreError> {
    let row = accounts!("WHERE t.id = $1", id.as_uuid()).fetch_optional(on).await.map_err(store_error)?;
    let Some(row) = row else { return Ok(None) };
    let dedicated = row.wants_dedicated;
    Ok(Some((row.try_into()?, dedicated)))
}

#[async_trait]
impl TenantRegistry for PgTenantRegistry {
    async fn reserve(&self, tenant: &NewTenant, entry: &AuditEntry) -> Result<Reservation, StoreError> {
        let mut tx = self.begin().await?;
        let version = next_version(&mut tx).await?;
        let id = tenant.id.as_uuid();
        let corrupt = |id: Uuid| StoreError::Corrupt { table: "registry.tenants", id: id.to_string() };
        if let Some(asked) = &tenant.asked
            && let Some((fingerprint, made)) = idempotency::find(&mut tx, asked, None, tenant.now).await?
        {
            let tenant = made.tenant.ok_or_else(|| corrupt(asked.user))?;
            let found = find_wanted(&mut *tx, tenant).await?;
            let (account, dedicated) = found.ok_or_else(|| corrupt(tenant.as_uuid()))?;
            tx.rollback().await.map_err(store_error)?;
            return Ok(Reservation::Before { fingerprint, account, dedicated });
        }
        sqlx::query!(
            "INSERT INTO registry.codes (code, tenant_id, created_at, updated_at) VALUES ($1, $2, $3, $3)",
            tenant.code.as_str(),
            id,
            tenant.now
        )
        .execute(&mut *tx)
        .await
        .map_err(store_error)?;
        sqlx::query!(
            "INSERT INTO registry.tenants (id, code, name, subdomain, subscription, max_musicians,
                max_active_projects, max_instruments, trial_ends_at, status, wants_dedicated, version,
                created_at, updated_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'provisioning', $10, $11, $12, $12)",
            id,
            tenant.code.as_str(),
            tenant.name,
            tenant.subdomain.as_str(),
            tenant.tier.as_str(),
            tenant.limits.musicians,
            tenant.limits.active_projects,
            tenant.limits.instruments,
            tenant.trial_ends_at,
            tenant.dedicated,
            version,
            tenant.now
        )
        .execute(&mut *tx)
        .await
        .map_err(store_error)?;
        if let Some(admin) = &tenant.admin {
            add_member(&mut tx, version, tenant.id, admin, Role::Admin, tenant.now).await?;
        }
        if let Some(asked) = &tenant.asked {
            let made = idempotency::Made { tenant: Some(tenant.id), member: None, moved: None };
            idempotency::record(&mut tx, asked, None, made, tenant.now).await?;
        }
        audit::record(&mut tx, Some(tenant.id), entry).await?;
        let account = find(&mut *tx, tenant.id).await?.ok_or_else(|| corrupt(id))?;
        commit(tx).await?;
        Ok(Reservation::Made(account))
    }

    async fn find(&self, id: TenantId) -> Result<Option<TenantAccount>, StoreError> {
        find(self.registry.control(), id).await
    }

    async fn find_profile(&self, id: TenantId) -> Result<Option<TenantProfile>, StoreError> {
        let row = sqlx::query!(
            "SELECT code, name, subdomain, subscription, trial_ends_at, subscription_ends_at, custom_branding
            FROM registry.tenants WHERE id = $1",
            id.as_uuid()
        )
        .fetch_optional(self.registry.control())
        .await
        .map_err(store_error)?;
        let Some(row) = row else { return Ok(None) };
        let corrupt = || StoreError::Corrupt { table: "registry.tenants", id: id.to_string() };
        Ok(Some(TenantProfile {
            id,
            code: row.code.parse().map_err(|_| corrupt())?,
            name: row.name,
            subdomain: row.subdomain.parse().map_err(|_| corrupt())?,
            tier: row.subscription.parse().map_err(|_| corrupt())?,
            trial_ends_at: row.trial_ends_at,
            subscription_ends_at: row.subscription_ends_at,
            custom_branding: row.custom_branding,
        }))
    }

    async fn exists(&self, id: TenantId) -> Result<bool, StoreError> {
        sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM registry.tenants WHERE id = $1) AS "exists!""#,
            id.as_uuid()
        )
        .fetch_one(self.registry.control())
        .await
        .map_err(store_error)
    }

    async fn find_by_subdomain(&self, subdomain: &Subdomain) -> Result<Option<TenantAccount>, StoreError> {
        accounts!("WHERE t.subdomain = $1", subdomain.as_str())
            .fetch_optional(self.registry.control())
            .await
            .map_err(store_error)?
            .map(TryInto::try_into)
            .transpose()
    }

    async fn code_is_taken(&self, code: &TenantCode) -> Result<bool, StoreError> {
        sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM registry.codes WHERE code = $1) AS "taken!""#,
            code.as_str()
        )
        .fetch_one(self.registry.control())
        .await
        .map_err(store_error)
    }

    async fn list(
        &self,
        filter: &TenantFilter,
        after: Option<TenantId>,
        limit: u32,
    ) -> Result<Paged<TenantAccount, TenantId>, StoreError> {
        // One more than wanted tells whether there is a next page.
        let rows = accounts!(
            "WHERE t.id > $1
                AND ($2::text IS NULL OR position(lower($2) IN lower(t.name)) > 0
                    OR position(lower($2) IN t.subdomain) > 0 OR position(upper($2) IN t.code) > 0)
                AND ($3::text IS NULL OR t.status = $3)
                AND ($4::text IS NULL OR t.subscription = $4)
            ORDER BY t.id
            LIMIT $5",
            // An id comes after none when the list begins; `$1 IS NULL OR` would have every page read from there.
            after.map(TenantId::as_uuid).unwrap_or_default(),
            filter.search,
            filter.status.map(TenantStatus::as_str),
            filter.tier.map(Tier::as_str),
            i64::from(limit) + 1
        )
        .fetch_all(self.registry.control())
        .await
        .map_err(store_error)?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        let items: Vec<TenantAccount> =
            rows.into_iter().take(limit).map(TryInto::try_into).collect::<Result<_, _>>()?;
        let next = if more { items.last().map(|account| account.id) } else { None };
        Ok(Paged { items, next })
    }

    async fn change(
        &self,
        id: TenantId,
        change: &TenantChange,
        entry: &AuditEntry,
    ) -> Result<Option<TenantAccount>, StoreError> {
        let mut tx = self.begin().await?;
        let version = next_version(&mut tx).await?;
        let limits = change.limits;
        let changed = sqlx::query!(
            "UPDATE registry.tenants
            SET name = coalesce($2, name),
                subdomain = coalesce($3, subdomain),
                subscription = coalesce($4, subscription),
                max_musicians = CASE WHEN $5 THEN $6 ELSE max_musicians END,
                max_active_projects = CASE WHEN $5 THEN $7 ELSE max_active_projects END,
                max_instruments = CASE WHEN $5 THEN $8 ELSE max_instruments END,
                trial_ends_at = CASE WHEN $9 THEN $10 ELSE trial_ends_at END,
                subscription_ends_at = CASE WHEN $11 THEN $12 ELSE subscription_ends_at END,
                custom_branding = CASE WHEN $13 THEN $14 ELSE custom_branding END,
                email_domain = CASE WHEN $15 THEN $16 ELSE email_domain END,
                version = $17,
                updated_at = $18
            WHERE id = $1 AND ($19::bigint IS NULL OR version = $19)",
            id.as_uuid(),
            change.name,
            change.subdomain.as_ref().map(Subdomain::as_str),
            change.tier.map(Tier::as_str),
            limits.is_some(),
            limits.and_then(|limits| limits.musicians),
            limits.and_then(|limits| limits.active_projects),
            limits.and_then(|limits| limits.instruments),
            change.trial_ends_at.is_some(),
            change.trial_ends_at.flatten(),
            change.subscription_ends_at.is_some(),
            change.subscription_ends_at.flatten(),
            change.custom_branding.is_some(),
            change.custom_branding.clone().flatten(),
            change.email_domain.is_some(),
            change.email_domain.clone().flatten(),
            version,
            entry.at,
            change.if_version
        )
        .execute(&mut *tx)
        .await
        .map_err(store_error)?
        .rows_affected();
        if changed == 0 {
            tx.rollback().await.map_err(store_error)?;
            return Ok(None);
        }
        audit::record(&mut tx, Some(id), entry).await?;
        let account = find(&mut *tx, id).await?;
        commit(tx).await?;
        Ok(account)
    }

    async fn set_status(
        &self,
        id: TenantId,
        from: Vec<TenantStatus>,
        to: TenantStatus,
        entry: &AuditEntry,
    ) -> Result<bool, StoreError> {
        let from: Vec<String> = from.into_iter().map(|status| status.as_str().to_owned()).collect();
        let mut tx = self.begin().await?;
        let version = next_version(&mut tx).await?;
        let changed = sqlx::query!(
            "UPDATE registry.tenants SET status = $3, version = $4, updated_at = $5
            WHERE id = $1 AND status = ANY ($2)",
            id.as_uuid(),
            &from,
            to.as_str(),
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
        audit::record(&mut tx, Some(id), entry).await?;
        commit(tx).await?;
        Ok(true)
    }

    async fn place(&self, id: TenantId, database: DatabaseId, dedicated: bool) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let version = next_version(&mut tx).await?;
        let kind = if dedicated { "dedicated" } else { "shared" };
        let placed = sqlx::query!(
            "INSERT INTO registry.directory (tenant_id, database_id, placement, epoch)
            SELECT $1, id, kind, 1
            FROM registry.databases
            WHERE id = $2 AND kind = $3 AND status = 'ready' AND (kind = 'shared' OR tenant_id = $1)
            ON CONFLICT (tenant_id) DO NOTHING",
            id.as_uuid(),
            database.as_uuid(),
            kind
        )
        .execute(&mut *tx)
        .await
        .map_err(store_error)?
        .rows_affected();
        let stands = sqlx::query!(
            "SELECT database_id, placement FROM registry.directory WHERE tenant_id = $1",
            id.as_uuid()
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(store_error)?;
        match stands {
            Some(row) if row.database_id == database.as_uuid() && row.placement == kind => {}
            Some(_) => return Err(StoreError::Failed(format!("tenant {id} is placed elsewhere").into())),
            None => {
                let reason = format!("database {database} is no usable {kind} database for tenant {id}");
                return Err(StoreError::Failed(reason.into()));
            }
        }
        if placed == 0 {
            return tx.rollback().await.map_err(store_error);
        }
        sqlx::query!(
            "UPDATE registry.tenants SET version = $2, updated_at = now() WHERE id = $1",
            id.as_uuid(),
            version
        )
        .execute(&mut *tx)
        .await
        .map_err(store_error)?;
        commit(tx).await
    }

    async fn list_provisioning(&self) -> Result<Vec<(TenantAccount, bool)>, StoreError> {
        accounts!("WHERE t.status = 'provisioning' ORDER BY t.id")
            .fetch_all(self.registry.control())
            .await
            .map_err(store_error)?
            .into_iter()
            .map(|row| {
                let dedicated = row.wants_dedicated;
                Ok((row.try_into()?, dedicated))
            })
            .collect()
    }

    async fn record(&self, tenant: Option<TenantId>, entry: &AuditEntry) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        audit::record(&mut tx, tenant, entry).await?;
        commit(tx).await
    }
}
