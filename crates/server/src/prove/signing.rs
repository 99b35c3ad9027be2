//! Who vouches for a report: an Ed25519 key derived from the key ring, and keys that reports are held against.
//!
//! The signature is over the exact bytes of the report as they stand in the file, so nothing has to agree on
//! how JSON is written. A report carries its public key to say which it is, and is never believed for it:
//! whoever verifies brings the key along.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use stagesub_storage::seal::KeyRing;

/// Sets the key apart from everything else that is derived from the ring.
const LABEL: &str = "stagesub/proof-of-isolation/ed25519/v1";
/// The form of the file.
const FORMAT: &str = "stagesub-proof/1";
const ALGORITHM: &str = "Ed25519";
const PREFIX: &str = "ed25519:";

/// Signs reports.
pub struct ReportSigner {
    key_id: String,
    key: SigningKey,
}

impl fmt::Debug for ReportSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReportSigner").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl ReportSigner {
    /// With the key that the ring's current key gives.
    ///
    /// # Panics
    /// Never: a ring has a key.
    #[must_use]
    pub fn new(ring: &KeyRing) -> Self {
        let derived = ring.derive(LABEL);
        let current = derived.first().expect("a ring has a key");
        Self { key_id: current.key_id.clone(), key: SigningKey::from_bytes(&current.bytes) }
    }

    /// The public half, to hand to whoever is to verify.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.key.verifying_key())
    }

    /// The id of the ring's key that it was derived from.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The file: the report as it is given, which must be a JSON object, and its signature.
    ///
    /// # Panics
    /// Never: what is signed with is texts, and those are JSON.
    #[must_use]
    pub fn sign(&self, report: &str) -> String {
        let signature = SignatureText {
            algorithm: ALGORITHM.to_owned(),
            key_id: self.key_id.clone(),
            public_key: self.public_key().to_string(),
            signature: STANDARD.encode(self.key.sign(report.as_bytes()).to_bytes()),
        };
        let signature = serde_json::to_string_pretty(&signature).expect("texts are JSON");
        format!("{{\n\"format\": \"{FORMAT}\",\n\"report\": {report},\n\"signature\": {signature}\n}}\n")
    }
}

/// The public half of a key that signs reports. Its text is `ed25519:` and 32 bytes in base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", STANDARD.encode(self.0.as_bytes()))
    }
}

impl FromStr for PublicKey {
    type Err = InvalidPublicKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let encoded = text.trim();
        let bytes =
            STANDARD.decode(encoded.strip_prefix(PREFIX).unwrap_or(encoded)).map_err(|_| InvalidPublicKey)?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| InvalidPublicKey)?;
        VerifyingKey::from_bytes(&bytes).map(Self).map_err(|_| InvalidPublicKey)
    }
}

/// The text is no public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a public key is `ed25519:` and 32 bytes in base64, as `stagesub keys public` prints it")]
pub struct InvalidPublicKey;

/// The keys that a report is held against. Never the one in the report.
#[derive(Debug, Clone)]
pub enum Pinned {
    /// The one that was given.
    Key(PublicKey),
    /// The ones that a key ring gives, by the ids of its keys, former ones too.
    Ring(Vec<(String, PublicKey)>),
}

impl Pinned {
    /// The keys that a ring gives.
    #[must_use]
    pub fn ring(ring: &KeyRing) -> Self {
        let keys = ring.derive(LABEL).into_iter().map(|derived| {
            let key = SigningKey::from_bytes(&derived.bytes).verifying_key();
            (derived.key_id, PublicKey(key))
        });
        Self::Ring(keys.collect())
    }

    /// Verifies a file and gives the report's exact text.
    ///
    /// # Errors
    /// [`VerifyError`]: the file proves nothing.
    pub fn verify<'a>(&self, file: &'a str) -> Result<Verified<'a>, VerifyError> {
        let envelope: Envelope<'a> = serde_json::from_str(file).map_err(VerifyError::Malformed)?;
        if envelope.format != FORMAT || envelope.signature.algorithm != ALGORITHM {
            return Err(VerifyError::Format);
        }
        let SignatureText { key_id, public_key, signature, .. } = envelope.signature;
        let key = match self {
            Self::Key(key) => *key,
            Self::Ring(keys) => {
                let known = keys.iter().find(|(id, _)| *id == key_id).map(|(_, key)| *key);
                known.ok_or_else(|| VerifyError::UnknownKey { key_id: key_id.clone() })?
            }
        };
        if public_key != key.to_string() {
            return Err(VerifyError::OtherKey { key_id });
        }
        let bytes = STANDARD.decode(&signature).map_err(|_| VerifyError::Signature)?;
        let signature = Signature::from_slice(&bytes).map_err(|_| VerifyError::Signature)?;
        let report = envelope.report.get();
        key.0.verify_strict(report.as_bytes(), &signature).map_err(|_| VerifyError::Signature)?;
        Ok(Verified { report, key_id, key })
    }
}

