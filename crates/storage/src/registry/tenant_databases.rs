//! Databases as provisioning asks for them.

use async_trait::async_trait;
use stagesub_domain::error::{DatabaseError, StoreError};
use stagesub_domain::ports::registry::{DedicatedPlace, TenantDatabases};
use stagesub_tenancy::{DatabaseId, PlacementEpoch, TenantId};

use super::{Keys, RegistryPools};
use crate::databases::DedicatedDatabases;
use crate::fence::{AdmitError, admit_tenant};
use crate::logins::{DatabaseLogins, LoginRole};
use crate::migrate::MigrateError;
use crate::registry::logins::PgDatabaseLogins;
use crate::repo::store_error;

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
    /// Over the registry and the keys its connection strings are sealed with.
    #[must_use]
    pub fn new(registry: RegistryPools, keys: Keys) -> Self {
        Self {
            dedicated: DedicatedDatabases::new(registry.clone(), keys.clone()),
            logins: PgDatabaseLogins::new(registry.clone(), keys),
            registry,
        }
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

    async fn create_dedicated(
        &self,
        tenant: TenantId,
        place: &DedicatedPlace,
    ) -> Result<DatabaseId, DatabaseError> {
        match place {
            DedicatedPlace::Beside => self.dedicated.create(tenant).await.map_err(database_error),
            DedicatedPlace::Server(_) | DedicatedPlace::Database(_) => Err(DatabaseError::Refused {
                reason: "only the server of the shared database is known to this platform".to_owned(),
            }),
        }
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

/// What cannot be reached may be there later; everything else is a sentence with what to do.
fn database_error(error: MigrateError) -> DatabaseError {
    match error {
        MigrateError::Unreachable { .. } => StoreError::Unavailable(Box::new(error)).into(),
        MigrateError::Database { .. } | MigrateError::Seal(_) => StoreError::Failed(Box::new(error)).into(),
        error => DatabaseError::Refused { reason: error.to_string() },
    }
}
