//! Whether both sides are equal: everything once, then what changed since.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::time::Duration;

use stagesub_tenancy::moves::plane::Verdict;
use stagesub_tenancy::moves::{Move, MovePath, PlaneError};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::cutover::hurry;
use super::running::{Compared, Running, from, way};
use super::{PgDataPlane, error, opening};
use crate::moves::apply::{DirtyRows, key_texts};
use crate::moves::progress::Direction;
use crate::moves::verify::{self, Difference, RowKey, Verified, VerifySettings};

/// Most rows that may be on their way while everything is compared: what a tenant writes in a second or more, which
/// is how long the target of a busy one may be behind. Each is looked at again.
const SUSPECTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9_999);
/// Most keys of one question.
const ASKED: usize = 500;
/// How often rows that differ are looked at again, each time after everything that was written before has arrived.
/// A row that was written in between may still be on its way.
const LOOKS: u32 = 10;
/// Pause in between.
const PAUSE: Duration = Duration::from_millis(20);
/// How often everything is compared again because more rows were on their way than are told one by one.
const WALKS: u32 = 5;
/// Longest that changed rows are compared at one go, and right before the lock.
const SETTLING: Duration = Duration::from_secs(5);
const LAST_SETTLING: Duration = Duration::from_millis(500);

impl PgDataPlane {
    /// Compares all rows, or, where that was done and the stream followed since, those that changed.
    pub(super) async fn compare(&self, moved: &Move, running: &mut Running) -> Result<Verdict, PlaneError> {
        let way = way(moved);
        if running.compared.way == Some(way) {
            self.settled(moved, running).await?;
            return Ok(Verdict::default());
        }
        for _ in 0..WALKS {
            let verified = self.walk(moved, running, way).await?;
            if verified.more {
                // A target that is behind differs in many rows. If it is not, they differ for good.
                self.round_trip(moved, running).await?;
                continue;
            }
            let rows = verified.rows;
            let suspects = verified.differences.into_iter().map(|difference| difference.row).collect();
            let differences = self.look_again(moved, running, suspects).await?;
            return Ok(Verdict { rows, differences });
        }
        Ok(Verdict {
            rows: 0,
            differences: vec!["many rows of both sides differ, whenever they are compared".to_owned()],
        })
    }

    /// Everything. What changes from here on is remembered by the stream.
    async fn walk(
        &self,
        moved: &Move,
        running: &mut Running,
        way: Direction,
    ) -> Result<Verified, PlaneError> {
        let ends = self.ends(moved, running).await?;
        let plans = self.plans(moved, running).await?;
        running.compared = Compared::default();
        let flow = running.flow(way).ok_or_else(|| error::later("comparing", "there is no stream"))?;
        flow.control.clear_dirty();
        let settings =
            VerifySettings { most_differences: SUSPECTS, ..VerifySettings::at(opening::pace(moved)) };
        let (serving, other) = (ends.site(from(way)), ends.site(from(way).other()));
        verify::everything(serving, other, plans.of(way), moved.tenant, &settings)
            .await
            .map_err(error::verify)
    }

    /// Rows that differ may only have been on their way. Those that still do, and were not written to since, differ.
    async fn look_again(
        &self,
        moved: &Move,
        running: &mut Running,
        mut suspects: BTreeSet<RowKey>,
    ) -> Result<Vec<String>, PlaneError> {
        let way = way(moved);
        let mut pending = BTreeSet::new();
        let mut differences = Vec::new();
        for look in 1..=LOOKS {
            if suspects.is_empty() {
                break;
            }
            self.round_trip(moved, running).await?;
            note(&mut pending, self.changed(moved, running, way).await?).await;
            let asked: Vec<RowKey> = suspects.iter().cloned().collect();
            let mut found = Vec::new();
            for asked in asked.chunks(ASKED) {
                found.extend(self.compare_keys(moved, running, way, asked).await?);
            }
            suspects = found.iter().map(|difference| difference.row.clone()).collect();
            if look == LOOKS {
                // What was written to meanwhile is compared with everything else that was.
                differences = found
                    .iter()
                    .filter(|found| !pending.contains(&found.row))
                    .map(ToString::to_string)
                    .collect();
                pending.append(&mut suspects);
            } else {
                sleep(PAUSE).await;
            }
        }
        running.compared = Compared { way: Some(way), pending };
        Ok(differences)
    }

    /// Compares rows that changed; how many are left, those that change meanwhile included. What is written meanwhile
    /// is brought at once: a row that changes more often than that differs whenever it is looked at.
    pub(super) async fn settled(&self, moved: &Move, running: &mut Running) -> Result<u64, PlaneError> {
        hurry(running, true);
        let left = self.compare_changed(moved, running, SETTLING).await;
        hurry(running, false);
        left
    }

    /// The same right before the lock: what is compared now is not while the tenant waits. Whether as little is left as can
    /// be asked at one go.
    pub(super) async fn is_settled(&self, moved: &Move, running: &mut Running) -> Result<bool, PlaneError> {
        Ok(self.compare_changed(moved, running, LAST_SETTLING).await? <= ASKED as u64)
    }

