//! The listener that gives the figures: `GET /metrics` and nothing else.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use stagesub_tenancy::TrustedProxies;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Metrics, Sources};
use crate::config::ConnectionSettings;
use crate::problem::error_chain;
use crate::serving::{self, Stop};

/// Connections that may be open at once.
const CONNECTIONS: u32 = 16;

/// Longest that answers under way may take after the order to stop.
const GRACE: Duration = Duration::from_secs(1);

/// What the listener answers.
pub fn router(metrics: Metrics, sources: Arc<Sources>) -> Router {
    let page = move || {
        let text = metrics.render(&sources);
        std::future::ready(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
    };
    Router::new().route("/metrics", get(page))
}

/// Answers until told to stop.
pub(crate) async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    sources: Sources,
    stop: CancellationToken,
) {
    let stop = Stop { asked: stop, ..Stop::default() };
    let bounds = ConnectionSettings { most: CONNECTIONS, ..ConnectionSettings::default() };
    let router = router(metrics, Arc::new(sources));
    let proxies = TrustedProxies::default();
    if let Err(error) = serving::serve_within(listener, router, &stop, GRACE, (bounds, &proxies)).await {
        tracing::error!(cause = %error_chain(&error), "figures are not given any more");
    }
}
