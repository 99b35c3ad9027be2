//! Why a database could not be set up, each with what to do about it.

use stagesub_tenancy::{DatabaseId, DirectoryError};

use crate::databases::HostRefused;
use crate::doctor::DoctorError;
use crate::logins::LoginRole;
use crate::marker::{Marker, MarkerError};
use crate::seal::SealError;
use crate::target::TargetError;

/// Setting up or upgrading databases stopped. `Display` is a sentence for whoever runs the platform: what
/// is wrong and what to do. No variant carries a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// No connection.
    #[error(
        "{target} cannot be reached; check the address, that the server runs, and that it lets this user in"
    )]
    Unreachable {
        /// User, address and database.
        target: String,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// The server is too old.
    #[error("{target} is PostgreSQL {version}; 15 or later is needed")]
    OldServer {
        /// User, address and database.
        target: String,
        /// Its version.
        version: String,
    },
    /// The database cannot hold every text.
    #[error("{target} has the encoding {encoding}; create it with ENCODING 'UTF8'")]
    Encoding {
        /// User, address and database.
        target: String,
        /// Its encoding.
        encoding: String,
    },
    /// The user may not do what setting up needs.
    #[error(
        "{target}: this user {lacks}; run `migrate` with an administrator's connection in STAGESUB_ADMIN_DATABASE_URL"
    )]
    NotPrivileged {
        /// User, address and database.
        target: String,
        /// What it lacks, as the sentence goes on.
        lacks: &'static str,
    },
    /// The database is another of the platform's.
    #[error("{target} is marked as {found}, and {wanted} is wanted; correct the connection string")]
    WrongDatabase {
        /// User, address and database.
        target: String,
        /// What its marker says.
        found: Marker,
        /// What it should be.
        wanted: &'static str,
    },
    /// The database belongs to another installation.
    #[error(
        "{target} is marked as {found}, which this registry does not know; it belongs to another installation"
    )]
    Foreign {
        /// User, address and database.
        target: String,
        /// What its marker says.
        found: Marker,
    },
    /// A schema of the platform's name is there and is not the platform's.
    #[error("{target} has a schema `{schema}` that this platform did not make; name another database")]
    SchemaTaken {
        /// User, address and database.
        target: String,
        /// The schema.
        schema: String,
    },
    /// A demonstration wants a database of its own.
    #[error(
        "{target} is neither empty nor a demonstration's; name an empty database, or use `migrate` and `serve`"
    )]
    NotDemo {
        /// User, address and database.
        target: String,
    },
    /// A dedicated database's name is taken.
    #[error("{target} exists and is not this tenant's: {detail}; rename or drop it")]
    NameTaken {
        /// User, address and database.
        target: String,
        /// What is there instead.
        detail: String,
    },
    /// The database was migrated by a later version of this program.
    #[error(
        "{target} has schema version {applied} of the {set} set, this program knows {known}; run the newer program"
    )]
    NewerSchema {
        /// User, address and database.
        target: String,
        /// `registry` or `tenant`.
        set: &'static str,
        /// The newest applied migration.
        applied: i64,
        /// The newest this program knows.
        known: i64,
    },
    /// A migration failed or differs from the one that was applied.
    #[error("migrating {target} ({set} set) failed and was rolled back")]
    Migration {
        /// User, address and database.
        target: String,
        /// `registry` or `tenant`.
        set: &'static str,
        /// What failed.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// A login exists whose password this registry does not hold.
    #[error(
        "the role {} on the server of {target} can log in already, and this registry does not hold its password: another installation uses this server. Use a server of its own, or take the roles over with --adopt-logins (the other installation then stops working)",
        role.as_str()
    )]
    LoginExists {
        /// User, address and database.
        target: String,
        /// The login.
        role: LoginRole,
    },
    /// The registry is not there, or not at this program's schema.
    #[error("{target} is not migrated to this program's schema; run `stagesub migrate`")]
    NotMigrated {
        /// User, address and database.
        target: String,
    },
    /// The user of `DATABASE_URL` may not read the registry's connection strings.
    #[error(
        "{target}: this user may not read the registry; run `migrate` with the same DATABASE_URL, which lets it"
    )]
    MayNotRead {
        /// User, address and database.
        target: String,
        /// What Postgres says.
        #[source]
        source: sqlx::Error,
    },
    /// A stored password does not work.
    #[error(
        "{target} does not let the role {} in with the password this registry holds; if it was changed there, set it anew with --adopt-logins",
        role.as_str()
    )]
    LoginRefused {
        /// User, address and database.
        target: String,
        /// The login.
        role: LoginRole,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// A stored connection string does not open.
    #[error(
        "the connection strings of database {database} do not open; give STAGESUB_KEYS the key they were sealed with"
    )]
    Keys {
        /// The database.
        database: DatabaseId,
        /// What is wrong.
        #[source]
        source: SealError,
    },
    /// A stored connection string opens and is none.
    #[error("a connection string of database {database} is corrupt; set it anew with --adopt-logins")]
    CorruptLogin {
        /// The database.
        database: DatabaseId,
        /// What is wrong.
        #[source]
        source: TargetError,
    },
    /// The registry has no connection string that is needed.
    #[error("the registry holds no connection string of {} on database {database}; run `migrate`", role.as_str())]
    NoLogin {
        /// The database.
        database: DatabaseId,
        /// The login.
        role: LoginRole,
    },
    /// Whether the registry has a connection string is not known: it cannot be read, or does not open.
    #[error(
        "the connection string of {} on database {database} cannot be read; check that the registry answers and that STAGESUB_KEYS has the key it was sealed with",
        role.as_str()
    )]
    UnreadLogin {
        /// The database.
        database: DatabaseId,
        /// The login.
        role: LoginRole,
        /// What failed.
        #[source]
        source: DirectoryError,
    },
    /// The shared database was named before and is not now.
    #[error(
        "the registry's shared database is {known}, and SHARED_TENANT_DB_URL is not set; set it, so that tenants are not put somewhere else"
    )]
    SharedNotNamed {
        /// Where the shared database is.
        known: String,
    },
    /// There is no shared database to make a dedicated one beside.
    #[error("the registry knows no shared database; run `migrate`")]
    NoShared,
    /// Somebody named a server that may not be connected to.
    #[error(transparent)]
    NotAllowed(#[from] HostRefused),
    /// The server takes no writes.
    #[error("{target} is a standby, which takes no writes; name the server that it follows")]
    Standby {
        /// User, address and database.
        target: String,
    },
    /// The user that was named may not do what making a database needs.
    #[error("{target}: this user {lacks}; name one that may")]
    NamedLacks {
        /// User, address and database.
        target: String,
        /// What it lacks, as the sentence goes on.
        lacks: &'static str,
    },
    /// A database that was named holds something.
    #[error("{target} holds tables or schemas that this platform did not make; name an empty database")]
    NotEmpty {
        /// User, address and database.
        target: String,
    },
    /// A database that was named is the platform's already, by whatever name.
    #[error("{target} is known already, as {known}; name another database")]
    Known {
        /// User, address and database.
        target: String,
        /// What it is.
        known: String,
    },
    /// The tenant has a database of its own somewhere else.
    #[error(
        "the tenant has a database of its own at {known} already; move it there, or give that place to finish it"
    )]
    HasOwn {
        /// Where: `host:port/name`.
        known: String,
    },
    /// A database that was made does not keep its tenants apart.
    #[error(
        "{target} is not used, because tenants would not be isolated there: {finding}; mend it and try again"
    )]
    Unsound {
        /// User, address and database.
        target: String,
        /// The first hole, with the SQL that mends it.
        finding: String,
    },
    /// Whether a database that was made keeps its tenants apart is not known.
    #[error("{target} is not used, because it could not be examined; try again")]
    NotExamined {
        /// User, address and database.
        target: String,
        /// What failed.
        #[source]
        source: Box<DoctorError>,
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
    /// A statement failed.
    #[error("{doing} failed")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// A value could not be sealed.
    #[error("a connection string could not be sealed")]
    Seal(#[source] SealError),
}

/// Adds what was being done to a driver's error.
pub(crate) fn during(doing: &'static str) -> impl Fn(sqlx::Error) -> MigrateError {
    move |source| MigrateError::Database { doing, source }
}
