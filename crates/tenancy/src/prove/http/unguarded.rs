//! A target whose guard was removed.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::{Request, Response};

use super::plan::{Plan, Site};
use super::target::{Target, TargetError};

/// Another target, as it would answer without one of its guards. What is put around a service cannot take a
/// check out of it; so the request is changed into one that the check would let pass.
///
/// For the third guard, suspension, give the service a directory that calls every tenant active.
pub struct Unguarded<'a> {
    target: &'a dyn Target,
    tenants: &'a [Site],
    removed: Removed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removed {
    Host,
    Token,
}

impl fmt::Debug for Unguarded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unguarded").field("removed", &self.removed).finish_non_exhaustive()
    }
}

impl<'a> Unguarded<'a> {
    /// Without the check of hosts: any host whose first label is a tenant's is that tenant's.
    #[must_use]
    pub fn without_host_check(target: &'a dyn Target, plan: &'a Plan) -> Self {
        Self { target, tenants: &plan.tenants, removed: Removed::Host }
    }

    /// Without the check of whose token it is: a token of one tenant counts at the other's host, for whoever
    /// has the same role there.
    #[must_use]
    pub fn without_token_check(target: &'a dyn Target, plan: &'a Plan) -> Self {
        Self { target, tenants: &plan.tenants, removed: Removed::Token }
    }

    /// The tenant whose host this is, compared as hosts are.
    fn tenant_at(&self, request: &Request<Bytes>) -> Option<&'a Site> {
        let host = request.headers().get(HOST)?.to_str().ok()?;
        let name = host.split(':').next()?.trim_end_matches('.');
        self.tenants.iter().find(|site| site.host.eq_ignore_ascii_case(name))
    }

    fn host_instead(&self, request: &Request<Bytes>) -> Option<HeaderValue> {
        let host = request.headers().get(HOST)?.to_str().ok()?;
        let label = host.split('.').next()?;
        let site = self.tenants.iter().find(|site| site.label().eq_ignore_ascii_case(label))?;
        HeaderValue::from_str(&site.host).ok()
    }

    fn token_instead(&self, request: &Request<Bytes>) -> Option<HeaderValue> {
        let here = self.tenant_at(request)?;
        let shown = request.headers().get(AUTHORIZATION)?;
        let holder = self
            .tenants
            .iter()
            .flat_map(|site| &site.callers)
            .find(|caller| caller.authorization == shown)?;
        let same_role = here.callers.iter().find(|caller| caller.role == holder.role)?;
        Some(same_role.authorization.clone())
    }
}

#[async_trait]
impl Target for Unguarded<'_> {
    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, TargetError> {
        let (name, instead) = match self.removed {
            Removed::Host => (HOST, self.host_instead(&request)),
            Removed::Token => (AUTHORIZATION, self.token_instead(&request)),
        };
        if let Some(value) = instead {
            request.headers_mut().insert(name, value);
        }
        self.target.send(request).await
    }
}
