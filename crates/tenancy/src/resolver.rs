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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::directory::MockTenantDirectory;
    use crate::testing::tenant;

    const NOW: DateTime<Utc> = DateTime::from_timestamp(1_800_000_000, 0).expect("a time");

    /// The states of the table, in its order.
    fn states() -> [Tenant; 5] {
        let with = |status| Tenant { status, ..tenant(1, "GOT", "gbg") };
        let expired = Tenant { trial_ends_at: Some(NOW), ..with(TenantStatus::Active) };
        [
            with(TenantStatus::Provisioning),
            with(TenantStatus::Active),
            expired,
            with(TenantStatus::Suspended),
            with(TenantStatus::Closing),
        ]
    }

    fn resolver(found: Option<Tenant>) -> Resolver {
        let found = found.map(Arc::new);
        let mut directory = MockTenantDirectory::new();
        let by_id = found.clone();
        directory.expect_find_by_id().returning(move |_| Ok(by_id.clone()));
        directory
            .expect_find_by_subdomain()
            .withf(|label| label.as_str() == "gbg")
            .returning(move |_| Ok(found.clone()));
        Resolver::new(Arc::new(directory), HostPolicy::new("stagesub.com").expect("a domain"))
    }

    #[tokio::test]
    async fn each_purpose_accepts_the_states_of_its_row() {
        let support = Purpose::Support { reason: "asked for".to_owned() };
        let (provisioning, suspended, closing) =
            (AccessRefusal::Provisioning, AccessRefusal::Suspended, AccessRefusal::Closing);
        let expired = AccessRefusal::Expired { since: NOW };
        let table = [
            (Purpose::Request, [Some(provisioning), None, Some(expired), Some(suspended), Some(closing)]),
            (Purpose::Provisioning, [None, None, None, Some(suspended), Some(closing)]),
            (Purpose::Job, [Some(provisioning), None, None, Some(suspended), Some(closing)]),
            (Purpose::Move, [Some(provisioning), None, None, None, Some(closing)]),
            (Purpose::Export, [Some(provisioning), None, None, None, None]),
            (support, [Some(provisioning), None, None, None, None]),
        ];
        for (purpose, row) in table {
            for (state, refused) in states().into_iter().zip(row) {
                let id = state.id;
                let said = format!("{purpose:?} of {state:?}");
                let resolved = resolver(Some(state)).resolve_for(id, purpose.clone(), NOW).await;
                match (resolved, refused) {
                    (Ok(scope), None) => assert_eq!((scope.tenant_id(), scope.purpose()), (id, &purpose)),
                    (Err(ResolveError::Refused { tenant, refusal }), Some(expected)) => {
                        assert_eq!((tenant.id, refusal), (id, expected), "{said}");
                    }
                    (resolved, _) => panic!("{said}: {resolved:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn host_of_a_tenant_is_granted_as_a_request() {
        for (state, served) in states().into_iter().zip([false, true, false, false, false]) {
            let resolved = resolver(Some(state)).resolve("GBG.stagesub.com:443", NOW).await;
            if served {
                assert!(
                    matches!(resolved, Ok(Addressed::Tenant(scope)) if *scope.purpose() == Purpose::Request)
                );
            } else {
                assert!(matches!(resolved, Err(ResolveError::Refused { .. })));
            }
        }
    }

    #[tokio::test]
    async fn tenant_is_served_until_the_later_of_its_ends() {
        let now = NOW;
        let later = now + Duration::from_secs(1);
        for (trial, subscription, served) in [
            (None, None, true),
            (Some(now), None, false),
            (Some(later), None, true),
            (None, Some(now), false),
            (Some(now), Some(later), true),
            (Some(later), Some(now), true),
            (Some(now), Some(now), false),
        ] {
            let dated = Tenant {
                trial_ends_at: trial,
                subscription_ends_at: subscription,
                ..tenant(1, "GOT", "gbg")
            };
            let resolved = resolver(Some(dated)).resolve("gbg.stagesub.com", now).await;
            assert_eq!(resolved.is_ok(), served, "{trial:?} {subscription:?}");
        }
    }

    #[tokio::test]
    async fn platforms_own_hosts_need_no_directory() {
        let resolver = Resolver::new(
            Arc::new(MockTenantDirectory::new()),
            HostPolicy::new("stagesub.com").expect("a domain"),
        );
        assert!(matches!(resolver.resolve("stagesub.com", NOW).await, Ok(Addressed::Apex)));
        assert!(matches!(resolver.resolve("www.stagesub.com", NOW).await, Ok(Addressed::Www)));
        for foreign in ["evil.example", "a.gbg.stagesub.com", "api.stagesub.com", "127.0.0.1", ""] {
            assert!(matches!(resolver.resolve(foreign, NOW).await, Err(ResolveError::UnknownTenant)));
        }
    }

    #[tokio::test]
    async fn unknown_tenant_is_told_from_a_directory_that_cannot_answer() {
        let unknown = resolver(None);
        let id = tenant(1, "GOT", "gbg").id;
        assert!(matches!(unknown.resolve("gbg.stagesub.com", NOW).await, Err(ResolveError::UnknownTenant)));
        let by_id = unknown.resolve_for(id, Purpose::Job, NOW).await;
        assert!(matches!(by_id, Err(ResolveError::UnknownTenant)));

        let mut directory = MockTenantDirectory::new();
        directory
            .expect_find_by_subdomain()
            .returning(|_| Err(DirectoryError::Unavailable("registry is down".into())));
        let down = Resolver::new(Arc::new(directory), HostPolicy::new("stagesub.com").expect("a domain"));
        let resolved = down.resolve("gbg.stagesub.com", NOW).await;
        assert!(matches!(resolved, Err(ResolveError::Directory(DirectoryError::Unavailable(_)))));
    }
}
