//! What tenant tables there are, read from the database itself.
//!
//! Whoever copies, checks or deletes a tenant goes by this and not by a list in a program: a table that was
//! added by a migration, ours or an embedder's, is found, and so is one that was added without its fence
//! ([`doctor`](crate::doctor) says what a table lacks).

mod order;

use std::collections::HashMap;
use std::fmt;

use sqlx::PgConnection;

pub use order::{CyclicTables, parents_first};

/// A table's name with its schema.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// Its schema.
    pub schema: String,
    /// Its name there.
    pub name: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// What kind of relation it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelationKind {
    /// A table, partitioned or not, or a partition of one.
    Table,
    /// A view.
    View,
    /// A materialized view.
    MaterializedView,
    /// A table of another server.
    Foreign,
}

/// One relation of a data schema that holds rows or shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: TableName,
    /// Whether it is a table. Views, materialized views and foreign tables are listed to be refused: policies
    /// do not hold on them as they do on tables.
    pub is_table: bool,
    /// Which kind it is.
    pub kind: RelationKind,
    /// Row-level security is on.
    pub secured: bool,
    /// It holds for the owner too.
    pub forced: bool,
    /// Its columns in order.
    pub columns: Vec<Column>,
    /// Its indexes, that of the primary key first.
    pub indexes: Vec<Index>,
    /// What its rows refer to.
    pub foreign_keys: Vec<ForeignKey>,
    /// Its policies.
    pub policies: Vec<Policy>,
    /// Its triggers, without those of foreign keys.
    pub triggers: Vec<String>,
}

impl Table {
    /// Columns of the primary key in its order; empty without one.
    #[must_use]
    pub fn primary_key(&self) -> &[String] {
        self.indexes.iter().find(|index| index.primary).map_or(&[], |index| &index.columns)
    }
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as SQL has it.
    pub data_type: String,
    /// It is never NULL.
    pub not_null: bool,
    /// Its value is computed; it cannot be written.
    pub generated: bool,
}

/// An index.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of the catalogue, and none excludes another"
)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// It is the primary key's.
    pub primary: bool,
    /// It admits each key once.
    pub unique: bool,
    /// It belongs to a constraint: a key, or an exclusion.
    pub constraint: bool,
    /// Its constraint excludes rows from each other.
    pub exclusion: bool,
    /// It holds some of the rows alone.
    pub partial: bool,
    /// Columns or expressions in its order.
    pub columns: Vec<String>,
    /// Of an exclusion, the operator by which rows are compared in each of them; those of other schemas by their whole
    /// names.
    pub operators: Vec<String>,
    /// The statement that makes it; of an exclusion the constraint's definition.
    pub definition: String,
}

/// A reference to rows of another table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignKey {
    /// Its name.
    pub name: String,
    /// Columns here.
    pub columns: Vec<String>,
    /// The other table.
    pub references: TableName,
    /// Columns there, in the same order.
    pub referenced: Vec<String>,
    /// What happens here when the other row goes, as SQL has it: `NO ACTION`, `SET NULL`, ...
    pub on_delete: String,
    /// What happens here when the other row's key changes.
    pub on_update: String,
    /// The columns that `on_delete` sets; empty: all of them.
    pub set_columns: Vec<String>,
}

impl Index {
    pub(crate) fn leads_with(&self, column: &str) -> bool {
        self.columns.first().is_some_and(|first| first == column)
    }

    /// Whether it holds these columns, in any order, unique whatever else a row says.
    pub(crate) fn admits_once(&self, columns: &[&str]) -> bool {
        self.unique
            && !self.partial
            && self.columns.len() == columns.len()
            && columns.iter().all(|column| self.columns.iter().any(|own| own == column))
    }

    /// Whether rows exclude each other only where they agree in this column.
    pub(crate) fn excludes_by(&self, column: &str) -> bool {
        let mut operators = self.operators_of(column).peekable();
        operators.peek().is_some() && operators.all(|operator| operator == "=")
    }

    /// Whether rows are compared in this column, in whatever way.
    pub(crate) fn compares(&self, column: &str) -> bool {
        self.operators_of(column).next().is_some()
    }

