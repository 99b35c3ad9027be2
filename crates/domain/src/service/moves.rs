//! Moves of orchestras between databases, as the platform's administrators ask for them.
//!
//! What is decided here is whether an orchestra may move, where to and how. The move itself is begun in the registry of
//! moves, and driven by whichever node takes it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use stagesub_tenancy::moves::registry::MovePage;
use stagesub_tenancy::moves::{
    BeginMoveError, DataPlane, Move, MoveId, MovePath, MovePrefix, MoveRegistry, MoveRegistryError,
    MoveState, NewMove, NewTarget, PlaneError, Refusal, Request, Requested, Requester, Surveyor,
    TableProgress,
};
use stagesub_tenancy::{DatabaseId, DirectoryError, Located, Placement, TenantId, TenantStatus};

use crate::error::{DatabaseError, StoreError, UseCaseError, ValidationErrors};
use crate::idempotency::Asked;
use crate::ports::moves::{KeyedMove, MoveDesk};
use crate::ports::registry::{DedicatedPlace, Prospect, TenantAccount, TenantDatabases, TenantRegistry};
use crate::service::tenants::get_tenant;
use crate::subscription::Tier;
use crate::validate::Rule;

mod draft;
mod outlook;
mod sizes;

pub use draft::{Destination, Fresh, MoveDraft, Pace, SHORT_ROWS};
pub use outlook::{Outlook, plan_move};
pub use sizes::{By, Candidate, largest};

/// What use cases on moves work with.
#[derive(Clone, Copy)]
pub struct Moving<'a> {
    /// Tenants in the registry.
    pub tenants: &'a dyn TenantRegistry,
    /// Databases that are made.
    pub databases: &'a dyn TenantDatabases,
    /// Databases that are there, and requests with keys.
    pub desk: &'a dyn MoveDesk,
    /// Where moves are stored.
    pub moves: &'a dyn MoveRegistry,
    /// What would move them: asked what stands in the way.
    pub plane: &'a dyn DataPlane,
    /// How large they are.
    pub surveyor: &'a dyn Surveyor,
    /// Called when there is a move to drive, so that this node does not wait until it looks again.
    pub wake: &'a (dyn Fn() + Send + Sync),
}

impl std::fmt::Debug for Moving<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Moving").finish_non_exhaustive()
    }
}

/// A move that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// As it stands.
    pub moved: Move,
    /// Whether an earlier request began it.
    pub is_again: bool,
}

/// A move, with how far the copies of its tables are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The move.
    pub moved: Move,
    /// Its tables, in the order they are copied.
    pub tables: Vec<TableProgress>,
    /// How far behind the other side was when that was last looked at.
    pub lag: Option<Duration>,
}

/// Begins a move. Where the orchestra is to have a database of its own that there is not, that is made first, unless
/// something stands in the way where the orchestra is or where the database is to be.
///
/// A request that was made before, by its key, is answered with the move that it began, as it is now.
///
/// # Errors
/// [`UseCaseError::Invalid`] and [`UseCaseError::WrongState`] with what to do instead;
/// [`UseCaseError::UnknownTenant`]; [`UseCaseError::KeyReused`]. Of what was refused nothing is kept, but for a
/// database that was made.
pub async fn start_move(
    moving: &Moving<'_>,
    by: Requester,
    tenant: TenantId,
    draft: &MoveDraft,
    fresh: Fresh,
    asked: Option<Asked>,
    now: DateTime<Utc>,
) -> Result<Started, UseCaseError> {
    let account = get_tenant(moving.tenants, tenant).await?;
    let Some(asked) = asked else {
        let moved = begin(moving, by, &account, draft, &fresh).await?;
        return Ok(Started { moved, is_again: false });
    };
    let id = match moving.desk.claim_key(&asked, tenant, fresh.id, now).await? {
        KeyedMove::Now => fresh.id,
        KeyedMove::Before { fingerprint, id: Some(id) } if fingerprint == asked.fingerprint => {
            if let Some(moved) = moving.moves.find(id).await.map_err(registry_error)? {
                return Ok(Started { moved, is_again: true });
            }
            // The first request did not come so far.
            id
        }
        KeyedMove::Before { .. } => return Err(UseCaseError::KeyReused),
    };
    match begin(moving, by, &account, draft, &Fresh { id, ..fresh }).await {
        Ok(moved) => Ok(Started { moved, is_again: false }),
        Err(error) => {
            // Two with one key at once: the other one was first.
            if let Some(moved) = moving.moves.find(id).await.map_err(registry_error)? {
                return Ok(Started { moved, is_again: true });
            }
            if is_refusal(&error) {
                moving.desk.forget_key(&asked, id).await?;
            }
            Err(error)
        }
    }
}

