//! The guards: how each is removed, and put back as it was.

use crate::catalogue::ForeignKey;
use crate::prove::error::ProveError;
use crate::prove::scratch::Bench;
use crate::prove::session::literal;
use crate::prove::subject::{Subject, TENANT_ID, UniqueKey, list};
use crate::roles::{OWNER, quote};

/// The index that stands in for one without the tenant.
pub(super) const WEAK: &str = "prove_without_tenant";

/// A guard.
pub(super) struct Guard {
    /// What it is, for the report.
    pub(super) name: String,
    /// Who may change it, as SQL has it.
    pub(super) role: String,
    /// Takes away what else would refuse the attack.
    pub(super) others: Option<String>,
    /// Takes the guard away.
    pub(super) remove: String,
    /// Puts everything back.
    pub(super) restore: String,
}

impl Guard {
    fn of_table(subject: &Subject, name: &str, remove: String, restore: String) -> Self {
        Self { name: name.to_owned(), role: subject.owner.clone(), others: None, remove, restore }
    }
}

/// Row-level security.
pub(super) fn security(subject: &Subject) -> Guard {
    let table = &subject.name;
    Guard::of_table(
        subject,
        "row-level security",
        format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"),
        format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"),
    )
}

/// Row-level security for the owner.
pub(super) fn force(subject: &Subject) -> Guard {
    let table = &subject.name;
    Guard::of_table(
        subject,
        "FORCE ROW LEVEL SECURITY",
        format!("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY"),
        format!("ALTER TABLE {table} FORCE ROW LEVEL SECURITY"),
    )
}

/// The restrictive policies, which hold where a permissive one was widened.
pub(super) async fn fence(bench: &mut Bench, subject: &Subject) -> Result<Guard, ProveError> {
    let table = &subject.name;
    let definitions = bench
        .read(format!(
            "SELECT format('CREATE POLICY %I ON {} AS %s FOR %s TO %s', policyname, permissive, cmd,
                        array_to_string(ARRAY(SELECT quote_ident(r) FROM unnest(roles) AS r), ', '))
                    || coalesce(' USING (' || qual || ')', '') || coalesce(' WITH CHECK (' || with_check || ')', '')
             FROM pg_catalog.pg_policies WHERE schemaname = {} AND tablename = {} ORDER BY policyname",
            table.replace('\'', "''").replace('%', "%%"),
            literal(&subject.table.name.schema),
            literal(&subject.table.name.name),
        ))
        .await?;
    let (mut wide, mut narrow, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for policy in &subject.table.policies {
        let name = quote(&policy.name);
        let drop = format!("DROP POLICY IF EXISTS {name} ON {table}");
        all.push(drop.clone());
        if policy.permissive {
            wide.push(drop);
            wide.push(format!("CREATE POLICY {name} ON {table} USING (true) WITH CHECK (true)"));
        } else {
            narrow.push(drop);
        }
    }
    all.extend(definitions);
    Ok(Guard {
        others: Some(wide.join(";")),
        ..Guard::of_table(subject, "the restrictive fence", narrow.join(";"), all.join(";"))
    })
}

/// The tenant in a unique key.
pub(super) fn unique_key(subject: &Subject, key: &UniqueKey) -> Guard {
    let parts: Vec<String> = key.parts.iter().map(|part| format!("({part})")).collect();
    let predicate = key.predicate.as_ref().map(|predicate| format!(" WHERE {predicate}")).unwrap_or_default();
    Guard::of_table(
        subject,
        "the tenant in the key",
        format!("CREATE UNIQUE INDEX {WEAK} ON {} ({}){predicate}", subject.name, parts.join(", ")),
        format!("DROP INDEX {}.{WEAK}", quote(&subject.table.name.schema)),
    )
}

