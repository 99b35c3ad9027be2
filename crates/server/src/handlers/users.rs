//! An orchestra's people, for its administrators.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use stagesub_auth::Permission;
use stagesub_domain::ports::registry::Member;
use stagesub_domain::role::Role;
use stagesub_domain::service::people as service;
use stagesub_domain::service::tenants::PersonDraft;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::extract::{Body, Params, PersonPath, TenantCaller};
use crate::handlers::list::{self, ListBody};
use crate::idempotency::{Creating, IdempotencyHeaders, mark_replayed};
use crate::problem::{Problem, ProblemBody};
use crate::state::AppState;

/// A member of the orchestra.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberBody {
    /// Identity: the same wherever the person is a member.
    id: Uuid,
    /// Login address.
    email: String,
    /// First name.
    first_name: String,
    /// Last name.
    last_name: String,
    /// `admin`, `user` or `viewer`
    #[schema(value_type = String, example = "user")]
    role: Role,
    /// Whether they may sign in at all; the platform's administrators decide.
    is_active: bool,
}

impl From<Member> for MemberBody {
    fn from(Member { person, role }: Member) -> Self {
        Self {
            id: person.id,
            email: person.email,
            first_name: person.first_name,
            last_name: person.last_name,
            role,
            is_active: person.is_active,
        }
    }
}

/// Somebody to make a member.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateMember {
    /// Login address. A person who has it already becomes a member and keeps name and password.
    email: String,
    /// First name.
    first_name: String,
    /// Last name.
    last_name: String,
    /// `admin`, `user` or `viewer`
    role: String,
    /// Password, 10 to 128 characters; left out: one is set later.
    #[schema(value_type = Option<String>, format = Password)]
    password: Option<SecretString>,
}

/// What to change.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangeMember {
    /// `admin`, `user` or `viewer`
    role: String,
}

/// Which members are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub struct MemberQuery {
    /// Items on the page, 1 to 200; left out: 50.
    limit: Option<u32>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

fn role(text: &str) -> Result<Role, Problem> {
    match text.parse() {
        Ok(role @ (Role::Admin | Role::User | Role::Viewer)) => Ok(role),
        Ok(Role::Superadmin) | Err(_) => {
            Err(Problem::invalid_field("role", "enum", "must be admin, user or viewer"))
        }
    }
}

/// Lists the orchestra's members in the order they were first entered.
#[utoipa::path(get, path = "/api/v1/users", operation_id = "list_members", tag = "users",
    security(("bearer" = [])), params(MemberQuery), responses(
    (status = OK, body = ListBody<MemberBody>),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = FORBIDDEN, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn list(
    State(state): State<AppState>,
    caller: TenantCaller,
    Params(query): Params<MemberQuery>,
) -> Result<ListBody<MemberBody>, Problem> {
    caller.may(Permission::ManageOrchestra)?;
    let page = list::page(query.limit, None)?;
    let after = list::after(query.cursor.as_deref())?;
    let _turn = state.limits.registry_for(caller.scope.tenant_id()).await?;
    let paged = service::list_members(&*state.people, caller.scope.tenant_id(), after, page.limit()).await?;
    Ok(ListBody {
        items: paged.items.into_iter().map(MemberBody::from).collect(),
        next_cursor: paged.next.map(|id| list::encode(&id.to_string())),
    })
}

/// Makes somebody a member of the orchestra. Asked again with the same key, it answers the member as they are now.
#[utoipa::path(post, path = "/api/v1/users", operation_id = "create_member", tag = "users",
    security(("bearer" = [])), params(IdempotencyHeaders), request_body = CreateMember, responses(
    (status = CREATED, body = MemberBody),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = FORBIDDEN, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
    (status = UNPROCESSABLE_ENTITY, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn create(
    State(state): State<AppState>,
    caller: TenantCaller,
    Creating { asking, body: request }: Creating<CreateMember>,
) -> Result<Response, Problem> {
    caller.may(Permission::ManageOrchestra)?;
    let role = role(&request.role)?;
    let password_hash = match request.password {
        None => None,
        Some(password) => {
            stagesub_auth::check_password(&password, &request.email).map_err(Problem::invalid)?;
            let _turn = state.limits.hash_for(Some(caller.scope.tenant_id())).await?;
            let hash = state.passwords.hash(&password).await.map_err(Problem::unavailable)?;
            Some(hash.expose_secret().to_owned())
        }
    };
    let draft = PersonDraft {
        id: Uuid::now_v7(),
        email: request.email,
        first_name: request.first_name,
        last_name: request.last_name,
        password_hash,
    };
    let (tenant, asked, now) = (caller.scope.tenant_id(), asking.by(&caller.actor)?, state.now());
    let _turn = state.limits.registry_for(caller.scope.tenant_id()).await?;
    let made = service::add_member(&state.people(), &caller.actor, tenant, draft, role, asked, now).await?;
    let body = MemberBody::from(made.member);
    let answer = list::created(&format!("/api/v1/users/{}", body.id), body);
    Ok(if made.is_again { mark_replayed(answer) } else { answer })
}

/// Shows a member.
#[utoipa::path(get, path = "/api/v1/users/{id}", operation_id = "show_member", tag = "users",
    security(("bearer" = [])), params(("id" = Uuid, Path)), responses(
    (status = OK, body = MemberBody),
    (status = FORBIDDEN, body = ProblemBody, content_type = "application/problem+json"),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn show(
    State(state): State<AppState>,
    caller: TenantCaller,
    PersonPath(user): PersonPath,
) -> Result<Json<MemberBody>, Problem> {
    caller.may(Permission::ManageOrchestra)?;
    let _turn = state.limits.registry_for(caller.scope.tenant_id()).await?;
    let member = service::get_member(&*state.people, caller.scope.tenant_id(), user).await?;
    Ok(Json(member.into()))
}

/// Gives a member another role. Their access tokens end: they sign in again and are what they are then.
#[utoipa::path(patch, path = "/api/v1/users/{id}", operation_id = "change_member", tag = "users",
    security(("bearer" = [])), params(("id" = Uuid, Path)), request_body = ChangeMember, responses(
    (status = OK, body = MemberBody),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = FORBIDDEN, body = ProblemBody, content_type = "application/problem+json"),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn change(
    State(state): State<AppState>,
    caller: TenantCaller,
    PersonPath(user): PersonPath,
    Body(request): Body<ChangeMember>,
) -> Result<Json<MemberBody>, Problem> {
    caller.may(Permission::ManageOrchestra)?;
    let (tenant, role) = (caller.scope.tenant_id(), role(&request.role)?);
    let _turn = state.limits.registry_for(caller.scope.tenant_id()).await?;
    let member = service::set_role(&state.people(), &caller.actor, tenant, user, role, state.now()).await?;
    Ok(Json(member.into()))
}

/// Ends a membership. The person's account stays, with their memberships elsewhere.
#[utoipa::path(delete, path = "/api/v1/users/{id}", operation_id = "remove_member", tag = "users",
    security(("bearer" = [])), params(("id" = Uuid, Path)), responses(
    (status = NO_CONTENT),
    (status = FORBIDDEN, body = ProblemBody, content_type = "application/problem+json"),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn remove(
    State(state): State<AppState>,
    caller: TenantCaller,
    PersonPath(user): PersonPath,
) -> Result<StatusCode, Problem> {
    caller.may(Permission::ManageOrchestra)?;
    let tenant = caller.scope.tenant_id();
    let _turn = state.limits.registry_for(caller.scope.tenant_id()).await?;
    service::remove_member(&state.people(), &caller.actor, tenant, user, state.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}
