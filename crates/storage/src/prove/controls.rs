//! The attacks with one guard removed, which must succeed.

mod guards;

use stagesub_tenancy::TenantId;
use stagesub_tenancy::prove::{Attack, Expectation, Proof};

use super::error::ProveError;
use super::label::Label;
use super::operation::Operation;
use super::path::DataPath;
use super::scratch::{Bench, Sample, Scratch, ScratchSettings};
use super::session::{Bound, Session};
use super::subject::{Subject, UniqueKey, survey};
use super::{DatabaseProof, epoch, foreign_keys, lifting, owner, tables, unique_keys};
use crate::catalogue::ForeignKey;
use guards::Guard;

/// Makes a scratch database, attacks it as it is, then without each of its guards in turn and with the guard
/// back, and drops it, also after a failure. Scratch databases that an earlier run left behind are dropped.
///
/// # Errors
/// [`ProveError`]; the scratch database is dropped first.
///
/// # Cancel safety
/// Dropping the future drops the database in the background; what that misses, the next run drops when it is
/// an hour old.
pub async fn controls(settings: &ScratchSettings, sample: &dyn Sample) -> Result<Proof, ProveError> {
    let mut scratch = Scratch::create(settings).await?;
    let proved = prove(&mut scratch, sample).await;
    let removed = scratch.remove().await;
    let proof = proved?;
    removed.map(|()| proof)
}

async fn prove(scratch: &mut Scratch, sample: &dyn Sample) -> Result<Proof, ProveError> {
    scratch.fill(sample).await?;
    let mut proof = Proof::new();
    // Keys are attacked while the victim alone has rows: a key that leaves the tenant out can be made only
    // where no two tenants have the same one.
    scratch.seed(sample, scratch.victim).await?;
    let mut range = Range::open(scratch).await?;
    proof.extend(range.keys().await?);
    range.close().await?;

    scratch.seed(sample, scratch.attacker).await?;
    proof.append(whole(scratch).run().await?);
    let mut range = Range::open(scratch).await?;
    proof.extend(range.policies().await?);
    proof.extend(range.functions().await?);
    proof.extend(range.grants().await?);
    range.close().await?;
    Ok(proof)
}

/// Every attack on the scratch database, with its guards.
fn whole(scratch: &Scratch) -> DatabaseProof {
    let settings = &scratch.settings;
    let proof = DatabaseProof::new(scratch.app.clone(), scratch.attacker, scratch.victim)
        .schemas(settings.schemas.clone())
        .reference_tables(settings.reference.clone())
        .owner(scratch.migrator.clone());
    if settings.hardened { proof } else { proof.without_hardening() }
}

