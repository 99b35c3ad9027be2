//! Instruments.

use stagesub_id_gen::Kind;

use crate::audit::AuditAction;
use crate::error::{Constraint, StoreError, UseCaseError};
use crate::ids::InstrumentNo;
use crate::instrument::{Instrument, InstrumentChange, NewInstrument};
use crate::page::{Page, Paged};
use crate::ports::UnitOfWork;
use crate::ports::instruments::InstrumentFilter;
use crate::service::changes::{Recorded as _, changed, created, deleted};
use crate::service::context::Act;
use crate::service::limits;
use crate::subscription::Resource;
use crate::validate::Draft as _;

/// Lists in the order of numbers.
pub async fn list_instruments(
    uow: &mut dyn UnitOfWork,
    filter: &InstrumentFilter,
    page: Page,
) -> Result<Paged<Instrument>, UseCaseError> {
    Ok(uow.instruments().list(filter, page).await?)
}

/// Gets one, archived or not.
pub async fn get_instrument(uow: &mut dyn UnitOfWork, no: InstrumentNo) -> Result<Instrument, UseCaseError> {
    uow.instruments().find(no, false).await?.ok_or(NOT_FOUND)
}

const NOT_FOUND: UseCaseError = UseCaseError::NotFound { kind: Kind::Instrument };

/// Makes one; it counts against the limit of instruments.
pub async fn create_instrument(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    draft: NewInstrument,
) -> Result<Instrument, UseCaseError> {
    let draft = draft.checked()?;
    limits::take(uow, act, Resource::Instruments, 1).await?;
    let reserved = uow.sequences().reserve(Kind::Instrument, 1).await.map_err(StoreError::from)?;
    let instrument = Instrument {
        no: InstrumentNo::new(reserved.first),
        name: draft.name,
        display_order: draft.display_order,
        archived_at: None,
        created_at: act.now,
        updated_at: act.now,
    };
    uow.instruments().insert(vec![instrument.clone()]).await.map_err(name_taken)?;
    let entry = act.entry(
        AuditAction::Create,
        Instrument::MODEL,
        Some(instrument.id(act)),
        Some(created(&instrument, act)),
    );
    uow.audit().record(&entry).await?;
    Ok(instrument)
}

/// Changes fields; a change of nothing writes nothing.
pub async fn update_instrument(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    no: InstrumentNo,
    change: InstrumentChange,
) -> Result<Instrument, UseCaseError> {
    let change = change.checked()?;
    let before = uow.instruments().find(no, true).await?.ok_or(NOT_FOUND)?;
    let mut after = before.clone();
    if let Some(name) = change.name {
        after.name = name;
    }
    if let Some(order) = change.display_order {
        after.display_order = order;
    }
    store(uow, act, AuditAction::Update, &before, after).await
}

/// Puts one away: it stays with its positions and no longer counts. Doing it twice is doing it once.
pub async fn archive_instrument(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    no: InstrumentNo,
) -> Result<Instrument, UseCaseError> {
    let quota = uow.quotas().lock(Resource::Instruments).await?;
    let before = uow.instruments().find(no, true).await?.ok_or(NOT_FOUND)?;
    if before.archived_at.is_some() {
        return Ok(before);
    }
    limits::release(uow, quota).await?;
    let after = Instrument { archived_at: Some(act.now), ..before.clone() };
    store(uow, act, AuditAction::Archive, &before, after).await
}

/// Takes one back from the archive; it counts again, so the limit may refuse it.
pub async fn restore_instrument(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    no: InstrumentNo,
) -> Result<Instrument, UseCaseError> {
    let quota = uow.quotas().lock(Resource::Instruments).await?;
    let before = uow.instruments().find(no, true).await?.ok_or(NOT_FOUND)?;
    if before.archived_at.is_none() {
        return Ok(before);
    }
    let grown = limits::grown(quota, 1, act.now)?;
    uow.quotas().update(&grown).await?;
    let after = Instrument { archived_at: None, ..before.clone() };
    store(uow, act, AuditAction::Restore, &before, after).await
}

/// Removes one that no position names.
///
/// # Errors
/// [`UseCaseError::InUse`] says how many positions name it.
pub async fn delete_instrument(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    no: InstrumentNo,
) -> Result<(), UseCaseError> {
    let quota = uow.quotas().lock(Resource::Instruments).await?;
    let before = uow.instruments().find(no, true).await?.ok_or(NOT_FOUND)?;
    let positions = uow.instruments().count_positions(no).await?;
    if positions > 0 {
        return Err(in_use(&count(positions, "position")));
    }
    // A position that was added since the count shows as a broken reference.
    uow.instruments().delete(no).await.map_err(|error| match error {
        StoreError::Conflict { constraint: Constraint::PositionInstrument } => in_use("positions"),
        other => other.into(),
    })?;
    if before.archived_at.is_none() {
        limits::release(uow, quota).await?;
    }
    let entry =
        act.entry(AuditAction::Delete, Instrument::MODEL, Some(before.id(act)), Some(deleted(&before, act)));
    Ok(uow.audit().record(&entry).await?)
}

async fn store(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    action: AuditAction,
    before: &Instrument,
    mut after: Instrument,
) -> Result<Instrument, UseCaseError> {
    let Some(changes) = changed(before, &after, act) else { return Ok(after) };
    after.updated_at = act.now;
    uow.instruments().update(&after).await.map_err(name_taken)?;
    let entry = act.entry(action, Instrument::MODEL, Some(after.id(act)), Some(changes));
    uow.audit().record(&entry).await?;
    Ok(after)
}

fn name_taken(error: StoreError) -> UseCaseError {
    match error {
        StoreError::Conflict { constraint: Constraint::InstrumentName } => {
            UseCaseError::Taken { field: "name" }
        }
        other => other.into(),
    }
}

fn in_use(by: &str) -> UseCaseError {
    UseCaseError::InUse { kind: Kind::Instrument, by: by.to_owned() }
}

/// `1 position`, `3 positions`.
pub(crate) fn count(how_many: i64, what: &str) -> String {
    if how_many == 1 { format!("1 {what}") } else { format!("{how_many} {what}s") }
}
