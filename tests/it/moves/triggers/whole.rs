//! Whole moves on a server that decodes nothing.

use stagesub_storage::moves::change_log::ChangeLog;
use stagesub_storage::moves::progress::Direction;
use stagesub_tenancy::moves::{Driven, MovePath, MoveRegistry, MoveState, Request, Side};
use stagesub_tests::TestPlatform;
use stagesub_tests::cluster::Cluster;
use stagesub_tests::database::{connect, run};
use stagesub_tests::orchestra::Kept;

use super::super::pair::{self, Pair};
use super::super::whole::{Ground, Writers, emails};
use super::PATIENCE;
use crate::tenant_tx::lab::scalar;

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_moves_there_and_back_where_nothing_is_decoded() {
    let cluster = Cluster::apart_with(&[("wal_level", "replica"), ("max_replication_slots", "0")]).await;
    let level: String =
        scalar(&mut connect(cluster.admin()).await, "SELECT current_setting('wal_level')").await;
    assert_eq!(level, "replica");
    let ground = Ground::on(TestPlatform::start_apart(&cluster).await);
    let orchestra = ground.platform.orchestra(Kept::Shared, "gbg").await;
    let other = ground.platform.orchestra(Kept::Shared, "sthlm").await;
    let own = ground.own_database(orchestra.tenant).await;
    let moved = ground.begin(orchestra.tenant, own, MovePath::Triggers).await;
    let shared = moved.source.database();
    let writers = Writers::start(&orchestra.admin);
    // Another tenant writes all the while, and is not in it.
    let beside = Writers::start(&other.admin);
    ground.there_and_back_and_there(moved.id).await;
    let mut made = writers.stop().await;
    made.sort();
    assert!(!made.is_empty());
    assert_eq!(emails(&orchestra).await, made);
    let mut made_beside = beside.stop().await;
    made_beside.sort();
    assert_eq!(emails(&other).await, made_beside);
    assert_eq!(ground.rows(shared, "tenant.musician", orchestra.tenant).await, Vec::<String>::new());
    assert_eq!(ground.rows(own, "tenant.musician", orchestra.tenant).await.len(), made.len());
    assert_eq!(ground.rows(own, "tenant.musician", other.tenant).await, Vec::<String>::new());
    ground.nothing_left(moved.id, &[shared, own]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_goes_back_over_a_log_that_missed_something() {
    let ground = Ground::on(TestPlatform::start().await);
    let orchestra = ground.platform.orchestra(Kept::Shared, "gbg").await;
    let own = ground.own_database(orchestra.tenant).await;
    let moved = ground.begin(orchestra.tenant, own, MovePath::Triggers).await;
    let shared = moved.source.database();
    let writers = Writers::start(&orchestra.admin);
    let driven = ground.drive();
    ground.reaches(moved.id, MoveState::Active, Side::Target).await;
    // Somebody switches triggers off at the side that serves, and on again; what they missed nobody knows.
    let mut registry = connect(ground.platform.registry()).await;
    let name: String =
        scalar(&mut registry, &format!("SELECT name FROM registry.databases WHERE id = '{own}'")).await;
    let mut admin = connect(&ground.platform.registry().with_database(&name)).await;
    run(
        &mut admin,
        "ALTER TABLE tenant.musician DISABLE TRIGGER ALL; ALTER TABLE tenant.musician ENABLE TRIGGER ALL",
    )
    .await;
    let mut refused = false;
    while !refused {
        let found = ground.moves.find(moved.id).await.unwrap().unwrap();
        let told = "the triggers that log changes of tenant.musician are gone or switched off";
        let told = found.error.as_deref().is_some_and(|why| why.contains(told));
        refused = told && found.state == MoveState::Active;
        // Tables that have changed are looked at once more before that, which gives the first attempt up.
        if !told && found.state == MoveState::Active && found.wanted.is_none() {
            ground.ask(moved.id, Request::Back).await;
        }
        tokio::task::yield_now().await;
    }
    // The tenant stays where it is, and is served.
    ground.ask(moved.id, Request::Finish).await;
    let Driven::Ended(ended) = driven.await.unwrap() else { panic!("it ends") };
    assert_eq!((ended.state, ended.serving()), (MoveState::Finished, Side::Target));
    let mut made = writers.stop().await;
    made.sort();
    assert_eq!(emails(&orchestra).await, made);
    ground.nothing_left(moved.id, &[shared, own]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_the_same_while_another_tenants_changes_are_logged() {
    let pair = Pair::start().await;
    let before = pair.target_plan_of(&["tenant"]).await.expect("a plan");
    let tables = before.tables.iter().map(|table| table.name.clone()).collect();
    let [tenant] = pair::tenants();
    let log = ChangeLog::new(pair.move_id, Direction::Forward, tenant, tables);
    let mut mover = pair.target_conn().await;
    run(&mut mover, "SET SESSION AUTHORIZATION stagesub_mover").await;
    log.create(&mut mover, PATIENCE).await.expect("a log");
    log.check(&mut mover).await.expect("of all tables");
    assert_eq!(pair.target_plan_of(&["tenant"]).await.expect("the same plan"), before);
    pair.on_target(
        "CREATE FUNCTION public.own() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER own BEFORE INSERT ON tenant.musician FOR EACH ROW EXECUTE FUNCTION public.own()",
    )
    .await;
    assert!(pair.target_plan_of(&["tenant"]).await.is_err(), "a table's own triggers count");
}