    fn operators_of(&self, column: &str) -> impl Iterator<Item = &str> {
        let pairs = self.columns.iter().zip(&self.operators);
        pairs.filter(move |(own, _)| *own == column).map(|(_, operator)| operator.as_str())
    }
}

impl ForeignKey {
    /// Whether an action sets this column.
    pub(crate) fn forgets(&self, column: &str) -> bool {
        let sets = |action: &str| matches!(action, "SET NULL" | "SET DEFAULT");
        let listed = self.set_columns.is_empty() || self.set_columns.iter().any(|set| set == column);
        sets(&self.on_update) || sets(&self.on_delete) && listed
    }
}

/// A policy of row-level security.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// It widens what is visible; otherwise it narrows it, whatever others say.
    pub permissive: bool,
    /// It holds for every command and every role.
    pub for_all: bool,
    /// Which rows may be seen.
    pub using: Option<String>,
    /// Which rows may be written.
    pub check: Option<String>,
}

/// Reads the tables of these schemas, ordered by name. [`parents_first`] orders them for copying.
///
/// # Errors
/// The driver's; a schema that does not exist has no tables.
pub async fn read(conn: &mut PgConnection, schemas: &[String]) -> Result<Vec<Table>, sqlx::Error> {
    let relations = sqlx::query!(
        r#"SELECT c.oid::bigint AS "oid!", n.nspname::text AS "schema!", c.relname::text AS "name!",
                  c.relkind::text AS "kind!", c.relrowsecurity AS "secured!",
                  c.relforcerowsecurity AS "forced!"
           FROM pg_catalog.pg_class AS c
           JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
           WHERE n.nspname = ANY($1::text[]) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
           ORDER BY n.nspname, c.relname"#,
        schemas
    )
    .fetch_all(&mut *conn)
    .await?;
    let oids: Vec<i64> = relations.iter().map(|relation| relation.oid).collect();
    let mut columns = columns(conn, &oids).await?;
    let mut indexes = indexes(conn, &oids).await?;
    let mut foreign_keys = foreign_keys(conn, &oids).await?;
    let mut policies = policies(conn, &oids).await?;
    let mut triggers = triggers(conn, &oids).await?;
    Ok(relations
        .into_iter()
        .map(|relation| Table {
            name: TableName { schema: relation.schema, name: relation.name },
            is_table: matches!(relation.kind.as_str(), "r" | "p"),
            kind: match relation.kind.as_str() {
                "v" => RelationKind::View,
                "m" => RelationKind::MaterializedView,
                "f" => RelationKind::Foreign,
                _ => RelationKind::Table,
            },
            secured: relation.secured,
            forced: relation.forced,
            columns: columns.remove(&relation.oid).unwrap_or_default(),
            indexes: indexes.remove(&relation.oid).unwrap_or_default(),
            foreign_keys: foreign_keys.remove(&relation.oid).unwrap_or_default(),
            policies: policies.remove(&relation.oid).unwrap_or_default(),
            triggers: triggers.remove(&relation.oid).unwrap_or_default(),
        })
        .collect())
}

/// What belongs to each relation, by its oid.
type ByRelation<T> = HashMap<i64, Vec<T>>;

fn grouped<T>(rows: impl IntoIterator<Item = (i64, T)>) -> ByRelation<T> {
    let mut groups = ByRelation::new();
    for (relation, row) in rows {
        groups.entry(relation).or_default().push(row);
    }
    groups
}

async fn columns(conn: &mut PgConnection, oids: &[i64]) -> Result<ByRelation<Column>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT a.attrelid::bigint AS "relation!", a.attname::text AS "name!",
                  pg_catalog.format_type(a.atttypid, a.atttypmod) AS "data_type!",
                  a.attnotnull AS "not_null!", a.attgenerated <> '' AS "generated!"
           FROM pg_catalog.pg_attribute AS a
           WHERE a.attrelid::bigint = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped
           ORDER BY a.attrelid, a.attnum"#,
        oids
    )
    .fetch_all(conn)
    .await?;
    Ok(grouped(rows.into_iter().map(|row| {
        let column = Column {
            name: row.name,
            data_type: row.data_type,
            not_null: row.not_null,
            generated: row.generated,
        };
        (row.relation, column)
    })))
}

