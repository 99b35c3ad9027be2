//! Databases on a server, or in a database, that somebody names.
//!
//! What is named is looked at first, and refused before anything is made. The order after that is the one of
//! [`migrate`](crate::migrate): roles; what is recorded in the registry, strings included; the roles' logins; the
//! database; its schema and marker. Each step finds what an earlier try left.

use secrecy::SecretString;
use sqlx::Connection;
use stagesub_tenancy::DatabaseId;
use stagesub_tenancy::moves::NewTarget;
use uuid::Uuid;

use super::allowed::{AllowedHosts, Reached};
use super::create_if_missing;
use crate::doctor::{Expectations, Finding, examine_known};
use crate::hardening;
use crate::logins::LoginRole;
use crate::marker::{DatabaseKind, Marker};
use crate::migrate::error::{MigrateError, during};
use crate::migrate::logins::{self, Place};
use crate::migrate::report::Partial;
use crate::migrate::session::{Gate, Session};
use crate::migrate::sets::MigrationSet;
use crate::migrate::{
    close_to_public, is_empty, make_template, prepare_server, read_marker, settle, verify_login,
};
use crate::moves::preflight::new_target;
use crate::registry::{Keys, RegistryPools};
use crate::roles;
use crate::target::ConnectionTarget;

/// What is named.
pub(super) enum Named<'a> {
    /// A server, by an administrator's connection to any of its databases; the new one's name.
    Server(&'a ConnectionTarget, String),
    /// A database that is there.
    Database(&'a ConnectionTarget),
    /// The server of the shared database, by the platform's own migrator: what it needs of the server is there.
    Ours(&'a ConnectionTarget, String),
}

/// A database that is made and checked; the registry does not call it ready yet.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) id: DatabaseId,
    /// It was ready before.
    pub(super) ready: bool,
    /// What the privileges of the one who was named did not allow.
    pub(super) partial: Vec<Partial>,
}

/// What there is where a database is to be.
#[derive(Debug)]
pub enum Looked {
    /// The database, ready.
    Ready(DatabaseId),
    /// A server to make it on.
    ToBeMade(NewTarget),
}

/// Makes them.
pub(super) struct Maker<'a> {
    pub(super) registry: &'a RegistryPools,
    pub(super) keys: &'a Keys,
    pub(super) allowed: &'a AllowedHosts,
    pub(super) expected: &'a Expectations,
    /// Resets the passwords of logins that another installation may be using.
    pub(super) adopt_logins: bool,
}

/// What is where a database is to be, before anything is made.
struct Found {
    name: String,
    begun: Option<Recorded>,
    wanted: Marker,
}

/// At the address that was looked at: what a name means may be another the next time.
fn pinned(reached: Option<&Reached>, target: &ConnectionTarget) -> ConnectionTarget {
    reached.map_or_else(|| target.clone(), |reached| reached.pin(target))
}

/// A database as the registry records it.
struct Recorded {
    id: DatabaseId,
    kind: DatabaseKind,
    ready: bool,
    server_identifier: String,
    name: String,
    /// `host:port/name`
    place: String,
}

