//! The platform's databases, for administrators of the platform.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use stagesub_auth::Permission;
use stagesub_domain::ports::databases::{
    AddedDatabase, DatabaseCheck, DatabaseFinding, DatabaseRecord, NewSharedDatabase, SharedPlace,
};
use stagesub_domain::service::databases::add_shared_database;
use stagesub_tenancy::{DatabaseId, TenantId};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::extract::{DatabasePath, Params, PlatformCaller};
use crate::handlers::list::{self, ListBody};
use crate::idempotency::{Creating, IdempotencyHeaders, mark_replayed};
use crate::problem::{Problem, ProblemBody};
use crate::state::AppState;

/// A database that the platform knows. How it is reached is no part of it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseBody {
    /// Identity.
    id: Uuid,
    /// `registry`, `shared` or `dedicated`
    kind: &'static str,
    /// `ready`, or `creating`: its making was begun and not finished.
    status: &'static str,
    /// The server: a name, an address, or a directory of sockets.
    host: String,
    /// The server's port.
    port: u16,
    /// Its name on the server.
    name: String,
    /// How many orchestras are placed in it.
    tenants: i64,
    /// How large it is; null if its server does not say now.
    size_bytes: Option<i64>,
    /// The orchestra that has it for itself.
    tenant_id: Option<Uuid>,
    /// When it was recorded.
    created_at: DateTime<Utc>,
}

impl DatabaseBody {
    /// As clients see it.
    #[must_use]
    pub fn new(record: DatabaseRecord) -> Self {
        Self {
            id: record.id.as_uuid(),
            kind: record.holds.as_str(),
            status: if record.is_ready { "ready" } else { "creating" },
            host: record.host,
            port: record.port,
            name: record.name,
            tenants: record.tenants,
            size_bytes: record.size_bytes,
            tenant_id: record.holds.tenant().map(TenantId::as_uuid),
            created_at: record.created_at,
        }
    }
}

/// A database that was added.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddedDatabaseBody {
    /// The database.
    #[serde(flatten)]
    database: DatabaseBody,
    /// What the privileges of the login did not allow. The platform works without it, less well defended.
    partial: Vec<String>,
}

impl AddedDatabaseBody {
    /// As clients see it.
    #[must_use]
    pub fn new(added: AddedDatabase) -> Self {
        Self { database: DatabaseBody::new(added.record), partial: added.partial }
    }
}

/// Something that was found at a database.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseFindingBody {
    /// `hole`: orchestras are not isolated there; `partial`: less well defended than it could be; `note`
    level: &'static str,
    /// What it is about.
    what: String,
    /// Why it matters.
    why: String,
    /// The SQL that mends it.
    mend: String,
}

impl DatabaseFindingBody {
    fn new(finding: DatabaseFinding) -> Self {
        Self { level: finding.level, what: finding.what, why: finding.why, mend: finding.mend }
    }
}

/// What a look at a database came to.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseCheckBody {
    /// Whether it can be reached and has no hole.
    is_sound: bool,
    /// Why it could not be reached; null if it could.
    unreachable: Option<String>,
    /// What is wrong with it, the worst first.
    findings: Vec<DatabaseFindingBody>,
    /// What stands in the way of moving orchestras in and out while they are in use, each with what to do.
    obstacles: Vec<String>,
    /// Slots and publications of moves that are over, which were removed.
    removed: Vec<String>,
}

impl DatabaseCheckBody {
    /// As clients see it.
    #[must_use]
    pub fn new(check: DatabaseCheck) -> Self {
        Self {
            is_sound: check.is_sound(),
            unreachable: check.unreachable,
            findings: check.findings.into_iter().map(DatabaseFindingBody::new).collect(),
            obstacles: check.obstacles,
            removed: check.removed,
        }
    }
}

/// A further shared database: beside the first one, or where `server` or `database` says.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddDatabase {
    /// The connection string of a login on another server that may make databases and roles. Used now, never kept.
    #[schema(value_type = Option<String>, format = Password)]
    server: Option<SecretString>,
    /// The connection string of a database that is there and empty, as the login that owns it and may make roles. Used now,
    /// never kept.
    #[schema(value_type = Option<String>, format = Password)]
    database: Option<SecretString>,
    /// What it is to be called, 1 to 63 of a-z, 0-9 and _; left out: `stagesub_shared`. Not with `database`.
    name: Option<String>,
}

