//! Whether two databases are made alike, as far as a tenant's rows notice.

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest as _, Sha256};

use super::facts::{ColumnFacts, Facts};
use crate::catalogue::{Column, Table, TableName};

/// What has to be the same on both sides of a move: tables, columns with types, collations, defaults and what is
/// computed, keys and unique indexes, checks, foreign keys, replica identities, the definitions of types, and how the
/// database compares texts.
///
/// Not in it: the order of columns, indexes that admit a key twice, policies, privileges and triggers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    digest: [u8; 32],
    /// Each thing, with how it is made.
    facts: BTreeMap<String, String>,
}

impl Fingerprint {
    pub(super) fn of(tables: &[Table], facts: &Facts) -> Self {
        let mut all = BTreeMap::from([("collation of the database".to_owned(), facts.collation.clone())]);
        for table in tables {
            of_table(table, facts, &mut all);
        }
        Self::from_facts(all)
    }

    fn from_facts(facts: BTreeMap<String, String>) -> Self {
        let mut hash = Sha256::new();
        for text in facts.iter().flat_map(|(what, made)| [what, made]) {
            // A length before each text, so that no two lists of texts are one text.
            hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(text.as_bytes());
        }
        Self { digest: hash.finalize().into(), facts }
    }

    /// SHA-256 over all of it, for keeping.
    #[must_use]
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// What differs from this one, the source's, to the target's, in words; empty where nothing does.
    #[must_use]
    pub fn differences(&self, target: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        for (what, made) in &self.facts {
            match target.facts.get(what) {
                None => differences.push(format!("the target has no {what}")),
                Some(there) if there != made => {
                    differences.push(format!("{what} is `{made}` at the source and `{there}` at the target"));
                }
                Some(_) => {}
            }
        }
        let only_there = target.facts.keys().filter(|what| !self.facts.contains_key(*what));
        differences.extend(only_there.map(|what| format!("the source has no {what}")));
        differences
    }
}

/// The digest in hexadecimal.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn of_table(table: &Table, facts: &Facts, all: &mut BTreeMap<String, String>) {
    let name = &table.name;
    let relation = facts.relation(name);
    let identity = relation.map_or("", |relation| relation.replica_identity.as_str());
    all.insert(format!("table {name}"), format!("replica identity {identity}"));
    for column in &table.columns {
        let more = facts.columns(name).iter().find(|facts| facts.name == column.name);
        of_column(name, column, more, all);
    }
    for index in table.indexes.iter().filter(|index| index.unique) {
        all.insert(format!("unique index {} on {name}", index.name), index.definition.clone());
    }
    for (constraint, definition) in relation.map_or(&[][..], |relation| &relation.constraints) {
        all.insert(format!("constraint {constraint} on {name}"), definition.clone());
    }
}

fn of_column(
    table: &TableName,
    column: &Column,
    more: Option<&ColumnFacts>,
    all: &mut BTreeMap<String, String>,
) {
    let mut made = column.data_type.clone();
    let mut add = |words: &[&str]| {
        for word in words {
            made.push(' ');
            made.push_str(word);
        }
    };
    if column.not_null {
        add(&["NOT NULL"]);
    }
    if let Some(more) = more {
        if !more.collation.is_empty() {
            add(&["COLLATE", &more.collation]);
        }
        if !more.expression.is_empty() {
            add(&[if column.generated { "GENERATED AS" } else { "DEFAULT" }, &more.expression]);
        }
        for (name, definition) in &more.types {
            all.insert(format!("type {name}"), definition.clone());
        }
    }
    all.insert(format!("column {table}.{}", column.name), made);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::tests::{bare, column, primary};

    fn fingerprint(table: &Table) -> Fingerprint {
        Fingerprint::of(std::slice::from_ref(table), &Facts::default())
    }

    #[test]
    fn the_order_of_columns_does_not_count() {
        let mut turned = bare("a");
        turned.columns.reverse();
        assert_eq!(fingerprint(&bare("a")), fingerprint(&turned));
        assert_eq!(fingerprint(&bare("a")).differences(&fingerprint(&turned)), [""; 0]);
    }

    #[test]
    fn every_difference_is_said_in_words() {
        let source = bare("a");
        let mut target = bare("a");
        target.columns[1] = column("no", "integer");
        target.columns.push(column("note", "text"));
        target.indexes = vec![primary("a", &["tenant_id"])];
        let (source, target) = (fingerprint(&source), fingerprint(&target));
        assert_ne!(source.digest(), target.digest());
        let differences = source.differences(&target);
        assert_eq!(differences.len(), 3, "{differences:?}");
        assert!(
            differences.contains(
                &"column tenant.a.no is `bigint NOT NULL` at the source and `integer NOT NULL` at the target"
                    .to_owned()
            )
        );
        assert!(differences.contains(&"the source has no column tenant.a.note".to_owned()));
        assert!(target.differences(&source).contains(&"the target has no column tenant.a.note".to_owned()));
    }

    #[test]
    fn no_two_lists_of_texts_have_one_digest() {
        let of = |what: &str, made: &str| {
            Fingerprint::from_facts(BTreeMap::from([(what.to_owned(), made.to_owned())]))
        };
        assert_ne!(of("ab", "c").digest(), of("a", "bc").digest());
        assert_eq!(of("ab", "c").to_string().len(), 64);
    }
}
