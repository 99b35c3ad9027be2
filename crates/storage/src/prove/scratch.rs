//! A database that is made to be attacked without its guards, and dropped.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use stagesub_tenancy::{BoxError, DatabaseId, PlacementEpoch, TenantId, TenantScope};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::error::ProveError;
use super::path::DataPath;
use super::session::{Session, reach};
use crate::catalogue::TableName;
use crate::databases::{close_to_public, create_if_missing};
use crate::factory::TenantDb;
use crate::fence::admit_tenant;
use crate::marker::{DatabaseKind, Marker, read_tenant_marker};
use crate::migrate::error::during;
use crate::migrate::session;
use crate::migrate::sets::MigrationSet;
use crate::roles::{OWNER, quote};
use crate::target::ConnectionTarget;

/// How scratch databases are named; an id follows, and in it the time.
const PREFIX: &str = "stagesub_scratch_";
/// What is older was left behind.
const LEFT_BEHIND_AFTER: Duration = Duration::from_hours(1);
/// How long a database is tried to be dropped while connections to it end.
const DROP_WITHIN: Duration = Duration::from_secs(15);
/// Between two tries.
const DROP_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// The epoch at which the made-up tenants are admitted.
const EPOCH: PlacementEpoch = PlacementEpoch(1);

/// What a scratch database holds.
///
/// Futures are `Send`, and the trait is used as `&dyn Sample`.
#[async_trait]
pub trait Sample: Send + Sync {
    /// Makes the service's own tables, with the migrator's login on the scratch database. What this crate's
    /// migrations make is there.
    async fn prepare(&self, migrator: &ConnectionTarget) -> Result<(), BoxError> {
        let _ = migrator;
        Ok(())
    }

    /// Gives one tenant at least one row in every table. Called for one made-up tenant after the other, on
    /// the data path that the service uses.
    async fn seed(&self, db: &TenantDb, scope: &TenantScope) -> Result<(), BoxError>;
}

/// Where scratch databases are made.
#[derive(Debug, Clone)]
pub struct ScratchSettings {
    pub(super) migrator: ConnectionTarget,
    pub(super) app: ConnectionTarget,
    pub(super) schemas: Vec<String>,
    pub(super) reference: Vec<TableName>,
    pub(super) hardened: bool,
}

impl ScratchSettings {
    /// Beside the shared database of `migrator`, which may create databases; attacked as `app`. Both are
    /// logins on that shared database, which is used to create and drop the scratch database and for nothing
    /// else.
    #[must_use]
    pub fn new(migrator: ConnectionTarget, app: ConnectionTarget) -> Self {
        Self {
            migrator,
            app,
            schemas: vec![super::TENANT_SCHEMA.to_owned()],
            reference: Vec::new(),
            hardened: true,
        }
    }

    /// The schemas of tenant data, in place of `tenant`.
    #[must_use]
    pub fn schemas(mut self, schemas: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.schemas = schemas.into_iter().map(Into::into).collect();
        self
    }

    /// Tables in them that belong to no tenant on purpose.
    #[must_use]
    pub fn reference_tables(mut self, tables: impl IntoIterator<Item = TableName>) -> Self {
        self.reference = tables.into_iter().collect();
        self
    }

    /// Leaves out suite `hardening`, as [`DatabaseProof::without_hardening`](super::DatabaseProof::without_hardening).
    #[must_use]
    pub fn without_hardening(mut self) -> Self {
        self.hardened = false;
        self
    }
}

/// A scratch database. Only this type's [`Scratch::bench`] changes guards, and only after it has read the mark
/// that [`Scratch::fill`] leaves.
pub(super) struct Scratch {
    pub(super) settings: ScratchSettings,
    pub(super) migrator: ConnectionTarget,
    pub(super) app: ConnectionTarget,
    pub(super) attacker: TenantId,
    pub(super) victim: TenantId,
    database: DatabaseId,
    path: Option<DataPath>,
    /// It may be there and is to be dropped.
    standing: bool,
}

impl Scratch {
    /// Drops what earlier runs left and makes a database. It is there for nobody: no registry knows its id, and
    /// a database that a registry does not know is not served.
    pub(super) async fn create(settings: &ScratchSettings) -> Result<Self, ProveError> {
        let database = DatabaseId::from_uuid(Uuid::now_v7());
        let name = format!("{PREFIX}{}", database.as_uuid().as_simple());
        let mut server = session::Session::open(&settings.migrator).await.map_err(ProveError::Migrate)?;
        sweep(&mut server.conn).await.map_err(|source| ProveError::Failed {
            target: settings.migrator.describe(),
            doing: "dropping scratch databases that were left behind".to_owned(),
            source,
        })?;
        let scratch = Self {
            settings: settings.clone(),
            migrator: settings.migrator.with_database(&name),
            app: settings.app.with_database(&name),
            attacker: TenantId::from_uuid(Uuid::now_v7()),
            victim: TenantId::from_uuid(Uuid::now_v7()),
            database,
            path: None,
            standing: true,
        };
        create_if_missing(&mut server.conn, &scratch.migrator).await.map_err(ProveError::Migrate)?;
        server.close().await.map_err(ProveError::Migrate)?;
        Ok(scratch)
    }

