//! A database that is made to be attacked without its guards, and dropped.

use async_trait::async_trait;
use stagesub_tenancy::{BoxError, TenantScope};

use crate::catalogue::TableName;
use crate::factory::TenantDb;
use crate::target::ConnectionTarget;

/// What a scratch database holds.
///
/// Futures are `Send`, and the trait is used as `&dyn Sample`.
#[async_trait]
pub trait Sample: Send + Sync {
    /// Makes the service's own tables, with the migrator's login on the scratch database. Those of
    /// `migrations/tenant` are there.
    async fn prepare(&self, migrator: &ConnectionTarget) -> Result<(), BoxError> {
        let _ = migrator;
        Ok(())
    }

    /// Gives one tenant at least one row in every table. Called for one made-up tenant after the other, on
    /// the data path that the service uses.
    async fn seed(&self, db: &TenantDb, scope: &TenantScope) -> Result<(), BoxError>;
}

/// Where scratch databases are made.
#[derive(Debug, Clone)]
pub struct ScratchSettings {
    pub(super) migrator: ConnectionTarget,
    pub(super) app: ConnectionTarget,
    pub(super) schemas: Vec<String>,
    pub(super) reference: Vec<TableName>,
    pub(super) hardened: bool,
}

impl ScratchSettings {
    /// Beside the shared database of `migrator`, which may create databases; attacked as `app`. Both are
    /// logins on that shared database, which is used to create and drop the scratch database and for nothing
    /// else.
    #[must_use]
    pub fn new(migrator: ConnectionTarget, app: ConnectionTarget) -> Self {
        Self {
            migrator,
            app,
            schemas: vec![super::TENANT_SCHEMA.to_owned()],
            reference: Vec::new(),
            hardened: true,
        }
    }

    /// The schemas of tenant data, in place of `tenant`.
    #[must_use]
    pub fn schemas(mut self, schemas: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.schemas = schemas.into_iter().map(Into::into).collect();
        self
    }

    /// Tables in them that belong to no tenant on purpose.
    #[must_use]
    pub fn reference_tables(mut self, tables: impl IntoIterator<Item = TableName>) -> Self {
        self.reference = tables.into_iter().collect();
        self
    }

    /// Leaves out suite `hardening`, as [`DatabaseProof::without_hardening`](super::DatabaseProof::without_hardening).
    #[must_use]
    pub fn without_hardening(mut self) -> Self {
        self.hardened = false;
        self
    }
}
