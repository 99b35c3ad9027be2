//! Columns, keys, references and policies: what makes a table a tenant table.

use std::collections::HashSet;

use super::survey::Survey;
use super::{Adoption, Decision, Plan, Step};
use crate::catalogue::{ForeignKey, Index, Table};
use crate::doctor::tables::{TENANT_ID, column_list, create_fence, create_rows, is_fence, sql_name};
use crate::roles::quote;

/// Gives the column that says whose a row is the name that the fence asks for.
pub(super) fn renames(survey: &Survey, adoption: &Adoption) -> Vec<Step> {
    let Some(column) = adoption.tenant_column.as_deref().filter(|column| *column != TENANT_ID) else {
        return Vec::new();
    };
    let has = |table: &Table, name: &str| table.columns.iter().any(|column| column.name == name);
    survey
        .tenants()
        .filter(|table| has(table, column) && !has(table, TENANT_ID))
        .map(|table| {
            let rename = format!("RENAME COLUMN {} TO {TENANT_ID};", quote(column));
            step(table, format!("ALTER TABLE {} {rename}", sql_name(&table.name)))
        })
        .collect()
}

/// Keeps everybody else away from them until the transaction ends.
pub(super) fn lock(survey: &Survey) -> Vec<Step> {
    let lock = |table: &Table| {
        step(table, format!("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE;", sql_name(&table.name)))
    };
    survey.tables.iter().map(lock).collect()
}

/// What the tables lack, in an order in which it can be done.
pub(super) fn plan(survey: &Survey, adoption: &Adoption) -> Plan {
    let work = Work { survey, adoption };
    let (columns, decisions) = work.columns();
    let remade: Vec<(&Table, &ForeignKey)> = work.remade();
    let mut structure: Vec<Step> = Vec::new();
    for (table, key) in &remade {
        let drop = format!("ALTER TABLE {} DROP CONSTRAINT {};", sql_name(&table.name), quote(&key.name));
        structure.push(step(table, drop));
    }
    structure.extend(columns);
    for table in survey.tenants() {
        structure.extend(work.keys(table));
    }
    for (table, key) in &remade {
        structure.push(step(table, work.reference(table, key)));
    }
    // DDL that reads rows is refused an owner whom policies hold.
    let lifted: Vec<&Table> =
        survey.tenants().filter(|table| table.forced && !structure.is_empty()).collect();
    let mut steps: Vec<Step> = lifted
        .iter()
        .map(|table| {
            step(table, format!("ALTER TABLE {} NO FORCE ROW LEVEL SECURITY;", sql_name(&table.name)))
        })
        .collect();
    steps.append(&mut structure);
    for table in survey.tenants() {
        steps.extend(security(table, lifted.contains(&table)));
    }
    Plan { steps, decisions }
}

fn step(table: &Table, sql: String) -> Step {
    Step { object: table.name.to_string(), sql }
}

fn has_tenant(table: &Table) -> bool {
    table.columns.iter().any(|column| column.name == TENANT_ID)
}

/// The survey, and what was decided.
struct Work<'a> {
    survey: &'a Survey,
    adoption: &'a Adoption,
}

impl<'a> Work<'a> {
    /// The column in every table, filled.
    fn columns(&self) -> (Vec<Step>, Vec<Decision>) {
        let (mut steps, mut decisions) = (Vec::new(), Vec::new());
        for table in self.survey.tenants() {
            let Some(column) = table.columns.iter().find(|column| column.name == TENANT_ID) else { continue };
            if column.not_null {
                continue;
            }
            let name = sql_name(&table.name);
            if self.survey.unsaid.contains(&table.name.name) {
                match self.adoption.tenant {
                    Some(tenant) => steps.push(step(
                        table,
                        format!("UPDATE {name} SET {TENANT_ID} = '{tenant}' WHERE {TENANT_ID} IS NULL;"),
                    )),
                    None => decisions
                        .push(undecided(table, "some of its rows say of no tenant that they are its own")),
                }
            }
            steps.push(step(table, format!("ALTER TABLE {name} ALTER COLUMN {TENANT_ID} SET NOT NULL;")));
        }
        // Whose a row is may be known by what it belongs to; so those come first that others belong to.
        let mut known: HashSet<&str> = self
            .survey
            .tenants()
            .filter(|table| has_tenant(table))
            .map(|table| table.name.name.as_str())
            .collect();
        let mut missing: Vec<&Table> = self.survey.tenants().filter(|table| !has_tenant(table)).collect();
        while !missing.is_empty() {
            let parent = missing
                .iter()
                .enumerate()
                .find_map(|(place, table)| never_null_parent(table, &known).map(|parent| (place, parent)));
            let (table, filled) = if let Some((place, parent)) = parent {
                let table = missing.remove(place);
                (table, by_parent(table, parent))
            } else {
                // Nobody knows of one; of those that belong to no other that is asked about, the first.
                let asked: HashSet<&str> = missing.iter().map(|table| table.name.name.as_str()).collect();
                let first = missing.iter().position(|table| never_null_parent(table, &asked).is_none());
                let table = missing.remove(first.unwrap_or(0));
                (table, self.by_decision(table, &mut decisions))
            };
            steps.extend(filled.into_iter().map(|sql| step(table, sql)));
            known.insert(&table.name.name);
        }
        (steps, decisions)
    }

