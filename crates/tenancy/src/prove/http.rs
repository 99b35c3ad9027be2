//! Attacks over HTTP (feature `axum`): for services that embed this crate, and for whoever doubts them.
//!
//! A [`Plan`] says who there is (two tenants with people and data, perhaps a suspended one and the platform's
//! own host) and which routes the service has. [`prove_isolation`] then tries every route as every person: at
//! home, with the other tenant's ids, with the other tenant's token, at a suspended tenant's host, at hosts
//! that nobody has, with tokens that were forged, and with headers that claim to be somebody else.
//!
//! An attack was refused when the answer is no success and carries none of the victim's *canaries*: texts that
//! the tenant's data is full of and that stand nowhere else. With another tenant's ids in the path the answer
//! must moreover be, byte for byte, the answer to an id that does not exist. What a role may do is tried as
//! well, since a service that refuses everything would pass every attack; and [`see_it_fail`] repeats attacks
//! against a target whose guard was removed, where they must succeed.
//!
//! Requests go through a [`Target`]: a service in this process ([`InProcess`]) or any client of a service that
//! runs. Routes that change things are tried too, so plan with tenants that exist for this alone.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use axum_core::body::Body;
//! use axum_core::response::{IntoResponse, Response};
//! use http::header::{AUTHORIZATION, HOST};
//! use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
//! use stagesub_tenancy::prove::http::{Caller, InProcess, Plan, Route, Site, prove_isolation};
//!
//! /// The service: one note a tenant, read with the tenant's own token at the tenant's own host.
//! async fn notes(request: Request<Body>) -> Result<Response, Infallible> {
//!     let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
//!     let (note, token) = match text(HOST) {
//!         "alto.notes.example" => ("/notes/1", "Bearer alto-token"),
//!         "bass.notes.example" => ("/notes/2", "Bearer bass-token"),
//!         _ => return Ok(StatusCode::NOT_FOUND.into_response()),
//!     };
//!     Ok(match (text(AUTHORIZATION) == token, request.uri().path() == note) {
//!         (false, _) => StatusCode::UNAUTHORIZED.into_response(),
//!         (true, false) => StatusCode::NOT_FOUND.into_response(),
//!         (true, true) => format!("what {} wrote", text(HOST).replace(".notes.example", "-canary")).into_response(),
//!     })
//! }
//!
//! /// A tenant: its host, what its data carries, who may sign in, and the ids of its things.
//! fn choir(name: &str, note: &str) -> Site {
//!     let token = format!("Bearer {name}-token").parse().expect("a header's value");
//!     Site::new(name, format!("{name}.notes.example"))
//!         .canary(format!("{name}-canary"))
//!         .caller(Caller::new("singer", token))
//!         .value("note", note)
//!         .absent("note", "999")
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let plan = Plan::new([choir("alto", "1"), choir("bass", "2")], "nobody.notes.example")
//!     .route(Route::new(Method::GET, "/notes/{note}").allowed(["singer"]).reveals());
//! let proof = prove_isolation(&InProcess::new(tower::service_fn(notes)), &plan).await;
//! let failures: Vec<_> = proof.failures().collect();
//! assert!(proof.passed(), "{failures:#?}");
//! # }
//! ```

use http::Method;

use super::{Attack, Expectation, Outcome, Proof};

mod attacks;
mod forged;
mod judge;
mod plan;
mod target;
#[cfg(test)]
mod tests;
mod unguarded;

pub use plan::{At, Caller, Fixtures, NoFixtures, Plan, Route, Site, UNIQUE};
pub use target::{InProcess, Target, TargetError};
pub use unguarded::Unguarded;

use attacks::Case;