async fn indexes(conn: &mut PgConnection, oids: &[i64]) -> Result<ByRelation<Index>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT i.indrelid::bigint AS "relation!", c.relname::text AS "name!", i.indisprimary AS "primary!",
                  i.indisunique AS "unique!", k.oid IS NOT NULL AS "constraint!",
                  i.indisexclusion AS "exclusion!", i.indpred IS NOT NULL AS "partial!",
                  CASE WHEN i.indisexclusion THEN pg_catalog.pg_get_constraintdef(k.oid)
                       ELSE pg_catalog.pg_get_indexdef(i.indexrelid) END AS "definition!",
                  ARRAY(SELECT pg_catalog.pg_get_indexdef(i.indexrelid, k, false)
                        FROM pg_catalog.generate_series(1, i.indnkeyatts::integer) AS k
                        ORDER BY k) AS "columns!",
                  ARRAY(SELECT CASE WHEN o.oprnamespace = 'pg_catalog'::pg_catalog.regnamespace THEN o.oprname::text
                               ELSE o.oid::pg_catalog.regoperator::text END
                        FROM pg_catalog.unnest(k.conexclop) WITH ORDINALITY AS e (oid, place)
                        JOIN pg_catalog.pg_operator AS o ON o.oid = e.oid
                        ORDER BY e.place) AS "operators!"
           FROM pg_catalog.pg_index AS i
           JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
           LEFT JOIN pg_catalog.pg_constraint AS k ON k.conindid = c.oid AND k.contype IN ('p', 'u', 'x')
           WHERE i.indrelid::bigint = ANY($1)
           ORDER BY i.indrelid, i.indisprimary DESC, c.relname"#,
        oids
    )
    .fetch_all(conn)
    .await?;
    Ok(grouped(rows.into_iter().map(|row| {
        let index = Index {
            name: row.name,
            primary: row.primary,
            unique: row.unique,
            constraint: row.constraint,
            exclusion: row.exclusion,
            partial: row.partial,
            columns: row.columns,
            operators: row.operators,
            definition: row.definition,
        };
        (row.relation, index)
    })))
}

async fn foreign_keys(conn: &mut PgConnection, oids: &[i64]) -> Result<ByRelation<ForeignKey>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT k.conrelid::bigint AS "relation!", k.conname::text AS "name!", n.nspname::text AS "schema!",
                  c.relname::text AS "table!",
                  ARRAY(SELECT a.attname::text
                        FROM unnest(k.conkey) WITH ORDINALITY AS u (attnum, place)
                        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.attnum
                        ORDER BY u.place) AS "columns!",
                  ARRAY(SELECT a.attname::text
                        FROM unnest(k.confkey) WITH ORDINALITY AS u (attnum, place)
                        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = u.attnum
                        ORDER BY u.place) AS "referenced!",
                  k.confdeltype::text AS "on_delete!", k.confupdtype::text AS "on_update!",
                  ARRAY(SELECT a.attname::text
                        FROM pg_catalog.pg_attribute AS a
                        WHERE a.attrelid = k.conrelid AND a.attnum = ANY(k.confdelsetcols)
                        ORDER BY a.attnum) AS "set_columns!"
           FROM pg_catalog.pg_constraint AS k
           JOIN pg_catalog.pg_class AS c ON c.oid = k.confrelid
           JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
           WHERE k.contype = 'f' AND k.conrelid::bigint = ANY($1)
           ORDER BY k.conrelid, k.conname"#,
        oids
    )
    .fetch_all(conn)
    .await?;
    Ok(grouped(rows.into_iter().map(|row| {
        let key = ForeignKey {
            name: row.name,
            columns: row.columns,
            references: TableName { schema: row.schema, name: row.table },
            referenced: row.referenced,
            on_delete: action(&row.on_delete).to_owned(),
            on_update: action(&row.on_update).to_owned(),
            set_columns: row.set_columns,
        };
        (row.relation, key)
    })))
}

/// What a letter of `pg_constraint` stands for.
fn action(letter: &str) -> &'static str {
    match letter {
        "r" => "RESTRICT",
        "c" => "CASCADE",
        "n" => "SET NULL",
        "d" => "SET DEFAULT",
        _ => "NO ACTION",
    }
}

