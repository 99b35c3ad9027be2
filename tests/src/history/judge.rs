//! What of a history cannot have happened on one database that is always there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::record::{Decided, Entry, Found, History, Outcome};

/// So many of each kind are shown.
const SHOWN: usize = 5;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Writes of which nobody can tell.
    pub unknown: usize,
    /// Reads.
    pub reads: usize,
    /// What was refused, and how often: writes and reads.
    pub refused: BTreeMap<String, usize>,
    /// Acknowledged, and not there.
    pub lost: Vec<Entry>,
    /// There more than once.
    pub doubled: Vec<Entry>,
    /// There, though its writer was told that it is not, or nobody wrote it.
    pub unasked: Vec<Entry>,
    /// Counts that are not those of what is there: a change that was made on an older state, or twice.
    pub miscounted: Vec<String>,
    /// Reads that did not see what was acknowledged before they began.
    pub stale: Vec<String>,
    /// What was done by a database that did not serve the tenant then.
    pub strayed: Vec<String>,
    /// The longest operation.
    pub longest: Duration,
}

impl Verdict {
    /// Nothing is wrong. What was refused may have been.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.lost.is_empty()
            && self.doubled.is_empty()
            && self.unasked.is_empty()
            && self.miscounted.is_empty()
            && self.stale.is_empty()
            && self.strayed.is_empty()
    }

    /// With what was found elsewhere.
    pub fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.reads += other.reads;
        for (why, times) in other.refused {
            *self.refused.entry(why).or_default() += times;
        }
        self.lost.extend(other.lost);
        self.doubled.extend(other.doubled);
        self.unasked.extend(other.unasked);
        self.miscounted.extend(other.miscounted);
        self.stale.extend(other.stale);
        self.strayed.extend(other.strayed);
        self.longest = self.longest.max(other.longest);
    }

    /// What is wrong, in a few lines.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = format!(
            "{} writes acknowledged, {} unknown, {} reads, refused {:?}, longest {:?}",
            self.acknowledged, self.unknown, self.reads, self.refused, self.longest
        );
        let entries = [("lost", &self.lost), ("doubled", &self.doubled), ("unasked", &self.unasked)];
        for (what, entries) in entries {
            show(&mut text, what, entries.iter().map(|entry| format!("{entry:?}")));
        }
        let told = [("miscounted", &self.miscounted), ("stale", &self.stale), ("strayed", &self.strayed)];
        for (what, lines) in told {
            show(&mut text, what, lines.iter().cloned());
        }
        text
    }

    /// Fails unless nothing is wrong.
    #[track_caller]
    pub fn assert_sound(&self) {
        assert!(self.is_sound(), "{}", self.describe());
    }

    /// Fails unless nothing is wrong and nothing was refused: who worked meanwhile noticed nothing but time.
    #[track_caller]
    pub fn assert_unnoticed(&self) {
        self.assert_sound();
        assert!(self.refused.is_empty() && self.unknown == 0, "{}", self.describe());
    }
}

fn show(text: &mut String, what: &str, all: impl ExactSizeIterator<Item = String>) {
    let count = all.len();
    if count > 0 {
        let shown: Vec<String> = all.take(SHOWN).collect();
        write!(text, "\n{count} {what}: {}", shown.join("; ")).expect("a String takes every text");
    }
}

/// Holds what clients did against what is there, and against when it was decided who serves. `first` served before
/// the first decision.
#[must_use]
pub fn judge(history: &History, found: &Found, first: &str, decisions: &[Decided]) -> Verdict {
    let mut verdict = Verdict { reads: history.reads.len(), ..Verdict::default() };
    for (_, why) in &history.refused_reads {
        *verdict.refused.entry(why.clone()).or_default() += 1;
    }
    count_writes(history, found, &mut verdict);
    count_rows(found, &mut verdict);
    let kept = Kept::of(history);
    for read in &history.reads {
        kept.check(read, &mut verdict);
    }
    let served = Served::by(first, decisions);
    for read in &history.reads {
        served.check("a read", read.database.as_deref(), (read.began, read.entered), &mut verdict);
    }
    for write in history.writes.iter().filter(|write| write.outcome == Outcome::Acknowledged) {
        served.check("a write", write.database.as_deref(), (write.began, write.ended), &mut verdict);
    }
    verdict.longest = history.spans().map(|(began, ended)| ended - began).max().unwrap_or_default();
    verdict
}

