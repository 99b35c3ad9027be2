//! Every database that a registry knows.

use std::collections::HashSet;
use std::time::Duration;

use futures::StreamExt;
use sqlx::{Connection, PgConnection};
use stagesub_tenancy::{DatabaseId, TenantId};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::examination::{DoctorError, Examination, Look, Sets, examine, not_examined};
use super::expectations::Expectations;
use super::move_logs;
use super::report::{Finding, Level, Report};
use super::rows::Identity;
use crate::logins::LoginRole;
use crate::marker::{DatabaseKind, read_registry_marker};
use crate::migrate::MigrateError;
use crate::migrate::error::during;
use crate::migrate::logins::{find_login, open_login};
use crate::migrate::session;
use crate::migrate::sets::MigrationSet;
use crate::seal::KeyRing;
use crate::target::ConnectionTarget;

/// How long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Longest that one database may take, connecting included. What takes longer is reported as unreachable.
    pub database: Duration,
    /// Longest that all the dedicated databases together may take; `None`: as long as it takes. Those whose turn
    /// does not come are reported as not examined.
    pub dedicated: Option<Duration>,
    /// How many dedicated databases are examined at once.
    pub at_once: usize,
}

impl Default for Bounds {
    /// 15 seconds a database, eight at once, as long as it takes.
    fn default() -> Self {
        Self { database: Duration::from_secs(15), dedicated: None, at_once: 8 }
    }
}

/// Examines the registry, every shared and every dedicated database that it knows, with the platform's own logins;
/// `database_url` is read with once, to find them. It works beside a platform that serves, and on one that cannot.
///
/// A shared database that cannot be reached is a hole: nobody knows what is open there. A dedicated one is
/// partial, because it concerns its own tenant, who is then not served from it either.
///
/// # Errors
/// [`DoctorError`]: the registry cannot be reached or read.
pub async fn examine_platform(
    database_url: &ConnectionTarget,
    keys: &KeyRing,
    expected: &Expectations,
    bounds: Bounds,
) -> Result<Report, DoctorError> {
    let mut expected = expected.clone();
    expected.reader = (!database_url.user().starts_with("stagesub_")).then(|| database_url.user().to_owned());
    let mut registry = open_registry(database_url, keys).await?;
    let found = Round { keys, expected: &expected, bounds }.go(&mut registry).await;
    // What was found counts, and how the connection ended does not.
    let _ = registry.conn.close().await;
    Ok(found?.into_iter().collect())
}

/// Examines one database over a connection of its own, whoever knows of it.
///
/// # Errors
/// [`DoctorError`]: it cannot be reached or read.
pub async fn examine_database(
    target: &ConnectionTarget,
    expected: &Expectations,
) -> Result<Report, DoctorError> {
    let mut conn = session::connect(target)
        .await
        .map_err(|source| MigrateError::Unreachable { target: target.describe(), source })?;
    let report = examine(&mut conn, expected).await;
    // What was found counts, and how the connection ended does not.
    let _ = conn.close().await;
    report
}

/// Examines one database of tenants that the registry knows, and its server, over a connection as the mover.
///
/// # Errors
/// [`DoctorError`]: it cannot be reached or read.
pub async fn examine_known(
    mover: &ConnectionTarget,
    kind: DatabaseKind,
    database: DatabaseId,
    expected: &Expectations,
) -> Result<Report, DoctorError> {
    let look = Look {
        catalogue: true,
        server: true,
        sets: Sets::Just(MigrationSet::Tenant),
        identity: Some(Identity { kind, database }),
    };
    let found = visit(mover, &mover.to_string(), expected, look).await?;
    Ok(found.into_iter().collect())
}

/// A connection as the login that reads the platform's records.
struct Registry {
    conn: PgConnection,
    id: DatabaseId,
}

