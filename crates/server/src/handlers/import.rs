//! Musicians from the file that an orchestra's office exports.
//!
//! The file is spooled to an unnamed temporary file, so that memory does not grow with it and its encoding
//! is known before the first row is read. While it comes it has its orchestra's turn at the disk, so it has to come at
//! some pace.

use std::time::Duration;

use axum::Json;
use axum::body::BodyDataStream;
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use stagesub_auth::Permission;
use stagesub_domain::error::UseCaseError;
use stagesub_domain::import::{ImportMode, ImportReport, MusicianCsv, Remark};
use stagesub_domain::service::import as service;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};
use utoipa::{IntoParams, ToSchema};

use crate::extract::{Params, TenantCaller};
use crate::idempotency::{AskingFor, Begun, IdempotencyHeaders};
use crate::problem::{Problem, ProblemBody};
use crate::state::AppState;

/// Largest file, in bytes.
pub const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;

/// Largest request that carries one, in bytes: the file and what a form puts around it.
pub const MAX_REQUEST_BYTES: usize = 33 * 1024 * 1024;

/// Longest until a file begins to come.
const BEGINS_WITHIN: Duration = Duration::from_secs(10);

/// Bytes that bring a file that is coming a second more.
const LEAST_PACE: u64 = 64 * 1024;

/// How a file with bad rows is treated.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImportQuery {
    /// `all` (left out): a bad row keeps the whole file out. `valid`: the good rows are taken.
    mode: Option<String>,
}

/// What became of the file.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportBody {
    /// Whether anything was kept: false when a bad row kept the whole file out.
    applied: bool,
    /// Musicians entered.
    created: u64,
    /// Musicians changed.
    updated: u64,
    /// Musicians that were so already.
    unchanged: u64,
    /// Rows that repeat an earlier row of the file.
    repeated: u64,
    /// Rows of the file that are not blank.
    rows: u64,
    /// Rows that were refused.
    refused_rows: u64,
    /// What is wrong with them, at most the first 10,000.
    refused: Vec<RemarkBody>,
    /// How many more refusals there are than are listed.
    refused_more: u64,
    /// What was left out of rows that were taken, at most the first 10,000.
    notices: Vec<RemarkBody>,
    /// How many more notices there are than are listed.
    notices_more: u64,
    /// Headers that name nothing StageSub keeps.
    ignored_columns: Vec<String>,
}

/// Something about a row.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemarkBody {
    /// Line of the file, counted from 1.
    line: u64,
    /// Column, by the header of the file.
    column: Option<String>,
    /// What there is to say, for people.
    reason: String,
}

