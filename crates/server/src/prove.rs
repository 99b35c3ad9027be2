//! The proof: attacks on the platform as it is, with a report that can be handed on.
//!
//! | step | module |
//! |---|---|
//! | one proof at a time on a platform | a lock on its shared database |
//! | three orchestras to attack, awake while it runs | `canaries` |
//! | people who sign in there | `people` |
//! | every operation of the API, as every role | [`routes`], `fixtures`, [`stagesub_tenancy::prove::http`] |
//! | the same without a guard, in this process alone | `controls` |
//! | every database, and a scratch one without its guards | `databases` |
//! | the account of it, signed | [`report`], [`answers`], [`signing`] |
//!
//! # Invariants
//! - Nobody's data but the canaries' is read or written, except in transactions on dedicated databases that
//!   are rolled back.
//! - However a run ends, the canaries are suspended and its administrator is disabled after it.
//! - A guard is removed on canaries, in this process, and on scratch databases; never on a service that runs.
//! - What could not be tried fails the proof.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use http::StatusCode;
use serde_json::json;
use stagesub_domain::actor::Actor;
use stagesub_domain::audit::{AuditAction, AuditEntry};
use stagesub_domain::role::Role;
use stagesub_storage::logins::LoginRole;
use stagesub_storage::marker::DatabaseKind;
use stagesub_storage::registry::PlatformLock;
use stagesub_tenancy::DatabaseId;
use stagesub_tenancy::clock::Clock;
use stagesub_tenancy::prove::http::{Guard, InProcess, Plan, Site, Target, prove_isolation, see_it_fail};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::SystemClock;
use crate::config::ServingSettings;
use crate::routes::build_router;
use crate::wiring::Platform;

pub mod answers;
mod canaries;
mod controls;
mod databases;
pub mod error;
mod fixtures;
mod people;
pub mod remote;
pub mod report;
pub mod routes;
pub mod signing;

pub use error::ProveError;
pub use remote::Remote;
pub use report::Report;

use canaries::Canary;
use databases::Found;
use people::{Password, People};
use report::{AttackedDatabase, Facts};

/// Number of the lock that a proof holds. Any that nobody else uses.
const LOCK: i64 = 0x5354_4147_5052_4f56;
/// Longest that a proof waits for another.
const PATIENCE: Duration = Duration::from_mins(10);
/// Longest that a service may take to see what changed in the registry. It promises a second, or five without
/// notifications.
const SEEN_WITHIN: Duration = Duration::from_secs(15);
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// What is attacked.
#[derive(Debug, Clone, Copy)]
pub enum Attacked<'a> {
    /// The service that `serve` would run, in this process. The only one that can lose a guard.
    InProcess(&'a ServingSettings),
    /// The same without a guard: to see the proof fail. Nothing offers it but tests.
    Lacking(&'a ServingSettings, Guard),
    /// A service that runs, on the platform's databases.
    Service(&'a Remote),
}

impl Attacked<'_> {
    fn name(&self) -> String {
        match self {
            Self::InProcess(_) => "in process".to_owned(),
            Self::Lacking(_, guard) => format!("in process, without the guard {guard:?}"),
            Self::Service(remote) => remote.url().as_str().trim_end_matches('/').to_owned(),
        }
    }
}

/// How far a proof goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Routes and databases.
    Whole,
    /// Routes alone; what only databases can show is then not supported by the report.
    Routes,
}

/// Attacks, and tells what became of it. `stop` ends it early, and cleanly.
///
/// # Errors
/// [`ProveError`]: there is no proof. A proof that failed is a [`Report`].
pub async fn run(
    platform: &Platform,
    app_domain: &str,
    attacked: Attacked<'_>,
    extent: Extent,
    stop: &CancellationToken,
) -> Result<Report, ProveError> {
    let lock = tokio::select! {
        lock = take_lock(platform) => lock?,
        () = stop.cancelled() => return Err(ProveError::Stopped),
    };
    let proved = tokio::select! {
        // On the heap: it holds every attack's state, and whoever calls holds this.
        proved = Box::pin(attack(platform, app_domain, attacked, extent)) => proved,
        () = stop.cancelled() => Err(ProveError::Stopped),
    };
    let rested = rest(platform).await;
    let recorded = record(platform, &attacked.name(), proved.as_ref()).await;
    if !lock.release().await {
        tracing::warn!("the lock was lost while the proof ran; another one may have disturbed it");
    }
    let report = proved?;
    rested?;
    recorded?;
    Ok(report)
}

