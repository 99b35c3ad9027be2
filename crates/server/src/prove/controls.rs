//! The service in this process without one of its guards, for the attacks that must then succeed.

use std::sync::Arc;

use async_trait::async_trait;
use stagesub_tenancy::prove::http::{Guard, InProcess, Plan, Target, Unguarded};
use stagesub_tenancy::{
    DirectoryError, Located, Resolver, Subdomain, Tenant, TenantDirectory, TenantId, TenantStatus,
};

use super::error::ProveError;
use crate::config::ServingSettings;
use crate::routes::build_router;
use crate::wiring::Platform;

/// The service in this process without one guard. Two are taken away by changing requests into ones that pass
/// them; suspension by a directory that knows of none.
pub(super) fn without<'a>(
    guard: Guard,
    platform: &Platform,
    serving: &ServingSettings,
    target: &'a dyn Target,
    plan: &'a Plan,
) -> Result<Box<dyn Target + 'a>, ProveError> {
    Ok(match guard {
        Guard::Host => Box::new(Unguarded::without_host_check(target, plan)),
        Guard::Token => Box::new(Unguarded::without_token_check(target, plan)),
        Guard::Suspension => {
            let unsuspended = Arc::new(NobodySuspended { directory: platform.directory() });
            let resolver = Resolver::new(unsuspended, serving.hosts.clone());
            Box::new(InProcess::new(build_router(platform.state_resolving(serving, resolver)?)))
        }
    })
}

/// The directory, with nobody suspended.
struct NobodySuspended {
    directory: Arc<dyn TenantDirectory>,
}

impl NobodySuspended {
    fn active(found: Option<Arc<Tenant>>) -> Option<Arc<Tenant>> {
        found.map(|tenant| Arc::new(Tenant { status: TenantStatus::Active, ..(*tenant).clone() }))
    }
}

#[async_trait]
impl TenantDirectory for NobodySuspended {
    async fn find_by_subdomain(&self, label: &Subdomain) -> Result<Option<Arc<Tenant>>, DirectoryError> {
        self.directory.find_by_subdomain(label).await.map(Self::active)
    }

    async fn find_by_id(&self, id: TenantId) -> Result<Option<Arc<Tenant>>, DirectoryError> {
        self.directory.find_by_id(id).await.map(Self::active)
    }

    async fn find_placement(&self, id: TenantId) -> Result<Option<Located>, DirectoryError> {
        self.directory.find_placement(id).await
    }
}
