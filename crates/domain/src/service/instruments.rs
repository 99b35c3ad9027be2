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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ids::PositionNo;
    use crate::instrument::Position;
    use crate::service::fixture::{Stage, UNLIMITED, actions, audit, moment};
    use crate::subscription::Limits;
    use crate::testing::InMemoryUnit;

    fn draft(name: &str) -> NewInstrument {
        NewInstrument { name: name.to_owned(), display_order: None }
    }

    fn used(unit: &InMemoryUnit) -> i32 {
        unit.rows().quotas[&Resource::Instruments].used
    }

    #[tokio::test]
    async fn a_new_instrument_is_counted_numbered_stored_and_written_down_in_that_order() {
        let (stage, mut unit) = (Stage::new(), InMemoryUnit::with_limits(UNLIMITED));
        let made = create_instrument(&mut unit, &stage.act(), draft(" Viola ")).await.expect("made");
        assert_eq!((made.no.get(), made.name.as_str(), made.created_at), (1, "Viola", moment(0)));
        assert_eq!(
            unit.rows().log,
            ["lock instruments", "count instruments", "reserve INST", "insert instruments"]
        );
        let after = json!({ "after": { "name": "Viola", "displayOrder": null, "archivedAt": null } });
        assert_eq!(audit(&unit), [(AuditAction::Create, Some("GOT-INST-001".to_owned()), Some(after))]);
        assert!(!unit.rows().committed, "the commit is the caller's");
    }

    #[tokio::test]
    async fn every_broken_rule_is_told_and_nothing_is_touched() {
        let (stage, mut unit) = (Stage::new(), InMemoryUnit::with_limits(UNLIMITED));
        let wrong = NewInstrument { name: "  ".to_owned(), display_order: Some(-1) };
        let error = create_instrument(&mut unit, &stage.act(), wrong).await.expect_err("wrong");
        let UseCaseError::Invalid(errors) = error else { panic!("{error:?}") };
        let told: Vec<_> = errors.0.iter().map(|error| (error.field.as_str(), error.rule)).collect();
        assert_eq!(told, [("displayOrder", "range"), ("name", "length")]);
        assert!(unit.rows().log.is_empty());
    }

    #[tokio::test]
    async fn a_taken_name_is_told_by_its_field() {
        let (stage, mut unit) = (Stage::new(), InMemoryUnit::with_limits(UNLIMITED));
        create_instrument(&mut unit, &stage.act(), draft("Viola")).await.expect("made");
        let error = create_instrument(&mut unit, &stage.act(), draft("Viola")).await;
        assert!(matches!(error, Err(UseCaseError::Taken { field: "name" })));
    }

    #[tokio::test]
    async fn the_limit_is_kept_and_archived_ones_do_not_count() {
        let limits = Limits { instruments: Some(1), ..UNLIMITED };
        let (stage, mut unit) = (Stage::new(), InMemoryUnit::with_limits(limits));
        let viola = create_instrument(&mut unit, &stage.act(), draft("Viola")).await.expect("made");
        let refused = create_instrument(&mut unit, &stage.act(), draft("Cello")).await;
        assert!(matches!(refused, Err(UseCaseError::LimitReached { used: 1, limit: 1, .. })));
        archive_instrument(&mut unit, &stage.act(), viola.no).await.expect("archived");
        assert_eq!(used(&unit), 0);
        create_instrument(&mut unit, &stage.act(), draft("Cello")).await.expect("room");
        let refused = restore_instrument(&mut unit, &stage.act(), viola.no).await;
        assert!(matches!(refused, Err(UseCaseError::LimitReached { .. })));
    }

    #[tokio::test]
    async fn archiving_and_restoring_twice_is_doing_it_once() {
        let (stage, mut unit) = (Stage::new(), InMemoryUnit::with_limits(UNLIMITED));
        let no = create_instrument(&mut unit, &stage.act(), draft("Viola")).await.expect("made").no;
        for _ in 0..2 {
            archive_instrument(&mut unit, &stage.act(), no).await.expect("archived");
        }
        assert_eq!(used(&unit), 0);
        for _ in 0..2 {
            restore_instrument(&mut unit, &stage.act(), no).await.expect("restored");
        }
        assert_eq!(used(&unit), 1);
        assert_eq!(actions(&unit), [AuditAction::Create, AuditAction::Archive, AuditAction::Restore]);
    }

    #[tokio::test]
    async fn a_change_is_written_down_by_its_fields_and_a_change_of_nothing_not_at_all() {
        let (stage, mut unit) = (Stage::new(), InMemoryUnit::with_limits(UNLIMITED));
        let no = create_instrument(&mut unit, &stage.act(), draft("Viola")).await.expect("made").no;
        let later = Stage::later(1);
        let change = InstrumentChange { name: Some("Viola".to_owned()), display_order: Some(None) };
        let same = update_instrument(&mut unit, &later.act(), no, change).await.expect("nothing to do");
        assert_eq!(same.updated_at, moment(0));
        assert_eq!(actions(&unit), [AuditAction::Create]);
        let change = InstrumentChange { display_order: Some(Some(2)), ..Default::default() };
        let changed = update_instrument(&mut unit, &later.act(), no, change).await.expect("changed");
        assert_eq!((changed.display_order, changed.updated_at), (Some(2), moment(1)));
        let expected = json!({ "before": { "displayOrder": null }, "after": { "displayOrder": 2 } });
        assert_eq!(audit(&unit)[1].2, Some(expected));
    }

    #[tokio::test]
    async fn one_in_use_is_not_deleted_and_an_unused_one_frees_its_place() {
        let (stage, mut unit) = (Stage::new(), InMemoryUnit::with_limits(UNLIMITED));
        let no = create_instrument(&mut unit, &stage.act(), draft("Viola")).await.expect("made").no;
        for (number, name) in [(1, "Tutti"), (2, "Stämledare")] {
            let position = Position {
                no: PositionNo::new(number),
                instrument: no,
                name: name.to_owned(),
                hierarchy_level: 1,
                created_at: moment(0),
                updated_at: moment(0),
            };
            unit.rows().positions.insert(number, position);
        }
        let refused = delete_instrument(&mut unit, &stage.act(), no).await;
        assert!(matches!(refused, Err(UseCaseError::InUse { by, .. }) if by == "2 positions"));
        unit.rows().positions.clear();
        delete_instrument(&mut unit, &stage.act(), no).await.expect("deleted");
        assert_eq!(used(&unit), 0);
        let gone = get_instrument(&mut unit, no).await;
        assert!(matches!(gone, Err(UseCaseError::NotFound { kind: Kind::Instrument })));
    }

    #[tokio::test]
    async fn what_is_not_there_is_not_found_by_any_use_case() {
        let (stage, mut unit) = (Stage::new(), InMemoryUnit::with_limits(UNLIMITED));
        let (act, no) = (stage.act(), InstrumentNo::new(7));
        let change = InstrumentChange::default();
        assert!(matches!(
            update_instrument(&mut unit, &act, no, change).await,
            Err(UseCaseError::NotFound { .. })
        ));
        assert!(matches!(archive_instrument(&mut unit, &act, no).await, Err(UseCaseError::NotFound { .. })));
        assert!(matches!(restore_instrument(&mut unit, &act, no).await, Err(UseCaseError::NotFound { .. })));
        assert!(matches!(delete_instrument(&mut unit, &act, no).await, Err(UseCaseError::NotFound { .. })));
        assert!(actions(&unit).is_empty());
    }
}
