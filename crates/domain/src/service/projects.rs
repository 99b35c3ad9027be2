//! Projects.

use chrono::Datelike as _;
use stagesub_id_gen::Kind;

use crate::audit::AuditAction;
use crate::error::{StoreError, UseCaseError};
use crate::ids::ProjectNo;
use crate::page::{Page, Paged};
use crate::ports::UnitOfWork;
use crate::ports::projects::ProjectFilter;
use crate::project::{NewProject, Project, ProjectChange};
use crate::service::changes::{Recorded as _, changed, created, deleted};
use crate::service::context::Act;
use crate::service::limits;
use crate::subscription::Resource;
use crate::validate::Draft as _;

const NOT_FOUND: UseCaseError = UseCaseError::NotFound { kind: Kind::Project };

/// Lists in the order of numbers.
pub async fn list_projects(
    uow: &mut dyn UnitOfWork,
    filter: &ProjectFilter,
    page: Page,
) -> Result<Paged<Project>, UseCaseError> {
    Ok(uow.projects().list(filter, page).await?)
}

/// Gets one.
pub async fn get_project(uow: &mut dyn UnitOfWork, no: ProjectNo) -> Result<Project, UseCaseError> {
    uow.projects().find(no, false).await?.ok_or(NOT_FOUND)
}

/// Makes one; a planned or active one counts against the limit of active projects.
pub async fn create_project(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    draft: NewProject,
) -> Result<Project, UseCaseError> {
    let draft = draft.checked()?;
    if draft.status.counts() {
        limits::take(uow, act, Resource::ActiveProjects, 1).await?;
    }
    let reserved = uow.sequences().reserve(Kind::Project, 1).await.map_err(StoreError::from)?;
    let project = Project {
        no: ProjectNo::new(reserved.first),
        name: draft.name,
        start_date: draft.start_date,
        week_number: draft.week_number.unwrap_or_else(|| iso_week(draft.start_date)),
        rehearsal_schedule: draft.rehearsal_schedule,
        concert_info: draft.concert_info,
        notes: draft.notes,
        status: draft.status,
        created_at: act.now,
        updated_at: act.now,
    };
    uow.projects().insert(&project).await?;
    let entry =
        act.entry(AuditAction::Create, Project::MODEL, Some(project.id(act)), Some(created(&project, act)));
    uow.audit().record(&entry).await?;
    Ok(project)
}

/// Changes fields; a change of nothing writes nothing. Taking a project up again counts it again, so the limit
/// may refuse it.
pub async fn update_project(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    no: ProjectNo,
    change: ProjectChange,
) -> Result<Project, UseCaseError> {
    let change = change.checked()?;
    // The quota's row comes before the project's, so it is locked wherever the count may have to move.
    let quota = match change.status {
        Some(_) => Some(uow.quotas().lock(Resource::ActiveProjects).await?),
        None => None,
    };
    let before = uow.projects().find(no, true).await?.ok_or(NOT_FOUND)?;
    let mut after = apply(change, &before);
    let Some(changes) = changed(&before, &after, act) else { return Ok(after) };
    after.updated_at = act.now;
    if let Some(quota) = quota {
        match (before.status.counts(), after.status.counts()) {
            (false, true) => {
                let grown = limits::grown(quota, 1, act.now)?;
                uow.quotas().update(&grown).await?;
            }
            (true, false) => limits::release(uow, quota).await?,
            _ => {}
        }
    }
    uow.projects().update(&after).await?;
    let entry = act.entry(AuditAction::Update, Project::MODEL, Some(after.id(act)), Some(changes));
    uow.audit().record(&entry).await?;
    Ok(after)
}

/// Removes one.
pub async fn delete_project(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    no: ProjectNo,
) -> Result<(), UseCaseError> {
    let quota = uow.quotas().lock(Resource::ActiveProjects).await?;
    let before = uow.projects().find(no, true).await?.ok_or(NOT_FOUND)?;
    uow.projects().delete(no).await?;
    if before.status.counts() {
        limits::release(uow, quota).await?;
    }
    let entry =
        act.entry(AuditAction::Delete, Project::MODEL, Some(before.id(act)), Some(deleted(&before, act)));
    Ok(uow.audit().record(&entry).await?)
}

fn apply(change: ProjectChange, before: &Project) -> Project {
    let before = before.clone();
    Project {
        name: change.name.unwrap_or(before.name),
        start_date: change.start_date.unwrap_or(before.start_date),
        week_number: change.week_number.unwrap_or(before.week_number),
        rehearsal_schedule: change.rehearsal_schedule.unwrap_or(before.rehearsal_schedule),
        concert_info: change.concert_info.unwrap_or(before.concert_info),
        notes: change.notes.unwrap_or(before.notes),
        status: change.status.unwrap_or(before.status),
        ..before
    }
}

