//! The one table of routes, and what every request passes through.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use stagesub_tenancy::http::{ClientAddr, PeerAddr, TenantLayer, client_address};
use stagesub_tenancy::{Addressed, Host};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::validate_request::ValidateRequestHeaderLayer;
use utoipa::OpenApi;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use crate::handlers::{
    auth, health, import, instruments, musicians, platform_databases, platform_moves, platform_tenants,
    platform_usage, platform_users, positions, projects, tenant, users,
};
use crate::openapi::{ApiDoc, describe_common_answers};
use crate::problem::Problem;
use crate::state::AppState;
use crate::telemetry::request::{note_route, note_tenant, observe};

mod authority;
mod deadline;

pub use authority::{HostKind, RouteAuthority, Who, authority};

/// Largest JSON body, in bytes.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// The name of the header that carries a request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The API with its description. Routes of one host kind answer 404 on the other: their extractors say so.
fn api() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(ApiDoc::openapi())
        .routes(routes!(auth::login))
        .routes(routes!(auth::me))
        .routes(routes!(tenant::show_tenant))
        .routes(routes!(instruments::list, instruments::create))
        .routes(routes!(instruments::show, instruments::update, instruments::delete))
        .routes(routes!(instruments::archive))
        .routes(routes!(instruments::restore))
        .routes(routes!(positions::list, positions::create))
        .routes(routes!(positions::show, positions::update, positions::delete))
        .routes(routes!(musicians::list, musicians::create))
        .routes(routes!(import::import).layer(DefaultBodyLimit::max(import::MAX_REQUEST_BYTES)))
        .routes(routes!(musicians::show, musicians::update, musicians::archive))
        .routes(routes!(musicians::restore))
        .routes(routes!(projects::list, projects::create))
        .routes(routes!(projects::show, projects::update, projects::delete))
        .routes(routes!(users::list, users::create))
        .routes(routes!(users::show, users::change, users::remove))
        .routes(routes!(platform_tenants::list, platform_tenants::create))
        .routes(routes!(platform_tenants::show, platform_tenants::change))
        .routes(routes!(platform_tenants::suspend))
        .routes(routes!(platform_tenants::resume))
        .routes(routes!(platform_moves::list_of, platform_moves::start))
        .routes(routes!(platform_moves::list))
        .routes(routes!(platform_moves::show))
        .routes(routes!(platform_moves::abort))
        .routes(routes!(platform_moves::back))
        .routes(routes!(platform_moves::finish))
        .routes(routes!(platform_moves::events::watch))
        .routes(routes!(platform_databases::list, platform_databases::add))
        .routes(routes!(platform_databases::show))
        .routes(routes!(platform_databases::check))
        .routes(routes!(platform_usage::list))
        .routes(routes!(platform_users::list))
        .routes(routes!(platform_users::show, platform_users::change))
}

/// The description of the API, as it is served.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    described(api()).1
}

/// The API, and what is said of it.
fn described(api: OpenApiRouter<AppState>) -> (Router<AppState>, utoipa::openapi::OpenApi) {
    let (api, mut description) = api.split_for_parts();
    describe_common_answers(&mut description);
    (api, description)
}

/// What answers by the host that is asked: the API and its description.
fn addressed(api: OpenApiRouter<AppState>) -> Router<AppState> {
    let (api, description) = described(api);
    api.merge(SwaggerUi::new("/api/docs").url("/api/openapi.json", description))
}

/// Probes come by address, so they stand before the host is asked for.
fn probes() -> Router<AppState> {
    Router::new()
        .route("/healthz", axum::routing::get(health::healthz))
        .route("/readyz", axum::routing::get(health::readyz))
}

/// Builds the server's service.
pub fn build_router(state: AppState) -> Router {
    let tenants = TenantLayer::new(
        state.resolver.clone(),
        Arc::clone(&state.clock),
        state.trusted_proxies.clone(),
        Arc::new(|error| Problem::from(error).into_response()),
    );
    // Each `layer` of a router boxes what it wraps, and every request clones all boxes below: so one for each. So does
    // each `from_fn`, which is left to what waits for an answer.
    let addressed =
        addressed(api()).fallback(not_found).method_not_allowed_fallback(method_not_allowed).layer(
            ServiceBuilder::new()
                .layer(ValidateRequestHeaderLayer::custom(limit_address(state.clone())))
                .layer(tenants)
                .layer(ValidateRequestHeaderLayer::custom(redirect_www(state.clone()))),
        );
    let around = ServiceBuilder::new()
        .map_response(safe_headers)
        .map_request(drop_foreign_request_id)
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        .layer(middleware::from_fn_with_state(state.clone(), watch))
        .layer(CatchPanicLayer::custom(|_| Problem::internal("a handler panicked").into_response()))
        .map_request(peer)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES));
    let addressed = addressed.with_state(state.clone());
    Router::new().merge(probes()).fallback_service(addressed).layer(around).with_state(state)
}

async fn not_found() -> Problem {
    Problem::not_found()
}

async fn method_not_allowed() -> Problem {
    Problem::method_not_allowed()
}

/// The peer's address for the tenant layer, which knows no axum.
fn peer(mut request: Request) -> Request {
    if let Some(ConnectInfo(address)) = request.extensions().get::<ConnectInfo<SocketAddr>>() {
        let peer = PeerAddr(address.ip());
        request.extensions_mut().insert(peer);
    }
    request
}

/// Around each request: its span, and the longest time that it may take.
async fn watch(State(state): State<AppState>, request: Request, next: Next) -> Response {
    observe(&state, request, |request| deadline::within(request, next)).await
}

/// Before the host is looked up, which may cost a question to the registry.
#[expect(clippy::result_large_err, reason = "the layer wants the answer itself")]
fn limit_address(state: AppState) -> impl Fn(&mut Request) -> Result<(), Response> + Clone {
    move |request| {
        note_route(request);
        match client_address(request, &state.trusted_proxies) {
            Some(ClientAddr(client)) => state.limits.request_of(client).map_err(IntoResponse::into_response),
            None => Ok(()),
        }
    }
}

/// A request's id is ours; one that a client sends is kept out of logs and audit.
fn drop_foreign_request_id(mut request: Request) -> Request {
    request.headers_mut().remove(REQUEST_ID);
    request
}

#[expect(clippy::result_large_err, reason = "the layer wants the answer itself")]
fn redirect_www(state: AppState) -> impl Fn(&mut Request) -> Result<(), Response> + Clone {
    move |request| {
        note_tenant(request);
        match request.extensions().get::<Addressed>() {
            Some(Addressed::Www) => Err(to_apex(&state, request)),
            _ => Ok(()),
        }
    }
}

/// The same address at the platform's own host.
fn to_apex(state: &AppState, request: &Request) -> Response {
    let port = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        // Behind a proxy the port here is the inner one, which is nobody's to know.
        .filter(|host| state.resolver.hosts().classify(host) == Host::Www)
        .and_then(|host| host.rsplit_once(':'))
        .map(|(_, port)| port)
        .filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
    let path = request.uri().path_and_query().map_or("/", axum::http::uri::PathAndQuery::as_str);
    let authority = match port {
        Some(port) => format!("{}:{port}", state.app_domain),
        None => state.app_domain.clone(),
    };
    // Without a scheme the browser keeps its own.
    Redirect::permanent(&format!("//{authority}{path}")).into_response()
}

fn safe_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
