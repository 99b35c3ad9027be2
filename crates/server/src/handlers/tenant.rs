//! The orchestra itself: profile, branding, limits and what is used of them.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use stagesub_auth::Permission;
use stagesub_domain::service::limits::{Usage, list_usage};
use stagesub_domain::subscription::Resource;
use stagesub_tenancy::Access;
use stagesub_tenancy::quota::Warning;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::extract::TenantCaller;
use crate::problem::Problem;
use crate::state::AppState;

/// The orchestra.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantBody {
    /// Identity.
    id: Uuid,
    /// Name.
    name: String,
    /// Prefix of ids.
    #[schema(example = "GOT")]
    code: String,
    /// Host label.
    #[schema(example = "got")]
    subdomain: String,
    /// `small`, `medium` or `institution`
    subscription: &'static str,
    /// End of the trial.
    trial_ends_at: Option<DateTime<Utc>>,
    /// End of the paid subscription.
    subscription_ends_at: Option<DateTime<Utc>>,
    /// Logo, colours, fonts.
    custom_branding: Option<Value>,
    /// What is allowed, and what is used.
    limits: LimitsBody,
}

/// What the subscription allows.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitsBody {
    /// Musicians that are not archived.
    musicians: LimitBody,
    /// Projects that are planned or active.
    active_projects: LimitBody,
    /// Instruments that are not archived.
    instruments: LimitBody,
}

/// One limit.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitBody {
    /// How many there are.
    used: i32,
    /// How many are allowed; null is unlimited.
    limit: Option<i32>,
    /// 80, 90 or 95 once so much of the limit is used; null below.
    warning_percent: Option<u8>,
    /// Until when a little more than the limit is tolerated, once it was passed.
    grace_until: Option<DateTime<Utc>>,
}

/// Shows the orchestra.
#[utoipa::path(get, path = "/api/v1/tenant", operation_id = "show_tenant", tag = "orchestra",
    security(("bearer" = [])), responses(
    (status = OK, body = TenantBody),
))]
pub async fn show_tenant(
    State(state): State<AppState>,
    caller: TenantCaller,
) -> Result<Json<TenantBody>, Problem> {
    caller.may(Permission::ReadOrchestra)?;
    let profile = {
        let _turn = state.limits.registry_for(caller.scope.tenant_id()).await?;
        state.tenants.find_profile(caller.scope.tenant_id()).await?.ok_or_else(Problem::not_found)?
    };
    caller.take_turn(&state).await?;
    let mut unit = state.units.begin(&caller.scope, Access::Read).await?;
    let usage = list_usage(&mut *unit).await?;
    unit.commit().await?;
    Ok(Json(TenantBody {
        id: profile.id.as_uuid(),
        name: profile.name,
        code: profile.code.to_string(),
        subdomain: profile.subdomain.to_string(),
        subscription: profile.tier.as_str(),
        trial_ends_at: profile.trial_ends_at,
        subscription_ends_at: profile.subscription_ends_at,
        custom_branding: profile.custom_branding,
        limits: LimitsBody {
            musicians: limit(&usage, Resource::Musicians)?,
            active_projects: limit(&usage, Resource::ActiveProjects)?,
            instruments: limit(&usage, Resource::Instruments)?,
        },
    }))
}

fn limit(usage: &[Usage], resource: Resource) -> Result<LimitBody, Problem> {
    usage
        .iter()
        .find(|usage| usage.quota.resource == resource)
        .map(|usage| LimitBody {
            used: usage.quota.used,
            limit: usage.quota.limit,
            warning_percent: usage.warning.map(Warning::percent),
            grace_until: usage.quota.grace_until,
        })
        .ok_or_else(|| Problem::internal(format!("the orchestra has no quota row for {}", resource.as_str())))
}
