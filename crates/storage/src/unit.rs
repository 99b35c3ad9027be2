//! The unit of work on Postgres.

use async_trait::async_trait;
use stagesub_domain::error::StoreError;
use stagesub_domain::ports::{
    AuditLog, IdempotencyStore, InstrumentRepository, MusicianRepository, PositionRepository,
    ProjectRepository, QuotaRepository, RankingListRepository, SettingsRepository, StarterRepository,
    UnitOfWork,
};
use stagesub_id_gen::SequenceStore;
use stagesub_tenancy::{Access, BeginError, TenantScope, UnitOfWorkFactory};

use crate::error::CommitError;
use crate::factory::TenantDb;
use crate::repo::{
    PgAuditLog, PgIdempotency, PgInstruments, PgMusicians, PgPositions, PgProjects, PgQuotas, PgRankingLists,
    PgSequences, PgSettings, PgStarter, store_error,
};
use crate::tx::TenantTx;

/// Begins units of work on the databases that hold the tenants.
pub struct PgUnitOfWorkFactory {
    database: TenantDb,
}

impl PgUnitOfWorkFactory {
    /// Over tenant transactions.
    #[must_use]
    pub fn new(database: TenantDb) -> Self {
        Self { database }
    }
}

#[async_trait]
impl UnitOfWorkFactory for PgUnitOfWorkFactory {
    type Unit = Box<dyn UnitOfWork>;

    async fn begin(&self, scope: &TenantScope, access: Access) -> Result<Self::Unit, BeginError> {
        Ok(Box::new(PgUnit { tx: self.database.begin(scope, access).await? }))
    }
}

struct PgUnit {
    tx: TenantTx,
}

#[async_trait]
impl UnitOfWork for PgUnit {
    fn instruments<'w>(&'w mut self) -> Box<dyn InstrumentRepository + 'w> {
        Box::new(PgInstruments { tx: &mut self.tx })
    }

    fn positions<'w>(&'w mut self) -> Box<dyn PositionRepository + 'w> {
        Box::new(PgPositions { tx: &mut self.tx })
    }

    fn ranking_lists<'w>(&'w mut self) -> Box<dyn RankingListRepository + 'w> {
        Box::new(PgRankingLists { tx: &mut self.tx })
    }

    fn musicians<'w>(&'w mut self) -> Box<dyn MusicianRepository + 'w> {
        Box::new(PgMusicians { tx: &mut self.tx })
    }

    fn projects<'w>(&'w mut self) -> Box<dyn ProjectRepository + 'w> {
        Box::new(PgProjects { tx: &mut self.tx })
    }

    fn settings<'w>(&'w mut self) -> Box<dyn SettingsRepository + 'w> {
        Box::new(PgSettings { tx: &mut self.tx })
    }

    fn quotas<'w>(&'w mut self) -> Box<dyn QuotaRepository + 'w> {
        Box::new(PgQuotas { tx: &mut self.tx })
    }

    fn sequences<'w>(&'w mut self) -> Box<dyn SequenceStore + 'w> {
        Box::new(PgSequences { tx: &mut self.tx })
    }

    fn audit<'w>(&'w mut self) -> Box<dyn AuditLog + 'w> {
        Box::new(PgAuditLog { tx: &mut self.tx })
    }

    fn starter<'w>(&'w mut self) -> Box<dyn StarterRepository + 'w> {
        Box::new(PgStarter { tx: &mut self.tx })
    }

    fn idempotency<'w>(&'w mut self) -> Box<dyn IdempotencyStore + 'w> {
        Box::new(PgIdempotency { tx: &mut self.tx })
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        self.tx.commit().await.map_err(commit_error)
    }
}

/// What the use cases are told of a commit that failed. A refusal says as much as that of any statement: a
/// deferred constraint, a lock, a time that was up.
pub(crate) fn commit_error(error: CommitError) -> StoreError {
    match error {
        CommitError::Refused(source) => match source.downcast::<sqlx::Error>() {
            Ok(source) => store_error(*source),
            Err(source) => StoreError::Failed(source),
        },
        unknown @ CommitError::Unknown(_) => StoreError::CommitUnknown(Box::new(unknown)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_commit_says_what_its_cause_says() {
        let lost = || sqlx::Error::Io(std::io::ErrorKind::BrokenPipe.into());
        let refused = |source: sqlx::Error| commit_error(CommitError::Refused(Box::new(source)));
        assert!(matches!(refused(lost()), StoreError::Unavailable(_)));
        assert!(matches!(refused(sqlx::Error::RowNotFound), StoreError::Failed(_)));
        assert!(matches!(commit_error(CommitError::Unknown(Box::new(lost()))), StoreError::CommitUnknown(_)));
    }
}
