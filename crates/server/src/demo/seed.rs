//! First contents of a demo's orchestras, through the same use cases that requests go through.

use std::collections::HashMap;

use stagesub_domain::error::UseCaseError;
use stagesub_domain::ids::{InstrumentNo, PositionNo};
use stagesub_domain::musician::NewMusician;
use stagesub_domain::page::{Page, Paged};
use stagesub_domain::ports::UnitOfWork;
use stagesub_domain::ports::instruments::{InstrumentFilter, PositionFilter};
use stagesub_domain::ports::musicians::MusicianFilter;
use stagesub_domain::ports::projects::ProjectFilter;
use stagesub_domain::project::NewProject;
use stagesub_domain::service::{Act, musicians, projects};

use super::cast::{Orchestra, Player, Production};

/// Position numbers by the names of instrument and position.
type Positions = HashMap<(String, String), PositionNo>;

/// Enters an orchestra's musicians and projects, unless it has or ever had any: what people changed in a demo
/// stays as they left it. All of it is one unit, which the caller commits; tells whether there is anything to
/// commit.
pub async fn fill(uow: &mut dyn UnitOfWork, act: &Act<'_>, orchestra: &Orchestra) -> Result<bool, SeedError> {
    if !is_untouched(uow).await? {
        return Ok(false);
    }
    let positions = positions(uow).await?;
    for player in orchestra.musicians {
        let draft = musician(player, orchestra.subdomain, &positions)?;
        musicians::create_musician(uow, act, draft).await?;
    }
    for production in orchestra.projects {
        projects::create_project(uow, act, project(production)).await?;
    }
    Ok(true)
}

/// Musicians are archived and never removed, so one who was ever entered is still found.
async fn is_untouched(uow: &mut dyn UnitOfWork) -> Result<bool, UseCaseError> {
    let page = Page::first();
    if !musicians::list_musicians(uow, &MusicianFilter::default(), page).await?.items.is_empty() {
        return Ok(false);
    }
    Ok(projects::list_projects(uow, &ProjectFilter::default(), page).await?.items.is_empty())
}

async fn positions(uow: &mut dyn UnitOfWork) -> Result<Positions, UseCaseError> {
    let mut instruments: HashMap<InstrumentNo, String> = HashMap::new();
    let mut page = Some(Page::first());
    while let Some(this) = page {
        let found = uow.instruments().list(&InstrumentFilter::default(), this).await?;
        page = next(&found);
        instruments.extend(found.items.into_iter().map(|instrument| (instrument.no, instrument.name)));
    }
    let mut positions = Positions::new();
    let mut page = Some(Page::first());
    while let Some(this) = page {
        let found = uow.positions().list(&PositionFilter::default(), this).await?;
        page = next(&found);
        positions.extend(found.items.into_iter().filter_map(|position| {
            let instrument = instruments.get(&position.instrument)?.clone();
            Some(((instrument, position.name), position.no))
        }));
    }
    Ok(positions)
}

fn next<T>(found: &Paged<T>) -> Option<Page> {
    found.next.and_then(|after| Page::new(Some(after), Page::MAX_LIMIT))
}

fn musician(player: &Player, subdomain: &str, positions: &Positions) -> Result<NewMusician, SeedError> {
    let Player(first_name, last_name, instrument, position) = player;
    let plays = positions
        .get(&((*instrument).to_owned(), (*position).to_owned()))
        .ok_or(SeedError::NoPosition { instrument, position })?;
    Ok(NewMusician {
        first_name: (*first_name).to_owned(),
        last_name: (*last_name).to_owned(),
        email: player.email(subdomain),
        phone: None,
        preferred_language: None,
        local_residence: true,
        notes: None,
        is_active: true,
        qualifications: vec![*plays],
    })
}

fn project(production: &Production) -> NewProject {
    NewProject {
        name: production.name.to_owned(),
        start_date: production.start,
        week_number: Some(production.week),
        rehearsal_schedule: None,
        concert_info: Some(production.concert.to_owned()),
        notes: None,
        status: production.status,
    }
}

