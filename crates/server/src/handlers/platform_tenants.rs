//! Orchestras, for administrators of the platform.

#![expect(clippy::option_option, reason = "a change tells a field that is left out from one that is null")]

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stagesub_auth::Permission;
use stagesub_domain::error::ValidationErrors;
use stagesub_domain::ports::registry::{TenantAccount, TenantFilter};
use stagesub_domain::service::provisioning::create_tenant_once;
use stagesub_domain::service::tenants::{
    self as service, LimitChange, PersonDraft, Platform, TenantChangeDraft, TenantDraft,
};
use stagesub_domain::subscription::{Limits, Tier};
use stagesub_tenancy::{TenantId, TenantStatus};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::extract::{Body, Params, PlatformCaller, TenantPath};
use crate::handlers::list::{self, ListBody, nullable};
use crate::idempotency::{Creating, IdempotencyHeaders, mark_replayed};
use crate::problem::{Problem, ProblemBody};
use crate::state::AppState;

/// An orchestra, as the platform's administrators see it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlatformTenantBody {
    /// Identity.
    id: Uuid,
    /// Name.
    name: String,
    /// Prefix of ids; never changes.
    code: String,
    /// Host label.
    subdomain: String,
    /// `small`, `medium` or `institution`
    subscription: &'static str,
    /// `provisioning`, `active`, `suspended` or `closing`
    status: &'static str,
    /// Whether people may use it now: derived from status and dates.
    is_active: bool,
    /// `shared` or `dedicated`; null until it is placed.
    placement: Option<&'static str>,
    /// Most musicians; null is unlimited.
    max_musicians: Option<i32>,
    /// Most active projects; null is unlimited.
    max_active_projects: Option<i32>,
    /// Most instruments; null is unlimited.
    max_instruments: Option<i32>,
    /// Logo, colours, fonts.
    custom_branding: Option<Value>,
    /// Its own mail domain.
    email_domain: Option<String>,
    /// End of the trial.
    trial_ends_at: Option<DateTime<Utc>>,
    /// End of the paid subscription.
    subscription_ends_at: Option<DateTime<Utc>>,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// When it was last changed.
    updated_at: DateTime<Utc>,
}

impl PlatformTenantBody {
    fn new(account: TenantAccount, now: DateTime<Utc>) -> Self {
        let Limits { musicians, active_projects, instruments } = account.limits;
        Self {
            id: account.id.as_uuid(),
            is_active: account.is_active_at(now),
            name: account.name,
            code: account.code.to_string(),
            subdomain: account.subdomain.to_string(),
            subscription: account.tier.as_str(),
            status: account.status.as_str(),
            placement: account.placement.map(stagesub_tenancy::Placement::as_str),
            max_musicians: musicians,
            max_active_projects: active_projects,
            max_instruments: instruments,
            custom_branding: account.custom_branding,
            email_domain: account.email_domain,
            trial_ends_at: account.trial_ends_at,
            subscription_ends_at: account.subscription_ends_at,
            created_at: account.created_at,
            updated_at: account.updated_at,
        }
    }
}

/// An orchestra to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateTenant {
    /// Name, 1 to 200 characters.
    name: String,
    /// Host label: one DNS label in lower case.
    subdomain: String,
    /// Prefix of its ids, 2 to 6 of A-Z0-9; left out: proposed from the name.
    code: Option<String>,
    /// `small`, `medium` or `institution`
    subscription: String,
    /// `shared` (left out) or `dedicated`: a database of its own, with the institution tier.
    placement: Option<String>,
    /// Its first administrator.
    admin: CreateTenantAdmin,
}

/// The first administrator of an orchestra.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateTenantAdmin {
    /// Login address. A person who has it already becomes a member and keeps the password.
    email: String,
    /// First name.
    first_name: String,
    /// Last name.
    last_name: String,
    /// Password, 10 to 128 characters; left out: one is set later (`stagesub user set-password`).
    #[schema(value_type = Option<String>, format = Password)]
    password: Option<secrecy::SecretString>,
}

