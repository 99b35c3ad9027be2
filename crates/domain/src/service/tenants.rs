//! Tenants as the platform's administrators handle them.
//!
//! These use cases reach the registry; a tenant's own database is opened only through a scope, to push limits.

use chrono::{DateTime, TimeDelta, Utc};
use garde::Validate;
use serde_json::{Value, json};
use stagesub_tenancy::subdomain::InvalidSubdomain;
use stagesub_tenancy::{Access, Purpose, Resolver, Subdomain, TenantId, TenantStatus};
use uuid::Uuid;

use crate::actor::Actor;
use crate::audit::{AuditAction, AuditEntry};
use crate::error::{Constraint, FieldError, StoreError, UseCaseError, ValidationErrors};
use crate::page::Paged;
use crate::ports::registry::{
    NewMember, TenantAccount, TenantChange, TenantDatabases, TenantFilter, TenantRegistry,
};
use crate::ports::{UnitOfWork, Units};
use crate::service::changes::{Fields, difference};
use crate::subscription::{Limits, Resource, Tier};
use crate::validate::{self, Draft, Rule, Text};

/// How long a new orchestra may try the platform.
pub const TRIAL: TimeDelta = TimeDelta::days(30);
const MODEL: &str = "tenant";

/// What use cases on tenants work with.
#[derive(Clone, Copy)]
pub struct Platform<'a> {
    /// Tenants in the registry.
    pub tenants: &'a dyn TenantRegistry,
    /// Databases they are kept in.
    pub databases: &'a dyn TenantDatabases,
    /// Ids to scopes.
    pub resolver: &'a Resolver,
    /// Begins transactions on tenants' data.
    pub units: &'a Units,
    /// Drops this node's cached answers about a tenant; called after each change, so that neither an old answer
    /// nor a cached absence is met by the next step.
    pub invalidate: &'a (dyn Fn(TenantId) + Send + Sync),
}

impl std::fmt::Debug for Platform<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Platform").finish_non_exhaustive()
    }
}

impl Platform<'_> {
    /// Begins a writing unit on a tenant's data.
    pub(crate) async fn begin(
        &self,
        tenant: TenantId,
        purpose: Purpose,
        now: DateTime<Utc>,
    ) -> Result<Box<dyn UnitOfWork>, UseCaseError> {
        let scope = self.resolver.resolve_for(tenant, purpose, now).await.map_err(UseCaseError::Resolve)?;
        self.units.begin(&scope, Access::Write).await.map_err(UseCaseError::Begin)
    }
}

/// A person to be given an account.
#[derive(Clone, PartialEq, Eq, Validate)]
pub struct PersonDraft {
    /// Identity to use if nobody has this address yet, made by the caller.
    #[garde(skip)]
    pub id: Uuid,
    /// Login address: at most 254 characters, compared without regard to case.
    #[garde(custom(validate::email))]
    pub email: String,
    /// First name: 1 to 100 characters.
    #[garde(custom(validate::name))]
    pub first_name: String,
    /// Last name: 1 to 100 characters.
    #[garde(custom(validate::name))]
    pub last_name: String,
    /// PHC string of the password; `None` for a person who is given one later.
    #[garde(skip)]
    pub password_hash: Option<String>,
}

impl std::fmt::Debug for PersonDraft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PersonDraft").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Draft for PersonDraft {
    fn clean(&mut self) {
        self.email.trim_text();
        self.first_name.trim_text();
        self.last_name.trim_text();
    }
}

impl PersonDraft {
    /// Checks it for the registry.
    pub fn into_member(self) -> Result<NewMember, ValidationErrors> {
        let Self { id, email, first_name, last_name, password_hash } = self.checked()?;
        Ok(NewMember { id, email, first_name, last_name, password_hash })
    }
}

/// An orchestra to be made.
#[derive(Debug, Clone, PartialEq, Eq, Validate)]
pub struct TenantDraft {
    /// Name: 1 to 200 characters.
    #[garde(custom(validate::long_name))]
    pub name: String,
    /// Host label, in lower case.
    #[garde(skip)]
    pub subdomain: String,
    /// Prefix of its ids: 2 to 6 of `A-Z0-9`; proposed from the name when left out.
    #[garde(skip)]
    pub code: Option<String>,
    /// What it subscribes to.
    #[garde(skip)]
    pub tier: Tier,
    /// Whether it gets a database of its own; for the institution tier only.
    #[garde(skip)]
    pub dedicated: bool,
    /// Its first administrator.
    #[garde(dive)]
    pub admin: Option<PersonDraft>,
}

