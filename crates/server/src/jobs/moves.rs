//! This node drives moves: some that have work to do, and more that wait to be told where the orchestra stays.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use stagesub_tenancy::NodeId;
use stagesub_tenancy::moves::{
    DataPlane, Driven, Held, Move, MoveId, MoveKind, MoveObserver, MoveRegistry, MoveRegistryError,
    MoveState, Mover, Side,
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::config::MoveSettings;
use crate::metrics::Metrics;
use crate::problem::error_chain;

/// How often it is looked for moves that nobody drives; by each node at times of its own.
pub const PERIOD: Duration = Duration::from_millis(500);

/// How often moves are counted, where figures are wanted.
pub const CENSUS: Duration = Duration::from_secs(10);

/// Longest that a look may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(4);

/// Drives moves on one node.
pub struct Movers {
    /// Where they are stored.
    pub registry: Arc<dyn MoveRegistry>,
    /// What moves them.
    pub plane: Arc<dyn DataPlane>,
    /// This node.
    pub node: NodeId,
    /// How many at a time.
    pub settings: MoveSettings,
    /// Told when there may be one to drive.
    pub begun: Arc<Notify>,
    /// Counts.
    pub metrics: Metrics,
}

impl fmt::Debug for Movers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Movers").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Room for moves of both kinds.
#[derive(Clone)]
struct Room {
    working: Arc<Semaphore>,
    kept: Arc<Semaphore>,
}

/// A place for a move of one kind.
enum Place {
    Working(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit),
    Kept(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit),
}

impl Movers {
    /// Drives moves until told to stop. Then each that is driven comes to where nobody waits for it, and is left to
    /// other nodes.
    pub async fn drive(self, stop: CancellationToken) {
        if self.settings.at_once == 0 {
            tracing::info!("this node drives no moves");
            return stop.cancelled().await;
        }
        let places =
            |places: u32| Arc::new(Semaphore::new(usize::try_from(places).unwrap_or(Semaphore::MAX_PERMITS)));
        let room = Room { working: places(self.settings.at_once), kept: places(self.settings.kept) };
        let (tell, told) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let mut seats: Vec<Weak<Seat>> = Vec::new();
        let mut away = false;
        loop {
            // Those that became active while there was no room may be let go of the places of those that work.
            seats.retain(|seat| seat.upgrade().is_some_and(|seat| seat.keep()));
            let claimed = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                claimed = self.claim(&room) => claimed,
            };
            match claimed {
                Ok(Some((held, asked, place))) => {
                    away = false;
                    let seat = self.seat(place, &room);
                    seats.push(Arc::downgrade(&seat));
                    let mover = self.mover(seat, told.clone());
                    let span =
                        tracing::info_span!("move", move.id = %held.moved.id, tenant.id = %held.moved.tenant);
                    let driving = async move {
                        let id = held.moved.id;
                        tracing::info!(moved = %id, state = %held.moved.state, "driving a move");
                        tell_of(id, &mover.drive(held, asked).await);
                    };
                    tasks.spawn(driving.instrument(span));
                    continue;
                }
                Ok(None) => away = false,
                Err(error) if away => {
                    tracing::debug!(cause = %error_chain(&error), "moves are still not to be had");
                }
                Err(error) => {
                    tracing::warn!(cause = %error_chain(&error), "it cannot be looked for moves");
                    away = true;
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.begun.notified() => {}
                () = tokio::time::sleep(PERIOD.mul_f64(rand::random_range(0.75..1.25))) => {}
                Some(ended) = tasks.join_next() => tell_of_failure(ended),
            }
        }
        tell.send_replace(true);
        while let Some(ended) = tasks.join_next().await {
            tell_of_failure(ended);
        }
    }

    /// A move that there is room for, if there is one.
    async fn claim(&self, room: &Room) -> Result<Option<(Held, Instant, Place)>, MoveRegistryError> {
        let working = Arc::clone(&room.working).try_acquire_owned().ok();
        let kept = Arc::clone(&room.kept).try_acquire_owned().ok();
        let (asked, lease) = (Instant::now(), self.settings.mover.lease);
        let claim = match (&working, &kept) {
            (Some(_), Some(_)) => self.registry.claim(self.node, lease),
            (Some(_), None) => self.registry.claim_kind(self.node, lease, MoveKind::Working),
            (None, Some(_)) => self.registry.claim_kind(self.node, lease, MoveKind::Active),
            (None, None) => return Ok(None),
        };
        // One that was claimed and whose answer came too late is free again when its lease is over.
        let Ok(claimed) = tokio::time::timeout(PATIENCE, claim).await else { return Ok(None) };
        Ok(claimed?.and_then(|held| {
            let place = match MoveKind::of(held.moved.state) {
                MoveKind::Active => kept.map(Place::Kept),
                MoveKind::Working => working.map(Place::Working),
            };
            place.map(|place| (held, asked, place))
        }))
    }

    fn seat(&self, place: Place, room: &Room) -> Arc<Seat> {
        Arc::new(Seat {
            stands: Mutex::new((place, None)),
            room: room.clone(),
            freed: Arc::clone(&self.begun),
            metrics: self.metrics.clone(),
        })
    }

    fn mover(&self, seat: Arc<Seat>, stop: watch::Receiver<bool>) -> Mover {
        let (registry, plane) = (Arc::clone(&self.registry), Arc::clone(&self.plane));
        Mover::new(registry, plane, self.node, self.settings.mover).with_observer(seat).with_stop(stop)
    }
}

fn tell_of(id: MoveId, driven: &Driven) {
    match driven {
        Driven::Ended(moved) => tracing::info!(moved = %id, state = %moved.state, "a move has ended"),
        Driven::Lost => tracing::warn!(moved = %id, "a move is another node's now"),
        // Told where it happened.
        Driven::Released(_) | Driven::Stopped => {}
    }
}

fn tell_of_failure(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(cause = %error, "a mover failed; its move is taken up after its lease");
    }
}

