//! Putting a schema that is there already behind the fence: the SQL that its tables need, printed or applied.
//!
//! [`plan`] reads the catalogue and says what has to be done; [`adopt`] does it, in one transaction. What comes out
//! is what [`doctor`](crate::doctor) asks of tenant tables: `tenant_id` in front of every key, reference and index,
//! forced policies, an owner that nobody logs in as, and grants that leave the application no way to change whose a
//! row is.
//!
//! - `refusals.rs` what is not adopted, and what to do about it first
//! - `survey.rs` what the catalogue says of the tables
//! - `tables.rs` columns, keys, references and policies; `grants.rs` owners and privileges
//!
//! ```no_run
//! use sqlx::PgConnection;
//! use stagesub_storage::adopt::{Adoption, plan};
//!
//! async fn print(conn: &mut PgConnection) -> Result<(), Box<dyn std::error::Error>> {
//!     let adoption = Adoption::of("billing").reference_table("currency");
//!     println!("{}", plan(conn, &adoption).await?.to_sql());
//!     Ok(())
//! }
//! ```
//!
//! # Invariants
//! - Nothing is done by half: [`adopt`] commits everything, or nothing.
//! - What has to be decided by somebody who knows the data is asked, never guessed.
//! - A schema that was adopted is adopted: asking again finds nothing to do.
//! - Names come from the catalogue and are quoted; nothing that was typed becomes SQL.

mod grants;
mod refusals;
mod survey;
mod tables;

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use stagesub_tenancy::TenantId;

use crate::doctor::{Expectations, Finding, Level, examine_tables};
use crate::error::{LOCK_NOT_AVAILABLE, sqlstate};
use crate::migrate::session;
use crate::target::ConnectionTarget;

pub use refusals::Refusal;
use survey::Survey;

/// What a script is run under: names as they were read, and no queue of waiting requests behind a lock.
const SETTINGS: &str = "SET LOCAL search_path = pg_catalog, pg_temp;\nSET LOCAL lock_timeout = '3s';";

/// Rounds after which nothing may be left to do. The second one sees what the first one made.
const ROUNDS: usize = 3;

/// What is to be adopted, and what its owner decided about it.
#[derive(Debug, Clone)]
pub struct Adoption {
    schema: String,
    reference: Vec<String>,
    tenant_column: Option<String>,
    tenant: Option<TenantId>,
    trusted: Vec<String>,
    lock_timeout: Duration,
}

impl Adoption {
    /// The tables of this schema, each of which is a tenant table.
    #[must_use]
    pub fn of(schema: &str) -> Self {
        Self {
            schema: schema.to_owned(),
            reference: Vec::new(),
            tenant_column: None,
            tenant: None,
            trusted: Vec::new(),
            lock_timeout: Duration::from_secs(3),
        }
    }

    /// A table of the schema that belongs to no tenant: the application may read it.
    #[must_use]
    pub fn reference_table(mut self, name: &str) -> Self {
        self.reference.push(name.to_owned());
        self
    }

    /// The column that says whose a row is, where it is called otherwise than `tenant_id`: it is renamed.
    #[must_use]
    pub fn tenant_column(mut self, name: &str) -> Self {
        self.tenant_column = Some(name.to_owned());
        self
    }

    /// The tenant whose rows those are that say of no tenant that they are its own.
    #[must_use]
    pub fn tenant(mut self, tenant: TenantId) -> Self {
        self.tenant = Some(tenant);
        self
    }

    /// A role of somebody's own that keeps what it was granted.
    #[must_use]
    pub fn trusted_role(mut self, role: &str) -> Self {
        self.trusted.push(role.to_owned());
        self
    }

    /// Longest that [`adopt`] waits for each of its locks (3 s): whoever asks for a row meanwhile waits behind it.
    #[must_use]
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// What the doctor is to expect of the database once the schema is adopted.
    #[must_use]
    pub fn expectations(&self) -> Expectations {
        let expected = Expectations::default().data_schema(&self.schema);
        let expected =
            self.reference.iter().fold(expected, |all, name| all.reference_table(&self.schema, name));
        self.trusted.iter().fold(expected, |all, role| all.trusted_role(role))
    }
}

/// One thing to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What it is done to.
    pub object: String,
    /// The statement.
    pub sql: String,
}

/// Something that only whoever knows the data can say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// The table.
    pub table: String,
    /// What is asked, and how it is answered.
    pub question: String,
}

/// What a schema needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// What is to be done, in order.
    pub steps: Vec<Step>,
    /// What has to be decided before.
    pub decisions: Vec<Decision>,
}

impl Plan {
    /// Nothing is to be done and nothing to be decided.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.decisions.is_empty()
    }

    /// The plan as a script for one transaction; empty if there is nothing to do.
    #[must_use]
    pub fn to_sql(&self) -> String {
        let mut sql = String::new();
        if self.is_empty() {
            return sql;
        }
        // Writing to a String does not fail.
        for decision in &self.decisions {
            let _ = writeln!(sql, "-- TO BE DECIDED, {}: {}", comment(&decision.table), decision.question);
        }
        let _ = writeln!(sql, "BEGIN;\n{SETTINGS}");
        let mut object = None;
        for step in &self.steps {
            if object != Some(&step.object) {
                let _ = writeln!(sql, "\n-- {}", comment(&step.object));
                object = Some(&step.object);
            }
            let _ = writeln!(sql, "{}", step.sql);
        }
        sql.push_str("\nCOMMIT;\n");
        sql
    }
}