fn count_writes(history: &History, found: &Found, verdict: &mut Verdict) {
    let mut possible = BTreeSet::new();
    for write in &history.writes {
        match &write.outcome {
            Outcome::Acknowledged => {
                verdict.acknowledged += 1;
                possible.insert(write.entry);
                if !found.entries.contains_key(&write.entry) {
                    verdict.lost.push(write.entry);
                }
            }
            Outcome::Unknown => {
                verdict.unknown += 1;
                possible.insert(write.entry);
            }
            Outcome::Refused(why) => *verdict.refused.entry(why.clone()).or_default() += 1,
        }
    }
    for (entry, times) in &found.entries {
        if *times > 1 {
            verdict.doubled.push(*entry);
        }
        if !possible.contains(entry) {
            verdict.unasked.push(*entry);
        }
    }
}

/// Every entry added one to its writer's count and one to a row that was there before.
fn count_rows(found: &Found, verdict: &mut Verdict) {
    let mut there: BTreeMap<i32, i64> = BTreeMap::new();
    for (entry, times) in &found.entries {
        *there.entry(entry.writer).or_default() += i64::try_from(*times).expect("a few");
    }
    for (writer, counted) in &found.counted {
        let entries = there.get(writer).copied().unwrap_or_default();
        if entries != *counted {
            verdict.miscounted.push(format!("writer {writer} has {entries} entries and counted {counted}"));
        }
    }
    let all: i64 = there.values().sum();
    if let Some(touched) = found.touched
        && touched != all
    {
        verdict.miscounted.push(format!("{all} entries touched {touched} rows"));
    }
}

/// Each writer's acknowledged writes, by when they ended: that is their order, and their numbers' too.
struct Kept(BTreeMap<i32, Vec<(Instant, i64)>>);

impl Kept {
    fn of(history: &History) -> Self {
        let mut kept: BTreeMap<i32, Vec<(Instant, i64)>> = BTreeMap::new();
        for write in history.writes.iter().filter(|write| write.outcome == Outcome::Acknowledged) {
            kept.entry(write.entry.writer).or_default().push((write.ended, write.entry.number));
        }
        for writes in kept.values_mut() {
            writes.sort_unstable();
        }
        Self(kept)
    }

    /// What a read must have seen of the writers that it looked for: all that was acknowledged before it began.
    fn check(&self, read: &super::record::Read, verdict: &mut Verdict) {
        for (writer, last) in &read.last {
            let Some(writes) = self.0.get(writer) else { continue };
            let before = writes.partition_point(|(ended, _)| *ended < read.began);
            let Some((_, needed)) = before.checked_sub(1).map(|last| writes[last]) else { continue };
            let last = *last;
            let counted = read.counted.get(writer).copied();
            let count = i64::try_from(before).expect("a few");
            if last < needed || counted.is_some_and(|counted| counted < count) {
                verdict.stale.push(format!(
                    "node {} saw of writer {writer} entry {last} and a count of {counted:?} where {needed} and {count} \
                     were acknowledged, on {:?}",
                    read.node, read.database
                ));
            }
        }
    }
}

/// Who may have served the tenant, from when to when.
struct Served<'d>(Vec<(&'d str, Option<Instant>, Option<Instant>)>);

impl<'d> Served<'d> {
    /// From before a decision was asked for, to after the next one was surely made.
    fn by(first: &'d str, decisions: &'d [Decided]) -> Self {
        let surely = |from: usize| decisions[from..].iter().find_map(|decided| decided.returned);
        let mut served = vec![(first, None, surely(0))];
        for (n, decided) in decisions.iter().enumerate() {
            served.push((&decided.database, Some(decided.called), surely(n + 1)));
        }
        Self(served)
    }