/// The tenant in a foreign key. `None`: it consists of nothing else.
pub(super) async fn foreign_key(
    bench: &mut Bench,
    child: &Subject,
    parent: &Subject,
    key: &ForeignKey,
) -> Result<Option<Guard>, ProveError> {
    let pairs = || {
        key.columns
            .iter()
            .zip(&key.referenced)
            .filter(|pair| (pair.0.as_str(), pair.1.as_str()) != (TENANT_ID, TENANT_ID))
    };
    let here: Vec<String> = pairs().map(|(here, _)| here.clone()).collect();
    let there: Vec<String> = pairs().map(|(_, there)| there.clone()).collect();
    if here.is_empty() {
        return Ok(None);
    }
    let (table, other, name) = (&child.name, &parent.name, quote(&key.name));
    let definition = bench
        .read(format!(
            "SELECT pg_get_constraintdef(oid) FROM pg_catalog.pg_constraint
             WHERE conrelid = {}::regclass AND conname = {}",
            literal(table),
            literal(&key.name)
        ))
        .await?
        .join("");
    let forced = |word: &str| {
        let tables = [(table, child.table.forced), (other, parent.table.forced)].into_iter();
        let statements: Vec<String> = tables
            .filter(|(_, forced)| *forced)
            .map(|(table, _)| format!("ALTER TABLE {table} {word} ROW LEVEL SECURITY;"))
            .collect();
        statements.concat()
    };
    // A key that is not validated holds for new rows, which is what is attacked. Validating the one that is put
    // back reads rows, which nobody may without a tenant.
    let remove = format!(
        "ALTER TABLE {table} DROP CONSTRAINT {name};
         CREATE UNIQUE INDEX {WEAK} ON {other} ({there});
         ALTER TABLE {table} ADD CONSTRAINT {name} FOREIGN KEY ({here}) REFERENCES {other} ({there}) NOT VALID",
        here = list(&here),
        there = list(&there),
    );
    let restore = format!(
        "ALTER TABLE {table} DROP CONSTRAINT {name};
         DROP INDEX {}.{WEAK};
         {}ALTER TABLE {table} ADD CONSTRAINT {name} {definition};{}SELECT 1",
        quote(&parent.table.name.schema),
        forced("NO FORCE"),
        forced("FORCE"),
    );
    Ok(Some(Guard::of_table(child, "the tenant in the key", remove, restore)))
}

/// The index that a foreign key by number needs, as whoever makes rows has to know it.
pub(super) fn weak_key(key: &ForeignKey) -> UniqueKey {
    let pairs = key.columns.iter().zip(&key.referenced);
    UniqueKey {
        name: WEAK.to_owned(),
        parts: pairs
            .filter(|pair| (pair.0.as_str(), pair.1.as_str()) != (TENANT_ID, TENANT_ID))
            .map(|(_, there)| quote(there))
            .collect(),
        predicate: None,
        immediate: true,
    }
}

/// That `app.tenant_id()` raises where no tenant is bound.
pub(super) async fn raising(bench: &mut Bench) -> Result<Guard, ProveError> {
    Ok(Guard {
        name: "the error where no tenant is bound".to_owned(),
        role: OWNER.to_owned(),
        others: None,
        remove: "CREATE OR REPLACE FUNCTION app.tenant_id() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
                 RETURN current_setting('app.tenant_id', true)::uuid"
            .to_owned(),
        restore: definition(bench, "app.tenant_id()").await?,
    })
}

/// What `app.enter` checks.
pub(super) async fn epoch_check(bench: &mut Bench) -> Result<Guard, ProveError> {
    Ok(Guard {
        name: "the epoch check".to_owned(),
        role: OWNER.to_owned(),
        others: None,
        remove: "CREATE OR REPLACE PROCEDURE app.enter(expected_epoch bigint) LANGUAGE plpgsql
                 AS 'BEGIN PERFORM app.tenant_id(); END'"
            .to_owned(),
        restore: definition(bench, "app.enter(bigint)").await?,
    })
}

