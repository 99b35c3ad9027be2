//! The numbered steps of a cutover, and the ways out of it.

use std::time::Duration;

use stagesub_tenancy::moves::plane::{CopyProgress, Lock};
use stagesub_tenancy::moves::{Move, MovePath, MoveState, PlaneError};

use super::flow::{nobody_was_seen_there, passed, prefix, write_mark};
use super::opening::run;
use super::running::{Compared, Fencing, Running, WAYS, from, opposite, way};
use super::{PgDataPlane, error, logs};
use crate::moves::apply::Writers;
use crate::moves::copy::{CopyStreams, PurgeSettings, purge};
use crate::moves::fence::{self, Exclusive, FenceError, Mark, Taken};
use crate::moves::pace::Pace;
use crate::moves::verify::{VerifySessions, VerifySettings};

impl PgDataPlane {
    /// Step 1. The session is opened before anybody queues behind it, and kept.
    pub(super) async fn take_lock(
        &self,
        moved: &Move,
        running: &mut Running,
        within: Duration,
    ) -> Result<Lock, PlaneError> {
        let serving = from(way(moved));
        hurry(running, true);
        let session = match running.fencing.take() {
            Some(held @ Fencing::Held(_)) => {
                running.fencing = Some(held);
                return Ok(Lock::Held { waited: Duration::ZERO });
            }
            Some(Fencing::Idle(side, session)) if side == serving => session,
            _ => {
                let ends = self.ends(moved, running).await?;
                ends.site(serving).open("fence").await.map_err(error::session)?.into_conn()
            }
        };
        // What the steps under the lock need is there before.
        for side in [serving, serving.other()] {
            let mut session = self.session(moved, running, side).await?;
            // Nobody opens a tenant and forgets it.
            session.flush_commits().await.map_err(error::session)?;
            if side != serving {
                let epoch = moved.decided().epoch;
                fence::plan_opening(session.conn(), moved.tenant, epoch).await.map_err(error::fence)?;
            }
            running.put(side, session);
        }
        self.as_they_were(moved, running).await?;
        if moved.path == MovePath::Short {
            if running.short.is_none() {
                running.short = Some(self.open_short(moved, running).await?);
            }
        } else {
            if !self.is_settled(moved, running).await? {
                running.fencing = Some(Fencing::Idle(serving, session));
                return Ok(Lock::Busy);
            }
            self.nobody_wrote_there(moved, running).await?;
            // The tenant is let in there before the row that says so is durable (`open_other`, `secured`).
            let mut there = self.session(moved, running, serving.other()).await?;
            fence::put_flushes_off(there.conn()).await.map_err(error::fence)?;
            running.put(serving.other(), there);
        }
        match Exclusive::take(session, moved.tenant, within).await.map_err(error::sql("taking the lock"))? {
            Taken::Held(exclusive) => {
                let waited = exclusive.waited();
                running.fencing = Some(Fencing::Held(exclusive));
                Ok(Lock::Held { waited })
            }
            Taken::Busy(session) => {
                running.fencing = Some(Fencing::Idle(serving, session));
                Ok(Lock::Busy)
            }
        }
    }

    /// Step 3. The tables are looked at again meanwhile: whoever changes them later does it when all is over.
    pub(super) async fn drained(&self, moved: &Move, running: &mut Running) -> Result<(), PlaneError> {
        if moved.path == MovePath::Short {
            self.as_they_were(moved, running).await?;
            return self.copy_fenced(moved, running).await;
        }
        let way = way(moved);
        let number = running.fence_mark.ok_or_else(|| error::later("draining", "the fence left no mark"))?;
        let flow = running.flow(way).ok_or_else(|| error::later("draining", "there is no stream"))?;
        let mut control = flow.control.clone();
        let look = async {
            self.as_they_were(moved, running).await?;
            self.log_is_whole(moved, running, way).await
        };
        let (settled, _) = tokio::join!(look, control.passed(number));
        settled?;
        passed(running, way, number).await?;
        nobody_was_seen_there(moved, running).await
    }

    /// The sessions that all rows are copied and compared on.
    async fn open_short(
        &self,
        moved: &Move,
        running: &mut Running,
    ) -> Result<(CopyStreams, VerifySessions), PlaneError> {
        let ends = self.ends(moved, running).await?;
        let plans = self.plans(moved, running).await?;
        let way = way(moved);
        let (source, target) = (ends.site(from(way)), ends.site(from(way).other()));
        let settings = self.copy_settings(Pace::unlimited());
        let (streams, sessions) = tokio::join!(
            CopyStreams::open(source, target, plans.of(way), &settings),
            VerifySessions::open(source, target)
        );
        let (mut streams, sessions) = (streams.map_err(error::copy)?, sessions.map_err(error::verify)?);
        // It is decided by what was copied, and nothing is flushed after it before that.
        streams.flush_commits().await.map_err(error::copy)?;
        Ok((streams, sessions))
    }

