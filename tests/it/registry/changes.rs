//! How nodes hear of what changes in the registry: every change is told, nothing else is, and a listener whose
//! connection is lost comes back by itself.

use std::future::pending;
use std::time::Duration;

use secrecy::SecretString;
use sqlx::postgres::{PgListener, PgPoolOptions};
use stagesub_auth::ports::CredentialStore;
use stagesub_domain::audit::AuditAction;
use stagesub_domain::ports::registry::{
    Outcome, PersonRegistry, TenantChange, TenantDatabases, TenantRegistry,
};
use stagesub_domain::role::Role;
use stagesub_storage::registry::changes::{PgChangeFeed, PgChangeSignal};
use stagesub_storage::registry::credentials::PgCredentialStore;
use stagesub_tenancy::{ChangeFeed, ChangeSignal, ConfigVersion, TenantId, TenantStatus};
use tokio::time::timeout;
use uuid::Uuid;

use super::adapters::{Fixture, entry, member, now};

const DEADLINE: Duration = Duration::from_mins(1);

/// Listens as anybody might, and knows where the registry stood.
struct Ear {
    listener: PgListener,
    version: ConfigVersion,
    changed: Vec<&'static str>,
}

impl Ear {
    async fn of(fixture: &Fixture) -> Self {
        let options = fixture.server.admin("reg").to_connect_options();
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
        let mut listener = PgListener::connect_with(&pool).await.unwrap();
        listener.listen("stagesub_registry").await.unwrap();
        let version = fixture.feed.current().await.unwrap().version;
        Self { listener, version, changed: Vec::new() }
    }

    /// What was told since the last time: everything before a word that we send ourselves.
    async fn told(&mut self, fixture: &Fixture) -> Vec<String> {
        fixture.server.run("reg", "NOTIFY stagesub_registry, 'end'").await;
        let mut told = Vec::new();
        loop {
            let next = timeout(DEADLINE, self.listener.recv()).await.expect("it is told").unwrap();
            if next.payload() == "end" {
                return told;
            }
            told.push(next.payload().to_owned());
        }
    }

    /// What was just done changed something: it took the next version and told of that and nothing more, and the
    /// feed lists whom it was about.
    async fn changed(&mut self, fixture: &Fixture, what: &'static str, tenants: &[TenantId], users: &[Uuid]) {
        let changes = fixture.feed.changes_since(self.version).await.unwrap();
        let version = changes.standing.version;
        assert_eq!(version, ConfigVersion(self.version.0 + 1), "{what}");
        assert_eq!((changes.tenants.as_slice(), changes.users.as_slice()), (tenants, users), "{what}");
        assert_eq!(self.told(fixture).await, [version.0.to_string()], "{what}");
        self.version = version;
        self.changed.push(what);
    }

    /// What was just done changed nothing that anybody remembers.
    async fn silent(&mut self, fixture: &Fixture, what: &str) {
        assert_eq!(fixture.feed.current().await.unwrap().version, self.version, "{what}");
        assert_eq!(self.told(fixture).await, Vec::<String>::new(), "{what}");
    }
}

