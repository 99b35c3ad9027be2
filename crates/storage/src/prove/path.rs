//! The data path of a service over one database: directory, resolver, router, pools, `TenantDb`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::DateTime;
use stagesub_tenancy::{
    Access, BeginError, BoxError, ConfigVersion, DatabaseId, DirectoryError, HostPolicy, Located, Placement,
    PlacementEpoch, PoolSettings, Purpose, Resolver, Router, Subdomain, Tenant, TenantDirectory, TenantId,
    TenantScope, TenantStatus,
};
use uuid::Uuid;

use super::error::ProveError;
use super::session::Session;
use crate::factory::{FactorySettings, LeanPoolFactory, TenantDb};
use crate::logins::{DatabaseLogins, LoginRole};
use crate::marker::{DatabaseKind, read_tenant_marker};
use crate::one_message::{PreparedRead, ReadError};
use crate::one_write::{PreparedWrite, WriteError};
use crate::patience::MovePatience;
use crate::pool::TenantPoolSettings;
use crate::target::ConnectionTarget;

/// Connections of the path.
const CONNECTIONS: u32 = 2;
/// Longest that the path's pools may take to close.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// A data path to one database.
pub(super) struct DataPath {
    directory: Arc<Placements>,
    router: Arc<Router<LeanPoolFactory>>,
    database: DatabaseId,
    kind: DatabaseKind,
}

impl DataPath {
    /// Over the database that the login is for, as its marker says what it is.
    pub(super) async fn open(app: &mut Session, login: &ConnectionTarget) -> Result<Self, ProveError> {
        let target = app.describe();
        let marker = read_tenant_marker(app.catalogue())
            .await
            .map_err(|source| ProveError::Marker { target: target.clone(), source })?
            .ok_or(ProveError::NoTenants { target })?;
        let settings = TenantPoolSettings { max_connections: CONNECTIONS, ..TenantPoolSettings::default() };
        let factory = LeanPoolFactory::new(
            Arc::new(OneLogin(login.clone())),
            FactorySettings { shared: settings, dedicated: settings },
        );
        let directory = Arc::new(Placements::default());
        let router = Router::new(directory.clone(), Arc::new(factory), PoolSettings::default());
        Ok(Self { directory, router: Arc::new(router), database: marker.database, kind: marker.kind })
    }

    /// Says that the database serves a tenant at an epoch.
    pub(super) fn place(&mut self, tenant: TenantId, epoch: PlacementEpoch) {
        self.put(tenant, self.database, epoch);
    }

    /// Says that another database does, where this one is found.
    pub(super) fn misplace(&mut self, tenant: TenantId, epoch: PlacementEpoch) {
        self.put(tenant, DatabaseId::from_uuid(Uuid::now_v7()), epoch);
    }

    fn put(&mut self, tenant: TenantId, database: DatabaseId, epoch: PlacementEpoch) {
        let placement = match self.kind {
            DatabaseKind::Dedicated(_) => Placement::Dedicated(database),
            DatabaseKind::Shared | DatabaseKind::Registry => Placement::Shared(database),
        };
        let mut known = self.directory.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(tenant, Located { tenant, placement, epoch });
    }

    /// Transactions for whoever holds a scope.
    pub(super) fn tenants(&self) -> TenantDb {
        TenantDb::new(Arc::clone(&self.router))
    }

    /// Permission for a tenant that was placed.
    pub(super) async fn scope(&self, tenant: TenantId) -> Result<TenantScope, BoxError> {
        let hosts = HostPolicy::new("prove.invalid")?;
        let resolver = Resolver::new(Arc::clone(&self.directory) as Arc<dyn TenantDirectory>, hosts);
        Ok(resolver.resolve_for(tenant, Purpose::Provisioning, DateTime::UNIX_EPOCH).await?)
    }

    /// Begins a transaction and rolls it back. No other answer is waited for: nothing is moved here.
    pub(super) async fn begin(&self, tenant: TenantId, access: Access) -> Result<(), BeginError> {
        let scope = self.scope(tenant).await.map_err(BeginError::Unavailable)?;
        self.tenants()
            .with_patience(MovePatience::within(Duration::ZERO))
            .begin(&scope, access)
            .await
            .map(drop)
    }

    /// Reads in one message. No other answer is waited for.
    pub(super) async fn read(&self, tenant: TenantId, what: &PreparedRead) -> Result<usize, ReadError> {
        let scope = self.scope(tenant).await.map_err(BeginError::Unavailable)?;
        let db = self.tenants().with_patience(MovePatience::within(Duration::ZERO));
        Ok(db.read_in_one_message(&scope, what, &[]).await?.len())
    }

    /// Writes in one message. No other answer is waited for.
    pub(super) async fn write(&self, tenant: TenantId, what: &PreparedWrite) -> Result<u64, WriteError> {
        let scope = self.scope(tenant).await.map_err(BeginError::Unavailable)?;
        let db = self.tenants().with_patience(MovePatience::within(Duration::ZERO));
        Ok(db.write_in_one_message(&scope, what, &[]).await?.affected)
    }

    /// Closes its connections.
    pub(super) async fn close(self) {
        if tokio::time::timeout(CLOSE_WITHIN, self.router.shutdown()).await.is_err() {
            tracing::warn!("the connections of a data path did not close in time");
        }
    }
}

/// Knows one login, whatever database is asked for.
struct OneLogin(ConnectionTarget);

#[async_trait]
impl DatabaseLogins for OneLogin {
    async fn find_login(
        &self,
        _: DatabaseId,
        role: LoginRole,
    ) -> Result<Option<ConnectionTarget>, DirectoryError> {
        Ok((role == LoginRole::App).then(|| self.0.clone()))
    }
}

/// A directory of tenants that are nobody's: made up but for their ids.
#[derive(Default)]
struct Placements(Mutex<HashMap<TenantId, Located>>);

#[async_trait]
impl TenantDirectory for Placements {
    async fn find_by_subdomain(&self, _: &Subdomain) -> Result<Option<Arc<Tenant>>, DirectoryError> {
        Ok(None)
    }

    async fn find_by_id(&self, id: TenantId) -> Result<Option<Arc<Tenant>>, DirectoryError> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&id);
        if !known {
            return Ok(None);
        }
        let corrupt = |source: BoxError| DirectoryError::Corrupt { what: "made-up tenant", source };
        Ok(Some(Arc::new(Tenant {
            id,
            code: "PROVE".parse().map_err(|source| corrupt(Box::new(source)))?,
            name: "Prove".to_owned(),
            subdomain: "prove".parse().map_err(|source| corrupt(Box::new(source)))?,
            status: TenantStatus::Active,
            trial_ends_at: None,
            subscription_ends_at: None,
            version: ConfigVersion(1),
        })))
    }

    async fn find_placement(&self, id: TenantId) -> Result<Option<Located>, DirectoryError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied())
    }
}