impl Draft for TenantDraft {
    fn clean(&mut self) {
        self.name.trim_text();
        self.subdomain.trim_text();
        validate::empty_is_none(&mut self.code);
        if let Some(admin) = &mut self.admin {
            admin.clean();
        }
    }
}

/// Changes of limits by hand; `None` leaves one as it is, `Some(None)` makes it unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Validate)]
pub struct LimitChange {
    /// Musicians.
    #[garde(custom(validate::limit))]
    pub musicians: Option<Option<i32>>,
    /// Active projects.
    #[garde(custom(validate::limit))]
    pub active_projects: Option<Option<i32>>,
    /// Instruments.
    #[garde(custom(validate::limit))]
    pub instruments: Option<Option<i32>>,
}

/// Changes of a tenant; `None` leaves a field as it is, `Some(None)` empties it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Validate)]
pub struct TenantChangeDraft {
    /// Name.
    #[garde(custom(validate::long_name))]
    pub name: Option<String>,
    /// Host label.
    #[garde(skip)]
    pub subdomain: Option<String>,
    /// Tier; its limits replace those of the tier before, and not those that were set by hand.
    #[garde(skip)]
    pub tier: Option<Tier>,
    /// Limits by hand.
    #[garde(dive)]
    pub limits: LimitChange,
    /// End of the trial.
    #[garde(skip)]
    pub trial_ends_at: Option<Option<DateTime<Utc>>>,
    /// End of the paid subscription.
    #[garde(skip)]
    pub subscription_ends_at: Option<Option<DateTime<Utc>>>,
    /// Branding: an object of `logo`, `primaryColour` and `fontFamily`, as far as the tier has them.
    #[garde(skip)]
    pub custom_branding: Option<Option<Value>>,
    /// Mail domain (institution only).
    #[garde(skip)]
    pub email_domain: Option<Option<String>>,
}

impl Draft for TenantChangeDraft {
    fn clean(&mut self) {
        self.name.trim_text();
        self.subdomain.trim_text();
        validate::empty_empties(&mut self.email_domain);
    }
}

/// Lists by creation.
pub async fn list_tenants(
    tenants: &dyn TenantRegistry,
    filter: &TenantFilter,
    after: Option<TenantId>,
    limit: u32,
) -> Result<Paged<TenantAccount, TenantId>, UseCaseError> {
    Ok(tenants.list(filter, after, limit).await?)
}

/// Gets one, whatever its status.
pub async fn get_tenant(tenants: &dyn TenantRegistry, id: TenantId) -> Result<TenantAccount, UseCaseError> {
    tenants.find(id).await?.ok_or(UseCaseError::UnknownTenant)
}

/// Changes fields in the registry, and then pushes the limits to the tenant's own database.
///
/// # Errors
/// After [`UseCaseError::Resolve`], [`UseCaseError::Begin`] or a store's error of the push the registry holds the
/// change already; the same call again pushes again.
pub async fn change_tenant(
    platform: &Platform<'_>,
    actor: &Actor,
    id: TenantId,
    draft: TenantChangeDraft,
    now: DateTime<Utc>,
) -> Result<TenantAccount, UseCaseError> {
    let draft = draft.checked()?;
    let before = get_tenant(platform.tenants, id).await?;
    let touches_limits = draft.tier.is_some() || draft.limits != LimitChange::default();
    let change = plan(&before, draft)?;
    let after = match difference(fields(&before), changed_fields(&before, &change)) {
        None => before,
        Some(changes) => {
            let entry = entry(actor, now, AuditAction::Update, id, Some(changes));
            let account = platform.tenants.change(id, &change, &entry).await.map_err(taken)?;
            (platform.invalidate)(id);
            account.ok_or(UseCaseError::UnknownTenant)?
        }
    };
    if touches_limits && after.status == TenantStatus::Active {
        push_limits(platform, &after, now).await?;
    }
    Ok(after)
}

