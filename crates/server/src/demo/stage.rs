//! Putting the demo's orchestras on: made once, filled once, found again at every later start.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use stagesub_auth::{PasswordError, PasswordHasher};
use stagesub_domain::actor::Actor;
use stagesub_domain::error::{StoreError, UseCaseError};
use stagesub_domain::ports::registry::TenantAccount;
use stagesub_domain::service::Act;
use stagesub_domain::service::provisioning::create_tenant;
use stagesub_domain::service::tenants::{PersonDraft, TenantChangeDraft, TenantDraft, change_tenant};
use stagesub_tenancy::clock::Clock;
use stagesub_tenancy::subdomain::InvalidSubdomain;
use stagesub_tenancy::{Access, BeginError, Purpose, ResolveError, Subdomain, TenantId, TenantStatus};
use uuid::Uuid;

use super::cast::{ORCHESTRAS, Orchestra};
use super::report::{Login, Served};
use super::secrets::Secrets;
use super::seed::{self, SeedError};
use crate::clock::SystemClock;
use crate::wiring::Platform;

/// Makes and fills the orchestras that are not there yet, and tells how to get into each.
///
/// # Errors
/// [`StageError`]. What was made until then stays, and the next start goes on from there.
pub async fn put_on(platform: &Platform, secrets: &Secrets) -> Result<Vec<Served>, StageError> {
    let now = SystemClock.now();
    let mut served = Vec::with_capacity(ORCHESTRAS.len());
    for orchestra in &ORCHESTRAS {
        let password = secrets
            .admin_password(orchestra.subdomain)
            .ok_or(StageError::NoPassword { subdomain: orchestra.subdomain })?;
        let account = find_or_make(platform, orchestra, password, now).await?;
        fill(platform, orchestra, &account, now).await?;
        served.push(describe(orchestra, &account, password));
    }
    Ok(served)
}

async fn find_or_make(
    platform: &Platform,
    orchestra: &Orchestra,
    password: &SecretString,
    now: DateTime<Utc>,
) -> Result<TenantAccount, StageError> {
    let subdomain: Subdomain = orchestra.subdomain.parse()?;
    if let Some(account) = platform.tenants().find_by_subdomain(&subdomain).await? {
        return Ok(account);
    }
    tracing::info!(subdomain = orchestra.subdomain, dedicated = orchestra.dedicated, "making an orchestra");
    let draft = draft(orchestra, platform.passwords(), password).await?;
    let id = TenantId::from_uuid(Uuid::now_v7());
    Ok(create_tenant(&platform.tenancy(), &Actor::system(), id, draft, now).await?)
}

async fn draft(
    orchestra: &Orchestra,
    passwords: &Arc<PasswordHasher>,
    password: &SecretString,
) -> Result<TenantDraft, StageError> {
    let hash = passwords.hash(password).await?;
    Ok(TenantDraft {
        name: orchestra.name.to_owned(),
        subdomain: orchestra.subdomain.to_owned(),
        code: Some(orchestra.code.to_owned()),
        tier: orchestra.tier,
        dedicated: orchestra.dedicated,
        admin: Some(PersonDraft {
            id: Uuid::now_v7(),
            email: orchestra.admin_email(),
            first_name: orchestra.admin.0.to_owned(),
            last_name: orchestra.admin.1.to_owned(),
            password_hash: Some(hash.expose_secret().to_owned()),
        }),
    })
}

/// Fills an orchestra that is in use; one that somebody suspended stays as it is.
async fn fill(
    platform: &Platform,
    orchestra: &Orchestra,
    account: &TenantAccount,
    now: DateTime<Utc>,
) -> Result<(), StageError> {
    if account.status != TenantStatus::Active {
        return Ok(());
    }
    let actor = Actor::system();
    let scope = platform.resolver().resolve_for(account.id, Purpose::Job, now).await?;
    let mut unit = platform.units().begin(&scope, Access::Write).await?;
    let act = Act { actor: &actor, code: &account.code, now };
    if seed::fill(&mut *unit, &act, orchestra).await? {
        // A demo does not end with the trial. Before the commit that marks the orchestra as filled, so that a
        // crash in between does it again.
        let open_ended = TenantChangeDraft { trial_ends_at: Some(None), ..TenantChangeDraft::default() };
        change_tenant(&platform.tenancy(), &actor, account.id, open_ended, now).await?;
        unit.commit().await?;
    }
    Ok(())
}

fn describe(orchestra: &Orchestra, account: &TenantAccount, password: &SecretString) -> Served {
    let planned = if orchestra.dedicated { "dedicated" } else { "shared" };
    Served {
        id: account.id,
        name: account.name.clone(),
        subdomain: account.subdomain.to_string(),
        code: account.code.to_string(),
        placement: account.placement.map_or(planned, stagesub_tenancy::Placement::as_str),
        admin: Login { email: orchestra.admin_email(), password: password.clone() },
    }
}

/// The demo's orchestras could not be put on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// The cast names something that is no subdomain.
    #[error("an orchestra of the demo has no usable subdomain")]
    Subdomain(#[from] InvalidSubdomain),
    /// An administrator has no password.
    #[error("the administrator of {subdomain} has no password")]
    NoPassword {
        /// Whose.
        subdomain: &'static str,
    },
    /// Hashing failed.
    #[error("a password could not be hashed")]
    Hash(#[from] PasswordError),
    /// The registry failed.
    #[error("the demo's orchestras could not be looked up")]
    Store(#[from] StoreError),
    /// A use case refused.
    #[error("an orchestra of the demo could not be made")]
    Refused(#[from] UseCaseError),
    /// No scope was given.
    #[error("an orchestra of the demo could not be opened")]
    Resolve(#[from] ResolveError),
    /// No transaction was begun.
    #[error("an orchestra's database could not be opened")]
    Begin(#[from] BeginError),
    /// It could not be filled.
    #[error(transparent)]
    Seed(#[from] SeedError),
}
