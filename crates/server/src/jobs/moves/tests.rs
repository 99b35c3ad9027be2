use std::collections::HashSet;

use async_trait::async_trait;
use chrono::DateTime;
use stagesub_tenancy::moves::plane::{CopyProgress, Lag, Lock, MockDataPlane, NewTarget, Verdict};
use stagesub_tenancy::moves::registry::MovePage;
use stagesub_tenancy::moves::{
    BeginMoveError, Cleanup, Decision, FencingToken, MoveId, MovePath, MovePrefix, NewMove, Note, Renewed,
    Request, Requested, Requester, TableProgress,
};
use stagesub_tenancy::{DatabaseId, DirectoryError, Located, Placement, PlacementEpoch, TenantId};
use tokio::time::sleep;
use uuid::Uuid;

use super::*;

fn id(number: u128) -> MoveId {
    MoveId::from_uuid(Uuid::from_u128(number))
}

fn node(number: u128) -> NodeId {
    NodeId::from_uuid(Uuid::from_u128(number))
}

/// A move, and who has it until when.
struct Row {
    moved: Move,
    owner: Option<NodeId>,
    until: Instant,
}

/// Moves on paper; each is decided as soon as that is asked.
#[derive(Default)]
struct Paper {
    rows: Mutex<Vec<Row>>,
    away: std::sync::atomic::AtomicBool,
}

impl Paper {
    fn with(moves: u128) -> Arc<Self> {
        let paper = Self::default();
        for number in 1..=moves {
            paper.begin(number);
        }
        Arc::new(paper)
    }

    fn begin(&self, number: u128) {
        let database = |id| DatabaseId::from_uuid(Uuid::from_u128(id));
        let tenant = TenantId::from_uuid(Uuid::from_u128(number));
        let wanted = NewMove {
            id: id(number),
            tenant,
            target: database(2),
            path: MovePath::Stream,
            prefix: MovePrefix::from_bytes([1; 16]),
            by: Requester::Platform,
            pace: None,
        };
        let source = Located { tenant, placement: Placement::Shared(database(1)), epoch: PlacementEpoch(1) };
        let moved = Move::begun(wanted, source, Placement::Shared(database(2)), DateTime::UNIX_EPOCH);
        self.rows.lock().unwrap().push(Row { moved, owner: None, until: Instant::now() });
    }

    /// Changes one's row, if this is who holds it; or anybody, where nobody is named.
    fn change<T>(&self, which: MoveId, by: Option<NodeId>, change: impl FnOnce(&mut Row) -> T) -> Option<T> {
        let mut rows = self.rows.lock().unwrap();
        let row = rows.iter_mut().find(|row| row.moved.id == which).expect("it is there");
        (by.is_none() || row.owner == by).then(|| change(row))
    }

    fn ask(&self, number: u128, request: Request) {
        self.change(id(number), None, |row| row.moved.wanted = Some(request));
    }

    fn states(&self) -> Vec<MoveState> {
        self.rows.lock().unwrap().iter().map(|row| row.moved.state).collect()
    }

    async fn until(&self, states: &[MoveState]) {
        let reached = async {
            while self.states() != states {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_mins(2), reached).await;
        assert!(waited.is_ok(), "{:?}, not {states:?}", self.states());
    }

    fn take(&self, node: NodeId, lease: Duration, kind: Option<MoveKind>) -> Option<Held> {
        let (now, mut rows) = (Instant::now(), self.rows.lock().unwrap());
        let row = rows.iter_mut().find(|row| {
            let fits = kind.is_none_or(|kind| MoveKind::of(row.moved.state) == kind);
            row.moved.ended_at.is_none() && row.until <= now && fits
        })?;
        (row.owner, row.until) = (Some(node), now + lease);
        Some(Held { moved: row.moved.clone(), node, token: FencingToken(1) })
    }
}

type Answer<T> = Result<T, MoveRegistryError>;

#[async_trait]
impl MoveRegistry for Paper {
    async fn begin(&self, _: &NewMove) -> Result<Move, BeginMoveError> {
        unreachable!("the test begins them")
    }

    async fn find(&self, id: MoveId) -> Answer<Option<Move>> {
        Ok(self.change(id, None, |row| row.moved.clone()))
    }

