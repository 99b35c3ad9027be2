//! Musicians and their qualifications.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use stagesub_domain::error::StoreError;
use stagesub_domain::ids::{InstrumentNo, MusicianNo, PositionNo};
use stagesub_domain::musician::Musician;
use stagesub_domain::page::{Page, Paged};
use stagesub_domain::ports::MusicianRepository;
use stagesub_domain::ports::musicians::MusicianFilter;

use super::hot_lists::ListedRow;
use super::{contains, corrupt, paged, read_limit, store_error};
use crate::tx::TenantTx;

pub(crate) struct PgMusicians<'w> {
    pub(crate) tx: &'w mut TenantTx,
}

pub(super) struct Row {
    no: i64,
    first_name: String,
    last_name: String,
    email: String,
    phone: Option<String>,
    preferred_language: String,
    local_residence: bool,
    notes: Option<String>,
    is_active: bool,
    archived_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    qualifications: Vec<i64>,
}

impl TryFrom<Row> for Musician {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            no: MusicianNo::new(row.no),
            preferred_language: row.preferred_language.parse().map_err(|_| corrupt("musician", row.no))?,
            first_name: row.first_name,
            last_name: row.last_name,
            email: row.email,
            phone: row.phone,
            local_residence: row.local_residence,
            notes: row.notes,
            is_active: row.is_active,
            archived_at: row.archived_at,
            qualifications: row.qualifications.into_iter().map(PositionNo::new).collect(),
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

impl ListedRow for Row {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            no: row.try_get_unchecked(0)?,
            first_name: row.try_get_unchecked(1)?,
            last_name: row.try_get_unchecked(2)?,
            email: row.try_get_unchecked(3)?,
            phone: row.try_get_unchecked(4)?,
            preferred_language: row.try_get_unchecked(5)?,
            local_residence: row.try_get_unchecked(6)?,
            notes: row.try_get_unchecked(7)?,
            is_active: row.try_get_unchecked(8)?,
            archived_at: row.try_get_unchecked(9)?,
            created_at: row.try_get_unchecked(10)?,
            updated_at: row.try_get_unchecked(11)?,
            qualifications: row.try_get_unchecked(12)?,
        })
    }
}

/// Cuts rows into a page.
pub(super) fn page_of(rows: Vec<Row>, page: Page) -> Result<Paged<Musician>, StoreError> {
    paged(rows, page, |musician: &Musician| musician.no.get(), Musician::try_from)
}

/// Musicians as columns, the way UNNEST takes them.
#[derive(Default)]
struct Columns {
    no: Vec<i64>,
    first_name: Vec<String>,
    last_name: Vec<String>,
    email: Vec<String>,
    phone: Vec<Option<String>>,
    preferred_language: Vec<String>,
    local_residence: Vec<bool>,
    notes: Vec<Option<String>>,
    is_active: Vec<bool>,
    archived_at: Vec<Option<DateTime<Utc>>>,
    created_at: Vec<DateTime<Utc>>,
    updated_at: Vec<DateTime<Utc>>,
    qualified_musician: Vec<i64>,
    qualified_position: Vec<i64>,
    qualified_at: Vec<DateTime<Utc>>,
}

impl From<Vec<Musician>> for Columns {
    fn from(musicians: Vec<Musician>) -> Self {
        let mut columns = Self::default();
        for musician in musicians {
            for position in &musician.qualifications {
                columns.qualified_musician.push(musician.no.get());
                columns.qualified_position.push(position.get());
                columns.qualified_at.push(musician.updated_at);
            }
            columns.no.push(musician.no.get());
            columns.first_name.push(musician.first_name);
            columns.last_name.push(musician.last_name);
            columns.email.push(musician.email);
            columns.phone.push(musician.phone);
            columns.preferred_language.push(musician.preferred_language.as_str().to_owned());
            columns.local_residence.push(musician.local_residence);
            columns.notes.push(musician.notes);
            columns.is_active.push(musician.is_active);
            columns.archived_at.push(musician.archived_at);
            columns.created_at.push(musician.created_at);
            columns.updated_at.push(musician.updated_at);
        }
        columns
    }
}

