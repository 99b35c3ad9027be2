//! The tables that changes are made in, and how a row of the stream becomes one of theirs.

use std::collections::HashMap;

use sqlx::PgConnection;
use sqlx::postgres::types::Oid;
use stagesub_tenancy::TenantId;

use super::ApplyError;
use super::change::{Change, Key, Row, What};
use crate::catalogue::TableName;
use crate::moves::pgoutput::{Message, Old, Relation, Relations, Tuple, Value};

/// Types below this number are built in and the same on every server; others are told by their names.
const FIRST_TO_DIFFER: u32 = 10_000;

/// A table of the target.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) name: TableName,
    /// Its name for a statement.
    pub(super) quoted: String,
    /// The columns that are written.
    pub(super) columns: Vec<TargetColumn>,
    /// Which of them are its primary key, in the key's order.
    pub(super) key: Vec<usize>,
    /// Which of them is the tenant.
    tenant: usize,
}

/// A column of it.
#[derive(Debug)]
pub(super) struct TargetColumn {
    name: String,
    /// Its name for a statement.
    pub(super) quoted: String,
    /// Its type.
    pub(super) type_oid: Oid,
    /// Its type for a statement.
    pub(super) type_name: String,
    /// Its type, and of a domain the one under it.
    base: (String, String),
    /// Whether its values have a binary form that the target takes.
    pub(super) binary: bool,
    /// Postgres alone gives it values: it can be written when a row comes, and not changed.
    pub(super) fixed: bool,
}

impl Target {
    /// Its columns that are no part of its key.
    pub(super) fn others(&self) -> impl Iterator<Item = usize> {
        (0..self.columns.len()).filter(|column| !self.key.contains(column))
    }
}

/// Reads the tables of a move, which are named parents first.
pub(super) async fn read(conn: &mut PgConnection, names: &[TableName]) -> Result<Vec<Target>, ApplyError> {
    let mut targets = Vec::with_capacity(names.len());
    for name in names {
        targets.push(read_one(conn, name).await?);
    }
    Ok(targets)
}

async fn read_one(conn: &mut PgConnection, name: &TableName) -> Result<Target, ApplyError> {
    let rows = sqlx::query!(
        r#"SELECT format('%I.%I', n.nspname, c.relname) AS "table!", a.attname::text AS "name!",
                  format('%I', a.attname) AS "quoted!", a.atttypid AS "type_oid!",
                  pg_catalog.format_type(a.atttypid, a.atttypmod) AS "type_name!",
                  b.schema AS "base_schema!", b.name AS "base_name!", b.receives AS "binary!",
                  a.attidentity = 'a' AS "fixed!",
                  array_position((p.indkey::smallint[])[0:p.indnkeyatts - 1], a.attnum) AS place
           FROM pg_catalog.pg_class AS c
           JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
           JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
           LEFT JOIN pg_catalog.pg_index AS p ON p.indrelid = c.oid AND p.indisprimary
           CROSS JOIN LATERAL (
               WITH RECURSIVE under AS (
                   SELECT t.typtype, t.typbasetype, t.typnamespace, t.typname, t.typreceive
                   FROM pg_catalog.pg_type AS t WHERE t.oid = a.atttypid
                   UNION ALL
                   SELECT t.typtype, t.typbasetype, t.typnamespace, t.typname, t.typreceive
                   FROM under JOIN pg_catalog.pg_type AS t ON t.oid = under.typbasetype
                   WHERE under.typtype = 'd')
               SELECT s.nspname::text AS schema, under.typname::text AS name,
                      under.typreceive <> 0 AS receives
               FROM under JOIN pg_catalog.pg_namespace AS s ON s.oid = under.typnamespace
               WHERE under.typtype <> 'd') AS b
           WHERE n.nspname = $1 AND c.relname = $2 AND a.attgenerated = ''
           ORDER BY a.attnum"#,
        name.schema,
        name.name
    )
    .fetch_all(conn)
    .await
    .map_err(|source| ApplyError::Target { doing: "reading the target's tables", source })?;
    let differs = |detail: &str| ApplyError::Schema { table: name.clone(), detail: detail.to_owned() };
    let quoted = rows.first().map(|row| row.table.clone()).ok_or_else(|| differs("it is not there"))?;
    let mut key: Vec<(i32, usize)> =
        rows.iter().enumerate().filter_map(|(column, row)| row.place.map(|place| (place, column))).collect();
    key.sort_unstable();
    let columns: Vec<TargetColumn> = rows
        .into_iter()
        .map(|row| TargetColumn {
            name: row.name,
            quoted: row.quoted,
            type_oid: row.type_oid,
            type_name: row.type_name,
            base: (row.base_schema, row.base_name),
            binary: row.binary,
            fixed: row.fixed,
        })
        .collect();
    let key: Vec<usize> = key.into_iter().map(|(_, column)| column).collect();
    let tenant = key
        .iter()
        .copied()
        .find(|column| columns[*column].name == "tenant_id")
        .ok_or_else(|| differs("its primary key lacks tenant_id"))?;
    Ok(Target { name: name.clone(), quoted, columns, key, tenant })
}

