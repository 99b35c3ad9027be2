//! What a move cannot take, in words.

use std::fmt;

use super::facts::{Facts, Relation};
use super::{Checks, Contents, TENANT_ID};
use crate::catalogue::{RelationKind, Table};

/// Something that a move cannot take as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// A table, or a column of one.
    pub object: String,
    /// Why not.
    pub why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.object, self.why)
    }
}

/// Everything there is to say against moving these tables.
pub(super) fn all(
    tables: &[Table],
    others: &[Table],
    facts: &Facts,
    contents: &Contents,
    checks: Checks,
) -> Vec<Refusal> {
    let mut refused = Refused::default();
    for other in others {
        let why = match other.kind {
            RelationKind::MaterializedView => "it keeps rows of tenants, and nothing says whose they are",
            RelationKind::Foreign => "its rows are another server's",
            RelationKind::View | RelationKind::Table => continue,
        };
        refused.add(&other.name, why);
    }
    for sequence in &facts.sequences {
        refused.add(
            sequence,
            "it is a sequence of no column, and stays behind: the target's would give numbers that the tenant has already",
        );
    }
    for table in tables {
        match facts.relation(&table.name) {
            Some(relation) => relation_of(table, relation, checks, &mut refused),
            None => refused.add(&table.name, "it changed while it was looked at"),
        }
        for reference in &table.foreign_keys {
            let parent = &reference.references;
            if !tables.iter().any(|other| other.name == *parent)
                && !contents.reference_tables.contains(parent)
            {
                refused.add(&table.name, format!("its rows refer to {parent}, which is not moved"));
            }
        }
        columns_of(table, facts, &mut refused);
    }
    refused.0
}

fn relation_of(table: &Table, relation: &Relation, checks: Checks, refused: &mut Refused) {
    let name = &table.name;
    if relation.partitioned {
        refused.add(name, "it is partitioned, or a partition");
    } else if relation.inherits {
        refused.add(name, "it inherits, or is inherited from");
    }
    if relation.unlogged {
        refused.add(name, "it is unlogged: changes of it are in no stream");
    }
    if relation.rules {
        refused.add(name, "it has rules, which would change what is written");
    }
    if relation.primary_key.first().map(String::as_str) != Some(TENANT_ID) {
        refused.add(name, "it has no primary key that begins with tenant_id");
    } else if let Some(why) = unidentified(relation) {
        refused.add(name, why);
    }
    if checks == Checks::Kept && !relation.triggers.is_empty() {
        let triggers = relation.triggers.join(", ");
        refused.add(
            name,
            format!(
                "its triggers would fire on the target: {triggers}; \
                the mover needs GRANT SET ON PARAMETER session_replication_role"
            ),
        );
    }
    if !relation.stubborn_triggers.is_empty() {
        let triggers = relation.stubborn_triggers.join(", ");
        refused.add(name, format!("its triggers fire even for replicated rows: {triggers}"));
    }
}

/// Why the old primary key of a row is not in the stream when the row changes, if it is not.
fn unidentified(relation: &Relation) -> Option<&'static str> {
    match relation.replica_identity.as_str() {
        "d" if relation.deferrable_key => Some("its primary key is deferrable, which is no replica identity"),
        "d" | "f" => None,
        _ => Some("its replica identity is neither its primary key nor FULL"),
    }
}

fn columns_of(table: &Table, facts: &Facts, refused: &mut Refused) {
    for column in facts.columns(&table.name) {
        let object = format!("{}.{}", table.name, column.name);
        if column.name == TENANT_ID && column.cast_type != "uuid" {
            refused.add(&object, format!("it is {} and not uuid", column.cast_type));
        }
        if let Some(sequence) = &column.sequence {
            refused.add(
                &object,
                format!(
                    "it is numbered by the sequence {sequence}, which stays behind: \
                    the target's would give numbers that the tenant has already"
                ),
            );
        }
        for why in &column.unmovable {
            refused.add(&object, why);
        }
    }
}

#[derive(Default)]
struct Refused(Vec<Refusal>);

