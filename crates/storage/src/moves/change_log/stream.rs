//! The stream of a log, as whoever applies it has it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgConnection;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use super::reader::{Part, Reader, Shared};
use super::{ChangeLog, ChangeLogError};
use crate::moves::apply::Prefix;
use crate::moves::lsn::Lsn;
use crate::moves::pgoutput::Message;
use crate::moves::slot::{Changes, Event, StreamError};

/// Parts of batches that wait, beside the one that is being read and the one that is being applied.
const WAITING: usize = 1;

/// How often a log is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Polling {
    /// The pause after something was found, or somebody said that there is something. What is committed meanwhile is
    /// one batch.
    pub soon: Duration,
    /// The pause grows to this where nothing is found.
    pub idle: Duration,
}

impl Default for Polling {
    /// 20 ms, and half a second. Whoever waits for a mark says so.
    fn default() -> Self {
        Self { soon: Duration::from_millis(20), idle: Duration::from_millis(500) }
    }
}

/// A log's changes, as a stream: one transaction a batch. A task of its own reads ahead, by a bounded amount, and ends
/// with the stream.
#[derive(Debug)]
pub struct LogStream {
    ready: VecDeque<Message>,
    parts: mpsc::Receiver<Part>,
    durable: watch::Sender<Lsn>,
    waker: Waker,
    task: JoinHandle<()>,
}

/// Has a log be looked at without delay: for whoever has set a mark.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Notify>);

impl Waker {
    /// What was committed before is found by a look that has not begun yet.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

impl LogStream {
    /// Reads a log behind a position, which is how far it is applied. The session is the mover's and nobody else's; it
    /// ends with the stream.
    ///
    /// # Errors
    /// [`ChangeLogError::Lost`] for a log that does not know the position; [`ChangeLogError::Unfit`]; the driver's.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn open(
        conn: PgConnection,
        log: &ChangeLog,
        prefix: &Prefix,
        from: Lsn,
        polling: Polling,
    ) -> Result<Self, ChangeLogError> {
        let reader = Reader::open(conn, log, prefix.of_marks(), from, polling).await?;
        let (tell, parts) = mpsc::channel(WAITING);
        let (durable, heard) = watch::channel(from);
        let wake = Arc::new(Notify::new());
        let shared = Shared { parts: tell, durable: heard, wake: Arc::clone(&wake) };
        let task = tokio::spawn(reader.run(shared));
        Ok(Self { ready: VecDeque::new(), parts, durable, waker: Waker(wake), task })
    }

    /// What has it look at the log.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

#[async_trait]
impl Changes for LogStream {
    async fn next(&mut self) -> Result<Event, StreamError> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Event::Message(message));
            }
            match self.parts.recv().await {
                Some(part) => self.ready.extend(part?),
                None => return Err(StreamError::Ended),
            }
        }
    }

    fn acknowledge(&mut self, lsn: Lsn) {
        self.durable.send_if_modified(|durable| {
            let further = lsn > *durable;
            *durable = lsn.max(*durable);
            further
        });
    }
}

impl Drop for LogStream {
    fn drop(&mut self) {
        // Its session with it.
        self.task.abort();
    }
}
