//! People: who may sign in, who is a member of which orchestra, and in which role.
//!
//! These use cases reach the registry alone. Each change ends the person's access tokens, so that what they held
//! is gone with the tokens. There is always somebody left who may sign in and administer: of the platform, and of
//! each orchestra as far as its own people can take that away.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use stagesub_tenancy::TenantId;
use uuid::Uuid;

use crate::actor::Actor;
use crate::audit::{AuditAction, AuditEntry};
use crate::error::{Administered, Constraint, StoreError, UseCaseError, ValidationErrors};
use crate::idempotency::Asked;
use crate::page::Paged;
use crate::ports::registry::{Joined, Member, Outcome, Person, PersonFilter, PersonRegistry};
use crate::role::Role;
use crate::service::tenants::PersonDraft;

/// The person, as the platform's audit log calls them.
const PERSON: &str = "user";
/// Their place in an orchestra.
const MEMBERSHIP: &str = "membership";

/// How often a change is made afresh because another one came between.
const TRIES: u32 = 5;

/// What use cases on people work with.
#[derive(Clone, Copy)]
pub struct People<'a> {
    /// People in the registry.
    pub registry: &'a dyn PersonRegistry,
    /// Drops this node's cached answers about a person; called after each change, so that the node that made it
    /// is the first to hold to it.
    pub invalidate: &'a (dyn Fn(Uuid) + Send + Sync),
}

impl std::fmt::Debug for People<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("People").finish_non_exhaustive()
    }
}

/// Lists everybody by creation.
pub async fn list_people(
    registry: &dyn PersonRegistry,
    filter: &PersonFilter,
    after: Option<Uuid>,
    limit: u32,
) -> Result<Paged<Person, Uuid>, UseCaseError> {
    Ok(registry.list(filter, after, limit).await?)
}

/// Gets one.
pub async fn get_person(registry: &dyn PersonRegistry, user: Uuid) -> Result<Person, UseCaseError> {
    registry.find(user).await?.ok_or(UseCaseError::UnknownPerson)
}

/// Lets a person sign in again, or no more: then their access tokens end too, on every node. Doing it twice is
/// doing it once.
///
/// # Errors
/// [`UseCaseError::LastAdministrator`] for the platform's only administrator. An orchestra's only one may be
/// disabled: somebody whose account was stolen is stopped first and replaced then.
pub async fn set_active(
    people: &People<'_>,
    actor: &Actor,
    user: Uuid,
    is_active: bool,
    now: DateTime<Utc>,
) -> Result<Person, UseCaseError> {
    for _ in 0..TRIES {
        let person = get_person(people.registry, user).await?;
        if person.is_active == is_active {
            return Ok(person);
        }
        let action = if is_active { AuditAction::Enable } else { AuditAction::Disable };
        let entry = entry(actor, now, action, PERSON, user, None);
        let outcome = people.registry.set_active(user, is_active, &entry).await?;
        (people.invalidate)(user);
        match outcome {
            Outcome::Done => return Ok(Person { is_active, ..person }),
            Outcome::Last => return Err(UseCaseError::LastAdministrator { of: Administered::Platform }),
            Outcome::Otherwise => {}
        }
    }
    Err(contended())
}

/// Lists an orchestra's members.
pub async fn list_members(
    registry: &dyn PersonRegistry,
    tenant: TenantId,
    after: Option<Uuid>,
    limit: u32,
) -> Result<Paged<Member, Uuid>, UseCaseError> {
    Ok(registry.list_members(tenant, after, limit).await?)
}

/// Gets a member. Whoever belongs to another orchestra alone is as unknown as nobody.
pub async fn get_member(
    registry: &dyn PersonRegistry,
    tenant: TenantId,
    user: Uuid,
) -> Result<Member, UseCaseError> {
    registry.find_member(tenant, user).await?.ok_or(UseCaseError::UnknownPerson)
}

/// A member who was made, now or by the same request before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joining {
    /// The member, as they are now.
    pub member: Member,
    /// Whether it was done before.
    pub is_again: bool,
}