fn iso_week(day: chrono::NaiveDate) -> i32 {
    // 1 to 53.
    i32::try_from(day.iso_week().week()).expect("an ISO week fits in a byte")
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;
    use serde_json::json;

    use super::*;
    use crate::project::ProjectStatus;
    use crate::service::fixture::{Stage, UNLIMITED, actions, audit};
    use crate::subscription::Limits;
    use crate::testing::InMemoryUnit;

    fn draft(status: ProjectStatus) -> NewProject {
        NewProject {
            name: "Mahler 2".to_owned(),
            start_date: NaiveDate::from_ymd_opt(2027, 1, 1).expect("a day"),
            week_number: None,
            rehearsal_schedule: Some("  ".to_owned()),
            concert_info: None,
            notes: Some("Orgel\npå läktaren".to_owned()),
            status,
        }
    }

    fn to(status: ProjectStatus) -> ProjectChange {
        ProjectChange { status: Some(status), ..Default::default() }
    }

    fn used(unit: &InMemoryUnit) -> i32 {
        unit.rows().quotas[&Resource::ActiveProjects].used
    }

    #[tokio::test]
    async fn a_new_project_is_in_the_iso_week_of_its_first_day() {
        let (stage, mut unit) = (Stage::new(), InMemoryUnit::with_limits(UNLIMITED));
        let made =
            create_project(&mut unit, &stage.act(), draft(ProjectStatus::Planned)).await.expect("made");
        assert_eq!((made.week_number, made.rehearsal_schedule), (53, None));
        assert_eq!(unit.rows().audit[0].record_id.as_deref(), Some("GOT-PROJ-001"));
        assert_eq!(used(&unit), 1);
    }

    #[tokio::test]
    async fn every_broken_rule_is_told() {
        let (stage, mut unit) = (Stage::new(), InMemoryUnit::with_limits(UNLIMITED));
        let wrong = NewProject {
            name: String::new(),
            week_number: Some(54),
            notes: Some("x".repeat(4001)),
            start_date: NaiveDate::from_ymd_opt(12_000, 1, 1).expect("a day"),
            ..draft(ProjectStatus::Planned)
        };
        let error = create_project(&mut unit, &stage.act(), wrong).await.expect_err("wrong");
        let UseCaseError::Invalid(errors) = error else { panic!("{error:?}") };
        let fields: Vec<_> = errors.0.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["name", "notes", "startDate", "weekNumber"]);
    }

    #[tokio::test]
    async fn planned_and_active_projects_count_and_others_do_not() {
        let (stage, mut unit) = (Stage::new(), InMemoryUnit::with_limits(UNLIMITED));
        let act = stage.act();
        let no = create_project(&mut unit, &act, draft(ProjectStatus::Completed)).await.expect("made").no;
        assert_eq!(used(&unit), 0);
        for (status, count) in [
            (ProjectStatus::Active, 1),
            (ProjectStatus::Planned, 1),
            (ProjectStatus::Cancelled, 0),
            (ProjectStatus::Completed, 0),
            (ProjectStatus::Active, 1),
        ] {
            update_project(&mut unit, &act, no, to(status)).await.expect("changed");
            assert_eq!(used(&unit), count, "{status:?}");
        }
        delete_project(&mut unit, &act, no).await.expect("deleted");
        assert_eq!(used(&unit), 0);
        assert_eq!(actions(&unit).last(), Some(&AuditAction::Delete));
    }

    #[tokio::test]
    async fn the_limit_refuses_new_and_resumed_projects_and_nothing_else() {
        let limits = Limits { active_projects: Some(1), ..UNLIMITED };
        let (stage, mut unit) = (Stage::new(), InMemoryUnit::with_limits(limits));
        let act = stage.act();
        let no = create_project(&mut unit, &act, draft(ProjectStatus::Planned)).await.expect("made").no;
        let refused = create_project(&mut unit, &act, draft(ProjectStatus::Active)).await;
        assert!(matches!(refused, Err(UseCaseError::LimitReached { .. })));
        let over =
            create_project(&mut unit, &act, draft(ProjectStatus::Completed)).await.expect("not counted");
        let refused = update_project(&mut unit, &act, over.no, to(ProjectStatus::Active)).await;
        assert!(matches!(refused, Err(UseCaseError::LimitReached { .. })));
        let renamed = ProjectChange { name: Some("Mahler 3".to_owned()), ..Default::default() };
        update_project(&mut unit, &act, no, renamed).await.expect("editing goes on");
    }

    #[tokio::test]
    async fn the_quota_is_locked_before_the_project_and_only_for_a_status() {
        let (stage, mut unit) = (Stage::new(), InMemoryUnit::with_limits(UNLIMITED));
        let no =
            create_project(&mut unit, &stage.act(), draft(ProjectStatus::Planned)).await.expect("made").no;
        unit.rows().log.clear();
        update_project(&mut unit, &stage.act(), no, to(ProjectStatus::Completed)).await.expect("changed");
        assert_eq!(unit.rows().log[..2], ["lock active_projects", "lock project"]);
        unit.rows().log.clear();
        let change = ProjectChange { notes: Some(None), ..Default::default() };
        update_project(&mut unit, &stage.act(), no, change).await.expect("changed");
        assert_eq!(unit.rows().log, ["lock project", "update projects"]);
        let expected = json!({ "before": { "notes": "Orgel\npå läktaren" }, "after": { "notes": null } });
        assert_eq!(audit(&unit).last().expect("an entry").2, Some(expected));
    }

    #[tokio::test]
    async fn what_is_not_there_is_not_found() {
        let (stage, mut unit) = (Stage::new(), InMemoryUnit::with_limits(UNLIMITED));
        let no = ProjectNo::new(9);
        assert!(matches!(get_project(&mut unit, no).await, Err(UseCaseError::NotFound { .. })));
        let updated = update_project(&mut unit, &stage.act(), no, to(ProjectStatus::Active)).await;
        assert!(matches!(updated, Err(UseCaseError::NotFound { kind: Kind::Project })));
        let deleted = delete_project(&mut unit, &stage.act(), no).await;
        assert!(matches!(deleted, Err(UseCaseError::NotFound { .. })));
    }
}
