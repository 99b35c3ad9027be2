//! Musicians from a file: new ones are entered, known ones (by address) brought up to date.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::json;
use stagesub_id_gen::Kind;

use crate::audit::AuditAction;
use crate::error::{StoreError, UseCaseError};
use crate::ids::PositionNo;
use crate::import::catalogue::Catalogue;
use crate::import::{
    CellError, Column, ImportMode, ImportReport, MAX_LISTED, ParsedRow, Remark, Row, RowFault,
};
use crate::language::Language;
use crate::musician::{Musician, NewMusician};
use crate::ports::UnitOfWork;
use crate::ports::quotas::Quota;
use crate::service::changes::{Recorded as _, changed};
use crate::service::context::Act;
use crate::service::limits;
use crate::service::musicians::{by_email, create_musicians};
use crate::subscription::Resource;
use crate::validate::{MAX_QUALIFICATIONS, email_key};

/// Rows that are looked up and written together.
const BATCH: usize = 500;

/// Imports rows in batches; memory is bounded by the batch and by a few dozen bytes for each row of the file, which has
/// at most [`crate::import::MAX_ROWS`].
///
/// A known musician is found by address: cells that are filled in and differ are taken over, qualifications are
/// added to those there are, and a row that says nothing new writes nothing, so importing a file again changes
/// nothing. Commit only if [`ImportReport::applied`].
///
/// # Errors
/// [`UseCaseError::LimitReached`] when the subscription does not allow all the new musicians; refused rows are
/// no error.
pub async fn import_musicians(
    uow: &mut dyn UnitOfWork,
    act: &Act<'_>,
    rows: &mut (dyn Iterator<Item = Row> + Send),
    mode: ImportMode,
) -> Result<ImportReport, UseCaseError> {
    let quota = uow.quotas().lock(Resource::Musicians).await?;
    let language = uow.settings().get().await?.language;
    let catalogue = Catalogue::load(uow).await?;
    let mut import = Import {
        mode,
        quota,
        language,
        catalogue,
        report: ImportReport::default(),
        seen: HashMap::new(),
        created: Vec::new(),
        is_cut_short: false,
    };
    while let Some(batch) = import.read_batch(rows)? {
        import.take_batch(uow, act, batch).await?;
    }
    import.finish(uow, act).await
}

struct Import {
    mode: ImportMode,
    quota: Quota,
    language: Language,
    catalogue: Catalogue,
    report: ImportReport,
    /// Hash of an address -> the line it came on, and the hash of what that row said.
    seen: HashMap<u64, (u64, u64)>,
    /// Runs of new numbers, first and last.
    created: Vec<(i64, i64)>,
    /// The file ended before its end.
    is_cut_short: bool,
}

/// A row that may be kept, as far as the file alone tells.
struct Good {
    line: u64,
    row: ParsedRow,
    positions: Vec<PositionNo>,
}

