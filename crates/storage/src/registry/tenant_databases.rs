//! Databases as provisioning asks for them.

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use stagesub_domain::error::{DatabaseError, StoreError};
use stagesub_domain::ports::registry::{DedicatedPlace, Prospect, TenantDatabases};
use stagesub_tenancy::{DatabaseId, PlacementEpoch, TenantId};

use super::{Keys, RegistryPools};
use crate::databases::{AllowedHosts, DedicatedDatabases, Home, Looked};
use crate::doctor::Expectations;
use crate::error::{Failure, classify};
use crate::fence::{AdmitError, admit_tenant};
use crate::logins::{DatabaseLogins, LoginRole};
use crate::migrate::MigrateError;
use crate::registry::logins::PgDatabaseLogins;
use crate::repo::store_error;
use crate::roles::is_refused;
use crate::target::ConnectionTarget;

/// The epoch a new tenant is placed at.
const FIRST_EPOCH: PlacementEpoch = PlacementEpoch(1);

/// [`TenantDatabases`] on Postgres.
#[derive(Clone, Debug)]
pub struct PgTenantDatabases {
    registry: RegistryPools,
    dedicated: DedicatedDatabases,
    logins: PgDatabaseLogins,
}

impl PgTenantDatabases {
    /// Over the registry and the keys its connection strings are sealed with. No server may be named.
    #[must_use]
    pub fn new(registry: RegistryPools, keys: Keys) -> Self {
        Self {
            dedicated: DedicatedDatabases::new(registry.clone(), keys.clone()),
            logins: PgDatabaseLogins::new(registry.clone(), keys),
            registry,
        }
    }

    /// Servers may be named that are on this list; what is made there has to be as it is expected.
    #[must_use]
    pub fn naming(self, allowed: AllowedHosts, expected: Expectations) -> Self {
        Self { dedicated: self.dedicated.naming(allowed, expected), ..self }
    }
}

#[async_trait]
impl TenantDatabases for PgTenantDatabases {
    async fn choose_shared(&self) -> Result<DatabaseId, StoreError> {
        // The one that holds the fewest tenants.
        sqlx::query_scalar!(
            "SELECT d.id
            FROM registry.databases AS d
            WHERE d.kind = 'shared' AND d.status = 'ready'
            ORDER BY (SELECT count(*) FROM registry.directory AS p WHERE p.database_id = d.id), d.id
            LIMIT 1"
        )
        .fetch_optional(self.registry.control())
        .await
        .map_err(store_error)?
        .map(DatabaseId::from_uuid)
        .ok_or_else(|| StoreError::Failed(Box::new(MigrateError::NoShared)))
    }

    async fn look_at(&self, tenant: TenantId, place: &DedicatedPlace) -> Result<Prospect, DatabaseError> {
        let home = home(place)?;
        let looked = self.dedicated.look_at(tenant, &home).await;
        Ok(match looked.map_err(|error| database_error(error, &home))? {
            Looked::Ready(id) => Prospect::Ready(id),
            Looked::ToBeMade(target) => Prospect::ToBeMade(target),
        })
    }

    async fn create_dedicated(
        &self,
        tenant: TenantId,
        place: &DedicatedPlace,
    ) -> Result<DatabaseId, DatabaseError> {
        let home = home(place)?;
        self.dedicated.create_at(tenant, &home).await.map_err(|error| database_error(error, &home))
    }

    async fn admit(&self, tenant: TenantId, database: DatabaseId) -> Result<(), StoreError> {
        let role = LoginRole::Migrator;
        let login = self
            .logins
            .find_login(database, role)
            .await
            .map_err(|error| StoreError::Unavailable(Box::new(error)))?
            .ok_or_else(|| StoreError::Failed(Box::new(MigrateError::NoLogin { database, role })))?;
        admit_tenant(&login, tenant, FIRST_EPOCH).await.map_err(|error| match error {
            AdmitError::Unreachable { .. } => StoreError::Unavailable(Box::new(error)),
            AdmitError::Failed(source) => match source.downcast::<sqlx::Error>() {
                Ok(source) => store_error(*source),
                Err(source) => StoreError::Failed(source),
            },
            error => StoreError::Failed(Box::new(error)),
        })
    }
}

fn home(place: &DedicatedPlace) -> Result<Home, DatabaseError> {
    Ok(match place {
        DedicatedPlace::Beside => Home::Beside,
        DedicatedPlace::Server(url) => Home::Server(named(url)?),
        DedicatedPlace::Database(url) => Home::Database(named(url)?),
    })
}

/// Takes a connection string apart that somebody gave. What is wrong with it is told without a part of it.
pub(super) fn named(url: &SecretString) -> Result<ConnectionTarget, DatabaseError> {
    ConnectionTarget::parse(url.expose_secret().trim())
        .map_err(|error| DatabaseError::Refused { reason: format!("{error}; correct the connection string") })
}

/// What the registry or the platform's own server did not do now may be done later. Everything else is a sentence with
/// what to do, that a server cannot be reached which somebody named too.
pub(super) fn database_error(error: MigrateError, home: &Home) -> DatabaseError {
    match error {
        MigrateError::Unreachable { .. } if matches!(home, Home::Beside) => {
            StoreError::Unavailable(Box::new(error)).into()
        }
        MigrateError::Database { doing, source } => match classify(&source) {
            Failure::Statement if is_refused(&source) => DatabaseError::Refused {
                reason: format!("{doing} was refused ({source}); give the login what it lacks"),
            },
            Failure::Statement => {
                StoreError::Failed(Box::new(MigrateError::Database { doing, source })).into()
            }
            _ => StoreError::Unavailable(Box::new(MigrateError::Database { doing, source })).into(),
        },
        error @ (MigrateError::Seal(_) | MigrateError::Keys { .. } | MigrateError::Migration { .. }) => {
            StoreError::Failed(Box::new(error)).into()
        }
        error => DatabaseError::Refused { reason: chain(&error) },
    }
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
