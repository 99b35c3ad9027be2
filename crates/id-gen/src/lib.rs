//! Ids people can read over the phone: `GOT-MUS-001`.
//!
//! A thing is stored under its tenant and a number; what people see is rendered from the tenant's code, the
//! kind and that number, so a copy of a tenant under another code needs no rewriting.
//!
//! # Map
//!
//! - [`DisplayId`]: rendering, and parsing that is as strict as rendering. [`DisplayId::parse_for`] is for ids
//!   that come from outside: another tenant's id and one of another kind are refused.
//! - [`kind`]: what is numbered, and the codes.
//! - [`sequence`]: the port through which numbers are taken, one counter per tenant and kind.
//!
//! ```
//! use stagesub_id_gen::{DisplayId, Kind, MismatchedDisplayId};
//! use stagesub_tenancy::TenantCode;
//!
//! let code: TenantCode = "GOT".parse()?;
//! let id = DisplayId::new(code.clone(), Kind::Musician, 7);
//! assert_eq!(id.to_string(), "GOT-MUS-007");
//! assert_eq!(DisplayId::parse_for("GOT-MUS-007", &code, Kind::Musician), Ok(7));
//! let foreign = DisplayId::parse_for("STO-MUS-007", &code, Kind::Musician);
//! assert_eq!(foreign, Err(MismatchedDisplayId::OtherTenant));
//! # Ok::<(), stagesub_tenancy::tenant::InvalidTenantCode>(())
//! ```
//!
//! # Invariants
//!
//! - An id has one spelling, so equal ids are equal texts.
//! - Numbers count from 1 and do not end at 999.
//! - Deliberately absent: a counter. Storage keeps it, in the transaction that creates what is numbered.

pub mod kind;
pub mod sequence;

mod display_id;

pub use display_id::{DisplayId, InvalidDisplayId, MismatchedDisplayId};
pub use kind::Kind;
pub use sequence::{Reserved, SequenceError, SequenceStore};

#[cfg(any(test, feature = "testing"))]
pub use sequence::MockSequenceStore;
