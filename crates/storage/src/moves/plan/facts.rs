//! What the catalogue says beyond [`catalogue`](crate::catalogue): all that decides whether a table can be moved, and
//! whether two databases are made alike.

use std::collections::HashMap;

use sqlx::PgConnection;

use crate::catalogue::TableName;
use crate::moves::change_log;

/// Facts about the tables of the schemas.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) relations: HashMap<TableName, Relation>,
    pub(super) columns: HashMap<TableName, Vec<ColumnFacts>>,
    /// Sequences that are no column's, by their whole names.
    pub(super) sequences: Vec<String>,
    /// How texts are compared where a column does not say.
    pub(super) collation: String,
}

/// A table.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of the catalogue, and none excludes another"
)]
pub(super) struct Relation {
    pub(super) partitioned: bool,
    pub(super) inherits: bool,
    pub(super) unlogged: bool,
    pub(super) rules: bool,
    /// Columns of the primary key, by their names.
    pub(super) primary_key: Vec<String>,
    /// The letter of `pg_class`.
    pub(super) replica_identity: String,
    /// Whether its primary key may be violated until a transaction ends. PostgreSQL takes no such key for an identity.
    pub(super) deferrable_key: bool,
    /// Triggers that do not fire where `session_replication_role` is set.
    pub(super) triggers: Vec<String>,
    /// Triggers that fire even then.
    pub(super) stubborn_triggers: Vec<String>,
    /// Names and definitions of constraints other than keys.
    pub(super) constraints: Vec<(String, String)>,
}

/// A column.
#[derive(Debug, Clone, Default)]
pub(super) struct ColumnFacts {
    pub(super) name: String,
    pub(super) cast_type: String,
    pub(super) collation: String,
    /// The expression of its default, or of what is computed.
    pub(super) expression: String,
    /// Where its values come from, if they are numbers of a sequence.
    pub(super) sequence: Option<String>,
    /// Types in it that cannot be copied, with why.
    pub(super) unmovable: Vec<String>,
    /// Types of somebody's own in it, each with its definition.
    pub(super) types: Vec<(String, String)>,
}

impl Facts {
    pub(super) fn relation(&self, table: &TableName) -> Option<&Relation> {
        self.relations.get(table)
    }

    pub(super) fn columns(&self, table: &TableName) -> &[ColumnFacts] {
        self.columns.get(table).map_or(&[], Vec::as_slice)
    }

    /// What a text is cast to for a column.
    pub(super) fn cast_type(&self, table: &TableName, column: &str) -> &str {
        self.columns(table).iter().find(|facts| facts.name == column).map_or("", |facts| &facts.cast_type)
    }
}

/// Reads all of it.
pub(super) async fn read(conn: &mut PgConnection, schemas: &[String]) -> Result<Facts, sqlx::Error> {
    let mut facts = Facts { collation: collation(conn).await?, ..Facts::default() };
    relations(conn, schemas, &mut facts).await?;
    constraints(conn, schemas, &mut facts).await?;
    columns(conn, schemas, &mut facts).await?;
    types(conn, schemas, &mut facts).await?;
    facts.sequences = sequences(conn, schemas).await?;
    Ok(facts)
}

/// What whoever writes counts with of themselves, or a default, a function.
async fn sequences(conn: &mut PgConnection, schemas: &[String]) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT format('%s.%s', n.nspname, c.relname) AS "name!" FROM pg_catalog.pg_class AS c
           JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
           WHERE n.nspname = ANY ($1::text[]) AND c.relkind = 'S' AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_depend AS d
               WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                   AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i'))
           ORDER BY 1"#,
        schemas
    )
    .fetch_all(conn)
    .await
}

/// Columns that only some versions of Postgres have are read through JSON.
async fn collation(conn: &mut PgConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT concat_ws(' ', d.datlocprovider::text, d.datcollate::text, d.datctype::text,
                      to_jsonb(d) ->> 'daticulocale', to_jsonb(d) ->> 'datlocale') AS "collation!"
           FROM pg_catalog.pg_database AS d WHERE d.datname = current_database()"#
    )
    .fetch_one(conn)
    .await
}

