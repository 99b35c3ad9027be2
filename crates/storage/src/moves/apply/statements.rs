//! The statements that make changes: many rows in one message, values bound as they came.
//!
//! Every parameter carries the number that its type has on the target, and a value's bytes are what its type sends. A
//! type without a binary form is bound as text and converted there.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgTypeInfo};
use sqlx::{Arguments, AssertSqlSafe, Encode, PgConnection, Postgres, Type};

use super::change::{Key, Row};
use super::tables::Target;
use crate::moves::pgoutput::Value;

/// Most rows of one statement. Fewer go by powers of two, so that a connection prepares each shape once.
const MOST_ROWS: usize = 256;
/// Most parameters of one statement; the protocol counts to 65,535.
const MOST_PARAMETERS: usize = 32_000;
/// The type of text.
pub(super) const TEXT: Oid = Oid(25);

/// Makes rows come. Answers how many did.
pub(super) async fn insert(
    conn: &mut PgConnection,
    target: &Target,
    rows: &[&Row],
) -> Result<u64, sqlx::Error> {
    let columns: Vec<usize> = (0..target.columns.len()).collect();
    let values: Vec<Vec<&Value>> = rows.iter().map(|row| row.0.iter().collect()).collect();
    let names: Vec<&str> = target.columns.iter().map(|column| column.quoted.as_str()).collect();
    let names = names.join(", ");
    in_chunks(conn, target, &columns, &values, |list| {
        // Without the clause Postgres would give identities numbers of its own.
        format!("INSERT INTO {} ({names}) OVERRIDING SYSTEM VALUE VALUES {list}", target.quoted)
    })
    .await
}

/// Makes rows change that keep their keys. Answers how many were there.
pub(super) async fn update(
    conn: &mut PgConnection,
    target: &Target,
    rows: &[(&Key, &Row)],
) -> Result<u64, sqlx::Error> {
    let mut done = 0;
    let mut left = rows;
    // Rows of which the same columns were sent change together.
    while let Some((_, first)) = left.first() {
        let sent = sent(target, first);
        let until = left.iter().position(|(_, row)| self::sent(target, row) != sent).unwrap_or(left.len());
        let (now, later) = left.split_at(until);
        done += update_columns(conn, target, &sent, now).await?;
        left = later;
    }
    Ok(done)
}

async fn update_columns(
    conn: &mut PgConnection,
    target: &Target,
    sent: &[usize],
    rows: &[(&Key, &Row)],
) -> Result<u64, sqlx::Error> {
    let columns: Vec<usize> = target.key.iter().chain(sent).copied().collect();
    let keys = target.key.len();
    let values: Vec<Vec<&Value>> = rows
        .iter()
        .map(|(key, row)| key.0.iter().chain(sent.iter().map(|column| &row.0[*column])).collect())
        .collect();
    let (assigned, also) = assignments(target, sent, keys);
    let matched = matched(target);
    in_chunks(conn, target, &columns, &values, |list| {
        format!(
            "UPDATE {} AS t SET {assigned} FROM (VALUES {list}) AS v ({}) WHERE {matched}{also}",
            target.quoted,
            aliases(columns.len())
        )
    })
    .await
}

/// Makes a row change together with its key. Answers how many were there.
pub(super) async fn rekey(
    conn: &mut PgConnection,
    target: &Target,
    was: &Key,
    row: &Row,
) -> Result<u64, sqlx::Error> {
    let sent: Vec<usize> =
        (0..target.columns.len()).filter(|column| row.0[*column] != Value::Unchanged).collect();
    update_columns(conn, target, &sent, &[(was, row)]).await
}

/// Makes rows go. Answers how many were there.
pub(super) async fn delete(
    conn: &mut PgConnection,
    target: &Target,
    keys: &[&Key],
) -> Result<u64, sqlx::Error> {
    let values: Vec<Vec<&Value>> = keys.iter().map(|key| key.0.iter().collect()).collect();
    let matched = matched(target);
    in_chunks(conn, target, &target.key, &values, |list| {
        format!(
            "DELETE FROM {} AS t USING (VALUES {list}) AS v ({}) WHERE {matched}",
            target.quoted,
            aliases(target.key.len())
        )
    })
    .await
}

/// The columns beside the key that were sent.
fn sent(target: &Target, row: &Row) -> Vec<usize> {
    target.others().filter(|column| row.0[*column] != Value::Unchanged).collect()
}

/// What is set, and what has to be so already because it cannot be set.
fn assignments(target: &Target, sent: &[usize], keys: usize) -> (String, String) {
    let (mut assigned, mut also) = (Vec::new(), String::new());
    for (place, column) in sent.iter().enumerate() {
        let (column, place) = (&target.columns[*column], keys + place);
        if column.fixed {
            also.extend([" AND t.", &column.quoted, " = v.c", &place.to_string()]);
        } else {
            assigned.push(format!("{} = v.c{place}", column.quoted));
        }
    }
    if assigned.is_empty() {
        // Nothing changes but that the row is there.
        let column = &target.columns[target.key[0]].quoted;
        assigned.push(format!("{column} = t.{column}"));
    }
    (assigned.join(", "), also)
}

fn matched(target: &Target) -> String {
    let conditions: Vec<String> = target
        .key
        .iter()
        .enumerate()
        .map(|(place, column)| format!("t.{} = v.c{place}", target.columns[*column].quoted))
        .collect();
    conditions.join(" AND ")
}

fn aliases(columns: usize) -> String {
    let names: Vec<String> = (0..columns).map(|place| format!("c{place}")).collect();
    names.join(", ")
}