    async fn live_of(&self, _: TenantId) -> Answer<Option<Move>> {
        unreachable!("nobody asks by tenant")
    }

    async fn list(&self, _: Option<MoveId>, _: u32) -> Answer<MovePage> {
        unreachable!("nobody lists them")
    }

    async fn list_of(&self, _: TenantId, _: Option<MoveId>, _: u32) -> Answer<MovePage> {
        unreachable!("nobody lists them")
    }

    async fn count_live(&self) -> Answer<Vec<(MoveState, u64)>> {
        if self.away.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(DirectoryError::Unavailable("away".into()).into());
        }
        let states: HashSet<MoveState> = self.states().into_iter().collect();
        let count = |state| u64::try_from(self.states().iter().filter(|one| **one == state).count()).unwrap();
        Ok(states.into_iter().map(|state| (state, count(state))).collect())
    }

    async fn tables(&self, _: MoveId) -> Answer<Vec<TableProgress>> {
        Ok(Vec::new())
    }

    async fn lag(&self, _: MoveId) -> Answer<Option<Duration>> {
        Ok(None)
    }

    async fn record_lag(&self, _: &Held, _: Duration) -> Answer<bool> {
        Ok(true)
    }

    async fn placement(&self, tenant: TenantId) -> Answer<Option<Located>> {
        Ok(self.change(MoveId::from_uuid(tenant.as_uuid()), None, |row| row.moved.located()))
    }

    async fn request(&self, _: MoveId, _: Request, _: Requester) -> Answer<Requested> {
        unreachable!("the test asks")
    }

    async fn claim(&self, node: NodeId, lease: Duration) -> Answer<Option<Held>> {
        Ok(self.take(node, lease, None))
    }

    async fn claim_kind(&self, node: NodeId, lease: Duration, kind: MoveKind) -> Answer<Option<Held>> {
        Ok(self.take(node, lease, Some(kind)))
    }

    async fn renew(&self, held: &Held, lease: Duration) -> Answer<Renewed> {
        let renewed = self.change(held.moved.id, Some(held.node), |row| {
            row.until = Instant::now() + lease;
            Renewed::Held { wanted: row.moved.wanted }
        });
        Ok(renewed.unwrap_or(Renewed::Lost))
    }

    async fn release(&self, held: &Held, _: Option<String>, pause: Duration) -> Answer<bool> {
        let released = self.change(held.moved.id, Some(held.node), |row| {
            (row.owner, row.until) = (None, Instant::now() + pause);
        });
        Ok(released.is_some())
    }

    async fn advance(&self, held: &Held, to: MoveState, note: &Note) -> Answer<Option<Move>> {
        let stepped = self.change(held.moved.id, Some(held.node), |row| {
            row.moved = row.moved.stepped(to)?;
            row.moved.pause = note.pause.or(row.moved.pause);
            Some(row.moved.clone())
        });
        Ok(stepped.flatten())
    }

    async fn withdraw(&self, _: &Held, _: Request, _: &str) -> Answer<Option<Move>> {
        unreachable!("whatever is asked can be had")
    }

    async fn get_ready(&self, _: &Held) -> Answer<()> {
        Ok(())
    }

    async fn decide(&self, held: &Held) -> Answer<Decision> {
        let decided = self.advance(held, MoveState::Decided, &Note::default()).await?;
        Ok(decided.map_or(Decision::Stale, |moved| Decision::Made(Box::new(moved))))
    }

    async fn give_up(&self, _: &Held, _: &str) -> Answer<Decision> {
        unreachable!("nothing goes wrong")
    }

    async fn record_tables(&self, _: &Held, _: Vec<TableProgress>) -> Answer<bool> {
        Ok(true)
    }

    async fn plan_cleanups(&self, _: &Held, _: Vec<Cleanup>) -> Answer<bool> {
        Ok(true)
    }

    async fn outstanding(&self, _: MoveId) -> Answer<Vec<Cleanup>> {
        Ok(Vec::new())
    }

    async fn cleaned(&self, _: &Held, _: &Cleanup) -> Answer<bool> {
        Ok(true)
    }

    async fn end(&self, held: &Held) -> Answer<Option<Move>> {
        Ok(self.change(held.moved.id, Some(held.node), |row| {
            (row.moved.ended_at, row.owner) = (Some(DateTime::UNIX_EPOCH), None);
            row.moved.clone()
        }))
    }
}

