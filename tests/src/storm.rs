//! Owners of transactions who do everything wrong and go away in the middle, and a probe of what they leave
//! behind.
//!
//! Every outcome is judged: an error that the statement was made to provoke, or that a killed backend or a
//! restarted server explains, is counted; everything else is a surprise, and a run must end without one.

use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use sqlx::{AssertSqlSafe, Row};
use stagesub_storage::error::{CommitError, is_dead, sqlstate};
use stagesub_storage::one_message::ReadError;
use stagesub_storage::one_write::WriteError;
use stagesub_tenancy::{Access, BeginError, TenantId, TenantScope};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::canary::Canary;
use crate::data_path::{Db, Tx};

mod seen;

pub use seen::Seen;

/// Rows that the storm itself makes are numbered from here; those below are nobody's to delete.
pub const PASSING: i64 = 1_000_000;

/// Runs a future for so many polls and then drops it, as a client that goes away does. `None`: dropped.
pub async fn polled<F: Future>(times: u32, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = times;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

/// A tenant in the storm.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Permission to its data.
    pub scope: TenantScope,
    /// What the name of each row of it begins with, and no row of another.
    pub canary: Canary,
    /// It has the instruments 1 to this.
    pub rows: i64,
    /// A tenant that it must not reach.
    pub other: TenantId,
}

/// What goes on beside the storm, and explains errors that nothing else does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Nothing.
    Calm,
    /// Connections are lost: backends are ended, the server is restarted.
    Rough,
}

/// A storm over one way to transactions.
pub struct Storm {
    /// The way.
    pub db: Db,
    /// Whose data it works on.
    pub guests: Vec<Guest>,
    /// What else goes on.
    pub weather: Weather,
    /// What was seen.
    pub seen: Seen,
    next: AtomicI64,
    untouched: OnceCell<String>,
}

/// What the storm panics with.
struct Struck;

/// The connection is gone, and the weather explains it.
struct Gone;

/// A transaction as its owner should know it.
struct Owner<'g> {
    guest: &'g Guest,
    access: Access,
    /// The one row it changes: two owners who took several could wait for each other.
    row: i64,
    /// A statement failed, so every other one must.
    aborted: bool,
}

const ALL: &str = "SELECT tenant_id, name FROM tenant.instrument";
const ONE: &str = "SELECT tenant_id, name FROM tenant.instrument WHERE no = $1";
const INSERT: &str = "INSERT INTO tenant.instrument (tenant_id, no, name, created_at, updated_at)
    VALUES ($1, $2, $3, now(), now())";
/// Every tenant has a row of that number.
const UPDATE: &str = "UPDATE tenant.instrument SET display_order = $2 WHERE no = $1";
const DELETE: &str = "DELETE FROM tenant.instrument WHERE no IN (
    SELECT no FROM tenant.instrument WHERE no > $1 ORDER BY no LIMIT 20 FOR UPDATE SKIP LOCKED)";
/// One message in which the statement runs out of time.
const TOO_SLOW: &str = "SET LOCAL statement_timeout = '1ms'; SELECT pg_sleep(10)";
/// What is left of a transaction that was open: its locks and its number.
const PROBE: &str = "SELECT app.tenant_id(), pg_current_xact_id_if_assigned() IS NULL
        AND NOT EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid()
            AND (locktype = 'advisory' OR mode IN ('RowShareLock', 'RowExclusiveLock'))),
    count(*) FILTER (WHERE tenant_id <> $1 OR position($2 IN name) <> 1), count(*) FILTER (WHERE no <= $3)
    FROM tenant.instrument";
/// The session under the transaction: what is set there would outlive it.
const SESSION: &str = "ROLLBACK; SELECT concat_ws('|', coalesce(current_setting('app.tenant_id', true), ''),
    current_setting('work_mem'), current_setting('statement_timeout'), current_setting('search_path'),
    current_setting('default_transaction_read_only'))";

impl Storm {
    /// A storm that has not begun.
    #[must_use]
    pub fn new(db: Db, guests: Vec<Guest>, weather: Weather) -> Self {
        let (next, untouched) = (AtomicI64::new(PASSING), OnceCell::new());
        Self { db, guests, weather, seen: Seen::default(), next, untouched }
    }

    /// Remembers what a session looks like that nobody has touched.
    pub async fn look(&self) {
        let mut tx = self.db.begin(&self.guests[0].scope, Access::Read).await.expect("a first transaction");
        let session = sqlx::raw_sql(SESSION).fetch_one(&mut tx).await.expect("it can be looked at");
        self.untouched.set(session.get(0)).expect("looked at once");
        tx.commit().await.expect("it ends");
    }