/// A name inside a comment: a line break in it does not end the comment.
fn comment(name: &str) -> String {
    name.replace(['\n', '\r'], " ")
}

/// Says what the schema needs. Nothing is kept; where the tenant's column is to be renamed, this holds those tables'
/// locks for as long as it reads the catalogue.
///
/// The connection is an administrator's or the migrator's, directly on the database, and in no transaction.
///
/// # Errors
/// [`AdoptError`]; all but [`AdoptError::Undecided`], which [`Plan::decisions`] stands for.
pub async fn plan(conn: &mut PgConnection, adoption: &Adoption) -> Result<Plan, AdoptError> {
    begin(conn, adoption).await?;
    let planned = async {
        refusals::check(conn, adoption).await?;
        let renames = tables::renames(&Survey::read(conn, adoption).await?, adoption);
        run(conn, &renames).await?;
        let mut plan = round(conn, adoption).await?;
        plan.steps.splice(0..0, renames);
        Ok(plan)
    }
    .await;
    end(conn, "ROLLBACK", planned).await
}

/// Does what the schema needs, in one transaction, and says what that was: nothing for one that was adopted before.
///
/// Its tables are locked until it is done. It waits for no lock longer than [`Adoption::lock_timeout`], and looks at
/// what came out as the doctor does before it commits.
///
/// # Errors
/// [`AdoptError`]; nothing was changed.
pub async fn adopt(conn: &mut PgConnection, adoption: &Adoption) -> Result<Plan, AdoptError> {
    begin(conn, adoption).await?;
    let done = apply(conn, adoption).await;
    let ended = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    end(conn, ended, done).await
}

/// [`plan`], over a connection of its own.
///
/// # Errors
/// As [`plan`]; [`AdoptError::Unreachable`].
pub async fn plan_on(target: &ConnectionTarget, adoption: &Adoption) -> Result<Plan, AdoptError> {
    let mut conn = open(target).await?;
    let planned = plan(&mut conn, adoption).await?;
    conn.close().await.map_err(during("closing the connection"))?;
    Ok(planned)
}

/// [`adopt`], over a connection of its own.
///
/// # Errors
/// As [`adopt`]; [`AdoptError::Unreachable`].
pub async fn adopt_on(target: &ConnectionTarget, adoption: &Adoption) -> Result<Plan, AdoptError> {
    let mut conn = open(target).await?;
    let done = adopt(&mut conn, adoption).await?;
    conn.close().await.map_err(during("closing the connection"))?;
    Ok(done)
}

async fn open(target: &ConnectionTarget) -> Result<PgConnection, AdoptError> {
    let unreachable = |source| AdoptError::Unreachable { target: target.describe(), source };
    session::connect(target).await.map_err(unreachable)
}

async fn apply(conn: &mut PgConnection, adoption: &Adoption) -> Result<Plan, AdoptError> {
    refusals::check(conn, adoption).await?;
    let renames = tables::renames(&Survey::read(conn, adoption).await?, adoption);
    let mut done = Plan::default();
    run(conn, &renames).await?;
    done.steps.extend(renames);
    let mut plan = round(conn, adoption).await?;
    if plan.is_empty() {
        return Ok(done);
    }
    // What is planned from here on cannot change under the plan.
    let locked = tables::lock(&Survey::read(conn, adoption).await?);
    run(conn, &locked).await?;
    for _ in 0..ROUNDS {
        plan = round(conn, adoption).await?;
        if plan.is_empty() {
            return look(conn, adoption).await.map(|()| done);
        }
        if !plan.decisions.is_empty() {
            return Err(AdoptError::Undecided(plan.decisions));
        }
        run(conn, &plan.steps).await?;
        done.steps.append(&mut plan.steps);
    }
    Err(AdoptError::Unsettled { step: plan.steps.pop().map(|step| step.sql).unwrap_or_default() })
}

/// The lints of tables on what is about to be committed.
async fn look(conn: &mut PgConnection, adoption: &Adoption) -> Result<(), AdoptError> {
    let survey = Survey::read(conn, adoption).await?;
    let found = examine_tables("this database", &survey.tables, &survey.reference);
    match found.into_iter().find(|finding| finding.level == Level::Hole) {
        Some(hole) => Err(AdoptError::Hole(Box::new(hole))),
        None => Ok(()),
    }
}

/// What is to be done to the schema as it is now.
async fn round(conn: &mut PgConnection, adoption: &Adoption) -> Result<Plan, AdoptError> {
    let mut steps = grants::owners(conn, adoption).await?;
    let survey = Survey::read(conn, adoption).await?;
    let structure = tables::plan(&survey, adoption);
    steps.extend(structure.steps);
    steps.extend(grants::privileges(conn, adoption).await?);
    Ok(Plan { steps, decisions: structure.decisions })
}

