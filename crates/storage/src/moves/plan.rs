//! Which tables a move takes, in which order, and whether both sides are made alike.
//!
//! All of it is read from the catalogue of a database, in one snapshot. [`MovePlan::read`] refuses what a move cannot
//! take, everything at once and in words, before anything is made:
//!
//! - A table needs a primary key that begins with `tenant_id`, and a replica identity that holds it whole: otherwise a
//!   publication of one tenant's rows would make every tenant's updates fail.
//! - Partitions, inheritance, rules and tables that are not logged are not in the stream as rows of one table.
//! - Triggers would fire a second time on the target. They are no obstacle where the mover may set
//!   `session_replication_role`, except those that fire even then. The same holds for tables that refer to each other
//!   in a circle.
//! - Columns that take their values from a sequence: counters that are rows move with the tenant, a sequence belongs to
//!   a whole database. On the target it would give numbers that the tenant's rows have already.
//! - Types that cannot be copied as they are: without a binary form, or with an oid of this database inside.
//!
//! Views have no rows of their own and are passed over; materialized views and foreign tables are refused.

mod facts;
mod fingerprint;
mod refusals;

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;

use crate::catalogue::{self, CyclicTables, RelationKind, Table, TableName, parents_first};
use crate::moves::session::MoverSession;
use crate::roles::quote;

pub use fingerprint::Fingerprint;
pub use refusals::Refusal;

/// The column that says whose a row is.
const TENANT_ID: &str = "tenant_id";

/// What a database holds of its tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Schemas whose tables are tenant tables.
    pub schemas: Vec<String>,
    /// Tables in them that belong to no tenant. Both sides have them, and nothing of them moves.
    pub reference_tables: Vec<TableName>,
}

/// Whether the target checks foreign keys and fires triggers while rows are written for a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checks {
    /// It does: parents come first.
    Kept,
    /// The mover may switch them off ([`MoverSession::may_skip_checks`]), and does.
    Skipped,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The catalogue could not be read.
    #[error("the catalogue of {database} could not be read")]
    Catalogue {
        /// Which, without secrets.
        database: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The tables refer to each other in a circle, so none can be copied first while foreign keys are checked.
    #[error("{0}; the mover needs GRANT SET ON PARAMETER session_replication_role to move them")]
    Cyclic(CyclicTables),
    /// What a move cannot take. Never empty.
    #[error("a move cannot take {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused(Vec<Refusal>),
    /// There is no table in these schemas, which nobody means.
    #[error("there is no tenant table in {}", .0.join(", "))]
    Nothing(Vec<String>),
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedColumn {
    /// Its name.
    pub name: String,
    /// Its type without a length, as SQL has it: what a text is cast to.
    pub data_type: String,
    /// Its value is computed; it cannot be written.
    pub generated: bool,
}

impl PlannedColumn {
    /// Its name in quotes.
    #[must_use]
    pub fn quoted(&self) -> String {
        quote(&self.name)
    }
}

/// A table as it is moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePlan {
    /// Its name.
    pub name: TableName,
    /// Its columns in order.
    pub columns: Vec<PlannedColumn>,
    /// What tells a tenant's rows apart: the columns of the primary key after `tenant_id`. None: there is one row
    /// at most.
    pub key: Vec<PlannedColumn>,
    /// Places in [`MovePlan::tables`] of those that its rows refer to, itself aside; only where foreign keys are
    /// checked.
    pub parents: Vec<usize>,
    /// Whether its rows refer to each other; only where foreign keys are checked.
    pub refers_to_itself: bool,
}

impl TablePlan {
    /// Its name in quotes, with its schema.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote(&self.name.schema), quote(&self.name.name))
    }

    /// The columns that are written: all but the computed ones.
    pub fn written(&self) -> impl Iterator<Item = &PlannedColumn> {
        self.columns.iter().filter(|column| !column.generated)
    }
}

/// What is moved of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovePlan {
    /// The tables, each after those its rows refer to; by name where nothing is checked.
    pub tables: Vec<TablePlan>,
    /// Whether the target checks what is written.
    pub checks: Checks,
    /// What has to be the same on both sides.
    pub fingerprint: Fingerprint,
}

impl MovePlan {
    /// Reads a database. `checks` says what holds on the target.
    ///
    /// # Errors
    /// [`PlanError`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves the session in a transaction: the session is to be dropped too.
    pub async fn read(
        session: &mut MoverSession,
        contents: &Contents,
        checks: Checks,
    ) -> Result<Self, PlanError> {
        let database = session.describe().to_owned();
        let read = survey(session.conn(), contents).await;
        let survey = read.map_err(|source| PlanError::Catalogue { database, source })?;
        Self::of(survey, contents, checks)
    }