    /// Any of the guests.
    pub fn guest(&self, random: &mut StdRng) -> &Guest {
        &self.guests[random.random_range(0..self.guests.len())]
    }

    /// One transaction of anybody, which may be dropped at any await, aborted with its task, or panic. `false`:
    /// the weather kept it from beginning.
    pub async fn round(self: &Arc<Self>, random: &mut StdRng) -> bool {
        let (storm, guest) = (Arc::clone(self), random.random_range(0..self.guests.len()));
        let mut own = StdRng::seed_from_u64(random.next_u64());
        let work = async move { storm.work(&storm.guests[guest], &mut own).await };
        let work = AssertUnwindSafe(work).catch_unwind();
        let end = match random.random_range(0..8) {
            0 | 1 => Some(work.await),
            2 => tokio::time::timeout(Duration::from_millis(random.random_range(0..=2)), work).await.ok(),
            3 => {
                let task = tokio::spawn(work);
                for _ in 0..random.random_range(0..20) {
                    tokio::task::yield_now().await;
                }
                task.abort();
                task.await.ok()
            }
            _ => Box::pin(polled(random.random_range(1..=14), work)).await,
        };
        match end {
            None => Seen::count(&self.seen.cancelled),
            Some(Ok(begun)) => return begun,
            Some(Err(panic)) if panic.is::<Struck>() => Seen::count(&self.seen.panics),
            Some(Err(panic)) => resume_unwind(panic),
        }
        true
    }

    /// What a request might be doing: one to three statements, some of which fail, then an end.
    async fn work(&self, guest: &Guest, random: &mut StdRng) -> bool {
        match random.random_range(0..9) {
            0 | 1 => return self.glance(guest).await,
            2 => return self.jot(guest, random).await,
            3 => return self.stumble(guest).await,
            _ => {}
        }
        let access = if random.random_range(0..4) == 0 { Access::Read } else { Access::Write };
        let mut tx = match self.db.begin(&guest.scope, access).await {
            Ok(tx) => tx,
            Err(error) => {
                self.judge_begin(&error);
                return !self.explains_source(&error);
            }
        };
        Seen::count(&self.seen.begun);
        let mut owner = Owner { guest, access, row: random.random_range(1..=guest.rows), aborted: false };
        for _ in 0..random.random_range(1..=3) {
            if let Err(Gone) = self.statement(&mut tx, &mut owner, random).await {
                Seen::count(&self.seen.lost);
                return true;
            }
        }
        match random.random_range(0..4) {
            0 => drop(tx),
            // Not by panic!, which would print each.
            1 => resume_unwind(Box::new(Struck)),
            _ => self.judge_commit(tx.commit().await, &owner),
        }
        true
    }

    /// A read in one message, which nothing that its connection went through before may touch. `false`: the weather
    /// kept it from beginning.
    async fn glance(&self, guest: &Guest) -> bool {
        match self.db.names(&guest.scope, guest.rows, 1).await {
            Ok(rows) => {
                for row in &rows {
                    self.check(row, guest);
                }
                if usize::try_from(guest.rows).ok() != Some(rows.len()) {
                    self.seen.poison(&format!(
                        "{} rows of {} were read in one message",
                        rows.len(),
                        guest.rows
                    ));
                }
                Seen::count(&self.seen.glances);
            }
            Err(ReadError::Begin(error)) => {
                self.judge_begin(&error);
                return !self.explains_source(&error);
            }
            Err(error) if self.explains_source(&error) => Seen::count(&self.seen.lost),
            Err(error) => self.seen.poison(&format!("a read in one message got {}", chain(&error))),
        }
        true
    }

    /// A read in one message that raises, after which nothing of it is on the connection. `false`: the weather kept it from
    /// beginning.
    async fn stumble(&self, guest: &Guest) -> bool {
        match self.db.names(&guest.scope, guest.rows, 0).await {
            Ok(rows) => self.seen.poison(&format!("{} rows were read by a division by zero", rows.len())),
            Err(ReadError::Begin(error)) => {
                self.judge_begin(&error);
                return !self.explains_source(&error);
            }
            Err(ReadError::Statement(error)) if sqlstate(&error).as_deref() == Some("22012") => {
                Seen::count(&self.seen.stumbles);
            }
            Err(error) if self.explains_source(&error) => Seen::count(&self.seen.lost),
            Err(error) => self.seen.poison(&format!("a read that raises got {}", chain(&error))),
        }
        true
    }