/// Names are resolved in `pg_catalog` alone, so that definitions come back with every other schema written out.
async fn begin(conn: &mut PgConnection, adoption: &Adoption) -> Result<(), AdoptError> {
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL search_path = pg_catalog, pg_temp;
        SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = 0",
        adoption.lock_timeout.as_millis().max(1)
    );
    sqlx::raw_sql(AssertSqlSafe(begin)).execute(conn).await.map_err(during("beginning"))?;
    Ok(())
}

async fn end(
    conn: &mut PgConnection,
    with: &'static str,
    done: Result<Plan, AdoptError>,
) -> Result<Plan, AdoptError> {
    let ended = sqlx::raw_sql(with).execute(conn).await;
    let done = done?;
    ended.map_err(during("ending the transaction"))?;
    Ok(done)
}

async fn run(conn: &mut PgConnection, steps: &[Step]) -> Result<(), AdoptError> {
    for step in steps {
        // Made of the catalogue's own names, quoted.
        if let Err(source) = sqlx::raw_sql(AssertSqlSafe(step.sql.as_str())).execute(&mut *conn).await {
            let busy = sqlstate(&source).as_deref() == Some(LOCK_NOT_AVAILABLE);
            let (object, sql) = (step.object.clone(), step.sql.clone());
            return Err(if busy {
                AdoptError::Busy { object, source }
            } else {
                AdoptError::Statement { sql, source }
            });
        }
    }
    Ok(())
}

fn during(doing: &'static str) -> impl Fn(sqlx::Error) -> AdoptError {
    move |source| AdoptError::Database { doing, source }
}

/// A schema was not adopted, and nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// The database cannot be reached.
    #[error("{target} cannot be reached")]
    Unreachable {
        /// User, address and database.
        target: String,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// The schema is none of a service's own.
    #[error("the schema {schema} cannot be adopted: {why}")]
    Reserved {
        /// Which.
        schema: String,
        /// Why, and what to do.
        why: &'static str,
    },
    /// There is no such schema.
    #[error("there is no schema {schema} in this database")]
    NoSchema {
        /// Which.
        schema: String,
    },
    /// A table that was named is not there.
    #[error("there is no table {table} in the schema")]
    NoTable {
        /// Which.
        table: String,
    },
    /// Nothing binds transactions to tenants here.
    #[error("this database holds no tenants yet: there is no schema app; run `stagesub migrate` on it first")]
    NotPrepared,
    /// The tenant that rows are to be given to has no place here.
    #[error("this database does not serve the tenant {tenant}; make it first")]
    UnknownTenant {
        /// Which.
        tenant: TenantId,
    },
    /// Something in it is not adopted.
    #[error("{} cannot be adopted as they are; the first: {}", things(.0.len()), .0.first().map(ToString::to_string).unwrap_or_default())]
    Refused(Vec<Refusal>),
    /// Somebody has to say whose rows they are.
    #[error("{} to be decided; the first, on {}: {}", decisions(.0.len()), .0.first().map_or("", |one| &one.table), .0.first().map_or("", |one| &one.question))]
    Undecided(Vec<Decision>),
    /// A lock was not to be had in time.
    #[error("{object} is in use, and its lock was not to be had in time; try again when less is going on")]
    Busy {
        /// Which.
        object: String,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// A statement failed: often a row that does not fit the stricter key or reference.
    #[error("a statement failed: {sql}")]
    Statement {
        /// Which.
        sql: String,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// Something is left to do, however often it is done.
    #[error("this is to be done again after it was done: {step}")]
    Unsettled {
        /// What.
        step: String,
    },
    /// What came out has a hole.
    #[error("what came out has a hole: {0}")]
    Hole(Box<Finding>),
    /// The catalogue could not be read, or the transaction not be ended.
    #[error("{doing} failed")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
}

fn things(count: usize) -> String {
    if count == 1 { "1 thing".to_owned() } else { format!("{count} things") }
}

fn decisions(count: usize) -> String {
    if count == 1 { "1 thing has".to_owned() } else { format!("{count} things have") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_one_transaction_and_an_empty_one_is_nothing() {
        assert_eq!(Plan::default().to_sql(), "");
        let step = |sql: &str| Step { object: "a.b\nDROP TABLE x".to_owned(), sql: sql.to_owned() };
        let plan = Plan { steps: vec![step("ONE;"), step("TWO;")], decisions: Vec::new() };
        assert_eq!(
            plan.to_sql(),
            format!("BEGIN;\n{SETTINGS}\n\n-- a.b DROP TABLE x\nONE;\nTWO;\n\nCOMMIT;\n")
        );
    }

    #[test]
    fn errors_count() {
        let decision = Decision { table: "a.b".to_owned(), question: "whose?".to_owned() };
        let one = AdoptError::Undecided(vec![decision.clone()]).to_string();
        assert_eq!(one, "1 thing has to be decided; the first, on a.b: whose?");
        assert!(AdoptError::Undecided(vec![decision; 2]).to_string().starts_with("2 things have"));
    }
}
