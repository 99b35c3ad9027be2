//! Keys as the stream has them, in the words of whoever compares rows.

use std::collections::BTreeMap;

use sqlx::postgres::PgArguments;
use sqlx::postgres::types::Oid;
use sqlx::{Arguments, AssertSqlSafe, PgConnection};

use super::ApplyError;
use super::change::Key;
use super::statements::{Bound, TEXT, chunk};
use crate::catalogue::TableName;
use crate::moves::pgoutput::Value;
use crate::moves::plan::{MovePlan, TablePlan};
use crate::moves::verify::RowKey;

/// A parameter whose type is what the statement casts it to.
const BY_THE_CAST: Oid = Oid(0);

/// Writes keys as text, as the session's own settings have it. `plan` is that of the database that is asked, which may
/// be either side: a value's bytes are the same on both.
///
/// # Errors
/// [`ApplyError::Target`]; [`ApplyError::Schema`] for a key that is none of the plan's tables.
///
/// # Cancel safety
/// Nothing is written; the session is to be dropped.
pub async fn key_texts(
    conn: &mut PgConnection,
    plan: &MovePlan,
    keys: Vec<(TableName, Key)>,
) -> Result<Vec<RowKey>, ApplyError> {
    let mut by_table: BTreeMap<TableName, Vec<Key>> = BTreeMap::new();
    for (table, key) in keys {
        by_table.entry(table).or_default().push(key);
    }
    let mut rows = Vec::new();
    for (name, keys) in by_table {
        let differs = |detail: &str| ApplyError::Schema { table: name.clone(), detail: detail.to_owned() };
        let table = plan.table(&name).ok_or_else(|| differs("it is not moved"))?;
        if keys.iter().any(|key| key.0.len() != table.key.len() + 1) {
            return Err(differs("its key has another number of columns"));
        }
        of_table(conn, table, &keys, &mut rows).await?;
    }
    Ok(rows)
}

async fn of_table(
    conn: &mut PgConnection,
    table: &TablePlan,
    keys: &[Key],
    rows: &mut Vec<RowKey>,
) -> Result<(), ApplyError> {
    let row = |values| RowKey { table: table.name.clone(), values };
    if table.key.is_empty() {
        // There is one row at most.
        rows.push(row(Vec::new()));
        return Ok(());
    }
    let mut left = keys;
    while let Some(first) = left.first() {
        let texts = texts(first);
        let alike = left.iter().take_while(|key| self::texts(key) == texts).count();
        let (now, later) = left.split_at(chunk(alike, texts.len()));
        let mut arguments = PgArguments::default();
        for key in now {
            for (value, text) in key.0[1..].iter().zip(&texts) {
                let type_oid = if *text { TEXT } else { BY_THE_CAST };
                let added = arguments.add(Bound { type_oid, value }).map_err(sqlx::Error::Encode);
                added.map_err(failed)?;
            }
        }
        let sql = statement(table, &texts, now.len());
        let found = sqlx::query_scalar_with::<_, Vec<String>, _>(AssertSqlSafe(sql), arguments);
        rows.extend(found.fetch_all(&mut *conn).await.map_err(failed)?.into_iter().map(row));
        left = later;
    }
    Ok(())
}

fn failed(source: sqlx::Error) -> ApplyError {
    ApplyError::Target { doing: "writing keys as text", source }
}

/// Which values of a key came as text.
fn texts(key: &Key) -> Vec<bool> {
    key.0[1..].iter().map(|value| matches!(value, Value::Text(_))).collect()
}

/// `SELECT ARRAY[v.c0::text, ...] FROM (VALUES ($1::uuid, $2::text::inet), ...) AS v (c0, c1)`
fn statement(table: &TablePlan, texts: &[bool], rows: usize) -> String {
    let mut parameter = 0;
    let rows: Vec<String> = (0..rows)
        .map(|_| {
            let values: Vec<String> = table
                .key
                .iter()
                .zip(texts)
                .map(|(column, text)| {
                    parameter += 1;
                    let first = if *text { "::text" } else { "" };
                    format!("${parameter}{first}::{}", column.data_type)
                })
                .collect();
            format!("({})", values.join(", "))
        })
        .collect();
    let columns: Vec<String> = (0..texts.len()).map(|place| format!("c{place}")).collect();
    let shown: Vec<String> = columns.iter().map(|column| format!("v.{column}::text")).collect();
    format!(
        "SELECT ARRAY[{}] FROM (VALUES {}) AS v ({})",
        shown.join(", "),
        rows.join(", "),
        columns.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moves::plan::tests::odd;

    #[test]
    fn a_value_is_read_as_its_column_is_and_written_as_text() {
        let table = odd("t", &[]);
        assert_eq!(
            statement(&table, &[false], 2),
            "SELECT ARRAY[v.c0::text] FROM (VALUES ($1::bigint), ($2::bigint)) AS v (c0)"
        );
        assert!(statement(&table, &[true], 1).contains("($1::text::bigint)"));
    }
}
