//! What takes how long in a cutover.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use stagesub_tenancy::moves::{Failpoints, Point};

/// The steps under the tenant's lock, by the point that ends each.
const STEPS: [(&str, Point); 6] = [
    ("closing", Point::Fenced),
    ("draining", Point::Applied),
    ("comparing", Point::Equal),
    ("deciding", Point::Decided),
    ("opening", Point::Activated),
    ("unlocking", Point::Unlocked),
];

/// Notes when a mover comes to each point. It stops nobody.
#[derive(Debug, Default)]
pub(crate) struct Timeline(Mutex<Vec<(Point, Instant)>>);

impl Timeline {
    /// The median of each step, over all cutovers.
    pub(crate) fn describe(&self) -> String {
        let points = self.0.lock().expect("nobody panics with it");
        let steps = STEPS.map(|(name, end)| {
            let ends = points.windows(2).filter(|pair| pair[1].0 == end);
            let mut times: Vec<Duration> = ends.map(|pair| pair[1].1 - pair[0].1).collect();
            format!("{name} {:.1}", super::ms(super::median(&mut times)))
        });
        steps.join(", ")
    }
}

#[async_trait]
impl Failpoints for Timeline {
    async fn reached(&self, point: Point) {
        self.0.lock().expect("nobody panics with it").push((point, Instant::now()));
    }
}
