//! Every table, every operation, every binding.

use stagesub_tenancy::TenantId;
use stagesub_tenancy::prove::{Attack, Outcome};

use super::error::ProveError;
use super::label::{Label, not_carried_out};
use super::operation::Operation;
use super::session::{Answer, Bound, Session};
use super::subject::Subject;

/// The suite's name.
pub(super) const SUITE: &str = "tables";

/// SQLSTATE of a privilege that is missing, and of a policy that refuses a row.
pub(super) const NO_PRIVILEGE: &str = "42501";
/// Why a table without the column cannot be attacked.
pub(super) const NOBODYS: &str = "its rows do not say whose they are: there is no tenant_id that may be read";

/// The setting is unknown; its text is no UUID.
const NO_TENANT: [&str; 2] = ["42704", "22P02"];
/// Postgres copies into no table with policies.
const NOT_SUPPORTED: &str = "0A000";

/// What an attack is bound to, from no tenant to another one.
pub(super) const fn bindings(attacker: TenantId) -> [Bound; 4] {
    [Bound::Never, Bound::Empty, Bound::Garbage, Bound::To(attacker)]
}

/// Attacks every table, after seeing that its owner finds its rows.
pub(super) async fn attack_all(
    app: &mut Session,
    subjects: &[Subject],
    attacker: TenantId,
    victim: TenantId,
) -> Result<Vec<Attack>, ProveError> {
    let mut attacks = Vec::new();
    for subject in subjects {
        let found = match &subject.sample {
            Some(_) => Outcome::Reached("its rows are there".to_owned()),
            None if subject.has_tenant() => not_carried_out(missing(subject)),
            None => not_carried_out(NOBODYS),
        };
        attacks.push(Label::allowed(
            SUITE,
            subject.table.name.to_string(),
            "SELECT, bound to their owner",
            found,
        ));
    }
    for subject in subjects {
        let every = |_: Operation, _: Bound| true;
        attacks.extend(attack(app, subject, (attacker, victim), &Label::held(), every).await?);
    }
    Ok(attacks)
}

/// Looks at the victim's rows after everything.
pub(super) fn compare(subjects: &[Subject], before: &[String], after: &[String]) -> Vec<Attack> {
    let pairs = subjects.iter().zip(before.iter().zip(after));
    pairs
        .filter(|(subject, _)| subject.sample.is_some())
        .map(|(subject, (before, after))| {
            let outcome = if after == before {
                Outcome::Refused
            } else {
                Outcome::Reached("the victim's rows are not as they were".to_owned())
            };
            let attempt = "everything in this report, looked at afterwards by the rows' owner";
            Label::held().attack(SUITE, subject.table.name.to_string(), attempt, outcome)
        })
        .collect()
}

/// What to seed.
pub(super) fn missing(subject: &Subject) -> String {
    format!("the victim has no row in {}: seed one", subject.table.name)
}

/// Attacks one table with the operations and bindings that are wanted.
pub(super) async fn attack(
    app: &mut Session,
    subject: &Subject,
    (attacker, victim): (TenantId, TenantId),
    label: &Label,
    wanted: impl Fn(Operation, Bound) -> bool,
) -> Result<Vec<Attack>, ProveError> {
    let mut attacks = Vec::new();
    for operation in Operation::ALL {
        for bound in bindings(attacker) {
            if !wanted(operation, bound) {
                continue;
            }
            let sql = operation.sql(subject, attacker, victim);
            let answer = match operation {
                Operation::CopyTo => app.copy_out(bound, &sql, &attacker.to_string()).await?,
                Operation::CopyFrom => app.copy_in(bound, &sql).await?,
                _ => app.attempt(bound, &sql).await?,
            };
            let outcome = match bound {
                Bound::To(_) => judge(operation, subject, victim, answer),
                _ => judge_unbound(operation, subject, victim, answer),
            };
            let attempt = format!("{}, {bound}", operation.name());
            attacks.push(label.attack(SUITE, subject.table.name.to_string(), attempt, outcome));
        }
    }
    Ok(attacks)
}

/// With no tenant bound, an answer is as bad as a row: it is silence where a mistake should be heard.
fn judge_unbound(operation: Operation, subject: &Subject, victim: TenantId, answer: Answer) -> Outcome {
    match answer {
        // An empty table is answered before anybody asks whose its rows are.
        Answer::Done(done) if done.rows == 0 && subject.sample.is_none() => not_carried_out(missing(subject)),
        Answer::Done(done) => {
            Outcome::Reached(format!("answered though no tenant was bound, {} rows", done.rows))
        }
        Answer::Refused(refusal) if NO_TENANT.contains(&refusal.code.as_str()) => {
            told(operation, victim, &refusal.message).unwrap_or(Outcome::Refused)
        }
        refused @ Answer::Refused(_) => judge(operation, subject, victim, refused),
    }
}

fn judge(operation: Operation, subject: &Subject, victim: TenantId, answer: Answer) -> Outcome {
    match answer {
        Answer::Done(done) => {
            if operation.is_reached_by_being_carried_out() {
                Outcome::Reached("it was carried out".to_owned())
            } else if done.rows > operation.own_share(subject) {
                Outcome::Reached(format!(
                    "{} rows, of which {} are its own",
                    done.rows,
                    operation.own_share(subject)
                ))
            } else if operation == Operation::UpdatePlanting && subject.own_rows == 0 {
                not_carried_out(format!("the attacker has no row in {}: seed one", subject.table.name))
            } else if !is_there_to_be_found(subject) {
                not_carried_out(missing(subject))
            } else {
                Outcome::Refused
            }
        }
        Answer::Refused(refusal) if refusal.code == NO_PRIVILEGE => Outcome::Refused,
        Answer::Refused(refusal) if operation == Operation::CopyFrom && refusal.code == NOT_SUPPORTED => {
            Outcome::Refused
        }
        // Other tables refer to it, which is asked after privileges.
        Answer::Refused(refusal) if operation == Operation::Truncate && refusal.code == NOT_SUPPORTED => {
            Outcome::Reached("privileges let it pass; only references stopped it".to_owned())
        }
        Answer::Refused(refusal) if refusal.by_constraint() => {
            Outcome::Reached(format!("policies and privileges let it pass; only {refusal} stopped it"))
        }
        Answer::Refused(refusal) => told(operation, victim, &refusal.message)
            .or_else(|| {
                (operation == Operation::SelectTelling && NO_TENANT.contains(&refusal.code.as_str()))
                    // It quotes the attacker's own row.
                    .then_some(Outcome::Refused)
            })
            .unwrap_or_else(|| not_carried_out(format!("the statement met {refusal}"))),
    }
}

/// Whether an error message quotes a row of the victim.
fn told(operation: Operation, victim: TenantId, message: &str) -> Option<Outcome> {
    (operation == Operation::SelectTelling && message.contains(&victim.to_string()))
        .then(|| Outcome::Reached("the error message quotes a row of the victim".to_owned()))
}

/// Finding nothing says something only where there is something to find.
fn is_there_to_be_found(subject: &Subject) -> bool {
    subject.sample.is_some() && subject.has_tenant()
}
