//! Who may do what: the one table of roles, objects and privileges that databases are compared with.
//!
//! The grants themselves are made by the migrations, those of databases by `crate::roles`; `docs/roles.md` tells
//! them to people. What no row names is granted to nobody.

use super::expectations::{Expectations, TENANT};
use crate::catalogue::TableName;

const OWNER: &str = "stagesub_owner";
const MIGRATOR: &str = "stagesub_migrator";
const APP: &str = "stagesub_app";
const AUTH: &str = "stagesub_auth";
const CONTROL: &str = "stagesub_control";
const MOVER: &str = "stagesub_mover";

const READ: &[&str] = &["SELECT"];
const EVERYTHING: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE"];

/// What a privilege is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    /// A database that holds the registry.
    RegistryDatabase,
    /// A database that holds tenants.
    TenantDatabase,
    /// The schema.
    Schema,
    /// Tables and sequences by name.
    Tables(&'static [&'static str]),
    /// Every table of the schema.
    EveryTable,
    /// Columns of a table.
    Columns(&'static str, &'static [&'static str]),
    /// A routine, by name.
    Routine(&'static str),
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Right {
    pub(super) role: &'static str,
    pub(super) schema: &'static str,
    pub(super) on: On,
    pub(super) privileges: &'static [&'static str],
}

const fn right(
    role: &'static str,
    schema: &'static str,
    on: On,
    privileges: &'static [&'static str],
) -> Right {
    Right { role, schema, on, privileges }
}

/// The table.
pub(super) const RIGHTS: &[Right] = &[
    right(OWNER, "", On::RegistryDatabase, &["CREATE", "CONNECT", "TEMPORARY"]),
    right(OWNER, "", On::TenantDatabase, &["CREATE", "CONNECT", "TEMPORARY"]),
    right(MIGRATOR, "", On::RegistryDatabase, &["CONNECT"]),
    right(AUTH, "", On::RegistryDatabase, &["CONNECT"]),
    right(CONTROL, "", On::RegistryDatabase, &["CONNECT"]),
    right(MIGRATOR, "", On::TenantDatabase, &["CONNECT"]),
    right(APP, "", On::TenantDatabase, &["CONNECT"]),
    right(MOVER, "", On::TenantDatabase, &["CONNECT"]),
    // The registry.
    right(AUTH, "registry", On::Schema, &["USAGE"]),
    right(CONTROL, "registry", On::Schema, &["USAGE"]),
    right(
        AUTH,
        "registry",
        On::Tables(&["marker", "migrations", "users", "memberships", "identities"]),
        READ,
    ),
    right(AUTH, "registry", On::Tables(&["platform_audit"]), &["INSERT"]),
    right(
        AUTH,
        "registry",
        On::Columns("users", &["password_hash", "last_login", "updated_at"]),
        &["UPDATE"],
    ),
    right(CONTROL, "registry", On::Tables(&["marker", "migrations"]), READ),
    right(CONTROL, "registry", On::Tables(&["version"]), &["SELECT", "UPDATE"]),
    right(CONTROL, "registry", On::Tables(&["codes", "platform_audit"]), &["SELECT", "INSERT"]),
    right(
        CONTROL,
        "registry",
        On::Tables(&["tenants", "databases", "directory", "moves", "move_tables", "move_cleanups"]),
        &["SELECT", "INSERT", "UPDATE"],
    ),
    right(
        CONTROL,
        "registry",
        On::Tables(&["database_logins", "memberships", "nodes", "tenant_usage"]),
        EVERYTHING,
    ),
    right(
        CONTROL,
        "registry",
        On::Tables(&["identities", "idempotency_keys"]),
        &["SELECT", "INSERT", "DELETE"],
    ),
    right(CONTROL, "registry", On::Tables(&["users"]), &["INSERT", "UPDATE"]),
    right(
        CONTROL,
        "registry",
        On::Columns(
            "users",
            &[
                "id",
                "email",
                "first_name",
                "last_name",
                "last_login",
                "is_active",
                "is_superadmin",
                "auth_epoch",
                "version",
                "created_at",
                "updated_at",
            ],
        ),
        READ,
    ),
    // What binds a transaction to its tenant.
    right(APP, "app", On::Schema, &["USAGE"]),
    right(MOVER, "app", On::Schema, &["USAGE"]),
    right(APP, "app", On::Tables(&["marker", "migrations", "tenant_fence"]), READ),
    right(MOVER, "app", On::Tables(&["marker", "migrations"]), READ),
    right(MOVER, "app", On::Tables(&["tenant_fence", "move_progress"]), EVERYTHING),
    right(APP, "app", On::Routine("tenant_id"), &["EXECUTE"]),
    right(MOVER, "app", On::Routine("tenant_id"), &["EXECUTE"]),
    right(APP, "app", On::Routine("enter"), &["EXECUTE"]),
    right(APP, "app", On::Routine("refuse"), &["EXECUTE"]),
    right(APP, "app", On::Routine("bind"), &["EXECUTE"]),
    // Tenants' data; of an orchestra's own tables where there are some.
    right(APP, TENANT, On::Schema, &["USAGE"]),
    right(MOVER, TENANT, On::Schema, &["USAGE"]),
    right(MOVER, TENANT, On::EveryTable, EVERYTHING),
    right(APP, TENANT, On::EveryTable, &["SELECT", "INSERT"]),
    #[cfg(feature = "orchestra")]
    right(
        APP,
        TENANT,
        On::Tables(&["instrument", "position", "musician_qualification", "project", "idempotency_key"]),
        &["DELETE"],
    ),
    #[cfg(feature = "orchestra")]
    right(
        APP,
        TENANT,
        On::Columns("quota", &["used", "allowed", "limits_version", "grace_until", "updated_at"]),
        &["UPDATE"],
    ),
    #[cfg(feature = "orchestra")]
    right(
        APP,
        TENANT,
        On::Columns("idempotency_key", &["status", "location", "content_type", "body", "updated_at"]),
        &["UPDATE"],
    ),
    #[cfg(feature = "orchestra")]
    right(APP, TENANT, On::Columns("id_counter", &["last", "updated_at"]), &["UPDATE"]),
    #[cfg(feature = "orchestra")]
    right(
        APP,
        TENANT,
        On::Columns("instrument", &["name", "display_order", "archived_at", "updated_at"]),
        &["UPDATE"],
    ),
    #[cfg(feature = "orchestra")]
    right(APP, TENANT, On::Columns("position", &["name", "hierarchy_level", "updated_at"]), &["UPDATE"]),
    #[cfg(feature = "orchestra")]
    right(
        APP,
        TENANT,
        On::Columns(
            "musician",
            &[
                "first_name",
                "last_name",
                "email",
                "phone",
                "preferred_language",
                "local_residence",
                "notes",
                "is_active",
                "archived_at",
                "updated_at",
            ],
        ),
        &["UPDATE"],
    ),
    #[cfg(feature = "orchestra")]
    right(
        APP,
        TENANT,
        On::Columns(
            "project",
            &[
                "name",
                "start_date",
                "week_number",
                "rehearsal_schedule",
                "concert_info",
                "notes",
                "status",
                "updated_at",
            ],
        ),
        &["UPDATE"],
    ),
];

/// What kind of object an entry is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Database,
    Schema,
    Table,
    Column,
    Routine,
}