/// What to change; fields that are left out stay as they are, null empties those that may be empty.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangeTenant {
    /// Name.
    name: Option<String>,
    /// Host label.
    subdomain: Option<String>,
    /// Tier; its limits apply unless limits are set in the same request.
    subscription: Option<String>,
    /// Most musicians; null is unlimited. Overrides the tier's.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i32>)]
    max_musicians: Option<Option<i32>>,
    /// Most active projects; null is unlimited. Overrides the tier's.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i32>)]
    max_active_projects: Option<Option<i32>>,
    /// Most instruments; null is unlimited. Overrides the tier's.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i32>)]
    max_instruments: Option<Option<i32>>,
    /// Logo, colours, fonts.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Object>)]
    custom_branding: Option<Option<Value>>,
    /// Its own mail domain (institution only).
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    email_domain: Option<Option<String>>,
    /// End of the trial.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<DateTime<Utc>>)]
    trial_ends_at: Option<Option<DateTime<Utc>>>,
    /// End of the paid subscription.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<DateTime<Utc>>)]
    subscription_ends_at: Option<Option<DateTime<Utc>>>,
}

/// Which orchestras are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub struct TenantQuery {
    /// Items on the page, 1 to 200; left out: 50.
    limit: Option<u32>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// Part of name, subdomain or code.
    q: Option<String>,
    /// In this status.
    status: Option<String>,
    /// Of this tier.
    subscription: Option<String>,
}

fn tier(text: &str) -> Result<Tier, Problem> {
    text.parse().map_err(|error| Problem::invalid_field("subscription", "enum", format!("{error}")))
}

/// What use cases on tenants work with.
fn platform(state: &AppState) -> Platform<'_> {
    Platform {
        tenants: &*state.tenants,
        databases: &*state.databases,
        resolver: &state.resolver,
        units: &state.units,
        invalidate: &*state.invalidate,
    }
}

