//! The platform's databases as its administrators handle them.

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;

use crate::actor::Actor;
use crate::audit::{AuditAction, AuditEntry};
use crate::error::{DatabaseError, UseCaseError, ValidationErrors};
use crate::idempotency::Asked;
use crate::ports::databases::{AddedDatabase, NewSharedDatabase, PlatformDatabases, SharedPlace};

const MODEL: &str = "database";
/// Longest name that Postgres keeps whole.
const LONGEST_NAME: usize = 63;

/// Adds a shared database. Asked again for the same place, it answers the database that is there.
///
/// # Errors
/// [`UseCaseError::Invalid`] for a name that is none; [`UseCaseError::WrongState`] with a sentence that says what to do
/// where the place cannot be used; [`UseCaseError::KeyReused`] where the key names another request; what else failed can
/// be asked again, and goes on from there.
pub async fn add_shared_database(
    databases: &dyn PlatformDatabases,
    actor: &Actor,
    new: &NewSharedDatabase,
    asked: Option<&Asked>,
    now: DateTime<Utc>,
) -> Result<AddedDatabase, UseCaseError> {
    check(new)?;
    if let Some(asked) = asked
        && let Some(before) = databases.claim_key(asked, now).await?
        && before != asked.fingerprint
    {
        return Err(UseCaseError::KeyReused);
    }
    let entry = AuditEntry {
        actor: actor.clone(),
        at: now,
        action: AuditAction::Create,
        model: MODEL,
        record_id: None,
        changes: None,
    };
    match databases.add(new, &entry).await {
        Ok(added) => Ok(added),
        Err(error) => {
            // What was refused may be asked for anew, by the same key.
            if let (Some(asked), DatabaseError::Refused { .. }) = (asked, &error) {
                databases.forget_key(asked).await?;
            }
            Err(error.into())
        }
    }
}

fn check(new: &NewSharedDatabase) -> Result<(), ValidationErrors> {
    let (SharedPlace::Server(url) | SharedPlace::Database(url)) = &new.place else { return check_name(new) };
    if url.expose_secret().trim().is_empty() {
        return Err(ValidationErrors::one("url", "required", "a connection string"));
    }
    if let (SharedPlace::Database(_), Some(_)) = (&new.place, &new.name) {
        let message = "a database that is there has its name already";
        return Err(ValidationErrors::one("name", "unexpected", message));
    }
    check_name(new)
}

fn check_name(new: &NewSharedDatabase) -> Result<(), ValidationErrors> {
    let Some(name) = &new.name else { return Ok(()) };
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let all = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    // Names of the server's own databases are nobody's to take.
    let reserved = ["postgres", "template0", "template1", "stagesub_template"].contains(&name.as_str());
    if first && all && name.len() <= LONGEST_NAME && !reserved && !name.starts_with("stagesub_t_") {
        return Ok(());
    }
    let message = "1 to 63 of a-z, 0-9 and _, beginning with a letter or _; not a name of the server's own or of a tenant's";
    Err(ValidationErrors::one("name", "format", message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::databases::MockPlatformDatabases;

    fn new(place: SharedPlace, name: Option<&str>) -> NewSharedDatabase {
        NewSharedDatabase { place, name: name.map(str::to_owned), adopt_logins: false }
    }

    #[test]
    fn a_name_is_plain_and_nobody_elses() {
        for name in ["orchestras_2", "_x", "stagesub_shared"] {
            assert_eq!(check(&new(SharedPlace::Beside, Some(name))), Ok(()), "{name}");
        }
        let long = "a".repeat(64);
        for name in ["", "2nd", "Two", "a b", "a\"; --", "postgres", "template1", "stagesub_t_0", &long] {
            assert!(check(&new(SharedPlace::Beside, Some(name))).is_err(), "{name}");
        }
        assert!(check(&new(SharedPlace::Database("postgres://u@h/d".into()), Some("x"))).is_err());
        assert!(check(&new(SharedPlace::Server(" ".into()), None)).is_err());
    }

    #[tokio::test]
    async fn what_is_refused_is_told_as_it_is() {
        let mut databases = MockPlatformDatabases::new();
        let reason = || "u@h:5432/d holds tables; name an empty database".to_owned();
        databases.expect_add().returning(move |_, entry| {
            assert_eq!((entry.action, entry.model), (AuditAction::Create, "database"));
            assert_eq!(entry.changes, None);
            Err(DatabaseError::Refused { reason: reason() })
        });
        let new = new(SharedPlace::Database("postgres://u:secret@h/d".into()), None);
        let refused =
            add_shared_database(&databases, &Actor::system(), &new, None, DateTime::UNIX_EPOCH).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.to_string(), reason());
        assert!(!format!("{new:?} {refused:?}").contains("secret"));
    }

    #[tokio::test]
    async fn a_key_names_one_request_and_none_that_was_refused() {
        let asked = |fingerprint: u8| Asked {
            user: uuid::Uuid::nil(),
            key: "once".parse().unwrap(),
            fingerprint: crate::idempotency::Fingerprint::new([fingerprint; 32]),
        };
        let new = new(SharedPlace::Beside, None);
        let mut databases = MockPlatformDatabases::new();
        databases.expect_claim_key().returning(move |_, _| Ok(Some(asked(1).fingerprint)));
        let at = DateTime::UNIX_EPOCH;
        let other = add_shared_database(&databases, &Actor::system(), &new, Some(&asked(2)), at).await;
        assert!(matches!(other, Err(UseCaseError::KeyReused)), "{other:?}");

        let mut databases = MockPlatformDatabases::new();
        databases.expect_claim_key().times(1).returning(|_, _| Ok(None));
        databases
            .expect_add()
            .times(1)
            .returning(|_, _| Err(DatabaseError::Refused { reason: "no".to_owned() }));
        databases.expect_forget_key().times(1).returning(|_| Ok(()));
        let refused = add_shared_database(&databases, &Actor::system(), &new, Some(&asked(1)), at).await;
        assert!(matches!(refused, Err(UseCaseError::WrongState { .. })), "{refused:?}");
    }
}
