//! Productions.

#![expect(clippy::option_option, reason = "a change tells a field that is left out from one that is null")]

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use stagesub_auth::Permission;
use stagesub_domain::ids::ProjectNo;
use stagesub_domain::ports::projects::ProjectFilter;
use stagesub_domain::project::{NewProject, Project, ProjectChange, ProjectStatus};
use stagesub_domain::service::projects as service;
use stagesub_tenancy::{Access, TenantScope};
use utoipa::{IntoParams, ToSchema};

use crate::extract::{Body, IdPath, Params, TenantCaller, render_id};
use crate::handlers::list::{self, ListBody, nullable};
use crate::idempotency::{Begun, Creating, IdempotencyHeaders};
use crate::problem::{Problem, ProblemBody};
use crate::state::AppState;

/// A production.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProjectBody {
    /// Id.
    #[schema(example = "GOT-PROJ-001")]
    id: String,
    /// Name.
    name: String,
    /// First day.
    start_date: NaiveDate,
    /// The ISO week it is planned in, 1 to 53.
    week_number: i32,
    /// When and where is rehearsed.
    rehearsal_schedule: Option<String>,
    /// When and where is played.
    concert_info: Option<String>,
    /// Anything else.
    notes: Option<String>,
    /// `planned`, `active`, `completed` or `cancelled`
    status: &'static str,
    /// When it was entered.
    #[serde(serialize_with = "list::moment")]
    created_at: DateTime<Utc>,
    /// When it was last changed.
    #[serde(serialize_with = "list::moment")]
    updated_at: DateTime<Utc>,
}

impl ProjectBody {
    fn new(scope: &TenantScope, project: Project) -> Self {
        Self {
            id: render_id(scope, &project.no),
            name: project.name,
            start_date: project.start_date,
            week_number: project.week_number,
            rehearsal_schedule: project.rehearsal_schedule,
            concert_info: project.concert_info,
            notes: project.notes,
            status: project.status.as_str(),
            created_at: project.created_at,
            updated_at: project.updated_at,
        }
    }
}

/// A production to enter.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateProject {
    /// Name, 1 to 100 characters.
    name: String,
    /// First day.
    start_date: NaiveDate,
    /// The ISO week it is planned in; left out: the week of the first day.
    week_number: Option<i32>,
    /// When and where is rehearsed, at most 4000 characters.
    rehearsal_schedule: Option<String>,
    /// When and where is played, at most 4000 characters.
    concert_info: Option<String>,
    /// Anything else, at most 4000 characters.
    notes: Option<String>,
    /// `planned` (left out), `active`, `completed` or `cancelled`
    status: Option<String>,
}

/// What to change; fields that are left out stay as they are, null empties those that may be empty.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpdateProject {
    /// Name.
    name: Option<String>,
    /// First day.
    start_date: Option<NaiveDate>,
    /// The ISO week it is planned in.
    week_number: Option<i32>,
    /// When and where is rehearsed.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    rehearsal_schedule: Option<Option<String>>,
    /// When and where is played.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    concert_info: Option<Option<String>>,
    /// Anything else.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    notes: Option<Option<String>>,
    /// `planned`, `active`, `completed` or `cancelled`
    status: Option<String>,
}

/// Which productions are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub struct ProjectQuery {
    /// Items on the page, 1 to 200; left out: 50.
    limit: Option<u32>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// Part of the name.
    q: Option<String>,
    /// In this status.
    status: Option<String>,
}

fn status(text: &str) -> Result<ProjectStatus, Problem> {
    text.parse().map_err(|error| Problem::invalid_field("status", "enum", format!("{error}")))
}

