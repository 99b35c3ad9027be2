//! Passwords and secrets that the platform makes.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use zeroize::Zeroizing;

/// Without characters that are taken for one another; 32 of them, so that five bits pick one evenly.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Characters of a password: 5 bits each.
const LENGTH: usize = 20;

/// A password of 100 random bits that can be read out: `k7mpx-...` in groups of five.
#[must_use]
pub fn generate() -> SecretString {
    let random: Zeroizing<[u8; LENGTH]> = Zeroizing::new(rand::random());
    let mut text = Zeroizing::new(String::with_capacity(LENGTH + LENGTH / 5));
    for (index, byte) in random.iter().enumerate() {
        if index > 0 && index % 5 == 0 {
            text.push('-');
        }
        text.push(char::from(ALPHABET[usize::from(byte % 32)]));
    }
    SecretString::from(text.as_str())
}

/// 256 random bits as text, for signing.
#[must_use]
pub fn signing_secret() -> SecretString {
    let random: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
    SecretString::from(URL_SAFE_NO_PAD.encode(*random))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_password_is_four_groups_of_five_and_never_the_same() {
        let first = generate();
        let groups: Vec<&str> = first.expose_secret().split('-').collect();
        assert_eq!(groups.iter().map(|group| group.len()).collect::<Vec<_>>(), [5, 5, 5, 5]);
        assert_ne!(first.expose_secret(), generate().expose_secret());
    }

    #[test]
    fn a_signing_secret_is_256_bits() {
        assert_eq!(signing_secret().expose_secret().len(), 43);
    }
}
