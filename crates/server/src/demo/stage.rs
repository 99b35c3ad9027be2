//! Putting the demo's orchestras on: made once, filled once, found again at every later start.

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use stagesub_auth::{PasswordError, PasswordHasher};
use stagesub_domain::actor::Actor;
use stagesub_domain::error::{StoreError, UseCaseError};
use stagesub_domain::ports::registry::TenantAccount;
use stagesub_domain::service::Act;
use stagesub_domain::service::provisioning::create_tenant;
use stagesub_domain::service::tenants::{
    PersonDraft, Platform, TenantChangeDraft, TenantDraft, change_tenant,
};
use stagesub_tenancy::subdomain::InvalidSubdomain;
use stagesub_tenancy::{Access, BeginError, Purpose, ResolveError, Subdomain, TenantId, TenantStatus};
use uuid::Uuid;

use super::cast::{ORCHESTRAS, Orchestra};
use super::report::{Login, Served};
use super::secrets::Secrets;
use super::seed::{self, SeedError};

/// Makes and fills the orchestras that are not there yet, and tells how to get into each.
///
/// # Errors
/// [`StageError`]. What was made until then stays, and the next start goes on from there.
pub async fn put_on(
    platform: &Platform<'_>,
    passwords: &PasswordHasher,
    secrets: &Secrets,
    now: DateTime<Utc>,
) -> Result<Vec<Served>, StageError> {
    let mut served = Vec::with_capacity(ORCHESTRAS.len());
    for orchestra in &ORCHESTRAS {
        let password = secrets
            .admin_password(orchestra.subdomain)
            .ok_or(StageError::NoPassword { subdomain: orchestra.subdomain })?;
        let account = find_or_make(platform, passwords, orchestra, password, now).await?;
        fill(platform, orchestra, &account, now).await?;
        served.push(describe(orchestra, &account, password)?);
    }
    Ok(served)
}

async fn find_or_make(
    platform: &Platform<'_>,
    passwords: &PasswordHasher,
    orchestra: &Orchestra,
    password: &SecretString,
    now: DateTime<Utc>,
) -> Result<TenantAccount, StageError> {
    let subdomain: Subdomain = orchestra.subdomain.parse()?;
    if let Some(account) = platform.tenants.find_by_subdomain(&subdomain).await? {
        return Ok(account);
    }
    tracing::info!(subdomain = orchestra.subdomain, dedicated = orchestra.dedicated, "making an orchestra");
    let draft = draft(orchestra, passwords, password).await?;
    let id = TenantId::from_uuid(Uuid::now_v7());
    Ok(create_tenant(platform, &Actor::system(), id, draft, now).await?)
}

