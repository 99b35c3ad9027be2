//! Source, target and registry that go down at once in the middle of a move, and come back, or do not.

use std::num::NonZeroU32;
use std::sync::Arc;

use sqlx::PgConnection;
use stagesub_tenancy::moves::{Failpoints, MoveId, MovePath, MoveState, NewMove, Point, Request, Side};
use stagesub_tests::cluster::Cluster;
use stagesub_tests::database::{connect, run};
use stagesub_tests::history::{Gate, Ground, Place};

use super::{Course, WRITABLE, is_writable};
use crate::tenant_tx::lab::{scalar, until};

/// Where the mover stands when the server goes down.
const POINTS: [Point; 4] =
    [Point::State(MoveState::Copy), Point::State(MoveState::CatchUp), Point::Fenced, Point::Decided];
/// Bytes a second at which the rows take some seconds to be copied.
const SLOWLY: NonZeroU32 = NonZeroU32::new(150_000).expect("it is more than none");

/// The server that goes down: the registry's, the source's, the target's.
async fn goes_down(which: usize) {
    let servers = [
        Cluster::apart_and_durable().await,
        Cluster::apart_and_durable().await,
        Cluster::apart_and_durable().await,
    ];
    let labels: [String; POINTS.len()] = std::array::from_fn(|n| format!("down{n}"));
    let labels = labels.each_ref().map(String::as_str);
    let (ground, mut residents) = Ground::on(servers.each_ref(), &labels).await;
    for (resident, point) in residents.iter_mut().zip(POINTS) {
        ground.furnish(resident, 2_000).await;
        println!("{}: {point:?}", resident.orchestra.subdomain);
        let mut course = Course::of(&ground, resident);
        let id = course.begin(MovePath::Stream).await;
        let gate = Gate::at(point);
        let mover = course.driving.node(Some(Arc::clone(&gate) as Arc<dyn Failpoints>));
        let crash = async {
            gate.reached().await;
            servers[which].crash().await;
            gate.open();
            is_writable(&ground, resident).await;
        };
        tokio::join!(course.there_and_back(id), crash);
        course.is_over(id, Side::Source).await;
        mover.die().await;
    }
}

/// Rows of a copy that has not ended have arrived, which nobody sees.
async fn copies(course: &Course<'_>, id: MoveId) {
    let mut target = connect(&course.ground.target.admin).await;
    until("rows are copied", async || {
        let size: i64 = scalar(&mut target, "SELECT pg_relation_size('ledger.page')").await;
        size > 0 && course.driving.find(id).await.state == MoveState::Copy
    })
    .await;
}

/// What the stream brings is on its way into the target, and waits there for a table.
async fn catches_up(course: &Course<'_>, gate: &Gate) -> PgConnection {
    gate.reached().await;
    let mut holder = connect(&course.ground.target.admin).await;
    run(&mut holder, "BEGIN; LOCK TABLE ledger.entry IN ACCESS EXCLUSIVE MODE").await;
    gate.open();
    let mut target = connect(&course.ground.target.admin).await;
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
        AND application_name LIKE 'stagesub-move:%' AND wait_event_type = 'Lock')";
    until("what was written is brought", async || scalar(&mut target, waits).await).await;
    holder
}

