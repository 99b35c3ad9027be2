//! Tenants as the platform's administrators handle them.
//!
//! These use cases reach the registry; a tenant's own database is opened only through a scope, to push limits.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use stagesub_tenancy::subdomain::InvalidSubdomain;
use stagesub_tenancy::{Access, Purpose, Resolver, Subdomain, TenantId, TenantStatus};

use crate::actor::Actor;
use crate::audit::{AuditAction, AuditEntry};
use crate::error::{Constraint, FieldError, StoreError, UseCaseError, ValidationErrors};
use crate::page::Paged;
use crate::ports::registry::{TenantAccount, TenantChange, TenantDatabases, TenantFilter, TenantRegistry};
use crate::ports::{UnitOfWork, Units};
use crate::service::changes::{Fields, difference};
use crate::subscription::{Limits, Resource, Tier};
use crate::validate::{self, Draft as _, Rule};

mod drafts;

pub use drafts::{LimitChange, PersonDraft, TenantChangeDraft, TenantDraft};

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
    let touches_limits = draft.tier.is_some() || draft.limits != LimitChange::default();
    let after = change_record(platform, actor, id, draft, now).await?;
    if touches_limits && after.status == TenantStatus::Active {
        push_limits(platform, &after, now).await?;
    }
    Ok(after)
}

/// How often a change is planned afresh because another one came between.
const CHANGE_TRIES: u32 = 5;

/// What is changed is planned from the record as it was read (limits depend on the tier and on each other), so
/// it is written only on that very record; when another change came between, all is read and planned again.
async fn change_record(
    platform: &Platform<'_>,
    actor: &Actor,
    id: TenantId,
    draft: TenantChangeDraft,
    now: DateTime<Utc>,
) -> Result<TenantAccount, UseCaseError> {
    for _ in 0..CHANGE_TRIES {
        let before = get_tenant(platform.tenants, id).await?;
        let change = TenantChange { if_version: Some(before.version), ..plan(&before, draft.clone())? };
        let Some(changes) = difference(fields(&before), changed_fields(&before, &change)) else {
            return Ok(before);
        };
        let entry = entry(actor, now, AuditAction::Update, id, Some(changes));
        let account = platform.tenants.change(id, &change, &entry).await.map_err(taken)?;
        (platform.invalidate)(id);
        if let Some(account) = account {
            return Ok(account);
        }
    }
    Err(StoreError::Contended("the tenant's record was changed by others again and again".into()).into())
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
    if resumed.status == to {
        push_limits(platform, &resumed, now).await?;
    }
    Ok(resumed)
}

