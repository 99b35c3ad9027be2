//! What a move would be, without beginning it.

use super::draft::{choose_path, choose_path_to_new};
use super::{
    DatabaseError, DatabaseId, DateTime, Destination, Fresh, Move, MoveDraft, MovePath, Moving, NewMove,
    NewTarget, Pace, Placement, Prospect, Requester, SHORT_ROWS, TenantId, UseCaseError, Utc, get_tenant,
    own_prospect, plane_error, shared_target, source_of,
};

/// What a move would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// Whose.
    pub tenant: TenantId,
    /// Where the orchestra is.
    pub source: Placement,
    /// Where it would go; `None`: to a database of its own that would be made first.
    pub target: Option<DatabaseId>,
    /// How.
    pub path: MovePath,
    /// How fast.
    pub pace: Pace,
    /// How many rows it has; `None`: more than [`SHORT_ROWS`].
    pub rows: Option<u64>,
    /// What stands in the way, in words, with what to do. Of a database that is not there yet, as far as can be seen
    /// before it is made: whether the mover is let in is not.
    pub obstacles: Vec<String>,
}

/// Where it would go.
enum Target {
    There(Placement),
    New(NewTarget),
    /// What was named cannot be used, and why.
    Refused(String),
}

/// Says what a move would be and what stands in its way. Changes nothing.
///
/// # Errors
/// As [`start_move`](super::start_move) refuses.
pub async fn plan_move(
    moving: &Moving<'_>,
    by: Requester,
    tenant: TenantId,
    draft: &MoveDraft,
    fresh: Fresh,
    now: DateTime<Utc>,
) -> Result<Outlook, UseCaseError> {
    let account = get_tenant(moving.tenants, tenant).await?;
    let source = source_of(moving, &account).await?;
    let target = match draft.to.checked(&account, source)? {
        Destination::Own(place) => match own_prospect(moving, tenant, place).await {
            Ok(Prospect::Ready(own)) => Target::There(Placement::Dedicated(own)),
            Ok(Prospect::ToBeMade(new)) => Target::New(new),
            Err(DatabaseError::Refused { reason }) => Target::Refused(reason),
            Err(error) => return Err(error.into()),
        },
        Destination::Shared(wanted) => {
            let shared = shared_target(moving, *wanted, source.placement.database()).await?;
            Target::There(Placement::Shared(shared))
        }
    };
    let counted = moving.surveyor.rows(tenant, source.placement, SHORT_ROWS).await.map_err(plane_error)?;
    let path = match &target {
        Target::There(target) => choose_path(moving, draft, &source, Some(*target)).await?,
        Target::New(new) => choose_path_to_new(moving, draft, &source, new).await?,
        Target::Refused(_) => choose_path(moving, draft, &source, None).await?,
    };
    let obstacles = match &target {
        Target::There(target) => {
            let wanted = NewMove {
                id: fresh.id,
                tenant,
                target: target.database(),
                path,
                prefix: fresh.prefix,
                by,
                pace: draft.pace.bytes(),
            };
            let moved = Move::begun(wanted, source, *target, now);
            moving.plane.preflight(&moved).await.map_err(plane_error)?
        }
        Target::New(new) => {
            moving.plane.preflight_source(&source, path, Some(new.clone())).await.map_err(plane_error)?
        }
        Target::Refused(reason) => {
            let found = moving.plane.preflight_source(&source, path, None).await.map_err(plane_error)?;
            found.into_iter().chain([reason.clone()]).collect()
        }
    };
    let target = match target {
        Target::There(target) => Some(target),
        Target::New(_) | Target::Refused(_) => None,
    };
    Ok(Outlook {
        tenant,
        source: source.placement,
        target: target.map(Placement::database),
        path,
        pace: draft.pace,
        rows: (counted <= SHORT_ROWS).then_some(counted),
        obstacles,
    })
}
