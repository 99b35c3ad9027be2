//! Musicians.

use std::collections::HashMap;

use stagesub_id_gen::Kind;

use crate::audit::AuditAction;
use crate::error::{Constraint, StoreError, UseCaseError, ValidationErrors};
use crate::ids::{MusicianNo, PositionNo};
use crate::language::Language;
use crate::musician::{Musician, MusicianChange, NewMusician};
use crate::page::{Page, Paged};
use crate::ports::UnitOfWork;
use crate::ports::musicians::MusicianFilter;
use crate::service::changes::{Recorded as _, changed, created};
use crate::service::context::Act;
use crate::service::limits;
use crate::subscription::Resource;
use crate::validate::{Draft as _, Rule, email_key};

const NOT_FOUND: UseCaseError = UseCaseError::NotFound { kind: Kind::Musician };
const TAKEN: UseCaseError = UseCaseError::Taken { field: "email" };

/// Lists in the order of numbers.
pub async fn list_musicians(
    uow: &mut dyn UnitOfWork,
    filter: &MusicianFilter,
    page: Page,
) -> Result<Paged<Musician>, UseCaseError> {
    Ok(uow.musicians().list(filter, page).await?)
}

/// Gets one, archived or not.
pub async fn get_musician(uow: &mut dyn UnitOfWork, no: MusicianNo) -> Result<Musician, UseCaseError> {
    uow.musicians().find(no, false).await?.ok_or(NOT_FOUND)
}

/// Enters one; it counts against the limit of musicians.
pub async fn create_musician(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    draft: NewMusician,
) -> Result<Musician, UseCaseError> {
    let draft = draft.checked()?;
    limits::take(uow, act, Resource::Musicians, 1).await?;
    let reserved = uow.sequences().reserve(Kind::Musician, 1).await.map_err(StoreError::from)?;
    let found = uow.musicians().find_by_emails(vec![email_key(&draft.email)]).await?;
    if !found.is_empty() {
        return Err(TAKEN);
    }
    require_positions(uow, &draft.qualifications, &[]).await?;
    let language = match draft.preferred_language {
        Some(language) => language,
        None => uow.settings().get().await?.language,
    };
    let musician = new_musician(act, MusicianNo::new(reserved.first), draft, language);
    uow.musicians().insert(vec![musician.clone()]).await.map_err(refused)?;
    let entry = act.entry(
        AuditAction::Create,
        Musician::MODEL,
        Some(musician.id(act)),
        Some(created(&musician, act)),
    );
    uow.audit().record(&entry).await?;
    Ok(musician)
}

/// Enters many checked ones under a quota that is locked and counted by the caller, with one reservation of
/// numbers; their addresses must be known to be free. Writes no audit entry.
pub(crate) async fn create_musicians(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    drafts: Vec<NewMusician>,
    language: Language,
) -> Result<Vec<Musician>, UseCaseError> {
    let Ok(count) = u32::try_from(drafts.len()) else {
        return Err(ValidationErrors::one("rows", Rule::Length.as_str(), "fewer rows").into());
    };
    if count == 0 {
        return Ok(Vec::new());
    }
    let reserved = uow.sequences().reserve(Kind::Musician, count).await.map_err(StoreError::from)?;
    let musicians: Vec<_> = drafts
        .into_iter()
        .zip(reserved.numbers())
        .map(|(draft, no)| {
            let language = draft.preferred_language.unwrap_or(language);
            new_musician(act, MusicianNo::new(no), draft, language)
        })
        .collect();
    uow.musicians().insert(musicians.clone()).await.map_err(refused)?;
    Ok(musicians)
}

/// Changes fields; a change of nothing writes nothing.
pub async fn update_musician(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    no: MusicianNo,
    change: MusicianChange,
) -> Result<Musician, UseCaseError> {
    let change = change.checked()?;
    let before = uow.musicians().find(no, true).await?.ok_or(NOT_FOUND)?;
    if let Some(wanted) = &change.qualifications {
        require_positions(uow, wanted, &before.qualifications).await?;
    }
    let after = apply(change, &before);
    if email_key(&after.email) != email_key(&before.email) {
        let found = uow.musicians().find_by_emails(vec![email_key(&after.email)]).await?;
        if found.iter().any(|other| other.no != no) {
            return Err(TAKEN);
        }
    }
    store(uow, act, AuditAction::Update, &before, after).await
}

