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

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::ids::InstrumentNo;
    use crate::import::MusicianCsv;
    use crate::instrument::{Instrument, Position};
    use crate::service::fixture::{Stage, UNLIMITED, actions, audit, moment};
    use crate::subscription::Limits;
    use crate::testing::InMemoryUnit;

    fn orchestra(limits: Limits) -> InMemoryUnit {
        let unit = InMemoryUnit::with_limits(limits);
        for (no, name, parts) in
            [(1, "Violin", ["Tutti violin 1", "Tutti"]), (2, "Viola", ["Stämledare", "Tutti"])]
        {
            let instrument = Instrument {
                no: InstrumentNo::new(no),
                name: name.to_owned(),
                display_order: None,
                archived_at: None,
                created_at: moment(0),
                updated_at: moment(0),
            };
            unit.rows().instruments.insert(no, instrument);
            for (part, name) in (1..).zip(parts) {
                let position = Position {
                    no: PositionNo::new(no * 10 + part),
                    instrument: InstrumentNo::new(no),
                    name: name.to_owned(),
                    hierarchy_level: 1,
                    created_at: moment(0),
                    updated_at: moment(0),
                };
                unit.rows().positions.insert(no * 10 + part, position);
            }
        }
        unit
    }

    const HEADER: &str = "Förnamn;Efternamn;E-post;Telefon;Instrument;Stämma;Anteckningar\n";

    async fn import(
        unit: &mut InMemoryUnit,
        day: i64,
        rows: &str,
        mode: ImportMode,
    ) -> Result<ImportReport, UseCaseError> {
        let file = Cursor::new(format!("{HEADER}{rows}").into_bytes());
        let mut rows = MusicianCsv::open(file)?;
        import_musicians(unit, &Stage::later(day).act(), &mut rows, mode).await
    }

    fn told(report: &ImportReport) -> Vec<(u64, &str)> {
        report.refused.iter().map(|one| (one.line, one.column.as_deref().unwrap_or(""))).collect()
    }

    const TWO: &str =
        "Åsa;Öberg;asa@gso.se;070-1;Viola;Stämledare;\nBo;Ek;bo@gso.se;;Violin;Tutti;\"a\nb\"\n";

    #[tokio::test]
    async fn new_musicians_are_entered_counted_and_written_down_once() {
        let mut unit = orchestra(UNLIMITED);
        let report = import(&mut unit, 0, TWO, ImportMode::AllOrNothing).await.expect("imported");
        assert_eq!((report.rows, report.created, report.applied), (2, 2, true));
        assert_eq!(report.refused, []);
        let rows = unit.rows().clone();
        assert_eq!(rows.musicians[&1].qualifications, [PositionNo::new(21)]);
        assert_eq!(rows.musicians[&2].notes.as_deref(), Some("a\nb"));
        assert_eq!(rows.quotas[&Resource::Musicians].used, 2);
        assert_eq!(rows.log[0], "lock musicians");
        let entries = audit(&unit);
        assert_eq!(entries.len(), 1);
        let changes = entries[0].2.as_ref().expect("counts");
        assert_eq!(changes["createdIds"], json!([{ "first": "GOT-MUS-001", "last": "GOT-MUS-002" }]));
        assert!(!rows.committed, "the commit is the caller's");
    }

    #[tokio::test]
    async fn importing_a_file_again_changes_nothing_at_all() {
        let mut unit = orchestra(UNLIMITED);
        import(&mut unit, 0, TWO, ImportMode::AllOrNothing).await.expect("imported");
        let before = unit.rows().clone();
        let again = TWO.replace("asa@gso.se", "ASA@GSO.SE");
        let report = import(&mut unit, 1, &again, ImportMode::AllOrNothing).await.expect("imported");
        assert_eq!((report.created, report.updated, report.unchanged, report.applied), (0, 0, 2, true));
        let mut after = unit.rows().clone();
        after.log.clone_from(&before.log);
        assert_eq!(after, before);
    }

    #[tokio::test]
    async fn known_musicians_take_over_what_is_new_and_keep_the_rest() {
        let mut unit = orchestra(UNLIMITED);
        import(&mut unit, 0, TWO, ImportMode::AllOrNothing).await.expect("imported");
        let rows = "Åsa;Öberg-Ek;asa@gso.se;;Viola;Tutti;\nCia;Falk;cia@gso.se;;;;\n";
        let report = import(&mut unit, 1, rows, ImportMode::AllOrNothing).await.expect("imported");
        assert_eq!((report.created, report.updated), (1, 1));
        let asa = unit.rows().musicians[&1].clone();
        assert_eq!((asa.last_name.as_str(), asa.phone.as_deref()), ("Öberg-Ek", Some("070-1")));
        assert_eq!(asa.qualifications, [PositionNo::new(21), PositionNo::new(22)]);
        assert_eq!((asa.created_at, asa.updated_at), (moment(0), moment(1)));
        assert_eq!(actions(&unit), [AuditAction::Import, AuditAction::Update, AuditAction::Import]);
        assert_eq!(
            audit(&unit)[1].2,
            Some(json!({
                "before": { "lastName": "Öberg", "qualifications": ["GOT-POS-021"] },
                "after": { "lastName": "Öberg-Ek", "qualifications": ["GOT-POS-021", "GOT-POS-022"] },
            }))
        );
    }

    const MIXED: &str = "Åsa;Öberg;asa@gso.se;;Viola;Stämledare;\n\
        Bo;Ek;bo;;;;\n\
        ;;;;;;\n\
        Cia;Falk;cia@gso.se;;Gitarr;;\n\
        Dan;Gran;dan@gso.se;;;Tutti;\n\
        Åsa;Öberg;Asa@gso.se;;viola;STÄMLEDARE;\n\
        Åsa;Berg;asa@gso.se;;;;\n\
        Eva;Hav;eva@gso.se;;Viola;;\n";

    #[tokio::test]
    async fn all_or_nothing_tells_every_refusal_of_the_whole_file_and_keeps_nothing() {
        let mut unit = orchestra(UNLIMITED);
        let report = import(&mut unit, 0, MIXED, ImportMode::AllOrNothing).await.expect("read");
        assert!(!report.applied);
        assert_eq!(told(&report), [(3, "E-post"), (5, "Instrument"), (6, "Stämma"), (8, "E-post")]);
        assert_eq!(report.refused[3].reason, "line 2 says something else of this address");
        assert_eq!((report.rows, report.refused_count, report.repeated), (7, 4, 1));
        assert!(unit.rows().audit.is_empty());
        assert_eq!(unit.rows().quotas[&Resource::Musicians].used, 0);
    }

    #[tokio::test]
    async fn the_valid_mode_takes_the_good_rows() {
        let mut unit = orchestra(UNLIMITED);
        let report = import(&mut unit, 0, MIXED, ImportMode::Valid).await.expect("read");
        assert_eq!((report.applied, report.created, report.refused_count), (true, 2, 4));
        let names: Vec<_> = unit.rows().musicians.values().map(|one| one.first_name.clone()).collect();
        assert_eq!(names, ["Åsa", "Eva"]);
        assert_eq!(report.notices.len(), 1);
        assert_eq!((report.notices[0].line, report.notices[0].column.as_deref()), (9, Some("Instrument")));
    }

    #[tokio::test]
    async fn an_archived_musician_is_not_brought_back_by_a_file() {
        let mut unit = orchestra(UNLIMITED);
        import(&mut unit, 0, TWO, ImportMode::AllOrNothing).await.expect("imported");
        unit.rows().musicians.get_mut(&1).expect("Åsa").archived_at = Some(moment(0));
        let report = import(&mut unit, 1, TWO, ImportMode::AllOrNothing).await.expect("read");
        assert!(!report.applied);
        assert_eq!(told(&report), [(2, "E-post")]);
        assert!(report.refused[0].reason.contains("GOT-MUS-001"));
    }

    #[tokio::test]
    async fn the_limit_refuses_the_whole_file_in_either_mode() {
        for mode in [ImportMode::AllOrNothing, ImportMode::Valid] {
            let mut unit = orchestra(Limits { musicians: Some(1), ..UNLIMITED });
            let refused = import(&mut unit, 0, TWO, mode).await;
            assert!(matches!(refused, Err(UseCaseError::LimitReached { used: 0, limit: 1, .. })));
            assert!(unit.rows().musicians.is_empty());
        }
    }

    #[tokio::test]
    async fn a_file_that_ends_before_its_end_is_not_taken_in_part() {
        let mut unit = orchestra(UNLIMITED);
        let rows = format!("{TWO}\"Cia;Falk;cia@gso.se;;;;\n{}", "x;y;z@gso.se;;;;\n".repeat(10_000));
        let report = import(&mut unit, 0, &rows, ImportMode::Valid).await.expect("read");
        assert!(!report.applied);
        assert_eq!(told(&report), [(5, "")]);
    }

    #[tokio::test]
    async fn many_rows_are_written_in_batches_under_one_lock() {
        let mut unit = orchestra(UNLIMITED);
        let rows: Vec<_> = (0..10_000).map(|no| format!("N;M;n{no}@gso.se;;Viola;Tutti;\n")).collect();
        let report = import(&mut unit, 0, &rows.concat(), ImportMode::AllOrNothing).await.expect("imported");
        assert_eq!((report.created, report.applied), (10_000, true));
        let stored = unit.rows().clone();
        let times = |what: &str| stored.log.iter().filter(|done| *done == what).count();
        assert_eq!(
            (times("lock musicians"), times("insert musicians"), times("count musicians")),
            (1, 20, 1)
        );
        assert_eq!(stored.musicians.len(), 10_000);
        assert_eq!(
            stored.audit[0].changes.as_ref().expect("counts")["createdIds"],
            json!([{ "first": "GOT-MUS-001", "last": "GOT-MUS-10000" }])
        );
    }

    #[tokio::test]
    async fn refusals_are_listed_up_to_a_bound_and_then_counted() {
        let mut unit = orchestra(UNLIMITED);
        let rows = "N;M;wrong;;;;\n".repeat(MAX_LISTED + 7);
        let report = import(&mut unit, 0, &rows, ImportMode::Valid).await.expect("read");
        assert_eq!((report.refused.len(), report.refused_more), (MAX_LISTED, 7));
        assert_eq!(report.refused_count, 10_007);
    }

    #[tokio::test]
    async fn a_corrected_row_after_a_refused_one_is_taken() {
        let mut unit = orchestra(UNLIMITED);
        let rows = "Åsa;Öberg;asa@gso.se;;Gitarr;;\nÅsa;Öberg;asa@gso.se;;Viola;Tutti;\n";
        let report = import(&mut unit, 0, rows, ImportMode::Valid).await.expect("read");
        assert_eq!((report.created, report.refused_count), (1, 1));
    }
}
