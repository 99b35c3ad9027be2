//! The platform's databases as its administrators see them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use serde_json::json;
use sqlx::Connection;
use stagesub_domain::audit::AuditEntry;
use stagesub_domain::error::{DatabaseError, StoreError};
use stagesub_domain::idempotency::{Asked, Fingerprint};
use stagesub_domain::page::Paged;
use stagesub_domain::ports::databases::{
    AddedDatabase, DatabaseCheck, DatabaseFinding, DatabaseRecord, Holds, NewSharedDatabase,
    PlatformDatabases, SharedPlace,
};
use stagesub_tenancy::moves::MovePath;
use stagesub_tenancy::{DatabaseId, PlacementEpoch, PoolTarget, TenantId};
use tokio::time::timeout;
use uuid::Uuid;

use super::idempotency::{self, Made};
use super::moves::PgMoveRegistry;
use super::tenant_databases::{chain, database_error, named};
use super::{Keys, RegistryPools, audit, commit};
use crate::databases::{AllowedHosts, Home, NewShared, SharedDatabases};
use crate::doctor::{Expectations, examine_known};
use crate::identity::Identity;
use crate::logins::{DatabaseLogins, LoginRole};
use crate::marker::DatabaseKind;
use crate::migrate::logins::set_ready;
use crate::migrate::session;
use crate::moves::preflight::{obstacles_at, sweep};
use crate::moves::session::Site;
use crate::registry::logins::PgDatabaseLogins;
use crate::registry::version::next_version;
use crate::repo::store_error;
use crate::target::ConnectionTarget;

/// How long a server may take to say how large its databases are.
const SIZE_TIMEOUT: Duration = Duration::from_secs(3);
/// Servers that are asked at once.
const SERVERS_AT_ONCE: usize = 8;
/// How long a look at one database may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(45);

/// [`PlatformDatabases`] on Postgres.
#[derive(Clone, Debug)]
pub struct PgPlatformDatabases {
    registry: RegistryPools,
    shared: SharedDatabases,
    logins: PgDatabaseLogins,
    expected: Expectations,
}

/// A row, with what tells its server.
struct Row {
    record: DatabaseRecord,
    server_identifier: String,
}

impl PgPlatformDatabases {
    /// Over the registry and the keys its connection strings are sealed with. Servers may be named that are on the
    /// list; what is made has to be as it is expected.
    #[must_use]
    pub fn new(registry: RegistryPools, keys: Keys, allowed: AllowedHosts, expected: Expectations) -> Self {
        Self {
            logins: PgDatabaseLogins::new(registry.clone(), keys.clone()).naming(allowed.clone()),
            shared: SharedDatabases::new(registry.clone(), keys, allowed, expected.clone()),
            registry,
            expected,
        }
    }