/// The same while rows are copied, and while the stream brings what was written meanwhile.
async fn goes_down_at_work(which: usize) {
    let servers = [
        Cluster::apart_and_durable().await,
        Cluster::apart_and_durable().await,
        Cluster::apart_and_durable().await,
    ];
    let (ground, mut residents) = Ground::on(servers.each_ref(), &["copied", "followed"]).await;
    for (resident, state) in residents.iter_mut().zip([MoveState::Copy, MoveState::CatchUp]) {
        ground.furnish(resident, 4_000).await;
        let mut course = Course::of(&ground, resident);
        let wanted = course.driving.wanted(resident.tenant(), &ground.target, MovePath::Stream);
        let gate = Gate::at(Point::State(MoveState::CatchUp));
        let clients = course.clients();
        let id = course.driving.begin_as(&NewMove { pace: Some(SLOWLY), ..wanted }).await;
        let mover = course.driving.node(Some(Arc::clone(&gate) as Arc<dyn Failpoints>));
        let holder = if state == MoveState::Copy {
            gate.open();
            copies(&course, id).await;
            None
        } else {
            clients.write_on(3).await;
            Some(catches_up(&course, &gate).await)
        };
        servers[which].crash().await;
        // Its lock ends with its session.
        drop(holder);
        is_writable(&ground, course.resident).await;
        course.history.merge(clients.stop().await);
        course.there_and_back(id).await;
        course.is_over(id, Side::Source).await;
        mover.die().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_registry_goes_down() {
    Box::pin(goes_down(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_source_goes_down() {
    Box::pin(goes_down(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_target_goes_down() {
    Box::pin(goes_down(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_source_goes_down_while_rows_are_on_their_way() {
    Box::pin(goes_down_at_work(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_target_goes_down_while_rows_are_on_their_way() {
    Box::pin(goes_down_at_work(2)).await;
}

/// Keeps everybody out of a database that is there, or lets them in again.
async fn lets_in(ground: &Ground, place: &Place, everybody: bool) {
    let server = ground.source.admin.with_database("postgres");
    let mut conn = connect(&server).await;
    let name = &place.name;
    run(&mut conn, &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {everybody}")).await;
    if !everybody {
        let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
        run(&mut conn, &end).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_does_not_wait_for_a_target_that_is_gone() {
    let (ground, mut residents) = Ground::start(&["deserted"]).await;
    ground.furnish(&mut residents[0], 50).await;
    let mut course = Course::of(&ground, &residents[0]);
    let id = course.begin(MovePath::Stream).await;
    let gate = Gate::at(Point::State(MoveState::CatchUp));
    let mover = course.driving.node(Some(Arc::clone(&gate) as Arc<dyn Failpoints>));
    gate.reached().await;
    lets_in(&ground, &ground.target, false).await;
    course.driving.ask(id, Request::Abort).await;
    gate.open();
    let aborted = course.driving.until(id, "it is aborted", |moved| moved.state == MoveState::Aborted).await;
    assert_eq!(aborted.ended_at, None, "something is left where nobody gets in");
    // The source is rid of it meanwhile: nothing there keeps the server's log.
    until("the source is rid of it", async || ground.leftovers(&ground.source, id).await.is_empty()).await;
    ground.until_writable(course.resident, WRITABLE).await.expect("it is served where it was");
    // Another node finds it so, too.
    mover.die().await;
    let mover = course.driving.node(None);
    let told = course.driving.until(id, "it says why", |moved| {
        moved.error.as_deref().is_some_and(|why| why.contains("at the target"))
    });
    assert_eq!(told.await.ended_at, None);
    lets_in(&ground, &ground.target, true).await;
    let ended = course.ends(id).await;
    assert_eq!(ended.state, MoveState::Aborted, "{ended:?}");
    course.is_over(id, Side::Source).await;
    mover.die().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rows_go_while_the_side_that_is_to_serve_does_not() {
    let (ground, mut residents) = Ground::start(&["restored"]).await;
    ground.furnish(&mut residents[0], 50).await;
    let mut course = Course::of(&ground, &residents[0]);
    let id = course.begin(MovePath::Stream).await;
    let mover = course.driving.node(None);
    course.driving.until_active(id, Side::Target).await;
    // As after it was restored as it stood before the tenant came.
    let (mut target, tenant) = (connect(&ground.target.admin).await, course.resident.tenant());
    let fence = |epoch: &str| {
        format!("UPDATE app.tenant_fence SET epoch = epoch {epoch} WHERE tenant_id = '{tenant}'")
    };
    run(&mut target, &fence("- 1")).await;
    course.driving.ask(id, Request::Finish).await;
    let told = course.driving.until(id, "it says why", |moved| {
        moved.error.as_deref().is_some_and(|why| why.contains("no rows are removed"))
    });
    assert_eq!((told.await.ended_at, ground.rows(&ground.source, tenant).await > 0), (None, true));
    run(&mut target, &fence("+ 1")).await;
    let ended = course.ends(id).await;
    assert_eq!(ended.state, MoveState::Finished, "{ended:?}");
    course.is_over(id, Side::Target).await;
    mover.die().await;
}
