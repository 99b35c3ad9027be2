//! What a database says of itself, and rows that are not its own.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, PgConnection};
use stagesub_tenancy::{DatabaseId, TenantId};

use super::report::{Finding, Level};
use crate::catalogue::Table;
use crate::marker::{DatabaseKind, Marker, MarkerError, read_registry_marker, read_tenant_marker};
use crate::migrate::sets::MigrationSet;
use crate::roles::quote;

/// Which database this is meant to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    pub(super) kind: DatabaseKind,
    pub(super) database: DatabaseId,
}

/// Whether the marker is there and says what the registry says.
pub(super) async fn marker(
    conn: &mut PgConnection,
    database: &str,
    set: MigrationSet,
    identity: Option<Identity>,
) -> Result<(Option<Marker>, Vec<Finding>), sqlx::Error> {
    let read = match set {
        MigrationSet::Registry => read_registry_marker(conn).await,
        MigrationSet::Tenant => read_tenant_marker(conn).await,
    };
    let (found, says) = match read {
        Ok(found) => (found, found.map(|marker| marker.to_string())),
        Err(MarkerError::Database(error)) => return Err(error),
        Err(corrupt) => (None, Some(corrupt.to_string())),
    };
    Ok((found, judge_marker(database, set, found, says.as_deref(), identity)))
}

fn judge_marker(
    database: &str,
    set: MigrationSet,
    found: Option<Marker>,
    says: Option<&str>,
    identity: Option<Identity>,
) -> Vec<Finding> {
    let is_right = |marker: Marker| {
        identity.is_none_or(|meant| (marker.kind, marker.database) == (meant.kind, meant.database))
    };
    if found.is_some_and(is_right) {
        return Vec::new();
    }
    let table = match set {
        MigrationSet::Registry => "registry.marker",
        MigrationSet::Tenant => "app.marker",
    };
    let lint = if says.is_some() { "marker-wrong" } else { "marker-missing" };
    let why = match (says, identity) {
        (Some(says), Some(meant)) => {
            format!("it says {says}, and the registry says {} ({})", meant.kind, meant.database)
        }
        (Some(says), None) => says.to_owned(),
        (None, _) => {
            "nothing says which database this is, so a wrong connection string is not noticed".to_owned()
        }
    };
    let mend = match identity {
        None => "-- `stagesub migrate` marks the databases that it sets up.".to_owned(),
        Some(meant) => {
            let tenant =
                meant.kind.tenant().map_or_else(|| "NULL".to_owned(), |tenant| format!("'{tenant}'"));
            let column = if set == MigrationSet::Tenant { ", tenant_id" } else { "" };
            let value = if set == MigrationSet::Tenant { format!(", {tenant}") } else { String::new() };
            format!(
                "-- Only if this is that database; if it is not, `stagesub migrate` stores the right connection string.\n\
                 DELETE FROM {table};\n\
                 INSERT INTO {table} (role, database_id{column}, demo) VALUES ('{}', '{}'{value}, false);",
                meant.kind.as_str(),
                meant.database
            )
        }
    };
    let (database, object) = (database.to_owned(), table.to_owned());
    vec![Finding { level: Level::Hole, lint, database, object, why, mend }]
}

/// How far the schema is from this program's. A dedicated database that lags is its own tenant's trouble. Where
/// nobody says which database it is (`known` is false), it may be that of a service that keeps nothing in schema
/// `tenant`, and lacks what makes tables there.
pub(super) async fn versions(
    conn: &mut PgConnection,
    database: &str,
    set: MigrationSet,
    level: Level,
    is_known: bool,
) -> Result<Vec<Finding>, sqlx::Error> {
    let statement = format!("SELECT version, checksum, success FROM {} ORDER BY version", set.table());
    let applied: Vec<(i64, Vec<u8>, bool)> = sqlx::query_as(AssertSqlSafe(statement)).fetch_all(conn).await?;
    let common = set.common();
    let bare = !is_known && applied.iter().all(|(version, ..)| common.contains(version));
    let wanted = set.source().iter().filter(|migration| !bare || common.contains(&migration.version));
    let known: BTreeMap<i64, Vec<u8>> =
        wanted.map(|migration| (migration.version, migration.checksum.to_vec())).collect();
    Ok(judge_versions(database, set.table(), level, &known, &applied))
}

