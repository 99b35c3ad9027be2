//! Figures for Prometheus, on a listener of their own.
//!
//! Every label has few values, which the program knows: route templates, methods, kinds of placement, reasons. No
//! label is made of what a client sent or of what the platform holds: no host, path, orchestra, person or database.
//! Who uses most is asked at `/api/v1/platform/usage`.
//!
//! What happens is counted where it happens ([`Metrics`]); what is, is read when somebody fetches it ([`Sources`]).

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram, with_local_recorder,
};
use axum::http::{Method, StatusCode};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use stagesub_tenancy::usage::{UsageSink, Used};
use stagesub_tenancy::{Crowded, Placement};

pub mod listener;
mod sources;

pub use sources::Sources;

const REQUESTS: &str = "stagesub_http_requests_total";
const REQUEST_TIME: &str = "stagesub_http_request_duration_seconds";
const POOL_WAIT: &str = "stagesub_pool_wait_seconds";
const DATABASE_TIME: &str = "stagesub_database_time_seconds";
const STATEMENTS: &str = "stagesub_database_statements_total";
const ROWS: &str = "stagesub_database_rows_total";
const CROWDED: &str = "stagesub_pool_refusals_total";
const REFUSALS: &str = "stagesub_limit_refusals_total";
const SIGN_INS: &str = "stagesub_sign_ins_total";
const MOVE_PAUSE: &str = "stagesub_move_pause_seconds";

/// Upper bounds of what is counted together, in seconds. Few: each is a series for each route.
const REQUEST_BOUNDS: [f64; 8] = [0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0];
const WAIT_BOUNDS: [f64; 6] = [0.0001, 0.001, 0.01, 0.1, 1.0, 5.0];
const PAUSE_BOUNDS: [f64; 8] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0];
const DATABASE_BOUNDS: [f64; 8] = [0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25, 1.0, 5.0];

/// The route of whatever no route was found for.
pub(crate) const UNMATCHED: &str = "unmatched";

/// A limit that somebody reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Requests of one address.
    Address,
    /// Requests to one orchestra.
    Tenant,
    /// Requests of one orchestra that wait for others of it.
    TenantQueue,
    /// Failed sign-ins of one address.
    SignInAddress,
    /// Failed sign-ins with one login address.
    SignInAccount,
    /// Turns at the hasher: to sign in, or to have a password hashed.
    SignInQueue,
    /// One orchestra's turns at the registry.
    RegistryQueue,
    /// One orchestra's turns to have a file spooled.
    FileQueue,
}

impl Limit {
    const ALL: [Self; 8] = [
        Self::Address,
        Self::Tenant,
        Self::TenantQueue,
        Self::SignInAddress,
        Self::SignInAccount,
        Self::SignInQueue,
        Self::RegistryQueue,
        Self::FileQueue,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Tenant => "tenant",
            Self::TenantQueue => "tenant_queue",
            Self::SignInAddress => "sign_in_address",
            Self::SignInAccount => "sign_in_account",
            Self::SignInQueue => "sign_in_queue",
            Self::RegistryQueue => "registry_queue",
            Self::FileQueue => "file_queue",
        }
    }
}

/// What became of a sign-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignIn {
    /// Somebody is signed in.
    Granted,
    /// Address and password did not fit.
    Refused,
    /// There had been too many, or the turn did not come.
    Limited,
    /// Too many passwords were being hashed.
    Overloaded,
    /// The registry did not answer, or something is broken.
    Failed,
}

impl SignIn {
    const ALL: [Self; 5] = [Self::Granted, Self::Refused, Self::Limited, Self::Overloaded, Self::Failed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Refused => "refused",
            Self::Limited => "limited",
            Self::Overloaded => "overloaded",
            Self::Failed => "failed",
        }
    }
}

/// What is counted as it happens. Off until it is turned on, and then costs nothing; clones count together.
#[derive(Clone, Default)]
pub struct Metrics(Arc<OnceLock<Recording>>);

struct Recording {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    shared: Transactions,
    dedicated: Transactions,
    limits: [Counter; Limit::ALL.len()],
    sign_ins: [Counter; SignIn::ALL.len()],
    move_pause: Histogram,
    #[cfg(target_os = "linux")]
    process: metrics_process::Collector,
}

/// Transactions of one kind of placement.
struct Transactions {
    pool_wait: Histogram,
    database_time: Histogram,
    statements: Counter,
    rows: Counter,
    queue_full: Counter,
    timed_out: Counter,
}

