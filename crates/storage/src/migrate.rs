//! Setting up the platform's databases, and bringing them to this program's schema.
//!
//! [`migrate`] takes an administrator's connection once and never stores it. It makes the roles, gives each
//! its login and random password, keeps the sealed connection strings in the registry, makes or upgrades
//! the schemas, takes from PUBLIC what it can, and says what it could not. It may be run any number of
//! times, and runs at each upgrade.
//!
//! Invariants:
//! - A login gets its password in the transaction that stores its connection string, or after that string
//!   is stored (on another server than the registry's). A crash in between leaves nothing half known.
//! - A marker is read before any DDL; what is another installation's is refused.
//! - Everything made is owned by `stagesub_owner`, which nobody can log in as.

use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection};
use stagesub_tenancy::DatabaseId;
use uuid::Uuid;

use crate::hardening::{self, TEMPLATE_DATABASE};
use crate::logins::LoginRole;
use crate::marker::{self, DatabaseKind, Marker};
use crate::roles::{self, LoginPlan};
use crate::seal::KeyRing;
use crate::target::ConnectionTarget;

pub mod error;
pub(crate) mod logins;
pub mod report;
pub(crate) mod session;
pub(crate) mod sets;

pub use error::MigrateError;
use error::during;
use logins::Place;
pub use report::{DatabaseReport, MigrateReport, Partial};
use session::{Gate, Session};
use sets::MigrationSet;

/// How one database is reached while it is set up, and afterwards.
#[derive(Debug, Clone)]
pub struct DatabaseTargets {
    /// As an administrator, directly (not through a transaction-mode pooler). Used now, never stored.
    pub admin: ConnectionTarget,
    /// Where the platform's logins will connect to; may be a pooler.
    pub address: ConnectionTarget,
}

impl From<ConnectionTarget> for DatabaseTargets {
    /// One connection string for both.
    fn from(target: ConnectionTarget) -> Self {
        Self { admin: target.clone(), address: target }
    }
}

/// What is to be set up.
#[derive(Debug, Clone)]
pub struct MigrateOptions {
    /// The registry. `address` is what `serve` is started with (`DATABASE_URL`): its user is allowed to
    /// read the sealed connection strings.
    pub registry: DatabaseTargets,
    /// The shared database; `None`: the registry's own database.
    pub shared: Option<DatabaseTargets>,
    /// Set up a demonstration: wants empty databases, or ones that a demonstration made.
    pub demo: bool,
    /// Reset the passwords of logins that another installation may be using.
    pub adopt_logins: bool,
    /// Passwords of logins that an administrator made beforehand, instead of random ones.
    pub given_passwords: Vec<(LoginRole, SecretString)>,
}

impl MigrateOptions {
    /// The registry alone, which is then also the shared database.
    #[must_use]
    pub fn new(registry: impl Into<DatabaseTargets>) -> Self {
        Self {
            registry: registry.into(),
            shared: None,
            demo: false,
            adopt_logins: false,
            given_passwords: Vec::new(),
        }
    }
}

/// Sets up the registry and the shared database, and upgrades every database the registry knows.
///
/// One run at a time: a second one waits for the first.
///
/// # Errors
/// [`MigrateError`], a sentence with what to do. What was done until then stays, and the next run goes on
/// from there. A failure of a dedicated database is in the report instead and does not stop the others.
pub async fn migrate(options: &MigrateOptions, keys: &KeyRing) -> Result<MigrateReport, MigrateError> {
    let gate = Gate::enter(&options.registry.admin, 0).await?;
    let registry = Session::open(&options.registry.admin).await?;
    let report = MigrateReport { created_roles: Vec::new(), databases: Vec::new(), partial: Vec::new() };
    let mut run = Run { options, keys, registry, report };
    run.set_up_registry().await?;
    let shared = run.set_up_shared().await?;
    run.upgrade_others(&shared).await?;
    run.registry.close().await?;
    gate.leave().await?;
    Ok(run.report)
}

