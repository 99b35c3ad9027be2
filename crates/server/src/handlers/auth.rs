//! Signing in, and who is signed in.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{AppendHeaders, IntoResponse};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use stagesub_auth::LoginError;
use stagesub_domain::role::Role;
use stagesub_tenancy::Addressed;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::extract::{AnyCaller, Body, RequestHost, RequestOrigin};
use crate::metrics::SignIn;
use crate::problem::{Problem, ProblemBody};
use crate::state::AppState;

/// What a person signs in with.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoginRequest {
    /// Login address.
    email: String,
    /// Password.
    #[schema(value_type = String, format = Password)]
    password: SecretString,
}

/// What a sign-in gives.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoginResponse {
    /// Send it as `Authorization: Bearer ...`.
    access_token: String,
    /// `Bearer`
    token_type: &'static str,
    /// Seconds until the token ends.
    expires_in: u64,
    /// Who signed in.
    user: UserBody,
}

/// A person, as they see themselves.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserBody {
    /// Identity.
    id: Uuid,
    /// Login address.
    email: String,
    /// First name.
    first_name: String,
    /// Last name.
    last_name: String,
    /// What they are here.
    #[schema(value_type = String, example = "admin")]
    role: Role,
}

/// Who holds the token, and what they are here.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeResponse {
    /// Identity.
    id: Uuid,
    /// What they are here.
    #[schema(value_type = String, example = "admin")]
    role: Role,
    /// The orchestra's code; null on the platform's own host.
    tenant_code: Option<String>,
}

/// Signs in: on an orchestra's host its members, on the platform's own host its administrators.
#[utoipa::path(post, path = "/api/v1/auth/login", tag = "auth", request_body = LoginRequest, responses(
    (status = OK, body = LoginResponse),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = UNAUTHORIZED, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn login(
    State(state): State<AppState>,
    RequestHost(addressed): RequestHost,
    RequestOrigin(origin): RequestOrigin,
    Body(request): Body<LoginRequest>,
) -> Result<impl IntoResponse, Problem> {
    let tenant = match &addressed {
        Addressed::Tenant(scope) => Some(scope.tenant_id()),
        Addressed::Apex => None,
        Addressed::Www => return Err(Problem::not_found()),
    };
    let attempt = match state.limits.sign_in(origin.ip_address, &request.email).await {
        Ok(attempt) => attempt,
        Err(problem) => {
            state.metrics.sign_in(SignIn::Limited);
            return Err(problem);
        }
    };
    let signed_in = state.login.login(&request.email, request.password, tenant, origin, state.now()).await;
    match signed_in {
        Ok(_) => attempt.succeed(),
        Err(LoginError::Refused) => drop(attempt),
        Err(_) => attempt.forgive(),
    }
    state.metrics.sign_in(match &signed_in {
        Ok(_) => SignIn::Granted,
        Err(LoginError::Refused) => SignIn::Refused,
        Err(LoginError::Overloaded) => SignIn::Overloaded,
        Err(_) => SignIn::Failed,
    });
    let signed_in = signed_in?;
    Ok((
        AppendHeaders([(header::CACHE_CONTROL, "no-store")]),
        Json(LoginResponse {
            access_token: signed_in.access_token,
            token_type: "Bearer",
            expires_in: signed_in.expires_in_secs,
            user: UserBody {
                id: signed_in.person.id,
                email: signed_in.person.email,
                first_name: signed_in.person.first_name,
                last_name: signed_in.person.last_name,
                role: signed_in.role,
            },
        }),
    ))
}

/// Who holds the token.
#[utoipa::path(get, path = "/api/v1/auth/me", tag = "auth", security(("bearer" = [])), responses(
    (status = OK, body = MeResponse),
))]
pub async fn me(caller: AnyCaller) -> Json<MeResponse> {
    Json(MeResponse { id: caller.user, role: caller.role, tenant_code: caller.tenant_code })
}
