//! Following what changes in the registry, so that caches stay true.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::directory::{ChangeFeed, Changes, DirectoryError, Standing};
use crate::tenant::ConfigVersion;

/// Longest that one asking may take before it is given up and begun again. What was changed when it began to
/// hang is known after this, a period and an asking that does not hang: together within the five seconds that
/// are promised when nothing is heard.
const PATIENCE: Duration = Duration::from_secs(2);

/// A registry that is slower than [`PATIENCE`] would never be followed, so each asking that took too long gives
/// the next one twice the time, up to this.
const MOST_PATIENCE: Duration = Duration::from_secs(16);

/// Something that remembers answers and is told what changed: a cache of tenants, of people's authority.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
pub trait ChangeSink: Send + Sync {
    /// These changed: what is remembered of them is no longer true. Those that arrive have not changed yet.
    fn apply(&self, changes: &Changes);

    /// Anything may have changed: nothing that is remembered can be relied on.
    fn apply_unknown(&self);
}

/// Asks a [`ChangeFeed`] what changed and tells every sink. One per node, asked each second and whenever a
/// [`ChangeSignal`](crate::directory::ChangeSignal) says so.
///
/// A feed that cannot be reached leaves sinks as they are: nobody can change the registry then either, and
/// their own ages bound what a node that is cut off believes.
pub struct ChangeFollower {
    feed: Arc<dyn ChangeFeed>,
    sinks: Vec<Arc<dyn ChangeSink>>,
    seen: Option<Standing>,
    /// Longest that the next asking may take.
    patience: Duration,
}

impl ChangeFollower {
    /// A follower that has seen nothing: its first poll empties the sinks.
    #[must_use]
    pub fn new(feed: Arc<dyn ChangeFeed>, sinks: Vec<Arc<dyn ChangeSink>>) -> Self {
        Self { feed, sinks, seen: None, patience: PATIENCE }
    }

    /// Tells the sinks what changed since the last successful poll, and gives the version they are true for.
    ///
    /// A feed that says nothing, as of a server that is frozen, is given up after 2 seconds, and has twice the time at
    /// the next poll, up to 16, until it answers.
    ///
    /// # Errors
    /// The feed's, and [`DirectoryError::Unavailable`] when it said nothing; the next poll asks for the same changes again.
    ///
    /// # Cancel safety
    /// Sinks are told after the last await: either all of them or none.
    pub async fn poll_once(&mut self) -> Result<ConfigVersion, DirectoryError> {
        let patience = self.patience;
        match tokio::time::timeout(patience, self.poll()).await {
            Ok(polled) => {
                if polled.is_ok() {
                    self.patience = PATIENCE;
                }
                polled
            }
            Err(elapsed) => {
                self.patience = MOST_PATIENCE.min(patience * 2);
                Err(DirectoryError::Unavailable(Box::new(elapsed)))
            }
        }
    }

    async fn poll(&mut self) -> Result<ConfigVersion, DirectoryError> {
        let Some(seen) = &self.seen else {
            let standing = self.feed.current().await?;
            return Ok(self.start_over(standing));
        };
        let changes = self.feed.changes_since(seen.version).await?;
        if changes.standing.history != seen.history || changes.standing.version < seen.version {
            // The registry was put back to an earlier state, and may have gone on from there past the version
            // that was seen: what changed cannot be listed.
            return Ok(self.start_over(changes.standing));
        }
        let Changes { tenants, users, arriving, standing: _ } = &changes;
        if !(tenants.is_empty() && users.is_empty() && arriving.is_empty()) {
            self.sinks.iter().for_each(|sink| sink.apply(&changes));
        }
        let version = changes.standing.version;
        self.seen = Some(changes.standing);
        Ok(version)
    }

    /// What was remembered up to here may be older than `standing`, which was read before this.
    fn start_over(&mut self, standing: Standing) -> ConfigVersion {
        self.sinks.iter().for_each(|sink| sink.apply_unknown());
        let version = standing.version;
        self.seen = Some(standing);
        version
    }
}

