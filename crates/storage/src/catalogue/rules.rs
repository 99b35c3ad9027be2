//! What every tenant table must be, and which are not.

use std::fmt;

use super::{Index, Policy, Table, TableName};

/// The column that says whose a row is.
const TENANT_ID: &str = "tenant_id";
/// The one condition of every policy, as Postgres writes it back.
const FENCE: &str = "(tenant_id = ( SELECT app.tenant_id() AS tenant_id))";

/// A rule of tenant tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// Data is kept in tables: policies do not hold alike on views, materialized views and foreign tables.
    IsTable,
    /// There is a column `tenant_id uuid NOT NULL`.
    TenantColumn,
    /// Row-level security is on and forced.
    Forced,
    /// A restrictive policy for all commands and roles lets only the bound tenant's rows through.
    Fence,
    /// Every policy has the fence's condition; one of them is permissive.
    Policies,
    /// There is a primary key, and every index leads with the tenant.
    Keys,
    /// Foreign keys carry the tenant along, to tables that are tenant tables themselves. Postgres checks them
    /// without policies, so one by number alone could name another tenant's row.
    References,
    /// There are no triggers: what happens to a row is in the statement.
    NoTriggers,
}

/// A table that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The table.
    pub table: TableName,
    /// The rule.
    pub rule: Rule,
    /// What breaks it: the name of an index, a policy, a key.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} breaks {:?}: {}", self.table, self.rule, self.what)
    }
}

/// Everything that is wrong with these tables. `reference` are those that belong to no tenant on purpose.
#[must_use]
pub fn faults(tables: &[Table], reference: &[TableName]) -> Vec<Fault> {
    let tenant_tables: Vec<&Table> = tables.iter().filter(|table| !reference.contains(&table.name)).collect();
    let mut faults = Vec::new();
    for table in &tenant_tables {
        let mut broken =
            |rule, what: &str| faults.push(Fault { table: table.name.clone(), rule, what: what.to_owned() });
        if !table.is_table {
            broken(Rule::IsTable, "a view or a foreign table");
            continue;
        }
        match table.columns.iter().find(|column| column.name == TENANT_ID) {
            Some(column) if column.data_type == "uuid" && column.not_null => {}
            Some(_) => broken(Rule::TenantColumn, "tenant_id is not uuid NOT NULL"),
            None => broken(Rule::TenantColumn, "no tenant_id"),
        }
        if !table.secured || !table.forced {
            broken(Rule::Forced, "row-level security is not forced");
        }
        if !table.policies.iter().any(|policy| !policy.permissive && policy.for_all && is_fence(policy)) {
            broken(Rule::Fence, "no restrictive policy");
        }
        for policy in table.policies.iter().filter(|policy| !is_fence(policy)) {
            broken(Rule::Policies, &policy.name);
        }
        if !table.policies.iter().any(|policy| policy.permissive) {
            broken(Rule::Policies, "no permissive policy");
        }
        if table.primary_key().is_empty() {
            broken(Rule::Keys, "no primary key");
        }
        for index in table.indexes.iter().filter(|index| !leads_with_tenant(index)) {
            broken(Rule::Keys, &index.name);
        }
        for key in &table.foreign_keys {
            let carries = key.columns.iter().zip(&key.referenced).any(|pair| pair == (&tenant(), &tenant()));
            let inside = tenant_tables.iter().any(|other| other.name == key.references);
            // A list that belongs to no tenant may be referred to as it is.
            let outside = reference.contains(&key.references);
            if !(outside || carries && inside) {
                broken(Rule::References, &key.name);
            }
        }
        for trigger in &table.triggers {
            broken(Rule::NoTriggers, trigger);
        }
    }
    faults
}

fn tenant() -> String {
    TENANT_ID.to_owned()
}

fn is_fence(policy: &Policy) -> bool {
    policy.using.as_deref() == Some(FENCE) && policy.check.as_deref() == Some(FENCE)
}

