//! Ending what an older owner left, and removing what a move had made.

use stagesub_tenancy::moves::record::Object;
use stagesub_tenancy::moves::{Cleanup, Move, PlaneError, Side};
use tokio::time::{Instant, sleep};

use super::ends::checks;
use super::opening::pace;
use super::running::Running;
use super::{PgDataPlane, error};
use crate::logins::LoginRole;
use crate::moves::change_log;
use crate::moves::copy::{PurgeSettings, purge};
use crate::moves::fence::{self, State};
use crate::moves::plan::MovePlan;
use crate::moves::preflight::sweep;
use crate::moves::progress;
use crate::moves::session::{MoverSession, SILENCE};
use crate::moves::slot::{drop_publication, drop_slot, sever};

/// How often transactions that are waited for are looked at.
const LOOK: std::time::Duration = std::time::Duration::from_millis(20);

impl PgDataPlane {
    /// In one database, whatever becomes of the other one.
    pub(super) async fn end_sessions(&self, moved: &Move, side: Side) -> Result<(), PlaneError> {
        // Not called after the move: the call for the other side, on the same server, would end it.
        let opened = self.site(moved, side).await?.open_apart("sever").await;
        let mut session = opened.map_err(error::session)?;
        sever(session.conn(), moved.id.as_uuid(), self.settings.patience).await.map_err(error::slot)?;
        session.close().await;
        Ok(())
    }

    /// What moves left that are over, in both databases.
    pub(super) async fn remove_leftovers(&self, moved: &Move) -> Result<(), PlaneError> {
        for side in Side::ALL {
            let mut session = self.site(moved, side).await?.open("sweep").await.map_err(error::session)?;
            let swept = sweep(&mut session, &*self.registry).await.map_err(error::sweep)?;
            session.close().await;
            for removed in swept.removed {
                tracing::info!(moved = %moved.id, removed, "what an older move left was removed");
            }
            for left in swept.left {
                tracing::warn!(moved = %moved.id, left, "something is called like a move's");
            }
        }
        Ok(())
    }

    pub(super) async fn remove_one(
        &self,
        moved: &Move,
        running: &mut Running,
        cleanup: &Cleanup,
    ) -> Result<(), PlaneError> {
        // Nothing streams any more.
        running.end_flows();
        running.snapshot = None;
        let side = side_of(moved, cleanup)?;
        let mut session = match running.take(side) {
            Some(session) => session,
            None => self.site(moved, side).await?.open("tidy").await.map_err(error::session)?,
        };
        let removed = self.remove_object(moved, cleanup, &mut session);
        if cleanup.object == Object::Rows {
            removed.await?;
        } else {
            // A server that is lost without a word would keep the move for ever.
            let silent = |elapsed| error::later("removing what the move had made", elapsed);
            tokio::time::timeout(SILENCE.max(self.settings.readers * 2), removed).await.map_err(silent)??;
        }
        running.put(side, session);
        Ok(())
    }

    async fn remove_object(
        &self,
        moved: &Move,
        cleanup: &Cleanup,
        session: &mut MoverSession,
    ) -> Result<(), PlaneError> {
        match cleanup.object {
            Object::Slot => {
                drop_slot(session.conn(), &cleanup.name, self.settings.patience)
                    .await
                    .map_err(error::slot)?;
            }
            Object::Publication => {
                drop_publication(session.conn(), &cleanup.name, self.settings.readers)
                    .await
                    .map_err(error::publication)?;
            }
            Object::Progress => {
                progress::forget(session.conn(), moved.id.as_uuid()).await.map_err(error::progress)?;
            }
            Object::Rows => {
                self.serves(moved).await?;
                self.remove_rows(moved, session).await?;
            }
            Object::ChangeLog => {
                change_log::remove(session.conn(), &cleanup.name, self.settings.readers)
                    .await
                    .map_err(error::change_log)?;
            }
        }
        Ok(())
    }

    /// That the side which the move says serves the tenant does: what is removed elsewhere may be the last copy, if that
    /// database is gone, or was restored as it stood before the tenant came.
    async fn serves(&self, moved: &Move) -> Result<(), PlaneError> {
        let (side, epoch) = (moved.serving(), moved.located().epoch);
        let mut session = self.site(moved, side).await?.open("tidy").await.map_err(error::session)?;
        let found = fence::find(session.conn(), moved.tenant).await.map_err(error::fence)?;
        session.close().await;
        match found {
            Some((State::Active, at)) if at == epoch => Ok(()),
            found => {
                let found = found.map_or_else(
                    || "does not know the tenant".to_owned(),
                    |(state, at)| format!("has the tenant as {} at epoch {at}", state.as_str()),
                );
                Err(PlaneError::Refused(format!(
                    "the {side} {found}, and was to serve it at epoch {epoch}: no rows are removed at the other side; \
                     `stagesub doctor` tells which is right"
                )))
            }
        }
    }

    /// The rows of a side that does not serve the tenant. Whoever reads there since before it left ends first.
    async fn remove_rows(&self, moved: &Move, session: &mut MoverSession) -> Result<(), PlaneError> {
        let found = fence::find(session.conn(), moved.tenant).await.map_err(error::fence)?;
        match found {
            Some((State::Active, epoch)) => {
                return Err(PlaneError::Refused(format!(
                    "the database serves the tenant, at epoch {epoch}: its rows stay"
                )));
            }
            Some((State::Moving | State::Moved, epoch)) => {
                fence::retire(session.conn(), moved.tenant, epoch).await.map_err(error::fence)?;
                self.await_readers(session).await?;
            }
            // Nobody ever entered.
            None => {}
        }
        let checks = checks(session.may_skip_checks().await.map_err(error::session)?);
        let plan = MovePlan::read_to_remove(session, &self.contents, checks).await.map_err(error::plan)?;
        let removed = purge(session, &plan, moved.tenant, &PurgeSettings::at(pace(moved)))
            .await
            .map_err(error::copy)?;
        tracing::info!(moved = %moved.id, removed, "rows were removed where the tenant is not served");
        Ok(())
    }

    /// Transactions of the application that run now, in this database. They may have entered before the fence was
    /// closed, and read on.
    async fn await_readers(&self, session: &mut MoverSession) -> Result<(), PlaneError> {
        let doing = "waiting for transactions that read where the tenant was";
        // Each has a number of its own for as long as it runs, and everybody may see it.
        let running = sqlx::query_scalar!(
            r#"SELECT l.virtualtransaction AS "running!" FROM pg_catalog.pg_locks AS l
             JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
             WHERE l.locktype = 'virtualxid' AND a.datname = current_database() AND a.usename = $1"#,
            LoginRole::App.as_str()
        )
        .fetch_all(session.conn())
        .await
        .map_err(error::sql(doing))?;
        let until = Instant::now() + self.settings.readers;
        loop {
            let left = sqlx::query_scalar!(
                r#"SELECT count(*) AS "left!" FROM pg_catalog.pg_locks
                 WHERE locktype = 'virtualxid' AND virtualtransaction = ANY($1)"#,
                &running
            )
            .fetch_one(session.conn())
            .await
            .map_err(error::sql(doing))?;
            if left == 0 {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(error::later(doing, format!("{left} still run")));
            }
            sleep(LOOK).await;
        }
    }
}

/// In which of its two databases something of a move is.
fn side_of(moved: &Move, cleanup: &Cleanup) -> Result<Side, PlaneError> {
    moved.side_at(cleanup.database).ok_or_else(|| {
        PlaneError::Refused(format!(
            "{} is said to be in the database {}, which is neither side of the move",
            cleanup.name, cleanup.database
        ))
    })
}
