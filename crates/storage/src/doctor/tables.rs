//! What every tenant table must be, and which are not.

use super::report::{Finding, Level};
use crate::catalogue::{ForeignKey, Index, Policy, RelationKind, Table, TableName};
use crate::roles::quote;

/// The column that says whose a row is.
pub(crate) const TENANT_ID: &str = "tenant_id";
/// The one condition of every policy, as Postgres writes it back where no schema is on the search path.
const FENCE: &str = "(tenant_id = ( SELECT app.tenant_id() AS tenant_id))";
/// The same, as it is written.
const CONDITION: &str = "tenant_id = (SELECT app.tenant_id())";

/// Everything that is wrong with these tables of one database, in the order it is to be mended in. `reference` are
/// those that belong to no tenant on purpose.
///
/// Views and the like are listed in [`Table`] and judged by lints of their own, which see what they read.
#[must_use]
pub fn examine_tables(database: &str, tables: &[Table], reference: &[TableName]) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut patients = Vec::new();
    for table in tables.iter().filter(|table| table.is_table) {
        let mut patient =
            Patient { database, table, name: sql_name(&table.name), tables, reference, found: Vec::new() };
        if reference.contains(&table.name) {
            patient.references_of_no_tenant();
        } else {
            patient.column();
            patient.security();
            patient.policies();
            patient.references();
        }
        found.append(&mut patient.found);
        patients.push(patient);
    }
    // A key cannot be taken away while a reference of some other table hangs on it.
    for mut patient in patients {
        if !reference.contains(&patient.table.name) {
            patient.keys();
            found.append(&mut patient.found);
        }
    }
    found
}

/// What is wrong with the table of fences, which the platform's owner works on without a tenant: enabled, not
/// forced, and open to a tenant's own row for reading.
pub(super) fn examine_fence_table(database: &str, tables: &[Table]) -> Vec<Finding> {
    let name = TableName { schema: "app".to_owned(), name: "tenant_fence".to_owned() };
    let Some(table) = tables.iter().find(|table| table.name == name) else { return Vec::new() };
    let bound = table.policies.iter().any(|policy| !policy.permissive && policy.for_all && is_fence(policy));
    let narrow = table.policies.iter().filter(|policy| policy.permissive).all(|policy| {
        policy.using.as_deref() == Some(FENCE) && policy.check.as_deref().is_none_or(|check| check == FENCE)
    });
    if table.secured && bound && narrow {
        return Vec::new();
    }
    let strangers = table.policies.iter().filter(|policy| {
        policy.permissive
            && (policy.using.as_deref() != Some(FENCE)
                || policy.check.as_deref().is_some_and(|check| check != FENCE))
    });
    let drops: Vec<String> = strangers
        .map(|policy| format!("DROP POLICY {} ON app.tenant_fence;\n", quote(&policy.name)))
        .collect();
    vec![Finding {
        level: Level::Hole,
        lint: "fence-table-open",
        database: database.to_owned(),
        object: name.to_string(),
        why: "a tenant must see its own row of the fences and no other's".to_owned(),
        mend: format!(
            "ALTER TABLE app.tenant_fence ENABLE ROW LEVEL SECURITY;\n{}\
             DROP POLICY IF EXISTS tenant_fence_bound ON app.tenant_fence;\n\
             CREATE POLICY tenant_fence_bound ON app.tenant_fence AS RESTRICTIVE FOR ALL TO PUBLIC\n    \
             USING ({CONDITION}) WITH CHECK ({CONDITION});\n\
             DROP POLICY IF EXISTS tenant_fence_own ON app.tenant_fence;\n\
             CREATE POLICY tenant_fence_own ON app.tenant_fence AS PERMISSIVE FOR SELECT TO PUBLIC\n    \
             USING ({CONDITION});",
            drops.concat()
        ),
    }]
}

/// One table under examination.
struct Patient<'a> {
    database: &'a str,
    table: &'a Table,
    /// Its name as SQL takes it.
    name: String,
    tables: &'a [Table],
    reference: &'a [TableName],
    found: Vec<Finding>,
}