/// Locks a tenant: nobody of it is served until it is resumed. Doing it twice is doing it once.
pub async fn suspend_tenant(
    platform: &Platform<'_>,
    actor: &Actor,
    id: TenantId,
    now: DateTime<Utc>,
) -> Result<TenantAccount, UseCaseError> {
    let (from, to) = (TenantStatus::Active, TenantStatus::Suspended);
    set_status(platform, &entry(actor, now, AuditAction::Suspend, id, None), id, from, to).await
}

/// Unlocks a tenant, and pushes what limits were decided meanwhile. Doing it twice is doing it once.
pub async fn resume_tenant(
    platform: &Platform<'_>,
    actor: &Actor,
    id: TenantId,
    now: DateTime<Utc>,
) -> Result<TenantAccount, UseCaseError> {
    let (from, to) = (TenantStatus::Suspended, TenantStatus::Active);
    let entry = entry(actor, now, AuditAction::Resume, id, None);
    let resumed = set_status(platform, &entry, id, from, to).await?;
    push_limits(platform, &resumed, now).await?;
    Ok(resumed)
}

async fn set_status(
    platform: &Platform<'_>,
    entry: &AuditEntry,
    id: TenantId,
    from: TenantStatus,
    to: TenantStatus,
) -> Result<TenantAccount, UseCaseError> {
    platform.tenants.set_status(id, vec![from], to, entry).await?;
    (platform.invalidate)(id);
    let account = get_tenant(platform.tenants, id).await?;
    if account.status == to {
        return Ok(account);
    }
    let detail = format!("the tenant is {}, not {}", account.status.as_str(), from.as_str());
    Err(UseCaseError::WrongState { detail })
}

/// Stores the registry's limits in the tenant's own database, unless newer ones are there.
pub async fn push_limits(
    platform: &Platform<'_>,
    account: &TenantAccount,
    now: DateTime<Utc>,
) -> Result<(), UseCaseError> {
    let mut unit = platform.begin(account.id, Purpose::Job, now).await?;
    unit.quotas().set_limits(account.limits, account.version).await?;
    Ok(unit.commit().await?)
}

/// What the registry is to store.
fn plan(before: &TenantAccount, draft: TenantChangeDraft) -> Result<TenantChange, ValidationErrors> {
    let mut errors = Vec::new();
    let tier = draft.tier.unwrap_or(before.tier);
    let subdomain = draft.subdomain.and_then(|text| parse_subdomain(&text, &mut errors));
    if let Some(Some(domain)) = &draft.email_domain {
        check_email_domain(tier, domain, &mut errors);
    }
    if let Some(Some(branding)) = &draft.custom_branding {
        check_branding(tier, branding, &mut errors);
    }
    let limits = limits(before, tier, draft.limits);
    if !errors.is_empty() {
        return Err(ValidationErrors(errors));
    }
    Ok(TenantChange {
        name: draft.name,
        subdomain,
        tier: draft.tier,
        limits: (limits != before.limits).then_some(limits),
        trial_ends_at: draft.trial_ends_at,
        subscription_ends_at: draft.subscription_ends_at,
        custom_branding: draft.custom_branding,
        email_domain: draft.email_domain,
    })
}

/// A limit that is not the tier's was set by hand, and stays when the tier changes.
fn limits(before: &TenantAccount, tier: Tier, by_hand: LimitChange) -> Limits {
    let decide = |resource, by_hand: Option<Option<i32>>| {
        let stands = before.limits.of(resource);
        by_hand.unwrap_or(if stands == before.tier.limits().of(resource) {
            tier.limits().of(resource)
        } else {
            stands
        })
    };
    Limits {
        musicians: decide(Resource::Musicians, by_hand.musicians),
        active_projects: decide(Resource::ActiveProjects, by_hand.active_projects),
        instruments: decide(Resource::Instruments, by_hand.instruments),
    }
}

pub(crate) fn parse_subdomain(text: &str, errors: &mut Vec<FieldError>) -> Option<Subdomain> {
    match text.parse::<Subdomain>() {
        Ok(subdomain) => Some(subdomain),
        Err(error) => {
            let rule = match error {
                InvalidSubdomain::Reserved => Rule::Reserved,
                InvalidSubdomain::Shape => Rule::Format,
            };
            errors.push(broken("subdomain", rule, error.to_string()));
            None
        }
    }
}

