//! Controls on a database that is made for them, and is gone afterwards.

use std::time::Duration;

use async_trait::async_trait;
use stagesub_storage::factory::TenantDb;
use stagesub_storage::prove::orchestra::OrchestraSample;
use stagesub_storage::prove::{ProveError, Sample, ScratchSettings, controls};
use stagesub_tenancy::{BoxError, TenantScope};
use stagesub_tests::database::{connect, run};
use uuid::Uuid;

use super::failures;
use crate::tenant_tx::lab::{Lab, scalar, until};

/// Fails, or takes forever.
struct Unwilling {
    waits: bool,
}

#[async_trait]
impl Sample for Unwilling {
    async fn seed(&self, _: &TenantDb, _: &TenantScope) -> Result<(), BoxError> {
        if self.waits {
            std::future::pending::<()>().await;
        }
        Err("no seed today".into())
    }
}

async fn standing(lab: &Lab) -> i64 {
    let sql = "SELECT count(*) FROM pg_database WHERE starts_with(datname, 'stagesub_scratch_')";
    scalar(&mut connect(&lab.admin).await, sql).await
}

/// One test, because it counts the server's scratch databases.
#[tokio::test(flavor = "multi_thread")]
async fn every_control_succeeds_and_its_database_is_gone() {
    let lab = Lab::start(1).await;
    let settings = ScratchSettings::new(lab.migrator.clone(), lab.app.clone());

    // What a run left behind that was killed long ago, and one that may still be at work.
    let old = Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, 1_700_000_000, 0));
    let recent = Uuid::now_v7();
    for id in [old, recent] {
        let sql = format!("CREATE DATABASE stagesub_scratch_{} OWNER stagesub_owner", id.as_simple());
        run(&mut connect(&lab.admin).await, &sql).await;
    }
    let proof = controls(&settings, &OrchestraSample).await.expect("the scratch database can be attacked");
    assert!(proof.passed(), "{:#?}", failures(&proof));
    for count in proof.counts() {
        println!("{count:?}");
        let controlled = count.suite != "hardening";
        assert_eq!(count.controls > 0, controlled, "{count:?}");
        assert!(count.attacks > 0, "{count:?}");
    }
    assert_eq!(standing(&lab).await, 1, "the recent one alone is left");
    run(&mut connect(&lab.admin).await, &format!("DROP DATABASE stagesub_scratch_{}", recent.as_simple()))
        .await;

    let failed = controls(&settings, &Unwilling { waits: false }).await;
    assert!(matches!(failed, Err(ProveError::Sample { doing: "seeding", .. })), "{failed:?}");
    assert_eq!(standing(&lab).await, 0);

    let unwilling = Unwilling { waits: true };
    let cancelled = tokio::time::timeout(Duration::from_secs(2), controls(&settings, &unwilling)).await;
    assert!(cancelled.is_err(), "it waits for its seed");
    until("the database of a cancelled run is gone", async || standing(&lab).await == 0).await;
}
