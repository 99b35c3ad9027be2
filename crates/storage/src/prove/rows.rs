//! Making rows of tables that nobody here knows.
//!
//! A row is read as JSON, some of its columns are changed, and it is stored again through
//! `jsonb_populate_record`, which gives every column its type. Where a unique key is in the way that is not
//! the one under attack, one of its columns is made fresh, by its type.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::error::ProveError;
use super::session::{Answer, Refusal, Transaction, literal};
use super::subject::{Subject, list};

/// Columns by name.
pub(super) type Columns = Map<String, Value>;

/// How often a row is changed to get past keys that are not the one under attack.
const TRIES: usize = 32;

/// Columns of a row that was read as JSON.
pub(super) fn parse(row: &str) -> Columns {
    match serde_json::from_str(row) {
        Ok(Value::Object(columns)) => columns,
        // Postgres renders a row as an object.
        _ => Columns::new(),
    }
}

/// Stores `row` with `changed` columns. Without a key of `locked` in the way, other unique keys are made fresh
/// until the row is stored or refused for another reason. What is stored is left in the transaction, and the
/// row as it was tried last is in `changed`.
pub(super) async fn store(
    transaction: &mut Transaction<'_>,
    subject: &Subject,
    row: &str,
    changed: &mut Columns,
    locked: &Locked<'_>,
) -> Result<Answer, ProveError> {
    let original = parse(row);
    let mut tried: HashSet<(String, usize)> = HashSet::new();
    // The column that was made fresh last, what it was before, and the key it was for.
    let mut last: Option<(String, Option<Value>, String)> = None;
    for _ in 0..TRIES {
        transaction.set("SAVEPOINT stored").await?;
        let refusal = match transaction.run(&insert(subject, row, changed)).await? {
            Answer::Refused(refusal) => refusal,
            done @ Answer::Done(_) => return Ok(done),
        };
        transaction.set("ROLLBACK TO SAVEPOINT stored").await?;
        let key = match (&refusal.constraint, &last) {
            (Some(key), _) if is_duplicate(&refusal) && *key != locked.key => key.clone(),
            // The fresh value is not one that the column may have.
            (_, Some((column, before, key))) if is_unfit(&refusal, subject, column, locked) => {
                match before {
                    Some(value) => changed.insert(column.clone(), value.clone()),
                    None => changed.remove(column),
                };
                key.clone()
            }
            _ => return Ok(Answer::Refused(refusal)),
        };
        let Some((column, value)) = freshen(subject, &key, &original, locked, &mut tried) else {
            return Ok(Answer::Refused(refusal));
        };
        let before = changed.insert(column.clone(), value);
        last = Some((column, before, key));
    }
    Ok(Answer::Refused(Refusal {
        code: "23505".to_owned(),
        constraint: None,
        message: "no fresh key was found".to_owned(),
    }))
}

/// What must stay as it is while a row is made fresh.
pub(super) struct Locked<'a> {
    /// The unique key whose refusal is what is waited for; empty for none.
    pub(super) key: &'a str,
    /// Columns, or expressions over them.
    pub(super) parts: &'a [String],
    /// A row that gets as far as its references has shown what it was to show.
    pub(super) until_references: bool,
}

impl Locked<'_> {
    /// Nothing but these columns.
    pub(super) const fn columns(parts: &[String]) -> Locked<'_> {
        Locked { key: "", parts, until_references: false }
    }

    fn holds(&self, column: &str) -> bool {
        self.parts.iter().any(|part| mentions(part, column))
    }
}

fn is_duplicate(refusal: &Refusal) -> bool {
    refusal.code == "23505"
}

/// A check, a text too long, a number too large, a reference to nothing.
fn is_unfit(refusal: &Refusal, subject: &Subject, column: &str, locked: &Locked<'_>) -> bool {
    match refusal.code.as_str() {
        "23514" | "22001" | "22003" => true,
        "23503" => !locked.until_references && refers(subject, column, refusal.constraint.as_deref()),
        _ => false,
    }
}

/// Whether a column is part of a foreign key: of this one, or of any.
fn refers(subject: &Subject, column: &str, key: Option<&str>) -> bool {
    let mut keys = subject.table.foreign_keys.iter();
    keys.any(|known| {
        key.is_none_or(|key| known.name == key) && known.columns.iter().any(|part| part == column)
    })
}

