//! What handlers are given: who asks, about whom, and what they sent.

pub mod caller;
pub mod input;

pub use caller::{AnyCaller, PlatformCaller, RequestHost, RequestOrigin, TenantCaller};
pub use input::{
    Body, DatabasePath, IdPath, MovePath, NoParams, Params, PersonPath, TenantPath, parse_id, render_id,
};
