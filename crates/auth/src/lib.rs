//! Passwords, access tokens, roles and who may do what.
//!
//! # Map
//! - [`ports`]: what signing in needs of the registry, as traits
//! - [`password`]: hashing behind a bound, the earlier system's hashes, the rules for new passwords
//! - [`token`]: access tokens, signed for fifteen minutes, bound to a person and a tenant
//! - [`login`]: address and password to a token, audited
//! - [`authority`]: the table of roles and permissions; a bearer token to who asks and what they are now;
//!   [`CachedAuthority`] remembers that until it changes
//!
//! Later pieces come as siblings of [`login`], which they end in: `session` (rotating refresh tokens, kept
//! hashed) and `oidc` (sign-in through another provider). Limits on attempts go where
//! [`LoginService::login`] begins.
//!
//! # Invariants
//! - A token opens one host: its tenant is the host's tenant, and a token without one is a superadmin's and
//!   works on the platform's own host alone.
//! - A token is evidence of who, never of what they may do: account, membership and their version are read at
//!   each request, from memory that is told of changes, and the role that counts is the one read.
//! - A refused sign-in tells neither in words nor in time which part was wrong; why is in the audit log alone.
//! - No more passwords are hashed at once than there are cores, and a cancelled caller frees no place early.
//! - Secrets stay out of `Debug` and errors.
//! - This crate opens no connection, reads no clock and knows no HTTP.

pub mod authority;
pub mod login;
pub mod password;
pub mod ports;
pub mod token;

pub use authority::{
    AuthenticateError, Authenticated, Authenticator, CachedAuthority, Forbidden, Permission, authorize,
};
pub use login::{LoginError, LoginService, Person, SignedIn};
pub use password::{
    HasherSettings, HasherStats, PasswordError, PasswordHasher, Verification, check_password,
};
pub use ports::AuthEpoch;
pub use token::{AccessTokens, Claims, TokenError, TokenSubject, WeakSecret};
