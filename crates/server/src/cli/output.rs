//! Answers on stdout: a table for people, JSON for programs.

use std::io::{self, Write};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use super::Failure;

/// Writes one line.
pub fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|error| Failure::new(format!("the answer could not be written to stdout: {error}")))
}

/// Writes a value as one line of JSON.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value)
        .map_err(|error| Failure::new(format!("the answer could not be written as JSON: {error}")))?;
    line(&text)
}

/// Writes a word on stderr that is no answer.
pub fn note(text: &str) {
    // Nobody may be left to read it.
    let _ = writeln!(io::stderr(), "{text}");
}

/// A table with a heading.
#[must_use]
pub fn table<const N: usize>(heading: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(heading);
    for row in rows {
        table.add_row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_its_heading_and_rows() {
        let text = table(["CODE", "NAME"], [["GOT".to_owned(), "Götaälvens".to_owned()]]).to_string();
        assert!(text.contains("CODE") && text.contains("Götaälvens"), "{text}");
    }
}
