//! A mover that dies, sleeps or meets servers that go down, at every point of a move: the tenant is served by exactly one
//! database again, and nothing is lost.

mod deaths;
mod frozen;
mod intruders;
mod killed;
mod servers;

use std::sync::Arc;
use std::time::Duration;

use stagesub_storage::factory::TenantDb;
use stagesub_tenancy::moves::{Failpoints, Move, MoveId, MovePath, MoveState, Point, Side};
use stagesub_tests::history::clients::Load;
use stagesub_tests::history::driving::{DrivingNode, patient};
use stagesub_tests::history::planes::streaming;
use stagesub_tests::history::{Clients, Decided, Driving, Gate, Ground, History, Place, Resident, judge};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Longest until a tenant can be written to after its mover was started again. How soon it is, is for the bench to say; a
/// machine that does other things may stand still for longer than the tenant.
const WRITABLE: Duration = Duration::from_mins(1);
/// Longest that what goes on in the background may take.
const PATIENCE: Duration = Duration::from_mins(3);

/// Two writers at each of two nodes, who pause a moment: there is a mover to be watched as well.
fn load(first: i32) -> Load {
    Load { writers: 1, readers: 1, first, rest: Duration::from_millis(6) }
}

/// One tenant's move with clients at work.
struct Course<'g> {
    ground: &'g Ground,
    driving: Driving,
    resident: &'g Resident,
    nodes: [TenantDb; 2],
    history: History,
    first: i32,
    /// Its movers are other processes.
    decided_elsewhere: bool,
}

impl<'g> Course<'g> {
    fn of(ground: &'g Ground, resident: &'g Resident) -> Self {
        let driving = Driving::over(ground, streaming(ground), patient());
        let nodes = [ground.node(), ground.node()];
        Self {
            ground,
            driving,
            resident,
            nodes,
            history: History::default(),
            first: 1,
            decided_elsewhere: false,
        }
    }

    async fn begin(&self, path: MovePath) -> MoveId {
        self.driving.begin(self.resident.tenant(), &self.ground.target, path).await
    }

    /// Clients with writers that have not written yet.
    fn clients(&mut self) -> Clients {
        let first = self.first;
        self.first += 2;
        Clients::start(&self.nodes, &self.resident.scope, load(first), self.resident.rows)
    }

