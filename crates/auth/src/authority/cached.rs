//! Remembering what people may do until it changes.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stagesub_domain::error::StoreError;
use stagesub_tenancy::{CacheSettings, CacheStats, ChangeSink, Changes, TenantId, VersionedCache};
use uuid::Uuid;

use crate::ports::{Authority, AuthorityStore};

/// Longest age of an answer: a backstop, in case nobody told of a change.
const TTL: Duration = Duration::from_mins(15);

/// Most answers that are kept: one for each person and host in use.
const CAPACITY: usize = 50_000;

/// Any [`AuthorityStore`], asked once for each person and host until it is told of a change.
///
/// It is a [`ChangeSink`]: give it to the node's follower of changes. An answer that was loading when its
/// person changed is not kept, and that a person does not exist is not remembered.
pub struct CachedAuthority {
    store: Arc<dyn AuthorityStore>,
    cache: VersionedCache<(Uuid, Option<TenantId>), Authority, StoreError>,
}

impl fmt::Debug for CachedAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedAuthority").field("len", &self.cache.len()).finish_non_exhaustive()
    }
}

impl CachedAuthority {
    /// Remembers the answers of `store`.
    #[must_use]
    pub fn new(store: Arc<dyn AuthorityStore>) -> Self {
        let settings =
            CacheSettings { capacity: CAPACITY, ttl: TTL, absent_capacity: 1, absent_ttl: Duration::ZERO };
        Self { store, cache: VersionedCache::new(settings) }
    }

    /// Forgets what these people may do, on every host.
    ///
    /// Looks at each kept answer once, however many people changed.
    pub fn invalidate(&self, users: &[Uuid]) {
        if users.is_empty() {
            return;
        }
        // Looked up, not searched: after a pause of the registry thousands may have changed at once.
        let users: HashSet<&Uuid> = users.iter().collect();
        self.cache.invalidate_where(|(user, _), _| users.contains(user));
    }

    /// How the cache does.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// Forgets everything: for whoever may have missed changes.
    pub fn invalidate_all(&self) {
        self.cache.invalidate_all();
    }
}

impl ChangeSink for CachedAuthority {
    fn apply(&self, changes: &Changes) {
        self.invalidate(&changes.users);
    }

    fn apply_unknown(&self) {
        self.invalidate_all();
    }
}

#[async_trait]
impl AuthorityStore for CachedAuthority {
    async fn find_authority(
        &self,
        user: Uuid,
        tenant: Option<TenantId>,
    ) -> Result<Option<Authority>, StoreError> {
        self.cache.get(&(user, tenant), || self.store.find_authority(user, tenant)).await.map_err(unshared)
    }

    async fn find_current_authority(
        &self,
        user: Uuid,
        tenant: Option<TenantId>,
    ) -> Result<Option<Authority>, StoreError> {
        self.cache.invalidate(&(user, tenant));
        self.cache
            .get(&(user, tenant), || self.store.find_current_authority(user, tenant))
            .await
            .map_err(unshared)
    }
}

