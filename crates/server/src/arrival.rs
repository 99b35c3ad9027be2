//! How far a request's body has come.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};

/// Nobody has asked for it yet.
const UNTOUCHED: u8 = 0;
/// Somebody waits for the rest.
const UNDER_WAY: u8 = 1;
/// It is there, or nobody wants the rest.
const OVER: u8 = 2;

/// Watches one body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arrival(Arc<AtomicU8>);

impl Arrival {
    /// The body, watched. Whatever was watched before is forgotten.
    pub(crate) fn watch(&self, body: Body) -> Body {
        if body.is_end_stream() {
            self.set(OVER);
            return body;
        }
        self.set(UNTOUCHED);
        Body::new(Watched { body, arrival: self.clone() })
    }

    /// Whether somebody waits for the rest of it.
    pub(crate) fn is_under_way(&self) -> bool {
        self.0.load(Ordering::Relaxed) == UNDER_WAY
    }

    fn set(&self, state: u8) {
        self.0.store(state, Ordering::Relaxed);
    }
}

struct Watched {
    body: Body,
    arrival: Arrival,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let is_over = matches!(polled, Poll::Ready(None | Some(Err(_)))) || self.body.is_end_stream();
        self.arrival.set(if is_over { OVER } else { UNDER_WAY });
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Whoever read it has enough of it.
        self.arrival.set(OVER);
    }
}