/// Makes somebody a member: a new person, or the one who has this address already. They keep their name and
/// their password then, which are theirs and not the orchestra's. Asked again with the same key, it does nothing
/// and tells of the member who was made.
///
/// # Errors
/// [`UseCaseError::Taken`] for whoever is a member, [`UseCaseError::KeyReused`] when the key names another
/// request, [`UseCaseError::UnknownPerson`] when whom it made is no member any more.
pub async fn add_member(
    people: &People<'_>,
    actor: &Actor,
    tenant: TenantId,
    draft: PersonDraft,
    role: Role,
    asked: Option<Asked>,
    now: DateTime<Utc>,
) -> Result<Joining, UseCaseError> {
    check_role(role)?;
    let member = draft.into_member()?;
    let changes = json!({ "after": { "role": role.as_str() } });
    let entry = entry(actor, now, AuditAction::Create, MEMBERSHIP, member.id, Some(changes));
    let joined = match &asked {
        Some(asked) => people.registry.add_member_once(tenant, &member, role, asked, &entry).await,
        None => people.registry.add_member(tenant, &member, role, &entry).await.map(Joined::Now),
    };
    match joined.map_err(taken)? {
        Joined::Now(person) => {
            (people.invalidate)(person.id);
            Ok(Joining { member: Member { person, role }, is_again: false })
        }
        Joined::Before { fingerprint, .. }
            if asked.as_ref().is_none_or(|asked| asked.fingerprint != fingerprint) =>
        {
            Err(UseCaseError::KeyReused)
        }
        Joined::Before { user, .. } => {
            let member = get_member(people.registry, tenant, user).await?;
            Ok(Joining { member, is_again: true })
        }
    }
}

fn taken(error: StoreError) -> UseCaseError {
    match error {
        StoreError::Conflict { constraint: Constraint::Membership } => UseCaseError::Taken { field: "email" },
        other => other.into(),
    }
}

/// Gives a member another role; the one they have is no change.
///
/// # Errors
/// [`UseCaseError::LastAdministrator`] if no administrator who may sign in would be left.
pub async fn set_role(
    people: &People<'_>,
    actor: &Actor,
    tenant: TenantId,
    user: Uuid,
    role: Role,
    now: DateTime<Utc>,
) -> Result<Member, UseCaseError> {
    check_role(role)?;
    for _ in 0..TRIES {
        let member = get_member(people.registry, tenant, user).await?;
        if member.role == role {
            return Ok(member);
        }
        let changes = json!({
            "before": { "role": member.role.as_str() }, "after": { "role": role.as_str() },
        });
        let entry = entry(actor, now, AuditAction::Update, MEMBERSHIP, user, Some(changes));
        let outcome = people.registry.set_role(tenant, user, member.role, role, &entry).await?;
        (people.invalidate)(user);
        if settled(outcome)? {
            return Ok(Member { role, ..member });
        }
    }
    Err(contended())
}

/// Ends a membership. The person stays: they may belong elsewhere, and what they did stays theirs.
///
/// # Errors
/// As [`set_role`].
pub async fn remove_member(
    people: &People<'_>,
    actor: &Actor,
    tenant: TenantId,
    user: Uuid,
    now: DateTime<Utc>,
) -> Result<(), UseCaseError> {
    for _ in 0..TRIES {
        let member = get_member(people.registry, tenant, user).await?;
        let changes = json!({ "before": { "role": member.role.as_str() } });
        let entry = entry(actor, now, AuditAction::Delete, MEMBERSHIP, user, Some(changes));
        let outcome = people.registry.remove_member(tenant, user, member.role, &entry).await?;
        (people.invalidate)(user);
        if settled(outcome)? {
            return Ok(());
        }
    }
    Err(contended())
}

/// Whether it was done; if not, it is to be tried on what stands now.
fn settled(outcome: Outcome) -> Result<bool, UseCaseError> {
    match outcome {
        Outcome::Done => Ok(true),
        Outcome::Otherwise => Ok(false),
        Outcome::Last => Err(UseCaseError::LastAdministrator { of: Administered::Orchestra }),
    }
}

/// A membership never makes a superadmin.
fn check_role(role: Role) -> Result<(), ValidationErrors> {
    match role {
        Role::Admin | Role::User | Role::Viewer => Ok(()),
        Role::Superadmin => Err(ValidationErrors::one("role", "enum", "a member is admin, user or viewer")),
    }
}

fn contended() -> UseCaseError {
    StoreError::Contended("the person's record was changed by others again and again".into()).into()
}

