//! Instruments.

#![expect(clippy::option_option, reason = "a change tells a field that is left out from one that is null")]

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stagesub_auth::Permission;
use stagesub_domain::ids::InstrumentNo;
use stagesub_domain::instrument::{Instrument, InstrumentChange, NewInstrument};
use stagesub_domain::ports::instruments::InstrumentFilter;
use stagesub_domain::service::instruments as service;
use stagesub_tenancy::{Access, TenantScope};
use utoipa::{IntoParams, ToSchema};

use crate::extract::{Body, IdPath, Params, TenantCaller, render_id};
use crate::handlers::list::{self, ListBody, nullable};
use crate::idempotency::{Begun, Creating, IdempotencyHeaders};
use crate::problem::{Problem, ProblemBody};
use crate::state::AppState;

/// An instrument.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstrumentBody {
    /// Id.
    #[schema(example = "GOT-INST-001")]
    id: String,
    /// Name, unique within the orchestra.
    name: String,
    /// Place in the score's order.
    display_order: Option<i32>,
    /// Since when it is put away.
    archived_at: Option<DateTime<Utc>>,
    /// When it was made.
    #[serde(serialize_with = "list::moment")]
    created_at: DateTime<Utc>,
    /// When it was last changed.
    #[serde(serialize_with = "list::moment")]
    updated_at: DateTime<Utc>,
}

impl InstrumentBody {
    fn new(scope: &TenantScope, instrument: Instrument) -> Self {
        Self {
            id: render_id(scope, &instrument.no),
            name: instrument.name,
            display_order: instrument.display_order,
            archived_at: instrument.archived_at,
            created_at: instrument.created_at,
            updated_at: instrument.updated_at,
        }
    }
}

/// An instrument to enter.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateInstrument {
    /// Name, 1 to 100 characters, unique within the orchestra.
    name: String,
    /// Place in the score's order, 0 to 9999.
    display_order: Option<i32>,
}

/// What to change; fields that are left out stay as they are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpdateInstrument {
    /// Name.
    name: Option<String>,
    /// Place in the score's order; null removes it.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i32>)]
    display_order: Option<Option<i32>>,
}

/// Which instruments are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub struct InstrumentQuery {
    /// Items on the page, 1 to 200; left out: 50.
    limit: Option<u32>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// Part of the name.
    q: Option<String>,
    /// Only archived ones when true; left out: those that are not.
    archived: Option<bool>,
}

