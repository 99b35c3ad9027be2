//! The hottest lists, each in one message.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use stagesub_domain::error::UseCaseError;
use stagesub_domain::instrument::Instrument;
use stagesub_domain::musician::Musician;
use stagesub_domain::page::{Page, Paged};
use stagesub_domain::ports::HotLists;
use stagesub_domain::ports::instruments::{InstrumentFilter, InstrumentRepository as _};
use stagesub_domain::ports::musicians::{MusicianFilter, MusicianRepository as _};
use stagesub_domain::ports::projects::{ProjectFilter, ProjectRepository as _};
use stagesub_domain::project::Project;
use stagesub_tenancy::{Access, TenantScope};

use super::{
    PgInstruments, PgMusicians, PgProjects, instruments, musicians, projects, read_limit, store_error,
};
use crate::factory::TenantDb;
use crate::one_message::{PreparedRead, ReadError};
use crate::tx::TenantTx;
use crate::unit::commit_error;

static MUSICIANS: PreparedRead =
    PreparedRead::new("hot_musicians", include_str!("hot_lists/musicians.sql"), 2);
static INSTRUMENTS: PreparedRead =
    PreparedRead::new("hot_instruments", include_str!("hot_lists/instruments.sql"), 2);
static PROJECTS: PreparedRead = PreparedRead::new("hot_projects", include_str!("hot_lists/projects.sql"), 2);

/// A row as a one-message read brings it: columns by place, and of the types that the compiler found where the ordinary
/// path runs the same statement. So no type is compared again with each value, as the driver's macros do not either.
pub(super) trait ListedRow: Sized {
    /// Reads it.
    fn read(row: &PgRow) -> Result<Self, sqlx::Error>;
}

/// [`HotLists`] on Postgres.
pub struct PgHotLists {
    database: TenantDb,
    one_message: bool,
}

impl PgHotLists {
    /// Over tenant transactions. Without `one_message`, as behind a pooler that lends sessions by transaction, each list
    /// is read in an ordinary transaction.
    #[must_use]
    pub const fn new(database: TenantDb, one_message: bool) -> Self {
        Self { database, one_message }
    }

    /// The rows of a page; `None` when they are to be read in an ordinary transaction.
    async fn rows<R: ListedRow>(
        &self,
        scope: &TenantScope,
        read: &PreparedRead,
        page: Page,
    ) -> Result<Option<Vec<R>>, UseCaseError> {
        if !self.one_message {
            return Ok(None);
        }
        match self
            .database
            .read_in_one_message(scope, read, &[page.after.unwrap_or(0), read_limit(page)])
            .await
        {
            Ok(rows) => {
                // Collected into a `Result` it would not know how many come.
                let mut read = Vec::with_capacity(rows.len());
                for row in &rows {
                    read.push(R::read(row).map_err(store_error)?);
                }
                Ok(Some(read))
            }
            Err(ReadError::Begin(error)) => Err(UseCaseError::Begin(error)),
            Err(ReadError::Unprepared(error)) => {
                tracing::warn!(
                    %error, read = read.name(),
                    "a list could not be read in one message; behind a pooler set STAGESUB_ONE_MESSAGE_READS=off"
                );
                Ok(None)
            }
            Err(ReadError::Statement(error)) => Err(store_error(error).into()),
        }
    }

    async fn begin(&self, scope: &TenantScope) -> Result<TenantTx, UseCaseError> {
        self.database.begin(scope, Access::Read).await.map_err(UseCaseError::Begin)
    }
}

/// Ends an ordinary transaction that has read.
async fn end<T>(tx: TenantTx, read: Paged<T>) -> Result<Paged<T>, UseCaseError> {
    tx.commit().await.map_err(|error| UseCaseError::from(commit_error(error)))?;
    Ok(read)
}

#[async_trait]
impl HotLists for PgHotLists {
    async fn musicians(&self, scope: &TenantScope, page: Page) -> Result<Paged<Musician>, UseCaseError> {
        if let Some(rows) = self.rows(scope, &MUSICIANS, page).await? {
            return Ok(musicians::page_of(rows, page)?);
        }
        let mut tx = self.begin(scope).await?;
        let read = PgMusicians { tx: &mut tx }.list(&MusicianFilter::unasked(), page).await?;
        end(tx, read).await
    }

    async fn instruments(&self, scope: &TenantScope, page: Page) -> Result<Paged<Instrument>, UseCaseError> {
        if let Some(rows) = self.rows(scope, &INSTRUMENTS, page).await? {
            return Ok(instruments::page_of(rows, page)?);
        }
        let mut tx = self.begin(scope).await?;
        let read = PgInstruments { tx: &mut tx }.list(&InstrumentFilter::unasked(), page).await?;
        end(tx, read).await
    }

    async fn projects(&self, scope: &TenantScope, page: Page) -> Result<Paged<Project>, UseCaseError> {
        if let Some(rows) = self.rows(scope, &PROJECTS, page).await? {
            return Ok(projects::page_of(rows, page)?);
        }
        let mut tx = self.begin(scope).await?;
        let read = PgProjects { tx: &mut tx }.list(&ProjectFilter::unasked(), page).await?;
        end(tx, read).await
    }
}
