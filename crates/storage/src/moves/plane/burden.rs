//! What a move has a server keep for it. Its neighbours pay for that too: a disk that is full stops all of them.

use std::time::Duration;

use stagesub_tenancy::moves::{Move, MovePath, PlaneError, Side};
use tokio::time::{Instant, sleep};

use super::ends::Ends;
use super::running::Running;
use super::{PgDataPlane, error, logs};
use crate::moves::progress::Direction;
use crate::moves::session::{MoverSession, Site};
use crate::moves::slot::stream_name;

/// One GiB.
const GIB: u64 = 1 << 30;

/// Most that may be kept for a move before it is decided, and how often it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burden {
    /// Most bytes of a server's log that the move's slot keeps, or that its own log of changes takes. With more the move
    /// is aborted. It counts while the tenant is at its source: once it has been elsewhere, only who asked for the move
    /// may end it.
    pub most: u64,
    /// How often it is looked at while rows are copied, followed and compared.
    pub look: Duration,
}

impl Default for Burden {
    fn default() -> Self {
        Self { most: 16 * GIB, look: Duration::from_secs(10) }
    }
}

impl PgDataPlane {
    /// Does something that may take for long, and ends it when more is kept for it than may be.
    pub(super) async fn while_bearable<T>(
        &self,
        moved: &Move,
        ends: &Ends,
        work: impl Future<Output = Result<T, PlaneError>>,
    ) -> Result<T, PlaneError> {
        if !counts(moved) {
            return work.await;
        }
        let watch = async {
            let mut session = None;
            loop {
                match self.look(moved, ends.site(Side::Source), &mut session).await {
                    Ok(kept) => {
                        if let Err(too_much) = self.bears(kept) {
                            return too_much;
                        }
                    }
                    // What the work itself needs of the server, it will miss.
                    Err(error) => {
                        tracing::debug!(
                            error = &error as &dyn std::error::Error,
                            "what a move has kept is not known"
                        );
                    }
                }
                sleep(self.settings.burden.look).await;
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            too_much = watch => Err(too_much),
        }
    }

    /// The same between steps that take no time, on the session that is kept for questions.
    pub(super) async fn still_bearable(&self, moved: &Move, running: &mut Running) -> Result<(), PlaneError> {
        let is_due = running.looked.is_none_or(|looked| looked.elapsed() >= self.settings.burden.look);
        if !counts(moved) || !is_due {
            return Ok(());
        }
        running.looked = Some(Instant::now());
        let mut session = self.session(moved, running, Side::Source).await?;
        let kept = kept(moved, &mut session).await?;
        running.put(Side::Source, session);
        self.bears(kept)
    }

    /// The same of a move that does nothing else now.
    pub(super) async fn look_at_burden(&self, moved: &Move) -> Result<(), PlaneError> {
        if !counts(moved) {
            return Ok(());
        }
        let site = self.site(moved, Side::Source).await?;
        let kept = self.look(moved, &site, &mut None).await?;
        self.bears(kept)
    }

    async fn look(
        &self,
        moved: &Move,
        site: &Site,
        session: &mut Option<MoverSession>,
    ) -> Result<u64, PlaneError> {
        let mut asked = match session.take() {
            Some(session) => session,
            None => site.open("look").await.map_err(error::session)?,
        };
        let kept = kept(moved, &mut asked).await?;
        *session = Some(asked);
        Ok(kept)
    }

    fn bears(&self, kept: u64) -> Result<(), PlaneError> {
        too_much(kept, self.settings.burden.most)
    }
}

/// Whether the bound is this move's: the tenant has never been anywhere but at its source.
const fn counts(moved: &Move) -> bool {
    moved.state.may_abort() && !matches!(moved.path, MovePath::Short)
}

/// How many bytes the source keeps for a move.
async fn kept(moved: &Move, session: &mut MoverSession) -> Result<u64, PlaneError> {
    let name = stream_name(moved.id.as_uuid(), Direction::Forward);
    let doing = "looking at what a move has kept";
    let kept = if logs::are_used(moved) {
        sqlx::query_scalar!(
            r#"SELECT coalesce(pg_catalog.pg_total_relation_size(
                pg_catalog.to_regclass('app.' || pg_catalog.quote_ident($1))), 0) AS "kept!""#,
            name
        )
        .fetch_one(session.conn())
        .await
        .map_err(error::sql(doing))?
    } else {
        let kept = sqlx::query_scalar!(
            r#"SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)::bigint AS kept
            FROM pg_catalog.pg_replication_slots
            WHERE slot_name = $1 AND database = current_database()"#,
            name
        )
        .fetch_optional(session.conn())
        .await
        .map_err(error::sql(doing))?;
        // Whether the slot is there, whoever needs it will see.
        kept.flatten().unwrap_or(0)
    };
    Ok(kept.max(0).unsigned_abs())
}

fn too_much(kept: u64, most: u64) -> Result<(), PlaneError> {
    if kept <= most {
        return Ok(());
    }
    Err(PlaneError::Refused(format!(
        "the source keeps {} MiB of log for the move, and {} MiB are the most (STAGESUB_MOVE_LOG_GIB): more was written there \
         meanwhile than the move keeps up with, or a transaction there has been open for long; begin it again with a faster \
         pace, when less is written, or with a higher bound",
        kept >> 20,
        most >> 20
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_up_to_the_bound_is_borne() {
        let burden = Burden::default();
        assert!(too_much(0, 0).is_ok() && too_much(burden.most, burden.most).is_ok());
        let told = too_much(burden.most + (1 << 20), burden.most).unwrap_err().to_string();
        assert!(told.starts_with("the source keeps 16385 MiB of log for the move, and 16384 MiB"), "{told}");
    }
}