/// One run and what it has done so far.
struct Run<'a> {
    options: &'a MigrateOptions,
    keys: &'a KeyRing,
    /// As the administrator, in the registry.
    registry: Session,
    report: MigrateReport,
}

/// The shared database of this run.
struct Shared {
    id: DatabaseId,
    server_identifier: String,
    address: ConnectionTarget,
}

impl Run<'_> {
    async fn set_up_registry(&mut self) -> Result<(), MigrateError> {
        let found = read_marker(&mut self.registry, MigrationSet::Registry).await?;
        let tenants = read_marker(&mut self.registry, MigrationSet::Tenant).await?;
        if let (None, Some(found)) = (&found, tenants) {
            let target = self.registry.target.clone();
            return Err(MigrateError::WrongDatabase { target, found, wanted: "the registry" });
        }
        refuse_for_demo(&mut self.registry, found.as_ref(), self.options.demo).await?;
        let wanted = found.unwrap_or_else(|| Marker {
            kind: DatabaseKind::Registry,
            database: DatabaseId::from_uuid(Uuid::now_v7()),
            demo: self.options.demo,
        });

        let created = prepare_server(&mut self.registry).await?;
        self.report.created_roles.extend(created);
        close_to_public(&mut self.registry, &[DatabaseKind::Registry]).await?;
        let applied = MigrationSet::Registry.apply(&mut self.registry, found.as_ref(), &wanted).await?;
        self.let_serve_read().await?;
        self.registry.become_self().await?;

        let targets = self.store_registry_logins(&wanted).await?;
        let partial = roles::set_attributes(&mut self.registry.conn).await?;
        self.report.partial.extend(partial);
        let facts = self.registry.facts.clone();
        let partial = hardening::harden(&mut self.registry.conn, &facts.database, facts.superuser).await?;
        self.report.partial.extend(partial);
        for (role, target) in targets {
            verify_login(role, &target, &wanted).await?;
        }
        self.add_to_report(&wanted, &self.options.registry.address, Ok(applied));
        Ok(())
    }

    /// Lets the user that `serve` is started with find the sealed connection strings.
    async fn let_serve_read(&mut self) -> Result<(), MigrateError> {
        let doing = "letting the user of DATABASE_URL read the sealed connection strings";
        let user = self.options.registry.address.user();
        if user == self.options.registry.admin.user() {
            return Ok(());
        }
        let (database, user) = (roles::quote(&self.registry.facts.database), roles::quote(user));
        let on_database = format!("GRANT CONNECT ON DATABASE {database} TO {user}");
        let on_tables = format!(
            "GRANT USAGE ON SCHEMA registry TO {user};
            GRANT SELECT ON registry.marker, registry.migrations, registry.databases, registry.database_logins TO {user}"
        );
        // The grant on the database is its owner's to give, those on the tables the owner role's.
        self.registry.become_self().await?;
        let conn = &mut self.registry.conn;
        sqlx::raw_sql(AssertSqlSafe(on_database)).execute(conn).await.map_err(during(doing))?;
        self.registry.become_owner().await?;
        let conn = &mut self.registry.conn;
        sqlx::raw_sql(AssertSqlSafe(on_tables)).execute(conn).await.map_err(during(doing))?;
        Ok(())
    }

    async fn store_registry_logins(
        &mut self,
        marker: &Marker,
    ) -> Result<Vec<(LoginRole, ConnectionTarget)>, MigrateError> {
        let facts = self.registry.facts.clone();
        let place = Place {
            id: marker.database,
            kind: marker.kind,
            server_identifier: &facts.server_identifier,
            address: &self.options.registry.address,
        };
        let mut targets = Vec::new();
        let doing = "storing the registry's logins";
        let mut tx = self.registry.conn.begin().await.map_err(during(doing))?;
        logins::store_place(&mut tx, &place).await?;
        let adopt = self.options.adopt_logins;
        let mut known = logins::known_passwords(&mut tx, self.keys, &facts.server_identifier, adopt).await?;
        for &role in roles::logins_of(marker.kind) {
            let can_login = roles::can_login(&mut tx, role).await?;
            let plan = roles::plan_login(can_login, known.remove(&role), self.options.given(role), adopt);
            let (password, set) = settle(plan, role, &self.registry.target)?;
            if set {
                roles::set_login(&mut tx, role, &password, facts.superuser).await?;
            }
            targets.push((role, logins::store_login(&mut tx, self.keys, &place, role, &password).await?));
        }
        logins::set_ready(&mut tx, place.id).await?;
        tx.commit().await.map_err(during(doing))?;
        Ok(targets)
    }

    async fn set_up_shared(&mut self) -> Result<Shared, MigrateError> {
        let targets = self.options.shared.as_ref().unwrap_or(&self.options.registry);
        let mut session = Session::open(&targets.admin).await?;
        let found = read_marker(&mut session, MigrationSet::Tenant).await?;
        let beside_registry = self.refuse_other_registry(&mut session).await?;
        if self.options.shared.is_none() && found.is_none() {
            self.refuse_second_shared().await?;
        }
        if !beside_registry {
            refuse_for_demo(&mut session, found.as_ref(), self.options.demo).await?;
        }
        let wanted = self.identify_shared(&session, found.as_ref()).await?;
        if session.facts.server_identifier != self.registry.facts.server_identifier {
            let created = prepare_server(&mut session).await?;
            self.report.created_roles.extend(created);
            self.report.partial.extend(roles::set_attributes(&mut session.conn).await?);
        }
        let place = Place {
            id: wanted.database,
            kind: wanted.kind,
            server_identifier: &session.facts.server_identifier.clone(),
            address: &targets.address,
        };
        let logins = self.store_shared_logins(&mut session, &place).await?;
        close_to_public(&mut session, &[DatabaseKind::Shared]).await?;
        let applied = MigrationSet::Tenant.apply(&mut session, found.as_ref(), &wanted).await?;
        session.become_self().await?;
        let facts = session.facts.clone();
        if !beside_registry {
            let partial = hardening::harden(&mut session.conn, &facts.database, facts.superuser).await?;
            self.report.partial.extend(partial);
        }
        self.report.partial.extend(make_template(&mut session, &targets.admin).await?);
        for (role, target) in logins {
            verify_login(role, &target, &wanted).await?;
        }
        logins::set_ready(&mut self.registry.conn, wanted.database).await?;
        self.add_to_report(&wanted, &targets.address, Ok(applied));
        session.close().await?;
        let address = targets.address.clone();
        Ok(Shared { id: wanted.database, server_identifier: facts.server_identifier, address })
    }

    /// Whether this is the registry's own database; another installation's registry is refused.
    async fn refuse_other_registry(&mut self, session: &mut Session) -> Result<bool, MigrateError> {
        let own = read_marker(&mut self.registry, MigrationSet::Registry).await?;
        let found = read_marker(session, MigrationSet::Registry).await?;
        match found {
            Some(found) if own != Some(found) => {
                Err(MigrateError::Foreign { target: session.target.clone(), found })
            }
            found => Ok(found.is_some()),
        }
    }

    /// Leaving the variable out must not put new tenants somewhere else than before.
    async fn refuse_second_shared(&mut self) -> Result<(), MigrateError> {
        let other = sqlx::query!(
            "SELECT host, port, name FROM registry.databases
            WHERE kind = 'shared' AND NOT (server_identifier = $1 AND name = $2)
            ORDER BY id LIMIT 1",
            self.registry.facts.server_identifier,
            self.registry.facts.database
        )
        .fetch_optional(&mut self.registry.conn)
        .await
        .map_err(during("looking for shared databases"))?;
        match other {
            Some(row) => {
                Err(MigrateError::SharedNotNamed { known: format!("{}:{}/{}", row.host, row.port, row.name) })
            }
            None => Ok(()),
        }
    }

    /// Which database of the registry's this is: the one its marker names, the one that was begun here, or
    /// a new one.
    async fn identify_shared(
        &mut self,
        session: &Session,
        found: Option<&Marker>,
    ) -> Result<Marker, MigrateError> {
        let doing = "looking for shared databases";
        if let Some(&found) = found {
            let target = session.target.clone();
            if found.kind != DatabaseKind::Shared {
                return Err(MigrateError::WrongDatabase { target, found, wanted: "a shared database" });
            }
            let known = sqlx::query_scalar!(
                r#"SELECT EXISTS (SELECT FROM registry.databases WHERE id = $1 AND kind = 'shared') AS "known!""#,
                found.database.as_uuid()
            )
            .fetch_one(&mut self.registry.conn)
            .await
            .map_err(during(doing))?;
            return if known { Ok(found) } else { Err(MigrateError::Foreign { target, found }) };
        }
        let begun = sqlx::query_scalar!(
            "SELECT id FROM registry.databases
            WHERE kind = 'shared' AND server_identifier = $1 AND name = $2 AND status = 'creating'",
            session.facts.server_identifier,
            session.facts.database
        )
        .fetch_optional(&mut self.registry.conn)
        .await
        .map_err(during(doing))?;
        let database = DatabaseId::from_uuid(begun.unwrap_or_else(Uuid::now_v7));
        Ok(Marker { kind: DatabaseKind::Shared, database, demo: self.options.demo })
    }

    /// On the registry's server a login and its string come in one transaction; on another server the
    /// string is committed first, and a rerun finds it and sets the same password.
    async fn store_shared_logins(
        &mut self,
        session: &mut Session,
        place: &Place<'_>,
    ) -> Result<Vec<(LoginRole, ConnectionTarget)>, MigrateError> {
        let doing = "storing the shared database's logins";
        let superuser = session.facts.superuser;
        let same_server = place.server_identifier == self.registry.facts.server_identifier;
        let adopt = self.options.adopt_logins;
        let (mut targets, mut later) = (Vec::new(), Vec::new());
        let mut tx = self.registry.conn.begin().await.map_err(during(doing))?;
        logins::lock_server(&mut tx, "passwords", place.server_identifier).await?;
        logins::store_place(&mut tx, place).await?;
        let mut known = logins::known_passwords(&mut tx, self.keys, place.server_identifier, adopt).await?;
        for &role in roles::logins_of(place.kind) {
            let can_login = roles::can_login(&mut session.conn, role).await?;
            let plan = roles::plan_login(can_login, known.remove(&role), self.options.given(role), adopt);
            let (password, set) = settle(plan, role, &session.target)?;
            targets.push((role, logins::store_login(&mut tx, self.keys, place, role, &password).await?));
            if set && same_server {
                roles::set_login(&mut tx, role, &password, superuser).await?;
            } else if set {
                later.push((role, password));
            }
        }
        tx.commit().await.map_err(during(doing))?;
        if !later.is_empty() {
            let mut tx = session.conn.begin().await.map_err(during(doing))?;
            for (role, password) in later {
                roles::set_login(&mut tx, role, &password, superuser).await?;
            }
            tx.commit().await.map_err(during(doing))?;
        }
        Ok(targets)
    }

    /// Brings every other database to this program's schema, with the migrator's stored login.
    async fn upgrade_others(&mut self, shared: &Shared) -> Result<(), MigrateError> {
        let rows = sqlx::query!(
            "SELECT id, kind, tenant_id, server_identifier, host, port, name FROM registry.databases
            WHERE kind <> 'registry' AND status = 'ready' AND id <> $1
            ORDER BY id",
            shared.id.as_uuid()
        )
        .fetch_all(&mut self.registry.conn)
        .await
        .map_err(during("listing the databases"))?;
        for row in rows {
            let id = DatabaseId::from_uuid(row.id);
            let Some(kind) = DatabaseKind::from_stored(&row.kind, row.tenant_id) else { continue };
            if row.server_identifier == shared.server_identifier {
                let address = shared.address.with_database(&row.name);
                self.refresh_logins(shared, id, kind, &address).await?;
            }
            let outcome = self.upgrade(&Marker { kind, database: id, demo: false }).await;
            let place = format!("{}:{}/{}", row.host, row.port, row.name);
            self.report.databases.push(DatabaseReport { id, kind, place, outcome });
        }
        Ok(())
    }

    /// A dedicated database is reached by its server's logins at its server's address, so its strings
    /// follow those of the shared database on the same server.
    async fn refresh_logins(
        &mut self,
        shared: &Shared,
        id: DatabaseId,
        kind: DatabaseKind,
        address: &ConnectionTarget,
    ) -> Result<(), MigrateError> {
        let place = Place { id, kind, server_identifier: &shared.server_identifier, address };
        let doing = "storing the logins of a dedicated database";
        let mut tx = self.registry.conn.begin().await.map_err(during(doing))?;
        logins::store_place(&mut tx, &place).await?;
        for &role in roles::logins_of(kind) {
            let login = logins::find_login(&mut tx, self.keys, shared.id, role).await?;
            let password = login.as_ref().and_then(ConnectionTarget::password);
            let password = password.ok_or(MigrateError::NoLogin { database: shared.id, role })?;
            logins::store_login(&mut tx, self.keys, &place, role, password).await?;
        }
        tx.commit().await.map_err(during(doing))
    }

    async fn upgrade(&mut self, wanted: &Marker) -> Result<Vec<i64>, MigrateError> {
        let (database, role) = (wanted.database, LoginRole::Migrator);
        let login = logins::find_login(&mut self.registry.conn, self.keys, database, role).await?;
        let login = login.ok_or(MigrateError::NoLogin { database, role })?;
        let mut session = Session::open(&login).await?;
        let found = read_marker(&mut session, MigrationSet::Tenant).await?;
        match found {
            Some(found) if (found.database, found.kind) == (wanted.database, wanted.kind) => {
                let applied = MigrationSet::Tenant.apply(&mut session, Some(&found), &found).await?;
                session.close().await?;
                Ok(applied)
            }
            Some(found) => Err(MigrateError::Foreign { target: session.target, found }),
            None => {
                Err(MigrateError::NameTaken { target: session.target, detail: "it bears no marker".into() })
            }
        }
    }

    fn add_to_report(
        &mut self,
        marker: &Marker,
        address: &ConnectionTarget,
        outcome: Result<Vec<i64>, MigrateError>,
    ) {
        let (id, kind, place) = (marker.database, marker.kind, address.to_string());
        self.report.databases.push(DatabaseReport { id, kind, place, outcome });
    }
}

