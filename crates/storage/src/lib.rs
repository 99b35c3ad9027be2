//! Tenant-bound transactions, row-level security and databases on Postgres.
//!
//! Two halves. The first knows no orchestra and is what another service embeds; without the feature
//! `orchestra` it depends on `stagesub-tenancy` alone.
//!
//! - [`tx`] the transaction that is bound to one tenant, the only way to tenant data; [`one_message`] the same as
//!   one read, in one message, and [`one_write`] as one write, with [`literal`] for its values;
//!   [`pool`] the connections under it; [`factory`] opens pools for the router and begins transactions, with
//!   [`patience`] for a tenant that moves; [`fence`] lets a tenant in
//! - [`catalogue`] which tenant tables there are and in which order they are copied; [`doctor`] what is wrong with
//!   them and with everything else that isolation stands on
//! - [`adopt`] puts a schema that is there already behind the fence
//! - [`error`] what a database error means to a caller
//! - [`embedded`] runs the installed Postgres as a cluster of our own
//! - [`migrate`] roles, logins and schemas of a database; [`marker`] what a database says of itself, and [`identity`]
//!   whether that is what was meant;
//!   [`databases`] makes one for a single tenant
//! - [`target`] connection strings taken apart; [`seal`] kept secret; [`logins`] who knows them
//! - [`moves`] takes a tenant from one database to another while it is in use
//! - [`prove`] attacks a database's isolation, and shows that the attacks would succeed without its guards
//! - [`directory`] where each tenant is; [`registry`] the platform's own records
//! - [`service`] all of it for a service of somebody's own, set up and wired
//!
//! The second half, the feature `orchestra`, is `repo`, the repositories of an orchestra's entities on one
//! tenant transaction, `unit`, the unit of work that holds them, and the registry's adapters for the domain's
//! ports.
//!
//! # Embedding
//!
//! [`service::Service::open`] sets a database up for a service of somebody's own and wires all of this. Whoever has
//! logins and a directory of their own wires it by hand; the database is one that [`migrate`](mod@migrate) has prepared,
//! its tables are behind forced policies like those of the platform ([`adopt`](mod@adopt) puts them there):
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use stagesub_storage::factory::{FactorySettings, LeanPoolFactory, TenantDb};
//! use stagesub_storage::logins::DatabaseLogins;
//! use stagesub_tenancy::{Access, PoolSettings, Router, TenantDirectory, TenantScope};
//!
//! async fn invoices(
//!     logins: Arc<dyn DatabaseLogins>,
//!     directory: Arc<dyn TenantDirectory>,
//!     scope: &TenantScope,
//! ) -> Result<i64, Box<dyn std::error::Error>> {
//!     let factory = LeanPoolFactory::new(logins, FactorySettings::default());
//!     let router = Router::new(directory, Arc::new(factory), PoolSettings::default());
//!     let db = TenantDb::new(Arc::new(router));
//!
//!     let mut tx = db.begin(scope, Access::Read).await?;
//!     let count = sqlx::query_scalar("SELECT count(*) FROM billing.invoice WHERE tenant_id = $1")
//!         .bind(tx.tenant().as_uuid())
//!         .fetch_one(&mut tx)
//!         .await?;
//!     tx.commit().await?;
//!     Ok(count)
//! }
//! ```
//!
//! # Invariants
//!
//! - A tenant transaction begins from a [`TenantScope`](stagesub_tenancy::TenantScope), in
//!   [`tx::TenantTx::begin`] or whole in [`one_message::read`] or [`one_write::write`] and nowhere else, with one message
//!   that is a constant with its values bound, or is built of UUIDs and integers, and of yes and no. It is served at the epoch that the router gave, or refused.
//! - No pool and no connection to tenant data leaves this crate: a query needs a transaction to run on.
//! - A connection is dirty from before the first message of a transaction until that transaction ended
//!   cleanly (one that only read: until the message that ends it was sent, everything before it being answered).
//!   A dirty one is cleaned up or closed, never lent; what cleans it up keeps its place in the pool.
//! - Each connection of a pool reads the marker before it is lent, and is closed unless the database is the one meant; a
//!   pool is opened by the first.
//! - Driver errors stop at the repositories; what an embedder runs on a transaction itself answers with them.
//! - Deliberately absent: HTTP, `SET ROLE` where tenant data is served, a tenant bound to a session instead of a
//!   transaction, a default database.

pub mod adopt;
mod bounds;
mod canceller;
pub mod catalogue;
mod connection;
pub mod databases;
mod deadline;
pub mod directory;
pub mod doctor;
pub mod embedded;
pub mod error;
pub mod factory;
pub mod fence;
mod hardening;
pub mod identity;
mod lingering;
pub mod literal;
pub mod logins;
pub mod marker;
mod metered;
pub mod migrate;
pub mod moves;
pub mod one_message;
pub mod one_write;
mod parameters;
pub mod patience;
pub mod pool;
mod prepared;
pub mod prove;
pub mod registry;
mod roles;
pub mod seal;
pub mod service;
mod statement;
pub mod target;
pub mod tx;
mod warming;

#[cfg(feature = "orchestra")]
pub mod repo;
#[cfg(feature = "orchestra")]
pub mod unit;