/// What is attacked to see whether a guard matters.
enum Aim<'a> {
    /// Operations on one table that the login has the privileges for.
    Table { subject: &'a Subject, wanted: fn(Operation, Bound, &Subject) -> bool },
    /// One table, as its owner.
    Owner(&'a Subject),
    /// One foreign key.
    Reference { subjects: &'a [Subject], child: &'a Subject, key: &'a ForeignKey },
    /// One unique index.
    Key { subject: &'a Subject, key: &'a UniqueKey },
    /// `app.enter`.
    Epoch,
    /// Reads that are one message, which do not enter.
    Reads,
    /// `app.bind`.
    Bind,
    /// One statement: its target, what is tried, the SQL.
    Statement { target: &'a str, attempt: &'a str, sql: &'a str },
}

/// A scratch database with everybody who shoots at it.
struct Range {
    bench: Bench,
    app: Session,
    owner: Session,
    path: DataPath,
    subjects: Vec<Subject>,
    attacker: TenantId,
    victim: TenantId,
    login: String,
    database: String,
}

impl Range {
    async fn open(scratch: &Scratch) -> Result<Self, ProveError> {
        let (attacker, victim) = (scratch.attacker, scratch.victim);
        let mut app = Session::open(&scratch.app).await?;
        let settings = &scratch.settings;
        let subjects = survey(&mut app, &settings.schemas, &settings.reference, attacker, victim).await?;
        Ok(Self {
            bench: scratch.bench().await?,
            path: DataPath::open(&mut app, &scratch.app).await?,
            app,
            owner: Session::open(&scratch.migrator).await?,
            subjects,
            attacker,
            victim,
            login: scratch.app.user().to_owned(),
            database: scratch.app.database().to_owned(),
        })
    }

    async fn close(self) -> Result<(), ProveError> {
        self.path.close().await;
        self.app.close().await?;
        self.owner.close().await?;
        self.bench.close().await
    }

    /// Attacks where one guard alone stands (if there are others), where it does not, and where it stands
    /// again.
    async fn with_and_without(&mut self, guard: &Guard, aims: &[Aim<'_>]) -> Result<Vec<Attack>, ProveError> {
        let mut attacks = Vec::new();
        if let Some(others) = &guard.others {
            self.bench.change(&guard.role, others).await?;
            attacks.extend(self.shoot(aims, &Label::with_only(&guard.name)).await?);
        }
        self.bench.change(&guard.role, &guard.remove).await?;
        attacks.extend(self.shoot(aims, &Label::without(&guard.name)).await?);
        self.bench.change(&guard.role, &guard.restore).await?;
        attacks.extend(self.shoot(aims, &Label::with(&guard.name)).await?);
        Ok(attacks)
    }

    async fn shoot(&mut self, aims: &[Aim<'_>], label: &Label) -> Result<Vec<Attack>, ProveError> {
        let both = (self.attacker, self.victim);
        let app = &mut self.app;
        let mut attacks = Vec::new();
        for aim in aims {
            attacks.extend(match aim {
                Aim::Table { subject, wanted } => {
                    let wanted = |operation: Operation, bound: Bound| wanted(operation, bound, subject);
                    tables::attack(app, subject, both, label, wanted).await?
                }
                Aim::Owner(subject) => owner::attack(&mut self.owner, subject, both, label).await?,
                Aim::Reference { subjects, child, key } => {
                    foreign_keys::attack(app, subjects, child, key, both, label).await?
                }
                Aim::Key { subject, key } => {
                    vec![unique_keys::attack_key(app, subject, key, both, label).await?]
                }
                Aim::Epoch => epoch::attack_check(app, self.victim, Scratch::epoch(), label).await?,
                Aim::Reads => epoch::attack_reads(&mut self.path, self.victim, Scratch::epoch(), label).await,
                Aim::Bind => epoch::attack_bind(app, both, label).await?,
                Aim::Statement { target, attempt, sql } => {
                    vec![lifting::attack_one(app, self.attacker, (target, attempt, sql), label).await?]
                }
            });
        }
        // What the owner may do is shown where every guard stands.
        attacks.retain(|attack| attack.expectation != Expectation::Allowed);
        Ok(attacks)
    }

    /// Keys without the tenant.
    async fn keys(&mut self) -> Result<Vec<Attack>, ProveError> {
        let subjects = self.subjects.clone();
        let mut attacks = Vec::new();
        for subject in subjects.iter().filter(|subject| subject.sample.is_some()) {
            for key in subject.unique.iter().filter(|key| !key.parts.is_empty()) {
                let guard = guards::unique_key(subject, key);
                // Under the name of the index that stands in for the one without the tenant.
                let weak = UniqueKey { name: guards::WEAK.to_owned(), ..key.clone() };
                self.bench.change(&guard.role, &guard.remove).await?;
                let mut seen =
                    self.shoot(&[Aim::Key { subject, key: &weak }], &Label::without(&guard.name)).await?;
                for attack in &mut seen {
                    attack.target = format!("{} {}", subject.table.name, key.name);
                }
                attacks.extend(seen);
                self.bench.change(&guard.role, &guard.restore).await?;
                attacks.extend(self.shoot(&[Aim::Key { subject, key }], &Label::with(&guard.name)).await?);
            }
        }
        for child in &subjects {
            for key in &child.table.foreign_keys {
                let Some(parent) = subjects.iter().find(|subject| subject.table.name == key.references)
                else {
                    continue;
                };
                let Some(guard) = guards::foreign_key(&mut self.bench, child, parent, key).await? else {
                    continue;
                };
                // Whoever makes rows must know of the index that the key by number needs.
                let mut known = subjects.clone();
                for subject in known.iter_mut().filter(|subject| subject.table.name == key.references) {
                    subject.unique.push(guards::weak_key(key));
                }
                let aim = [Aim::Reference { subjects: &known, child, key }];
                attacks.extend(self.with_and_without(&guard, &aim).await?);
            }
        }
        Ok(attacks)
    }

    /// Row-level security and its policies.
    async fn policies(&mut self) -> Result<Vec<Attack>, ProveError> {
        let subjects = self.subjects.clone();
        let mut attacks = Vec::new();
        for subject in subjects.iter().filter(|subject| subject.table.is_table && subject.has_tenant()) {
            let all =
                [Aim::Table { subject, wanted: |operation, _, subject| operation.is_privileged(subject) }];
            attacks.extend(self.with_and_without(&guards::security(subject), &all).await?);
            // Nothing is copied into a table with policies, whatever they say.
            let fenced = [Aim::Table {
                subject,
                wanted: |operation, _, subject| {
                    operation != Operation::CopyFrom && operation.is_privileged(subject)
                },
            }];
            let guard = guards::fence(&mut self.bench, subject).await?;
            attacks.extend(self.with_and_without(&guard, &fenced).await?);
            attacks.extend(self.with_and_without(&guards::force(subject), &[Aim::Owner(subject)]).await?);
        }
        Ok(attacks)
    }

    /// `app.tenant_id()`, `app.enter`, `app.refuse` and `app.bind`.
    async fn functions(&mut self) -> Result<Vec<Attack>, ProveError> {
        let subjects = self.subjects.clone();
        let silent: Vec<Aim<'_>> = subjects
            .iter()
            .filter(|subject| subject.has_tenant())
            .map(|subject| Aim::Table {
                subject,
                wanted: |operation, bound, subject| {
                    bound == Bound::Never && operation.only_reads() && operation.is_privileged(subject)
                },
            })
            .collect();
        let guard = guards::raising(&mut self.bench).await?;
        let mut attacks = self.with_and_without(&guard, &silent).await?;
        let guard = guards::epoch_check(&mut self.bench).await?;
        attacks.extend(self.with_and_without(&guard, &[Aim::Epoch]).await?);
        let guard = guards::refusal(&mut self.bench).await?;
        attacks.extend(self.with_and_without(&guard, &[Aim::Reads]).await?);
        let guard = guards::binding(&mut self.bench).await?;
        attacks.extend(self.with_and_without(&guard, &[Aim::Bind]).await?);
        Ok(attacks)
    }

    /// What is not granted.
    async fn grants(&mut self) -> Result<Vec<Attack>, ProveError> {
        let subjects = self.subjects.clone();
        let mut attacks = Vec::new();
        for subject in subjects.iter().filter(|subject| subject.table.is_table && subject.has_tenant()) {
            let taking = [Aim::Table {
                subject,
                wanted: |operation, bound, _| {
                    operation == Operation::UpdateTaking && matches!(bound, Bound::To(_))
                },
            }];
            attacks
                .extend(self.with_and_without(&guards::column_grant(subject, &self.login), &taking).await?);
            let truncate =
                [Aim::Table { subject, wanted: |operation, _, _| operation == Operation::Truncate }];
            attacks.extend(
                self.with_and_without(&guards::truncate_grant(subject, &self.login), &truncate).await?,
            );
        }
        for (guard, (target, attempt, sql)) in guards::other_grants(&self.login, &self.database) {
            let aim = [Aim::Statement { target, attempt, sql }];
            attacks.extend(self.with_and_without(&guard, &aim).await?);
        }
        Ok(attacks)
    }
}
