//! An answer that was read before a change and arrives after it: it is neither given nor kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use serde_json::json;
use stagesub_auth::CachedAuthority;
use stagesub_auth::ports::{Authority, AuthorityStore};
use stagesub_domain::error::StoreError;
use stagesub_domain::role::Role;
use stagesub_storage::directory::PgTenantDirectory;
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::changes::PgChangeFeed;
use stagesub_storage::registry::credentials::PgAuthorityStore;
use stagesub_tenancy::{
    CacheSettings, CachedDirectory, ChangeFollower, ChangeSink, DirectoryError, Located, Subdomain, Tenant,
    TenantDirectory, TenantId, TenantStatus,
};
use stagesub_tests::cluster::keys;
use stagesub_tests::database::{connect, run};
use stagesub_tests::{Kept, TestPlatform};
use tokio::sync::Semaphore;
use uuid::Uuid;

/// Reads at once and answers when it is let: between the two, the world may change.
struct Held<T> {
    inner: T,
    read: AtomicUsize,
    answer: Semaphore,
}

impl<T> Held<T> {
    fn new(inner: T) -> Arc<Self> {
        Arc::new(Self { inner, read: AtomicUsize::new(0), answer: Semaphore::new(0) })
    }

    async fn hold<A>(&self, reading: impl Future<Output = A>) -> A {
        let answer = reading.await;
        self.read.fetch_add(1, Ordering::SeqCst);
        self.answer.acquire().await.expect("open").forget();
        answer
    }

    fn reads(&self) -> usize {
        self.read.load(Ordering::SeqCst)
    }

    /// Waits until so many answers were read.
    async fn until_read(&self, count: usize) {
        while self.reads() < count {
            tokio::task::yield_now().await;
        }
    }

    /// From now on it answers as fast as it reads.
    fn let_go(&self) {
        self.answer.add_permits(1000);
    }
}

#[async_trait]
impl AuthorityStore for Held<PgAuthorityStore> {
    async fn find_authority(
        &self,
        user: Uuid,
        tenant: Option<TenantId>,
    ) -> Result<Option<Authority>, StoreError> {
        self.hold(self.inner.find_authority(user, tenant)).await
    }
}

#[async_trait]
impl TenantDirectory for Held<PgTenantDirectory> {
    async fn find_by_subdomain(&self, subdomain: &Subdomain) -> Result<Option<Arc<Tenant>>, DirectoryError> {
        self.hold(self.inner.find_by_subdomain(subdomain)).await
    }

    async fn find_by_id(&self, id: TenantId) -> Result<Option<Arc<Tenant>>, DirectoryError> {
        self.hold(self.inner.find_by_id(id)).await
    }

    async fn find_placement(&self, id: TenantId) -> Result<Option<Located>, DirectoryError> {
        self.hold(self.inner.find_placement(id)).await
    }
}

/// A node's caches over the registry, with the follower in the test's hands.
struct Caches {
    people: Arc<Held<PgAuthorityStore>>,
    authority: Arc<CachedAuthority>,
    tenants: Arc<Held<PgTenantDirectory>>,
    directory: CachedDirectory,
    follower: ChangeFollower,
}

impl Caches {
    async fn over(platform: &TestPlatform) -> Self {
        let registry = RegistryPools::open(platform.registry(), &keys()).await.expect("the registry opens");
        let people = Held::new(PgAuthorityStore::new(registry.clone()));
        let authority = Arc::new(CachedAuthority::new(Arc::clone(&people) as _));
        let tenants = Held::new(PgTenantDirectory::new(registry.clone()));
        let directory = CachedDirectory::new(Arc::clone(&tenants) as _, CacheSettings::default());
        let sinks: Vec<Arc<dyn ChangeSink>> =
            vec![Arc::new(directory.clone()), Arc::clone(&authority) as Arc<dyn ChangeSink>];
        let follower = ChangeFollower::new(Arc::new(PgChangeFeed::new(&registry)), sinks);
        Self { people, authority, tenants, directory, follower }
    }

