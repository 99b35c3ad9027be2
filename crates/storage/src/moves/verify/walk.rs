//! Through a table in chunks, on both sides at once.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join;
use sqlx::{AssertSqlSafe, PgConnection};
use stagesub_tenancy::TenantId;

use super::keys::{failed, of_table};
use super::statements::{Bounds, each, end, sums};
use super::{Hashes, Side, Verified, VerifyError, VerifySettings, compare};
use crate::moves::plan::TablePlan;
use crate::moves::session::{MoverSession, unless_silent};

/// Both sides, and what was found so far.
pub(super) struct Walk<'s> {
    source: MoverSession,
    target: MoverSession,
    tenant: TenantId,
    settings: &'s VerifySettings,
    verified: Verified,
}

/// Where a chunk begins and ends, in texts of keys.
struct Chunk {
    after: Option<Vec<String>>,
    until: Option<Vec<String>>,
}

/// What one side says of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sums {
    rows: i64,
    bytes: i64,
    first: String,
    second: String,
}

impl<'s> Walk<'s> {
    /// On sessions that keep to indexes.
    pub(super) fn new(
        source: MoverSession,
        target: MoverSession,
        tenant: TenantId,
        settings: &'s VerifySettings,
    ) -> Self {
        Self { source, target, tenant, settings, verified: Verified::default() }
    }

    /// As many differences were found as are told.
    pub(super) const fn is_full(&self) -> bool {
        self.verified.more
    }

    /// Ends the sessions.
    pub(super) async fn finish(self) -> Verified {
        self.source.close().await;
        self.target.close().await;
        self.verified
    }

    /// Compares a table. Each chunk is read as it is then: one snapshot for all would keep every row version that the
    /// tenants make meanwhile from being removed, for as long as a paced reading takes.
    pub(super) async fn table(&mut self, table: &TablePlan) -> Result<(), VerifyError> {
        let mut after = None;
        loop {
            let until = self.end_of_chunk(table, after.as_ref()).await?;
            let chunk = Chunk { after, until };
            self.chunk(table, &chunk).await?;
            after = chunk.until;
            if after.is_none() || self.is_full() {
                break;
            }
        }
        Ok(())
    }

    /// The key that a chunk ends with; none for the last.
    async fn end_of_chunk(
        &mut self,
        table: &TablePlan,
        after: Option<&Vec<String>>,
    ) -> Result<Option<Vec<String>>, VerifyError> {
        if table.key.is_empty() {
            return Ok(None);
        }
        let sql = end(table, after.is_some(), self.settings.chunk_rows.get());
        let mut query = sqlx::query_scalar::<_, Vec<String>>(AssertSqlSafe(sql)).bind(self.tenant.as_uuid());
        for value in after.into_iter().flatten() {
            query = query.bind(value.clone());
        }
        unless_silent(query.fetch_optional(self.source.conn())).await.map_err(failed(Side::Source))
    }

    async fn chunk(&mut self, table: &TablePlan, chunk: &Chunk) -> Result<(), VerifyError> {
        let tenant = self.tenant;
        let (here, there) = try_join(
            async { chunk.sums(self.source.conn(), table, tenant).await.map_err(failed(Side::Source)) },
            async { chunk.sums(self.target.conn(), table, tenant).await.map_err(failed(Side::Target)) },
        )
        .await?;
        let (rows, bytes) = (u64::try_from(here.rows), u64::try_from(here.bytes));
        let (rows, bytes) = (rows.unwrap_or_default(), bytes.unwrap_or_default());
        self.verified.rows += rows;
        self.verified.bytes += bytes;
        if here != there {
            self.narrow(table, chunk, rows).await?;
        }
        self.settings.pace.take(bytes).await;
        Ok(())
    }

    /// Finds out which rows of a chunk differ. `rows` is how many the source has.
    async fn narrow(&mut self, table: &TablePlan, chunk: &Chunk, rows: u64) -> Result<(), VerifyError> {
        let tenant = self.tenant;
        let most = self.settings.most_differences.get();
        // A target with more rows than this has more too many than are told.
        let fetched = rows.saturating_add(u64::try_from(most).unwrap_or(u64::MAX)).saturating_add(1);
        let fetched = fetched.min(i64::MAX.unsigned_abs());
        let (here, there) = try_join(
            async {
                chunk.each(self.source.conn(), table, tenant, fetched).await.map_err(failed(Side::Source))
            },
            async {
                chunk.each(self.target.conn(), table, tenant, fetched).await.map_err(failed(Side::Target))
            },
        )
        .await?;
        let suspects: BTreeSet<Vec<String>> =
            compare(&here, &there).into_iter().map(|(key, _)| key).collect();
        let found = of_table(self.source.conn(), self.target.conn(), table, tenant, suspects).await?;
        for difference in found {
            // Where the sides order texts differently, a row may be suspected in two chunks.
            if self.verified.differences.contains(&difference) {
                continue;
            }
            if self.verified.differences.len() == most {
                self.verified.more = true;
                break;
            }
            self.verified.differences.push(difference);
        }
        // What was not fetched is not known to be equal. The source, too, may have more rows than a moment ago.
        let all = |rows: usize| u64::try_from(rows).unwrap_or(u64::MAX) < fetched;
        self.verified.more |= !(all(here.len()) && all(there.len()));
        Ok(())
    }
}

impl Chunk {
    fn bounds(&self) -> Bounds {
        Bounds { after: self.after.is_some(), until: self.until.is_some() }
    }

    /// The texts that the bounds are made of.
    fn values(&self) -> impl Iterator<Item = &String> {
        self.after.iter().chain(&self.until).flatten()
    }

    async fn sums(
        &self,
        conn: &mut PgConnection,
        table: &TablePlan,
        tenant: TenantId,
    ) -> Result<Sums, sqlx::Error> {
        let sql = sums(table, self.bounds());
        let mut query =
            sqlx::query_as::<_, (i64, i64, String, String)>(AssertSqlSafe(sql)).bind(tenant.as_uuid());
        for value in self.values() {
            query = query.bind(value.clone());
        }
        let (rows, bytes, first, second) = unless_silent(query.fetch_one(conn)).await?;
        Ok(Sums { rows, bytes, first, second })
    }

    async fn each(
        &self,
        conn: &mut PgConnection,
        table: &TablePlan,
        tenant: TenantId,
        most: u64,
    ) -> Result<BTreeMap<Vec<String>, Hashes>, sqlx::Error> {
        let sql = each(table, self.bounds(), most);
        let mut query =
            sqlx::query_as::<_, (Vec<String>, i64, i64)>(AssertSqlSafe(sql)).bind(tenant.as_uuid());
        for value in self.values() {
            query = query.bind(value.clone());
        }
        let rows = unless_silent(query.fetch_all(conn)).await?;
        Ok(rows.into_iter().map(|(key, first, second)| (key, (first, second))).collect())
    }
}
