//! A move as it goes on: server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use futures::stream::unfold;
use stagesub_auth::Permission;
use stagesub_domain::service::moves as service;
use stagesub_tenancy::moves::MoveId;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::body::MoveBody;
use crate::extract::{MovePath, NoParams, PlatformCaller};
use crate::problem::{Problem, ProblemBody, error_chain};
use crate::state::AppState;

/// Most such answers that a node gives at one time.
pub const MOST: usize = 64;

/// How often the move is looked at.
const PERIOD: Duration = Duration::from_millis(500);

/// How often it is looked whether the caller still may.
const AUTHORITY: Duration = Duration::from_secs(10);

/// How often a word is sent where nothing happens, so that nobody takes the connection for dead.
const ALIVE: Duration = Duration::from_secs(15);

/// Longest that one look at the move may take before the next.
const PATIENCE: Duration = Duration::from_secs(4);

/// Shows a move as it goes on, as server-sent events: one now, and one each time that it changes. The answer ends when
/// the move has ended, when the caller may not look any more, and when the node stops; whoever wants to see more asks
/// again.
#[utoipa::path(get, path = "/api/v1/platform/moves/{id}/events", operation_id = "watch_move", tag = "moves",
    security(("bearer" = [])), params(("id" = Uuid, Path)), responses(
    (status = OK, body = String, content_type = "text/event-stream",
        description = "Events called `move`, whose data is the move as it is shown otherwise"),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn watch(
    State(state): State<AppState>,
    caller: PlatformCaller,
    MovePath(id): MovePath,
    NoParams: NoParams,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    caller.may(Permission::ManageTenants)?;
    let place =
        Arc::clone(&state.moves.streams).try_acquire_owned().map_err(|_| Problem::too_many_streams())?;
    let shown = service::get_move(&state.moving(), id).await?;
    let watching = Watching {
        next: Some(MoveBody::whole(shown)),
        told: None,
        ends: false,
        checked: Instant::now(),
        state,
        caller,
        id,
        _place: place,
    };
    let events = unfold(watching, async |mut watching| {
        let body = watching.changed().await?;
        // What can be shown can be written as JSON.
        let event = Event::default().event("move").json_data(&body).ok()?;
        Some((Ok(event), watching))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE)))
}

/// Somebody looks at a move.
struct Watching {
    /// What is told first.
    next: Option<MoveBody>,
    /// What was told last.
    told: Option<MoveBody>,
    ends: bool,
    /// When it was last looked whether the caller may.
    checked: Instant,
    state: AppState,
    caller: PlatformCaller,
    id: MoveId,
    _place: OwnedSemaphorePermit,
}

impl Watching {
    /// The move when it is another than was told; `None` when there is nothing more to tell, or nobody to tell it to.
    async fn changed(&mut self) -> Option<MoveBody> {
        let closing = self.state.moves.closing.clone();
        loop {
            if self.ends {
                return None;
            }
            let body = if let Some(first) = self.next.take() {
                first
            } else {
                tokio::select! {
                    () = closing.cancelled() => return None,
                    () = tokio::time::sleep(PERIOD) => {}
                }
                if !self.may_look().await {
                    return None;
                }
                let Some(body) = self.look().await else { continue };
                body
            };
            if self.told.as_ref() != Some(&body) {
                self.ends = body.has_ended();
                self.told = Some(body.clone());
                return Some(body);
            }
        }
    }

    /// The move as it is now; `None`: that is not to be had. A registry that is away for a moment ends nothing.
    async fn look(&self) -> Option<MoveBody> {
        let moving = self.state.moving();
        let look = service::get_move(&moving, self.id);
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(Ok(shown)) => Some(MoveBody::whole(shown)),
            Ok(Err(error)) => {
                tracing::debug!(cause = %error_chain(&error), "a move is not to be seen");
                None
            }
            Err(_) => None,
        }
    }

    /// Whether the caller's token and role still count; asked now and then.
    async fn may_look(&mut self) -> bool {
        if self.checked.elapsed() < AUTHORITY {
            return true;
        }
        self.checked = Instant::now();
        let again = tokio::time::timeout(PATIENCE, self.caller.again(&self.state)).await;
        matches!(again, Ok(Ok(caller)) if caller.may(Permission::ManageTenants).is_ok())
    }
}
