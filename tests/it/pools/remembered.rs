//! A login that is remembered and was renewed since.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use stagesub_storage::factory::{FactorySettings, LeanPoolFactory};
use stagesub_storage::logins::{DatabaseLogins, LoginRole, REMEMBERED, RememberedLogins};
use stagesub_storage::target::ConnectionTarget;
use stagesub_tenancy::{DatabaseId, DirectoryError, OpenError, PoolFactory, PoolTarget};

use crate::tenant_tx::lab::Lab;

/// Tells one login after the other; the last for good.
struct InTurn {
    logins: Vec<ConnectionTarget>,
    asked: Arc<AtomicUsize>,
}

#[async_trait]
impl DatabaseLogins for InTurn {
    async fn find_login(
        &self,
        _: DatabaseId,
        _: LoginRole,
    ) -> Result<Option<ConnectionTarget>, DirectoryError> {
        let turn = self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(self.logins.get(turn).or(self.logins.last()).cloned())
    }
}

fn factory(logins: Vec<ConnectionTarget>) -> (LeanPoolFactory, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let logins = InTurn { logins, asked: Arc::clone(&asked) };
    let logins = RememberedLogins::new(logins, REMEMBERED);
    (LeanPoolFactory::new(Arc::new(logins), FactorySettings::default()), asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_opened_again_without_asking_and_with_a_renewed_login() {
    let lab = Lab::start(2).await;
    let target = PoolTarget::Shared(lab.database);
    let moved = lab.app.with_database("stagesub_test_was_renamed");
    let renewed = lab.app.with_user("stagesub_app", "an earlier password".to_owned().into());
    for old in [moved, renewed] {
        let (factory, asked) = factory(vec![old, lab.app.clone()]);
        for _ in 0..3 {
            let pool = factory.open(&target).await.expect("the second login lets it in");
            factory.close(pool).await;
            assert_eq!(asked.load(Ordering::Relaxed), 2);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_not_waited_for_twice() {
    let lab = Lab::start(2).await;
    let nowhere = ConnectionTarget::on_socket(
        std::path::Path::new("/nowhere/at/all"),
        1,
        "stagesub_app",
        "secret".to_owned().into(),
        "db",
    );
    let (factory, asked) = factory(vec![nowhere.expect("a login"), lab.app.clone()]);
    let target = PoolTarget::Shared(lab.database);
    let away = factory.open(&target).await;
    assert!(matches!(away, Err(OpenError::Unavailable(_))) && asked.load(Ordering::Relaxed) == 1);
    let pool = factory.open(&target).await.expect("it was asked for again");
    factory.close(pool).await;
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}
