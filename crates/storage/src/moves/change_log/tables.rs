//! The tables whose changes are logged, as their database has them.

use std::collections::HashSet;

use sqlx::PgConnection;
use sqlx::postgres::types::Oid;

use super::ChangeLogError;
use crate::catalogue::TableName;
use crate::moves::pgoutput::{Relation, RelationColumn, ReplicaIdentity, TypeName};

/// Types below this number are built in, and the same on every server.
const FIRST_OF_OTHERS: u32 = 10_000;

/// A table.
#[derive(Debug)]
pub(super) struct LoggedTable {
    pub(super) name: TableName,
    pub(super) oid: u32,
    /// What a row of it is made of, in the order in which it is sent.
    pub(super) fields: Vec<Field>,
    /// The columns of its primary key, in the key's order.
    pub(super) key: Vec<String>,
}

/// A column as a row has it when it is sent whole.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) type_oid: u32,
    /// Its value is computed, and the target computes it itself.
    pub(super) generated: bool,
    /// Its type, and of a domain the one under it.
    base: (String, String),
}

impl LoggedTable {
    /// What is streamed of it.
    pub(super) fn relation(&self) -> Relation {
        let columns = self.fields.iter().filter(|field| !field.generated);
        Relation {
            id: self.oid,
            schema: self.name.schema.clone(),
            name: self.name.name.clone(),
            identity: ReplicaIdentity::Default,
            columns: columns
                .map(|field| RelationColumn {
                    key: self.key.contains(&field.name),
                    name: field.name.clone(),
                    type_oid: field.type_oid,
                })
                .collect(),
        }
    }

    /// What its types are called that are not built in, each once.
    pub(super) fn types(&self) -> Vec<TypeName> {
        let mut named = HashSet::new();
        let others = self.fields.iter().filter(|field| field.type_oid >= FIRST_OF_OTHERS);
        others
            .filter(|field| named.insert(field.type_oid))
            .map(|field| TypeName {
                oid: field.type_oid,
                schema: field.base.0.clone(),
                name: field.base.1.clone(),
            })
            .collect()
    }
}

/// Reads the tables, and refuses those that cannot be logged.
pub(super) async fn read(
    conn: &mut PgConnection,
    names: &[TableName],
) -> Result<Vec<LoggedTable>, ChangeLogError> {
    let mut tables = Vec::with_capacity(names.len());
    for name in names {
        tables.push(read_one(conn, name).await?);
    }
    Ok(tables)
}