/// Turns messages of a stream into changes of the target.
#[derive(Debug)]
pub(super) struct Mapper {
    tenant: TenantId,
    targets: Vec<Target>,
    by_name: HashMap<TableName, usize>,
    relations: Relations,
    mapped: HashMap<u32, Mapped>,
}

/// How a table of the stream is one of the target's.
#[derive(Debug)]
struct Mapped {
    table: usize,
    /// Where each column of the target is in a row of the stream.
    places: Vec<usize>,
}

impl Mapper {
    pub(super) fn new(tenant: TenantId, targets: Vec<Target>) -> Self {
        let by_name =
            targets.iter().enumerate().map(|(place, target)| (target.name.clone(), place)).collect();
        Self { tenant, targets, by_name, relations: Relations::default(), mapped: HashMap::new() }
    }

    pub(super) fn target(&self, table: usize) -> &Target {
        &self.targets[table]
    }

    /// Takes what describes tables and types, which is to be done whatever becomes of the changes: it is sent once.
    pub(super) fn learn(&mut self, message: &Message) {
        match message {
            Message::Relation(relation) => {
                let differs = self.relations.learn(relation.clone());
                if differs {
                    self.mapped.remove(&relation.id);
                }
            }
            Message::Type(name) => self.relations.learn_type(name.clone()),
            _ => {}
        }
    }

    /// The name of a table that the stream changes.
    pub(super) fn name(&self, relation: u32) -> Result<TableName, ApplyError> {
        let relation = self.relations.table(relation)?;
        Ok(TableName { schema: relation.schema.clone(), name: relation.name.clone() })
    }

    /// A row that comes.
    pub(super) fn insert(&mut self, relation: u32, new: &Tuple) -> Result<Change, ApplyError> {
        let (table, row) = self.row(relation, new)?;
        if row.0.contains(&Value::Unchanged) {
            return Err(self.differs(table, "a row comes without one of its values"));
        }
        Ok(Change { table, key: self.key(table, &row)?, what: What::Insert(row) })
    }

    /// A row that changes.
    pub(super) fn update(
        &mut self,
        relation: u32,
        old: Option<&Old>,
        new: &Tuple,
    ) -> Result<Change, ApplyError> {
        let (table, mut row) = self.row(relation, new)?;
        let before = old.map(|old| self.row(relation, old.tuple())).transpose()?;
        let Some((_, before)) = before else {
            return Ok(Change { table, key: self.key(table, &row)?, what: What::Update(row) });
        };
        // A key that is stored beside its row is sent as what it was.
        let whole = matches!(old, Some(Old::Row(_)));
        for (place, value) in row.0.iter_mut().enumerate() {
            if *value == Value::Unchanged && (whole || self.targets[table].key.contains(&place)) {
                value.clone_from(&before.0[place]);
            }
        }
        let (was, is) = (self.key(table, &before)?, self.key(table, &row)?);
        let what = if was == is { What::Update(row) } else { What::Rekey(row, is) };
        Ok(Change { table, key: was, what })
    }