/// An orchestra could not be filled; the unit must be dropped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeedError {
    /// The orchestra has no such position: somebody changed its instruments before it had musicians.
    #[error("the orchestra has no position {position} of the instrument {instrument}")]
    NoPosition {
        /// The instrument.
        instrument: &'static str,
        /// The position.
        position: &'static str,
    },
    /// A use case refused.
    #[error("the orchestra could not be filled")]
    Refused(#[from] UseCaseError),
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use chrono::{DateTime, Utc};
    use stagesub_domain::actor::Actor;
    use stagesub_domain::instrument::{Instrument, Position};
    use stagesub_domain::musician::Musician;
    use stagesub_domain::ports::audit::MockAuditLog;
    use stagesub_domain::ports::instruments::{MockInstrumentRepository, MockPositionRepository};
    use stagesub_domain::ports::musicians::MockMusicianRepository;
    use stagesub_domain::ports::projects::MockProjectRepository;
    use stagesub_domain::ports::quotas::{MockQuotaRepository, Quota};
    use stagesub_domain::ports::settings::MockSettingsRepository;
    use stagesub_domain::ports::{MockUnitOfWork, quotas};
    use stagesub_domain::settings::Settings;
    use stagesub_id_gen::SequenceStore;
    use stagesub_id_gen::sequence::{MockSequenceStore, Reserved};
    use stagesub_tenancy::TenantCode;

    use super::*;
    use crate::demo::cast::ORCHESTRAS;

    fn now() -> DateTime<Utc> {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    fn none<T>() -> Paged<T> {
        Paged { items: Vec::new(), next: None }
    }

    /// The instruments and positions that the cast plays.
    fn template(orchestra: &Orchestra) -> (Vec<Instrument>, Vec<Position>) {
        let mut instruments: Vec<Instrument> = Vec::new();
        let mut positions: Vec<Position> = Vec::new();
        for Player(_, _, instrument, position) in orchestra.musicians {
            let known = instruments.iter().find(|known| known.name == *instrument).map(|known| known.no);
            let no = known.unwrap_or_else(|| {
                let no = InstrumentNo::new(i64::try_from(instruments.len()).unwrap() + 1);
                instruments.push(Instrument {
                    no,
                    name: (*instrument).to_owned(),
                    display_order: None,
                    archived_at: None,
                    created_at: now(),
                    updated_at: now(),
                });
                no
            });
            if !positions.iter().any(|known| known.instrument == no && known.name == *position) {
                positions.push(Position {
                    no: PositionNo::new(i64::try_from(positions.len()).unwrap() + 1),
                    instrument: no,
                    name: (*position).to_owned(),
                    hierarchy_level: 1,
                    created_at: now(),
                    updated_at: now(),
                });
            }
        }
        (instruments, positions)
    }

    type Noted<T> = Arc<Mutex<T>>;

    /// A unit on an orchestra with a template and nothing else; what is inserted is noted down.
    fn unit(
        instruments: Vec<Instrument>,
        positions: Vec<Position>,
    ) -> (MockUnitOfWork, Noted<Vec<Musician>>, Noted<u32>) {
        let entered = Arc::new(Mutex::new(Vec::new()));
        let projects = Arc::new(Mutex::new(0));
        let mut uow = MockUnitOfWork::new();
        uow.expect_instruments().returning(move || {
            let mut repository = MockInstrumentRepository::new();
            let items = instruments.clone();
            repository.expect_list().returning(move |_, _| Ok(Paged { items: items.clone(), next: None }));
            Box::new(repository)
        });
        uow.expect_positions().returning(move || {
            let mut repository = MockPositionRepository::new();
            let (items, found) = (positions.clone(), positions.clone());
            repository.expect_list().returning(move |_, _| Ok(Paged { items: items.clone(), next: None }));
            repository
                .expect_find()
                .returning(move |no, _| Ok(found.iter().find(|position| position.no == no).cloned()));
            Box::new(repository)
        });
        let noted = Arc::clone(&entered);
        uow.expect_musicians().returning(move || {
            let mut repository = MockMusicianRepository::new();
            let noted = Arc::clone(&noted);
            repository.expect_list().returning(|_, _| Ok(none()));
            repository.expect_find_by_emails().returning(|_| Ok(Vec::new()));
            repository.expect_insert().returning(move |musicians| {
                noted.lock().unwrap().extend(musicians);
                Ok(())
            });
            Box::new(repository)
        });
        let counted = Arc::clone(&projects);
        uow.expect_projects().returning(move || {
            let mut repository = MockProjectRepository::new();
            let counted = Arc::clone(&counted);
            repository.expect_list().returning(|_, _| Ok(none()));
            repository.expect_insert().returning(move |_| {
                *counted.lock().unwrap() += 1;
                Ok(())
            });
            Box::new(repository)
        });
        uow.expect_quotas().returning(|| {
            let mut repository = MockQuotaRepository::new();
            repository
                .expect_lock()
                .returning(|resource| Ok(Quota { resource, used: 0, limit: None, grace_until: None }));
            repository.expect_update().returning(|_| Ok(()));
            Box::new(repository) as Box<dyn quotas::QuotaRepository>
        });
        let last = Arc::new(Mutex::new(0));
        uow.expect_sequences().returning(move || {
            let mut store = MockSequenceStore::new();
            let last = Arc::clone(&last);
            store.expect_reserve().returning(move |_, count| {
                let mut last = last.lock().unwrap();
                let first = *last + 1;
                *last += i64::from(count);
                Ok(Reserved { first, count })
            });
            Box::new(store) as Box<dyn SequenceStore>
        });
        uow.expect_settings().returning(|| {
            let mut repository = MockSettingsRepository::new();
            repository.expect_get().returning(|| Ok(Settings::default()));
            Box::new(repository)
        });
        uow.expect_audit().returning(|| {
            let mut log = MockAuditLog::new();
            log.expect_record().returning(|_| Ok(()));
            Box::new(log)
        });
        (uow, entered, projects)
    }

    async fn fill_first(uow: &mut MockUnitOfWork) -> Result<bool, SeedError> {
        let code: TenantCode = "GOT".parse().unwrap();
        let actor = Actor::system();
        fill(uow, &Act { actor: &actor, code: &code, now: now() }, &ORCHESTRAS[0]).await
    }

    #[tokio::test]
    async fn every_player_gets_a_position_and_every_project_is_made() {
        let (instruments, positions) = template(&ORCHESTRAS[0]);
        let (mut uow, entered, projects) = unit(instruments, positions);
        assert!(fill_first(&mut uow).await.unwrap());
        let entered = entered.lock().unwrap();
        assert_eq!(entered.len(), 20);
        assert!(entered.iter().all(|musician| musician.qualifications.len() == 1));
        assert_eq!(*projects.lock().unwrap(), 2);
    }

    #[tokio::test]
    async fn an_orchestra_that_has_a_musician_is_left_alone() {
        let mut uow = MockUnitOfWork::new();
        uow.expect_musicians().times(1).returning(|| {
            let mut repository = MockMusicianRepository::new();
            repository.expect_list().returning(|_, _| {
                Ok(Paged {
                    items: vec![Musician {
                        no: stagesub_domain::ids::MusicianNo::new(1),
                        first_name: "Elin".to_owned(),
                        last_name: "Åkerblom".to_owned(),
                        email: "elin@musiker.example".to_owned(),
                        phone: None,
                        preferred_language: stagesub_domain::language::Language::Sv,
                        local_residence: true,
                        notes: None,
                        is_active: true,
                        archived_at: Some(now()),
                        qualifications: Vec::new(),
                        created_at: now(),
                        updated_at: now(),
                    }],
                    next: None,
                })
            });
            Box::new(repository)
        });
        assert!(!fill_first(&mut uow).await.unwrap());
    }

    #[tokio::test]
    async fn a_position_that_is_gone_is_named_and_nothing_is_entered_for_it() {
        let (instruments, mut positions) = template(&ORCHESTRAS[0]);
        positions.retain(|position| position.name != "Förste konsertmästare");
        let (mut uow, entered, _) = unit(instruments, positions);
        let error = fill_first(&mut uow).await.unwrap_err();
        assert!(matches!(error, SeedError::NoPosition { position: "Förste konsertmästare", .. }));
        assert!(entered.lock().unwrap().is_empty());
    }
}
