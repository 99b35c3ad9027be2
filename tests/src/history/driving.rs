//! Movers of residents, as nodes of their own, and what stops them.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use rand::random;
use stagesub_storage::registry::RegistryPools;
use stagesub_storage::registry::moves::PgMoveRegistry;
use stagesub_tenancy::moves::{
    DataPlane, Failpoints, Move, MoveId, MovePath, MovePrefix, MoveRegistry, MoveState, Mover, MoverSettings,
    NewMove, Point, Request, Requested, Requester, Side,
};
use stagesub_tenancy::{NodeId, TenantId};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::ground::{Ground, Place};
use super::record::Decided;
use super::watched::Watched;

/// Longest that a move may take to come to where it is waited for.
const PATIENCE: Duration = Duration::from_mins(10);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(5);

/// Makes what a process has to move tenants with.
pub type Planes = Arc<dyn Fn() -> Arc<dyn DataPlane> + Send + Sync>;

/// Movers for a machine that does many other things: what a cutover costs is for the bench to say. Those who wait for it
/// still do so for less than a node tries to begin.
#[must_use]
pub fn patient() -> MoverSettings {
    MoverSettings {
        budget: Duration::from_millis(1_500),
        round_trip: Duration::from_millis(250),
        attempts: 20,
        ..MoverSettings::default()
    }
}

/// Movers over one registry.
#[derive(Clone)]
pub struct Driving {
    /// The registry, watched.
    pub registry: Arc<Watched>,
    planes: Planes,
    settings: MoverSettings,
}

/// A node that moves whatever is to be moved. Dropped, it dies where it stands.
#[derive(Debug)]
pub struct DrivingNode {
    task: JoinHandle<()>,
    frost: Arc<Frost>,
}

impl DrivingNode {
    /// Ends it where it stands, and returns when nothing of it goes on.
    pub async fn die(mut self) {
        self.task.abort();
        // That it was ended is what is waited for.
        let _ended = (&mut self.task).await;
    }

    /// Has its mover do nothing until it is thawed: not even say that it holds its move.
    pub fn freeze(&self) {
        self.frost.frozen.store(true, Ordering::Release);
    }

    /// Lets it go on where it stands.
    pub fn thaw(&self) {
        self.frost.frozen.store(false, Ordering::Release);
        if let Some(waker) = self.frost.waker.lock().expect("nobody panics with it").take() {
            waker.wake();
        }
    }
}

impl Drop for DrivingNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What keeps a mover from going on.
#[derive(Debug, Default)]
struct Frost {
    frozen: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Frost {
    /// A future that stands still while it is frozen.
    async fn over<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| {
            *self.waker.lock().expect("nobody panics with it") = Some(context.waker().clone());
            if self.frozen.load(Ordering::Acquire) { Poll::Pending } else { future.as_mut().poll(context) }
        })
        .await
    }
}

impl Driving {
    /// Movers of a ground's residents; each has what `planes` makes.
    #[must_use]
    pub fn over(ground: &Ground, planes: Planes, settings: MoverSettings) -> Self {
        Self::at(ground.registry.clone(), planes, settings)
    }

    /// Movers of the moves that a registry has.
    #[must_use]
    pub fn at(registry: RegistryPools, planes: Planes, settings: MoverSettings) -> Self {
        let registry = Arc::new(Watched::new(PgMoveRegistry::new(registry)));
        Self { registry, planes, settings }
    }

    /// A mover with nothing in common with others.
    #[must_use]
    pub fn mover(&self) -> Mover {
        let node = NodeId::from_uuid(Uuid::now_v7());
        Mover::new(Arc::clone(&self.registry) as _, (self.planes)(), node, self.settings)
    }

