//! Nodes get ready for where a tenant is about to be, before anybody waits for it.

use std::time::Duration;

use stagesub_storage::registry::changes::PgChangeSignal;
use stagesub_tenancy::moves::{MovePath, MoveRegistry as _, MoveState, MoverSettings, Note};
use stagesub_tenancy::{Access, ChangeSignal as _};
use stagesub_tests::database::connect;
use stagesub_tests::history::planes::streaming;
use stagesub_tests::history::{Driving, Ground};
use tokio::time::timeout;

use super::registry::node;
use crate::tenant_tx::lab::{scalar, until};

const LEASE: Duration = Duration::from_hours(1);
const DEADLINE: Duration = Duration::from_secs(20);
const QUIET: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_serves_a_tenant_has_connections_to_where_it_will_be() {
    use MoveState::{CatchUp, Copy, Fence, Slot, Verify};
    let (ground, residents) = Ground::start(&["guests", "strange"]).await;
    let [resident, strange] = &residents[..] else { unreachable!("two were made") };
    let (db, mut follower) = ground.following();
    follower.poll_once().await.expect("the registry answers");
    db.begin(&resident.scope, Access::Read).await.expect("it is served").commit().await.expect("it ends");
    let mut places = Vec::new();
    for one in [resident, strange] {
        places.push(ground.own_database(one).await);
    }
    let mut looks = [connect(&places[0].admin).await, connect(&places[1].admin).await];
    let connections = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND usename = 'stagesub_app'";

    // Nobody drives it but this test: what is looked at is who hears of it.
    let driving = Driving::over(&ground, streaming(&ground), MoverSettings::default());
    let mut signal = PgChangeSignal::new(&ground.registry);
    timeout(DEADLINE, signal.changed()).await.expect("it listens");
    for (one, place) in residents.iter().zip(&places) {
        driving.begin(one.tenant(), place, MovePath::Stream).await;
        let mut held = driving.registry.claim(node(), LEASE).await.unwrap().expect("there is one to claim");
        for state in [Slot, Copy, CatchUp, Verify, Fence] {
            // What went before has been told.
            while timeout(QUIET, signal.changed()).await.is_ok() {}
            held.moved =
                driving.registry.advance(&held, state, &Note::default()).await.unwrap().expect("it steps");
            let told = timeout(if state == Verify { DEADLINE } else { QUIET }, signal.changed()).await;
            assert_eq!(told.is_ok(), state == Verify, "{state}");
            follower.poll_once().await.expect("the registry answers");
            if state == CatchUp {
                assert_eq!(
                    scalar::<i64>(&mut looks[0], connections).await,
                    if one.tenant() == resident.tenant() { 0 } else { 8 }
                );
            }
            if state == Verify {
                until("as many as one tenant may have", async || {
                    scalar::<i64>(&mut looks[0], connections).await == 8
                })
                .await;
            }
        }
    }
    // Of the other nobody here has asked.
    assert_eq!(scalar::<i64>(&mut looks[1], connections).await, 0);
    let mut tx = db.begin(&resident.scope, Access::Read).await.expect("it is served where it was");
    let served: String =
        sqlx::query_scalar("SELECT current_database()::text").fetch_one(&mut tx).await.expect("it reads");
    assert_eq!(served, ground.source.name);
    tx.commit().await.expect("it ends");
}
