//! The `Host` header: whose request is it?

use crate::subdomain::Subdomain;

/// What a host name addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// The platform itself.
    Apex,
    /// `www` under the apex.
    Www,
    /// One label under the apex that a tenant may have. Whether one does, the directory knows.
    Tenant(Subdomain),
    /// Anything else: other domains, deeper names, addresses, reserved names, malformed text.
    Foreign,
}

/// The platform's own host names.
#[derive(Debug, Clone)]
pub struct HostPolicy {
    app_domain: String,
}

impl HostPolicy {
    /// A policy for `app_domain` (`stagesub.com`, `localhost`).
    pub fn new(app_domain: &str) -> Result<Self, InvalidAppDomain> {
        Ok(Self { app_domain: app_domain.to_ascii_lowercase() })
    }

    /// Classifies a `Host` header's text.
    #[must_use]
    pub fn classify(&self, host: &str) -> Host {
        let _ = (host, &self.app_domain);
        Host::Foreign
    }
}

/// The text is no domain to serve tenants under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the platform's domain is a host name without scheme, port or path")]
pub struct InvalidAppDomain;
