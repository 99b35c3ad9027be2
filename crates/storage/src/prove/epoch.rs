//! Beginning a transaction where, when or how it must not begin.

use std::fmt;

use stagesub_tenancy::prove::{Attack, Outcome};
use stagesub_tenancy::{Access, BeginError, OpenError, PlacementEpoch, RouteError, TenantId};
use uuid::Uuid;

use super::error::ProveError;
use super::label::{Label, not_carried_out};
use super::path::DataPath;
use super::session::{Answer, Bound, Session};
use super::tables::{NO_PRIVILEGE, bindings};
use crate::error::{ISOLATION, NOT_BINDABLE, STALE_EPOCH};
use crate::one_message::{PreparedRead, ReadError};
use crate::one_write::{PreparedWrite, WriteError};
use crate::target::ConnectionTarget;

/// The suite's name.
pub(super) const SUITE: &str = "epoch";

/// What is entered.
const TARGET: &str = "app.enter";
/// What binds a statement that reads without entering.
const BIND: &str = "app.bind";
/// What reads without entering.
const ONE_MESSAGE: &str = "TenantDb::read_in_one_message";

/// What enters, writes and commits in one message.
const ONE_WRITE: &str = "TenantDb::write_in_one_message";

/// What every database that holds tenants has to be read: the tenant's own fence.
static FENCE: PreparedRead = PreparedRead::new(
    "prove_fence",
    "SELECT f.tenant_id FROM app.tenant_fence AS f WHERE f.tenant_id = $1",
    0,
);
/// What finds nothing.
static NOTHING: PreparedRead = PreparedRead::new(
    "prove_nothing",
    "SELECT f.tenant_id FROM app.tenant_fence AS f WHERE f.tenant_id = $1 LIMIT 0",
    0,
);

/// What may be carried out as a write in any database that holds tenants; it changes nothing.
const TOUCH: PreparedWrite = PreparedWrite::new(
    "prove_touch",
    "WITH own AS (SELECT f.tenant_id FROM app.tenant_fence AS f WHERE f.tenant_id = $1) SELECT o.tenant_id FROM own AS o",
    0,
);

/// What is read in one message: a row, and what finds nothing, where a condition that is asked of rows alone is never
/// asked.
fn reads() -> [(&'static str, &'static PreparedRead); 2] {
    [("a row", &FENCE), ("what finds nothing", &NOTHING)]
}

/// How a transaction begins.
#[derive(Debug, Clone, Copy)]
enum Mode {
    Read,
    Write,
    RepeatableRead,
    Serializable,
}

impl Mode {
    const fn statement(self) -> &'static str {
        match self {
            Self::Read => "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY",
            Self::Write => "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE",
            Self::RepeatableRead => "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE",
            Self::Serializable => "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ WRITE",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "reading",
            Self::Write => "writing",
            Self::RepeatableRead => "writing at REPEATABLE READ",
            Self::Serializable => "writing at SERIALIZABLE",
        })
    }
}

/// The epoch at which the database serves a tenant, as the application may read it. `None`: it does not.
pub(super) async fn find_epoch(app: &mut Session, tenant: TenantId) -> Result<Option<i64>, ProveError> {
    let mut transaction = app.begin(Bound::To(tenant)).await?;
    let sql =
        format!("SELECT epoch::text FROM app.tenant_fence WHERE tenant_id = '{tenant}' AND state = 'active'");
    let found = transaction.read(&sql).await?;
    transaction.end().await?;
    Ok(found.and_then(|epoch| epoch.parse().ok()))
}

/// The epoch that the victim's fence bears in a database that served it once and does not now: a move has taken it away.
async fn find_left(app: &mut Session, tenant: TenantId) -> Result<Option<i64>, ProveError> {
    let mut transaction = app.begin(Bound::To(tenant)).await?;
    let sql = format!(
        "SELECT epoch::text FROM app.tenant_fence WHERE tenant_id = '{tenant}' AND state <> 'active'"
    );
    let found = transaction.read(&sql).await?;
    transaction.end().await?;
    Ok(found.and_then(|epoch| epoch.parse().ok()))
}