    /// Migrates it, marks it as what it is, makes the service's tables and admits the two tenants.
    pub(super) async fn fill(&mut self, sample: &dyn Sample) -> Result<(), ProveError> {
        let kind = DatabaseKind::Shared;
        let wanted = Marker { kind, database: self.database, demo: false };
        let migrated = async {
            let mut session = session::Session::open(&self.migrator).await?;
            close_to_public(&mut session, kind).await?;
            MigrationSet::Tenant.apply(&mut session, None, &wanted).await?;
            let mark = format!(
                "CREATE TABLE app.scratch (database_id uuid PRIMARY KEY);
                 COMMENT ON TABLE app.scratch IS 'This database was made to be attacked, and nobody''s data is in it.';
                 INSERT INTO app.scratch (database_id) VALUES ('{}')",
                self.database
            );
            session.become_owner().await?;
            let marked = sqlx::raw_sql(AssertSqlSafe(mark));
            session.conn.execute(marked).await.map_err(during("marking the scratch database"))?;
            session.close().await
        };
        migrated.await.map_err(ProveError::Migrate)?;
        let failed = |doing| move |source| ProveError::Sample { doing, source };
        sample.prepare(&self.migrator).await.map_err(failed("preparing"))?;
        let mut app = Session::open(&self.app).await?;
        let mut path = DataPath::open(&mut app, &self.app).await?;
        app.close().await?;
        for tenant in [self.victim, self.attacker] {
            admit_tenant(&self.migrator, tenant, EPOCH).await.map_err(|source| ProveError::Sample {
                doing: "admitting the tenants",
                source: Box::new(source),
            })?;
            path.place(tenant, EPOCH);
        }
        self.path = Some(path);
        Ok(())
    }

    /// Gives a tenant its rows.
    pub(super) async fn seed(&self, sample: &dyn Sample, tenant: TenantId) -> Result<(), ProveError> {
        let failed = |source| ProveError::Sample { doing: "seeding", source };
        let Some(path) = &self.path else { return Ok(()) };
        let scope = path.scope(tenant).await.map_err(failed)?;
        sample.seed(&path.tenants(), &scope).await.map_err(failed)
    }

    /// The epoch at which both are served.
    pub(super) const fn epoch() -> i64 {
        EPOCH.0
    }

    /// Where guards are removed.
    ///
    /// # Errors
    /// [`ProveError::NotScratch`] where the mark is not there or names another database.
    pub(super) async fn bench(&self) -> Result<Bench, ProveError> {
        Bench::open(&self.migrator, self.database).await
    }

    /// Drops it.
    pub(super) async fn remove(mut self) -> Result<(), ProveError> {
        if let Some(path) = self.path.take() {
            path.close().await;
        }
        drop_database(&self.settings.migrator, self.migrator.database()).await?;
        self.standing = false;
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.standing {
            return;
        }
        let (server, name) = (self.settings.migrator.clone(), self.migrator.database().to_owned());
        let path = self.path.take();
        // Without a runtime, the next run drops it.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                if let Some(path) = path {
                    path.close().await;
                }
                if let Err(error) = drop_database(&server, &name).await {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        name,
                        "a scratch database was left behind"
                    );
                }
            });
        }
    }
}

/// The owner of a scratch database, who changes its guards.
pub(super) struct Bench {
    conn: PgConnection,
    target: String,
}

