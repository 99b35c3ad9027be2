//! The cutover: its numbered steps, what settles it when one of them failed, and both ways out.

use tokio::time::{Instant, sleep, timeout_at};

use super::steps::differ;
use super::{Drive, Halt, halt};
use crate::moves::failpoint::Point;
use crate::moves::plane::Lock;
use crate::moves::record::Note;
use crate::moves::registry::{Decision, Renewed};
use crate::moves::state::{MovePath, MoveState, Request};
use crate::placement::Located;

/// What the directory says of a cutover.
enum Settled {
    Decided,
    GivenUp,
}

impl Drive<'_> {
    /// Steps 1 to 7. What fails before the decision is rolled back.
    pub(super) async fn cut_over(&mut self) -> Result<(), Halt> {
        match self.attempt().await {
            Ok(since) => self.forward(Some(since)).await,
            Err(Halt::Lost) => Err(Halt::Lost),
            // A mover does not stop in a cutover.
            Err(Halt::Asked | Halt::Stopped) => self.settle_cutover("it was asked for", false).await,
            Err(Halt::Refused(why)) => self.settle_cutover(&why, false).await,
            Err(Halt::Later(why)) => self.settle_cutover(&why, true).await,
        }
    }

    /// Steps 1 to 5; since when the tenant waits.
    async fn attempt(&mut self) -> Result<Instant, Halt> {
        let ready = self.mover.registry.get_ready(&self.held);
        // It would only take longer.
        if let Err(Halt::Later(why)) = self.asked("getting ready for the decision", ready).await {
            tracing::warn!(moved = %self.held.moved.id, why, "the decision is not prepared");
        }
        let since = self.lock().await?;
        self.reach(Point::Locked).await;
        let deadline = since + self.mover.settings.budget;
        let late = |_| {
            Halt::Later(match self.held.moved.path {
                MovePath::Short => {
                    "everything was not copied within the cutover's budget; the stream and triggers copy before it".to_owned()
                }
                MovePath::Stream | MovePath::Triggers => "the cutover was not done within its budget".to_owned(),
            })
        };
        timeout_at(deadline, self.inside()).await.map_err(late)??;
        // A deadline here may cut the answer off. Then the directory is asked, as it is when the answer says nothing.
        let decided = timeout_at(deadline, self.mover.registry.decide(&self.held)).await.map_err(late)?;
        match decided {
            Ok(Decision::Made(moved)) => self.held.moved = *moved,
            Ok(Decision::Lost) => {
                return Err(Halt::Later("the directory was changed, or an abort asked for".to_owned()));
            }
            Ok(Decision::Stale) => return Err(Halt::Lost),
            Err(error) => return Err(Halt::Later(format!("the decision: {}", super::chain(&error)))),
        }
        self.reach(Point::Decided).await;
        Ok(since)
    }

    /// Step 1. Since when the lock that was got was waited for.
    async fn lock(&self) -> Result<Instant, Halt> {
        let settings = &self.mover.settings;
        for tried in 1.. {
            if self.wants(Request::Abort) {
                return Err(Halt::Asked);
            }
            let locked = self.mover.plane.lock(&self.held.moved, settings.lock_wait);
            if let Lock::Held { waited } = self.timed("taking the tenant's lock", locked).await? {
                let now = Instant::now();
                return Ok(now.checked_sub(waited).unwrap_or(now));
            }
            if tried >= settings.lock_tries {
                break;
            }
            sleep(settings.lock_pause).await;
        }
        let why = "the tenant's transactions left no gap for the lock, or change more than is compared right before it";
        Err(Halt::Later(why.to_owned()))
    }

    /// Steps 2 to 4.
    async fn inside(&self) -> Result<(), Halt> {
        let (plane, moved) = (&self.mover.plane, &self.held.moved);
        plane.fence(moved).await.map_err(halt)?;
        self.reach(Point::Fenced).await;
        plane.applied(moved).await.map_err(halt)?;
        self.reach(Point::Applied).await;
        let verdict = plane.equal(moved).await.map_err(halt)?;
        if !verdict.differences.is_empty() {
            return Err(differ(&verdict.differences));
        }
        self.reach(Point::Equal).await;
        Ok(())
    }

    /// A cutover that nobody knows the end of, or that failed, comes to the end that the directory gives it.
    pub(super) async fn settle_cutover(&mut self, why: &str, again: bool) -> Result<(), Halt> {
        match self.settled(why).await? {
            Settled::Decided => {
                // The decision wrote the move with the directory.
                let found = self.mover.registry.find(self.held.moved.id);
                let found = self.asked("reading the move", found).await?.ok_or(Halt::Lost)?;
                if found.state != MoveState::Decided {
                    return Err(Halt::Lost);
                }
                self.held.moved = found;
                self.forward(None).await
            }
            Settled::GivenUp => self.roll_back(why, again).await,
        }
    }

    /// Whether it was decided. While it is not, it is given up, which nothing but the directory can do: a decision whose
    /// answer is still on its way then hits no row, or is first, and is found.
    async fn settled(&mut self, why: &str) -> Result<Settled, Halt> {
        loop {
            let found = match self.located().await {
                Ok(found) => found,
                // The tenant waits. The lease ends this.
                Err(Halt::Later(error)) => {
                    tracing::warn!(moved = %self.held.moved.id, error, "the directory is asked again");
                    self.pause().await;
                    continue;
                }
                Err(halt) => return Err(halt),
            };
            let moved = &self.held.moved;
            if found == Some(moved.decided()) {
                return Ok(Settled::Decided);
            }
            if found == Some(moved.given_up()) {
                self.reach(Point::GivenUp).await;
                return Ok(Settled::GivenUp);
            }
            if found != Some(moved.undecided()) {
                return Err(self.inconsistent(found));
            }
            let given_up = self.mover.registry.give_up(&self.held, why);
            match self.asked("giving the cutover up", given_up).await {
                // Read once more: what it says is what counts.
                Ok(Decision::Made(moved)) => self.held.moved = *moved,
                Ok(Decision::Lost) => self.pause().await,
                Ok(Decision::Stale) => {
                    self.still_held().await?;
                    self.pause().await;
                }
                Err(Halt::Later(error)) => {
                    tracing::warn!(moved = %self.held.moved.id, error, "the cutover is given up once more");
                    self.pause().await;
                }
                Err(halt) => return Err(halt),
            }
        }
    }

    /// The row does not stand where this mover knows it to. If it is this mover's still, somebody asks for something else,
    /// or a decision that was cut off has come through meanwhile, and the directory says so; else it is another's.
    pub(super) async fn still_held(&self) -> Result<(), Halt> {
        let renewed = self.mover.registry.renew(&self.held, self.mover.settings.lease);
        match self.asked("asking for the lease", renewed).await? {
            Renewed::Held { .. } => Ok(()),
            Renewed::Lost => Err(Halt::Lost),
        }
    }

    /// Out of a cutover that was given up: the serving side is open at its new epoch before anything else.
    async fn roll_back(&mut self, why: &str, again: bool) -> Result<(), Halt> {
        let plane = &self.mover.plane;
        self.insist("opening the tenant again", || plane.reopen(&self.held.moved)).await?;
        self.reach(Point::Reopened).await;
        self.timed("letting the lock go", plane.unlock(&self.held.moved)).await?;
        let moved = &self.held.moved;
        let to = if moved.state == MoveState::Back {
            MoveState::Active
        } else if again && !self.wants(Request::Abort) && moved.attempts < self.mover.settings.attempts {
            MoveState::again(moved.path)
        } else {
            MoveState::Aborted
        };
        self.advance(to, Note::error(why)).await
    }

    /// Steps 6 and 7, after the decision: the other side is opened, whatever happens.
    pub(super) async fn forward(&mut self, since: Option<Instant>) -> Result<(), Halt> {
        let plane = &self.mover.plane;
        self.insist("opening the tenant where it is now", || plane.activate(&self.held.moved)).await?;
        self.reach(Point::Activated).await;
        self.timed("letting the lock go", plane.unlock(&self.held.moved)).await?;
        let pause = since.map(|since| since.elapsed());
        self.reach(Point::Unlocked).await;
        self.timed("waiting for what was opened to be durable", plane.secure(&self.held.moved)).await?;
        self.advance(MoveState::Active, Note { pause, ..Note::default() }).await
    }

    /// Where the tenant is, asked of the registry.
    pub(super) async fn located(&self) -> Result<Option<Located>, Halt> {
        let tenant = self.held.moved.tenant;
        self.asked("reading the directory", self.mover.registry.placement(tenant)).await
    }

    /// Nobody knows what to do, and nobody guesses: an administrator has to look.
    pub(super) fn inconsistent(&self, found: Option<Located>) -> Halt {
        let moved = &self.held.moved;
        let found = found.map_or_else(
            || "nothing".to_owned(),
            |found| format!("{} at epoch {}", found.placement.database(), found.epoch),
        );
        Halt::Later(format!(
            "the directory has {found}, which no step of the move leaves in state {}",
            moved.state
        ))
    }
}
