//! A tenant's own database is attacked as the shared ones are, by somebody who is not its tenant.

use std::sync::Arc;

use stagesub_storage::logins::{DatabaseLogins, LoginRole};
use stagesub_storage::prove::DatabaseProof;
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::logins::PgDatabaseLogins;
use stagesub_tenancy::prove::Outcome;
use stagesub_tenancy::{DatabaseId, TenantId};
use stagesub_tests::cluster::keys;
use stagesub_tests::database::connect;
use stagesub_tests::{Kept, TestPlatform};
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_own_database_refuses_whoever_is_not_its_tenant() {
    let platform = TestPlatform::start().await;
    let own = platform.orchestra(Kept::Dedicated, "own").await;
    let id: Uuid = sqlx::query_scalar("SELECT database_id FROM registry.directory WHERE tenant_id = $1")
        .bind(own.tenant.as_uuid())
        .fetch_one(&mut connect(platform.registry()).await)
        .await
        .unwrap();
    let keys = Arc::new(keys());
    let registry = RegistryPools::open(platform.registry(), &keys).await.unwrap();
    let logins = PgDatabaseLogins::new(registry.clone(), keys);
    let login = async |role| logins.find_login(DatabaseId::from_uuid(id), role).await.unwrap().unwrap();
    let stranger = TenantId::from_uuid(Uuid::now_v7());
    let proof = DatabaseProof::new(login(LoginRole::App).await, stranger, own.tenant)
        .owner(login(LoginRole::Migrator).await)
        .while_in_use()
        .run()
        .await
        .unwrap();
    registry.close().await;
    let epoch: Vec<_> = proof.attacks().iter().filter(|attack| attack.suite == "epoch").collect();
    for through in ["app.enter", "TenantDb::begin", "TenantDb::read_in_one_message"] {
        assert!(epoch.iter().any(|attack| attack.target.contains(through)), "{through} was attacked");
    }
    let failed: Vec<_> = epoch.iter().filter(|attack| !attack.passed()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let reached = proof
        .attacks()
        .iter()
        .filter(|attack| matches!(attack.outcome, Outcome::Reached(_)) && !attack.passed());
    assert_eq!(reached.count(), 0);
}
