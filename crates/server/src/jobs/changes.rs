//! This node's caches follow what changes in the registry.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stagesub_tenancy::{ChangeFollower, ChangeSignal, ConfigVersion};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::problem::error_chain;

/// How a node hears of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follow {
    /// How often the registry is asked, whatever is heard of it.
    pub period: Duration,
    /// Whether the registry's notifications are listened to, so that it is asked at once.
    pub listen: bool,
}

impl Default for Follow {
    /// Asks each second, and listens.
    fn default() -> Self {
        Self { period: Duration::from_secs(1), listen: true }
    }
}

/// How far a node has followed.
#[derive(Debug, Default)]
pub struct Heard {
    version: AtomicI64,
    at: Mutex<Option<Instant>>,
}

impl Heard {
    /// The version that its caches are true for.
    #[must_use]
    pub fn version(&self) -> ConfigVersion {
        ConfigVersion(self.version.load(Ordering::Relaxed))
    }

    /// How long ago the registry answered; `None`: it has not yet.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }

    fn now(&self, version: ConfigVersion) {
        self.version.store(version.0, Ordering::Relaxed);
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

/// Shortest time from one asking to the next: changes that come close together are asked for at once.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks each `period`, and when `signal` tells, until told to stop. A registry that is away is logged once when
/// it goes and once when it is back; until then caches keep what they have, within their own ages.
pub async fn follow(
    follower: ChangeFollower,
    period: Duration,
    signal: Option<Box<dyn ChangeSignal>>,
    heard: Arc<Heard>,
    stop: CancellationToken,
) {
    let wake = Notify::new();
    tokio::select! {
        () = stop.cancelled() => {}
        () = ask(follower, period, &wake, &heard) => {}
        () = listen(signal, &wake) => {}
    }
}

/// Never ends, and is never held up by asking: a signal that waits for its own connection costs nobody else time.
async fn listen(signal: Option<Box<dyn ChangeSignal>>, wake: &Notify) {
    let Some(mut signal) = signal else { return std::future::pending().await };
    loop {
        signal.changed().await;
        // Kept if nobody waits, and kept once: a signal that comes during an asking makes one more.
        wake.notify_one();
    }
}

async fn ask(mut follower: ChangeFollower, period: Duration, wake: &Notify, heard: &Heard) {
    let mut away = false;
    loop {
        let begun = Instant::now();
        let polled = follower.poll_once().await;
        if let Ok(version) = &polled {
            heard.now(*version);
        }
        match (polled, away) {
            (Ok(version), true) => {
                tracing::info!(version = version.0, "the registry's changes are followed again");
                away = false;
            }
            (Ok(_), false) => {}
            (Err(error), false) => {
                tracing::warn!(cause = %error_chain(&error), "the registry's changes cannot be followed");
                away = true;
            }
            (Err(error), true) => tracing::debug!(cause = %error_chain(&error), "the registry is still away"),
        }
        tokio::time::sleep_until(begun + PAUSE).await;
        tokio::select! {
            () = tokio::time::sleep_until(begun + period) => {}
            () = wake.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use stagesub_tenancy::{ChangeFeed, Changes, DirectoryError, Standing};
    use tokio::sync::mpsc;

    use super::*;

    const PERIOD: Duration = Duration::from_secs(1);
    /// What a follower has at first.
    const PATIENCE: Duration = Duration::from_secs(2);

    /// What becomes of an asking.
    #[derive(Clone, Copy)]
    enum Plan {
        Answers,
        Fails,
        Hangs,
        Takes(Duration),
    }

    /// Does as planned, then answers; notes when it was asked, and stops the job after so many askings.
    struct Feed {
        begun: Instant,
        asked: Mutex<Vec<Duration>>,
        plan: Vec<Plan>,
        last: usize,
        stop: CancellationToken,
    }

    impl Feed {
        async fn answer(&self) -> Result<Standing, DirectoryError> {
            let number = {
                let mut asked = self.asked.lock().unwrap();
                asked.push(self.begun.elapsed());
                asked.len()
            };
            if number == self.last {
                self.stop.cancel();
            }
            match self.plan.get(number - 1).copied().unwrap_or(Plan::Answers) {
                Plan::Answers => {}
                Plan::Fails => return Err(DirectoryError::Unavailable("down".into())),
                Plan::Hangs => std::future::pending().await,
                Plan::Takes(time) => tokio::time::sleep(time).await,
            }
            Ok(Standing::default())
        }
    }

    #[async_trait]
    impl ChangeFeed for Feed {
        async fn current(&self) -> Result<Standing, DirectoryError> {
            self.answer().await
        }

        async fn changes_since(&self, _: ConfigVersion) -> Result<Changes, DirectoryError> {
            Ok(Changes { standing: self.answer().await?, ..Changes::default() })
        }
    }

    /// Tells each time that something is sent to it.
    struct Told(mpsc::UnboundedReceiver<()>);

    #[async_trait]
    impl ChangeSignal for Told {
        async fn changed(&mut self) {
            if self.0.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Follows until it was asked `last` times; the milliseconds at which it was.
    async fn asked(plan: &[Plan], last: usize, signal: Option<Box<dyn ChangeSignal>>) -> Vec<u128> {
        followed(plan, last, signal, Arc::default()).await
    }

    /// The same, noting how far it has followed.
    async fn followed(
        plan: &[Plan],
        last: usize,
        signal: Option<Box<dyn ChangeSignal>>,
        heard: Arc<Heard>,
    ) -> Vec<u128> {
        let stop = CancellationToken::new();
        let feed = Arc::new(Feed {
            begun: Instant::now(),
            asked: Mutex::default(),
            plan: plan.to_vec(),
            last,
            stop: stop.clone(),
        });
        let follower = ChangeFollower::new(Arc::clone(&feed) as Arc<dyn ChangeFeed>, Vec::new());
        follow(follower, PERIOD, signal, heard, stop).await;
        let asked = feed.asked.lock().unwrap();
        asked.iter().map(Duration::as_millis).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_registry_is_asked_each_second_also_after_a_failure() {
        assert_eq!(
            asked(&[Plan::Fails, Plan::Answers, Plan::Fails], 5, None).await,
            [0, 1000, 2000, 3000, 4000]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_age_is_that_of_the_last_answer() {
        let heard = Arc::new(Heard::default());
        followed(&[Plan::Fails], 1, None, Arc::clone(&heard)).await;
        assert_eq!(heard.age(), None);
        followed(&[Plan::Answers, Plan::Fails, Plan::Fails], 3, None, Arc::clone(&heard)).await;
        assert_eq!((heard.age(), heard.version()), (Some(2 * PERIOD), ConfigVersion(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_asking_that_hangs_leaves_time_for_another_within_five_seconds() {
        // The change comes when the second one has begun to hang: the third one, which hears of it, begins in time.
        let times = asked(&[Plan::Answers, Plan::Hangs], 3, None).await;
        assert_eq!(times, [0, 1000, 3000]);
        assert!(PERIOD + PATIENCE <= Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_is_slow_is_given_more_time_and_followed() {
        let slow = Plan::Takes(Duration::from_secs(7));
        // Given up after 2 and 4 s, answered at 7 of 8 s; once it answers, as impatient as before.
        let times = asked(&[slow, slow, slow, Plan::Hangs, Plan::Answers], 5, None).await;
        assert_eq!(times, [0, 2000, 6000, 13000, 15000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_has_the_registry_asked_at_once_and_a_burst_of_them_once() {
        let (tell, told) = mpsc::unbounded_channel();
        let telling = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            for _ in 0..1000 {
                tell.send(()).unwrap();
            }
            std::future::pending::<()>().await;
        };
        let times = tokio::select! {
            times = asked(&[], 4, Some(Box::new(Told(told)))) => times,
            () = telling => unreachable!(),
        };
        // At once; once more for those that came during the pause; then each second again.
        assert_eq!(times, [0, 300, 320, 1320]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_during_an_asking_makes_one_more() {
        let (tell, told) = mpsc::unbounded_channel();
        let telling = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            tell.send(()).unwrap();
            std::future::pending::<()>().await;
        };
        let slow = [Plan::Takes(Duration::from_millis(200))];
        let times = tokio::select! {
            times = asked(&slow, 2, Some(Box::new(Told(told)))) => times,
            () = telling => unreachable!(),
        };
        assert_eq!(times, [0, 200]);
    }

    #[tokio::test(start_paused = true)]
    async fn neither_a_feed_nor_a_signal_that_hangs_holds_the_server() {
        let (_tell, told) = mpsc::unbounded_channel();
        let begun = Instant::now();
        asked(&[Plan::Hangs, Plan::Hangs], 2, Some(Box::new(Told(told)))).await;
        assert_eq!(begun.elapsed(), PATIENCE);
    }
}