impl PgMusicians<'_> {
    async fn insert_qualifications(&mut self, columns: &Columns) -> Result<(), StoreError> {
        if columns.qualified_musician.is_empty() {
            return Ok(());
        }
        let tenant = self.tx.tenant().as_uuid();
        sqlx::query!(
            "INSERT INTO tenant.musician_qualification (tenant_id, musician_no, position_no, created_at, updated_at)
             SELECT $1, u.musician_no, u.position_no, u.at, u.at
             FROM UNNEST($2::bigint[], $3::bigint[], $4::timestamptz[]) AS u (musician_no, position_no, at)
             ON CONFLICT (tenant_id, musician_no, position_no) DO NOTHING",
            tenant,
            &columns.qualified_musician,
            &columns.qualified_position,
            &columns.qualified_at
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?;
        Ok(())
    }

    async fn read(&mut self, numbers: &[i64]) -> Result<Vec<Musician>, StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        let rows = sqlx::query_as!(
            Row,
            r#"SELECT m.no, m.first_name, m.last_name, m.email, m.phone, m.preferred_language, m.local_residence,
                      m.notes, m.is_active, m.archived_at, m.created_at, m.updated_at,
                      ARRAY(SELECT q.position_no FROM tenant.musician_qualification AS q
                            WHERE q.tenant_id = $1 AND q.musician_no = m.no
                            ORDER BY q.position_no) AS "qualifications!"
               FROM tenant.musician AS m
               WHERE m.tenant_id = $1 AND m.no = ANY($2)
               ORDER BY m.no"#,
            tenant,
            numbers
        )
        .fetch_all(&mut *self.tx)
        .await
        .map_err(store_error)?;
        rows.into_iter().map(Musician::try_from).collect()
    }
}