/// Databases that do all at once.
fn quick() -> MockDataPlane {
    let mut plane = MockDataPlane::new();
    plane.expect_copy().returning(|_, _: CopyProgress| Ok(()));
    rest(plane)
}

/// Databases whose copies never come to their end.
fn endless() -> Endless {
    Endless(rest(MockDataPlane::new()))
}

fn rest(mut plane: MockDataPlane) -> MockDataPlane {
    plane.expect_sever().returning(|_, _| Ok(()));
    plane.expect_sweep().returning(|_| Ok(()));
    plane.expect_abandon().returning(|_| ());
    plane.expect_preflight().returning(|_| Ok(Vec::new()));
    plane.expect_plan().returning(|_| Ok(Vec::new()));
    plane.expect_prepare().returning(|_| Ok("alike".to_owned()));
    plane.expect_open().returning(|_| Ok(()));
    plane.expect_resume().returning(|_| Ok(()));
    plane.expect_bearable().returning(|_| Ok(()));
    plane.expect_catch_up().returning(|_| Ok(Lag { round_trip: Duration::from_millis(1) }));
    plane.expect_verify().returning(|_| Ok(Verdict::default()));
    plane.expect_settle().returning(|_| Ok(0));
    plane.expect_lock().returning(|_, _| Ok(Lock::Held { waited: Duration::ZERO }));
    plane.expect_fence().returning(|_| Ok(()));
    plane.expect_applied().returning(|_| Ok(()));
    plane.expect_equal().returning(|_| Ok(Verdict::default()));
    plane.expect_activate().returning(|_| Ok(()));
    plane.expect_unlock().returning(|_| Ok(()));
    plane.expect_secure().returning(|_| Ok(()));
    plane
}

/// As the plane within, but for its copies.
struct Endless(MockDataPlane);

macro_rules! as_within {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl DataPlane for Endless {
            async fn copy(&self, _: &Move, _: CopyProgress) -> Result<(), stagesub_tenancy::moves::PlaneError> {
                std::future::pending().await
            }
            async fn preflight_source(
                &self,
                source: &Located,
                path: MovePath,
                target: Option<NewTarget>,
            ) -> Step<Vec<String>> {
                self.0.preflight_source(source, path, target).await
            }
            $(async fn $name(&self, moved: &Move, $($argument: $type),*) -> $answer {
                self.0.$name(moved, $($argument),*).await
            })*
        }
    };
}

type Step<T> = Result<T, stagesub_tenancy::moves::PlaneError>;

as_within! {
    sever(side: Side) -> Step<()>;
    sweep() -> Step<()>;
    abandon() -> ();
    preflight() -> Step<Vec<String>>;
    plan() -> Step<Vec<Cleanup>>;
    prepare() -> Step<String>;
    open() -> Step<()>;
    resume() -> Step<()>;
    bearable() -> Step<()>;
    catch_up() -> Step<Lag>;
    verify() -> Step<Verdict>;
    settle() -> Step<u64>;
    lock(within: Duration) -> Step<Lock>;
    fence() -> Step<()>;
    applied() -> Step<()>;
    equal() -> Step<Verdict>;
    activate() -> Step<()>;
    unlock() -> Step<()>;
    secure() -> Step<()>;
    reopen() -> Step<()>;
    remove(cleanup: &Cleanup) -> Step<()>;
}

