//! What handlers work with: ports, never adapters.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use stagesub_auth::{Authenticator, LoginService, PasswordHasher};
use stagesub_domain::ports::databases::PlatformDatabases;
use stagesub_domain::ports::registry::{PersonRegistry, TenantDatabases, TenantRegistry};
use stagesub_domain::ports::{HotLists, MoveDesk, Units};
use stagesub_domain::service::moves::Moving;
use stagesub_domain::service::people::People;
use stagesub_tenancy::clock::Clock;
use stagesub_tenancy::moves::{DataPlane, MoveRegistry, Surveyor};
use stagesub_tenancy::proxies::TrustedProxies;
use stagesub_tenancy::{Resolver, TenantId, UsageLedger};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::idempotency::{Fingerprints, KeyTurns};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::readiness::Readiness;

/// Told when a tenant's record changed on this node, so that its own caches do not wait for the feed.
pub type Invalidate = Arc<dyn Fn(TenantId) + Send + Sync>;

/// Told when a person's account or memberships changed on this node, for the same reason.
pub type InvalidatePerson = Arc<dyn Fn(Uuid) + Send + Sync>;

/// Everything that requests are answered with.
pub struct Parts {
    /// Begins transactions on tenants' data.
    pub units: Units,
    /// The lists that are asked for most.
    pub hot_lists: Arc<dyn HotLists>,
    /// Hosts to scopes.
    pub resolver: Resolver,
    /// Signs people in.
    pub login: LoginService,
    /// Checks access tokens.
    pub authenticator: Authenticator,
    /// Hashes new passwords.
    pub passwords: Arc<PasswordHasher>,
    /// Tenants in the registry.
    pub tenants: Arc<dyn TenantRegistry>,
    /// People in the registry.
    pub people: Arc<dyn PersonRegistry>,
    /// Databases for new tenants.
    pub databases: Arc<dyn TenantDatabases>,
    /// The platform's databases, for its administrators.
    pub platform_databases: Arc<dyn PlatformDatabases>,
    /// Drops this node's cached answers about a tenant.
    pub invalidate: Invalidate,
    /// Tells requests with a key from each other.
    pub fingerprints: Fingerprints,
    /// Requests with one key, one after the other.
    pub keys: Arc<KeyTurns>,
    /// Drops this node's cached answers about a person.
    pub invalidate_person: InvalidatePerson,
    /// Whether requests can be served.
    pub readiness: Arc<dyn Readiness>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How often it may be asked.
    pub limits: Arc<Limits>,
    /// Who used how much, on all nodes.
    pub usage: Arc<dyn UsageLedger>,
    /// What moves are asked for and looked at with.
    pub moves: MoveParts,
    /// What is counted for Prometheus.
    pub metrics: Metrics,
    /// Whose forwarded headers count.
    pub trusted_proxies: TrustedProxies,
    /// The domain tenants are served under.
    pub app_domain: String,
}

/// What moves are asked for and looked at with.
pub struct MoveParts {
    /// Where they are stored.
    pub registry: Arc<dyn MoveRegistry>,
    /// Databases that are there, and requests with keys.
    pub desk: Arc<dyn MoveDesk>,
    /// What moves orchestras.
    pub plane: Arc<dyn DataPlane>,
    /// How large they are.
    pub surveyor: Arc<dyn Surveyor>,
    /// Told when there is a move to drive.
    pub wake: Wake,
    /// Places of those who watch moves on this node.
    pub streams: Arc<Semaphore>,
    /// Cancelled when the node stops: answers that go on end.
    pub closing: CancellationToken,
}

/// Told that there is something to do.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Shared by all handlers.
#[derive(Clone)]
pub struct AppState(Arc<Parts>);

impl AppState {
    /// The state of one server.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// What use cases on people work with.
    #[must_use]
    pub fn people(&self) -> People<'_> {
        People { registry: &*self.0.people, invalidate: &*self.0.invalidate_person }
    }

    /// What use cases on moves work with.
    #[must_use]
    pub fn moving(&self) -> Moving<'_> {
        let MoveParts { registry, desk, plane, surveyor, wake, .. } = &self.0.moves;
        Moving {
            tenants: &*self.0.tenants,
            databases: &*self.0.databases,
            desk: &**desk,
            moves: &**registry,
            plane: &**plane,
            surveyor: &**surveyor,
            wake: &**wake,
        }
    }

    /// Checks access tokens.
    #[must_use]
    pub fn authenticator(&self) -> &Authenticator {
        &self.0.authenticator
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.0.clock.now()
    }
}

impl std::ops::Deref for AppState {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}