impl Refused {
    fn add(&mut self, object: &impl ToString, why: impl Into<String>) {
        self.0.push(Refusal { object: object.to_string(), why: why.into() });
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::ColumnFacts;
    use super::*;
    use crate::catalogue::tests::{bare, named, reference};

    fn contents() -> Contents {
        Contents { schemas: vec!["tenant".to_owned()], reference_tables: vec![named("country")] }
    }

    fn sound() -> Relation {
        Relation {
            primary_key: ["tenant_id", "no"].map(str::to_owned).to_vec(),
            replica_identity: "d".to_owned(),
            ..Relation::default()
        }
    }

    fn refusals(table: Table, relation: Relation, checks: Checks) -> Vec<String> {
        let column = ColumnFacts {
            name: TENANT_ID.to_owned(),
            cast_type: "uuid".to_owned(),
            ..ColumnFacts::default()
        };
        let mut facts = Facts::default();
        facts.columns.insert(table.name.clone(), vec![column]);
        facts.relations.insert(table.name.clone(), relation);
        all(&[table], &[], &facts, &contents(), checks).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_ordinary_table_moves() {
        let key = reference("musician_country_fkey", &["country"], "country", &["code"]);
        let table = Table { foreign_keys: vec![key], ..bare("musician") };
        assert_eq!(refusals(table, sound(), Checks::Kept), [""; 0]);
    }

    #[test]
    fn what_is_in_no_stream_is_refused() {
        let without_key = Relation { primary_key: vec!["no".to_owned()], ..sound() };
        let nothing = Relation { replica_identity: "n".to_owned(), ..sound() };
        let index = Relation { replica_identity: "i".to_owned(), ..sound() };
        let deferrable = Relation { deferrable_key: true, ..sound() };
        let unlogged = Relation { unlogged: true, ..sound() };
        for (relation, word) in [
            (without_key, "begins with tenant_id"),
            (nothing, "replica identity"),
            (index, "replica identity"),
            (deferrable, "deferrable"),
            (unlogged, "unlogged"),
        ] {
            let refused = refusals(bare("a"), relation, Checks::Skipped);
            assert!(refused.len() == 1 && refused[0].contains(word), "{refused:?}");
        }
    }

    #[test]
    fn the_whole_row_identifies_whatever_its_key_is_like() {
        for deferrable_key in [false, true] {
            let full = Relation { replica_identity: "f".to_owned(), deferrable_key, ..sound() };
            assert_eq!(refusals(bare("a"), full, Checks::Kept), [""; 0]);
        }
    }

    #[test]
    fn triggers_are_an_obstacle_unless_they_stay_silent() {
        let with = || Relation { triggers: vec!["stamp".to_owned()], ..sound() };
        let refused = refusals(bare("a"), with(), Checks::Kept);
        assert!(
            refused[0].contains("stamp") && refused[0].contains("session_replication_role"),
            "{refused:?}"
        );
        assert_eq!(refusals(bare("a"), with(), Checks::Skipped), [""; 0]);
        let always = Relation { stubborn_triggers: vec!["stamp".to_owned()], ..sound() };
        assert_eq!(refusals(bare("a"), always, Checks::Skipped).len(), 1);
    }

    #[test]
    fn a_parent_that_stays_behind_is_named() {
        let key = reference("a_b_fkey", &["b"], "b", &["no"]);
        let table = Table { foreign_keys: vec![key], ..bare("a") };
        let refused = refusals(table, sound(), Checks::Skipped);
        assert_eq!(refused, ["tenant.a (its rows refer to tenant.b, which is not moved)"]);
    }

    #[test]
    fn views_are_passed_over_and_copies_of_rows_are_not() {
        let of = |kind| Table { kind, is_table: false, ..bare("v") };
        let others = [of(RelationKind::View), of(RelationKind::MaterializedView), of(RelationKind::Foreign)];
        let refused = all(&[], &others, &Facts::default(), &contents(), Checks::Kept);
        assert_eq!(refused.len(), 2);
    }
}
