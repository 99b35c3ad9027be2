//! Databases of one tenant's own, and further shared ones: beside the first shared one, where the platform itself makes
//! them as its migrator, or on a server that somebody names ([`AllowedHosts`] says which may be).
//!
//! Making one is resumable. What will be made is recorded in the registry first; each step after that finds
//! what an earlier try left. The database carries its tenant in its name and in its marker, and one that is
//! marked as anything else is never touched.

mod allowed;
mod elsewhere;
mod shared;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use stagesub_tenancy::{DatabaseId, TenantId};
use uuid::Uuid;

use crate::doctor::Expectations;
use crate::hardening::TEMPLATE_DATABASE;
use crate::logins::LoginRole;
use crate::marker::{DatabaseKind, Marker};
use crate::migrate::error::{MigrateError, during};
use crate::migrate::logins::{Place, find_login, set_ready, store_login, store_place};
use crate::migrate::session::{Gate, Session};
use crate::migrate::sets::MigrationSet;
use crate::migrate::{is_empty, read_marker, verify_login};
use crate::registry::{Keys, RegistryPools};
use crate::roles;
use crate::target::ConnectionTarget;

pub use allowed::{AllowedHosts, HostRefused, InvalidHosts, Reached};
pub use elsewhere::Looked;
use elsewhere::{Maker, Named, refuse_unsound};
pub use shared::{AddedShared, NewShared, SharedDatabases};

/// Where a database is to be.
#[derive(Debug, Clone)]
pub enum Home {
    /// On the server of the first shared database.
    Beside,
    /// On a server, as a login that may make databases and roles; which of its databases is named makes no difference.
    Server(ConnectionTarget),
    /// In this database, which is empty, as the login that owns it and may make roles.
    Database(ConnectionTarget),
}

/// Makes dedicated databases.
#[derive(Clone, Debug)]
pub struct DedicatedDatabases {
    registry: RegistryPools,
    keys: Keys,
    allowed: AllowedHosts,
    expected: Expectations,
}

/// A dedicated database that is recorded, and how it is reached as the migrator.
struct Begun {
    id: DatabaseId,
    ready: bool,
    /// The migrator in the shared database on the same server, from where databases are created.
    maintenance: ConnectionTarget,
    /// The migrator in the tenant's database.
    migrator: ConnectionTarget,
}

impl DedicatedDatabases {
    /// Over the registry and the keys its connection strings are sealed with.
    #[must_use]
    pub fn new(registry: RegistryPools, keys: Keys) -> Self {
        Self { registry, keys, allowed: AllowedHosts::default(), expected: Expectations::default() }
    }

    /// Servers may be named that are on this list; what is made there has to be as it is expected.
    #[must_use]
    pub fn naming(self, allowed: AllowedHosts, expected: Expectations) -> Self {
        Self { allowed, expected, ..self }
    }

    /// Creates, migrates and marks a tenant's own database where it is to be; finishes one that was begun there.
    ///
    /// # Errors
    /// [`MigrateError`]. Before anything is made: what is named may not be connected to, cannot be used, is not empty,
    /// is known to the platform already or belongs to another, by what it says of itself; or the tenant has a database
    /// of its own somewhere else. What was done until then stays, and the next call goes on from there.
    pub async fn create_at(&self, tenant: TenantId, home: &Home) -> Result<DatabaseId, MigrateError> {
        let named = match home {
            Home::Beside => return self.create(tenant).await,
            Home::Server(url) => Named::Server(url, dedicated_name(tenant)),
            Home::Database(url) => Named::Database(url),
        };
        let maker = self.maker();
        let made = maker.make(DatabaseKind::Dedicated(tenant), &named).await?;
        for partial in &made.partial {
            tracing::warn!(database = %made.id, what = partial.name, why = partial.why, "less well defended than it could be");
        }
        if !made.ready {
            maker.set_ready(made.id).await?;
        }
        Ok(made.id)
    }

    /// What there is where [`DedicatedDatabases::create_at`] would make a tenant's own database. Makes nothing.
    ///
    /// # Errors
    /// [`MigrateError`]: what that would refuse before it makes anything.
    pub async fn look_at(&self, tenant: TenantId, home: &Home) -> Result<Looked, MigrateError> {
        let kind = DatabaseKind::Dedicated(tenant);
        let name = dedicated_name(tenant);
        match home {
            Home::Beside => {
                let ours = self.beside().await?;
                self.maker().look(kind, &Named::Ours(&ours, name)).await
            }
            Home::Server(url) => self.maker().look(kind, &Named::Server(url, name)).await,
            Home::Database(url) => self.maker().look(kind, &Named::Database(url)).await,
        }
    }

