//! `migrate`: roles, logins, markers, and what it refuses.

use stagesub_storage::logins::{DatabaseLogins, LoginRole};
use stagesub_storage::marker::DatabaseKind;
use stagesub_storage::migrate::{DatabaseTargets, MigrateError, MigrateOptions};
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_storage::seal::KeyRing;

use super::{Server, connect};

#[tokio::test]
async fn second_run_finds_everything_done() {
    let server = Server::start().await;
    server.create("reg").await;
    server.create("shr").await;
    let first = server.migrate(&server.options()).await.unwrap();
    assert_eq!(first.created_roles.len(), 6);
    assert!(first.is_complete() && first.partial.is_empty(), "{first:?}");
    assert!(first.databases.iter().all(|database| !database.outcome.as_ref().unwrap().is_empty()));
    let state = "SELECT database_id || role || sealed || updated_at FROM registry.database_logins ORDER BY 1";
    let before = server.texts("reg", state).await;

    let second = server.migrate(&server.options()).await.unwrap();
    assert!(second.created_roles.is_empty() && second.partial.is_empty(), "{second:?}");
    assert!(second.databases.iter().all(|database| database.outcome.as_ref().unwrap().is_empty()));
    assert_eq!(server.texts("reg", state).await, before);

    let registry = server.open().await;
    let logins = PgDatabaseLogins::new(registry.clone(), server.keys.clone());
    let shared = &second.databases[1];
    assert_eq!(shared.kind, DatabaseKind::Shared);
    for role in [LoginRole::Migrator, LoginRole::App, LoginRole::Mover] {
        let login = logins.find_login(shared.id, role).await.unwrap().unwrap();
        assert_eq!((login.user(), login.database()), (role.as_str(), "shr"));
        connect(&login).await;
    }
    assert!(logins.find_login(shared.id, LoginRole::Control).await.unwrap().is_none());
}

#[tokio::test]
async fn one_database_may_hold_both_and_a_demonstration_wants_its_own() {
    let server = Server::start().await;
    let mut options = MigrateOptions::new(server.create("one").await);
    options.demo = true;
    let report = server.migrate(&options).await.unwrap();
    assert_eq!(report.databases.len(), 2);
    server.migrate(&options).await.unwrap();

    server.create("used").await;
    server.run("used", "CREATE TABLE public.members (name text)").await;
    let mut options = MigrateOptions::new(server.admin("used"));
    options.demo = true;
    assert!(matches!(server.migrate(&options).await, Err(MigrateError::NotDemo { .. })));
    assert_eq!(
        server.texts("used", "SELECT nspname::text FROM pg_namespace WHERE nspname = 'registry'").await,
        [""; 0]
    );
}

#[tokio::test]
async fn databases_are_not_mistaken_for_each_other() {
    let server = Server::installed().await;
    server.create("third").await;
    let with = |registry: &str, shared: Option<&str>| {
        let mut options = MigrateOptions::new(server.admin(registry));
        options.shared = shared.map(|name| server.admin(name).into());
        options
    };
    let swapped = server.migrate(&with("shr", Some("reg"))).await;
    assert!(matches!(swapped, Err(MigrateError::WrongDatabase { .. })), "{swapped:?}");
    let left_out = server.migrate(&with("reg", None)).await;
    assert!(matches!(left_out, Err(MigrateError::SharedNotNamed { .. })), "{left_out:?}");

    server.run("third", "CREATE SCHEMA tenant").await;
    let taken = server.migrate(&with("reg", Some("third"))).await;
    assert!(
        matches!(&taken, Err(MigrateError::SchemaTaken { schema, .. }) if schema == "tenant"),
        "{taken:?}"
    );

    server.run("shr", "UPDATE app.marker SET database_id = gen_random_uuid()").await;
    let foreign = server.migrate(&with("reg", Some("shr"))).await;
    assert!(matches!(foreign, Err(MigrateError::Foreign { .. })), "{foreign:?}");
}

