//! Structured logs on stderr, and the spans of requests and moves.
//!
//! Nothing here knows a secret: types that hold one redact it in `Debug`, and the driver's own messages,
//! which may quote a connection, are shown from `warn` on only.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
#[cfg(feature = "otel")]
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

#[cfg(feature = "otel")]
pub mod otel;
pub(crate) mod request;

/// What is logged when nothing else is asked for.
const DEFAULT_FILTER: &str = "info,sqlx=warn,hyper=warn,h2=warn";

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

impl FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(UnknownLogFormat),
        }
    }
}

/// The text names no format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a log format is text or json")]
pub struct UnknownLogFormat;

/// Logs could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The filter is not written as tracing's filters are.
    #[error("the log filter is not usable (write it like `info,stagesub_server=debug`)")]
    Filter(#[source] ParseError),
    /// Spans cannot be exported.
    #[cfg(feature = "otel")]
    #[error(transparent)]
    Export(#[from] otel::ExportError),
    /// Something else in this process logs already.
    #[error("logs are set up already")]
    Installed(#[source] TryInitError),
}

/// Reads a filter such as `info,stagesub_server=debug`; without one, what a server should tell.
pub fn parse_filter(filter: Option<&str>) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder().parse(filter.unwrap_or(DEFAULT_FILTER)).map_err(TelemetryError::Filter)
}

/// What this process tells of itself.
#[derive(Debug)]
#[must_use = "what is on its way is lost unless it is finished"]
pub struct Telemetry {
    #[cfg(feature = "otel")]
    exporting: Option<otel::Exporting>,
}

impl Telemetry {
    /// Sends what is still on its way. Blocks, so call it outside of a runtime.
    pub fn finish(self) {
        #[cfg(feature = "otel")]
        if let Some(exporting) = self.exporting
            && let Err(error) = exporting.finish()
        {
            tracing::warn!(cause = %error, "the last spans were not exported");
        }
    }
}

/// Sends this process's logs to stderr, so that stdout stays the answer of a command; with the feature `otel`, its
/// spans also to where `OTEL_EXPORTER_OTLP_ENDPOINT` says.
pub fn install(filter: Option<&str>, format: LogFormat) -> Result<Telemetry, TelemetryError> {
    #[cfg(feature = "otel")]
    if let Some(exporting) = otel::Exporting::from_environment()? {
        install_exporting(&exporting, filter, format)?;
        return Ok(Telemetry { exporting: Some(exporting) });
    }
    install_logs(filter, format)?;
    Ok(Telemetry {
        #[cfg(feature = "otel")]
        exporting: None,
    })
}

fn install_logs(filter: Option<&str>, format: LogFormat) -> Result<(), TelemetryError> {
    let lines = tracing_subscriber::fmt().with_env_filter(parse_filter(filter)?).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).finish().try_init(),
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
    }
    .map_err(TelemetryError::Installed)
}

/// What is logged is filtered by itself: spans are exported whatever the logs leave out.
#[cfg(feature = "otel")]
fn install_exporting(
    exporting: &otel::Exporting,
    filter: Option<&str>,
    format: LogFormat,
) -> Result<(), TelemetryError> {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(parse_filter(filter)?))
        .with(exporting.layer())
        .try_init()
        .map_err(TelemetryError::Installed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_text_and_json() {
        assert_eq!("text".parse(), Ok(LogFormat::Text));
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert_eq!("JSON ".parse::<LogFormat>(), Err(UnknownLogFormat));
    }

    #[test]
    fn a_misspelt_filter_is_refused_and_not_ignored() {
        assert!(parse_filter(None).is_ok());
        assert!(parse_filter(Some("warn,stagesub_server=debug")).is_ok());
        assert!(matches!(parse_filter(Some("stagesub_server=loud")), Err(TelemetryError::Filter(_))));
    }
}