    /// A write in one message, the same. `false`: the weather kept it from beginning.
    async fn jot(&self, guest: &Guest, random: &mut StdRng) -> bool {
        let (row, order) = (random.random_range(1..=guest.rows), random.random_range(0..9999));
        match self.db.reorder(&guest.scope, row, order).await {
            Ok(1) => Seen::count(&self.seen.jots),
            Ok(rows) => self.seen.poison(&format!("{rows} rows were changed in one message")),
            Err(WriteError::Begin(error)) => {
                self.judge_begin(&error);
                return !self.explains_source(&error);
            }
            Err(error) if self.explains_source(&error) => Seen::count(&self.seen.lost),
            Err(error) => self.seen.poison(&format!("a write in one message got {}", chain(&error))),
        }
        true
    }

    async fn statement(&self, tx: &mut Tx, owner: &mut Owner<'_>, random: &mut StdRng) -> Result<(), Gone> {
        let guest = owner.guest;
        let own = guest.scope.tenant_id().as_uuid();
        let written = match owner.access {
            Access::Read => Some("25006"),
            Access::Write => None,
        };
        let (what, outcome, expected) = match random.random_range(0..64) {
            0..10 => ("read everything", self.read(tx, guest, sqlx::query(ALL), None).await, None),
            10..20 => {
                let query = sqlx::query(ONE).bind(owner.row);
                ("read one", self.read(tx, guest, query, Some(1)).await, None)
            }
            20..24 => {
                // A text that was never prepared.
                let text = format!("SELECT {}::bigint", random.next_u32());
                ("prepare", done(sqlx::query(AssertSqlSafe(text)).execute(tx).await), None)
            }
            24..30 => {
                // A stream that is read in part.
                let row = sqlx::query(ALL).fetch(tx).next().await;
                ("read in part", row.map_or(Ok(()), |row| row.map(|row| self.check(&row, guest))), None)
            }
            30..34 => {
                let insert = sqlx::query(INSERT).bind(own).bind(owner.row).bind(guest.canary.as_str());
                ("insert twice", done(insert.execute(tx).await), written.or(Some("23505")))
            }
            34..37 => ("divide", done(sqlx::query("SELECT 1 / 0").execute(tx).await), Some("22012")),
            37..41 => {
                // Seldom long enough for whoever cleans up to have it cancelled on the server.
                let secs = if random.random_range(0..64) == 0 { 0.2 } else { 0.001 };
                let sleep = sqlx::query("SELECT pg_sleep($1)").bind(secs);
                ("sleep", done(sleep.execute(tx).await), None)
            }
            41..44 => ("be too slow", done(sqlx::raw_sql(TOO_SLOW).execute(tx).await), Some("57014")),
            44..48 => {
                let text = format!(
                    "SET app.tenant_id = '{own}'; SET work_mem = '3MB'; SET statement_timeout = '14s';
                    SET search_path = 'app'; SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"
                );
                ("set for the session", done(sqlx::raw_sql(AssertSqlSafe(text)).execute(tx).await), None)
            }
            48..54 => {
                let update = sqlx::query(UPDATE).bind(owner.row).bind(random.random_range(0..9999_i32));
                let outcome = update.execute(tx).await.map(|done| {
                    if done.rows_affected() != 1 {
                        self.seen.surprise(format!("an update met {} rows", done.rows_affected()));
                    }
                });
                ("update", outcome, written)
            }
            54..57 => {
                let insert = sqlx::query(INSERT).bind(guest.other.as_uuid()).bind(PASSING).bind("foreign");
                ("insert for another", done(insert.execute(tx).await), written.or(Some("42501")))
            }
            57..61 => {
                let no = self.next.fetch_add(1, Ordering::Relaxed) + 1;
                let name = format!("{} {no}", guest.canary);
                let insert = sqlx::query(INSERT).bind(own).bind(no).bind(name);
                ("insert", done(insert.execute(tx).await), written)
            }
            _ => ("delete", done(sqlx::query(DELETE).bind(PASSING).execute(tx).await), written),
        };
        self.judge(what, outcome, expected, owner)
    }

    async fn read(
        &self,
        tx: &mut Tx,
        guest: &Guest,
        query: sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments>,
        count: Option<usize>,
    ) -> Result<(), sqlx::Error> {
        let rows = query.fetch_all(tx).await?;
        for row in &rows {
            self.check(row, guest);
        }
        if count.is_some_and(|count| count != rows.len()) {
            self.seen.surprise(format!("{} rows where one was expected", rows.len()));
        }
        Ok(())
    }