fn entry(
    actor: &Actor,
    now: DateTime<Utc>,
    action: AuditAction,
    model: &'static str,
    user: Uuid,
    changes: Option<Value>,
) -> AuditEntry {
    AuditEntry { actor: actor.clone(), at: now, action, model, record_id: Some(user.to_string()), changes }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use mockall::Sequence;
    use mockall::predicate::{always, eq};

    use super::*;
    use crate::idempotency::Fingerprint;
    use crate::ports::registry::MockPersonRegistry;
    use crate::service::fixture::moment;
    use crate::service::fixture_platform::tenant_id;

    const BERIT: Uuid = Uuid::from_u128(0x11);

    fn person(is_active: bool) -> Person {
        Person {
            id: BERIT,
            email: "berit@got.example".to_owned(),
            first_name: "Berit".to_owned(),
            last_name: "Ek".to_owned(),
            is_active,
            is_superadmin: false,
        }
    }

    fn member(role: Role) -> Member {
        Member { person: person(true), role }
    }

    /// Runs `work` and tells whom it had forgotten.
    async fn with<T>(
        registry: &MockPersonRegistry,
        work: impl AsyncFnOnce(&People<'_>) -> T,
    ) -> (T, Vec<Uuid>) {
        let forgotten = Mutex::new(Vec::new());
        let invalidate = |user| forgotten.lock().unwrap().push(user);
        let done = work(&People { registry, invalidate: &invalidate }).await;
        (done, forgotten.into_inner().unwrap())
    }

    /// A registry in which Berit's role is each of these in turn when she is looked up.
    fn standing(roles: &[Option<Role>]) -> MockPersonRegistry {
        let mut registry = MockPersonRegistry::new();
        let mut order = Sequence::new();
        for role in roles.iter().copied() {
            registry
                .expect_find_member()
                .with(eq(tenant_id(1)), eq(BERIT))
                .once()
                .in_sequence(&mut order)
                .return_once(move |_, _| Ok(role.map(member)));
        }
        registry
    }

    async fn demote(registry: &MockPersonRegistry) -> (Result<Member, UseCaseError>, Vec<Uuid>) {
        let (actor, now) = (Actor::system(), moment(1));
        with(registry, async |people| set_role(people, &actor, tenant_id(1), BERIT, Role::Viewer, now).await)
            .await
    }

    #[tokio::test]
    async fn new_role_is_written_with_what_it_was_and_forgotten_on_this_node() {
        let mut registry = standing(&[Some(Role::Admin)]);
        registry
            .expect_set_role()
            .withf(|tenant, user, from, to, entry| {
                (*tenant, *user, *from, *to) == (tenant_id(1), BERIT, Role::Admin, Role::Viewer)
                    && (entry.action, entry.model) == (AuditAction::Update, "membership")
                    && entry.record_id == Some(BERIT.to_string())
                    && entry.changes
                        == Some(json!({ "before": { "role": "admin" }, "after": { "role": "viewer" } }))
            })
            .once()
            .returning(|_, _, _, _, _| Ok(Outcome::Done));
        let (changed, forgotten) = demote(&registry).await;
        assert_eq!(changed.unwrap(), member(Role::Viewer));
        assert_eq!(forgotten, [BERIT]);
    }

    #[tokio::test]
    async fn role_that_somebody_else_changed_meanwhile_is_read_again() {
        let mut registry = standing(&[Some(Role::Admin), Some(Role::User)]);
        let mut order = Sequence::new();
        for (from, outcome) in [(Role::Admin, Outcome::Otherwise), (Role::User, Outcome::Done)] {
            registry
                .expect_set_role()
                .with(always(), always(), eq(from), eq(Role::Viewer), always())
                .once()
                .in_sequence(&mut order)
                .return_once(move |_, _, _, _, _| Ok(outcome));
        }
        assert_eq!(demote(&registry).await.0.unwrap(), member(Role::Viewer));
    }

    #[tokio::test]
    async fn the_same_role_writes_nothing_and_a_stranger_is_unknown() {
        let (same, forgotten) = demote(&standing(&[Some(Role::Viewer)])).await;
        assert_eq!((same.unwrap(), forgotten.len()), (member(Role::Viewer), 0));
        let (stranger, _) = demote(&standing(&[None])).await;
        assert!(matches!(stranger, Err(UseCaseError::UnknownPerson)));
        // Or became one meanwhile.
        let mut registry = standing(&[Some(Role::Admin), None]);
        registry.expect_set_role().once().returning(|_, _, _, _, _| Ok(Outcome::Otherwise));
        assert!(matches!(demote(&registry).await.0, Err(UseCaseError::UnknownPerson)));
    }

    #[tokio::test]
    async fn the_last_administrator_is_neither_demoted_nor_removed() {
        let mut registry = standing(&[Some(Role::Admin)]);
        registry.expect_set_role().once().returning(|_, _, _, _, _| Ok(Outcome::Last));
        let of = Administered::Orchestra;
        assert!(matches!(
            demote(&registry).await.0,
            Err(UseCaseError::LastAdministrator { of: told }) if told == of
        ));
        let mut registry = standing(&[Some(Role::Admin)]);
        registry.expect_remove_member().once().returning(|_, _, _, _| Ok(Outcome::Last));
        let (actor, now) = (Actor::system(), moment(1));
        let (removed, _) =
            with(&registry, async |people| remove_member(people, &actor, tenant_id(1), BERIT, now).await)
                .await;
        assert!(matches!(removed, Err(UseCaseError::LastAdministrator { of: told }) if told == of));
    }

    #[tokio::test]
    async fn who_is_changed_by_others_without_end_is_given_up() {
        let mut registry = MockPersonRegistry::new();
        registry.expect_find_member().times(5).returning(|_, _| Ok(Some(member(Role::Admin))));
        registry.expect_set_role().times(5).returning(|_, _, _, _, _| Ok(Outcome::Otherwise));
        let given_up = demote(&registry).await.0;
        assert!(matches!(given_up, Err(UseCaseError::Store(StoreError::Contended(_)))));
    }

    #[tokio::test]
    async fn key_that_was_used_gives_the_member_again_or_is_refused() {
        let asked = |what| Asked {
            user: Uuid::from_u128(7),
            key: "k".parse().unwrap(),
            fingerprint: Fingerprint::new([what; Fingerprint::LEN]),
        };
        let draft = PersonDraft {
            id: BERIT,
            email: "berit@got.example".to_owned(),
            first_name: "Berit".to_owned(),
            last_name: "Ek".to_owned(),
            password_hash: None,
        };
        let (actor, now) = (Actor::system(), moment(1));
        for what in [1, 2] {
            // As she is now: since then her role was changed.
            let mut registry = if what == 1 { standing(&[Some(Role::Viewer)]) } else { standing(&[]) };
            let fingerprint = asked(1).fingerprint;
            registry
                .expect_add_member_once()
                .once()
                .returning(move |_, _, _, _, _| Ok(Joined::Before { fingerprint, user: BERIT }));
            let (draft, asked) = (draft.clone(), Some(asked(what)));
            let (made, forgotten) = with(&registry, async |people| {
                add_member(people, &actor, tenant_id(1), draft, Role::User, asked, now).await
            })
            .await;
            assert!(forgotten.is_empty(), "nothing was done");
            if what == 1 {
                assert_eq!(made.unwrap(), Joining { member: member(Role::Viewer), is_again: true });
            } else {
                assert!(matches!(made, Err(UseCaseError::KeyReused)));
            }
        }
    }

    #[tokio::test]
    async fn membership_never_makes_a_superadmin() {
        let registry = MockPersonRegistry::new();
        let (actor, now) = (Actor::system(), moment(1));
        let (refused, _) = with(&registry, async |people| {
            set_role(people, &actor, tenant_id(1), BERIT, Role::Superadmin, now).await
        })
        .await;
        assert!(matches!(refused, Err(UseCaseError::Invalid(_))));
    }

    #[tokio::test]
    async fn disabled_person_is_told_of_once() {
        let (actor, now) = (Actor::system(), moment(1));
        for (stands, wanted, action) in [
            (true, false, Some(AuditAction::Disable)),
            (false, true, Some(AuditAction::Enable)),
            (true, true, None),
        ] {
            let mut registry = MockPersonRegistry::new();
            registry.expect_find().once().returning(move |_| Ok(Some(person(stands))));
            registry
                .expect_set_active()
                .withf(move |user, active, entry| {
                    *user == BERIT && *active == wanted && Some(entry.action) == action
                })
                .times(usize::from(action.is_some()))
                .returning(|_, _, _| Ok(Outcome::Done));
            let (changed, forgotten) =
                with(&registry, async |people| set_active(people, &actor, BERIT, wanted, now).await).await;
            assert_eq!(changed.unwrap(), person(wanted));
            assert_eq!(forgotten.len(), usize::from(action.is_some()));
        }
    }

    #[tokio::test]
    async fn the_platforms_last_administrator_stays_able_to_sign_in() {
        let mut registry = MockPersonRegistry::new();
        registry.expect_find().once().returning(|_| Ok(Some(person(true))));
        registry.expect_set_active().once().returning(|_, _, _| Ok(Outcome::Last));
        let (actor, now) = (Actor::system(), moment(1));
        let (refused, _) =
            with(&registry, async |people| set_active(people, &actor, BERIT, false, now).await).await;
        assert!(matches!(refused, Err(UseCaseError::LastAdministrator { of: Administered::Platform })));
    }
}
