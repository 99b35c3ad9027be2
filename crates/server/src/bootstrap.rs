//! The first administrator of the platform.

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde_json::json;
use stagesub_auth::{PasswordError, PasswordHasher, check_password};
use stagesub_domain::actor::Actor;
use stagesub_domain::audit::{AuditAction, AuditEntry};
use stagesub_domain::error::{Constraint, StoreError, ValidationErrors};
use stagesub_domain::ports::registry::{NewMember, PersonRegistry};
use uuid::Uuid;

use crate::config::SuperadminSettings;

/// Makes sure that somebody can administer the platform: makes the administrator who is named unless they are
/// there, in which case the password stays as it is.
pub async fn ensure_superadmin(
    people: &dyn PersonRegistry,
    passwords: &PasswordHasher,
    named: Option<&SuperadminSettings>,
    now: DateTime<Utc>,
) -> Result<(), BootstrapError> {
    let Some(named) = named else {
        return if people.has_superadmin().await? { Ok(()) } else { Err(BootstrapError::Nobody) };
    };
    if is_there(people, named).await? {
        return Ok(());
    }
    check_password(&named.password, &named.email).map_err(BootstrapError::Password)?;
    let hash = passwords.hash(&named.password).await.map_err(BootstrapError::Hash)?;
    let id = Uuid::now_v7();
    let member = NewMember {
        id,
        email: named.email.clone(),
        first_name: "Platform".to_owned(),
        last_name: "Administrator".to_owned(),
        password_hash: Some(hash.expose_secret().to_owned()),
    };
    match people.add_superadmin(&member, &created(id, now)).await {
        Ok(_) => {
            tracing::info!("made the platform's first administrator");
            Ok(())
        }
        // Another node made them in the meantime.
        Err(StoreError::Conflict { constraint: Constraint::UserEmail }) => {
            is_there(people, named).await.map(|_| ())
        }
        Err(error) => Err(error.into()),
    }
}

async fn is_there(people: &dyn PersonRegistry, named: &SuperadminSettings) -> Result<bool, BootstrapError> {
    match people.find_by_email(&named.email).await? {
        Some(person) if person.is_superadmin => Ok(true),
        // Whoever can set an environment must not turn a member of an orchestra into its overseer unnoticed.
        Some(_) => Err(BootstrapError::SomebodyElse),
        None => Ok(false),
    }
}

/// The audit entry of a new administrator.
#[must_use]
pub fn created(id: Uuid, now: DateTime<Utc>) -> AuditEntry {
    AuditEntry {
        actor: Actor::system(),
        at: now,
        action: AuditAction::Create,
        model: "user",
        record_id: Some(id.to_string()),
        changes: Some(json!({ "after": { "isSuperadmin": true } })),
    }
}

/// Nobody could administer the platform.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// There is no administrator and none was named.
    #[error(
        "the platform has no administrator yet; set SUPERADMIN_EMAIL and SUPERADMIN_PASSWORD for this start, or run \
         `stagesub user create --superadmin`"
    )]
    Nobody,
    /// The address is a member's.
    #[error(
        "SUPERADMIN_EMAIL names a person who is no administrator of the platform; name an address of their own for it"
    )]
    SomebodyElse,
    /// The password breaks a rule.
    #[error("SUPERADMIN_PASSWORD is not usable: {}", .0.0.first().map_or("it breaks a rule", |error| error.message.as_str()))]
    Password(ValidationErrors),
    /// Hashing failed.
    #[error("the administrator's password could not be hashed")]
    Hash(#[source] PasswordError),
    /// The registry failed.
    #[error("the platform's administrators could not be looked up or stored")]
    Store(#[from] StoreError),
}

#[cfg(test)]
mod tests {
    use stagesub_auth::HasherSettings;
    use stagesub_domain::ports::registry::{MockPersonRegistry, Person};

    use super::*;

    fn named(password: &str) -> SuperadminSettings {
        SuperadminSettings { email: "ceo@stagesub.example".to_owned(), password: password.into() }
    }

    fn person(is_superadmin: bool) -> Person {
        Person {
            id: Uuid::from_u128(1),
            email: "ceo@stagesub.example".to_owned(),
            first_name: "A".to_owned(),
            last_name: "B".to_owned(),
            is_active: true,
            is_superadmin,
        }
    }

    async fn ensure(
        people: &MockPersonRegistry,
        named: Option<&SuperadminSettings>,
    ) -> Result<(), BootstrapError> {
        let costs = HasherSettings { memory_kib: 8, passes: 1, ..HasherSettings::default() };
        let passwords = PasswordHasher::new(costs).unwrap();
        ensure_superadmin(people, &passwords, named, DateTime::UNIX_EPOCH).await
    }

    #[tokio::test]
    async fn a_platform_nobody_can_administer_does_not_start() {
        let mut people = MockPersonRegistry::new();
        people.expect_has_superadmin().returning(|| Ok(false));
        let error = ensure(&people, None).await.unwrap_err();
        assert!(matches!(error, BootstrapError::Nobody));
        assert!(error.to_string().contains("SUPERADMIN_EMAIL"));
    }

    #[tokio::test]
    async fn nobody_needs_to_be_named_once_there_is_one() {
        let mut people = MockPersonRegistry::new();
        people.expect_has_superadmin().returning(|| Ok(true));
        ensure(&people, None).await.unwrap();
    }

    #[tokio::test]
    async fn the_named_administrator_is_made_with_a_hash_and_not_the_password() {
        let mut people = MockPersonRegistry::new();
        people.expect_find_by_email().returning(|_| Ok(None));
        people
            .expect_add_superadmin()
            .withf(|member, entry| {
                let hash = member.password_hash.as_deref().unwrap_or_default();
                hash.starts_with("$argon2id$") && entry.action == AuditAction::Create
            })
            .times(1)
            .returning(|_, _| Ok(person(true)));
        ensure(&people, Some(&named("correct horse battery"))).await.unwrap();
    }

    #[tokio::test]
    async fn an_administrator_who_is_there_keeps_the_password() {
        let mut people = MockPersonRegistry::new();
        people.expect_find_by_email().returning(|_| Ok(Some(person(true))));
        people.expect_add_superadmin().times(0);
        ensure(&people, Some(&named("another password"))).await.unwrap();
    }

    #[tokio::test]
    async fn a_member_is_not_promoted_by_the_environment() {
        let mut people = MockPersonRegistry::new();
        people.expect_find_by_email().returning(|_| Ok(Some(person(false))));
        let error = ensure(&people, Some(&named("correct horse battery"))).await.unwrap_err();
        assert!(matches!(error, BootstrapError::SomebodyElse));
    }

    #[tokio::test]
    async fn a_weak_password_is_told_by_its_rule_and_not_shown() {
        let mut people = MockPersonRegistry::new();
        people.expect_find_by_email().returning(|_| Ok(None));
        let error = ensure(&people, Some(&named("hunter2"))).await.unwrap_err();
        assert!(error.to_string().contains("10 to 128 characters"), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