/// Names of the families of attacks, as [`Attack::suite`] has them.
pub mod suites {
    /// What a role may do at home, and what it may not.
    pub const OWN: &str = "http-own";
    /// The other tenant's ids, asked for at home.
    pub const OTHER_IDS: &str = "http-other-ids";
    /// The other tenant's token.
    pub const OTHER_TOKEN: &str = "http-other-token";
    /// A suspended tenant's host, with its own token.
    pub const SUSPENDED: &str = "http-suspended";
    /// A host that no tenant has.
    pub const UNKNOWN_HOST: &str = "http-unknown-host";
    /// Hosts that are not under the service's domain, or not quite.
    pub const FOREIGN_HOST: &str = "http-foreign-host";
    /// Tokens that nobody gave out.
    pub const FORGED_TOKEN: &str = "http-forged-token";
    /// Headers that name a tenant.
    pub const HEADERS: &str = "http-headers";
    /// Between the tenants and the platform's own host.
    pub const PLATFORM: &str = "http-platform";

    /// All of them.
    pub const ALL: [&str; 9] =
        [OWN, OTHER_IDS, OTHER_TOKEN, SUSPENDED, UNKNOWN_HOST, FOREIGN_HOST, FORGED_TOKEN, HEADERS, PLATFORM];
}

/// Tries every attack of the plan, one after the other, in a fixed order.
///
/// What could not be tried (a route without a value for its id, a target that did not answer) is in the proof
/// as not carried out, and fails it.
pub async fn prove_isolation(target: &dyn Target, plan: &Plan) -> Proof {
    let mut proof = Proof::new();
    for route in &plan.routes {
        if let Some(why) = &route.unknown {
            proof.push(Attack {
                suite: suites::OWN.to_owned(),
                target: route.name.clone(),
                attempt: "any caller".to_owned(),
                expectation: Expectation::Held,
                outcome: Outcome::NotCarriedOut(why.clone()),
            });
            continue;
        }
        for case in attacks::cases(plan, route) {
            proof.push(carry_out(target, plan, case).await);
        }
    }
    proof
}

/// What guard a target has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Guard {
    /// Hosts outside the service's domain are no tenant's.
    Host,
    /// A token opens one tenant's host alone.
    Token,
    /// A suspended tenant is not served.
    Suspension,
}

impl Guard {
    /// Every guard.
    pub const ALL: [Self; 3] = [Self::Host, Self::Token, Self::Suspension];

    /// The family of attacks that it stands against.
    #[must_use]
    pub const fn suite(self) -> &'static str {
        match self {
            Self::Host => suites::FOREIGN_HOST,
            Self::Token => suites::OTHER_TOKEN,
            Self::Suspension => suites::SUSPENDED,
        }
    }
}

/// Repeats the attacks that one guard stands against, on a target that has lost it: each must succeed.
///
/// Only what reads is tried, as those whose role allows it at home, so that nothing is changed where no guard
/// is. [`Unguarded`] makes such a target of any other.
pub async fn see_it_fail(target: &dyn Target, plan: &Plan, guard: Guard) -> Proof {
    let mut proof = Proof::new();
    for route in plan.routes.iter().filter(|route| route.unknown.is_none() && route.method == Method::GET) {
        for mut case in attacks::cases(plan, route) {
            if case.guard == Some(guard) && case.is_for_a_role_that_may() {
                case.expectation = Expectation::Control;
                proof.push(carry_out(target, plan, case).await);
            }
        }
    }
    proof
}

async fn carry_out(target: &dyn Target, plan: &Plan, case: Case<'_>) -> Attack {
    let outcome = match attempt(target, plan, &case).await {
        Ok(outcome) => outcome,
        Err(why) => Outcome::NotCarriedOut(why),
    };
    Attack {
        suite: case.suite.to_owned(),
        target: case.route.name.clone(),
        attempt: case.attempt,
        expectation: case.expectation,
        outcome,
    }
}

async fn attempt(target: &dyn Target, plan: &Plan, case: &Case<'_>) -> Result<Outcome, String> {
    let mut values = case.values.clone();
    if case.expectation == Expectation::Allowed {
        let fresh = plan.fixtures.prepare(target, case.route, case.home).await?;
        values.extend(fresh);
    }
    let answer = target.send(case.request(&values)?).await.map_err(|error| error.to_string())?;
    let mut absent = Vec::new();
    for ids in &case.absent {
        let mut values = values.clone();
        values.extend((*ids).clone());
        absent.push(target.send(case.request(&values)?).await.map_err(|error| error.to_string())?);
    }
    Ok(judge::judge(plan, case, &answer, &absent))
}