impl Transactions {
    fn at(placement: &'static str) -> Self {
        let crowded = |reason: &'static str| counter!(CROWDED, "placement" => placement, "reason" => reason);
        Self {
            pool_wait: histogram!(POOL_WAIT, "placement" => placement),
            database_time: histogram!(DATABASE_TIME, "placement" => placement),
            statements: counter!(STATEMENTS, "placement" => placement),
            rows: counter!(ROWS, "placement" => placement),
            queue_full: crowded("queue_full"),
            timed_out: crowded("timed_out"),
        }
    }
}

impl Metrics {
    /// Counts from now on.
    ///
    /// # Panics
    /// Never: every histogram has bounds.
    pub fn turn_on(&self) {
        self.0.get_or_init(|| {
            let exact = |name: &str| Matcher::Full(name.to_owned());
            let recorder = PrometheusBuilder::new()
                .set_buckets_for_metric(exact(REQUEST_TIME), &REQUEST_BOUNDS)
                .and_then(|builder| builder.set_buckets_for_metric(exact(POOL_WAIT), &WAIT_BOUNDS))
                .and_then(|builder| builder.set_buckets_for_metric(exact(DATABASE_TIME), &DATABASE_BOUNDS))
                .and_then(|builder| builder.set_buckets_for_metric(exact(MOVE_PAUSE), &PAUSE_BOUNDS))
                .expect("there are bounds")
                .build_recorder();
            with_local_recorder(&recorder, describe);
            let (shared, dedicated) = with_local_recorder(&recorder, || {
                (Transactions::at("shared"), Transactions::at("dedicated"))
            });
            let limits = with_local_recorder(&recorder, || {
                Limit::ALL.map(|limit| counter!(REFUSALS, "limit" => limit.as_str()))
            });
            let sign_ins = with_local_recorder(&recorder, || {
                SignIn::ALL.map(|outcome| counter!(SIGN_INS, "outcome" => outcome.as_str()))
            });
            let move_pause = with_local_recorder(&recorder, || histogram!(MOVE_PAUSE));
            #[cfg(target_os = "linux")]
            let process = metrics_process::Collector::default();
            #[cfg(target_os = "linux")]
            with_local_recorder(&recorder, || process.describe());
            Recording {
                handle: recorder.handle(),
                recorder,
                shared,
                dedicated,
                limits,
                sign_ins,
                move_pause,
                #[cfg(target_os = "linux")]
                process,
            }
        });
    }

    /// Counts a request that was answered, or given up by its client.
    pub(crate) fn request(&self, method: &Method, route: &str, status: Option<StatusCode>, took: Duration) {
        let Some(recording) = self.0.get() else { return };
        // A method that is not offered is no label, or any client could make one for each route.
        let method = if status == Some(StatusCode::METHOD_NOT_ALLOWED) { OTHER } else { label(method) };
        with_local_recorder(&recording.recorder, || {
            let route = route.to_owned();
            counter!(REQUESTS, "method" => method, "route" => route.clone(), "status" => class(status))
                .increment(1);
            histogram!(REQUEST_TIME, "method" => method, "route" => route).record(took);
        });
    }

    /// Counts somebody who reached a limit.
    pub(crate) fn refused(&self, limit: Limit) {
        if let Some(recording) = self.0.get() {
            recording.limits[limit as usize].increment(1);
        }
    }

    /// Counts a sign-in.
    pub(crate) fn sign_in(&self, outcome: SignIn) {
        if let Some(recording) = self.0.get() {
            recording.sign_ins[outcome as usize].increment(1);
        }
    }

    /// Counts how long a move's cutover held its orchestra up.
    pub(crate) fn tenant_paused(&self, pause: Duration) {
        if let Some(recording) = self.0.get() {
            recording.move_pause.record(pause);
        }
    }

    /// Whether anything is counted.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.get().is_some()
    }

    /// What was counted, as Prometheus reads it.
    #[cfg(test)]
    pub(crate) fn counted(&self) -> String {
        self.0.get().map(|recording| recording.handle.render()).unwrap_or_default()
    }

    /// Puts together what was measured, which takes memory until then; to be called now and then.
    pub fn tidy(&self) {
        if let Some(recording) = self.0.get() {
            recording.handle.run_upkeep();
        }
    }

    /// The figures as Prometheus reads them; nothing while they are off.
    #[must_use]
    pub fn render(&self, sources: &Sources) -> String {
        let Some(recording) = self.0.get() else { return String::new() };
        with_local_recorder(&recording.recorder, || {
            sources.read();
            #[cfg(target_os = "linux")]
            recording.process.collect();
        });
        recording.handle.render()
    }
}

