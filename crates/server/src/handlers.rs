//! One file a resource: extract, one call into a use case, map.

pub mod auth;
pub mod health;
pub mod import;
pub mod instruments;
pub mod list;
pub mod musicians;
pub mod platform_databases;
pub mod platform_moves;
pub mod platform_tenants;
pub mod platform_usage;
pub mod platform_users;
pub mod positions;
pub mod projects;
pub mod tenant;
pub mod users;
