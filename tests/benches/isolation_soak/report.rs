//! What the soak showed.

use std::fmt;

use stagesub_tests::storm::Seen;

use crate::http::{KINDS, Web};
use crate::process::Process;
use crate::{POOL, TENANTS};

/// The processes with a pool on each database: this one's soak, the platform that made the tenants, the servers.
const POOLS: i64 = 4;

/// What the soak showed.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Operations there were to be, and how many of them over HTTP.
    pub(crate) wanted: (u64, u64),
    /// The soak's duration.
    pub(crate) soak_seconds: f64,
    /// Everything's duration.
    pub(crate) seconds: u64,
    /// Transactions of the application that did not end.
    pub(crate) idle_in_transaction: i64,
    /// Locks that the application still held.
    pub(crate) locks_left: i64,
    /// Connections that could not be lent any more.
    pub(crate) capacity_lost: i64,
    /// Writes that somebody was told of.
    pub(crate) acknowledged: usize,
    /// Those that are not as was told.
    pub(crate) lost_writes: usize,
    /// Writes that are there more than once.
    pub(crate) written_twice: usize,
    /// Creations whose client went away: how many were kept, of how many.
    pub(crate) doubtful_kept: (usize, usize),
    /// Rows that the administrator looked at in the end.
    pub(crate) rows_at_rest: u64,
    /// Those of them that are with another tenant than their canary says.
    pub(crate) misplaced_rows: u64,
    /// Rows of another that the judges saw where there were some: in this process, over HTTP.
    pub(crate) control_foreign: (u64, u64),
    /// Poison that was found without the clean-up.
    pub(crate) control_poisoned: u64,
    /// Its first finding.
    pub(crate) control_sentence: Option<String>,
    most_connections: i64,
    process: Counts,
    web: Counts,
    kinds: Vec<(&'static str, u64)>,
    sentences: Vec<String>,
    surprises: u64,
}

#[derive(Debug, Default)]
struct Counts {
    operations: u64,
    sent: u64,
    dropped: u64,
    rows: u64,
    foreign: u64,
    poisoned: u64,
    surprises: u64,
    cancelled: u64,
    panics: u64,
    begun: u64,
    committed: u64,
    busy: u64,
    probes: u64,
    sentences: Vec<String>,
}

impl Counts {
    fn of(seen: &Seen) -> Self {
        Self {
            rows: Seen::of(&seen.rows),
            foreign: Seen::of(&seen.foreign),
            poisoned: Seen::of(&seen.poisoned),
            surprises: Seen::of(&seen.surprises),
            cancelled: Seen::of(&seen.cancelled),
            panics: Seen::of(&seen.panics),
            begun: Seen::of(&seen.begun),
            committed: Seen::of(&seen.committed),
            busy: Seen::of(&seen.busy),
            probes: Seen::of(&seen.probes),
            sentences: seen.sentences(),
            ..Self::default()
        }
    }
}

impl Report {
    /// Something was not as it must be.
    pub(crate) fn surprise(&mut self, sentence: String) {
        self.surprises += 1;
        if self.sentences.len() < 20 {
            self.sentences.push(sentence);
        }
    }

    /// So many connections of the application were on one database.
    pub(crate) fn note_connections(&mut self, count: i64) {
        self.most_connections = self.most_connections.max(count);
    }

    /// What the operations of this process saw.
    pub(crate) fn take_process(&mut self, process: &Process) {
        self.process = Counts { operations: Seen::of(&process.done), ..Counts::of(&process.storm.seen) };
        self.process.committed += Seen::of(&process.kept);
    }

    /// What the operations over HTTP saw.
    pub(crate) fn take_web(&mut self, web: &Web) {
        self.web = Counts {
            operations: Seen::of(&web.begun),
            sent: Seen::of(&web.sent),
            dropped: Seen::of(&web.dropped),
            ..Counts::of(&web.seen)
        };
        self.kinds = KINDS.into_iter().zip(web.answered.iter().map(Seen::of)).collect();
    }

    /// With the one that cancels statements, in each process.
    const fn most_allowed() -> i64 {
        POOLS * (POOL as i64 + 1)
    }

    /// Whether it shows what it must.
    pub(crate) fn shown(&self) -> bool {
        self.failures().is_empty()
    }

