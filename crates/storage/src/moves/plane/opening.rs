//! From nothing to a copy that the streams can go on from.

use std::num::NonZeroU64;

use stagesub_tenancy::Located;
use stagesub_tenancy::moves::plane::CopyProgress;
use stagesub_tenancy::moves::record::Object;
use stagesub_tenancy::moves::{Cleanup, Move, MovePath, NewTarget, PlaneError, Side, TableProgress};
use tokio::sync::watch;
use uuid::Uuid;

use super::ends::Plans;
use super::running::{Running, SnapshotHolder, WAYS, from};
use super::{PgDataPlane, error, logs};
use crate::catalogue::TableName;
use crate::moves::copy::{self, PurgeSettings, TenantCopy, purge, take_statistics};
use crate::moves::pace::Pace;
use crate::moves::preflight;
use crate::moves::progress::{self, Direction};
use crate::moves::slot::{
    SlotSession, Snapshot, create_publication, drop_publication, drop_slot, stream_name,
};

/// What a move makes, in that order; it is removed the other way round. First of all go the slots, which keep the
/// servers' log.
pub(super) fn planned(moved: &Move) -> Vec<Cleanup> {
    let at = |side: Side, object, name: String| Cleanup {
        object,
        database: moved.placement(side).database(),
        name,
    };
    let mut all = Vec::new();
    for side in [Side::Source, Side::Target] {
        all.push(at(side, Object::Rows, moved.tenant.to_string()));
    }
    let followed_by: &[Object] = match moved.path {
        MovePath::Stream => &[Object::Publication, Object::Slot],
        MovePath::Triggers => &[Object::ChangeLog],
        MovePath::Short => return all,
    };
    for way in WAYS {
        all.push(at(from(way).other(), Object::Progress, moved.id.to_string()));
    }
    for object in followed_by {
        for way in WAYS {
            all.push(at(from(way), *object, stream_name(moved.id.as_uuid(), way)));
        }
    }
    all
}

/// How fast the move may write, and compare.
pub(super) fn pace(moved: &Move) -> Pace {
    Pace::of(moved.pace.map(NonZeroU64::from))
}

impl PgDataPlane {
    /// What stands in the way, as far as the two databases show.
    pub(super) async fn obstacles(&self, moved: &Move) -> Result<Vec<String>, PlaneError> {
        let ends = match self.ends(moved, &mut Running::default()).await {
            Ok(ends) => ends,
            Err(PlaneError::Refused(why)) => return Ok(vec![why]),
            Err(error) => return Err(error),
        };
        let (source, target) = (ends.site(Side::Source), ends.site(Side::Target));
        preflight::obstacles(moved, source, target, &self.contents).await.map_err(error::preflight)
    }

    /// What stands in the way where the tenant is, and where its database would be made.
    pub(super) async fn obstacles_at_source(
        &self,
        source: &Located,
        path: MovePath,
        target: Option<&NewTarget>,
    ) -> Result<Vec<String>, PlaneError> {
        let site = match self.site_of(Uuid::now_v7(), source.tenant, source.placement).await {
            Ok(site) => site,
            Err(PlaneError::Refused(why)) => return Ok(vec![why]),
            Err(error) => return Err(error),
        };
        preflight::obstacles_at_source(&site, source, &self.contents, path, target)
            .await
            .map_err(error::preflight)
    }

    /// Publications at both sides, and at the source the slot whose snapshot is copied; or the log in place of them.
    pub(super) async fn open_streams(&self, moved: &Move, running: &mut Running) -> Result<(), PlaneError> {
        let plans = self.plans(moved, running).await?;
        self.clear(moved, running, &plans).await?;
        if logs::are_used(moved) {
            let begun = self.open_log(moved, running).await?;
            running.snapshot = Some((SnapshotHolder::Log(begun.holder), begun.name));
            return Ok(());
        }
        for way in WAYS {
            self.publish(moved, running, &plans, way).await?;
        }
        let (slot, snapshot) = self.open_slot(moved, running, Direction::Forward).await?;
        running.snapshot = Some((SnapshotHolder::Slot(slot), snapshot.name));
        Ok(())
    }

