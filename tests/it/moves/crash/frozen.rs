//! A mover that sleeps in the middle of a cutover, until another has finished it, and then wakes.

use stagesub_tenancy::moves::{Failpoints, MovePath, Point, Side};
use stagesub_tests::history::{Gate, Ground};

use super::{Course, is_writable};

/// Before the decision and after it.
const POINTS: [Point; 6] =
    [Point::Locked, Point::Fenced, Point::Applied, Point::Equal, Point::Decided, Point::Activated];

#[tokio::test(flavor = "multi_thread")]
async fn who_wakes_after_another_has_finished_changes_nothing() {
    let labels: [String; POINTS.len()] = std::array::from_fn(|n| format!("frozen{n}"));
    let (ground, mut residents) = Ground::start(&labels.each_ref().map(String::as_str)).await;
    for (resident, point) in residents.iter_mut().zip(POINTS) {
        ground.furnish(resident, 200).await;
        println!("{}: {point:?}", resident.orchestra.subdomain);
        let mut course = Course::of(&ground, resident);
        let clients = course.clients();
        let id = course.begin(MovePath::Stream).await;
        let gate = Gate::at(point);
        let sleeper = course.driving.node(Some(gate.clone() as std::sync::Arc<dyn Failpoints>));
        gate.reached().await;
        sleeper.freeze();
        gate.open();
        let other = course.driving.node(None);
        is_writable(&ground, resident).await;
        course.driving.until_active(id, Side::Target).await;
        clients.write_on(3).await;
        sleeper.thaw();
        course.comes_back(id, clients).await;
        sleeper.die().await;
        other.die().await;
    }
}