    async fn follow(&mut self) {
        self.follower.poll_once().await.expect("the registry answers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_was_read_before_it_changed_is_not_kept() {
    let platform = TestPlatform::start().await;
    let got = platform.orchestra(Kept::Shared, "got").await;
    // `followed`: the node had heard of an earlier version; else the change is told by its very first asking.
    for followed in [true, false] {
        let mut caches = Caches::over(&platform).await;
        if followed {
            caches.follow().await;
        }
        let member = platform.person(&got, Role::User).await;
        let ask = |tenant| {
            let authority = Arc::clone(&caches.authority);
            tokio::spawn(async move { authority.find_authority(member.user, tenant).await })
        };
        let asking = [ask(Some(got.tenant)), ask(Some(got.tenant)), ask(None)];
        caches.people.until_read(2).await;
        let path = format!("/api/v1/users/{}", member.user);
        got.admin.patch(&path, &json!({ "role": "viewer" })).await.expect(200);
        caches.follow().await;
        caches.people.let_go();
        for (asking, role) in asking.into_iter().zip([Some(Role::Viewer), Some(Role::Viewer), None]) {
            let told = asking.await.unwrap().unwrap().unwrap();
            assert_eq!(told.role, role, "what was read before the change was given after it");
        }
        let reads = caches.people.reads();
        let next = caches.authority.find_authority(member.user, Some(got.tenant)).await.unwrap().unwrap();
        assert_eq!(next.role, Some(Role::Viewer));
        assert_eq!(caches.people.reads(), reads, "the new one is remembered");
        assert_eq!(reads, 4, "two hosts, each read again once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_was_read_before_it_was_suspended_is_not_kept() {
    let platform = TestPlatform::start().await;
    let got = platform.orchestra(Kept::Shared, "got").await;
    let mut caches = Caches::over(&platform).await;
    caches.follow().await;
    let (by_label, by_id, absent) = {
        let (one, two, three) =
            (caches.directory.clone(), caches.directory.clone(), caches.directory.clone());
        let (label, id) = (got.label(), got.tenant);
        (
            tokio::spawn(async move { one.find_by_subdomain(&label).await }),
            tokio::spawn(async move { two.find_by_id(id).await }),
            tokio::spawn(async move { three.find_by_subdomain(&"nytt".parse().unwrap()).await }),
        )
    };
    caches.tenants.until_read(3).await;
    let superadmin = platform.superadmin().await;
    let path = format!("/api/v1/platform/tenants/{}", got.tenant);
    superadmin.patch(&path, &json!({ "subdomain": "nytt" })).await.expect(200);
    superadmin.order(&format!("{path}/suspend")).await.expect(200);
    caches.follow().await;
    caches.tenants.let_go();
    assert!(by_label.await.unwrap().unwrap().is_none(), "its label is nobody's now");
    assert_eq!(by_id.await.unwrap().unwrap().unwrap().status, TenantStatus::Suspended);
    let renamed = absent.await.unwrap().unwrap().expect("that it was not there was not kept");
    assert_eq!((renamed.id, renamed.status), (got.tenant, TenantStatus::Suspended));
    assert!(caches.directory.find_by_subdomain(&got.label()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_loading_while_the_feed_begins_is_not_kept() {
    let platform = TestPlatform::start().await;
    let got = platform.orchestra(Kept::Shared, "got").await;
    let mut caches = Caches::over(&platform).await;
    let asking = {
        let (directory, label) = (caches.directory.clone(), got.label());
        tokio::spawn(async move { directory.find_by_subdomain(&label).await })
    };
    caches.tenants.until_read(1).await;
    let suspend = format!("/api/v1/platform/tenants/{}/suspend", got.tenant);
    platform.superadmin().await.order(&suspend).await.expect(200);
    // The first asking lists nothing: it only says from where on changes will be listed.
    caches.follow().await;
    caches.tenants.let_go();
    assert_eq!(asking.await.unwrap().unwrap().unwrap().status, TenantStatus::Suspended);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_was_put_back_and_went_on_is_read_anew() {
    let platform = TestPlatform::start().await;
    let got = platform.orchestra(Kept::Shared, "got").await;
    let mut caches = Caches::over(&platform).await;
    caches.people.let_go();
    caches.tenants.let_go();
    caches.follow().await;
    let status = async |caches: &Caches| {
        caches.directory.find_by_subdomain(&got.label()).await.unwrap().unwrap().status
    };
    assert_eq!(status(&caches).await, TenantStatus::Active);

    // What a restore leaves: the tenant as it was at an earlier version, and then changes of others until the
    // version is past the one that was seen. The feed does not list the tenant.
    let restore = "CREATE TABLE registry.restored (LIKE registry.version INCLUDING ALL);
        INSERT INTO registry.restored SELECT one_row, version + 7, created_at, updated_at FROM registry.version;
        DROP TABLE registry.version;
        ALTER TABLE registry.restored RENAME TO version;
        GRANT SELECT, UPDATE ON registry.version TO stagesub_control;
        UPDATE registry.tenants SET status = 'suspended', version = 1";
    run(&mut connect(platform.registry()).await, restore).await;
    caches.follow().await;
    assert_eq!(status(&caches).await, TenantStatus::Suspended);

    // From there on as ever: what did not change stays remembered.
    let reads = caches.tenants.reads();
    caches.follow().await;
    assert_eq!(status(&caches).await, TenantStatus::Suspended);
    assert_eq!(caches.tenants.reads(), reads);
}
