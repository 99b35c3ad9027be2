//! Tenants of HTTP requests (feature `axum`): a tower layer that resolves them and an extractor.
//!
//! Built on `axum-core`, `http` and tower's traits alone. Put [`TenantLayer`] around the routes; a handler
//! that takes a [`TenantScope`] then runs for a tenant that exists and may be served, or not at all.
//! No header names a tenant except through its host, and forwarded hosts count only from trusted proxies.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum_core::extract::FromRequestParts;
use axum_core::response::{IntoResponse, Response};
use http::header::{HOST, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, StatusCode};
use tower_layer::Layer;
use tower_service::Service;

use crate::clock::Clock;
use crate::proxies::TrustedProxies;
use crate::resolver::{Addressed, ResolveError, Resolver};
use crate::scope::TenantScope;

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Extension of a request: the address at the other end of its connection.
///
/// The server puts it there before [`TenantLayer`] runs (with axum: from `ConnectInfo`). Without it no
/// forwarded header counts and there is no [`ClientAddr`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddr(pub IpAddr);

/// Extension of a request, put there by [`TenantLayer`]: the address the request came from, as far as
/// trusted proxies say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddr(pub IpAddr);

/// The address that a request came from, as far as `proxies` say; for layers that stand before
/// [`TenantLayer`]. `None` without a [`PeerAddr`].
pub fn client_address<B>(request: &Request<B>, proxies: &TrustedProxies) -> Option<ClientAddr> {
    let PeerAddr(peer) = request.extensions().get()?;
    Some(ClientAddr(proxies.client_address(*peer, joined(request.headers()).as_deref())))
}

/// Renders the answer to a request whose tenant could not be resolved.
pub type Responder = Arc<dyn Fn(ResolveError) -> Response + Send + Sync>;

/// Resolves each request's host and leaves [`Addressed`] (and [`ClientAddr`]) in its extensions, or answers
/// through the [`Responder`].
///
/// ```
/// use std::sync::Arc;
///
/// use axum_core::response::IntoResponse;
/// use http::StatusCode;
/// use stagesub_tenancy::http::TenantLayer;
/// use stagesub_tenancy::{Clock, ResolveError, Resolver, TrustedProxies};
///
/// fn layer(resolver: Resolver, clock: Arc<dyn Clock>, proxies: TrustedProxies) -> TenantLayer {
///     TenantLayer::new(resolver, clock, proxies, Arc::new(|error| {
///         let status = match error {
///             ResolveError::UnknownTenant => StatusCode::NOT_FOUND,
///             ResolveError::Refused { .. } => StatusCode::FORBIDDEN,
///             _ => StatusCode::SERVICE_UNAVAILABLE,
///         };
///         status.into_response()
///     }))
/// }
/// ```
#[derive(Clone)]
pub struct TenantLayer {
    shared: Arc<Shared>,
}

struct Shared {
    resolver: Resolver,
    clock: Arc<dyn Clock>,
    proxies: TrustedProxies,
    respond: Responder,
}

impl TenantLayer {
    /// A layer that resolves through `resolver` at the clock's time, believes `proxies`, and answers what it
    /// refuses through `respond`.
    #[must_use]
    pub fn new(
        resolver: Resolver,
        clock: Arc<dyn Clock>,
        proxies: TrustedProxies,
        respond: Responder,
    ) -> Self {
        Self { shared: Arc::new(Shared { resolver, clock, proxies, respond }) }
    }

    /// A layer for a service that no proxy stands before. A host that names no tenant is 404, a tenant that is
    /// not served 403, a directory that does not answer 503 with Retry-After; none has a body.
    #[must_use]
    pub fn plain(resolver: Resolver, clock: Arc<dyn Clock>) -> Self {
        Self::new(resolver, clock, TrustedProxies::default(), Arc::new(|error| plain_answer(&error)))
    }
}

fn plain_answer(error: &ResolveError) -> Response {
    match error {
        ResolveError::UnknownTenant => StatusCode::NOT_FOUND.into_response(),
        ResolveError::Refused { .. } => StatusCode::FORBIDDEN.into_response(),
        ResolveError::Directory(_) => (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")]).into_response(),
    }
}

impl fmt::Debug for TenantLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { resolver, proxies, .. } = &*self.shared;
        f.debug_struct("TenantLayer")
            .field("resolver", resolver)
            .field("proxies", proxies)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for TenantLayer {
    type Service = TenantService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        TenantService { inner, shared: Arc::clone(&self.shared) }
    }
}

