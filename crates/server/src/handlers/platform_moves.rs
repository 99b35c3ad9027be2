//! Moves of orchestras between databases, for administrators of the platform.

use std::num::NonZeroU32;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use secrecy::SecretString;
use serde::Deserialize;
use stagesub_auth::Permission;
use stagesub_domain::actor::Actor;
use stagesub_domain::ports::registry::DedicatedPlace;
use stagesub_domain::service::moves::{self as service, Destination, Fresh, MoveDraft, Pace};
use stagesub_tenancy::DatabaseId;
use stagesub_tenancy::moves::{MoveId, MovePath, MovePrefix, Request, Requester};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::extract::{MovePath as PathOfMove, NoParams, Params, PlatformCaller, TenantPath};
use crate::handlers::list::{self, ListBody};
use crate::idempotency::{Creating, IdempotencyHeaders, mark_replayed};
use crate::problem::{Problem, ProblemBody};
use crate::state::AppState;

pub mod body;
pub mod events;

use body::{MoveBody, OutlookBody};

/// Bytes in what a pace counts.
const MEGABYTE: u32 = 1_000_000;

/// A move that is wanted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StartMove {
    /// `dedicated` (a database of its own, with the institution tier) or `shared`
    to: String,
    /// The shared database to move to; left out: the other one with the fewest orchestras.
    database: Option<Uuid>,
    /// Where a database of its own is made, if there is none: the connection string of a login on another server that
    /// may make databases and roles. Left out: on the server of the shared database.
    #[schema(value_type = Option<String>, format = Password)]
    server: Option<SecretString>,
    /// A database that is there and empty, to become the orchestra's own: the connection string of its owner.
    #[schema(value_type = Option<String>, format = Password)]
    url: Option<SecretString>,
    /// Megabytes that may be copied or compared a second, 1 to 4000; 0: as many as there are. Left out: 5.
    pace: Option<u32>,
    /// `stream`, `triggers` or `short`; left out: as fits the orchestra's size and what the servers can do.
    path: Option<String>,
    /// Say what the move would be and what stands in its way, and begin nothing.
    #[serde(default)]
    dry_run: bool,
}

impl StartMove {
    fn draft(self) -> Result<MoveDraft, Problem> {
        let invalid = |field, rule, message: &str| Err(Problem::invalid_field(field, rule, message));
        let place = match (self.server, self.url) {
            (None, None) => None,
            (Some(server), None) => Some(DedicatedPlace::Server(server)),
            (None, Some(url)) => Some(DedicatedPlace::Database(url)),
            (Some(_), Some(_)) => return invalid("url", "conflict", "name a server or a database, not both"),
        };
        let to = match (self.to.as_str(), self.database, place) {
            ("dedicated", None, place) => Destination::Own(place.unwrap_or(DedicatedPlace::Beside)),
            ("dedicated", Some(_), _) => {
                let message = "an orchestra has one database of its own; leave it out";
                return invalid("database", "conflict", message);
            }
            ("shared", database, None) => Destination::Shared(database.map(DatabaseId::from_uuid)),
            ("shared", _, Some(_)) => {
                let message = "no database is made for a move to a shared one; name it by its id";
                return invalid("to", "conflict", message);
            }
            _ => return invalid("to", "enum", "must be dedicated or shared"),
        };
        let path = self.path.map(|text| {
            text.parse::<MovePath>()
                .map_err(|_| Problem::invalid_field("path", "enum", "must be stream, triggers or short"))
        });
        Ok(MoveDraft { to, path: path.transpose()?, pace: pace(self.pace)? })
    }
}

/// What a number of megabytes a second means.
fn pace(megabytes: Option<u32>) -> Result<Pace, Problem> {
    let Some(megabytes) = megabytes else { return Ok(Pace::Usual) };
    let bytes = megabytes.checked_mul(MEGABYTE).filter(|_| megabytes <= 4000);
    let bytes = bytes.ok_or_else(|| Problem::invalid_field("pace", "range", "must be 0 to 4000"))?;
    Ok(NonZeroU32::new(bytes).map_or(Pace::Unpaced, Pace::Bytes))
}

/// What is random of a move.
#[must_use]
pub fn fresh() -> Fresh {
    Fresh { id: MoveId::from_uuid(Uuid::now_v7()), prefix: MovePrefix::from_bytes(rand::random()) }
}

