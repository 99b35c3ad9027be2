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
