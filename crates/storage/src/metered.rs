//! Statements whose time and rows are counted for their tenant.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::Stream;
use futures::stream::BoxStream;
use sqlx::Either;
use sqlx::postgres::{PgQueryResult, PgRow};
use stagesub_tenancy::usage::Asking;

type Answer = Result<Either<PgQueryResult, PgRow>, sqlx::Error>;

/// The answers to what was sent. The database counts as working until they end or are dropped.
pub(crate) struct Metered<'e> {
    answers: BoxStream<'e, Answer>,
    /// Absent once they have ended.
    asking: Option<Asking<'e>>,
    /// Rows of the statement that is being answered.
    rows: u64,
}

impl<'e> Metered<'e> {
    pub(crate) fn new(answers: BoxStream<'e, Answer>, asking: Asking<'e>) -> Self {
        Self { answers, asking: Some(asking), rows: 0 }
    }

    fn count(&mut self, statements: bool, rows: u64) {
        if let Some(asking) = &mut self.asking {
            if statements {
                asking.ran();
            }
            asking.rows(rows);
        }
    }
}

impl Stream for Metered<'_> {
    type Item = Answer;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Answer>> {
        let answer = ready!(self.answers.as_mut().poll_next(context));
        match &answer {
            Some(Ok(Either::Right(_))) => self.rows += 1,
            // Counts what was changed as well as what was read, and rows that a change returns once.
            Some(Ok(Either::Left(done))) => {
                let rows = std::mem::take(&mut self.rows).max(done.rows_affected());
                self.count(true, rows);
            }
            Some(Err(_)) | None => self.asking = None,
        }
        Poll::Ready(answer)
    }
}

impl Drop for Metered<'_> {
    fn drop(&mut self) {
        // Whoever takes the first rows and leaves has had those.
        let rows = self.rows;
        self.count(false, rows);
    }
}