/// Which part of the list is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub struct DatabaseQuery {
    /// Items on the page, 1 to 200; left out: 50.
    limit: Option<u32>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Lists databases in the order they were recorded.
#[utoipa::path(get, path = "/api/v1/platform/databases", operation_id = "list_databases", tag = "platform",
    security(("bearer" = [])), params(DatabaseQuery), responses(
    (status = OK, body = ListBody<DatabaseBody>),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn list(
    State(state): State<AppState>,
    caller: PlatformCaller,
    Params(query): Params<DatabaseQuery>,
) -> Result<ListBody<DatabaseBody>, Problem> {
    caller.may(Permission::ManageTenants)?;
    let page = list::page(query.limit, None)?;
    let after: Option<Uuid> = list::after(query.cursor.as_deref())?;
    let paged = state.platform_databases.list(after.map(DatabaseId::from_uuid), page.limit()).await?;
    Ok(ListBody {
        items: paged.items.into_iter().map(DatabaseBody::new).collect(),
        next_cursor: paged.next.map(|id| list::encode(&id.to_string())),
    })
}

/// Makes a further shared database, or takes one that is there and empty, and answers when orchestras can be put in it.
///
/// Asked again for the same place, with a key or without, it answers the database that is there; one whose making was not
/// finished is finished first. A key that named another request is refused (422). What cannot be used is refused (409, `wrong-state`) with a sentence that says what to do,
/// before anything is made there.
#[utoipa::path(post, path = "/api/v1/platform/databases", operation_id = "add_database", tag = "platform",
    security(("bearer" = [])), params(IdempotencyHeaders), request_body = AddDatabase, responses(
    (status = CREATED, body = AddedDatabaseBody),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
    (status = UNPROCESSABLE_ENTITY, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn add(
    State(state): State<AppState>,
    caller: PlatformCaller,
    Creating { asking, body: request }: Creating<AddDatabase>,
) -> Result<Response, Problem> {
    caller.may(Permission::ManageTenants)?;
    let place = match (request.server, request.database) {
        (None, None) => SharedPlace::Beside,
        (Some(url), None) => SharedPlace::Server(url),
        (None, Some(url)) => SharedPlace::Database(url),
        (Some(_), Some(_)) => {
            let message = "either server or database, not both";
            return Err(Problem::invalid_field("database", "unexpected", message));
        }
    };
    let new = NewSharedDatabase { place, name: request.name, adopt_logins: false };
    let (databases, asked) = (&*state.platform_databases, asking.by(&caller.actor)?);
    let added = add_shared_database(databases, &caller.actor, &new, asked.as_ref(), state.now()).await?;
    let (location, is_again) = (format!("/api/v1/platform/databases/{}", added.record.id), added.is_again);
    let answer = list::created(&location, AddedDatabaseBody::new(added));
    Ok(if is_again { mark_replayed(answer) } else { answer })
}

/// Shows a database.
#[utoipa::path(get, path = "/api/v1/platform/databases/{id}", operation_id = "show_database", tag = "platform",
    security(("bearer" = [])), params(("id" = Uuid, Path)), responses(
    (status = OK, body = DatabaseBody),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn show(
    State(state): State<AppState>,
    caller: PlatformCaller,
    DatabasePath(id): DatabasePath,
) -> Result<Json<DatabaseBody>, Problem> {
    caller.may(Permission::ManageTenants)?;
    let record = state.platform_databases.find(id).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(DatabaseBody::new(record)))
}

/// Looks at a database of orchestras: whether it can be reached, is the one it should be, keeps them apart, and what
/// stands in the way of moving them. Removes what moves left that are over.
#[utoipa::path(post, path = "/api/v1/platform/databases/{id}/check", operation_id = "check_database", tag = "platform",
    security(("bearer" = [])), params(("id" = Uuid, Path)), responses(
    (status = OK, body = DatabaseCheckBody),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn check(
    State(state): State<AppState>,
    caller: PlatformCaller,
    DatabasePath(id): DatabasePath,
) -> Result<Json<DatabaseCheckBody>, Problem> {
    caller.may(Permission::ManageTenants)?;
    let check = state.platform_databases.check(id).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(DatabaseCheckBody::new(check)))
}
