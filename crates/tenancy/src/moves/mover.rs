//! Drives one move that it holds, and recovers what another left.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::failpoint::{Failpoints, Point};
use super::plane::{DataPlane, PlaneError};
use super::record::{Held, Move, Note};
use super::registry::{MoveKind, MoveRegistry, MoveRegistryError, Renewed};
use super::state::{MoveState, Request};
use crate::nodes::NodeId;

mod cutover;
mod recovery;
mod steps;

/// How often a step is tried that the tenant waits for.
const TRIES: u32 = 3;

/// How patient a mover is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoverSettings {
    /// How long a move is held without saying so again. A move whose owner died waits for so long.
    pub lease: Duration,
    /// How long a mover that does not know whether it still holds its move waits to be told, and does nothing. In a
    /// cutover it waits for nothing: it closes its sessions at the end of the lease.
    pub grace: Duration,
    /// From the fence to the decision: what takes longer is given up.
    pub budget: Duration,
    /// How long the tenant's lock is waited for, while its writers queue.
    pub lock_wait: Duration,
    /// How often it is waited for, before the cutover is given up.
    pub lock_tries: u32,
    /// Pause in between, in which the writers go on.
    pub lock_pause: Duration,
    /// How soon a word has to be through the stream before a cutover begins.
    pub round_trip: Duration,
    /// How often in a row.
    pub round_trips: u32,
    /// Most rows that are left to be compared when a cutover begins. The engine compares them once more right before the
    /// lock, and has a bound of its own there.
    pub dirty: u64,
    /// How many cutovers to the target are given up before the move is.
    pub attempts: u32,
    /// Pause before something is asked or looked at again.
    pub pause: Duration,
    /// How long a step that failed leaves the move to others, and how often how far a copy is gets written down.
    pub rest: Duration,
    /// Longest time for one step on a database outside the budget, and for one question to the registry.
    pub step: Duration,
    /// How often it is looked how far behind the other side of an active move is.
    pub look: Duration,
    /// How long older sessions are waited for to end while the tenant waits.
    pub hurry: Duration,
}

impl Default for MoverSettings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(3),
            grace: Duration::from_mins(1),
            budget: Duration::from_millis(500),
            lock_wait: Duration::from_millis(50),
            lock_tries: 20,
            lock_pause: Duration::from_millis(200),
            round_trip: Duration::from_millis(50),
            round_trips: 3,
            dirty: 40,
            attempts: 5,
            pause: Duration::from_millis(100),
            rest: Duration::from_secs(1),
            step: Duration::from_secs(10),
            look: Duration::from_secs(10),
            hurry: Duration::from_secs(2),
        }
    }
}

/// How driving a move ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driven {
    /// Nothing of it is left to do.
    Ended(Box<Move>),
    /// It could not go on now, and was given out of hand; why, in words.
    Released(String),
    /// It is another's, or will be. Nothing was written after that was known.
    Lost,
    /// The mover was told to stop; the move was given out of hand, for another to go on at once.
    Stopped,
}

/// Hears what becomes of a mover's move, as the registry has it. Called between steps, so it is to return at once.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
pub trait MoveObserver: Send + Sync {
    /// The move stands like this: when a mover takes it up, and after each step.
    fn stands(&self, moved: &Move);
}

/// Why a move does not go on.
#[derive(Debug)]
pub(super) enum Halt {
    /// It is another's.
    Lost,
    /// Not now.
    Later(String),
    /// Never.
    Refused(String),
    /// Somebody wants it aborted.
    Asked,
    /// The mover is to stop.
    Stopped,
}

impl Halt {
    /// What may pass, where it is not waited for.
    fn for_good(self) -> Self {
        match self {
            Self::Later(why) => Self::Refused(why),
            halt => halt,
        }
    }
}

/// Drives moves, one at a time; several may work side by side, on one node and on many.
pub struct Mover {
    pub(super) registry: Arc<dyn MoveRegistry>,
    plane: Arc<dyn DataPlane>,
    pub(super) node: NodeId,
    settings: MoverSettings,
    failpoints: Option<Arc<dyn Failpoints>>,
    observer: Option<Arc<dyn MoveObserver>>,
    stop: Option<watch::Receiver<bool>>,
}

