//! Instruments.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use stagesub_domain::error::StoreError;
use stagesub_domain::ids::InstrumentNo;
use stagesub_domain::instrument::Instrument;
use stagesub_domain::page::{Page, Paged};
use stagesub_domain::ports::InstrumentRepository;
use stagesub_domain::ports::instruments::InstrumentFilter;

use super::hot_lists::ListedRow;
use super::{contains, paged, read_limit, store_error};
use crate::tx::TenantTx;

pub(crate) struct PgInstruments<'w> {
    pub(crate) tx: &'w mut TenantTx,
}

pub(super) struct Row {
    no: i64,
    name: String,
    display_order: Option<i32>,
    archived_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<Row> for Instrument {
    fn from(row: Row) -> Self {
        Self {
            no: InstrumentNo::new(row.no),
            name: row.name,
            display_order: row.display_order,
            archived_at: row.archived_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

impl ListedRow for Row {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            no: row.try_get_unchecked(0)?,
            name: row.try_get_unchecked(1)?,
            display_order: row.try_get_unchecked(2)?,
            archived_at: row.try_get_unchecked(3)?,
            created_at: row.try_get_unchecked(4)?,
            updated_at: row.try_get_unchecked(5)?,
        })
    }
}

/// Cuts rows into a page.
pub(super) fn page_of(rows: Vec<Row>, page: Page) -> Result<Paged<Instrument>, StoreError> {
    paged(rows, page, |instrument: &Instrument| instrument.no.get(), |row| Ok(row.into()))
}

#[async_trait]
impl InstrumentRepository for PgInstruments<'_> {
    async fn find(&mut self, no: InstrumentNo, lock: bool) -> Result<Option<Instrument>, StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        if lock {
            sqlx::query!(
                "SELECT no FROM tenant.instrument WHERE tenant_id = $1 AND no = $2 FOR UPDATE",
                tenant,
                no.get()
            )
            .fetch_optional(&mut *self.tx)
            .await
            .map_err(store_error)?;
        }
        let row = sqlx::query_as!(
            Row,
            "SELECT no, name, display_order, archived_at, created_at, updated_at
             FROM tenant.instrument
             WHERE tenant_id = $1 AND no = $2",
            tenant,
            no.get()
        )
        .fetch_optional(&mut *self.tx)
        .await
        .map_err(store_error)?;
        Ok(row.map(Instrument::from))
    }

    async fn list(&mut self, filter: &InstrumentFilter, page: Page) -> Result<Paged<Instrument>, StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        if *filter == InstrumentFilter::unasked() {
            let (after, limit) = (page.after.unwrap_or(0), read_limit(page));
            let rows = sqlx::query_file_as!(Row, "src/repo/hot_lists/instruments.sql", tenant, after, limit)
                .fetch_all(&mut *self.tx)
                .await
                .map_err(store_error)?;
            return page_of(rows, page);
        }
        let rows = sqlx::query_as!(
            Row,
            "SELECT no, name, display_order, archived_at, created_at, updated_at
             FROM tenant.instrument
             WHERE tenant_id = $1
               AND no > $2
               AND ($3::text IS NULL OR name ILIKE $3)
               AND ($4::boolean IS NULL OR (archived_at IS NOT NULL) = $4)
             ORDER BY no
             LIMIT $5",
            tenant,
            page.after.unwrap_or(0),
            contains(filter.search.as_deref()),
            filter.archived,
            read_limit(page)
        )
        .fetch_all(&mut *self.tx)
        .await
        .map_err(store_error)?;
        page_of(rows, page)
    }

    async fn insert(&mut self, instruments: Vec<Instrument>) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        let numbers: Vec<i64> = instruments.iter().map(|i| i.no.get()).collect();
        let names: Vec<String> = instruments.iter().map(|i| i.name.clone()).collect();
        let orders: Vec<Option<i32>> = instruments.iter().map(|i| i.display_order).collect();
        let archived: Vec<Option<DateTime<Utc>>> = instruments.iter().map(|i| i.archived_at).collect();
        let created: Vec<DateTime<Utc>> = instruments.iter().map(|i| i.created_at).collect();
        let updated: Vec<DateTime<Utc>> = instruments.iter().map(|i| i.updated_at).collect();
        sqlx::query!(
            "INSERT INTO tenant.instrument (tenant_id, no, name, display_order, archived_at, created_at, updated_at)
             SELECT $1, u.no, u.name, u.display_order, u.archived_at, u.created_at, u.updated_at
             FROM UNNEST($2::bigint[], $3::text[], $4::integer[], $5::timestamptz[], $6::timestamptz[], $7::timestamptz[])
                 AS u (no, name, display_order, archived_at, created_at, updated_at)",
            tenant,
            &numbers,
            &names,
            &orders as &[Option<i32>],
            &archived as &[Option<DateTime<Utc>>],
            &created,
            &updated
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?;
        Ok(())
    }

    async fn update(&mut self, instrument: &Instrument) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        sqlx::query!(
            "UPDATE tenant.instrument
             SET name = $3, display_order = $4, archived_at = $5, updated_at = $6
             WHERE tenant_id = $1 AND no = $2",
            tenant,
            instrument.no.get(),
            instrument.name,
            instrument.display_order,
            instrument.archived_at,
            instrument.updated_at
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?;
        Ok(())
    }

    async fn delete(&mut self, no: InstrumentNo) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        sqlx::query!("DELETE FROM tenant.instrument WHERE tenant_id = $1 AND no = $2", tenant, no.get())
            .execute(&mut *self.tx)
            .await
            .map_err(store_error)?;
        Ok(())
    }

    async fn count_positions(&mut self, no: InstrumentNo) -> Result<i64, StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM tenant.position WHERE tenant_id = $1 AND instrument_no = $2"#,
            tenant,
            no.get()
        )
        .fetch_one(&mut *self.tx)
        .await
        .map_err(store_error)
    }
}
