//! The registry's ports on Postgres, as the platform's own logins.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use stagesub_auth::ports::{AuthorityStore, CredentialStore};
use stagesub_domain::actor::Actor;
use stagesub_domain::audit::{AuditAction, AuditEntry};
use stagesub_domain::error::{Constraint, StoreError};
use stagesub_domain::ports::registry::{
    NewMember, NewTenant, PersonRegistry, Reservation, TenantChange, TenantDatabases, TenantFilter,
    TenantRegistry,
};
use stagesub_domain::role::Role;
use stagesub_domain::subscription::{Limits, Tier};
use stagesub_storage::directory::PgTenantDirectory;
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::changes::PgChangeFeed;
use stagesub_storage::registry::credentials::{PgAuthorityStore, PgCredentialStore};
use stagesub_storage::registry::people::PgPersonRegistry;
use stagesub_storage::registry::tenant_databases::PgTenantDatabases;
use stagesub_storage::registry::tenants::PgTenantRegistry;
use stagesub_tenancy::{
    ChangeFeed, ConfigVersion, Placement, PlacementEpoch, TenantDirectory, TenantId, TenantStatus,
};
use uuid::Uuid;

use super::Server;

pub(super) struct Fixture {
    pub(super) server: Server,
    pub(super) registry: RegistryPools,
    pub(super) tenants: PgTenantRegistry,
    pub(super) people: PgPersonRegistry,
    directory: PgTenantDirectory,
    pub(super) feed: PgChangeFeed,
    pub(super) databases: PgTenantDatabases,
}

impl Fixture {
    pub(super) async fn new() -> Self {
        let server = Server::installed().await;
        let registry = server.open().await;
        Self {
            tenants: PgTenantRegistry::new(registry.clone()),
            people: PgPersonRegistry::new(registry.clone()),
            directory: PgTenantDirectory::new(registry.clone()),
            feed: PgChangeFeed::new(&registry),
            databases: PgTenantDatabases::new(registry.clone(), server.keys.clone()),
            registry,
            server,
        }
    }

    pub(super) async fn reserve(&self, code: &str, subdomain: &str) -> Result<TenantId, StoreError> {
        let tenant = new_tenant(code, subdomain);
        match self.tenants.reserve(&tenant, &entry(AuditAction::Create)).await? {
            Reservation::Made(account) => Ok(account.id),
            before @ Reservation::Before { .. } => panic!("no key was given: {before:?}"),
        }
    }
}

pub(super) fn now() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

pub(super) fn entry(action: AuditAction) -> AuditEntry {
    AuditEntry { actor: Actor::system(), at: now(), action, model: "tenant", record_id: None, changes: None }
}

pub(super) fn member(email: &str) -> NewMember {
    NewMember {
        id: Uuid::now_v7(),
        email: email.to_owned(),
        first_name: "Åsa".to_owned(),
        last_name: "Öberg".to_owned(),
        password_hash: Some("first".to_owned()),
    }
}

fn new_tenant(code: &str, subdomain: &str) -> NewTenant {
    NewTenant {
        id: TenantId::from_uuid(Uuid::now_v7()),
        code: code.parse().unwrap(),
        name: "Göteborgs Symfoniker".to_owned(),
        subdomain: subdomain.parse().unwrap(),
        tier: Tier::Medium,
        limits: Tier::Medium.limits(),
        trial_ends_at: Some(now()),
        dedicated: false,
        admin: None,
        asked: None,
        now: now(),
    }
}

fn conflict<T: std::fmt::Debug>(result: Result<T, StoreError>) -> Constraint {
    match result {
        Err(StoreError::Conflict { constraint }) => constraint,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn racing_reservations_of_one_subdomain_or_code_give_one_tenant() {
    let fixture = Fixture::new().await;
    let codes: Vec<String> = (0..8).map(|n| format!("R{n}")).collect();
    let by_subdomain = futures::future::join_all(codes.iter().map(|code| fixture.reserve(code, "gbg"))).await;
    let (won, lost): (Vec<_>, Vec<_>) = by_subdomain.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 7));
    assert!(lost.into_iter().all(|result| conflict(result) == Constraint::TenantSubdomain));

    let names: Vec<String> = (0..8).map(|n| format!("host{n}")).collect();
    let by_code = futures::future::join_all(names.iter().map(|name| fixture.reserve("SAME", name))).await;
    let (won, lost): (Vec<_>, Vec<_>) = by_code.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 7));
    assert!(lost.into_iter().all(|result| conflict(result) == Constraint::TenantCode));
    // Who lost left nothing behind, neither a code nor an entry.
    assert_eq!(fixture.server.texts("reg", "SELECT code FROM registry.codes").await.len(), 2);
    assert_eq!(fixture.server.texts("reg", "SELECT action FROM registry.platform_audit").await.len(), 2);
}