#[tokio::test]
async fn database_of_a_newer_program_is_left_alone() {
    let server = Server::installed().await;
    let newer = "INSERT INTO app.migrations (version, description, success, checksum, execution_time)
        VALUES (29991231235959, 'later', true, '', 0)";
    server.run("shr", newer).await;
    let refused = server.migrate(&server.options()).await;
    assert!(
        matches!(refused, Err(MigrateError::NewerSchema { set: "tenant", applied: 29_991_231_235_959, .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn shared_database_that_was_begun_is_finished_under_the_same_id() {
    let server = Server::installed().await;
    let id = "SELECT id::text FROM registry.databases WHERE kind = 'shared'";
    let before = server.texts("reg", id).await;
    // As after a crash between the registry's commit and the database's first one.
    server.run("shr", "DROP SCHEMA app CASCADE; DROP SCHEMA tenant CASCADE").await;
    server.run("reg", "UPDATE registry.databases SET status = 'creating' WHERE kind = 'shared'").await;
    let report = server.migrate(&server.options()).await.unwrap();
    assert!(report.is_complete());
    assert_eq!(server.texts("reg", id).await, before);
    assert_eq!(server.texts("shr", "SELECT database_id::text FROM app.marker").await, before);
}

#[tokio::test]
async fn another_installation_on_the_server_is_refused_until_it_is_adopted() {
    let server = Server::installed().await;
    server.create("other").await;
    let mut options = MigrateOptions::new(server.admin("other"));
    let keys = KeyRing::generate("other");
    let refused = stagesub_storage::migrate::migrate(&options, &keys).await;
    assert!(matches!(refused, Err(MigrateError::LoginExists { .. })), "{refused:?}");
    server.migrate(&server.options()).await.expect("the first installation is as it was");

    options.adopt_logins = true;
    stagesub_storage::migrate::migrate(&options, &keys).await.unwrap();
    let locked_out = server.migrate(&server.options()).await;
    assert!(matches!(locked_out, Err(MigrateError::LoginRefused { .. })), "{locked_out:?}");
}

#[tokio::test]
async fn strings_sealed_with_another_key_do_not_open() {
    let server = Server::installed().await;
    let refused = stagesub_storage::migrate::migrate(&server.options(), &KeyRing::generate("test")).await;
    assert!(matches!(refused, Err(MigrateError::Keys { .. })), "{refused:?}");
}

#[tokio::test]
async fn administrator_who_is_no_superuser_is_told_what_is_missing() {
    let server = Server::start().await;
    server.run("postgres", "CREATE ROLE manager LOGIN CREATEROLE CREATEDB PASSWORD 'm'").await;
    server.run("postgres", "CREATE ROLE nobody LOGIN PASSWORD 'n'").await;
    server.run("postgres", "CREATE DATABASE reg OWNER manager").await;
    server.run("postgres", "CREATE DATABASE shr OWNER manager").await;
    let mut options = MigrateOptions::new(server.login("reg", "manager", "m"));
    options.shared = Some(server.login("shr", "manager", "m").into());
    let report = server.migrate(&options).await.unwrap();
    assert!(report.is_complete());
    let missing: Vec<&str> = report.partial.iter().map(|partial| partial.name.as_str()).collect();
    let open = ["functions open to every role in reg", "functions open to every role in shr"];
    assert_eq!(missing, ["moves and backups", open[0], open[1]]);

    // What the report says mends it.
    for partial in &report.partial {
        for database in ["reg", "shr"] {
            server.run(database, &partial.sql).await;
        }
    }
    assert!(server.migrate(&options).await.unwrap().partial.is_empty());

    let powerless = MigrateOptions::new(server.login("reg", "nobody", "n"));
    let refused = server.migrate(&powerless).await;
    assert!(matches!(refused, Err(MigrateError::Unreachable { .. })), "closed to PUBLIC: {refused:?}");
    let powerless = MigrateOptions::new(server.login("postgres", "nobody", "n"));
    let refused = server.migrate(&powerless).await;
    assert!(matches!(refused, Err(MigrateError::NotPrivileged { .. })), "{refused:?}");
}

#[tokio::test]
async fn user_of_the_database_url_may_find_the_sealed_strings_and_nothing_else() {
    let server = Server::start().await;
    server.create("reg").await;
    server.run("postgres", "CREATE ROLE serving LOGIN PASSWORD 's'").await;
    let serving = server.login("reg", "serving", "s");
    let targets = DatabaseTargets { admin: server.admin("reg"), address: serving.clone() };
    server.migrate(&MigrateOptions::new(targets)).await.unwrap();
    stagesub_storage::registry::RegistryPools::open(&serving, &server.keys).await.unwrap();
    for sql in
        ["SELECT 1 FROM registry.users", "SELECT 1 FROM registry.tenants", "DELETE FROM registry.databases"]
    {
        assert_eq!(super::refusal(&serving, sql).await, "42501", "{sql}");
    }
}