    /// A node that moves whatever is to be moved, until it dies.
    #[must_use]
    pub fn node(&self, failpoints: Option<Arc<dyn Failpoints>>) -> DrivingNode {
        let mover = self.mover();
        let mover = match failpoints {
            Some(failpoints) => mover.with_failpoints(failpoints),
            None => mover,
        };
        let frost = Arc::new(Frost::default());
        let frozen = Arc::clone(&frost);
        let driving = async move {
            loop {
                match mover.step().await {
                    Ok(Some(driven)) => tracing::info!(?driven, "a move was driven"),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::info!(error = &error as &dyn std::error::Error, "no move was claimed");
                    }
                }
                sleep(LOOK).await;
            }
        };
        let task = tokio::spawn(async move { frozen.over(driving).await });
        DrivingNode { task, frost }
    }

    /// A move at full speed that has not begun.
    #[must_use]
    pub fn wanted(&self, tenant: TenantId, to: &Place, path: MovePath) -> NewMove {
        NewMove {
            id: MoveId::from_uuid(Uuid::now_v7()),
            tenant,
            target: to.id,
            path,
            prefix: MovePrefix::from_bytes(random()),
            by: Requester::Platform,
            pace: None,
        }
    }

    /// Begins a move at full speed.
    pub async fn begin(&self, tenant: TenantId, to: &Place, path: MovePath) -> MoveId {
        self.begin_as(&self.wanted(tenant, to, path)).await
    }

    /// Begins a move.
    pub async fn begin_as(&self, new: &NewMove) -> MoveId {
        self.registry.begin(new).await.expect("the move begins").id
    }

    /// A move as it stands.
    pub async fn find(&self, id: MoveId) -> Move {
        self.registry.find(id).await.expect("the registry answers").expect("the move is there")
    }

    /// Asks something of a move.
    pub async fn ask(&self, id: MoveId, request: Request) {
        let asked = self.registry.request(id, request, Requester::Platform).await;
        let asked = asked.expect("the registry answers");
        assert!(matches!(asked, Requested::Accepted(_)), "{asked:?}");
    }

    /// Waits until a move stands where it is waited for. One that has ended elsewhere is not waited for any longer.
    pub async fn until(&self, id: MoveId, what: &str, is_so: impl Fn(&Move) -> bool) -> Move {
        let looked = timeout(PATIENCE, async {
            loop {
                // A registry that is away comes back.
                if let Ok(Some(found)) = self.registry.find(id).await {
                    if is_so(&found) {
                        return Ok(found);
                    }
                    if found.ended_at.is_some() {
                        return Err(found);
                    }
                }
                sleep(LOOK).await;
            }
        });
        match looked.await {
            Ok(Ok(found)) => found,
            Ok(Err(ended)) => panic!("the move has ended and not so that {what}: {ended:?}"),
            Err(elapsed) => panic!("{what} is waited for in vain ({elapsed}): {:?}", self.find(id).await),
        }
    }

    /// Waits until a tenant is served at a side and the other one follows.
    pub async fn until_active(&self, id: MoveId, side: Side) -> Move {
        let is_so = |found: &Move| found.state == MoveState::Active && found.serving() == side;
        self.until(id, &format!("it is active at the {side}"), is_so).await
    }

    /// Waits until nothing is left to do for a move.
    pub async fn until_ended(&self, id: MoveId) -> Move {
        self.until(id, "it has ended", |found| found.ended_at.is_some()).await
    }

    /// Has a tenant go back from the target; asks for it again where that was given up.
    pub async fn go_back(&self, id: MoveId) {
        self.go_to(id, Side::Source).await;
    }

    /// Has a tenant go to the other side, which is this one; asks for it again where that was given up.
    pub async fn go_to(&self, id: MoveId, side: Side) {
        loop {
            let settled = |found: &Move| {
                found.state == MoveState::Active && (found.serving() == side || found.wanted.is_none())
            };
            if self.until(id, "it is there, or stays", settled).await.serving() == side {
                return;
            }
            self.ask(id, Request::Back).await;
        }
    }

    /// Has a move end where the tenant is.
    pub async fn finish(&self, id: MoveId) -> Move {
        self.ask(id, Request::Finish).await;
        self.until_ended(id).await
    }

    /// The decisions about a tenant, with the names of databases.
    #[must_use]
    pub fn decisions(&self, tenant: TenantId, places: &[&Place]) -> Vec<Decided> {
        let name = |id| places.iter().find(|place| place.id == id).map(|place| place.name.clone());
        let decisions = self.registry.decisions(tenant).into_iter();
        decisions
            .map(|asked| Decided {
                called: asked.called,
                returned: asked.returned,
                database: name(asked.database).expect("a database of the move"),
            })
            .collect()
    }
}

/// Stops a mover the first time that it comes to a point, until it is let go.
#[derive(Debug)]
pub struct Gate {
    at: Point,
    used: AtomicBool,
    reached: watch::Sender<bool>,
    open: watch::Sender<bool>,
}

impl Gate {
    /// At a point.
    #[must_use]
    pub fn at(point: Point) -> Arc<Self> {
        Arc::new(Self {
            at: point,
            used: AtomicBool::new(false),
            reached: watch::Sender::new(false),
            open: watch::Sender::new(false),
        })
    }

    /// Waits until a mover stands there.
    pub async fn reached(&self) {
        let mut reached = self.reached.subscribe();
        let there = timeout(PATIENCE, reached.wait_for(|reached| *reached)).await;
        assert!(there.is_ok(), "no mover comes to {:?}", self.at);
    }

    /// Lets it go on.
    pub fn open(&self) {
        self.open.send_replace(true);
    }
}

#[async_trait]
impl Failpoints for Gate {
    async fn reached(&self, point: Point) {
        if point != self.at || self.used.swap(true, Ordering::AcqRel) {
            return;
        }
        self.reached.send_replace(true);
        let mut open = self.open.subscribe();
        // The sender is this gate's own.
        let _open = open.wait_for(|open| *open).await;
    }
}
