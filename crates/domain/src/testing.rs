//! An orchestra in memory, for tests where behaviour over several calls matters. Where one answer matters, use the
//! mocks beside each port.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use stagesub_id_gen::{Kind, Reserved, SequenceError, SequenceStore};
use uuid::Uuid;

use crate::audit::AuditEntry;
use crate::error::{Constraint, StoreError};
use crate::idempotency::{Asked, Fingerprint, IdempotencyKey, KeptAnswer, is_over};
use crate::ids::{InstrumentNo, MusicianNo, PositionNo, ProjectNo};
use crate::instrument::{Instrument, Position, RankingList};
use crate::musician::Musician;
use crate::page::{Page, Paged};
use crate::ports::idempotency::Claim;
use crate::ports::instruments::{InstrumentFilter, PositionFilter, PositionUse};
use crate::ports::musicians::MusicianFilter;
use crate::ports::projects::ProjectFilter;
use crate::ports::quotas::Quota;
use crate::ports::{
    AuditLog, IdempotencyStore, InstrumentRepository, MusicianRepository, PositionRepository,
    ProjectRepository, QuotaRepository, RankingListRepository, SettingsRepository, StarterRepository,
    UnitOfWork,
};
use crate::project::Project;
use crate::settings::Settings;
use crate::starter::MailTemplate;
use crate::subscription::{Limits, Resource};
use crate::validate::email_key;

/// What an orchestra's rows are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// Instruments by number.
    pub instruments: BTreeMap<i64, Instrument>,
    /// Positions by number.
    pub positions: BTreeMap<i64, Position>,
    /// Ranking lists.
    pub lists: Vec<RankingList>,
    /// Musicians by number.
    pub musicians: BTreeMap<i64, Musician>,
    /// Projects by number.
    pub projects: BTreeMap<i64, Project>,
    /// Settings, once the orchestra was founded.
    pub settings: Option<Settings>,
    /// Mail templates.
    pub templates: Vec<MailTemplate>,
    /// Quotas.
    pub quotas: HashMap<Resource, Quota>,
    /// Version of the limits.
    pub limits_version: i64,
    /// Highest number given of each kind.
    pub counters: HashMap<Kind, i64>,
    /// The audit log.
    pub audit: Vec<AuditEntry>,
    /// What creating requests were answered.
    pub asked: HashMap<(Uuid, IdempotencyKey), KeptRequest>,
    /// Locks and writes in the order they were made (`lock musicians`, `reserve MUS`, `insert musicians`).
    pub log: Vec<String>,
    /// Whether the unit was committed.
    pub committed: bool,
}

/// A request with a key, and its answer once there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRequest {
    /// What was asked.
    pub fingerprint: Fingerprint,
    /// What was answered.
    pub answer: Option<KeptAnswer>,
    /// When.
    pub at: DateTime<Utc>,
}

/// A unit of work on rows in memory, with the store's uniqueness. One that was made by [`InMemoryUnit::begin`]
/// keeps its changes to itself until it is committed; any other writes through.
#[derive(Debug, Clone, Default)]
pub struct InMemoryUnit {
    rows: Arc<Mutex<Rows>>,
    /// Where a commit stores the rows.
    origin: Option<Arc<Mutex<Rows>>>,
}

impl InMemoryUnit {
    /// An orchestra with settings, these limits, and nothing else.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        let unit = Self::default();
        unit.rows().found(&Settings::default(), limits, 1);
        unit
    }

    /// The rows, to look at and to prepare.
    ///
    /// A test that panicked while it held them is over, so a poisoned lock is taken all the same.
    pub fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A unit on a copy of the rows, which a commit stores back.
    #[must_use]
    pub fn begin(&self) -> Self {
        let rows = self.rows().clone();
        Self { rows: Arc::new(Mutex::new(rows)), origin: Some(Arc::clone(&self.rows)) }
    }
}

