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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::InstrumentNo;
    use crate::instrument::Instrument;
    use crate::ports::MockUnitOfWork;
    use crate::ports::instruments::{MockInstrumentRepository, MockPositionRepository, PositionUse};
    use crate::service::fixture::{Stage, UNLIMITED, actions, moment};
    use crate::testing::InMemoryUnit;
    use stagesub_id_gen::{MockSequenceStore, Reserved};

    fn viola(archived: bool) -> Instrument {
        Instrument {
            no: InstrumentNo::new(1),
            name: "Viola".to_owned(),
            display_order: None,
            archived_at: archived.then(|| moment(0)),
            created_at: moment(0),
            updated_at: moment(0),
        }
    }

    fn orchestra() -> InMemoryUnit {
        let unit = InMemoryUnit::with_limits(UNLIMITED);
        unit.rows().instruments.insert(1, viola(false));
        unit
    }

    fn draft(name: &str) -> NewPosition {
        NewPosition { instrument: InstrumentNo::new(1), name: name.to_owned(), hierarchy_level: 1 }
    }

    #[tokio::test]
    async fn a_new_position_has_its_three_lists() {
        let (stage, mut unit) = (Stage::new(), orchestra());
        let made = create_position(&mut unit, &stage.act(), draft("Tutti")).await.expect("made");
        let rows = unit.rows();
        let lists: Vec<_> =
            rows.lists.iter().map(|list| (list.no.get(), list.position, list.list_type)).collect();
        assert_eq!(lists, [(1, made.no, ListType::A), (2, made.no, ListType::B), (3, made.no, ListType::C)]);
        assert_eq!(rows.audit[0].record_id.as_deref(), Some("GOT-POS-001"));
        assert_eq!(rows.log[..3], ["reserve POS", "reserve LIST", "lock instrument"]);
    }

    #[tokio::test]
    async fn a_position_needs_an_instrument_that_exists_and_is_in_use() {
        let (stage, mut unit) = (Stage::new(), orchestra());
        unit.rows().instruments.insert(1, viola(true));
        let refused = create_position(&mut unit, &stage.act(), draft("Tutti")).await;
        assert!(matches!(refused, Err(UseCaseError::WrongState { .. })));
        unit.rows().instruments.clear();
        let refused = create_position(&mut unit, &stage.act(), draft("Tutti")).await;
        assert!(matches!(refused, Err(UseCaseError::Invalid(errors)) if errors.0[0].field == "instrument"));
    }

    #[tokio::test]
    async fn a_name_is_taken_within_its_instrument() {
        let (stage, mut unit) = (Stage::new(), orchestra());
        create_position(&mut unit, &stage.act(), draft("Tutti")).await.expect("made");
        let refused = create_position(&mut unit, &stage.act(), draft("Tutti")).await;
        assert!(matches!(refused, Err(UseCaseError::Taken { field: "name" })));
    }

    #[tokio::test]
    async fn a_change_of_nothing_writes_nothing_and_another_is_written_down() {
        let (stage, mut unit) = (Stage::new(), orchestra());
        let no = create_position(&mut unit, &stage.act(), draft("Tutti")).await.expect("made").no;
        let same = PositionChange { name: Some("Tutti".to_owned()), hierarchy_level: Some(1) };
        update_position(&mut unit, &stage.act(), no, same).await.expect("nothing to do");
        assert_eq!(actions(&unit), [AuditAction::Create]);
        let change = PositionChange { name: None, hierarchy_level: Some(3) };
        let changed = update_position(&mut unit, &stage.act(), no, change).await.expect("changed");
        assert_eq!(changed.hierarchy_level, 3);
        assert_eq!(actions(&unit), [AuditAction::Create, AuditAction::Update]);
        let wrong = PositionChange { name: None, hierarchy_level: Some(100) };
        let refused = update_position(&mut unit, &stage.act(), no, wrong).await;
        assert!(matches!(refused, Err(UseCaseError::Invalid(_))));
    }

    #[tokio::test]
    async fn a_deleted_position_takes_its_lists_along() {
        let (stage, mut unit) = (Stage::new(), orchestra());
        let no = create_position(&mut unit, &stage.act(), draft("Tutti")).await.expect("made").no;
        delete_position(&mut unit, &stage.act(), no).await.expect("deleted");
        assert!(unit.rows().lists.is_empty());
        assert!(matches!(get_position(&mut unit, no).await, Err(UseCaseError::NotFound { .. })));
        let again = delete_position(&mut unit, &stage.act(), no).await;
        assert!(matches!(again, Err(UseCaseError::NotFound { kind: Kind::Position })));
    }

    fn stored() -> Position {
        Position {
            no: PositionNo::new(1),
            instrument: InstrumentNo::new(1),
            name: "Tutti".to_owned(),
            hierarchy_level: 1,
            created_at: moment(0),
            updated_at: moment(0),
        }
    }

    #[tokio::test]
    async fn a_position_that_musicians_play_is_not_deleted() {
        for (musicians, by) in [(1, "1 musician"), (3, "3 musicians")] {
            let mut unit = MockUnitOfWork::new();
            unit.expect_positions().returning(move || {
                let mut positions = MockPositionRepository::new();
                positions.expect_find().returning(|_, _| Ok(Some(stored())));
                positions.expect_usage().returning(move |_| Ok(PositionUse { musicians }));
                positions.expect_delete().never();
                Box::new(positions)
            });
            let refused = delete_position(&mut unit, &Stage::new().act(), PositionNo::new(1)).await;
            assert!(matches!(refused, Err(UseCaseError::InUse { by: told, .. }) if told == by));
        }
    }

    #[tokio::test]
    async fn a_musician_qualified_since_the_count_keeps_the_position_too() {
        let mut unit = MockUnitOfWork::new();
        unit.expect_positions().returning(|| {
            let mut positions = MockPositionRepository::new();
            positions.expect_find().returning(|_, _| Ok(Some(stored())));
            positions.expect_usage().returning(|_| Ok(PositionUse::default()));
            positions
                .expect_delete()
                .returning(|_| Err(StoreError::Conflict { constraint: Constraint::QualificationPosition }));
            Box::new(positions)
        });
        let refused = delete_position(&mut unit, &Stage::new().act(), PositionNo::new(1)).await;
        assert!(matches!(refused, Err(UseCaseError::InUse { kind: Kind::Position, .. })));
    }

    #[tokio::test]
    async fn an_instrument_deleted_meanwhile_is_an_unknown_reference() {
        let mut unit = MockUnitOfWork::new();
        unit.expect_sequences().returning(|| {
            let mut sequences = MockSequenceStore::new();
            sequences.expect_reserve().returning(|_, count| Ok(Reserved { first: 1, count }));
            Box::new(sequences)
        });
        unit.expect_instruments().returning(|| {
            let mut instruments = MockInstrumentRepository::new();
            instruments.expect_find().returning(|_, _| Ok(Some(viola(false))));
            Box::new(instruments)
        });
        unit.expect_positions().returning(|| {
            let mut positions = MockPositionRepository::new();
            positions
                .expect_insert()
                .returning(|_| Err(StoreError::Conflict { constraint: Constraint::PositionInstrument }));
            Box::new(positions)
        });
        let refused = create_position(&mut unit, &Stage::new().act(), draft("Tutti")).await;
        assert!(matches!(refused, Err(UseCaseError::Invalid(_))));
    }
}