async fn open_registry(database_url: &ConnectionTarget, keys: &KeyRing) -> Result<Registry, DoctorError> {
    let target = database_url.describe();
    let mut conn = session::connect(database_url)
        .await
        .map_err(|source| MigrateError::Unreachable { target: target.clone(), source })?;
    let marker = read_registry_marker(&mut conn)
        .await
        .map_err(|source| MigrateError::Marker { target: target.clone(), source })?
        .ok_or(MigrateError::NotMigrated { target })?;
    let (database, role) = (marker.database, LoginRole::Control);
    let control =
        find_login(&mut conn, keys, database, role).await?.ok_or(MigrateError::NoLogin { database, role })?;
    let target = control.describe();
    let conn =
        session::connect(&control).await.map_err(|source| MigrateError::Unreachable { target, source })?;
    Ok(Registry { conn, id: database })
}

/// A database as the registry records it.
#[derive(Debug, Clone)]
struct Known {
    id: DatabaseId,
    kind: DatabaseKind,
    ready: bool,
    server_identifier: String,
    place: String,
    sealed: Option<String>,
}

impl Known {
    /// Two rows of one place: the registry may share its database with tenants.
    fn is_at(&self, other: &Self) -> bool {
        (&self.server_identifier, &self.place) == (&other.server_identifier, &other.place)
    }

    fn finding(
        &self,
        level: Level,
        lint: &'static str,
        object: String,
        why: String,
        mend: String,
    ) -> Finding {
        Finding { level, lint, database: self.place.clone(), object, why, mend }
    }
}

/// One round through all of them.
struct Round<'a> {
    keys: &'a KeyRing,
    expected: &'a Expectations,
    bounds: Bounds,
}

impl Round<'_> {
    async fn go(&self, registry: &mut Registry) -> Result<Vec<Finding>, DoctorError> {
        let known = list(&mut registry.conn).await?;
        let own = known.iter().find(|database| database.id == registry.id);
        let place = own.map_or_else(|| "the registry".to_owned(), |own| own.place.clone());
        let since = move_logs::now(&mut registry.conn).await?;
        let mut found = records(&mut registry.conn, &place, &known).await?;
        let look = Look {
            catalogue: true,
            server: true,
            sets: Sets::Just(MigrationSet::Registry),
            identity: Some(Identity { kind: DatabaseKind::Registry, database: registry.id }),
        };
        let examination = Examination {
            conn: &mut registry.conn,
            database: &place,
            expected: self.expected,
            found: Vec::new(),
        };
        found.extend(examination.run(look).await?);

        let mut servers: HashSet<String> = own.iter().map(|own| own.server_identifier.clone()).collect();
        let mut dedicated = Vec::new();
        for database in known.iter().filter(|database| database.kind != DatabaseKind::Registry) {
            if !database.ready {
                let why = "its making was begun and not finished, so it was not looked at".to_owned();
                let mend = "-- The next start of the server finishes it, or `stagesub migrate`.".to_owned();
                found.push(database.finding(
                    Level::Note,
                    "database-unfinished",
                    "the database".to_owned(),
                    why,
                    mend,
                ));
                continue;
            }
            let look = Look {
                catalogue: !own.is_some_and(|own| own.is_at(database)),
                server: servers.insert(database.server_identifier.clone()),
                sets: Sets::Just(MigrationSet::Tenant),
                identity: Some(Identity { kind: database.kind, database: database.id }),
            };
            match database.kind {
                DatabaseKind::Dedicated(_) => dedicated.push((database, look)),
                _ => found.extend(self.one(database, look).await),
            }
        }
        found.extend(self.all_dedicated(dedicated).await);
        // Asked last, so that what belongs to a move that has begun meanwhile is known for what it is.
        let living = move_logs::living(&mut registry.conn, since).await?;
        Ok(once_a_server(move_logs::judge(found, &living)))
    }

    async fn all_dedicated(&self, dedicated: Vec<(&Known, Look)>) -> Vec<Finding> {
        let deadline = self.bounds.dedicated.map(|whole| Instant::now() + whole);
        let each = dedicated.into_iter().map(|(database, look)| async move {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                let why = "there was no time left for it";
                let mend = "-- `stagesub doctor` takes the time.";
                return vec![not_examined(&database.place, "the database", why, mend)];
            }
            self.one(database, look).await
        });
        let all: Vec<Vec<Finding>> =
            futures::stream::iter(each).buffered(self.bounds.at_once.max(1)).collect().await;
        all.into_iter().flatten().collect()
    }

    /// One database of tenants. That it cannot be examined is a finding too.
    async fn one(&self, database: &Known, look: Look) -> Vec<Finding> {
        let level = match database.kind {
            DatabaseKind::Dedicated(_) => Level::Partial,
            _ => Level::Hole,
        };
        let why = match timeout(self.bounds.database, self.visit(database, look)).await {
            Ok(Ok(found)) => return found,
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("it did not answer within {} s", self.bounds.database.as_secs()),
        };
        let mend =
            "-- Bring it back, or let the platform's logins in; `stagesub migrate` tells which of the two.";
        vec![database.finding(
            level,
            "unreachable",
            "the database".to_owned(),
            format!("nothing of it was looked at: {why}"),
            mend.to_owned(),
        )]
    }

    async fn visit(&self, database: &Known, look: Look) -> Result<Vec<Finding>, DoctorError> {
        let role = LoginRole::Mover;
        let sealed =
            database.sealed.as_deref().ok_or(MigrateError::NoLogin { database: database.id, role })?;
        let login = open_login(self.keys, database.id, database.kind.tenant(), role.as_str(), sealed)?;
        visit(&login, &database.place, self.expected, look).await
    }
}

