//! What both sides hold of the tenant, and whether they are made alike.

use std::collections::BTreeSet;

use sqlx::AssertSqlSafe;
use stagesub_tenancy::moves::Move;
use stagesub_tenancy::{Placement, PlacementEpoch, TenantId};

use super::{MOST_DIFFERENCES, PreflightError, asking};
use crate::moves::plan::MovePlan;
use crate::moves::session::MoverSession;

/// Migrations that one side has and the other has not.
pub(super) async fn versions(
    source: &mut MoverSession,
    target: &mut MoverSession,
) -> Result<Vec<String>, PreflightError> {
    let mut applied = Vec::new();
    for session in [&mut *source, &mut *target] {
        let asked = asking(session);
        let versions: Vec<i64> = sqlx::query_scalar("SELECT version FROM app.migrations WHERE success")
            .fetch_all(session.conn())
            .await
            .map_err(asked)?;
        applied.push(versions.into_iter().collect::<BTreeSet<i64>>());
    }
    let mut found = Vec::new();
    for (one, other, lacking) in
        [(&applied[0], &applied[1], target.describe()), (&applied[1], &applied[0], source.describe())]
    {
        let missing: Vec<String> = one.difference(other).map(ToString::to_string).collect();
        if !missing.is_empty() {
            found.push(format!(
                "{lacking} lacks the migrations {}; bring every database to one version with `stagesub migrate`",
                missing.join(", ")
            ));
        }
    }
    Ok(found)
}

/// What differs between the two schemas, each thing by its name.
pub(super) fn differences(source: &MovePlan, target: &MovePlan) -> Vec<String> {
    let all = source.fingerprint.differences(&target.fingerprint);
    let mut found: Vec<String> = all
        .iter()
        .take(MOST_DIFFERENCES)
        .map(|difference| format!("the two schemas differ: {difference}; make both alike"))
        .collect();
    if let Some(more) = all.len().checked_sub(MOST_DIFFERENCES).filter(|more| *more > 0) {
        found.push(format!("the two schemas differ in {more} more things"));
    }
    found
}

/// Who serves the tenant, and rows at the target that nobody brought there.
pub(super) async fn serving(
    moved: &Move,
    source: &mut MoverSession,
    target: &mut MoverSession,
    plan: Option<&MovePlan>,
) -> Result<Vec<String>, PreflightError> {
    let mut found: Vec<String> = served(moved.tenant, moved.epoch, source).await?.into_iter().collect();
    let there = fence(target, moved.tenant).await?;
    if let Some((state, epoch)) = &there
        && state == "active"
    {
        found.push(format!(
            "{} serves the tenant already, at epoch {epoch}; a tenant has one database that serves it: find out which, before anything is moved",
            target.describe()
        ));
    }
    let Some(plan) = plan else { return Ok(found) };
    // Who was here before, or is being brought, has a fence row or a stream's progress; a cutover that was given up on
    // the short path leaves rows for the next try.
    let explained = there.is_some() || moved.attempts > 0 || is_applied(target, moved).await?;
    let (mut unexplained, mut others) = (Vec::new(), Vec::new());
    let asked = asking(target);
    for table in &plan.tables {
        let name = table.quoted();
        if !explained {
            let sql = format!("SELECT EXISTS (SELECT FROM ONLY {name} WHERE tenant_id = $1)");
            if exists(target, sql, moved.tenant).await.map_err(&asked)? {
                unexplained.push(name.clone());
            }
        }
        if matches!(moved.target, Placement::Dedicated(_)) {
            // Both by the primary key, which begins with the tenant.
            let sql = format!(
                "SELECT EXISTS (SELECT FROM ONLY {name} WHERE tenant_id < $1) OR EXISTS (SELECT FROM ONLY {name} WHERE tenant_id > $1)"
            );
            if exists(target, sql, moved.tenant).await.map_err(&asked)? {
                others.push(name);
            }
        }
    }
    if !unexplained.is_empty() {
        found.push(format!(
            "{} holds rows of the tenant that no move brought there, in {}; look at what they are and remove them",
            target.describe(),
            unexplained.join(", ")
        ));
    }
    if !others.is_empty() {
        found.push(format!(
            "{} is the tenant's own and holds rows of others, in {}; find out whose they are and remove them",
            target.describe(),
            others.join(", ")
        ));
    }
    Ok(found)
}

/// Why the tenant is not served where and at which epoch the registry says.
pub(super) async fn served(
    tenant: TenantId,
    at: PlacementEpoch,
    source: &mut MoverSession,
) -> Result<Option<String>, PreflightError> {
    Ok(match fence(source, tenant).await? {
        Some((state, epoch)) if state == "active" && epoch == at.0 => None,
        Some((state, epoch)) => Some(format!(
            "{} has the tenant as {state} at epoch {epoch}, and the registry as served there at epoch {at}; `stagesub doctor` tells which is right",
            source.describe(),
        )),
        None => Some(format!(
            "{} does not know the tenant, which the registry says it serves; `stagesub doctor` tells which is right",
            source.describe()
        )),
    })
}

async fn fence(
    session: &mut MoverSession,
    tenant: TenantId,
) -> Result<Option<(String, i64)>, PreflightError> {
    let asked = asking(session);
    let row =
        sqlx::query!("SELECT state, epoch FROM app.tenant_fence WHERE tenant_id = $1", tenant.as_uuid())
            .fetch_optional(session.conn())
            .await
            .map_err(asked)?;
    Ok(row.map(|row| (row.state, row.epoch)))
}

async fn is_applied(session: &mut MoverSession, moved: &Move) -> Result<bool, PreflightError> {
    let asked = asking(session);
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM app.move_progress WHERE move_id = $1) AS "there!""#,
        moved.id.as_uuid()
    )
    .fetch_one(session.conn())
    .await
    .map_err(asked)
}

async fn exists(session: &mut MoverSession, sql: String, tenant: TenantId) -> Result<bool, sqlx::Error> {
    // The plan has quoted its names.
    sqlx::query_scalar(AssertSqlSafe(sql)).bind(tenant.as_uuid()).fetch_one(session.conn()).await
}
