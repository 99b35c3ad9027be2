//! References to rows that only the victim has.

use std::collections::HashMap;

use serde_json::Value;
use stagesub_tenancy::TenantId;
use stagesub_tenancy::prove::{Attack, Outcome};

use super::error::ProveError;
use super::label::{Label, not_carried_out};
use super::rows::{self, Columns, Locked, fresh, parse};
use super::session::{Answer, Bound, Session, Transaction, literal};
use super::subject::{Subject, TENANT_ID};
use super::tables::{NO_PRIVILEGE, NOBODYS, missing};
use crate::catalogue::{ForeignKey, TableName, parents_first};
use crate::roles::quote;

/// The suite's name.
pub(super) const SUITE: &str = "foreign-keys";

/// Most keys of the victim's that are looked at to find one which the attacker has not.
const KEYS: usize = 200;

/// Attacks every foreign key that refers to a table of tenants.
pub(super) async fn attack_all(
    app: &mut Session,
    subjects: &[Subject],
    attacker: TenantId,
    victim: TenantId,
) -> Result<Vec<Attack>, ProveError> {
    let mut attacks = Vec::new();
    for child in subjects {
        for key in &child.table.foreign_keys {
            if subjects.iter().any(|subject| subject.table.name == key.references) {
                attacks.extend(attack(app, subjects, child, key, (attacker, victim), &Label::held()).await?);
            }
        }
    }
    Ok(attacks)
}

/// Attacks one foreign key, after seeing that the victim itself may refer to the row.
pub(super) async fn attack(
    app: &mut Session,
    subjects: &[Subject],
    child: &Subject,
    key: &ForeignKey,
    (attacker, victim): (TenantId, TenantId),
    label: &Label,
) -> Result<Vec<Attack>, ProveError> {
    let target = format!("{} {}", child.table.name, key.name);
    let mut transaction = app.begin(Bound::To(victim)).await?;
    transaction.set("SET CONSTRAINTS ALL IMMEDIATE").await?;
    let reference = Reference { subjects, child, key, attacker, victim };
    let (allowed, outcome) = match reference.prepare(&mut transaction).await? {
        Prepared::Missing(why) => (not_carried_out(&why), not_carried_out(why)),
        Prepared::Ready { row, parent } => {
            let allowed = reference.by_the_victim(&mut transaction, &row, &parent).await?;
            (allowed, reference.by_the_attacker(&mut transaction, &row, &parent).await?)
        }
    };
    transaction.end().await?;
    Ok(vec![
        Label::allowed(SUITE, target.clone(), "a reference to a row of its own, by the victim", allowed),
        label.attack(SUITE, target, "a reference to a row that only the victim has", outcome),
    ])
}

/// One foreign key under attack.
struct Reference<'a> {
    subjects: &'a [Subject],
    child: &'a Subject,
    key: &'a ForeignKey,
    attacker: TenantId,
    victim: TenantId,
}

enum Prepared {
    /// What is missing to attack.
    Missing(String),
    /// A row of the victim's to go by, and the reference to a row that the attacker has not.
    Ready { row: String, parent: Columns },
}