#[tokio::test]
async fn every_change_is_told_when_it_is_made_and_nothing_else_is() {
    let fixture = Fixture::new().await;
    let (tenants, people) = (&fixture.tenants, &fixture.people);
    let mut ear = Ear::of(&fixture).await;

    let id = fixture.reserve("GOT", "gbg").await.unwrap();
    ear.changed(&fixture, "reserve", &[id], &[]).await;
    fixture.reserve("GOT", "other").await.unwrap_err();
    ear.silent(&fixture, "a code that is taken").await;
    let shared = fixture.databases.choose_shared().await.unwrap();
    tenants.place(id, shared, false).await.unwrap();
    ear.changed(&fixture, "place", &[id], &[]).await;
    tenants.place(id, shared, false).await.unwrap();
    ear.silent(&fixture, "placing it where it is").await;
    fixture.databases.admit(id, shared).await.unwrap();
    ear.silent(&fixture, "admitting it there").await;

    let activate = async || {
        let (from, to) = (vec![TenantStatus::Provisioning], TenantStatus::Active);
        tenants.set_status(id, from, to, &entry(AuditAction::Provision)).await.unwrap()
    };
    assert!(activate().await);
    ear.changed(&fixture, "set_status", &[id], &[]).await;
    assert!(!activate().await);
    ear.silent(&fixture, "a status that it has").await;
    let change = TenantChange { name: Some("GSO".to_owned()), ..TenantChange::default() };
    tenants.change(id, &change, &entry(AuditAction::Update)).await.unwrap().unwrap();
    ear.changed(&fixture, "change", &[id], &[]).await;
    let late = TenantChange { if_version: Some(0), ..change };
    assert!(tenants.change(id, &late, &entry(AuditAction::Update)).await.unwrap().is_none());
    ear.silent(&fixture, "a change that came too late").await;
    tenants.record(Some(id), &entry(AuditAction::Update)).await.unwrap();
    ear.silent(&fixture, "an entry in the log").await;

    let add = async |email: &str, role| {
        people.add_member(id, &member(email), role, &entry(AuditAction::Create)).await
    };
    let chef = add("chef@gbg.se", Role::Admin).await.unwrap().id;
    ear.changed(&fixture, "add_member", &[], &[chef]).await;
    add("CHEF@gbg.se", Role::User).await.unwrap_err();
    ear.silent(&fixture, "a member who is one").await;
    let boss = people.add_superadmin(&member("boss@x.se"), &entry(AuditAction::Create)).await.unwrap().id;
    ear.changed(&fixture, "add_superadmin", &[], &[boss]).await;
    let set_password =
        async |email| people.set_password(email, "new", &entry(AuditAction::SetPassword)).await.unwrap();
    assert!(set_password("chef@gbg.se").await);
    ear.changed(&fixture, "set_password", &[], &[chef]).await;
    assert!(!set_password("nobody@gbg.se").await);
    ear.silent(&fixture, "nobody's password").await;

    // Signing in and a newer hash of the same password are nobody else's news.
    let credentials = PgCredentialStore::new(fixture.registry.clone());
    let secret = |text: &str| SecretString::from(text);
    credentials.rehash(chef, &secret("new"), &secret("newer")).await.unwrap();
    ear.silent(&fixture, "rehash").await;
    credentials.record_login(chef, Some(id), now(), &entry(AuditAction::Login)).await.unwrap();
    credentials.record_refusal(Some(id), &entry(AuditAction::LoginFailed)).await.unwrap();
    ear.silent(&fixture, "a sign-in").await;

    let set_role = async |user, from, to| {
        people.set_role(id, user, from, to, &entry(AuditAction::Update)).await.unwrap()
    };
    assert_eq!(set_role(chef, Role::Admin, Role::User).await, Outcome::Last);
    ear.silent(&fixture, "the last administrator's role").await;
    let second = add("second@gbg.se", Role::Admin).await.unwrap().id;
    ear.changed(&fixture, "add_member", &[], &[second]).await;
    assert_eq!(set_role(chef, Role::Admin, Role::Viewer).await, Outcome::Done);
    ear.changed(&fixture, "set_role", &[], &[chef]).await;
    assert_eq!(set_role(chef, Role::Admin, Role::User).await, Outcome::Otherwise);
    assert_eq!(set_role(boss, Role::Admin, Role::User).await, Outcome::Otherwise);
    ear.silent(&fixture, "a role that is not theirs").await;

    let set_active =
        async |user, active| people.set_active(user, active, &entry(AuditAction::Disable)).await.unwrap();
    assert_eq!(set_active(boss, false).await, Outcome::Last);
    assert_eq!(set_active(Uuid::now_v7(), false).await, Outcome::Otherwise);
    assert_eq!(set_active(chef, true).await, Outcome::Otherwise);
    ear.silent(&fixture, "nobody who changes").await;
    for active in [false, true] {
        assert_eq!(set_active(chef, active).await, Outcome::Done);
        ear.changed(&fixture, "set_active", &[], &[chef]).await;
    }
    let remove =
        async |user, from| people.remove_member(id, user, from, &entry(AuditAction::Delete)).await.unwrap();
    assert_eq!(remove(second, Role::Admin).await, Outcome::Last);
    assert_eq!(remove(chef, Role::Admin).await, Outcome::Otherwise);
    ear.silent(&fixture, "a membership that stays").await;
    assert_eq!(remove(chef, Role::Viewer).await, Outcome::Done);
    ear.changed(&fixture, "remove_member", &[], &[chef]).await;
    println!("told: {}", ear.changed.join(", "));
}

