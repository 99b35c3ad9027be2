//! How long a tenant cannot be written to after its mover died and another was started.

use std::sync::Arc;
use std::time::Duration;

use stagesub_tenancy::moves::{Failpoints, MovePath, MoveState, MoverSettings, Point, Side};
use stagesub_tests::history::planes::streaming;
use stagesub_tests::history::{Driving, Gate, Ground, Resident};

/// Where movers die.
const POINTS: [Point; 6] = [
    Point::State(MoveState::Copy),
    Point::State(MoveState::Fence),
    Point::Fenced,
    Point::Equal,
    Point::Decided,
    Point::Activated,
];
/// Longest that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest of all points. The lease of who died counts: nobody says that it is over.
pub(crate) async fn measure(ground: &Ground, resident: &Resident) -> Duration {
    let driving = Driving::over(ground, streaming(ground), MoverSettings::default());
    let mut longest = Duration::ZERO;
    for point in POINTS {
        let id = driving.begin(resident.tenant(), &ground.target, MovePath::Stream).await;
        let gate = Gate::at(point);
        let mover = driving.node(Some(Arc::clone(&gate) as Arc<dyn Failpoints>));
        gate.reached().await;
        mover.die().await;
        let next = driving.node(None);
        let after = ground.until_writable(resident, PATIENCE).await.unwrap_or_else(|within| within);
        println!("died at {point:?}: writable after {after:?}");
        longest = longest.max(after);
        // Back, so that the next one begins where this one did.
        driving.until_active(id, Side::Target).await;
        driving.go_back(id).await;
        driving.finish(id).await;
        next.die().await;
    }
    longest
}