impl Rows {
    fn found(&mut self, settings: &Settings, limits: Limits, version: i64) {
        self.settings.get_or_insert_with(|| settings.clone());
        self.limits_version = version;
        for resource in Resource::ALL {
            let limit = limits.of(resource);
            self.quotas.entry(resource).or_insert(Quota { resource, used: 0, limit, grace_until: None });
        }
    }

    fn log(&mut self, what: impl Into<String>) {
        self.log.push(what.into());
    }
}

fn conflict(constraint: Constraint) -> StoreError {
    StoreError::Conflict { constraint }
}

fn corrupt(table: &'static str) -> StoreError {
    StoreError::Corrupt { table, id: "missing".to_owned() }
}

fn paged<T: Clone>(rows: &BTreeMap<i64, T>, page: Page, wanted: impl Fn(&T) -> bool) -> Paged<T> {
    let after = page.after.unwrap_or(0);
    let limit = page.limit() as usize;
    let mut found: Vec<_> = rows.range(after + 1..).filter(|(_, row)| wanted(row)).take(limit + 1).collect();
    let more = found.len() > limit;
    found.truncate(limit);
    let next = if more { found.last().map(|(no, _)| **no) } else { None };
    Paged { items: found.into_iter().map(|(_, row)| row.clone()).collect(), next }
}

fn matches(search: Option<&str>, text: &str) -> bool {
    search.is_none_or(|part| text.to_lowercase().contains(&part.to_lowercase()))
}

#[async_trait]
impl UnitOfWork for InMemoryUnit {
    fn instruments<'w>(&'w mut self) -> Box<dyn InstrumentRepository + 'w> {
        Box::new(self.clone())
    }

    fn positions<'w>(&'w mut self) -> Box<dyn PositionRepository + 'w> {
        Box::new(self.clone())
    }

    fn ranking_lists<'w>(&'w mut self) -> Box<dyn RankingListRepository + 'w> {
        Box::new(self.clone())
    }

    fn musicians<'w>(&'w mut self) -> Box<dyn MusicianRepository + 'w> {
        Box::new(self.clone())
    }

    fn projects<'w>(&'w mut self) -> Box<dyn ProjectRepository + 'w> {
        Box::new(self.clone())
    }

    fn settings<'w>(&'w mut self) -> Box<dyn SettingsRepository + 'w> {
        Box::new(self.clone())
    }

    fn quotas<'w>(&'w mut self) -> Box<dyn QuotaRepository + 'w> {
        Box::new(self.clone())
    }

    fn sequences<'w>(&'w mut self) -> Box<dyn SequenceStore + 'w> {
        Box::new(self.clone())
    }

    fn audit<'w>(&'w mut self) -> Box<dyn AuditLog + 'w> {
        Box::new(self.clone())
    }

    fn starter<'w>(&'w mut self) -> Box<dyn StarterRepository + 'w> {
        Box::new(self.clone())
    }

    fn idempotency<'w>(&'w mut self) -> Box<dyn IdempotencyStore + 'w> {
        Box::new(self.clone())
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        self.rows().committed = true;
        if let Some(origin) = &self.origin {
            let rows = self.rows().clone();
            *origin.lock().unwrap_or_else(PoisonError::into_inner) = rows;
        }
        Ok(())
    }
}

#[async_trait]
impl InstrumentRepository for InMemoryUnit {
    async fn find(&mut self, no: InstrumentNo, lock: bool) -> Result<Option<Instrument>, StoreError> {
        if lock {
            self.rows().log("lock instrument");
        }
        Ok(self.rows().instruments.get(&no.get()).cloned())
    }

    async fn list(&mut self, filter: &InstrumentFilter, page: Page) -> Result<Paged<Instrument>, StoreError> {
        Ok(paged(&self.rows().instruments, page, |row| {
            matches(filter.search.as_deref(), &row.name)
                && filter.archived.is_none_or(|archived| row.archived_at.is_some() == archived)
        }))
    }

