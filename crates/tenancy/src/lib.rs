//! Who is the tenant, may it be served, and where is its data.
//!
//! Multi-tenancy for services on Postgres: tenants share a database behind row-level security, or have one
//! of their own, and move between the two while they are in use. This crate decides; it holds no SQL and
//! opens no connection.
//!
//! # Map
//!
//! | step | module | from -> to |
//! |---|---|---|
//! | whose host is it | [`host`], [`proxies`] | `Host` header -> [`Subdomain`] |
//! | which tenant is that | [`directory`] and its cache | [`Subdomain`] -> [`Tenant`] |
//! | may it be served now | [`resolver`] | [`Tenant`] and [`Purpose`] -> [`TenantScope`] |
//! | where is its data | [`router`] | [`TenantScope`] -> [`Located`], looked up each time |
//! | a way to get there | [`pools`] | [`Located`] -> [`Lease`] on a pool that stays open |
//! | one transaction there | [`unit`](mod@unit) | [`TenantScope`] -> the service's own unit of work |
//!
//! Beside the path: [`tenant`], [`subdomain`] and [`placement`] are its values, [`quota`] the rules of limits,
//! [`fair`] the turns of tenants at what they share, [`nodes`] each server's part of it, [`clock`] the time,
//! [`usage`] who used how much of the databases, [`moves`] a tenant's move to another database, [`prove`] attacks on
//! isolation and what became of them. The feature `axum` adds `http`, a layer and an
//! extractor; the feature `rate` adds `rate`, how often somebody may ask; the feature `testing` adds `testing`,
//! doubles for a service's own tests.
//!
//! A service implements four ports: [`TenantDirectory`] (its list of tenants), [`ChangeFeed`] (what changed in
//! it), [`PoolFactory`] (its kind of pool) and [`UnitOfWorkFactory`] (its transactions).
//!
//! # Invariants
//!
//! - Only [`Resolver`] makes a [`TenantScope`]. Code that holds none cannot name a tenant to anything that
//!   reaches data.
//! - There is no default tenant, no default database and no fallback: an unknown host is an error, and so is a
//!   missing placement.
//! - A scope does not say where the data is. The placement and its epoch are looked up each time a
//!   transaction begins; an older pool is never used for a newer epoch.
//! - A leased pool is open. It closes when its last lease is gone, whatever the cache did meanwhile.
//! - Pools that are opening, open and closing never count for more connections than the budget.
//! - An answer from before a change is not kept after it.
//! - No lock is held across an await.
//! - Deliberately absent: SQL, connections, connection strings, a clock of its own, any header that names a
//!   tenant, and what the tenants are.
//!
//! # Embedding it
//!
//! A service that keeps notes. What it stores its tenants in and how it connects is its own; here that is as
//! little as can be.
//!
//! ```
//! use std::sync::Arc;
//!
//! use async_trait::async_trait;
//! use chrono::DateTime;
//! use stagesub_tenancy::{
//!     Addressed, CacheSettings, CachedDirectory, ConfigVersion, DatabaseId, DirectoryError, HostPolicy, Located,
//!     OpenError, Placement, PlacementEpoch, PoolFactory, PoolSettings, PoolTarget, Resolver, Router, Subdomain,
//!     Tenant, TenantDirectory, TenantId, TenantScope, TenantStatus,
//! };
//! use uuid::Uuid;
//!
//! /// The service's tenants: one choir, in a database that it shares with others.
//! struct Choirs;
//!
//! const CHOIR: TenantId = TenantId::from_uuid(Uuid::from_u128(1));
//! const SHARED: DatabaseId = DatabaseId::from_uuid(Uuid::from_u128(2));
//!
//! #[async_trait]
//! impl TenantDirectory for Choirs {
//!     async fn find_by_subdomain(&self, label: &Subdomain) -> Result<Option<Arc<Tenant>>, DirectoryError> {
//!         if label.as_str() == "alto" { self.find_by_id(CHOIR).await } else { Ok(None) }
//!     }
//!
//!     async fn find_by_id(&self, id: TenantId) -> Result<Option<Arc<Tenant>>, DirectoryError> {
//!         let corrupt = |source| DirectoryError::Corrupt { what: "tenant", source };
//!         let choir = Tenant {
//!             id: CHOIR,
//!             code: "ALT".parse().map_err(|error| corrupt(Box::new(error)))?,
//!             name: "Alto".to_owned(),
//!             subdomain: "alto".parse().map_err(|error| corrupt(Box::new(error)))?,
//!             status: TenantStatus::Active,
//!             trial_ends_at: None,
//!             subscription_ends_at: None,
//!             version: ConfigVersion(1),
//!         };
//!         Ok((id == CHOIR).then(|| Arc::new(choir)))
//!     }
//!
//!     async fn find_placement(&self, id: TenantId) -> Result<Option<Located>, DirectoryError> {
//!         let placement = Placement::Shared(SHARED);
//!         Ok((id == CHOIR).then_some(Located { tenant: id, placement, epoch: PlacementEpoch(1) }))
//!     }
//! }
//!
//! /// The service's connections; a real one opens a pool and checks which database it reached.
//! struct Connections;
//!
//! struct NotePool(DatabaseId);
//!
//! #[async_trait]
//! impl PoolFactory for Connections {
//!     type Pool = NotePool;
//!
//!     fn connections(&self, _target: &PoolTarget) -> u32 {
//!         4
//!     }
//!
//!     async fn open(&self, target: &PoolTarget) -> Result<NotePool, OpenError> {
//!         Ok(NotePool(target.database()))
//!     }
//!
//!     async fn close(&self, _pool: NotePool) {}
//! }
//!
//! /// A use case: it cannot be called without a scope, and reaches no other tenant's database.
//! async fn notes_are_in(scope: &TenantScope, router: &Router<Connections>) -> Result<DatabaseId, Box<dyn std::error::Error>> {
//!     let routed = router.lease(scope).await?;
//!     // Here: BEGIN, bind `routed.located.tenant` and `routed.located.epoch`, query, COMMIT.
//!     Ok(routed.lease.0)
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let directory = Arc::new(CachedDirectory::new(Arc::new(Choirs), CacheSettings::default()));
//!     let resolver = Resolver::new(directory.clone(), HostPolicy::new("notes.example")?);
//!     let router = Router::new(directory, Arc::new(Connections), PoolSettings::default());
//!
//!     // What `http::TenantLayer` does for each request.
//!     let now = DateTime::UNIX_EPOCH;
//!     let Addressed::Tenant(scope) = resolver.resolve("alto.notes.example", now).await? else {
//!         return Err("not a tenant's host".into());
//!     };
//!     assert_eq!(notes_are_in(&scope, &router).await?, SHARED);
//!     assert!(resolver.resolve("bass.notes.example", now).await.is_err());
//!     router.shutdown().await;
//!     Ok(())
//! }
//! ```

pub mod clock;
pub mod directory;
pub mod fair;
pub mod host;
#[cfg(feature = "axum")]
pub mod http;
pub mod moves;
pub mod nodes;
pub mod placement;
pub mod pools;
pub mod prove;
pub mod proxies;
pub mod quota;
#[cfg(feature = "rate")]
pub mod rate;
pub mod resolver;
pub mod router;
pub mod scope;
pub mod subdomain;
pub mod tenant;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod unit;
pub mod usage;

pub use clock::Clock;
pub use directory::cache::{CacheSettings, CacheStats, VersionedCache};
pub use directory::cached::CachedDirectory;
pub use directory::follow::{ChangeFollower, ChangeSink};
pub use directory::{BoxError, ChangeFeed, ChangeSignal, Changes, DirectoryError, Standing, TenantDirectory};
pub use fair::{Crowded, FairGate, FairSettings, FairStats};
pub use host::{Host, HostPolicy, InvalidAppDomain};
pub use nodes::{NodeId, NodeRegistry};
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
pub use usage::{Tally, Usage, UsageLedger, UsageMeter, UsageSink};
