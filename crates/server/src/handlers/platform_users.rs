//! Everybody who has an account, for administrators of the platform.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use stagesub_auth::Permission;
use stagesub_domain::ports::registry::{Person, PersonFilter};
use stagesub_domain::service::people as service;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::extract::{Body, Params, PersonPath, PlatformCaller};
use crate::handlers::list::{self, ListBody};
use crate::problem::{Problem, ProblemBody};
use crate::state::AppState;

/// A person, as the platform's administrators see them.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PersonBody {
    /// Identity.
    id: Uuid,
    /// Login address.
    email: String,
    /// First name.
    first_name: String,
    /// Last name.
    last_name: String,
    /// Whether they may sign in.
    is_active: bool,
    /// Whether they run the platform.
    is_superadmin: bool,
}

impl From<Person> for PersonBody {
    fn from(person: Person) -> Self {
        let Person { id, email, first_name, last_name, is_active, is_superadmin } = person;
        Self { id, email, first_name, last_name, is_active, is_superadmin }
    }
}

/// What to change; fields that are left out stay as they are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangePerson {
    /// Whether they may sign in, anywhere.
    is_active: Option<bool>,
}

/// Which people are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub struct PersonQuery {
    /// Items on the page, 1 to 200; left out: 50.
    limit: Option<u32>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// Part of address or name.
    q: Option<String>,
}

/// Lists people in the order they were entered.
#[utoipa::path(get, path = "/api/v1/platform/users", operation_id = "list_people", tag = "platform",
    security(("bearer" = [])), params(PersonQuery), responses(
    (status = OK, body = ListBody<PersonBody>),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn list(
    State(state): State<AppState>,
    caller: PlatformCaller,
    Params(query): Params<PersonQuery>,
) -> Result<ListBody<PersonBody>, Problem> {
    caller.may(Permission::ManageUsers)?;
    let page = list::page(query.limit, None)?;
    let after = list::after(query.cursor.as_deref())?;
    let filter = PersonFilter { search: list::search(query.q)? };
    let paged = service::list_people(&*state.people, &filter, after, page.limit()).await?;
    Ok(ListBody {
        items: paged.items.into_iter().map(PersonBody::from).collect(),
        next_cursor: paged.next.map(|id| list::encode(&id.to_string())),
    })
}

/// Shows a person.
#[utoipa::path(get, path = "/api/v1/platform/users/{id}", operation_id = "show_person", tag = "platform",
    security(("bearer" = [])), params(("id" = Uuid, Path)), responses(
    (status = OK, body = PersonBody),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn show(
    State(state): State<AppState>,
    caller: PlatformCaller,
    PersonPath(user): PersonPath,
) -> Result<Json<PersonBody>, Problem> {
    caller.may(Permission::ManageUsers)?;
    Ok(Json(service::get_person(&*state.people, user).await?.into()))
}

/// Disables or enables a person. Disabled, they are refused on every orchestra's host and on the platform's own,
/// also with access tokens that they hold.
#[utoipa::path(patch, path = "/api/v1/platform/users/{id}", operation_id = "change_person", tag = "platform",
    security(("bearer" = [])), params(("id" = Uuid, Path)), request_body = ChangePerson, responses(
    (status = OK, body = PersonBody),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn change(
    State(state): State<AppState>,
    caller: PlatformCaller,
    PersonPath(user): PersonPath,
    Body(request): Body<ChangePerson>,
) -> Result<Json<PersonBody>, Problem> {
    caller.may(Permission::ManageUsers)?;
    let person = match request.is_active {
        Some(is_active) => {
            service::set_active(&state.people(), &caller.actor, user, is_active, state.now()).await?
        }
        None => service::get_person(&*state.people, user).await?,
    };
    Ok(Json(person.into()))
}
