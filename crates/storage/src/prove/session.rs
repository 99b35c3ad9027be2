//! Connections that attack, each attempt in a transaction that is rolled back.

use std::fmt;

use futures::{StreamExt as _, TryStreamExt as _};
use sqlx::{AssertSqlSafe, Connection, Either, Executor, PgConnection, Row};
use stagesub_tenancy::TenantId;

use super::error::ProveError;
use crate::error::{Failure, classify, sqlstate};
use crate::migrate::session::connect;
use crate::target::ConnectionTarget;

/// How every transaction begins: short of patience, because others may be at work.
const OPENING: &str = "BEGIN;SET LOCAL statement_timeout='5s';SET LOCAL lock_timeout='1s';\
    SET LOCAL idle_in_transaction_session_timeout='15s'";

/// What a transaction is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// Nothing, on a connection that never was bound.
    Never,
    /// What an earlier transaction's `SET LOCAL` leaves behind.
    Empty,
    /// Text that is no tenant's id, and would widen a condition if it were pasted into one.
    Garbage,
    /// A tenant.
    To(TenantId),
}

impl Bound {
    fn statement(self) -> Option<String> {
        match self {
            Self::Never => None,
            Self::Empty => Some("SET LOCAL app.tenant_id = ''".to_owned()),
            Self::Garbage => Some("SET LOCAL app.tenant_id = 'x'' OR 1=1 --'".to_owned()),
            Self::To(tenant) => Some(format!("SET LOCAL app.tenant_id = '{tenant}'")),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "bound to no tenant",
            Self::Empty => "bound to ''",
            Self::Garbage => "bound to garbage",
            Self::To(_) => "bound to another tenant",
        })
    }
}

/// What the server said to a statement.
#[derive(Debug)]
pub(super) enum Answer {
    /// It was carried out.
    Done(Done),
    /// It was refused.
    Refused(Refusal),
}

/// What a statement did.
#[derive(Debug)]
pub(super) struct Done {
    /// Rows that it returned or changed.
    pub(super) rows: u64,
    /// The first column of the last row, which must be text.
    pub(super) value: Option<String>,
}

/// A refusal. Its message may quote rows, so it goes into no report.
#[derive(Debug)]
pub(super) struct Refusal {
    /// SQLSTATE.
    pub(super) code: String,
    /// The constraint that refused.
    pub(super) constraint: Option<String>,
    pub(super) message: String,
}

impl Refusal {
    /// A constraint refused, so policies and privileges had let the statement pass.
    pub(super) fn by_constraint(&self) -> bool {
        self.code.starts_with("23")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.constraint {
            Some(constraint) => write!(f, "SQLSTATE {} of {constraint}", self.code),
            None => write!(f, "SQLSTATE {}", self.code),
        }
    }
}

/// Two connections of one login: one that never binds a tenant, and one that does.
pub(super) struct Session {
    target: ConnectionTarget,
    unbound: PgConnection,
    bound: PgConnection,
    /// First statements of every transaction.
    opening: String,
}

impl Session {
    pub(super) async fn open(target: &ConnectionTarget) -> Result<Self, ProveError> {
        Ok(Self {
            unbound: reach(target).await?,
            bound: reach(target).await?,
            target: target.clone(),
            opening: OPENING.to_owned(),
        })
    }

    /// Two connections more of the same login.
    pub(super) async fn another(&self) -> Result<Self, ProveError> {
        Self::open(&self.target).await
    }

    /// The same, acting as another role in each transaction.
    pub(super) fn acting_as(&mut self, role: &str) {
        self.opening = format!("{OPENING};SET LOCAL ROLE {role}");
    }

    /// The connection that never binds, for reading the catalogue.
    pub(super) fn catalogue(&mut self) -> &mut PgConnection {
        &mut self.unbound
    }

    pub(super) fn describe(&self) -> String {
        self.target.describe()
    }

    /// What became of something that is not an attack.
    pub(super) fn failed(&self, doing: &str) -> impl FnOnce(sqlx::Error) -> ProveError + use<> {
        explain(self.target.describe(), doing.to_owned())
    }