impl Bench {
    async fn open(migrator: &ConnectionTarget, database: DatabaseId) -> Result<Self, ProveError> {
        let target = migrator.describe();
        let not_scratch = || ProveError::NotScratch { target: target.clone() };
        if !migrator.database().starts_with(PREFIX) {
            return Err(not_scratch());
        }
        let mut conn = reach(migrator).await?;
        let marker = read_tenant_marker(&mut conn)
            .await
            .map_err(|source| ProveError::Marker { target: target.clone(), source })?;
        if marker.is_none_or(|marker| marker.database != database) {
            return Err(not_scratch());
        }
        let is_there: bool = sqlx::query_scalar("SELECT to_regclass('app.scratch') IS NOT NULL")
            .fetch_one(&mut conn)
            .await
            .map_err(|source| failed(&target, "looking for the mark of a scratch database", source))?;
        if !is_there {
            return Err(not_scratch());
        }
        let named: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM app.scratch WHERE database_id = $1)")
                .bind(database.as_uuid())
                .fetch_one(&mut conn)
                .await
                .map_err(|source| failed(&target, "reading the mark of a scratch database", source))?;
        if named { Ok(Self { conn, target }) } else { Err(not_scratch()) }
    }

    /// Runs statements in one transaction, as `role`.
    pub(super) async fn change(&mut self, role: &str, sql: &str) -> Result<(), ProveError> {
        let text = format!("BEGIN;SET LOCAL ROLE {role};{sql};COMMIT");
        let run = self.conn.execute(sqlx::raw_sql(AssertSqlSafe(text)));
        run.await.map(drop).map_err(|source| failed(&self.target, "changing a guard", source))
    }

    /// Reads texts.
    pub(super) async fn read(&mut self, sql: String) -> Result<Vec<String>, ProveError> {
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_all(&mut self.conn)
            .await
            .map_err(|source| failed(&self.target, "reading a guard", source))
    }

    /// Ends the connection.
    pub(super) async fn close(self) -> Result<(), ProveError> {
        self.conn.close().await.map_err(|source| failed(&self.target, "closing the connection", source))
    }
}

fn failed(target: &str, doing: &str, source: sqlx::Error) -> ProveError {
    ProveError::Failed { target: target.to_owned(), doing: doing.to_owned(), source }
}

/// Drops a database, waiting for connections that are ending.
async fn drop_database(server: &ConnectionTarget, name: &str) -> Result<(), ProveError> {
    let target = server.describe();
    let mut conn = reach(server).await?;
    let give_up = tokio::time::Instant::now() + DROP_WITHIN;
    loop {
        let statement = format!("DROP DATABASE IF EXISTS {}", quote(name));
        match conn.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await {
            Ok(_) => break,
            Err(error) if is_in_use(&error) && tokio::time::Instant::now() < give_up => {
                tokio::time::sleep(DROP_AGAIN_AFTER).await;
            }
            Err(source) => return Err(failed(&target, "dropping the scratch database", source)),
        }
    }
    conn.close().await.map_err(|source| failed(&target, "closing the connection", source))
}

/// Somebody is connected to it.
fn is_in_use(error: &sqlx::Error) -> bool {
    crate::error::sqlstate(error).as_deref() == Some("55006")
}

/// Drops scratch databases of runs that were killed.
async fn sweep(server: &mut PgConnection) -> Result<(), sqlx::Error> {
    let found: Vec<(String, i64)> = sqlx::query_as(
        "SELECT datname::text, extract(epoch FROM now())::bigint FROM pg_catalog.pg_database
         WHERE starts_with(datname, $1) AND pg_get_userbyid(datdba) = $2 ORDER BY datname",
    )
    .bind(PREFIX)
    .bind(OWNER)
    .fetch_all(&mut *server)
    .await?;
    for (name, now) in found {
        if !made_before(&name, now) {
            continue;
        }
        let statement = format!("DROP DATABASE IF EXISTS {}", quote(&name));
        match server.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await {
            Ok(_) => tracing::info!(name, "dropped a scratch database that was left behind"),
            Err(error) if is_in_use(&error) => tracing::debug!(name, "a scratch database is still in use"),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether a database with this name was made so long before `now` (seconds of Unix time) that its run is over.
fn made_before(name: &str, now: i64) -> bool {
    let made = name
        .strip_prefix(PREFIX)
        .and_then(|id| Uuid::try_parse(id).ok())
        .and_then(|id| id.get_timestamp())
        .and_then(|time| i64::try_from(time.to_unix().0).ok());
    let age = LEFT_BEHIND_AFTER.as_secs().cast_signed();
    made.is_some_and(|made| now.saturating_sub(made) > age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_scratch_databases_are_left_behind() {
        // 2026-11-23T00:00:00Z
        let made: i64 = 1_795_392_000;
        let stamp = uuid::Timestamp::from_unix(uuid::NoContext, made.cast_unsigned(), 0);
        let name = format!("{PREFIX}{}", Uuid::new_v7(stamp).as_simple());
        assert!(name.len() <= 63);
        assert!(!made_before(&name, made + 3_600));
        assert!(made_before(&name, made + 3_601));
        assert!(!made_before("stagesub_t_0123456789abcdef0123456789abcdef", i64::MAX));
        assert!(!made_before(PREFIX, i64::MAX));
    }

    #[tokio::test]
    async fn guards_of_another_database_are_left_alone() {
        let migrator =
            ConnectionTarget::parse("postgres://stagesub_migrator:x@127.0.0.1:1/orchestras").unwrap();
        // It does not even connect.
        let opened = Bench::open(&migrator, DatabaseId::from_uuid(Uuid::now_v7())).await;
        assert!(matches!(opened, Err(ProveError::NotScratch { .. })));
    }
}
