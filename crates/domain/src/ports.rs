//! What the use cases need of the world, as traits.

use async_trait::async_trait;
use stagesub_id_gen::SequenceStore;

use crate::error::StoreError;

pub mod audit;
pub mod databases;
pub mod hot_lists;
pub mod idempotency;
pub mod instruments;
pub mod moves;
pub mod musicians;
pub mod projects;
pub mod provisioning;
pub mod quotas;
pub mod registry;
pub mod settings;

pub use audit::AuditLog;
pub use hot_lists::HotLists;
pub use idempotency::IdempotencyStore;
pub use instruments::{InstrumentRepository, PositionRepository, RankingListRepository};
pub use moves::MoveDesk;
pub use musicians::MusicianRepository;
pub use projects::ProjectRepository;
pub use provisioning::StarterRepository;
pub use quotas::QuotaRepository;
pub use settings::SettingsRepository;

/// One transaction on one tenant's data.
///
/// The tenant was fixed when the unit began, so no repository takes one. Dropping the unit rolls back.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait UnitOfWork: Send {
    /// Instruments.
    fn instruments<'w>(&'w mut self) -> Box<dyn InstrumentRepository + 'w>;
    /// Positions.
    fn positions<'w>(&'w mut self) -> Box<dyn PositionRepository + 'w>;
    /// Ranking lists.
    fn ranking_lists<'w>(&'w mut self) -> Box<dyn RankingListRepository + 'w>;
    /// Musicians and their qualifications.
    fn musicians<'w>(&'w mut self) -> Box<dyn MusicianRepository + 'w>;
    /// Projects.
    fn projects<'w>(&'w mut self) -> Box<dyn ProjectRepository + 'w>;
    /// The orchestra's settings.
    fn settings<'w>(&'w mut self) -> Box<dyn SettingsRepository + 'w>;
    /// How much of each resource is used and allowed.
    fn quotas<'w>(&'w mut self) -> Box<dyn QuotaRepository + 'w>;
    /// Counters that ids are numbered from.
    fn sequences<'w>(&'w mut self) -> Box<dyn SequenceStore + 'w>;
    /// The orchestra's audit log.
    fn audit<'w>(&'w mut self) -> Box<dyn AuditLog + 'w>;
    /// A new orchestra's first contents.
    fn starter<'w>(&'w mut self) -> Box<dyn StarterRepository + 'w>;
    /// What creating requests were answered.
    fn idempotency<'w>(&'w mut self) -> Box<dyn IdempotencyStore + 'w>;

    /// Makes everything of this unit durable.
    ///
    /// # Errors
    /// [`StoreError::CommitUnknown`]: it is not known whether it was kept, so the same work must not be done again
    /// unless it is told from the first. Any other error: nothing was kept.
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// What begins units of work, as handlers hold it.
pub type Units = std::sync::Arc<dyn stagesub_tenancy::UnitOfWorkFactory<Unit = Box<dyn UnitOfWork>>>;

#[cfg(any(test, feature = "testing"))]
mockall::mock! {
    /// Mock of the factory with this domain's unit.
    pub UnitOfWorkFactory {}
    #[async_trait]
    impl stagesub_tenancy::UnitOfWorkFactory for UnitOfWorkFactory {
        type Unit = Box<dyn UnitOfWork>;
        async fn begin(
            &self,
            scope: &stagesub_tenancy::TenantScope,
            access: stagesub_tenancy::Access,
        ) -> Result<Box<dyn UnitOfWork>, stagesub_tenancy::BeginError>;
    }
}
