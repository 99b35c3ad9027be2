//! The lists that are asked for most, as they are asked for most.

use async_trait::async_trait;
use stagesub_tenancy::TenantScope;

use crate::error::UseCaseError;
use crate::instrument::Instrument;
use crate::musician::Musician;
use crate::page::{Page, Paged};
use crate::project::Project;

/// Lists that a store may bring faster than a unit of work: nothing is asked for but a page, in the order of numbers.
/// Each brings what the unit's repository brings for the filter that asks for nothing, and is a transaction of its
/// own.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait HotLists: Send + Sync {
    /// Musicians, as by [`MusicianFilter::unasked`](super::musicians::MusicianFilter::unasked).
    async fn musicians(&self, scope: &TenantScope, page: Page) -> Result<Paged<Musician>, UseCaseError>;
    /// Instruments, as by [`InstrumentFilter::unasked`](super::instruments::InstrumentFilter::unasked).
    async fn instruments(&self, scope: &TenantScope, page: Page) -> Result<Paged<Instrument>, UseCaseError>;
    /// Projects, as by [`ProjectFilter::unasked`](super::projects::ProjectFilter::unasked).
    async fn projects(&self, scope: &TenantScope, page: Page) -> Result<Paged<Project>, UseCaseError>;
}