    async fn compare_changed(
        &self,
        moved: &Move,
        running: &mut Running,
        within: Duration,
    ) -> Result<u64, PlaneError> {
        let way = way(moved);
        // From before the keys are read, which may take long as well; some are compared all the same.
        let until = Instant::now() + within;
        let mut compared = followed(running, way)?;
        note(&mut compared.pending, self.changed(moved, running, way).await?).await;
        let mut still = Vec::new();
        while !compared.pending.is_empty() {
            let next = std::iter::from_fn(|| compared.pending.pop_first());
            let asked: Vec<RowKey> = next.take(ASKED).collect();
            let differ = self.compare_keys(moved, running, way, &asked).await?;
            still.extend(differ.into_iter().map(|difference| difference.row));
            if Instant::now() >= until {
                break;
            }
        }
        note(&mut compared.pending, still).await;
        let left = compared.pending.len();
        running.compared = compared;
        let flow = running.flow(way).ok_or_else(|| error::later("comparing", "there is no stream"))?;
        let changed = flow.control.dirty_len().unwrap_or(usize::MAX);
        Ok(u64::try_from(left.saturating_add(changed)).unwrap_or(u64::MAX))
    }

    /// Inside the fence: what changed since it was compared. On the short path, everything.
    pub(super) async fn compare_fenced(
        &self,
        moved: &Move,
        running: &mut Running,
    ) -> Result<Verdict, PlaneError> {
        let way = way(moved);
        if moved.path == MovePath::Short {
            let verified = running.verified.take();
            let unknown = || error::later("comparing", "the rows were not compared");
            return Ok(verdict(&verified.ok_or_else(unknown)?));
        }
        let mut compared = followed(running, way)?;
        compared.pending.extend(self.changed(moved, running, way).await?);
        let asked: Vec<RowKey> = compared.pending.iter().cloned().collect();
        let differences = self.compare_keys(moved, running, way, &asked).await?;
        let rows = u64::try_from(asked.len()).unwrap_or(u64::MAX);
        compared.pending = differences.iter().map(|difference| difference.row.clone()).collect();
        running.compared = compared;
        Ok(Verdict { rows, differences: differences.iter().map(ToString::to_string).collect() })
    }

    /// The rows that the stream changed since it was asked last.
    async fn changed(
        &self,
        moved: &Move,
        running: &mut Running,
        way: Direction,
    ) -> Result<Vec<RowKey>, PlaneError> {
        let flow = running.flow(way).ok_or_else(|| error::later("comparing", "there is no stream"))?;
        let keys = match flow.control.take_dirty() {
            DirtyRows::Keys(keys) => keys,
            DirtyRows::TooMany => {
                let why = "more rows changed than are remembered; everything is to be compared again";
                return Err(error::later("comparing", why));
            }
        };
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let plans = self.plans(moved, running).await?;
        let other = from(way).other();
        let mut session = self.session(moved, running, other).await?;
        let rows = key_texts(session.conn(), plans.at(other), keys).await.map_err(error::apply)?;
        running.put(other, session);
        Ok(rows)
    }

    async fn compare_keys(
        &self,
        moved: &Move,
        running: &mut Running,
        way: Direction,
        keys: &[RowKey],
    ) -> Result<Vec<Difference>, PlaneError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let plans = self.plans(moved, running).await?;
        let mut serving = self.session(moved, running, from(way)).await?;
        let mut other = self.session(moved, running, from(way).other()).await?;
        let differences = verify::keys(&mut serving, &mut other, plans.of(way), moved.tenant, keys).await;
        let differences = differences.map_err(error::verify)?;
        running.put(from(way), serving);
        running.put(from(way).other(), other);
        Ok(differences)
    }
}

/// Adds rows, which may be a minute's: some at a time, since others want the thread.
async fn note(pending: &mut BTreeSet<RowKey>, rows: Vec<RowKey>) {
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        pending.extend(rows.by_ref().take(ASKED));
        yield_now().await;
    }
}

/// What is known of the rows. It is taken, so that it is unknown where an answer does not come.
fn followed(running: &mut Running, way: Direction) -> Result<Compared, PlaneError> {
    let compared = std::mem::take(&mut running.compared);
    if compared.way == Some(way) {
        Ok(compared)
    } else {
        Err(error::later("comparing", "both sides have not been compared since the stream began"))
    }
}

fn verdict(verified: &Verified) -> Verdict {
    let mut differences: Vec<String> = verified.differences.iter().map(ToString::to_string).collect();
    if verified.more {
        differences.push("and more".to_owned());
    }
    Verdict { rows: verified.rows, differences }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::catalogue::TableName;

    #[test]
    fn a_minutes_rows_are_added_some_at_a_time() {
        let table = TableName { schema: "tenant".to_owned(), name: "note".to_owned() };
        let row = |n: usize| RowKey { table: table.clone(), values: vec![n.to_string()] };
        let (mut pending, last) = (BTreeSet::from([row(0)]), 2 * ASKED + 1);
        let mut adding = Box::pin(note(&mut pending, (0..=last).map(row).collect()));
        let mut goes = 1;
        while adding.as_mut().now_or_never().is_none() {
            goes += 1;
        }
        drop(adding);
        assert_eq!((goes, pending.len()), (4, last + 1), "others had their turn in between");
    }
}