/// Whether asking again changes nothing, so that nothing need be kept of the request.
const fn is_refusal(error: &UseCaseError) -> bool {
    matches!(error, UseCaseError::Invalid(_) | UseCaseError::WrongState { .. } | UseCaseError::UnknownTenant)
}

async fn begin(
    moving: &Moving<'_>,
    by: Requester,
    account: &TenantAccount,
    draft: &MoveDraft,
    fresh: &Fresh,
) -> Result<Move, UseCaseError> {
    let source = source_of(moving, account).await?;
    let target = match draft.to.checked(account, source)? {
        Destination::Own(place) => {
            Placement::Dedicated(own_target(moving, account.id, place, draft, source).await?)
        }
        Destination::Shared(wanted) => {
            Placement::Shared(shared_target(moving, *wanted, source.placement.database()).await?)
        }
    };
    let path = draft::choose_path(moving, draft, &source, Some(target)).await?;
    let wanted = NewMove {
        id: fresh.id,
        tenant: account.id,
        target: target.database(),
        path,
        prefix: fresh.prefix.clone(),
        by,
        pace: draft.pace.bytes(),
    };
    let moved = moving.moves.begin(&wanted).await.map_err(begin_error)?;
    (moving.wake)();
    Ok(moved)
}

/// The tenant's own database: the one it has, wherever that is, unless a place is named; else one that is made.
async fn own_target(
    moving: &Moving<'_>,
    tenant: TenantId,
    place: &DedicatedPlace,
    draft: &MoveDraft,
    source: Located,
) -> Result<DatabaseId, UseCaseError> {
    let new = match own_prospect(moving, tenant, place).await? {
        Prospect::Ready(own) => return Ok(own),
        Prospect::ToBeMade(new) => new,
    };
    let path = draft::choose_path_to_new(moving, draft, &source, &new).await?;
    let obstacles = moving.plane.preflight_source(&source, path, Some(new)).await.map_err(plane_error)?;
    if !obstacles.is_empty() {
        return Err(wrong_state(obstacles.join("; ")));
    }
    Ok(moving.databases.create_dedicated(tenant, place).await?)
}

/// The tenant's own database, or what there is where it is to be made.
async fn own_prospect(
    moving: &Moving<'_>,
    tenant: TenantId,
    place: &DedicatedPlace,
) -> Result<Prospect, DatabaseError> {
    match (moving.desk.find_own(tenant).await?, place) {
        (Some(own), DedicatedPlace::Beside) => Ok(Prospect::Ready(own)),
        // Whether it is there is for whoever makes it to say.
        _ => moving.databases.look_at(tenant, place).await,
    }
}

/// Where a tenant is now; it is in use, and nothing moves it.
async fn source_of(moving: &Moving<'_>, account: &TenantAccount) -> Result<Located, UseCaseError> {
    if account.status != TenantStatus::Active {
        return Err(refused(Refusal::NotActive(account.status)));
    }
    if let Some(live) = moving.moves.live_of(account.id).await.map_err(registry_error)? {
        return Err(refused(Refusal::Moving(live.id)));
    }
    let found = moving.moves.placement(account.id).await.map_err(registry_error)?;
    found.ok_or(UseCaseError::UnknownTenant)
}

async fn shared_target(
    moving: &Moving<'_>,
    wanted: Option<DatabaseId>,
    source: DatabaseId,
) -> Result<DatabaseId, UseCaseError> {
    match wanted {
        Some(id) if id == source => Err(refused(Refusal::AlreadyThere)),
        Some(id) => moving.desk.find_shared(id).await?.ok_or_else(|| refused(Refusal::NoDatabase(id))),
        None => moving.desk.choose_other_shared(source).await?.ok_or_else(|| {
            wrong_state("there is no other shared database; add one first (`stagesub database add`)")
        }),
    }
}

/// Finds a move.
pub async fn get_move(moving: &Moving<'_>, id: MoveId) -> Result<Shown, UseCaseError> {
    let moved = moving.moves.find(id).await.map_err(registry_error)?.ok_or(UseCaseError::UnknownMove)?;
    let tables = moving.moves.tables(id).await.map_err(registry_error)?;
    let lag = moving.moves.lag(id).await.map_err(registry_error)?;
    Ok(Shown { moved, tables, lag })
}

/// Lists moves, the newest first: all of them, or a tenant's.
pub async fn list_moves(
    moving: &Moving<'_>,
    of: Option<TenantId>,
    after: Option<MoveId>,
    limit: u32,
) -> Result<MovePage, UseCaseError> {
    let page = match of {
        None => moving.moves.list(after, limit).await,
        Some(tenant) => {
            if !moving.tenants.exists(tenant).await? {
                return Err(UseCaseError::UnknownTenant);
            }
            moving.moves.list_of(tenant, after, limit).await
        }
    };
    page.map_err(registry_error)
}

