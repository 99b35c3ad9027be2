//! A platform in memory: registry, directory and databases, with a fault that strikes at a chosen step.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use stagesub_tenancy::moves::NewTarget;
use stagesub_tenancy::{
    Access, BeginError, ConfigVersion, DatabaseId, DirectoryError, HostPolicy, Located, Placement, Resolver,
    Subdomain, Tenant, TenantCode, TenantDirectory, TenantId, TenantScope, TenantStatus, UnitOfWorkFactory,
};
use uuid::Uuid;

use crate::audit::AuditEntry;
use crate::error::{Constraint, DatabaseError, StoreError};
use crate::idempotency::{Asked, is_over};
use crate::page::Paged;
use crate::ports::registry::{
    DedicatedPlace, NewMember, NewTenant, Prospect, Reservation, TenantAccount, TenantChange,
    TenantDatabases, TenantFilter, TenantProfile, TenantRegistry,
};
use crate::ports::{UnitOfWork, Units};
use crate::service::fixture::moment;
use crate::service::tenants::Platform;
use crate::subscription::Limits;
use crate::testing::InMemoryUnit;

pub(crate) fn tenant_id(number: u128) -> TenantId {
    TenantId::from_uuid(Uuid::from_u128(number))
}

pub(crate) const SHARED: DatabaseId = DatabaseId::from_uuid(Uuid::from_u128(1));

#[derive(Default)]
pub(crate) struct State {
    /// Tenants, and whether each is to have a database of its own.
    pub(crate) accounts: BTreeMap<TenantId, (TenantAccount, bool)>,
    pub(crate) admins: Vec<NewMember>,
    /// Requests with a key, which tenant each made, and when.
    pub(crate) asked: Vec<(Asked, TenantId, chrono::DateTime<chrono::Utc>)>,
    pub(crate) audit: Vec<AuditEntry>,
    pub(crate) orchestras: HashMap<TenantId, InMemoryUnit>,
    pub(crate) admitted: HashSet<TenantId>,
    /// Steps that were taken, in order.
    pub(crate) steps: Vec<&'static str>,
    /// The step, counted from 0, that fails.
    pub(crate) fails_at: Option<usize>,
    pub(crate) invalidated: Vec<TenantId>,
    /// Limits that somebody else sets just before the next change.
    pub(crate) set_by_another: Option<Limits>,
}

#[derive(Clone, Default)]
pub(crate) struct World(Arc<Mutex<State>>);

impl World {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds the state")
    }

    /// Runs `work` with a platform over this world.
    pub(crate) async fn with<T>(&self, work: impl AsyncFnOnce(&Platform<'_>) -> T) -> T {
        let hosts = HostPolicy::new("localhost").expect("a domain");
        let resolver = Resolver::new(Arc::new(self.clone()), hosts);
        let units: Units = Arc::new(self.clone());
        let invalidate = |tenant| self.state().invalidated.push(tenant);
        let platform = Platform {
            tenants: self,
            databases: self,
            resolver: &resolver,
            units: &units,
            invalidate: &invalidate,
        };
        work(&platform).await
    }

    fn step(&self, name: &'static str) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = self.state();
        let number = state.steps.len();
        state.steps.push(name);
        if state.fails_at == Some(number) {
            return Err(StoreError::Unavailable(name.into()));
        }
        Ok(state)
    }
}

