//! What a run of changes comes to: one change a row, which can be made many rows at a time.
//!
//! Per row: one that came and changed has come so; one that changed twice has changed; one that changed and went has
//! gone; one that came and went was never there. What cannot be told so (a row that went comes again, a key changes)
//! begins a new run, so the runs are made one after another and each in any order that its tables allow: rows come
//! parents first, then they change, then they go children first.
//!
//! A run may still not be possible in that order: a unique value passes from a row that goes to one that comes. The
//! changes are kept as they came, too, for that case.

use std::collections::HashMap;

use super::change::{Change, Key, Row, What};

/// A run of changes.
#[derive(Debug, Default)]
pub(super) struct Run {
    changes: Vec<Change>,
    size: usize,
    effects: Vec<((usize, Key), Effect)>,
    places: HashMap<(usize, Key), usize>,
}

/// What becomes of a row in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Effect {
    Nothing,
    Insert(Row),
    Update(Row),
    Rekey(Row, Key),
    Delete,
}

/// Changes of one kind of one table, in the order in which rows were first touched.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'r> {
    /// Rows that come.
    Insert(usize, Vec<&'r Row>),
    /// Rows that change.
    Update(usize, Vec<(&'r Key, &'r Row)>),
    /// A row that changes with its key: the old, the row and its new key.
    Rekey(usize, &'r Key, &'r Row, &'r Key),
    /// Rows that go.
    Delete(usize, Vec<&'r Key>),
}

impl Run {
    /// Takes a change in. It is given back if what is there has to be made first.
    pub(super) fn add(&mut self, change: Change) -> Result<(), Change> {
        let place = (change.table, change.key.clone());
        let known = self.places.get(&place).map(|at| (*at, &self.effects[*at].1));
        let effect = match (known, &change.what) {
            // A key that changes is a run of its own.
            (_, What::Rekey(row, key)) if self.changes.is_empty() => Effect::Rekey(row.clone(), key.clone()),
            (None | Some((_, Effect::Nothing)), What::Insert(row)) => Effect::Insert(row.clone()),
            (None, What::Update(row)) => Effect::Update(row.clone()),
            (Some((_, Effect::Insert(row))), What::Update(new)) => Effect::Insert(followed(row, new)),
            (Some((_, Effect::Update(row))), What::Update(new)) => Effect::Update(followed(row, new)),
            (Some((_, Effect::Insert(_))), What::Delete) => Effect::Nothing,
            (None | Some((_, Effect::Update(_))), What::Delete) => Effect::Delete,
            _ => return Err(change),
        };
        if matches!(self.effects.first(), Some((_, Effect::Rekey(..)))) {
            return Err(change);
        }
        match known {
            // A row that comes again comes where it does, behind what it may refer to.
            Some((at, before)) if *before != Effect::Nothing => self.effects[at].1 = effect,
            _ => {
                self.places.insert(place.clone(), self.effects.len());
                self.effects.push((place, effect));
            }
        }
        self.size += change.size();
        self.changes.push(change);
        Ok(())
    }

    /// How many changes it has.
    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// How many bytes of values they have.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The changes as they came.
    pub(super) fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// What is to be done, of as many tables as there are, numbered parents first.
    pub(super) fn steps(&self) -> Vec<Step<'_>> {
        let mut by_table: HashMap<usize, Of<'_>> = HashMap::new();
        let mut rekeyed = Vec::new();
        for ((table, key), effect) in &self.effects {
            let of = by_table.entry(*table).or_default();
            match effect {
                Effect::Nothing => {}
                Effect::Insert(row) => of.inserts.push(row),
                Effect::Update(row) => of.updates.push((key, row)),
                Effect::Rekey(row, new) => rekeyed.push(Step::Rekey(*table, key, row, new)),
                Effect::Delete => of.deletes.push(key),
            }
        }
        let mut tables: Vec<(usize, Of<'_>)> = by_table.into_iter().collect();
        tables.sort_by_key(|(table, _)| *table);
        let (mut steps, mut updates, mut deletes) = (Vec::new(), Vec::new(), Vec::new());
        for (table, of) in tables {
            if !of.inserts.is_empty() {
                steps.push(Step::Insert(table, of.inserts));
            }
            if !of.updates.is_empty() {
                updates.push(Step::Update(table, of.updates));
            }
            if !of.deletes.is_empty() {
                deletes.push(Step::Delete(table, of.deletes));
            }
        }
        deletes.reverse();
        steps.extend(updates);
        steps.extend(deletes);
        steps.extend(rekeyed);
        steps
    }

    /// The same as it came, a row at a time.
    pub(super) fn steps_as_they_came(&self) -> Vec<Step<'_>> {
        self.changes.iter().map(step).collect()
    }
}

fn step(change: &Change) -> Step<'_> {
    let Change { table, key, what } = change;
    match what {
        What::Insert(row) => Step::Insert(*table, vec![row]),
        What::Update(row) => Step::Update(*table, vec![(key, row)]),
        What::Rekey(row, new) => Step::Rekey(*table, key, row, new),
        What::Delete => Step::Delete(*table, vec![key]),
    }
}

