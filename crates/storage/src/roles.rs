//! The platform's roles on a server: made without a login, given one together with the stored string.
//!
//! docs/roles.md has the whole table; the grants on tables are in the migrations.

use rand::Rng;
use secrecy::{ExposeSecret, SecretString};
use sqlx::{AssertSqlSafe, PgConnection};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::logins::LoginRole;
use crate::marker::DatabaseKind;
use crate::migrate::error::{MigrateError, during};
use crate::migrate::report::Partial;

/// The role that owns the platform's objects.
pub(crate) const OWNER: &str = "stagesub_owner";

/// Makes the roles that are missing, without a login.
pub(crate) const BOOTSTRAP_ROLES: &str = include_str!("../migrations/bootstrap/roles.sql");

const PASSWORD_BYTES: usize = 32;

/// The logins that a database of this kind is reached with.
pub(crate) const fn logins_of(kind: DatabaseKind) -> &'static [LoginRole] {
    match kind {
        DatabaseKind::Registry => &[LoginRole::Migrator, LoginRole::Auth, LoginRole::Control],
        DatabaseKind::Shared | DatabaseKind::Dedicated(_) => {
            &[LoginRole::Migrator, LoginRole::App, LoginRole::Mover]
        }
    }
}

/// A new random password: 256 bits in base64url, which needs no quoting anywhere.
pub(crate) fn new_password() -> SecretString {
    let mut bytes = zeroize::Zeroizing::new([0_u8; PASSWORD_BYTES]);
    rand::rng().fill_bytes(bytes.as_mut_slice());
    SecretString::from(URL_SAFE_NO_PAD.encode(*bytes))
}

/// What is to be done so that a role can log in with a password that the registry holds.
#[derive(Debug)]
pub(crate) enum LoginPlan {
    /// It can already, with this password.
    Keep(SecretString),
    /// Give it this password and the login.
    Set(SecretString),
    /// It can log in with a password that nobody here knows.
    Refuse,
}

/// Decides it. `known` is what the registry holds for the role's server, `given` what the administrator
/// said the password is, `adopt` the permission to reset a login.
pub(crate) fn plan_login(
    can_login: bool,
    known: Option<SecretString>,
    given: Option<SecretString>,
    adopt: bool,
) -> LoginPlan {
    match (given, known) {
        (Some(given), _) if can_login && !adopt => LoginPlan::Keep(given),
        (Some(given), _) => LoginPlan::Set(given),
        (None, Some(known)) if can_login && !adopt => LoginPlan::Keep(known),
        (None, Some(known)) => LoginPlan::Set(known),
        (None, None) if can_login && !adopt => LoginPlan::Refuse,
        (None, None) => LoginPlan::Set(new_password()),
    }
}

/// Makes the missing roles and says which they were.
pub(crate) async fn create_missing(conn: &mut PgConnection) -> Result<Vec<String>, MigrateError> {
    let existing = "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname LIKE 'stagesub\\_%'";
    let before: Vec<String> =
        sqlx::query_scalar(existing).fetch_all(&mut *conn).await.map_err(during("reading the roles"))?;
    sqlx::raw_sql(BOOTSTRAP_ROLES).execute(&mut *conn).await.map_err(during("making the roles"))?;
    let after: Vec<String> =
        sqlx::query_scalar(existing).fetch_all(conn).await.map_err(during("reading the roles"))?;
    Ok(after.into_iter().filter(|role| !before.contains(role)).collect())
}

/// Whether a role may log in. `false` if it does not exist.
pub(crate) async fn can_login(conn: &mut PgConnection, role: LoginRole) -> Result<bool, MigrateError> {
    let found = sqlx::query_scalar!(
        r#"SELECT rolcanlogin AS "can_login!" FROM pg_catalog.pg_roles WHERE rolname = $1"#,
        role.as_str()
    )
    .fetch_optional(conn)
    .await
    .map_err(during("reading the roles"))?;
    Ok(found.unwrap_or(false))
}

/// Gives a role its login. The statement carries the password, so a superuser keeps it out of the server's
/// log; to be called inside a transaction.
pub(crate) async fn set_login(
    conn: &mut PgConnection,
    role: LoginRole,
    password: &SecretString,
    superuser: bool,
) -> Result<(), MigrateError> {
    let doing = "giving a role its login";
    if superuser {
        sqlx::raw_sql("SET LOCAL log_statement = 'none'; SET LOCAL log_min_error_statement = 'panic'; SET LOCAL log_min_duration_statement = -1")
            .execute(&mut *conn)
            .await
            .map_err(during(doing))?;
    }
    let statement: String = sqlx::query_scalar("SELECT format('ALTER ROLE %I LOGIN PASSWORD %L', $1, $2)")
        .bind(role.as_str())
        .bind(password.expose_secret())
        .fetch_one(&mut *conn)
        .await
        .map_err(during(doing))?;
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(conn).await.map_err(during(doing))?;
    Ok(())
}

/// An attribute or setting of a role, and how to see that it is there.
struct Attribute {
    /// What it is for.
    name: &'static str,
    /// Whether it is there already.
    check: &'static str,
    sql: &'static str,
}