/// One privilege that somebody has in a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// The schema's name; empty for a database.
    pub(super) schema: String,
    /// The object's name in it.
    pub(super) object: String,
    /// Of a column privilege.
    pub(super) column: String,
    /// `PUBLIC` or a role's name.
    pub(super) grantee: String,
    pub(super) privilege: String,
}

/// What a database holds, and so which logins it lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holds {
    pub(super) registry: bool,
    pub(super) tenants: bool,
}

/// Whether a privilege is there by design.
pub(super) fn is_meant(entry: &Entry, expected: &Expectations, holds: Holds) -> bool {
    RIGHTS.iter().any(|right| right.covers(entry, holds))
        || expected.roles.contains(&entry.grantee)
        || is_readers(entry, expected)
        || is_embedders(entry, expected)
}

impl Right {
    fn covers(&self, entry: &Entry, holds: Holds) -> bool {
        let on = match self.on {
            On::RegistryDatabase => entry.kind == Kind::Database && holds.registry,
            On::TenantDatabase => entry.kind == Kind::Database && holds.tenants,
            On::Schema => entry.kind == Kind::Schema,
            // A column's privilege is less than the whole table's.
            On::Tables(names) => is_table(entry.kind) && names.contains(&entry.object.as_str()),
            On::EveryTable => is_table(entry.kind),
            On::Columns(table, columns) => {
                entry.kind == Kind::Column
                    && entry.object == table
                    && columns.contains(&entry.column.as_str())
            }
            On::Routine(name) => entry.kind == Kind::Routine && entry.object == name,
        };
        on && self.role == entry.grantee
            && (entry.kind == Kind::Database || self.schema == entry.schema)
            && self.privileges.contains(&entry.privilege.as_str())
    }
}