/// The place of one move, which changes with its state; and what is counted of it.
struct Seat {
    stands: Mutex<(Place, Option<(MoveState, Side)>)>,
    room: Room,
    freed: Arc<Notify>,
    metrics: Metrics,
}

impl Seat {
    /// Gives an active move a place among those that are kept, if there is one. False: it has one already.
    fn keep(&self) -> bool {
        let mut stands = self.stands.lock().unwrap_or_else(PoisonError::into_inner);
        let (place, at) = &mut *stands;
        if matches!(place, Place::Kept(_)) {
            return false;
        }
        let is_active = at.is_some_and(|(state, _)| MoveKind::of(state) == MoveKind::Active);
        if is_active && let Ok(kept) = Arc::clone(&self.room.kept).try_acquire_owned() {
            *place = Place::Kept(kept);
            return false;
        }
        true
    }
}

impl MoveObserver for Seat {
    fn stands(&self, moved: &Move) {
        let now = (moved.state, moved.serving());
        let before = {
            let mut stands = self.stands.lock().unwrap_or_else(PoisonError::into_inner);
            stands.1.replace(now)
        };
        // A cutover that this node made, and whose whole course it saw.
        if let Some((was, serving)) = before
            && was.is_cutover()
            && serving != moved.serving()
            && let Some(pause) = moved.pause
        {
            self.metrics.tenant_paused(pause);
        }
        if MoveKind::of(moved.state) == MoveKind::Active && !self.keep() {
            self.freed.notify_one();
        }
    }
}

/// How many moves there are in each state, as they were counted last.
#[derive(Debug, Default)]
pub struct Census(Mutex<Vec<(MoveState, u64)>>);

impl Census {
    /// Every state of a move that has not ended, with how many there are in it.
    #[must_use]
    pub fn counts(&self) -> Vec<(MoveState, u64)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |state| known.iter().find(|(known, _)| *known == state).map_or(0, |(_, count)| *count);
        MoveState::ALL.map(|state| (state, count(state))).to_vec()
    }

    /// Counts again and again until told to stop. What cannot be counted now stays as it was.
    pub async fn keep(
        self: Arc<Self>,
        registry: Arc<dyn MoveRegistry>,
        metrics: Metrics,
        stop: CancellationToken,
    ) {
        loop {
            if metrics.is_on() {
                match tokio::time::timeout(PATIENCE, registry.count_live()).await {
                    Ok(Ok(counts)) => *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counts,
                    Ok(Err(error)) => tracing::debug!(cause = %error_chain(&error), "moves were not counted"),
                    Err(_) => tracing::debug!("moves were not counted in time"),
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(CENSUS) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