impl Patient<'_> {
    fn add(&mut self, level: Level, lint: &'static str, part: &str, why: &str, mend: String) {
        let object = if part.is_empty() {
            self.table.name.to_string()
        } else {
            format!("{part} on {}", self.table.name)
        };
        let (database, why) = (self.database.to_owned(), why.to_owned());
        self.found.push(Finding { level, lint, database, object, why, mend });
    }

    fn hole(&mut self, lint: &'static str, part: &str, why: &str, mend: String) {
        self.add(Level::Hole, lint, part, why, mend);
    }

    fn column(&mut self) {
        let name = &self.name;
        let Some(column) = self.table.columns.iter().find(|column| column.name == TENANT_ID) else {
            let mend = format!(
                "-- Rows that are there need their tenant first; a table that belongs to no tenant is to be listed as one.\n\
                 ALTER TABLE {name} ADD COLUMN tenant_id uuid NOT NULL;"
            );
            return self.hole(
                "tenant-column-missing",
                "",
                "its rows say of no tenant that they are its own",
                mend,
            );
        };
        if column.data_type != "uuid" {
            let drops: Vec<String> = self
                .table
                .policies
                .iter()
                .map(|policy| format!("DROP POLICY {} ON {name};\n", quote(&policy.name)))
                .collect();
            let mend = format!(
                "{}ALTER TABLE {name} ALTER COLUMN tenant_id TYPE uuid USING tenant_id::uuid;\n{}\n{}",
                drops.concat(),
                create_fence(name),
                create_rows(name)
            );
            self.hole(
                "tenant-column-type",
                "",
                "tenant_id is no uuid, so it is compared by a cast that no index serves, or as text",
                mend,
            );
        }
        if !column.not_null {
            let mend = format!("ALTER TABLE {} ALTER COLUMN tenant_id SET NOT NULL;", self.name);
            self.hole(
                "tenant-column-nullable",
                "",
                "a row without a tenant escapes keys and references",
                mend,
            );
        }
    }

    fn security(&mut self) {
        if !self.table.secured {
            let mend = format!("ALTER TABLE {} ENABLE ROW LEVEL SECURITY;", self.name);
            self.hole("rls-off", "", "without row-level security its policies do not hold", mend);
        }
        if !self.table.forced {
            let mend = format!("ALTER TABLE {} FORCE ROW LEVEL SECURITY;", self.name);
            self.hole("rls-not-forced", "", "the owner passes by policies that are not forced", mend);
        }
    }

    fn policies(&mut self) {
        let name = self.name.clone();
        let policies = &self.table.policies;
        if !policies.iter().any(|policy| !policy.permissive && policy.for_all && is_fence(policy)) {
            let why =
                "no restrictive policy for every command and role lets the bound tenant's rows through alone";
            let mend = format!("DROP POLICY IF EXISTS tenant_fence ON {name};\n{}", create_fence(&name));
            self.hole("fence-missing", "", why, mend);
        }
        for policy in policies.iter().filter(|policy| !is_fence(policy)) {
            let part = format!("policy {}", policy.name);
            let mend = format!("DROP POLICY {} ON {name};", quote(&policy.name));
            if policy.permissive {
                self.hole("policy-wider", &part, "its condition is not the fence's, so it shows more", mend);
            } else if policy.name != "tenant_fence" {
                let why = "its condition is not the fence's; a restrictive policy hides rows, and what it calls sees them";
                self.add(Level::Note, "policy-unknown", &part, why, mend);
            }
        }
        if !policies.iter().any(|policy| policy.permissive && is_fence(policy)) {
            let mend = format!("DROP POLICY IF EXISTS tenant_rows ON {name};\n{}", create_rows(&name));
            self.add(
                Level::Note,
                "rows-invisible",
                "",
                "without a permissive policy nobody sees a row",
                mend,
            );
        }
    }

    fn references(&mut self) {
        for key in &self.table.foreign_keys {
            if self.reference.contains(&key.references) {
                continue;
            }
            let parent = self.tables.iter().find(|table| table.name == key.references && table.is_table);
            let carries =
                key.columns.iter().zip(&key.referenced).any(|(a, b)| a == TENANT_ID && b == TENANT_ID);
            let part = format!("foreign key {}", key.name);
            if parent.is_none() || !carries {
                let why = "Postgres checks it without policies, so it can name another tenant's row, or delete by one";
                self.hole("foreign-key-without-tenant", &part, why, self.remake(key, parent));
            } else if key.forgets(TENANT_ID) {
                let why = "it would set tenant_id as well; SET NULL and SET DEFAULT need a list of the other columns";
                self.hole("foreign-key-forgets-tenant", &part, why, self.remake(key, parent));
            }
        }
    }

    /// A table of no tenant refers to none: a row of it would show, and by a cascade delete, a tenant's.
    fn references_of_no_tenant(&mut self) {
        for key in &self.table.foreign_keys {
            if self.tables.iter().any(|table| table.name == key.references)
                && !self.reference.contains(&key.references)
            {
                let part = format!("foreign key {}", key.name);
                let mend = format!("ALTER TABLE {} DROP CONSTRAINT {};", self.name, quote(&key.name));
                let why = "a table that belongs to no tenant refers to a tenant's rows";
                self.hole("foreign-key-without-tenant", &part, why, mend);
            }
        }
    }

    /// The key with the tenant in front; dropped where the other table knows no tenant.
    fn remake(&self, key: &ForeignKey, parent: Option<&Table>) -> String {
        let (name, constraint) = (&self.name, quote(&key.name));
        let drop = format!("ALTER TABLE {name} DROP CONSTRAINT {constraint};");
        let Some(parent) = parent.filter(|parent| has_tenant(parent)) else { return drop };
        let pairs = key.columns.iter().zip(&key.referenced);
        let pairs: Vec<_> = pairs.filter(|(a, b)| *a != TENANT_ID && *b != TENANT_ID).collect();
        let mine: Vec<&str> = pairs.iter().map(|(a, _)| a.as_str()).collect();
        let theirs: Vec<&str> = pairs.iter().map(|(_, b)| b.as_str()).collect();
        let parent_name = sql_name(&parent.name);
        let unique = parent.indexes.iter().any(|index| index.admits_once(&with_tenant(&theirs)));
        let unique = if unique {
            String::new()
        } else {
            format!("\nCREATE UNIQUE INDEX ON {parent_name} ({});", column_list(&with_tenant(&theirs)))
        };
        let set = if mine.is_empty() { String::new() } else { format!(" ({})", column_list(&mine)) };
        let on_delete = match key.on_delete.as_str() {
            action @ ("SET NULL" | "SET DEFAULT") => format!("{action}{set}"),
            action => action.to_owned(),
        };
        // A list of columns is there for deletes alone; numbers do not change, so nothing is lost.
        let on_update = match key.on_update.as_str() {
            "SET NULL" | "SET DEFAULT" => "NO ACTION",
            action => action,
        };
        format!(
            "{drop}{unique}\nALTER TABLE {name} ADD CONSTRAINT {constraint} FOREIGN KEY ({}) REFERENCES {parent_name} ({}) \
             ON UPDATE {on_update} ON DELETE {on_delete};",
            column_list(&with_tenant(&mine)),
            column_list(&with_tenant(&theirs)),
        )
    }

    fn keys(&mut self) {
        let name = self.name.clone();
        if self.table.primary_key().is_empty() {
            let mend = format!(
                "ALTER TABLE {name} ADD COLUMN row_id uuid NOT NULL DEFAULT gen_random_uuid(), ADD PRIMARY KEY (tenant_id, row_id);"
            );
            let why = "without a primary key its rows cannot be moved or told apart";
            self.add(Level::Partial, "primary-key-missing", "", why, mend);
        }
        let odd = |index: &&Index| {
            if index.exclusion { !index.excludes_by(TENANT_ID) } else { !index.leads_with(TENANT_ID) }
        };
        for index in self.table.indexes.iter().filter(odd) {
            let drop = if index.constraint {
                format!("ALTER TABLE {name} DROP CONSTRAINT {};", quote(&index.name))
            } else {
                format!("DROP INDEX {}.{};", quote(&self.table.name.schema), quote(&index.name))
            };
            let part = format!("index {}", index.name);
            if index.exclusion {
                let mend = if index.compares(TENANT_ID) {
                    // Rows of one tenant that differ in it: there are none, so nothing would be left of it.
                    drop
                } else {
                    format!("{drop}\n{}", exclude_by_tenant(&name, index))
                };
                let why = "it compares rows of all tenants, so one learns of and blocks another's";
                self.hole("exclusion-without-tenant", &part, why, mend);
            } else if index.unique {
                let mend = format!("{drop}\n{}", unique_by_tenant(&name, index));
                let why = "it is unique among all tenants, so one learns of and blocks another's values";
                self.hole("key-without-tenant", &part, why, mend);
            } else {
                let why = "it does not lead with tenant_id, so what one tenant's query costs hangs on the others' rows";
                let mend = format!("{drop}\n{}", index_by_tenant(&name, index));
                self.add(Level::Partial, "index-without-tenant", &part, why, mend);
            }
        }
    }
}

