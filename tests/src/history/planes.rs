//! What movers move with.

use std::sync::Arc;

use stagesub_storage::logins::DatabaseLogins;
use stagesub_storage::moves::plan::Contents;
use stagesub_storage::moves::plane::{PgDataPlane, PlaneSettings};

use super::driving::Planes;
use super::ground::Ground;

/// Movers of a ground's residents, each with what a process of its own has.
#[must_use]
pub fn streaming(ground: &Ground) -> Planes {
    of(ground.logins(), ground.contents())
}

/// Movers of such contents.
#[must_use]
pub fn of(logins: Arc<dyn DatabaseLogins>, contents: Contents) -> Planes {
    Arc::new(move || {
        Arc::new(PgDataPlane::new(Arc::clone(&logins), contents.clone(), PlaneSettings::default()))
    })
}