async fn policies(conn: &mut PgConnection, oids: &[i64]) -> Result<ByRelation<Policy>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT p.polrelid::bigint AS "relation!", p.polname::text AS "name!",
                  p.polpermissive AS "permissive!",
                  p.polcmd = '*' AND p.polroles = '{0}'::oid[] AS "for_all!",
                  pg_catalog.pg_get_expr(p.polqual, p.polrelid) AS "using",
                  pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) AS "check"
           FROM pg_catalog.pg_policy AS p
           WHERE p.polrelid::bigint = ANY($1)
           ORDER BY p.polrelid, p.polname"#,
        oids
    )
    .fetch_all(conn)
    .await?;
    Ok(grouped(rows.into_iter().map(|row| {
        let policy = Policy {
            name: row.name,
            permissive: row.permissive,
            for_all: row.for_all,
            using: row.using,
            check: row.check,
        };
        (row.relation, policy)
    })))
}

async fn triggers(conn: &mut PgConnection, oids: &[i64]) -> Result<ByRelation<String>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT t.tgrelid::bigint AS "relation!", t.tgname::text AS "name!"
           FROM pg_catalog.pg_trigger AS t
           WHERE t.tgrelid::bigint = ANY($1) AND NOT t.tgisinternal
           ORDER BY t.tgrelid, t.tgname"#,
        oids
    )
    .fetch_all(conn)
    .await?;
    Ok(grouped(rows.into_iter().map(|row| (row.relation, row.name))))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn named(name: &str) -> TableName {
        TableName { schema: "tenant".to_owned(), name: name.to_owned() }
    }

    pub(crate) fn column(name: &str, data_type: &str) -> Column {
        Column { name: name.to_owned(), data_type: data_type.to_owned(), not_null: true, generated: false }
    }

    /// The index of a primary key.
    pub(crate) fn primary(table: &str, columns: &[&str]) -> Index {
        let list = columns.join(", ");
        Index {
            name: format!("{table}_pkey"),
            primary: true,
            unique: true,
            constraint: true,
            exclusion: false,
            partial: false,
            columns: columns.iter().map(ToString::to_string).collect(),
            operators: Vec::new(),
            definition: format!("CREATE UNIQUE INDEX {table}_pkey ON tenant.{table} USING btree ({list})"),
        }
    }

    pub(crate) fn reference(name: &str, columns: &[&str], parent: &str, keys: &[&str]) -> ForeignKey {
        ForeignKey {
            name: name.to_owned(),
            columns: columns.iter().map(ToString::to_string).collect(),
            references: named(parent),
            referenced: keys.iter().map(ToString::to_string).collect(),
            on_delete: "NO ACTION".to_owned(),
            on_update: "NO ACTION".to_owned(),
            set_columns: Vec::new(),
        }
    }

    /// A table with a tenant, a number and nothing around them.
    pub(crate) fn bare(name: &str) -> Table {
        Table {
            name: named(name),
            is_table: true,
            kind: RelationKind::Table,
            secured: true,
            forced: true,
            columns: vec![column("tenant_id", "uuid"), column("no", "bigint")],
            indexes: vec![primary(name, &["tenant_id", "no"])],
            foreign_keys: Vec::new(),
            policies: Vec::new(),
            triggers: Vec::new(),
        }
    }

    #[test]
    fn an_exclusion_is_a_tenants_own_where_tenants_are_compared_by_equality_alone() {
        let of = |pairs: &[(&str, &str)]| Index {
            exclusion: true,
            columns: pairs.iter().map(|(column, _)| (*column).to_owned()).collect(),
            operators: pairs.iter().map(|(_, operator)| (*operator).to_owned()).collect(),
            ..primary("note", &[])
        };
        assert!(of(&[("during", "&&"), ("tenant_id", "=")]).excludes_by("tenant_id"));
        for others in [
            &[("subtenant_id", "="), ("during", "&&")][..],
            &[("tenant_id", "<>"), ("no", "=")],
            &[("tenant_id", "="), ("tenant_id", "<>")],
            &[("tenant_id", "public.=(uuid,uuid)")],
        ] {
            assert!(!of(others).excludes_by("tenant_id"), "{others:?}");
        }
    }
}