/// A tenant's move that has not ended, else its last one.
pub async fn latest_move(moving: &Moving<'_>, tenant: TenantId) -> Result<Option<Move>, UseCaseError> {
    if let Some(live) = moving.moves.live_of(tenant).await.map_err(registry_error)? {
        return Ok(Some(live));
    }
    Ok(moving.moves.list_of(tenant, None, 1).await.map_err(registry_error)?.items.pop())
}

/// Asks something of a move. Asking twice is asking once.
///
/// # Errors
/// [`UseCaseError::WrongState`] with what can be asked of it instead; [`UseCaseError::UnknownMove`].
pub async fn ask_of_move(
    moving: &Moving<'_>,
    by: Requester,
    id: MoveId,
    request: Request,
) -> Result<Move, UseCaseError> {
    match moving.moves.request(id, request, by).await.map_err(registry_error)? {
        Requested::Accepted(moved) => {
            (moving.wake)();
            Ok(moved)
        }
        Requested::Refused(moved) => Err(wrong_state(why_not(&moved, request))),
        Requested::Unknown => Err(UseCaseError::UnknownMove),
    }
}

/// Why that cannot be asked of a move now, and what can.
fn why_not(moved: &Move, request: Request) -> String {
    let state = moved.state;
    if let Some(other) = moved.wanted.filter(|wanted| *wanted != request) {
        return format!("{other} was asked of the move before; wait until that is done");
    }
    match (state, request) {
        (MoveState::Aborted, _) => "the move was aborted; the orchestra stays where it was".to_owned(),
        (MoveState::Finished, Request::Back) => {
            "the move is finished; to go back, begin a move to where the orchestra was".to_owned()
        }
        (MoveState::Finished, _) => "the move is finished; the orchestra stays where it is".to_owned(),
        (_, Request::Back) if moved.path == MovePath::Short => {
            "a short move keeps no way back; to go back, begin a move to where the orchestra was".to_owned()
        }
        (MoveState::Decided | MoveState::Active | MoveState::Back, Request::Abort) => {
            "the orchestra is in the other database already; go back or finish instead".to_owned()
        }
        (_, Request::Back | Request::Finish) => {
            format!("the move is in state {state}; this can be asked once it is active, and until then abort")
        }
        (_, Request::Abort) => format!("the move is in state {state} and cannot be aborted"),
    }
}

/// What a refusal says to whoever asked, with what to do.
fn refused(refusal: Refusal) -> UseCaseError {
    wrong_state(match refusal {
        Refusal::UnknownTenant => return UseCaseError::UnknownTenant,
        Refusal::NotActive(TenantStatus::Suspended) => {
            "the orchestra is suspended; only one that is in use moves: resume it first".to_owned()
        }
        Refusal::NotActive(status) => {
            format!("the orchestra is {}; only one that is in use moves", status.as_str())
        }
        Refusal::AlreadyThere => "the orchestra is in that database already".to_owned(),
        Refusal::Moving(id) => format!(
            "the orchestra is being moved already, by move {id}: wait for its end, or abort or finish it first"
        ),
        Refusal::NoDatabase(id) => {
            format!("no database {id} is ready for orchestras; `stagesub database list` shows those that are")
        }
        Refusal::Anothers(id) => format!("the database {id} is another orchestra's own"),
        other => other.to_string(),
    })
}

fn wrong_state(detail: impl Into<String>) -> UseCaseError {
    UseCaseError::WrongState { detail: detail.into() }
}

fn begin_error(error: BeginMoveError) -> UseCaseError {
    match error {
        BeginMoveError::Refused(refusal) => refused(refusal),
        BeginMoveError::Registry(error) => registry_error(error),
        error => StoreError::Failed(Box::new(error)).into(),
    }
}

fn registry_error(error: MoveRegistryError) -> UseCaseError {
    match error {
        error @ MoveRegistryError::Unknown(_) => StoreError::CommitUnknown(Box::new(error)),
        MoveRegistryError::Registry(error @ DirectoryError::Corrupt { .. }) => {
            StoreError::Failed(Box::new(error))
        }
        error => StoreError::Unavailable(Box::new(error)),
    }
    .into()
}

fn plane_error(error: PlaneError) -> UseCaseError {
    match error {
        PlaneError::Refused(reason) => wrong_state(reason),
        error => StoreError::Unavailable(Box::new(error)).into(),
    }
}

#[cfg(test)]
mod tests;