#[async_trait]
impl MusicianRepository for PgMusicians<'_> {
    async fn find(&mut self, no: MusicianNo, lock: bool) -> Result<Option<Musician>, StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        if lock {
            sqlx::query!(
                "SELECT no FROM tenant.musician WHERE tenant_id = $1 AND no = $2 FOR UPDATE",
                tenant,
                no.get()
            )
            .fetch_optional(&mut *self.tx)
            .await
            .map_err(store_error)?;
        }
        Ok(self.read(&[no.get()]).await?.pop())
    }

    async fn find_by_emails(&mut self, emails: Vec<String>) -> Result<Vec<Musician>, StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        // Row-level security keeps `lower`, which is not leakproof, off the rows' side of an index condition; on
        // this side, where it is computed once, it does no harm.
        let numbers = sqlx::query_scalar!(
            "SELECT no FROM tenant.musician
             WHERE tenant_id = $1 AND email_key = ANY(ARRAY(SELECT lower(e) FROM UNNEST($2::text[]) AS e))
             ORDER BY no
             FOR UPDATE",
            tenant,
            &emails
        )
        .fetch_all(&mut *self.tx)
        .await
        .map_err(store_error)?;
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        self.read(&numbers).await
    }

    async fn list(&mut self, filter: &MusicianFilter, page: Page) -> Result<Paged<Musician>, StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        if *filter == MusicianFilter::unasked() {
            let (after, limit) = (page.after.unwrap_or(0), read_limit(page));
            let rows = sqlx::query_file_as!(Row, "src/repo/hot_lists/musicians.sql", tenant, after, limit)
                .fetch_all(&mut *self.tx)
                .await
                .map_err(store_error)?;
            return page_of(rows, page);
        }
        let rows = sqlx::query_as!(
            Row,
            r#"SELECT m.no, m.first_name, m.last_name, m.email, m.phone, m.preferred_language, m.local_residence,
                      m.notes, m.is_active, m.archived_at, m.created_at, m.updated_at,
                      ARRAY(SELECT q.position_no FROM tenant.musician_qualification AS q
                            WHERE q.tenant_id = $1 AND q.musician_no = m.no
                            ORDER BY q.position_no) AS "qualifications!"
               FROM tenant.musician AS m
               WHERE m.tenant_id = $1
                 AND m.no > $2
                 AND ($3::text IS NULL OR m.first_name || ' ' || m.last_name ILIKE $3 OR m.email ILIKE $3)
                 AND ($4::boolean IS NULL OR m.is_active = $4)
                 AND ($5::boolean IS NULL OR (m.archived_at IS NOT NULL) = $5)
                 AND ($6::bigint IS NULL OR EXISTS (
                     SELECT FROM tenant.musician_qualification AS q
                     WHERE q.tenant_id = $1 AND q.position_no = $6 AND q.musician_no = m.no))
                 AND ($7::bigint IS NULL OR EXISTS (
                     SELECT FROM tenant.musician_qualification AS q
                     JOIN tenant.position AS p ON p.tenant_id = $1 AND p.no = q.position_no
                     WHERE q.tenant_id = $1 AND q.musician_no = m.no AND p.instrument_no = $7))
               ORDER BY m.no
               LIMIT $8"#,
            tenant,
            page.after.unwrap_or(0),
            contains(filter.search.as_deref()),
            filter.is_active,
            filter.archived,
            filter.position.map(PositionNo::get),
            filter.instrument.map(InstrumentNo::get),
            read_limit(page)
        )
        .fetch_all(&mut *self.tx)
        .await
        .map_err(store_error)?;
        page_of(rows, page)
    }

    async fn insert(&mut self, musicians: Vec<Musician>) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        let columns = Columns::from(musicians);
        sqlx::query!(
            "INSERT INTO tenant.musician
                 (tenant_id, no, first_name, last_name, email, phone, preferred_language, local_residence, notes,
                  is_active, archived_at, created_at, updated_at)
             SELECT $1, u.no, u.first_name, u.last_name, u.email, u.phone, u.preferred_language, u.local_residence,
                    u.notes, u.is_active, u.archived_at, u.created_at, u.updated_at
             FROM UNNEST(
                 $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::boolean[], $9::text[],
                 $10::boolean[], $11::timestamptz[], $12::timestamptz[], $13::timestamptz[])
                 AS u (no, first_name, last_name, email, phone, preferred_language, local_residence, notes,
                       is_active, archived_at, created_at, updated_at)",
            tenant,
            &columns.no,
            &columns.first_name,
            &columns.last_name,
            &columns.email,
            &columns.phone as &[Option<String>],
            &columns.preferred_language,
            &columns.local_residence,
            &columns.notes as &[Option<String>],
            &columns.is_active,
            &columns.archived_at as &[Option<DateTime<Utc>>],
            &columns.created_at,
            &columns.updated_at
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?;
        self.insert_qualifications(&columns).await
    }

    async fn update(&mut self, musicians: Vec<Musician>) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        let columns = Columns::from(musicians);
        sqlx::query!(
            "UPDATE tenant.musician AS m
             SET first_name = u.first_name, last_name = u.last_name, email = u.email, phone = u.phone,
                 preferred_language = u.preferred_language, local_residence = u.local_residence, notes = u.notes,
                 is_active = u.is_active, archived_at = u.archived_at, updated_at = u.updated_at
             FROM UNNEST(
                 $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::boolean[], $9::text[],
                 $10::boolean[], $11::timestamptz[], $12::timestamptz[])
                 AS u (no, first_name, last_name, email, phone, preferred_language, local_residence, notes,
                       is_active, archived_at, updated_at)
             WHERE m.tenant_id = $1 AND m.no = u.no",
            tenant,
            &columns.no,
            &columns.first_name,
            &columns.last_name,
            &columns.email,
            &columns.phone as &[Option<String>],
            &columns.preferred_language,
            &columns.local_residence,
            &columns.notes as &[Option<String>],
            &columns.is_active,
            &columns.archived_at as &[Option<DateTime<Utc>>],
            &columns.updated_at
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?;
        sqlx::query!(
            "DELETE FROM tenant.musician_qualification AS q
             WHERE q.tenant_id = $1
               AND q.musician_no = ANY($2)
               AND NOT EXISTS (
                   SELECT FROM UNNEST($3::bigint[], $4::bigint[]) AS u (musician_no, position_no)
                   WHERE u.musician_no = q.musician_no AND u.position_no = q.position_no)",
            tenant,
            &columns.no,
            &columns.qualified_musician,
            &columns.qualified_position
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?;
        self.insert_qualifications(&columns).await
    }
}
