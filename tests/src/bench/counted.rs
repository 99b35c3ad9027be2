//! A directory that counts the questions that reach it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use stagesub_storage::directory::PgTenantDirectory;
use stagesub_tenancy::{DirectoryError, Located, Subdomain, Tenant, TenantDirectory, TenantId};

/// The registry's directory, counted.
pub struct Counted {
    inner: PgTenantDirectory,
    questions: AtomicU64,
}

impl Counted {
    /// Counts from nought.
    #[must_use]
    pub const fn new(inner: PgTenantDirectory) -> Self {
        Self { inner, questions: AtomicU64::new(0) }
    }

    /// How many there were.
    #[must_use]
    pub fn questions(&self) -> u64 {
        self.questions.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.questions.fetch_add(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl TenantDirectory for Counted {
    async fn find_by_subdomain(&self, subdomain: &Subdomain) -> Result<Option<Arc<Tenant>>, DirectoryError> {
        self.count();
        self.inner.find_by_subdomain(subdomain).await
    }

    async fn find_by_id(&self, id: TenantId) -> Result<Option<Arc<Tenant>>, DirectoryError> {
        self.count();
        self.inner.find_by_id(id).await
    }

    async fn find_placement(&self, id: TenantId) -> Result<Option<Located>, DirectoryError> {
        self.count();
        self.inner.find_placement(id).await
    }
}