    async fn rows(
        &self,
        after: Option<DatabaseId>,
        only: Option<DatabaseId>,
        limit: i64,
    ) -> Result<Vec<Row>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT d.id, d.kind, d.tenant_id, d.status, d.server_identifier, d.host, d.port, d.name, d.created_at,
                (SELECT count(*) FROM registry.directory AS p WHERE p.database_id = d.id) AS "tenants!"
            FROM registry.databases AS d
            WHERE d.id > $1 AND ($2::uuid IS NULL OR d.id = $2)
            ORDER BY d.id
            LIMIT $3"#,
            after.map_or(Uuid::nil(), DatabaseId::as_uuid),
            only.map(DatabaseId::as_uuid),
            limit
        )
        .fetch_all(self.registry.control())
        .await
        .map_err(store_error)?;
        rows.into_iter()
            .map(|row| {
                let corrupt = || StoreError::Corrupt { table: "registry.databases", id: row.id.to_string() };
                let holds = match (row.kind.as_str(), row.tenant_id) {
                    ("registry", None) => Holds::Registry,
                    ("shared", None) => Holds::Shared,
                    ("dedicated", Some(tenant)) => Holds::Dedicated(TenantId::from_uuid(tenant)),
                    _ => return Err(corrupt()),
                };
                let record = DatabaseRecord {
                    id: DatabaseId::from_uuid(row.id),
                    holds,
                    is_ready: row.status == "ready",
                    port: u16::try_from(row.port).map_err(|_| corrupt())?,
                    host: row.host,
                    name: row.name,
                    tenants: row.tenants,
                    size_bytes: None,
                    created_at: row.created_at,
                };
                Ok(Row { record, server_identifier: row.server_identifier })
            })
            .collect()
    }

    /// Asks each server once how large the databases are. One that does not answer is passed over.
    async fn measured(&self, rows: Vec<Row>) -> Result<Vec<DatabaseRecord>, StoreError> {
        // No login of the platform may connect to both a registry and a database of tenants.
        let mut servers: BTreeMap<(&str, bool), Vec<&DatabaseRecord>> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.record.is_ready) {
            let group = (row.server_identifier.as_str(), row.record.holds == Holds::Registry);
            servers.entry(group).or_default().push(&row.record);
        }
        let asked = servers.into_values().map(|databases| async move {
            timeout(SIZE_TIMEOUT, self.sizes(&databases)).await.ok().flatten().unwrap_or_default()
        });
        let sizes: Vec<HashMap<DatabaseId, i64>> = futures::stream::iter(asked.collect::<Vec<_>>())
            .buffer_unordered(SERVERS_AT_ONCE)
            .collect()
            .await;
        let sizes: HashMap<DatabaseId, i64> = sizes.into_iter().flatten().collect();
        Ok(rows
            .into_iter()
            .map(|row| DatabaseRecord { size_bytes: sizes.get(&row.record.id).copied(), ..row.record })
            .collect())
    }

    /// Sizes of databases of one server, as whichever login of theirs the registry has; `None`: it does not say.
    async fn sizes(&self, databases: &[&DatabaseRecord]) -> Option<HashMap<DatabaseId, i64>> {
        let mut known = HashMap::new();
        for database in databases {
            // The registry has no application; its own login may connect to it.
            let role = match database.holds {
                Holds::Registry => LoginRole::Control,
                Holds::Shared | Holds::Dedicated(_) => LoginRole::Mover,
            };
            let login = self.logins.find_login(database.id, role).await.ok().flatten();
            let Some(login) = login else { continue };
            known = size_of(&login, databases).await.unwrap_or(known);
            break;
        }
        Some(known)
    }

    /// Looks at a database that is reached.
    async fn look(&self, record: &DatabaseRecord, mover: &ConnectionTarget) -> DatabaseCheck {
        let (kind, target) = match record.holds {
            Holds::Registry => return DatabaseCheck::default(),
            Holds::Shared => (DatabaseKind::Shared, PoolTarget::Shared(record.id)),
            Holds::Dedicated(tenant) => {
                let epoch = PlacementEpoch(1);
                (
                    DatabaseKind::Dedicated(tenant),
                    PoolTarget::Dedicated { tenant, database: record.id, epoch },
                )
            }
        };
        let mut check = DatabaseCheck::default();
        match examine_known(mover, kind, record.id, &self.expected).await {
            Ok(report) => check.findings.extend(report.findings().iter().map(|finding| DatabaseFinding {
                level: finding.level.as_str(),
                what: finding.object.clone(),
                why: finding.why.clone(),
                mend: finding.mend.clone(),
            })),
            Err(error) => {
                return DatabaseCheck { unreachable: Some(chain(&error)), ..check };
            }
        }
        let site = Site::new(Uuid::now_v7(), mover.clone(), Identity::of(&target));
        match obstacles_at(&site, &self.expected.contents(), MovePath::Stream).await {
            Ok(obstacles) => check.obstacles = obstacles,
            Err(error) => check.obstacles.push(format!("{}; try again", chain(&error))),
        }
        match site.open("sweep").await {
            Ok(mut session) => {
                match sweep(&mut session, &PgMoveRegistry::new(self.registry.clone())).await {
                    Ok(swept) => {
                        check.removed = swept.removed;
                        check.obstacles.extend(swept.left);
                    }
                    Err(error) => check.obstacles.push(format!("{}; try again", chain(&error))),
                }
                session.close().await;
            }
            // What keeps the mover out is among the obstacles.
            Err(error) => tracing::debug!(%error, "moves that are over were not looked for"),
        }
        check
    }
}

#[async_trait]
impl PlatformDatabases for PgPlatformDatabases {
    async fn list(
        &self,
        after: Option<DatabaseId>,
        limit: u32,
    ) -> Result<Paged<DatabaseRecord, DatabaseId>, StoreError> {
        let mut rows = self.rows(after, None, i64::from(limit) + 1).await?;
        let more = rows.len() > usize::try_from(limit).unwrap_or(usize::MAX);
        if more {
            rows.pop();
        }
        let next = rows.last().filter(|_| more).map(|row| row.record.id);
        Ok(Paged { items: self.measured(rows).await?, next })
    }

    async fn find(&self, id: DatabaseId) -> Result<Option<DatabaseRecord>, StoreError> {
        let rows = self.rows(None, Some(id), 1).await?;
        Ok(self.measured(rows).await?.pop())
    }