async fn set_status(
    platform: &Platform<'_>,
    entry: &AuditEntry,
    id: TenantId,
    from: TenantStatus,
    to: TenantStatus,
) -> Result<TenantAccount, UseCaseError> {
    let is_done = platform.tenants.set_status(id, vec![from], to, entry).await?;
    (platform.invalidate)(id);
    let account = get_tenant(platform.tenants, id).await?;
    // What was done may have been undone by somebody else since.
    if is_done || account.status == to {
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
    // The API names them `maxMusicians` and so on, beside the other fields.
    let by_hand = draft.limits;
    for (field, limit) in [
        ("maxMusicians", by_hand.musicians),
        ("maxActiveProjects", by_hand.active_projects),
        ("maxInstruments", by_hand.instruments),
    ] {
        if limit.flatten().is_some_and(|limit| !(0..=MAX_LIMIT).contains(&limit)) {
            errors.push(broken(field, Rule::Range, format!("0 to {MAX_LIMIT}")));
        }
    }
    for (field, at) in
        [("trialEndsAt", draft.trial_ends_at), ("subscriptionEndsAt", draft.subscription_ends_at)]
    {
        if at.flatten().is_some_and(|at| validate::day(&at.date_naive(), &()).is_err()) {
            errors.push(broken(field, Rule::Range, "a time in the years 1900 to 2999"));
        }
    }
    let limits = limits(before, tier, by_hand);
    if !errors.is_empty() {
        return Err(ValidationErrors(errors));
    }
    Ok(TenantChange {
        if_version: None,
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

/// Highest limit that can be set by hand.
const MAX_LIMIT: i32 = 1_000_000;
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
        } else if value.as_str().is_some_and(|text| text.chars().any(char::is_control)) {
            errors.push(broken(&field, Rule::Characters, "no control characters"));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::fixture_platform::{World, day, tenant_id};
    use crate::service::provisioning::create_tenant;

    async fn world() -> World {
        let world = World::default();
        for (number, name, subdomain) in [(1, "Malmö", "malmo"), (2, "Umeå", "umea")] {
            let draft = TenantDraft {
                name: name.to_owned(),
                subdomain: subdomain.to_owned(),
                code: None,
                tier: Tier::Small,
                dedicated: false,
                admin: None,
            };
            world
                .with(async |platform| {
                    create_tenant(platform, &Actor::system(), tenant_id(number), draft, day(0)).await
                })
                .await
                .expect("made");
        }
        world.state().steps.clear();
        world.state().audit.clear();
        world.state().invalidated.clear();
        world
    }

    async fn change(world: &World, draft: TenantChangeDraft) -> Result<TenantAccount, UseCaseError> {
        world
            .with(async |platform| {
                change_tenant(platform, &Actor::system(), tenant_id(1), draft, day(1)).await
            })
            .await
    }

    fn limit_in_tenant(world: &World, resource: Resource) -> Option<i32> {
        world.state().orchestras[&tenant_id(1)].rows().quotas[&resource].limit
    }

    #[tokio::test]
    async fn a_new_tier_brings_its_limits_to_the_tenants_own_database() {
        let world = world().await;
        let draft = TenantChangeDraft { tier: Some(Tier::Medium), ..Default::default() };
        let account = change(&world, draft).await.expect("changed");
        assert_eq!(account.limits, Tier::Medium.limits());
        assert_eq!(limit_in_tenant(&world, Resource::Musicians), Some(200));
        assert_eq!(limit_in_tenant(&world, Resource::Instruments), None);
        let state = world.state();
        assert_eq!(state.steps, ["change", "begin"]);
        assert_eq!(state.invalidated, [tenant_id(1)]);
        let changes = state.audit[0].changes.as_ref().expect("changes");
        assert_eq!(changes["before"]["maxMusicians"], 50);
        assert_eq!(changes["after"]["subscription"], "medium");
    }

    #[tokio::test]
    async fn a_limit_set_by_hand_outlives_a_change_of_tier() {
        let world = world().await;
        let by_hand = LimitChange { musicians: Some(Some(70)), ..Default::default() };
        let draft = TenantChangeDraft { limits: by_hand, ..Default::default() };
        change(&world, draft).await.expect("changed");
        let draft = TenantChangeDraft { tier: Some(Tier::Medium), ..Default::default() };
        let changed = change(&world, draft).await.expect("changed");
        assert_eq!((changed.limits.musicians, changed.limits.active_projects), (Some(70), Some(20)));
        assert_eq!(limit_in_tenant(&world, Resource::Musicians), Some(70));
    }

    #[tokio::test]
    async fn limits_that_two_set_at_once_both_hold() {
        let world = world().await;
        world.state().set_by_another = Some(Limits { instruments: Some(33), ..Tier::Small.limits() });
        let by_hand = LimitChange { musicians: Some(Some(70)), ..Default::default() };
        let draft = TenantChangeDraft { limits: by_hand, ..Default::default() };
        let changed = change(&world, draft).await.expect("changed");
        assert_eq!((changed.limits.musicians, changed.limits.instruments), (Some(70), Some(33)));
        assert_eq!(world.state().audit.len(), 1, "what was not written is not in the audit");
    }

    #[tokio::test]
    async fn a_push_that_failed_is_made_good_by_asking_again() {
        let world = world().await;
        world.state().fails_at = Some(1);
        let draft = TenantChangeDraft { tier: Some(Tier::Medium), ..Default::default() };
        let failed = change(&world, draft.clone()).await;
        assert!(matches!(failed, Err(UseCaseError::Begin(_))));
        assert_eq!(limit_in_tenant(&world, Resource::Musicians), Some(50));
        change(&world, draft).await.expect("pushed");
        assert_eq!(limit_in_tenant(&world, Resource::Musicians), Some(200));
        assert_eq!(world.state().audit.len(), 1, "the registry was changed once");
    }

    #[tokio::test]
    async fn a_change_of_nothing_writes_nothing() {
        let world = world().await;
        let draft = TenantChangeDraft { name: Some("Malmö ".to_owned()), ..Default::default() };
        change(&world, draft).await.expect("nothing to do");
        assert!(world.state().steps.is_empty());
    }

    #[tokio::test]
    async fn what_the_tier_does_not_have_is_refused_by_field() {
        let world = world().await;
        let draft = TenantChangeDraft {
            subdomain: Some("-".to_owned()),
            custom_branding: Some(Some(json!({ "logo": "x", "colour": "red" }))),
            email_domain: Some(Some("gso.se".to_owned())),
            ..Default::default()
        };
        let error = change(&world, draft).await.expect_err("refused");
        let UseCaseError::Invalid(errors) = error else { panic!("{error:?}") };
        let mut told: Vec<_> = errors.0.iter().map(|error| (error.field.as_str(), error.rule)).collect();
        told.sort_unstable();
        assert_eq!(
            told,
            [
                ("customBranding.colour", "format"),
                ("customBranding.logo", "subscription"),
                ("emailDomain", "subscription"),
                ("subdomain", "format"),
            ]
        );
        let draft = TenantChangeDraft {
            limits: LimitChange { instruments: Some(Some(-1)), ..Default::default() },
            ..Default::default()
        };
        assert!(matches!(change(&world, draft).await, Err(UseCaseError::Invalid(errors))
            if errors.0[0].field == "maxInstruments"));
        let draft =
            TenantChangeDraft { trial_ends_at: Some(Some(DateTime::<Utc>::MIN_UTC)), ..Default::default() };
        assert!(matches!(change(&world, draft).await, Err(UseCaseError::Invalid(errors))
            if errors.0[0].field == "trialEndsAt"));
    }

    #[tokio::test]
    async fn a_subdomain_of_another_tenant_is_taken() {
        let world = world().await;
        let draft = TenantChangeDraft { subdomain: Some("umea".to_owned()), ..Default::default() };
        assert!(matches!(change(&world, draft).await, Err(UseCaseError::Taken { field: "subdomain" })));
    }

    #[tokio::test]
    async fn suspending_and_resuming_twice_is_doing_it_once() {
        let world = world().await;
        let actor = Actor::system();
        world
            .with(async |platform| {
                for _ in 0..2 {
                    let locked =
                        suspend_tenant(platform, &actor, tenant_id(1), day(1)).await.expect("suspended");
                    assert_eq!(locked.status, TenantStatus::Suspended);
                    assert!(!locked.is_active_at(day(1)));
                }
                for _ in 0..2 {
                    let open = resume_tenant(platform, &actor, tenant_id(1), day(2)).await.expect("resumed");
                    assert!(open.is_active_at(day(2)) && !open.is_active_at(day(31)));
                }
            })
            .await;
        let actions: Vec<_> = world.state().audit.iter().map(|entry| entry.action).collect();
        assert_eq!(actions, [AuditAction::Suspend, AuditAction::Resume]);
    }

    #[tokio::test]
    async fn limits_decided_while_a_tenant_was_locked_arrive_when_it_is_resumed() {
        let world = world().await;
        let actor = Actor::system();
        world
            .with(async |platform| {
                suspend_tenant(platform, &actor, tenant_id(1), day(1)).await.expect("suspended");
                let draft = TenantChangeDraft { tier: Some(Tier::Institution), ..Default::default() };
                change_tenant(platform, &actor, tenant_id(1), draft, day(1)).await.expect("changed");
            })
            .await;
        assert_eq!(limit_in_tenant(&world, Resource::Musicians), Some(50));
        world
            .with(async |platform| resume_tenant(platform, &actor, tenant_id(1), day(2)).await)
            .await
            .expect("resumed");
        assert_eq!(limit_in_tenant(&world, Resource::Musicians), None);
    }

    #[tokio::test]
    async fn a_tenant_in_another_state_is_neither_suspended_nor_resumed() {
        let world = world().await;
        let actor = Actor::system();
        world.state().accounts.get_mut(&tenant_id(1)).expect("Malmö").0.status = TenantStatus::Closing;
        world
            .with(async |platform| {
                let refused = suspend_tenant(platform, &actor, tenant_id(1), day(1)).await;
                assert!(matches!(refused, Err(UseCaseError::WrongState { .. })));
                let refused = resume_tenant(platform, &actor, tenant_id(1), day(1)).await;
                assert!(matches!(refused, Err(UseCaseError::WrongState { .. })));
                let unknown = suspend_tenant(platform, &actor, tenant_id(7), day(1)).await;
                assert!(matches!(unknown, Err(UseCaseError::UnknownTenant)));
                let unknown = get_tenant(platform.tenants, tenant_id(7)).await;
                assert!(matches!(unknown, Err(UseCaseError::UnknownTenant)));
            })
            .await;
    }
}
