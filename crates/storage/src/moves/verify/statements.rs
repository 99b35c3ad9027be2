//! What the two sides are asked.

use std::fmt::Write as _;

use crate::moves::plan::{PlannedColumn, TablePlan};
use crate::roles::quote;

/// The two hashes of a row's text `r`.
const HASHES: &str = "hashtextextended(r, 0), hashtextextended(r, 1)";

/// Where a chunk begins and ends: `$1` is the tenant, the keys follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// It begins after a key.
    pub(super) after: bool,
    /// It ends with a key, which is in it.
    pub(super) until: bool,
}

/// How many rows a chunk has, how many bytes they are, and the sums of their hashes.
pub(super) fn sums(table: &TablePlan, bounds: Bounds) -> String {
    // OFFSET 0 keeps the text from being made once for each use of it.
    format!(
        "SELECT count(*), coalesce(sum(octet_length(r)), 0)::bigint, \
        coalesce(sum(hashtextextended(r, 0)), 0)::text, coalesce(sum(hashtextextended(r, 1)), 0)::text \
        FROM (SELECT {} AS r FROM {} WHERE {} OFFSET 0) AS chunk",
        text_of(table),
        from(table),
        rows_of(table, bounds)
    )
}

/// The keys and hashes of a chunk's rows in the order of keys, so many at most.
pub(super) fn each(table: &TablePlan, bounds: Bounds, most: u64) -> String {
    format!(
        "SELECT key, {HASHES} FROM (SELECT {} AS key, {} AS r FROM {} WHERE {}{} LIMIT {most}) AS chunk",
        key_text(table),
        text_of(table),
        from(table),
        rows_of(table, bounds),
        order_by(table)
    )
}

/// The key of the row that is `rows` further on; none where fewer are left. It is read from the chunk's beginning and
/// never from the table's.
pub(super) fn end(table: &TablePlan, after: bool, rows: u32) -> String {
    // The text is made of that row's key alone, not of those that are passed over.
    format!(
        "SELECT {} FROM (SELECT {} FROM {} WHERE {}{} OFFSET {} LIMIT 1) AS \"t\"",
        key_text(table),
        listed(&table.key),
        from(table),
        rows_of(table, Bounds { after, until: false }),
        order_by(table),
        rows.saturating_sub(1)
    )
}

/// The hashes of rows with given keys: which table, which of its keys, hashes. `$1` is the tenant; each table has one
/// array of texts for each column of its key, from `$2` on, and `tables` are its number and itself.
pub(super) fn by_keys(tables: &[(i32, &TablePlan)]) -> String {
    let mut parameter = 1;
    let of_each: Vec<String> = tables
        .iter()
        .map(|(number, table)| {
            let columns: Vec<String> =
                (0..table.key.len()).map(|place| quote(&format!("k{place}"))).collect();
            let asked = if columns.is_empty() {
                // A table with one row at most has one key, which is empty.
                "(VALUES (1::bigint)) AS asked (n)".to_owned()
            } else {
                let arrays: Vec<String> = columns
                    .iter()
                    .map(|_| {
                        parameter += 1;
                        format!("${parameter}::text[]")
                    })
                    .collect();
                format!("unnest({}) WITH ORDINALITY AS asked ({}, n)", arrays.join(", "), columns.join(", "))
            };
            let wanted: String =
                table.key.iter().zip(&columns).fold(String::new(), |mut sql, (column, asked)| {
                    let cast = cast(&format!("asked.{asked}"), column);
                    write!(sql, " AND \"t\".{} = {cast}", column.quoted())
                        .expect("a String takes every text");
                    sql
                });
            format!(
                "SELECT {number}::integer, asked.n, {HASHES} FROM {asked} CROSS JOIN LATERAL \
                (SELECT {} AS r FROM {} WHERE \"t\".tenant_id = $1{wanted} LIMIT 1) AS held",
                text_of(table),
                from(table)
            )
        })
        .collect();
    of_each.join(" UNION ALL ")
}