/// The pools' clean-up counts on a server that notices a client gone. A registry connection that a
/// cancelled request left inside a transaction ends by itself.
const ATTRIBUTES: [Attribute; 4] = [
    Attribute {
        name: "statements of clients that are gone",
        check: "SELECT 'client_connection_check_interval=2s' = ANY (rolconfig) FROM pg_roles WHERE rolname = 'stagesub_app'",
        sql: "ALTER ROLE stagesub_app SET client_connection_check_interval = '2s'",
    },
    Attribute {
        name: "bounds of the registry's logins",
        check: "SELECT bool_and('statement_timeout=10s' = ANY (rolconfig)
                AND 'idle_in_transaction_session_timeout=10s' = ANY (rolconfig))
            FROM pg_roles WHERE rolname IN ('stagesub_auth', 'stagesub_control')",
        sql: "ALTER ROLE stagesub_auth SET statement_timeout = '10s';
            ALTER ROLE stagesub_auth SET idle_in_transaction_session_timeout = '10s';
            ALTER ROLE stagesub_control SET statement_timeout = '10s';
            ALTER ROLE stagesub_control SET idle_in_transaction_session_timeout = '10s'",
    },
    Attribute {
        name: "dedicated databases",
        check: "SELECT rolcreatedb FROM pg_roles WHERE rolname = 'stagesub_migrator'",
        sql: "ALTER ROLE stagesub_migrator CREATEDB",
    },
    Attribute {
        name: "moves and backups",
        check: "SELECT rolbypassrls AND rolreplication FROM pg_roles WHERE rolname = 'stagesub_mover'",
        sql: "ALTER ROLE stagesub_mover BYPASSRLS REPLICATION",
    },
];

/// Gives the roles their attributes and settings. What is there is left alone, so that an upgrade without
/// a superuser does not ask for what a superuser did before; what is refused is reported, not fatal.
pub(crate) async fn set_attributes(conn: &mut PgConnection) -> Result<Vec<Partial>, MigrateError> {
    let doing = "setting attributes of the roles";
    let mut partial = Vec::new();
    for (name, sql) in missing_attributes(conn).await.map_err(during(doing))? {
        match sqlx::raw_sql(sql).execute(&mut *conn).await {
            Ok(_) => {}
            Err(error) if is_refused(&error) => partial.push(Partial {
                name: name.to_owned(),
                why: "this user may not set these attributes of a role".to_owned(),
                sql: format!("{sql};"),
            }),
            Err(source) => return Err(during(doing)(source)),
        }
    }
    Ok(partial)
}

/// Attributes and settings that the roles of this server lack: what each is for, and the statement that gives it.
pub(crate) async fn missing_attributes(
    conn: &mut PgConnection,
) -> Result<Vec<(&'static str, &'static str)>, sqlx::Error> {
    let mut missing = Vec::new();
    for Attribute { name, check, sql } in ATTRIBUTES {
        let there: Option<Option<bool>> = sqlx::query_scalar(check).fetch_optional(&mut *conn).await?;
        if there.flatten() != Some(true) {
            missing.push((name, sql));
        }
    }
    Ok(missing)
}

/// Whether Postgres refused for lack of privilege (42501).
pub(crate) fn is_refused(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() == Some("42501")
}

/// The statements that close a database to everybody but the platform's roles. `holds` says what the
/// database holds; the registry's may hold tenants as well.
pub(crate) fn fence_statements(database: &str, holds: &[DatabaseKind]) -> Vec<String> {
    let database = quote(database);
    let mut statements = vec![
        format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC"),
        format!("GRANT CREATE, CONNECT, TEMPORARY ON DATABASE {database} TO {OWNER}"),
    ];
    for kind in holds {
        for role in logins_of(*kind) {
            statements.push(format!("GRANT CONNECT ON DATABASE {database} TO {}", role.as_str()));
        }
    }
    statements
}

/// An identifier in double quotes.
pub(crate) fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretString {
        SecretString::from(text)
    }

    fn password(plan: &LoginPlan) -> (&'static str, Option<&str>) {
        match plan {
            LoginPlan::Keep(password) => ("keep", Some(password.expose_secret())),
            LoginPlan::Set(password) => ("set", Some(password.expose_secret())),
            LoginPlan::Refuse => ("refuse", None),
        }
    }

    #[test]
    fn login_of_another_installation_is_refused() {
        assert_eq!(password(&plan_login(true, None, None, false)), ("refuse", None));
    }

    #[test]
    fn login_of_another_installation_is_reset_on_request() {
        assert_eq!(password(&plan_login(true, None, None, true)).0, "set");
    }

    #[test]
    fn role_without_login_gets_a_new_password() {
        let (what, first) = (plan_login(false, None, None, false), plan_login(false, None, None, false));
        assert_eq!(password(&what).0, "set");
        assert_ne!(password(&what), password(&first));
    }

    #[test]
    fn known_password_is_kept_or_set_again_and_never_replaced() {
        assert_eq!(password(&plan_login(true, Some(secret("k")), None, false)), ("keep", Some("k")));
        assert_eq!(password(&plan_login(false, Some(secret("k")), None, false)), ("set", Some("k")));
        assert_eq!(password(&plan_login(true, Some(secret("k")), None, true)), ("set", Some("k")));
    }

    #[test]
    fn given_password_wins() {
        assert_eq!(
            password(&plan_login(true, Some(secret("k")), Some(secret("g")), false)),
            ("keep", Some("g"))
        );
        assert_eq!(password(&plan_login(false, None, Some(secret("g")), false)), ("set", Some("g")));
    }

    #[test]
    fn application_may_not_connect_to_a_registry_of_its_own() {
        let statements = fence_statements("a\"b", &[DatabaseKind::Registry]).join("\n");
        assert!(!statements.contains("stagesub_app"));
        assert!(statements.contains("REVOKE ALL ON DATABASE \"a\"\"b\" FROM PUBLIC"));
        let both = fence_statements("x", &[DatabaseKind::Registry, DatabaseKind::Shared]).join("\n");
        assert!(both.contains("TO stagesub_app") && both.contains("TO stagesub_auth"));
    }
}