fn leads_with_tenant(index: &Index) -> bool {
    index.columns.first().is_some_and(|column| column == TENANT_ID)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::catalogue::{Column, ForeignKey};

    pub(in crate::catalogue) fn named(name: &str) -> TableName {
        TableName { schema: "tenant".to_owned(), name: name.to_owned() }
    }

    fn policy(name: &str, permissive: bool) -> Policy {
        Policy {
            name: name.to_owned(),
            permissive,
            for_all: true,
            using: Some(FENCE.to_owned()),
            check: Some(FENCE.to_owned()),
        }
    }

    fn column(name: &str, data_type: &str) -> Column {
        Column { name: name.to_owned(), data_type: data_type.to_owned(), not_null: true, generated: false }
    }

    /// A table that keeps every rule.
    pub(in crate::catalogue) fn protected(name: &str) -> Table {
        Table {
            name: named(name),
            is_table: true,
            secured: true,
            forced: true,
            columns: vec![column("tenant_id", "uuid"), column("no", "bigint")],
            indexes: vec![Index {
                name: format!("{name}_pkey"),
                primary: true,
                unique: true,
                columns: vec!["tenant_id".to_owned(), "no".to_owned()],
            }],
            foreign_keys: Vec::new(),
            policies: vec![policy("tenant_fence", false), policy("tenant_rows", true)],
            triggers: Vec::new(),
        }
    }

    fn broken_by(change: impl FnOnce(&mut Table)) -> Vec<Rule> {
        let mut table = protected("musician");
        change(&mut table);
        faults(&[table, protected("position")], &[]).into_iter().map(|fault| fault.rule).collect()
    }

    #[test]
    fn a_protected_table_has_no_fault() {
        assert_eq!(broken_by(|_| {}), []);
    }

    #[test]
    fn each_missing_piece_is_found() {
        assert_eq!(broken_by(|t| t.is_table = false), [Rule::IsTable]);
        assert_eq!(broken_by(|t| t.columns[0].not_null = false), [Rule::TenantColumn]);
        assert_eq!(broken_by(|t| t.columns[0].data_type = "text".to_owned()), [Rule::TenantColumn]);
        assert_eq!(broken_by(|t| t.forced = false), [Rule::Forced]);
        assert_eq!(broken_by(|t| t.policies[0].permissive = true), [Rule::Fence]);
        assert_eq!(broken_by(|t| t.policies[0].for_all = false), [Rule::Fence]);
        assert_eq!(broken_by(|t| t.policies[1].using = Some("true".to_owned())), [Rule::Policies]);
        assert_eq!(broken_by(|t| t.policies[1].check = None), [Rule::Policies]);
        assert_eq!(broken_by(|t| t.indexes[0].columns.rotate_left(1)), [Rule::Keys]);
        assert_eq!(broken_by(|t| t.indexes.clear()), [Rule::Keys]);
        assert_eq!(broken_by(|t| t.triggers.push("touch".to_owned())), [Rule::NoTriggers]);
    }

    #[test]
    fn a_reference_carries_the_tenant_and_stays_among_tenant_tables() {
        let key = |columns: &[&str], references: &str| ForeignKey {
            name: "musician_position_fkey".to_owned(),
            columns: columns.iter().map(ToString::to_string).collect(),
            references: named(references),
            referenced: vec!["tenant_id".to_owned(), "no".to_owned()],
        };
        assert_eq!(broken_by(|t| t.foreign_keys.push(key(&["tenant_id", "position_no"], "position"))), []);
        // The tenant's column refers to a number there: the pair is crossed.
        for crossed in [["position_no", "tenant_id"], ["position_no", "other_no"]] {
            assert_eq!(broken_by(|t| t.foreign_keys.push(key(&crossed, "position"))), [Rule::References]);
        }
        assert_eq!(
            broken_by(|t| t.foreign_keys.push(key(&["tenant_id", "position_no"], "elsewhere"))),
            [Rule::References]
        );
    }

    #[test]
    fn a_table_without_tenants_must_be_named_as_one() {
        let mut languages = protected("language");
        languages.policies.clear();
        languages.columns.remove(0);
        assert_ne!(faults(std::slice::from_ref(&languages), &[]), []);
        assert_eq!(faults(&[languages], &[named("language")]), []);
    }
}