/// On the first shared database, as the migrator: the only login that may lock anything but rows.
async fn take_lock(platform: &Platform) -> Result<PlatformLock, ProveError> {
    let databases = platform.registry().list_databases().await?;
    let shared = databases.iter().find(|database| database.kind == DatabaseKind::Shared);
    let shared = shared.ok_or(ProveError::NoShared)?.id;
    let login = platform.logins().find_login(shared, LoginRole::Migrator).await?;
    let login = login.ok_or(ProveError::NoShared)?;
    let begun = Instant::now();
    let mut told = false;
    loop {
        if let Some(lock) = PlatformLock::try_take(&login, LOCK).await? {
            return Ok(lock);
        }
        if begun.elapsed() > PATIENCE {
            return Err(ProveError::Busy { minutes: PATIENCE.as_secs() / 60 });
        }
        if !told {
            tracing::warn!("another proof runs on this platform; waiting for it to end");
            told = true;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn rest(platform: &Platform) -> Result<(), ProveError> {
    let now = SystemClock.now();
    let canaries = canaries::rest(platform, now).await;
    people::rest_operator(platform, now).await?;
    canaries
}

/// Writes down that a proof ran, and what came of it.
async fn record(
    platform: &Platform,
    target: &str,
    proved: Result<&Report, &ProveError>,
) -> Result<(), ProveError> {
    let changes = match proved {
        Ok(report) => {
            let failed: usize = report.counts.iter().map(|count| count.failed).sum();
            json!({ "target": target, "passed": report.holds(), "attacks": report.attacks.attacks().len(),
                "failed": failed })
        }
        Err(error) => json!({ "target": target, "passed": false, "error": error.to_string() }),
    };
    let entry = AuditEntry {
        actor: Actor::system(),
        at: SystemClock.now(),
        action: AuditAction::Prove,
        model: "platform",
        record_id: None,
        changes: Some(changes),
    };
    Ok(platform.tenants().record(None, &entry).await?)
}

async fn attack(
    platform: &Platform,
    app_domain: &str,
    attacked: Attacked<'_>,
    extent: Extent,
) -> Result<Report, ProveError> {
    let begun_at = SystemClock.now();
    let canaries = canaries::wake(platform, begun_at).await?;
    let password = Password::make(platform).await?;
    let [a, b, c] = &canaries;
    let people = [
        people::enlist(platform, a, &password, begun_at).await?,
        people::enlist(platform, b, &password, begun_at).await?,
        people::enlist(platform, c, &password, begun_at).await?,
    ];
    let operator = people::wake_operator(platform, &c.marker, &password, begun_at).await?;

    let bare = bare_target(platform, attacked)?;
    let stage = Stage { app_domain, password: &password, target: bare.as_ref() };
    let mut sites = Vec::new();
    for (canary, people) in canaries.iter().zip(&people) {
        sites.push(stage.tenant(canary, people).await?);
    }
    let shared = platform.registry().list_shared().await?.first().copied().ok_or(ProveError::NoShared)?;
    let platform_site = stage.platform(c, &people[2], &operator, shared).await?;
    let [site_a, site_b, site_c]: [Site; 3] =
        sites.try_into().unwrap_or_else(|_| unreachable!("three canaries make three sites"));
    canaries::suspend(platform, c, SystemClock.now()).await?;
    let seen_after = stage.wait_for_suspension(&site_c).await?;

    let mut plan = Plan::new([site_a, site_b], format!("{}.{app_domain}", canaries::NOBODY))
        .suspended(site_c)
        .platform(platform_site)
        .fixtures(Arc::new(fixtures::Made { people: Arc::clone(platform.people()) }));
    plan.routes = routes::routes();

    let mut proof = match attacked {
        Attacked::InProcess(_) | Attacked::Service(_) => prove_isolation(bare.as_ref(), &plan).await,
        Attacked::Lacking(serving, guard) => {
            let lacking = controls::without(guard, platform, serving, bare.as_ref(), &plan)?;
            prove_isolation(lacking.as_ref(), &plan).await
        }
    };
    if let Attacked::InProcess(serving) | Attacked::Lacking(serving, _) = attacked {
        for guard in Guard::ALL {
            let lacking = controls::without(guard, platform, serving, bare.as_ref(), &plan)?;
            proof.append(see_it_fail(lacking.as_ref(), &plan, guard).await);
        }
    }
    let Found { proof: attacks, attacked: databases, left_out } = match extent {
        Extent::Whole => Box::pin(databases::run(platform, a.id, b.id)).await?,
        Extent::Routes => Found::default(),
    };
    proof.append(attacks);
    let facts = Facts {
        begun_at,
        ended_at: SystemClock.now(),
        app_domain: app_domain.to_owned(),
        target: attacked.name(),
        registry: registry(platform).await?,
        databases,
        left_out,
        operations: routes::operations().len(),
        roles: routes::ROLES.into_iter().map(|role| role.as_str().to_owned()).collect(),
        suspension_seen_after_millis: u64::try_from(seen_after.as_millis()).unwrap_or(u64::MAX),
    };
    Ok(Report::new(facts, proof))
}

fn bare_target(platform: &Platform, attacked: Attacked<'_>) -> Result<Box<dyn Target>, ProveError> {
    Ok(match attacked {
        Attacked::InProcess(serving) | Attacked::Lacking(serving, _) => {
            Box::new(InProcess::new(build_router(platform.state(serving)?)))
        }
        Attacked::Service(remote) => Box::new(remote.clone()),
    })
}

async fn registry(platform: &Platform) -> Result<AttackedDatabase, ProveError> {
    let registry = platform.registry();
    Ok(AttackedDatabase {
        id: registry.database().to_string(),
        kind: "registry".to_owned(),
        server_version: registry.server_version().await?,
        schema_version: registry.schema_version(),
    })
}

/// The service, before anything is tried.
struct Stage<'a> {
    app_domain: &'a str,
    password: &'a Password,
    target: &'a dyn Target,
}

impl Stage<'_> {
    /// A canary as a site, its people signed in.
    async fn tenant(&self, canary: &Canary, people: &People) -> Result<Site, ProveError> {
        let host = format!("{}.{}", canary.subdomain, self.app_domain);
        let absent = |kind: &str| format!("{}-{kind}-999999", canary.code);
        let mut site = Site::new(format!("canary {}", canary.letter.to_uppercase()), &host)
            .id(canary.id.to_string())
            .canary(&canary.marker)
            .value("canary", &canary.marker)
            .value("instrument", &canary.instrument)
            .absent("instrument", absent("INST"))
            .value("position", &canary.position)
            .absent("position", absent("POS"))
            .value("musician", &canary.musician)
            .absent("musician", absent("MUS"))
            .value("project", &canary.project)
            .absent("project", absent("PROJ"))
            .value("member", people.spare.to_string())
            .absent("member", Uuid::now_v7().to_string())
            .value("login_password", self.password.expose());
        for (role, email) in &people.callers {
            site = site.caller(people::caller(*role, self.sign_in(&host, email).await?));
            if *role == Role::Viewer {
                site = site.value("login_email", email);
            }
        }
        Ok(site)
    }

    /// The platform's own host as a site; what it has is the third canary and a database.
    async fn platform(
        &self,
        canary: &Canary,
        people: &People,
        operator: &str,
        database: DatabaseId,
    ) -> Result<Site, ProveError> {
        let token = self.sign_in(self.app_domain, operator).await?;
        Ok(Site::new("the platform", self.app_domain)
            .canary(&canary.marker)
            .value("canary", &canary.marker)
            .value("tenant", canary.id.to_string())
            .absent("tenant", Uuid::now_v7().to_string())
            .value("database", database.to_string())
            .absent("database", Uuid::now_v7().to_string())
            .value("subdomain", &canary.subdomain)
            .value("code", &canary.code)
            .value("member", people.spare.to_string())
            .absent("member", Uuid::now_v7().to_string())
            .value("login_email", operator)
            .value("login_password", self.password.expose())
            .caller(people::caller(Role::Superadmin, token)))
    }

    /// Signs somebody in, as soon as the service has seen that they may.
    async fn sign_in(&self, host: &str, email: &str) -> Result<http::HeaderValue, ProveError> {
        let begun = Instant::now();
        loop {
            match people::sign_in(self.target, host, email, self.password).await? {
                Ok(token) => return Ok(token),
                Err(answer) if begun.elapsed() > SEEN_WITHIN => {
                    return Err(ProveError::NotServed {
                        host: host.to_owned(),
                        status: answer.status().as_u16(),
                    });
                }
                Err(_) => tokio::time::sleep(ASK_AGAIN).await,
            }
        }
    }

    /// Waits until the service has seen that a canary is suspended, and tells how long that took. One that
    /// never sees it is attacked all the same, and fails.
    async fn wait_for_suspension(&self, site: &Site) -> Result<Duration, ProveError> {
        let begun = Instant::now();
        let token = &site.callers.first().expect("a canary has people").authorization;
        while begun.elapsed() <= SEEN_WITHIN {
            let answer = self.target.send(people::who_am_i(&site.host, token)).await?;
            if answer.status() == StatusCode::FORBIDDEN {
                break;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        Ok(begun.elapsed())
    }
}

/// The name of a report's file, of the time it was made.
#[must_use]
pub fn file_name(at: DateTime<Utc>) -> String {
    format!("stagesub-proof-{}.json", at.format("%Y%m%dT%H%M%SZ"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_by_its_time() {
        let at = "2026-11-25T15:04:05Z".parse().unwrap();
        assert_eq!(file_name(at), "stagesub-proof-20261125T150405Z.json");
    }
}