/// Attacks `app.enter` where the victim is served no more: at no epoch does anybody enter.
async fn attack_left(
    app: &mut Session,
    login: &ConnectionTarget,
    (attacker, victim): (TenantId, TenantId),
    epoch: i64,
) -> Result<Vec<Attack>, ProveError> {
    let label = Label::held();
    let mut attacks = Vec::new();
    for mode in [Mode::Read, Mode::Write] {
        let outcome = judge(enter(app, Bound::To(victim), mode, &epoch.to_string()).await?, &[STALE_EPOCH]);
        attacks.push(label.attack(
            SUITE,
            TARGET,
            format!("the epoch that the victim left at, {mode}"),
            outcome,
        ));
    }
    attacks.extend(attack(app, (attacker, victim), epoch, &label).await?);
    let mut path = DataPath::open(app, login).await?;
    attacks.extend(attack_reads(&mut path, victim, epoch, &label).await);
    attacks.extend(attack_writes(&mut path, victim, epoch, &label).await);
    path.close().await;
    Ok(attacks)
}

/// Attacks `app.enter`, and the data path over it and beside it.
pub(super) async fn attack_all(
    app: &mut Session,
    login: &ConnectionTarget,
    attacker: TenantId,
    victim: TenantId,
) -> Result<Vec<Attack>, ProveError> {
    let Some(epoch) = find_epoch(app, victim).await? else {
        if let Some(epoch) = find_left(app, victim).await? {
            return attack_left(app, login, (attacker, victim), epoch).await;
        }
        let why = not_carried_out("the database does not serve the victim now: admit it");
        return Ok(vec![Label::allowed(SUITE, TARGET, "the victim's epoch, writing", why)]);
    };
    let mut attacks = Vec::new();
    for mode in [Mode::Read, Mode::Write] {
        let answer = enter(app, Bound::To(victim), mode, &epoch.to_string()).await?;
        let outcome = match answer {
            Answer::Done(_) => Outcome::Reached("it began".to_owned()),
            Answer::Refused(refusal) => not_carried_out(format!("it met {refusal}")),
        };
        attacks.push(Label::allowed(SUITE, TARGET, format!("the victim's epoch, {mode}"), outcome));
    }
    attacks.extend(attack(app, (attacker, victim), epoch, &Label::held()).await?);
    attacks.push(bind_allowed(app, victim).await?);
    attacks.extend(attack_bind(app, (attacker, victim), &Label::held()).await?);
    attacks.extend(data_path(app, login, attacker, victim, epoch).await?);
    let mut path = DataPath::open(app, login).await?;
    path.place(victim, PlacementEpoch(epoch));
    for (what, read) in reads() {
        let outcome = match path.read(victim, read).await {
            Ok(rows) if rows == usize::from(read.name() == FENCE.name()) => {
                Outcome::Reached("it was read".to_owned())
            }
            Ok(rows) => not_carried_out(format!("{rows} rows came")),
            Err(error) => not_carried_out(words(&error)),
        };
        let attempt = format!("the victim's epoch, {what}");
        attacks.push(Label::allowed(SUITE, ONE_MESSAGE, attempt, outcome));
    }
    attacks.extend(attack_reads(&mut path, victim, epoch, &Label::held()).await);
    path.place(victim, PlacementEpoch(epoch));
    let outcome = match path.write(victim, &TOUCH).await {
        Ok(1) => Outcome::Reached("it was carried out".to_owned()),
        Ok(rows) => not_carried_out(format!("{rows} rows were met")),
        Err(error) => not_carried_out(words(&error)),
    };
    attacks.push(Label::allowed(SUITE, ONE_WRITE, "the victim's epoch", outcome));
    attacks.extend(attack_writes(&mut path, victim, epoch, &Label::held()).await);
    path.close().await;
    Ok(attacks)
}