async fn relations(
    conn: &mut PgConnection,
    schemas: &[String],
    facts: &mut Facts,
) -> Result<(), sqlx::Error> {
    // What logs the changes of a move, this one's or another's, is no trigger of the table's own.
    let rows = sqlx::query!(
        r#"WITH logs AS (
               SELECT p.oid FROM pg_catalog.pg_proc AS p
               JOIN pg_catalog.pg_namespace AS f ON f.oid = p.pronamespace
               WHERE f.nspname = 'app' AND p.proname ~ $2)
           SELECT n.nspname::text AS "schema!", c.relname::text AS "name!",
                  c.relkind = 'p' OR c.relispartition AS "partitioned!",
                  EXISTS (SELECT FROM pg_catalog.pg_inherits AS i WHERE c.oid IN (i.inhrelid, i.inhparent)) AS "inherits!",
                  c.relpersistence <> 'p' AS "unlogged!", c.relhasrules AS "rules!",
                  c.relreplident::text AS "replica_identity!",
                  ARRAY(SELECT a.attname::text FROM pg_catalog.pg_index AS i
                        CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
                        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.attnum
                        WHERE i.indrelid = c.oid AND i.indisprimary AND k.place <= i.indnkeyatts
                        ORDER BY k.place) AS "primary_key!",
                  EXISTS (SELECT FROM pg_catalog.pg_index AS i
                          WHERE i.indrelid = c.oid AND i.indisprimary AND NOT i.indimmediate) AS "deferrable_key!",
                  ARRAY(SELECT t.tgname::text FROM pg_catalog.pg_trigger AS t
                        WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled = 'O'
                            AND NOT t.tgfoid = ANY (ARRAY(SELECT l.oid FROM logs AS l))
                        ORDER BY t.tgname) AS "triggers!",
                  ARRAY(SELECT t.tgname::text FROM pg_catalog.pg_trigger AS t
                        WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled IN ('A', 'R')
                            AND NOT t.tgfoid = ANY (ARRAY(SELECT l.oid FROM logs AS l))
                        ORDER BY t.tgname) AS "stubborn_triggers!"
           FROM pg_catalog.pg_class AS c
           JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
           WHERE n.nspname = ANY ($1::text[]) AND c.relkind IN ('r', 'p')"#,
        schemas,
        change_log::NAMES
    )
    .fetch_all(conn)
    .await?;
    for row in rows {
        let relation = Relation {
            partitioned: row.partitioned,
            inherits: row.inherits,
            unlogged: row.unlogged,
            rules: row.rules,
            primary_key: row.primary_key,
            replica_identity: row.replica_identity,
            deferrable_key: row.deferrable_key,
            triggers: row.triggers,
            stubborn_triggers: row.stubborn_triggers,
            constraints: Vec::new(),
        };
        facts.relations.insert(TableName { schema: row.schema, name: row.name }, relation);
    }
    Ok(())
}

async fn constraints(
    conn: &mut PgConnection,
    schemas: &[String],
    facts: &mut Facts,
) -> Result<(), sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT n.nspname::text AS "schema!", c.relname::text AS "name!", k.conname::text AS "constraint!",
                  pg_catalog.pg_get_constraintdef(k.oid) AS "definition!"
           FROM pg_catalog.pg_constraint AS k
           JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
           JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
           WHERE n.nspname = ANY ($1::text[]) AND k.contype IN ('c', 'f', 'x')
           ORDER BY n.nspname, c.relname, k.conname"#,
        schemas
    )
    .fetch_all(conn)
    .await?;
    for row in rows {
        let table = TableName { schema: row.schema, name: row.name };
        if let Some(relation) = facts.relations.get_mut(&table) {
            relation.constraints.push((row.constraint, row.definition));
        }
    }
    Ok(())
}

/// A default takes its numbers from a sequence if it depends on one.
async fn columns(conn: &mut PgConnection, schemas: &[String], facts: &mut Facts) -> Result<(), sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT n.nspname::text AS "schema!", c.relname::text AS "table!", a.attname::text AS "name!",
                  pg_catalog.format_type(a.atttypid, -1) AS "cast_type!",
                  coalesce((SELECT format('%I.%I', cn.nspname, l.collname) FROM pg_catalog.pg_collation AS l
                            JOIN pg_catalog.pg_namespace AS cn ON cn.oid = l.collnamespace
                            WHERE l.oid = a.attcollation), '') AS "collation!",
                  coalesce(pg_catalog.pg_get_expr(e.adbin, e.adrelid), '') AS "expression!",
                  (SELECT s.oid::regclass::text FROM pg_catalog.pg_class AS s
                   JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = s.oid
                   WHERE s.relkind = 'S' AND a.attidentity <> '' AND d.refobjid = c.oid AND d.refobjsubid = a.attnum
                   UNION ALL
                   SELECT s.oid::regclass::text FROM pg_catalog.pg_class AS s
                   JOIN pg_catalog.pg_depend AS d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = s.oid
                   WHERE s.relkind = 'S' AND d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = e.oid
                   LIMIT 1) AS "sequence",
                  a.attgenerated <> '' AND EXISTS (
                      SELECT FROM pg_catalog.pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary
                          AND a.attnum = ANY ((i.indkey::smallint[])[0:i.indnkeyatts - 1])) AS "computed_key!"
           FROM pg_catalog.pg_attribute AS a
           JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
           JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
           LEFT JOIN pg_catalog.pg_attrdef AS e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
           WHERE n.nspname = ANY ($1::text[]) AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
           ORDER BY n.nspname, c.relname, a.attnum"#,
        schemas
    )
    .fetch_all(conn)
    .await?;
    for row in rows {
        let column = ColumnFacts {
            name: row.name,
            cast_type: row.cast_type,
            collation: row.collation,
            expression: row.expression,
            sequence: row.sequence,
            unmovable: if row.computed_key {
                vec!["it is computed, and part of the primary key, by which rows are found".to_owned()]
            } else {
                Vec::new()
            },
            ..ColumnFacts::default()
        };
        facts.columns.entry(TableName { schema: row.schema, name: row.table }).or_default().push(column);
    }
    Ok(())
}