    fn by_decision(&self, table: &Table, decisions: &mut Vec<Decision>) -> Vec<String> {
        let name = sql_name(&table.name);
        let filled = self.survey.filled.contains(&table.name.name);
        match self.adoption.tenant {
            // A default that is the same for all is kept with the table, and no row is written.
            Some(tenant) if filled => vec![
                format!("ALTER TABLE {name} ADD COLUMN {TENANT_ID} uuid NOT NULL DEFAULT '{tenant}';"),
                format!("ALTER TABLE {name} ALTER COLUMN {TENANT_ID} DROP DEFAULT;"),
            ],
            None if filled => {
                decisions.push(undecided(table, "it has rows, and no column that says whose they are"));
                vec![format!("ALTER TABLE {name} ADD COLUMN {TENANT_ID} uuid NOT NULL;")]
            }
            _ => vec![format!("ALTER TABLE {name} ADD COLUMN {TENANT_ID} uuid NOT NULL;")],
        }
    }

    /// References that do not carry the tenant, would forget it, or hang on a key that is made anew.
    fn remade(&self) -> Vec<(&'a Table, &'a ForeignKey)> {
        let anew: HashSet<(&str, &str)> = self
            .survey
            .tenants()
            .flat_map(|table| {
                let indexes = table.indexes.iter().filter(|index| is_anew(index));
                indexes.map(|index| (table.name.name.as_str(), index.name.as_str()))
            })
            .collect();
        let mut remade = Vec::new();
        for table in self.survey.tenants() {
            for key in &table.foreign_keys {
                if self.survey.reference.contains(&key.references) {
                    continue;
                }
                let carries =
                    key.columns.iter().zip(&key.referenced).any(|(a, b)| a == TENANT_ID && b == TENANT_ID);
                let on = self.survey.references.get(&(table.name.name.clone(), key.name.clone()));
                let hangs =
                    on.is_some_and(|on| anew.contains(&(key.references.name.as_str(), on.index.as_str())));
                if !carries || key.forgets(TENANT_ID) || hangs {
                    remade.push((table, key));
                }
            }
        }
        remade
    }

    /// The reference with the tenant in front.
    fn reference(&self, table: &Table, key: &ForeignKey) -> String {
        let pairs = key.columns.iter().zip(&key.referenced);
        let (mine, theirs): (Vec<&str>, Vec<&str>) = pairs
            .filter(|(a, b)| *a != TENANT_ID && *b != TENANT_ID)
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .unzip();
        let on_delete = match key.on_delete.as_str() {
            action @ ("SET NULL" | "SET DEFAULT") => {
                let listed = |column: &&str| {
                    key.set_columns.is_empty() || key.set_columns.iter().any(|set| set == column)
                };
                let set: Vec<&str> = mine.iter().copied().filter(listed).collect();
                format!("{action} ({})", column_list(&set))
            }
            action => action.to_owned(),
        };
        let on = self.survey.references.get(&(table.name.name.clone(), key.name.clone()));
        let timing = on.map_or("", |on| on.timing.as_str());
        format!(
            "ALTER TABLE {} ADD CONSTRAINT {} FOREIGN KEY ({TENANT_ID}, {}) REFERENCES {} ({TENANT_ID}, {}) \
             ON UPDATE {} ON DELETE {on_delete}{timing};",
            sql_name(&table.name),
            quote(&key.name),
            column_list(&mine),
            sql_name(&key.references),
            column_list(&theirs),
            key.on_update,
        )
    }