/// Epochs at which a tenant is not served, by tenant.
fn elsewhere(victim: TenantId, epoch: i64) -> [(&'static str, TenantId, i64); 3] {
    [
        ("an older epoch", victim, epoch - 1),
        ("a newer epoch", victim, epoch + 1),
        ("a tenant that is not here", TenantId::from_uuid(Uuid::now_v7()), epoch),
    ]
}

/// Attacks writes that are one message, through `TenantDb`.
async fn attack_writes(path: &mut DataPath, victim: TenantId, epoch: i64, label: &Label) -> Vec<Attack> {
    let mut attacks = Vec::new();
    for (case, tenant, epoch) in elsewhere(victim, epoch) {
        path.place(tenant, PlacementEpoch(epoch));
        let outcome = match path.write(tenant, &TOUCH).await {
            Ok(rows) => Outcome::Reached(format!("it was carried out, and met {rows} rows")),
            Err(WriteError::Begin(error)) if is_refused(&error, tenant != victim) => Outcome::Refused,
            Err(error) => not_carried_out(words(&error)),
        };
        attacks.push(label.attack(SUITE, ONE_WRITE, case, outcome));
    }
    attacks
}

/// Whether the fence refused. A tenant's own database is nobody else's, which it says before anything is begun on it.
fn is_refused(error: &BeginError, of_another: bool) -> bool {
    match error {
        BeginError::Moved => true,
        BeginError::Route(error) => of_another && is_anothers(error),
        _ => false,
    }
}

/// Attacks reads that are one message, through `TenantDb`: they enter nowhere, and ask for the epoch themselves.
pub(super) async fn attack_reads(
    path: &mut DataPath,
    victim: TenantId,
    epoch: i64,
    label: &Label,
) -> Vec<Attack> {
    let mut attacks = Vec::new();
    for (case, tenant, epoch) in elsewhere(victim, epoch) {
        path.place(tenant, PlacementEpoch(epoch));
        for (what, read) in reads() {
            let outcome = match path.read(tenant, read).await {
                Ok(rows) => Outcome::Reached(format!("it was read, with {rows} rows")),
                Err(ReadError::Begin(error)) if is_refused(&error, tenant != victim) => Outcome::Refused,
                Err(error) => not_carried_out(words(&error)),
            };
            attacks.push(label.attack(SUITE, ONE_MESSAGE, format!("{case}, {what}"), outcome));
        }
    }
    attacks
}

/// Whether no pool was opened, because the database is marked as another tenant's.
fn is_anothers(error: &RouteError) -> bool {
    matches!(error, RouteError::Open(error) if matches!(error.root(), OpenError::WrongDatabase { .. }))
}

/// Attacks `app.enter`.
pub(super) async fn attack(
    app: &mut Session,
    (attacker, victim): (TenantId, TenantId),
    epoch: i64,
    label: &Label,
) -> Result<Vec<Attack>, ProveError> {
    let mut attacks = Vec::new();
    for mode in [Mode::Read, Mode::Write] {
        for bound in bindings(attacker).into_iter().filter(|bound| !matches!(bound, Bound::To(_))) {
            let answer = enter(app, bound, mode, &epoch.to_string()).await?;
            let outcome = judge(answer, &["42704", "22P02", STALE_EPOCH]);
            attacks.push(label.attack(SUITE, TARGET, format!("{bound}, {mode}"), outcome));
        }
    }
    attacks.extend(attack_check(app, victim, epoch, label).await?);
    Ok(attacks)
}

/// Attacks what `app.enter` itself checks.
pub(super) async fn attack_check(
    app: &mut Session,
    victim: TenantId,
    epoch: i64,
    label: &Label,
) -> Result<Vec<Attack>, ProveError> {
    let nobody = TenantId::from_uuid(Uuid::now_v7());
    let mut attacks = Vec::new();
    for mode in [Mode::Read, Mode::Write] {
        let cases = [
            ("an older epoch", Bound::To(victim), (epoch - 1).to_string()),
            ("a newer epoch", Bound::To(victim), (epoch + 1).to_string()),
            ("no epoch", Bound::To(victim), "NULL".to_owned()),
            ("a tenant that is not here", Bound::To(nobody), epoch.to_string()),
        ];
        for (case, bound, epoch) in cases {
            let outcome = judge(enter(app, bound, mode, &epoch).await?, &[STALE_EPOCH]);
            attacks.push(label.attack(SUITE, TARGET, format!("{case}, {mode}"), outcome));
        }
    }
    for mode in [Mode::RepeatableRead, Mode::Serializable] {
        let outcome = judge(enter(app, Bound::To(victim), mode, &epoch.to_string()).await?, &[ISOLATION]);
        attacks.push(label.attack(SUITE, TARGET, format!("the victim's epoch, {mode}"), outcome));
    }
    Ok(attacks)
}

/// Attacks `app.bind`: whoever is bound becomes the victim, or whoever is bound to nobody writes as the victim without
/// having entered.
pub(super) async fn attack_bind(
    app: &Session,
    (attacker, victim): (TenantId, TenantId),
    label: &Label,
) -> Result<Vec<Attack>, ProveError> {
    let mut attacks = Vec::new();
    for (bound, mode) in [
        (Bound::To(attacker), Mode::Read),
        (Bound::Garbage, Mode::Read),
        (Bound::To(attacker), Mode::Write),
        (Bound::Never, Mode::Write),
        (Bound::Empty, Mode::Write),
    ] {
        let outcome = judge(bind(app, bound, mode, victim).await?, &[NOT_BINDABLE]);
        attacks.push(label.attack(SUITE, BIND, format!("{bound}, {mode}"), outcome));
    }
    Ok(attacks)
}

/// That `app.bind` binds at all.
async fn bind_allowed(app: &Session, victim: TenantId) -> Result<Attack, ProveError> {
    let (bound, mode) = (Bound::Never, Mode::Read);
    let outcome = match bind(app, bound, mode, victim).await? {
        Answer::Done(done) if done.value == Some(victim.to_string()) => {
            Outcome::Reached("it was bound".to_owned())
        }
        Answer::Done(_) => not_carried_out("it was not bound to the victim".to_owned()),
        Answer::Refused(refusal) => not_carried_out(format!("it met {refusal}")),
    };
    Ok(Label::allowed(SUITE, BIND, format!("{bound}, {mode}"), outcome))
}

/// On connections of its own: one that was bound once is not one that never was.
async fn bind(app: &Session, bound: Bound, mode: Mode, victim: TenantId) -> Result<Answer, ProveError> {
    let mut own = app.another().await?;
    let mut transaction = own.begin(bound).await?;
    transaction.set(mode.statement()).await?;
    let answer = transaction.run(&format!("SELECT app.bind('{victim}')::text")).await?;
    transaction.end().await?;
    own.close().await?;
    Ok(answer)
}

async fn enter(app: &mut Session, bound: Bound, mode: Mode, epoch: &str) -> Result<Answer, ProveError> {
    let mut transaction = app.begin(bound).await?;
    transaction.set(mode.statement()).await?;
    let answer = transaction.run(&format!("CALL app.enter({epoch})")).await?;
    transaction.end().await?;
    Ok(answer)
}

fn judge(answer: Answer, refusals: &[&str]) -> Outcome {
    match answer {
        Answer::Done(_) => Outcome::Reached("it began".to_owned()),
        Answer::Refused(refusal)
            if refusals.contains(&refusal.code.as_str()) || refusal.code == NO_PRIVILEGE =>
        {
            Outcome::Refused
        }
        Answer::Refused(refusal) => not_carried_out(format!("it met {refusal}")),
    }
}

/// The same through `TenantDb`, as a service begins its transactions.
async fn data_path(
    app: &mut Session,
    login: &ConnectionTarget,
    attacker: TenantId,
    victim: TenantId,
    epoch: i64,
) -> Result<Vec<Attack>, ProveError> {
    const TENANT_DB: &str = "TenantDb::begin";
    let mut path = DataPath::open(app, login).await?;
    path.place(victim, PlacementEpoch(epoch));
    let mut attacks = Vec::new();
    for access in [Access::Read, Access::Write] {
        let outcome = match path.begin(victim, access).await {
            Ok(()) => Outcome::Reached("it began".to_owned()),
            Err(error) => not_carried_out(words(&error)),
        };
        attacks.push(Label::allowed(SUITE, TENANT_DB, format!("the victim's epoch, {access:?}"), outcome));
    }
    if let Some(epoch) = find_epoch(app, attacker).await? {
        path.place(attacker, PlacementEpoch(epoch));
        let outcome = match path.begin(attacker, Access::Write).await {
            Ok(()) => Outcome::Reached("it began".to_owned()),
            Err(error) => not_carried_out(words(&error)),
        };
        attacks.push(Label::allowed(SUITE, TENANT_DB, "the attacker's own epoch, Write", outcome));
    }
    for (case, stale) in [("an older epoch", epoch - 1), ("a newer epoch", epoch + 1)] {
        path.place(victim, PlacementEpoch(stale));
        for access in [Access::Read, Access::Write] {
            let outcome = refused_as_moved(path.begin(victim, access).await);
            attacks.push(Label::held().attack(SUITE, TENANT_DB, format!("{case}, {access:?}"), outcome));
        }
    }
    path.misplace(victim, PlacementEpoch(epoch));
    let outcome = match path.begin(victim, Access::Write).await {
        Err(BeginError::Route(_)) => Outcome::Refused,
        Err(error) => not_carried_out(words(&error)),
        Ok(()) => Outcome::Reached("it began".to_owned()),
    };
    attacks.push(Label::held().attack(
        SUITE,
        TENANT_DB,
        "a database that is another than the one meant",
        outcome,
    ));
    path.close().await;
    Ok(attacks)
}

fn refused_as_moved(begun: Result<(), BeginError>) -> Outcome {
    match begun {
        Err(BeginError::Moved) => Outcome::Refused,
        Err(error) => not_carried_out(words(&error)),
        Ok(()) => Outcome::Reached("it began".to_owned()),
    }
}

/// An error with its causes.
fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words = format!("{words}: {cause}");
        source = cause.source();
    }
    words
}
