//! Where requests go.

use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr};

use async_trait::async_trait;
use axum_core::body::Body;
use axum_core::response::Response as ServiceResponse;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use tower_service::Service;

use crate::directory::BoxError;
use crate::http::PeerAddr;

/// What is attacked, whole answers at a time.
///
/// The request's `Host` header is the host that is asked, whatever that is: an implementation sends it as it
/// stands, and follows no redirect.
#[async_trait]
pub trait Target: Send + Sync {
    /// Sends a request and waits for the whole answer.
    ///
    /// # Errors
    /// [`TargetError`] when there is no answer. A refusal is an answer.
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, TargetError>;
}

/// There is no answer.
#[derive(Debug, thiserror::Error)]
#[error("the service gave no answer: {0}")]
pub struct TargetError(pub BoxError);

/// A service in this process: an axum router, or any tower service of its kind.
#[derive(Clone)]
pub struct InProcess<S> {
    service: S,
    peer: IpAddr,
}

impl<S> InProcess<S> {
    /// Requests seem to come from 203.0.113.9, an address of the documentation's network that no proxy has.
    #[must_use]
    pub const fn new(service: S) -> Self {
        Self { service, peer: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)) }
    }

    /// Requests seem to come from this address.
    #[must_use]
    pub fn from_address(mut self, peer: IpAddr) -> Self {
        self.peer = peer;
        self
    }
}

impl<S> fmt::Debug for InProcess<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess").field("peer", &self.peer).finish_non_exhaustive()
    }
}

#[async_trait]
impl<S> Target for InProcess<S>
where
    S: Service<Request<Body>, Response = ServiceResponse, Error = Infallible> + Clone + Send + Sync,
    S::Future: Send,
{
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, TargetError> {
        let mut service = self.service.clone();
        let (mut head, body) = request.into_parts();
        head.extensions.insert(PeerAddr(self.peer));
        let Ok(()) = poll_fn(|context| service.poll_ready(context)).await;
        let Ok(answer) = service.call(Request::from_parts(head, Body::from(body))).await;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|error| TargetError(Box::new(error)))?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}