fn from(table: &TablePlan) -> String {
    format!("ONLY {} AS \"t\"", table.quoted())
}

/// A row as one text.
fn text_of(table: &TablePlan) -> String {
    format!("ROW({})::text", listed(&table.columns))
}

/// A row's key as an array of texts.
fn key_text(table: &TablePlan) -> String {
    let texts: Vec<String> =
        table.key.iter().map(|column| format!("\"t\".{}::text", column.quoted())).collect();
    format!("ARRAY[{}]::text[]", texts.join(", "))
}

fn listed(columns: &[PlannedColumn]) -> String {
    let names: Vec<String> = columns.iter().map(|column| format!("\"t\".{}", column.quoted())).collect();
    names.join(", ")
}

fn order_by(table: &TablePlan) -> String {
    if table.key.is_empty() { String::new() } else { format!(" ORDER BY {}", listed(&table.key)) }
}

/// The tenant's rows between two keys.
fn rows_of(table: &TablePlan, bounds: Bounds) -> String {
    let mut sql = "\"t\".tenant_id = $1".to_owned();
    let mut parameter = 1;
    for (given, comparison) in [(bounds.after, ">"), (bounds.until, "<=")] {
        if given && !table.key.is_empty() {
            let keys: Vec<String> = table
                .key
                .iter()
                .map(|column| {
                    parameter += 1;
                    cast(&format!("${parameter}"), column)
                })
                .collect();
            let (columns, keys) = (listed(&table.key), keys.join(", "));
            write!(sql, " AND ({columns}) {comparison} ({keys})").expect("a String takes every text");
        }
    }
    sql
}

/// A text as a value of a column.
fn cast(text: &str, column: &PlannedColumn) -> String {
    format!("{text}::text::{}", column.data_type)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moves::plan::tests::odd;

    const FROM: &str = r#"FROM ONLY "Odd ""Shop"."a" AS "t" WHERE "t".tenant_id = $1"#;
    const TEXT: &str = r#"ROW("t"."tenant_id", "t"."no", "t"."gro""ss")::text AS r"#;

    #[test]
    fn chunks_are_ranges_of_the_key() {
        let table = odd("a", &[]);
        let between = sums(&table, Bounds { after: true, until: true });
        assert!(between.ends_with(&format!(
            r#"FROM (SELECT {TEXT} {FROM} AND ("t"."no") > ($2::text::bigint) AND ("t"."no") <= ($3::text::bigint) OFFSET 0) AS chunk"#
        )), "{between}");
        let first = sums(&table, Bounds { after: false, until: true });
        assert!(first.contains(r#"= $1 AND ("t"."no") <= ($2::text::bigint) OFFSET"#), "{first}");
        assert_eq!(
            end(&table, false, 100),
            format!(
                r#"SELECT ARRAY["t"."no"::text]::text[] FROM (SELECT "t"."no" {FROM} ORDER BY "t"."no" OFFSET 99 LIMIT 1) AS "t""#
            )
        );
    }

    #[test]
    fn a_table_with_one_row_has_no_ranges() {
        let mut table = odd("a", &[]);
        table.key.clear();
        let all = sums(&table, Bounds { after: false, until: false });
        assert!(all.ends_with("= $1 OFFSET 0) AS chunk"), "{all}");
        assert!(by_keys(&[(0, &table)]).contains("(VALUES (1::bigint)) AS asked (n)"));
    }

    #[test]
    fn keys_of_several_tables_are_one_statement() {
        let (a, b) = (odd("a", &[]), odd("b", &[]));
        let sql = by_keys(&[(3, &a), (5, &b)]);
        assert!(sql.contains(r#"unnest($2::text[]) WITH ORDINALITY AS asked ("k0", n)"#), "{sql}");
        assert!(sql.contains("unnest($3::text[])") && sql.contains("UNION ALL SELECT 5::integer"), "{sql}");
        assert!(sql.contains(r#" AND "t"."no" = asked."k0"::text::bigint LIMIT 1"#), "{sql}");
    }
}
