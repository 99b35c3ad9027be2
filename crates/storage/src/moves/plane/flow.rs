//! One stream, applied in the background.

use sqlx::PgConnection;
use stagesub_tenancy::moves::plane::Lag;
use stagesub_tenancy::moves::{Move, PlaneError};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::running::{Compared, Running, WAYS, from, opposite, way};
use super::{PgDataPlane, error, logs};
use crate::moves::apply::{Applier, ApplyError, ApplyOptions, Control, Prefix, Writers, mark};
use crate::moves::change_log::{self, Waker};
use crate::moves::plan::Checks;
use crate::moves::progress::Direction;
use crate::moves::slot::{SlotSession, stream_name};

/// A stream that is applied. Dropping it ends both of its sessions.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) control: Control,
    /// Has the source be looked at without delay, where it does not tell by itself.
    waker: Option<Waker>,
    task: JoinHandle<Result<(), ApplyError>>,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Flow {
    /// Says that a mark was left.
    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake();
        }
    }

    fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Why it has ended.
    pub(super) async fn ended(mut self) -> PlaneError {
        match (&mut self.task).await {
            Ok(Err(error)) => error::apply(error),
            Ok(Ok(())) => error::later("applying changes", "it was told to end"),
            Err(error) => error::later("applying changes", error),
        }
    }
}

impl PgDataPlane {
    /// Has both streams go on. One that goes is left alone; one that ended says why, once.
    pub(super) async fn resume_flows(&self, moved: &Move, running: &mut Running) -> Result<(), PlaneError> {
        for way in WAYS {
            let flow = running.flow_mut(way);
            if flow.as_ref().is_some_and(Flow::has_ended)
                && let Some(flow) = flow.take()
            {
                running.compared = Compared::default();
                return Err(flow.ended().await);
            }
            if running.flow(way).is_none() {
                let flow = self.begin_flow(moved, running, way).await?;
                *running.flow_mut(way) = Some(flow);
                running.compared = Compared::default();
            }
        }
        Ok(())
    }

    async fn begin_flow(
        &self,
        moved: &Move,
        running: &mut Running,
        way: Direction,
    ) -> Result<Flow, PlaneError> {
        if !logs::are_used(moved) {
            self.look_at_slot(moved, running, way).await?;
        }
        let ends = self.ends(moved, running).await?;
        let plans = self.plans(moved, running).await?;
        let plan = plans.of(way);
        let what = match way {
            Direction::Forward => "apply-fwd",
            Direction::Reverse => "apply-rev",
        };
        let mut session = ends.site(from(way).other()).open(what).await.map_err(error::session)?;
        if plan.checks == Checks::Skipped {
            session.skip_checks().await.map_err(error::session)?;
        }
        let options = ApplyOptions {
            move_id: moved.id.as_uuid(),
            direction: way,
            tenant: moved.tenant,
            prefix: prefix(moved)?,
            tables: plan.tables.iter().map(|table| table.name.clone()).collect(),
            writers: writers(moved, way),
            dirty_bound: self.settings.dirty_bound,
        };
        let applier = Applier::prepare(session.into_conn(), options).await.map_err(error::apply)?;
        let control = applier.control();
        if logs::are_used(moved) {
            let stream = self.log_stream(moved, running, way, applier.from()).await?;
            let waker = Some(stream.waker());
            return Ok(Flow { control, waker, task: tokio::spawn(applier.run(stream)) });
        }
        let slot = SlotSession::open(ends.login(from(way)), moved.id.as_uuid(), way).await;
        let stream = slot.map_err(error::stream)?.start(applier.from()).await.map_err(error::stream)?;
        Ok(Flow { control, waker: None, task: tokio::spawn(applier.run(stream)) })
    }