pub(crate) fn broken(field: &str, rule: Rule, message: impl Into<String>) -> FieldError {
    FieldError { field: field.to_owned(), rule: rule.as_str(), message: message.into() }
}

fn check_email_domain(tier: Tier, domain: &str, errors: &mut Vec<FieldError>) {
    if tier != Tier::Institution {
        errors.push(broken(
            "emailDomain",
            Rule::Subscription,
            "a mail domain comes with the institution tier",
        ));
    } else if validate::email(&format!("post@{domain}"), &()).is_err() {
        errors.push(broken("emailDomain", Rule::Format, "a domain like mail.example.com"));
    }
}

/// Longest value in a branding, in characters.
const MAX_BRANDING: usize = 500;

fn check_branding(tier: Tier, branding: &Value, errors: &mut Vec<FieldError>) {
    let allowed: &[&str] = match tier {
        Tier::Small => &[],
        Tier::Medium => &["logo"],
        Tier::Institution => &["logo", "primaryColour", "fontFamily"],
    };
    let Some(fields) = branding.as_object() else {
        errors.push(broken(
            "customBranding",
            Rule::Format,
            "an object of logo, primaryColour and fontFamily",
        ));
        return;
    };
    for (name, value) in fields {
        let field = format!("customBranding.{name}");
        if !["logo", "primaryColour", "fontFamily"].contains(&name.as_str()) {
            errors.push(broken(&field, Rule::Format, "one of logo, primaryColour and fontFamily"));
        } else if !allowed.contains(&name.as_str()) {
            let message = format!("the {} tier does not have it", tier.as_str());
            errors.push(broken(&field, Rule::Subscription, message));
        } else if !value.as_str().is_some_and(|text| (1..=MAX_BRANDING).contains(&text.chars().count())) {
            errors.push(broken(&field, Rule::Length, format!("a text of 1 to {MAX_BRANDING} characters")));
        }
    }
}

pub(crate) fn taken(error: StoreError) -> UseCaseError {
    match error {
        StoreError::Conflict { constraint: Constraint::TenantSubdomain } => {
            UseCaseError::Taken { field: "subdomain" }
        }
        StoreError::Conflict { constraint: Constraint::TenantCode } => UseCaseError::Taken { field: "code" },
        other => other.into(),
    }
}

pub(crate) fn entry(
    actor: &Actor,
    now: DateTime<Utc>,
    action: AuditAction,
    tenant: TenantId,
    changes: Option<Value>,
) -> AuditEntry {
    AuditEntry {
        actor: actor.clone(),
        at: now,
        action,
        model: MODEL,
        record_id: Some(tenant.to_string()),
        changes,
    }
}

fn fields(account: &TenantAccount) -> Fields {
    let Limits { musicians, active_projects, instruments } = account.limits;
    let value = json!({
        "name": account.name,
        "subdomain": account.subdomain,
        "subscription": account.tier.as_str(),
        "maxMusicians": musicians,
        "maxActiveProjects": active_projects,
        "maxInstruments": instruments,
        "trialEndsAt": account.trial_ends_at,
        "subscriptionEndsAt": account.subscription_ends_at,
        "customBranding": account.custom_branding,
        "emailDomain": account.email_domain,
    });
    value.as_object().cloned().unwrap_or_default()
}

fn changed_fields(before: &TenantAccount, change: &TenantChange) -> Fields {
    let mut after = before.clone();
    if let Some(name) = &change.name {
        after.name.clone_from(name);
    }
    if let Some(subdomain) = &change.subdomain {
        after.subdomain = subdomain.clone();
    }
    after.tier = change.tier.unwrap_or(before.tier);
    after.limits = change.limits.unwrap_or(before.limits);
    after.trial_ends_at = change.trial_ends_at.unwrap_or(before.trial_ends_at);
    after.subscription_ends_at = change.subscription_ends_at.unwrap_or(before.subscription_ends_at);
    if let Some(branding) = &change.custom_branding {
        after.custom_branding.clone_from(branding);
    }
    if let Some(domain) = &change.email_domain {
        after.email_domain.clone_from(domain);
    }
    fields(&after)
}