/// Changes of one table by their kind.
#[derive(Default)]
struct Of<'r> {
    inserts: Vec<&'r Row>,
    updates: Vec<(&'r Key, &'r Row)>,
    deletes: Vec<&'r Key>,
}

fn followed(row: &Row, newer: &Row) -> Row {
    let mut row = row.clone();
    row.follow(newer.clone());
    row
}

#[cfg(test)]
mod tests {
    use super::super::change::tests::{row, value};
    use super::*;

    fn key(text: &str) -> Key {
        Key(vec![value(text)])
    }

    /// `+1 k a`: a row comes into table 1, `=`: it changes, `~1 k new a`: with its key, `-`: it goes.
    fn change(text: &str) -> Change {
        let (sign, rest) = text.split_at(1);
        let (table, values) = rest.split_once(' ').unwrap();
        let table = table.parse().unwrap();
        let (first, others) = values.split_once(' ').unwrap_or((values, ""));
        let what = match sign {
            "+" => What::Insert(row(values)),
            "=" => What::Update(row(values)),
            "~" => What::Rekey(row(others), key(others.split(' ').next().unwrap())),
            _ => What::Delete,
        };
        Change { table, key: key(first), what }
    }

    /// What runs the changes make, and what each comes to.
    fn runs(changes: &[&str]) -> Vec<Vec<String>> {
        let mut all = vec![Run::default()];
        for text in changes {
            if let Err(back) = all.last_mut().unwrap().add(change(text)) {
                let mut run = Run::default();
                run.add(back).expect("an empty run takes any change");
                all.push(run);
            }
        }
        all.iter().map(|run| run.steps().iter().map(shown).collect()).collect()
    }