#[async_trait]
impl TenantRegistry for World {
    async fn reserve(&self, tenant: &NewTenant, audit: &AuditEntry) -> Result<Reservation, StoreError> {
        let mut state = self.step("reserve")?;
        state.asked.retain(|(_, _, at)| !is_over(*at, tenant.now));
        if let Some(asked) = &tenant.asked {
            let same = |one: &Asked| (one.user, &one.key) == (asked.user, &asked.key);
            if let Some((before, id, _)) = state.asked.iter().find(|(one, _, _)| same(one)) {
                let (account, dedicated) = state.accounts[id].clone();
                return Ok(Reservation::Before { fingerprint: before.fingerprint, account, dedicated });
            }
        }
        let conflict = |constraint| Err(StoreError::Conflict { constraint });
        if state.accounts.values().any(|(one, _)| one.subdomain == tenant.subdomain) {
            return conflict(Constraint::TenantSubdomain);
        }
        if state.accounts.values().any(|(one, _)| one.code == tenant.code) {
            return conflict(Constraint::TenantCode);
        }
        let account = TenantAccount {
            id: tenant.id,
            code: tenant.code.clone(),
            name: tenant.name.clone(),
            subdomain: tenant.subdomain.clone(),
            tier: tenant.tier,
            limits: tenant.limits,
            status: TenantStatus::Provisioning,
            trial_ends_at: tenant.trial_ends_at,
            subscription_ends_at: None,
            custom_branding: None,
            email_domain: None,
            placement: None,
            version: 1,
            created_at: tenant.now,
            updated_at: tenant.now,
        };
        state.accounts.insert(tenant.id, (account.clone(), tenant.dedicated));
        state.admins.extend(tenant.admin.clone());
        state.asked.extend(tenant.asked.clone().map(|asked| (asked, tenant.id, tenant.now)));
        state.audit.push(audit.clone());
        Ok(Reservation::Made(account))
    }

    async fn find(&self, id: TenantId) -> Result<Option<TenantAccount>, StoreError> {
        Ok(self.state().accounts.get(&id).map(|(account, _)| account.clone()))
    }

    async fn find_profile(&self, id: TenantId) -> Result<Option<TenantProfile>, StoreError> {
        let found = self.find(id).await?;
        Ok(found.map(|account| TenantProfile {
            id,
            code: account.code,
            name: account.name,
            subdomain: account.subdomain,
            tier: account.tier,
            trial_ends_at: account.trial_ends_at,
            subscription_ends_at: account.subscription_ends_at,
            custom_branding: account.custom_branding,
        }))
    }

    async fn exists(&self, id: TenantId) -> Result<bool, StoreError> {
        Ok(self.find(id).await?.is_some())
    }

    async fn find_by_subdomain(&self, subdomain: &Subdomain) -> Result<Option<TenantAccount>, StoreError> {
        let state = self.state();
        let mut accounts = state.accounts.values().map(|(account, _)| account);
        Ok(accounts.find(|account| account.subdomain == *subdomain).cloned())
    }

    async fn code_is_taken(&self, code: &TenantCode) -> Result<bool, StoreError> {
        Ok(self.state().accounts.values().any(|(account, _)| account.code == *code))
    }

    async fn list(
        &self,
        _: &TenantFilter,
        _: Option<TenantId>,
        _: u32,
    ) -> Result<Paged<TenantAccount, TenantId>, StoreError> {
        let items = self.state().accounts.values().map(|(account, _)| account.clone()).collect();
        Ok(Paged { items, next: None })
    }

    async fn change(
        &self,
        id: TenantId,
        change: &TenantChange,
        audit: &AuditEntry,
    ) -> Result<Option<TenantAccount>, StoreError> {
        let mut state = self.step("change")?;
        if let Some(subdomain) = &change.subdomain
            && state.accounts.values().any(|(one, _)| one.subdomain == *subdomain && one.id != id)
        {
            return Err(StoreError::Conflict { constraint: Constraint::TenantSubdomain });
        }
        let by_another = state.set_by_another.take();
        let Some((account, _)) = state.accounts.get_mut(&id) else { return Ok(None) };
        if let Some(limits) = by_another {
            account.limits = limits;
            account.version += 1;
        }
        if change.if_version.is_some_and(|version| version != account.version) {
            return Ok(None);
        }
        account.name = change.name.clone().unwrap_or_else(|| account.name.clone());
        account.subdomain = change.subdomain.clone().unwrap_or_else(|| account.subdomain.clone());
        account.tier = change.tier.unwrap_or(account.tier);
        account.limits = change.limits.unwrap_or(account.limits);
        account.version += 1;
        let account = account.clone();
        state.audit.push(audit.clone());
        Ok(Some(account))
    }