/// Lists orchestras in the order they were made.
#[utoipa::path(get, path = "/api/v1/platform/tenants", operation_id = "list_tenants", tag = "platform",
    security(("bearer" = [])), params(TenantQuery), responses(
    (status = OK, body = ListBody<PlatformTenantBody>),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn list(
    State(state): State<AppState>,
    caller: PlatformCaller,
    Params(query): Params<TenantQuery>,
) -> Result<ListBody<PlatformTenantBody>, Problem> {
    caller.may(Permission::ManageTenants)?;
    let page = list::page(query.limit, None)?;
    let after = list::after(query.cursor.as_deref())?;
    let filter = TenantFilter {
        search: list::search(query.q)?,
        status: query
            .status
            .map(|text| {
                text.parse::<TenantStatus>()
                    .map_err(|error| Problem::invalid_field("status", "enum", error.to_string()))
            })
            .transpose()?,
        tier: query.subscription.as_deref().map(tier).transpose()?,
    };
    let paged = service::list_tenants(&*state.tenants, &filter, after, page.limit()).await?;
    let now = state.now();
    Ok(ListBody {
        items: paged.items.into_iter().map(|account| PlatformTenantBody::new(account, now)).collect(),
        next_cursor: paged.next.map(|id| list::encode(&id.to_string())),
    })
}

/// Makes an orchestra: reserves its code and subdomain, fills its database, and answers when it is in use.
///
/// Asked again with the same key, it answers the orchestra that was made, as it is now; one whose making was not
/// finished is finished first.
#[utoipa::path(post, path = "/api/v1/platform/tenants", operation_id = "create_tenant", tag = "platform",
    security(("bearer" = [])), params(IdempotencyHeaders), request_body = CreateTenant, responses(
    (status = CREATED, body = PlatformTenantBody),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
    (status = UNPROCESSABLE_ENTITY, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn create(
    State(state): State<AppState>,
    caller: PlatformCaller,
    Creating { asking, body: request }: Creating<CreateTenant>,
) -> Result<Response, Problem> {
    caller.may(Permission::ManageTenants)?;
    let tier = tier(&request.subscription)?;
    let dedicated = match request.placement.as_deref() {
        None | Some("shared") => false,
        Some("dedicated") => true,
        Some(_) => return Err(Problem::invalid_field("placement", "enum", "must be shared or dedicated")),
    };
    let admin = request.admin;
    let password_hash = match admin.password {
        None => None,
        Some(password) => {
            stagesub_auth::check_password(&password, &admin.email).map_err(within_admin)?;
            let _turn = state.limits.hash_for(None).await?;
            let hash = state.passwords.hash(&password).await.map_err(Problem::unavailable)?;
            Some(hash.expose_secret().to_owned())
        }
    };
    let draft = TenantDraft {
        name: request.name,
        subdomain: request.subdomain,
        code: request.code,
        tier,
        dedicated,
        admin: Some(PersonDraft {
            id: Uuid::now_v7(),
            email: admin.email,
            first_name: admin.first_name,
            last_name: admin.last_name,
            password_hash,
        }),
    };
    let (id, now) = (TenantId::from_uuid(Uuid::now_v7()), state.now());
    let asked = asking.by(&caller.actor)?;
    let made = create_tenant_once(&platform(&state), &caller.actor, id, draft, asked, now).await?;
    let location = format!("/api/v1/platform/tenants/{}", made.account.id);
    let answer = list::created(&location, PlatformTenantBody::new(made.account, now));
    Ok(if made.is_again { mark_replayed(answer) } else { answer })
}

/// Names the fields as the request does.
fn within_admin(mut errors: ValidationErrors) -> Problem {
    for error in &mut errors.0 {
        error.field = format!("admin.{}", error.field);
    }
    Problem::invalid(errors)
}

/// Shows an orchestra.
#[utoipa::path(get, path = "/api/v1/platform/tenants/{id}", operation_id = "show_platform_tenant", tag = "platform",
    security(("bearer" = [])), params(("id" = Uuid, Path)), responses(
    (status = OK, body = PlatformTenantBody),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn show(
    State(state): State<AppState>,
    caller: PlatformCaller,
    TenantPath(id): TenantPath,
) -> Result<Json<PlatformTenantBody>, Problem> {
    caller.may(Permission::ManageTenants)?;
    let account = service::get_tenant(&*state.tenants, id).await?;
    Ok(Json(PlatformTenantBody::new(account, state.now())))
}

/// Changes an orchestra's record.
#[utoipa::path(patch, path = "/api/v1/platform/tenants/{id}", operation_id = "change_tenant", tag = "platform",
    security(("bearer" = [])), params(("id" = Uuid, Path)), request_body = ChangeTenant, responses(
    (status = OK, body = PlatformTenantBody),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn change(
    State(state): State<AppState>,
    caller: PlatformCaller,
    TenantPath(id): TenantPath,
    Body(request): Body<ChangeTenant>,
) -> Result<Json<PlatformTenantBody>, Problem> {
    caller.may(Permission::ManageTenants)?;
    let draft = TenantChangeDraft {
        name: request.name,
        subdomain: request.subdomain,
        tier: request.subscription.as_deref().map(tier).transpose()?,
        limits: LimitChange {
            musicians: request.max_musicians,
            active_projects: request.max_active_projects,
            instruments: request.max_instruments,
        },
        trial_ends_at: request.trial_ends_at,
        subscription_ends_at: request.subscription_ends_at,
        custom_branding: request.custom_branding,
        email_domain: request.email_domain,
    };
    let now = state.now();
    let account = service::change_tenant(&platform(&state), &caller.actor, id, draft, now).await?;
    Ok(Json(PlatformTenantBody::new(account, now)))
}

/// Locks an orchestra: its people are refused from now on, its data stays.
#[utoipa::path(post, path = "/api/v1/platform/tenants/{id}/suspend", operation_id = "suspend_tenant",
    tag = "platform", security(("bearer" = [])), params(("id" = Uuid, Path)), responses(
    (status = OK, body = PlatformTenantBody),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn suspend(
    State(state): State<AppState>,
    caller: PlatformCaller,
    TenantPath(id): TenantPath,
) -> Result<Json<PlatformTenantBody>, Problem> {
    caller.may(Permission::ManageTenants)?;
    let now = state.now();
    let account = service::suspend_tenant(&platform(&state), &caller.actor, id, now).await?;
    Ok(Json(PlatformTenantBody::new(account, now)))
}

/// Unlocks an orchestra.
#[utoipa::path(post, path = "/api/v1/platform/tenants/{id}/resume", operation_id = "resume_tenant",
    tag = "platform", security(("bearer" = [])), params(("id" = Uuid, Path)), responses(
    (status = OK, body = PlatformTenantBody),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn resume(
    State(state): State<AppState>,
    caller: PlatformCaller,
    TenantPath(id): TenantPath,
) -> Result<Json<PlatformTenantBody>, Problem> {
    caller.may(Permission::ManageTenants)?;
    let now = state.now();
    let account = service::resume_tenant(&platform(&state), &caller.actor, id, now).await?;
    Ok(Json(PlatformTenantBody::new(account, now)))
}