/// Runs a statement over lists of values, which are of these columns of the target.
async fn in_chunks(
    conn: &mut PgConnection,
    target: &Target,
    columns: &[usize],
    values: &[Vec<&Value>],
    statement: impl Fn(&str) -> String,
) -> Result<u64, sqlx::Error> {
    let mut done = 0;
    let mut left = values;
    while let Some(first) = left.first() {
        let texts = texts(target, columns, first);
        let alike = left.iter().take_while(|row| self::texts(target, columns, row) == texts).count();
        let (now, later) = left.split_at(chunk(alike, columns.len()));
        let sql = statement(&list(target, columns, &texts, now.len()));
        let mut arguments = PgArguments::default();
        for row in now {
            for ((column, text), value) in columns.iter().zip(&texts).zip(row) {
                let type_oid = if *text { TEXT } else { target.columns[*column].type_oid };
                arguments.add(Bound { type_oid, value }).map_err(sqlx::Error::Encode)?;
            }
        }
        // Names were quoted by the server, and everything else is bound.
        done += sqlx::query_with(AssertSqlSafe(sql), arguments).execute(&mut *conn).await?.rows_affected();
        left = later;
    }
    Ok(done)
}

/// Which values go as text: those that came so, and what the target has no binary form of, even if there is none.
fn texts(target: &Target, columns: &[usize], row: &[&Value]) -> Vec<bool> {
    let text = |column: &usize, value: &Value| {
        matches!(value, Value::Text(_))
            || !target.columns[*column].binary && !matches!(value, Value::Binary(_))
    };
    columns.iter().zip(row).map(|(column, value)| text(column, value)).collect()
}

/// How many of these rows the next statement takes.
pub(super) fn chunk(rows: usize, columns: usize) -> usize {
    let most = rows.min(MOST_ROWS).min(MOST_PARAMETERS / columns.max(1)).max(1);
    1 << most.ilog2()
}

/// `($1, $2::text::inet), ($3, ...), ...`
fn list(target: &Target, columns: &[usize], texts: &[bool], rows: usize) -> String {
    let mut sql = String::new();
    let mut parameter = 0;
    for row in 0..rows {
        sql += if row == 0 { "(" } else { ", (" };
        for (place, (column, text)) in columns.iter().zip(texts).enumerate() {
            parameter += 1;
            if place > 0 {
                sql += ", ";
            }
            sql.extend(["$", &parameter.to_string()]);
            if *text {
                sql.extend(["::text::", &target.columns[*column].type_name]);
            }
        }
        sql += ")";
    }
    sql
}

/// A value with the number of its type.
pub(super) struct Bound<'v> {
    pub(super) type_oid: Oid,
    pub(super) value: &'v Value,
}

impl Encode<'_, Postgres> for Bound<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match self.value {
            Value::Null => Ok(IsNull::Yes),
            Value::Text(bytes) | Value::Binary(bytes) => {
                buffer.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
            Value::Unchanged => Err("a value that was not sent cannot be bound".into()),
        }
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(self.type_oid))
    }

    fn size_hint(&self) -> usize {
        self.value.size()
    }
}

impl Type<Postgres> for Bound<'_> {
    fn type_info() -> PgTypeInfo {
        // Each value says its own.
        PgTypeInfo::with_oid(Oid(0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::change::tests::row;
    use super::super::tables::tests::note;
    use super::*;

    #[test]
    fn statements_take_rows_by_powers_of_two() {
        let taken = |mut rows: usize, columns: usize| {
            let mut all = Vec::new();
            while rows > 0 {
                all.push(chunk(rows, columns));
                rows -= all[all.len() - 1];
            }
            all
        };
        assert_eq!(taken(1, 8), [1]);
        assert_eq!(taken(7, 8), [4, 2, 1]);
        assert_eq!(taken(600, 8), [256, 256, 64, 16, 8]);
        assert_eq!(taken(64, 1_600), [16, 16, 16, 16]);
    }

    #[test]
    fn text_is_converted_on_the_target() {
        let target = note();
        assert_eq!(
            list(&target, &[0, 1, 3], &[false, false, true], 2),
            "($1, $2, $3::text::mood), ($4, $5, $6::text::mood)"
        );
    }

    #[test]
    fn a_type_without_a_binary_form_goes_as_text_even_where_there_is_no_value() {
        let mut target = note();
        let row = row("t n w 0");
        let texts = |target: &Target| super::texts(target, &[0, 1, 2, 3], &row.0.iter().collect::<Vec<_>>());
        assert_eq!(texts(&target), [false; 4]);
        target.columns[3].binary = false;
        assert_eq!(texts(&target), [false, false, false, true]);
    }

    #[test]
    fn what_was_not_sent_is_not_set() {
        let target = note();
        let sent = sent(&target, &row("t n - m"));
        assert_eq!(sent, [3]);
        assert_eq!(assignments(&target, &sent, 2), ("mood = v.c2".to_owned(), String::new()));
        let none = super::sent(&target, &row("t n - -"));
        assert_eq!(assignments(&target, &none, 2).0, "tenant_id = t.tenant_id");
        assert_eq!(matched(&target), "t.tenant_id = v.c0 AND t.no = v.c1");
    }

    #[test]
    fn what_cannot_be_set_has_to_be_so() {
        let mut target = note();
        target.columns[2].fixed = true;
        let sent = sent(&target, &row("t n w m"));
        assert_eq!(
            assignments(&target, &sent, 2),
            ("mood = v.c3".to_owned(), " AND t.words = v.c2".to_owned())
        );
    }
}
