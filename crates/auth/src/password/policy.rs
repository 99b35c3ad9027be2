//! Which passwords are accepted.

use std::ops::RangeInclusive;

use secrecy::{ExposeSecret, SecretString};
use stagesub_domain::error::ValidationErrors;

/// How long a password is, in characters.
pub const PASSWORD_CHARS: RangeInclusive<usize> = 10..=128;

/// Longest password in UTF-8. A longer one is not hashed.
pub const PASSWORD_MAX_BYTES: usize = 4 * 128;

/// Checks a new password: its length, and that it is not the login address.
///
/// There are no rules on which characters it must hold: they make passwords worse.
///
/// # Errors
/// The rule that it breaks, on the field `password`.
pub fn check_password(password: &SecretString, email: &str) -> Result<(), ValidationErrors> {
    let password = password.expose_secret();
    // The bytes first: counting the characters of a text of any length would be unbounded work.
    if password.len() > PASSWORD_MAX_BYTES || !PASSWORD_CHARS.contains(&password.chars().count()) {
        let (least, most) = (PASSWORD_CHARS.start(), PASSWORD_CHARS.end());
        return Err(ValidationErrors::one(
            "password",
            "length",
            format!("a password has {least} to {most} characters"),
        ));
    }
    if password.trim().to_lowercase() == email.trim().to_lowercase() {
        return Err(ValidationErrors::one(
            "password",
            "not_the_address",
            "a password is not the login address",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMAIL: &str = "Berit.Berg@example.org";

    fn rule(password: &str) -> Option<&'static str> {
        check_password(&SecretString::from(password), EMAIL).err().map(|errors| errors.0[0].rule)
    }

    #[test]
    fn length_counts_characters() {
        assert_eq!(rule("åäöåäöåäö"), Some("length"));
        assert_eq!(rule("åäöåäöåäöå"), None);
        assert_eq!(rule(&"x".repeat(128)), None);
        assert_eq!(rule(&"x".repeat(129)), Some("length"));
        assert_eq!(rule(&"🎻".repeat(128)), None);
        assert_eq!(rule(&"🎻".repeat(129)), Some("length"));
    }

    #[test]
    fn address_as_password_is_refused_in_any_case() {
        assert_eq!(rule(EMAIL), Some("not_the_address"));
        assert_eq!(rule(" berit.berg@EXAMPLE.org "), Some("not_the_address"));
    }

    #[test]
    fn no_kind_of_character_is_asked_for() {
        assert_eq!(rule("aaaaaaaaaa"), None);
        assert_eq!(rule("four plain words here"), None);
    }
}