    /// Keys and indexes with the tenant in front.
    fn keys(&self, table: &Table) -> Vec<Step> {
        let name = sql_name(&table.name);
        let mut steps = Vec::new();
        for index in table.indexes.iter().filter(|index| is_anew(index)) {
            let (drop, make) = if index.exclusion {
                let definition = index.definition.replacen('(', &format!("({TENANT_ID} WITH =, "), 1);
                constraint(&name, index, &definition)
            } else if let Some(definition) = self
                .survey
                .keys
                .get(&(table.name.name.clone(), index.name.clone()))
                .filter(|_| index.constraint)
            {
                constraint(&name, index, &key_by_tenant(definition, index))
            } else {
                let drop = format!("DROP INDEX {}.{};", quote(&table.name.schema), quote(&index.name));
                (drop, index_by_tenant(index))
            };
            steps.push(step(table, drop));
            steps.push(step(table, make));
        }
        steps
    }
}

/// A reference of every row to a row of one of these tables.
fn never_null_parent<'t>(table: &'t Table, parents: &HashSet<&str>) -> Option<&'t ForeignKey> {
    let never_null =
        |name: &String| table.columns.iter().any(|column| column.name == *name && column.not_null);
    table.foreign_keys.iter().find(|key| {
        key.references.schema == table.name.schema
            && key.references != table.name
            && parents.contains(key.references.name.as_str())
            && key.columns.iter().all(never_null)
    })
}

fn undecided(table: &Table, what: &str) -> Decision {
    Decision {
        table: table.name.to_string(),
        question: format!(
            "{what}; --tenant ID gives them all to one tenant, a column {TENANT_ID} uuid that you fill to several"
        ),
    }
}

fn is_anew(index: &Index) -> bool {
    if index.exclusion { !index.excludes_by(TENANT_ID) } else { !index.leads_with(TENANT_ID) }
}

/// Each row is its parent's tenant's.
fn by_parent(table: &Table, parent: &ForeignKey) -> Vec<String> {
    let name = sql_name(&table.name);
    let same: Vec<String> = parent
        .columns
        .iter()
        .zip(&parent.referenced)
        .map(|(mine, theirs)| format!("c.{} = p.{}", quote(mine), quote(theirs)))
        .collect();
    vec![
        format!("ALTER TABLE {name} ADD COLUMN {TENANT_ID} uuid;"),
        format!(
            "UPDATE {name} AS c SET {TENANT_ID} = p.{TENANT_ID} FROM {} AS p WHERE {};",
            sql_name(&parent.references),
            same.join(" AND ")
        ),
        format!("ALTER TABLE {name} ALTER COLUMN {TENANT_ID} SET NOT NULL;"),
    ]
}

fn constraint(table: &str, index: &Index, definition: &str) -> (String, String) {
    let constraint = quote(&index.name);
    let drop = format!("ALTER TABLE {table} DROP CONSTRAINT {constraint};");
    (drop, format!("ALTER TABLE {table} ADD CONSTRAINT {constraint} {definition};"))
}

/// The columns of a key are columns, and each may stand in it once; what is around them stays.
fn key_by_tenant(definition: &str, index: &Index) -> String {
    let others = index.columns.iter().map(String::as_str).filter(|column| *column != TENANT_ID);
    let columns: Vec<&str> = std::iter::once(TENANT_ID).chain(others).collect();
    let now = format!("({})", index.columns.join(", "));
    definition.replacen(&now, &format!("({})", columns.join(", ")), 1)
}

/// The index as it was made, with the tenant put in front of its columns. A hash index, which has one column, becomes
/// an ordered one.
fn index_by_tenant(index: &Index) -> String {
    let (head, method, columns) = split(&index.definition);
    let method = if method == "hash" { "btree" } else { method };
    format!("{head}{method} ({TENANT_ID}, {columns};")
}

/// A definition as Postgres writes it, taken apart at its method: the word USING that stands in no quoted name.
fn split(definition: &str) -> (&str, &str, &str) {
    const USING: &str = " USING ";
    let mut quoted = false;
    let using = definition.char_indices().find_map(|(place, letter)| {
        quoted ^= letter == '"';
        (!quoted && definition[place..].starts_with(USING)).then_some(place + USING.len())
    });
    let using = using.expect("Postgres writes every index with its method");
    let (method, columns) =
        definition[using..].split_once(" (").expect("Postgres writes every index with its columns");
    (&definition[..using], method, columns)
}

