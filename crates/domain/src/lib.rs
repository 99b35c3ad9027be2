//! Orchestras: their musicians, instruments and projects, the rules, and the use cases.
//!
//! # Map
//! | module | holds |
//! |---|---|
//! | [`instrument`], [`musician`], [`project`], [`settings`], [`language`] | entities, with the drafts and changes they are made and changed by |
//! | [`ids`] | numbers of things within a tenant, one type a kind |
//! | [`actor`], [`role`], [`audit`] | who acts, and what is written down of it |
//! | [`subscription`], [`starter`] | tiers and their limits; what a new orchestra starts with |
//! | [`validate`] | rules that drafts are checked by, and their names |
//! | [`page`], [`error`] | bounded lists; what can go wrong |
//! | [`idempotency`] | requests that are asked twice: their keys, and what they were answered |
//! | [`ports`] | what the use cases need of the world: one unit of work, one repository a kind, the registry |
//! | [`service`] | the use cases: one family a file, free functions |
//! | [`import`] | musicians from CSV files: encodings, delimiters, headers, rows |
//! | `testing` | an orchestra in memory (feature `testing`; each port has a mock there too) |
//!
//! A use case on an orchestra's data takes `&mut dyn` [`ports::UnitOfWork`] and an [`service::Act`] that says who
//! acts, for which tenant's ids, and when. Whoever began the unit commits it:
//!
//! ```no_run
//! # use stagesub_domain::{error::UseCaseError, instrument::NewInstrument, ports::Units, service};
//! # async fn example(units: Units, scope: stagesub_tenancy::TenantScope, act: service::Act<'_>) -> Result<(), UseCaseError> {
//! let mut unit = units
//!     .begin(&scope, stagesub_tenancy::Access::Write)
//!     .await
//!     .map_err(UseCaseError::Begin)?;
//! let draft = NewInstrument { name: "Viola".to_owned(), display_order: Some(2) };
//! let viola = service::instruments::create_instrument(&mut *unit, &act, draft).await?;
//! unit.commit().await?; // without this line, dropping the unit undoes all of it
//! # let _ = viola;
//! # Ok(())
//! # }
//! ```
//!
//! # Invariants
//! - No I/O, no clock and no randomness: time, ids of tenants and people, and hashes are arguments. The one reader
//!   here, [`import::MusicianCsv`], reads what it is given.
//! - No use case takes a tenant: the unit was begun for one, and there is no second value to disagree with it. The
//!   registry's ports take tenants and reach no tenant's data.
//! - A change is written with its audit entry in the same unit, with the fields that differ; a change of nothing
//!   writes nothing, not even `updated_at`.
//! - Limits are counted under the quota row's lock, and locks are taken in one order everywhere: quota row, id
//!   counter, rows. `archived` musicians and instruments and projects that are over do not count.
//! - A use case that failed leaves a unit that must be dropped. None commits, none begins a second unit; those of
//!   [`service::tenants`] and [`service::provisioning`], which span two databases, say so.
//! - Every list is a page; an import holds a batch of rows and a few dozen bytes a row, whatever the file's size.
//! - Deliberately absent: SQL, HTTP, serialization of entities (the API has its own shapes), authorization (`auth`).

pub mod actor;
pub mod audit;
pub mod error;
pub mod idempotency;
pub mod ids;
pub mod import;
pub mod instrument;
pub mod language;
pub mod musician;
pub mod page;
pub mod ports;
pub mod project;
pub mod role;
pub mod service;
pub mod settings;
pub mod starter;
pub mod subscription;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod validate;