#[tokio::test]
async fn code_of_a_tenant_that_is_gone_stays_taken() {
    let fixture = Fixture::new().await;
    let id = fixture.reserve("GOT", "gbg").await.unwrap();
    fixture.server.run("reg", &format!("DELETE FROM registry.tenants WHERE id = '{id}'")).await;
    assert!(fixture.tenants.code_is_taken(&"GOT".parse().unwrap()).await.unwrap());
    assert_eq!(conflict(fixture.reserve("GOT", "other").await), Constraint::TenantCode);
}

#[tokio::test]
async fn tenant_is_found_placed_and_followed_through_its_changes() {
    let fixture = Fixture::new().await;
    let Fixture { tenants, directory, databases, .. } = &fixture;
    let id = fixture.reserve("GOT", "gbg").await.unwrap();
    assert_eq!(tenants.list_provisioning().await.unwrap().len(), 1);
    assert_eq!(directory.find_placement(id).await.unwrap(), None);

    let database = databases.choose_shared().await.unwrap();
    assert!(tenants.place(id, database, true).await.is_err(), "a shared database is no dedicated one");
    for _ in 0..2 {
        tenants.place(id, database, false).await.unwrap();
        databases.admit(id, database).await.unwrap();
    }
    let located = directory.find_placement(id).await.unwrap().unwrap();
    assert_eq!((located.placement, located.epoch), (Placement::Shared(database), PlacementEpoch(1)));

    let activate = || {
        let from = vec![TenantStatus::Provisioning];
        async move {
            tenants.set_status(id, from, TenantStatus::Active, &entry(AuditAction::Update)).await.unwrap()
        }
    };
    assert!(activate().await);
    assert!(!activate().await, "it is active already");

    let before = directory.find_by_id(id).await.unwrap().unwrap();
    let change = TenantChange {
        name: Some("GSO".to_owned()),
        limits: Some(Limits { musicians: None, active_projects: Some(3), instruments: None }),
        trial_ends_at: Some(None),
        ..TenantChange::default()
    };
    let changed = tenants.change(id, &change, &entry(AuditAction::Update)).await.unwrap().unwrap();
    assert_eq!((changed.name.as_str(), changed.limits.active_projects), ("GSO", Some(3)));
    assert_eq!((changed.limits.musicians, changed.trial_ends_at, changed.tier), (None, None, Tier::Medium));
    let after = directory.find_by_subdomain(&"gbg".parse().unwrap()).await.unwrap().unwrap();
    assert!(after.version > before.version);
    let told = fixture.feed.changes_since(before.version).await.unwrap();
    assert_eq!((told.tenants, told.standing.version), (vec![id], after.version));

    let absent = TenantId::from_uuid(Uuid::now_v7());
    assert!(tenants.change(absent, &change, &entry(AuditAction::Update)).await.unwrap().is_none());
    let stands = fixture.feed.current().await.unwrap().version;
    assert_eq!(stands, after.version, "nothing changed, no version");
}

#[tokio::test]
async fn follower_misses_no_change_of_writers_at_once() {
    let fixture = Fixture::new().await;
    let mut ids = Vec::new();
    for n in 0..6 {
        ids.push(fixture.reserve(&format!("T{n}"), &format!("t{n}x")).await.unwrap());
    }
    let start = fixture.feed.current().await.unwrap().version;
    let writers = ids.iter().map(|id| async {
        for round in 0..20 {
            let change = TenantChange { name: Some(format!("round {round}")), ..TenantChange::default() };
            fixture.tenants.change(*id, &change, &entry(AuditAction::Update)).await.unwrap();
        }
    });
    // A change whose version is at or below one that was already handed out would never be seen.
    let last = ConfigVersion(start.0 + 120);
    let follower = async {
        let (mut seen, mut known) = (BTreeSet::new(), start);
        while known < last {
            let changes = fixture.feed.changes_since(known).await.unwrap();
            for tenant in changes.tenants {
                let record = fixture.directory.find_by_id(tenant).await.unwrap().unwrap();
                assert!(record.version > known);
                seen.insert((tenant, record.name.clone()));
            }
            known = changes.standing.version;
        }
        seen
    };
    let ((), seen) = tokio::join!(
        async {
            futures::future::join_all(writers).await;
        },
        follower
    );
    for id in ids {
        assert!(seen.contains(&(id, "round 19".to_owned())), "the last change of {id} was missed");
    }
}

