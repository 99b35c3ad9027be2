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