impl Maker<'_> {
    /// Makes a database of this kind where it was named, or finishes one that was begun there.
    pub(super) async fn make(&self, kind: DatabaseKind, named: &Named<'_>) -> Result<Made, MigrateError> {
        let (Named::Server(url, _) | Named::Database(url) | Named::Ours(url, _)) = *named;
        let reached = self.reached(named).await?;
        let admin = pinned(reached.as_ref(), url);
        let gate = Gate::enter(&admin, 0).await?;
        let made = self.make_inside(kind, named, url, reached.as_ref()).await;
        let left = gate.leave().await;
        made.and_then(|made| left.map(|()| made))
    }

    /// What making it would find, and what it would refuse; nothing is made.
    pub(super) async fn look(&self, kind: DatabaseKind, named: &Named<'_>) -> Result<Looked, MigrateError> {
        let (Named::Server(url, _) | Named::Database(url) | Named::Ours(url, _)) = *named;
        let admin = pinned(self.reached(named).await?.as_ref(), url);
        let mut server = Session::open(&admin).await?;
        let found = match self.find(kind, named, &admin, &mut server).await {
            // Of what somebody is making right now one thing may be there and another not yet: it is looked at again.
            Err(_) => self.find(kind, named, &admin, &mut server).await?,
            Ok(found) => found,
        };
        let looked = if found.begun.is_some_and(|begun| begun.ready) {
            Looked::Ready(found.wanted.database)
        } else {
            let described = admin.with_database(&found.name).describe();
            let target = new_target(&mut server.conn, &described).await;
            Looked::ToBeMade(target.map_err(during("looking at the server"))?)
        };
        server.close().await?;
        Ok(looked)
    }

    /// Where what is named is, if it may be connected to. Our own server is whatever its name means.
    async fn reached(&self, named: &Named<'_>) -> Result<Option<Reached>, MigrateError> {
        Ok(match named {
            Named::Ours(..) => None,
            Named::Server(url, _) | Named::Database(url) => Some(self.allowed.check(url).await?),
        })
    }

    /// What there is already, where nothing speaks against what is wanted.
    async fn find(
        &self,
        kind: DatabaseKind,
        named: &Named<'_>,
        admin: &ConnectionTarget,
        server: &mut Session,
    ) -> Result<Found, MigrateError> {
        let (name, is_there) = match named {
            Named::Server(_, name) | Named::Ours(_, name) => (name.clone(), exists(server, name).await?),
            Named::Database(_) => (server.facts.database.clone(), true),
        };
        refuse_powerless(server, named, is_there)?;
        let begun = self.find_begun(kind, server, &name).await?;
        let database = begun.as_ref().map_or_else(|| DatabaseId::from_uuid(Uuid::now_v7()), |begun| begun.id);
        let wanted = Marker { kind, database, demo: self.registry.is_demo() };
        let is_ready = begun.as_ref().is_some_and(|begun| begun.ready);
        match named {
            _ if is_ready => return Ok(Found { name, begun, wanted }),
            Named::Database(_) => self.refuse_taken(server, &wanted).await?,
            Named::Server(..) if is_there => self.refuse_taken_at(admin, &name, &wanted).await?,
            Named::Ours(..) if is_there => {
                // Nobody named it, so nobody can name another.
                let taken = self.refuse_taken_at(admin, &name, &wanted).await;
                taken.map_err(|error| name_taken(&admin.with_database(&name), error))?;
            }
            Named::Server(..) | Named::Ours(..) => {}
        }
        if !matches!(named, Named::Ours(..)) {
            self.refuse_others_logins(kind, server).await?;
        }
        Ok(Found { name, begun, wanted })
    }

    async fn refuse_taken_at(
        &self,
        admin: &ConnectionTarget,
        name: &str,
        wanted: &Marker,
    ) -> Result<(), MigrateError> {
        let mut data = Session::open(&admin.with_database(name)).await?;
        self.refuse_taken(&mut data, wanted).await?;
        data.close().await
    }

    /// Logins that are there and whose passwords the platform does not have are another installation's.
    async fn refuse_others_logins(
        &self,
        kind: DatabaseKind,
        server: &mut Session,
    ) -> Result<(), MigrateError> {
        let doing = "looking for the logins of a server";
        let mut tx = self.registry.begin_control().await.map_err(during(doing))?;
        let (identifier, adopt) = (&server.facts.server_identifier, self.adopt_logins);
        let mut known = logins::known_passwords(&mut tx, self.keys, identifier, adopt).await?;
        tx.commit().await.map_err(during(doing))?;
        for &role in roles::logins_of(kind) {
            let can_login = roles::can_login(&mut server.conn, role).await?;
            settle(roles::plan_login(can_login, known.remove(&role), None, adopt), role, &server.target)?;
        }
        Ok(())
    }

    async fn make_inside(
        &self,
        kind: DatabaseKind,
        named: &Named<'_>,
        url: &ConnectionTarget,
        reached: Option<&Reached>,
    ) -> Result<Made, MigrateError> {
        let admin = &pinned(reached, url);
        let mut server = Session::open(admin).await?;
        let Found { name, begun, wanted } = self.find(kind, named, admin, &mut server).await?;
        let database = wanted.database;
        if begun.is_some_and(|begun| begun.ready) {
            server.close().await?;
            return Ok(Made { id: database, ready: true, partial: Vec::new() });
        }
        // Nothing was made until here.
        let mut partial = Vec::new();
        // Roles and the template are the server's, whichever of its databases a caller came by: one at a time makes them.
        let doing = "waiting for another that sets this server up";
        let mut turn = self.registry.begin_control().await.map_err(during(doing))?;
        logins::lock_server(&mut turn, "roles", &server.facts.server_identifier).await?;
        if !matches!(named, Named::Ours(..)) {
            prepare_server(&mut server).await?;
            partial.extend(roles::set_attributes(&mut server.conn).await?);
        }
        let address = url.with_database(&name);
        let place = Place {
            id: database,
            kind,
            server_identifier: &server.facts.server_identifier.clone(),
            address: &address,
        };
        let logins = self.store_logins(&mut server, &place).await?;
        if !matches!(named, Named::Database(_)) {
            partial.extend(make_template(&mut server, admin).await?);
        }
        turn.commit().await.map_err(during(doing))?;
        let mut data = if let Named::Database(_) = named {
            server
        } else {
            create_if_missing(&mut server.conn, &admin.with_database(&name)).await?;
            server.close().await?;
            Session::open(&admin.with_database(&name)).await?
        };
        let found = read_marker(&mut data, MigrationSet::Tenant).await?;
        close_to_public(&mut data, &[kind]).await?;
        MigrationSet::Tenant.apply(&mut data, found.as_ref(), &wanted).await?;
        data.become_self().await?;
        let superuser = data.facts.superuser;
        partial.extend(hardening::harden(&mut data.conn, &name, superuser).await?);
        data.close().await?;
        for (role, login) in &logins {
            verify_login(*role, &pinned(reached, login), &wanted).await?;
        }
        let mover = logins.iter().find(|(role, _)| *role == LoginRole::Mover).map(|(_, login)| login);
        let mover = mover.ok_or(MigrateError::NoLogin { database, role: LoginRole::Mover })?;
        refuse_unsound(&pinned(reached, mover), &wanted, self.expected).await?;
        Ok(Made { id: database, ready: false, partial })
    }

    /// Says that a database can be used.
    pub(super) async fn set_ready(&self, database: DatabaseId) -> Result<(), MigrateError> {
        let doing = "recording a database";
        let mut tx = self.registry.begin_control().await.map_err(during(doing))?;
        logins::set_ready(&mut tx, database).await?;
        tx.commit().await.map_err(during(doing))
    }

    /// What the registry has at this place, if it is of this kind; and that it has this tenant's nowhere else.
    async fn find_begun(
        &self,
        kind: DatabaseKind,
        server: &Session,
        name: &str,
    ) -> Result<Option<Recorded>, MigrateError> {
        let identifier = &server.facts.server_identifier;
        let rows = sqlx::query!(
            "SELECT id, kind, tenant_id, status, server_identifier, host, port, name FROM registry.databases
            WHERE (server_identifier = $1 AND name = $2) OR tenant_id = $3
            ORDER BY id",
            identifier,
            name,
            kind.tenant().map(stagesub_tenancy::TenantId::as_uuid)
        )
        .fetch_all(self.registry.control())
        .await
        .map_err(during("looking for the database in the registry"))?;
        let mut begun = None;
        for row in rows {
            let Some(known) = DatabaseKind::from_stored(&row.kind, row.tenant_id) else { continue };
            let recorded = Recorded {
                id: DatabaseId::from_uuid(row.id),
                kind: known,
                ready: row.status == "ready",
                place: format!("{}:{}/{}", row.host, row.port, row.name),
                server_identifier: row.server_identifier,
                name: row.name,
            };
            let here = recorded.server_identifier == *identifier && recorded.name == name;
            match (recorded.kind == kind, here) {
                (true, true) => begun = Some(recorded),
                (true, false) => return Err(MigrateError::HasOwn { known: recorded.place }),
                (false, _) => {
                    let known = format!("{} ({})", recorded.kind, recorded.place);
                    return Err(MigrateError::Known { target: server.target.clone(), known });
                }
            }
        }
        Ok(begun)
    }

    /// Refuses a database that is anybody's, by what it says of itself and not by what it is called.
    async fn refuse_taken(&self, data: &mut Session, wanted: &Marker) -> Result<(), MigrateError> {
        let target = data.target.clone();
        if let Some(found) = read_marker(data, MigrationSet::Registry).await? {
            return Err(if found.database == self.registry.database() {
                MigrateError::Known { target, known: format!("{} of this platform", found.kind) }
            } else {
                MigrateError::Foreign { target, found }
            });
        }
        match read_marker(data, MigrationSet::Tenant).await? {
            Some(found) if (found.kind, found.database) == (wanted.kind, wanted.database) => Ok(()),
            Some(found) => Err(if self.knows(found.database).await? {
                MigrateError::Known { target, known: found.to_string() }
            } else {
                MigrateError::Foreign { target, found }
            }),
            None if !data.facts.owns_database => {
                Err(MigrateError::NamedLacks { target, lacks: "does not own the database" })
            }
            None if !is_empty(data).await? => Err(MigrateError::NotEmpty { target }),
            None => MigrationSet::Tenant.refuse_taken_schemas(data).await,
        }
    }

    async fn knows(&self, database: DatabaseId) -> Result<bool, MigrateError> {
        sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM registry.databases WHERE id = $1) AS "known!""#,
            database.as_uuid()
        )
        .fetch_one(self.registry.control())
        .await
        .map_err(during("looking for the database in the registry"))
    }

    /// The strings are committed before the logins get their passwords: what a crash leaves in between is found here
    /// again, and the same passwords are set.
    async fn store_logins(
        &self,
        server: &mut Session,
        place: &Place<'_>,
    ) -> Result<Vec<(LoginRole, ConnectionTarget)>, MigrateError> {
        let doing = "storing the logins of a database";
        let mut can_login = Vec::new();
        for &role in roles::logins_of(place.kind) {
            can_login.push((role, roles::can_login(&mut server.conn, role).await?));
        }
        let (mut targets, mut later): (Vec<_>, Vec<(LoginRole, SecretString)>) = (Vec::new(), Vec::new());
        let mut tx = self.registry.begin_control().await.map_err(during(doing))?;
        logins::lock_server(&mut tx, "passwords", place.server_identifier).await?;
        logins::store_place(&mut tx, place).await?;
        let adopt = self.adopt_logins;
        let mut known = logins::known_passwords(&mut tx, self.keys, place.server_identifier, adopt).await?;
        for (role, can_login) in can_login {
            let plan = roles::plan_login(can_login, known.remove(&role), None, adopt);
            let (password, set) = settle(plan, role, &server.target)?;
            targets.push((role, logins::store_login(&mut tx, self.keys, place, role, &password).await?));
            if set {
                later.push((role, password));
            }
        }
        tx.commit().await.map_err(during(doing))?;
        if !later.is_empty() {
            let superuser = server.facts.superuser;
            let mut tx = server.conn.begin().await.map_err(during(doing))?;
            for (role, password) in later {
                roles::set_login(&mut tx, role, &password, superuser).await?;
            }
            tx.commit().await.map_err(during(doing))?;
        }
        Ok(targets)
    }
}

