//! A directory that remembers what another one said.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::directory::cache::{CacheSettings, CacheStats, VersionedCache};
use crate::directory::follow::ChangeSink;
use crate::directory::{Changes, DirectoryError, TenantDirectory};
use crate::placement::Located;
use crate::subdomain::Subdomain;
use crate::tenant::{Tenant, TenantId};

/// Any [`TenantDirectory`] with its answers kept until they change.
///
/// It learns of changes as a [`ChangeSink`]; without a
/// [`ChangeFollower`](crate::directory::follow::ChangeFollower) that feeds it, an answer lives as long as
/// [`CacheSettings::ttl`] says. Clones share what they know.
#[derive(Clone)]
pub struct CachedDirectory {
    inner: Arc<dyn TenantDirectory>,
    caches: Arc<Caches>,
}

struct Caches {
    by_subdomain: VersionedCache<Subdomain, Arc<Tenant>>,
    by_id: VersionedCache<TenantId, Arc<Tenant>>,
    placements: VersionedCache<TenantId, Located>,
}

impl CachedDirectory {
    /// Remembers what `inner` says, within `settings` for each kind of look-up.
    #[must_use]
    pub fn new(inner: Arc<dyn TenantDirectory>, settings: CacheSettings) -> Self {
        let caches = Caches {
            by_subdomain: VersionedCache::new(settings),
            by_id: VersionedCache::new(settings),
            placements: VersionedCache::new(settings),
        };
        Self { inner, caches: Arc::new(caches) }
    }

    /// A tenant changed, or was made: forgets all that is known of it, under every subdomain, and what was
    /// known not to exist.
    pub fn invalidate(&self, tenant: TenantId) {
        self.invalidate_each(&HashSet::from([tenant]));
    }

    /// How its caches do, by what is looked up: `subdomain`, `id`, `placement`.
    #[must_use]
    pub fn stats(&self) -> [(&'static str, CacheStats); 3] {
        let Caches { by_subdomain, by_id, placements } = &*self.caches;
        [("subdomain", by_subdomain.stats()), ("id", by_id.stats()), ("placement", placements.stats())]
    }

    /// Forgets everything.
    pub fn invalidate_all(&self) {
        self.caches.by_subdomain.invalidate_all();
        self.caches.by_id.invalidate_all();
        self.caches.placements.invalidate_all();
    }

    fn invalidate_each(&self, tenants: &HashSet<TenantId>) {
        // By subdomain a tenant is found in its record: it may have been renamed.
        self.caches.by_subdomain.invalidate_where(|_, tenant| tenants.contains(&tenant.id));
        for tenant in tenants {
            self.caches.by_id.invalidate(tenant);
            self.caches.placements.invalidate(tenant);
        }
    }
}

#[async_trait]
impl TenantDirectory for CachedDirectory {
    async fn find_by_subdomain(&self, subdomain: &Subdomain) -> Result<Option<Arc<Tenant>>, DirectoryError> {
        let found = self.caches.by_subdomain.get(subdomain, || self.inner.find_by_subdomain(subdomain)).await;
        found.map_err(own_or_shared)
    }

    async fn find_by_id(&self, id: TenantId) -> Result<Option<Arc<Tenant>>, DirectoryError> {
        self.caches.by_id.get(&id, || self.inner.find_by_id(id)).await.map_err(own_or_shared)
    }

    async fn find_placement(&self, id: TenantId) -> Result<Option<Located>, DirectoryError> {
        self.caches.placements.get(&id, || self.inner.find_placement(id)).await.map_err(own_or_shared)
    }

    fn forget(&self, id: TenantId) {
        self.inner.forget(id);
        self.invalidate(id);
    }

    fn remembers(&self, id: TenantId) -> bool {
        self.caches.placements.holds(&id)
    }
}

impl ChangeSink for CachedDirectory {
    fn apply(&self, changes: &Changes) {
        if !changes.tenants.is_empty() {
            self.invalidate_each(&changes.tenants.iter().copied().collect());
        }
    }

    fn apply_unknown(&self) {
        self.invalidate_all();
    }
}

impl fmt::Debug for CachedDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedDirectory").finish_non_exhaustive()
    }
}

fn own_or_shared(error: Arc<DirectoryError>) -> DirectoryError {
    Arc::try_unwrap(error).unwrap_or_else(DirectoryError::Shared)
}

#[cfg(test)]
mod tests {
    use mockall::predicate::eq;
    use uuid::Uuid;

    use super::*;
    use crate::directory::MockTenantDirectory;
    use crate::placement::{DatabaseId, Placement, PlacementEpoch};
    use crate::tenant::{ConfigVersion, TenantStatus};

    const ID: TenantId = TenantId::from_uuid(Uuid::from_u128(1));

