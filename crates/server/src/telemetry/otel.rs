//! Spans of requests and moves for a collector, over OTLP (feature `otel`).
//!
//! Configured as OpenTelemetry has it: `OTEL_EXPORTER_OTLP_ENDPOINT` (or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) says
//! where to, and nothing is exported without it; `OTEL_SERVICE_NAME` says as whom. Spans of this program leave it, and
//! neither events nor spans of libraries, which may quote what they were given.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Request};
use axum::http::{Method, StatusCode};
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanExporter as Exports};
use stagesub_tenancy::TrustedProxies;
use tracing::level_filters::LevelFilter;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::registry::LookupSpan;

use crate::metrics::known_method;

/// What this program is called where `OTEL_SERVICE_NAME` is not set.
const SERVICE: &str = "stagesub";

/// Any of them says where spans go.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Spans on their way to a collector.
#[derive(Debug, Clone)]
pub struct Exporting(SdkTracerProvider);

/// Spans cannot be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The collector's address is none, or another variable is not usable.
    #[error("the variables of OpenTelemetry (OTEL_...) are not usable")]
    Exporter(#[from] ExporterBuildError),
    /// No client of HTTP can be made.
    #[error("no HTTP client for OpenTelemetry can be made")]
    Client(#[from] reqwest::Error),
}

impl Exporting {
    /// To where the environment says; `None`: it says nothing.
    ///
    /// # Errors
    /// [`ExportError`].
    ///
    /// # Panics
    /// Never: making a client does not.
    pub fn from_environment() -> Result<Option<Self>, ExportError> {
        let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if !ENDPOINTS.iter().any(is_set) {
            return Ok(None);
        }
        // Whoever installed a provider first decides, and any of them will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Spans leave from a thread of their own, which has no runtime; nor may such a client be made within one.
        let client = std::thread::spawn(|| reqwest::blocking::Client::builder().build());
        let client = client.join().expect("making a client does not panic")?;
        Ok(Some(Self::to(SpanExporter::builder().with_http().with_http_client(client).build()?)))
    }

    /// To any exporter.
    pub fn to(exporter: impl Exports + 'static) -> Self {
        let resource = Resource::builder();
        let named = std::env::var_os("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty());
        let resource = if named { resource } else { resource.with_service_name(SERVICE) };
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            .with_batch_exporter(exporter)
            .build();
        Self(provider)
    }

    /// What takes the spans.
    #[must_use]
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let ours = filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with("stagesub"));
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer(SERVICE))
            .with_location(false)
            .with_threads(false)
            .with_filter(ours.and(LevelFilter::INFO))
    }

    /// Sends what was not sent yet, within the exporter's bounds; nothing is taken after that. Blocks.
    ///
    /// # Errors
    /// The collector did not take it.
    pub fn finish(self) -> Result<(), OTelSdkError> {
        self.0.shutdown()
    }
}

/// Makes a request's span a part of the trace that its sender is in, as `traceparent` says: from trusted proxies
/// alone. Others' word would let any client write into, and choose the sampling of, the platform's traces.
pub(crate) fn adopt(span: &Span, request: &Request, proxies: &TrustedProxies) {
    let Some(ConnectInfo(peer)) = request.extensions().get::<ConnectInfo<SocketAddr>>() else { return };
    if !proxies.trusts(peer.ip()) {
        return;
    }
    let parent = TraceContextPropagator::new().extract(&HeaderExtractor(request.headers()));
    if let Err(error) = span.set_parent(parent) {
        tracing::debug!(%error, "a request's span has no place in its sender's trace");
    }
}

/// Names a request's span as servers' spans are named: by few names, whatever a client calls its method.
pub(crate) fn name(span: &Span, method: &Method, route: &str, status: Option<StatusCode>) {
    let failed = status.is_some_and(|status| status.is_server_error());
    let method = known_method(method).unwrap_or("HTTP");
    span.context().span().update_name(format!("{method} {route}"));
    if failed {
        span.record("otel.status_code", "ERROR");
    }
}
