//! Three orchestras that exist to be attacked.
//!
//! They are made through the use cases that make every orchestra, the first time, and used again after that.
//! Each has a row of every kind whose texts carry its canary. While no proof runs they are suspended, so that
//! nobody is served by them.

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use stagesub_domain::actor::Actor;
use stagesub_domain::error::{DatabaseError, StoreError, UseCaseError};
use stagesub_domain::idempotency::{Asked, Fingerprint, KeptAnswer};
use stagesub_domain::ids::{InstrumentNo, PositionNo};
use stagesub_domain::instrument::{NewInstrument, NewPosition};
use stagesub_domain::musician::NewMusician;
use stagesub_domain::page::Page;
use stagesub_domain::ports::UnitOfWork;
use stagesub_domain::ports::instruments::{InstrumentFilter, PositionFilter};
use stagesub_domain::ports::musicians::MusicianFilter;
use stagesub_domain::ports::projects::ProjectFilter;
use stagesub_domain::ports::registry::{DedicatedPlace, Prospect, TenantAccount, TenantDatabases};
use stagesub_domain::project::{NewProject, ProjectStatus};
use stagesub_domain::service::provisioning::{create_tenant, recover_provisioning};
use stagesub_domain::service::tenants::{
    Platform as Tenancy, TenantChangeDraft, TenantDraft, change_tenant, resume_tenant, suspend_tenant,
};
use stagesub_domain::service::{Act, instruments, musicians, positions, projects};
use stagesub_domain::subscription::Tier;
use stagesub_id_gen::Kind;
use stagesub_tenancy::{Access, DatabaseId, Placement, Purpose, Subdomain, TenantId, TenantStatus};
use uuid::Uuid;

use super::error::ProveError;
use super::routes::MAIL_DOMAIN;
use crate::wiring::Platform;

/// What tells the canaries from every other orchestra: host label and prefix of ids.
const CANARIES: [(&str, &str, &str); 3] = [
    ("a", "stagesub-canary-a", "CNRYA"),
    ("b", "stagesub-canary-b", "CNRYB"),
    ("c", "stagesub-canary-c", "CNRYC"),
];

/// A host label that no orchestra is to have.
pub(super) const NOBODY: &str = "stagesub-canary-nobody";

/// Things that attacks make carry it in their names, and are removed after.
const PROBE: &str = "probe ";

/// An orchestra that exists to be attacked.
#[derive(Debug, Clone)]
pub(super) struct Canary {
    pub(super) letter: &'static str,
    pub(super) id: TenantId,
    pub(super) code: String,
    pub(super) subdomain: String,
    /// The text that its data carries and that stands nowhere else.
    pub(super) marker: String,
    pub(super) instrument: String,
    pub(super) position: String,
    pub(super) musician: String,
    pub(super) project: String,
}

/// Makes what is missing and wakes all three.
pub(super) async fn wake(platform: &Platform, now: DateTime<Utc>) -> Result<[Canary; 3], ProveError> {
    let [a, b, c] = CANARIES;
    // The first goes where every new orchestra goes, and the others beside it: who lives elsewhere attacks nobody.
    let a = wake_one(platform, a, None, now).await?;
    let placed = platform.directory().find_placement(a.id).await?.map(|located| located.placement);
    let beside = match placed {
        Some(Placement::Shared(database)) => Some(database),
        Some(Placement::Dedicated(_)) | None => None,
    };
    Ok([a, wake_one(platform, b, beside, now).await?, wake_one(platform, c, beside, now).await?])
}

/// Puts new orchestras in one shared database.
struct Beside<'a> {
    databases: &'a dyn TenantDatabases,
    shared: DatabaseId,
}

#[async_trait]
impl TenantDatabases for Beside<'_> {
    async fn choose_shared(&self) -> Result<DatabaseId, StoreError> {
        Ok(self.shared)
    }

    async fn look_at(&self, tenant: TenantId, place: &DedicatedPlace) -> Result<Prospect, DatabaseError> {
        self.databases.look_at(tenant, place).await
    }

    async fn create_dedicated(
        &self,
        tenant: TenantId,
        place: &DedicatedPlace,
    ) -> Result<DatabaseId, DatabaseError> {
        self.databases.create_dedicated(tenant, place).await
    }

    async fn admit(&self, tenant: TenantId, database: DatabaseId) -> Result<(), StoreError> {
        self.databases.admit(tenant, database).await
    }
}