pub(crate) fn is_fence(policy: &Policy) -> bool {
    let whole = policy.using.as_deref() == Some(FENCE) && policy.check.as_deref() == Some(FENCE);
    // A policy for one command has what that command takes.
    let part = policy.permissive
        && !policy.for_all
        && [&policy.using, &policy.check].into_iter().flatten().all(|condition| condition == FENCE);
    whole || part
}

fn has_tenant(table: &Table) -> bool {
    table.kind != RelationKind::Foreign && table.columns.iter().any(|column| column.name == TENANT_ID)
}

pub(crate) fn sql_name(name: &TableName) -> String {
    format!("{}.{}", quote(&name.schema), quote(&name.name))
}

pub(crate) fn create_fence(table: &str) -> String {
    format!(
        "CREATE POLICY tenant_fence ON {table} AS RESTRICTIVE FOR ALL TO PUBLIC\n    \
         USING ({CONDITION}) WITH CHECK ({CONDITION});"
    )
}

pub(crate) fn create_rows(table: &str) -> String {
    format!(
        "CREATE POLICY tenant_rows ON {table} AS PERMISSIVE FOR ALL TO PUBLIC\n    \
         USING ({CONDITION}) WITH CHECK ({CONDITION});"
    )
}

fn with_tenant<'a>(columns: &[&'a str]) -> Vec<&'a str> {
    let others = columns.iter().copied().filter(|column| *column != TENANT_ID);
    std::iter::once(TENANT_ID).chain(others).collect()
}

