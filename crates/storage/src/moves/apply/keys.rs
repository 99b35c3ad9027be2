//! Keys as the stream has them, in the words of whoever compares rows.

use std::collections::BTreeMap;

use sqlx::postgres::PgArguments;
use sqlx::postgres::types::Oid;
use sqlx::{Arguments, AssertSqlSafe, PgConnection};
use tokio::task::yield_now;
use uuid::Uuid;

use super::ApplyError;
use super::change::Key;
use super::statements::{Bound, TEXT, chunk};
use crate::catalogue::TableName;
use crate::moves::pgoutput::Value;
use crate::moves::plan::{MovePlan, TablePlan};
use crate::moves::verify::RowKey;

/// A parameter whose type is what the statement casts it to.
const BY_THE_CAST: Oid = Oid(0);
/// Keys that are written in one go, in less than a millisecond. There may be many, and others want the thread.
const AT_ONE_GO: usize = 200;

/// Writes keys as text, as the server would: keys of types that are written alike everywhere without asking it, since
/// the tenant may be waiting; others as the session's own settings have it. `plan` is that of the database that is asked,
/// which may be either side: a value's bytes are the same on both.
///
/// # Errors
/// [`ApplyError::Target`]; [`ApplyError::Schema`] for a key that is none of the plan's tables.
///
/// # Cancel safety
/// Nothing is written; the session is to be dropped.
pub async fn key_texts(
    conn: &mut PgConnection,
    plan: &MovePlan,
    keys: BTreeMap<TableName, Vec<Key>>,
) -> Result<Vec<RowKey>, ApplyError> {
    let mut rows = Vec::new();
    for (name, keys) in keys {
        let differs = |detail: &str| ApplyError::Schema { table: name.clone(), detail: detail.to_owned() };
        let table = plan.table(&name).ok_or_else(|| differs("it is not moved"))?;
        if keys.iter().any(|key| key.0.len() != table.key.len() + 1) {
            return Err(differs("its key has another number of columns"));
        }
        let mut asked = Vec::new();
        for (place, key) in keys.into_iter().enumerate() {
            if place % AT_ONE_GO == AT_ONE_GO - 1 {
                yield_now().await;
            }
            match known(table, &key) {
                Some(values) => rows.push(RowKey { table: name.clone(), values }),
                None => asked.push(key),
            }
        }
        if !asked.is_empty() {
            of_table(conn, table, &asked, &mut rows).await?;
        }
    }
    Ok(rows)
}

/// A key's values as text, if there is only one way to write each. A table of one row for each tenant has none to write.
fn known(table: &TablePlan, key: &Key) -> Option<Vec<String>> {
    table.key.iter().zip(&key.0[1..]).map(|(column, value)| text(value, &column.data_type)).collect()
}

/// The text of a value that came in the binary format.
fn text(value: &Value, data_type: &str) -> Option<String> {
    let Value::Binary(bytes) = value else { return None };
    match data_type {
        "uuid" => Uuid::from_slice(bytes).ok().map(|uuid| uuid.to_string()),
        "smallint" => bytes[..].try_into().ok().map(|bytes| i16::from_be_bytes(bytes).to_string()),
        "integer" => bytes[..].try_into().ok().map(|bytes| i32::from_be_bytes(bytes).to_string()),
        "bigint" => bytes[..].try_into().ok().map(|bytes| i64::from_be_bytes(bytes).to_string()),
        "text" | "character varying" => String::from_utf8(bytes.to_vec()).ok(),
        _ => None,
    }
}

async fn of_table(
    conn: &mut PgConnection,
    table: &TablePlan,
    keys: &[Key],
    rows: &mut Vec<RowKey>,
) -> Result<(), ApplyError> {
    let row = |values| RowKey { table: table.name.clone(), values };
    let mut left = keys;
    while let Some(first) = left.first() {
        let texts = texts(first);
        let most = chunk(left.len(), texts.len());
        let alike = left[..most].iter().take_while(|key| self::texts(key) == texts).count();
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
    fn what_has_one_way_to_be_written_is_written_without_asking() {
        let binary = |bytes: &[u8]| Value::Binary(bytes::Bytes::copy_from_slice(bytes));
        let id = Uuid::from_u128(0x00ab);
        for (data_type, bytes, written) in [
            ("uuid", id.as_bytes().to_vec(), Some("00000000-0000-0000-0000-0000000000ab")),
            ("smallint", (-7_i16).to_be_bytes().to_vec(), Some("-7")),
            ("integer", i32::MIN.to_be_bytes().to_vec(), Some("-2147483648")),
            ("bigint", i64::MAX.to_be_bytes().to_vec(), Some("9223372036854775807")),
            ("text", "Ö, \"'\\".into(), Some("Ö, \"'\\")),
            ("character varying", Vec::new(), Some("")),
            ("date", vec![0; 4], None),
            // Of another length than the type has.
            ("bigint", vec![0; 4], None),
            ("uuid", vec![0; 4], None),
        ] {
            assert_eq!(text(&binary(&bytes), data_type).as_deref(), written, "{data_type}");
        }
        assert_eq!(text(&Value::Text(bytes::Bytes::from_static(b"1")), "bigint"), None);
        assert_eq!(text(&Value::Null, "bigint"), None);
    }

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