/// Deletes one, which archives it: ranks and history stay, and it is never contacted again. Doing it twice is
/// doing it once.
pub async fn delete_musician(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    no: MusicianNo,
) -> Result<Musician, UseCaseError> {
    let quota = uow.quotas().lock(Resource::Musicians).await?;
    let before = uow.musicians().find(no, true).await?.ok_or(NOT_FOUND)?;
    if before.archived_at.is_some() {
        return Ok(before);
    }
    limits::release(uow, quota).await?;
    let after = Musician { archived_at: Some(act.now), ..before.clone() };
    store(uow, act, AuditAction::Archive, &before, after).await
}

/// Takes one back from the archive; it counts again, so the limit may refuse it.
pub async fn restore_musician(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    no: MusicianNo,
) -> Result<Musician, UseCaseError> {
    let quota = uow.quotas().lock(Resource::Musicians).await?;
    let before = uow.musicians().find(no, true).await?.ok_or(NOT_FOUND)?;
    if before.archived_at.is_none() {
        return Ok(before);
    }
    let grown = limits::grown(quota, 1, act.now)?;
    uow.quotas().update(&grown).await?;
    let after = Musician { archived_at: None, ..before.clone() };
    store(uow, act, AuditAction::Restore, &before, after).await
}

async fn store(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    action: AuditAction,
    before: &Musician,
    mut after: Musician,
) -> Result<Musician, UseCaseError> {
    let Some(changes) = changed(before, &after, act) else { return Ok(after) };
    after.updated_at = act.now;
    uow.musicians().update(vec![after.clone()]).await.map_err(refused)?;
    let entry = act.entry(action, Musician::MODEL, Some(after.id(act)), Some(changes));
    uow.audit().record(&entry).await?;
    Ok(after)
}