    async fn set_status(
        &self,
        id: TenantId,
        from: Vec<TenantStatus>,
        to: TenantStatus,
        audit: &AuditEntry,
    ) -> Result<bool, StoreError> {
        let mut state = self.step("set_status")?;
        let Some((account, _)) = state.accounts.get_mut(&id) else { return Ok(false) };
        if !from.contains(&account.status) {
            return Ok(false);
        }
        account.status = to;
        state.audit.push(audit.clone());
        Ok(true)
    }

    async fn place(&self, id: TenantId, database: DatabaseId, dedicated: bool) -> Result<(), StoreError> {
        let mut state = self.step("place")?;
        let (account, _) = state.accounts.get_mut(&id).expect("a reserved tenant");
        let placement = if dedicated { Placement::Dedicated(database) } else { Placement::Shared(database) };
        account.placement = Some(placement);
        Ok(())
    }

    async fn list_provisioning(&self) -> Result<Vec<(TenantAccount, bool)>, StoreError> {
        let state = self.state();
        let begun = state.accounts.values().filter(|(one, _)| one.status == TenantStatus::Provisioning);
        Ok(begun.cloned().collect())
    }

    async fn record(&self, _: Option<TenantId>, entry: &AuditEntry) -> Result<(), StoreError> {
        self.state().audit.push(entry.clone());
        Ok(())
    }
}

#[async_trait]
impl TenantDatabases for World {
    async fn choose_shared(&self) -> Result<DatabaseId, StoreError> {
        self.step("choose_shared").map(|_| SHARED)
    }

    async fn look_at(&self, _: TenantId, _: &DedicatedPlace) -> Result<Prospect, DatabaseError> {
        Ok(Prospect::ToBeMade(NewTarget::default()))
    }

    async fn create_dedicated(
        &self,
        tenant: TenantId,
        _: &DedicatedPlace,
    ) -> Result<DatabaseId, DatabaseError> {
        Ok(self.step("create_dedicated").map(|_| DatabaseId::from_uuid(tenant.as_uuid()))?)
    }

    async fn admit(&self, tenant: TenantId, _: DatabaseId) -> Result<(), StoreError> {
        self.step("admit")?.admitted.insert(tenant);
        Ok(())
    }
}

#[async_trait]
impl TenantDirectory for World {
    async fn find_by_subdomain(&self, _: &Subdomain) -> Result<Option<Arc<Tenant>>, DirectoryError> {
        Ok(None)
    }

    async fn find_by_id(&self, id: TenantId) -> Result<Option<Arc<Tenant>>, DirectoryError> {
        let state = self.state();
        Ok(state.accounts.get(&id).map(|(account, _)| {
            Arc::new(Tenant {
                id,
                code: account.code.clone(),
                name: account.name.clone(),
                subdomain: account.subdomain.clone(),
                status: account.status,
                trial_ends_at: account.trial_ends_at,
                subscription_ends_at: account.subscription_ends_at,
                version: ConfigVersion(account.version),
            })
        }))
    }

    async fn find_placement(&self, _: TenantId) -> Result<Option<Located>, DirectoryError> {
        Ok(None)
    }
}

#[async_trait]
impl UnitOfWorkFactory for World {
    type Unit = Box<dyn UnitOfWork>;

    async fn begin(&self, scope: &TenantScope, access: Access) -> Result<Self::Unit, BeginError> {
        assert_eq!(access, Access::Write);
        let mut state = self.step("begin").map_err(|error| BeginError::Unavailable(Box::new(error)))?;
        if !state.admitted.contains(&scope.tenant_id()) {
            return Err(BeginError::Moved);
        }
        Ok(Box::new(state.orchestras.entry(scope.tenant_id()).or_default().begin()))
    }
}

/// A day of the tests' calendar.
pub(crate) fn day(day: i64) -> chrono::DateTime<chrono::Utc> {
    moment(day)
}