async fn wake_one(
    platform: &Platform,
    (letter, subdomain, code): (&'static str, &'static str, &'static str),
    beside: Option<DatabaseId>,
    now: DateTime<Utc>,
) -> Result<Canary, ProveError> {
    let account = find_or_make(platform, letter, subdomain, code, beside, now).await?;
    if account.code.as_str() != code {
        return Err(ProveError::NotACanary { subdomain: subdomain.to_owned() });
    }
    let tenancy = platform.tenancy();
    let account = resume_tenant(&tenancy, &Actor::system(), account.id, now).await?;
    if account.trial_ends_at.is_some() {
        let open_ended = TenantChangeDraft { trial_ends_at: Some(None), ..TenantChangeDraft::default() };
        change_tenant(&tenancy, &Actor::system(), account.id, open_ended, now).await?;
    }
    seed(platform, letter, &account, now).await
}

async fn find_or_make(
    platform: &Platform,
    letter: &str,
    subdomain: &str,
    code: &str,
    beside: Option<DatabaseId>,
    now: DateTime<Utc>,
) -> Result<TenantAccount, ProveError> {
    let label: Subdomain = subdomain.parse().expect("a canary's label is one");
    let tenancy = platform.tenancy();
    let found = platform.tenants().find_by_subdomain(&label).await?;
    if let Some(account) = found.filter(|account| account.status != TenantStatus::Provisioning) {
        return Ok(account);
    }
    // One that a crash left half made is finished with all the others that were left so.
    recover_provisioning(&tenancy, &Actor::system(), now).await?;
    if let Some(account) = platform.tenants().find_by_subdomain(&label).await? {
        return Ok(account);
    }
    let databases = beside.map(|shared| Beside { databases: tenancy.databases, shared });
    let tenancy = match &databases {
        Some(beside) => Tenancy { databases: beside, ..tenancy },
        None => tenancy,
    };
    let id = Uuid::now_v7();
    let draft = TenantDraft {
        name: format!(
            "Isolation proof {} ({})",
            letter.to_uppercase(),
            marker(letter, TenantId::from_uuid(id))
        ),
        subdomain: subdomain.to_owned(),
        code: Some(code.to_owned()),
        tier: Tier::Institution,
        dedicated: false,
        admin: None,
    };
    Ok(create_tenant(&tenancy, &Actor::system(), TenantId::from_uuid(id), draft, now).await?)
}

/// Of the id's random part, so that no text of anybody else's has it.
fn marker(letter: &str, id: TenantId) -> String {
    let hex = id.as_uuid().simple().to_string();
    format!("canary{letter}{}", &hex[16..])
}

/// Finds what carries the canary's text, or enters it.
async fn seed(
    platform: &Platform,
    letter: &'static str,
    account: &TenantAccount,
    now: DateTime<Utc>,
) -> Result<Canary, ProveError> {
    let (actor, marker) = (Actor::system(), marker(letter, account.id));
    let act = Act { actor: &actor, code: &account.code, now };
    let tenancy = platform.tenancy();
    let scope = tenancy.resolver.resolve_for(account.id, Purpose::Job, now).await?;
    let mut unit = tenancy.units.begin(&scope, Access::Write).await?;
    let instrument = instrument(&mut *unit, &act, &marker).await?;
    let position = position(&mut *unit, &act, &marker, instrument).await?;
    let musician = musician(&mut *unit, &act, &marker, position).await?;
    let project = project(&mut *unit, &act, &marker).await?;
    answer(&mut *unit, now).await?;
    unit.commit().await?;
    Ok(Canary {
        letter,
        id: account.id,
        code: account.code.to_string(),
        subdomain: account.subdomain.to_string(),
        instrument: act.id(Kind::Instrument, instrument.get()),
        position: act.id(Kind::Position, position.get()),
        musician: act.id(Kind::Musician, musician),
        project: act.id(Kind::Project, project),
        marker,
    })
}

async fn instrument(
    unit: &mut dyn UnitOfWork,
    act: &Act<'_>,
    marker: &str,
) -> Result<InstrumentNo, UseCaseError> {
    let filter = InstrumentFilter { search: Some(marker.to_owned()), archived: Some(false) };
    let found = instruments::list_instruments(unit, &filter, Page::first()).await?;
    if let Some(found) = found.items.first() {
        return Ok(found.no);
    }
    let draft = NewInstrument { name: format!("Instrument {marker}"), display_order: None };
    Ok(instruments::create_instrument(unit, act, draft).await?.no)
}

async fn position(
    unit: &mut dyn UnitOfWork,
    act: &Act<'_>,
    marker: &str,
    instrument: InstrumentNo,
) -> Result<PositionNo, UseCaseError> {
    let filter = PositionFilter { search: Some(marker.to_owned()), instrument: Some(instrument) };
    let found = positions::list_positions(unit, &filter, Page::first()).await?;
    if let Some(found) = found.items.first() {
        return Ok(found.no);
    }
    let draft = NewPosition { instrument, name: format!("Position {marker}"), hierarchy_level: 1 };
    Ok(positions::create_position(unit, act, draft).await?.no)
}

async fn musician(
    unit: &mut dyn UnitOfWork,
    act: &Act<'_>,
    marker: &str,
    position: PositionNo,
) -> Result<i64, UseCaseError> {
    let filter = MusicianFilter {
        search: Some(marker.to_owned()),
        archived: Some(false),
        position: Some(position),
        ..MusicianFilter::default()
    };
    let found = musicians::list_musicians(unit, &filter, Page::first()).await?;
    if let Some(found) = found.items.first() {
        return Ok(found.no.get());
    }
    let draft = NewMusician {
        first_name: "Canary".to_owned(),
        last_name: marker.to_owned(),
        email: format!("{marker}@{MAIL_DOMAIN}"),
        phone: None,
        preferred_language: None,
        local_residence: false,
        notes: Some(marker.to_owned()),
        is_active: true,
        qualifications: vec![position],
    };
    Ok(musicians::create_musician(unit, act, draft).await?.no.get())
}

async fn project(unit: &mut dyn UnitOfWork, act: &Act<'_>, marker: &str) -> Result<i64, UseCaseError> {
    let filter = ProjectFilter { search: Some(marker.to_owned()), status: None };
    let found = projects::list_projects(unit, &filter, Page::first()).await?;
    if let Some(found) = found.items.first() {
        return Ok(found.no.get());
    }
    let draft = NewProject {
        name: format!("Project {marker}"),
        start_date: NaiveDate::from_ymd_opt(2027, 1, 4).expect("a date of the calendar"),
        week_number: None,
        rehearsal_schedule: Some(marker.to_owned()),
        concert_info: Some(marker.to_owned()),
        notes: Some(marker.to_owned()),
        status: ProjectStatus::Planned,
    };
    Ok(projects::create_project(unit, act, draft).await?.no.get())
}

/// An answer that was kept for who asks twice. Old ones go by themselves, so each run leaves one.
async fn answer(unit: &mut dyn UnitOfWork, now: DateTime<Utc>) -> Result<(), UseCaseError> {
    let key = Uuid::now_v7().simple().to_string();
    let asked = Asked {
        user: Uuid::now_v7(),
        key: key.parse().expect("32 hexadecimal digits are a key"),
        fingerprint: Fingerprint::new([0; Fingerprint::LEN]),
    };
    let answer = KeptAnswer {
        status: 201,
        location: None,
        content_type: "application/json".to_owned(),
        body: b"{}".to_vec(),
    };
    unit.idempotency().claim(&asked, now).await?;
    Ok(unit.idempotency().keep(&asked, &answer, now).await?)
}

/// Suspends one.
pub(super) async fn suspend(
    platform: &Platform,
    canary: &Canary,
    now: DateTime<Utc>,
) -> Result<(), ProveError> {
    suspend_tenant(&platform.tenancy(), &Actor::system(), canary.id, now).await?;
    Ok(())
}

/// Puts every canary that there is to rest, whatever a run left of it: removes what attacks made, and suspends.
pub(super) async fn rest(platform: &Platform, now: DateTime<Utc>) -> Result<(), ProveError> {
    let mut failed = None;
    for (_, subdomain, _) in CANARIES {
        let label: Subdomain = subdomain.parse().expect("a canary's label is one");
        let Some(account) = platform.tenants().find_by_subdomain(&label).await? else { continue };
        if account.status == TenantStatus::Active {
            // What is left over does no harm; that it stays awake would.
            if let Err(error) = tidy(platform, &account, now).await {
                tracing::warn!(%subdomain, error = &error as &dyn std::error::Error, "a canary was not tidied up");
            }
            let rested = suspend_tenant(&platform.tenancy(), &Actor::system(), account.id, now).await;
            failed = rested.err().or(failed);
        }
    }
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// Removes what attacks made. Musicians are archived and never removed; what ran before is found by its name.
async fn tidy(platform: &Platform, account: &TenantAccount, now: DateTime<Utc>) -> Result<(), ProveError> {
    let actor = Actor::system();
    let act = Act { actor: &actor, code: &account.code, now };
    let tenancy = platform.tenancy();
    let scope = tenancy.resolver.resolve_for(account.id, Purpose::Job, now).await?;
    let mut unit = tenancy.units.begin(&scope, Access::Write).await?;
    let search = || Some(PROBE.trim().to_owned());
    let page = || Page::new(None, Page::MAX_LIMIT).expect("the largest page is one");
    let filter = MusicianFilter { search: search(), archived: Some(false), ..MusicianFilter::default() };
    for found in musicians::list_musicians(&mut *unit, &filter, page()).await?.items {
        // The one that was imported is met again by the next import, which archived ones are not.
        if found.first_name == "Probe" && found.last_name != "Import" {
            musicians::delete_musician(&mut *unit, &act, found.no).await?;
        }
    }
    let filter = ProjectFilter { search: search(), status: None };
    for found in projects::list_projects(&mut *unit, &filter, page()).await?.items {
        if found.name.starts_with(PROBE) {
            projects::delete_project(&mut *unit, &act, found.no).await?;
        }
    }
    unit.commit().await?;
    // Some positions were named as qualifications, and stay; one that cannot be deleted keeps no other.
    let filter = PositionFilter { search: search(), instrument: None };
    let mut unit = tenancy.units.begin(&scope, Access::Read).await?;
    let left = positions::list_positions(&mut *unit, &filter, page()).await?.items;
    let filter = InstrumentFilter { search: search(), archived: None };
    let made = instruments::list_instruments(&mut *unit, &filter, page()).await?.items;
    unit.commit().await?;
    for found in left.iter().filter(|found| found.name.starts_with(PROBE)) {
        let mut unit = tenancy.units.begin(&scope, Access::Write).await?;
        if positions::delete_position(&mut *unit, &act, found.no).await.is_ok() {
            unit.commit().await?;
        }
    }
    for found in made.iter().filter(|found| found.name.starts_with(PROBE)) {
        let mut unit = tenancy.units.begin(&scope, Access::Write).await?;
        if instruments::delete_instrument(&mut *unit, &act, found.no).await.is_ok() {
            unit.commit().await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use stagesub_tenancy::TenantCode;

    use super::*;

    #[test]
    fn labels_and_codes_are_ones_that_orchestras_may_have() {
        for (_, subdomain, code) in CANARIES {
            assert!(subdomain.parse::<Subdomain>().is_ok(), "{subdomain}");
            assert!(code.parse::<TenantCode>().is_ok(), "{code}");
        }
        assert!(NOBODY.parse::<Subdomain>().is_ok());
    }

    #[test]
    fn markers_differ_and_are_plain() {
        let one = marker("a", TenantId::from_uuid(Uuid::from_u128(1)));
        let other = marker("a", TenantId::from_uuid(Uuid::from_u128(2)));
        assert_ne!(one, other);
        assert!(one.bytes().all(|b| b.is_ascii_alphanumeric()) && one.len() == 23, "{one}");
    }
}