fn judge_versions(
    database: &str,
    table: &str,
    level: Level,
    known: &BTreeMap<i64, Vec<u8>>,
    applied: &[(i64, Vec<u8>, bool)],
) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |lint, object: String, why: &str, mend: String| {
        let (database, why) = (database.to_owned(), why.to_owned());
        found.push(Finding { level, lint, database, object, why, mend });
    };
    let newest = known.keys().max().copied().unwrap_or(0);
    for version in known.keys().filter(|version| !applied.iter().any(|(applied, ..)| applied == *version)) {
        let mend = "-- Run `stagesub migrate`.".to_owned();
        add(
            "schema-behind",
            format!("migration {version}"),
            "this program knows it and it was not applied",
            mend,
        );
    }
    for (version, checksum, success) in applied {
        let object = format!("migration {version}");
        match known.get(version) {
            None if *version > newest => {
                let why = "a newer program applied it, and what it changed this one does not know";
                add("schema-ahead", object, why, "-- Run the newer program.".to_owned());
            }
            None => {
                let mend = format!(
                    "-- After looking at what it changed:\nDELETE FROM {table} WHERE version = {version};"
                );
                add("schema-differs", object, "this program never had it", mend);
            }
            Some(_) if !success => {
                let mend = "-- Run `stagesub migrate`.".to_owned();
                add("schema-differs", object, "it was begun and did not succeed", mend);
            }
            Some(ours) if ours != checksum => {
                let hex = hex(ours);
                let mend = format!(
                    "-- After making sure that the schema is as this program's migrations make it:\n\
                     UPDATE {table} SET checksum = '\\x{hex}' WHERE version = {version};"
                );
                add(
                    "schema-differs",
                    object,
                    "another text than this program's was applied under this number",
                    mend,
                );
            }
            Some(_) => {}
        }
    }
    found
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Rows of other tenants in a database that is one tenant's own. Two probes of an index a table; only a login that
/// policies do not hold can look.
pub(super) async fn of_others(
    conn: &mut PgConnection,
    database: &str,
    tenant: TenantId,
    tables: &[Table],
) -> Result<Vec<Finding>, sqlx::Error> {
    let unfenced: bool = sqlx::query_scalar(
        "SELECT rolbypassrls OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user",
    )
    .fetch_one(&mut *conn)
    .await?;
    if !unfenced {
        return Ok(vec![super::examination::not_examined(
            database,
            "rows of other tenants",
            "this login is held by the policies itself",
            "ALTER ROLE stagesub_mover BYPASSRLS;",
        )]);
    }
    let has_tenant = |table: &&Table| {
        table.is_table
            && table.columns.iter().any(|column| column.name == "tenant_id" && column.data_type == "uuid")
    };
    let names = tables
        .iter()
        .filter(has_tenant)
        .map(|table| format!("{}.{}", quote(&table.name.schema), quote(&table.name.name)))
        .chain(std::iter::once("app.tenant_fence".to_owned()));
    let probes: Vec<(String, String)> = names
        .map(|name| {
            let literal = name.replace('\'', "''");
            let probe = format!(
                "SELECT '{literal}' WHERE EXISTS (SELECT FROM {name} WHERE tenant_id < $1) \
                 OR EXISTS (SELECT FROM {name} WHERE tenant_id > $1)"
            );
            (name, probe)
        })
        .collect();
    let statement = probes.iter().map(|(_, probe)| probe.as_str()).collect::<Vec<_>>().join(" UNION ALL ");
    let strangers: Vec<String> =
        sqlx::query_scalar(AssertSqlSafe(statement)).bind(tenant.as_uuid()).fetch_all(conn).await?;
    Ok(strangers
        .into_iter()
        .map(|name| Finding {
            level: Level::Hole,
            lint: "rows-of-others",
            database: database.to_owned(),
            object: name.replace('"', ""),
            why: format!("the database is tenant {tenant}'s own and holds rows of another"),
            mend: format!(
                "-- After looking at whose they are:\nDELETE FROM {name} WHERE tenant_id <> '{tenant}';"
            ),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn identity(kind: DatabaseKind, id: u128) -> Identity {
        Identity { kind, database: DatabaseId::from_uuid(Uuid::from_u128(id)) }
    }

    fn judged(found: Option<Identity>, meant: Option<Identity>) -> Vec<&'static str> {
        let found = found.map(|found| Marker { kind: found.kind, database: found.database, demo: false });
        let says = found.map(|found| found.to_string());
        let found = judge_marker("db", MigrationSet::Tenant, found, says.as_deref(), meant);
        found.into_iter().map(|finding| finding.lint).collect()
    }

    #[test]
    fn a_marker_says_what_the_registry_says() {
        let tenant = TenantId::from_uuid(Uuid::from_u128(7));
        let shared = identity(DatabaseKind::Shared, 1);
        assert_eq!(judged(Some(shared), Some(shared)), [""; 0]);
        assert_eq!(judged(Some(shared), None), [""; 0]);
        for other in [identity(DatabaseKind::Shared, 2), identity(DatabaseKind::Dedicated(tenant), 1)] {
            assert_eq!(judged(Some(other), Some(shared)), ["marker-wrong"]);
        }
        assert_eq!(judged(None, Some(shared)), ["marker-missing"]);
    }

    #[test]
    fn a_schema_is_this_programs_migration_by_migration() {
        let known = BTreeMap::from([(1, vec![1]), (2, vec![2])]);
        let lints = |applied: &[(i64, Vec<u8>, bool)]| -> Vec<&str> {
            let found = judge_versions("db", "app.migrations", Level::Hole, &known, applied);
            found.into_iter().map(|finding| finding.lint).collect()
        };
        let (one, two) = ((1, vec![1], true), (2, vec![2], true));
        assert_eq!(lints(&[one.clone(), two.clone()]), [""; 0]);
        assert_eq!(lints(std::slice::from_ref(&one)), ["schema-behind"]);
        assert_eq!(lints(&[one.clone(), two.clone(), (3, vec![3], true)]), ["schema-ahead"]);
        assert_eq!(lints(&[one.clone(), (2, vec![9], true)]), ["schema-differs"]);
        assert_eq!(lints(&[one.clone(), (2, vec![2], false)]), ["schema-differs"]);
        assert_eq!(lints(&[(0, vec![0], true), one, two]), ["schema-differs"]);
    }
}