    /// A slot that is gone, or whose log is, does not come again.
    async fn look_at_slot(
        &self,
        moved: &Move,
        running: &mut Running,
        way: Direction,
    ) -> Result<(), PlaneError> {
        let side = from(way);
        let mut session = self.session(moved, running, side).await?;
        let name = stream_name(moved.id.as_uuid(), way);
        let status = sqlx::query_scalar!(
            r#"SELECT coalesce(wal_status, 'reserved') AS "status!" FROM pg_catalog.pg_replication_slots
             WHERE slot_name = $1 AND database = current_database()"#,
            name
        )
        .fetch_optional(session.conn())
        .await
        .map_err(error::sql("looking at a slot"))?;
        running.put(side, session);
        match status.as_deref() {
            None => Err(PlaneError::Refused(format!(
                "the {side} has lost the replication slot {name}, as after a failover; the move has to begin again"
            ))),
            Some("lost") => Err(PlaneError::Refused(format!(
                "the {side} has removed log that the slot {name} needed (max_slot_wal_keep_size); \
                 the move has to begin again"
            ))),
            Some(_) => Ok(()),
        }
    }

    /// Sends a word through the stream that the cutover depends on, and waits for it.
    pub(super) async fn round_trip(&self, moved: &Move, running: &mut Running) -> Result<Lag, PlaneError> {
        let began = Instant::now();
        self.send_word(moved, running, way(moved)).await?;
        Ok(Lag { round_trip: began.elapsed() })
    }

    /// Sees that nobody wrote where the tenant is not served, until now: the opposite stream brings everything that was
    /// written there, and ends at what the move did not write itself. Left unseen, it would be taken for the tenant's own
    /// once the tenant is served there.
    pub(super) async fn nobody_wrote_there(
        &self,
        moved: &Move,
        running: &mut Running,
    ) -> Result<(), PlaneError> {
        self.send_word(moved, running, opposite(way(moved))).await
    }

    /// Leaves a mark in the stream this way, and waits until it has passed, with everything that was written before.
    async fn send_word(&self, moved: &Move, running: &mut Running, way: Direction) -> Result<(), PlaneError> {
        let number = running.next_mark(way);
        let mut session = self.session(moved, running, from(way)).await?;
        write_mark(moved, session.conn(), way, number).await?;
        running.put(from(way), session);
        if let Some(flow) = running.flow(way) {
            flow.wake();
        }
        passed(running, way, number).await
    }
}

/// As [`PgDataPlane::nobody_wrote_there`], of what the opposite stream has brought by now; nothing is waited for.
pub(super) async fn nobody_was_seen_there(moved: &Move, running: &mut Running) -> Result<(), PlaneError> {
    let flow = running.flow_mut(opposite(way(moved)));
    match flow.take() {
        Some(ended) if ended.has_ended() => {
            running.compared = Compared::default();
            Err(ended.ended().await)
        }
        goes_on => {
            *flow = goes_on;
            Ok(())
        }
    }
}

/// Waits until a mark has passed.
pub(super) async fn passed(running: &mut Running, way: Direction, number: u64) -> Result<(), PlaneError> {
    let flow = running.flow(way).ok_or_else(|| error::later("following a stream", "there is none"))?;
    if flow.control.clone().passed(number).await.is_ok() {
        return Ok(());
    }
    running.compared = Compared::default();
    match running.flow_mut(way).take() {
        Some(flow) => Err(flow.ended().await),
        None => Err(error::later("following a stream", "it has ended")),
    }
}

/// Leaves a mark in the stream of this direction.
pub(super) async fn write_mark(
    moved: &Move,
    conn: &mut PgConnection,
    way: Direction,
    number: u64,
) -> Result<(), PlaneError> {
    let written = if logs::are_used(moved) {
        change_log::mark(conn, &logs::name(moved, way), number).await
    } else {
        mark(conn, &prefix(moved)?, number).await
    };
    written.map_err(error::sql("sending a word through the stream"))
}

pub(super) fn prefix(moved: &Move) -> Result<Prefix, PlaneError> {
    moved.prefix.expose().parse().map_err(|_| {
        PlaneError::Refused("the move's prefix is none; the registry's row was changed by hand".to_owned())
    })
}

/// Whose writes a stream carries: the tenant's, from where it is served.
fn writers(moved: &Move, way: Direction) -> Writers {
    if moved.serving() == from(way) { Writers::Tenant } else { Writers::Nobody }
}