async fn read_one(conn: &mut PgConnection, name: &TableName) -> Result<LoggedTable, ChangeLogError> {
    let unfit = |why: String| ChangeLogError::Unfit { table: name.clone(), why };
    let rows = sqlx::query!(
        r#"WITH RECURSIVE logged AS (
               SELECT c.oid FROM pg_catalog.pg_class AS c
               JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
               WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'r'
           ), made_of (attnum, type, own) AS (
               SELECT a.attnum, a.atttypid, true FROM pg_catalog.pg_attribute AS a JOIN logged ON logged.oid = a.attrelid
               WHERE a.attnum > 0 AND NOT a.attisdropped
               UNION
               SELECT m.attnum, i.type, m.own AND i.under FROM made_of AS m
               JOIN pg_catalog.pg_type AS t ON t.oid = m.type
               CROSS JOIN LATERAL (
                   SELECT t.typbasetype AS type, true AS under WHERE t.typtype = 'd'
                   UNION ALL SELECT t.typelem, false WHERE t.typelem <> 0 AND t.typlen = -1
                   UNION ALL SELECT f.atttypid, false FROM pg_catalog.pg_attribute AS f
                       WHERE t.typtype = 'c' AND f.attrelid = t.typrelid AND f.attnum > 0 AND NOT f.attisdropped
                   UNION ALL SELECT g.rngsubtype, false FROM pg_catalog.pg_range AS g
                       WHERE t.oid IN (g.rngtypid, g.rngmultitypid)
               ) AS i
           )
           SELECT logged.oid AS "oid!", a.attname::text AS "name!", a.atttypid AS "type_oid!",
                  a.attgenerated <> '' AS "generated!", b.schema AS "base_schema!", b.name AS "base_name!",
                  array_position((p.indkey::smallint[])[0:p.indnkeyatts - 1], a.attnum) AS place,
                  (SELECT pg_catalog.format_type(t.oid, -1) FROM made_of AS m
                   JOIN pg_catalog.pg_type AS t ON t.oid = m.type
                   WHERE m.attnum = a.attnum AND (t.typsend::oid = 0 OR t.typreceive::oid = 0)
                   LIMIT 1) AS without_binary
           FROM logged
           JOIN pg_catalog.pg_attribute AS a ON a.attrelid = logged.oid AND a.attnum > 0 AND NOT a.attisdropped
           LEFT JOIN pg_catalog.pg_index AS p ON p.indrelid = logged.oid AND p.indisprimary
           CROSS JOIN LATERAL (
               SELECT s.nspname::text AS schema, t.typname::text AS name FROM made_of AS m
               JOIN pg_catalog.pg_type AS t ON t.oid = m.type
               JOIN pg_catalog.pg_namespace AS s ON s.oid = t.typnamespace
               WHERE m.attnum = a.attnum AND m.own AND t.typtype <> 'd') AS b
           ORDER BY a.attnum"#,
        name.schema,
        name.name
    )
    .fetch_all(conn)
    .await
    .map_err(|source| ChangeLogError::Database { doing: "reading the tables to log", source })?;
    let oid =
        rows.first().map(|row| row.oid).ok_or_else(|| unfit("it is not there, or no table".to_owned()))?;
    let mut key: Vec<(i32, String)> =
        rows.iter().filter_map(|row| row.place.map(|place| (place, row.name.clone()))).collect();
    key.sort_unstable();
    let key: Vec<String> = key.into_iter().map(|(_, name)| name).collect();
    if !key.iter().any(|column| column == "tenant_id") {
        return Err(unfit("it has no primary key with tenant_id in it".to_owned()));
    }
    let mut fields = Vec::with_capacity(rows.len());
    for row in rows {
        if let Some(without) = row.without_binary {
            return Err(unfit(format!("{without}, of column {}, has no binary form", row.name)));
        }
        let Oid(type_oid) = row.type_oid;
        let base = (row.base_schema, row.base_name);
        fields.push(Field { name: row.name, type_oid, generated: row.generated, base });
    }
    Ok(LoggedTable { name: name.clone(), oid: oid.0, fields, key })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn field(name: &str, type_oid: u32, generated: bool) -> Field {
        let base = ("public".to_owned(), format!("type_{type_oid}"));
        Field { name: name.to_owned(), type_oid, generated, base }
    }

    /// `note`: a tenant, a number, words, and something computed of them.
    pub(in super::super) fn note() -> LoggedTable {
        LoggedTable {
            name: TableName { schema: "tenant".to_owned(), name: "note".to_owned() },
            oid: 77,
            fields: vec![
                field("tenant_id", 2950, false),
                field("no", 20, false),
                field("twice", 20, true),
                field("mood", 16_400, false),
                field("moods", 16_400, false),
            ],
            key: vec!["tenant_id".to_owned(), "no".to_owned()],
        }
    }

    #[test]
    fn what_is_computed_is_not_streamed() {
        let relation = note().relation();
        let columns: Vec<(&str, bool)> =
            relation.columns.iter().map(|column| (column.name.as_str(), column.key)).collect();
        assert_eq!(columns, [("tenant_id", true), ("no", true), ("mood", false), ("moods", false)]);
        assert_eq!((relation.id, relation.name.as_str()), (77, "note"));
    }

    #[test]
    fn a_type_that_is_not_built_in_is_named_once() {
        let types = note().types();
        assert_eq!(types.len(), 1);
        assert_eq!((types[0].oid, types[0].name.as_str()), (16_400, "type_16400"));
    }
}
