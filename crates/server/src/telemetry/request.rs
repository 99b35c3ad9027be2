//! One span for each request, and its place in the metrics.
//!
//! The span says which route was asked, with what status, for which orchestra, where its data is and what that cost.
//! It holds nothing of a person: no address, no query, no id of a path, no header.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use stagesub_tenancy::usage::{Gathered, Usage, gather};
use stagesub_tenancy::{Addressed, Placement};
use tower_http::request_id::RequestId;
use tracing::field::Empty;
use tracing::{Instrument as _, Span, info_span, record_all};

use crate::metrics::{Metrics, UNMATCHED, known_method};
use crate::problem::REQUEST_ID;
use crate::state::AppState;

/// What is known of a request by and by. An extension of the request.
struct Noted {
    span: Span,
    route: OnceLock<MatchedPath>,
}

/// Opens the span around everything that a request passes through, and closes it with what came of it: also when the
/// client goes away. Problems can name the request that they answer.
pub(crate) async fn observe<F>(
    state: &AppState,
    mut request: Request,
    answer: impl FnOnce(Request) -> F,
) -> Response
where
    F: Future<Output = Response>,
{
    let id = request
        .extensions()
        .get::<RequestId>()
        .and_then(|id| id.header_value().to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let span = open(&request, &id);
    #[cfg(feature = "otel")]
    super::otel::adopt(&span, &request, &state.trusted_proxies);
    let noted = Arc::new(Noted { span: span.clone(), route: OnceLock::new() });
    let sums = Arc::new(Gathered::default());
    let mut ending = Ending {
        begun: Instant::now(),
        method: request.method().clone(),
        status: None,
        noted: Arc::clone(&noted),
        sums: Arc::clone(&sums),
        metrics: state.metrics.clone(),
    };
    // Probes are found before this; all other routes are noted further inside.
    note_matched(&noted, &request);
    request.extensions_mut().insert(noted);
    let answering = REQUEST_ID.scope(id, gather(sums, answer(request)));
    let response = answering.instrument(span).await;
    ending.status = Some(response.status());
    response
}

/// Notes which route was found.
pub(crate) fn note_route(request: &Request) {
    if let Some(noted) = request.extensions().get::<Arc<Noted>>() {
        note_matched(noted, request);
    }
}

/// Notes whose host was asked for.
pub(crate) fn note_tenant(request: &Request) {
    if let Some(Addressed::Tenant(scope)) = request.extensions().get()
        && let Some(noted) = request.extensions().get::<Arc<Noted>>()
    {
        let (id, code) = (scope.tenant_id(), scope.code());
        record_all!(noted.span, tenant.id = %id, tenant.code = %code);
    }
}

fn note_matched(noted: &Noted, request: &Request) {
    if let Some(route) = request.extensions().get::<MatchedPath>() {
        noted.span.record("http.route", route.as_str());
        // A route is found once.
        let _ = noted.route.set(route.clone());
    }
}

fn open(request: &Request, id: &str) -> Span {
    info_span!(
        "request",
        http.request.method = known_method(request.method()).unwrap_or("_OTHER"),
        request.id = id,
        http.route = Empty,
        http.response.status_code = Empty,
        cancelled = Empty,
        tenant.id = Empty,
        tenant.code = Empty,
        placement.kind = Empty,
        placement.database = Empty,
        pool.wait_us = Empty,
        database.time_us = Empty,
        database.transactions = Empty,
        database.statements = Empty,
        database.rows = Empty,
        // A span's kind is settled when it begins.
        otel.kind = cfg!(feature = "otel").then_some("server"),
        otel.status_code = Empty,
    )
}

/// Tells what came of a request, when it is over or given up.
struct Ending {
    begun: Instant,
    method: Method,
    /// None yet, or none ever.
    status: Option<StatusCode>,
    noted: Arc<Noted>,
    sums: Arc<Gathered>,
    metrics: Metrics,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let route = self.noted.route.get().map_or(UNMATCHED, MatchedPath::as_str);
        let span = &self.noted.span;
        let status = self.status.map(|status| status.as_u16());
        let cancelled = self.status.is_none().then_some(true);
        match self.sums.placement() {
            Some(placement) => end(span, (status, cancelled), placement, self.sums.usage()),
            None => {
                record_all!(span, http.response.status_code = status, cancelled = cancelled);
            }
        }
        #[cfg(feature = "otel")]
        super::otel::name(span, &self.method, route, self.status);
        self.metrics.request(&self.method, route, self.status, self.begun.elapsed());
    }
}

/// All at once: whoever writes the fields down does it once.
fn end(span: &Span, (status, cancelled): (Option<u16>, Option<bool>), placement: Placement, usage: Usage) {
    let Usage { pool_wait, database_time, transactions, statements, rows } = usage;
    let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    record_all!(
        span,
        http.response.status_code = status,
        cancelled = cancelled,
        placement.kind = placement.as_str(),
        placement.database = %placement.database(),
        pool.wait_us = micros(pool_wait),
        database.time_us = micros(database_time),
        database.transactions = transactions,
        database.statements = statements,
        database.rows = rows,
    );
}
