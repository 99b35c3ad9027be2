//! Why there is no proof.

use stagesub_tenancy::{BoxError, TenantId};

use crate::marker::MarkerError;
use crate::migrate::MigrateError;

/// The attacks could not be carried out, so nothing is proved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProveError {
    /// No connection.
    #[error("{target} cannot be reached")]
    Unreachable {
        /// User, address and database.
        target: String,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// The connection was lost in between.
    #[error("{target} was lost while {doing}")]
    Lost {
        /// User, address and database.
        target: String,
        /// What was being done.
        doing: String,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// What is to be attacked could not be read or set up.
    #[error("{doing} failed on {target}")]
    Failed {
        /// User, address and database.
        target: String,
        /// What was being done.
        doing: String,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// The marker cannot be read.
    #[error("{target} cannot be told from another database")]
    Marker {
        /// User, address and database.
        target: String,
        /// What failed.
        #[source]
        source: MarkerError,
    },
    /// The database holds no tenants.
    #[error("{target} is no database of tenants")]
    NoTenants {
        /// User, address and database.
        target: String,
    },
    /// There are no tables in these schemas.
    #[error("{target} has no table in {schemas}")]
    NoTables {
        /// User, address and database.
        target: String,
        /// Where they were looked for.
        schemas: String,
    },
    /// One tenant cannot attack itself.
    #[error("attacker and victim are the same tenant, {0}")]
    SameTenant(TenantId),
    /// Guards are removed from a scratch database only.
    #[error("{target} is no scratch database; its guards are left alone")]
    NotScratch {
        /// User, address and database.
        target: String,
    },
    /// The scratch database could not be made.
    #[error("the scratch database could not be made")]
    Migrate(#[source] MigrateError),
    /// The sample did not do its part.
    #[error("{doing} of the scratch database failed")]
    Sample {
        /// Its part.
        doing: &'static str,
        /// What it says.
        #[source]
        source: BoxError,
    },
}
