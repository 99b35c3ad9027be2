//! Secrets at rest: a ring of AES-256-GCM keys that seals connection strings and the like.
//!
//! A sealed value carries the id of its key, so that keys can be replaced one by one: the ring's first key
//! seals, every key of the ring opens. What a value belongs to is *associated data*: a string sealed for one
//! database does not open as another's, even though both are in the same column.

use std::fmt;
use std::str::FromStr;

use aes_gcm::aead::{Aead, Generate, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use secrecy::SecretString;
use zeroize::{Zeroize, Zeroizing};

mod derive;

pub use derive::DerivedSecret;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const MAX_KEY_ID_CHARS: usize = 32;
const VERSION: &str = "v1";

/// Why keys could not be read, or a value not be sealed or opened. No variant carries key or plaintext.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The text that should hold the keys does not have their form.
    #[error("the key ring's entry {entry} is not valid: {reason}")]
    MalformedRing {
        /// Which entry, counted from 1.
        entry: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// What should be a sealed value does not have the form of one.
    #[error("this is not a sealed value: {reason}")]
    MalformedSealed {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The value was sealed with a key that is not in the ring.
    #[error("the value was sealed with key `{id}`, which is not in the key ring")]
    UnknownKey {
        /// The key's id.
        id: String,
    },
    /// The key is there and the value does not open: it was changed, belongs to something else, or another
    /// key bears the same id.
    #[error("the value sealed with key `{id}` was altered or belongs to something else")]
    Tampered {
        /// The key's id.
        id: String,
    },
    /// The opened value is not text although text was asked for.
    #[error("the sealed value is not text")]
    NotText,
    /// The value is too long to be sealed (64 GiB).
    #[error("the value is too long to be sealed")]
    TooLong,
}

/// The keys that seal and open, the current one first.
///
/// Its text form, as in `STAGESUB_KEYS`, is `id:key[,id2:key2...]`: an id of 1 to 32 characters out of
/// `a-z A-Z 0-9 - _`, and 32 bytes in base64 (with or without padding; `openssl rand -base64 32` makes one).
/// The first key seals; all of them open. To rotate, put a new key in front, seal everything again
/// ([`KeyRing::needs_reseal`] tells what is left), then drop the old key.
///
/// ```
/// use stagesub_storage::seal::KeyRing;
///
/// let ring = KeyRing::generate("first");
/// let sealed = ring.seal(b"postgres://...", b"database 7")?;
/// assert_eq!(ring.open(&sealed, b"database 7")?.as_slice(), b"postgres://...");
/// assert!(ring.open(&sealed, b"database 8").is_err());
/// # Ok::<(), stagesub_storage::seal::SealError>(())
/// ```
pub struct KeyRing {
    current: SealingKey,
    /// Keys that only open, in the order they were given.
    former: Vec<SealingKey>,
}

struct SealingKey {
    id: String,
    bytes: Zeroizing<[u8; KEY_BYTES]>,
}

impl KeyRing {
    /// Reads the text form.
    ///
    /// # Errors
    /// [`SealError::MalformedRing`], which names the entry by its position and never by its content.
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let mut keys: Vec<SealingKey> = Vec::new();
        for (index, entry) in text.trim().split(',').enumerate() {
            let malformed = |reason| SealError::MalformedRing { entry: index + 1, reason };
            let key = SealingKey::parse(entry.trim()).map_err(malformed)?;
            if keys.iter().any(|earlier| earlier.id == key.id) {
                return Err(malformed("its id is already used by an earlier entry"));
            }
            keys.push(key);
        }
        let mut keys = keys.into_iter();
        let current = keys.next().ok_or(SealError::MalformedRing { entry: 1, reason: "there is no key" })?;
        Ok(Self { current, former: keys.collect() })
    }

    /// A ring of one new random key, for a demonstration or a first start.
    ///
    /// # Panics
    /// If `id` is not a valid key id (see the type's text form), or the operating system has no randomness.
    #[must_use]
    pub fn generate(id: &str) -> Self {
        assert!(is_key_id(id), "a key id is 1 to 32 characters out of a-z A-Z 0-9 - _");
        let mut key = aes_gcm::Key::<Aes256Gcm>::generate();
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        bytes.copy_from_slice(&key);
        key.as_mut_slice().zeroize();
        Self { current: SealingKey { id: id.to_owned(), bytes }, former: Vec::new() }
    }

    /// The text form, which holds the keys: for the place that keeps them.
    #[must_use]
    pub fn to_text_secret(&self) -> SecretString {
        let entries: Vec<Zeroizing<String>> = std::iter::once(&self.current)
            .chain(&self.former)
            .map(|key| Zeroizing::new(format!("{}:{}", key.id, STANDARD.encode(*key.bytes))))
            .collect();
        let parts: Vec<&str> = entries.iter().map(|entry| entry.as_str()).collect();
        SecretString::from(parts.join(","))
    }

    /// The id of the key that seals.
    #[must_use]
    pub fn current_key_id(&self) -> &str {
        &self.current.id
    }

    /// Seals with the current key and a random nonce. `aad` says what the value belongs to and is needed to
    /// open it again; it is not stored.
    ///
    /// # Errors
    /// [`SealError::TooLong`].
    pub fn seal(&self, plaintext: &[u8], aad: &[u8]) -> Result<Sealed, SealError> {
        let nonce = Nonce::<_>::generate();
        let bound = associated_data(&self.current.id, aad);
        let ciphertext = self
            .current
            .cipher()
            .encrypt(&nonce, Payload { msg: plaintext, aad: &bound })
            .map_err(|_| SealError::TooLong)?;
        let mut payload = Vec::with_capacity(NONCE_BYTES + ciphertext.len());
        payload.extend_from_slice(&nonce);
        payload.extend_from_slice(&ciphertext);
        Ok(Sealed { key_id: self.current.id.clone(), payload })
    }

    /// Opens with whichever key of the ring sealed the value.
    ///
    /// # Errors
    /// [`SealError::UnknownKey`] when that key is not in the ring; [`SealError::Tampered`] when the value
    /// was altered or `aad` is not what it was sealed with.
    pub fn open(&self, sealed: &Sealed, aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let key = std::iter::once(&self.current)
            .chain(&self.former)
            .find(|key| key.id == sealed.key_id)
            .ok_or_else(|| SealError::UnknownKey { id: sealed.key_id.clone() })?;
        let tampered = || SealError::Tampered { id: sealed.key_id.clone() };
        let (nonce, ciphertext) = sealed.payload.split_first_chunk::<NONCE_BYTES>().ok_or_else(tampered)?;
        let bound = associated_data(&key.id, aad);
        key.cipher()
            .decrypt(&Nonce::from(*nonce), Payload { msg: ciphertext, aad: &bound })
            .map(Zeroizing::new)
            .map_err(|_| tampered())
    }

    /// Opens a value that is text, such as a connection string.
    ///
    /// # Errors
    /// As [`KeyRing::open`], and [`SealError::NotText`].
    pub fn open_text(&self, sealed: &Sealed, aad: &[u8]) -> Result<SecretString, SealError> {
        let bytes = self.open(sealed, aad)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| SealError::NotText)?;
        Ok(SecretString::from(text))
    }

    /// Whether a key other than the current one sealed the value.
    #[must_use]
    pub fn needs_reseal(&self, sealed: &Sealed) -> bool {
        sealed.key_id != self.current.id
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let former: Vec<&str> = self.former.iter().map(|key| key.id.as_str()).collect();
        f.debug_struct("KeyRing")
            .field("current", &self.current.id)
            .field("former", &former)
            .finish_non_exhaustive()
    }
}