/// Row-level security, forced, with the fence and the policy that shows a tenant its rows.
fn security(table: &Table, lifted: bool) -> Vec<Step> {
    let name = sql_name(&table.name);
    let mut sql = Vec::new();
    if !table.secured {
        sql.push(format!("ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;"));
    }
    if !table.policies.iter().any(|policy| !policy.permissive && policy.for_all && is_fence(policy)) {
        if table.policies.iter().any(|policy| policy.name == "tenant_fence") {
            sql.push(format!("DROP POLICY tenant_fence ON {name};"));
        }
        sql.push(create_fence(&name));
    }
    if !table.policies.iter().any(|policy| policy.permissive && is_fence(policy)) {
        if table.policies.iter().any(|policy| policy.name == "tenant_rows") {
            sql.push(format!("DROP POLICY tenant_rows ON {name};"));
        }
        sql.push(create_rows(&name));
    }
    if !table.forced || lifted {
        sql.push(format!("ALTER TABLE {name} FORCE ROW LEVEL SECURITY;"));
    }
    sql.into_iter().map(|sql| step(table, sql)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::survey::Reference;
    use super::*;
    use crate::catalogue::tests::{bare, column, primary, reference};

    fn of(tables: Vec<Table>) -> Survey {
        let mut survey = Survey { tables, ..Survey::default() };
        for table in &survey.tables {
            for index in table.indexes.iter().filter(|index| index.constraint) {
                let kind = if index.primary { "PRIMARY KEY" } else { "UNIQUE" };
                let definition = format!("{kind} ({})", index.columns.join(", "));
                survey.keys.insert((table.name.name.clone(), index.name.clone()), definition);
            }
        }
        survey
    }

    /// A table as people make them who know no tenants.
    fn plain(name: &str) -> Table {
        let mut table = bare(name);
        (table.secured, table.forced) = (false, false);
        table.columns = vec![column("id", "bigint")];
        table.indexes = vec![primary(name, &["id"])];
        table
    }

    fn sql(survey: &Survey, adoption: &Adoption) -> Vec<String> {
        plan(survey, adoption).steps.into_iter().map(|step| step.sql).collect()
    }

    fn adoption() -> Adoption {
        Adoption::of("tenant")
    }

    #[test]
    fn an_empty_table_gets_its_column_key_and_policies() {
        let statements = sql(&of(vec![plain("note")]), &adoption());
        assert_eq!(statements[0], r#"ALTER TABLE "tenant"."note" ADD COLUMN tenant_id uuid NOT NULL;"#);
        assert_eq!(statements[1], r#"ALTER TABLE "tenant"."note" DROP CONSTRAINT "note_pkey";"#);
        assert_eq!(
            statements[2],
            r#"ALTER TABLE "tenant"."note" ADD CONSTRAINT "note_pkey" PRIMARY KEY (tenant_id, id);"#
        );
        assert!(statements[3].ends_with("ENABLE ROW LEVEL SECURITY;"));
        assert!(statements[4].contains("AS RESTRICTIVE") && statements[5].contains("AS PERMISSIVE"));
        assert!(statements[6].ends_with(" FORCE ROW LEVEL SECURITY;"));
        assert_eq!(statements.len(), 7);
    }

    #[test]
    fn whose_rows_they_are_is_asked_and_never_guessed() {
        let mut survey = of(vec![plain("note")]);
        survey.filled.insert("note".to_owned());
        let asked = plan(&survey, &adoption()).decisions;
        assert_eq!(asked.len(), 1);
        assert!(asked[0].question.contains("--tenant"), "{asked:?}");
        let tenant = "018f0000-0000-7000-8000-000000000001".parse().unwrap();
        let decided = plan(&survey, &adoption().tenant(tenant));
        assert_eq!(decided.decisions, []);
        assert!(decided.steps[0].sql.ends_with("NOT NULL DEFAULT '018f0000-0000-7000-8000-000000000001';"));
    }

    #[test]
    fn rows_that_belong_to_a_row_are_its_tenants() {
        let mut child = plain("line");
        child.columns.push(column("note_id", "bigint"));
        child.foreign_keys.push(reference("line_note", &["note_id"], "note", &["id"]));
        let mut grandchild = plain("mark");
        grandchild.columns.push(column("line_id", "bigint"));
        grandchild.foreign_keys.push(reference("mark_line", &["line_id"], "line", &["id"]));
        let mut parent = plain("note");
        parent.columns.push(column("tenant_id", "uuid"));
        let mut survey = of(vec![grandchild, child, parent]);
        survey.filled.extend(["line".to_owned(), "mark".to_owned()]);
        let planned = plan(&survey, &adoption());
        assert_eq!(planned.decisions, []);
        let fills: Vec<&str> = planned
            .steps
            .iter()
            .map(|step| step.sql.as_str())
            .filter(|sql| sql.starts_with("UPDATE"))
            .collect();
        assert_eq!(
            fills,
            [
                r#"UPDATE "tenant"."line" AS c SET tenant_id = p.tenant_id FROM "tenant"."note" AS p WHERE c."note_id" = p."id";"#,
                r#"UPDATE "tenant"."mark" AS c SET tenant_id = p.tenant_id FROM "tenant"."line" AS p WHERE c."line_id" = p."id";"#,
            ]
        );
        // One that may belong to nothing says nothing.
        survey.tables[1].columns[1].not_null = false;
        assert_eq!(plan(&survey, &adoption()).decisions.len(), 1);
    }

    #[test]
    fn a_reference_is_made_after_the_key_that_it_hangs_on() {
        let mut note = plain("note");
        note.columns.push(column("above", "bigint"));
        let mut key = reference("note_above", &["above"], "note", &["id"]);
        key.on_delete = "SET NULL".to_owned();
        note.foreign_keys.push(key);
        let mut survey = of(vec![note]);
        let on = ("note".to_owned(), "note_above".to_owned());
        let index = "note_pkey".to_owned();
        survey.references.insert(on, Reference { timing: " DEFERRABLE".to_owned(), index });
        let statements = sql(&survey, &adoption());
        let place = |part: &str| statements.iter().position(|sql| sql.contains(part)).expect(part);
        let made = place(r#"ADD CONSTRAINT "note_above""#);
        assert!(place(r#"DROP CONSTRAINT "note_above""#) < place(r#"DROP CONSTRAINT "note_pkey""#));
        assert!(place(r#"ADD CONSTRAINT "note_pkey""#) < made);
        assert!(
            statements[made].ends_with(
                r#"FOREIGN KEY (tenant_id, "above") REFERENCES "tenant"."note" (tenant_id, "id") ON UPDATE NO ACTION ON DELETE SET NULL ("above") DEFERRABLE;"#
            ),
            "{}",
            statements[made]
        );
    }

    #[test]
    fn a_table_that_keeps_every_rule_needs_nothing() {
        let mut table = bare("note");
        let fence = |name: &str, permissive| crate::catalogue::Policy {
            name: name.to_owned(),
            permissive,
            for_all: true,
            using: Some("(tenant_id = ( SELECT app.tenant_id() AS tenant_id))".to_owned()),
            check: Some("(tenant_id = ( SELECT app.tenant_id() AS tenant_id))".to_owned()),
        };
        table.policies = vec![fence("tenant_fence", false), fence("tenant_rows", true)];
        assert_eq!(plan(&of(vec![table.clone()]), &adoption()), Plan::default());
        // One index is missing its tenant: policies are lifted for the owner while it is made, and forced again.
        table.indexes.push(Index {
            name: "by_name".to_owned(),
            primary: false,
            unique: false,
            constraint: false,
            definition: "CREATE INDEX by_name ON tenant.note USING btree (lower(name))".to_owned(),
            ..primary("note", &["lower(name)"])
        });
        let statements = sql(&of(vec![table]), &adoption());
        assert!(statements[0].contains("NO FORCE") && statements[3].contains(" FORCE"), "{statements:?}");
        assert_eq!(
            statements[2],
            "CREATE INDEX by_name ON tenant.note USING btree (tenant_id, lower(name));"
        );
    }

    #[test]
    fn a_name_does_not_pass_for_a_part_of_the_definition() {
        let definition = r#"CREATE INDEX "a USING gin (""b" ON x."t USING hash (" USING hash (c)"#;
        let (head, method, columns) = split(definition);
        assert_eq!(
            (head, method, columns),
            (r#"CREATE INDEX "a USING gin (""b" ON x."t USING hash (" USING "#, "hash", "c)")
        );
        let index = Index { definition: definition.to_owned(), ..primary("t", &["c"]) };
        assert!(index_by_tenant(&index).ends_with(" USING btree (tenant_id, c);"));
    }

    #[test]
    fn what_stands_around_a_keys_columns_stays() {
        let mut index = primary("note", &["\"Odd, name\"", "tenant_id", "b"]);
        index.columns = vec!["\"Odd, name\"".to_owned(), "tenant_id".to_owned(), "b".to_owned()];
        let definition = "UNIQUE NULLS NOT DISTINCT (\"Odd, name\", tenant_id, b) INCLUDE (c) DEFERRABLE";
        assert_eq!(
            key_by_tenant(definition, &index),
            "UNIQUE NULLS NOT DISTINCT (tenant_id, \"Odd, name\", b) INCLUDE (c) DEFERRABLE"
        );
    }
}
