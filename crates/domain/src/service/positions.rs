//! Positions, each with its lists A, B and C.

use stagesub_id_gen::Kind;

use crate::audit::AuditAction;
use crate::error::{Constraint, StoreError, UseCaseError, ValidationErrors};
use crate::ids::{PositionNo, RankingListNo};
use crate::instrument::{ListType, NewPosition, Position, PositionChange, RankingList};
use crate::page::{Page, Paged};
use crate::ports::UnitOfWork;
use crate::ports::instruments::PositionFilter;
use crate::service::changes::{Recorded as _, changed, created, deleted};
use crate::service::context::Act;
use crate::service::instruments::count;
use crate::validate::{Draft as _, Rule};

const NOT_FOUND: UseCaseError = UseCaseError::NotFound { kind: Kind::Position };

/// Lists in the order of numbers.
pub async fn list_positions(
    uow: &mut dyn UnitOfWork,
    filter: &PositionFilter,
    page: Page,
) -> Result<Paged<Position>, UseCaseError> {
    Ok(uow.positions().list(filter, page).await?)
}

/// Gets one.
pub async fn get_position(uow: &mut dyn UnitOfWork, no: PositionNo) -> Result<Position, UseCaseError> {
    uow.positions().find(no, false).await?.ok_or(NOT_FOUND)
}

/// Makes one with its three lists, in an instrument that exists and is not archived.
pub async fn create_position(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    draft: NewPosition,
) -> Result<Position, UseCaseError> {
    let draft = draft.checked()?;
    let reserved = uow.sequences().reserve(Kind::Position, 1).await.map_err(StoreError::from)?;
    let lists = uow.sequences().reserve(Kind::RankingList, 3).await.map_err(StoreError::from)?;
    let instrument = uow.instruments().find(draft.instrument, true).await?.ok_or_else(no_instrument)?;
    if instrument.archived_at.is_some() {
        return Err(UseCaseError::WrongState { detail: "the instrument is archived".to_owned() });
    }
    let position = Position {
        no: PositionNo::new(reserved.first),
        instrument: draft.instrument,
        name: draft.name,
        hierarchy_level: draft.hierarchy_level,
        created_at: act.now,
        updated_at: act.now,
    };
    uow.positions().insert(vec![position.clone()]).await.map_err(refused)?;
    let lists = ListType::ALL
        .into_iter()
        .zip(lists.numbers())
        .map(|(list_type, no)| RankingList {
            no: RankingListNo::new(no),
            position: position.no,
            list_type,
            description: None,
            created_at: act.now,
        })
        .collect();
    uow.ranking_lists().insert(lists).await?;
    let entry = act.entry(
        AuditAction::Create,
        Position::MODEL,
        Some(position.id(act)),
        Some(created(&position, act)),
    );
    uow.audit().record(&entry).await?;
    Ok(position)
}

/// Changes fields; a change of nothing writes nothing.
pub async fn update_position(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    no: PositionNo,
    change: PositionChange,
) -> Result<Position, UseCaseError> {
    let change = change.checked()?;
    let before = uow.positions().find(no, true).await?.ok_or(NOT_FOUND)?;
    let mut after = before.clone();
    if let Some(name) = change.name {
        after.name = name;
    }
    if let Some(level) = change.hierarchy_level {
        after.hierarchy_level = level;
    }
    let Some(changes) = changed(&before, &after, act) else { return Ok(after) };
    after.updated_at = act.now;
    uow.positions().update(&after).await.map_err(refused)?;
    let entry = act.entry(AuditAction::Update, Position::MODEL, Some(after.id(act)), Some(changes));
    uow.audit().record(&entry).await?;
    Ok(after)
}

/// Removes one that no musician is qualified for, with its lists.
///
/// # Errors
/// [`UseCaseError::InUse`] says how many musicians are qualified for it.
pub async fn delete_position(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    no: PositionNo,
) -> Result<(), UseCaseError> {
    let before = uow.positions().find(no, true).await?.ok_or(NOT_FOUND)?;
    let usage = uow.positions().usage(no).await?;
    if usage.musicians > 0 {
        return Err(in_use(&count(usage.musicians, "musician")));
    }
    // A qualification that was added since the count shows as a broken reference.
    uow.positions().delete(no).await.map_err(|error| match error {
        StoreError::Conflict { constraint: Constraint::QualificationPosition } => in_use("musicians"),
        other => other.into(),
    })?;
    let entry =
        act.entry(AuditAction::Delete, Position::MODEL, Some(before.id(act)), Some(deleted(&before, act)));
    Ok(uow.audit().record(&entry).await?)
}

fn in_use(by: &str) -> UseCaseError {
    UseCaseError::InUse { kind: Kind::Position, by: by.to_owned() }
}

fn no_instrument() -> UseCaseError {
    ValidationErrors::one("instrument", Rule::UnknownReference.as_str(), "an instrument that exists").into()
}

fn refused(error: StoreError) -> UseCaseError {
    match error {
        StoreError::Conflict { constraint: Constraint::PositionName } => {
            UseCaseError::Taken { field: "name" }
        }
        StoreError::Conflict { constraint: Constraint::PositionInstrument } => no_instrument(),
        other => other.into(),
    }
}