impl Reference<'_> {
    /// Columns here and there, but for the tenant's.
    fn pairs(&self) -> Vec<(&str, &str)> {
        let pairs = self.key.columns.iter().zip(&self.key.referenced);
        pairs
            .filter(|pair| (pair.0.as_str(), pair.1.as_str()) != (TENANT_ID, TENANT_ID))
            .map(|(here, there)| (here.as_str(), there.as_str()))
            .collect()
    }

    fn subject(&self, name: &TableName) -> Option<&Subject> {
        self.subjects.iter().find(|subject| subject.table.name == *name)
    }

    /// Finds both, or makes the second. The transaction is bound to the victim afterwards.
    async fn prepare(&self, transaction: &mut Transaction<'_>) -> Result<Prepared, ProveError> {
        let Some(parent) = self.subject(&self.key.references) else {
            return Ok(Prepared::Missing(format!("{} is not among the tables", self.key.references)));
        };
        if !self.child.has_tenant() || !parent.has_tenant() {
            return Ok(Prepared::Missing(NOBODYS.to_owned()));
        }
        let complete: Vec<String> =
            self.key.columns.iter().map(|column| format!("{} IS NOT NULL", quote(column))).collect();
        let complete = transaction.read(&self.child.row_of(self.victim, &complete.join(" AND "))).await?;
        let Some(row) = complete.or_else(|| self.child.sample.clone()) else {
            return Ok(Prepared::Missing(missing(self.child)));
        };
        let Some(model) = &parent.sample else { return Ok(Prepared::Missing(missing(parent))) };
        if self.pairs().is_empty() {
            return Ok(Prepared::Ready { row, parent: Columns::new() });
        }
        // A new row first: what may refer to one that is there may be there already, as often as it may.
        let made = self.made_for_the_victim(transaction, parent, model).await?;
        let found = match &made {
            Ok(found) => Some(found.clone()),
            Err(_) => self.only_the_victims(transaction, parent).await?,
        };
        Ok(match (found, made) {
            (Some(found), _) => Prepared::Ready { row, parent: self.reference_to(&found) },
            (None, Err(why)) => Prepared::Missing(format!(
                "no row of {} is the victim's alone, and one could not be made ({why}): seed one",
                parent.table.name
            )),
            (None, Ok(_)) => Prepared::Missing(missing(parent)),
        })
    }

    /// A row of the victim's that was not there, made in this transaction; or why there is none.
    async fn made_for_the_victim(
        &self,
        transaction: &mut Transaction<'_>,
        parent: &Subject,
        model: &str,
    ) -> Result<Result<Columns, String>, ProveError> {
        let mut changed = Columns::new();
        let present = parse(model);
        for (_, there) in self.pairs() {
            let column = parent.table.columns.iter().find(|column| column.name == there);
            let value =
                column.and_then(|column| fresh(&column.data_type, present.get(there)).into_iter().next());
            if let Some(value) = value {
                changed.insert(there.to_owned(), value);
                // One is enough, and others may themselves be references.
                break;
            }
        }
        if changed.is_empty() {
            return Ok(Err("none of its columns can be given another value".to_owned()));
        }
        let locked: Vec<String> = changed.keys().cloned().collect();
        match rows::store(transaction, parent, model, &mut changed, &Locked::columns(&locked)).await? {
            Answer::Done(_) => {
                let mut found = present;
                found.extend(changed);
                Ok(Ok(found))
            }
            Answer::Refused(refusal) => Ok(Err(refusal.to_string())),
        }
    }

    /// A row of the victim's whose key the attacker has not.
    async fn only_the_victims(
        &self,
        transaction: &mut Transaction<'_>,
        parent: &Subject,
    ) -> Result<Option<Columns>, ProveError> {
        let names: Vec<String> = self.pairs().iter().map(|(_, there)| quote(there)).collect();
        let table = &parent.name;
        let keys = format!(
            "SELECT jsonb_agg(to_jsonb(r))::text
             FROM (SELECT {} FROM {table} WHERE tenant_id = '{}' LIMIT {KEYS}) AS r",
            names.join(", "),
            self.victim
        );
        let Some(keys) = transaction.read(&keys).await? else { return Ok(None) };
        let same: Vec<String> = names.iter().map(|name| format!("p.{name} = q.{name}")).collect();
        let only = format!(
            "SELECT k.value::text FROM jsonb_array_elements({}::jsonb) AS k
             WHERE NOT EXISTS (
                 SELECT FROM {table} AS p, jsonb_populate_record(NULL::{table}, k.value) AS q
                 WHERE p.tenant_id = '{}' AND {})
             LIMIT 1",
            literal(&keys),
            self.attacker,
            same.join(" AND ")
        );
        transaction.bind(self.attacker).await?;
        let found = transaction.read(&only).await?;
        transaction.bind(self.victim).await?;
        Ok(found.map(|found| parse(&found)))
    }

    /// The columns here that refer to a row there.
    fn reference_to(&self, found: &Columns) -> Columns {
        let columns = self.pairs().into_iter();
        columns.filter_map(|(here, there)| Some((here.to_owned(), found.get(there)?.clone()))).collect()
    }

    /// The victim refers to it: what is refused to the attacker is refused because it is the attacker.
    async fn by_the_victim(
        &self,
        transaction: &mut Transaction<'_>,
        row: &str,
        parent: &Columns,
    ) -> Result<Outcome, ProveError> {
        let mut changed = parent.clone();
        transaction.set("SAVEPOINT before").await?;
        let stored =
            rows::store(transaction, self.child, row, &mut changed, &Locked::columns(&self.key.columns))
                .await?;
        transaction.set("ROLLBACK TO SAVEPOINT before").await?;
        Ok(match stored {
            Answer::Done(_) => Outcome::Reached("the row was stored".to_owned()),
            // Its key is the tenant and nothing else, and one row is there: it has referred to it already.
            Answer::Refused(refusal) if refusal.code == "23505" => {
                Outcome::Reached("a row that refers to it is there".to_owned())
            }
            Answer::Refused(refusal) if refusal.code == NO_PRIVILEGE => {
                Outcome::Reached("the application may not store such rows; there is one".to_owned())
            }
            Answer::Refused(refusal) => not_carried_out(format!("the victim's own row met {refusal}")),
        })
    }

    async fn by_the_attacker(
        &self,
        transaction: &mut Transaction<'_>,
        row: &str,
        parent: &Columns,
    ) -> Result<Outcome, ProveError> {
        transaction.bind(self.attacker).await?;
        if parent.is_empty() {
            // It refers to the tenant alone: only a row in the victim's name could refer to the victim.
            let (mut unchanged, locked) = (Columns::new(), Locked::columns(&[]));
            return Ok(match rows::store(transaction, self.child, row, &mut unchanged, &locked).await? {
                Answer::Refused(refusal) if refusal.code == NO_PRIVILEGE => Outcome::Refused,
                Answer::Refused(refusal) if refusal.by_constraint() => {
                    Outcome::Reached(format!("policies let it pass; only {refusal} stopped it"))
                }
                Answer::Refused(refusal) => not_carried_out(format!("the row met {refusal}")),
                Answer::Done(_) => Outcome::Reached("the row was stored".to_owned()),
            });
        }
        let mut changed = match self.other_references(transaction, row).await? {
            Ok(changed) => changed,
            Err(why) => return Ok(not_carried_out(why)),
        };
        changed.extend(parent.clone());
        changed.insert(TENANT_ID.to_owned(), Value::String(self.attacker.to_string()));
        let locked = Locked::columns(&self.key.columns);
        Ok(match rows::store(transaction, self.child, row, &mut changed, &locked).await? {
            Answer::Done(_) => Outcome::Reached("the row was stored".to_owned()),
            Answer::Refused(refusal) if refusal.code == NO_PRIVILEGE => Outcome::Refused,
            Answer::Refused(refusal)
                if refusal.code == "23503"
                    && refusal.constraint.as_deref() == Some(self.key.name.as_str()) =>
            {
                Outcome::Refused
            }
            Answer::Refused(refusal) => {
                not_carried_out(format!("another rule refused the row first: {refusal}"))
            }
        })
    }

    /// What the attacker's row refers to by its other keys: rows of the attacker's, which get made if there are
    /// none.
    async fn other_references(
        &self,
        transaction: &mut Transaction<'_>,
        row: &str,
    ) -> Result<Result<Columns, String>, ProveError> {
        let mut own: HashMap<TableName, Columns> = HashMap::new();
        for table in self.ancestors() {
            let Some(subject) = self.subject(&table) else { continue };
            let found = transaction.read(&subject.row_of(self.attacker, "true")).await?;
            if let Some(found) = found {
                own.insert(table, parse(&found));
                continue;
            }
            let Some(model) = &subject.sample else { return Ok(Err(missing(subject))) };
            let mut changed = references(&subject.table.foreign_keys, &own, None);
            changed.insert(TENANT_ID.to_owned(), Value::String(self.attacker.to_string()));
            match rows::store(transaction, subject, model, &mut changed, &Locked::columns(&[])).await? {
                Answer::Done(_) => {
                    let mut made = parse(model);
                    made.extend(changed);
                    own.insert(table, made);
                }
                Answer::Refused(refusal) => {
                    return Ok(Err(format!(
                        "the attacker needs a row in {table}, which could not be made ({refusal}): seed one"
                    )));
                }
            }
        }
        let mut changed = references(&self.child.table.foreign_keys, &own, Some(&self.key.name));
        // What the row refers to by nothing stays nothing.
        let row = parse(row);
        changed.retain(|column, _| row.get(column).is_some_and(|value| !value.is_null()));
        Ok(Ok(changed))
    }

    /// The tables that the row refers to by its other keys, directly or not, parents first.
    fn ancestors(&self) -> Vec<TableName> {
        let mut wanted: Vec<TableName> = Vec::new();
        let mut open: Vec<TableName> = self
            .child
            .table
            .foreign_keys
            .iter()
            .filter(|key| key.name != self.key.name && key.references != self.child.table.name)
            .map(|key| key.references.clone())
            .collect();
        while let Some(table) = open.pop() {
            if wanted.contains(&table) {
                continue;
            }
            if let Some(subject) = self.subject(&table) {
                let parents = subject.table.foreign_keys.iter().map(|key| key.references.clone());
                open.extend(parents.filter(|parent| *parent != table));
            }
            wanted.push(table);
        }
        let tables = self.subjects.iter().map(|subject| subject.table.clone()).collect();
        match parents_first(tables) {
            Ok(ordered) => {
                ordered.into_iter().map(|table| table.name).filter(|name| wanted.contains(name)).collect()
            }
            // In a circle none comes first, and one of them will be refused for its reference.
            Err(_) => wanted,
        }
    }
}

/// Columns that refer to these rows, by every key but one.
fn references(keys: &[ForeignKey], own: &HashMap<TableName, Columns>, but: Option<&str>) -> Columns {
    let mut columns = Columns::new();
    for key in keys.iter().filter(|key| Some(key.name.as_str()) != but) {
        let Some(parent) = own.get(&key.references) else { continue };
        for (here, there) in key.columns.iter().zip(&key.referenced) {
            if let Some(value) = parent.get(there).filter(|_| here != TENANT_ID) {
                columns.insert(here.clone(), value.clone());
            }
        }
    }
    columns
}
