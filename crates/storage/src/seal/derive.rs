//! Secrets for other purposes out of the ring's keys.
//!
//! A key that seals does nothing else. What is needed for another purpose is derived from it one way: whoever
//! learns a derived secret learns neither the key nor what is derived under another label.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{KEY_BYTES, KeyRing};

/// A secret derived from one key of a ring.
pub struct DerivedSecret {
    /// The key's id.
    pub key_id: String,
    /// The secret.
    pub bytes: Zeroizing<[u8; KEY_BYTES]>,
}

impl std::fmt::Debug for DerivedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DerivedSecret").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl KeyRing {
    /// For each key, the current one first, 32 bytes by HKDF-SHA256 (RFC 5869) with `label` as info and no
    /// salt: the keys are random already. The same ring and label give the same bytes at each call.
    ///
    /// # Panics
    /// Never: HKDF-SHA256 gives up to 8160 bytes.
    #[must_use]
    pub fn derive(&self, label: &str) -> Vec<DerivedSecret> {
        std::iter::once(&self.current)
            .chain(&self.former)
            .map(|key| {
                let mut bytes = Zeroizing::new([0; KEY_BYTES]);
                Hkdf::<Sha256>::new(None, &*key.bytes)
                    .expand(label.as_bytes(), &mut *bytes)
                    .expect("HKDF-SHA256 gives up to 8160 bytes");
                DerivedSecret { key_id: key.id.clone(), bytes }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_depends_on_the_key_and_the_label_alone() {
        let both = KeyRing::parse(
            "b:HxAREhMUFRYXGBkaGxwdHh8AAQIDBAUGBwgJCgsMDQ4,a:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        )
        .unwrap();
        let derived = both.derive("one");
        assert_eq!(derived.iter().map(|secret| secret.key_id.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        assert_ne!(derived[0].bytes, derived[1].bytes);
        let alone = KeyRing::parse("a:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        assert_eq!(alone.derive("one")[0].bytes, derived[1].bytes);
        assert_ne!(alone.derive("two")[0].bytes, derived[1].bytes);
        assert!(!format!("{derived:?}").contains("bytes"));
    }

    #[test]
    fn it_is_hkdf_as_the_standard_has_it() {
        // HKDF-SHA256 of the bytes 0 to 31, no salt, info "one", computed with Python's hmac.
        let ring = KeyRing::parse("a:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let expected = 0xcdac_0754_05de_95fb_7dd4_8611_b45a_c046_u128;
        assert_eq!(ring.derive("one")[0].bytes[..16], expected.to_be_bytes());
        let expected = 0xab2c_626e_1f62_2b10_b469_8c17_d452_8d6c_u128;
        assert_eq!(ring.derive("one")[0].bytes[16..], expected.to_be_bytes());
    }
}