async fn draft(
    orchestra: &Orchestra,
    passwords: &PasswordHasher,
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

/// Fills an orchestra that is in use; one that somebody locked stays as it is.
async fn fill(
    platform: &Platform<'_>,
    orchestra: &Orchestra,
    account: &TenantAccount,
    now: DateTime<Utc>,
) -> Result<(), StageError> {
    match account.status {
        TenantStatus::Active => {}
        TenantStatus::Suspended | TenantStatus::Closing => return Ok(()),
        // What an earlier crash left was to be finished before this, and the log says why it was not.
        TenantStatus::Provisioning => return Err(StageError::Unfinished { subdomain: orchestra.subdomain }),
    }
    let actor = Actor::system();
    let scope = platform.resolver.resolve_for(account.id, Purpose::Job, now).await?;
    let mut unit = platform.units.begin(&scope, Access::Write).await?;
    let act = Act { actor: &actor, code: &account.code, now };
    if seed::fill(&mut *unit, &act, orchestra).await? {
        // A demo does not end with the trial. Before the commit that marks the orchestra as filled, so that a
        // crash in between does it again.
        let open_ended = TenantChangeDraft { trial_ends_at: Some(None), ..TenantChangeDraft::default() };
        change_tenant(platform, &actor, account.id, open_ended, now).await?;
        unit.commit().await?;
    }
    Ok(())
}

fn describe(
    orchestra: &Orchestra,
    account: &TenantAccount,
    password: &SecretString,
) -> Result<Served, StageError> {
    let unfinished = StageError::Unfinished { subdomain: orchestra.subdomain };
    Ok(Served {
        id: account.id,
        name: account.name.clone(),
        subdomain: account.subdomain.to_string(),
        code: account.code.to_string(),
        placement: account.placement.ok_or(unfinished)?.as_str(),
        admin: Login { email: orchestra.admin_email(), password: password.clone() },
    })
}

/// The demo's orchestras could not be put on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// The cast names something that is no subdomain.
    #[error("an orchestra of the demo has no usable subdomain")]
    Subdomain(#[from] InvalidSubdomain),
    /// An earlier crash left it half made, and it could not be finished.
    #[error("the orchestra {subdomain} is half made and could not be finished; the log says why")]
    Unfinished {
        /// Which.
        subdomain: &'static str,
    },
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use stagesub_auth::HasherSettings;
    use stagesub_domain::page::Paged;
    use stagesub_domain::ports::musicians::MockMusicianRepository;
    use stagesub_domain::ports::projects::MockProjectRepository;
    use stagesub_domain::ports::registry::{MockTenantDatabases, MockTenantRegistry};
    use stagesub_domain::ports::{MockUnitOfWork, MockUnitOfWorkFactory, UnitOfWork, Units};
    use stagesub_domain::project::{Project, ProjectStatus};
    use stagesub_tenancy::testing::{InMemoryDirectory, tenant};
    use stagesub_tenancy::{DatabaseId, HostPolicy, Placement, Resolver};

    use super::*;

    fn account(orchestra: &Orchestra, status: TenantStatus) -> TenantAccount {
        TenantAccount {
            id: TenantId::from_uuid(Uuid::from_u128(1)),
            code: orchestra.code.parse().unwrap(),
            name: orchestra.name.to_owned(),
            subdomain: orchestra.subdomain.parse().unwrap(),
            tier: orchestra.tier,
            limits: orchestra.tier.limits(),
            status,
            trial_ends_at: None,
            subscription_ends_at: None,
            custom_branding: None,
            email_domain: None,
            placement: Some(Placement::Shared(DatabaseId::from_uuid(Uuid::from_u128(2)))),
            version: 1,
            created_at: DateTime::UNIX_EPOCH,
            updated_at: DateTime::UNIX_EPOCH,
        }
    }

    /// A unit on an orchestra that somebody has left with a project and no musician.
    fn touched() -> Box<dyn UnitOfWork> {
        let mut uow = MockUnitOfWork::new();
        uow.expect_musicians().returning(|| {
            let mut repository = MockMusicianRepository::new();
            repository.expect_list().returning(|_, _| Ok(Paged { items: Vec::new(), next: None }));
            Box::new(repository)
        });
        uow.expect_projects().returning(|| {
            let mut repository = MockProjectRepository::new();
            repository.expect_list().returning(|_, _| {
                let project = Project {
                    no: stagesub_domain::ids::ProjectNo::new(1),
                    name: "Vårkonsert".to_owned(),
                    start_date: chrono::NaiveDate::MIN,
                    week_number: 1,
                    rehearsal_schedule: None,
                    concert_info: None,
                    notes: None,
                    status: ProjectStatus::Planned,
                    created_at: DateTime::UNIX_EPOCH,
                    updated_at: DateTime::UNIX_EPOCH,
                };
                Ok(Paged { items: vec![project], next: None })
            });
            Box::new(repository)
        });
        uow.expect_commit().times(0);
        Box::new(uow)
    }

    /// Puts the demo on where each orchestra is there already, in this status; `begins` units are begun.
    async fn put_on_again(status: TenantStatus, begins: usize) -> Result<Vec<Served>, StageError> {
        let mut tenants = MockTenantRegistry::new();
        tenants.expect_find_by_subdomain().returning(move |subdomain| {
            let found = ORCHESTRAS.iter().find(|orchestra| orchestra.subdomain == subdomain.as_str());
            Ok(found.map(|orchestra| account(orchestra, status)))
        });
        tenants.expect_reserve().times(0);
        tenants.expect_change().times(0);
        let directory = Arc::new(InMemoryDirectory::new());
        directory.insert(tenant(1, "GOT", "got"));
        let mut factory = MockUnitOfWorkFactory::new();
        factory.expect_begin().times(begins).returning(|_, _| Ok(touched()));
        let units: Units = Arc::new(factory);
        let resolver = Resolver::new(directory, HostPolicy::new("localhost").unwrap());
        let databases = MockTenantDatabases::new();
        let platform = Platform {
            tenants: &tenants,
            databases: &databases,
            resolver: &resolver,
            units: &units,
            invalidate: &|_| {},
        };
        let costs = HasherSettings { memory_kib: 8, passes: 1, ..HasherSettings::default() };
        let passwords = PasswordHasher::new(costs).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let subdomains = ORCHESTRAS.each_ref().map(|orchestra| orchestra.subdomain);
        let secrets = Secrets::load_or_generate(dir.path(), &subdomains).unwrap();
        put_on(&platform, &passwords, &secrets, DateTime::UNIX_EPOCH).await
    }

    #[tokio::test]
    async fn orchestras_that_are_there_are_found_and_stay_as_people_left_them() {
        let served = put_on_again(TenantStatus::Active, 3).await.unwrap();
        let names: Vec<&str> = served.iter().map(|orchestra| orchestra.subdomain.as_str()).collect();
        assert_eq!(names, ["got", "sjo", "norr"]);
        assert!(served.iter().all(|orchestra| orchestra.placement == "shared"));
    }

    #[tokio::test]
    async fn a_suspended_orchestra_is_told_and_its_data_is_not_opened() {
        assert_eq!(put_on_again(TenantStatus::Suspended, 0).await.unwrap().len(), 3);
    }

    #[tokio::test]
    async fn a_half_made_orchestra_is_not_called_ready() {
        let error = put_on_again(TenantStatus::Provisioning, 0).await.unwrap_err();
        assert!(matches!(error, StageError::Unfinished { subdomain: "got" }));
    }
}
