//! Musicians.

use async_trait::async_trait;

use crate::error::StoreError;
use crate::ids::{InstrumentNo, MusicianNo, PositionNo};
use crate::musician::Musician;
use crate::page::{Page, Paged};

/// Which musicians are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MusicianFilter {
    /// Part of a name or address, without regard to case.
    pub search: Option<String>,
    /// Only active ones, or only those that are not; both when `None`.
    pub is_active: Option<bool>,
    /// Only archived ones, or only those that are not; both when `None`.
    pub archived: Option<bool>,
    /// Qualified for this position.
    pub position: Option<PositionNo>,
    /// Qualified for a position of this instrument.
    pub instrument: Option<InstrumentNo>,
}

impl MusicianFilter {
    /// What is listed when nothing is asked for: those that are not archived.
    #[must_use]
    pub fn unasked() -> Self {
        Self { archived: Some(false), ..Self::default() }
    }
}

/// Musicians of the unit's tenant, with their qualifications.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait MusicianRepository: Send {
    /// Finds one; `lock` keeps others from changing it until the unit ends.
    async fn find(&mut self, no: MusicianNo, lock: bool) -> Result<Option<Musician>, StoreError>;
    /// Finds those of these addresses (compared without regard to case), archived ones included, and keeps
    /// others from changing them until the unit ends. At most 1,000 addresses.
    async fn find_by_emails(&mut self, emails: Vec<String>) -> Result<Vec<Musician>, StoreError>;
    /// Lists in the order of numbers.
    async fn list(&mut self, filter: &MusicianFilter, page: Page) -> Result<Paged<Musician>, StoreError>;
    /// Stores new ones with their qualifications, in one statement a table.
    async fn insert(&mut self, musicians: Vec<Musician>) -> Result<(), StoreError>;
    /// Stores changed fields and the qualifications of existing ones, in one statement a table.
    async fn update(&mut self, musicians: Vec<Musician>) -> Result<(), StoreError>;
}
