//! Musicians.

#![expect(clippy::option_option, reason = "a change tells a field that is left out from one that is null")]

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stagesub_auth::Permission;
use stagesub_domain::ids::{InstrumentNo, MusicianNo, PositionNo};
use stagesub_domain::language::Language;
use stagesub_domain::musician::{Musician, MusicianChange, NewMusician};
use stagesub_domain::ports::musicians::MusicianFilter;
use stagesub_domain::service::musicians as service;
use stagesub_tenancy::{Access, TenantScope};
use utoipa::{IntoParams, ToSchema};

use crate::extract::{Body, IdPath, Params, TenantCaller, parse_id, render_id};
use crate::handlers::list::{self, ListBody, nullable};
use crate::idempotency::{Begun, Creating, IdempotencyHeaders};
use crate::problem::{Problem, ProblemBody};
use crate::state::AppState;

/// A musician.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MusicianBody {
    /// Id.
    #[schema(example = "GOT-MUS-001")]
    id: String,
    /// First name.
    first_name: String,
    /// Last name.
    last_name: String,
    /// Address, unique within the orchestra.
    email: String,
    /// Telephone number as written.
    phone: Option<String>,
    /// `sv` or `en`
    preferred_language: &'static str,
    /// Whether they live where the orchestra plays.
    local_residence: bool,
    /// Anything else.
    notes: Option<String>,
    /// Whether they may be asked at present.
    is_active: bool,
    /// Since when they are put away.
    archived_at: Option<DateTime<Utc>>,
    /// Ids of the positions they can play.
    #[schema(example = json!(["GOT-POS-004"]))]
    qualifications: Vec<String>,
    /// When they were entered.
    #[serde(serialize_with = "list::moment")]
    created_at: DateTime<Utc>,
    /// When they were last changed.
    #[serde(serialize_with = "list::moment")]
    updated_at: DateTime<Utc>,
}

impl MusicianBody {
    fn new(scope: &TenantScope, musician: Musician) -> Self {
        Self {
            id: render_id(scope, &musician.no),
            first_name: musician.first_name,
            last_name: musician.last_name,
            email: musician.email,
            phone: musician.phone,
            preferred_language: musician.preferred_language.as_str(),
            local_residence: musician.local_residence,
            notes: musician.notes,
            is_active: musician.is_active,
            archived_at: musician.archived_at,
            qualifications: musician.qualifications.iter().map(|no| render_id(scope, no)).collect(),
            created_at: musician.created_at,
            updated_at: musician.updated_at,
        }
    }
}

/// A musician to enter.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateMusician {
    /// First name, 1 to 100 characters.
    first_name: String,
    /// Last name, 1 to 100 characters.
    last_name: String,
    /// Address, unique within the orchestra.
    email: String,
    /// Telephone number, at most 40 characters.
    phone: Option<String>,
    /// `sv` or `en`; left out: `sv`.
    preferred_language: Option<String>,
    /// Whether they live where the orchestra plays; left out: false.
    #[serde(default)]
    local_residence: bool,
    /// Anything else, at most 4000 characters.
    notes: Option<String>,
    /// Whether they may be asked at present; left out: true.
    #[serde(default = "active")]
    is_active: bool,
    /// Ids of positions they can play.
    #[serde(default)]
    qualifications: Vec<String>,
}

fn active() -> bool {
    true
}

/// What to change; fields that are left out stay as they are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpdateMusician {
    /// First name.
    first_name: Option<String>,
    /// Last name.
    last_name: Option<String>,
    /// Address.
    email: Option<String>,
    /// Telephone number; null removes it.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    phone: Option<Option<String>>,
    /// `sv` or `en`
    preferred_language: Option<String>,
    /// Whether they live where the orchestra plays.
    local_residence: Option<bool>,
    /// Anything else; null removes it.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    notes: Option<Option<String>>,
    /// Whether they may be asked at present.
    is_active: Option<bool>,
    /// Ids of all positions they can play.
    qualifications: Option<Vec<String>>,
}

/// Which musicians are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub struct MusicianQuery {
    /// Items on the page, 1 to 200; left out: 50.
    limit: Option<u32>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// Part of a name or address.
    q: Option<String>,
    /// Only active ones, or only those that are not.
    is_active: Option<bool>,
    /// Only archived ones when true; left out: those that are not.
    archived: Option<bool>,
    /// Qualified for this position.
    position: Option<String>,
    /// Qualified for a position of this instrument.
    instrument: Option<String>,
}

fn language(text: &str) -> Result<Language, Problem> {
    text.parse().map_err(|_| Problem::invalid_field("preferredLanguage", "enum", "must be sv or en"))
}

fn positions(scope: &TenantScope, ids: &[String]) -> Result<Vec<PositionNo>, Problem> {
    ids.iter()
        .enumerate()
        .map(|(index, id)| parse_id(scope, &format!("qualifications[{index}]"), id))
        .collect()
}