    fn maker(&self) -> Maker<'_> {
        Maker {
            registry: &self.registry,
            keys: &self.keys,
            allowed: &self.allowed,
            expected: &self.expected,
            adopt_logins: false,
        }
    }

    /// The platform's migrator in the first shared database.
    async fn beside(&self) -> Result<ConnectionTarget, MigrateError> {
        let doing = "looking for the shared database";
        let mut tx = self.registry.begin_control().await.map_err(during(doing))?;
        let shared = sqlx::query_scalar!(
            "SELECT id FROM registry.databases WHERE kind = 'shared' AND status = 'ready' ORDER BY id LIMIT 1"
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(during(doing))?
        .ok_or(MigrateError::NoShared)?;
        let (database, role) = (DatabaseId::from_uuid(shared), LoginRole::Migrator);
        let login = find_login(&mut tx, &self.keys, database, role).await?;
        tx.commit().await.map_err(during(doing))?;
        login.ok_or(MigrateError::NoLogin { database, role })
    }

    /// Creates, migrates and marks a tenant's own database, on the server of the shared database; finishes
    /// one that was begun. Several callers for one tenant wait for each other and get the same answer.
    ///
    /// # Errors
    /// [`MigrateError`]; [`MigrateError::NameTaken`] when a database of the tenant's name is there and is
    /// not the tenant's. What was done until then stays, and the next call goes on from there.
    pub async fn create(&self, tenant: TenantId) -> Result<DatabaseId, MigrateError> {
        let begun = self.begin(tenant).await?;
        if begun.ready {
            return Ok(begun.id);
        }
        let gate = Gate::enter(&begun.maintenance, gate_key(tenant)).await?;
        let made = self.finish(tenant, &begun).await;
        let left = gate.leave().await;
        made.and(left).map(|()| begun.id)
    }

    /// Records the database and its sealed connection strings, if that was not done before.
    async fn begin(&self, tenant: TenantId) -> Result<Begun, MigrateError> {
        let doing = "recording a dedicated database";
        let mut tx = self.registry.begin_control().await.map_err(during(doing))?;
        let shared = sqlx::query!(
            "SELECT id, server_identifier FROM registry.databases
            WHERE kind = 'shared' AND status = 'ready'
            ORDER BY id LIMIT 1"
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(during(doing))?
        .ok_or(MigrateError::NoShared)?;
        let shared_id = DatabaseId::from_uuid(shared.id);
        let name = dedicated_name(tenant);
        // Waits for another caller that records the same tenant's, and then finds its row. Of two at the same moment
        // either rule may be the first to be met, the tenant's or the place's: none is named.
        sqlx::query!(
            "INSERT INTO registry.databases (id, kind, tenant_id, status, server_identifier, host, port, name)
            SELECT $1, 'dedicated', $2, 'creating', server_identifier, host, port, $4
            FROM registry.databases WHERE id = $3
            ON CONFLICT DO NOTHING",
            Uuid::now_v7(),
            tenant.as_uuid(),
            shared.id,
            name
        )
        .execute(&mut *tx)
        .await
        .map_err(during(doing))?;
        let row = sqlx::query!(
            "SELECT id, status, server_identifier, host, port, name FROM registry.databases
            WHERE tenant_id = $1 FOR UPDATE",
            tenant.as_uuid()
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(during(doing))?
        .ok_or_else(|| MigrateError::NameTaken {
            target: format!("the database {name} on the server of the shared one"),
            detail: "the registry knows it as another's".to_owned(),
        })?;
        if (&row.server_identifier, &row.name) != (&shared.server_identifier, &name) {
            let known = format!("{}:{}/{}", row.host, row.port, row.name);
            return Err(MigrateError::HasOwn { known });
        }
        let (id, ready) = (DatabaseId::from_uuid(row.id), row.status == "ready");
        let kind = DatabaseKind::Dedicated(tenant);
        let mut migrator = None;
        for &role in roles::logins_of(kind) {
            let login = find_login(&mut tx, &self.keys, shared_id, role).await?;
            let missing = || MigrateError::NoLogin { database: shared_id, role };
            let login = login.ok_or_else(missing)?;
            if !ready {
                let address = login.with_database(&name);
                let place =
                    Place { id, kind, server_identifier: &shared.server_identifier, address: &address };
                store_place(&mut tx, &place).await?;
                let password = login.password().ok_or_else(missing)?;
                store_login(&mut tx, &self.keys, &place, role, password).await?;
            }
            if role == LoginRole::Migrator {
                migrator = Some(login);
            }
        }
        tx.commit().await.map_err(during(doing))?;
        let maintenance =
            migrator.ok_or(MigrateError::NoLogin { database: shared_id, role: LoginRole::Migrator })?;
        let migrator = maintenance.with_database(&name);
        Ok(Begun { id, ready, maintenance, migrator })
    }

    /// Everything after the record, inside the tenant's gate.
    async fn finish(&self, tenant: TenantId, begun: &Begun) -> Result<(), MigrateError> {
        let mut server = Session::open(&begun.maintenance).await?;
        create_if_missing(&mut server.conn, &begun.migrator).await?;
        server.close().await?;

        let mut session = Session::open(&begun.migrator).await?;
        let kind = DatabaseKind::Dedicated(tenant);
        let wanted = Marker { kind, database: begun.id, demo: self.registry.is_demo() };
        let found = read_marker(&mut session, MigrationSet::Tenant).await?;
        let taken = |detail: String| MigrateError::NameTaken { target: begun.migrator.describe(), detail };
        match found {
            Some(found) if (found.kind, found.database) == (wanted.kind, wanted.database) => {}
            Some(found) => return Err(taken(format!("it is marked as {found}"))),
            None if !session.facts.owns_database => return Err(taken("the platform does not own it".into())),
            None if !is_empty(&mut session).await? => {
                return Err(taken("it holds tables and no marker".into()));
            }
            None => {}
        }
        close_to_public(&mut session, kind).await?;
        MigrationSet::Tenant.apply(&mut session, found.as_ref(), &wanted).await?;
        session.close().await?;

        let doing = "recording a dedicated database";
        let mut tx = self.registry.begin_control().await.map_err(during(doing))?;
        let app = find_login(&mut tx, &self.keys, begun.id, LoginRole::App).await?;
        let app = app.ok_or(MigrateError::NoLogin { database: begun.id, role: LoginRole::App })?;
        verify_login(LoginRole::App, &app, &wanted).await?;
        let mover = find_login(&mut tx, &self.keys, begun.id, LoginRole::Mover).await?;
        let mover = mover.ok_or(MigrateError::NoLogin { database: begun.id, role: LoginRole::Mover })?;
        refuse_unsound(&mover, &wanted, &self.expected).await?;
        set_ready(&mut tx, begun.id).await?;
        tx.commit().await.map_err(during(doing))
    }
}

/// Creates the database, of the hardened template where there is one.
pub(crate) async fn create_if_missing(
    server: &mut PgConnection,
    wanted: &ConnectionTarget,
) -> Result<(), MigrateError> {
    let found = sqlx::query!(
        r#"SELECT
            EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1) AS "exists!",
            EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $2 AND datistemplate) AS "template!""#,
        wanted.database(),
        TEMPLATE_DATABASE
    )
    .fetch_one(&mut *server)
    .await
    .map_err(during("looking for the database"))?;
    if found.exists {
        return Ok(());
    }
    // Of template0 any encoding may be made; the hardened template has the right one.
    let template = if found.template { TEMPLATE_DATABASE } else { "template0 ENCODING 'UTF8'" };
    let name = roles::quote(wanted.database());
    let statement =
        format!("CREATE DATABASE {name} OWNER {} TEMPLATE {template} STRATEGY wal_log", roles::OWNER);
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(server).await.map_err(during("creating the database"))?;
    Ok(())
}

