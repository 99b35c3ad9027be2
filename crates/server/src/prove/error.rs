//! Why a proof could not be made. Never that it failed: that is in the proof.

use stagesub_auth::PasswordError;
use stagesub_domain::error::{StoreError, UseCaseError};
use stagesub_tenancy::prove::http::TargetError;
use stagesub_tenancy::{BeginError, DirectoryError, ResolveError};

use super::remote::InvalidUrl;
use crate::wiring::WiringError;

/// A proof could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProveError {
    /// Another proof runs on this platform and did not end in time.
    #[error(
        "another proof runs on this platform and did not end within {minutes} minutes; try again when it has"
    )]
    Busy {
        /// How long was waited.
        minutes: u64,
    },
    /// There is no shared database to put canaries in.
    #[error("the registry knows no shared database that is ready; run `stagesub migrate`")]
    NoShared,
    /// An orchestra has a canary's host label and is none.
    #[error(
        "the orchestra {subdomain} is none that the proof made, and it is left alone; give it another subdomain"
    )]
    NotACanary {
        /// Its host label.
        subdomain: String,
    },
    /// Somebody has the address of the proof's own administrator and is none.
    #[error("{email} is the address of the proof's own administrator, and somebody else's account")]
    NotTheOperator {
        /// The address.
        email: String,
    },
    /// The proof's own administrator is the only one, so it was not disabled.
    #[error(
        "{email}, the proof's own administrator of the platform, is the only one who may sign in and was left so; make another with `stagesub user create --superadmin`"
    )]
    LastOperator {
        /// The address.
        email: String,
    },
    /// The service does not serve the canaries that were made on these databases.
    #[error(
        "the service does not let the canaries sign in: {host} answered {status}; does it run on these databases, and is APP_DOMAIN what it has?"
    )]
    NotServed {
        /// The host that was asked.
        host: String,
        /// What it answered.
        status: u16,
    },
    /// It was told to stop.
    #[error("the proof was stopped before it was done; the canaries are suspended")]
    Stopped,
    /// The service gave no answer.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The address is none.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// A password could not be hashed.
    #[error("a password could not be hashed")]
    Password(#[from] PasswordError),
    /// The registry failed.
    #[error("the registry could not be asked")]
    Store(#[from] StoreError),
    /// The directory failed.
    #[error("the registry could not be asked")]
    Directory(#[from] DirectoryError),
    /// A use case refused.
    #[error("a canary could not be made ready")]
    Refused(#[from] UseCaseError),
    /// No scope was given.
    #[error("a canary could not be opened")]
    Resolve(#[from] ResolveError),
    /// No transaction was begun.
    #[error("a canary's database could not be opened")]
    Begin(#[from] BeginError),
    /// The platform could not be wired.
    #[error(transparent)]
    Wiring(#[from] WiringError),
}
