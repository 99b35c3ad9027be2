//! The privileges that a database grants, compared with the design.

use sqlx::PgConnection;

use super::design::{Entry, Holds, Kind, columns_meant, is_meant};
use super::expectations::Expectations;
use super::report::{Finding, Level};
use crate::roles::{self, quote};

/// A privilege as it was read, with what it takes to take it back.
struct Granted {
    entry: Entry,
    grantable: bool,
    /// The object, as GRANT and REVOKE name it.
    target: String,
}

/// Everything that is granted beyond the design on the database and in the platform's schemas.
pub(super) async fn findings(
    conn: &mut PgConnection,
    database: &str,
    expected: &Expectations,
    holds: Holds,
) -> Result<Vec<Finding>, sqlx::Error> {
    let granted = read(conn, &expected.ours()).await?;
    Ok(granted.iter().filter_map(|granted| judge(granted, database, expected, holds)).collect())
}

/// What is granted beyond the design in one data schema: the object, and the statement that takes it back. What its
/// owner holds is not judged, whoever that is still.
pub(crate) async fn beyond(
    conn: &mut PgConnection,
    schema: &str,
    expected: &Expectations,
) -> Result<Vec<(String, String)>, sqlx::Error> {
    let holds = Holds { registry: false, tenants: true };
    let granted = read(conn, &[schema.to_owned()]).await?;
    let here = granted
        .iter()
        .filter(|granted| granted.entry.kind != Kind::Database && granted.entry.grantee != roles::OWNER);
    let found = here.filter_map(|granted| {
        judge(granted, "", expected, holds).map(|finding| (granted.target.clone(), finding.mend))
    });
    Ok(found.collect())
}

fn judge(granted: &Granted, database: &str, expected: &Expectations, holds: Holds) -> Option<Finding> {
    let entry = &granted.entry;
    let meant = is_meant(entry, expected, holds);
    if meant && !granted.grantable || expected.roles.contains(&entry.grantee) {
        return None;
    }
    let taker = if entry.grantee == "PUBLIC" { "PUBLIC".to_owned() } else { quote(&entry.grantee) };
    let privilege = match entry.kind {
        Kind::Column => format!("{} ({})", entry.privilege, quote(&entry.column)),
        _ => entry.privilege.clone(),
    };
    let object = format!("{privilege} on {} for {}", granted.target, entry.grantee);
    let target = &granted.target;
    let (why, mend) = if meant {
        let mend = format!("REVOKE GRANT OPTION FOR {privilege} ON {target} FROM {taker} CASCADE;");
        ("a login may give away what it has", mend)
    } else {
        ("the design grants it to nobody", take_back(entry, &privilege, target, &taker))
    };
    // Connecting is not reading: whoever may do no more than that finds every schema closed.
    let connects = entry.kind == Kind::Database && entry.privilege == "CONNECT" && !is_ours(&entry.grantee);
    Some(Finding {
        level: if connects && entry.grantee != "PUBLIC" { Level::Note } else { Level::Hole },
        lint: "grant-beyond",
        database: database.to_owned(),
        object,
        why: why.to_owned(),
        mend,
    })
}

/// Taking a whole table's privilege takes that of its columns along, so those that are meant are given again.
fn take_back(entry: &Entry, privilege: &str, target: &str, taker: &str) -> String {
    let revoke = format!("REVOKE {privilege} ON {target} FROM {taker} CASCADE;");
    if entry.kind != Kind::Table {
        return revoke;
    }
    let columns = columns_meant(&entry.grantee, &entry.schema, &entry.object, &entry.privilege);
    if columns.is_empty() {
        return revoke;
    }
    format!("{revoke}\nGRANT {} ({}) ON {target} TO {taker};", entry.privilege, columns.join(", "))
}

fn is_ours(role: &str) -> bool {
    role.starts_with("stagesub_")
}

/// What is granted to others than the owner and superusers. An object without a list has the default one, which
/// lets PUBLIC call routines and connect.
async fn read(conn: &mut PgConnection, schemas: &[String]) -> Result<Vec<Granted>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"WITH granted AS (
            SELECT 'database' AS kind, '' AS schema, d.datname::text AS object, '' AS "column", d.datdba AS owner,
                pg_catalog.format('DATABASE %I', d.datname) AS target,
                coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba)) AS acl
            FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()
            UNION ALL
            SELECT 'schema', n.nspname::text, n.nspname::text, '', n.nspowner, pg_catalog.format('SCHEMA %I', n.nspname),
                coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))
            FROM pg_catalog.pg_namespace AS n WHERE n.nspname = ANY ($1)
            UNION ALL
            SELECT 'table', n.nspname::text, c.relname::text, '', c.relowner,
                pg_catalog.format(CASE c.relkind WHEN 'S' THEN 'SEQUENCE %I.%I' ELSE '%I.%I' END, n.nspname, c.relname),
                coalesce(c.relacl, pg_catalog.acldefault(CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, c.relowner))
            FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
            WHERE n.nspname = ANY ($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
            UNION ALL
            SELECT 'column', n.nspname::text, c.relname::text, a.attname::text, c.relowner,
                pg_catalog.format('%I.%I', n.nspname, c.relname), a.attacl
            FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
            JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
            WHERE n.nspname = ANY ($1) AND a.attacl IS NOT NULL AND NOT a.attisdropped
            UNION ALL
            SELECT 'routine', n.nspname::text, p.proname::text, '', p.proowner,
                pg_catalog.format('ROUTINE %s', p.oid::regprocedure),
                coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))
            FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
            WHERE n.nspname = ANY ($1)
        )
        SELECT g.kind AS "kind!", g.schema AS "schema!", g.object AS "object!", g."column" AS "column!",
            g.target AS "target!", x.privilege_type AS "privilege!", x.is_grantable AS "grantable!",
            CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE coalesce(r.rolname::text, x.grantee::text) END AS "grantee!"
        FROM granted AS g CROSS JOIN LATERAL pg_catalog.aclexplode(g.acl) AS x
        LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = x.grantee
        WHERE x.grantee <> g.owner AND NOT coalesce(r.rolsuper, false)
        ORDER BY 1, 2, 3, 4, 6, 8"#,
        schemas
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Granted {
            entry: Entry {
                kind: match row.kind.as_str() {
                    "database" => Kind::Database,
                    "schema" => Kind::Schema,
                    "column" => Kind::Column,
                    "routine" => Kind::Routine,
                    _ => Kind::Table,
                },
                schema: row.schema,
                object: row.object,
                column: row.column,
                grantee: row.grantee,
                privilege: row.privilege,
            },
            grantable: row.grantable,
            target: row.target,
        })
        .collect())
}