/// Types that a column's values are made of: its own, and through domains, arrays, composites and ranges what is in it.
async fn types(conn: &mut PgConnection, schemas: &[String], facts: &mut Facts) -> Result<(), sqlx::Error> {
    let rows = sqlx::query!(
        r#"WITH RECURSIVE made_of (relation, attnum, type) AS (
               SELECT a.attrelid, a.attnum, a.atttypid FROM pg_catalog.pg_attribute AS a
               JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
               JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
               WHERE n.nspname = ANY ($1::text[]) AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
               UNION
               SELECT m.relation, m.attnum, i.type FROM made_of AS m
               JOIN pg_catalog.pg_type AS t ON t.oid = m.type
               CROSS JOIN LATERAL (
                   SELECT t.typbasetype AS type WHERE t.typtype = 'd'
                   UNION ALL SELECT t.typelem WHERE t.typelem <> 0 AND t.typlen = -1
                   UNION ALL SELECT f.atttypid FROM pg_catalog.pg_attribute AS f
                       WHERE t.typtype = 'c' AND f.attrelid = t.typrelid AND f.attnum > 0 AND NOT f.attisdropped
                   UNION ALL SELECT g.rngsubtype FROM pg_catalog.pg_range AS g WHERE t.oid IN (g.rngtypid, g.rngmultitypid)
               ) AS i
           )
           SELECT n.nspname::text AS "schema!", c.relname::text AS "table!", a.attname::text AS "column!",
                  pg_catalog.format_type(t.oid, -1) AS "type!", t.oid::bigint >= 16384 AS "own!",
                  t.typnamespace = 'pg_catalog'::regnamespace AND (t.typname LIKE 'reg%' OR t.typname = 'oid') AS "names_an_object!",
                  t.typsend::oid = 0 OR t.typreceive::oid = 0 AS "without_binary!",
                  concat_ws(' ', CASE t.typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' WHEN 'c' THEN 'composite' END,
                      (SELECT string_agg(quote_literal(l.enumlabel), ', ' ORDER BY l.enumsortorder)
                       FROM pg_catalog.pg_enum AS l WHERE l.enumtypid = t.oid),
                      CASE WHEN t.typtype = 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) END,
                      CASE WHEN t.typnotnull THEN 'NOT NULL' END,
                      (SELECT string_agg(pg_catalog.pg_get_constraintdef(k.oid), ', ' ORDER BY k.conname)
                       FROM pg_catalog.pg_constraint AS k WHERE k.contypid = t.oid),
                      (SELECT string_agg(format('%I %s', f.attname, pg_catalog.format_type(f.atttypid, f.atttypmod)), ', ' ORDER BY f.attnum)
                       FROM pg_catalog.pg_attribute AS f
                       WHERE t.typtype = 'c' AND f.attrelid = t.typrelid AND f.attnum > 0 AND NOT f.attisdropped)
                  ) AS "definition!"
           FROM made_of AS m
           JOIN pg_catalog.pg_type AS t ON t.oid = m.type
           JOIN pg_catalog.pg_attribute AS a ON a.attrelid = m.relation AND a.attnum = m.attnum
           JOIN pg_catalog.pg_class AS c ON c.oid = m.relation
           JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
           ORDER BY n.nspname, c.relname, a.attnum, pg_catalog.format_type(t.oid, -1)"#,
        schemas
    )
    .fetch_all(conn)
    .await?;
    for row in rows {
        let table = TableName { schema: row.schema, name: row.table };
        let columns = facts.columns.get_mut(&table);
        let Some(column) = columns.and_then(|all| all.iter_mut().find(|facts| facts.name == row.column))
        else {
            continue;
        };
        if row.names_an_object {
            column
                .unmovable
                .push(format!("{} is an oid, which another database gives to something else", row.r#type));
        }
        if row.without_binary {
            column.unmovable.push(format!("{} has no binary form", row.r#type));
        }
        if row.own && !row.definition.is_empty() {
            column.types.push((row.r#type, row.definition));
        }
    }
    Ok(())
}