/// Lists productions in the order of their numbers.
#[utoipa::path(get, path = "/api/v1/projects", operation_id = "list_projects", tag = "projects",
    security(("bearer" = [])), params(ProjectQuery), responses(
    (status = OK, body = ListBody<ProjectBody>),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn list(
    State(state): State<AppState>,
    caller: TenantCaller,
    Params(query): Params<ProjectQuery>,
) -> Result<ListBody<ProjectBody>, Problem> {
    caller.begin(&state, Permission::ReadOrchestra).await?;
    let page = list::page(query.limit, query.cursor.as_deref())?;
    let filter = ProjectFilter {
        search: list::search(query.q)?,
        status: query.status.as_deref().map(status).transpose()?,
    };
    let paged = if filter == ProjectFilter::unasked() {
        state.hot_lists.projects(&caller.scope, page).await?
    } else {
        let mut unit = state.units.begin(&caller.scope, Access::Read).await?;
        let paged = service::list_projects(&mut *unit, &filter, page).await?;
        unit.commit().await?;
        paged
    };
    Ok(list::list_body(paged, |project| ProjectBody::new(&caller.scope, project)))
}

/// Enters a production.
#[utoipa::path(post, path = "/api/v1/projects", operation_id = "create_project", tag = "projects",
    security(("bearer" = [])), params(IdempotencyHeaders), request_body = CreateProject, responses(
    (status = CREATED, body = ProjectBody),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
    (status = UNPROCESSABLE_ENTITY, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn create(
    State(state): State<AppState>,
    caller: TenantCaller,
    Creating { asking, body: request }: Creating<CreateProject>,
) -> Result<Response, Problem> {
    caller.may(Permission::EditOrchestra)?;
    let draft = NewProject {
        name: request.name,
        start_date: request.start_date,
        week_number: request.week_number,
        rehearsal_schedule: request.rehearsal_schedule,
        concert_info: request.concert_info,
        notes: request.notes,
        status: request.status.as_deref().map(status).transpose()?.unwrap_or(ProjectStatus::Planned),
    };
    let mut creation = match asking.begin(&state, &caller).await? {
        Begun::First(creation) => creation,
        Begun::Before(answer) => return Ok(answer),
    };
    let act = creation.act(&caller);
    let project = service::create_project(creation.unit(), &act, draft).await?;
    let body = ProjectBody::new(&caller.scope, project);
    creation.created(format!("/api/v1/projects/{}", body.id), &body).await
}

/// Shows a production.
#[utoipa::path(get, path = "/api/v1/projects/{id}", operation_id = "show_project", tag = "projects",
    security(("bearer" = [])), params(("id" = String, Path, example = "GOT-PROJ-001")), responses(
    (status = OK, body = ProjectBody),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn show(
    State(state): State<AppState>,
    caller: TenantCaller,
    id: IdPath<ProjectNo>,
) -> Result<Json<ProjectBody>, Problem> {
    caller.begin(&state, Permission::ReadOrchestra).await?;
    let mut unit = state.units.begin(&caller.scope, Access::Read).await?;
    let project = service::get_project(&mut *unit, id.no).await?;
    unit.commit().await?;
    Ok(Json(ProjectBody::new(&caller.scope, project)))
}

/// Changes a production.
#[utoipa::path(patch, path = "/api/v1/projects/{id}", operation_id = "update_project", tag = "projects",
    security(("bearer" = [])), params(("id" = String, Path, example = "GOT-PROJ-001")),
    request_body = UpdateProject, responses(
    (status = OK, body = ProjectBody),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn update(
    State(state): State<AppState>,
    caller: TenantCaller,
    id: IdPath<ProjectNo>,
    Body(request): Body<UpdateProject>,
) -> Result<Json<ProjectBody>, Problem> {
    caller.begin(&state, Permission::EditOrchestra).await?;
    let change = ProjectChange {
        name: request.name,
        start_date: request.start_date,
        week_number: request.week_number,
        rehearsal_schedule: request.rehearsal_schedule,
        concert_info: request.concert_info,
        notes: request.notes,
        status: request.status.as_deref().map(status).transpose()?,
    };
    let mut unit = state.units.begin(&caller.scope, Access::Write).await?;
    let project = service::update_project(&mut *unit, &caller.act(&state), id.no, change).await?;
    unit.commit().await?;
    Ok(Json(ProjectBody::new(&caller.scope, project)))
}

/// Deletes a production.
#[utoipa::path(delete, path = "/api/v1/projects/{id}", operation_id = "delete_project", tag = "projects",
    security(("bearer" = [])), params(("id" = String, Path, example = "GOT-PROJ-001")), responses(
    (status = NO_CONTENT),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn delete(
    State(state): State<AppState>,
    caller: TenantCaller,
    id: IdPath<ProjectNo>,
) -> Result<StatusCode, Problem> {
    caller.begin(&state, Permission::EditOrchestra).await?;
    let mut unit = state.units.begin(&caller.scope, Access::Write).await?;
    service::delete_project(&mut *unit, &caller.act(&state), id.no).await?;
    unit.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