impl std::fmt::Debug for Mover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mover").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Mover {
    /// A mover of this node.
    #[must_use]
    pub fn new(
        registry: Arc<dyn MoveRegistry>,
        plane: Arc<dyn DataPlane>,
        node: NodeId,
        settings: MoverSettings,
    ) -> Self {
        Self { registry, plane, node, settings, failpoints: None, observer: None, stop: None }
    }

    /// The same, which tells `observer` what becomes of its move.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn MoveObserver>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// The same, which stops soon after `stop` says so: at once, or when a cutover that is on has come to its end. It
    /// closes its sessions and gives the move out of hand, so that nobody waits for its lease.
    #[must_use]
    pub fn with_stop(mut self, stop: watch::Receiver<bool>) -> Self {
        self.stop = Some(stop);
        self
    }

    /// The same, which says at each point that it is there: for tests, which stop it.
    #[must_use]
    pub fn with_failpoints(mut self, failpoints: Arc<dyn Failpoints>) -> Self {
        self.failpoints = Some(failpoints);
        self
    }

    /// Claims a move and drives it. `None`: there is none to claim. It returns when the move has ended, which for one
    /// that is active is when somebody says so: it holds the move, and with it the streams, for so long.
    ///
    /// # Errors
    /// [`MoveRegistryError`] of the claim. What goes wrong later is [`Driven::Released`].
    ///
    /// # Cancel safety
    /// May be dropped at any await, like a process that ends there: whoever claims the move next recovers it.
    pub async fn step(&self) -> Result<Option<Driven>, MoveRegistryError> {
        let asked = Instant::now();
        let claimed = self.registry.claim(self.node, self.settings.lease).await?;
        let Some(held) = claimed else { return Ok(None) };
        Ok(Some(self.drive(held, asked).await))
    }

    /// As [`Mover::step`], of moves of one kind.
    ///
    /// # Errors
    /// As [`Mover::step`].
    ///
    /// # Cancel safety
    /// As [`Mover::step`].
    pub async fn step_kind(&self, kind: MoveKind) -> Result<Option<Driven>, MoveRegistryError> {
        let asked = Instant::now();
        let claimed = self.registry.claim_kind(self.node, self.settings.lease, kind).await?;
        let Some(held) = claimed else { return Ok(None) };
        Ok(Some(self.drive(held, asked).await))
    }

    /// Drives a move that was claimed by a call that began at `asked`.
    ///
    /// # Cancel safety
    /// As [`Mover::step`].
    pub async fn drive(&self, held: Held, asked: Instant) -> Driven {
        let (tell, wanted) = watch::channel(held.moved.wanted);
        let grip = Grip::default();
        let mut drive = Drive {
            mover: self,
            held: held.clone(),
            wanted,
            grip: &grip,
            away: (None, None),
            cut_short: false,
        };
        let halted = {
            let mut work = pin!(drive.work());
            // Not polled while nobody knows whether the move is held. Whoever finds out is polled before.
            let work = poll_fn(|cx| if grip.is_sure() { work.as_mut().poll(cx) } else { Poll::Pending });
            tokio::select! {
                biased;
                () = self.hold(&held, asked, &tell, &grip) => Err(Halt::Lost),
                worked = work => worked,
                () = self.stopped(&grip) => Err(Halt::Stopped),
            }
        };
        let held = drive.held;
        if timeout(self.settings.step, self.plane.abandon(&held.moved)).await.is_err() {
            tracing::warn!(moved = %held.moved.id, "sessions of a move did not close in time");
        }
        let Err(halt) = halted else { return Driven::Ended(Box::new(held.moved)) };
        match halt {
            Halt::Lost => Driven::Lost,
            Halt::Later(why) | Halt::Refused(why) => self.give_out_of_hand(&held, why).await,
            Halt::Asked => self.give_out_of_hand(&held, "an abort was asked for too late".to_owned()).await,
            Halt::Stopped => {
                tracing::info!(moved = %held.moved.id, state = %held.moved.state, "a move is left to other nodes");
                self.release(&held, None, Duration::ZERO, Driven::Stopped).await
            }
        }
    }

    async fn give_out_of_hand(&self, held: &Held, why: String) -> Driven {
        let told = steps::without_keys(&why);
        tracing::warn!(moved = %held.moved.id, state = %held.moved.state, why = told, "a move does not go on now");
        self.release(held, Some(why.clone()), self.settings.rest, Driven::Released(why)).await
    }

    async fn release(&self, held: &Held, why: Option<String>, pause: Duration, released: Driven) -> Driven {
        match timeout(self.settings.step, self.registry.release(held, why, pause)).await {
            Ok(Ok(false)) => Driven::Lost,
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a move's lease runs out by itself");
                released
            }
            Ok(Ok(true)) | Err(_) => released,
        }
    }

    /// Returns when the mover is to stop and nobody waits for the tenant. Polled after each step of the work, so that
    /// it sees a cutover's end before anything else is begun.
    async fn stopped(&self, grip: &Grip) {
        let Some(stop) = &self.stop else { return pending().await };
        // Whoever could tell it to stop may be gone; then it goes on.
        if stop.clone().wait_for(|stop| *stop).await.is_err() {
            return pending().await;
        }
        poll_fn(|_| if grip.is_cutover.load(Ordering::Relaxed) { Poll::Pending } else { Poll::Ready(()) })
            .await;
    }

    /// Says again and again that the move is held, and returns when it is not, or when nobody can tell. The last lease
    /// that was surely granted is over by this node's own clock: from then on nothing is done, until it is known.
    async fn hold(&self, held: &Held, asked: Instant, tell: &watch::Sender<Option<Request>>, grip: &Grip) {
        let lease = self.settings.lease;
        let mut until = asked + lease;
        let mut next = asked + lease / 3;
        loop {
            sleep_until(next).await;
            let asked = Instant::now();
            if asked >= until {
                grip.sure.store(false, Ordering::Relaxed);
                if grip.is_cutover.load(Ordering::Relaxed) || asked >= until + self.settings.grace {
                    return;
                }
            }
            // A question that was asked in time is not waited for beyond it.
            let patience = if asked < until { until } else { asked + lease };
            match timeout_at(patience, self.registry.renew(held, lease)).await {
                Ok(Ok(Renewed::Held { wanted })) => {
                    until = asked + lease;
                    next = asked + lease / 3;
                    grip.sure.store(Instant::now() < until, Ordering::Relaxed);
                    tell.send_if_modified(|known| std::mem::replace(known, wanted) != wanted);
                }
                Ok(Ok(Renewed::Lost)) => return,
                Ok(Err(error)) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "a move's lease was not renewed"
                    );
                    let soon = Instant::now() + self.settings.pause;
                    next = if Instant::now() < until { soon.min(until) } else { soon };
                }
                Err(_) => next = Instant::now(),
            }
        }
    }
}