/// Lists instruments in the order of their numbers.
#[utoipa::path(get, path = "/api/v1/instruments", operation_id = "list_instruments", tag = "instruments",
    security(("bearer" = [])), params(InstrumentQuery), responses(
    (status = OK, body = ListBody<InstrumentBody>),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn list(
    State(state): State<AppState>,
    caller: TenantCaller,
    Params(query): Params<InstrumentQuery>,
) -> Result<ListBody<InstrumentBody>, Problem> {
    caller.begin(&state, Permission::ReadOrchestra).await?;
    let page = list::page(query.limit, query.cursor.as_deref())?;
    let filter =
        InstrumentFilter { search: list::search(query.q)?, archived: Some(query.archived.unwrap_or(false)) };
    let paged = if filter == InstrumentFilter::unasked() {
        state.hot_lists.instruments(&caller.scope, page).await?
    } else {
        let mut unit = state.units.begin(&caller.scope, Access::Read).await?;
        let paged = service::list_instruments(&mut *unit, &filter, page).await?;
        unit.commit().await?;
        paged
    };
    Ok(list::list_body(paged, |instrument| InstrumentBody::new(&caller.scope, instrument)))
}

/// Enters an instrument.
#[utoipa::path(post, path = "/api/v1/instruments", operation_id = "create_instrument", tag = "instruments",
    security(("bearer" = [])), params(IdempotencyHeaders), request_body = CreateInstrument, responses(
    (status = CREATED, body = InstrumentBody),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
    (status = UNPROCESSABLE_ENTITY, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn create(
    State(state): State<AppState>,
    caller: TenantCaller,
    Creating { asking, body: request }: Creating<CreateInstrument>,
) -> Result<Response, Problem> {
    caller.may(Permission::EditOrchestra)?;
    let draft = NewInstrument { name: request.name, display_order: request.display_order };
    let mut creation = match asking.begin(&state, &caller).await? {
        Begun::First(creation) => creation,
        Begun::Before(answer) => return Ok(answer),
    };
    let act = creation.act(&caller);
    let instrument = service::create_instrument(creation.unit(), &act, draft).await?;
    let body = InstrumentBody::new(&caller.scope, instrument);
    creation.created(format!("/api/v1/instruments/{}", body.id), &body).await
}

/// Shows an instrument.
#[utoipa::path(get, path = "/api/v1/instruments/{id}", operation_id = "show_instrument", tag = "instruments",
    security(("bearer" = [])), params(("id" = String, Path, example = "GOT-INST-001")), responses(
    (status = OK, body = InstrumentBody),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn show(
    State(state): State<AppState>,
    caller: TenantCaller,
    id: IdPath<InstrumentNo>,
) -> Result<Json<InstrumentBody>, Problem> {
    caller.begin(&state, Permission::ReadOrchestra).await?;
    let mut unit = state.units.begin(&caller.scope, Access::Read).await?;
    let instrument = service::get_instrument(&mut *unit, id.no).await?;
    unit.commit().await?;
    Ok(Json(InstrumentBody::new(&caller.scope, instrument)))
}

/// Changes an instrument.
#[utoipa::path(patch, path = "/api/v1/instruments/{id}", operation_id = "update_instrument", tag = "instruments",
    security(("bearer" = [])), params(("id" = String, Path, example = "GOT-INST-001")),
    request_body = UpdateInstrument, responses(
    (status = OK, body = InstrumentBody),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn update(
    State(state): State<AppState>,
    caller: TenantCaller,
    id: IdPath<InstrumentNo>,
    Body(request): Body<UpdateInstrument>,
) -> Result<Json<InstrumentBody>, Problem> {
    caller.begin(&state, Permission::EditOrchestra).await?;
    let change = InstrumentChange { name: request.name, display_order: request.display_order };
    let mut unit = state.units.begin(&caller.scope, Access::Write).await?;
    let instrument = service::update_instrument(&mut *unit, &caller.act(&state), id.no, change).await?;
    unit.commit().await?;
    Ok(Json(InstrumentBody::new(&caller.scope, instrument)))
}

/// Deletes an instrument that no position names.
#[utoipa::path(delete, path = "/api/v1/instruments/{id}", operation_id = "delete_instrument", tag = "instruments",
    security(("bearer" = [])), params(("id" = String, Path, example = "GOT-INST-001")), responses(
    (status = NO_CONTENT),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn delete(
    State(state): State<AppState>,
    caller: TenantCaller,
    id: IdPath<InstrumentNo>,
) -> Result<StatusCode, Problem> {
    caller.begin(&state, Permission::EditOrchestra).await?;
    let mut unit = state.units.begin(&caller.scope, Access::Write).await?;
    service::delete_instrument(&mut *unit, &caller.act(&state), id.no).await?;
    unit.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Archives an instrument: it stays, and counts no more against the limit.
#[utoipa::path(post, path = "/api/v1/instruments/{id}/archive", operation_id = "archive_instrument",
    tag = "instruments", security(("bearer" = [])), params(("id" = String, Path, example = "GOT-INST-001")),
    responses(
    (status = OK, body = InstrumentBody),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn archive(
    State(state): State<AppState>,
    caller: TenantCaller,
    id: IdPath<InstrumentNo>,
) -> Result<Json<InstrumentBody>, Problem> {
    caller.begin(&state, Permission::EditOrchestra).await?;
    let mut unit = state.units.begin(&caller.scope, Access::Write).await?;
    let instrument = service::archive_instrument(&mut *unit, &caller.act(&state), id.no).await?;
    unit.commit().await?;
    Ok(Json(InstrumentBody::new(&caller.scope, instrument)))
}

/// Takes an instrument back from the archive.
#[utoipa::path(post, path = "/api/v1/instruments/{id}/restore", operation_id = "restore_instrument",
    tag = "instruments", security(("bearer" = [])), params(("id" = String, Path, example = "GOT-INST-001")),
    responses(
    (status = OK, body = InstrumentBody),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn restore(
    State(state): State<AppState>,
    caller: TenantCaller,
    id: IdPath<InstrumentNo>,
) -> Result<Json<InstrumentBody>, Problem> {
    caller.begin(&state, Permission::EditOrchestra).await?;
    let mut unit = state.units.begin(&caller.scope, Access::Write).await?;
    let instrument = service::restore_instrument(&mut *unit, &caller.act(&state), id.no).await?;
    unit.commit().await?;
    Ok(Json(InstrumentBody::new(&caller.scope, instrument)))
}