fn is_table(kind: Kind) -> bool {
    matches!(kind, Kind::Table | Kind::Column)
}

/// What the user that `serve` is started with needs to find the sealed connection strings.
fn is_readers(entry: &Entry, expected: &Expectations) -> bool {
    let privilege = entry.privilege.as_str();
    let read = ["marker", "migrations", "databases", "database_logins"];
    expected.reader.as_ref() == Some(&entry.grantee)
        && match entry.kind {
            Kind::Database => privilege == "CONNECT",
            Kind::Schema => entry.schema == "registry" && privilege == "USAGE",
            Kind::Table => {
                entry.schema == "registry" && privilege == "SELECT" && read.contains(&entry.object.as_str())
            }
            Kind::Column | Kind::Routine => false,
        }
}

/// What a service of somebody's own may have granted on its data schemas: everything but what reaches past a
/// tenant's rows. Which of its columns never change it knows itself, except for the tenant's.
fn is_embedders(entry: &Entry, expected: &Expectations) -> bool {
    let object = TableName { schema: entry.schema.clone(), name: entry.object.clone() };
    let privilege = entry.privilege.as_str();
    if expected.grants.iter().any(|(role, on, what)| {
        *role == entry.grantee && *on == object && what == privilege && entry.kind == Kind::Table
    }) {
        return true;
    }
    if entry.schema == TENANT || !expected.data.contains(&entry.schema) {
        return false;
    }
    let is_reference = expected.reference.contains(&object);
    match (entry.grantee.as_str(), entry.kind) {
        (APP | MOVER, Kind::Schema) => privilege == "USAGE",
        (MOVER, Kind::Table) => EVERYTHING.contains(&privilege),
        (APP, Kind::Table | Kind::Column) if is_reference => privilege == "SELECT",
        (APP, Kind::Table) => matches!(privilege, "SELECT" | "INSERT" | "DELETE" | "USAGE"),
        // Checks and defaults call them; those that run as their owner are a finding of their own.
        (APP, Kind::Routine) => privilege == "EXECUTE",
        (APP, Kind::Column) => {
            matches!(privilege, "SELECT" | "INSERT") || privilege == "UPDATE" && entry.column != "tenant_id"
        }
        _ => false,
    }
}

