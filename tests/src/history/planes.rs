//! What movers move with.

use std::sync::Arc;

use stagesub_storage::logins::DatabaseLogins;
use stagesub_storage::moves::plan::Contents;
use stagesub_storage::moves::plane::{Burden, PgDataPlane, PlaneSettings};
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::moves::PgMoveRegistry;
use stagesub_tenancy::moves::MoveRegistry;

use super::driving::Planes;
use super::ground::Ground;

/// Movers of a ground's residents, each with what a process of its own has.
#[must_use]
pub fn streaming(ground: &Ground) -> Planes {
    of(ground.logins(), &ground.registry, ground.contents())
}

/// Movers of such contents.
#[must_use]
pub fn of(logins: Arc<dyn DatabaseLogins>, registry: &RegistryPools, contents: Contents) -> Planes {
    with(logins, registry, contents, PlaneSettings::default())
}

/// Movers of a ground's residents that may have their source keep so much.
#[must_use]
pub fn bearing(ground: &Ground, burden: Burden) -> Planes {
    let settings = PlaneSettings { burden, ..PlaneSettings::default() };
    with(ground.logins(), &ground.registry, ground.contents(), settings)
}

fn with(
    logins: Arc<dyn DatabaseLogins>,
    registry: &RegistryPools,
    contents: Contents,
    settings: PlaneSettings,
) -> Planes {
    let moves: Arc<dyn MoveRegistry> = Arc::new(PgMoveRegistry::new(registry.clone()));
    Arc::new(move || {
        let (logins, moves) = (Arc::clone(&logins), Arc::clone(&moves));
        Arc::new(PgDataPlane::new(logins, moves, contents.clone(), settings.clone()))
    })
}
