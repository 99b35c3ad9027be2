//! One table that is attacked, as the application sees it.

use std::collections::HashMap;

use sqlx::Row;
use stagesub_tenancy::TenantId;

use super::error::ProveError;
use super::session::{Bound, Session};
use crate::catalogue::{self, Table, TableName};
use crate::roles::quote;

/// The column that says whose a row is.
pub(super) const TENANT_ID: &str = "tenant_id";

/// A table, and what the login that attacks may do with it.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) table: Table,
    /// Its name as SQL has it.
    pub(super) name: String,
    /// Who owns it, as SQL has it.
    pub(super) owner: String,
    pub(super) readable: Vec<String>,
    pub(super) insertable: Vec<String>,
    pub(super) updatable: Vec<String>,
    pub(super) may_delete: bool,
    /// Every column may be read, those of the system included.
    reads_all: bool,
    /// Its indexes that are unique.
    pub(super) unique: Vec<UniqueKey>,
    /// A row of the victim, as JSON.
    pub(super) sample: Option<String>,
    /// Rows of the attacker.
    pub(super) own_rows: u64,
}

/// A unique index.
#[derive(Debug, Clone)]
pub(super) struct UniqueKey {
    pub(super) name: String,
    /// What it is unique over besides the tenant: columns or expressions.
    pub(super) parts: Vec<String>,
    /// Which rows it holds for.
    pub(super) predicate: Option<String>,
    /// It is checked as each row is stored, before references are.
    pub(super) immediate: bool,
}

impl Subject {
    pub(super) fn has_tenant(&self) -> bool {
        self.readable.iter().any(|column| column == TENANT_ID)
    }

    /// Columns that may be read, as a list.
    pub(super) fn columns(&self) -> String {
        if self.readable.is_empty() { "*".to_owned() } else { list(&self.readable) }
    }

    /// A query for one row of `tenant` as JSON, if `condition` holds for it.
    pub(super) fn row_of(&self, tenant: TenantId, condition: &str) -> String {
        format!(
            "SELECT to_jsonb(r)::text FROM (SELECT {} FROM {} WHERE tenant_id = '{tenant}' AND ({condition}) LIMIT 1) AS r",
            self.columns(),
            self.name
        )
    }

    /// A query for the digest of `tenant`'s rows. In a table it holds the version of each row too, so that a
    /// row that was written as it was differs.
    fn digest_of(&self, tenant: TenantId) -> String {
        let version = if self.table.is_table && self.reads_all { " || xmin::text || ctid::text" } else { "" };
        format!(
            "SELECT count(*) || ':' || coalesce(md5(string_agg(r.row, '' ORDER BY r.row)), '')
             FROM (SELECT md5(ROW({})::text{version}) AS row FROM {} WHERE tenant_id = '{tenant}') AS r",
            list(&self.readable),
            self.name
        )
    }
}

/// The digests of the victim's rows as they are now, in the order of the tables.
pub(super) async fn digests(
    app: &mut Session,
    subjects: &[Subject],
    victim: TenantId,
) -> Result<Vec<String>, ProveError> {
    let mut digests = Vec::new();
    let mut transaction = app.begin(Bound::To(victim)).await?;
    for subject in subjects {
        let digest =
            if subject.has_tenant() { transaction.read(&subject.digest_of(victim)).await? } else { None };
        digests.push(digest.unwrap_or_default());
    }
    transaction.end().await?;
    Ok(digests)
}

/// Names as a list of identifiers.
pub(super) fn list(columns: &[String]) -> String {
    columns.iter().map(|column| quote(column)).collect::<Vec<_>>().join(", ")
}

/// A table's name as SQL has it.
pub(super) fn sql_name(name: &TableName) -> String {
    format!("{}.{}", quote(&name.schema), quote(&name.name))
}

/// Reads what there is to attack.
pub(super) async fn survey(
    app: &mut Session,
    schemas: &[String],
    reference: &[TableName],
    attacker: TenantId,
    victim: TenantId,
) -> Result<Vec<Subject>, ProveError> {
    let failed = app.failed("reading the catalogue");
    let mut tables = catalogue::read(app.catalogue(), schemas).await.map_err(failed)?;
    tables.retain(|table| !reference.contains(&table.name));
    if tables.is_empty() {
        return Err(ProveError::NoTables { target: app.describe(), schemas: schemas.join(", ") });
    }
    let mut subjects = Vec::new();
    for table in tables {
        let mut subject = describe(app, table).await?;
        if subject.has_tenant() {
            fill(app, &mut subject, attacker, victim).await?;
        }
        subjects.push(subject);
    }
    Ok(subjects)
}

