//! How large tenants are, and whether a server decodes its log: what is asked before a move.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use stagesub_tenancy::moves::{PlaneError, Surveyor, TenantSize};
use stagesub_tenancy::{BoxError, DatabaseId, Placement, PlacementEpoch, PoolTarget, TenantId};
use uuid::Uuid;

use crate::catalogue::{self, RelationKind};
use crate::identity::Identity;
use crate::logins::{DatabaseLogins, LoginRole};
use crate::moves::plan::Contents;
use crate::moves::session::{MoverSession, Site};
use crate::roles::quote;

/// Longest time that one look may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// What a statement of it may take on the server.
const BOUND: &str = "SET statement_timeout = '30s'";
/// Pages of a table that are looked at for sizes: 64 MiB, about.
const SAMPLED_PAGES: f64 = 8192.0;
/// A row counts as one more for so many bytes.
const ROW_BYTES: u32 = 1024;

/// [`Surveyor`] on Postgres, as the mover.
pub struct PgSurveyor {
    logins: Arc<dyn DatabaseLogins>,
    contents: Contents,
}

impl std::fmt::Debug for PgSurveyor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PgSurveyor").field("contents", &self.contents).finish_non_exhaustive()
    }
}

impl PgSurveyor {
    /// Over the databases' logins; `contents` says which tables are tenants'.
    #[must_use]
    pub fn new(logins: Arc<dyn DatabaseLogins>, contents: Contents) -> Self {
        Self { logins, contents }
    }

    async fn open(&self, target: &PoolTarget) -> Result<MoverSession, PlaneError> {
        let doing = "reaching a database as the mover";
        let login = self.logins.find_login(target.database(), LoginRole::Mover).await;
        let login = login.map_err(failed(doing))?.ok_or_else(|| {
            let database = target.database();
            PlaneError::Refused(format!("no login of the mover is known for the database {database}"))
        })?;
        let site = Site::new(Uuid::now_v7(), login, Identity::of(target));
        let mut session = site.open("survey").await.map_err(failed(doing))?;
        sqlx::raw_sql(BOUND).execute(session.conn()).await.map_err(failed(doing))?;
        Ok(session)
    }

    /// The tables that are tenants'.
    async fn tables(&self, session: &mut MoverSession) -> Result<Vec<Surveyed>, PlaneError> {
        let doing = "reading which tables are tenants'";
        let relations =
            catalogue::read(session.conn(), &self.contents.schemas).await.map_err(failed(doing))?;
        let mut tables = Vec::new();
        for relation in relations {
            let is_tenants = relation.kind == RelationKind::Table
                && !self.contents.reference_tables.contains(&relation.name)
                && relation.columns.iter().any(|column| column.name == "tenant_id");
            if !is_tenants {
                continue;
            }
            let name = format!("{}.{}", quote(&relation.name.schema), quote(&relation.name.name));
            let pages = sqlx::query_scalar!(
                r#"SELECT (pg_catalog.pg_relation_size($1::text::regclass)
                    / pg_catalog.current_setting('block_size')::bigint)::float8 AS "pages!""#,
                name
            )
            .fetch_one(session.conn())
            .await
            .map_err(failed(doing))?;
            let sizes = relation.columns.iter();
            let sizes = sizes.map(|column| format!("coalesce(pg_column_size(t.{}), 0)", quote(&column.name)));
            let bytes = sizes.collect::<Vec<_>>().join(" + ");
            tables.push(Surveyed { name, bytes, percent: sampled(pages) });
        }
        Ok(tables)
    }
}

/// A table that is looked at.
struct Surveyed {
    /// As SQL names it.
    name: String,
    /// What a row of it, called `t`, takes as it is stored: what lies outside of it is not read for that.
    bytes: String,
    /// How much of it is looked at.
    percent: f64,
}

/// How much of a table is looked at, in percent.
fn sampled(pages: f64) -> f64 {
    if pages <= SAMPLED_PAGES { 100.0 } else { 100.0 * SAMPLED_PAGES / pages }
}