    async fn insert(&mut self, instruments: Vec<Instrument>) -> Result<(), StoreError> {
        let mut rows = self.rows();
        rows.log("insert instruments");
        for new in instruments {
            if rows.instruments.values().any(|row| row.name == new.name) {
                return Err(conflict(Constraint::InstrumentName));
            }
            rows.instruments.insert(new.no.get(), new);
        }
        Ok(())
    }

    async fn update(&mut self, instrument: &Instrument) -> Result<(), StoreError> {
        let mut rows = self.rows();
        rows.log("update instruments");
        if rows.instruments.values().any(|row| row.name == instrument.name && row.no != instrument.no) {
            return Err(conflict(Constraint::InstrumentName));
        }
        rows.instruments.insert(instrument.no.get(), instrument.clone());
        Ok(())
    }

    async fn delete(&mut self, no: InstrumentNo) -> Result<(), StoreError> {
        let mut rows = self.rows();
        rows.log("delete instruments");
        if rows.positions.values().any(|position| position.instrument == no) {
            return Err(conflict(Constraint::PositionInstrument));
        }
        rows.instruments.remove(&no.get());
        Ok(())
    }

    async fn count_positions(&mut self, no: InstrumentNo) -> Result<i64, StoreError> {
        let count = self.rows().positions.values().filter(|position| position.instrument == no).count();
        Ok(i64::try_from(count).unwrap_or(i64::MAX))
    }
}

#[async_trait]
impl PositionRepository for InMemoryUnit {
    async fn find(&mut self, no: PositionNo, lock: bool) -> Result<Option<Position>, StoreError> {
        if lock {
            self.rows().log("lock position");
        }
        Ok(self.rows().positions.get(&no.get()).cloned())
    }

    async fn list(&mut self, filter: &PositionFilter, page: Page) -> Result<Paged<Position>, StoreError> {
        Ok(paged(&self.rows().positions, page, |row| {
            matches(filter.search.as_deref(), &row.name)
                && filter.instrument.is_none_or(|instrument| row.instrument == instrument)
        }))
    }

    async fn insert(&mut self, positions: Vec<Position>) -> Result<(), StoreError> {
        let mut rows = self.rows();
        rows.log("insert positions");
        for new in positions {
            if rows.positions.values().any(|row| row.instrument == new.instrument && row.name == new.name) {
                return Err(conflict(Constraint::PositionName));
            }
            if !rows.instruments.contains_key(&new.instrument.get()) {
                return Err(conflict(Constraint::PositionInstrument));
            }
            rows.positions.insert(new.no.get(), new);
        }
        Ok(())
    }

    async fn update(&mut self, position: &Position) -> Result<(), StoreError> {
        let mut rows = self.rows();
        rows.log("update positions");
        let same = |row: &Position| row.instrument == position.instrument && row.name == position.name;
        if rows.positions.values().any(|row| same(row) && row.no != position.no) {
            return Err(conflict(Constraint::PositionName));
        }
        rows.positions.insert(position.no.get(), position.clone());
        Ok(())
    }

    async fn delete(&mut self, no: PositionNo) -> Result<(), StoreError> {
        let mut rows = self.rows();
        rows.log("delete positions");
        if rows.musicians.values().any(|musician| musician.qualifications.contains(&no)) {
            return Err(conflict(Constraint::QualificationPosition));
        }
        rows.positions.remove(&no.get());
        rows.lists.retain(|list| list.position != no);
        Ok(())
    }

    async fn usage(&mut self, no: PositionNo) -> Result<PositionUse, StoreError> {
        let count = self.rows().musicians.values().filter(|row| row.qualifications.contains(&no)).count();
        Ok(PositionUse { musicians: i64::try_from(count).unwrap_or(i64::MAX) })
    }
}