    /// Reads which rows a tenant has in a database that are to be removed: every table that has a tenant, those that
    /// could not be moved included.
    ///
    /// # Errors
    /// [`PlanError::Catalogue`]; [`PlanError::Cyclic`] where the checks are kept.
    ///
    /// # Cancel safety
    /// As [`MovePlan::read`].
    pub async fn read_to_remove(
        session: &mut MoverSession,
        contents: &Contents,
        checks: Checks,
    ) -> Result<Self, PlanError> {
        let database = session.describe().to_owned();
        let catalogue = |source| PlanError::Catalogue { database: database.clone(), source };
        let Survey { mut relations, facts } = survey(session.conn(), contents).await.map_err(catalogue)?;
        relations.retain(|relation| {
            relation.kind == RelationKind::Table
                && relation.columns.iter().any(|column| column.name == TENANT_ID)
        });
        Self::arranged(relations, &facts, checks)
    }

    /// Finds a table by its name.
    #[must_use]
    pub fn table(&self, name: &TableName) -> Option<&TablePlan> {
        self.tables.iter().find(|table| table.name == *name)
    }

    fn of(survey: Survey, contents: &Contents, checks: Checks) -> Result<Self, PlanError> {
        let Survey { relations, facts } = survey;
        let (tables, others): (Vec<Table>, Vec<Table>) =
            relations.into_iter().partition(|relation| relation.kind == RelationKind::Table);
        let refused = refusals::all(&tables, &others, &facts, contents, checks);
        if !refused.is_empty() {
            return Err(PlanError::Refused(refused));
        }
        if tables.is_empty() {
            return Err(PlanError::Nothing(contents.schemas.clone()));
        }
        Self::arranged(tables, &facts, checks)
    }

    fn arranged(tables: Vec<Table>, facts: &facts::Facts, checks: Checks) -> Result<Self, PlanError> {
        let tables = match checks {
            Checks::Kept => parents_first(tables).map_err(PlanError::Cyclic)?,
            Checks::Skipped => tables,
        };
        let fingerprint = Fingerprint::of(&tables, facts);
        let places: HashMap<TableName, usize> =
            tables.iter().enumerate().map(|(place, table)| (table.name.clone(), place)).collect();
        let tables = tables.iter().map(|table| planned(table, facts, &places, checks)).collect();
        Ok(Self { tables, checks, fingerprint })
    }
}

fn planned(
    table: &Table,
    facts: &facts::Facts,
    places: &HashMap<TableName, usize>,
    checks: Checks,
) -> TablePlan {
    let columns: Vec<PlannedColumn> = table
        .columns
        .iter()
        .map(|column| PlannedColumn {
            name: column.name.clone(),
            data_type: facts.cast_type(&table.name, &column.name).to_owned(),
            generated: column.generated,
        })
        .collect();
    // An index names its columns as SQL does, in quotes where they need them.
    let key = facts.relation(&table.name).map_or(&[][..], |relation| &relation.primary_key);
    let key = key
        .iter()
        .skip(1)
        .filter_map(|name| columns.iter().find(|column| column.name == *name).cloned())
        .collect();
    let parents: HashSet<usize> = match checks {
        Checks::Kept => table
            .foreign_keys
            .iter()
            .filter(|reference| reference.references != table.name)
            .filter_map(|reference| places.get(&reference.references).copied())
            .collect(),
        Checks::Skipped => HashSet::new(),
    };
    let mut parents: Vec<usize> = parents.into_iter().collect();
    parents.sort_unstable();
    let to_itself = table.foreign_keys.iter().any(|reference| reference.references == table.name);
    TablePlan {
        name: table.name.clone(),
        columns,
        key,
        parents,
        refers_to_itself: checks == Checks::Kept && to_itself,
    }
}

/// What a database says of the schemas.
struct Survey {
    relations: Vec<Table>,
    facts: facts::Facts,
}

async fn survey(conn: &mut PgConnection, contents: &Contents) -> Result<Survey, sqlx::Error> {
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *conn).await?;
    let mut relations = catalogue::read(conn, &contents.schemas).await?;
    relations.retain(|relation| !contents.reference_tables.contains(&relation.name));
    let facts = facts::read(conn, &contents.schemas).await?;
    sqlx::raw_sql("COMMIT").execute(conn).await?;
    Ok(Survey { relations, facts })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A table with a bigint for its key and one computed column, whose names need quotes.
    pub(crate) fn odd(name: &str, parents: &[usize]) -> TablePlan {
        let column = |name: &str, data_type: &str, generated| PlannedColumn {
            name: name.to_owned(),
            data_type: data_type.to_owned(),
            generated,
        };
        TablePlan {
            name: TableName { schema: "Odd \"Shop".to_owned(), name: name.to_owned() },
            columns: vec![
                column("tenant_id", "uuid", false),
                column("no", "bigint", false),
                column("gro\"ss", "numeric", true),
            ],
            key: vec![column("no", "bigint", false)],
            parents: parents.to_vec(),
            refers_to_itself: false,
        }
    }
}