    fn check(&self, what: &str, by: Option<&str>, (from, to): (Instant, Instant), verdict: &mut Verdict) {
        let Some(by) = by else { return };
        let may = |(database, since, until): &(&str, Option<Instant>, Option<Instant>)| {
            *database == by
                && since.is_none_or(|since| since <= to)
                && until.is_none_or(|until| until >= from)
        };
        if !self.0.iter().any(may) {
            verdict.strayed.push(format!("{what} by {by}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Read, Write};
    use super::*;

    /// Instants of one test, in milliseconds.
    struct Clock(Instant);

    impl Clock {
        fn at(&self, ms: u64) -> Instant {
            self.0 + Duration::from_millis(ms)
        }

        fn write(&self, number: i64, (from, to): (u64, u64), database: &str) -> Write {
            Write {
                entry: Entry { writer: 1, number },
                node: 0,
                began: self.at(from),
                ended: self.at(to),
                outcome: Outcome::Acknowledged,
                database: Some(database.to_owned()),
            }
        }

        fn read(&self, last: i64, (from, to): (u64, u64), database: &str) -> Read {
            Read {
                node: 1,
                began: self.at(from),
                entered: self.at(to),
                ended: self.at(to),
                database: Some(database.to_owned()),
                last: BTreeMap::from([(1, last)]),
                counted: BTreeMap::from([(1, last)]),
            }
        }

        /// From a to b, asked for at 100 and made by 110.
        fn decided(&self) -> Vec<Decided> {
            let returned = Some(self.at(110));
            vec![Decided { called: self.at(100), returned, database: "b".to_owned() }]
        }
    }

    fn there(times: &[(i64, usize)]) -> Found {
        let entries: BTreeMap<Entry, usize> =
            times.iter().map(|(number, times)| (Entry { writer: 1, number: *number }, *times)).collect();
        let all = i64::try_from(entries.values().sum::<usize>()).expect("a few");
        Found { entries, counted: BTreeMap::from([(1, all)]), touched: Some(all) }
    }

    /// Two writes on either side of a decision, and reads that saw them.
    fn sound() -> (Clock, History) {
        let clock = Clock(Instant::now());
        let writes = vec![clock.write(1, (10, 20), "a"), clock.write(2, (90, 130), "b")];
        let reads =
            vec![clock.read(1, (30, 40), "a"), clock.read(1, (95, 105), "a"), clock.read(2, (140, 150), "b")];
        (clock, History { writes, reads, refused_reads: Vec::new() })
    }

    fn judged(clock: &Clock, history: &History, found: &Found) -> Verdict {
        judge(history, found, "a", &clock.decided())
    }

    #[test]
    fn what_happened_on_one_database_after_the_other_is_sound() {
        let (clock, history) = sound();
        let verdict = judged(&clock, &history, &there(&[(1, 1), (2, 1)]));
        verdict.assert_unnoticed();
        assert_eq!((verdict.acknowledged, verdict.reads), (2, 3));
        assert_eq!(verdict.longest, Duration::from_millis(40));
        assert_eq!(history.longest_within(clock.at(32), clock.at(38)), Duration::from_millis(10));
        assert_eq!(history.first_kept_after(clock.at(11)), Some(clock.at(130)));
    }

    #[test]
    fn an_acknowledged_write_that_is_not_there_is_lost() {
        let (clock, history) = sound();
        let verdict = judged(&clock, &history, &there(&[(1, 1)]));
        assert_eq!(verdict.lost, [Entry { writer: 1, number: 2 }]);
        assert!(!verdict.is_sound() && verdict.describe().contains("1 lost"));
    }

    #[test]
    fn what_is_there_twice_is_doubled() {
        let (clock, history) = sound();
        let verdict = judged(&clock, &history, &there(&[(1, 1), (2, 2)]));
        assert_eq!(verdict.doubled, [Entry { writer: 1, number: 2 }]);
        assert!(!verdict.is_sound());
    }

    #[test]
    fn a_count_that_is_not_that_of_the_entries_was_made_on_an_older_state_or_twice() {
        let (clock, history) = sound();
        let sound = there(&[(1, 1), (2, 1)]);
        for counted in [1, 3] {
            let found = Found { counted: BTreeMap::from([(1, counted)]), ..sound.clone() };
            assert_eq!(judged(&clock, &history, &found).miscounted.len(), 1);
            let found = Found { touched: Some(counted), ..sound.clone() };
            assert_eq!(judged(&clock, &history, &found).miscounted.len(), 1);
        }
    }

    #[test]
    fn what_nobody_can_tell_may_be_there_or_not_and_what_was_refused_may_not() {
        let (clock, mut history) = sound();
        history.writes[1].outcome = Outcome::Unknown;
        history.reads.truncate(2);
        judged(&clock, &history, &there(&[(1, 1)])).assert_sound();
        judged(&clock, &history, &there(&[(1, 1), (2, 1)])).assert_sound();
        history.writes[1].outcome = Outcome::Refused("moved".to_owned());
        let verdict = judged(&clock, &history, &there(&[(1, 1)]));
        verdict.assert_sound();
        assert_eq!(verdict.refused, BTreeMap::from([("moved".to_owned(), 1)]));
        let verdict = judged(&clock, &history, &there(&[(1, 1), (2, 1)]));
        assert_eq!(verdict.unasked, [Entry { writer: 1, number: 2 }]);
    }

    #[test]
    fn a_read_that_misses_what_was_acknowledged_before_it_began_is_stale() {
        let (clock, mut history) = sound();
        history.reads[2].last.insert(1, 1);
        let verdict = judged(&clock, &history, &there(&[(1, 1), (2, 1)]));
        assert_eq!(verdict.stale.len(), 1, "{}", verdict.describe());
        // By its count as well.
        let (clock, mut history) = sound();
        history.reads[2].counted.insert(1, 1);
        assert_eq!(judged(&clock, &history, &there(&[(1, 1), (2, 1)])).stale.len(), 1);
        // What ended after it began it need not have seen.
        let (clock, mut history) = sound();
        history.reads[2] = clock.read(1, (129, 150), "b");
        judged(&clock, &history, &there(&[(1, 1), (2, 1)])).assert_sound();
    }

    #[test]
    fn who_enters_on_the_old_side_after_the_decision_or_on_the_new_one_before_has_strayed() {
        let found = there(&[(1, 1), (2, 1)]);
        let (clock, mut history) = sound();
        history.reads[2] = clock.read(2, (140, 150), "a");
        assert_eq!(judged(&clock, &history, &found).strayed, ["a read by a"]);
        let (clock, mut history) = sound();
        history.reads[0] = clock.read(1, (30, 40), "b");
        assert_eq!(judged(&clock, &history, &found).strayed, ["a read by b"]);
        let (clock, mut history) = sound();
        history.writes[1] = clock.write(2, (120, 130), "a");
        assert_eq!(judged(&clock, &history, &found).strayed, ["a write by a"]);
    }

    #[test]
    fn a_decision_that_nobody_was_told_of_may_have_been_made_or_not() {
        let (clock, mut history) = sound();
        let mut decisions = clock.decided();
        decisions[0].returned = None;
        let found = there(&[(1, 1), (2, 1)]);
        judge(&history, &found, "a", &decisions).assert_sound();
        history.reads[2] = clock.read(2, (140, 150), "a");
        judge(&history, &found, "a", &decisions).assert_sound();
        // The next one that is known ends the doubt.
        decisions.push(Decided {
            called: clock.at(132),
            returned: Some(clock.at(135)),
            database: "b".to_owned(),
        });
        assert_eq!(judge(&history, &found, "a", &decisions).strayed, ["a read by a"]);
    }
}
