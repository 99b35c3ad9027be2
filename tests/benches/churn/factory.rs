//! Opens pools as the product does, but takes a few shared databases for many tenants' own ones. Of the bench alone: the
//! product has no such switch.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use stagesub_storage::factory::LeanPoolFactory;
use stagesub_storage::pool::TenantPool;
use stagesub_tenancy::{DatabaseId, OpenError, PoolFactory, PoolTarget};

/// The product's factory, with the tenants that live in a crowd.
pub(crate) struct CrowdFactory {
    product: LeanPoolFactory,
    /// The shared database behind each that is recorded as somebody's own.
    crowded: HashMap<DatabaseId, DatabaseId>,
    /// Openings begun.
    pub(crate) opened: AtomicU64,
}

impl CrowdFactory {
    pub(crate) fn new(product: LeanPoolFactory, crowded: HashMap<DatabaseId, DatabaseId>) -> Self {
        Self { product, crowded, opened: AtomicU64::new(0) }
    }
}

#[async_trait]
impl PoolFactory for CrowdFactory {
    type Pool = TenantPool;

    fn connections(&self, target: &PoolTarget) -> u32 {
        self.product.connections(target)
    }

    async fn open(&self, target: &PoolTarget) -> Result<TenantPool, OpenError> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        match self.crowded.get(&target.database()) {
            // The marker of a shared database is what has to be there.
            Some(shared) => self.product.open(&PoolTarget::Shared(*shared)).await,
            None => self.product.open(target).await,
        }
    }

    async fn close(&self, pool: TenantPool) {
        self.product.close(pool).await;
    }
}
