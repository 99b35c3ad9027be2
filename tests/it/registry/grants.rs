//! The privileges in the database are those of docs/roles.md, no more and no fewer.

use std::collections::BTreeSet;
use std::path::Path;

use stagesub_storage::logins::{DatabaseLogins, LoginRole};
use stagesub_storage::registry::constraints::CONSTRAINTS;
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_tenancy::DatabaseId;

use super::{Server, refusal};

/// `role table PRIVILEGE` for whole tables of schema `registry`, out of the table of grants.
fn documented() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/roles.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut grants = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("| `registry` |")) {
        let cells: Vec<Vec<&str>> = line
            .trim_matches('|')
            .split('|')
            .map(|cell| cell.split([',', ';']).map(str::trim).collect())
            .collect();
        let [_, objects, roles, privileges] = cells.as_slice() else { panic!("{line}") };
        for object in objects.iter().filter(|object| object.starts_with('`')) {
            for role in roles {
                // "SELECT of .." and "UPDATE of .." are by column, and the names that follow them are columns.
                for privilege in privileges.iter().filter(|word| word.bytes().all(|b| b.is_ascii_uppercase()))
                {
                    grants.insert(format!(
                        "{} {} {privilege}",
                        role.trim_matches('`'),
                        object.trim_matches('`')
                    ));
                }
            }
        }
    }
    assert!(grants.len() > 20, "{grants:?}");
    grants
}

#[tokio::test]
async fn registry_is_granted_as_documented() {
    let server = Server::installed().await;
    let granted =
        "SELECT concat_ws(' ', coalesce(a.grantee::regrole::text, 'PUBLIC'), c.relname, a.privilege_type)
        FROM pg_class AS c, aclexplode(c.relacl) AS a
        WHERE c.relnamespace = 'registry'::regnamespace AND a.grantee <> c.relowner";
    let granted: BTreeSet<String> = server.texts("reg", granted).await.into_iter().collect();
    assert_eq!(granted, documented());
    let columns = "SELECT concat_ws(' ', a.grantee::regrole::text, t.attname, a.privilege_type)
        FROM pg_attribute AS t, aclexplode(t.attacl) AS a
        WHERE t.attrelid = 'registry.users'::regclass
            AND (t.attname = 'password_hash' OR a.privilege_type <> 'SELECT') ORDER BY 1";
    assert_eq!(
        server.texts("reg", columns).await,
        [
            "stagesub_auth last_login UPDATE",
            "stagesub_auth password_hash UPDATE",
            "stagesub_auth updated_at UPDATE"
        ]
    );
}

#[tokio::test]
async fn application_has_nothing_in_the_registry_even_in_the_same_database() {
    let server = Server::start().await;
    server.create("reg").await;
    let options = stagesub_storage::migrate::MigrateOptions::new(server.admin("reg"));
    let report = server.migrate(&options).await.unwrap();
    let registry = server.open().await;
    let logins = PgDatabaseLogins::new(registry, server.keys.clone());
    let find = async |database: DatabaseId, role| logins.find_login(database, role).await.unwrap().unwrap();
    let (registry, shared) = (report.databases[0].id, report.databases[1].id);

    let app = find(shared, LoginRole::App).await;
    let tables =
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'registry'::regnamespace AND relkind = 'r'";
    for table in server.texts("reg", tables).await {
        assert_eq!(refusal(&app, &format!("SELECT FROM registry.{table}")).await, "42501", "{table}");
    }
    let control = find(registry, LoginRole::Control).await;
    assert_eq!(refusal(&control, "SELECT password_hash FROM registry.users").await, "42501");
    assert_eq!(refusal(&control, "DELETE FROM registry.platform_audit").await, "42501");
    let auth = find(registry, LoginRole::Auth).await;
    assert_eq!(refusal(&auth, "SELECT FROM registry.database_logins").await, "42501");
    assert_eq!(refusal(&auth, "UPDATE registry.users SET is_superadmin = true").await, "42501");
}

#[tokio::test]
async fn application_may_not_connect_to_a_registry_of_its_own() {
    let server = Server::installed().await;
    let closed = "SELECT rolname::text FROM pg_roles
        WHERE rolname LIKE 'stagesub%' AND NOT has_database_privilege(oid, 'reg', 'CONNECT')";
    assert_eq!(server.texts("reg", closed).await, ["stagesub_app"]);
}

#[tokio::test]
async fn every_named_constraint_exists() {
    let server = Server::installed().await;
    let names = "SELECT conname::text FROM pg_constraint WHERE connamespace = 'registry'::regnamespace
        UNION SELECT relname::text FROM pg_class
        WHERE relnamespace = 'registry'::regnamespace AND relkind = 'i'";
    let names = server.texts("reg", names).await;
    for (name, _) in CONSTRAINTS {
        assert!(names.iter().any(|known| known == name), "{name}");
    }
}
