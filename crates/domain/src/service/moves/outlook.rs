//! What a move would be, without beginning it.

use super::{
    DatabaseId, DateTime, Destination, Fresh, Move, MoveDraft, MovePath, Moving, NewMove, Pace, Placement,
    Requester, SHORT_ROWS, TenantId, UseCaseError, Utc, draft::choose_path, get_tenant, plane_error,
    shared_target, source_of,
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
    /// What stands in the way, in words, with what to do; of a database that is not there yet, at the source alone.
    pub obstacles: Vec<String>,
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
        Destination::Own(_) => moving.desk.find_own(tenant).await?.map(Placement::Dedicated),
        Destination::Shared(wanted) => {
            Some(Placement::Shared(shared_target(moving, *wanted, source.placement.database()).await?))
        }
    };
    let path = choose_path(moving, draft, &source, target).await?;
    let counted = moving.surveyor.rows(tenant, source.placement, SHORT_ROWS).await.map_err(plane_error)?;
    let obstacles = match target {
        Some(target) => {
            let wanted = NewMove {
                id: fresh.id,
                tenant,
                target: target.database(),
                path,
                prefix: fresh.prefix,
                by,
                pace: draft.pace.bytes(),
            };
            let moved = Move::begun(wanted, source, target, now);
            moving.plane.preflight(&moved).await.map_err(plane_error)?
        }
        None => moving.plane.preflight_source(&source, path).await.map_err(plane_error)?,
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
