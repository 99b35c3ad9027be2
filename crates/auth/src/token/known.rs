//! Tokens whose signature was checked before.
//!
//! A client sends the same token with each of its requests, and checking it costs two parses of JSON and a signature. What
//! a token says does not change, so it is kept; whether it is still in time is asked at each request anew.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use sha2::{Digest, Sha256};

use super::{Claims, TokenError};

/// Most tokens that are kept, of some 150 bytes each: those of so many people who are at work within a quarter of an hour.
/// Beyond it those that were used least lately are checked again.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// What stands for a token: no token is kept beyond its request.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

/// What our own tokens say. Nothing else is kept, so nobody can push others out by sending what was made up.
pub(super) struct KnownTokens(Mutex<LruCache<Fingerprint, Claims>>);

impl fmt::Debug for KnownTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownTokens").field("len", &self.held().len()).finish()
    }
}

impl KnownTokens {
    pub(super) fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    /// Room is taken as tokens come, not before.
    fn with_capacity(most: NonZeroUsize) -> Self {
        let mut held = LruCache::unbounded();
        held.resize(most);
        Self(Mutex::new(held))
    }

    /// What the token says, by `check` where it is not known.
    pub(super) fn claims(
        &self,
        token: &str,
        check: impl FnOnce() -> Result<Claims, TokenError>,
    ) -> Result<Claims, TokenError> {
        let fingerprint = Fingerprint::of(token);
        if let Some(claims) = self.held().get(&fingerprint) {
            return Ok(claims.clone());
        }
        let claims = check()?;
        self.held().put(fingerprint, claims.clone());
        Ok(claims)
    }

    /// The token is not to be known any more.
    pub(super) fn forget(&self, token: &str) {
        self.held().pop(&Fingerprint::of(token));
    }

    fn held(&self) -> MutexGuard<'_, LruCache<Fingerprint, Claims>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use stagesub_domain::role::Role;
    use uuid::Uuid;

    use super::*;
    use crate::ports::AuthEpoch;

    fn said(user: u128) -> Claims {
        Claims {
            user: Uuid::from_u128(user),
            tenant: None,
            role: Role::Superadmin,
            auth_epoch: AuthEpoch(1),
            issued_at: DateTime::UNIX_EPOCH,
            expires_at: DateTime::UNIX_EPOCH,
            token_id: Uuid::from_u128(user),
        }
    }

    fn never() -> Result<Claims, TokenError> {
        panic!("it is known")
    }

    fn refused() -> Result<Claims, TokenError> {
        Err(TokenError::Invalid("it is malformed".into()))
    }

    #[test]
    fn a_token_is_checked_once() {
        let known = KnownTokens::new();
        assert_eq!(known.claims("a", || Ok(said(1))).unwrap(), said(1));
        assert_eq!(known.claims("a", never).unwrap(), said(1));
        assert_eq!(known.claims("b", || Ok(said(2))).unwrap(), said(2));
        assert_eq!(known.claims("a", never).unwrap(), said(1));
        known.forget("a");
        assert!(known.claims("a", refused).is_err());
        assert_eq!(known.claims("b", never).unwrap(), said(2));
    }

    #[test]
    fn what_is_refused_is_checked_each_time_and_pushes_nothing_out() {
        let known = KnownTokens::with_capacity(NonZeroUsize::MIN);
        known.claims("good", || Ok(said(1))).unwrap();
        for _ in 0..2 {
            assert!(known.claims("bad", refused).is_err());
        }
        assert_eq!(known.claims("good", never).unwrap(), said(1));
        assert_eq!(known.claims("bad", || Ok(said(2))).unwrap(), said(2));
    }

    #[test]
    fn the_one_that_was_used_least_lately_makes_room() {
        let known = KnownTokens::with_capacity(NonZeroUsize::new(2).unwrap());
        for (token, user) in [("a", 1), ("b", 2)] {
            known.claims(token, || Ok(said(user))).unwrap();
        }
        known.claims("a", never).unwrap();
        known.claims("c", || Ok(said(3))).unwrap();
        assert_eq!(known.held().len(), 2);
        assert_eq!(known.claims("a", never).unwrap(), said(1));
        assert!(known.claims("b", refused).is_err(), "it is checked again");
    }
}