    fn show(values: &[crate::moves::pgoutput::Value]) -> String {
        use crate::moves::pgoutput::Value;
        let text = |value: &Value| match value {
            Value::Null => "0".to_owned(),
            Value::Unchanged => "-".to_owned(),
            Value::Text(bytes) | Value::Binary(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        };
        values.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    fn shown(step: &Step<'_>) -> String {
        let list = |parts: Vec<String>| parts.join(", ");
        match step {
            Step::Insert(table, rows) => {
                format!("+{table} {}", list(rows.iter().map(|row| show(&row.0)).collect()))
            }
            Step::Update(table, rows) => {
                format!("={table} {}", list(rows.iter().map(|(_, row)| show(&row.0)).collect()))
            }
            Step::Rekey(table, old, row, _) => format!("~{table} {} {}", show(&old.0), show(&row.0)),
            Step::Delete(table, keys) => {
                format!("-{table} {}", list(keys.iter().map(|key| show(&key.0)).collect()))
            }
        }
    }

    #[test]
    fn changes_of_a_row_come_to_one() {
        for (changes, net) in [
            (&["+1 k a", "=1 k b"][..], vec!["+1 k b"]),
            (&["=1 k a", "=1 k b"], vec!["=1 k b"]),
            (&["=1 k a", "-1 k"], vec!["-1 k"]),
            (&["+1 k a", "-1 k"], vec![]),
            (&["+1 k a", "=1 k b", "-1 k"], vec![]),
            (&["+1 k a", "-1 k", "+1 k b"], vec!["+1 k b"]),
            (&["+1 k a", "-1 k", "+1 k b", "=1 k c", "-1 k"], vec![]),
            (&["-1 k"], vec!["-1 k"]),
        ] {
            assert_eq!(runs(changes), vec![net], "{changes:?}");
        }
    }

    #[test]
    fn what_was_not_sent_keeps_what_an_earlier_change_gave() {
        assert_eq!(runs(&["+1 k long", "=1 k -"]), vec![vec!["+1 k long"]]);
        assert_eq!(runs(&["=1 k long a", "=1 k - b"]), vec![vec!["=1 k long b"]]);
        assert_eq!(runs(&["=1 k - a", "=1 k - b"]), vec![vec!["=1 k - b"]]);
        assert_eq!(runs(&["=1 k - a", "=1 k long b"]), vec![vec!["=1 k long b"]]);
    }

    #[test]
    fn a_row_that_went_and_comes_again_begins_a_new_run() {
        assert_eq!(
            runs(&["+1 a x", "-1 k", "+1 k b", "=1 k c"]),
            vec![vec!["+1 a x", "-1 k"], vec!["+1 k c"]]
        );
        assert_eq!(runs(&["=1 k a", "-1 k", "+1 k b"]), vec![vec!["-1 k"], vec!["+1 k b"]]);
    }

    #[test]
    fn a_key_that_changes_is_a_run_of_its_own() {
        assert_eq!(
            runs(&["=1 a x", "~1 a b x", "=1 b y", "=1 c z"]),
            vec![vec!["=1 a x"], vec!["~1 a b x"], vec!["=1 b y, c z"]]
        );
        assert_eq!(runs(&["~1 a b x", "~1 c a x"]), vec![vec!["~1 a b x"], vec!["~1 c a x"]]);
    }

    #[test]
    fn what_a_source_cannot_have_done_is_left_to_the_target_to_refuse() {
        for changes in [["+1 k a", "+1 k b"], ["=1 k a", "+1 k b"], ["-1 k", "=1 k a"], ["-1 k", "-1 k"]] {
            assert_eq!(runs(&changes).len(), 2, "{changes:?}");
        }
        assert_eq!(runs(&["+1 k a", "-1 k", "=1 k b"]).len(), 2);
    }

    #[test]
    fn rows_come_parents_first_then_change_then_go_children_first() {
        assert_eq!(
            runs(&["-2 c", "+2 d x", "=0 p y", "-1 b", "+1 e x", "=2 f z", "+2 g x", "-0 q"]),
            vec![vec!["+1 e x", "+2 d x, g x", "=0 p y", "=2 f z", "-2 c", "-1 b", "-0 q"]]
        );
    }

    #[test]
    fn the_same_key_in_two_tables_is_two_rows() {
        assert_eq!(runs(&["-1 k", "+2 k a"]), vec![vec!["+2 k a", "-1 k"]]);
    }

    #[test]
    fn a_row_that_comes_again_comes_behind_what_came_between() {
        assert_eq!(
            runs(&["+1 child old", "-1 child", "+1 parent x", "+1 child parent"]),
            vec![vec!["+1 parent x, child parent"]]
        );
    }

    #[test]
    fn changes_are_kept_as_they_came() {
        let mut run = Run::default();
        let changes = ["+1 k a", "=1 k bc", "-2 z", "=1 l d"];
        for text in changes {
            run.add(change(text)).unwrap();
        }
        let steps: Vec<String> = run.steps_as_they_came().iter().map(shown).collect();
        assert_eq!(steps, changes);
        assert_eq!((run.len(), run.size()), (4, 8));
    }
}