/// Where a tenant is, for a session: which epoch it is served at matters to pools alone.
fn target(tenant: TenantId, placement: Placement) -> PoolTarget {
    match placement {
        Placement::Shared(database) => PoolTarget::Shared(database),
        Placement::Dedicated(database) => {
            PoolTarget::Dedicated { tenant, database, epoch: PlacementEpoch(0) }
        }
    }
}

fn failed<E: Into<BoxError>>(doing: &'static str) -> impl Fn(E) -> PlaneError {
    move |source| PlaneError::Unavailable { doing, source: source.into() }
}

async fn bounded<T>(look: impl Future<Output = Result<T, PlaneError>> + Send) -> Result<T, PlaneError> {
    let late = failed("looking at a database in time");
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
}

#[async_trait]
impl Surveyor for PgSurveyor {
    async fn decodes(&self, tenant: TenantId, placement: Placement) -> Result<bool, PlaneError> {
        bounded(async {
            let mut session = self.open(&target(tenant, placement)).await?;
            let level = sqlx::query_scalar!(r#"SELECT current_setting('wal_level') AS "level!""#)
                .fetch_one(session.conn())
                .await
                .map_err(failed("asking for the level of the log"))?;
            session.close().await;
            Ok(level == "logical")
        })
        .await
    }

    async fn rows(&self, tenant: TenantId, placement: Placement, most: u64) -> Result<u64, PlaneError> {
        bounded(async {
            let enough = most.saturating_add(1);
            let mut session = self.open(&target(tenant, placement)).await?;
            let mut rows = 0_u64;
            for Surveyed { name, bytes, .. } in self.tables(&mut session).await? {
                let left = i64::try_from(enough - rows).unwrap_or(i64::MAX);
                let counted: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
                    "SELECT coalesce(sum(1 + ({bytes}) / {ROW_BYTES}), 0)::bigint
                    FROM (SELECT t.* FROM {name} AS t WHERE t.tenant_id = $1 LIMIT $2) AS t"
                )))
                .bind(tenant.as_uuid())
                .bind(left)
                .fetch_one(session.conn())
                .await
                .map_err(failed("counting a tenant's rows"))?;
                rows = enough.min(rows + counted.unsigned_abs());
                if rows == enough {
                    break;
                }
            }
            session.close().await;
            Ok(rows)
        })
        .await
    }

    async fn sizes(&self, shared: DatabaseId) -> Result<Vec<TenantSize>, PlaneError> {
        bounded(async {
            let mut session = self.open(&PoolTarget::Shared(shared)).await?;
            let mut sizes = std::collections::HashMap::<Uuid, (i64, i64)>::new();
            for Surveyed { name, bytes, percent } in self.tables(&mut session).await? {
                let sample =
                    if percent < 100.0 { format!("TABLESAMPLE SYSTEM ({percent})") } else { String::new() };
                let part: Vec<(Uuid, i64, i64)> = sqlx::query_as(AssertSqlSafe(format!(
                    "SELECT t.tenant_id, (count(*) * $1)::bigint, (sum({bytes}) * $1)::bigint
                    FROM {name} AS t {sample}
                    GROUP BY t.tenant_id"
                )))
                .bind(100.0 / percent)
                .fetch_all(session.conn())
                .await
                .map_err(failed("measuring tenants"))?;
                for (tenant, rows, bytes) in part {
                    let size = sizes.entry(tenant).or_default();
                    *size = (size.0.saturating_add(rows), size.1.saturating_add(bytes));
                }
            }
            session.close().await;
            let sizes = sizes.into_iter().map(|(tenant, (rows, bytes))| TenantSize {
                tenant: TenantId::from_uuid(tenant),
                rows: rows.unsigned_abs(),
                bytes: bytes.unsigned_abs(),
            });
            Ok(sizes.collect())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_table_is_looked_at_whole_and_a_large_one_in_part() {
        assert!((sampled(0.0) - 100.0).abs() < f64::EPSILON);
        assert!((sampled(SAMPLED_PAGES) - 100.0).abs() < f64::EPSILON);
        assert!((sampled(SAMPLED_PAGES * 8.0) - 12.5).abs() < f64::EPSILON);
    }
}
