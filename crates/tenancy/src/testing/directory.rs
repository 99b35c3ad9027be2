//! A directory in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::directory::{ChangeFeed, Changes, DirectoryError, Standing, TenantDirectory};
use crate::placement::{Located, Placement, PlacementEpoch};
use crate::subdomain::Subdomain;
use crate::tenant::{ConfigVersion, Tenant, TenantId, TenantStatus};

/// Tenants and their placements in memory, with the feed of what changed. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct InMemoryDirectory {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    tenants: BTreeMap<TenantId, Arc<Tenant>>,
    placements: BTreeMap<TenantId, Located>,
    /// The version of each tenant's last change.
    changed: BTreeMap<TenantId, i64>,
    arriving: BTreeMap<TenantId, Located>,
    version: i64,
    look_ups: u64,
    unavailable: bool,
}

impl InMemoryDirectory {
    /// An empty directory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a tenant. It has no placement until [`InMemoryDirectory::place`] gives it one.
    pub fn insert(&self, tenant: Tenant) {
        let mut state = self.state();
        state.changed(tenant.id);
        state.tenants.insert(tenant.id, Arc::new(tenant));
    }

    /// Puts a tenant's data elsewhere: the next epoch, counted from 1.
    pub fn place(&self, tenant: TenantId, placement: Placement) {
        let mut state = self.state();
        state.changed(tenant);
        let epoch = state.placements.get(&tenant).map_or(0, |located| located.epoch.0) + 1;
        let located = Located { tenant, placement, epoch: PlacementEpoch(epoch) };
        state.placements.insert(tenant, located);
        state.arriving.remove(&tenant);
    }

    /// Says where a tenant will be that is about to move there: the next epoch, until it is placed.
    ///
    /// # Panics
    /// If the tenant is nowhere.
    pub fn announce(&self, tenant: TenantId, placement: Placement) {
        let mut state = self.state();
        let now = state.placements.get(&tenant).expect("a test moves a tenant that it placed");
        let located = Located { tenant, placement, epoch: PlacementEpoch(now.epoch.0 + 1) };
        state.arriving.insert(tenant, located);
    }

    /// Changes a tenant's record.
    ///
    /// # Panics
    /// If there is no such tenant.
    pub fn update(&self, tenant: TenantId, change: impl FnOnce(&mut Tenant)) {
        let mut state = self.state();
        state.changed(tenant);
        let version = state.version;
        let record = state.tenants.get_mut(&tenant).expect("a test changes a tenant that it inserted");
        let record = Arc::make_mut(record);
        change(record);
        record.version = ConfigVersion(version);
    }

    /// Suspends a tenant.
    ///
    /// # Panics
    /// If there is no such tenant.
    pub fn suspend(&self, tenant: TenantId) {
        self.update(tenant, |record| record.status = TenantStatus::Suspended);
    }

    /// From now on every look-up fails, or none.
    pub fn set_unavailable(&self, unavailable: bool) {
        self.state().unavailable = unavailable;
    }

    /// How often it was asked for a tenant or a placement.
    #[must_use]
    pub fn look_ups(&self) -> u64 {
        self.state().look_ups
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_up(&self) -> Result<MutexGuard<'_, State>, DirectoryError> {
        let mut state = self.state();
        state.look_ups += 1;
        state.available()?;
        Ok(state)
    }
}

impl State {
    fn changed(&mut self, tenant: TenantId) {
        self.version += 1;
        self.changed.insert(tenant, self.version);
    }

    /// Its history never changes: nobody restores it.
    fn standing(&self) -> Standing {
        Standing { version: ConfigVersion(self.version), history: String::new() }
    }

    fn available(&self) -> Result<(), DirectoryError> {
        if self.unavailable {
            return Err(DirectoryError::Unavailable("switched off by the test".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl TenantDirectory for InMemoryDirectory {
    async fn find_by_subdomain(&self, subdomain: &Subdomain) -> Result<Option<Arc<Tenant>>, DirectoryError> {
        let state = self.look_up()?;
        Ok(state.tenants.values().find(|tenant| tenant.subdomain == *subdomain).map(Arc::clone))
    }

    async fn find_by_id(&self, id: TenantId) -> Result<Option<Arc<Tenant>>, DirectoryError> {
        Ok(self.look_up()?.tenants.get(&id).map(Arc::clone))
    }

    async fn find_placement(&self, id: TenantId) -> Result<Option<Located>, DirectoryError> {
        Ok(self.look_up()?.placements.get(&id).copied())
    }
}

#[async_trait]
impl ChangeFeed for InMemoryDirectory {
    async fn current(&self) -> Result<Standing, DirectoryError> {
        let state = self.state();
        state.available()?;
        Ok(state.standing())
    }

    async fn changes_since(&self, since: ConfigVersion) -> Result<Changes, DirectoryError> {
        let state = self.state();
        state.available()?;
        let changed = state.changed.iter().filter(|(_, version)| **version > since.0);
        Ok(Changes {
            tenants: changed.map(|(tenant, _)| *tenant).collect(),
            users: Vec::new(),
            arriving: state.arriving.values().copied().collect(),
            standing: state.standing(),
        })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::directory::cache::CacheSettings;
    use crate::directory::cached::CachedDirectory;
    use crate::directory::follow::ChangeFollower;
    use crate::placement::DatabaseId;
    use crate::testing::tenant;

    #[tokio::test]
    async fn cached_look_ups_follow_what_changes_here() {
        let memory = InMemoryDirectory::new();
        let id = tenant(1, "GOT", "gbg").id;
        memory.insert(tenant(1, "GOT", "gbg"));
        let cached = CachedDirectory::new(Arc::new(memory.clone()), CacheSettings::default());
        let sinks: Vec<Arc<dyn crate::ChangeSink>> = vec![Arc::new(cached.clone())];
        let mut follower = ChangeFollower::new(Arc::new(memory.clone()), sinks);
        follower.poll_once().await.expect("polled");

        let gbg = "gbg".parse().expect("a label");
        let status = async || cached.find_by_subdomain(&gbg).await.expect("answered").expect("found").status;
        assert_eq!(status().await, TenantStatus::Active);
        memory.suspend(id);
        assert_eq!(status().await, TenantStatus::Active, "not told yet");
        follower.poll_once().await.expect("polled");
        assert_eq!(status().await, TenantStatus::Suspended);
        assert_eq!(memory.look_ups(), 2);
    }

    #[tokio::test]
    async fn each_move_takes_the_next_epoch() {
        let memory = InMemoryDirectory::new();
        let id = tenant(1, "GOT", "gbg").id;
        assert_eq!(memory.find_placement(id).await.expect("answered"), None);
        let database = DatabaseId::from_uuid(Uuid::from_u128(2));
        memory.place(id, Placement::Shared(database));
        memory.place(id, Placement::Dedicated(database));
        let moved = memory.find_placement(id).await.expect("answered").expect("placed");
        assert_eq!((moved.placement, moved.epoch), (Placement::Dedicated(database), PlacementEpoch(2)));
    }
}