/// A failure that several callers waited for, as each of them would have met it alone.
fn unshared(error: Arc<StoreError>) -> StoreError {
    let error = match Arc::try_unwrap(error) {
        Ok(alone) => return alone,
        Err(shared) => shared,
    };
    match &*error {
        StoreError::Conflict { constraint } => StoreError::Conflict { constraint: *constraint },
        StoreError::Corrupt { table, id } => StoreError::Corrupt { table, id: id.clone() },
        StoreError::Contended(_) => StoreError::Contended(Box::new(error)),
        StoreError::Unavailable(_) => StoreError::Unavailable(Box::new(error)),
        StoreError::CommitUnknown(_) => StoreError::CommitUnknown(Box::new(error)),
        _ => StoreError::Failed(Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use mockall::Sequence;
    use stagesub_domain::role::Role;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::ports::{AuthEpoch, MockAuthorityStore};

    const BERIT: Uuid = Uuid::from_u128(0x11);
    const CAJSA: Uuid = Uuid::from_u128(0x12);
    const TENANT: TenantId = TenantId::from_uuid(Uuid::from_u128(0x22));

    fn authority(user: Uuid, epoch: i64) -> Authority {
        Authority {
            user,
            is_active: true,
            is_superadmin: false,
            role: Some(Role::User),
            auth_epoch: AuthEpoch(epoch),
        }
    }

    /// The version of the answer.
    async fn epoch(cached: &CachedAuthority, user: Uuid, tenant: Option<TenantId>) -> i64 {
        cached.find_authority(user, tenant).await.unwrap().unwrap().auth_epoch.0
    }

    /// A store whose every answer is a version later than the one before.
    fn counting() -> CachedAuthority {
        let mut store = MockAuthorityStore::new();
        let mut asked = 0;
        store.expect_find_authority().returning_st(move |user, _| {
            asked += 1;
            Ok(Some(authority(user, asked)))
        });
        CachedAuthority::new(Arc::new(store))
    }

    #[tokio::test]
    async fn each_person_and_host_is_looked_up_once() {
        let cached = counting();
        assert_eq!(epoch(&cached, BERIT, Some(TENANT)).await, 1);
        assert_eq!(epoch(&cached, BERIT, None).await, 2);
        assert_eq!(epoch(&cached, CAJSA, Some(TENANT)).await, 3);
        assert_eq!(epoch(&cached, BERIT, Some(TENANT)).await, 1);
        assert_eq!(epoch(&cached, BERIT, None).await, 2);
    }

    #[tokio::test]
    async fn changed_person_is_looked_up_anew_on_every_host_and_others_are_not() {
        let cached = counting();
        epoch(&cached, BERIT, Some(TENANT)).await;
        epoch(&cached, BERIT, None).await;
        epoch(&cached, CAJSA, Some(TENANT)).await;
        cached.invalidate(&[BERIT]);
        assert_eq!(epoch(&cached, BERIT, Some(TENANT)).await, 4);
        assert_eq!(epoch(&cached, BERIT, None).await, 5);
        assert_eq!(epoch(&cached, CAJSA, Some(TENANT)).await, 3);
        cached.invalidate_all();
        assert_eq!(epoch(&cached, CAJSA, Some(TENANT)).await, 6);
    }

    #[tokio::test]
    async fn what_the_registry_tells_is_looked_up_anew() {
        let cached = counting();
        epoch(&cached, BERIT, None).await;
        epoch(&cached, CAJSA, None).await;
        cached.apply(&Changes { users: vec![CAJSA], ..Changes::default() });
        assert_eq!(epoch(&cached, BERIT, None).await, 1);
        assert_eq!(epoch(&cached, CAJSA, None).await, 3);
        cached.apply_unknown();
        assert_eq!(epoch(&cached, BERIT, None).await, 4);
    }

    #[tokio::test]
    async fn later_answer_replaces_the_remembered_one() {
        let mut store = MockAuthorityStore::new();
        let mut order = Sequence::new();
        store
            .expect_find_authority()
            .once()
            .in_sequence(&mut order)
            .returning(|user, _| Ok(Some(authority(user, 1))));
        store
            .expect_find_current_authority()
            .once()
            .in_sequence(&mut order)
            .returning(|user, _| Ok(Some(authority(user, 2))));
        let cached = CachedAuthority::new(Arc::new(store));
        assert_eq!(epoch(&cached, BERIT, None).await, 1);
        let current = cached.find_current_authority(BERIT, None).await.unwrap();
        assert_eq!(current, Some(authority(BERIT, 2)));
        assert_eq!(epoch(&cached, BERIT, None).await, 2);
    }

    /// A store that answers with the version it read when it was asked, once it is let.
    struct Slow {
        epoch: AtomicI64,
        asked: AtomicI64,
        answer: Semaphore,
    }

    #[async_trait]
    impl AuthorityStore for Slow {
        async fn find_authority(
            &self,
            user: Uuid,
            _: Option<TenantId>,
        ) -> Result<Option<Authority>, StoreError> {
            let read = self.epoch.load(Ordering::SeqCst);
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.answer.acquire().await.expect("open").forget();
            Ok(Some(authority(user, read)))
        }
    }

    impl Slow {
        fn new() -> Arc<Self> {
            let (epoch, asked) = (AtomicI64::new(0), AtomicI64::new(0));
            Arc::new(Self { epoch, asked, answer: Semaphore::new(0) })
        }

        /// Waits until it was asked so many times.
        async fn asked(&self, times: i64) {
            while self.asked.load(Ordering::SeqCst) < times {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn answer_that_was_read_before_a_change_is_neither_kept_nor_given() {
        let changed: [fn(&CachedAuthority); 4] = [
            |cached| cached.apply(&Changes { users: vec![BERIT], ..Changes::default() }),
            // What is loading is not known yet: a change of somebody else makes it be asked again too.
            |cached| cached.apply(&Changes { users: vec![CAJSA], ..Changes::default() }),
            |cached| cached.apply_unknown(),
            |cached| cached.invalidate(&[BERIT]),
        ];
        for change in changed {
            let store = Slow::new();
            let cached = Arc::new(CachedAuthority::new(Arc::clone(&store) as _));
            let asking = [Some(TENANT), Some(TENANT), None].map(|tenant| {
                let cached = Arc::clone(&cached);
                tokio::spawn(async move { epoch(&cached, BERIT, tenant).await })
            });
            store.asked(2).await;
            store.epoch.store(1, Ordering::SeqCst);
            change(&cached);
            store.answer.add_permits(9);
            for asking in asking {
                assert_eq!(asking.await.unwrap(), 1);
            }
            assert_eq!(epoch(&cached, BERIT, Some(TENANT)).await, 1);
            assert_eq!(epoch(&cached, BERIT, None).await, 1);
            assert_eq!(store.asked.load(Ordering::SeqCst), 4, "two hosts, each asked again once");
        }
    }

    #[tokio::test]
    async fn change_of_another_kind_leaves_people_alone() {
        let cached = counting();
        epoch(&cached, BERIT, None).await;
        cached.apply(&Changes { tenants: vec![TENANT], ..Changes::default() });
        assert_eq!(epoch(&cached, BERIT, None).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_end_by_themselves_after_a_quarter_of_an_hour() {
        let cached = counting();
        assert_eq!(epoch(&cached, BERIT, None).await, 1);
        tokio::time::advance(Duration::from_secs(15 * 60 - 1)).await;
        assert_eq!(epoch(&cached, BERIT, None).await, 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(epoch(&cached, BERIT, None).await, 2);
    }

    #[tokio::test]
    async fn neither_absence_nor_failure_is_remembered() {
        let mut store = MockAuthorityStore::new();
        let mut order = Sequence::new();
        let mut answer = |answer: Result<Option<Authority>, StoreError>| {
            store.expect_find_authority().once().in_sequence(&mut order).return_once(move |_, _| answer);
        };
        answer(Ok(None));
        answer(Err(StoreError::Unavailable("down".into())));
        answer(Ok(Some(authority(BERIT, 1))));
        let cached = CachedAuthority::new(Arc::new(store));
        assert!(cached.find_authority(BERIT, None).await.unwrap().is_none());
        let failed = cached.find_authority(BERIT, None).await;
        assert!(matches!(failed, Err(StoreError::Unavailable(_))));
        assert_eq!(epoch(&cached, BERIT, None).await, 1);
    }

    #[test]
    fn shared_failure_keeps_its_kind() {
        let shared = |error| {
            let error = Arc::new(error);
            let _other = Arc::clone(&error);
            unshared(error)
        };
        assert!(matches!(shared(StoreError::Unavailable("x".into())), StoreError::Unavailable(_)));
        assert!(matches!(shared(StoreError::Contended("x".into())), StoreError::Contended(_)));
        assert!(matches!(shared(StoreError::Failed("x".into())), StoreError::Failed(_)));
        let corrupt = StoreError::Corrupt { table: "users", id: "7".into() };
        assert!(matches!(shared(corrupt), StoreError::Corrupt { table: "users", .. }));
    }
}