pub(crate) fn column_list(columns: &[&str]) -> String {
    columns.iter().map(|column| quote(column)).collect::<Vec<_>>().join(", ")
}

/// What the definition says after its method's name and the opening parenthesis, with the tenant put in front.
fn index_by_tenant(table: &str, index: &Index) -> String {
    match index.definition.split_once(" USING btree (") {
        Some((head, rest)) => format!("{head} USING btree (tenant_id, {rest};"),
        // Other methods take no uuid.
        None => format!("CREATE INDEX ON {table} (tenant_id);"),
    }
}

fn unique_by_tenant(table: &str, index: &Index) -> String {
    if !index.constraint {
        return index_by_tenant(table, index);
    }
    // The columns of a constraint are columns, and each may stand in it once.
    let columns: Vec<&str> =
        index.columns.iter().map(String::as_str).filter(|column| *column != TENANT_ID).collect();
    let kind = if index.primary { "PRIMARY KEY" } else { "UNIQUE" };
    let columns = std::iter::once(TENANT_ID).chain(columns).collect::<Vec<_>>().join(", ");
    format!("ALTER TABLE {table} ADD CONSTRAINT {} {kind} ({columns});", quote(&index.name))
}

fn exclude_by_tenant(table: &str, index: &Index) -> String {
    let definition = index.definition.replacen('(', "(tenant_id WITH =, ", 1);
    let extension = "CREATE EXTENSION IF NOT EXISTS btree_gist;";
    format!("{extension}\nALTER TABLE {table} ADD CONSTRAINT {} {definition};", quote(&index.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::tests::{bare, named, primary, reference};

    fn policy(name: &str, permissive: bool) -> Policy {
        Policy {
            name: name.to_owned(),
            permissive,
            for_all: true,
            using: Some(FENCE.to_owned()),
            check: Some(FENCE.to_owned()),
        }
    }

    /// A table that keeps every rule.
    fn protected(name: &str) -> Table {
        Table { policies: vec![policy("tenant_fence", false), policy("tenant_rows", true)], ..bare(name) }
    }

    fn found(change: impl FnOnce(&mut Table)) -> Vec<Finding> {
        let mut table = protected("musician");
        change(&mut table);
        examine_tables("db", &[table, protected("position")], &[])
    }

    fn lints(change: impl FnOnce(&mut Table)) -> Vec<&'static str> {
        found(change).into_iter().map(|finding| finding.lint).collect()
    }

    #[test]
    fn a_protected_table_is_sound() {
        assert_eq!(lints(|_| {}), [""; 0]);
    }

    #[test]
    fn each_missing_piece_is_found() {
        assert_eq!(lints(|t| t.columns[0].not_null = false), ["tenant-column-nullable"]);
        assert_eq!(lints(|t| t.columns[0].data_type = "text".to_owned()), ["tenant-column-type"]);
        assert_eq!(lints(|t| t.columns.truncate(0)), ["tenant-column-missing"]);
        assert_eq!(lints(|t| t.secured = false), ["rls-off"]);
        assert_eq!(lints(|t| t.forced = false), ["rls-not-forced"]);
        assert_eq!(lints(|t| t.policies[0].permissive = true), ["fence-missing"]);
        assert_eq!(lints(|t| t.policies[0].for_all = false), ["fence-missing"]);
        assert_eq!(
            lints(|t| t.policies[1].using = Some("true".to_owned())),
            ["policy-wider", "rows-invisible"]
        );
        assert_eq!(lints(|t| t.policies.truncate(1)), ["rows-invisible"]);
        assert_eq!(lints(|t| t.indexes[0].columns.rotate_left(1)), ["key-without-tenant"]);
        assert_eq!(lints(|t| t.indexes.clear()), ["primary-key-missing"]);
    }

    #[test]
    fn a_fence_of_another_condition_is_none() {
        assert_eq!(lints(|t| t.policies[0].using = Some("true".to_owned())), ["fence-missing"]);
        let narrow = |t: &mut Table| {
            let using = Some("(no > 0)".to_owned());
            t.policies.push(Policy { using, ..policy("odd", false) });
        };
        assert_eq!(lints(narrow), ["policy-unknown"]);
    }

    #[test]
    fn a_permissive_policy_for_one_command_may_say_half() {
        let own = |t: &mut Table| {
            t.policies.push(Policy { for_all: false, check: None, ..policy("own_rows", true) });
        };
        assert_eq!(lints(own), [""; 0]);
        // For all commands, a missing check lets USING decide; it is not how the fence is written.
        assert_eq!(lints(|t| t.policies[1].check = None), ["policy-wider", "rows-invisible"]);
    }

    #[test]
    fn a_reference_carries_the_tenant_and_stays_among_tenant_tables() {
        let key = |columns: &[&str; 2], to: &str| {
            let key = reference("k", columns, to, &["tenant_id", "no"]);
            lints(|t| t.foreign_keys.push(key))
        };
        assert_eq!(key(&["tenant_id", "position_no"], "position"), [""; 0]);
        // The tenant's column refers to a number there: the pair is crossed.
        for crossed in [["position_no", "tenant_id"], ["position_no", "other_no"]] {
            assert_eq!(key(&crossed, "position"), ["foreign-key-without-tenant"]);
        }
        assert_eq!(key(&["tenant_id", "position_no"], "elsewhere"), ["foreign-key-without-tenant"]);
    }

    #[test]
    fn a_reference_is_made_anew_with_the_tenant_in_front() {
        let key = reference("k", &["position_no"], "position", &["no"]);
        let mend = found(|t| t.foreign_keys.push(key)).remove(0).mend;
        assert!(
            mend.ends_with(
                r#"FOREIGN KEY ("tenant_id", "position_no") REFERENCES "tenant"."position" ("tenant_id", "no") ON UPDATE NO ACTION ON DELETE NO ACTION;"#
            ),
            "{mend}"
        );
        assert!(!mend.contains("CREATE UNIQUE INDEX"), "{mend}");
        let key = reference("k", &["position_name"], "position", &["name"]);
        let mend = found(|t| t.foreign_keys.push(key)).remove(0).mend;
        assert!(
            mend.contains(r#"CREATE UNIQUE INDEX ON "tenant"."position" ("tenant_id", "name")"#),
            "{mend}"
        );
    }

    #[test]
    fn what_a_delete_sets_must_not_be_the_tenant() {
        let key = |set: &[&str]| {
            let mut key = reference("k", &["tenant_id", "position_no"], "position", &["tenant_id", "no"]);
            key.on_delete = "SET NULL".to_owned();
            key.set_columns = set.iter().map(ToString::to_string).collect();
            found(|t| t.foreign_keys.push(key))
        };
        assert_eq!(key(&["position_no"]), []);
        for set in [&[][..], &["tenant_id", "position_no"]] {
            let found = key(set);
            assert_eq!(found[0].lint, "foreign-key-forgets-tenant");
            assert!(found[0].mend.contains(r#"ON DELETE SET NULL ("position_no")"#), "{}", found[0].mend);
        }
    }

    #[test]
    fn an_index_keeps_what_it_was_behind_the_tenant() {
        let index = |unique: bool, method: &str| Index {
            name: "i".to_owned(),
            primary: false,
            unique,
            constraint: false,
            definition: format!(
                "CREATE INDEX i ON tenant.musician USING {method} (lower(name)) WHERE (no > 1)"
            ),
            ..primary("musician", &["lower(name)"])
        };
        let found = found(|t| t.indexes.extend([index(true, "btree"), index(false, "gin")]));
        assert_eq!(found[0].lint, "key-without-tenant");
        assert!(
            found[0].mend.contains("USING btree (tenant_id, lower(name)) WHERE (no > 1);"),
            "{}",
            found[0].mend
        );
        assert_eq!((found[1].lint, found[1].level), ("index-without-tenant", Level::Partial));
        assert!(
            found[1].mend.contains("CREATE INDEX ON \"tenant\".\"musician\" (tenant_id);"),
            "{}",
            found[1].mend
        );
    }

    #[test]
    fn a_table_without_tenants_must_be_named_as_one_and_refers_to_none() {
        let mut languages = protected("language");
        languages.policies.clear();
        languages.columns.remove(0);
        assert_ne!(examine_tables("db", std::slice::from_ref(&languages), &[]), []);
        let listed = [named("language")];
        assert_eq!(examine_tables("db", std::slice::from_ref(&languages), &listed), []);
        languages.foreign_keys.push(reference("k", &["no"], "musician", &["no"]));
        let found = examine_tables("db", &[languages, protected("musician")], &listed);
        assert_eq!(
            found.iter().map(|finding| finding.lint).collect::<Vec<_>>(),
            ["foreign-key-without-tenant"]
        );
    }

    #[test]
    fn names_that_need_quotes_get_them() {
        let found = found(|t| {
            t.name.name = "or\"der".to_owned();
            t.forced = false;
        });
        assert_eq!(found[0].mend, r#"ALTER TABLE "tenant"."or""der" FORCE ROW LEVEL SECURITY;"#);
    }
}