fn movers(
    paper: &Arc<Paper>,
    plane: impl DataPlane + 'static,
    number: u128,
    at_once: u32,
    kept: u32,
) -> Movers {
    Movers {
        registry: Arc::clone(paper) as _,
        plane: Arc::new(plane),
        node: node(number),
        settings: MoveSettings { at_once, kept, ..MoveSettings::default() },
        begun: Arc::default(),
        metrics: Metrics::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn active_moves_take_no_room_of_those_that_work_until_there_are_too_many() {
    use MoveState::{Active, Finished, Prepare};
    let (paper, stop) = (Paper::with(5), CancellationToken::new());
    let movers = movers(&paper, quick(), 1, 1, 2);
    let metrics = movers.metrics.clone();
    metrics.turn_on();
    let job = tokio::spawn(movers.drive(stop.clone()));
    // One at a time: two are kept, the third holds the one place for work.
    paper.until(&[Active, Active, Active, Prepare, Prepare]).await;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(paper.states(), [Active, Active, Active, Prepare, Prepare]);
    // One of those that are kept ends: the third takes its place, and there is room for work again.
    paper.ask(1, Request::Finish);
    paper.until(&[Finished, Active, Active, Active, Prepare]).await;
    // Going back is not counted as work, and is a pause of its own.
    paper.ask(2, Request::Back);
    let back = async {
        while paper.find(id(2)).await.unwrap().is_some_and(|moved| moved.serving() == Side::Target) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), back).await.expect("it goes back");
    let text = metrics.counted();
    assert!(text.contains("stagesub_move_pause_seconds_count 5"), "{text}");
    stop.cancel();
    job.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn told_to_stop_a_node_leaves_its_moves_to_another_at_once() {
    use MoveState::{Active, Copy};
    let paper = Paper::with(2);
    let stop = CancellationToken::new();
    let job = tokio::spawn(movers(&paper, endless(), 1, 2, 1).drive(stop.clone()));
    paper.until(&[Copy, Copy]).await;
    stop.cancel();
    job.await.unwrap();
    for row in paper.rows.lock().unwrap().iter() {
        assert!(row.owner.is_none() && row.until <= Instant::now(), "nobody waits for its lease");
    }
    let stop = CancellationToken::new();
    let job = tokio::spawn(movers(&paper, quick(), 2, 2, 2).drive(stop.clone()));
    paper.until(&[Active, Active]).await;
    stop.cancel();
    job.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_full_of_work_still_takes_over_active_ones() {
    use MoveState::{Active, Copy, Prepare};
    let paper = Paper::with(3);
    paper.change(id(3), None, |row| (row.moved.state, row.moved.epoch) = (Active, PlacementEpoch(1)));
    let stop = CancellationToken::new();
    let job = tokio::spawn(movers(&paper, endless(), 1, 1, 1).drive(stop.clone()));
    paper.until(&[Copy, Prepare, Active]).await;
    let taken = async {
        while paper.change(id(3), Some(node(1)), |_| ()).is_none() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), taken).await.expect("it is taken");
    assert_eq!(paper.states(), [Copy, Prepare, Active]);
    stop.cancel();
    job.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_move_that_is_begun_here_is_taken_at_once_and_by_a_node_without_movers_never() {
    let paper = Paper::with(0);
    let (one, stop) = (movers(&paper, quick(), 1, 1, 1), CancellationToken::new());
    let begun = Arc::clone(&one.begun);
    let job = tokio::spawn(one.drive(stop.clone()));
    sleep(Duration::from_secs(1)).await;
    paper.begin(1);
    let at = Instant::now();
    begun.notify_one();
    while paper.change(id(1), Some(node(1)), |_| ()).is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(at.elapsed(), Duration::ZERO);
    stop.cancel();
    job.await.unwrap();

    let (paper, stop) = (Paper::with(1), CancellationToken::new());
    let job = tokio::spawn(movers(&paper, quick(), 1, 0, 1).drive(stop.clone()));
    sleep(Duration::from_mins(1)).await;
    assert_eq!(paper.states(), [MoveState::Prepare]);
    stop.cancel();
    job.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn moves_are_counted_by_state_while_figures_are_wanted() {
    let (paper, stop) = (Paper::with(2), CancellationToken::new());
    let (census, metrics) = (Arc::new(Census::default()), Metrics::default());
    let job = tokio::spawn(Arc::clone(&census).keep(paper.clone(), metrics.clone(), stop.clone()));
    let prepared = || census.counts().iter().find(|(state, _)| *state == MoveState::Prepare).unwrap().1;
    sleep(CENSUS * 2).await;
    assert_eq!(prepared(), 0, "nobody wants to know");
    metrics.turn_on();
    sleep(CENSUS * 2).await;
    assert_eq!(prepared(), 2);
    assert_eq!(census.counts().len(), MoveState::ALL.len());
    paper.away.store(true, std::sync::atomic::Ordering::SeqCst);
    paper.begin(3);
    sleep(CENSUS * 2).await;
    assert_eq!(prepared(), 2, "what cannot be counted stays as it was");
    stop.cancel();
    job.await.unwrap();
}
