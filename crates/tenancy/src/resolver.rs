//! From a fact of the request to a [`TenantScope`]: the only place that makes one.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::directory::{DirectoryError, TenantDirectory};
use crate::host::{Host, HostPolicy};
use crate::scope::{Purpose, TenantScope};
use crate::tenant::{AccessRefusal, Tenant, TenantId, TenantStatus};

/// Turns a host, or a tenant id with a purpose, into a scope.
///
/// | purpose | provisioning | active | expired | suspended | closing |
/// |---|---|---|---|---|---|
/// | `Request` | no | yes | no | no | no |
/// | `Provisioning` | yes | yes | yes | no | no |
/// | `Job` | no | yes | yes | no | no |
/// | `Move` | no | yes | yes | yes | no |
/// | `Export` | no | yes | yes | yes | yes |
/// | `Support` | no | yes | yes | yes | yes |
#[derive(Clone)]
pub struct Resolver {
    directory: Arc<dyn TenantDirectory>,
    hosts: HostPolicy,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

/// Who a host addresses.
#[derive(Debug, Clone)]
pub enum Addressed {
    /// The platform itself: no tenant, no tenant data.
    Apex,
    /// `www`: to be redirected to the apex.
    Www,
    /// A tenant that may be served now.
    Tenant(TenantScope),
}

impl Resolver {
    /// A resolver over a directory and the platform's own host names.
    #[must_use]
    pub fn new(directory: Arc<dyn TenantDirectory>, hosts: HostPolicy) -> Self {
        Self { directory, hosts }
    }

    /// The platform's own host names.
    #[must_use]
    pub fn hosts(&self) -> &HostPolicy {
        &self.hosts
    }

    /// Resolves a `Host` header (or a trusted forwarded one) for a request at `now`.
    ///
    /// # Errors
    /// [`ResolveError::UnknownTenant`] for every host that names no tenant, foreign and malformed hosts
    /// included; [`ResolveError::Refused`] for one that exists and is not served.
    pub async fn resolve(&self, host: &str, now: DateTime<Utc>) -> Result<Addressed, ResolveError> {
        match self.hosts.classify(host) {
            Host::Apex => Ok(Addressed::Apex),
            Host::Www => Ok(Addressed::Www),
            Host::Foreign => Err(ResolveError::UnknownTenant),
            Host::Tenant(subdomain) => {
                let tenant = self
                    .directory
                    .find_by_subdomain(&subdomain)
                    .await
                    .map_err(ResolveError::Directory)?
                    .ok_or(ResolveError::UnknownTenant)?;
                grant(tenant, Purpose::Request, now).map(Addressed::Tenant)
            }
        }
    }

    /// Resolves a tenant by id for a stated purpose: jobs, moves, exports, support.
    ///
    /// # Errors
    /// As [`Resolver::resolve`]; which states a purpose accepts is in the type's table.
    pub async fn resolve_for(
        &self,
        tenant: TenantId,
        purpose: Purpose,
        now: DateTime<Utc>,
    ) -> Result<TenantScope, ResolveError> {
        let tenant = self
            .directory
            .find_by_id(tenant)
            .await
            .map_err(ResolveError::Directory)?
            .ok_or(ResolveError::UnknownTenant)?;
        grant(tenant, purpose, now)
    }
}

/// The access decision: one row of the table on [`Resolver`]. Nothing else makes a scope.
pub(crate) fn grant(
    tenant: Arc<Tenant>,
    purpose: Purpose,
    now: DateTime<Utc>,
) -> Result<TenantScope, ResolveError> {
    let refused = |refusal| Err(ResolveError::Refused { tenant: Arc::clone(&tenant), refusal });
    let accepted = match (&purpose, tenant.status) {
        (Purpose::Request, _) => tenant.access_at(now),
        (Purpose::Provisioning, TenantStatus::Provisioning | TenantStatus::Active)
        | (Purpose::Job, TenantStatus::Active)
        | (Purpose::Move, TenantStatus::Active | TenantStatus::Suspended)
        | (
            Purpose::Export | Purpose::Support { .. },
            TenantStatus::Active | TenantStatus::Suspended | TenantStatus::Closing,
        ) => Ok(()),
        (_, TenantStatus::Provisioning) => Err(AccessRefusal::Provisioning),
        (_, TenantStatus::Suspended) => Err(AccessRefusal::Suspended),
        (_, TenantStatus::Closing) => Err(AccessRefusal::Closing),
    };
    match accepted {
        Ok(()) => Ok(TenantScope::new(tenant, purpose)),
        Err(refusal) => refused(refusal),
    }
}

/// No scope was given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The host or id names no tenant.
    #[error("no such tenant")]
    UnknownTenant,
    /// The tenant exists and is not served for this purpose now.
    #[error("the tenant is not served now")]
    Refused {
        /// Which tenant: for audit and wording, not a permission.
        tenant: Arc<Tenant>,
        /// Why.
        #[source]
        refusal: AccessRefusal,
    },
    /// The directory could not answer.
    #[error("the tenant could not be looked up")]
    Directory(#[source] DirectoryError),
}