/// What the catalogue says of a table and this login.
async fn describe(app: &mut Session, table: Table) -> Result<Subject, ProveError> {
    let name = sql_name(&table.name);
    let failed = app.failed(&format!("reading what the application may do with {}", table.name));
    let of_table = sqlx::query(
        "SELECT quote_ident(pg_get_userbyid(c.relowner)) AS owner,
                has_table_privilege(c.oid, 'DELETE') AS may_delete, has_table_privilege(c.oid, 'SELECT') AS reads_all
         FROM pg_catalog.pg_class AS c
         JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = $2",
    )
    .bind(&table.name.schema)
    .bind(&table.name.name);
    let of_columns = sqlx::query(
        "SELECT a.attname::text AS name, has_column_privilege(a.attrelid, a.attnum, 'SELECT') AS readable,
                a.attgenerated = '' AND has_column_privilege(a.attrelid, a.attnum, 'INSERT') AS insertable,
                a.attgenerated = '' AND has_column_privilege(a.attrelid, a.attnum, 'UPDATE') AS updatable,
                CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END AS generated
         FROM pg_catalog.pg_attribute AS a
         LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
         JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped
         ORDER BY a.attnum",
    )
    .bind(&table.name.schema)
    .bind(&table.name.name);
    let of_indexes = sqlx::query(
        "SELECT i.relname::text AS name, x.indimmediate AS immediate, pg_get_expr(x.indpred, x.indrelid) AS predicate
         FROM pg_catalog.pg_index AS x
         JOIN pg_catalog.pg_class AS i ON i.oid = x.indexrelid
         JOIN pg_catalog.pg_class AS c ON c.oid = x.indrelid
         JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = $2 AND x.indisunique
         ORDER BY i.relname",
    )
    .bind(&table.name.schema)
    .bind(&table.name.name);
    let read = async {
        let conn = app.catalogue();
        let row = of_table.fetch_one(&mut *conn).await?;
        let columns = of_columns.fetch_all(&mut *conn).await?;
        let indexes = of_indexes.fetch_all(conn).await?;
        let having = |privilege: &str| -> Result<Vec<String>, sqlx::Error> {
            let mut names = Vec::new();
            for column in &columns {
                if column.try_get(privilege)? {
                    names.push(column.try_get("name")?);
                }
            }
            Ok(names)
        };
        // A column that is made of others is no place to put a value: what it is made of is.
        let mut made: HashMap<String, String> = HashMap::new();
        for column in &columns {
            if let Some(expression) = column.try_get("generated")? {
                made.insert(column.try_get("name")?, expression);
            }
        }
        let part = |part: &String| made.get(part).unwrap_or(part).clone();
        let mut unique = Vec::new();
        for index in &indexes {
            let index_name: String = index.try_get("name")?;
            let parts = table.indexes.iter().find(|known| known.name == index_name);
            unique.push(UniqueKey {
                parts: parts
                    .map(|known| known.columns.iter().filter(|part| *part != TENANT_ID).map(part).collect())
                    .unwrap_or_default(),
                name: index_name,
                predicate: index.try_get("predicate")?,
                immediate: index.try_get("immediate")?,
            });
        }
        Ok(Subject {
            name,
            owner: row.try_get("owner")?,
            readable: having("readable")?,
            insertable: having("insertable")?,
            updatable: having("updatable")?,
            may_delete: row.try_get("may_delete")?,
            reads_all: row.try_get("reads_all")?,
            unique,
            sample: None,
            own_rows: 0,
            table: table.clone(),
        })
    };
    read.await.map_err(failed)
}

/// What the table holds of the two.
async fn fill(
    app: &mut Session,
    subject: &mut Subject,
    attacker: TenantId,
    victim: TenantId,
) -> Result<(), ProveError> {
    let mut transaction = app.begin(Bound::To(victim)).await?;
    subject.sample = transaction.read(&subject.row_of(victim, "true")).await?;
    transaction.bind(attacker).await?;
    let count = format!("SELECT count(*)::text FROM {} WHERE tenant_id = '{attacker}'", subject.name);
    subject.own_rows = transaction.read(&count).await?.and_then(|count| count.parse().ok()).unwrap_or(0);
    transaction.end().await
}
