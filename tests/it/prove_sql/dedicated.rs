//! A tenant's own database is attacked as the shared ones are, by somebody who is not its tenant.

use std::sync::Arc;

use stagesub_storage::logins::{DatabaseLogins, LoginRole};
use stagesub_storage::prove::DatabaseProof;
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_tenancy::prove::{Attack, Outcome};
use stagesub_tenancy::{DatabaseId, TenantId};
use stagesub_tests::cluster::{Cluster, keys};
use stagesub_tests::database::{connect, run};
use stagesub_tests::{Kept, TestPlatform};
use uuid::Uuid;

/// A tenant with a database of its own, and the database.
async fn dedicated(platform: &TestPlatform) -> (TenantId, Uuid) {
    let own = platform.orchestra(Kept::Dedicated, "own").await;
    let id = sqlx::query_scalar("SELECT database_id FROM registry.directory WHERE tenant_id = $1")
        .bind(own.tenant.as_uuid())
        .fetch_one(&mut connect(platform.registry()).await)
        .await
        .unwrap();
    (own.tenant, id)
}

/// What became of attacks by somebody who is not its tenant.
async fn attacked(platform: &TestPlatform, tenant: TenantId, id: Uuid) -> Vec<Attack> {
    let keys = Arc::new(keys());
    let registry = RegistryPools::open(platform.registry(), &keys).await.unwrap();
    let logins = PgDatabaseLogins::new(registry.clone(), keys);
    let login = async |role| logins.find_login(DatabaseId::from_uuid(id), role).await.unwrap().unwrap();
    let stranger = TenantId::from_uuid(Uuid::now_v7());
    let proof = DatabaseProof::new(login(LoginRole::App).await, stranger, tenant)
        .owner(login(LoginRole::Migrator).await)
        .while_in_use()
        .run()
        .await
        .unwrap();
    registry.close().await;
    let reached = proof
        .attacks()
        .iter()
        .filter(|attack| matches!(attack.outcome, Outcome::Reached(_)) && !attack.passed());
    assert_eq!(reached.count(), 0);
    proof.attacks().iter().filter(|attack| attack.suite == "epoch").cloned().collect()
}

fn assert_passed(epoch: &[Attack], through: &[&str]) {
    for through in through {
        assert!(epoch.iter().any(|attack| attack.target.contains(through)), "{through} was attacked");
    }
    let failed: Vec<_> = epoch.iter().filter(|attack| !attack.passed()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_own_database_refuses_whoever_is_not_its_tenant() {
    let platform = TestPlatform::start().await;
    let (tenant, id) = dedicated(&platform).await;
    let epoch = attacked(&platform, tenant, id).await;
    assert_passed(
        &epoch,
        &["app.enter", "TenantDb::begin", "TenantDb::read_in_one_message", "TenantDb::write_in_one_message"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_its_tenant_has_left_lets_nobody_in_at_any_epoch() {
    let platform = TestPlatform::start().await;
    let (tenant, id) = dedicated(&platform).await;
    let name: String = sqlx::query_scalar("SELECT name FROM registry.databases WHERE id = $1")
        .bind(id)
        .fetch_one(&mut connect(platform.registry()).await)
        .await
        .unwrap();
    let mut own = connect(&Cluster::get().await.admin().with_database(&name)).await;
    run(&mut own, "UPDATE app.tenant_fence SET state = 'moved', epoch = 7").await;
    let epoch = attacked(&platform, tenant, id).await;
    assert_passed(&epoch, &["app.enter", "TenantDb::read_in_one_message", "TenantDb::write_in_one_message"]);
    assert!(epoch.iter().any(|attack| attack.attempt.starts_with("the epoch that the victim left at")));
}
