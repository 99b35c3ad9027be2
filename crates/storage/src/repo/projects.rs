//! Projects.

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use stagesub_domain::error::StoreError;
use stagesub_domain::ids::ProjectNo;
use stagesub_domain::page::{Page, Paged};
use stagesub_domain::ports::ProjectRepository;
use stagesub_domain::ports::projects::ProjectFilter;
use stagesub_domain::project::{Project, ProjectStatus};

use super::hot_lists::ListedRow;
use super::{contains, corrupt, paged, read_limit, store_error};
use crate::tx::TenantTx;

pub(crate) struct PgProjects<'w> {
    pub(crate) tx: &'w mut TenantTx,
}

pub(super) struct Row {
    no: i64,
    name: String,
    start_date: NaiveDate,
    week_number: i32,
    rehearsal_schedule: Option<String>,
    concert_info: Option<String>,
    notes: Option<String>,
    status: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for Project {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            no: ProjectNo::new(row.no),
            status: row.status.parse().map_err(|_| corrupt("project", row.no))?,
            name: row.name,
            start_date: row.start_date,
            week_number: row.week_number,
            rehearsal_schedule: row.rehearsal_schedule,
            concert_info: row.concert_info,
            notes: row.notes,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

impl ListedRow for Row {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            no: row.try_get_unchecked(0)?,
            name: row.try_get_unchecked(1)?,
            start_date: row.try_get_unchecked(2)?,
            week_number: row.try_get_unchecked(3)?,
            rehearsal_schedule: row.try_get_unchecked(4)?,
            concert_info: row.try_get_unchecked(5)?,
            notes: row.try_get_unchecked(6)?,
            status: row.try_get_unchecked(7)?,
            created_at: row.try_get_unchecked(8)?,
            updated_at: row.try_get_unchecked(9)?,
        })
    }
}

/// Cuts rows into a page.
pub(super) fn page_of(rows: Vec<Row>, page: Page) -> Result<Paged<Project>, StoreError> {
    paged(rows, page, |project: &Project| project.no.get(), Project::try_from)
}

#[async_trait]
impl ProjectRepository for PgProjects<'_> {
    async fn find(&mut self, no: ProjectNo, lock: bool) -> Result<Option<Project>, StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        if lock {
            sqlx::query!(
                "SELECT no FROM tenant.project WHERE tenant_id = $1 AND no = $2 FOR UPDATE",
                tenant,
                no.get()
            )
            .fetch_optional(&mut *self.tx)
            .await
            .map_err(store_error)?;
        }
        let row = sqlx::query_as!(
            Row,
            "SELECT no, name, start_date, week_number, rehearsal_schedule, concert_info, notes, status,
                    created_at, updated_at
             FROM tenant.project
             WHERE tenant_id = $1 AND no = $2",
            tenant,
            no.get()
        )
        .fetch_optional(&mut *self.tx)
        .await
        .map_err(store_error)?;
        row.map(Project::try_from).transpose()
    }

    async fn list(&mut self, filter: &ProjectFilter, page: Page) -> Result<Paged<Project>, StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        if *filter == ProjectFilter::unasked() {
            let (after, limit) = (page.after.unwrap_or(0), read_limit(page));
            let rows = sqlx::query_file_as!(Row, "src/repo/hot_lists/projects.sql", tenant, after, limit)
                .fetch_all(&mut *self.tx)
                .await
                .map_err(store_error)?;
            return page_of(rows, page);
        }
        let rows = sqlx::query_as!(
            Row,
            "SELECT no, name, start_date, week_number, rehearsal_schedule, concert_info, notes, status,
                    created_at, updated_at
             FROM tenant.project
             WHERE tenant_id = $1
               AND no > $2
               AND ($3::text IS NULL OR name ILIKE $3)
               AND ($4::text IS NULL OR status = $4)
             ORDER BY no
             LIMIT $5",
            tenant,
            page.after.unwrap_or(0),
            contains(filter.search.as_deref()),
            filter.status.map(ProjectStatus::as_str),
            read_limit(page)
        )
        .fetch_all(&mut *self.tx)
        .await
        .map_err(store_error)?;
        page_of(rows, page)
    }

    async fn insert(&mut self, project: &Project) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        sqlx::query!(
            "INSERT INTO tenant.project
                 (tenant_id, no, name, start_date, week_number, rehearsal_schedule, concert_info, notes, status,
                  created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            tenant,
            project.no.get(),
            project.name,
            project.start_date,
            project.week_number,
            project.rehearsal_schedule,
            project.concert_info,
            project.notes,
            project.status.as_str(),
            project.created_at,
            project.updated_at
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?;
        Ok(())
    }

    async fn update(&mut self, project: &Project) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        sqlx::query!(
            "UPDATE tenant.project
             SET name = $3, start_date = $4, week_number = $5, rehearsal_schedule = $6, concert_info = $7,
                 notes = $8, status = $9, updated_at = $10
             WHERE tenant_id = $1 AND no = $2",
            tenant,
            project.no.get(),
            project.name,
            project.start_date,
            project.week_number,
            project.rehearsal_schedule,
            project.concert_info,
            project.notes,
            project.status.as_str(),
            project.updated_at
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?;
        Ok(())
    }

    async fn delete(&mut self, no: ProjectNo) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        sqlx::query!("DELETE FROM tenant.project WHERE tenant_id = $1 AND no = $2", tenant, no.get())
            .execute(&mut *self.tx)
            .await
            .map_err(store_error)?;
        Ok(())
    }
}
