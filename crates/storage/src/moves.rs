//! Moving a tenant from one database to another while it is in use.
//!
//! - [`fence`] closes the tenant on the one side and opens it on the other
//!
//! Everything here runs as the mover (`stagesub_mover`), on sessions of its own.

pub mod fence;
