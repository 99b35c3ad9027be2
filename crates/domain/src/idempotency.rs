//! Creating requests that may be asked twice: the key they are named with, what they ask, what they were answered.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

/// How long an answer is kept. Whoever asks again later asks for another thing.
pub const KEPT_FOR: TimeDelta = TimeDelta::hours(24);

/// The name that a client gives to a request, so that asking again is not asking for another thing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Longest key, in characters.
    pub const MAX_LEN: usize = 255;

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = InvalidIdempotencyKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_bounded = (1..=Self::MAX_LEN).contains(&text.len());
        if is_bounded && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidIdempotencyKey)
        }
    }
}

/// The text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {} visible ASCII characters", IdempotencyKey::MAX_LEN)]
pub struct InvalidIdempotencyKey;

/// What a request asks, in 32 bytes that tell nothing else about it: two requests of one fingerprint ask the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; Self::LEN]);

impl Fingerprint {
    /// Its length in bytes.
    pub const LEN: usize = 32;

    /// Of bytes that a keyed hash gave.
    #[must_use]
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes, to store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second, ..] = self.0;
        write!(f, "Fingerprint({first:02x}{second:02x}..)")
    }
}

/// A request with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Who asks. Keys of two people are two keys.
    pub user: Uuid,
    /// What the request is named with.
    pub key: IdempotencyKey,
    /// What it asks.
    pub fingerprint: Fingerprint,
}

/// Whether what was kept at `kept_at` is of no account any more.
#[must_use]
pub fn is_over(kept_at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    kept_at <= now - KEPT_FOR
}

/// What a request was answered, to be said again to the byte.
#[derive(Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// Status, of a success.
    pub status: u16,
    /// The address of what was made.
    pub location: Option<String>,
    /// The body's media type.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

impl fmt::Debug for KeptAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptAnswer").field("status", &self.status).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_visible_ascii_within_its_bounds() {
        let longest = "k".repeat(IdempotencyKey::MAX_LEN);
        for text in ["k", "8e03978e-40d5-43dd-bc93-6894a57f9324", "!~\"\\", &longest] {
            assert_eq!(text.parse::<IdempotencyKey>().unwrap().as_str(), text);
        }
        for text in ["", "a b", "a\tb", "nyckel-ö", "\u{7f}", &format!("{longest}k")] {
            assert_eq!(text.parse::<IdempotencyKey>(), Err(InvalidIdempotencyKey), "{text:?}");
        }
    }

    #[test]
    fn an_answer_is_kept_for_a_day_and_not_a_moment_longer() {
        let kept_at = DateTime::UNIX_EPOCH;
        assert!(!is_over(kept_at, kept_at + KEPT_FOR - TimeDelta::milliseconds(1)));
        assert!(is_over(kept_at, kept_at + KEPT_FOR));
    }
}
