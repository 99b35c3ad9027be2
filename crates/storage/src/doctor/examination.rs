//! One database, examined over one connection.

use sqlx::PgConnection;

use super::design::Holds;
use super::expectations::Expectations;
use super::lints::Of;
use super::report::{Finding, Level, Report};
use super::rows::Identity;
use super::{acl, guards, lints, move_logs, rows, tables};
use crate::catalogue::{self, Table};
use crate::error::sqlstate;
use crate::hardening;
use crate::marker::DatabaseKind;
use crate::migrate::MigrateError;
use crate::migrate::sets::MigrationSet;
use crate::roles;

/// Names are resolved in `pg_catalog` alone, so that definitions come back with every other schema written out;
/// REPEATABLE READ, so that all lints see one state.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL statement_timeout = '30s'; SET LOCAL lock_timeout = '5s'";

/// Examines one database of tenants, its server's roles and settings included, over this connection. It must not be
/// inside a transaction.
///
/// The connection may be any login's. What it may not see is reported as `not-examined`.
///
/// # Errors
/// [`DoctorError::Database`]: the connection is lost, or a lint failed.
///
/// # Cancel safety
/// A future that is dropped may leave a read-only transaction open: drop the connection too.
pub async fn examine(conn: &mut PgConnection, expected: &Expectations) -> Result<Report, DoctorError> {
    let named = sqlx::query_scalar("SELECT current_database()::text").fetch_one(&mut *conn).await;
    let database: String = named.map_err(|source| DoctorError::Database {
        database: "the database".to_owned(),
        doing: "asking its name",
        source,
    })?;
    let look = Look { catalogue: true, server: true, sets: Sets::WhatIsThere, identity: None };
    let found = Examination { conn, database: &database, expected, found: Vec::new() }.run(look).await?;
    Ok(found.into_iter().collect())
}

/// What to look at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// The catalogue, or the rows alone.
    pub(super) catalogue: bool,
    /// Roles and settings of the whole server as well.
    pub(super) server: bool,
    /// Whose marker and versions.
    pub(super) sets: Sets,
    /// Which database it is meant to be.
    pub(super) identity: Option<Identity>,
}

/// Sets of migrations to look at.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sets {
    /// Whichever this database has.
    WhatIsThere,
    /// This one, which it should have.
    Just(MigrationSet),
}

/// One examination.
pub(super) struct Examination<'a> {
    pub(super) conn: &'a mut PgConnection,
    /// What the database is called in findings.
    pub(super) database: &'a str,
    pub(super) expected: &'a Expectations,
    pub(super) found: Vec<Finding>,
}