/// Lists musicians in the order of their numbers.
#[utoipa::path(get, path = "/api/v1/musicians", operation_id = "list_musicians", tag = "musicians", security(("bearer" = [])),
    params(MusicianQuery), responses(
    (status = OK, body = ListBody<MusicianBody>),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn list(
    State(state): State<AppState>,
    caller: TenantCaller,
    Params(query): Params<MusicianQuery>,
) -> Result<ListBody<MusicianBody>, Problem> {
    caller.begin(&state, Permission::ReadOrchestra).await?;
    let scope = &caller.scope;
    let page = list::page(query.limit, query.cursor.as_deref())?;
    let filter = MusicianFilter {
        search: list::search(query.q)?,
        is_active: query.is_active,
        archived: Some(query.archived.unwrap_or(false)),
        position: query.position.map(|id| parse_id::<PositionNo>(scope, "position", &id)).transpose()?,
        instrument: query
            .instrument
            .map(|id| parse_id::<InstrumentNo>(scope, "instrument", &id))
            .transpose()?,
    };
    let paged = if filter == MusicianFilter::unasked() {
        state.hot_lists.musicians(scope, page).await?
    } else {
        let mut unit = state.units.begin(scope, Access::Read).await?;
        let paged = service::list_musicians(&mut *unit, &filter, page).await?;
        unit.commit().await?;
        paged
    };
    Ok(list::list_body(paged, |musician| MusicianBody::new(scope, musician)))
}

/// Enters a musician.
#[utoipa::path(post, path = "/api/v1/musicians", operation_id = "create_musician", tag = "musicians", security(("bearer" = [])),
    params(IdempotencyHeaders), request_body = CreateMusician, responses(
    (status = CREATED, body = MusicianBody),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
    (status = UNPROCESSABLE_ENTITY, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn create(
    State(state): State<AppState>,
    caller: TenantCaller,
    Creating { asking, body: request }: Creating<CreateMusician>,
) -> Result<Response, Problem> {
    caller.may(Permission::EditOrchestra)?;
    let scope = &caller.scope;
    let draft = NewMusician {
        first_name: request.first_name,
        last_name: request.last_name,
        email: request.email,
        phone: request.phone,
        preferred_language: request.preferred_language.as_deref().map(language).transpose()?,
        local_residence: request.local_residence,
        notes: request.notes,
        is_active: request.is_active,
        qualifications: positions(scope, &request.qualifications)?,
    };
    let mut creation = match asking.begin(&state, &caller).await? {
        Begun::First(creation) => creation,
        Begun::Before(answer) => return Ok(answer),
    };
    let act = creation.act(&caller);
    let musician = service::create_musician(creation.unit(), &act, draft).await?;
    let body = MusicianBody::new(scope, musician);
    creation.created(format!("/api/v1/musicians/{}", body.id), &body).await
}

/// Shows a musician.
#[utoipa::path(get, path = "/api/v1/musicians/{id}", operation_id = "show_musician", tag = "musicians", security(("bearer" = [])),
    params(("id" = String, Path, example = "GOT-MUS-001")), responses(
    (status = OK, body = MusicianBody),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn show(
    State(state): State<AppState>,
    caller: TenantCaller,
    id: IdPath<MusicianNo>,
) -> Result<Json<MusicianBody>, Problem> {
    caller.begin(&state, Permission::ReadOrchestra).await?;
    let mut unit = state.units.begin(&caller.scope, Access::Read).await?;
    let musician = service::get_musician(&mut *unit, id.no).await?;
    unit.commit().await?;
    Ok(Json(MusicianBody::new(&caller.scope, musician)))
}

/// Changes a musician.
#[utoipa::path(patch, path = "/api/v1/musicians/{id}", operation_id = "update_musician", tag = "musicians", security(("bearer" = [])),
    params(("id" = String, Path, example = "GOT-MUS-001")), request_body = UpdateMusician, responses(
    (status = OK, body = MusicianBody),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn update(
    State(state): State<AppState>,
    caller: TenantCaller,
    id: IdPath<MusicianNo>,
    Body(request): Body<UpdateMusician>,
) -> Result<Json<MusicianBody>, Problem> {
    caller.begin(&state, Permission::EditOrchestra).await?;
    let scope = &caller.scope;
    let change = MusicianChange {
        first_name: request.first_name,
        last_name: request.last_name,
        email: request.email,
        phone: request.phone,
        preferred_language: request.preferred_language.as_deref().map(language).transpose()?,
        local_residence: request.local_residence,
        notes: request.notes,
        is_active: request.is_active,
        qualifications: request.qualifications.as_deref().map(|ids| positions(scope, ids)).transpose()?,
    };
    let mut unit = state.units.begin(scope, Access::Write).await?;
    let musician = service::update_musician(&mut *unit, &caller.act(&state), id.no, change).await?;
    unit.commit().await?;
    Ok(Json(MusicianBody::new(scope, musician)))
}

/// Archives a musician: never contacted again, ranks and history stay.
#[utoipa::path(delete, path = "/api/v1/musicians/{id}", operation_id = "archive_musician", tag = "musicians", security(("bearer" = [])),
    params(("id" = String, Path, example = "GOT-MUS-001")), responses(
    (status = NO_CONTENT),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn archive(
    State(state): State<AppState>,
    caller: TenantCaller,
    id: IdPath<MusicianNo>,
) -> Result<StatusCode, Problem> {
    caller.begin(&state, Permission::EditOrchestra).await?;
    let mut unit = state.units.begin(&caller.scope, Access::Write).await?;
    service::delete_musician(&mut *unit, &caller.act(&state), id.no).await?;
    unit.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a musician back from the archive.
#[utoipa::path(post, path = "/api/v1/musicians/{id}/restore", operation_id = "restore_musician", tag = "musicians", security(("bearer" = [])),
    params(("id" = String, Path, example = "GOT-MUS-001")), responses(
    (status = OK, body = MusicianBody),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn restore(
    State(state): State<AppState>,
    caller: TenantCaller,
    id: IdPath<MusicianNo>,
) -> Result<Json<MusicianBody>, Problem> {
    caller.begin(&state, Permission::EditOrchestra).await?;
    let mut unit = state.units.begin(&caller.scope, Access::Write).await?;
    let musician = service::restore_musician(&mut *unit, &caller.act(&state), id.no).await?;
    unit.commit().await?;
    Ok(Json(MusicianBody::new(&caller.scope, musician)))
}
