//! Further shared databases.

use std::sync::Arc;

use secrecy::ExposeSecret;
use stagesub_domain::actor::Actor;
use stagesub_domain::error::DatabaseError;
use stagesub_domain::ports::databases::{Holds, NewSharedDatabase, PlatformDatabases, SharedPlace};
use stagesub_domain::service::databases::add_shared_database;
use stagesub_storage::databases::{Home, NewShared, SharedDatabases};
use stagesub_storage::doctor::{Bounds, Expectations, Level, examine_platform};
use stagesub_storage::logins::{DatabaseLogins, LoginRole};
use stagesub_storage::migrate::MigrateError;
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_storage::registry::platform_databases::PgPlatformDatabases;
use stagesub_storage::registry::shared::check_shared;

use super::{Ground, allowing};
use crate::registry::connect;

fn shared(ground: &Ground) -> SharedDatabases {
    SharedDatabases::new(
        ground.registry.clone(),
        ground.ours.keys.clone(),
        allowing(&[&ground.ours, &ground.other]),
        Expectations::default(),
    )
}

fn platform(ground: &Ground) -> PgPlatformDatabases {
    PgPlatformDatabases::new(
        ground.registry.clone(),
        Arc::clone(&ground.ours.keys),
        allowing(&[&ground.ours, &ground.other]),
        Expectations::default(),
    )
}

fn new(home: Home, name: Option<&str>) -> NewShared {
    NewShared { home, name: name.map(str::to_owned), adopt_logins: false }
}

#[tokio::test]
async fn they_are_made_beside_on_a_server_and_in_a_database_and_the_platform_stays_sound() {
    let ground = Ground::new().await;
    let databases = shared(&ground);
    ground.other.create("given").await;
    let wanted = [
        new(Home::Beside, Some("second")),
        new(Home::Server(ground.other.admin("postgres")), None),
        new(Home::Database(ground.other.admin("given")), None),
    ];
    let logins = PgDatabaseLogins::new(ground.registry.clone(), ground.ours.keys.clone());
    for new in &wanted {
        let added = databases.add(new).await.unwrap();
        assert!(!added.known, "{added:?}");
        assert_eq!(databases.add(new).await.unwrap().id, added.id);
        assert!(databases.add(new).await.unwrap().known);
        for role in [LoginRole::Migrator, LoginRole::App, LoginRole::Mover] {
            connect(&logins.find_login(added.id, role).await.unwrap().unwrap()).await;
        }
    }
    assert_eq!(
        ground.recorded().await,
        ["shared ready given", "shared ready second", "shared ready stagesub_shared"]
    );
    check_shared(&ground.registry, &logins).await.unwrap();
    let report = examine_platform(
        &ground.ours.admin("reg"),
        &ground.ours.keys,
        &Expectations::default(),
        Bounds::default(),
    )
    .await
    .unwrap();
    assert_eq!(report.count(Level::Hole), 0, "{report:?}");
    assert!(ground.ours.migrate(&ground.ours.options()).await.unwrap().is_complete());

    let refused = databases.add(&new(Home::Database(ground.ours.admin("reg")), None)).await.unwrap_err();
    assert!(matches!(refused, MigrateError::Known { .. }), "{refused}");
}

#[tokio::test]
async fn an_administrator_lists_adds_and_checks_them() {
    let ground = Ground::new().await;
    let databases = platform(&ground);
    let url = ground.other.admin("postgres").to_url();
    let add = NewSharedDatabase {
        place: SharedPlace::Server(url.clone()),
        name: Some("two".to_owned()),
        adopt_logins: false,
    };
    let now = crate::registry::now();
    let added = add_shared_database(&databases, &Actor::system(), &add, None, now).await.unwrap();
    assert!(!added.is_again && added.partial.is_empty(), "{added:?}");
    let again = add_shared_database(&databases, &Actor::system(), &add, None, now).await.unwrap();
    assert!(again.is_again);
    assert_eq!(again.record.id, added.record.id);
    // One entry, and no secret in it.
    let entries = ground
        .ours
        .texts("reg", "SELECT platform_audit::text FROM registry.platform_audit WHERE model = 'database'")
        .await;
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert!(entries[0].contains("create") && entries[0].contains(&added.record.id.to_string()));
    assert!(!entries[0].contains("postgres://"), "{entries:?}");

    let first = databases.list(None, 2).await.unwrap();
    assert_eq!(first.items.len(), 2);
    let rest = databases.list(first.next, 2).await.unwrap();
    assert_eq!((rest.items.len(), rest.next), (1, None));
    let all: Vec<_> = first.items.iter().chain(&rest.items).collect();
    assert!(
        all.iter().all(|record| record.is_ready && record.size_bytes.is_some_and(|size| size > 0)),
        "{all:?}"
    );
    assert_eq!(all.iter().filter(|record| record.holds == Holds::Shared).count(), 2);
    assert_eq!(databases.find(added.record.id).await.unwrap().as_ref(), all.last().copied());

    let check = databases.check(added.record.id).await.unwrap().unwrap();
    assert!(check.is_sound() && check.obstacles.is_empty(), "{check:?}");
    // Two things that an administrator has to mend: one makes it unsound, the other keeps tenants from moving.
    ground.other.run("two", "ALTER TABLE tenant.musician NO FORCE ROW LEVEL SECURITY").await;
    ground.other.run("postgres", "ALTER ROLE stagesub_mover NOREPLICATION").await;
    let check = databases.check(added.record.id).await.unwrap().unwrap();
    assert!(!check.is_sound());
    assert!(
        check.obstacles.iter().any(|told| told.contains("ALTER ROLE stagesub_mover REPLICATION")),
        "{check:?}"
    );
    ground.other.run("postgres", "DROP DATABASE two WITH (FORCE)").await;
    let check = databases.check(added.record.id).await.unwrap().unwrap();
    assert!(check.unreachable.is_some() && !check.is_sound(), "{check:?}");

    let nowhere = NewSharedDatabase {
        place: SharedPlace::Database("postgres://u:hidden@/d?host=/nowhere".into()),
        name: None,
        adopt_logins: false,
    };
    let refused = databases.add(&nowhere, &crate::registry::audit_entry()).await.unwrap_err();
    let told = format!("{refused} {refused:?}");
    assert!(matches!(refused, DatabaseError::Refused { .. }), "{told}");
    assert!(told.contains("STAGESUB_DATABASE_HOSTS") && !told.contains("hidden"), "{told}");
    assert!(!told.contains(url.expose_secret()));
}
