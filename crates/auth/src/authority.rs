//! Who may do what, now.

mod authenticator;
mod cached;
mod table;

pub(crate) use self::authenticator::role_at;
pub use self::authenticator::{AuthenticateError, Authenticated, Authenticator};
pub use self::cached::CachedAuthority;
pub use self::table::{Forbidden, Permission, authorize};