/// Who asks, as the registry of moves writes it down.
fn requester(actor: &Actor) -> Requester {
    actor.user_id().map_or(Requester::Platform, Requester::Person)
}

/// Begins a move of an orchestra to another database, while it is in use. With `dryRun` it is told what the move would
/// be, and nothing is begun. A database of its own that there is not is made first, which takes seconds.
#[utoipa::path(post, path = "/api/v1/platform/tenants/{id}/moves", operation_id = "start_move", tag = "moves",
    security(("bearer" = [])), params(("id" = Uuid, Path), IdempotencyHeaders), request_body = StartMove, responses(
    (status = ACCEPTED, body = MoveBody),
    (status = OK, body = OutlookBody, description = "With `dryRun`"),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
    (status = UNPROCESSABLE_ENTITY, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn start(
    State(state): State<AppState>,
    caller: PlatformCaller,
    TenantPath(tenant): TenantPath,
    Creating { asking, body: request }: Creating<StartMove>,
) -> Result<Response, Problem> {
    caller.may(Permission::ManageTenants)?;
    let (dry_run, by, now) = (request.dry_run, requester(&caller.actor), state.now());
    let draft = request.draft()?;
    let moving = state.moving();
    if dry_run {
        let outlook = service::plan_move(&moving, by, tenant, &draft, fresh(), now).await?;
        return Ok(Json(OutlookBody::from(outlook)).into_response());
    }
    let asked = asking.by(&caller.actor)?;
    let started = service::start_move(&moving, by, tenant, &draft, fresh(), asked, now).await?;
    let id = started.moved.id;
    let body = MoveBody::new(started.moved, Vec::new());
    let mut answer = (StatusCode::ACCEPTED, Json(body)).into_response();
    let location =
        HeaderValue::try_from(format!("/api/v1/platform/moves/{id}")).map_err(Problem::internal)?;
    answer.headers_mut().insert(header::LOCATION, location);
    Ok(if started.is_again { mark_replayed(answer) } else { answer })
}

/// Which page is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub struct MoveQuery {
    /// Items on the page, 1 to 200; left out: 50.
    limit: Option<u32>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Lists moves, the newest first.
#[utoipa::path(get, path = "/api/v1/platform/moves", operation_id = "list_moves", tag = "moves",
    security(("bearer" = [])), params(MoveQuery), responses(
    (status = OK, body = ListBody<MoveBody>),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn list(
    State(state): State<AppState>,
    caller: PlatformCaller,
    Params(query): Params<MoveQuery>,
) -> Result<ListBody<MoveBody>, Problem> {
    caller.may(Permission::ManageTenants)?;
    page(&state, None, query).await
}

/// Lists an orchestra's moves, the newest first.
#[utoipa::path(get, path = "/api/v1/platform/tenants/{id}/moves", operation_id = "list_tenant_moves", tag = "moves",
    security(("bearer" = [])), params(("id" = Uuid, Path), MoveQuery), responses(
    (status = OK, body = ListBody<MoveBody>),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn list_of(
    State(state): State<AppState>,
    caller: PlatformCaller,
    TenantPath(tenant): TenantPath,
    Params(query): Params<MoveQuery>,
) -> Result<ListBody<MoveBody>, Problem> {
    caller.may(Permission::ManageTenants)?;
    page(&state, Some(tenant), query).await
}

async fn page(
    state: &AppState,
    of: Option<stagesub_tenancy::TenantId>,
    query: MoveQuery,
) -> Result<ListBody<MoveBody>, Problem> {
    let page = list::page(query.limit, None)?;
    let after = list::after::<Uuid>(query.cursor.as_deref())?.map(MoveId::from_uuid);
    let found = service::list_moves(&state.moving(), of, after, page.limit()).await?;
    Ok(ListBody {
        items: found.items.into_iter().map(|moved| MoveBody::new(moved, Vec::new())).collect(),
        next_cursor: found.next.map(|id| list::encode(&id.to_string())),
    })
}

/// Shows a move, with how far the copies of its tables are.
#[utoipa::path(get, path = "/api/v1/platform/moves/{id}", operation_id = "show_move", tag = "moves",
    security(("bearer" = [])), params(("id" = Uuid, Path)), responses(
    (status = OK, body = MoveBody),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn show(
    State(state): State<AppState>,
    caller: PlatformCaller,
    PathOfMove(id): PathOfMove,
    NoParams: NoParams,
) -> Result<Json<MoveBody>, Problem> {
    caller.may(Permission::ManageTenants)?;
    let shown = service::get_move(&state.moving(), id).await?;
    Ok(Json(MoveBody::whole(shown)))
}

/// Has a move aborted that is not decided yet: the orchestra stays where it is, and what was made is removed.
#[utoipa::path(post, path = "/api/v1/platform/moves/{id}/abort", operation_id = "abort_move", tag = "moves",
    security(("bearer" = [])), params(("id" = Uuid, Path)), responses(
    (status = ACCEPTED, body = MoveBody),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn abort(
    State(state): State<AppState>,
    caller: PlatformCaller,
    PathOfMove(id): PathOfMove,
    NoParams: NoParams,
) -> Result<Response, Problem> {
    ask(&state, &caller, id, Request::Abort).await
}

/// Has an orchestra whose move is active go back to where it came from. The move stays active, so that it can go there
/// again.
#[utoipa::path(post, path = "/api/v1/platform/moves/{id}/back", operation_id = "move_back", tag = "moves",
    security(("bearer" = [])), params(("id" = Uuid, Path)), responses(
    (status = ACCEPTED, body = MoveBody),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn back(
    State(state): State<AppState>,
    caller: PlatformCaller,
    PathOfMove(id): PathOfMove,
    NoParams: NoParams,
) -> Result<Response, Problem> {
    ask(&state, &caller, id, Request::Back).await
}

/// Ends an active move: the orchestra stays where it is now, and its rows at the other side are removed.
#[utoipa::path(post, path = "/api/v1/platform/moves/{id}/finish", operation_id = "finish_move", tag = "moves",
    security(("bearer" = [])), params(("id" = Uuid, Path)), responses(
    (status = ACCEPTED, body = MoveBody),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn finish(
    State(state): State<AppState>,
    caller: PlatformCaller,
    PathOfMove(id): PathOfMove,
    NoParams: NoParams,
) -> Result<Response, Problem> {
    ask(&state, &caller, id, Request::Finish).await
}

async fn ask(
    state: &AppState,
    caller: &PlatformCaller,
    id: MoveId,
    request: Request,
) -> Result<Response, Problem> {
    caller.may(Permission::ManageTenants)?;
    let moved = service::ask_of_move(&state.moving(), requester(&caller.actor), id, request).await?;
    Ok((StatusCode::ACCEPTED, Json(MoveBody::new(moved, Vec::new()))).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(value: serde_json::Value) -> Result<MoveDraft, Problem> {
        serde_json::from_value::<StartMove>(value).expect("it is read").draft()
    }

    #[test]
    fn a_place_is_for_a_database_of_its_own_and_an_id_for_a_shared_one() {
        use serde_json::json;
        let id = Uuid::from_u128(1);
        let url = "postgres://a:b@c/d";
        assert!(matches!(
            draft(json!({"to": "dedicated"})).unwrap().to,
            Destination::Own(DedicatedPlace::Beside)
        ));
        let to = draft(json!({"to": "dedicated", "server": url})).unwrap().to;
        assert!(matches!(to, Destination::Own(DedicatedPlace::Server(_))));
        assert!(!format!("{to:?}").contains("b@c"), "{to:?}");
        let to = draft(json!({"to": "dedicated", "url": url})).unwrap().to;
        assert!(matches!(to, Destination::Own(DedicatedPlace::Database(_))));
        let to = draft(json!({"to": "shared", "database": id})).unwrap().to;
        assert!(matches!(to, Destination::Shared(Some(found)) if found.as_uuid() == id));
        for refused in [
            json!({"to": "elsewhere"}),
            json!({"to": "dedicated", "database": id}),
            json!({"to": "dedicated", "server": url, "url": url}),
            json!({"to": "shared", "url": url}),
            json!({"to": "shared", "pace": 4001}),
            json!({"to": "shared", "pace": u32::MAX}),
            json!({"to": "shared", "path": "fast"}),
        ] {
            assert!(draft(refused.clone()).is_err(), "{refused}");
        }
        assert_eq!(pace(None).unwrap(), Pace::Usual);
        assert_eq!(pace(Some(0)).unwrap(), Pace::Unpaced);
        assert_eq!(pace(Some(2)).unwrap().bytes().map(NonZeroU32::get), Some(2_000_000));
    }
}
