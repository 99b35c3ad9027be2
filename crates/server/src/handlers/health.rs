//! Is the process up, can it serve?

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::problem::Problem;
use crate::state::AppState;

/// An answer of a health check.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthBody {
    /// `ok`
    status: &'static str,
}

/// The process runs. Says nothing of its databases.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = OK, body = HealthBody)))]
pub async fn healthz() -> Json<HealthBody> {
    Json(HealthBody { status: "ok" })
}

/// Requests can be served: the registry and the shared database answer.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = OK, body = HealthBody),
    (status = SERVICE_UNAVAILABLE, body = crate::problem::ProblemBody, content_type = "application/problem+json"),
))]
pub async fn readyz(State(state): State<AppState>) -> Result<Json<HealthBody>, Problem> {
    state.readiness.check().await.map_err(Problem::unavailable)?;
    Ok(Json(HealthBody { status: "ok" }))
}