/// Whether a mover knows that it holds its move, and whether the tenant waits for it.
#[derive(Debug)]
pub(super) struct Grip {
    sure: AtomicBool,
    is_cutover: AtomicBool,
    /// When it was last written down how far behind the other side is.
    noted: Mutex<Option<Instant>>,
}

impl Default for Grip {
    fn default() -> Self {
        Self { sure: AtomicBool::new(true), is_cutover: AtomicBool::new(false), noted: Mutex::new(None) }
    }
}

impl Grip {
    fn is_sure(&self) -> bool {
        self.sure.load(Ordering::Relaxed)
    }

    /// Whether so much time has passed since this was last true.
    fn is_due(&self, every: Duration) -> bool {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = noted.is_none_or(|noted| noted.elapsed() >= every);
        if is_due {
            *noted = Some(Instant::now());
        }
        is_due
    }
}

/// One move, in one mover's hands.
pub(super) struct Drive<'m> {
    pub(super) mover: &'m Mover,
    pub(super) held: Held,
    /// What somebody asks of it, as of the last time the lease was renewed.
    pub(super) wanted: watch::Receiver<Option<Request>>,
    pub(super) grip: &'m Grip,
    /// Why the older sessions at the source, and at the target, may be there still: nothing is done there.
    pub(super) away: (Option<String>, Option<String>),
    /// A step was given up in the middle: what it had sent may be done yet.
    pub(super) cut_short: bool,
}

