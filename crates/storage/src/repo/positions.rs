//! Positions.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use stagesub_domain::error::StoreError;
use stagesub_domain::ids::{InstrumentNo, PositionNo};
use stagesub_domain::instrument::Position;
use stagesub_domain::page::{Page, Paged};
use stagesub_domain::ports::PositionRepository;
use stagesub_domain::ports::instruments::{PositionFilter, PositionUse};

use super::{contains, paged, read_limit, store_error};
use crate::tx::TenantTx;

pub(crate) struct PgPositions<'w> {
    pub(crate) tx: &'w mut TenantTx,
}

struct Row {
    no: i64,
    instrument_no: i64,
    name: String,
    hierarchy_level: i32,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<Row> for Position {
    fn from(row: Row) -> Self {
        Self {
            no: PositionNo::new(row.no),
            instrument: InstrumentNo::new(row.instrument_no),
            name: row.name,
            hierarchy_level: row.hierarchy_level,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

#[async_trait]
impl PositionRepository for PgPositions<'_> {
    async fn find(&mut self, no: PositionNo, lock: bool) -> Result<Option<Position>, StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        if lock {
            sqlx::query!(
                "SELECT no FROM tenant.position WHERE tenant_id = $1 AND no = $2 FOR UPDATE",
                tenant,
                no.get()
            )
            .fetch_optional(&mut *self.tx)
            .await
            .map_err(store_error)?;
        }
        let row = sqlx::query_as!(
            Row,
            "SELECT no, instrument_no, name, hierarchy_level, created_at, updated_at
             FROM tenant.position
             WHERE tenant_id = $1 AND no = $2",
            tenant,
            no.get()
        )
        .fetch_optional(&mut *self.tx)
        .await
        .map_err(store_error)?;
        Ok(row.map(Position::from))
    }

    async fn list(&mut self, filter: &PositionFilter, page: Page) -> Result<Paged<Position>, StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        let rows = sqlx::query_as!(
            Row,
            "SELECT no, instrument_no, name, hierarchy_level, created_at, updated_at
             FROM tenant.position
             WHERE tenant_id = $1
               AND no > $2
               AND ($3::text IS NULL OR name ILIKE $3)
               AND ($4::bigint IS NULL OR instrument_no = $4)
             ORDER BY no
             LIMIT $5",
            tenant,
            page.after.unwrap_or(0),
            contains(filter.search.as_deref()),
            filter.instrument.map(InstrumentNo::get),
            read_limit(page)
        )
        .fetch_all(&mut *self.tx)
        .await
        .map_err(store_error)?;
        paged(rows, page, |position: &Position| position.no.get(), |row| Ok(row.into()))
    }

    async fn insert(&mut self, positions: Vec<Position>) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        let numbers: Vec<i64> = positions.iter().map(|p| p.no.get()).collect();
        let instruments: Vec<i64> = positions.iter().map(|p| p.instrument.get()).collect();
        let names: Vec<String> = positions.iter().map(|p| p.name.clone()).collect();
        let levels: Vec<i32> = positions.iter().map(|p| p.hierarchy_level).collect();
        let created: Vec<DateTime<Utc>> = positions.iter().map(|p| p.created_at).collect();
        let updated: Vec<DateTime<Utc>> = positions.iter().map(|p| p.updated_at).collect();
        sqlx::query!(
            "INSERT INTO tenant.position (tenant_id, no, instrument_no, name, hierarchy_level, created_at, updated_at)
             SELECT $1, u.no, u.instrument_no, u.name, u.hierarchy_level, u.created_at, u.updated_at
             FROM UNNEST($2::bigint[], $3::bigint[], $4::text[], $5::integer[], $6::timestamptz[], $7::timestamptz[])
                 AS u (no, instrument_no, name, hierarchy_level, created_at, updated_at)",
            tenant,
            &numbers,
            &instruments,
            &names,
            &levels,
            &created,
            &updated
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?;
        Ok(())
    }

    async fn update(&mut self, position: &Position) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        sqlx::query!(
            "UPDATE tenant.position
             SET name = $3, hierarchy_level = $4, updated_at = $5
             WHERE tenant_id = $1 AND no = $2",
            tenant,
            position.no.get(),
            position.name,
            position.hierarchy_level,
            position.updated_at
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?;
        Ok(())
    }

    async fn delete(&mut self, no: PositionNo) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        // Its lists go with it (ON DELETE CASCADE within the tenant).
        sqlx::query!("DELETE FROM tenant.position WHERE tenant_id = $1 AND no = $2", tenant, no.get())
            .execute(&mut *self.tx)
            .await
            .map_err(store_error)?;
        Ok(())
    }

    async fn usage(&mut self, no: PositionNo) -> Result<PositionUse, StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        let musicians = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM tenant.musician_qualification
               WHERE tenant_id = $1 AND position_no = $2"#,
            tenant,
            no.get()
        )
        .fetch_one(&mut *self.tx)
        .await
        .map_err(store_error)?;
        Ok(PositionUse { musicians })
    }
}
