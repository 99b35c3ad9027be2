//! Positions within instruments.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stagesub_auth::Permission;
use stagesub_domain::ids::{InstrumentNo, PositionNo};
use stagesub_domain::instrument::{NewPosition, Position, PositionChange};
use stagesub_domain::ports::instruments::PositionFilter;
use stagesub_domain::service::positions as service;
use stagesub_tenancy::{Access, TenantScope};
use utoipa::{IntoParams, ToSchema};

use crate::extract::{Body, IdPath, Params, TenantCaller, parse_id, render_id};
use crate::handlers::list::{self, ListBody};
use crate::idempotency::{Begun, Creating, IdempotencyHeaders};
use crate::problem::{Problem, ProblemBody};
use crate::state::AppState;

/// A position.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PositionBody {
    /// Id.
    #[schema(example = "GOT-POS-001")]
    id: String,
    /// The instrument's id.
    #[schema(example = "GOT-INST-001")]
    instrument: String,
    /// Name, unique within the instrument.
    name: String,
    /// Rank in the section; 1 is the top.
    hierarchy_level: i32,
    /// When it was made.
    #[serde(serialize_with = "list::moment")]
    created_at: DateTime<Utc>,
    /// When it was last changed.
    #[serde(serialize_with = "list::moment")]
    updated_at: DateTime<Utc>,
}

impl PositionBody {
    fn new(scope: &TenantScope, position: Position) -> Self {
        Self {
            id: render_id(scope, &position.no),
            instrument: render_id(scope, &position.instrument),
            name: position.name,
            hierarchy_level: position.hierarchy_level,
            created_at: position.created_at,
            updated_at: position.updated_at,
        }
    }
}

/// A position to enter. Its ranking lists A, B and C are made with it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreatePosition {
    /// The instrument's id.
    instrument: String,
    /// Name, 1 to 100 characters, unique within the instrument.
    name: String,
    /// Rank in the section, 1 (the top) to 99.
    hierarchy_level: i32,
}

/// What to change; fields that are left out stay as they are. A position stays with its instrument.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpdatePosition {
    /// Name.
    name: Option<String>,
    /// Rank in the section.
    hierarchy_level: Option<i32>,
}

/// Which positions are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub struct PositionQuery {
    /// Items on the page, 1 to 200; left out: 50.
    limit: Option<u32>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// Part of the name.
    q: Option<String>,
    /// Of this instrument.
    instrument: Option<String>,
}

/// Lists positions in the order of their numbers.
#[utoipa::path(get, path = "/api/v1/positions", operation_id = "list_positions", tag = "positions",
    security(("bearer" = [])), params(PositionQuery), responses(
    (status = OK, body = ListBody<PositionBody>),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn list(
    State(state): State<AppState>,
    caller: TenantCaller,
    Params(query): Params<PositionQuery>,
) -> Result<ListBody<PositionBody>, Problem> {
    caller.begin(&state, Permission::ReadOrchestra).await?;
    let scope = &caller.scope;
    let page = list::page(query.limit, query.cursor.as_deref())?;
    let filter = PositionFilter {
        search: list::search(query.q)?,
        instrument: query
            .instrument
            .map(|id| parse_id::<InstrumentNo>(scope, "instrument", &id))
            .transpose()?,
    };
    let mut unit = state.units.begin(scope, Access::Read).await?;
    let paged = service::list_positions(&mut *unit, &filter, page).await?;
    unit.commit().await?;
    Ok(list::list_body(paged, |position| PositionBody::new(scope, position)))
}

/// Enters a position and its ranking lists.
#[utoipa::path(post, path = "/api/v1/positions", operation_id = "create_position", tag = "positions",
    security(("bearer" = [])), params(IdempotencyHeaders), request_body = CreatePosition, responses(
    (status = CREATED, body = PositionBody),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
    (status = UNPROCESSABLE_ENTITY, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn create(
    State(state): State<AppState>,
    caller: TenantCaller,
    Creating { asking, body: request }: Creating<CreatePosition>,
) -> Result<Response, Problem> {
    caller.may(Permission::EditOrchestra)?;
    let draft = NewPosition {
        instrument: parse_id(&caller.scope, "instrument", &request.instrument)?,
        name: request.name,
        hierarchy_level: request.hierarchy_level,
    };
    let mut creation = match asking.begin(&state, &caller).await? {
        Begun::First(creation) => creation,
        Begun::Before(answer) => return Ok(answer),
    };
    let act = creation.act(&caller);
    let position = service::create_position(creation.unit(), &act, draft).await?;
    let body = PositionBody::new(&caller.scope, position);
    creation.created(format!("/api/v1/positions/{}", body.id), &body).await
}

/// Shows a position.
#[utoipa::path(get, path = "/api/v1/positions/{id}", operation_id = "show_position", tag = "positions",
    security(("bearer" = [])), params(("id" = String, Path, example = "GOT-POS-001")), responses(
    (status = OK, body = PositionBody),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn show(
    State(state): State<AppState>,
    caller: TenantCaller,
    id: IdPath<PositionNo>,
) -> Result<Json<PositionBody>, Problem> {
    caller.begin(&state, Permission::ReadOrchestra).await?;
    let mut unit = state.units.begin(&caller.scope, Access::Read).await?;
    let position = service::get_position(&mut *unit, id.no).await?;
    unit.commit().await?;
    Ok(Json(PositionBody::new(&caller.scope, position)))
}

/// Changes a position.
#[utoipa::path(patch, path = "/api/v1/positions/{id}", operation_id = "update_position", tag = "positions",
    security(("bearer" = [])), params(("id" = String, Path, example = "GOT-POS-001")),
    request_body = UpdatePosition, responses(
    (status = OK, body = PositionBody),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn update(
    State(state): State<AppState>,
    caller: TenantCaller,
    id: IdPath<PositionNo>,
    Body(request): Body<UpdatePosition>,
) -> Result<Json<PositionBody>, Problem> {
    caller.begin(&state, Permission::EditOrchestra).await?;
    let change = PositionChange { name: request.name, hierarchy_level: request.hierarchy_level };
    let mut unit = state.units.begin(&caller.scope, Access::Write).await?;
    let position = service::update_position(&mut *unit, &caller.act(&state), id.no, change).await?;
    unit.commit().await?;
    Ok(Json(PositionBody::new(&caller.scope, position)))
}

/// Deletes a position that nobody is qualified for, with its empty lists.
#[utoipa::path(delete, path = "/api/v1/positions/{id}", operation_id = "delete_position", tag = "positions",
    security(("bearer" = [])), params(("id" = String, Path, example = "GOT-POS-001")), responses(
    (status = NO_CONTENT),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn delete(
    State(state): State<AppState>,
    caller: TenantCaller,
    id: IdPath<PositionNo>,
) -> Result<StatusCode, Problem> {
    caller.begin(&state, Permission::EditOrchestra).await?;
    let mut unit = state.units.begin(&caller.scope, Access::Write).await?;
    service::delete_position(&mut *unit, &caller.act(&state), id.no).await?;
    unit.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