    /// What it does not show.
    fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let mut must = |holds: bool, what: &str| {
            if !holds {
                failures.push(what.to_owned());
            }
        };
        must(self.control_poisoned > 0, "without the clean-up no poison was found");
        let (operations, over_http) = self.wanted;
        if operations == 0 {
            return failures;
        }
        must(self.requests() >= operations, "the operations were not done in time");
        must(self.web.sent >= over_http, "the requests over HTTP were not sent in time");
        must(self.process.foreign + self.web.foreign == 0, "rows of another were seen");
        must(self.misplaced_rows == 0, "rows are with another tenant");
        must(self.process.poisoned + self.web.poisoned == 0, "connections were poisoned");
        must(self.capacity_lost == 0, "connections cannot be lent any more");
        must(
            self.most_connections <= Self::most_allowed(),
            "there were more connections than the pools may hold",
        );
        must(self.locks_left == 0, "locks are left");
        must(self.idle_in_transaction == 0, "transactions are left");
        must(self.lost_writes == 0, "acknowledged writes are lost");
        must(self.written_twice == 0, "writes are there twice");
        must(self.surprises + self.process.surprises + self.web.surprises == 0, "something is unexplained");
        must(self.control_foreign.0 > 0, "foreign rows in this process are not seen");
        must(self.control_foreign.1 > 0, "foreign rows over HTTP are not seen");
        for (what, count) in [
            ("operations cancelled", self.process.cancelled),
            ("owners panicked", self.process.panics),
            ("begins timed out", self.process.busy),
            ("connections dropped", self.web.dropped),
            ("probes", self.process.probes),
            ("rows read", self.process.rows.min(self.web.rows)),
        ] {
            // A thousandth is little; none would show nothing.
            must(count >= operations / 10_000, &format!("hardly any {what}: {count}"));
        }
        must(self.kinds.iter().all(|(_, count)| *count > 0), "a kind of request was never answered");
        failures
    }

    fn requests(&self) -> u64 {
        self.process.operations + self.web.operations
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |what: &str, count: &dyn fmt::Display| writeln!(f, "{what:<56} {count:>12}");
        let (process, web) = (&self.process, &self.web);
        line("in this process: operations", &process.operations)?;
        line("  transactions begun", &process.begun)?;
        line("  transactions committed", &process.committed)?;
        line("  owners cancelled", &process.cancelled)?;
        line("  owners panicked", &process.panics)?;
        line("  begins that timed out", &process.busy)?;
        line("  rows looked at", &process.rows)?;
        line("  probes that found a clean connection", &process.probes)?;
        line("over HTTP: requests begun", &web.operations)?;
        line("  sent whole", &web.sent)?;
        line("  connections dropped", &web.dropped)?;
        line("  rows looked at", &web.rows)?;
        for (kind, count) in &self.kinds {
            line(&format!("  answered: {kind}"), count)?;
        }
        line("acknowledged writes", &self.acknowledged)?;
        line("creations whose client went away", &self.doubtful_kept.1)?;
        line("  of these kept", &self.doubtful_kept.0)?;
        line("rows at rest looked at", &self.rows_at_rest)?;
        line("most connections to a database", &self.most_connections)?;
        line("  allowed", &Self::most_allowed())?;
        line("foreign rows seen where there were some, in process", &self.control_foreign.0)?;
        line("foreign rows seen where there were some, over HTTP", &self.control_foreign.1)?;
        line("poison found without the clean-up", &self.control_poisoned)?;
        line("operations per second", &format!("{:.0}", per_second(self.requests(), self.soak_seconds)))?;
        if let Some(sentence) = &self.control_sentence {
            writeln!(f, "without the clean-up: {sentence}")?;
        }
        for sentence in process.sentences.iter().chain(&web.sentences).chain(&self.sentences) {
            writeln!(f, "unexpected: {sentence}")?;
        }
        for failure in self.failures() {
            writeln!(f, "FAILED: {failure}")?;
        }
        write!(
            f,
            "RESULT requests={} http_requests={} foreign_rows={} poisoned={} tenants={TENANTS} pool={POOL} \
             servers=2 cancelled={} dropped_connections={} begin_timeouts={} panics={} probes={} rows_checked={} \
             capacity_lost={} locks_left={} idle_in_transaction={} acknowledged={} lost_writes={} \
             written_twice={} misplaced_rows={} unexplained={} control_foreign={} control_poisoned={} \
             seconds={} {}",
            self.requests(),
            web.sent,
            process.foreign + web.foreign,
            process.poisoned + web.poisoned,
            process.cancelled,
            web.dropped,
            process.busy,
            process.panics,
            process.probes,
            process.rows + web.rows + self.rows_at_rest,
            self.capacity_lost,
            self.locks_left,
            self.idle_in_transaction,
            self.acknowledged,
            self.lost_writes,
            self.written_twice,
            self.misplaced_rows,
            self.surprises + process.surprises + web.surprises,
            self.control_foreign.0 + self.control_foreign.1,
            self.control_poisoned,
            self.seconds,
            if self.shown() { "PASS" } else { "FAIL" },
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}