#[async_trait]
impl RankingListRepository for InMemoryUnit {
    async fn insert(&mut self, lists: Vec<RankingList>) -> Result<(), StoreError> {
        let mut rows = self.rows();
        rows.log("insert ranking lists");
        rows.lists.extend(lists);
        Ok(())
    }
}

#[async_trait]
impl MusicianRepository for InMemoryUnit {
    async fn find(&mut self, no: MusicianNo, lock: bool) -> Result<Option<Musician>, StoreError> {
        if lock {
            self.rows().log("lock musician");
        }
        Ok(self.rows().musicians.get(&no.get()).cloned())
    }

    async fn find_by_emails(&mut self, emails: Vec<String>) -> Result<Vec<Musician>, StoreError> {
        let mut rows = self.rows();
        rows.log("lock musicians by email");
        let keys: std::collections::HashSet<_> = emails.iter().map(|email| email_key(email)).collect();
        Ok(rows.musicians.values().filter(|row| keys.contains(&email_key(&row.email))).cloned().collect())
    }

    async fn list(&mut self, filter: &MusicianFilter, page: Page) -> Result<Paged<Musician>, StoreError> {
        Ok(paged(&self.rows().musicians, page, |row| {
            let name = format!("{} {} {}", row.first_name, row.last_name, row.email);
            matches(filter.search.as_deref(), &name)
                && filter.is_active.is_none_or(|active| row.is_active == active)
                && filter.archived.is_none_or(|archived| row.archived_at.is_some() == archived)
                && filter.position.is_none_or(|no| row.qualifications.contains(&no))
        }))
    }

    async fn insert(&mut self, musicians: Vec<Musician>) -> Result<(), StoreError> {
        let mut rows = self.rows();
        rows.log("insert musicians");
        let mut taken: std::collections::HashSet<_> =
            rows.musicians.values().map(|row| email_key(&row.email)).collect();
        for new in musicians {
            if !taken.insert(email_key(&new.email)) {
                return Err(conflict(Constraint::MusicianEmail));
            }
            if new.qualifications.iter().any(|no| !rows.positions.contains_key(&no.get())) {
                return Err(conflict(Constraint::QualificationPosition));
            }
            rows.musicians.insert(new.no.get(), new);
        }
        Ok(())
    }

    async fn update(&mut self, musicians: Vec<Musician>) -> Result<(), StoreError> {
        let mut rows = self.rows();
        rows.log("update musicians");
        for changed in musicians {
            let key = email_key(&changed.email);
            if rows.musicians.values().any(|row| row.no != changed.no && email_key(&row.email) == key) {
                return Err(conflict(Constraint::MusicianEmail));
            }
            rows.musicians.insert(changed.no.get(), changed);
        }
        Ok(())
    }
}

#[async_trait]
impl ProjectRepository for InMemoryUnit {
    async fn find(&mut self, no: ProjectNo, lock: bool) -> Result<Option<Project>, StoreError> {
        if lock {
            self.rows().log("lock project");
        }
        Ok(self.rows().projects.get(&no.get()).cloned())
    }

    async fn list(&mut self, filter: &ProjectFilter, page: Page) -> Result<Paged<Project>, StoreError> {
        Ok(paged(&self.rows().projects, page, |row| {
            matches(filter.search.as_deref(), &row.name)
                && filter.status.is_none_or(|status| row.status == status)
        }))
    }

    async fn insert(&mut self, project: &Project) -> Result<(), StoreError> {
        let mut rows = self.rows();
        rows.log("insert projects");
        rows.projects.insert(project.no.get(), project.clone());
        Ok(())
    }

    async fn update(&mut self, project: &Project) -> Result<(), StoreError> {
        let mut rows = self.rows();
        rows.log("update projects");
        rows.projects.insert(project.no.get(), project.clone());
        Ok(())
    }

    async fn delete(&mut self, no: ProjectNo) -> Result<(), StoreError> {
        let mut rows = self.rows();
        rows.log("delete projects");
        rows.projects.remove(&no.get());
        Ok(())
    }
}

