//! `stagesub demo`: the whole platform on this machine.

use std::path::Path;

use stagesub_tenancy::clock::Clock;

use super::args::DemoArgs;
use super::{Failure, output};
use crate::clock::SystemClock;
use crate::config::{RawConfig, ServingSettings};
use crate::demo::cast;
use crate::demo::ground::{self, Ground};
use crate::demo::report::{Report, Served};
use crate::demo::secrets::Secrets;
use crate::demo::stage::{self, StageError};
use crate::node::Node;
use crate::serving::{self, Stop};

/// Runs the command. Postgres is stopped last, whatever happens before.
pub async fn run(arguments: DemoArgs, data_dir: Option<&Path>, raw: &RawConfig) -> Result<(), Failure> {
    let stop = Stop::on_signals()?;
    // First the port: a taken one is told before anything is started.
    let listener = serving::bind(arguments.listen).await?;
    let data_dir = data_dir.or(raw.stagesub_data_dir.as_deref());
    let ground = tokio::select! {
        ground = Ground::lay(data_dir, raw) => ground.map_err(|error| Failure::of(&error))?,
        () = stop.asked.cancelled() => return Ok(()),
    };
    let played = tokio::select! {
        played = play(&ground, raw, listener, arguments.json, &stop) => played,
        // Only a second signal ends a demo that is not yet serving, or one that does not end by itself.
        () = stop.insisted.cancelled() => Ok(()),
    };
    let stopped = ground.leave().await.map_err(|error| Failure::of(&error));
    played.and(stopped)
}

async fn play(
    ground: &Ground,
    raw: &RawConfig,
    listener: tokio::net::TcpListener,
    as_json: bool,
    stop: &Stop,
) -> Result<(), Failure> {
    let address = serving::local_address(&listener)?;
    let subdomains = cast::ORCHESTRAS.each_ref().map(|orchestra| orchestra.subdomain);
    let secrets = load_secrets(ground.data_dir(), &subdomains)?;
    let settings = ground::serving(&secrets, address, raw).map_err(|error| Failure::of(&error))?;
    let metrics = serving::bind_metrics(settings.metrics).await?;
    let node = tokio::select! {
        node = prepare(ground, raw, &secrets, &settings) => node?,
        () = stop.asked.cancelled() => return Ok(()),
    };
    let staged = tokio::select! {
        staged = put_on(&node, &secrets) => staged,
        () = stop.asked.cancelled() => {
            node.close().await;
            return Ok(());
        }
    };
    let tenants = match staged {
        Ok(tenants) => tenants,
        Err(error) => {
            node.close().await;
            return Err(Failure::of(&error));
        }
    };
    let report = Report { address, superadmin: secrets.superadmin(), tenants };
    if as_json {
        output::json(&report.to_json())?;
    } else {
        output::line(&report.to_text())?;
    }
    let node = match metrics {
        Some(listener) => node.with_metrics(listener),
        None => node,
    };
    node.serve(listener, stop, settings.shutdown).await?;
    Ok(())
}

async fn prepare(
    ground: &Ground,
    raw: &RawConfig,
    secrets: &Secrets,
    settings: &ServingSettings,
) -> Result<Node, Failure> {
    let databases = ground.migrate(raw, secrets).await.map_err(|error| Failure::of(&error))?;
    Ok(Node::prepare(databases, settings).await?)
}

async fn put_on(node: &Node, secrets: &Secrets) -> Result<Vec<Served>, StageError> {
    let platform = node.platform();
    stage::put_on(&platform.tenancy(), platform.passwords(), secrets, SystemClock.now()).await
}

fn load_secrets(data_dir: &Path, subdomains: &[&str]) -> Result<Secrets, Failure> {
    Secrets::load_or_generate(data_dir, subdomains).map_err(|error| Failure::of(&error))
}