/// The statement that stores a row.
fn insert(subject: &Subject, row: &str, changed: &Columns) -> String {
    let columns: Vec<String> = subject
        .insertable
        .iter()
        .filter(|column| subject.readable.contains(column) || changed.contains_key(*column))
        .cloned()
        .collect();
    let columns = list(&columns);
    let (row, changed) = (literal(row), literal(&Value::Object(changed.clone()).to_string()));
    let table = &subject.name;
    format!(
        "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE
         SELECT {columns} FROM jsonb_populate_record(NULL::{table}, {row}::jsonb || {changed}::jsonb)"
    )
}

/// A column of a unique key that may be changed, and a value that nobody has.
fn freshen(
    subject: &Subject,
    key: &str,
    original: &Columns,
    locked: &Locked<'_>,
    tried: &mut HashSet<(String, usize)>,
) -> Option<(String, Value)> {
    let parts = &subject.unique.iter().find(|unique| unique.name == key)?.parts;
    let mut candidates: Vec<(usize, &str, &str)> = subject
        .table
        .columns
        .iter()
        .filter(|column| parts.iter().any(|part| mentions(part, &column.name)) && !locked.holds(&column.name))
        .map(|column| {
            // A column that refers to a row admits few values.
            let rank = rank(&column.data_type) + if refers(subject, &column.name, None) { 10 } else { 0 };
            (rank, column.name.as_str(), column.data_type.as_str())
        })
        .collect();
    candidates.sort_unstable();
    for (_, column, data_type) in candidates {
        for (place, value) in fresh(data_type, original.get(column)).into_iter().enumerate() {
            if tried.insert((column.to_owned(), place)) {
                return Some((column.to_owned(), value));
            }
        }
    }
    None
}

/// Numbers and ids first: texts are seldom free.
fn rank(data_type: &str) -> usize {
    match data_type {
        "bigint" | "integer" | "uuid" => 0,
        "smallint" | "numeric" => 1,
        text if text.starts_with("timestamp") || text == "date" => 2,
        _ => 3,
    }
}

/// Values of a type that a row hardly has, each of another kind, for columns that admit some only.
pub(super) fn fresh(data_type: &str, present: Option<&Value>) -> Vec<Value> {
    let id = Uuid::now_v7();
    // Its end is random; the bounds keep it within an integer.
    let number = 1_000_000_000 + i64::from(u32::try_from(id.as_u128() & 0x1fff_ffff).unwrap_or_default());
    let small = i64::from(u16::try_from(id.as_u128() & 0x3ff).unwrap_or_default());
    let next = |by: i64| present.and_then(Value::as_i64).map(|value| json!(value.saturating_add(by)));
    let text = |length: usize| id.simple().to_string().split_off(32 - length);
    match data_type.split('(').next().unwrap_or_default() {
        "bigint" | "integer" | "numeric" => {
            [Some(json!(number)), next(1), next(7), next(-1)].into_iter().flatten().collect()
        }
        "smallint" => {
            [Some(json!(31_000 + small)), next(1), next(7), next(-1)].into_iter().flatten().collect()
        }
        "uuid" => vec![json!(id)],
        "date" => vec![json!(format!("{:04}-01-01", 2200 + small))],
        stamp if stamp.starts_with("timestamp") => {
            vec![json!(format!("{:04}-01-01T00:00:00Z", 2200 + small))]
        }
        "text" | "character varying" | "character" | "citext" => {
            let longer = present.and_then(Value::as_str).map(|value| json!(format!("{value}{}", text(12))));
            [longer, Some(json!(text(24))), Some(json!(text(6))), Some(json!(text(2)))]
                .into_iter()
                .flatten()
                .collect()
        }
        "bytea" => vec![json!(format!("\\x{}", text(32)))],
        "inet" => vec![json!(format!("fd00::{small}"))],
        _ => Vec::new(),
    }
}

/// Whether a column stands in an expression of an index.
fn mentions(part: &str, column: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    part.match_indices(column).any(|(at, _)| {
        let before = part[..at].chars().next_back();
        let after = part[at + column.len()..].chars().next();
        !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_mentions_whole_names_only() {
        assert!(mentions("lower(email)", "email"));
        assert!(mentions("email", "email"));
        assert!(!mentions("lower(email)", "mail"));
        assert!(!mentions("other_email", "email"));
        assert!(mentions("(other_email || email)", "email"));
    }

    #[test]
    fn fresh_values_fit_their_type() {
        for (data_type, at_least) in [("bigint", 1), ("text", 3), ("character varying(40)", 3), ("uuid", 1)] {
            assert!(fresh(data_type, None).len() >= at_least, "{data_type}");
        }
        let number = fresh("integer", Some(&json!(4)));
        assert!(number[0].as_i64().is_some_and(|value| value < i64::from(i32::MAX)));
        assert_eq!(number[1], json!(5));
        assert!(fresh("boolean", None).is_empty());
    }
}