#[async_trait]
impl SettingsRepository for InMemoryUnit {
    async fn get(&mut self) -> Result<Settings, StoreError> {
        self.rows().settings.clone().ok_or_else(|| corrupt("settings"))
    }
}

#[async_trait]
impl QuotaRepository for InMemoryUnit {
    async fn lock(&mut self, resource: Resource) -> Result<Quota, StoreError> {
        let mut rows = self.rows();
        rows.log(format!("lock {}", resource.as_str()));
        rows.quotas.get(&resource).copied().ok_or_else(|| corrupt("quota"))
    }

    async fn update(&mut self, quota: &Quota) -> Result<(), StoreError> {
        let mut rows = self.rows();
        rows.log(format!("count {}", quota.resource.as_str()));
        rows.quotas.insert(quota.resource, *quota);
        Ok(())
    }

    async fn list(&mut self) -> Result<Vec<Quota>, StoreError> {
        let rows = self.rows();
        Ok(Resource::ALL.iter().filter_map(|resource| rows.quotas.get(resource).copied()).collect())
    }

    async fn set_limits(&mut self, limits: Limits, version: i64) -> Result<(), StoreError> {
        let mut rows = self.rows();
        if version > rows.limits_version {
            rows.limits_version = version;
            for quota in rows.quotas.values_mut() {
                quota.limit = limits.of(quota.resource);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl SequenceStore for InMemoryUnit {
    async fn reserve(&mut self, kind: Kind, count: u32) -> Result<Reserved, SequenceError> {
        let mut rows = self.rows();
        rows.log(format!("reserve {kind}"));
        let last = rows.counters.entry(kind).or_default();
        let first = *last + 1;
        *last += i64::from(count);
        Ok(Reserved { first, count })
    }
}

#[async_trait]
impl AuditLog for InMemoryUnit {
    async fn record(&mut self, entry: &AuditEntry) -> Result<(), StoreError> {
        self.rows().audit.push(entry.clone());
        Ok(())
    }
}

#[async_trait]
impl StarterRepository for InMemoryUnit {
    async fn is_done(&mut self) -> Result<bool, StoreError> {
        Ok(self.rows().settings.is_some())
    }

    async fn insert_foundation(
        &mut self,
        settings: &Settings,
        limits: Limits,
        limits_version: i64,
    ) -> Result<(), StoreError> {
        self.rows().found(settings, limits, limits_version);
        Ok(())
    }

    async fn insert_templates(&mut self, templates: Vec<MailTemplate>) -> Result<(), StoreError> {
        self.rows().templates.extend(templates);
        Ok(())
    }
}

#[async_trait]
impl IdempotencyStore for InMemoryUnit {
    async fn claim(&mut self, asked: &Asked, now: DateTime<Utc>) -> Result<Claim, StoreError> {
        let mut rows = self.rows();
        rows.log("claim key");
        rows.asked.retain(|_, kept| !is_over(kept.at, now));
        let place = (asked.user, asked.key.clone());
        if let Some(kept) = rows.asked.get(&place) {
            let answer = kept.answer.clone().ok_or_else(|| corrupt("idempotency_key"))?;
            return Ok(Claim::Answered { fingerprint: kept.fingerprint, answer });
        }
        let request = KeptRequest { fingerprint: asked.fingerprint, answer: None, at: now };
        rows.asked.insert(place, request);
        Ok(Claim::Claimed)
    }

    async fn keep(&mut self, asked: &Asked, answer: &KeptAnswer, _: DateTime<Utc>) -> Result<(), StoreError> {
        let mut rows = self.rows();
        let kept = rows.asked.get_mut(&(asked.user, asked.key.clone()));
        kept.ok_or_else(|| corrupt("idempotency_key"))?.answer = Some(answer.clone());
        Ok(())
    }
}
