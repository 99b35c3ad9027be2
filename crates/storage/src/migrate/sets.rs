//! The two sets of migrations, and the schema each starts with.

use std::sync::LazyLock;

use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::error::{MigrateError, during};
use super::session::Session;
use crate::marker::{self, Marker};

static REGISTRY: Migrator = sqlx::migrate!("./migrations/registry");
/// What binds transactions to tenants, in every database that holds some.
static APP: Migrator = sqlx::migrate!("./migrations/app");
/// The orchestra's tables. Another service has its own.
#[cfg(feature = "orchestra")]
static ORCHESTRA: Migrator = sqlx::migrate!("./migrations/tenant");

/// The whole set of a database that holds tenants, in order.
static TENANT: LazyLock<Migrator> = LazyLock::new(|| {
    let migrations = APP.iter().cloned();
    #[cfg(feature = "orchestra")]
    let migrations = migrations.chain(ORCHESTRA.iter().cloned());
    let mut migrations: Vec<_> = migrations.collect();
    migrations.sort_by_key(|migration| migration.version);
    Migrator::with_migrations(migrations)
});

/// A set of migrations. One database may hold both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MigrationSet {
    /// Schema `registry`.
    Registry,
    /// Schema `app`, and with the feature `orchestra` the tables of schema `tenant`.
    Tenant,
}

impl MigrationSet {
    /// The word for messages.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Tenant => "tenant",
        }
    }

    /// Versions that every database of this kind needs, whatever its service keeps in it.
    pub(crate) fn common(self) -> Vec<i64> {
        let common = match self {
            Self::Registry => &REGISTRY,
            Self::Tenant => &APP,
        };
        common.iter().map(|migration| migration.version).collect()
    }

    /// The newest migration this program knows; 0 for an empty set.
    pub(crate) fn newest(self) -> i64 {
        self.source().iter().map(|migration| migration.version).max().unwrap_or(0)
    }

    const fn bootstrap(self) -> &'static str {
        match self {
            Self::Registry => include_str!("../../migrations/bootstrap/registry.sql"),
            Self::Tenant => include_str!("../../migrations/bootstrap/tenant.sql"),
        }
    }

    /// The schemas the set makes. Where the marker is missing, none of them may be there.
    const fn schemas(self) -> &'static [&'static str] {
        match self {
            Self::Registry => &["registry"],
            Self::Tenant => &["app", "tenant"],
        }
    }

    pub(crate) const fn table(self) -> &'static str {
        match self {
            Self::Registry => "registry.migrations",
            Self::Tenant => "app.migrations",
        }
    }

    pub(crate) fn source(self) -> &'static Migrator {
        match self {
            Self::Registry => &REGISTRY,
            Self::Tenant => &TENANT,
        }
    }

    /// Brings a database to this program's schema and says which migrations that took.
    ///
    /// `found` is the marker that was read before; where there is none, `wanted` is written together with
    /// the schema it stands in. The session acts as the owner when this returns without an error.
    pub(crate) async fn apply(
        self,
        session: &mut Session,
        found: Option<&Marker>,
        wanted: &Marker,
    ) -> Result<Vec<i64>, MigrateError> {
        if found.is_none() {
            self.refuse_taken_schemas(session).await?;
        }
        session.become_owner().await?;
        self.begin_schema(session, found, wanted).await?;
        let before = self.applied(&mut session.conn).await?;
        let (newest, known) = (before.iter().copied().max().unwrap_or(0), self.newest());
        if newest > known {
            return Err(MigrateError::NewerSchema {
                target: session.target.clone(),
                set: self.as_str(),
                applied: newest,
                known,
            });
        }
        let mut migrator = Migrator::with_migrations(self.source().iter().cloned().collect());
        migrator.dangerous_set_table_name(self.table());
        migrator.run_direct(None, &mut session.conn, false).await.map_err(|source| {
            MigrateError::Migration { target: session.target.clone(), set: self.as_str(), source }
        })?;
        let after = self.applied(&mut session.conn).await?;
        Ok(after.into_iter().filter(|version| !before.contains(version)).collect())
    }

    /// Schema, marker and list of migrations in one transaction: a marker that is there proves that the
    /// schema is the platform's.
    async fn begin_schema(
        self,
        session: &mut Session,
        found: Option<&Marker>,
        wanted: &Marker,
    ) -> Result<(), MigrateError> {
        let doing = "making the platform's schema";
        let target = session.target.clone();
        let mut tx = session.conn.begin().await.map_err(during(doing))?;
        sqlx::raw_sql(self.bootstrap()).execute(&mut *tx).await.map_err(during(doing))?;
        if found.is_none() {
            marker::write_marker(&mut tx, wanted)
                .await
                .map_err(|source| MigrateError::Marker { target, source })?;
        }
        tx.commit().await.map_err(during(doing))
    }

    pub(crate) async fn refuse_taken_schemas(self, session: &mut Session) -> Result<(), MigrateError> {
        let names: Vec<String> = self.schemas().iter().map(|&name| name.to_owned()).collect();
        let taken = sqlx::query_scalar!(
            r#"SELECT nspname::text AS "name!" FROM pg_catalog.pg_namespace
            WHERE nspname::text = ANY ($1) ORDER BY 1 LIMIT 1"#,
            &names
        )
        .fetch_optional(&mut session.conn)
        .await
        .map_err(during("looking for the platform's schemas"))?;
        match taken {
            Some(schema) => Err(MigrateError::SchemaTaken { target: session.target.clone(), schema }),
            None => Ok(()),
        }
    }

    /// The versions that were applied, in order.
    pub(crate) async fn applied(self, conn: &mut PgConnection) -> Result<Vec<i64>, MigrateError> {
        let statement = format!("SELECT version FROM {} ORDER BY version", self.table());
        sqlx::query_scalar(AssertSqlSafe(statement))
            .fetch_all(conn)
            .await
            .map_err(during("reading the applied migrations"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_set_is_compiled_in_and_in_order() {
        let versions: Vec<i64> = REGISTRY.iter().map(|migration| migration.version).collect();
        assert!(versions.is_sorted());
        assert_eq!(MigrationSet::Registry.newest(), *versions.last().unwrap());
    }

    #[test]
    fn each_migration_says_why_it_is_there() {
        for migration in REGISTRY.iter().chain(APP.iter()).chain(TENANT.iter()) {
            let sql = migration.sql.as_str();
            assert!(sql.starts_with("-- "), "{}_{}", migration.version, migration.description);
        }
    }

    /// A service that embeds this crate gets the fence without an orchestra.
    #[test]
    fn what_binds_tenants_stands_apart_from_what_orchestras_keep() {
        let routine = |sql: &str| {
            ["FUNCTION app.", "PROCEDURE app.", "TABLE app."].iter().any(|made| sql.contains(made))
        };
        for migration in TENANT.iter() {
            let common = APP.iter().any(|known| known.version == migration.version);
            let name = format!("{}_{}", migration.version, migration.description);
            let sql = migration.sql.as_str();
            assert!(common || !routine(sql), "{name} changes schema app, so it belongs in migrations/app");
            assert!(!common || !sql.contains("TABLE tenant."), "{name} belongs in migrations/tenant");
        }
        assert!(!APP.iter().collect::<Vec<_>>().is_empty());
        assert!(TENANT.iter().map(|migration| migration.version).is_sorted());
    }
}