    /// All rows, while nobody writes; then they are compared.
    async fn copy_fenced(&self, moved: &Move, running: &mut Running) -> Result<(), PlaneError> {
        let plans = self.plans(moved, running).await?;
        let way = way(moved);
        let (serving, other) = (from(way), from(way).other());
        let opened = running.short.take();
        let (streams, sessions) =
            opened.ok_or_else(|| error::later("copying", "the tenant's lock is not held"))?;
        let mut session = self.session(moved, running, other).await?;
        purge(&mut session, plans.at(other), moved.tenant, &PurgeSettings::default())
            .await
            .map_err(error::copy)?;
        running.put(other, session);
        let mut holder = self.session(moved, running, serving).await?;
        let snapshot = holder.export_snapshot().await.map_err(error::session)?;
        let copy = streams
            .enter(plans.of(way), moved.tenant, &snapshot, &self.copy_settings(Pace::unlimited()))
            .await;
        let copy = copy.map_err(error::copy)?;
        holder.leave_snapshot().await.map_err(error::session)?;
        running.put(serving, holder);
        // So few rows need no statistics until the server takes them by itself.
        run(copy, &CopyProgress::new().0).await?;
        let verified = sessions.everything(plans.of(way), moved.tenant, &VerifySettings::default()).await;
        running.verified = Some(verified.map_err(error::verify)?);
        Ok(())
    }

    /// Step 6. From here on the other side's writes are the tenant's.
    pub(super) async fn open_other(&self, moved: &Move, running: &mut Running) -> Result<(), PlaneError> {
        let way = way(moved);
        let back = opposite(way);
        if let Some(flow) = running.flow(back) {
            flow.control.expect(Writers::Tenant);
        }
        if let Some(flow) = running.flow(way) {
            flow.control.expect(Writers::Nobody);
        }
        // Both sides are equal now. What changes from here on comes the other way: it is forgotten before anybody writes
        // there what was written before.
        if running.compared.way == Some(way) && running.compared.pending.is_empty() {
            running.compared = Compared { way: Some(back), ..Compared::default() };
            if let Some(flow) = running.flow(back) {
                flow.control.clear_dirty();
            }
        }
        let other = from(way).other();
        let mut session = self.session(moved, running, other).await?;
        let opened = fence::open(session.conn(), moved.tenant, moved.decided().epoch).await;
        opened.map_err(error::fence)?;
        running.put(other, session);
        Ok(())
    }

    /// After giving up.
    pub(super) async fn open_serving(&self, moved: &Move, running: &mut Running) -> Result<(), PlaneError> {
        let serving = from(way(moved));
        // The other side may be what failed.
        let mut session = match running.take(serving) {
            Some(session) => session,
            None => self.site(moved, serving).await?.open("ask").await.map_err(error::session)?,
        };
        session.flush_commits().await.map_err(error::session)?;
        let opened = fence::reopen(session.conn(), moved.tenant, moved.given_up().epoch).await;
        opened.map_err(error::fence)?;
        running.put(serving, session);
        Ok(())
    }
}

/// Step 2.
pub(super) async fn close(moved: &Move, running: &mut Running) -> Result<(), PlaneError> {
    let Some(Fencing::Held(mut exclusive)) = running.fencing.take() else {
        return Err(error::later("fencing", "the tenant's lock is not held"));
    };
    let number = running.next_mark(way(moved));
    let epoch = moved.undecided().epoch;
    let closed = if logs::are_used(moved) {
        exclusive.close_logged(epoch, &logs::name(moved, way(moved)), number).await
    } else {
        let left = Mark { prefix: prefix(moved)?.as_str().to_owned(), number };
        exclusive.close(epoch, &left).await
    };
    match closed {
        Ok(()) => {}
        Err(FenceError::Lost { .. }) => again(moved, &mut exclusive, number).await?,
        Err(error) => return Err(error::fence(error)),
    }
    if let Some(flow) = running.flow(way(moved)) {
        flow.wake();
    }
    running.fence_mark = Some(number);
    running.fencing = Some(Fencing::Held(exclusive));
    Ok(())
}

/// The fence may be closed already by this very step: then it is only the mark that is left to make.
async fn again(moved: &Move, exclusive: &mut Exclusive, number: u64) -> Result<(), PlaneError> {
    let found = fence::find(exclusive.session(), moved.tenant).await.map_err(error::fence)?;
    if found != Some((fence::State::Moving, moved.decided().epoch)) {
        let lost = FenceError::Lost { expected: moved.undecided().epoch };
        return Err(error::fence(lost));
    }
    write_mark(moved, exclusive.session(), way(moved), number).await
}

/// Has the streams bring every transaction at once: from before the tenant waits until it does no longer, and while rows
/// that changed are compared.
pub(super) fn hurry(running: &Running, on: bool) {
    for way in WAYS {
        if let Some(flow) = running.flow(way) {
            flow.control.hurry(on);
        }
    }
}

/// Step 7. Where the session does not answer the lock went with it.
pub(super) async fn unlock(moved: &Move, running: &mut Running) {
    let serving = from(way(moved));
    running.fence_mark = None;
    hurry(running, false);
    if let Some(Fencing::Held(exclusive)) = running.fencing.take() {
        match exclusive.release().await {
            Ok(session) => running.fencing = Some(Fencing::Idle(serving, session)),
            Err(error) => tracing::debug!(%error, "the tenant's lock had gone with its session"),
        }
    }
    if moved.state != MoveState::Decided {
        // It waits for no flush, and nothing was opened there.
        drop(running.take(serving.other()));
    }
}

/// After step 7. Where the session has gone the database may have gone down with what was done on it: it is done again.
pub(super) async fn secured(moved: &Move, running: &mut Running) -> Result<(), PlaneError> {
    let other = from(way(moved)).other();
    let Some(mut session) = running.take(other) else {
        return Err(error::later("waiting for what was opened", "its session is not there"));
    };
    let secured = fence::secure(session.conn(), moved.tenant, moved.decided().epoch).await;
    secured.map_err(error::fence)?;
    running.put(other, session);
    Ok(())
}
