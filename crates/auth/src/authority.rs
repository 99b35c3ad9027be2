//! Who may do what, now.

mod authenticator;
mod table;

pub(crate) use self::authenticator::role_at;
pub use self::authenticator::{AuthenticateError, Authenticated, Authenticator};
pub use self::table::{Forbidden, Permission, authorize};