/// Every position that is new to the musician must exist; all that do not are named at once.
async fn require_positions(
    uow: &mut dyn UnitOfWork,
    wanted: &[PositionNo],
    known: &[PositionNo],
) -> Result<(), UseCaseError> {
    let mut errors = Vec::new();
    for (index, no) in wanted.iter().enumerate().filter(|(_, no)| !known.contains(no)) {
        if uow.positions().find(*no, false).await?.is_none() {
            errors.extend(unknown_position(format!("qualifications[{index}]")).0);
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(ValidationErrors(errors).into()) }
}

fn unknown_position(field: String) -> ValidationErrors {
    ValidationErrors::one(field, Rule::UnknownReference.as_str(), "a position that exists")
}

fn new_musician(act: &Act<'_>, no: MusicianNo, draft: NewMusician, language: Language) -> Musician {
    Musician {
        no,
        first_name: draft.first_name,
        last_name: draft.last_name,
        email: draft.email,
        phone: draft.phone,
        preferred_language: language,
        local_residence: draft.local_residence,
        notes: draft.notes,
        is_active: draft.is_active,
        archived_at: None,
        qualifications: sorted(draft.qualifications),
        created_at: act.now,
        updated_at: act.now,
    }
}

fn apply(change: MusicianChange, before: &Musician) -> Musician {
    let before = before.clone();
    Musician {
        first_name: change.first_name.unwrap_or(before.first_name),
        last_name: change.last_name.unwrap_or(before.last_name),
        email: change.email.unwrap_or(before.email),
        phone: change.phone.unwrap_or(before.phone),
        preferred_language: change.preferred_language.unwrap_or(before.preferred_language),
        local_residence: change.local_residence.unwrap_or(before.local_residence),
        notes: change.notes.unwrap_or(before.notes),
        is_active: change.is_active.unwrap_or(before.is_active),
        qualifications: change.qualifications.map_or(before.qualifications, sorted),
        ..before
    }
}

fn sorted(mut positions: Vec<PositionNo>) -> Vec<PositionNo> {
    positions.sort_unstable();
    positions
}

fn refused(error: StoreError) -> UseCaseError {
    match error {
        // Another writer may take the address between the look and the write; the store has the last word.
        StoreError::Conflict { constraint: Constraint::MusicianEmail } => TAKEN,
        StoreError::Conflict { constraint: Constraint::QualificationPosition } => {
            unknown_position("qualifications".to_owned()).into()
        }
        other => other.into(),
    }
}

/// Musicians by the key of their address.
pub(crate) fn by_email(musicians: Vec<Musician>) -> HashMap<String, Musician> {
    musicians.into_iter().map(|musician| (email_key(&musician.email), musician)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stagesub_id_gen::{MockSequenceStore, Reserved};

    use super::*;
    use crate::ids::InstrumentNo;
    use crate::instrument::Position;
    use crate::ports::MockUnitOfWork;
    use crate::ports::musicians::MockMusicianRepository;
    use crate::ports::quotas::{MockQuotaRepository, Quota};
    use crate::service::fixture::{Stage, UNLIMITED, actions, audit, moment};
    use crate::subscription::Limits;
    use crate::testing::InMemoryUnit;

    fn orchestra(limits: Limits) -> InMemoryUnit {
        let unit = InMemoryUnit::with_limits(limits);
        for no in 1..=3 {
            let position = Position {
                no: PositionNo::new(no),
                instrument: InstrumentNo::new(1),
                name: format!("Pult {no}"),
                hierarchy_level: 1,
                created_at: moment(0),
                updated_at: moment(0),
            };
            unit.rows().positions.insert(no, position);
        }
        unit
    }

    fn draft(email: &str) -> NewMusician {
        NewMusician {
            first_name: "Åsa".to_owned(),
            last_name: "Öberg".to_owned(),
            email: email.to_owned(),
            phone: None,
            preferred_language: None,
            local_residence: false,
            notes: None,
            is_active: true,
            qualifications: Vec::new(),
        }
    }

    fn positions(numbers: &[i64]) -> Vec<PositionNo> {
        numbers.iter().copied().map(PositionNo::new).collect()
    }

    #[tokio::test]
    async fn a_new_musician_is_counted_numbered_stored_and_written_down_in_that_order() {
        let (stage, mut unit) = (Stage::new(), orchestra(UNLIMITED));
        let new = NewMusician {
            email: " Asa@GSO.se ".to_owned(),
            phone: Some(" ".to_owned()),
            qualifications: positions(&[3, 1]),
            ..draft("")
        };
        let made = create_musician(&mut unit, &stage.act(), new).await.expect("made");
        assert_eq!((made.email.as_str(), made.phone.as_deref()), ("Asa@GSO.se", None));
        assert_eq!(made.preferred_language, Language::Sv, "the orchestra's own");
        assert_eq!(made.qualifications, positions(&[1, 3]));
        assert_eq!(
            unit.rows().log,
            [
                "lock musicians",
                "count musicians",
                "reserve MUS",
                "lock musicians by email",
                "insert musicians"
            ]
        );
        let entries = audit(&unit);
        assert_eq!(entries[0].1.as_deref(), Some("GOT-MUS-001"));
        let changes = entries[0].2.as_ref().expect("changes");
        assert_eq!(changes["after"]["qualifications"], json!(["GOT-POS-001", "GOT-POS-003"]));
        assert!(!unit.rows().committed, "the commit is the caller's");
    }

    #[tokio::test]
    async fn every_broken_rule_is_told_at_once() {
        let (stage, mut unit) = (Stage::new(), orchestra(UNLIMITED));
        let wrong = NewMusician {
            first_name: " ".to_owned(),
            phone: Some("0".repeat(41)),
            qualifications: positions(&[1, 1]),
            ..draft("asa")
        };
        let error = create_musician(&mut unit, &stage.act(), wrong).await.expect_err("wrong");
        let UseCaseError::Invalid(errors) = error else { panic!("{error:?}") };
        let mut told: Vec<_> = errors.0.iter().map(|error| (error.field.as_str(), error.rule)).collect();
        told.sort_unstable();
        assert_eq!(
            told,
            [
                ("email", "email"),
                ("firstName", "length"),
                ("phone", "length"),
                ("qualifications", "repeated")
            ]
        );
    }

    #[tokio::test]
    async fn unknown_positions_are_named_by_their_place() {
        let (stage, mut unit) = (Stage::new(), orchestra(UNLIMITED));
        let new = NewMusician { qualifications: positions(&[1, 8, 9]), ..draft("asa@gso.se") };
        let error = create_musician(&mut unit, &stage.act(), new).await.expect_err("unknown");
        let UseCaseError::Invalid(errors) = error else { panic!("{error:?}") };
        let told: Vec<_> = errors.0.iter().map(|error| (error.field.as_str(), error.rule)).collect();
        assert_eq!(
            told,
            [("qualifications[1]", "unknown_reference"), ("qualifications[2]", "unknown_reference")]
        );
    }

    #[tokio::test]
    async fn an_address_is_taken_without_regard_to_case_by_archived_musicians_too() {
        let (stage, mut unit) = (Stage::new(), orchestra(UNLIMITED));
        let no = create_musician(&mut unit, &stage.act(), draft("asa@gso.se")).await.expect("made").no;
        delete_musician(&mut unit, &stage.act(), no).await.expect("archived");
        let refused = create_musician(&mut unit, &stage.act(), draft("ASA@gso.se")).await;
        assert!(matches!(refused, Err(UseCaseError::Taken { field: "email" })));
    }

    #[tokio::test]
    async fn an_address_taken_between_the_look_and_the_write_is_told_the_same() {
        let mut unit = MockUnitOfWork::new();
        unit.expect_quotas().returning(|| {
            let mut quotas = MockQuotaRepository::new();
            quotas
                .expect_lock()
                .returning(|resource| Ok(Quota { resource, used: 0, limit: None, grace_until: None }));
            quotas.expect_update().returning(|_| Ok(()));
            Box::new(quotas)
        });
        unit.expect_sequences().returning(|| {
            let mut sequences = MockSequenceStore::new();
            sequences.expect_reserve().returning(|_, count| Ok(Reserved { first: 1, count }));
            Box::new(sequences)
        });
        unit.expect_musicians().returning(|| {
            let mut musicians = MockMusicianRepository::new();
            musicians.expect_find_by_emails().returning(|_| Ok(Vec::new()));
            musicians
                .expect_insert()
                .returning(|_| Err(StoreError::Conflict { constraint: Constraint::MusicianEmail }));
            Box::new(musicians)
        });
        unit.expect_audit().never();
        let new = NewMusician { preferred_language: Some(Language::En), ..draft("asa@gso.se") };
        let refused = create_musician(&mut unit, &Stage::new().act(), new).await;
        assert!(matches!(refused, Err(UseCaseError::Taken { field: "email" })));
    }

    #[tokio::test]
    async fn a_failing_store_is_handed_on_and_nothing_is_written_down() {
        let mut unit = MockUnitOfWork::new();
        unit.expect_quotas().returning(|| {
            let mut quotas = MockQuotaRepository::new();
            quotas.expect_lock().returning(|_| Err(StoreError::Contended("deadlock".into())));
            Box::new(quotas)
        });
        unit.expect_audit().never();
        let failed = create_musician(&mut unit, &Stage::new().act(), draft("asa@gso.se")).await;
        assert!(matches!(failed, Err(UseCaseError::Store(StoreError::Contended(_)))));
    }

    #[tokio::test]
    async fn deleting_archives_frees_a_place_and_twice_is_once() {
        let (stage, mut unit) = (Stage::new(), orchestra(Limits { musicians: Some(1), ..UNLIMITED }));
        let act = stage.act();
        let no = create_musician(&mut unit, &act, draft("asa@gso.se")).await.expect("made").no;
        let refused = create_musician(&mut unit, &act, draft("bo@gso.se")).await;
        assert!(matches!(refused, Err(UseCaseError::LimitReached { resource: Resource::Musicians, .. })));
        for _ in 0..2 {
            let gone = delete_musician(&mut unit, &act, no).await.expect("archived");
            assert_eq!(gone.archived_at, Some(moment(0)));
        }
        assert_eq!(unit.rows().quotas[&Resource::Musicians].used, 0);
        create_musician(&mut unit, &act, draft("bo@gso.se")).await.expect("room");
        let refused = restore_musician(&mut unit, &act, no).await;
        assert!(matches!(refused, Err(UseCaseError::LimitReached { .. })));
        assert_eq!(actions(&unit), [AuditAction::Create, AuditAction::Archive, AuditAction::Create]);
    }

    #[tokio::test]
    async fn a_restored_musician_counts_again() {
        let (stage, mut unit) = (Stage::new(), orchestra(UNLIMITED));
        let no = create_musician(&mut unit, &stage.act(), draft("asa@gso.se")).await.expect("made").no;
        delete_musician(&mut unit, &stage.act(), no).await.expect("archived");
        for _ in 0..2 {
            let back = restore_musician(&mut unit, &stage.act(), no).await.expect("restored");
            assert_eq!(back.archived_at, None);
        }
        assert_eq!(unit.rows().quotas[&Resource::Musicians].used, 1);
        assert_eq!(actions(&unit).last(), Some(&AuditAction::Restore));
    }

    #[tokio::test]
    async fn a_change_empties_keeps_and_sets_as_it_says() {
        let (stage, mut unit) = (Stage::new(), orchestra(UNLIMITED));
        let new = NewMusician { phone: Some("070-1".to_owned()), ..draft("asa@gso.se") };
        let no = create_musician(&mut unit, &stage.act(), new).await.expect("made").no;
        let change = MusicianChange {
            phone: Some(None),
            email: Some("ASA@gso.se".to_owned()),
            qualifications: Some(positions(&[2])),
            ..Default::default()
        };
        let later = Stage::later(1);
        let after = update_musician(&mut unit, &later.act(), no, change.clone()).await.expect("changed");
        assert_eq!((after.phone.as_deref(), after.email.as_str()), (None, "ASA@gso.se"));
        assert_eq!((after.first_name.as_str(), after.updated_at), ("Åsa", moment(1)));
        let changes = audit(&unit)[1].2.clone().expect("changes");
        assert_eq!(changes["before"].as_object().expect("fields").len(), 3);
        update_musician(&mut unit, &Stage::later(2).act(), no, change).await.expect("nothing to do");
        assert_eq!(unit.rows().musicians[&1].updated_at, moment(1));
        assert_eq!(actions(&unit).len(), 2);
    }

    #[tokio::test]
    async fn another_ones_address_is_not_taken_over() {
        let (stage, mut unit) = (Stage::new(), orchestra(UNLIMITED));
        create_musician(&mut unit, &stage.act(), draft("asa@gso.se")).await.expect("made");
        let no = create_musician(&mut unit, &stage.act(), draft("bo@gso.se")).await.expect("made").no;
        let change = MusicianChange { email: Some("Asa@gso.se".to_owned()), ..Default::default() };
        let refused = update_musician(&mut unit, &stage.act(), no, change).await;
        assert!(matches!(refused, Err(UseCaseError::Taken { field: "email" })));
    }

    #[tokio::test]
    async fn what_is_not_there_is_not_found_by_any_use_case() {
        let (stage, mut unit) = (Stage::new(), orchestra(UNLIMITED));
        let (act, no) = (stage.act(), MusicianNo::new(7));
        let change = MusicianChange::default();
        assert!(matches!(get_musician(&mut unit, no).await, Err(UseCaseError::NotFound { .. })));
        assert!(matches!(
            update_musician(&mut unit, &act, no, change).await,
            Err(UseCaseError::NotFound { kind: Kind::Musician })
        ));
        assert!(matches!(delete_musician(&mut unit, &act, no).await, Err(UseCaseError::NotFound { .. })));
        assert!(matches!(restore_musician(&mut unit, &act, no).await, Err(UseCaseError::NotFound { .. })));
    }

    #[tokio::test]
    async fn lists_come_in_pages() {
        let (stage, mut unit) = (Stage::new(), orchestra(UNLIMITED));
        for name in ["a", "b", "c"] {
            create_musician(&mut unit, &stage.act(), draft(&format!("{name}@gso.se"))).await.expect("made");
        }
        let filter = MusicianFilter::default();
        let page = Page::new(None, 2).expect("a page");
        let first = list_musicians(&mut unit, &filter, page).await.expect("listed");
        assert_eq!((first.items.len(), first.next), (2, Some(2)));
        let page = Page::new(first.next, 2).expect("a page");
        let last = list_musicians(&mut unit, &filter, page).await.expect("listed");
        assert_eq!((last.items.len(), last.next), (1, None));
    }
}