async fn visit(
    login: &ConnectionTarget,
    place: &str,
    expected: &Expectations,
    look: Look,
) -> Result<Vec<Finding>, DoctorError> {
    let target = login.describe();
    let mut conn =
        session::connect(login).await.map_err(|source| MigrateError::Unreachable { target, source })?;
    let examination = Examination { conn: &mut conn, database: place, expected, found: Vec::new() };
    let found = examination.run(look).await;
    // As above.
    let _ = conn.close().await;
    found
}

/// Every database with the sealed login that it is examined with.
async fn list(conn: &mut PgConnection) -> Result<Vec<Known>, MigrateError> {
    let rows = sqlx::query!(
        r#"SELECT d.id, d.kind, d.tenant_id, d.status, d.server_identifier, d.host, d.port, d.name, l.sealed AS "sealed?"
        FROM registry.databases AS d
        LEFT JOIN registry.database_logins AS l ON l.database_id = d.id AND l.role = $1
        ORDER BY d.kind, d.id"#,
        LoginRole::Mover.as_str()
    )
    .fetch_all(conn)
    .await
    .map_err(during("listing the databases"))?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            Some(Known {
                id: DatabaseId::from_uuid(row.id),
                // The table's own rule: a tenant exactly for a dedicated database.
                kind: DatabaseKind::from_stored(&row.kind, row.tenant_id)?,
                ready: row.status == "ready",
                server_identifier: row.server_identifier,
                place: format!("{}:{}/{}", row.host, row.port, row.name),
                sealed: row.sealed,
            })
        })
        .collect())
}

/// What the registry's records say that cannot be.
async fn records(
    conn: &mut PgConnection,
    place: &str,
    known: &[Known],
) -> Result<Vec<Finding>, MigrateError> {
    let mut found = doubled(place, known);
    let rows = sqlx::query!(
        r#"SELECT p.tenant_id AS tenant, b.tenant_id AS "owner!", own.id AS "own?"
        FROM registry.directory AS p
        JOIN registry.databases AS b ON b.id = p.database_id
        LEFT JOIN registry.databases AS own ON own.tenant_id = p.tenant_id
        WHERE b.kind = 'dedicated' AND b.tenant_id IS DISTINCT FROM p.tenant_id
        ORDER BY p.tenant_id"#
    )
    .fetch_all(conn)
    .await
    .map_err(during("comparing the directory with the databases"))?;
    for row in rows {
        found.push(misplaced(
            place,
            TenantId::from_uuid(row.tenant),
            TenantId::from_uuid(row.owner),
            row.own,
        ));
    }
    Ok(found)
}