impl MigrateOptions {
    fn given(&self, wanted: LoginRole) -> Option<SecretString> {
        self.given_passwords.iter().find(|(role, _)| *role == wanted).map(|(_, password)| password.clone())
    }
}

/// The password of a plan and whether it has to be set.
pub(crate) fn settle(
    plan: LoginPlan,
    role: LoginRole,
    target: &str,
) -> Result<(SecretString, bool), MigrateError> {
    match plan {
        LoginPlan::Keep(password) => Ok((password, false)),
        LoginPlan::Set(password) => Ok((password, true)),
        LoginPlan::Refuse => Err(MigrateError::LoginExists { target: target.to_owned(), role }),
    }
}

/// Reads one of the two markers.
pub(crate) async fn read_marker(
    session: &mut Session,
    set: MigrationSet,
) -> Result<Option<Marker>, MigrateError> {
    let read = match set {
        MigrationSet::Registry => marker::read_registry_marker(&mut session.conn).await,
        MigrationSet::Tenant => marker::read_tenant_marker(&mut session.conn).await,
    };
    read.map_err(|source| MigrateError::Marker { target: session.target.clone(), source })
}

/// A demonstration wants a database that is empty or its own.
async fn refuse_for_demo(
    session: &mut Session,
    found: Option<&Marker>,
    demo: bool,
) -> Result<(), MigrateError> {
    let fits = match found {
        _ if !demo => true,
        Some(found) => found.demo,
        None => is_empty(session).await?,
    };
    if fits { Ok(()) } else { Err(MigrateError::NotDemo { target: session.target.clone() }) }
}

