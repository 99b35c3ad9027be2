//! Who is the tenant, may it be served, and where is its data.

pub mod clock;
pub mod directory;
pub mod host;
#[cfg(feature = "axum")]
pub mod http;
pub mod placement;
pub mod pools;
pub mod proxies;
pub mod quota;
pub mod resolver;
pub mod router;
pub mod scope;
pub mod subdomain;
pub mod tenant;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod unit;

pub use clock::Clock;
pub use directory::cache::{CacheSettings, VersionedCache};
pub use directory::cached::CachedDirectory;
pub use directory::follow::{ChangeFollower, ChangeSink};
pub use directory::{BoxError, ChangeFeed, Changes, DirectoryError, TenantDirectory};
pub use host::{Host, HostPolicy, InvalidAppDomain};
pub use placement::{DatabaseId, Located, Placement, PlacementEpoch};
pub use pools::{
    BreakerSettings, Lease, OpenError, PoolCache, PoolFactory, PoolSettings, PoolStats, PoolTarget,
};
pub use proxies::{InvalidProxies, TrustedProxies};
pub use resolver::{Addressed, ResolveError, Resolver};
pub use router::{RouteError, Routed, Router};
pub use scope::{Purpose, TenantScope};
pub use subdomain::Subdomain;
pub use tenant::{AccessRefusal, ConfigVersion, Tenant, TenantCode, TenantId, TenantStatus};
pub use unit::{Access, BeginError, UnitOfWorkFactory};
