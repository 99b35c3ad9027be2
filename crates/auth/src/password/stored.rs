//! Reading stored hashes: today's argon2id, earlier costs of it, and bcrypt.

use argon2::password_hash::phc::PasswordHash;
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Params, PasswordVerifier, Version};
use secrecy::{ExposeSecret, SecretString};

/// Most memory that a stored hash may make a sign-in take, in KiB.
const MAX_MEMORY_KIB: u32 = 256 * 1024;
/// Most passes that a stored hash may make a sign-in take.
const MAX_PASSES: u32 = 16;
/// Most lanes.
const MAX_LANES: u32 = 16;
/// Highest bcrypt cost that is read; each step doubles the time, and this one takes seconds.
const MAX_BCRYPT_COST: u32 = 15;
/// From this length on bcrypt compares a beginning only.
const BCRYPT_TRUNCATES_AT: usize = 72;

/// What comparing gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checked {
    /// It is the password.
    Match {
        /// The hash is to be replaced.
        needs_rehash: bool,
    },
    /// It is another.
    NoMatch,
    /// The text is no hash that is read here. No hashing was done.
    Unusable,
}

/// Compares a password with a stored hash; `today` is how new hashes are made.
pub(super) fn check(today: &Argon2<'_>, password: &SecretString, stored: &SecretString) -> Checked {
    let (password, stored) = (password.expose_secret(), stored.expose_secret());
    if stored.starts_with("$2") {
        check_bcrypt(password, stored)
    } else {
        check_argon(today, password, stored)
    }
}

fn check_argon(today: &Argon2<'_>, password: &str, stored: &str) -> Checked {
    let Ok(hash) = PasswordHash::new(stored) else { return Checked::Unusable };
    let Ok(params) = Params::try_from(&hash) else { return Checked::Unusable };
    let known = Algorithm::try_from(hash.algorithm.as_str()).is_ok() && hash.salt.is_some();
    let affordable =
        params.m_cost() <= MAX_MEMORY_KIB && params.t_cost() <= MAX_PASSES && params.p_cost() <= MAX_LANES;
    let Some(output) = hash.hash else { return Checked::Unusable };
    if !known || !affordable {
        return Checked::Unusable;
    }
    // Any error but "another password" would be one of the parameters, which were read above.
    if today.verify_password(password.as_bytes(), &hash).is_err() {
        return Checked::NoMatch;
    }
    let needs_rehash = hash.algorithm != ARGON2ID_IDENT
        || hash.version != Some(u32::from(Version::V0x13))
        || params.m_cost() < today.params().m_cost()
        || params.t_cost() < today.params().t_cost()
        || output.len() < Params::DEFAULT_OUTPUT_LEN;
    Checked::Match { needs_rehash }
}

fn check_bcrypt(password: &str, stored: &str) -> Checked {
    // `$2x$` is another algorithm under the same name (a defect of one old implementation).
    if !["$2a$", "$2b$", "$2y$"].iter().any(|prefix| stored.starts_with(prefix)) {
        return Checked::Unusable;
    }
    match stored.get(4..6).and_then(|cost| cost.parse::<u32>().ok()) {
        Some(cost) if cost <= MAX_BCRYPT_COST => {}
        _ => return Checked::Unusable,
    }
    match bcrypt::verify(password, stored) {
        // bcrypt saw the beginning of a long password only, so a slip in its end went unnoticed; keeping the
        // hash is better than making that slip the new password.
        Ok(true) => Checked::Match { needs_rehash: password.len() < BCRYPT_TRUNCATES_AT },
        Ok(false) => Checked::NoMatch,
        Err(_) => Checked::Unusable,
    }
}

#[cfg(test)]
mod tests {
    use argon2::PasswordHasher as _;

    use super::*;

    fn argon(algorithm: Algorithm, version: Version, memory_kib: u32, passes: u32) -> Argon2<'static> {
        Argon2::new(algorithm, version, Params::new(memory_kib, passes, 1, None).unwrap())
    }

    fn today() -> Argon2<'static> {
        argon(Algorithm::Argon2id, Version::V0x13, 64, 2)
    }

    fn checked(password: &str, stored: &str) -> Checked {
        check(&today(), &SecretString::from(password), &SecretString::from(stored))
    }

    fn made_by(argon: &Argon2<'_>) -> String {
        argon.hash_password(b"en liten ekorre").unwrap().to_string()
    }

    #[test]
    fn hash_of_today_is_kept() {
        let stored = made_by(&today());
        assert!(stored.starts_with("$argon2id$v=19$m=64,t=2,p=1$"));
        assert_eq!(checked("en liten ekorre", &stored), Checked::Match { needs_rehash: false });
        assert_eq!(checked("en liten Ekorre", &stored), Checked::NoMatch);
    }

    #[test]
    fn weaker_hashes_match_and_are_to_be_replaced() {
        for weaker in [
            argon(Algorithm::Argon2id, Version::V0x13, 32, 2),
            argon(Algorithm::Argon2id, Version::V0x13, 64, 1),
            argon(Algorithm::Argon2i, Version::V0x13, 64, 2),
            argon(Algorithm::Argon2id, Version::V0x10, 64, 2),
        ] {
            let stored = made_by(&weaker);
            assert_eq!(
                checked("en liten ekorre", &stored),
                Checked::Match { needs_rehash: true },
                "{stored}"
            );
            assert_eq!(checked("another", &stored), Checked::NoMatch, "{stored}");
        }
    }

    #[test]
    fn stronger_hash_is_kept() {
        let stored = made_by(&argon(Algorithm::Argon2id, Version::V0x13, 128, 3));
        assert_eq!(checked("en liten ekorre", &stored), Checked::Match { needs_rehash: false });
    }

    #[test]
    fn bcrypt_of_the_earlier_system_matches_and_is_to_be_replaced() {
        let parts = bcrypt::hash_with_salt("en liten ekorre", 4, [7; 16]).unwrap();
        for version in [bcrypt::Version::TwoA, bcrypt::Version::TwoB, bcrypt::Version::TwoY] {
            let stored = parts.format_for_version(version);
            assert_eq!(
                checked("en liten ekorre", &stored),
                Checked::Match { needs_rehash: true },
                "{stored}"
            );
            assert_eq!(checked("another", &stored), Checked::NoMatch, "{stored}");
        }
    }

    #[test]
    fn bcrypt_of_a_cut_password_is_not_replaced() {
        let password = "x".repeat(80);
        let stored = bcrypt::hash_with_salt(&password, 4, [7; 16]).unwrap().to_string();
        assert_eq!(checked(&password, &stored), Checked::Match { needs_rehash: false });
    }

    #[test]
    fn text_that_is_no_hash_is_unusable() {
        let argon2x = made_by(&today());
        let bcrypt4 = bcrypt::hash_with_salt("en liten ekorre", 4, [7; 16]).unwrap();
        for stored in [
            String::new(),
            "en liten ekorre".to_owned(),
            "$2b$".to_owned(),
            "$2b$04$short".to_owned(),
            "$2b$04$ååå".to_owned(),
            "$2".to_owned(),
            "$argon2id$v=19$m=64,t=2,p=1".to_owned(),
            "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD".to_owned(),
            argon2x.replace("argon2id", "argon2x"),
            argon2x.replace("m=64", "m=4000000"),
            argon2x.replace("t=2", "t=4000000"),
            bcrypt4.format_for_version(bcrypt::Version::TwoX),
            bcrypt4.to_string().replace("$2b$04$", "$2b$31$"),
        ] {
            assert_eq!(checked("en liten ekorre", &stored), Checked::Unusable, "{stored}");
        }
    }
}
