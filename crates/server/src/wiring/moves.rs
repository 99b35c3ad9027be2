//! Which adapters stand behind the ports of moves.

use std::sync::Arc;

use stagesub_domain::ports::MoveDesk;
use stagesub_domain::ports::registry::{TenantDatabases, TenantRegistry};
use stagesub_domain::service::moves::Moving;
use stagesub_storage::doctor::Expectations;
use stagesub_storage::logins::DatabaseLogins;
use stagesub_storage::moves::plan::Contents;
use stagesub_storage::moves::plane::{Burden, PgDataPlane, PlaneSettings};
use stagesub_storage::moves::survey::PgSurveyor;
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::move_desk::PgMoveDesk;
use stagesub_storage::registry::moves::PgMoveRegistry;
use stagesub_tenancy::NodeId;
use stagesub_tenancy::moves::{DataPlane, MoveRegistry, Surveyor};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::config::MoveSettings;
use crate::handlers::platform_moves::events;
use crate::jobs::moves::{Census, Movers};
use crate::metrics::Metrics;
use crate::state::{MoveParts, Wake};

/// Moves on one platform.
pub(super) struct Moves {
    registry: Arc<dyn MoveRegistry>,
    desk: Arc<dyn MoveDesk>,
    plane: Arc<dyn DataPlane>,
    surveyor: Arc<dyn Surveyor>,
    /// Told when there may be a move to drive.
    begun: Arc<Notify>,
    wake: Wake,
    pub(super) census: Arc<Census>,
}

impl Moves {
    pub(super) fn new(
        registry: &RegistryPools,
        logins: Arc<dyn DatabaseLogins>,
        expected: &Expectations,
        burden: Burden,
    ) -> Self {
        let contents = Contents {
            schemas: expected.data_schemas().to_vec(),
            reference_tables: expected.reference_tables().to_vec(),
        };
        let begun = Arc::new(Notify::new());
        let told = Arc::clone(&begun);
        let moves: Arc<dyn MoveRegistry> = Arc::new(PgMoveRegistry::new(registry.clone()));
        Self {
            registry: Arc::clone(&moves),
            desk: Arc::new(PgMoveDesk::new(registry.clone())),
            plane: Arc::new(PgDataPlane::new(
                Arc::clone(&logins),
                moves,
                contents.clone(),
                PlaneSettings { burden, ..PlaneSettings::default() },
            )),
            surveyor: Arc::new(PgSurveyor::new(logins, contents)),
            begun,
            wake: Arc::new(move || told.notify_one()),
            census: Arc::default(),
        }
    }

    pub(super) fn parts(&self) -> MoveParts {
        MoveParts {
            registry: Arc::clone(&self.registry),
            desk: Arc::clone(&self.desk),
            plane: Arc::clone(&self.plane),
            surveyor: Arc::clone(&self.surveyor),
            wake: Arc::clone(&self.wake),
            streams: Arc::new(Semaphore::new(events::MOST)),
            closing: CancellationToken::new(),
        }
    }

    pub(super) fn moving<'a>(
        &'a self,
        tenants: &'a dyn TenantRegistry,
        databases: &'a dyn TenantDatabases,
    ) -> Moving<'a> {
        Moving {
            tenants,
            databases,
            desk: &*self.desk,
            moves: &*self.registry,
            plane: &*self.plane,
            surveyor: &*self.surveyor,
            wake: &*self.wake,
        }
    }

    pub(super) fn movers(&self, node: NodeId, settings: MoveSettings, metrics: &Metrics) -> Movers {
        Movers {
            registry: Arc::clone(&self.registry),
            plane: Arc::clone(&self.plane),
            node,
            settings,
            begun: Arc::clone(&self.begun),
            metrics: metrics.clone(),
        }
    }

    /// What counts moves, and what it counts with.
    pub(super) fn counted(&self, metrics: &Metrics) -> (Arc<Census>, Arc<dyn MoveRegistry>, Metrics) {
        (Arc::clone(&self.census), Arc::clone(&self.registry), metrics.clone())
    }
}