    /// Removes what an earlier call left.
    async fn clear(&self, moved: &Move, running: &mut Running, plans: &Plans) -> Result<(), PlaneError> {
        running.end_flows();
        running.snapshot = None;
        for way in WAYS {
            if logs::are_used(moved) {
                self.drop_log(moved, running, way).await?;
            }
            let mut session = self.session(moved, running, from(way)).await?;
            let name = stream_name(moved.id.as_uuid(), way);
            drop_slot(session.conn(), &name, self.settings.patience).await.map_err(error::slot)?;
            drop_publication(session.conn(), &name, self.settings.readers)
                .await
                .map_err(error::publication)?;
            progress::forget(session.conn(), moved.id.as_uuid()).await.map_err(error::progress)?;
            running.put(from(way), session);
        }
        let ends = self.ends(moved, running).await?;
        let mut target = ends.site(Side::Target).open("purge").await.map_err(error::session)?;
        let removed =
            purge(&mut target, plans.at(Side::Target), moved.tenant, &PurgeSettings::at(pace(moved)))
                .await
                .map_err(error::copy)?;
        target.close().await;
        if removed > 0 {
            tracing::info!(moved = %moved.id, removed, "rows that an earlier copy left were removed");
        }
        Ok(())
    }

    async fn publish(
        &self,
        moved: &Move,
        running: &mut Running,
        plans: &Plans,
        way: Direction,
    ) -> Result<(), PlaneError> {
        let mut session = self.session(moved, running, from(way)).await?;
        let tables: Vec<TableName> = plans.of(way).tables.iter().map(|table| table.name.clone()).collect();
        let name = stream_name(moved.id.as_uuid(), way);
        create_publication(session.conn(), &name, moved.tenant, &tables).await.map_err(error::publication)?;
        running.put(from(way), session);
        Ok(())
    }

    /// Makes the slot of a stream, and writes down where the stream begins.
    async fn open_slot(
        &self,
        moved: &Move,
        running: &mut Running,
        way: Direction,
    ) -> Result<(SlotSession, Snapshot), PlaneError> {
        let ends = self.ends(moved, running).await?;
        let id = moved.id.as_uuid();
        let mut slot = SlotSession::open(ends.login(from(way)), id, way).await.map_err(error::stream)?;
        let snapshot = slot.create().await.map_err(error::stream)?;
        let to = from(way).other();
        let mut session = self.session(moved, running, to).await?;
        progress::begin(session.conn(), id, way, snapshot.consistent).await.map_err(error::progress)?;
        running.put(to, session);
        Ok((slot, snapshot))
    }

    /// Copies the snapshot's rows. The stream back begins behind them: they are nobody's changes.
    pub(super) async fn copy_rows(
        &self,
        moved: &Move,
        running: &mut Running,
        progress: &CopyProgress,
    ) -> Result<(), PlaneError> {
        let ends = self.ends(moved, running).await?;
        let plans = self.plans(moved, running).await?;
        let gone = || error::later("copying", "the snapshot went with the session that held it");
        let (holder, snapshot) = running.snapshot.take().ok_or_else(gone)?;
        let settings = self.copy_settings(pace(moved));
        let plan = plans.of(Direction::Forward);
        let (source, target) = (ends.site(Side::Source), ends.site(Side::Target));
        let copy = TenantCopy::open(source, target, plan, moved.tenant, &snapshot, &settings).await;
        let copy = copy.map_err(error::copy)?;
        // The copy's own sessions stand in the snapshot.
        drop(holder);
        let copied = run(copy, progress).await?;
        let mut session = self.session(moved, running, Side::Target).await?;
        match take_statistics(&mut session, &copied).await {
            Ok(()) => running.put(Side::Target, session),
            // Another move into the database may be taking them. The server does it by itself later.
            Err(error) => {
                tracing::warn!(moved = %moved.id, error = &error as &dyn std::error::Error, "the target has old statistics");
            }
        }
        if logs::are_used(moved) {
            return self.open_log_back(moved, running).await;
        }
        drop(self.open_slot(moved, running, Direction::Reverse).await?);
        Ok(())
    }
}

/// Runs a copy and says how far it is, and how far it came.
pub(super) async fn run(
    copy: TenantCopy<'_>,
    progress: &CopyProgress,
) -> Result<copy::CopyProgress, PlaneError> {
    let (tell, mut told) = watch::channel(copy::CopyProgress::default());
    let copying = async move { copy.run(&tell).await };
    let telling = async {
        while told.changed().await.is_ok() {
            progress.tell(tables(&told.borrow_and_update()));
        }
    };
    let (copied, ()) = tokio::join!(copying, telling);
    let copied = copied.map_err(error::copy)?;
    progress.tell(tables(&copied));
    Ok(copied)
}

fn tables(progress: &copy::CopyProgress) -> Vec<TableProgress> {
    let table = |table: &copy::TableProgress| TableProgress {
        schema: table.table.schema.clone(),
        table: table.table.name.clone(),
        rows: table.rows,
        bytes: table.bytes,
        done: table.done,
    };
    progress.tables.iter().map(table).collect()
}
