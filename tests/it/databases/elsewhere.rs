//! What is made on another server is what would be made beside.

use stagesub_storage::databases::Home;
use stagesub_storage::doctor::{Bounds, Expectations, Level, examine_platform};
use stagesub_storage::logins::{DatabaseLogins, LoginRole};
use stagesub_storage::migrate::MigrateError;
use stagesub_storage::registry::logins::PgDatabaseLogins;

use super::{Ground, name};
use crate::registry::{connect, refusal};

const MARKER: &str = "SELECT concat_ws(' ', role, database_id, tenant_id) FROM app.marker";

#[tokio::test]
async fn callers_at_once_make_one_database_each_and_agree_on_the_servers_passwords() {
    let ground = Ground::new().await;
    let (one, two) = (ground.tenant("AAA").await, ground.tenant("BBB").await);
    // They name the server by different databases of it.
    ground.other.create("side").await;
    let home = |database: &str| Home::Server(ground.other.admin(database));
    let (here, there) = (home("postgres"), home("side"));
    let made = tokio::join!(
        ground.dedicated.create_at(one, &here),
        ground.dedicated.create_at(one, &here),
        ground.dedicated.create_at(two, &there)
    );
    let first = made.0.unwrap();
    assert_eq!(made.1.unwrap(), first);
    let second = made.2.unwrap();

    let logins = PgDatabaseLogins::new(ground.registry.clone(), ground.ours.keys.clone());
    for (tenant, id) in [(one, first), (two, second)] {
        assert_eq!(ground.other.texts(&name(tenant), MARKER).await, [format!("dedicated {id} {tenant}")]);
        for role in [LoginRole::Migrator, LoginRole::App, LoginRole::Mover] {
            let login = logins.find_login(id, role).await.unwrap().unwrap();
            assert_eq!(login.database(), name(tenant));
            connect(&login).await;
        }
        // Fenced as a database beside is.
        let app = logins.find_login(id, LoginRole::App).await.unwrap().unwrap();
        for (sql, code) in [
            ("SELECT count(*) FROM tenant.musician", "42704"),
            ("SELECT set_config('app.tenant_id', 'x', false)", "42501"),
            ("CREATE TEMPORARY TABLE t ()", "42501"),
        ] {
            assert_eq!(refusal(&app, sql).await, code, "{sql}");
        }
    }
    // The passwords are this server's own.
    let shared = ground.registry.list_databases().await.unwrap();
    let shared = shared.iter().find(|known| known.kind.as_str() == "shared").unwrap().id;
    let ours = logins.find_login(shared, LoginRole::App).await.unwrap().unwrap();
    let password = |login: &stagesub_storage::target::ConnectionTarget| {
        secrecy::ExposeSecret::expose_secret(&login.to_url()).split('@').next().unwrap().to_owned()
    };
    let theirs = logins.find_login(first, LoginRole::App).await.unwrap().unwrap();
    assert_ne!(password(&ours), password(&theirs));

    // The platform as a whole is sound, and goes on being migrated.
    let report = examine_platform(
        &ground.ours.admin("reg"),
        &ground.ours.keys,
        &Expectations::default(),
        Bounds::default(),
    )
    .await
    .unwrap();
    assert_eq!(report.count(Level::Hole), 0, "{report:?}");
    let report = ground.ours.migrate(&ground.ours.options()).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
}

#[tokio::test]
async fn an_empty_database_is_taken_from_a_login_that_is_no_superuser() {
    let ground = Ground::new().await;
    let tenant = ground.tenant("CCC").await;
    let manager = ground.manager("CREATEROLE").await;
    ground.other.run("postgres", "CREATE DATABASE theirs OWNER manager").await;
    let home = Home::Database(manager.with_database("theirs"));
    let id = ground.dedicated.create_at(tenant, &home).await.unwrap();
    assert_eq!(ground.other.texts("theirs", MARKER).await, [format!("dedicated {id} {tenant}")]);
    assert_eq!(ground.dedicated.create_at(tenant, &home).await.unwrap(), id);
    let report = examine_platform(
        &ground.ours.admin("reg"),
        &ground.ours.keys,
        &Expectations::default(),
        Bounds::default(),
    )
    .await
    .unwrap();
    assert_eq!(report.count(Level::Hole), 0, "{report:?}");
    // What that login could not do is known.
    assert!(report.findings().iter().any(|finding| finding.lint == "role-attribute-missing"), "{report:?}");
}

#[tokio::test]
async fn what_an_earlier_try_left_is_finished() {
    let ground = Ground::new().await;
    let tenant = ground.tenant("DDD").await;
    let home = Home::Server(ground.other.admin("postgres"));
    let id = ground.dedicated.create_at(tenant, &home).await.unwrap();
    let unready = format!("UPDATE registry.databases SET status = 'creating' WHERE id = '{id}'");
    let drop = format!("DROP DATABASE {}", name(tenant));
    for undo in [
        // Nothing but the record and the strings.
        vec![drop.clone(), "ALTER ROLE stagesub_app NOLOGIN PASSWORD NULL".to_owned()],
        vec![drop.clone()],
        // Made and not marked.
        vec![
            drop.clone(),
            format!("CREATE DATABASE {} OWNER stagesub_owner TEMPLATE template0", name(tenant)),
        ],
        // All but the word.
        vec![],
    ] {
        ground.ours.run("reg", &unready).await;
        for sql in undo {
            ground.other.run("postgres", &sql).await;
        }
        assert_eq!(ground.dedicated.create_at(tenant, &home).await.unwrap(), id);
        assert_eq!(ground.recorded().await, [format!("dedicated ready {}", name(tenant))]);
        assert_eq!(ground.other.texts(&name(tenant), MARKER).await, [format!("dedicated {id} {tenant}")]);
    }
}

#[tokio::test]
async fn a_database_where_tenants_would_not_be_isolated_is_not_used_until_that_is_mended() {
    let ground = Ground::new().await;
    let tenant = ground.tenant("EEE").await;
    ground.other.run("postgres", "CREATE ROLE stagesub_app NOLOGIN BYPASSRLS").await;
    let home = Home::Server(ground.other.admin("postgres"));
    let refused = ground.dedicated.create_at(tenant, &home).await.unwrap_err();
    assert!(matches!(refused, MigrateError::Unsound { .. }), "{refused}");
    assert!(refused.to_string().contains("NOBYPASSRLS"), "{refused}");
    assert_eq!(ground.recorded().await, [format!("dedicated creating {}", name(tenant))]);
    ground.other.run("postgres", "ALTER ROLE stagesub_app NOBYPASSRLS").await;
    ground.dedicated.create_at(tenant, &home).await.unwrap();
    assert_eq!(ground.recorded().await, [format!("dedicated ready {}", name(tenant))]);
}
