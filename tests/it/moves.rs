//! Moving a tenant from one database to another.

mod copy;
mod fence;
mod pair;
mod plan;
mod verify;