/// Whether the database holds no table, view or sequence of anybody's, extensions' own aside.
pub(crate) async fn is_empty(session: &mut Session) -> Result<bool, MigrateError> {
    sqlx::query_scalar!(
        r#"SELECT NOT EXISTS (
            SELECT FROM pg_catalog.pg_class AS c
            JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
            WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
                AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
                AND NOT EXISTS (
                    SELECT FROM pg_catalog.pg_depend AS d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
        ) AS "empty!""#
    )
    .fetch_one(&mut session.conn)
    .await
    .map_err(during("looking whether the database is empty"))
}

/// Makes the roles of a server, and lets this user act as the owner.
pub(crate) async fn prepare_server(session: &mut Session) -> Result<Vec<String>, MigrateError> {
    if !session.facts.superuser && !session.facts.creates_roles {
        return Err(session.lacks("may not create roles"));
    }
    let created = roles::create_missing(&mut session.conn).await?;
    let member = sqlx::query_scalar!(r#"SELECT pg_has_role('stagesub_owner', 'USAGE') AS "member!""#)
        .fetch_one(&mut session.conn)
        .await
        .map_err(during("reading the roles"))?;
    if !member {
        session.run("GRANT stagesub_owner TO CURRENT_USER", "becoming a member of the owner role").await?;
    }
    Ok(created)
}

/// The template of dedicated databases on a server, if this user is a superuser.
pub(crate) async fn make_template(
    session: &mut Session,
    admin: &ConnectionTarget,
) -> Result<Option<Partial>, MigrateError> {
    if !session.facts.superuser {
        return Ok(None);
    }
    hardening::make_template(&mut session.conn).await?;
    let mut template = Session::open(&admin.with_database(TEMPLATE_DATABASE)).await?;
    let partial = hardening::harden(&mut template.conn, TEMPLATE_DATABASE, true).await?;
    template.close().await?;
    Ok(partial)
}

/// Leaves a database to the platform's roles.
pub(crate) async fn close_to_public(
    session: &mut Session,
    holds: &[DatabaseKind],
) -> Result<(), MigrateError> {
    if !session.facts.owns_database {
        return Err(session.lacks("neither owns the database nor is a superuser"));
    }
    for statement in roles::fence_statements(&session.facts.database, holds) {
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&mut session.conn)
            .await
            .map_err(during("closing the database to PUBLIC"))?;
    }
    Ok(())
}

/// Logs in as the role and checks that it is the database it should be.
pub(crate) async fn verify_login(
    role: LoginRole,
    target: &ConnectionTarget,
    wanted: &Marker,
) -> Result<(), MigrateError> {
    let described = target.describe();
    let mut conn = session::connect(target).await.map_err(|source| {
        let is_auth = source
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code)
            .is_some_and(|code| code.starts_with("28"));
        if is_auth {
            MigrateError::LoginRefused { target: described.clone(), role, source }
        } else {
            MigrateError::Unreachable { target: described.clone(), source }
        }
    })?;
    let read = match wanted.kind {
        DatabaseKind::Registry => marker::read_registry_marker(&mut conn).await,
        DatabaseKind::Shared | DatabaseKind::Dedicated(_) => marker::read_tenant_marker(&mut conn).await,
    };
    let found = read.map_err(|source| MigrateError::Marker { target: described.clone(), source })?;
    match found {
        Some(found) if found.database == wanted.database => {
            conn.close().await.map_err(during("closing the connection"))
        }
        Some(found) => Err(MigrateError::Foreign { target: described, found }),
        None => Err(MigrateError::NameTaken { target: described, detail: "it bears no marker".into() }),
    }
}