impl FromStr for KeyRing {
    type Err = SealError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl SealingKey {
    fn parse(entry: &str) -> Result<Self, &'static str> {
        let (id, encoded) = entry.split_once(':').ok_or("it has the form id:key")?;
        if !is_key_id(id) {
            return Err("its id is 1 to 32 characters out of a-z A-Z 0-9 - _");
        }
        let standard = encoded.trim_end_matches('=').replace('-', "+").replace('_', "/");
        let decoded = STANDARD_NO_PAD
            .decode(Zeroizing::new(standard).as_bytes())
            .map(Zeroizing::new)
            .map_err(|_| "its key is not base64")?;
        let bytes: [u8; KEY_BYTES] =
            decoded.as_slice().try_into().map_err(|_| "its key is not 32 bytes long")?;
        Ok(Self { id: id.to_owned(), bytes: Zeroizing::new(bytes) })
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new(&(*self.bytes).into())
    }
}

fn is_key_id(id: &str) -> bool {
    (1..=MAX_KEY_ID_CHARS).contains(&id.len())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

/// Binds version and key id to what the caller binds. The separator cannot be in either, so that no two
/// combinations are the same bytes.
fn associated_data(key_id: &str, aad: &[u8]) -> Vec<u8> {
    let mut bound = format!("{VERSION}.{key_id}.").into_bytes();
    bound.extend_from_slice(aad);
    bound
}

/// A sealed value: the key's id, the nonce, and the ciphertext with its tag.
///
/// Its text form is `v1.<key id>.<base64url of nonce, ciphertext and tag>`, which is also what
/// [`Sealed::to_bytes`] gives as bytes. It is no secret, though its length tells the plaintext's.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    key_id: String,
    payload: Vec<u8>,
}

