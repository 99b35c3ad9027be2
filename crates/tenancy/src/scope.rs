//! Permission to touch one tenant's data.

use std::sync::Arc;

use crate::tenant::{Tenant, TenantCode, TenantId};

/// What a scope is wanted for. Decides which tenant states are accepted (see [`crate::resolver`]).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// A person's or a client's request.
    Request,
    /// Setting the tenant up.
    Provisioning,
    /// Periodic work.
    Job,
    /// Moving it between databases.
    Move,
    /// Exporting or backing it up.
    Export,
    /// An administrator of the platform looks inside; the reason goes to the tenant's audit log.
    Support {
        /// Why.
        reason: String,
    },
}

/// Evidence that a tenant exists and may be used now for a purpose.
///
/// Only [`crate::resolver::Resolver`] makes one. It says nothing of where the data is: the router looks
/// that up each time a transaction begins, so that a scope never goes stale when its tenant moves.
///
/// Code that was given one may use it:
///
/// ```
/// # use std::sync::Arc;
/// # use stagesub_tenancy::{Purpose, Tenant, TenantScope};
/// fn use_one(scope: &TenantScope) -> (&Tenant, &Purpose) {
///     (scope.tenant(), scope.purpose())
/// }
/// ```
///
/// but cannot make one of its parts,
///
/// ```compile_fail,E0451
/// # use std::sync::Arc;
/// # use stagesub_tenancy::{Purpose, Tenant, TenantScope};
/// fn forge(tenant: Arc<Tenant>) -> TenantScope {
///     TenantScope { tenant, purpose: Purpose::Request }
/// }
/// ```
///
/// nor through the constructor that the resolver calls,
///
/// ```compile_fail,E0624
/// # use std::sync::Arc;
/// # use stagesub_tenancy::{Purpose, Tenant, TenantScope};
/// fn forge(tenant: Arc<Tenant>) -> TenantScope {
///     TenantScope::new(tenant, Purpose::Request)
/// }
/// ```
///
/// nor out of nothing.
///
/// ```compile_fail,E0277
/// # use stagesub_tenancy::TenantScope;
/// fn default<T: Default>() -> T {
///     T::default()
/// }
/// let scope: TenantScope = default();
/// ```
#[derive(Debug, Clone)]
pub struct TenantScope {
    tenant: Arc<Tenant>,
    purpose: Purpose,
}

impl TenantScope {
    /// Called by the resolver alone.
    pub(crate) fn new(tenant: Arc<Tenant>, purpose: Purpose) -> Self {
        Self { tenant, purpose }
    }

    /// The tenant.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// The tenant's id.
    #[must_use]
    pub fn tenant_id(&self) -> TenantId {
        self.tenant.id
    }

    /// The tenant's code.
    #[must_use]
    pub fn code(&self) -> &TenantCode {
        &self.tenant.code
    }

    /// What it was given for.
    #[must_use]
    pub fn purpose(&self) -> &Purpose {
        &self.purpose
    }
}
