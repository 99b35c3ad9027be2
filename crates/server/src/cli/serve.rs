//! `stagesub serve`: the API on databases that are there and migrated.

use serde_json::json;

use super::args::ServeArgs;
use super::{Failure, output};
use crate::config::{RawConfig, Settings};
use crate::node::{Node, NodeError};
use crate::serving::{self, ServeError, Stop};

/// Runs the command.
pub async fn run(arguments: ServeArgs, raw: &RawConfig) -> Result<(), Failure> {
    let Settings { databases, mut serving } = Settings::for_serve(raw)?;
    if let Some(listen) = arguments.listen {
        serving.listen = listen;
    }
    let stop = Stop::on_signals()?;
    let listener = serving::bind(serving.listen).await?;
    let address = serving::local_address(&listener)?;
    let metrics = serving::bind_metrics(serving.metrics).await?;
    let metrics_address = metrics.as_ref().map(serving::local_address).transpose()?;
    let node = tokio::select! {
        node = Node::prepare(databases, &serving) => node?,
        () = stop.asked.cancelled() => return Ok(()),
    };
    let node = match metrics {
        Some(listener) => node.with_metrics(listener),
        None => node,
    };
    tracing::info!(%address, app_domain = serving.hosts.app_domain(), "serving");
    if arguments.json {
        output::json(&json!({ "ready": true, "listen": address, "metrics": metrics_address }))?;
    }
    node.serve(listener, &stop, serving.shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        Self::of(&error)
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        Self::of(&error)
    }
}
