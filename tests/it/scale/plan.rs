//! What a plan reads, and what is wrong with that.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;
use sqlx::PgConnection;

/// What a scan may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// One tenant's rows: an index that begins with `tenant_id`, asked for one value of it.
    OneTenant,
    /// What it is asked for: an index with a condition, or the first rows in an index's order.
    Found,
    /// Anything: the table has a few rows however many tenants there are.
    Few,
}

/// Schemas whose tables have a rule.
const SCHEMAS: [&str; 3] = ["app", "registry", "tenant"];

/// Tables that stay small, and why.
const FEW: [(&str, &str); 6] = [
    ("app.marker", "one row: which database this is"),
    ("app.migrations", "a row a migration"),
    ("app.move_progress", "two rows a move that goes on"),
    ("registry.marker", "one row: which database this is"),
    ("registry.version", "one row: the version the registry stands at"),
    ("registry.nodes", "a row a server that lives; the others are removed with each beat"),
];

/// Whether a table has a few rows however many tenants there are.
pub(crate) fn stays_small(table: &str) -> bool {
    FEW.iter().any(|(few, _)| *few == table)
}

/// The rule for a table.
fn rule(table: &str) -> Rule {
    if stays_small(table) {
        Rule::Few
    } else if table.starts_with("registry.") {
        Rule::Found
    } else {
        Rule::OneTenant
    }
}

/// Something a plan should not do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Finding {
    /// On which table, with its schema.
    pub(crate) table: String,
    /// What.
    pub(crate) what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.table, self.what)
    }
}

struct Index {
    table: String,
    first: String,
    columns: i16,
    partial: bool,
}

/// A database's indexes by name, with their schema.
pub(crate) struct Indexes(HashMap<String, Index>);

impl Indexes {
    /// Reads them from the catalogue.
    pub(crate) async fn read(conn: &mut PgConnection) -> Self {
        let rows: Vec<(String, String, String, i16, bool)> = sqlx::query_as(
            "SELECT n.nspname || '.' || c.relname, n.nspname || '.' || t.relname,
                pg_catalog.pg_get_indexdef(i.indexrelid, 1, false), i.indnkeyatts,
                i.indpred IS NOT NULL
            FROM pg_catalog.pg_index AS i
            JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
            JOIN pg_catalog.pg_class AS t ON t.oid = i.indrelid
            JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
            WHERE n.nspname::text = ANY($1)",
        )
        .bind(SCHEMAS.map(String::from))
        .fetch_all(conn)
        .await
        .expect("the catalogue can be read");
        assert!(!rows.is_empty(), "a database has indexes");
        Self(
            rows.into_iter()
                .map(|(name, table, first, columns, partial)| {
                    (name, Index { table, first, columns, partial })
                })
                .collect(),
        )
    }

    /// The index of this name. An inner scan of a bitmap does not tell its schema; names are looked for in all.
    fn of(&self, name: &str) -> &Index {
        let mut found = SCHEMAS.iter().filter_map(|schema| self.0.get(&format!("{schema}.{name}")));
        let index = found.next().unwrap_or_else(|| panic!("{name} is an index of the schemas"));
        assert!(found.next().is_none(), "{name} is the name of one index only");
        index
    }
}

/// What is wrong with a plan, as `EXPLAIN (FORMAT JSON, VERBOSE)` tells it. `large`: for a tenant of so many rows that
/// to read all of them is wrong too.
pub(crate) fn findings(explained: &Value, indexes: &Indexes, large: bool) -> HashSet<Finding> {
    let mut found = HashSet::new();
    walk(&explained[0]["Plan"], (false, large), indexes, &mut found);
    found
}

/// `limited`: rows are asked for only until there are enough, so that an index need not be read to its end.
fn walk(node: &Value, (limited, large): (bool, bool), indexes: &Indexes, found: &mut HashSet<Finding>) {
    let kind = text(node, "Node Type").expect("a node has a type");
    if let Some(finding) = wrong(node, kind, (limited, large), indexes) {
        found.insert(finding);
    }
    // What sorts, groups or hashes reads all that it is given.
    let limited = match kind {
        "Limit" => true,
        "Sort" | "Aggregate" | "Hash" | "Incremental Sort" | "ModifyTable" => false,
        _ => limited,
    };
    for child in node["Plans"].as_array().into_iter().flatten() {
        // A subquery of a row is read whole, unless it says otherwise itself.
        let limited = limited
            && child["Parent Relationship"] != "SubPlan"
            && child["Parent Relationship"] != "InitPlan";
        walk(child, (limited, large), indexes, found);
    }
}

fn wrong(node: &Value, kind: &str, (limited, large): (bool, bool), indexes: &Indexes) -> Option<Finding> {
    let scans_index = matches!(kind, "Index Scan" | "Index Only Scan" | "Bitmap Index Scan");
    let table = match (text(node, "Relation Name"), text(node, "Schema")) {
        (Some(name), Some(schema)) => format!("{schema}.{name}"),
        (Some(name), None) => panic!("{name} has a schema: {node}"),
        (None, _) if scans_index => indexes.of(text(node, "Index Name")?).table.clone(),
        (None, _) => return None,
    };
    // The target of a change is found by a node below; a bitmap's rows by the index scan below.
    if matches!(kind, "ModifyTable" | "Bitmap Heap Scan")
        || !SCHEMAS.iter().any(|schema| table.starts_with(&format!("{schema}.")))
    {
        return None;
    }
    let rule = rule(&table);
    // Rows that are taken by their place were found by what named it.
    if rule == Rule::Few || (rule == Rule::Found && kind == "Tid Scan") {
        return None;
    }
    let what = if scans_index {
        let name = text(node, "Index Name").expect("an index has a name");
        let condition = text(node, "Index Cond");
        match rule {
            Rule::OneTenant if indexes.of(name).first != "tenant_id" => {
                format!("{kind} on {name}, which does not begin with the tenant")
            }
            Rule::OneTenant if !condition.is_some_and(of_one_tenant) => {
                format!("{kind} on {name} for {}, which is not one tenant", condition.unwrap_or("everything"))
            }
            Rule::OneTenant
                if large && !limited && indexes.of(name).columns > 1 && !condition.is_some_and(of_more) =>
            {
                "all rows of the tenant".to_owned()
            }
            // What is in such an index is what was asked for.
            Rule::Found if indexes.of(name).partial => return None,
            Rule::Found if condition.is_none() && !limited => format!("{kind} on the whole of {name}"),
            Rule::Found if condition.is_none() && text(node, "Filter").is_some() => {
                format!("{kind} on {name} from its beginning, until enough rows pass")
            }
            _ => return None,
        }
    } else {
        kind.to_owned()
    };
    Some(Finding { table, what })
}

/// Whether a condition is on one value of the tenant: that of a parameter, of the policies' `(SELECT app.tenant_id())`,
/// of the row that a read in one message binds, or a constant.
fn of_one_tenant(condition: &str) -> bool {
    static EQUAL: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\btenant_id = (\$\d+|'[0-9a-f-]{36}'::uuid|stagesub_bound\.tenant)\)")
            .expect("a pattern")
    });
    EQUAL.is_match(condition)
}

/// Whether a condition is on more than the tenant.
fn of_more(condition: &str) -> bool {
    condition.contains(" AND ")
}

fn text<'n>(node: &'n Value, key: &str) -> Option<&'n str> {
    node[key].as_str()
}