impl Sealed {
    /// The id of the key that sealed it.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The text form as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }

    /// Reads what [`Sealed::to_bytes`] gave.
    ///
    /// # Errors
    /// [`SealError::MalformedSealed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        std::str::from_utf8(bytes)
            .map_err(|_| SealError::MalformedSealed { reason: "it is not text" })?
            .parse()
    }
}

impl fmt::Display for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}.{}.{}", self.key_id, URL_SAFE_NO_PAD.encode(&self.payload))
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl FromStr for Sealed {
    type Err = SealError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = |reason| SealError::MalformedSealed { reason };
        let mut parts = text.splitn(3, '.');
        if parts.next() != Some(VERSION) {
            return Err(malformed("its version is not v1"));
        }
        let key_id = parts.next().filter(|id| is_key_id(id)).ok_or(malformed("it has no key id"))?;
        let encoded = parts.next().ok_or(malformed("it has no content"))?;
        let payload =
            URL_SAFE_NO_PAD.decode(encoded).map_err(|_| malformed("its content is not base64url"))?;
        if payload.len() < NONCE_BYTES + TAG_BYTES {
            return Err(malformed("it is too short"));
        }
        Ok(Self { key_id: key_id.to_owned(), payload })
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    const KEY_A: &str = "a:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const KEY_B: &str = "b:HxAREhMUFRYXGBkaGxwdHh8AAQIDBAUGBwgJCgsMDQ4";

    #[test]
    fn sealed_value_opens_with_its_associated_data_only() {
        let ring = KeyRing::parse(KEY_A).unwrap();
        let sealed = ring.seal(b"secret", b"database 1").unwrap();
        assert_eq!(ring.open(&sealed, b"database 1").unwrap().as_slice(), b"secret");
        assert_eq!(ring.open(&sealed, b"database 2"), Err(SealError::Tampered { id: "a".into() }));
        assert_eq!(ring.open(&sealed, b""), Err(SealError::Tampered { id: "a".into() }));
    }

    #[test]
    fn same_plaintext_is_sealed_differently_each_time() {
        let ring = KeyRing::parse(KEY_A).unwrap();
        assert_ne!(ring.seal(b"x", b"").unwrap(), ring.seal(b"x", b"").unwrap());
    }

    #[test]
    fn text_and_byte_forms_read_back() {
        let ring = KeyRing::parse(KEY_A).unwrap();
        let sealed = ring.seal("å".as_bytes(), b"d").unwrap();
        let text = sealed.to_string();
        assert!(text.starts_with("v1.a."));
        assert_eq!(text.parse::<Sealed>().unwrap(), sealed);
        assert_eq!(Sealed::from_bytes(&sealed.to_bytes()).unwrap(), sealed);
        assert_eq!(ring.open_text(&sealed, b"d").unwrap().expose_secret(), "å");
    }

    #[test]
    fn every_altered_byte_is_noticed() {
        let ring = KeyRing::parse(KEY_A).unwrap();
        let sealed = ring.seal(b"secret", b"d").unwrap();
        for index in 0..sealed.payload.len() {
            let mut altered = sealed.clone();
            altered.payload[index] ^= 1;
            assert!(matches!(ring.open(&altered, b"d"), Err(SealError::Tampered { .. })), "byte {index}");
        }
    }

    #[test]
    fn rotated_ring_opens_old_values_and_seals_with_the_new_key() {
        let old = KeyRing::parse(KEY_A).unwrap();
        let sealed = old.seal(b"secret", b"d").unwrap();
        assert!(!old.needs_reseal(&sealed));

        let rotated = KeyRing::parse(&format!("{KEY_B},{KEY_A}")).unwrap();
        assert_eq!(rotated.current_key_id(), "b");
        assert!(rotated.needs_reseal(&sealed));
        assert_eq!(rotated.open(&sealed, b"d").unwrap().as_slice(), b"secret");
        let again = rotated.seal(b"secret", b"d").unwrap();
        assert!(!rotated.needs_reseal(&again));
        assert_eq!(old.open(&again, b"d"), Err(SealError::UnknownKey { id: "b".into() }));
    }

    #[test]
    fn relabelled_key_id_is_tampering() {
        let both = KeyRing::parse(&format!("{KEY_A},{KEY_B}")).unwrap();
        let mut sealed = both.seal(b"secret", b"d").unwrap();
        sealed.key_id = "b".into();
        assert_eq!(both.open(&sealed, b"d"), Err(SealError::Tampered { id: "b".into() }));
    }

    #[test]
    fn same_id_with_another_key_is_told_from_an_unknown_id() {
        let sealed = KeyRing::generate("a").seal(b"x", b"").unwrap();
        let other = KeyRing::parse(KEY_A).unwrap();
        assert!(matches!(other.open(&sealed, b""), Err(SealError::Tampered { .. })));
    }

    #[test]
    fn generated_ring_reads_back_from_its_text() {
        let ring = KeyRing::generate("demo-1");
        let again: KeyRing = ring.to_text_secret().expose_secret().parse().unwrap();
        let sealed = ring.seal(b"x", b"d").unwrap();
        assert_eq!(again.open(&sealed, b"d").unwrap().as_slice(), b"x");
    }

    #[test]
    fn malformed_rings_are_refused_by_position() {
        for (text, wrong) in [
            ("", 1),
            ("a", 1),
            (":AAAA", 1),
            ("a b:AAAA", 1),
            ("a:!!!!", 1),
            ("a:AAAA", 1),
            (&format!("{KEY_A},"), 2),
            (&format!("{KEY_A},{KEY_A}"), 2),
        ] {
            assert!(
                matches!(KeyRing::parse(text), Err(SealError::MalformedRing { entry, .. }) if entry == wrong),
                "{text}"
            );
        }
    }

    #[test]
    fn malformed_sealed_values_are_refused() {
        for text in ["", "v1", "v1.a", "v1.a.", "v1..AAAA", "v2.a.AAAA", "v1.a.AAAA", "v1.a.*"] {
            assert!(matches!(text.parse::<Sealed>(), Err(SealError::MalformedSealed { .. })), "{text}");
        }
        assert!(matches!(Sealed::from_bytes(&[0xff]), Err(SealError::MalformedSealed { .. })));
    }

    #[test]
    fn debug_shows_ids_and_no_keys() {
        let ring = KeyRing::parse(&format!("{KEY_A},{KEY_B}")).unwrap();
        let shown = format!("{ring:?} {:?}", ring.seal(b"x", b"").unwrap());
        assert!(shown.contains("\"a\"") && shown.contains("\"b\""));
        assert!(!shown.contains("AAEC") && !shown.contains("HxAR"));
    }
}
