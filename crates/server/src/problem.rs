//! Every error as `application/problem+json` (RFC 9457), in one place.
//!
//! `type` is stable and may be matched on; `title` and `detail` are for people. An unknown tenant, another
//! tenant's row and a missing row are told in the same words.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use stagesub_auth::{AuthenticateError, Forbidden, LoginError};
use stagesub_domain::error::{FieldError, StoreError, UseCaseError, ValidationErrors};
use stagesub_tenancy::{AccessRefusal, BeginError, OpenError, ResolveError, RouteError};
use utoipa::ToSchema;

tokio::task_local! {
    /// The id of the request that is being answered, set around every request where its span is opened.
    pub static REQUEST_ID: String;
}

/// Prefix of every problem's `type`: a name, not a page that must exist.
const TYPE_PREFIX: &str = "urn:stagesub:problem:";

/// The kind of problem that says that a change may or may not have been kept.
const OUTCOME_UNKNOWN: &str = "commit-unknown";

/// An answer that says what went wrong.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: String,
    errors: Vec<FieldError>,
    retry_after_secs: Option<u64>,
    /// For the log; never for the client.
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The body of a problem.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProblemBody {
    /// Stable name of the kind of problem.
    #[serde(rename = "type")]
    #[schema(example = "urn:stagesub:problem:not-found")]
    kind: String,
    /// The kind, for people.
    title: &'static str,
    /// The status, again.
    status: u16,
    /// What happened, for people.
    detail: String,
    /// The request's id, as in the `x-request-id` header and the logs: where there is something to report, and
    /// nowhere else, so that the answers to what is not there are alike to the byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// What is wrong with which field, where input was refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ProblemField>,
}

