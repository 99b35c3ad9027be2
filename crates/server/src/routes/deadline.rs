//! The longest time that a request may take, and what is told when it is up.

use std::pin::pin;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::arrival::Arrival;
use crate::problem::Problem;

/// Longest time that a request may take, the arrival of its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// Ends what takes too long. Dropping the handler's future rolls its transaction back, unless it was just being
/// committed: of a request that changes something nobody knows. While its body is still on its way nothing was
/// begun, since every handler reads to the end before it asks for a transaction.
pub(super) async fn within(request: Request, next: Next) -> Response {
    let is_safe = request.method().is_safe();
    let arrival = Arrival::default();
    let request = request.map(|body| arrival.watch(body));
    let mut answering = pin!(next.run(request));
    match tokio::time::timeout(REQUEST_TIMEOUT, answering.as_mut()).await {
        Ok(response) => response,
        Err(_) if arrival.is_under_way() => Problem::too_slow().into_response(),
        Err(elapsed) if is_safe => Problem::unavailable(elapsed).into_response(),
        Err(elapsed) => Problem::outcome_unknown(elapsed).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::{Body, Bytes};
    use axum::http::{Method, StatusCode};
    use axum::middleware::from_fn;
    use axum::routing::any;
    use futures::stream;
    use tower::ServiceExt;

    use super::*;

    /// A body that brings a piece each ten seconds, for ever.
    fn trickle() -> Body {
        Body::from_stream(stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b".")), ()))
        }))
    }

    async fn status(method: Method, body: Body) -> StatusCode {
        let router = Router::new()
            .route("/read", any(|_: Bytes| async { "read" }))
            .route(
                "/work",
                any(async |body: Body| {
                    // Reads a bit of it, leaves the rest and works on.
                    let _some = futures::StreamExt::next(&mut body.into_data_stream()).await;
                    std::future::pending::<()>().await;
                }),
            )
            .layer(from_fn(within));
        let path = if method == Method::PUT { "/read" } else { "/work" };
        let request = Request::builder().method(method).uri(path).body(body).unwrap();
        router.oneshot(request).await.unwrap().status()
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_ends_with_the_time_of_its_request() {
        let begun = tokio::time::Instant::now();
        assert_eq!(status(Method::PUT, trickle()).await, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(begun.elapsed(), REQUEST_TIMEOUT);
        assert_eq!(status(Method::PUT, Body::from("whole")).await, StatusCode::OK);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_takes_too_long_is_not_taken_for_a_slow_body() {
        for body in [Body::from("whole"), trickle()] {
            assert_eq!(status(Method::POST, body).await, StatusCode::SERVICE_UNAVAILABLE);
        }
    }
}