impl Import {
    /// The next good rows; `None` when there are no more.
    fn read_batch(
        &mut self,
        rows: &mut (dyn Iterator<Item = Row> + Send),
    ) -> Result<Option<Vec<Good>>, UseCaseError> {
        let mut batch = Vec::with_capacity(BATCH);
        while batch.len() < BATCH {
            let Some(Row { line, content }) = rows.next() else { break };
            self.report.rows += 1;
            match content {
                Ok(row) => batch.extend(self.judge(line, row)),
                Err(RowFault::Cells(errors)) => self.refuse(line, errors),
                Err(RowFault::EndOfReading { reason }) => {
                    self.is_cut_short = true;
                    self.refuse(line, vec![CellError { column: None, reason }]);
                }
                Err(RowFault::Io(error)) => return Err(StoreError::Unavailable(Box::new(error)).into()),
            }
        }
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// What can be told of a row without looking at musicians.
    fn judge(&mut self, line: u64, row: ParsedRow) -> Option<Good> {
        let named = match self.catalogue.find(&row) {
            Ok(named) => named,
            Err(errors) => {
                self.refuse(line, errors);
                return None;
            }
        };
        let address = hash(&email_key(&row.email));
        let content = hash_of_content(&row, &named.positions);
        match self.seen.get(&address) {
            Some((_, earlier)) if *earlier == content => {
                self.report.repeated += 1;
                return None;
            }
            Some((earlier, _)) => {
                let reason = format!("line {earlier} says something else of this address");
                self.refuse(line, vec![CellError { column: Some(email_column(&row)), reason }]);
                return None;
            }
            None => self.seen.insert(address, (line, content)),
        };
        for instrument in named.without_position {
            let column = Some(row.header.name_of(Column::Instrument).to_owned());
            let reason = format!("no position is named for {instrument}, so no qualification was added");
            self.notice(Remark { line, column, reason });
        }
        Some(Good { line, row, positions: named.positions })
    }

    async fn take_batch(
        &mut self,
        uow: &mut dyn UnitOfWork,
        act: &Act<'_>,
        batch: Vec<Good>,
    ) -> Result<(), UseCaseError> {
        let emails = batch.iter().map(|good| email_key(&good.row.email)).collect();
        let known = by_email(uow.musicians().find_by_emails(emails).await?);
        let mut drafts = Vec::new();
        let mut updates = Vec::new();
        for good in batch {
            match known.get(&email_key(&good.row.email)) {
                None => drafts.push(NewMusician { qualifications: good.positions, ..good.row.draft() }),
                Some(before) => updates.extend(self.compare(act, before, &good)),
            }
        }
        self.report.created += count(drafts.len());
        self.report.updated += count(updates.len());
        if self.is_lost() {
            // Nothing will be kept: the rest is read for what else is wrong with it.
            return Ok(());
        }
        if !drafts.is_empty() {
            self.quota = limits::grown(self.quota, signed(drafts.len()), act.now)?;
            let musicians = create_musicians(uow, act, drafts, self.language).await?;
            for no in musicians.iter().map(|musician| musician.no.get()) {
                match self.created.last_mut() {
                    Some((_, last)) if *last + 1 == no => *last = no,
                    _ => self.created.push((no, no)),
                }
            }
        }
        self.update(uow, act, updates).await
    }

    /// A known musician and what the row makes of it, if that differs and may be.
    fn compare(&mut self, act: &Act<'_>, before: &Musician, good: &Good) -> Option<(Musician, Musician)> {
        if before.archived_at.is_some() {
            let reason = format!("{} has this address and is archived; restore it first", before.id(act));
            self.refuse(good.line, vec![CellError { column: Some(email_column(&good.row)), reason }]);
            return None;
        }
        let after = merged(before, good);
        if after == *before {
            self.report.unchanged += 1;
            return None;
        }
        if after.qualifications.len() > MAX_QUALIFICATIONS {
            let reason = format!("a musician has at most {MAX_QUALIFICATIONS} qualifications");
            self.refuse(good.line, vec![CellError { column: None, reason }]);
            return None;
        }
        Some((before.clone(), after))
    }

    async fn update(
        &mut self,
        uow: &mut dyn UnitOfWork,
        act: &Act<'_>,
        updates: Vec<(Musician, Musician)>,
    ) -> Result<(), UseCaseError> {
        if updates.is_empty() {
            return Ok(());
        }
        let rows =
            updates.iter().map(|(_, after)| Musician { updated_at: act.now, ..after.clone() }).collect();
        uow.musicians().update(rows).await?;
        let mut audit = uow.audit();
        for (before, after) in &updates {
            let changes = changed(before, after, act);
            audit
                .record(&act.entry(AuditAction::Update, Musician::MODEL, Some(after.id(act)), changes))
                .await?;
        }
        Ok(())
    }

    async fn finish(mut self, uow: &mut dyn UnitOfWork, act: &Act<'_>) -> Result<ImportReport, UseCaseError> {
        self.report.applied = !self.is_lost();
        let writes = self.report.created + self.report.updated > 0;
        if self.report.applied && writes {
            if self.report.created > 0 {
                uow.quotas().update(&self.quota).await?;
            }
            let report = &self.report;
            let id = |no| act.id(Kind::Musician, no);
            let created: Vec<_> = self
                .created
                .iter()
                .map(|(first, last)| json!({ "first": id(*first), "last": id(*last) }))
                .collect();
            let changes = json!({
                "rows": report.rows,
                "created": report.created,
                "createdIds": created,
                "updated": report.updated,
                "unchanged": report.unchanged,
                "repeated": report.repeated,
                "refused": report.refused_count,
            });
            uow.audit().record(&act.entry(AuditAction::Import, Musician::MODEL, None, Some(changes))).await?;
        }
        Ok(self.report)
    }

    /// Whether it is certain that nothing will be kept. A file that ends before its end is never taken in part:
    /// nobody could tell which part.
    fn is_lost(&self) -> bool {
        self.is_cut_short || (self.mode == ImportMode::AllOrNothing && self.report.refused_count > 0)
    }

    fn refuse(&mut self, line: u64, errors: Vec<CellError>) {
        self.report.refused_count += 1;
        for CellError { column, reason } in errors {
            if self.report.refused.len() < MAX_LISTED {
                self.report.refused.push(Remark { line, column, reason });
            } else {
                self.report.refused_more += 1;
            }
        }
    }

    fn notice(&mut self, remark: Remark) {
        if self.report.notices.len() < MAX_LISTED {
            self.report.notices.push(remark);
        } else {
            self.report.notices_more += 1;
        }
    }
}

/// What a row makes of a known musician.
fn merged(before: &Musician, good: &Good) -> Musician {
    let row = &good.row;
    let mut after = before.clone();
    after.first_name.clone_from(&row.first_name);
    after.last_name.clone_from(&row.last_name);
    if row.phone.is_some() {
        after.phone.clone_from(&row.phone);
    }
    if row.notes.is_some() {
        after.notes.clone_from(&row.notes);
    }
    after.preferred_language = row.language.unwrap_or(before.preferred_language);
    after.local_residence = row.local_residence.unwrap_or(before.local_residence);
    let fresh = good.positions.iter().filter(|no| !before.qualifications.contains(no));
    after.qualifications.extend(fresh);
    after.qualifications.sort_unstable();
    after
}

fn email_column(row: &ParsedRow) -> String {
    row.header.name_of(Column::Email).to_owned()
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Everything a row says, its address by key.
fn hash_of_content(row: &ParsedRow, positions: &[PositionNo]) -> u64 {
    hash(&(
        (&row.first_name, &row.last_name, email_key(&row.email)),
        (&row.phone, &row.notes, row.language, row.local_residence),
        (positions, row.position.is_none() && row.instrument.is_some()),
    ))
}

fn count(rows: usize) -> u64 {
    u64::try_from(rows).expect("a batch is counted in hundreds")
}

fn signed(rows: usize) -> i32 {
    i32::try_from(rows).expect("a batch is counted in hundreds")
}