/// One field that was refused.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProblemField {
    /// The field, as the API names it.
    field: String,
    /// The rule's stable name.
    rule: &'static str,
    /// What the rule asks.
    message: String,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            title,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_secs: None,
            cause: None,
        }
    }

    /// The one 404 for everything that is not there, or not there for this caller.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", "There is nothing at this address.")
    }

    /// Input that breaks rules.
    #[must_use]
    pub fn invalid(errors: ValidationErrors) -> Self {
        let mut problem = Self::new(
            StatusCode::BAD_REQUEST,
            "invalid-input",
            "Invalid input",
            "The request breaks the rules listed in errors; nothing was changed.",
        );
        problem.errors = errors.0;
        problem
    }

    /// One field that breaks a rule.
    #[must_use]
    pub fn invalid_field(field: impl Into<String>, rule: &'static str, message: impl Into<String>) -> Self {
        Self::invalid(ValidationErrors::one(field, rule, message))
    }

    /// A body that is no JSON, or of the wrong media type.
    #[must_use]
    pub fn malformed(status: StatusCode, detail: impl Into<String>) -> Self {
        Self::new(status, "malformed-request", "Malformed request", detail)
    }

    /// Credentials are missing, wrong or outdated.
    #[must_use]
    pub fn unauthenticated(detail: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", "Not signed in", detail)
    }

    /// The caller's role does not allow it.
    #[must_use]
    pub fn forbidden() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "Not allowed",
            "Your role does not allow this; ask an administrator of the orchestra.",
        )
    }

    fn conflict(kind: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, kind, "Conflict", detail)
    }

    /// The method is not offered at this address.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "Method not allowed",
            "This address does not offer the method; see /api/docs.",
        )
    }

    /// The body is larger than this address takes.
    #[must_use]
    pub fn too_large(limit_bytes: u64) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "Too large",
            format!("The body is larger than the {limit_bytes} bytes that this address takes."),
        )
    }

    /// Not now; the same request may succeed later.
    #[must_use]
    pub fn unavailable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let mut problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "Temporarily unavailable",
            "The service cannot answer now; try again shortly.",
        );
        problem.retry_after_secs = Some(1);
        problem.cause = Some(cause.into());
        problem
    }

    /// Whether the change was kept is not known: the connection was lost, or the time was up, while it was being
    /// stored.
    #[must_use]
    pub fn outcome_unknown(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let mut problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            OUTCOME_UNKNOWN,
            "Outcome unknown",
            "It is not known whether the change was kept. Send the same request again with the same \
             Idempotency-Key, and it is done once; sent without a key, look first what is there.",
        );
        problem.retry_after_secs = Some(1);
        problem.cause = Some(cause.into());
        problem
    }

    fn key_reused() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "Idempotency-Key was used before",
            "This Idempotency-Key names another request of yours; nothing was changed. Send a request that differs \
             under a key of its own.",
        )
    }

    fn key_underway() -> Self {
        let mut problem = Self::conflict(
            "idempotency-key-underway",
            "The request that this Idempotency-Key names is still at work; ask again shortly.",
        );
        problem.retry_after_secs = Some(1);
        problem
    }

    /// Too many requests; the same one is answered later.
    #[must_use]
    pub fn rate_limited(retry_after: Duration) -> Self {
        Self::too_many(
            "rate-limited",
            "There were too many requests from your address or to this orchestra; wait as long as Retry-After says.",
            retry_after,
        )
    }

    /// Too many sign-ins failed, or are under way.
    #[must_use]
    pub fn sign_in_limited(retry_after: Duration) -> Self {
        Self::too_many(
            "sign-in-limited",
            "There were too many attempts to sign in; wait as long as Retry-After says.",
            retry_after,
        )
    }

    /// Too many connections are open from one address; one that is closed makes room.
    #[must_use]
    pub fn crowded() -> Self {
        Self::too_many(
            "too-many-connections",
            "There are too many connections from your address; close some, and wait as long as Retry-After says.",
            Duration::from_secs(1),
        )
    }

    /// Too many answers that go on are being given; one that ends makes room.
    #[must_use]
    pub fn too_many_streams() -> Self {
        Self::too_many(
            "too-many-streams",
            "There are too many who watch moves on this node; wait as long as Retry-After says, or ask for the move now \
             and then.",
            Duration::from_secs(5),
        )
    }

    /// The body of a request did not arrive in time; nothing was changed.
    #[must_use]
    pub fn too_slow() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "request-timeout",
            "Request timeout",
            "The body did not arrive in time; nothing was changed.",
        )
    }

    fn too_many(kind: &'static str, detail: &'static str, retry_after: Duration) -> Self {
        let mut problem = Self::new(StatusCode::TOO_MANY_REQUESTS, kind, "Too many requests", detail);
        problem.retry_after_secs = Some(whole_seconds(retry_after));
        problem
    }

    /// A defect of this program or of stored data.
    #[must_use]
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let mut problem = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Internal error",
            "Something failed on our side; quote requestId when you report it.",
        );
        problem.cause = Some(cause.into());
        problem
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// 5xx is logged with its whole chain, 4xx quietly: here, once, where the error becomes an answer.
    fn log(&self) {
        let chain = || self.cause.as_deref().map(|cause| error_chain(cause)).unwrap_or_default();
        if self.kind == OUTCOME_UNKNOWN {
            tracing::error!(
                status = self.status.as_u16(), kind = self.kind, cause = %chain(),
                "it is not known whether a change was kept"
            );
        } else if self.status.is_server_error() {
            tracing::error!(status = self.status.as_u16(), kind = self.kind, cause = %chain(), "request failed");
        } else {
            tracing::debug!(status = self.status.as_u16(), kind = self.kind, detail = %self.detail, "request refused");
        }
    }
}

/// An error and its causes, in one line.
#[must_use]
pub fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        // Some libraries repeat the cause in their own text.
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.log();
        let body = ProblemBody {
            kind: format!("{TYPE_PREFIX}{}", self.kind),
            title: self.title,
            status: self.status.as_u16(),
            detail: self.detail,
            request_id: self
                .status
                .is_server_error()
                .then(|| REQUEST_ID.try_with(Clone::clone).ok())
                .flatten(),
            errors: self
                .errors
                .into_iter()
                .map(|error| ProblemField { field: error.field, rule: error.rule, message: error.message })
                .collect(),
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(secs) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }
}

impl From<ResolveError> for Problem {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::UnknownTenant => Self::not_found(),
            ResolveError::Refused { refusal, .. } => {
                let (kind, detail) = match refusal {
                    AccessRefusal::Provisioning => {
                        ("tenant-provisioning", "This orchestra is being set up; try again in a moment.")
                    }
                    AccessRefusal::Suspended => {
                        ("tenant-suspended", "This orchestra's account is suspended.")
                    }
                    AccessRefusal::Closing => ("tenant-closing", "This orchestra's account is closing."),
                    AccessRefusal::Expired { .. } => {
                        ("tenant-expired", "This orchestra's trial or subscription has ended.")
                    }
                };
                Self::new(StatusCode::FORBIDDEN, kind, "Orchestra not served", detail)
            }
            error @ ResolveError::Directory(_) => Self::unavailable(error),
            error => Self::internal(error),
        }
    }
}

/// As `Retry-After` has it: never too few.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