impl UsageSink for Metrics {
    fn used(&self, used: &Used) {
        let Some(recording) = self.0.get() else { return };
        let of = match used.placement {
            Placement::Shared(_) => &recording.shared,
            Placement::Dedicated(_) => &recording.dedicated,
        };
        of.pool_wait.record(used.usage.pool_wait);
        if used.usage.transactions > 0 {
            of.database_time.record(used.usage.database_time);
            of.statements.increment(used.usage.statements);
            of.rows.increment(used.usage.rows);
        }
        match used.crowded {
            Some(Crowded::QueueFull) => of.queue_full.increment(1),
            Some(_) => of.timed_out.increment(1),
            None => {}
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Metrics").field(&self.0.get().is_some()).finish()
    }
}

/// Every method that is not in the list below.
const OTHER: &str = "other";

/// A method as a label.
fn label(method: &Method) -> &'static str {
    known_method(method).unwrap_or(OTHER)
}

/// A method by its name, if it is one of those that are offered somewhere: a client may call anything a method.
pub(crate) fn known_method(method: &Method) -> Option<&'static str> {
    Some(match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => return None,
    })
}

/// A status as a label; one that never came, because the client went away.
fn class(status: Option<StatusCode>) -> &'static str {
    match status.map(|status| status.as_u16() / 100) {
        Some(1) => "1xx",
        Some(2) => "2xx",
        Some(3) => "3xx",
        Some(4) => "4xx",
        Some(_) => "5xx",
        None => "cancelled",
    }
}

fn describe() {
    describe_counter!(REQUESTS, "Requests by method, route and class of the status");
    describe_histogram!(REQUEST_TIME, Unit::Seconds, "From a request's head to its answer's");
    describe_histogram!(
        POOL_WAIT,
        Unit::Seconds,
        "How long transactions waited for their turn and their connection"
    );
    describe_histogram!(DATABASE_TIME, Unit::Seconds, "How long the database worked for a transaction");
    describe_counter!(STATEMENTS, "Statements on orchestras' data");
    describe_counter!(ROWS, "Rows of orchestras' data that were read or changed");
    describe_counter!(CROWDED, "Transactions that got no connection in time, or no place to wait for one");
    describe_counter!(REFUSALS, "Requests that were refused because there had been too many");
    describe_counter!(SIGN_INS, "Sign-ins by what became of them");
    describe_histogram!(MOVE_PAUSE, Unit::Seconds, "How long moves' cutovers held their orchestras up");
    sources::describe();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_by_place_stands_at_its_place() {
        for (place, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, place, "{limit:?}");
        }
        for (place, outcome) in SignIn::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, place, "{outcome:?}");
        }
    }

    #[test]
    fn labels_are_few_whatever_clients_send() {
        assert_eq!(label(&Method::from_bytes(b"BREW").unwrap()), "other");
        assert_eq!(label(&Method::PATCH), "PATCH");
        for (status, label) in [(200, "2xx"), (304, "3xx"), (429, "4xx"), (503, "5xx"), (999, "5xx")] {
            assert_eq!(class(StatusCode::from_u16(status).ok()), label);
        }
        assert_eq!(class(None), "cancelled");
    }

    #[test]
    fn nothing_is_counted_before_it_is_turned_on() {
        let metrics = Metrics::default();
        metrics.sign_in(SignIn::Granted);
        metrics.turn_on();
        let counting = metrics.clone();
        counting.sign_in(SignIn::Refused);
        counting.request(&Method::GET, "/x/{id}", Some(StatusCode::OK), Duration::from_millis(20));
        let text = metrics.0.get().unwrap().handle.render();
        for line in [
            "stagesub_sign_ins_total{outcome=\"granted\"} 0",
            "stagesub_sign_ins_total{outcome=\"refused\"} 1",
            "stagesub_http_requests_total{method=\"GET\",route=\"/x/{id}\",status=\"2xx\"} 1",
            "stagesub_http_request_duration_seconds_bucket{method=\"GET\",route=\"/x/{id}\",le=\"0.01\"} 0",
            "stagesub_http_request_duration_seconds_bucket{method=\"GET\",route=\"/x/{id}\",le=\"0.025\"} 1",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is missing in\n{text}");
        }
    }
}