impl Drive<'_> {
    /// From wherever it stands to its end.
    pub(super) async fn work(&mut self) -> Result<(), Halt> {
        self.note_state();
        self.reach(Point::Claimed).await;
        self.recover().await?;
        while !self.state().is_over() {
            let stepped = match self.state() {
                MoveState::Prepare => self.prepare().await,
                MoveState::Slot => self.open().await,
                MoveState::Copy => self.copy().await,
                MoveState::CatchUp => self.catch_up().await,
                MoveState::Verify => self.verify().await,
                MoveState::Fence | MoveState::Back => self.cut_over().await,
                MoveState::Decided => self.forward(None).await,
                MoveState::Active => self.accompany().await,
                MoveState::Finished | MoveState::Aborted => Ok(()),
            };
            match stepped {
                Err(Halt::Asked) => {
                    self.cut_short = true;
                    self.abort("it was asked for").await?;
                }
                Err(Halt::Refused(why)) if self.state().may_abort() => {
                    self.cut_short = true;
                    self.abort(&why).await?;
                }
                stepped => stepped?,
            }
        }
        self.tidy().await
    }

    fn state(&self) -> MoveState {
        self.held.moved.state
    }

    /// Whether the tenant may be locked, or open nowhere; and what an observer is told.
    fn note_state(&self) {
        let is_cutover = self.state().is_cutover() || self.state() == MoveState::Decided;
        self.grip.is_cutover.store(is_cutover, Ordering::Relaxed);
        if let Some(observer) = &self.mover.observer {
            observer.stands(&self.held.moved);
        }
    }

    async fn reach(&self, point: Point) {
        if let Some(failpoints) = &self.mover.failpoints {
            failpoints.reached(point).await;
        }
    }

    /// Whether this is asked for, as far as is known here. The registry knows better, and is asked by every step that it
    /// matters to.
    fn wants(&self, request: Request) -> bool {
        *self.wanted.borrow() == Some(request) || self.held.moved.wanted == Some(request)
    }

    /// Makes a step.
    async fn advance(&mut self, to: MoveState, note: Note) -> Result<(), Halt> {
        if to.is_cutover() {
            // From the question on: the registry may have it before the answer is here.
            self.grip.is_cutover.store(true, Ordering::Relaxed);
        }
        let stepped = self.mover.registry.advance(&self.held, to, &note);
        // None: another has it, or it is not where this mover believes it to be. Whoever claims it will see.
        self.held.moved = self.asked("a step of the move", stepped).await?.ok_or(Halt::Lost)?;
        self.note_state();
        self.reach(Point::State(to)).await;
        Ok(())
    }

    /// A question to the registry, with a bound.
    async fn asked<T>(
        &self,
        doing: &'static str,
        question: impl Future<Output = Result<T, MoveRegistryError>> + Send,
    ) -> Result<T, Halt> {
        match timeout(self.mover.settings.step, question).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Halt::Later(format!("{doing}: {}", chain(&error)))),
            Err(_) => Err(Halt::Later(format!("{doing}: the registry did not answer in time"))),
        }
    }

    /// A step on a database, with a bound.
    async fn timed<T>(
        &self,
        doing: &'static str,
        step: impl Future<Output = Result<T, PlaneError>> + Send,
    ) -> Result<T, Halt> {
        match timeout(self.mover.settings.step, step).await {
            Ok(done) => done.map_err(halt),
            Err(_) => Err(Halt::Later(format!("{doing}: a database did not answer in time"))),
        }
    }

    /// A step that the tenant waits for: tried again at once, and not by whoever claims the move next.
    async fn insist<T, F: Future<Output = Result<T, PlaneError>> + Send>(
        &self,
        doing: &'static str,
        step: impl Fn() -> F,
    ) -> Result<T, Halt> {
        for _ in 1..TRIES {
            match self.timed(doing, step()).await {
                Err(Halt::Later(why)) => {
                    tracing::warn!(moved = %self.held.moved.id, why, "it is tried again");
                    self.pause().await;
                }
                done => return done,
            }
        }
        self.timed(doing, step()).await
    }

    /// Something that takes as long as it takes, and stops when an abort is asked for.
    async fn unless_aborted<T>(&self, work: impl Future<Output = Result<T, Halt>> + Send) -> Result<T, Halt> {
        if self.wants(Request::Abort) {
            return Err(Halt::Asked);
        }
        let mut wanted = self.wanted.clone();
        tokio::select! {
            done = work => done,
            asked = wanted.wait_for(|wanted| *wanted == Some(Request::Abort)) => match asked {
                Ok(_) => Err(Halt::Asked),
                // Nobody renews the lease any more.
                Err(_) => Err(Halt::Lost),
            },
        }
    }

    async fn pause(&self) {
        sleep(self.mover.settings.pause).await;
    }
}

fn halt(error: PlaneError) -> Halt {
    match error {
        PlaneError::Refused(why) => Halt::Refused(why),
        error @ PlaneError::Unavailable { .. } => Halt::Later(chain(&error)),
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
