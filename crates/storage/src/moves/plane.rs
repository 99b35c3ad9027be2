//! The engine behind the state machine: [`DataPlane`] on the two databases of a move, out of the parts beside it.
//!
//! ```text
//! PgDataPlane    one of a process; keeps what it works with of each move it drives          plane::running
//!   ends         both databases: how the mover reaches them, which tables they have         plane::ends
//!   opening      publications, slots, progress, the copy                                    plane::opening
//!   flow         one stream and whoever applies it, in the background                       plane::flow
//!   logs         the same where nothing is decoded: triggers instead of slots         plane::logs
//!   comparing    everything once, then what changed since                                   plane::comparing
//!   burden       how much a server keeps for a move, and what is too much                  plane::burden
//!   stamp        whether the tables are as they were, asked under the lock
//!   cutover      lock, fence, applied, equal; activate, unlock; reopen                      plane::cutover
//!   tidying      ending older sessions; removing what was made                              plane::tidying
//!   error        what may succeed later, and what never will
//! ```
//!
//! Everything that is kept here of a move is a saving: it goes with the process, or with [`DataPlane::abandon`], and is
//! made again from the move's row, the catalogue, the slots and `app.move_progress`.
//!
//! # Invariants
//!
//! - A session is taken out of what is kept before it is used and put back when its answer has come. So a future that
//!   is dropped leaves no session behind whose next answer would be another's.
//! - Which rows are still to be compared is forgotten whenever an answer is missing; then everything is compared again.
//! - The stream from the side that serves carries the tenant's writes; on the other one there must be none, and one
//!   ends the move. The two change places before the other side is opened.

mod burden;
mod comparing;
mod cutover;
mod ends;
mod error;
mod flow;
mod logs;
mod opening;
mod running;
mod stamp;
mod tidying;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use stagesub_tenancy::Located;
use stagesub_tenancy::moves::plane::{CopyProgress, Lag, Lock, Verdict};
use stagesub_tenancy::moves::{
    Cleanup, DataPlane, Move, MoveId, MovePath, MoveRegistry, NewTarget, PlaneError, Side,
};

use crate::logins::DatabaseLogins;
use crate::moves::copy::{CopySettings, SpillRoom};
use crate::moves::pace::Pace;
use crate::moves::plan::Contents;
pub use burden::Burden;
use running::Running;

/// How the engine goes about it.
#[derive(Debug, Clone)]
pub struct PlaneSettings {
    /// How many tables are copied at once.
    pub streams: std::num::NonZeroUsize,
    /// How many rows are remembered of those that changed since they were compared; each takes about a hundred bytes.
    /// With more, everything is compared again.
    pub dirty_bound: usize,
    /// How long a session that was told to end is waited for.
    pub patience: Duration,
    /// How long transactions that began before the tenant left are waited for, before its rows or a publication of them
    /// are removed; and how long tables that are in use may keep their triggers from being made or removed.
    pub readers: Duration,
    /// Where rows lie that all moves together have read and not written yet.
    pub spill: SpillRoom,
    /// What each of them may have its source keep.
    pub burden: Burden,
}

impl Default for PlaneSettings {
    fn default() -> Self {
        Self {
            streams: std::num::NonZeroUsize::MIN.saturating_add(1),
            dirty_bound: 500_000,
            patience: Duration::from_secs(5),
            readers: Duration::from_mins(2),
            spill: SpillRoom::default(),
            burden: Burden::default(),
        }
    }
}

/// [`DataPlane`] on Postgres.
pub struct PgDataPlane {
    logins: Arc<dyn DatabaseLogins>,
    registry: Arc<dyn MoveRegistry>,
    contents: Contents,
    settings: PlaneSettings,
    /// What this process works with, by move. A move is driven by one mover at a time.
    running: Mutex<HashMap<MoveId, Arc<tokio::sync::Mutex<Running>>>>,
}

impl fmt::Debug for PgDataPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgDataPlane").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl PgDataPlane {
    /// An engine that finds the mover's logins with `logins` and moves the tables that `contents` names. It asks
    /// `registry` which moves are over, and nothing else.
    #[must_use]
    pub fn new(
        logins: Arc<dyn DatabaseLogins>,
        registry: Arc<dyn MoveRegistry>,
        contents: Contents,
        settings: PlaneSettings,
    ) -> Self {
        Self { logins, registry, contents, settings, running: Mutex::default() }
    }

    /// What is kept of a move; from now on, if nothing was.
    fn of(&self, moved: &Move) -> Arc<tokio::sync::Mutex<Running>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(running.entry(moved.id).or_default())
    }

    fn copy_settings(&self, pace: Pace) -> CopySettings {
        CopySettings { streams: self.settings.streams, pace, spill: self.settings.spill.clone() }
    }

    fn forget(&self, moved: &Move) {
        // The last who holds it drops it, which ends its sessions.
        drop(self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&moved.id));
    }
}

