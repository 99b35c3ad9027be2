//! Keys that the victim has.
//!
//! A unique key that reaches over tenants lets one block another, and by its refusal tells what the other has.

use serde_json::Value;
use stagesub_tenancy::TenantId;
use stagesub_tenancy::prove::{Attack, Outcome};

use super::error::ProveError;
use super::label::{Label, not_carried_out};
use super::rows::{self, Columns, Locked};
use super::session::{Answer, Bound, Refusal, Session, Transaction, literal};
use super::subject::{Subject, TENANT_ID, UniqueKey};
use super::tables::{NO_PRIVILEGE, NOBODYS};

/// The suite's name.
pub(super) const SUITE: &str = "unique-keys";

/// Attacks every unique index.
pub(super) async fn attack_all(
    app: &mut Session,
    subjects: &[Subject],
    attacker: TenantId,
    victim: TenantId,
) -> Result<Vec<Attack>, ProveError> {
    let mut attacks = Vec::new();
    for subject in subjects {
        for key in &subject.unique {
            attacks.extend(attack(app, subject, key, (attacker, victim), &Label::held()).await?);
        }
    }
    Ok(attacks)
}

/// Attacks one unique index: with a row of the attacker's that has the victim's key, after seeing that the
/// victim itself meets it, and with a row in the victim's name.
pub(super) async fn attack(
    app: &mut Session,
    subject: &Subject,
    key: &UniqueKey,
    (attacker, victim): (TenantId, TenantId),
    label: &Label,
) -> Result<Vec<Attack>, ProveError> {
    let target = format!("{} {}", subject.table.name, key.name);
    if !subject.has_tenant() {
        return Ok(vec![label.attack(
            SUITE,
            target,
            "a row with the victim's key",
            not_carried_out(NOBODYS),
        )]);
    }
    let mut transaction = app.begin(Bound::To(victim)).await?;
    transaction.set("SET CONSTRAINTS ALL IMMEDIATE").await?;
    let mut attacks = Vec::new();
    match transaction.read(&subject.row_of(victim, &has_key(key))).await? {
        None => {
            let outcome = not_carried_out(missing_key(subject));
            attacks.push(label.attack(SUITE, target, "a row with the victim's key", outcome));
        }
        Some(row) => {
            let met = by_the_victim(&mut transaction, subject, key, &row).await?;
            attacks.push(Label::allowed(
                SUITE,
                target.clone(),
                "a second row with its key, by the victim",
                met,
            ));
            transaction.bind(attacker).await?;
            if !key.parts.is_empty() {
                let outcome = by_the_attacker(&mut transaction, subject, key, &row, attacker).await?;
                attacks.push(label.attack(SUITE, target.clone(), "a row with the victim's key", outcome));
            }
            let outcome = in_the_victims_name(&mut transaction, subject, key, &row).await?;
            attacks.push(label.attack(SUITE, target, "a row with the victim's key, in its name", outcome));
        }
    }
    transaction.end().await?;
    Ok(attacks)
}

/// Attacks one unique index with a row of the attacker's that has the victim's key, and nothing else.
pub(super) async fn attack_key(
    app: &mut Session,
    subject: &Subject,
    key: &UniqueKey,
    (attacker, victim): (TenantId, TenantId),
    label: &Label,
) -> Result<Attack, ProveError> {
    let target = format!("{} {}", subject.table.name, key.name);
    let mut transaction = app.begin(Bound::To(victim)).await?;
    let outcome = match transaction.read(&subject.row_of(victim, &has_key(key))).await? {
        None => not_carried_out(missing_key(subject)),
        Some(row) => {
            transaction.bind(attacker).await?;
            by_the_attacker(&mut transaction, subject, key, &row, attacker).await?
        }
    };
    transaction.end().await?;
    Ok(label.attack(SUITE, target, "a row with the victim's key", outcome))
}

fn missing_key(subject: &Subject) -> String {
    format!("the victim has no row in {} with this key: seed one", subject.table.name)
}

/// The rows that an index holds: NULL is equal to nothing.
fn has_key(key: &UniqueKey) -> String {
    let parts = key.parts.iter().map(|part| format!("({part}) IS NOT NULL"));
    let conditions: Vec<String> =
        parts.chain(key.predicate.iter().map(|predicate| format!("({predicate})"))).collect();
    if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") }
}

