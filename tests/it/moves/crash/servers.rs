//! Source, target and registry that go down at once in the middle of a move, and come back.

use std::sync::Arc;

use stagesub_tenancy::moves::{Failpoints, MovePath, MoveState, Point, Side};
use stagesub_tests::cluster::Cluster;
use stagesub_tests::history::{Gate, Ground};

use super::{Course, is_writable};

/// Where the server goes down.
const POINTS: [Point; 4] =
    [Point::State(MoveState::Copy), Point::State(MoveState::CatchUp), Point::Fenced, Point::Decided];

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