/// That `app.refuse` raises.
pub(super) async fn refusal(bench: &mut Bench) -> Result<Guard, ProveError> {
    Ok(Guard {
        name: "the refusal of another epoch".to_owned(),
        role: OWNER.to_owned(),
        others: None,
        remove: "CREATE OR REPLACE FUNCTION app.refuse(expected_epoch bigint) RETURNS boolean
                 LANGUAGE plpgsql STABLE PARALLEL SAFE AS 'BEGIN RETURN true; END'"
            .to_owned(),
        restore: definition(bench, "app.refuse(bigint)").await?,
    })
}

/// That `app.bind` refuses whoever may write or is bound.
pub(super) async fn binding(bench: &mut Bench) -> Result<Guard, ProveError> {
    Ok(Guard {
        name: "the refusal to bind again, or to write".to_owned(),
        role: OWNER.to_owned(),
        others: None,
        remove: "CREATE OR REPLACE FUNCTION app.bind(wanted uuid) RETURNS uuid LANGUAGE plpgsql
                 AS 'BEGIN EXECUTE ''SET LOCAL app.tenant_id = '''''' || wanted::text || ''''''''; RETURN wanted; END'"
            .to_owned(),
        restore: definition(bench, "app.bind(uuid)").await?,
    })
}

async fn definition(bench: &mut Bench, routine: &str) -> Result<String, ProveError> {
    let definitions = bench.read(format!("SELECT pg_get_functiondef({}::regprocedure)", literal(routine)));
    Ok(definitions.await?.join(""))
}

/// That `tenant_id` may not be written over. Alone where there is no row-level security.
pub(super) fn column_grant(subject: &Subject, login: &str) -> Guard {
    let (table, login) = (&subject.name, quote(login));
    Guard {
        others: Some(format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")),
        ..Guard::of_table(
            subject,
            "grants by column",
            format!("GRANT UPDATE (tenant_id) ON {table} TO {login}"),
            format!(
                "REVOKE UPDATE (tenant_id) ON {table} FROM {login};
                 ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"
            ),
        )
    }
}

/// That a table may not be emptied, which no policy is asked about.
pub(super) fn truncate_grant(subject: &Subject, login: &str) -> Guard {
    let (table, login) = (&subject.name, quote(login));
    Guard::of_table(
        subject,
        "the refusal to grant TRUNCATE",
        format!("GRANT TRUNCATE ON {table} TO {login}"),
        format!("REVOKE TRUNCATE ON {table} FROM {login}"),
    )
}

/// Other things that are not granted, each with a statement that needs it: its target, what is tried, the SQL.
pub(super) fn other_grants(
    login: &str,
    database: &str,
) -> Vec<(Guard, (&'static str, &'static str, &'static str))> {
    let login = quote(login);
    let database = quote(database);
    let grants = [
        (
            "UPDATE",
            "ON app.tenant_fence".to_owned(),
            ("app.tenant_fence", "UPDATE", "UPDATE app.tenant_fence SET epoch = epoch"),
        ),
        (
            "INSERT",
            "ON app.marker".to_owned(),
            ("app.marker", "INSERT", "INSERT INTO app.marker DEFAULT VALUES"),
        ),
        (
            "CREATE",
            "ON SCHEMA app".to_owned(),
            (
                "app",
                "CREATE FUNCTION",
                "CREATE FUNCTION app.prove_it() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
            ),
        ),
        (
            "TEMPORARY",
            format!("ON DATABASE {database}"),
            ("the database", "CREATE TEMPORARY TABLE", "CREATE TEMPORARY TABLE prove_it (tenant_id uuid)"),
        ),
        (
            "CREATE",
            format!("ON DATABASE {database}"),
            ("the database", "CREATE SCHEMA", "CREATE SCHEMA prove_it"),
        ),
    ];
    grants
        .into_iter()
        .map(|(privilege, object, statement)| {
            let guard = Guard {
                name: format!("the refusal to grant {privilege}"),
                role: OWNER.to_owned(),
                others: None,
                remove: format!("GRANT {privilege} {object} TO {login}"),
                restore: format!("REVOKE {privilege} {object} FROM {login}"),
            };
            (guard, statement)
        })
        .collect()
}
