//! Whether the shared databases are what this program takes them for, asked before a node serves.

use sqlx::Connection;
use stagesub_tenancy::DatabaseId;
use uuid::Uuid;

use super::{RegistryPools, check_schema};
use crate::logins::{DatabaseLogins, LoginRole};
use crate::marker::{DatabaseKind, Marker, read_tenant_marker};
use crate::migrate::error::{MigrateError, during};
use crate::migrate::session;
use crate::migrate::sets::MigrationSet;
use crate::target::ConnectionTarget;

/// Checks the marker and the schema of every shared database that the registry knows, as the application's
/// login.
///
/// One that is away is logged and does not stop the others from being served: its tenants get 503 until it
/// is back, and each pool checks the marker again when it opens.
///
/// # Errors
/// [`MigrateError`], a sentence with what to do: a database is another than the registry says, is not
/// migrated, was migrated by a newer program, or does not let the login in.
pub async fn check_shared(registry: &RegistryPools, logins: &dyn DatabaseLogins) -> Result<(), MigrateError> {
    let known: Vec<Uuid> = sqlx::query_scalar(
        "SELECT id FROM registry.databases WHERE kind = 'shared' AND status = 'ready' ORDER BY id",
    )
    .fetch_all(registry.control())
    .await
    .map_err(during("listing the shared databases"))?;
    if known.is_empty() {
        return Err(MigrateError::NoShared);
    }
    for id in known {
        let (database, role) = (DatabaseId::from_uuid(id), LoginRole::App);
        let login = logins.find_login(database, role).await.map_err(|source| MigrateError::UnreadLogin {
            database,
            role,
            source,
        })?;
        match check(&login.ok_or(MigrateError::NoLogin { database, role })?, database).await {
            Err(MigrateError::Unreachable { target, source }) => {
                tracing::warn!(%target, %source, "a shared database cannot be reached");
            }
            other => other?,
        }
    }
    Ok(())
}

async fn check(login: &ConnectionTarget, database: DatabaseId) -> Result<(), MigrateError> {
    let target = login.describe();
    let mut conn = session::connect(login).await.map_err(|source| refused(&target, source))?;
    let found = read_tenant_marker(&mut conn)
        .await
        .map_err(|source| MigrateError::Marker { target: target.clone(), source })?;
    check_marker(found, database, &target)?;
    check_schema(&mut conn, MigrationSet::Tenant, &target).await?;
    conn.close().await.map_err(during("closing the connection"))
}

fn refused(target: &str, source: sqlx::Error) -> MigrateError {
    let is_auth = source
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| code.starts_with("28"));
    let target = target.to_owned();
    if is_auth {
        MigrateError::LoginRefused { target, role: LoginRole::App, source }
    } else {
        MigrateError::Unreachable { target, source }
    }
}

fn check_marker(found: Option<Marker>, database: DatabaseId, target: &str) -> Result<(), MigrateError> {
    let target = target.to_owned();
    match found {
        Some(found) if found.kind == DatabaseKind::Shared && found.database == database => Ok(()),
        Some(found) => {
            Err(MigrateError::WrongDatabase { target, found, wanted: "the shared database of this registry" })
        }
        None => Err(MigrateError::NotMigrated { target }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(kind: DatabaseKind, database: u128) -> Marker {
        Marker { kind, database: DatabaseId::from_uuid(Uuid::from_u128(database)), demo: false }
    }

    #[test]
    fn only_the_shared_database_that_the_registry_means_is_served() {
        let wanted = DatabaseId::from_uuid(Uuid::from_u128(1));
        assert!(check_marker(Some(marker(DatabaseKind::Shared, 1)), wanted, "t").is_ok());
        for other in [marker(DatabaseKind::Shared, 2), marker(DatabaseKind::Registry, 1)] {
            let refused = check_marker(Some(other), wanted, "t");
            assert!(matches!(refused, Err(MigrateError::WrongDatabase { .. })), "{refused:?}");
        }
        assert!(matches!(check_marker(None, wanted, "t"), Err(MigrateError::NotMigrated { .. })));
    }
}