impl fmt::Debug for ChangeFollower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seen, sinks, .. } = self;
        f.debug_struct("ChangeFollower")
            .field("seen", seen)
            .field("sinks", &sinks.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use mockall::Sequence;
    use mockall::predicate::eq;
    use uuid::Uuid;

    use super::*;
    use crate::directory::MockChangeFeed;
    use crate::tenant::TenantId;

    fn standing(version: i64) -> Standing {
        Standing { version: ConfigVersion(version), history: "first".to_owned() }
    }

    fn changes(version: i64, tenants: &[u128]) -> Changes {
        Changes {
            tenants: tenants.iter().map(|id| TenantId::from_uuid(Uuid::from_u128(*id))).collect(),
            standing: standing(version),
            ..Changes::default()
        }
    }

    fn feed(answers: Vec<(i64, Result<Changes, DirectoryError>)>) -> MockChangeFeed {
        let mut feed = MockChangeFeed::new();
        feed.expect_current().once().returning(|| Ok(standing(7)));
        let mut order = Sequence::new();
        for (since, answer) in answers {
            feed.expect_changes_since()
                .with(eq(ConfigVersion(since)))
                .once()
                .in_sequence(&mut order)
                .return_once(move |_| answer);
        }
        feed
    }

    #[tokio::test]
    async fn every_sink_hears_of_each_change_once() {
        let mut first = MockChangeSink::new();
        first.expect_apply_unknown().once().return_const(());
        first.expect_apply().with(eq(changes(9, &[1]))).once().return_const(());
        let mut second = MockChangeSink::new();
        second.expect_apply_unknown().once().return_const(());
        second.expect_apply().with(eq(changes(9, &[1]))).once().return_const(());
        let feed = feed(vec![(7, Ok(changes(9, &[1]))), (9, Ok(changes(9, &[])))]);
        let mut follower = ChangeFollower::new(Arc::new(feed), vec![Arc::new(first), Arc::new(second)]);
        for version in [7, 9, 9] {
            assert_eq!(follower.poll_once().await.expect("polled"), ConfigVersion(version));
        }
    }

    #[tokio::test]
    async fn failed_poll_is_asked_again_and_changes_nothing() {
        let mut sink = MockChangeSink::new();
        sink.expect_apply_unknown().once().return_const(());
        sink.expect_apply().once().return_const(());
        let unavailable = DirectoryError::Unavailable("down".into());
        let feed = feed(vec![(7, Err(unavailable)), (7, Ok(changes(8, &[1])))]);
        let mut follower = ChangeFollower::new(Arc::new(feed), vec![Arc::new(sink)]);
        assert!(follower.poll_once().await.is_ok());
        assert!(matches!(follower.poll_once().await, Err(DirectoryError::Unavailable(_))));
        assert!(follower.poll_once().await.is_ok());
    }

    #[tokio::test]
    async fn version_that_went_back_empties_the_sinks() {
        let mut sink = MockChangeSink::new();
        sink.expect_apply_unknown().times(2).return_const(());
        let feed = feed(vec![(7, Ok(changes(3, &[]))), (3, Ok(changes(3, &[])))]);
        let mut follower = ChangeFollower::new(Arc::new(feed), vec![Arc::new(sink)]);
        for version in [7, 3, 3] {
            assert_eq!(follower.poll_once().await.expect("polled"), ConfigVersion(version));
        }
    }
    #[tokio::test]
    async fn registry_that_was_restored_and_went_on_past_what_was_seen_empties_the_sinks() {
        let mut sink = MockChangeSink::new();
        sink.expect_apply_unknown().times(2).return_const(());
        sink.expect_apply().with(eq(of_second(12, &[1]))).once().return_const(());
        // Version 9 is not the one after 7: tenant 2 changed in the new history's version 4, which nobody lists.
        let feed = feed(vec![(7, Ok(of_second(9, &[1]))), (9, Ok(of_second(12, &[1])))]);
        let mut follower = ChangeFollower::new(Arc::new(feed), vec![Arc::new(sink)]);
        for version in [7, 9, 12] {
            assert_eq!(follower.poll_once().await.expect("polled"), ConfigVersion(version));
        }
    }

    fn of_second(version: i64, tenants: &[u128]) -> Changes {
        let changes = changes(version, tenants);
        let standing = Standing { history: "second".to_owned(), ..changes.standing };
        Changes { standing, ..changes }
    }
}
