//! One server: prepared, serving, stopped.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use stagesub_storage::doctor::DoctorError;
use stagesub_tenancy::clock::Clock;
use tokio::net::TcpListener;

use crate::bootstrap::{self, BootstrapError};
use crate::clock::SystemClock;
use crate::config::{ConnectionSettings, DatabaseSettings, ServingSettings};
use crate::doctor::{self, Unsound};
use crate::jobs::Jobs;
use crate::metrics;
use crate::routes::build_router;
use crate::serving::{self, ServeError, Stop};
use crate::state::AppState;
use crate::wiring::{Platform, WiringError};

/// Longest that jobs and pools may take to end once no request is under way.
const CLOSING: Duration = Duration::from_secs(10);

/// A server that is ready to answer.
pub struct Node {
    platform: Platform,
    state: AppState,
    jobs: Jobs,
    connections: ConnectionSettings,
}

impl Node {
    /// Connects, makes sure that no tenant can reach another's data, finishes what an earlier crash left half
    /// made, makes sure that somebody can administer the platform, and begins to follow the registry's changes.
    ///
    /// # Errors
    /// [`NodeError`], a sentence for whoever starts the server. Nothing goes on in the background then.
    pub async fn prepare(databases: DatabaseSettings, serving: &ServingSettings) -> Result<Self, NodeError> {
        let platform = Platform::open(databases, serving.hosts.clone()).await?;
        if serving.metrics.is_some() {
            platform.metrics().turn_on();
        }
        match Self::ready(&platform, serving).await {
            Ok((state, jobs)) => Ok(Self { platform, state, jobs, connections: serving.connections }),
            Err(error) => {
                platform.close(CLOSING).await;
                Err(error)
            }
        }
    }

    async fn ready(platform: &Platform, serving: &ServingSettings) -> Result<(AppState, Jobs), NodeError> {
        let clock = SystemClock;
        // Signing comes first: a secret that is too short is told before anything is changed.
        let state = platform.state(serving)?;
        platform.check().await?;
        // Before anything is changed, and before anybody is served.
        let mut report = platform.examine().await?;
        doctor::probe_guards(&mut report, platform, serving, build_router(state.clone())).await;
        doctor::refuse_on_hole(&report)?;
        platform.recover(clock.now()).await;
        bootstrap::ensure_superadmin(
            platform.people().as_ref(),
            platform.passwords(),
            serving.superadmin.as_ref(),
            clock.now(),
        )
        .await?;
        let jobs = platform.jobs(serving, &state);
        Ok((state, jobs))
    }

    /// The platform's adapters.
    #[must_use]
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Gives figures to Prometheus on a listener of their own, as long as it serves.
    #[must_use]
    pub fn with_metrics(mut self, listener: TcpListener) -> Self {
        let sources = self.platform.sources(&self.state, &self.jobs);
        let metrics = self.platform.metrics().clone();
        self.jobs.start("metrics", |stop| metrics::listener::serve(listener, metrics, sources, stop));
        self
    }

    /// Serves until told to stop, then ends jobs and closes pools.
    pub async fn serve(self, listener: TcpListener, stop: &Stop, grace: Duration) -> Result<(), ServeError> {
        let proxies = self.state.trusted_proxies.clone();
        let bounds = (self.connections, &proxies);
        // Answers that have no end of their own end with the node.
        let closing = self.state.moves.closing.clone();
        let close = async {
            stop.asked.cancelled().await;
            closing.cancel();
            pending::<Infallible>().await
        };
        let served = tokio::select! {
            served = serving::serve_within(listener, build_router(self.state), stop, grace, bounds) => served,
            never = close => match never {},
        };
        self.jobs.stop(CLOSING).await;
        self.platform.close(CLOSING).await;
        served
    }

    /// Ends without having served.
    pub async fn close(self) {
        self.jobs.stop(CLOSING).await;
        self.platform.close(CLOSING).await;
    }
}

/// A server could not be made ready.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// Its databases cannot be used, or a secret is unfit.
    #[error(transparent)]
    Wiring(#[from] WiringError),
    /// Its databases cannot be examined.
    #[error(transparent)]
    Doctor(#[from] DoctorError),
    /// Its tenants are not isolated.
    #[error(transparent)]
    Unsound(#[from] Unsound),
    /// Nobody could administer it.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
}