/// The columns of a table that a role is to keep a privilege on when the whole table's is taken back: those that
/// the design names.
pub(super) fn columns_meant(role: &str, schema: &str, table: &str, privilege: &str) -> Vec<&'static str> {
    let mut columns = Vec::new();
    for right in RIGHTS {
        if let On::Columns(of, named) = right.on
            && (right.role, right.schema, of) == (role, schema, table)
            && right.privileges.contains(&privilege)
        {
            columns.extend(named);
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const BOTH: Holds = Holds { registry: true, tenants: true };

    fn entry(kind: Kind, place: &str, grantee: &str, privilege: &str) -> Entry {
        let mut parts = place.split('.').map(str::to_owned).chain(std::iter::repeat(String::new()));
        let mut next = || parts.next().unwrap();
        Entry {
            kind,
            schema: next(),
            object: next(),
            column: next(),
            grantee: grantee.to_owned(),
            privilege: privilege.to_owned(),
        }
    }

    fn meant(kind: Kind, place: &str, grantee: &str, privilege: &str) -> bool {
        let expected = Expectations::default()
            .data_schema("billing")
            .reference_table("billing", "currency")
            .trusted_role("reporting")
            .grant(APP, "billing", "currency", "INSERT");
        is_meant(&entry(kind, place, grantee, privilege), &expected, BOTH)
    }

    /// `role schema object PRIVILEGE` of everything but databases and columns.
    fn in_code() -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for right in RIGHTS {
            let objects: &[&str] = match right.on {
                On::Schema => &["schema"],
                On::EveryTable => &["every table"],
                On::Tables(names) => names,
                On::Routine(ref name) => std::slice::from_ref(name),
                On::RegistryDatabase | On::TenantDatabase | On::Columns(..) => &[],
            };
            for object in objects {
                let of = |privilege| format!("{} {} {object} {privilege}", right.role, right.schema);
                all.extend(right.privileges.iter().map(of));
            }
        }
        all
    }

    /// The same, out of the table that people read.
    fn in_docs() -> BTreeSet<String> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/roles.md");
        let text = std::fs::read_to_string(path).unwrap();
        let mut all = BTreeSet::new();
        for line in text.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [schema @ ("`registry`" | "`app`" | "`tenant`"), objects, roles, privileges] = cells[..]
            else {
                continue;
            };
            for object in objects.split(", ") {
                let object = object.trim_matches('`').split('(').next().unwrap();
                for role in roles.split(", ") {
                    // Those by column are followed by which.
                    let words = privileges.split([',', ';']).map(str::trim);
                    for privilege in words.filter(|word| word.bytes().all(|b| b.is_ascii_uppercase())) {
                        all.insert(format!(
                            "{} {} {object} {privilege}",
                            role.trim_matches('`'),
                            schema.trim_matches('`')
                        ));
                    }
                }
            }
        }
        all
    }

    #[cfg(feature = "orchestra")]
    #[test]
    fn people_read_the_same_table() {
        assert_eq!(in_code(), in_docs());
        assert!(in_code().len() > 40);
    }

    #[test]
    fn the_application_changes_named_columns_and_never_the_tenants() {
        assert!(meant(Kind::Column, "tenant.musician.email", APP, "UPDATE"));
        for (kind, place) in [
            (Kind::Column, "tenant.musician.tenant_id"),
            (Kind::Column, "tenant.musician.no"),
            (Kind::Table, "tenant.musician"),
            (Kind::Column, "billing.invoice.tenant_id"),
            (Kind::Table, "billing.invoice"),
        ] {
            assert!(!meant(kind, place, APP, "UPDATE"), "{place}");
        }
        assert!(meant(Kind::Column, "billing.invoice.amount", APP, "UPDATE"));
    }

    #[test]
    fn nobody_truncates_refers_or_attaches_triggers() {
        for privilege in ["TRUNCATE", "REFERENCES", "TRIGGER"] {
            for place in ["tenant.musician", "billing.invoice", "registry.users"] {
                for role in [APP, AUTH, CONTROL, MOVER, "PUBLIC"] {
                    assert!(!meant(Kind::Table, place, role, privilege), "{role} {privilege} {place}");
                }
            }
        }
    }

    #[test]
    fn public_has_nothing_and_the_application_nothing_in_the_registry() {
        assert!(!RIGHTS.iter().any(|right| right.role == "PUBLIC"));
        assert!(!RIGHTS.iter().any(|right| right.role == APP && right.schema == "registry"));
        let connect = entry(Kind::Database, "", APP, "CONNECT");
        let registry = Holds { registry: true, tenants: false };
        assert!(!is_meant(&connect, &Expectations::default(), registry));
        assert!(is_meant(&connect, &Expectations::default(), BOTH));
    }

    #[test]
    fn what_an_embedder_lists_is_meant_and_nothing_beside_it() {
        assert!(meant(Kind::Table, "billing.currency", APP, "SELECT"));
        assert!(meant(Kind::Table, "billing.currency", APP, "INSERT"));
        assert!(!meant(Kind::Table, "billing.currency", APP, "DELETE"));
        assert!(meant(Kind::Table, "billing.invoice", "reporting", "SELECT"));
        assert!(!meant(Kind::Table, "billing.invoice", "somebody", "SELECT"));
        assert!(meant(Kind::Routine, "billing.due", APP, "EXECUTE"));
        assert!(!meant(Kind::Routine, "billing.due", "PUBLIC", "EXECUTE"));
        assert!(!meant(Kind::Routine, "tenant.due", APP, "EXECUTE"));
    }
}
