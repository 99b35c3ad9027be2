//! Moving a tenant from one database to another.

mod fence;