    /// Whose a row is: it says so, and its canary does.
    fn check(&self, row: &sqlx::postgres::PgRow, guest: &Guest) {
        let (tenant, name): (Uuid, &str) = (row.get(0), row.get(1));
        self.seen.row(tenant == guest.scope.tenant_id().as_uuid() && name.starts_with(guest.canary.as_str()));
    }

    /// A transaction that does nothing wrong, and must meet nothing of those before it: no transaction, no
    /// tenant, no setting, no error.
    pub async fn probe(&self, guest: &Guest) {
        self.glance(guest).await;
        let mut tx = match self.db.begin(&guest.scope, Access::Read).await {
            Ok(tx) => tx,
            Err(error) => return self.judge_begin(&error),
        };
        match self.examine(&mut tx, guest).await {
            Ok(None) => {}
            Ok(Some(found)) => self.seen.poison(&found),
            Err(error) if self.explains(&error) => return Seen::count(&self.seen.lost),
            Err(error) => return self.seen.poison(&format!("a probe got {error}")),
        }
        match tx.commit().await {
            Ok(()) => Seen::count(&self.seen.probes),
            Err(error) if self.explains_source(&error) => Seen::count(&self.seen.lost),
            Err(error) => self.seen.poison(&format!("a probe's end got {}", chain(&error))),
        }
    }

    async fn examine(&self, tx: &mut Tx, guest: &Guest) -> Result<Option<String>, sqlx::Error> {
        let own = guest.scope.tenant_id().as_uuid();
        let (tenant, fresh, foreign, rows): (Uuid, bool, i64, i64) = sqlx::query_as(PROBE)
            .bind(own)
            .bind(guest.canary.as_str())
            .bind(guest.rows)
            .fetch_one(&mut *tx)
            .await?;
        for _ in 0..foreign {
            self.seen.row(false);
        }
        let session: String = sqlx::raw_sql(SESSION).fetch_one(&mut *tx).await?.get(0);
        let untouched = self.untouched.get().expect("looked at before the storm");
        Ok(if tenant != own {
            Some(format!("bound to {tenant} instead of {own}"))
        } else if !fresh {
            Some("begun within a transaction that was open".to_owned())
        } else if rows != guest.rows {
            Some(format!("{rows} rows of {} are seen", guest.rows))
        } else if session != *untouched {
            Some(format!("a session with {session} instead of {untouched}"))
        } else {
            None
        })
    }

    fn judge_begin(&self, error: &BeginError) {
        match error {
            BeginError::Busy => Seen::count(&self.seen.busy),
            error if self.explains_source(error) => Seen::count(&self.seen.lost),
            // Whoever begins has done nothing yet: what fails here is another's.
            error => self.seen.poison(&format!("a begin got {}", chain(error))),
        }
    }

    fn judge(
        &self,
        what: &str,
        outcome: Result<(), sqlx::Error>,
        expected: Option<&str>,
        owner: &mut Owner<'_>,
    ) -> Result<(), Gone> {
        let expected = if owner.aborted { Some("25P02") } else { expected };
        let got = match &outcome {
            Ok(()) => None,
            Err(error) if self.explains(error) => return Err(Gone),
            Err(error) => Some(sqlstate(error).unwrap_or_default().into_owned()),
        };
        if got.as_deref() != expected {
            let outcome = outcome.err().map_or_else(|| "success".to_owned(), |error| error.to_string());
            self.seen.surprise(format!("{what}: {outcome} where {expected:?} was expected"));
        }
        owner.aborted |= got.is_some();
        Ok(())
    }

    fn judge_commit(&self, outcome: Result<(), CommitError>, owner: &Owner<'_>) {
        match outcome {
            Ok(()) => {
                Seen::count(&self.seen.committed);
                if owner.aborted && owner.access == Access::Write {
                    self.seen.surprise("an aborted transaction committed".to_owned());
                }
            }
            Err(error) if self.explains_source(&error) => Seen::count(&self.seen.lost),
            Err(CommitError::Refused(_)) if owner.aborted => {}
            Err(error) => self.seen.surprise(format!("commit: {}", chain(&error))),
        }
    }

    fn explains(&self, error: &sqlx::Error) -> bool {
        self.weather == Weather::Rough && is_dead(error)
    }

    fn explains_source(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        let mut link = Some(error);
        while let Some(error) = link {
            if error.downcast_ref::<sqlx::Error>().is_some_and(|error| self.explains(error)) {
                return true;
            }
            link = error.source();
        }
        false
    }
}

fn done<T>(outcome: Result<T, sqlx::Error>) -> Result<(), sqlx::Error> {
    outcome.map(drop)
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