    fn place(&self, side: Side) -> &'g Place {
        if side == Side::Source { &self.ground.source } else { &self.ground.target }
    }

    /// There and back, then it is finished. Both copies are equal before that; in between clients write.
    async fn there_and_back(&mut self, id: MoveId) {
        let clients = self.clients();
        clients.write_on(3).await;
        self.driving.until_active(id, Side::Target).await;
        clients.write_on(3).await;
        self.driving.go_back(id).await;
        clients.write_on(3).await;
        self.history.merge(clients.stop().await);
        self.copies_are_equal().await;
        let clients = self.clients();
        let ended = self.driving.finish(id).await;
        clients.write_on(3).await;
        self.history.merge(clients.stop().await);
        assert_eq!(ended.state, MoveState::Finished, "{ended:?}");
    }

    /// At the target, while clients write: the copies are equal, it goes back, and it is over.
    async fn comes_back(&mut self, id: MoveId, clients: Clients) {
        clients.write_on(20).await;
        self.history.merge(clients.stop().await);
        self.copies_are_equal().await;
        let clients = self.clients();
        self.driving.go_back(id).await;
        self.driving.finish(id).await;
        self.history.merge(clients.stop().await);
        self.is_over(id, Side::Source).await;
    }

    /// Until there is nothing left to do, while clients write.
    async fn ends(&mut self, id: MoveId) -> Move {
        let clients = self.clients();
        clients.write_on(3).await;
        let ended = self.driving.until_ended(id).await;
        clients.write_on(3).await;
        self.history.merge(clients.stop().await);
        ended
    }

    /// Nobody writes; what was written last arrives.
    async fn copies_are_equal(&self) {
        let both = [&self.ground.source, &self.ground.target];
        let equal = timeout(PATIENCE, async {
            while !self.ground.compare(both, self.resident.tenant()).await.is_equal() {
                sleep(Duration::from_millis(20)).await;
            }
        });
        if equal.await.is_err() {
            let compared = self.ground.compare(both, self.resident.tenant()).await;
            panic!("the copies are not equal: {:?}", compared.differences);
        }
    }

    /// Nothing is left of a move that has ended, at `side` is everything, and nothing was lost on the way.
    async fn is_over(&self, id: MoveId, side: Side) {
        let (here, there) = (self.place(side), self.place(side.other()));
        let tenant = self.resident.tenant();
        for place in [here, there] {
            // Sessions end a moment after whoever had them.
            let gone = timeout(PATIENCE, async {
                while !self.ground.leftovers(place, id).await.is_empty() {
                    sleep(Duration::from_millis(20)).await;
                }
            });
            let left = self.ground.leftovers(place, id);
            assert!(gone.await.is_ok(), "left in {}: {:?}", place.name, left.await);
        }
        assert_eq!(self.ground.rows(there, tenant).await, 0, "rows are left where the tenant is not served");
        assert!(
            self.ground.serves(here, tenant).await.is_some()
                && self.ground.serves(there, tenant).await.is_none()
        );
        let mut decisions = self.driving.decisions(tenant, &[here, there]);
        if self.decided_elsewhere {
            // When, nobody here was told: it may have been at any time.
            let called = self.history.spans().map(|(began, _)| began).min().expect("somebody did something");
            let may = |place: &Place| Decided { called, returned: None, database: place.name.clone() };
            decisions = vec![may(there), may(here)];
        }
        let found = self.ground.found(here, self.resident).await;
        let verdict = judge(&self.history, &found, &self.ground.source.name, &decisions);
        println!("{}: {}", self.resident.orchestra.subdomain, verdict.describe());
        verdict.assert_sound();
    }
}

/// Somebody new can write soon, and there are not two databases that would let them.
async fn is_writable(ground: &Ground, resident: &Resident) {
    let label = &resident.orchestra.subdomain;
    match ground.until_writable(resident, WRITABLE).await {
        Ok(after) => println!("{label}: writable after {after:?}"),
        Err(within) => panic!("{label}: nobody can write within {within:?}"),
    }
    let [source, target] = [&ground.source, &ground.target];
    // Between two looks the tenant may have gone from the one to the other; it does not go back by itself.
    let mut both = true;
    for [one, other] in [[source, target], [target, source]] {
        let one = ground.serves(one, resident.tenant()).await;
        both &= one.is_some() && ground.serves(other, resident.tenant()).await.is_some();
    }
    assert!(!both, "{label} is served by both");
}

/// Movers that die, one after the other, each at its point; the last one lives.
struct Deaths {
    gates: Vec<Arc<Gate>>,
    next: JoinHandle<DrivingNode>,
    restarted: tokio::sync::watch::Receiver<usize>,
}

impl Deaths {
    fn at(driving: &Driving, points: &[Point]) -> Self {
        let gates: Vec<_> = points.iter().map(|point| Gate::at(*point)).collect();
        let (tell, restarted) = tokio::sync::watch::channel(0);
        let (driving, all) = (driving.clone(), gates.clone());
        let next = tokio::spawn(async move {
            for gate in all {
                let mover = driving.node(Some(Arc::clone(&gate) as Arc<dyn Failpoints>));
                gate.reached().await;
                mover.die().await;
                tell.send_modify(|deaths| *deaths += 1);
            }
            driving.node(None)
        });
        Self { gates, next, restarted }
    }

    /// Waits until the last of them is dead and its successor has begun.
    async fn are_over(&self) {
        let mut restarted = self.restarted.clone();
        let all = restarted.wait_for(|deaths| *deaths == self.gates.len());
        assert!(timeout(PATIENCE, all).await.is_ok_and(|all| all.is_ok()), "not every point was reached");
    }

    /// Who lives. Fails if a point was not reached.
    async fn survivor(self) -> DrivingNode {
        timeout(PATIENCE, self.next).await.expect("every point was reached").expect("nobody panics")
    }
}