/// Leaves the database to the platform's roles. Databases do not inherit this from their template.
pub(crate) async fn close_to_public(session: &mut Session, kind: DatabaseKind) -> Result<(), MigrateError> {
    let doing = "closing the database to PUBLIC";
    session.become_owner().await?;
    let mut tx = session.conn.begin().await.map_err(during(doing))?;
    for statement in roles::fence_statements(&session.facts.database, &[kind]) {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *tx).await.map_err(during(doing))?;
    }
    tx.commit().await.map_err(during(doing))?;
    session.become_self().await
}

/// The name of a tenant's own database.
fn dedicated_name(tenant: TenantId) -> String {
    format!("stagesub_t_{}", tenant.as_uuid().as_simple())
}

/// One gate a tenant: folded from its id, so that two tenants seldom wait for each other.
fn gate_key(tenant: TenantId) -> i64 {
    let (high, low) = tenant.as_uuid().as_u64_pair();
    (high ^ low).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_carries_the_tenant_and_fits_an_identifier() {
        let tenant = TenantId::from_uuid(Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef));
        let name = dedicated_name(tenant);
        assert_eq!(name, "stagesub_t_0123456789abcdef0123456789abcdef");
        assert!(name.len() <= 63);
    }

    #[test]
    fn tenants_have_gates_of_their_own() {
        let key = |id| gate_key(TenantId::from_uuid(Uuid::from_u128(id)));
        assert_ne!(key(1), key(2));
        assert_ne!(key(1 << 64), key(2 << 64));
    }
}