    async fn add(&self, new: &NewSharedDatabase, entry: &AuditEntry) -> Result<AddedDatabase, DatabaseError> {
        let home = match &new.place {
            SharedPlace::Beside => Home::Beside,
            SharedPlace::Server(url) => Home::Server(named(url)?),
            SharedPlace::Database(url) => Home::Database(named(url)?),
        };
        let wanted = NewShared { home, name: new.name.clone(), adopt_logins: new.adopt_logins };
        let added = self.shared.make(&wanted).await.map_err(|error| database_error(error, &wanted.home))?;
        let gone = || StoreError::Corrupt { table: "registry.databases", id: added.id.to_string() };
        if !added.known {
            let row = self.rows(None, Some(added.id), 1).await?.pop().ok_or_else(gone)?;
            self.announce(&row.record, entry).await?;
        }
        let record = self.find(added.id).await?.ok_or_else(gone)?;
        let partial = added.partial.iter().map(|one| format!("{}: {}", one.name, one.why)).collect();
        Ok(AddedDatabase { record, is_again: added.known, partial })
    }

    async fn claim_key(&self, asked: &Asked, now: DateTime<Utc>) -> Result<Option<Fingerprint>, StoreError> {
        let mut tx = self.registry.begin_control().await.map_err(store_error)?;
        // The first lock of everybody who looks for a key here: nobody is between looking and writing.
        next_version(&mut tx).await?;
        if let Some((fingerprint, _)) = idempotency::find(&mut tx, asked, None, now).await? {
            tx.rollback().await.map_err(store_error)?;
            return Ok(Some(fingerprint));
        }
        let made = Made { tenant: None, member: None, moved: None };
        idempotency::record(&mut tx, asked, None, made, now).await?;
        tx.commit().await.map_err(store_error)?;
        Ok(None)
    }

    async fn forget_key(&self, asked: &Asked) -> Result<(), StoreError> {
        let mut tx = self.registry.begin_control().await.map_err(store_error)?;
        idempotency::forget(&mut tx, asked, None).await?;
        tx.commit().await.map_err(store_error)
    }

    async fn check(&self, id: DatabaseId) -> Result<Option<DatabaseCheck>, StoreError> {
        let Some(row) = self.rows(None, Some(id), 1).await?.pop() else { return Ok(None) };
        let record = row.record;
        if record.holds == Holds::Registry {
            return Ok(None);
        }
        let unreachable =
            |why: String| Some(DatabaseCheck { unreachable: Some(why), ..DatabaseCheck::default() });
        if !record.is_ready {
            let why = "its making was begun and not finished; give its place again to finish it";
            return Ok(unreachable(why.to_owned()));
        }
        let login = self.logins.find_login(id, LoginRole::Mover).await;
        let login = login.map_err(|error| StoreError::Unavailable(Box::new(error)))?;
        let Some(login) = login else {
            let why = "the registry has no connection string of the mover for it; run `stagesub migrate`";
            return Ok(unreachable(why.to_owned()));
        };
        match timeout(CHECK_TIMEOUT, self.look(&record, &login)).await {
            Ok(check) => Ok(Some(check)),
            Err(_) => Ok(unreachable(format!("it did not answer within {} s", CHECK_TIMEOUT.as_secs()))),
        }
    }
}

impl PgPlatformDatabases {
    /// Says that a database can be used, and writes down who added it.
    async fn announce(&self, record: &DatabaseRecord, entry: &AuditEntry) -> Result<(), StoreError> {
        let place = json!({ "after": {
            "kind": record.holds.as_str(),
            "host": record.host,
            "port": record.port,
            "name": record.name,
        }});
        let entry =
            AuditEntry { record_id: Some(record.id.to_string()), changes: Some(place), ..entry.clone() };
        let mut tx = self.registry.begin_control().await.map_err(store_error)?;
        // Of two who finish one at once, the one who finds it unfinished writes the entry.
        let first = sqlx::query_scalar!(
            r#"SELECT status <> 'ready' AS "first!" FROM registry.databases WHERE id = $1 FOR UPDATE"#,
            record.id.as_uuid()
        )
        .fetch_one(&mut *tx)
        .await
        .map_err(store_error)?;
        if first {
            set_ready(&mut tx, record.id).await.map_err(|error| StoreError::Failed(Box::new(error)))?;
            audit::record(&mut tx, None, &entry).await?;
        }
        commit(tx).await
    }
}

/// Asks a server how large some of its databases are.
async fn size_of(
    login: &ConnectionTarget,
    databases: &[&DatabaseRecord],
) -> Result<HashMap<DatabaseId, i64>, sqlx::Error> {
    let mut conn = session::connect(login).await?;
    let names: Vec<String> = databases.iter().map(|database| database.name.clone()).collect();
    let rows = sqlx::query!(
        r#"SELECT datname::text AS "name!", pg_catalog.pg_database_size(oid) AS "size!"
        FROM pg_catalog.pg_database
        WHERE datname::text = ANY ($1) AND pg_catalog.has_database_privilege(oid, 'CONNECT')"#,
        &names
    )
    .fetch_all(&mut conn)
    .await?;
    conn.close().await?;
    let sizes: HashMap<String, i64> = rows.into_iter().map(|row| (row.name, row.size)).collect();
    Ok(databases.iter().filter_map(|one| Some((one.id, *sizes.get(&one.name)?))).collect())
}