#[async_trait]
impl DataPlane for PgDataPlane {
    async fn sever(&self, moved: &Move, side: Side) -> Result<(), PlaneError> {
        self.forget(moved);
        self.end_sessions(moved, side).await
    }

    async fn abandon(&self, moved: &Move) {
        self.forget(moved);
    }

    async fn sweep(&self, moved: &Move) -> Result<(), PlaneError> {
        self.remove_leftovers(moved).await
    }

    async fn preflight(&self, moved: &Move) -> Result<Vec<String>, PlaneError> {
        self.obstacles(moved).await
    }

    async fn preflight_source(
        &self,
        source: &Located,
        path: MovePath,
        target: Option<NewTarget>,
    ) -> Result<Vec<String>, PlaneError> {
        self.obstacles_at_source(source, path, target.as_ref()).await
    }

    async fn plan(&self, moved: &Move) -> Result<Vec<Cleanup>, PlaneError> {
        Ok(opening::planned(moved))
    }

    async fn prepare(&self, moved: &Move) -> Result<String, PlaneError> {
        let running = self.of(moved);
        let mut running = running.lock().await;
        let plans = self.plans(moved, &mut running).await?;
        Ok(ends::fingerprint(&plans))
    }

    async fn open(&self, moved: &Move) -> Result<(), PlaneError> {
        let running = self.of(moved);
        let mut running = running.lock().await;
        self.open_streams(moved, &mut running).await
    }

    async fn copy(&self, moved: &Move, progress: CopyProgress) -> Result<(), PlaneError> {
        let running = self.of(moved);
        let mut running = running.lock().await;
        let ends = self.ends(moved, &mut running).await?;
        self.while_bearable(moved, &ends, self.copy_rows(moved, &mut running, &progress)).await
    }

    async fn resume(&self, moved: &Move) -> Result<(), PlaneError> {
        let running = self.of(moved);
        let mut running = running.lock().await;
        self.resume_flows(moved, &mut running).await
    }

    async fn bearable(&self, moved: &Move) -> Result<(), PlaneError> {
        self.look_at_burden(moved).await
    }

    async fn catch_up(&self, moved: &Move) -> Result<Lag, PlaneError> {
        let running = self.of(moved);
        let mut running = running.lock().await;
        self.still_bearable(moved, &mut running).await?;
        self.round_trip(moved, &mut running).await
    }

    async fn verify(&self, moved: &Move) -> Result<Verdict, PlaneError> {
        let running = self.of(moved);
        let mut running = running.lock().await;
        let ends = self.ends(moved, &mut running).await?;
        self.while_bearable(moved, &ends, Box::pin(self.compare(moved, &mut running))).await
    }

    async fn settle(&self, moved: &Move) -> Result<u64, PlaneError> {
        let running = self.of(moved);
        let mut running = running.lock().await;
        self.still_bearable(moved, &mut running).await?;
        self.settled(moved, &mut running).await
    }

    async fn lock(&self, moved: &Move, within: Duration) -> Result<Lock, PlaneError> {
        let running = self.of(moved);
        let mut running = running.lock().await;
        self.take_lock(moved, &mut running, within).await
    }

    async fn fence(&self, moved: &Move) -> Result<(), PlaneError> {
        let running = self.of(moved);
        let mut running = running.lock().await;
        cutover::close(moved, &mut running).await
    }

    async fn applied(&self, moved: &Move) -> Result<(), PlaneError> {
        let running = self.of(moved);
        let mut running = running.lock().await;
        self.drained(moved, &mut running).await
    }

    async fn equal(&self, moved: &Move) -> Result<Verdict, PlaneError> {
        let running = self.of(moved);
        let mut running = running.lock().await;
        self.compare_fenced(moved, &mut running).await
    }

    async fn activate(&self, moved: &Move) -> Result<(), PlaneError> {
        let running = self.of(moved);
        let mut running = running.lock().await;
        self.open_other(moved, &mut running).await
    }

    async fn unlock(&self, moved: &Move) -> Result<(), PlaneError> {
        let running = self.of(moved);
        let mut running = running.lock().await;
        cutover::unlock(moved, &mut running).await;
        Ok(())
    }

    async fn secure(&self, moved: &Move) -> Result<(), PlaneError> {
        let running = self.of(moved);
        let mut running = running.lock().await;
        cutover::secured(moved, &mut running).await
    }

    async fn reopen(&self, moved: &Move) -> Result<(), PlaneError> {
        let running = self.of(moved);
        let mut running = running.lock().await;
        self.open_serving(moved, &mut running).await
    }

    async fn remove(&self, moved: &Move, cleanup: &Cleanup) -> Result<(), PlaneError> {
        let running = self.of(moved);
        let mut running = running.lock().await;
        self.remove_one(moved, &mut running, cleanup).await
    }
}