/// A report that was signed with a key that is known.
#[derive(Debug)]
pub struct Verified<'a> {
    /// The report's exact text.
    pub report: &'a str,
    /// The id of the ring's key.
    pub key_id: String,
    /// The key.
    pub key: PublicKey,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    format: String,
    #[serde(borrow)]
    report: &'a RawValue,
    signature: SignatureText,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SignatureText {
    algorithm: String,
    key_id: String,
    public_key: String,
    signature: String,
}

/// A file proves nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// It is no signed report.
    #[error("the file is no signed report")]
    Malformed(#[source] serde_json::Error),
    /// It is of another form.
    #[error("the file is of a form that this version does not know (it knows {FORMAT} with {ALGORITHM})")]
    Format,
    /// The ring has no such key.
    #[error("the report was signed with key `{key_id}`, which is not in STAGESUB_KEYS")]
    UnknownKey {
        /// The key's id.
        key_id: String,
    },
    /// It was signed with another key than the one it is held against.
    #[error("the report names another public key (of key `{key_id}`) than the one it is held against")]
    OtherKey {
        /// The key's id, as the report has it.
        key_id: String,
    },
    /// The signature is not one of this report with this key.
    #[error("the signature does not fit: the report was changed, or was signed with another key")]
    Signature,
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY_A: &str = "a:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const KEY_B: &str = "b:HxAREhMUFRYXGBkaGxwdHh8AAQIDBAUGBwgJCgsMDQ4";
    const REPORT: &str = "{\n  \"passed\": true,\n  \"said\": \"åäö \\\" }\"\n}";

    fn ring(text: &str) -> KeyRing {
        KeyRing::parse(text).unwrap()
    }

    #[test]
    fn a_signed_report_is_verified_and_given_as_it_was() {
        let signer = ReportSigner::new(&ring(KEY_A));
        let file = signer.sign(REPORT);
        for pinned in [Pinned::ring(&ring(KEY_A)), Pinned::Key(signer.public_key())] {
            let verified = pinned.verify(&file).unwrap();
            assert_eq!((verified.report, verified.key_id.as_str()), (REPORT, "a"));
        }
        let again: PublicKey = signer.public_key().to_string().parse().unwrap();
        assert_eq!(again, signer.public_key());
        assert!(!format!("{signer:?}").contains("key:"), "{signer:?}");
    }

    #[test]
    fn every_changed_byte_of_the_report_is_noticed() {
        let signer = ReportSigner::new(&ring(KEY_A));
        let file = signer.sign(REPORT);
        let pinned = Pinned::Key(signer.public_key());
        let begin = file.find(REPORT).unwrap();
        for index in begin..begin + REPORT.len() {
            let mut altered = file.clone().into_bytes();
            altered[index] = if altered[index] == b'x' { b'y' } else { b'x' };
            let altered = String::from_utf8_lossy(&altered).into_owned();
            assert!(pinned.verify(&altered).is_err(), "byte {index}");
        }
        let spaced = file.replace("\"passed\": true", "\"passed\":  true");
        assert!(matches!(pinned.verify(&spaced), Err(VerifyError::Signature)));
    }

    #[test]
    fn another_key_is_refused_even_where_the_report_brings_it_along() {
        let stranger = ReportSigner::new(&KeyRing::generate("a"));
        let forged = stranger.sign(REPORT);
        let own = ReportSigner::new(&ring(KEY_A)).public_key();
        assert!(matches!(Pinned::Key(own).verify(&forged), Err(VerifyError::OtherKey { .. })));
        assert!(matches!(Pinned::ring(&ring(KEY_A)).verify(&forged), Err(VerifyError::OtherKey { .. })));
        // With our key written over the stranger's, it is the signature that does not fit.
        let relabelled = forged.replace(&stranger.public_key().to_string(), &own.to_string());
        assert!(matches!(Pinned::Key(own).verify(&relabelled), Err(VerifyError::Signature)));
    }

    #[test]
    fn reports_of_former_keys_are_verified_and_of_dropped_ones_not() {
        let file = ReportSigner::new(&ring(KEY_A)).sign(REPORT);
        let rotated = ring(&format!("{KEY_B},{KEY_A}"));
        assert_eq!(ReportSigner::new(&rotated).key_id(), "b");
        assert_eq!(Pinned::ring(&rotated).verify(&file).unwrap().key_id, "a");
        let dropped = Pinned::ring(&ring(KEY_B));
        assert!(matches!(dropped.verify(&file), Err(VerifyError::UnknownKey { key_id }) if key_id == "a"));
    }

    #[test]
    fn what_is_no_report_is_told() {
        let signer = ReportSigner::new(&ring(KEY_A));
        let pinned = Pinned::Key(signer.public_key());
        let file = signer.sign(REPORT);
        for text in ["", "{}", "[]", &file.replacen("\"format\"", "\"report\": {},\n\"format\"", 1)] {
            assert!(matches!(pinned.verify(text), Err(VerifyError::Malformed(_))), "{text}");
        }
        let newer = file.replace(FORMAT, "stagesub-proof/2");
        assert!(matches!(pinned.verify(&newer), Err(VerifyError::Format)));
        for text in ["", "ed25519:", "ed25519:AAAA", "ed25519:*"] {
            assert_eq!(text.parse::<PublicKey>(), Err(InvalidPublicKey), "{text}");
        }
    }
}
