//! Reading as the owner of the tables, whom row-level security holds only where it is forced.

use stagesub_tenancy::TenantId;
use stagesub_tenancy::prove::{Attack, Outcome};

use super::error::ProveError;
use super::label::{Label, not_carried_out};
use super::session::{Answer, Bound, Session};
use super::subject::Subject;
use super::tables::{bindings, missing};

/// The suite's name.
pub(super) const SUITE: &str = "owner";

/// Attacks every table as its owner.
pub(super) async fn attack_all(
    login: &mut Session,
    subjects: &[Subject],
    attacker: TenantId,
    victim: TenantId,
) -> Result<Vec<Attack>, ProveError> {
    let mut attacks = Vec::new();
    for subject in subjects.iter().filter(|subject| subject.table.is_table && subject.has_tenant()) {
        attacks.extend(attack(login, subject, (attacker, victim), &Label::held()).await?);
    }
    Ok(attacks)
}

/// Attacks one table as its owner, after seeing that the owner finds the victim's rows when bound to it.
pub(super) async fn attack(
    login: &mut Session,
    subject: &Subject,
    (attacker, victim): (TenantId, TenantId),
    label: &Label,
) -> Result<Vec<Attack>, ProveError> {
    login.acting_as(&subject.owner);
    let (target, table) = (subject.table.name.to_string(), &subject.name);
    let theirs = format!("tenant_id = '{victim}'");
    let select = format!("SELECT 1::text FROM {table} WHERE {theirs} LIMIT 1");
    let found = match login.attempt(Bound::To(victim), &select).await? {
        Answer::Done(done) if done.rows > 0 => Outcome::Reached("the victim's rows are there".to_owned()),
        Answer::Done(_) => not_carried_out(missing(subject)),
        Answer::Refused(refusal) => not_carried_out(format!("the statement met {refusal}")),
    };
    let mut attacks = vec![Label::allowed(SUITE, target.clone(), "SELECT, bound to the rows' owner", found)];
    let everything =
        format!("SELECT 1::text FROM {table} WHERE tenant_id IS DISTINCT FROM '{attacker}' LIMIT 1");
    let lock = format!("SELECT 1::text FROM {table} WHERE {theirs} FOR UPDATE");
    let delete = format!("DELETE FROM {table} WHERE {theirs}");
    for (attempt, sql) in [
        ("SELECT", everything),
        ("SELECT by the victim's tenant_id", select),
        ("SELECT .. FOR UPDATE", lock),
        ("DELETE", delete),
    ] {
        for bound in bindings(attacker) {
            let outcome = match login.attempt(bound, &sql).await? {
                Answer::Done(done) if done.rows > 0 => Outcome::Reached(format!("{} rows", done.rows)),
                Answer::Done(_) if subject.sample.is_none() => not_carried_out(missing(subject)),
                Answer::Done(_) if !matches!(bound, Bound::To(_)) => {
                    Outcome::Reached("answered though no tenant was bound".to_owned())
                }
                Answer::Done(_) => Outcome::Refused,
                Answer::Refused(refusal)
                    if !matches!(bound, Bound::To(_))
                        && matches!(refusal.code.as_str(), "42704" | "22P02") =>
                {
                    Outcome::Refused
                }
                // A row that others refer to.
                Answer::Refused(refusal) if refusal.by_constraint() => {
                    Outcome::Reached(format!("policies let it pass; only {refusal} stopped it"))
                }
                Answer::Refused(refusal) => not_carried_out(format!("the statement met {refusal}")),
            };
            attacks.push(label.attack(SUITE, target.clone(), format!("{attempt}, {bound}"), outcome));
        }
    }
    Ok(attacks)
}
