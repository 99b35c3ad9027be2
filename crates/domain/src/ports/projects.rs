//! Projects.

use async_trait::async_trait;

use crate::error::StoreError;
use crate::ids::ProjectNo;
use crate::page::{Page, Paged};
use crate::project::{Project, ProjectStatus};

/// Which projects are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProjectFilter {
    /// Part of the name, without regard to case.
    pub search: Option<String>,
    /// In this status.
    pub status: Option<ProjectStatus>,
}

impl ProjectFilter {
    /// What is listed when nothing is asked for: all.
    #[must_use]
    pub fn unasked() -> Self {
        Self::default()
    }
}

/// Projects of the unit's tenant.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait ProjectRepository: Send {
    /// Finds one; `lock` keeps others from changing it until the unit ends.
    async fn find(&mut self, no: ProjectNo, lock: bool) -> Result<Option<Project>, StoreError>;
    /// Lists in the order of numbers.
    async fn list(&mut self, filter: &ProjectFilter, page: Page) -> Result<Paged<Project>, StoreError>;
    /// Stores a new one.
    async fn insert(&mut self, project: &Project) -> Result<(), StoreError>;
    /// Stores changed fields of an existing one.
    async fn update(&mut self, project: &Project) -> Result<(), StoreError>;
    /// Removes one.
    async fn delete(&mut self, no: ProjectNo) -> Result<(), StoreError>;
}
