//! What comes before a cutover, between two, and after the last.

use tokio::time::sleep;

use super::{Drive, Halt, halt};
use crate::moves::failpoint::Point;
use crate::moves::plane::{CopyProgress, Lag};
use crate::moves::record::{Note, Object};
use crate::moves::state::{MovePath, MoveState, Request};

impl Drive<'_> {
    /// Looks what stands in the way, writes down what will be made, and makes the target ready.
    pub(super) async fn prepare(&mut self) -> Result<(), Halt> {
        let plane = &self.mover.plane;
        let moved = &self.held.moved;
        let fingerprint = self
            .unless_aborted(async {
                // What is left of others keeps nobody from moving, unless it is an obstacle; then it is told as one.
                if let Err(Halt::Later(why) | Halt::Refused(why)) =
                    self.timed("removing what older moves left", plane.sweep(moved)).await
                {
                    tracing::warn!(moved = %moved.id, why, "what older moves left may be there still");
                }
                let found = self.timed("looking for obstacles", plane.preflight(moved)).await;
                // A database that cannot be reached is one. Nothing is made yet, and who asked for the move is told now
                // and not whenever it comes back.
                let obstacles = found.map_err(Halt::for_good)?;
                if !obstacles.is_empty() {
                    return Err(Halt::Refused(obstacles.join("; ")));
                }
                self.write_plan().await?;
                self.reach(Point::Planned).await;
                plane.prepare(moved).await.map_err(halt)
            })
            .await?;
        let to = if moved.path == MovePath::Short { MoveState::Fence } else { MoveState::Slot };
        self.advance(to, Note { fingerprint: Some(fingerprint), ..Note::default() }).await
    }

    /// Writes down what will be made. Nothing is made before that.
    async fn write_plan(&self) -> Result<(), Halt> {
        let cleanups = self.timed("planning", self.mover.plane.plan(&self.held.moved)).await?;
        let planned = self.mover.registry.plan_cleanups(&self.held, cleanups);
        if self.asked("planning", planned).await? { Ok(()) } else { Err(Halt::Lost) }
    }

    /// Makes the streams and the snapshot.
    pub(super) async fn open(&mut self) -> Result<(), Halt> {
        self.unless_aborted(async {
            // Once more, right before: who has lost the move makes nothing that nobody would remove.
            self.write_plan().await?;
            self.mover.plane.open(&self.held.moved).await.map_err(halt)
        })
        .await?;
        self.advance(MoveState::Copy, Note::default()).await
    }

    /// Copies, and writes down how far it is.
    pub(super) async fn copy(&mut self) -> Result<(), Halt> {
        let (progress, mut told) = CopyProgress::new();
        let copy = async { self.mover.plane.copy(&self.held.moved, progress).await.map_err(halt) };
        let record = async {
            loop {
                sleep(self.mover.settings.rest).await;
                if told.has_changed().unwrap_or(false) {
                    let tables = told.borrow_and_update().clone();
                    match self.record(tables).await {
                        // The copy does not begin again for that.
                        Err(Halt::Later(why)) => {
                            tracing::warn!(moved = %self.held.moved.id, why, "not written down");
                        }
                        recorded => recorded?,
                    }
                }
            }
        };
        self.unless_aborted(async {
            tokio::select! {
                copied = copy => copied,
                failed = record => failed,
            }
        })
        .await?;
        let tables = told.borrow().clone();
        self.record(tables).await?;
        self.advance(MoveState::CatchUp, Note::default()).await
    }

    async fn record(&self, tables: Vec<crate::moves::record::TableProgress>) -> Result<(), Halt> {
        let recorded = self.mover.registry.record_tables(&self.held, tables);
        if self.asked("writing down how far the copy is", recorded).await? { Ok(()) } else { Err(Halt::Lost) }
    }

    /// Streams until the target is close behind.
    pub(super) async fn catch_up(&mut self) -> Result<(), Halt> {
        self.unless_aborted(async {
            self.timed("resuming the streams", self.mover.plane.resume(&self.held.moved)).await?;
            self.close_behind().await
        })
        .await?;
        self.advance(MoveState::Verify, Note::default()).await
    }

    /// Compares everything, then what changed since until that is little.
    pub(super) async fn verify(&mut self) -> Result<(), Halt> {
        self.unless_aborted(async {
            self.timed("resuming the streams", self.mover.plane.resume(&self.held.moved)).await?;
            self.compare().await?;
            self.close_enough().await
        })
        .await?;
        self.advance(MoveState::Fence, Note::default()).await
    }

    /// All rows, where they were not compared since the stream began.
    async fn compare(&self) -> Result<(), Halt> {
        let moved = &self.held.moved;
        let verdict = self.mover.plane.verify(moved).await.map_err(halt)?;
        tracing::info!(moved = %moved.id, rows = verdict.rows, "both sides were compared");
        if verdict.differences.is_empty() { Ok(()) } else { Err(differ(&verdict.differences)) }
    }

    /// Little is left to be compared, and the stream is close behind: live round trips, since a lag that was measured
    /// says nothing of a stream that is not even connected.
    async fn close_enough(&self) -> Result<(), Halt> {
        while self.timed("settling", self.mover.plane.settle(&self.held.moved)).await?
            > self.mover.settings.dirty
        {
            self.pause().await;
        }
        self.close_behind().await
    }

    async fn close_behind(&self) -> Result<(), Halt> {
        let settings = &self.mover.settings;
        let mut soon = 0;
        while soon < settings.round_trips {
            let lag = self.timed("a round trip", self.mover.plane.catch_up(&self.held.moved)).await?;
            if self.grip.is_due(settings.rest) {
                self.note_lag(lag).await?;
            }
            if lag.round_trip <= settings.round_trip {
                soon += 1;
            } else {
                soon = 0;
                self.pause().await;
            }
        }
        Ok(())
    }

    /// Writes down how far behind the other side is, for people to look at: nothing depends on it.
    async fn note_lag(&self, lag: Lag) -> Result<(), Halt> {
        let noted = self.mover.registry.record_lag(&self.held, lag.round_trip);
        match self.asked("writing down how far behind the other side is", noted).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Halt::Lost),
            Err(Halt::Later(why)) => {
                tracing::debug!(moved = %self.held.moved.id, why, "not written down");
                Ok(())
            }
            Err(halt) => Err(halt),
        }
    }

    /// The tenant is served at the other side, and the one before follows, until somebody says where it is to stay.
    pub(super) async fn accompany(&mut self) -> Result<(), Halt> {
        // Nothing follows on the short path.
        if self.held.moved.path == MovePath::Short {
            return self.advance(MoveState::Finished, Note::default()).await;
        }
        loop {
            // What the lease's renewal told may have been answered since.
            let found = self.mover.registry.find(self.held.moved.id);
            let found = self.asked("reading the move", found).await?.ok_or(Halt::Lost)?;
            // Before the streams are looked at: one that is broken for good keeps nobody from staying where it is.
            if found.wanted == Some(Request::Finish) {
                return self.advance(MoveState::Finished, Note::default()).await;
            }
            // A stream that stands still is found here, and not when it is needed.
            let resumed = self.timed("resuming the streams", self.mover.plane.resume(&self.held.moved)).await;
            if found.wanted == Some(Request::Back) {
                let ready = match resumed {
                    Ok(()) => self.close_enough_back_or(Request::Finish).await,
                    barred => barred,
                };
                match ready {
                    Ok(()) => match self.advance(MoveState::Back, Note::default()).await {
                        // Something else is asked for by now, or it is another's, or the directory was changed.
                        Err(Halt::Lost) => {
                            self.note_state();
                            self.still_held().await?;
                            let found = self.mover.registry.find(self.held.moved.id);
                            let found = self.asked("reading the move", found).await?.ok_or(Halt::Lost)?;
                            if found.wanted == Some(Request::Back) {
                                return Err(Halt::Lost);
                            }
                        }
                        stepped => return stepped,
                    },
                    Err(Halt::Asked) => self.cut_short = true,
                    Err(Halt::Refused(why)) => self.stay(&why).await?,
                    Err(halt) => return Err(halt),
                }
                continue;
            }
            resumed?;
            if self.grip.is_due(self.mover.settings.look) {
                let swapped = self.swapped()?;
                let lag =
                    swapped.timed("a round trip", self.mover.plane.catch_up(&swapped.held.moved)).await?;
                self.note_lag(lag).await?;
            }
            tokio::select! {
                changed = self.wanted.changed() => changed.map_err(|_| Halt::Lost)?,
                () = sleep(self.mover.settings.rest) => {}
            }
        }
    }

    /// As [`Drive::close_enough_back`], until something else is asked for.
    async fn close_enough_back_or(&self, other: Request) -> Result<(), Halt> {
        let mut wanted = self.wanted.clone();
        tokio::select! {
            ready = self.close_enough_back() => ready,
            asked = wanted.wait_for(|wanted| *wanted == Some(other)) => match asked {
                Ok(_) => Err(Halt::Asked),
                // Nobody renews the lease any more.
                Err(_) => Err(Halt::Lost),
            },
        }
    }

    /// As before the first cutover, with the sides as they will be.
    async fn close_enough_back(&self) -> Result<(), Halt> {
        let swapped = self.swapped()?;
        swapped.compare().await?;
        swapped.close_enough().await
    }

    /// The way back is barred for good: whoever asked for it is told, and nobody compares everything for it again and
    /// again.
    async fn stay(&mut self, why: &str) -> Result<(), Halt> {
        tracing::warn!(moved = %self.held.moved.id, why = without_keys(why), "a way back is barred");
        let withdrawn = self.mover.registry.withdraw(&self.held, Request::Back, why);
        match self.asked("saying that the tenant stays", withdrawn).await? {
            Some(moved) => {
                self.held.moved = moved;
                self.note_state();
                Ok(())
            }
            // It is another's, or something else is asked for by now.
            None => self.still_held().await,
        }
    }

    /// The move as it would be on its way back.
    fn swapped(&self) -> Result<Drive<'_>, Halt> {
        let Some(swapped) = self.held.moved.stepped(MoveState::Back) else {
            return Err(Halt::Refused("the tenant cannot go back from here".to_owned()));
        };
        let held = crate::moves::record::Held { moved: swapped, ..self.held.clone() };
        let (wanted, away) = (self.wanted.clone(), self.away.clone());
        Ok(Drive { mover: self.mover, held, wanted, grip: self.grip, away, cut_short: false })
    }

    /// Stays where it is. Of a cutover that is on, the directory is told first.
    pub(super) async fn abort(&mut self, why: &str) -> Result<(), Halt> {
        if self.state() == MoveState::Fence {
            return self.settle_cutover(why, false).await;
        }
        self.advance(MoveState::Aborted, Note::error(why)).await
    }

    /// Removes what the move had made, all but the rows that the tenant is served from. What is at a side that is out of
    /// reach waits for it, and the rest does not.
    pub(super) async fn tidy(&mut self) -> Result<(), Halt> {
        if self.cut_short {
            // Else something would be there after it was looked for. A side that is out of reach is noted as such.
            match self.sever().await {
                Ok(()) => self.reach(Point::Severed).await,
                Err(Halt::Later(why)) => {
                    tracing::warn!(moved = %self.held.moved.id, why, "what it made there stays");
                }
                Err(halt) => return Err(halt),
            }
            self.cut_short = false;
        }
        let serving = self.held.moved.located().placement.database();
        let outstanding = self.mover.registry.outstanding(self.held.moved.id);
        let mut failed = None;
        for cleanup in self.asked("reading what is left", outstanding).await? {
            if let Some(why) = self.held.moved.side_at(cleanup.database).and_then(|side| self.away(side)) {
                failed.get_or_insert_with(|| Halt::Later(why.clone()));
                continue;
            }
            if !(cleanup.object == Object::Rows && cleanup.database == serving) {
                let removed = self.mover.plane.remove(&self.held.moved, &cleanup).await;
                if let Err(error) = removed {
                    failed.get_or_insert(halt(error));
                    continue;
                }
            }
            self.reach(Point::Removed).await;
            let cleaned = self.mover.registry.cleaned(&self.held, &cleanup);
            if !self.asked("writing down what was removed", cleaned).await? {
                return Err(Halt::Lost);
            }
        }
        if let Some(failed) = failed {
            return Err(failed);
        }
        let ended = self.mover.registry.end(&self.held);
        self.held.moved = self.asked("ending the move", ended).await?.ok_or(Halt::Lost)?;
        Ok(())
    }
}

/// How it begins when both sides differ.
const DIFFER: &str = "both sides differ";

/// Both sides differ. Rows are named by their keys.
pub(super) fn differ(differences: &[String]) -> Halt {
    Halt::Refused(format!("{DIFFER}: {}", differences.join("; ")))
}

/// Why a move does not go on, for logs: a key may be somebody's address. The move itself has the whole.
pub(super) fn without_keys(why: &str) -> &str {
    if why.starts_with(DIFFER) { DIFFER } else { why }
}
