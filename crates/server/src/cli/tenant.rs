//! `stagesub tenant`: orchestras.

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use stagesub_domain::actor::Actor;
use stagesub_domain::ports::registry::{TenantAccount, TenantFilter};
use stagesub_domain::service::provisioning::create_tenant;
use stagesub_domain::service::tenants::{
    PersonDraft, TenantDraft, list_tenants, resume_tenant, suspend_tenant,
};
use stagesub_tenancy::clock::Clock;
use stagesub_tenancy::{Placement, TenantId};
use uuid::Uuid;

use super::args::{TenantCommand, TenantCreateArgs, TenantListArgs, TenantName};
use super::secret::{self, Password};
use super::{Failure, connected, output};
use crate::clock::SystemClock;
use crate::config::RawConfig;
use crate::wiring::Platform;

/// Tenants asked for at a time.
const PAGE: u32 = 200;

/// Runs the command.
pub async fn run(command: TenantCommand, raw: &RawConfig) -> Result<(), Failure> {
    connected(raw, async |platform| match command {
        TenantCommand::Create(arguments) => create(platform, arguments).await,
        TenantCommand::List(arguments) => list(platform, arguments).await,
        TenantCommand::Show(arguments) => {
            let account = find(platform, &arguments.tenant).await?;
            show(&account, arguments.json)
        }
        TenantCommand::Suspend(arguments) => {
            let id = find(platform, &arguments.tenant).await?.id;
            let now = SystemClock.now();
            let account = suspend_tenant(&platform.tenancy(), &Actor::system(), id, now).await?;
            show(&account, arguments.json)
        }
        TenantCommand::Resume(arguments) => {
            let id = find(platform, &arguments.tenant).await?.id;
            let now = SystemClock.now();
            let account = resume_tenant(&platform.tenancy(), &Actor::system(), id, now).await?;
            show(&account, arguments.json)
        }
    })
    .await
}

/// Finds the orchestra that the command line names.
pub(super) async fn find(platform: &Platform, name: &TenantName) -> Result<TenantAccount, Failure> {
    let missing = || Failure::new(format!("there is no orchestra {name}; `stagesub tenant list` shows them"));
    let found = match name {
        TenantName::Id(id) => platform.tenants().find(*id).await?,
        TenantName::Subdomain(subdomain) => platform.tenants().find_by_subdomain(subdomain).await?,
    };
    found.ok_or_else(missing)
}

async fn create(platform: &Platform, arguments: TenantCreateArgs) -> Result<(), Failure> {
    let now = SystemClock.now();
    let (admin, password) = match &arguments.admin_email {
        None => (None, None),
        Some(email) => {
            let asked = arguments.generate || arguments.password_stdin;
            let password =
                asked.then(|| secret::obtain(arguments.password_stdin, arguments.generate)).transpose()?;
            let hash = match &password {
                Some(password) => Some(secret::hash(platform.passwords(), password, email).await?),
                None => None,
            };
            let admin = PersonDraft {
                id: Uuid::now_v7(),
                email: email.clone(),
                first_name: arguments.admin_first_name.clone().unwrap_or_default(),
                last_name: arguments.admin_last_name.clone().unwrap_or_default(),
                password_hash: hash,
            };
            (Some(admin), password)
        }
    };
    let draft = TenantDraft {
        name: arguments.name,
        subdomain: arguments.subdomain.to_string(),
        code: arguments.code.map(|code| code.to_string()),
        tier: arguments.subscription,
        dedicated: arguments.dedicated,
        admin,
    };
    let id = TenantId::from_uuid(Uuid::now_v7());
    let account = create_tenant(&platform.tenancy(), &Actor::system(), id, draft, now).await?;
    let told = password.as_ref().and_then(Password::to_tell).map(|secret| secret.expose_secret().to_owned());
    if arguments.json {
        let mut value = to_json(&account, now);
        if let (Some(email), Some(fields)) = (&arguments.admin_email, value.as_object_mut()) {
            fields.insert("admin".to_owned(), json!({ "email": email, "password": told }));
        }
        return output::json(&value);
    }
    show(&account, false)?;
    match told {
        Some(password) => output::line(&format!("The administrator's password is {password}")),
        None => Ok(()),
    }
}

async fn list(platform: &Platform, arguments: TenantListArgs) -> Result<(), Failure> {
    let filter = TenantFilter { search: arguments.search, ..TenantFilter::default() };
    let mut accounts = Vec::new();
    let mut after = None;
    loop {
        let page = list_tenants(platform.tenants().as_ref(), &filter, after, PAGE).await?;
        accounts.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let now = SystemClock.now();
    if arguments.json {
        return output::json(&accounts.iter().map(|account| to_json(account, now)).collect::<Vec<_>>());
    }
    let rows = accounts.iter().map(|account| {
        [
            account.code.to_string(),
            account.subdomain.to_string(),
            account.name.clone(),
            account.tier.as_str().to_owned(),
            account.status.as_str().to_owned(),
            account.placement.map_or("", Placement::as_str).to_owned(),
            account.id.to_string(),
        ]
    });
    let heading = ["CODE", "SUBDOMAIN", "NAME", "SUBSCRIPTION", "STATUS", "DATABASE", "ID"];
    output::line(&output::table(heading, rows).to_string())
}

fn show(account: &TenantAccount, as_json: bool) -> Result<(), Failure> {
    let now = SystemClock.now();
    if as_json {
        return output::json(&to_json(account, now));
    }
    let limit = |limit: Option<i32>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let date = |date: Option<DateTime<Utc>>| date.map_or_else(|| "-".to_owned(), |date| date.to_rfc3339());
    let row = |name: &str, value: String| [name.to_owned(), value];
    let rows = [
        row("id", account.id.to_string()),
        row("code", account.code.to_string()),
        row("name", account.name.clone()),
        row("subdomain", account.subdomain.to_string()),
        row("subscription", account.tier.as_str().to_owned()),
        row("status", account.status.as_str().to_owned()),
        row("database", account.placement.map_or("-", Placement::as_str).to_owned()),
        row("musicians at most", limit(account.limits.musicians)),
        row("active projects at most", limit(account.limits.active_projects)),
        row("instruments at most", limit(account.limits.instruments)),
        row("trial ends", date(account.trial_ends_at)),
        row("subscription ends", date(account.subscription_ends_at)),
        row("made", date(Some(account.created_at))),
    ];
    output::line(&output::table(["FIELD", "VALUE"], rows).to_string())
}

/// Named as the API names them.
fn to_json(account: &TenantAccount, now: DateTime<Utc>) -> Value {
    json!({
        "id": account.id,
        "code": account.code,
        "name": account.name,
        "subdomain": account.subdomain,
        "subscription": account.tier.as_str(),
        "status": account.status.as_str(),
        "isActive": account.is_active_at(now),
        "placement": account.placement.map(Placement::as_str),
        "maxMusicians": account.limits.musicians,
        "maxActiveProjects": account.limits.active_projects,
        "maxInstruments": account.limits.instruments,
        "trialEndsAt": account.trial_ends_at,
        "subscriptionEndsAt": account.subscription_ends_at,
        "createdAt": account.created_at,
        "updatedAt": account.updated_at,
    })
}