/// What [`TenantLayer`] makes of a service.
#[derive(Clone)]
pub struct TenantService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S: fmt::Debug> fmt::Debug for TenantService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<B>> for TenantService<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The service that was polled ready must be the one that is called.
        let standby = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, standby);
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            match shared.resolve(&mut request).await {
                Ok(addressed) => {
                    request.extensions_mut().insert(addressed);
                    ready.call(request).await
                }
                Err(error) => Ok((shared.respond)(error)),
            }
        })
    }
}

impl Shared {
    async fn resolve<B: Send>(&self, request: &mut Request<B>) -> Result<Addressed, ResolveError> {
        let peer = request.extensions().get::<PeerAddr>().map(|PeerAddr(peer)| *peer);
        if let Some(client) = client_address(request, &self.proxies) {
            request.extensions_mut().insert(client);
        }
        let own = own_host(request);
        let host = match peer {
            Some(peer) => self.proxies.effective_host(peer, own, forwarded_host(request.headers())),
            None => own,
        };
        let host = host.ok_or(ResolveError::UnknownTenant)?.to_owned();
        self.resolver.resolve(&host, self.clock.now()).await
    }
}

/// The host that the request itself names: the authority of its target (HTTP/2, absolute form), which
/// overrides the header (RFC 9112, 3.2.2), or its one `Host` header. Two of those are no host at all.
fn own_host<B>(request: &Request<B>) -> Option<&str> {
    if let Some(authority) = request.uri().authority() {
        return Some(authority.as_str());
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next()?.to_str().ok()?;
    hosts.next().is_none().then_some(host)
}

/// The last `X-Forwarded-Host` header, which the nearest proxy wrote. One that is no text names no host.
fn forwarded_host(headers: &HeaderMap) -> Option<&str> {
    let last = headers.get_all(FORWARDED_HOST).iter().next_back()?;
    Some(last.to_str().unwrap_or_default())
}

/// All `X-Forwarded-For` headers as one list. One that is no text is no address, which ends the chain.
fn joined(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let lines = headers.get_all(FORWARDED_FOR).iter().map(|line| line.to_str().unwrap_or_default());
    lines.map(Cow::Borrowed).reduce(|list, line| Cow::Owned(format!("{list},{line}")))
}

/// Takes the scope that [`TenantLayer`] left in the request.
impl<S: Send + Sync> FromRequestParts<S> for TenantScope {
    type Rejection = NoTenant;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, NoTenant> {
        match parts.extensions.get::<Addressed>() {
            Some(Addressed::Tenant(scope)) => Ok(scope.clone()),
            Some(Addressed::Apex | Addressed::Www) | None => Err(NoTenant),
        }
    }
}

/// The request addresses no tenant; 404. Also what a route outside the layer gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request addresses no tenant")]
pub struct NoTenant;

impl IntoResponse for NoTenant {
    fn into_response(self) -> Response {
        StatusCode::NOT_FOUND.into_response()
    }
}

#[cfg(test)]
mod tests {
    use axum_core::body::Body;
    use chrono::DateTime;
    use tower::ServiceExt;

    use super::*;
    use crate::host::HostPolicy;
    use crate::testing::{FixedClock, InMemoryDirectory, tenant};

    /// Answers with the tenant's code and the client's address, or what the extractor says.
    async fn echo(request: Request<Body>) -> Result<Response, Infallible> {
        let (mut parts, _) = request.into_parts();
        let client = parts.extensions.get::<ClientAddr>().map(|ClientAddr(client)| client.to_string());
        let response = match TenantScope::from_request_parts(&mut parts, &()).await {
            Ok(scope) => [("x-code", scope.code().to_string())].into_response(),
            Err(rejection) => rejection.into_response(),
        };
        Ok(([("x-client", client.unwrap_or_default())], response).into_response())
    }

    async fn answer(request: http::request::Builder) -> Response {
        let directory = InMemoryDirectory::new();
        directory.insert(tenant(1, "GOT", "gbg"));
        directory.insert(tenant(2, "STO", "sthlm"));
        directory.insert(tenant(3, "MAL", "malmo"));
        directory.suspend(tenant(3, "MAL", "malmo").id);
        let resolver = Resolver::new(Arc::new(directory), HostPolicy::new("stagesub.com").expect("a domain"));
        let clock = Arc::new(FixedClock::at(DateTime::UNIX_EPOCH));
        let proxies = "10.0.0.0/8".parse().expect("a network");
        let respond: Responder = Arc::new(|error| plain_answer(&error));
        let layer = TenantLayer::new(resolver, clock, proxies, respond);
        let request = request.body(Body::empty()).expect("a request");
        let Ok(response) = layer.layer(tower::service_fn(echo)).oneshot(request).await;
        response
    }

    fn code(response: &Response) -> &str {
        header(response, "x-code")
    }

    fn header<'a>(response: &'a Response, name: &str) -> &'a str {
        response.headers().get(name).map(|value| value.to_str().expect("text")).unwrap_or_default()
    }

    fn from(peer: &str) -> http::request::Builder {
        Request::get("/").extension(PeerAddr(peer.parse().expect("an address")))
    }

    #[tokio::test]
    async fn handler_gets_the_scope_of_the_hosts_tenant() {
        let response = answer(Request::get("/").header(HOST, "gbg.stagesub.com:8080")).await;
        assert_eq!((response.status(), code(&response)), (StatusCode::OK, "GOT"));
        assert_eq!(header(&response, "x-client"), "");
    }

    #[tokio::test]
    async fn authority_of_the_target_overrides_the_header() {
        let request = Request::get("http://gbg.stagesub.com/").header(HOST, "sthlm.stagesub.com");
        assert_eq!(code(&answer(request).await), "GOT");
    }

    #[tokio::test]
    async fn refusals_are_answered_by_the_services_own_responder() {
        for (host, status) in [
            ("nobody.stagesub.com", StatusCode::NOT_FOUND),
            ("evil.example", StatusCode::NOT_FOUND),
            ("malmo.stagesub.com", StatusCode::FORBIDDEN),
        ] {
            assert_eq!(answer(Request::get("/").header(HOST, host)).await.status(), status, "{host}");
        }
    }

    #[tokio::test]
    async fn missing_doubled_or_unreadable_host_is_no_tenant() {
        let missing = Request::get("/");
        let doubled = Request::get("/").header(HOST, "gbg.stagesub.com").header(HOST, "gbg.stagesub.com");
        let unreadable = Request::get("/").header(HOST, b"g\xffbg.stagesub.com".as_slice());
        for request in [missing, doubled, unreadable] {
            assert_eq!(answer(request).await.status(), StatusCode::NOT_FOUND);
        }
    }

    #[tokio::test]
    async fn apex_reaches_the_service_and_gives_no_scope() {
        for host in ["stagesub.com", "www.stagesub.com"] {
            let response = answer(Request::get("/").header(HOST, host)).await;
            assert_eq!((response.status(), code(&response)), (StatusCode::NOT_FOUND, ""));
            assert!(response.headers().contains_key("x-client"), "the service itself answered");
        }
    }

    #[tokio::test]
    async fn forwarded_headers_count_from_a_trusted_proxy_only() {
        let forwarded = |request: http::request::Builder| {
            request
                .header(HOST, "sthlm.stagesub.com")
                .header(FORWARDED_HOST, "evil.example")
                .header(FORWARDED_HOST, "gbg.stagesub.com")
                .header(FORWARDED_FOR, "6.6.6.6")
                .header(FORWARDED_FOR, "203.0.113.9, 10.0.0.2")
        };
        let trusted = answer(forwarded(from("10.0.0.1"))).await;
        assert_eq!((code(&trusted), header(&trusted, "x-client")), ("GOT", "203.0.113.9"));
        let direct = answer(forwarded(from("198.51.100.1"))).await;
        assert_eq!((code(&direct), header(&direct, "x-client")), ("STO", "198.51.100.1"));
        let unknown = answer(forwarded(Request::get("/"))).await;
        assert_eq!((code(&unknown), header(&unknown, "x-client")), ("STO", ""));
    }

    #[tokio::test]
    async fn headers_that_name_a_tenant_are_not_read() {
        let request = Request::get("/")
            .header(HOST, "gbg.stagesub.com")
            .header("x-tenant-id", tenant(2, "STO", "sthlm").id.to_string())
            .header("x-tenant", "sthlm");
        assert_eq!(code(&answer(request).await), "GOT");
    }

    #[tokio::test]
    async fn route_outside_the_layer_has_no_tenant() {
        let Ok(response) = tower::service_fn(echo).oneshot(Request::new(Body::empty())).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
    }
}
