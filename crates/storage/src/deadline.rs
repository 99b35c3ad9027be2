//! Bounds on the client's side. The server keeps those that a transaction's first message sets, unless it is frozen.

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::time::Sleep;

/// A server that took a message and did not answer.
#[derive(Debug, thiserror::Error)]
#[error("the database did not answer within {} ms", within.as_millis())]
pub(crate) struct Unanswered {
    pub(crate) within: Duration,
}

/// As the driver's error: a connection that does not answer is as good as lost.
impl From<Unanswered> for sqlx::Error {
    fn from(unanswered: Unanswered) -> Self {
        Self::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, unanswered))
    }
}

/// Waits for one answer, so long; then it tells `silent`. `settled` is true again once it has come whole.
pub(crate) async fn answer<T>(
    answer: impl Future<Output = Result<T, sqlx::Error>>,
    within: Duration,
    settled: &mut bool,
    silent: impl FnOnce(),
) -> Result<T, sqlx::Error> {
    *settled = false;
    if let Ok(answered) = tokio::time::timeout(within, answer).await {
        *settled = answered.is_ok();
        answered
    } else {
        silent();
        Err(Unanswered { within }.into())
    }
}

/// Waits for each of several answers, so long. Time that the reader takes in between does not count. `settled` is
/// true again once the last has come; after an error something may always be outstanding.
pub(crate) fn answers<'e, T: 'e>(
    mut answers: BoxStream<'e, Result<T, sqlx::Error>>,
    within: Duration,
    settled: &'e mut bool,
    silent: impl Fn() + Send + 'e,
) -> BoxStream<'e, Result<T, sqlx::Error>> {
    *settled = false;
    let mut failed = false;
    let mut waiting: Option<Pin<Box<Sleep>>> = None;
    stream::poll_fn(move |cx| {
        if let Poll::Ready(answered) = answers.poll_next_unpin(cx) {
            waiting = None;
            failed |= matches!(answered, Some(Err(_)));
            *settled = answered.is_none() && !failed;
            return Poll::Ready(answered);
        }
        let bound = waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(within)));
        bound.as_mut().poll(cx).map(|()| {
            waiting = None;
            silent();
            Some(Err(Unanswered { within }.into()))
        })
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::TryStreamExt as _;

    use super::*;
    use crate::error::is_dead;

    const BOUND: Duration = Duration::from_secs(20);

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_is_an_error_of_the_connection() {
        let told = Cell::new(0);
        let silent = || told.set(told.get() + 1);
        let mut settled = true;
        assert_eq!(answer(async { Ok(7) }, BOUND, &mut settled, silent).await.unwrap(), 7);
        assert!(settled && told.get() == 0);
        let never = std::future::pending::<Result<(), _>>();
        let error = answer(never, BOUND, &mut settled, silent).await.unwrap_err();
        assert!(is_dead(&error), "{error}");
        assert!(!settled && told.get() == 1);
    }

    #[tokio::test(start_paused = true)]
    async fn each_of_several_answers_has_its_time() {
        let told = AtomicU32::new(0);
        let slow = stream::iter(0..3).then(|n| async move {
            tokio::time::sleep(BOUND / 2).await;
            Ok(n)
        });
        let silent = || {
            told.fetch_add(1, Ordering::Relaxed);
        };
        let mut settled = false;
        let all: Vec<i32> = answers(slow.boxed(), BOUND, &mut settled, silent).try_collect().await.unwrap();
        assert_eq!(all, [0, 1, 2]);
        assert!(settled && told.load(Ordering::Relaxed) == 0);

        let stuck = stream::iter([Ok(1)]).chain(stream::pending());
        let mut stuck = answers(stuck.boxed(), BOUND, &mut settled, silent);
        assert_eq!(stuck.try_next().await.unwrap(), Some(1));
        assert!(is_dead(&stuck.try_next().await.unwrap_err()));
        drop(stuck);
        assert!(!settled && told.load(Ordering::Relaxed) == 1);
    }

    #[tokio::test]
    async fn what_failed_is_not_settled_however_far_it_is_read() {
        let failing = stream::iter([Ok(1), Err(sqlx::Error::WorkerCrashed)]).boxed();
        let mut settled = true;
        let all: Vec<Result<i32, _>> = answers(failing, BOUND, &mut settled, || ()).collect().await;
        assert!(all.len() == 2 && !settled);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_who_takes_long_is_not_the_servers_fault() {
        let ready = stream::iter([Ok(1), Ok(2)]).boxed();
        let mut settled = true;
        let mut ready = answers(ready, BOUND, &mut settled, || panic!("the server had answered"));
        assert_eq!(ready.try_next().await.unwrap(), Some(1));
        tokio::time::advance(BOUND * 2).await;
        assert_eq!(ready.try_next().await.unwrap(), Some(2));
        drop(ready);
        assert!(!settled, "it was not seen to end");
    }
}