async fn by_the_victim(
    transaction: &mut Transaction<'_>,
    subject: &Subject,
    key: &UniqueKey,
    row: &str,
) -> Result<Outcome, ProveError> {
    let locked = Locked { key: &key.name, parts: &key.parts, until_references: true };
    transaction.set("SAVEPOINT before").await?;
    let answer = rows::store(transaction, subject, row, &mut Columns::new(), &locked).await?;
    transaction.set("ROLLBACK TO SAVEPOINT before").await?;
    Ok(match answer {
        Answer::Refused(refusal) if is_met(&refusal.code, refusal.constraint.as_deref(), key) => {
            Outcome::Reached("it met its own key".to_owned())
        }
        // A key over the same columns, or fewer, is met first.
        Answer::Refused(refusal) if refusal.code == "23505" && within(subject, &refusal, key) => {
            Outcome::Reached(format!("it met {refusal}, a key of its own within this one"))
        }
        Answer::Refused(refusal) if refusal.code == NO_PRIVILEGE => {
            Outcome::Reached("the application may not store such rows; there is one".to_owned())
        }
        Answer::Refused(refusal) => not_carried_out(format!("another rule refused the row first: {refusal}")),
        Answer::Done(_) => not_carried_out("the key did not refuse a second row"),
    })
}

async fn by_the_attacker(
    transaction: &mut Transaction<'_>,
    subject: &Subject,
    key: &UniqueKey,
    row: &str,
    attacker: TenantId,
) -> Result<Outcome, ProveError> {
    let mut changed = Columns::new();
    changed.insert(TENANT_ID.to_owned(), Value::String(attacker.to_string()));
    let locked = Locked { key: &key.name, parts: &key.parts, until_references: true };
    transaction.set("SAVEPOINT before").await?;
    let answer = rows::store(transaction, subject, row, &mut changed, &locked).await?;
    transaction.set("ROLLBACK TO SAVEPOINT before").await?;
    Ok(match answer {
        Answer::Done(_) => Outcome::Refused,
        Answer::Refused(refusal) if refusal.code == NO_PRIVILEGE => Outcome::Refused,
        // References are looked up once a row has passed every key that is checked as it is stored.
        Answer::Refused(refusal) if refusal.code == "23503" && key.immediate => Outcome::Refused,
        Answer::Refused(refusal) if is_met(&refusal.code, refusal.constraint.as_deref(), key) => {
            // Or the attacker's own row has the same key, and then the index has admitted both.
            match transaction.read(&has_the_same(subject, key, row, attacker)).await? {
                Some(_) => Outcome::Refused,
                None => Outcome::Reached("it met a key that another tenant has".to_owned()),
            }
        }
        Answer::Refused(refusal) => not_carried_out(format!("another rule refused the row first: {refusal}")),
    })
}

async fn in_the_victims_name(
    transaction: &mut Transaction<'_>,
    subject: &Subject,
    key: &UniqueKey,
    row: &str,
) -> Result<Outcome, ProveError> {
    let locked = Locked { key: &key.name, parts: &key.parts, until_references: true };
    let answer = rows::store(transaction, subject, row, &mut Columns::new(), &locked).await?;
    Ok(match answer {
        Answer::Refused(refusal) if refusal.code == NO_PRIVILEGE => Outcome::Refused,
        Answer::Refused(refusal) if refusal.by_constraint() => {
            Outcome::Reached(format!("policies let it pass; {refusal} tells what the victim has"))
        }
        Answer::Refused(refusal) => not_carried_out(format!("the row met {refusal}")),
        Answer::Done(_) => Outcome::Reached("the row was stored".to_owned()),
    })
}

/// Whether the unique key that refused is over no other columns than this one.
fn within(subject: &Subject, refusal: &Refusal, key: &UniqueKey) -> bool {
    let refused = subject.unique.iter().find(|known| Some(&known.name) == refusal.constraint.as_ref());
    refused.is_some_and(|refused| refused.parts.iter().all(|part| key.parts.contains(part)))
}

fn is_met(code: &str, constraint: Option<&str>, key: &UniqueKey) -> bool {
    code == "23505" && constraint == Some(key.name.as_str())
}

/// Whether the attacker has a row of its own with the key of `row`.
fn has_the_same(subject: &Subject, key: &UniqueKey, row: &str, attacker: TenantId) -> String {
    let named: Vec<String> =
        key.parts.iter().enumerate().map(|(place, part)| format!("{part} AS k{place}")).collect();
    let same: Vec<String> = (0..key.parts.len()).map(|place| format!("o.k{place} = v.k{place}")).collect();
    let (table, named, row) = (&subject.name, named.join(", "), literal(row));
    format!(
        "SELECT 1::text
         FROM (SELECT {named} FROM {table} WHERE tenant_id = '{attacker}' AND ({})) AS o
         JOIN (SELECT {named} FROM jsonb_populate_record(NULL::{table}, {row}::jsonb)) AS v ON {}
         LIMIT 1",
        key.predicate.as_deref().unwrap_or("true"),
        same.join(" AND ")
    )
}
