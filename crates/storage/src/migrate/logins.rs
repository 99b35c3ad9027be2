//! Connection strings in the registry: sealed, one a database and role.

use std::collections::HashMap;

use secrecy::{ExposeSecret, SecretString};
use sqlx::PgConnection;
use stagesub_tenancy::{DatabaseId, TenantId};

use super::error::{MigrateError, during};
use crate::logins::LoginRole;
use crate::marker::DatabaseKind;
use crate::seal::{KeyRing, Sealed};
use crate::target::ConnectionTarget;

/// What a connection string is sealed for: it opens for no other database, role or tenant.
pub(crate) fn associated_data(database: DatabaseId, role: &str, tenant: Option<TenantId>) -> Vec<u8> {
    let tenant = tenant.map(|tenant| tenant.to_string()).unwrap_or_default();
    format!("login/{database}/{role}/{tenant}").into_bytes()
}

/// A database as the registry records it.
pub(crate) struct Place<'a> {
    pub(crate) id: DatabaseId,
    pub(crate) kind: DatabaseKind,
    pub(crate) server_identifier: &'a str,
    /// Where the platform's logins connect to; its user and password are not used.
    pub(crate) address: &'a ConnectionTarget,
}

/// Opens a stored connection string.
pub(crate) fn open_login(
    keys: &KeyRing,
    database: DatabaseId,
    tenant: Option<TenantId>,
    role: &str,
    sealed: &str,
) -> Result<ConnectionTarget, MigrateError> {
    let keys_error = |source| MigrateError::Keys { database, source };
    let sealed: Sealed = sealed.parse().map_err(keys_error)?;
    let url: SecretString =
        keys.open_text(&sealed, &associated_data(database, role, tenant)).map_err(keys_error)?;
    ConnectionTarget::parse(url.expose_secret())
        .map_err(|source| MigrateError::CorruptLogin { database, source })
}

/// Reads one connection string. `None`: the registry holds none.
pub(crate) async fn find_login(
    conn: &mut PgConnection,
    keys: &KeyRing,
    database: DatabaseId,
    role: LoginRole,
) -> Result<Option<ConnectionTarget>, MigrateError> {
    let row = sqlx::query!(
        "SELECT l.sealed, d.tenant_id
        FROM registry.database_logins AS l
        JOIN registry.databases AS d ON d.id = l.database_id
        WHERE l.database_id = $1 AND l.role = $2",
        database.as_uuid(),
        role.as_str()
    )
    .fetch_optional(conn)
    .await
    .map_err(during("reading a stored connection string"))?;
    row.map(|row| {
        open_login(keys, database, row.tenant_id.map(TenantId::from_uuid), role.as_str(), &row.sealed)
    })
    .transpose()
}

/// The passwords the registry holds for the logins of one server. Roles belong to the server, so any
/// database on it will do; those of dedicated ones, which may be many, where there are no others. With `adopt`,
/// strings that do not open are passed over: they are to be reset.
pub(crate) async fn known_passwords(
    conn: &mut PgConnection,
    keys: &KeyRing,
    server_identifier: &str,
    adopt: bool,
) -> Result<HashMap<LoginRole, SecretString>, MigrateError> {
    let rows = sqlx::query!(
        r#"SELECT l.database_id AS "database_id!", l.role AS "role!", l.sealed AS "sealed!", d.tenant_id,
            l.updated_at AS "updated_at!"
        FROM registry.database_logins AS l
        JOIN registry.databases AS d ON d.id = l.database_id
        WHERE d.server_identifier = $1 AND d.kind <> 'dedicated'
        UNION ALL
        (SELECT DISTINCT ON (l.role) l.database_id, l.role, l.sealed, d.tenant_id, l.updated_at
        FROM registry.database_logins AS l
        JOIN registry.databases AS d ON d.id = l.database_id
        WHERE d.server_identifier = $1 AND d.kind = 'dedicated' AND NOT EXISTS (
            SELECT FROM registry.databases AS o WHERE o.server_identifier = $1 AND o.kind <> 'dedicated')
        ORDER BY l.role, l.updated_at DESC, l.database_id)
        ORDER BY 5, 1"#,
        server_identifier
    )
    .fetch_all(conn)
    .await
    .map_err(during("reading the stored connection strings"))?;
    let mut known = HashMap::new();
    for row in rows {
        let Some(role) = LoginRole::ALL.into_iter().find(|role| role.as_str() == row.role) else { continue };
        let database = DatabaseId::from_uuid(row.database_id);
        match open_login(keys, database, row.tenant_id.map(TenantId::from_uuid), &row.role, &row.sealed) {
            Ok(target) => known.extend(target.password().map(|password| (role, password.clone()))),
            Err(MigrateError::Keys { .. } | MigrateError::CorruptLogin { .. }) if adopt => {}
            Err(error) => return Err(error),
        }
    }
    Ok(known)
}

/// Lets one caller at a time do this to a server's logins, until the transaction ends: two who make databases on a new
/// server at once agree on what the passwords are.
pub(crate) async fn lock_server(
    conn: &mut PgConnection,
    what: &str,
    server_identifier: &str,
) -> Result<(), MigrateError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(format!("stagesub {what} of {server_identifier}"))
        .execute(conn)
        .await
        .map_err(during("waiting for another that sets this server up"))?;
    Ok(())
}

