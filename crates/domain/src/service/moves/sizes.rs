//! Which orchestras of a shared database are the largest, and what each would become.

use stagesub_tenancy::moves::TenantSize;

use super::{DatabaseId, Moving, TenantAccount, TenantStatus, Tier, UseCaseError, plane_error};

/// What orchestras are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum By {
    /// Their rows.
    #[default]
    Rows,
    /// The bytes of their rows.
    Bytes,
}

/// One of the largest orchestras of a shared database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The orchestra.
    pub account: TenantAccount,
    /// Its rows, about.
    pub rows: u64,
    /// The bytes of its rows, about.
    pub bytes: u64,
    /// Why it may not have a database of its own; `None`: it may.
    pub refusal: Option<String>,
}

/// The largest orchestras of a shared database, with whether each may have a database of its own. Rows of tenants that
/// the registry does not have there, which a move has yet to remove, are nobody's.
pub async fn largest(
    moving: &Moving<'_>,
    shared: DatabaseId,
    by: By,
    most: usize,
) -> Result<Vec<Candidate>, UseCaseError> {
    let Some(shared) = moving.desk.find_shared(shared).await? else {
        return Err(super::refused(super::Refusal::NoDatabase(shared)));
    };
    let mut sizes = moving.surveyor.sizes(shared).await.map_err(plane_error)?;
    sizes.sort_unstable_by_key(|size| {
        let TenantSize { tenant, rows, bytes } = *size;
        std::cmp::Reverse(match by {
            By::Rows => (rows, bytes, tenant),
            By::Bytes => (bytes, rows, tenant),
        })
    });
    let mut candidates = Vec::new();
    for size in sizes {
        if candidates.len() == most {
            break;
        }
        let Some(account) = moving.tenants.find(size.tenant).await? else { continue };
        if account.placement.is_none_or(|placement| placement.database() != shared) {
            continue;
        }
        let refusal = refusal(moving, &account).await?;
        candidates.push(Candidate { account, rows: size.rows, bytes: size.bytes, refusal });
    }
    Ok(candidates)
}

async fn refusal(moving: &Moving<'_>, account: &TenantAccount) -> Result<Option<String>, UseCaseError> {
    if account.status != TenantStatus::Active {
        return Ok(Some(format!("it is {}", account.status.as_str())));
    }
    if account.tier != Tier::Institution {
        return Ok(Some(format!("the {} tier has no database of its own", account.tier.as_str())));
    }
    let live = moving.moves.live_of(account.id).await.map_err(super::registry_error)?;
    Ok(live.map(|live| format!("it is being moved, by move {}", live.id)))
}