    /// A row that goes.
    pub(super) fn delete(&mut self, relation: u32, old: &Old) -> Result<Change, ApplyError> {
        let (table, row) = self.row(relation, old.tuple())?;
        Ok(Change { table, key: self.key(table, &row)?, what: What::Delete })
    }

    /// A row's values in the order of the target's columns.
    fn row(&mut self, relation: u32, tuple: &Tuple) -> Result<(usize, Row), ApplyError> {
        if !self.mapped.contains_key(&relation) {
            let mapped = self.map(relation)?;
            self.mapped.insert(relation, mapped);
        }
        self.relations.table(relation)?.check(tuple)?;
        let mapped = &self.mapped[&relation];
        Ok((mapped.table, Row(mapped.places.iter().map(|place| tuple.0[*place].clone()).collect())))
    }

    /// A row's key, which is the tenant's or refused.
    fn key(&self, table: usize, row: &Row) -> Result<Key, ApplyError> {
        let target = &self.targets[table];
        let tenant = self.tenant.as_uuid();
        let own = match &row.0[target.tenant] {
            Value::Binary(bytes) => bytes.as_ref() == tenant.as_bytes(),
            Value::Text(bytes) => bytes.as_ref() == tenant.to_string().as_bytes(),
            Value::Null | Value::Unchanged => false,
        };
        if !own {
            return Err(ApplyError::ForeignRow { table: target.name.clone() });
        }
        let key: Vec<Value> = target.key.iter().map(|column| row.0[*column].clone()).collect();
        if key.iter().any(|value| matches!(value, Value::Null | Value::Unchanged)) {
            return Err(self.differs(table, "a row comes without its key"));
        }
        Ok(Key(key))
    }

    /// Finds the table of the target that a table of the stream is, and refuses one that is not the same.
    fn map(&self, relation: u32) -> Result<Mapped, ApplyError> {
        let relation = self.relations.table(relation)?;
        let name = TableName { schema: relation.schema.clone(), name: relation.name.clone() };
        let differs = |detail: String| ApplyError::Schema { table: name.clone(), detail };
        let table =
            *self.by_name.get(&name).ok_or_else(|| differs("it is not one that is moved".to_owned()))?;
        let target = &self.targets[table];
        for column in &relation.columns {
            if !target.columns.iter().any(|known| known.name == column.name) {
                return Err(differs(format!("the target lacks column {}", column.name)));
            }
        }
        let mut places = Vec::with_capacity(target.columns.len());
        for (at, column) in target.columns.iter().enumerate() {
            let place = relation
                .columns
                .iter()
                .position(|sent| sent.name == column.name)
                .ok_or_else(|| differs(format!("the source does not send column {}", column.name)))?;
            if !self.same_type(relation, place, column) {
                return Err(differs(format!("column {} is of another type on the source", column.name)));
            }
            if target.key.contains(&at) && !relation.columns[place].key {
                return Err(differs(format!("its rows are not told apart by {} on the source", column.name)));
            }
            places.push(place);
        }
        Ok(Mapped { table, places })
    }

    fn same_type(&self, relation: &Relation, place: usize, column: &TargetColumn) -> bool {
        let oid = relation.columns[place].type_oid;
        if oid < FIRST_TO_DIFFER {
            return Oid(oid) == column.type_oid;
        }
        self.relations.type_name(oid).is_some_and(|name| {
            // Postgres leaves the name of its own schema out.
            let schema = if name.schema.is_empty() { "pg_catalog" } else { &name.schema };
            (schema, name.name.as_str()) == (column.base.0.as_str(), column.base.1.as_str())
        })
    }

    fn differs(&self, table: usize, detail: &str) -> ApplyError {
        ApplyError::Schema { table: self.targets[table].name.clone(), detail: detail.to_owned() }
    }
}

#[cfg(test)]
pub(super) mod tests;
