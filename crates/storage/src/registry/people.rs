//! People's accounts and their memberships.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use stagesub_domain::audit::AuditEntry;
use stagesub_domain::error::StoreError;
use stagesub_domain::idempotency::Asked;
use stagesub_domain::page::Paged;
use stagesub_domain::ports::registry::{
    Joined, Member, NewMember, Outcome, Person, PersonFilter, PersonRegistry,
};
use stagesub_domain::role::Role;
use stagesub_tenancy::TenantId;
use uuid::Uuid;

use super::version::next_version;
use super::{RegistryPools, audit, commit, idempotency};
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
        // Only here it is known who it is.
        let entry = AuditEntry { record_id: Some(person.id.to_string()), ..entry.clone() };
        audit::record(&mut tx, Some(tenant), &entry).await?;
        commit(tx).await?;
        Ok(person)
    }

    async fn add_member_once(
        &self,
        tenant: TenantId,
        member: &NewMember,
        role: Role,
        asked: &Asked,
        entry: &AuditEntry,
    ) -> Result<Joined, StoreError> {
        let mut tx = self.registry.begin_control().await.map_err(store_error)?;
        // From here on nobody else changes the registry: who asks twice at once asks one after the other.
        let version = next_version(&mut tx).await?;
        if let Some((fingerprint, made)) = idempotency::find(&mut tx, asked, Some(tenant), entry.at).await? {
            tx.rollback().await.map_err(store_error)?;
            let corrupt =
                || StoreError::Corrupt { table: "registry.idempotency_keys", id: asked.user.to_string() };
            return Ok(Joined::Before { fingerprint, user: made.member.ok_or_else(corrupt)? });
        }
        let person = add_member(&mut tx, version, tenant, member, role, entry.at).await?;
        let made = idempotency::Made { tenant: Some(tenant), member: Some(person.id), moved: None };
        idempotency::record(&mut tx, asked, Some(tenant), made, entry.at).await?;
        let entry = AuditEntry { record_id: Some(person.id.to_string()), ..entry.clone() };
        audit::record(&mut tx, Some(tenant), &entry).await?;
        commit(tx).await?;
        Ok(Joined::Now(person))
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

    async fn find(&self, user: Uuid) -> Result<Option<Person>, StoreError> {
        sqlx::query_as!(
            Person,
            "SELECT id, email, first_name, last_name, is_active, is_superadmin
            FROM registry.users
            WHERE id = $1",
            user
        )
        .fetch_optional(self.registry.control())
        .await
        .map_err(store_error)
    }

    async fn list(
        &self,
        filter: &PersonFilter,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Paged<Person, Uuid>, StoreError> {
        let people = sqlx::query_as!(
            Person,
            "SELECT id, email, first_name, last_name, is_active, is_superadmin
            FROM registry.users
            WHERE id > $1
                AND ($2::text IS NULL OR position(lower($2) IN lower(email)) > 0
                    OR position(lower($2) IN lower(first_name || ' ' || last_name)) > 0)
            ORDER BY id
            LIMIT $3",
            // As for tenants: `$1 IS NULL OR` would have every page read from the list's beginning.
            after.unwrap_or_default(),
            filter.search,
            one_more(limit)
        )
        .fetch_all(self.registry.control())
        .await
        .map_err(store_error)?;
        Ok(paged(people, limit, |person| person.id))
    }

    async fn set_active(
        &self,
        user: Uuid,
        is_active: bool,
        entry: &AuditEntry,
    ) -> Result<Outcome, StoreError> {
        let mut tx = self.registry.begin_control().await.map_err(store_error)?;
        // From here on nobody else changes the registry, so what is read stands until the commit.
        let version = next_version(&mut tx).await?;
        let others = sqlx::query_scalar!(
            r#"SELECT EXISTS (
                SELECT FROM registry.users WHERE is_superadmin AND is_active AND id <> $1
            ) AS "others!""#,
            user
        )
        .fetch_one(&mut *tx)
        .await
        .map_err(store_error)?;
        let changed = sqlx::query_scalar!(
            "UPDATE registry.users SET is_active = $2, auth_epoch = $3, version = $3, updated_at = $4
            WHERE id = $1 AND is_active <> $2
            RETURNING is_superadmin",
            user,
            is_active,
            version,
            entry.at
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(store_error)?;
        let outcome = match changed {
            None => Outcome::Otherwise,
            Some(true) if !is_active && !others => Outcome::Last,
            Some(_) => Outcome::Done,
        };
        if outcome != Outcome::Done {
            tx.rollback().await.map_err(store_error)?;
            return Ok(outcome);
        }
        audit::record(&mut tx, None, entry).await?;
        commit(tx).await?;
        Ok(Outcome::Done)
    }

    async fn find_member(&self, tenant: TenantId, user: Uuid) -> Result<Option<Member>, StoreError> {
        sqlx::query_as!(
            MemberRow,
            "SELECT u.id, u.email, u.first_name, u.last_name, u.is_active, u.is_superadmin, m.role
            FROM registry.memberships AS m
            JOIN registry.users AS u ON u.id = m.user_id
            WHERE m.tenant_id = $1 AND m.user_id = $2",
            tenant.as_uuid(),
            user
        )
        .fetch_optional(self.registry.control())
        .await
        .map_err(store_error)?
        .map(TryInto::try_into)
        .transpose()
    }

    async fn list_members(
        &self,
        tenant: TenantId,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Paged<Member, Uuid>, StoreError> {
        let members = sqlx::query_as!(
            MemberRow,
            "SELECT u.id, u.email, u.first_name, u.last_name, u.is_active, u.is_superadmin, m.role
            FROM registry.memberships AS m
            JOIN registry.users AS u ON u.id = m.user_id
            WHERE m.tenant_id = $1 AND m.user_id > $2
            ORDER BY m.user_id
            LIMIT $3",
            tenant.as_uuid(),
            after.unwrap_or_default(),
            one_more(limit)
        )
        .fetch_all(self.registry.control())
        .await
        .map_err(store_error)?
        .into_iter()
        .map(TryInto::try_into)
        .collect::<Result<Vec<Member>, _>>()?;
        Ok(paged(members, limit, |member| member.person.id))
    }

    async fn set_role(
        &self,
        tenant: TenantId,
        user: Uuid,
        from: Role,
        to: Role,
        entry: &AuditEntry,
    ) -> Result<Outcome, StoreError> {
        self.change_membership(tenant, user, from, Some(to), entry).await
    }

    async fn remove_member(
        &self,
        tenant: TenantId,
        user: Uuid,
        from: Role,
        entry: &AuditEntry,
    ) -> Result<Outcome, StoreError> {
        self.change_membership(tenant, user, from, None, entry).await
    }
}

impl PgPersonRegistry {
    /// Gives a membership another role, or ends it.
    async fn change_membership(
        &self,
        tenant: TenantId,
        user: Uuid,
        from: Role,
        to: Option<Role>,
        entry: &AuditEntry,
    ) -> Result<Outcome, StoreError> {
        let mut tx = self.registry.begin_control().await.map_err(store_error)?;
        // From here on nobody else changes the registry, so what is read stands until the commit.
        let version = next_version(&mut tx).await?;
        let (in_tenant, role) = (tenant.as_uuid(), from.as_str());
        let changed = match to {
            Some(to) => sqlx::query!(
                "UPDATE registry.memberships SET role = $4, updated_at = $5
                WHERE tenant_id = $1 AND user_id = $2 AND role = $3",
                in_tenant,
                user,
                role,
                to.as_str(),
                entry.at
            )
            .execute(&mut *tx)
            .await
            .map_err(store_error)?,
            None => sqlx::query!(
                "DELETE FROM registry.memberships WHERE tenant_id = $1 AND user_id = $2 AND role = $3",
                in_tenant,
                user,
                role
            )
            .execute(&mut *tx)
            .await
            .map_err(store_error)?,
        };
        let outcome = if changed.rows_affected() == 0 {
            Outcome::Otherwise
        } else if from == Role::Admin && to != Some(Role::Admin) && !has_admin(&mut tx, tenant).await? {
            Outcome::Last
        } else {
            Outcome::Done
        };
        if outcome != Outcome::Done {
            tx.rollback().await.map_err(store_error)?;
            return Ok(outcome);
        }
        sqlx::query!(
            "UPDATE registry.users SET auth_epoch = $2, version = $2, updated_at = $3 WHERE id = $1",
            user,
            version,
            entry.at
        )
        .execute(&mut *tx)
        .await
        .map_err(store_error)?;
        audit::record(&mut tx, Some(tenant), entry).await?;
        commit(tx).await?;
        Ok(Outcome::Done)
    }
}

/// Whether somebody who may sign in administers a tenant.
async fn has_admin(conn: &mut PgConnection, tenant: TenantId) -> Result<bool, StoreError> {
    // The first of them in the order of their ids, which an index has. Asked with EXISTS, Postgres goes through the
    // memberships of all tenants when it takes this one to have many administrators.
    let first = sqlx::query_scalar!(
        "SELECT m.user_id
        FROM registry.memberships AS m
        JOIN registry.users AS u ON u.id = m.user_id
        WHERE m.tenant_id = $1 AND m.role = 'admin' AND u.is_active
        ORDER BY m.user_id
        LIMIT 1",
        tenant.as_uuid()
    )
    .fetch_optional(conn)
    .await
    .map_err(store_error)?;
    Ok(first.is_some())
}

/// A person with the role of one membership.
struct MemberRow {
    id: Uuid,
    email: String,
    first_name: String,
    last_name: String,
    is_active: bool,
    is_superadmin: bool,
    role: String,
}

impl TryFrom<MemberRow> for Member {
    type Error = StoreError;

    fn try_from(row: MemberRow) -> Result<Self, StoreError> {
        let MemberRow { id, email, first_name, last_name, is_active, is_superadmin, role } = row;
        Ok(Self {
            role: membership_role(id, &role)?,
            person: Person { id, email, first_name, last_name, is_active, is_superadmin },
        })
    }
}

/// A membership's role. That of a superadmin belongs to the person and is never read from a membership.
pub(super) fn membership_role(user: Uuid, stored: &str) -> Result<Role, StoreError> {
    match stored.parse() {
        Ok(role @ (Role::Admin | Role::User | Role::Viewer)) => Ok(role),
        Ok(Role::Superadmin) | Err(_) => {
            Err(StoreError::Corrupt { table: "registry.memberships", id: user.to_string() })
        }
    }
}

/// Rows to read for a page: one more than wanted tells whether there is a next one.
fn one_more(limit: u32) -> i64 {
    i64::from(limit) + 1
}

/// Cuts what [`one_more`] read into a page.
fn paged<T>(mut items: Vec<T>, limit: u32, id: impl Fn(&T) -> Uuid) -> Paged<T, Uuid> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(id) } else { None };
    Paged { items, next }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn membership_never_makes_a_superadmin() {
        for stored in ["superadmin", "owner", ""] {
            assert!(matches!(
                membership_role(Uuid::nil(), stored),
                Err(StoreError::Corrupt { table: "registry.memberships", .. })
            ));
        }
        assert_eq!(membership_role(Uuid::nil(), "viewer").unwrap(), Role::Viewer);
    }

    #[test]
    fn a_page_has_a_next_one_only_when_a_row_more_was_there() {
        let ids = [1, 2, 3].map(Uuid::from_u128);
        assert_eq!(paged(ids.to_vec(), 2, |id| *id), Paged { items: ids[..2].to_vec(), next: Some(ids[1]) });
        assert_eq!(paged(ids.to_vec(), 3, |id| *id).next, None);
        assert_eq!(paged(Vec::new(), 3, |id: &Uuid| *id).next, None);
    }
}
