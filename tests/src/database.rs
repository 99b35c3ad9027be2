//! Databases as the administrator sees them: copies of the templates, and looking into them.
//!
//! The administrator is a superuser, whom row-level security does not hold. Nothing here shows that a tenant is
//! fenced in; it prepares, and it reads what the platform cannot be asked.

use std::fmt::Write as _;

use secrecy::ExposeSecret;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use stagesub_storage::seal::{KeyRing, Sealed};
use stagesub_storage::target::ConnectionTarget;
use uuid::Uuid;

/// Opens a connection.
pub async fn connect(target: &ConnectionTarget) -> PgConnection {
    PgConnection::connect_with(&target.to_connect_options())
        .await
        .unwrap_or_else(|error| panic!("{} does not let us in: {error}", target.describe()))
}

/// Runs statements.
pub async fn run(conn: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(conn)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Copies a database with what a copy leaves behind: its grants.
pub async fn copy(admin: &mut PgConnection, template: &str, name: &str) {
    run(admin, &format!("CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")).await;
    let grants: Vec<(String, String)> = sqlx::query_as(
        "SELECT a.privilege_type, CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_database AS d CROSS JOIN LATERAL aclexplode(d.datacl) AS a
        WHERE d.datname = $1 AND a.grantee <> d.datdba",
    )
    .bind(template)
    .fetch_all(&mut *admin)
    .await
    .expect("the template's grants can be read");
    let mut sql = format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC;");
    for (privilege, grantee) in grants {
        write!(sql, "GRANT {privilege} ON DATABASE {name} TO {grantee};").expect("a String takes every text");
    }
    run(admin, &sql).await;
}

/// What a stored connection string is sealed for.
#[must_use]
pub fn associated_data(database: Uuid, role: &str, tenant: Option<Uuid>) -> Vec<u8> {
    let tenant = tenant.map(|tenant| tenant.to_string()).unwrap_or_default();
    format!("login/{database}/{role}/{tenant}").into_bytes()
}

/// Makes a copied registry say where the copies are: `moved` names each database's old and new name.
pub async fn point_at_copies(registry: &mut PgConnection, keys: &KeyRing, moved: &[(&str, &str)]) {
    for (old, new) in moved {
        sqlx::query("UPDATE registry.databases SET name = $2 WHERE name = $1")
            .bind(old)
            .bind(new)
            .execute(&mut *registry)
            .await
            .expect("the registry's databases can be renamed");
    }
    let logins: Vec<(Uuid, String, String, Option<Uuid>, String)> = sqlx::query_as(
        "SELECT l.database_id, l.role, l.sealed, d.tenant_id, d.name
        FROM registry.database_logins AS l JOIN registry.databases AS d ON d.id = l.database_id",
    )
    .fetch_all(&mut *registry)
    .await
    .expect("the registry's logins can be read");
    for (database, role, sealed, tenant, name) in logins {
        let data = associated_data(database, &role, tenant);
        let sealed: Sealed = sealed.parse().expect("what is stored is a sealed value");
        let url = keys.open_text(&sealed, &data).expect("it opens with the test's keys");
        let target = ConnectionTarget::parse(url.expose_secret()).expect("it is a connection string");
        store_login(registry, keys, (database, &role, tenant), &target.with_database(&name)).await;
    }
}

/// A stored connection string of the registry or of a shared database, opened.
pub async fn open_login(
    registry: &mut PgConnection,
    keys: &KeyRing,
    kind: &str,
    role: &str,
) -> ConnectionTarget {
    let (database, sealed): (Uuid, String) = sqlx::query_as(
        "SELECT l.database_id, l.sealed
        FROM registry.database_logins AS l JOIN registry.databases AS d ON d.id = l.database_id
        WHERE d.kind = $1 AND d.tenant_id IS NULL AND l.role = $2",
    )
    .bind(kind)
    .bind(role)
    .fetch_one(registry)
    .await
    .expect("the registry holds the login");
    let sealed: Sealed = sealed.parse().expect("what is stored is a sealed value");
    let url = keys
        .open_text(&sealed, &associated_data(database, role, None))
        .expect("it opens with the test's keys");
    ConnectionTarget::parse(url.expose_secret()).expect("it is a connection string")
}

/// Stores the connection string of a database, role and tenant.
pub async fn store_login(
    registry: &mut PgConnection,
    keys: &KeyRing,
    (database, role, tenant): (Uuid, &str, Option<Uuid>),
    target: &ConnectionTarget,
) {
    let url = target.to_url();
    let data = associated_data(database, role, tenant);
    let sealed = keys.seal(url.expose_secret().as_bytes(), &data).expect("a connection string is short");
    sqlx::query(
        "INSERT INTO registry.database_logins (database_id, role, sealed) VALUES ($1, $2, $3)
        ON CONFLICT (database_id, role) DO UPDATE SET sealed = excluded.sealed",
    )
    .bind(database)
    .bind(role)
    .bind(sealed.to_string())
    .execute(registry)
    .await
    .expect("a login can be stored");
}

/// An entry of an audit log, the orchestra's or the platform's.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct AuditRow {
    /// `user`, `superadmin`, `system` or `api_key`.
    pub actor: String,
    /// Who.
    pub actor_id: Option<Uuid>,
    /// What was done.
    pub action: String,
    /// To what kind of thing.
    pub model: String,
    /// To which.
    pub record_id: Option<String>,
    /// Before and after.
    pub changes: Option<serde_json::Value>,
    /// With which program.
    pub user_agent: Option<String>,
    /// In which request.
    pub request_id: Option<String>,
}
