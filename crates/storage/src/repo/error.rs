//! Driver errors as the domain knows them.

use stagesub_domain::error::{Constraint, StoreError};

use crate::error::{Failure, classify};
use crate::registry::constraints;

/// Constraints of the tenant tables that use cases act on, by their names in the database. A test checks
/// that each exists.
pub const CONSTRAINTS: &[(&str, Constraint)] = &[
    ("instrument_name_key", Constraint::InstrumentName),
    ("position_name_key", Constraint::PositionName),
    ("position_instrument_fkey", Constraint::PositionInstrument),
    ("musician_email_key", Constraint::MusicianEmail),
    ("musician_qualification_position_fkey", Constraint::QualificationPosition),
];

/// Maps an error of a statement on tenant data or on the registry.
pub(crate) fn store_error(error: sqlx::Error) -> StoreError {
    match classify(&error) {
        Failure::Constraint(name) => match all_constraints().find(|(known, _)| *known == name) {
            Some((_, constraint)) => StoreError::Conflict { constraint: *constraint },
            None => StoreError::Failed(Box::new(error)),
        },
        Failure::Contended => StoreError::Contended(Box::new(error)),
        Failure::ConnectionLost | Failure::TimedOut | Failure::Exhausted | Failure::StaleEpoch => {
            StoreError::Unavailable(Box::new(error))
        }
        _ => StoreError::Failed(Box::new(error)),
    }
}

/// The constraints of both schemas. Their names are unique over the two.
fn all_constraints() -> impl Iterator<Item = &'static (&'static str, Constraint)> {
    CONSTRAINTS.iter().chain(constraints::CONSTRAINTS)
}