#[tokio::test]
async fn list_pages_by_creation_and_filters() {
    let fixture = Fixture::new().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(fixture.reserve(&format!("T{n}"), &format!("t{n}x")).await.unwrap());
    }
    let all = TenantFilter::default();
    let first = fixture.tenants.list(&all, None, 2).await.unwrap();
    assert_eq!(first.items.iter().map(|account| account.id).collect::<Vec<_>>(), ids[..2]);
    let rest = fixture.tenants.list(&all, first.next, 3).await.unwrap();
    assert_eq!((rest.items.len(), rest.next), (3, None));

    let search = |text: &str| TenantFilter { search: Some(text.to_owned()), ..TenantFilter::default() };
    assert_eq!(fixture.tenants.list(&search("t3"), None, 9).await.unwrap().items[0].id, ids[3]);
    assert_eq!(fixture.tenants.list(&search("SYMFONIKER"), None, 9).await.unwrap().items.len(), 5);
    assert!(fixture.tenants.list(&search("%"), None, 9).await.unwrap().items.is_empty(), "% is a letter");
    let active = TenantFilter { status: Some(TenantStatus::Active), ..TenantFilter::default() };
    assert!(fixture.tenants.list(&active, None, 9).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn one_person_serves_two_orchestras_and_keeps_their_own_password() {
    let fixture = Fixture::new().await;
    let (one, two) =
        (fixture.reserve("AAA", "aaa").await.unwrap(), fixture.reserve("BBB", "bbb").await.unwrap());
    let add = async |tenant, email: &str, role| {
        fixture.people.add_member(tenant, &member(email), role, &entry(AuditAction::Create)).await
    };
    let person = add(one, "Asa@example.se", Role::Admin).await.unwrap();
    let same = add(two, "asa@EXAMPLE.se", Role::Viewer).await.unwrap();
    assert_eq!(person.id, same.id);
    assert_eq!(conflict(add(two, "asa@example.se", Role::Admin).await), Constraint::Membership);

    let credentials = PgCredentialStore::new(fixture.registry.clone());
    let find = async |tenant| credentials.find_credential("ASA@example.se", tenant).await.unwrap().unwrap();
    let (in_one, in_two, nowhere) = (find(Some(one)).await, find(Some(two)).await, find(None).await);
    assert_eq!((in_one.role, in_two.role, nowhere.role), (Some(Role::Admin), Some(Role::Viewer), None));
    assert_eq!(in_one.password_hash.unwrap().expose_secret(), "first");

    let secret = |text: &str| SecretString::from(text);
    credentials.rehash(person.id, &secret("other"), &secret("wrong")).await.unwrap();
    credentials.rehash(person.id, &secret("first"), &secret("second")).await.unwrap();
    assert_eq!(find(None).await.password_hash.unwrap().expose_secret(), "second");
    credentials.record_login(person.id, Some(one), now(), &entry(AuditAction::Login)).await.unwrap();
    credentials.record_refusal(None, &entry(AuditAction::LoginFailed)).await.unwrap();
    let log = "SELECT action FROM registry.platform_audit WHERE action LIKE 'login%' ORDER BY id";
    assert_eq!(fixture.server.texts("reg", log).await, ["login", "login_failed"]);
}

#[tokio::test]
async fn new_password_and_membership_outdate_what_was_known_of_a_person() {
    let fixture = Fixture::new().await;
    assert!(!fixture.people.has_superadmin().await.unwrap());
    let boss =
        fixture.people.add_superadmin(&member("boss@x.se"), &entry(AuditAction::Create)).await.unwrap();
    assert!(boss.is_superadmin && fixture.people.has_superadmin().await.unwrap());
    let again = fixture.people.add_superadmin(&member("BOSS@x.se"), &entry(AuditAction::Create)).await;
    assert_eq!(conflict(again), Constraint::UserEmail);

    let authority = PgAuthorityStore::new(fixture.registry.clone());
    let epoch = async || authority.find_authority(boss.id, None).await.unwrap().unwrap().auth_epoch;
    let (before, since) = (epoch().await, fixture.feed.current().await.unwrap().version);
    let set = async |email: &str| {
        fixture.people.set_password(email, "new", &entry(AuditAction::SetPassword)).await.unwrap()
    };
    assert!(!set("nobody@x.se").await);
    assert_eq!(epoch().await, before);
    assert!(set("Boss@X.se").await);
    let changed = epoch().await;
    assert!(changed > before);
    let tenant = fixture.reserve("GOT", "gbg").await.unwrap();
    let role = Role::Admin;
    fixture.people.add_member(tenant, &member("boss@x.se"), role, &entry(AuditAction::Create)).await.unwrap();
    assert!(epoch().await > changed);
    let told = fixture.feed.changes_since(since).await.unwrap();
    assert_eq!((told.users, told.tenants), (vec![boss.id], vec![tenant]));
}