    fn tenant(id: TenantId, subdomain: &str) -> Arc<Tenant> {
        Arc::new(Tenant {
            id,
            code: "GOT".parse().expect("a code"),
            name: "Göteborg".to_owned(),
            subdomain: label(subdomain),
            status: TenantStatus::Active,
            trial_ends_at: None,
            subscription_ends_at: None,
            version: ConfigVersion(1),
        })
    }

    fn label(text: &str) -> Subdomain {
        text.parse().expect("a label")
    }

    fn located() -> Located {
        let database = DatabaseId::from_uuid(Uuid::from_u128(9));
        Located { tenant: ID, placement: Placement::Shared(database), epoch: PlacementEpoch(1) }
    }

    fn cached(inner: MockTenantDirectory) -> CachedDirectory {
        CachedDirectory::new(Arc::new(inner), CacheSettings::default())
    }

    #[tokio::test]
    async fn each_kind_of_look_up_is_asked_once_until_the_tenant_changes() {
        let mut inner = MockTenantDirectory::new();
        inner.expect_find_by_subdomain().times(2).returning(|_| Ok(Some(tenant(ID, "gbg"))));
        inner.expect_find_by_id().with(eq(ID)).times(2).returning(|_| Ok(Some(tenant(ID, "gbg"))));
        inner.expect_find_placement().with(eq(ID)).times(2).returning(|_| Ok(Some(located())));
        let directory = cached(inner);
        for _ in 0..2 {
            for _ in 0..3 {
                assert!(directory.find_by_subdomain(&label("gbg")).await.expect("found").is_some());
                assert!(directory.find_by_id(ID).await.expect("found").is_some());
                assert_eq!(directory.find_placement(ID).await.expect("found"), Some(located()));
            }
            directory.apply(&Changes { tenants: vec![ID], ..Changes::default() });
        }
        for (what, stats) in directory.stats() {
            assert_eq!(stats, CacheStats { hits: 4, misses: 2, kept: 0 }, "{what}");
        }
    }

    #[tokio::test]
    async fn change_of_one_tenant_leaves_the_others_known() {
        let other = TenantId::from_uuid(Uuid::from_u128(2));
        let mut inner = MockTenantDirectory::new();
        inner.expect_find_by_subdomain().once().returning(move |_| Ok(Some(tenant(other, "sthlm"))));
        let directory = cached(inner);
        for _ in 0..2 {
            assert!(directory.find_by_subdomain(&label("sthlm")).await.expect("found").is_some());
            directory.invalidate(ID);
        }
    }

    #[tokio::test]
    async fn tenant_made_under_a_label_that_was_absent_is_found() {
        let mut inner = MockTenantDirectory::new();
        inner.expect_find_by_subdomain().once().returning(|_| Ok(None));
        inner.expect_find_by_subdomain().once().returning(|_| Ok(Some(tenant(ID, "gbg"))));
        let directory = cached(inner);
        assert!(directory.find_by_subdomain(&label("gbg")).await.expect("answered").is_none());
        assert!(directory.find_by_subdomain(&label("gbg")).await.expect("answered").is_none());
        directory.apply(&Changes { tenants: vec![ID], ..Changes::default() });
        assert!(directory.find_by_subdomain(&label("gbg")).await.expect("answered").is_some());
    }

    #[tokio::test]
    async fn change_of_people_alone_forgets_no_tenant() {
        let mut inner = MockTenantDirectory::new();
        inner.expect_find_by_id().once().returning(|_| Ok(Some(tenant(ID, "gbg"))));
        let directory = cached(inner);
        for _ in 0..2 {
            assert!(directory.find_by_id(ID).await.expect("found").is_some());
            directory.apply(&Changes { users: vec![Uuid::from_u128(3)], ..Changes::default() });
        }
    }

    #[tokio::test]
    async fn refused_epoch_forgets_the_tenant_all_the_way_down() {
        let mut inner = MockTenantDirectory::new();
        inner.expect_find_placement().times(2).returning(|_| Ok(Some(located())));
        inner.expect_forget().with(eq(ID)).once().return_const(());
        let directory = cached(inner);
        assert!(directory.find_placement(ID).await.expect("found").is_some());
        directory.forget(ID);
        assert!(directory.find_placement(ID).await.expect("found").is_some());
    }

    #[tokio::test]
    async fn failure_is_passed_on_and_not_remembered() {
        let mut inner = MockTenantDirectory::new();
        inner.expect_find_by_id().once().returning(|_| Err(DirectoryError::Unavailable("down".into())));
        inner.expect_find_by_id().once().returning(|_| Ok(None));
        let directory = cached(inner);
        assert!(matches!(directory.find_by_id(ID).await, Err(DirectoryError::Unavailable(_))));
        assert!(directory.find_by_id(ID).await.expect("answered").is_none());
    }
}