impl Examination<'_> {
    /// Looks, and ends its transaction.
    pub(super) async fn run(mut self, look: Look) -> Result<Vec<Finding>, DoctorError> {
        self.say(BEGIN, "beginning").await?;
        let holds = self.holds().await?;
        let tables = self.tables().await?;
        if look.catalogue {
            self.catalogue(look.server, holds, &tables).await?;
        }
        let sets: &[MigrationSet] = match look.sets {
            Sets::Just(MigrationSet::Registry) => &[MigrationSet::Registry],
            Sets::WhatIsThere if holds.registry && holds.tenants => {
                &[MigrationSet::Registry, MigrationSet::Tenant]
            }
            Sets::WhatIsThere if holds.registry => &[MigrationSet::Registry],
            Sets::Just(MigrationSet::Tenant) | Sets::WhatIsThere => &[MigrationSet::Tenant],
        };
        for set in sets {
            self.rows(*set, look.identity, &tables).await?;
        }
        self.say("ROLLBACK", "ending").await?;
        Ok(self.found)
    }

    async fn holds(&mut self) -> Result<Holds, DoctorError> {
        let schemas: Result<(bool, bool), _> = sqlx::query_as(
            // Not by to_regclass, which refuses a login that may not use the schema.
            "SELECT to_regnamespace('registry') IS NOT NULL, to_regnamespace('app') IS NOT NULL",
        )
        .fetch_one(&mut *self.conn)
        .await;
        let (registry, tenants) =
            schemas.map_err(|source| self.failed("looking for the platform's schemas", source))?;
        Ok(Holds { registry, tenants })
    }

    async fn tables(&mut self) -> Result<Vec<Table>, DoctorError> {
        let read = catalogue::read(&mut *self.conn, &self.expected.data).await;
        read.map_err(|source| self.failed("reading the tables", source))
    }

    async fn catalogue(&mut self, server: bool, holds: Holds, tables: &[Table]) -> Result<(), DoctorError> {
        let (database, expected) = (self.database, self.expected);
        self.found.extend(tables::examine_tables(database, tables, &expected.reference));
        if server {
            self.server().await?;
        }
        if holds.tenants {
            let read = catalogue::read(&mut *self.conn, &["app".to_owned()]).await;
            let done = read.map(|tables| tables::examine_fence_table(database, &tables));
            self.record("the table of fences", done).await?;
            let done = guards::findings(&mut *self.conn, database).await;
            self.record("the routines of schema app", done).await?;
            let done = move_logs::findings(&mut *self.conn, database).await;
            self.record("logs of moves", done).await?;
        }
        for lint in lints::all().filter(|lint| server || lint.of == Of::Database) {
            let done = lint.findings(&mut *self.conn, database, expected).await;
            self.record(lint.name, done).await?;
        }
        let done = acl::findings(&mut *self.conn, database, expected, holds).await;
        self.record("grants", done).await?;
        let done = hardening::open_functions(&mut *self.conn).await.map(|open| self.still_open(&open));
        self.record("functions open to PUBLIC", done).await
    }

    /// Roles that are missing, and what they lack.
    async fn server(&mut self) -> Result<(), DoctorError> {
        let missing: Result<Vec<String>, _> = sqlx::query_scalar(
            "SELECT r FROM unnest($1::text[]) AS r WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = r)",
        )
        .bind(ROLES)
        .fetch_all(&mut *self.conn)
        .await;
        let done = missing.map(|missing| {
            let why = "without it the platform's privileges have nobody to be granted to";
            let mend = roles::BOOTSTRAP_ROLES.trim_end();
            let found = |role| self.finding(Level::Hole, "role-missing", format!("role {role}"), why, mend);
            missing.into_iter().map(found).collect()
        });
        self.record("roles", done).await?;
        let lacking = roles::missing_attributes(&mut *self.conn).await;
        let done = lacking.map(|lacking| {
            let why = "the roles lack an attribute or a setting that this needs";
            let found = |(name, sql): (&str, &str)| {
                self.finding(
                    Level::Partial,
                    "role-attribute-missing",
                    name.to_owned(),
                    why,
                    &format!("{sql};"),
                )
            };
            lacking.into_iter().map(found).collect()
        });
        self.record("attributes of the roles", done).await
    }

    fn still_open(&self, open: &[String]) -> Vec<Finding> {
        if open.is_empty() {
            return Vec::new();
        }
        let report = hardening::report(open, self.database);
        vec![self.finding(Level::Partial, "hardening-missing", report.name, &report.why, &report.sql)]
    }

    async fn rows(
        &mut self,
        set: MigrationSet,
        identity: Option<Identity>,
        tables: &[Table],
    ) -> Result<(), DoctorError> {
        let read = rows::marker(&mut *self.conn, self.database, set, identity).await;
        let marker = match &read {
            Ok((marker, _)) => *marker,
            Err(_) => None,
        };
        self.record("the marker", read.map(|(_, found)| found)).await?;
        // Without the schema there is no list of migrations either.
        let listed = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_class AS c
                JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                WHERE concat_ws('.', n.nspname, c.relname) = $1)",
        )
        .bind(set.table())
        .fetch_one(&mut *self.conn)
        .await;
        let listed: bool =
            listed.map_err(|source| self.failed("looking for the list of migrations", source))?;
        if !listed {
            return Ok(());
        }
        let kind = identity.map(|identity| identity.kind).or(marker.map(|marker| marker.kind));
        let level =
            if matches!(kind, Some(DatabaseKind::Dedicated(_))) { Level::Partial } else { Level::Hole };
        let done = rows::versions(&mut *self.conn, self.database, set, level, identity.is_some()).await;
        self.record("the applied migrations", done).await?;
        if let (MigrationSet::Tenant, Some(DatabaseKind::Dedicated(tenant))) = (set, kind) {
            let done = rows::of_others(&mut *self.conn, self.database, tenant, tables).await;
            self.record("rows of other tenants", done).await?;
        }
        Ok(())
    }

    fn finding(&self, level: Level, lint: &'static str, object: String, why: &str, mend: &str) -> Finding {
        let database = self.database.to_owned();
        Finding { level, lint, database, object, why: why.to_owned(), mend: mend.to_owned() }
    }

    /// Keeps what a lint found. What it was refused is said, and the next lint begins anew: a transaction does not
    /// go on after an error.
    async fn record(
        &mut self,
        what: &'static str,
        done: Result<Vec<Finding>, sqlx::Error>,
    ) -> Result<(), DoctorError> {
        match done {
            Ok(found) => {
                self.found.extend(found);
                Ok(())
            }
            Err(error) if cannot_look(&error) => {
                let mend = "-- Examine it as a login that may look: `stagesub doctor` uses the platform's own, and a \
                            superuser sees everything.";
                let why = error.to_string();
                self.found.push(not_examined(self.database, what, &why, mend));
                self.say("ROLLBACK", "beginning anew").await?;
                self.say(BEGIN, "beginning anew").await
            }
            Err(source) => Err(self.failed(what, source)),
        }
    }

    async fn say(&mut self, sql: &'static str, doing: &'static str) -> Result<(), DoctorError> {
        sqlx::raw_sql(sql).execute(&mut *self.conn).await.map_err(|source| self.failed(doing, source))?;
        Ok(())
    }

    fn failed(&self, doing: &'static str, source: sqlx::Error) -> DoctorError {
        DoctorError::Database { database: self.database.to_owned(), doing, source }
    }
}

/// Whether the login may not see it (42501), or a role that it is about is not there (42704).
fn cannot_look(error: &sqlx::Error) -> bool {
    matches!(sqlstate(error).as_deref(), Some("42501" | "42704"))
}

/// The platform's roles.
const ROLES: [&str; 6] = [
    "stagesub_owner",
    "stagesub_migrator",
    "stagesub_app",
    "stagesub_auth",
    "stagesub_control",
    "stagesub_mover",
];

/// What was not looked at, and why.
pub(super) fn not_examined(database: &str, what: &str, why: &str, mend: &str) -> Finding {
    Finding {
        level: Level::Partial,
        lint: "not-examined",
        database: database.to_owned(),
        object: what.to_owned(),
        why: format!("it was not looked at: {why}"),
        mend: mend.to_owned(),
    }
}

/// An examination came to no end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DoctorError {
    /// The registry cannot be asked which databases there are.
    #[error(transparent)]
    Registry(#[from] MigrateError),
    /// A database answered with an error, or no more.
    #[error("{database} could not be examined ({doing})")]
    Database {
        /// Which.
        database: String,
        /// What was being looked at.
        doing: &'static str,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
}