#[tokio::test]
async fn administrators_who_race_leave_one() {
    let fixture = Fixture::new().await;
    let people = &fixture.people;
    let tenant = fixture.reserve("GOT", "gbg").await.unwrap();
    let mut bosses = Vec::new();
    for name in ["a@x.se", "b@x.se", "c@x.se", "d@x.se"] {
        let boss = people.add_superadmin(&member(name), &entry(AuditAction::Create)).await.unwrap();
        people.add_member(tenant, &member(name), Role::Admin, &entry(AuditAction::Create)).await.unwrap();
        bosses.push(boss.id);
    }
    let done = |outcomes: Vec<Outcome>| {
        let done = outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count();
        let last = outcomes.iter().filter(|outcome| **outcome == Outcome::Last).count();
        (done, last)
    };
    let remove = |user: Uuid| async move {
        people.remove_member(tenant, user, Role::Admin, &entry(AuditAction::Delete)).await.unwrap()
    };
    let outcomes = futures::future::join_all(bosses.iter().map(|user| remove(*user))).await;
    assert_eq!(done(outcomes), (3, 1));
    let members = people.list_members(tenant, None, 10).await.unwrap();
    assert_eq!((members.items.len(), members.items[0].role), (1, Role::Admin));

    let disable = |user: Uuid| async move {
        people.set_active(user, false, &entry(AuditAction::Disable)).await.unwrap()
    };
    let outcomes = futures::future::join_all(bosses.iter().map(|user| disable(*user))).await;
    assert_eq!(done(outcomes), (3, 1));
    assert!(people.has_superadmin().await.unwrap());
}

#[tokio::test]
async fn a_listener_that_lost_its_connection_tells_once_it_hears_again() {
    let fixture = Fixture::new().await;
    let mut signal = PgChangeSignal::new(&fixture.registry);
    timeout(DEADLINE, signal.changed()).await.expect("what was before it listened may have been missed");
    let unasked = timeout(Duration::from_millis(200), signal.changed()).await;
    assert!(unasked.is_err(), "nothing changed, nothing is told");

    let first = fixture.reserve("AAA", "aaa").await.unwrap();
    timeout(DEADLINE, signal.changed()).await.expect("it is told");
    assert!(fixture.feed.changes_since(ConfigVersion(0)).await.unwrap().tenants.contains(&first));

    let cut = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity
        WHERE application_name = 'stagesub listener'";
    assert_eq!(fixture.server.texts("reg", cut).await, ["true"]);
    fixture.reserve("BBB", "bbb").await.unwrap();
    timeout(DEADLINE, signal.changed()).await.expect("it listens again, and cannot know what it missed");
    assert!(timeout(Duration::from_millis(200), signal.changed()).await.is_err(), "and told that once");
    // Many at once are as good as one.
    for n in 0..20 {
        fixture.reserve(&format!("T{n}"), &format!("t{n}x")).await.unwrap();
    }
    timeout(DEADLINE, signal.changed()).await.expect("it is told");
}

#[tokio::test]
async fn a_feed_goes_on_after_its_connection_ended_or_was_given_up() {
    let fixture = Fixture::new().await;
    let feed = PgChangeFeed::new(&fixture.registry);
    let first = feed.current().await.unwrap();
    let cut = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity
        WHERE application_name = 'stagesub feed'";
    assert_eq!(fixture.server.texts("reg", cut).await, ["true"]);
    assert_eq!(feed.current().await.unwrap(), first, "over a new connection, without a failure in between");

    // Given up in the midst of it, as the follower does with one that hangs.
    let mut lock = fixture.server.connect("reg").await;
    sqlx::raw_sql("BEGIN; LOCK TABLE registry.version IN ACCESS EXCLUSIVE MODE")
        .execute(&mut lock)
        .await
        .unwrap();
    tokio::select! {
        _ = feed.current() => panic!("nobody can read it"),
        () = until_waiting(&fixture) => {}
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.unwrap();
    assert_eq!(feed.current().await.unwrap(), first);
}

/// Ends when the feed waits for a lock.
async fn until_waiting(fixture: &Fixture) {
    let waits = "SELECT 'waits' FROM pg_stat_activity
        WHERE application_name = 'stagesub feed' AND wait_event_type = 'Lock'";
    let waiting = async {
        while fixture.server.texts("reg", waits).await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    if timeout(DEADLINE, waiting).await.is_err() {
        pending::<()>().await;
    }
}
