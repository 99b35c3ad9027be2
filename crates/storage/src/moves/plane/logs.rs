//! The other source of changes: logs that triggers write, in place of slots and publications.

use stagesub_tenancy::moves::{Move, MovePath, PlaneError};

use super::flow::prefix;
use super::running::{Running, from};
use super::{PgDataPlane, error};
use crate::moves::change_log::{self, ChangeLog, LogSnapshot, LogStream, Polling};
use crate::moves::lsn::Lsn;
use crate::moves::progress::{self, Direction};
use crate::moves::slot::stream_name;

/// Whether a move follows changes by triggers.
pub(super) fn are_used(moved: &Move) -> bool {
    moved.path == MovePath::Triggers
}

/// What the log of a direction is called.
pub(super) fn name(moved: &Move, way: Direction) -> String {
    stream_name(moved.id.as_uuid(), way)
}

impl PgDataPlane {
    async fn log(
        &self,
        moved: &Move,
        running: &mut Running,
        way: Direction,
    ) -> Result<ChangeLog, PlaneError> {
        let plans = self.plans(moved, running).await?;
        let tables = plans.of(way).tables.iter().map(|table| table.name.clone()).collect();
        Ok(ChangeLog::new(moved.id.as_uuid(), way, moved.tenant, tables))
    }

    /// Makes the log that the copy is followed by, and the snapshot that it begins with.
    pub(super) async fn open_log(
        &self,
        moved: &Move,
        running: &mut Running,
    ) -> Result<LogSnapshot, PlaneError> {
        let way = Direction::Forward;
        let log = self.make_log(moved, running, way).await?;
        let ends = self.ends(moved, running).await?;
        let holder = ends.site(from(way)).open("snapshot").await.map_err(error::session)?.into_conn();
        let mut session = self.session(moved, running, from(way)).await?;
        let begun = log.begin(session.conn(), holder).await.map_err(error::change_log)?;
        running.put(from(way), session);
        self.begin_progress(moved, running, way, begun.position).await?;
        Ok(begun)
    }

    /// Makes the log of the way back. It begins behind the rows that were copied, which are nobody's changes.
    pub(super) async fn open_log_back(&self, moved: &Move, running: &mut Running) -> Result<(), PlaneError> {
        let way = Direction::Reverse;
        let log = self.make_log(moved, running, way).await?;
        let mut session = self.session(moved, running, from(way)).await?;
        let from_here = log.begin_empty(session.conn()).await.map_err(error::change_log)?;
        running.put(from(way), session);
        self.begin_progress(moved, running, way, from_here).await
    }

    async fn make_log(
        &self,
        moved: &Move,
        running: &mut Running,
        way: Direction,
    ) -> Result<ChangeLog, PlaneError> {
        let log = self.log(moved, running, way).await?;
        let mut session = self.session(moved, running, from(way)).await?;
        log.create(session.conn(), self.settings.readers).await.map_err(error::change_log)?;
        running.put(from(way), session);
        // The tables have got triggers, and are not as they were.
        running.plans = None;
        Ok(log)
    }

    async fn begin_progress(
        &self,
        moved: &Move,
        running: &mut Running,
        way: Direction,
        position: Lsn,
    ) -> Result<(), PlaneError> {
        let to = from(way).other();
        let mut session = self.session(moved, running, to).await?;
        let begun = progress::begin(session.conn(), moved.id.as_uuid(), way, position).await;
        begun.map_err(error::progress)?;
        running.put(to, session);
        Ok(())
    }

    /// The stream of a log, from where it is applied.
    pub(super) async fn log_stream(
        &self,
        moved: &Move,
        running: &mut Running,
        way: Direction,
        position: Lsn,
    ) -> Result<LogStream, PlaneError> {
        let log = self.log(moved, running, way).await?;
        let what = match way {
            Direction::Forward => "log-fwd",
            Direction::Reverse => "log-rev",
        };
        let ends = self.ends(moved, running).await?;
        let conn = ends.site(from(way)).open(what).await.map_err(error::session)?.into_conn();
        LogStream::open(conn, &log, &prefix(moved)?, position, Polling::default())
            .await
            .map_err(error::change_log)
    }

    /// Nothing got past the triggers of the stream that a cutover depends on, where it depends on triggers. It counts under
    /// the lock, when nobody writes any more. Who switches triggers off and on again does not leave them as they were
    /// made.
    pub(super) async fn log_is_whole(
        &self,
        moved: &Move,
        running: &mut Running,
        way: Direction,
    ) -> Result<(), PlaneError> {
        if !are_used(moved) {
            return Ok(());
        }
        let log = self.log(moved, running, way).await?;
        let mut session = self.session(moved, running, from(way)).await?;
        log.check(session.conn()).await.map_err(error::change_log)?;
        running.put(from(way), session);
        Ok(())
    }

    /// Removes a log, if it is there. Its tables are in use: nobody queues for them for long.
    pub(super) async fn drop_log(
        &self,
        moved: &Move,
        running: &mut Running,
        way: Direction,
    ) -> Result<(), PlaneError> {
        let mut session = self.session(moved, running, from(way)).await?;
        let removed = change_log::remove(session.conn(), &name(moved, way), self.settings.readers).await;
        removed.map_err(error::change_log)?;
        running.put(from(way), session);
        running.plans = None;
        Ok(())
    }
}
