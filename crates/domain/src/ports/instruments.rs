//! Instruments, positions and their lists.

use async_trait::async_trait;

use crate::error::StoreError;
use crate::ids::{InstrumentNo, PositionNo};
use crate::instrument::{Instrument, Position, RankingList};
use crate::page::{Page, Paged};

/// Which instruments are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InstrumentFilter {
    /// Part of the name, without regard to case.
    pub search: Option<String>,
    /// Only archived ones, or only those that are not; both when `None`.
    pub archived: Option<bool>,
}

impl InstrumentFilter {
    /// What is listed when nothing is asked for: those that are not archived.
    #[must_use]
    pub fn unasked() -> Self {
        Self { archived: Some(false), ..Self::default() }
    }
}

/// Instruments of the unit's tenant.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait InstrumentRepository: Send {
    /// Finds one; `lock` keeps others from changing it until the unit ends.
    async fn find(&mut self, no: InstrumentNo, lock: bool) -> Result<Option<Instrument>, StoreError>;
    /// Lists in the order of numbers.
    async fn list(&mut self, filter: &InstrumentFilter, page: Page) -> Result<Paged<Instrument>, StoreError>;
    /// Stores new ones.
    async fn insert(&mut self, instruments: Vec<Instrument>) -> Result<(), StoreError>;
    /// Stores changed fields of an existing one.
    async fn update(&mut self, instrument: &Instrument) -> Result<(), StoreError>;
    /// Removes one that no position names.
    async fn delete(&mut self, no: InstrumentNo) -> Result<(), StoreError>;
    /// How many positions name it.
    async fn count_positions(&mut self, no: InstrumentNo) -> Result<i64, StoreError>;
}

/// Which positions are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PositionFilter {
    /// Part of the name, without regard to case.
    pub search: Option<String>,
    /// Of this instrument.
    pub instrument: Option<InstrumentNo>,
}

/// What keeps a position from being deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PositionUse {
    /// Musicians qualified for it.
    pub musicians: i64,
}

/// Positions of the unit's tenant.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait PositionRepository: Send {
    /// Finds one; `lock` keeps others from changing it until the unit ends.
    async fn find(&mut self, no: PositionNo, lock: bool) -> Result<Option<Position>, StoreError>;
    /// Lists in the order of numbers.
    async fn list(&mut self, filter: &PositionFilter, page: Page) -> Result<Paged<Position>, StoreError>;
    /// Stores new ones.
    async fn insert(&mut self, positions: Vec<Position>) -> Result<(), StoreError>;
    /// Stores changed fields of an existing one.
    async fn update(&mut self, position: &Position) -> Result<(), StoreError>;
    /// Removes one with its lists.
    async fn delete(&mut self, no: PositionNo) -> Result<(), StoreError>;
    /// What uses it.
    async fn usage(&mut self, no: PositionNo) -> Result<PositionUse, StoreError>;
}

/// Ranking lists of the unit's tenant.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait RankingListRepository: Send {
    /// Stores new ones.
    async fn insert(&mut self, lists: Vec<RankingList>) -> Result<(), StoreError>;
}
