//! The other handlers. Each takes a scope, or it reaches nothing.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use stagesub_storage::error::CommitError;
use stagesub_storage::factory::TenantDb;
use stagesub_storage::one_write::{PreparedWrite, WriteError};
use stagesub_storage::service::Service;
use stagesub_tenancy::{Access, BeginError, TenantId, TenantScope};
use uuid::Uuid;

const REMOVE: PreparedWrite =
    PreparedWrite::new("helpdesk_remove", "DELETE FROM helpdesk.ticket WHERE tenant_id = $1 AND id = $2", 1);

/// A ticket as it is listed.
#[derive(Debug, Serialize, sqlx::FromRow)]
pub(crate) struct Ticket {
    pub(crate) id: Uuid,
    pub(crate) subject: String,
}

/// A ticket with what was said about it.
#[derive(Debug, Serialize)]
struct Thread {
    #[serde(flatten)]
    ticket: Ticket,
    comments: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct NewTicket {
    subject: String,
}

#[derive(Debug, Deserialize)]
struct NewComment {
    body: String,
}

pub(crate) fn others() -> Router<TenantDb> {
    Router::new()
        .route("/tickets", post(open))
        .route("/tickets/{id}", get(show).delete(remove))
        .route("/tickets/{id}/comments", post(comment))
        .route("/forgetful", get(forgetful))
}

async fn open(
    State(db): State<TenantDb>,
    scope: TenantScope,
    Json(new): Json<NewTicket>,
) -> Result<(StatusCode, Json<Ticket>), Refused> {
    let mut tx = db.begin(&scope, Access::Write).await?;
    let ticket = sqlx::query_as(
        "INSERT INTO helpdesk.ticket (tenant_id, subject) VALUES ($1, $2) RETURNING id, subject",
    )
    .bind(tx.tenant().as_uuid())
    .bind(new.subject)
    .fetch_one(&mut tx)
    .await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(ticket)))
}

async fn show(
    State(db): State<TenantDb>,
    scope: TenantScope,
    Path(id): Path<Uuid>,
) -> Result<Json<Thread>, Refused> {
    let mut tx = db.begin(&scope, Access::Read).await?;
    let tenant = tx.tenant().as_uuid();
    let ticket = sqlx::query_as("SELECT id, subject FROM helpdesk.ticket WHERE tenant_id = $1 AND id = $2")
        .bind(tenant)
        .bind(id)
        .fetch_optional(&mut tx)
        .await?
        .ok_or(Refused::NotFound)?;
    let comments = sqlx::query_scalar(
        "SELECT body FROM helpdesk.comment WHERE tenant_id = $1 AND ticket_id = $2 ORDER BY created_at, id",
    )
    .bind(tenant)
    .bind(id)
    .fetch_all(&mut tx)
    .await?;
    tx.commit().await?;
    Ok(Json(Thread { ticket, comments }))
}

async fn comment(
    State(db): State<TenantDb>,
    scope: TenantScope,
    Path(id): Path<Uuid>,
    Json(new): Json<NewComment>,
) -> Result<StatusCode, Refused> {
    let mut tx = db.begin(&scope, Access::Write).await?;
    sqlx::query("INSERT INTO helpdesk.comment (tenant_id, ticket_id, body) VALUES ($1, $2, $3)")
        .bind(tx.tenant().as_uuid())
        .bind(id)
        .bind(new.body)
        .execute(&mut tx)
        .await?;
    tx.commit().await?;
    Ok(StatusCode::CREATED)
}

/// Removes a ticket, with what was said about it: one statement, so one message begins it, carries it out and commits
/// it.
async fn remove(
    State(db): State<TenantDb>,
    scope: TenantScope,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, Refused> {
    let removed = db.write_in_one_message(&scope, &REMOVE, &[id.into()]).await?;
    if removed.affected == 1 { Ok(StatusCode::NO_CONTENT) } else { Err(Refused::NotFound) }
}

/// A handler with a bug, for `attack.rs`: its SQL forgot `WHERE tenant_id = $1`.
async fn forgetful(State(db): State<TenantDb>, scope: TenantScope) -> Result<Json<Vec<Ticket>>, Refused> {
    let mut tx = db.begin(&scope, Access::Read).await?;
    let everything = sqlx::query_as("SELECT id, subject FROM helpdesk.ticket").fetch_all(&mut tx).await?;
    tx.commit().await?;
    Ok(Json(everything))
}

/// Gives a customer that has no ticket a first one, so that there is something to see and to steal.
pub(crate) async fn fill(
    desk: &Service,
    customer: TenantId,
    name: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut tx = desk.db().begin(&desk.scope(customer).await?, Access::Write).await?;
    sqlx::query(
        "WITH first AS (
            INSERT INTO helpdesk.ticket (tenant_id, subject)
            SELECT $1, $2 WHERE NOT EXISTS (SELECT FROM helpdesk.ticket WHERE tenant_id = $1)
            RETURNING id
        )
        INSERT INTO helpdesk.comment (tenant_id, ticket_id, body) SELECT $1, id, 'Nobody else is to read this.' FROM first",
    )
    .bind(tx.tenant().as_uuid())
    .bind(format!("The till of {name} is stuck"))
    .execute(&mut tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Refused {
    NotFound,
    Invalid,
    Unavailable(Box<dyn std::error::Error + Send + Sync>),
}

impl From<BeginError> for Refused {
    fn from(error: BeginError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

impl From<CommitError> for Refused {
    fn from(error: CommitError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

impl From<WriteError> for Refused {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Statement(error) => error.into(),
            error => Self::Unavailable(Box::new(error)),
        }
    }
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error().map(sqlx::error::DatabaseError::kind) {
            // A ticket of somebody else's is a ticket that does not exist.
            Some(sqlx::error::ErrorKind::ForeignKeyViolation) => Self::NotFound,
            Some(sqlx::error::ErrorKind::CheckViolation) => Self::Invalid,
            _ => Self::Unavailable(Box::new(error)),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND.into_response(),
            Self::Invalid => StatusCode::UNPROCESSABLE_ENTITY.into_response(),
            Self::Unavailable(error) => {
                eprintln!("helpdesk: {error}");
                (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")]).into_response()
            }
        }
    }
}
