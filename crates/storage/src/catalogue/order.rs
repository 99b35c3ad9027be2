//! Which table comes before which.

use std::collections::{BTreeMap, BTreeSet};

use super::{Table, TableName};

/// Tables refer to each other in a circle, so none can be copied first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tables refer to each other in a circle: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
pub struct CyclicTables(pub Vec<TableName>);

/// Orders tables so that each comes after those its rows refer to, and by name where that leaves a choice: the
/// order to copy in, and backwards the order to delete in. A table that refers to itself, or to one that is
/// not among them, is no obstacle.
///
/// # Errors
/// [`CyclicTables`] names those that no order serves.
pub fn parents_first(tables: Vec<Table>) -> Result<Vec<Table>, CyclicTables> {
    let mut left: BTreeMap<TableName, Table> =
        tables.into_iter().map(|table| (table.name.clone(), table)).collect();
    let mut ordered = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let free: BTreeSet<TableName> = left
            .values()
            .filter(|table| {
                table
                    .foreign_keys
                    .iter()
                    .all(|key| key.references == table.name || !left.contains_key(&key.references))
            })
            .map(|table| table.name.clone())
            .collect();
        if free.is_empty() {
            return Err(CyclicTables(left.into_keys().collect()));
        }
        ordered.extend(free.iter().filter_map(|name| left.remove(name)));
    }
    Ok(ordered)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bare, named, reference};
    use super::*;

    fn table(name: &str, parents: &[&str]) -> Table {
        let foreign_keys = parents
            .iter()
            .map(|parent| {
                let columns = ["tenant_id", &format!("{parent}_no")];
                reference(&format!("{name}_{parent}_fkey"), &columns, parent, &["tenant_id", "no"])
            })
            .collect();
        Table { foreign_keys, ..bare(name) }
    }

    fn names(tables: &[Table]) -> Vec<&str> {
        tables.iter().map(|table| table.name.name.as_str()).collect()
    }

    #[test]
    fn what_is_referred_to_comes_first_and_names_decide_the_rest() {
        let tables = vec![
            table("qualification", &["musician", "position"]),
            table("position", &["instrument"]),
            table("musician", &[]),
            table("instrument", &[]),
        ];
        let ordered = parents_first(tables).unwrap();
        assert_eq!(names(&ordered), ["instrument", "musician", "position", "qualification"]);
    }

    #[test]
    fn referring_to_itself_or_outside_is_no_obstacle() {
        let ordered = parents_first(vec![table("node", &["node", "elsewhere"])]).unwrap();
        assert_eq!(names(&ordered), ["node"]);
    }

    #[test]
    fn a_circle_is_refused_by_name() {
        let tables = vec![table("a", &["b"]), table("b", &["a"]), table("c", &[])];
        assert_eq!(parents_first(tables), Err(CyclicTables(vec![named("a"), named("b")])));
    }
}