fn misplaced(place: &str, tenant: TenantId, owner: TenantId, own: Option<Uuid>) -> Finding {
    let placed = match own {
        Some(own) => format!(
            "UPDATE registry.directory SET database_id = '{own}', placement = 'dedicated', updated_at = now() \
             WHERE tenant_id = '{tenant}';"
        ),
        None => format!("DELETE FROM registry.directory WHERE tenant_id = '{tenant}';"),
    };
    Finding {
        level: Level::Hole,
        lint: "directory-wrong",
        database: place.to_owned(),
        object: format!("placement of tenant {tenant}"),
        why: format!("it is directed to the database that is tenant {owner}'s own"),
        mend: format!(
            "BEGIN;\nUPDATE registry.version SET version = version + 1, updated_at = now();\n{placed}\n\
             UPDATE registry.tenants SET version = (SELECT version FROM registry.version) WHERE id = '{tenant}';\nCOMMIT;"
        ),
    }
}

/// Rows that name one place: two tenants in it would each believe to be alone.
fn doubled(place: &str, known: &[Known]) -> Vec<Finding> {
    let tenants: Vec<&Known> =
        known.iter().filter(|database| database.kind != DatabaseKind::Registry).collect();
    let mut found = Vec::new();
    for (n, database) in tenants.iter().enumerate() {
        if let Some(first) = tenants[..n].iter().find(|first| first.place == database.place) {
            // Of one that is in use and one that is not, the one that is not; else the newer.
            let other = if (first.ready, database.id.as_uuid()) > (database.ready, first.id.as_uuid()) {
                database
            } else {
                first
            };
            found.push(Finding {
                level: Level::Hole,
                lint: "database-twice",
                database: place.to_owned(),
                object: database.place.clone(),
                why: format!("the registry has it as {} and as {}", first.id, database.id),
                mend: format!(
                    "-- The marker in that database says which of the two is right; this removes the other if nobody is placed in it:\n\
                     DELETE FROM registry.databases WHERE id = '{}';",
                    other.id
                ),
            });
        }
    }
    found
}

/// What is the whole server's shows in each of its databases, and is told once.
fn once_a_server(found: Vec<Finding>) -> Vec<Finding> {
    let mut told = HashSet::new();
    let mut kept = Vec::with_capacity(found.len());
    for finding in found {
        let of_server = finding.lint == "setting" && !finding.object.contains(" in ");
        // Servers are not told apart: the same setting on two of them is mended on both by what is told once.
        if !of_server || told.insert((finding.level, finding.object.clone())) {
            kept.push(finding);
        }
    }
    kept
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(id: u128, kind: DatabaseKind, place: &str) -> Known {
        Known {
            id: DatabaseId::from_uuid(Uuid::from_u128(id)),
            kind,
            ready: true,
            server_identifier: "1".to_owned(),
            place: place.to_owned(),
            sealed: None,
        }
    }

    #[test]
    fn the_registry_may_share_its_place_and_no_two_others_may() {
        let registry = known(1, DatabaseKind::Registry, "db:5432/a");
        let shared = known(2, DatabaseKind::Shared, "db:5432/a");
        assert_eq!(doubled("r", &[registry.clone(), shared.clone()]), []);
        let tenant = TenantId::from_uuid(Uuid::from_u128(9));
        let twice = known(3, DatabaseKind::Dedicated(tenant), "db:5432/a");
        let found = doubled("r", &[registry, shared, twice]);
        assert_eq!((found.len(), found[0].lint), (1, "database-twice"));
    }

    #[test]
    fn a_tenant_that_is_sent_elsewhere_goes_to_its_own_database_or_nowhere() {
        let [tenant, owner] = [1, 2].map(|id| TenantId::from_uuid(Uuid::from_u128(id)));
        let own = Uuid::from_u128(5);
        assert!(misplaced("r", tenant, owner, Some(own)).mend.contains(&format!("database_id = '{own}'")));
        assert!(misplaced("r", tenant, owner, None).mend.contains("DELETE FROM registry.directory"));
    }

    #[test]
    fn a_setting_of_the_server_is_told_once_and_one_of_a_database_each_time() {
        let finding = |object: &str| Finding {
            level: Level::Hole,
            lint: "setting",
            database: "db".to_owned(),
            object: object.to_owned(),
            why: String::new(),
            mend: String::new(),
        };
        let server = finding("row_security of role stagesub_app");
        let database = finding("row_security of every role in orchestras");
        let found = vec![server.clone(), database.clone(), server, database];
        assert_eq!(once_a_server(found).len(), 3);
    }
}
