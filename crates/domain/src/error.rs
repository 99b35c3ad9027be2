//! What can go wrong: in the store, in the input, in a use case.

use chrono::{DateTime, Utc};
use stagesub_id_gen::{Kind, SequenceError};
use stagesub_tenancy::{BeginError, BoxError, ResolveError};

use crate::subscription::Resource;

/// A rule that the database itself holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Constraint {
    /// Two instruments of one name.
    InstrumentName,
    /// Two positions of one name in an instrument.
    PositionName,
    /// A position of an instrument that does not exist.
    PositionInstrument,
    /// Two musicians of one address.
    MusicianEmail,
    /// A qualification for a position that does not exist.
    QualificationPosition,
    /// Two tenants of one subdomain.
    TenantSubdomain,
    /// Two tenants of one code, past ones included.
    TenantCode,
    /// Two people of one address.
    UserEmail,
    /// A person who is a member of the tenant already.
    Membership,
}

/// The store did not do what was asked; nothing of the transaction may be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A rule of the database refused it.
    #[error("the change breaks a rule of the store: {constraint:?}")]
    Conflict {
        /// Which.
        constraint: Constraint,
    },
    /// Another transaction was in the way (a deadlock or a lock that was not to be had); the same request
    /// may succeed when made again.
    #[error("another change was in the way")]
    Contended(#[source] BoxError),
    /// The database cannot be reached, is busy or took too long.
    #[error("the store is unavailable")]
    Unavailable(#[source] BoxError),
    /// The connection was lost while committing: everything of the transaction was kept, or nothing, and nobody
    /// here knows which. Doing it again may do it twice.
    #[error("it is not known whether the change was kept")]
    CommitUnknown(#[source] BoxError),
    /// A stored row breaks a rule of its type.
    #[error("{table} {id} is corrupt")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The row.
        id: String,
    },
    /// The statement itself failed: a defect of this program or of the schema.
    #[error("the store failed")]
    Failed(#[source] BoxError),
}

/// A database was not made, taken or looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// What was named cannot be used as it is, or an administrator has to mend something first. Asking again changes
    /// nothing.
    #[error("{reason}")]
    Refused {
        /// A sentence that says what to do; it names addresses and no secret.
        reason: String,
    },
    /// It was not done now. What was done until then stays, and the same call goes on from there.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DatabaseError> for UseCaseError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Refused { reason } => Self::WrongState { detail: reason },
            DatabaseError::Store(error) => Self::Store(error),
        }
    }
}

impl From<SequenceError> for StoreError {
    fn from(error: SequenceError) -> Self {
        match error {
            SequenceError::Contended(_) => Self::Contended(Box::new(error)),
            SequenceError::Unavailable(_) => Self::Unavailable(Box::new(error)),
            SequenceError::Missing { kind } => {
                Self::Corrupt { table: "id_counter", id: kind.code().to_owned() }
            }
            _ => Self::Failed(Box::new(error)),
        }
    }
}

/// One thing that is wrong with the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The field, in camelCase as the API names it (`firstName`, `qualifications[2]`).
    pub field: String,
    /// The rule's stable name (`length`, `email`, `unknown_reference`).
    pub rule: &'static str,
    /// What the rule asks, for people.
    pub message: String,
}

/// Everything that is wrong with the input: never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the input breaks {} rule(s)", .0.len())]
pub struct ValidationErrors(pub Vec<FieldError>);

impl ValidationErrors {
    /// One error.
    #[must_use]
    pub fn one(field: impl Into<String>, rule: &'static str, message: impl Into<String>) -> Self {
        Self(vec![FieldError { field: field.into(), rule, message: message.into() }])
    }
}

/// A use case did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UseCaseError {
    /// The input breaks rules.
    #[error(transparent)]
    Invalid(#[from] ValidationErrors),
    /// There is no such thing in this orchestra.
    #[error("no such {kind}")]
    NotFound {
        /// What was looked for.
        kind: Kind,
    },
    /// Something else has that name or address.
    #[error("{field} is taken")]
    Taken {
        /// The field, as the API names it.
        field: &'static str,
    },
    /// It is used by other things, so it cannot be deleted.
    #[error("the {kind} is in use")]
    InUse {
        /// What was to be deleted.
        kind: Kind,
        /// What uses it, for people ("3 positions").
        by: String,
    },
    /// The thing is in a state that does not allow it.
    #[error("{detail}")]
    WrongState {
        /// Why not, for people.
        detail: String,
    },
    /// The subscription allows no more.
    #[error("the limit of {} is reached", resource.as_str())]
    LimitReached {
        /// Of what.
        resource: Resource,
        /// How many there are.
        used: i32,
        /// How many are allowed.
        limit: i32,
        /// Until when a little more was tolerated, if it was.
        grace_until: Option<DateTime<Utc>>,
    },
    /// The key names another request, which was answered.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The request that the key names is at work still.
    #[error("the request of this idempotency key is still at work")]
    KeyUnderway,
    /// The platform has no such tenant.
    #[error("no such tenant")]
    UnknownTenant,
    /// There is no such move.
    #[error("no such move")]
    UnknownMove,
    /// There is no such person, or none in this orchestra.
    #[error("no such person")]
    UnknownPerson,
    /// Nobody who may sign in would be left to administer it.
    #[error("nobody else administers the {of}")]
    LastAdministrator {
        /// Of what: the orchestra or the platform.
        of: Administered,
    },
    /// A tenant's data could not be reached: the tenant is not served for this purpose.
    #[error("the tenant's scope was not given")]
    Resolve(#[source] ResolveError),
    /// A tenant's data could not be reached: no transaction was begun.
    #[error("the tenant's transaction was not begun")]
    Begin(#[source] BeginError),
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What has administrators, and must never be without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Administered {
    /// An orchestra.
    Orchestra,
    /// The platform.
    Platform,
}

impl std::fmt::Display for Administered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Orchestra => "orchestra",
            Self::Platform => "platform",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_gave_no_number_says_what_any_row_would() {
        let told = |error: SequenceError| StoreError::from(error);
        assert!(matches!(told(SequenceError::Contended("deadlock".into())), StoreError::Contended(_)));
        assert!(matches!(told(SequenceError::Unavailable("down".into())), StoreError::Unavailable(_)));
        assert!(matches!(told(SequenceError::Failed("no such column".into())), StoreError::Failed(_)));
        let missing = told(SequenceError::Missing { kind: Kind::Musician });
        assert!(matches!(missing, StoreError::Corrupt { table: "id_counter", id } if id == "MUS"));
    }
}
