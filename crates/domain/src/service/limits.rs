//! Limits of the subscription, kept exactly: the quota row is locked before anything is counted.

use chrono::{DateTime, Utc};
use stagesub_tenancy::quota::{self, Decision, Warning};

use crate::error::UseCaseError;
use crate::ports::UnitOfWork;
use crate::ports::quotas::Quota;
use crate::service::context::Act;
use crate::subscription::Resource;

/// How much of a resource is used, and whether that is worth a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The count and its limit.
    pub quota: Quota,
    /// How near the limit is.
    pub warning: Option<Warning>,
}

/// What is used and allowed of every resource.
pub async fn list_usage(uow: &mut dyn UnitOfWork) -> Result<Vec<Usage>, UseCaseError> {
    let quotas = uow.quotas().list().await?;
    Ok(quotas
        .into_iter()
        .map(|quota| Usage { quota, warning: quota::warning(quota.used.into(), quota.limit.map(i64::from)) })
        .collect())
}

/// Locks the resource and counts `add` more of it.
///
/// # Errors
/// [`UseCaseError::LimitReached`] when the subscription does not allow them.
pub(crate) async fn take(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    resource: Resource,
    add: i32,
) -> Result<(), UseCaseError> {
    let locked = uow.quotas().lock(resource).await?;
    let grown = grown(locked, add, act.now)?;
    Ok(uow.quotas().update(&grown).await?)
}

/// Counts one less of a resource that is locked already.
pub(crate) async fn release(uow: &mut dyn UnitOfWork, locked: Quota) -> Result<(), UseCaseError> {
    Ok(uow.quotas().update(&shrunk(locked)).await?)
}

/// The quota with `add` more counted.
pub(crate) fn grown(quota: Quota, add: i32, now: DateTime<Utc>) -> Result<Quota, UseCaseError> {
    let limit = quota.limit.map(i64::from);
    match quota::admit(quota.used.into(), add.into(), limit, quota.grace_until, now) {
        Decision::Admitted { grace_until } => {
            Ok(Quota { used: quota.used.saturating_add(add), grace_until, ..quota })
        }
        Decision::Refused => Err(UseCaseError::LimitReached {
            resource: quota.resource,
            used: quota.used,
            limit: quota.limit.unwrap_or(i32::MAX),
            grace_until: quota.grace_until,
        }),
    }
}

/// The quota with one less counted.
pub(crate) fn shrunk(quota: Quota) -> Quota {
    let used = quota.used.saturating_sub(1).max(0);
    let limit = quota.limit.map(i64::from);
    Quota { used, grace_until: quota::grace_after_release(used.into(), limit, quota.grace_until), ..quota }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::fixture::{Stage, UNLIMITED, moment};
    use crate::subscription::Limits;
    use crate::testing::InMemoryUnit;

    fn quota(used: i32, grace_until: Option<DateTime<Utc>>) -> Quota {
        Quota { resource: Resource::Musicians, used, limit: Some(50), grace_until }
    }

    #[test]
    fn falling_under_the_limit_ends_the_grace() {
        assert_eq!(shrunk(quota(52, Some(moment(7)))).grace_until, Some(moment(7)));
        assert_eq!(shrunk(quota(51, Some(moment(7)))), quota(50, None));
        assert_eq!(shrunk(quota(0, None)).used, 0);
    }

    #[tokio::test]
    async fn the_grace_is_kept_with_the_count_and_ends_after_seven_days() {
        let mut unit = InMemoryUnit::with_limits(Limits { musicians: Some(50), ..UNLIMITED });
        take(&mut unit, &Stage::new().act(), Resource::Musicians, 50).await.expect("within");
        take(&mut unit, &Stage::later(1).act(), Resource::Musicians, 1).await.expect("tolerated");
        assert_eq!(unit.rows().quotas[&Resource::Musicians], quota(51, Some(moment(8))));
        let refused = take(&mut unit, &Stage::later(8).act(), Resource::Musicians, 1).await;
        assert!(matches!(
            refused,
            Err(UseCaseError::LimitReached { used: 51, limit: 50, grace_until: Some(until), .. }) if until == moment(8)
        ));
    }

    #[tokio::test]
    async fn usage_tells_how_near_the_limits_are() {
        let mut unit = InMemoryUnit::with_limits(Limits { musicians: Some(50), ..UNLIMITED });
        take(&mut unit, &Stage::new().act(), Resource::Musicians, 45).await.expect("within");
        let usage = list_usage(&mut unit).await.expect("usage");
        assert_eq!(usage.len(), 3);
        let warnings: Vec<_> = usage.iter().filter_map(|usage| usage.warning).collect();
        assert_eq!(warnings, [Warning::Nearer]);
    }
}
