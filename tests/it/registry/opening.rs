//! `RegistryPools::open`: each way it can fail has an error of its own.

use stagesub_storage::migrate::MigrateError;
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::seal::KeyRing;

use super::Server;

#[tokio::test]
async fn each_fault_has_its_own_error() {
    let server = Server::installed().await;
    server.create("empty").await;
    let open = async |database: &str| RegistryPools::open(&server.admin(database), &server.keys).await;
    assert!(open("reg").await.is_ok());
    assert!(matches!(open("empty").await, Err(MigrateError::NotMigrated { .. })));
    assert!(matches!(open("shr").await, Err(MigrateError::WrongDatabase { .. })));
    assert!(matches!(open("absent").await, Err(MigrateError::Unreachable { .. })));

    let other_keys = RegistryPools::open(&server.admin("reg"), &KeyRing::generate("other")).await;
    assert!(matches!(other_keys, Err(MigrateError::Keys { .. })), "{other_keys:?}");

    server
        .run("postgres", "CREATE ROLE stranger LOGIN PASSWORD 's'; GRANT CONNECT ON DATABASE reg TO stranger")
        .await;
    let stranger = RegistryPools::open(&server.login("reg", "stranger", "s"), &server.keys).await;
    assert!(matches!(stranger, Err(MigrateError::MayNotRead { .. })), "{stranger:?}");

    server.run("reg", "UPDATE registry.migrations SET version = version + 10000000000").await;
    assert!(matches!(open("reg").await, Err(MigrateError::NewerSchema { .. })));
    server.run("reg", "DELETE FROM registry.migrations").await;
    assert!(matches!(open("reg").await, Err(MigrateError::NotMigrated { .. })));
}

#[tokio::test]
async fn registry_that_moved_is_refused_until_it_is_migrated_there() {
    let server = Server::installed().await;
    server.run("postgres", "ALTER DATABASE reg RENAME TO moved").await;
    let moved = RegistryPools::open(&server.admin("moved"), &server.keys).await;
    assert!(matches!(moved, Err(MigrateError::Unreachable { .. })), "{moved:?}");

    let mut options = server.options();
    options.registry = server.admin("moved").into();
    server.migrate(&options).await.unwrap();
    RegistryPools::open(&server.admin("moved"), &server.keys).await.unwrap();
}

#[tokio::test]
async fn errors_name_the_database_and_no_password() {
    let server = Server::installed().await;
    let target = server.login("reg", "stagesub_control", "hunter2");
    let refused = RegistryPools::open(&target, &server.keys).await.unwrap_err();
    let text = format!("{refused} {refused:?}");
    assert!(text.contains("stagesub_control@") && !text.contains("hunter2"), "{text}");
}