impl From<BeginError> for Problem {
    fn from(error: BeginError) -> Self {
        match error {
            BeginError::Route(
                RouteError::NoPlacement(_)
                | RouteError::Open(OpenError::UnknownDatabase(_) | OpenError::WrongDatabase { .. }),
            ) => Self::internal(error),
            BeginError::Route(RouteError::Open(OpenError::BreakerOpen { retry_after })) => {
                let mut problem = Self::unavailable(error);
                problem.retry_after_secs = Some(whole_seconds(retry_after).max(1));
                problem
            }
            error => Self::unavailable(error),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { constraint } => {
                Self::conflict("conflict", format!("Another record stands against it ({constraint:?})."))
            }
            StoreError::Contended(_) | StoreError::Unavailable(_) => Self::unavailable(error),
            StoreError::CommitUnknown(_) => Self::outcome_unknown(error),
            error => Self::internal(error),
        }
    }
}

impl From<UseCaseError> for Problem {
    fn from(error: UseCaseError) -> Self {
        match error {
            UseCaseError::Invalid(errors) => Self::invalid(errors),
            UseCaseError::NotFound { .. }
            | UseCaseError::UnknownTenant
            | UseCaseError::UnknownMove
            | UseCaseError::UnknownPerson => Self::not_found(),
            UseCaseError::Taken { field } => {
                let mut problem = Self::conflict(
                    "taken",
                    format!("The value of {field} is in use already; nothing was changed."),
                );
                problem.errors = vec![FieldError {
                    field: field.to_owned(),
                    rule: "unique",
                    message: "is in use already".to_owned(),
                }];
                problem
            }
            UseCaseError::InUse { kind, by } => Self::conflict(
                "in-use",
                format!("This {} cannot be deleted: it is in use by {by}.", kind_name(kind)),
            ),
            UseCaseError::LastAdministrator { of } => Self::conflict(
                "last-administrator",
                format!(
                    "Nobody else who may sign in administers the {of}; make somebody an administrator first."
                ),
            ),
            UseCaseError::WrongState { detail } => Self::conflict("wrong-state", detail),
            UseCaseError::LimitReached { resource, used, limit, .. } => Self::new(
                StatusCode::FORBIDDEN,
                "limit-reached",
                "Limit reached",
                format!(
                    "The subscription allows {limit} {} and {used} are in use; reading, editing and exporting go on, \
                     and an upgrade unblocks at once.",
                    resource.as_str().replace('_', " ")
                ),
            ),
            UseCaseError::KeyReused => Self::key_reused(),
            UseCaseError::KeyUnderway => Self::key_underway(),
            UseCaseError::Resolve(error) => error.into(),
            UseCaseError::Begin(error) => error.into(),
            UseCaseError::Store(error) => error.into(),
            error => Self::internal(error),
        }
    }
}

/// What people call a kind of thing.
fn kind_name(kind: stagesub_id_gen::Kind) -> &'static str {
    use stagesub_id_gen::Kind;
    match kind {
        Kind::Musician => "musician",
        Kind::Instrument => "instrument",
        Kind::Position => "position",
        Kind::RankingList => "ranking list",
        Kind::Project => "project",
        Kind::Need => "need",
        Kind::Request => "request",
        Kind::File => "file",
        _ => "record",
    }
}

impl From<LoginError> for Problem {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::Refused => Self::unauthenticated("The address or the password is wrong."),
            // What is not known is whether the sign-in was recorded; signing in again does no harm.
            LoginError::Store(error @ StoreError::CommitUnknown(_)) => Self::unavailable(error),
            LoginError::Store(error) => error.into(),
            error @ LoginError::Failed(_) => Self::internal(error),
            error => Self::unavailable(error),
        }
    }
}

impl From<AuthenticateError> for Problem {
    fn from(error: AuthenticateError) -> Self {
        match error {
            AuthenticateError::Expired => {
                Self::unauthenticated("The access token has expired; sign in again.")
            }
            AuthenticateError::Store(error) => error.into(),
            _ => Self::unauthenticated("The access token is not valid here."),
        }
    }
}

impl From<Forbidden> for Problem {
    fn from(_: Forbidden) -> Self {
        Self::forbidden()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_a_database_that_is_left_alone_is_told_for_how_long() {
        let left_alone = OpenError::BreakerOpen { retry_after: Duration::from_millis(4_200) };
        let told = Problem::from(BeginError::Route(RouteError::Open(left_alone))).into_response();
        assert_eq!(told.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(told.headers()[header::RETRY_AFTER], "5");
        let busy = Problem::from(BeginError::Busy).into_response();
        assert_eq!(busy.headers()[header::RETRY_AFTER], "1");
    }
}