/// No tenant comes to a database where it would not be alone with its rows.
pub(super) async fn refuse_unsound(
    mover: &ConnectionTarget,
    marker: &Marker,
    expected: &Expectations,
) -> Result<(), MigrateError> {
    let target = mover.describe();
    match examine_known(mover, marker.kind, marker.database, expected).await {
        Ok(report) => match report.first_hole() {
            Some(hole) => Err(MigrateError::Unsound { target, finding: tell(hole) }),
            None => Ok(()),
        },
        Err(source) => Err(MigrateError::NotExamined { target, source: Box::new(source) }),
    }
}

fn tell(hole: &Finding) -> String {
    format!("{} ({}): {}", hole.object, hole.why, hole.mend)
}

/// A database of the name that one would be made by is there, and is somebody's.
fn name_taken(target: &ConnectionTarget, error: MigrateError) -> MigrateError {
    let target = target.describe();
    let detail = match error {
        MigrateError::Known { known, .. } => format!("it is {known}"),
        MigrateError::Foreign { found, .. } => format!("it is marked as {found}"),
        MigrateError::NamedLacks { .. } => "the platform does not own it".to_owned(),
        MigrateError::NotEmpty { .. } | MigrateError::SchemaTaken { .. } => {
            "it holds tables and no marker".to_owned()
        }
        error => return error,
    };
    MigrateError::NameTaken { target, detail }
}

/// Refuses a login that could not go on to the end. `is_there`: the database need not be made.
fn refuse_powerless(server: &Session, named: &Named<'_>, is_there: bool) -> Result<(), MigrateError> {
    let facts = &server.facts;
    let target = server.target.clone();
    if facts.standby {
        return Err(MigrateError::Standby { target });
    }
    let lacks = |lacks| Err(MigrateError::NamedLacks { target, lacks });
    match named {
        Named::Database(_) if !facts.owns_database => lacks("does not own the database"),
        Named::Server(..) | Named::Ours(..) if !is_there && !facts.superuser && !facts.creates_databases => {
            lacks("may not create databases (CREATEDB)")
        }
        Named::Server(..) | Named::Database(_) if !facts.superuser && !facts.creates_roles => {
            lacks("may not create roles (CREATEROLE)")
        }
        _ => Ok(()),
    }
}

async fn exists(server: &mut Session, name: &str) -> Result<bool, MigrateError> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1) AS "exists!""#,
        name
    )
    .fetch_one(&mut server.conn)
    .await
    .map_err(during("looking for the database"))
}