/// Imports musicians from CSV: `;`, `,` or tab; UTF-8 or Windows-1252; headers in Swedish or English.
///
/// Send the file as the body (`text/csv`) or as the part `file` of `multipart/form-data`. Known addresses
/// are updated, so importing a file again changes nothing. One transaction: all or nothing unless
/// `mode=valid`. What counts as the same content of an `Idempotency-Key` is the file, however it is sent.
#[utoipa::path(post, path = "/api/v1/musicians/import", operation_id = "import_musicians", tag = "musicians",
    security(("bearer" = [])), params(ImportQuery, IdempotencyHeaders),
    request_body(content = String, content_type = "text/csv"), responses(
    (status = OK, description = "Taken", body = ImportBody),
    (status = UNPROCESSABLE_ENTITY, description = "Bad rows, nothing was changed; or a problem", body = ImportBody),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
    (status = PAYLOAD_TOO_LARGE, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn import(
    State(state): State<AppState>,
    caller: TenantCaller,
    Params(query): Params<ImportQuery>,
    mut asking: AskingFor,
    request: Request,
) -> Result<Response, Problem> {
    caller.may(Permission::ImportMusicians)?;
    let mode = match query.mode.as_deref() {
        None | Some("all") => ImportMode::AllOrNothing,
        Some("valid") => ImportMode::Valid,
        Some(_) => return Err(Problem::invalid_field("mode", "enum", "must be all or valid")),
    };
    // Kept as long as the file is there.
    let _turn = state.limits.file_for(caller.scope.tenant_id()).await?;
    let file = spool(&state, request, &mut asking).await?;
    let mut rows = tokio::task::spawn_blocking(move || MusicianCsv::open(std::io::BufReader::new(file)))
        .await
        .map_err(Problem::internal)?
        .map_err(UseCaseError::from)?;

    let mut creation = match asking.complete().begin(&state, &caller).await? {
        Begun::First(creation) => creation,
        Begun::Before(answer) => return Ok(answer),
    };
    let act = creation.act(&caller);
    let report = service::import_musicians(creation.unit(), &act, &mut rows, mode).await?;
    let is_applied = report.applied;
    let body = body(report, rows.header().ignored());
    if is_applied {
        creation.done(&body).await
    } else {
        Ok((StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response())
    }
}

fn body(report: ImportReport, ignored_columns: &[String]) -> ImportBody {
    let lines = |remarks: Vec<Remark>| {
        remarks
            .into_iter()
            .map(|remark| RemarkBody { line: remark.line, column: remark.column, reason: remark.reason })
            .collect()
    };
    ImportBody {
        applied: report.applied,
        rows: report.rows,
        created: report.created,
        updated: report.updated,
        unchanged: report.unchanged,
        repeated: report.repeated,
        refused_rows: report.refused_count,
        refused: lines(report.refused),
        refused_more: report.refused_more,
        notices: lines(report.notices),
        notices_more: report.notices_more,
        ignored_columns: ignored_columns.to_vec(),
    }
}

/// Writes the file that the request carries to an unnamed temporary file.
async fn spool(state: &AppState, request: Request, asking: &mut AskingFor) -> Result<std::fs::File, Problem> {
    let is_form = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("multipart/form-data"));
    let arriving = Arriving::begin();
    if is_form {
        let mut form = Multipart::from_request(request, state)
            .await
            .map_err(|error| Problem::malformed(error.status(), error.body_text()))?;
        while let Some(part) = arriving
            .wait(form.next_field())
            .await?
            .map_err(|error| Problem::malformed(error.status(), error.body_text()))?
        {
            if part.name() == Some("file") {
                return write(part, arriving, asking).await;
            }
        }
        Err(Problem::invalid_field("file", "required", "the form has no part named file"))
    } else {
        let stream: BodyDataStream = request.into_body().into_data_stream();
        write(stream, arriving, asking).await
    }
}

/// A file on its way.
#[derive(Debug)]
struct Arriving {
    begun: Instant,
    bytes: u64,
}

impl Arriving {
    fn begin() -> Self {
        Self { begun: Instant::now(), bytes: 0 }
    }

    /// Waits for what comes next, as long as what has come allows.
    async fn wait<T>(&self, next: impl Future<Output = T>) -> Result<T, Problem> {
        let earned = Duration::from_millis(self.bytes.saturating_mul(1000) / LEAST_PACE);
        timeout_at(self.begun + BEGINS_WITHIN + earned, next).await.map_err(|_| Problem::too_slow())
    }
}

async fn write<S, E>(
    mut chunks: S,
    mut arriving: Arriving,
    asking: &mut AskingFor,
) -> Result<std::fs::File, Problem>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::error::Error + Send + Sync + 'static,
{
    let file = tempfile::tempfile().map_err(Problem::internal)?;
    let mut file = tokio::fs::File::from_std(file);
    while let Some(chunk) = arriving.wait(chunks.next()).await? {
        let chunk = chunk.map_err(|_| {
            Problem::malformed(StatusCode::BAD_REQUEST, "The file did not arrive whole; nothing was changed.")
        })?;
        arriving.bytes += chunk.len() as u64;
        if arriving.bytes > MAX_FILE_BYTES {
            return Err(Problem::too_large(MAX_FILE_BYTES));
        }
        asking.update(&chunk);
        file.write_all(&chunk).await.map_err(Problem::internal)?;
    }
    file.flush().await.map_err(Problem::internal)?;
    file.rewind().await.map_err(Problem::internal)?;
    Ok(file.into_std().await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_that_does_not_come_is_given_up_and_one_that_comes_slowly_is_waited_for() {
        let mut arriving = Arriving::begin();
        for (bytes, longest) in [(0, 10), (640 * 1024, 20)] {
            arriving.bytes = bytes;
            assert!(arriving.wait(std::future::pending::<()>()).await.is_err());
            assert_eq!(arriving.begun.elapsed().as_secs(), longest);
        }
        arriving.bytes = 10 * 1024 * 1024;
        let soon = tokio::time::sleep(Duration::from_secs(140));
        assert!(arriving.wait(soon).await.is_ok());
    }
}