/// Records a database, or where it is now. A new one is `creating` until it is known to be usable.
pub(crate) async fn store_place(conn: &mut PgConnection, place: &Place<'_>) -> Result<(), MigrateError> {
    sqlx::query!(
        "INSERT INTO registry.databases (id, kind, tenant_id, status, server_identifier, host, port, name)
        VALUES ($1, $2, $3, 'creating', $4, $5, $6, $7)
        ON CONFLICT (id) DO UPDATE
        SET server_identifier = excluded.server_identifier, host = excluded.host, port = excluded.port,
            name = excluded.name, updated_at = now()
        WHERE (databases.server_identifier, databases.host, databases.port, databases.name)
            IS DISTINCT FROM (excluded.server_identifier, excluded.host, excluded.port, excluded.name)",
        place.id.as_uuid(),
        place.kind.as_str(),
        place.kind.tenant().map(TenantId::as_uuid),
        place.server_identifier,
        place.address.host().to_string(),
        i32::from(place.address.port()),
        place.address.database()
    )
    .execute(conn)
    .await
    .map_err(during("recording a database"))?;
    Ok(())
}

/// Says that a database can be used.
pub(crate) async fn set_ready(conn: &mut PgConnection, database: DatabaseId) -> Result<(), MigrateError> {
    sqlx::query!(
        "UPDATE registry.databases SET status = 'ready', updated_at = now() WHERE id = $1 AND status <> 'ready'",
        database.as_uuid()
    )
    .execute(conn)
    .await
    .map_err(during("recording a database"))?;
    Ok(())
}

/// Stores a connection string, unless the one that is there says the same.
pub(crate) async fn store_login(
    conn: &mut PgConnection,
    keys: &KeyRing,
    place: &Place<'_>,
    role: LoginRole,
    password: &SecretString,
) -> Result<ConnectionTarget, MigrateError> {
    let target = place.address.with_user(role.as_str(), password.clone());
    let url = target.to_url();
    let data = associated_data(place.id, role.as_str(), place.kind.tenant());
    let stored = sqlx::query_scalar!(
        "SELECT sealed FROM registry.database_logins WHERE database_id = $1 AND role = $2 FOR UPDATE",
        place.id.as_uuid(),
        role.as_str()
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(during("reading a stored connection string"))?;
    if stored.is_some_and(|stored| says_the_same(keys, &stored, &data, &url)) {
        return Ok(target);
    }
    let sealed = keys.seal(url.expose_secret().as_bytes(), &data).map_err(MigrateError::Seal)?;
    sqlx::query!(
        "INSERT INTO registry.database_logins (database_id, role, sealed) VALUES ($1, $2, $3)
        ON CONFLICT (database_id, role) DO UPDATE SET sealed = excluded.sealed, updated_at = now()",
        place.id.as_uuid(),
        role.as_str(),
        sealed.to_string()
    )
    .execute(conn)
    .await
    .map_err(during("storing a sealed connection string"))?;
    Ok(target)
}

/// Whether a stored string opens with the current key to the same text.
fn says_the_same(keys: &KeyRing, stored: &str, data: &[u8], url: &SecretString) -> bool {
    let Ok(sealed) = stored.parse::<Sealed>() else { return false };
    !keys.needs_reseal(&sealed)
        && keys.open_text(&sealed, data).is_ok_and(|opened| opened.expose_secret() == url.expose_secret())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn string_opens_for_its_own_database_role_and_tenant_only() {
        let keys = KeyRing::generate("k");
        let (one, two) =
            (DatabaseId::from_uuid(Uuid::from_u128(1)), DatabaseId::from_uuid(Uuid::from_u128(2)));
        let tenant = Some(TenantId::from_uuid(Uuid::from_u128(3)));
        let sealed = keys
            .seal(b"postgres://a:b@h/db", &associated_data(one, "stagesub_app", tenant))
            .unwrap()
            .to_string();
        let open = |database, tenant, role| open_login(&keys, database, tenant, role, &sealed);
        assert_eq!(open(one, tenant, "stagesub_app").unwrap().user(), "a");
        for (database, tenant, role) in
            [(two, tenant, "stagesub_app"), (one, None, "stagesub_app"), (one, tenant, "stagesub_mover")]
        {
            assert!(matches!(open(database, tenant, role), Err(MigrateError::Keys { .. })));
        }
    }

    #[test]
    fn string_of_an_older_key_is_sealed_again() {
        let old = KeyRing::generate("old");
        let url = SecretString::from("postgres://a:b@h/db");
        let sealed = old.seal(url.expose_secret().as_bytes(), b"d").unwrap().to_string();
        assert!(says_the_same(&old, &sealed, b"d", &url));
        let new = KeyRing::generate("new");
        let text =
            format!("{},{}", new.to_text_secret().expose_secret(), old.to_text_secret().expose_secret());
        assert!(!says_the_same(&KeyRing::parse(&text).unwrap(), &sealed, b"d", &url));
    }
}
