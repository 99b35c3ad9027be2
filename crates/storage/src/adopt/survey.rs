//! What the catalogue says of the tables, beyond what every reader of it needs.

use std::collections::{HashMap, HashSet};

use sqlx::{AssertSqlSafe, PgConnection};

use super::{AdoptError, Adoption, during};
use crate::catalogue::{self, Table, TableName};
use crate::doctor::tables::{TENANT_ID, sql_name};
use crate::roles::quote;

/// A table's name and the name of something on it.
type On = (String, String);

/// The tables as they are.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Every table of the schema, and nothing that is no table.
    pub(super) tables: Vec<Table>,
    /// Those of no tenant.
    pub(super) reference: Vec<TableName>,
    /// Definitions of primary and unique keys, by table and name.
    pub(super) keys: HashMap<On, String>,
    /// How references are checked, and by which index.
    pub(super) references: HashMap<On, Reference>,
    /// Tables that hold a row.
    pub(super) filled: HashSet<String>,
    /// Tables with a row whose tenant is not said.
    pub(super) unsaid: HashSet<String>,
}

/// What a foreign key's definition says beside its columns and actions.
#[derive(Debug, Clone, Default)]
pub(super) struct Reference {
    /// `DEFERRABLE` and so on, as it is written behind the actions.
    pub(super) timing: String,
    /// The index of the other table that it hangs on.
    pub(super) index: String,
}

impl Survey {
    /// Reads them. Rows are looked for only where it matters whether there are some.
    pub(super) async fn read(conn: &mut PgConnection, adoption: &Adoption) -> Result<Self, AdoptError> {
        let schemas = std::slice::from_ref(&adoption.schema);
        let mut tables = catalogue::read(&mut *conn, schemas).await.map_err(during("reading the tables"))?;
        tables.retain(|table| table.is_table);
        let name = |name: &String| TableName { schema: adoption.schema.clone(), name: name.clone() };
        let mut survey =
            Self { tables, reference: adoption.reference.iter().map(name).collect(), ..Self::default() };
        survey.read_keys(conn, adoption).await?;
        survey.read_rows(conn).await?;
        Ok(survey)
    }

    /// Those that belong to tenants.
    pub(super) fn tenants(&self) -> impl Iterator<Item = &Table> {
        self.tables.iter().filter(|table| !self.reference.contains(&table.name))
    }

    async fn read_keys(&mut self, conn: &mut PgConnection, adoption: &Adoption) -> Result<(), AdoptError> {
        let doing = "reading the keys";
        let keys: Vec<(String, String, String)> = sqlx::query_as(
            "SELECT c.relname::text, k.conname::text, pg_get_constraintdef(k.oid)
            FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE n.nspname = $1 AND k.contype IN ('p', 'u')",
        )
        .bind(&adoption.schema)
        .fetch_all(&mut *conn)
        .await
        .map_err(during(doing))?;
        self.keys = keys.into_iter().map(|(table, name, definition)| ((table, name), definition)).collect();
        let references: Vec<(String, String, String, String)> = sqlx::query_as(
            "SELECT c.relname::text, k.conname::text, i.relname::text,
                CASE WHEN k.condeferred THEN ' DEFERRABLE INITIALLY DEFERRED' WHEN k.condeferrable THEN ' DEFERRABLE' ELSE '' END
            FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
            JOIN pg_class AS i ON i.oid = k.conindid
            WHERE n.nspname = $1 AND k.contype = 'f'",
        )
        .bind(&adoption.schema)
        .fetch_all(&mut *conn)
        .await
        .map_err(during(doing))?;
        self.references = references
            .into_iter()
            .map(|(table, name, index, timing)| ((table, name), Reference { timing, index }))
            .collect();
        Ok(())
    }

    /// Under forced policies an owner without a tenant sees an error and not rows; such a table says so when its
    /// column is made NOT NULL.
    async fn read_rows(&mut self, conn: &mut PgConnection) -> Result<(), AdoptError> {
        let (mut filled, mut unsaid) = (HashSet::new(), HashSet::new());
        for table in self.tenants() {
            let column = table.columns.iter().find(|column| column.name == TENANT_ID);
            let condition = match column {
                Some(column) if column.not_null => continue,
                Some(column) => format!(" WHERE {} IS NULL", quote(&column.name)),
                None => String::new(),
            };
            let name = sql_name(&table.name);
            let fenced: bool = sqlx::query_scalar("SELECT row_security_active($1::regclass)")
                .bind(&name)
                .fetch_one(&mut *conn)
                .await
                .map_err(during("looking at a table's policies"))?;
            if fenced {
                continue;
            }
            let question = format!("SELECT EXISTS (SELECT FROM {name}{condition})");
            let found: bool = sqlx::query_scalar(AssertSqlSafe(question))
                .fetch_one(&mut *conn)
                .await
                .map_err(during("looking for rows without a tenant"))?;
            if found {
                let names = if column.is_some() { &mut unsaid } else { &mut filled };
                names.insert(table.name.name.clone());
            }
        }
        (self.filled, self.unsaid) = (filled, unsaid);
        Ok(())
    }
}