    /// Begins a transaction that will be rolled back.
    pub(super) async fn begin(&mut self, bound: Bound) -> Result<Transaction<'_>, ProveError> {
        let target = self.target.describe();
        let conn = if bound == Bound::Never { &mut self.unbound } else { &mut self.bound };
        let mut transaction = Transaction { conn, target };
        // One message, as a service begins.
        let opening = bound
            .statement()
            .map_or_else(|| self.opening.clone(), |statement| format!("{};{statement}", self.opening));
        transaction.set(&opening).await?;
        Ok(transaction)
    }

    /// Runs one statement in a transaction of its own.
    pub(super) async fn attempt(&mut self, bound: Bound, sql: &str) -> Result<Answer, ProveError> {
        let mut transaction = self.begin(bound).await?;
        let answer = transaction.run(sql).await?;
        transaction.end().await?;
        Ok(answer)
    }

    /// Copies a column of a table to here. The answer's rows are those that are not `own`.
    pub(super) async fn copy_out(
        &mut self,
        bound: Bound,
        sql: &str,
        own: &str,
    ) -> Result<Answer, ProveError> {
        let failed = self.failed("copying");
        let transaction = self.begin(bound).await?;
        let copied: Result<u64, sqlx::Error> = async {
            let mut others = 0;
            let mut data = transaction.conn.copy_out_raw(sql).await?;
            // One message a row.
            while let Some(row) = data.try_next().await? {
                others += u64::from(row.as_ref().trim_ascii() != own.as_bytes());
            }
            Ok(others)
        }
        .await;
        match copied {
            Ok(rows) => {
                transaction.end().await?;
                Ok(Answer::Done(Done { rows, value: None }))
            }
            Err(error) => {
                // The driver does not read on to where the server is ready again.
                let renewed = reach(&self.target).await?;
                if bound == Bound::Never {
                    self.unbound = renewed;
                } else {
                    self.bound = renewed;
                }
                refusal(error).map(Answer::Refused).map_err(failed)
            }
        }
    }

    /// Asks to copy into a table, and takes that back once it is granted.
    pub(super) async fn copy_in(&mut self, bound: Bound, sql: &str) -> Result<Answer, ProveError> {
        let failed = self.failed("copying");
        let transaction = self.begin(bound).await?;
        let granted = match transaction.conn.copy_in_raw(sql).await {
            Ok(copy) => copy.abort("only asked").await.map(|()| Answer::Done(Done { rows: 0, value: None })),
            Err(error) => refusal(error).map(Answer::Refused),
        };
        let answer = granted.map_err(failed)?;
        transaction.end().await?;
        Ok(answer)
    }

    pub(super) async fn close(self) -> Result<(), ProveError> {
        let failed = explain(self.target.describe(), "closing the connections".to_owned());
        let closed = async {
            self.unbound.close().await?;
            self.bound.close().await
        };
        closed.await.map_err(failed)
    }
}

/// A transaction that is rolled back.
pub(super) struct Transaction<'s> {
    conn: &'s mut PgConnection,
    target: String,
}

impl Transaction<'_> {
    /// Runs a statement that is part of an attack.
    pub(super) async fn run(&mut self, sql: &str) -> Result<Answer, ProveError> {
        match run(self.conn, sql).await {
            Ok(done) => Ok(Answer::Done(done)),
            Err(error) => refusal(error)
                .map(Answer::Refused)
                .map_err(explain(self.target.clone(), format!("attacking with `{}`", shown(sql)))),
        }
    }

    /// Runs a statement that must not fail.
    pub(super) async fn set(&mut self, sql: &str) -> Result<(), ProveError> {
        let failed = explain(self.target.clone(), format!("preparing an attack with `{}`", shown(sql)));
        run(self.conn, sql).await.map(drop).map_err(failed)
    }

    /// Reads one value, which must be text. `None`: no row, or NULL.
    pub(super) async fn read(&mut self, sql: &str) -> Result<Option<String>, ProveError> {
        let failed = explain(self.target.clone(), format!("preparing an attack with `{}`", shown(sql)));
        run(self.conn, sql).await.map(|done| done.value).map_err(failed)
    }

    /// Binds another tenant from here on.
    pub(super) async fn bind(&mut self, tenant: TenantId) -> Result<(), ProveError> {
        self.set(&format!("SET LOCAL app.tenant_id = '{tenant}'")).await
    }

    /// Takes everything back.
    pub(super) async fn end(mut self) -> Result<(), ProveError> {
        self.set("ROLLBACK").await
    }
}

pub(super) async fn reach(target: &ConnectionTarget) -> Result<PgConnection, ProveError> {
    let unreachable = |source| ProveError::Unreachable { target: target.describe(), source };
    let mut conn = connect(target).await.map_err(unreachable)?;
    // A GRANT that grants nothing is told as a warning: here it is an attack that was refused.
    sqlx::raw_sql("SET client_min_messages = error").execute(&mut conn).await.map_err(unreachable)?;
    Ok(conn)
}

async fn run(conn: &mut PgConnection, sql: &str) -> Result<Done, sqlx::Error> {
    let (mut rows, mut value) = (0, None);
    let mut answers = conn.fetch_many(sqlx::raw_sql(AssertSqlSafe(sql.to_owned())));
    while let Some(answer) = answers.next().await {
        match answer? {
            Either::Left(done) => rows += done.rows_affected(),
            Either::Right(row) => {
                value = if row.is_empty() { None } else { row.try_get_unchecked::<Option<String>, _>(0)? };
            }
        }
    }
    Ok(Done { rows, value })
}

/// Tells a refusal from a failure to attack at all.
fn refusal(error: sqlx::Error) -> Result<Refusal, sqlx::Error> {
    if matches!(classify(&error), Failure::ConnectionLost | Failure::Exhausted) {
        return Err(error);
    }
    let code = sqlstate(&error).map(std::borrow::Cow::into_owned);
    match (&error, code) {
        (sqlx::Error::Database(said), Some(code)) => Ok(Refusal {
            code,
            constraint: said.constraint().map(str::to_owned),
            message: said.message().to_owned(),
        }),
        _ => Err(error),
    }
}

fn explain(target: String, doing: String) -> impl FnOnce(sqlx::Error) -> ProveError + use<> {
    move |source| {
        if classify(&source) == Failure::ConnectionLost {
            ProveError::Lost { target, doing, source }
        } else {
            ProveError::Failed { target, doing, source }
        }
    }
}

/// The beginning of a statement: what follows may be a row.
fn shown(sql: &str) -> String {
    sql.chars().take(60).collect()
}

/// A text as a literal. Backslashes mean themselves: `standard_conforming_strings` is on by default, and this
/// says so where it is not.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_ends_where_its_text_ends() {
        assert_eq!(literal("a'b"), "'a''b'");
        assert_eq!(literal(r#"{"a": "\u00e5'"}"#), r#"E'{"a": "\\u00e5''"}'"#);
    }
}
