//! A node's look at its own guards before it serves: a handful of requests to the router that is about to.
//!
//! Nothing is written: the tokens are made here and never stored, and the one route that is asked only reads
//! who is signed in. A node that has lost its check of hosts or of tokens says so before anybody is served.

use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::{Request, StatusCode};
use stagesub_auth::{AccessTokens, TokenError, TokenSubject, WeakSecret};
use stagesub_storage::registry::Witness;
use stagesub_tenancy::DirectoryError;
use stagesub_tenancy::clock::Clock;
use stagesub_tenancy::prove::http::{InProcess, Target, TargetError};

use crate::clock::SystemClock;
use crate::config::ServingSettings;
use crate::wiring::Platform;

/// Answers a member with who they are, and writes nothing.
const PATH: &str = "/api/v1/auth/me";
/// A domain that is nobody's.
const FOREIGN: &str = "attacker.example";

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guards {
    /// Every guard was asked.
    Asked(Vec<Probe>),
    /// Fewer than two orchestras that are served have a member, so there is nobody to try it with.
    TooFewTenants,
}

impl Guards {
    /// What was not answered as it has to be.
    pub fn failures(&self) -> impl Iterator<Item = &Probe> {
        let probes = match self {
            Self::Asked(probes) => probes.as_slice(),
            Self::TooFewTenants => &[],
        };
        probes.iter().filter(|probe| !probe.holds())
    }
}

/// One request to the router, and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Which guard it asks.
    pub guard: Guard,
    /// What was tried.
    pub attempt: String,
    /// What has to be answered.
    pub expected: StatusCode,
    /// What was.
    pub answered: StatusCode,
}

impl Probe {
    /// Whether it was answered as it has to be.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.expected == self.answered
    }
}

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Guard {
    /// A host outside the platform's domain is no orchestra's.
    Host,
    /// A token opens the host it was made for, and nobody gets in without one.
    Token,
    /// Their own people do get in: without it the refusals say nothing.
    Control,
}

/// Tries the guards of the service behind `target` with two orchestras that are there.
///
/// # Errors
/// [`GuardsError`] when they could not be tried.
pub async fn probe(
    platform: &Platform,
    serving: &ServingSettings,
    target: &dyn Target,
) -> Result<Guards, GuardsError> {
    let now = SystemClock.now();
    let witnesses = platform.registry().find_witnesses(now).await?;
    let [a, b] = witnesses.as_slice() else { return Ok(Guards::TooFewTenants) };
    let domain = serving.hosts.app_domain();
    let tokens = AccessTokens::new(&serving.jwt_secret, domain)?;
    let token = |witness: &Witness| {
        tokens.issue(
            TokenSubject {
                user: witness.user,
                tenant: Some(witness.tenant),
                role: witness.role,
                auth_epoch: witness.auth_epoch,
            },
            now,
        )
    };
    let mut probes = Vec::new();
    for (here, there) in [(a, b), (b, a)] {
        let own = format!("{}.{domain}", here.subdomain);
        let foreign = format!("{}.{FOREIGN}", here.subdomain);
        let (ours, theirs) = (token(here)?, token(there)?);
        for (guard, attempt, host, token, expected) in [
            (Guard::Control, "a member's token at their own host", &own, Some(&ours), StatusCode::OK),
            (
                Guard::Host,
                "a member's token at their label under another domain",
                &foreign,
                Some(&ours),
                StatusCode::NOT_FOUND,
            ),
            (Guard::Token, "another orchestra's token", &own, Some(&theirs), StatusCode::UNAUTHORIZED),
            (Guard::Token, "no token", &own, None, StatusCode::UNAUTHORIZED),
        ] {
            let answered = ask(target, host, token.map(String::as_str)).await?;
            probes.push(Probe { guard, attempt: format!("{attempt} ({host})"), expected, answered });
        }
    }
    Ok(Guards::Asked(probes))
}

/// Tries the guards of the router that `serve` is about to serve.
///
/// # Errors
/// As [`probe`].
pub async fn probe_router(
    platform: &Platform,
    serving: &ServingSettings,
    router: axum::Router,
) -> Result<Guards, GuardsError> {
    probe(platform, serving, &InProcess::new(router)).await
}

async fn ask(target: &dyn Target, host: &str, token: Option<&str>) -> Result<StatusCode, GuardsError> {
    let mut request = Request::builder()
        .uri(PATH)
        .header(HOST, host)
        .body(bytes::Bytes::new())
        .expect("a host and a path make a request");
    if let Some(token) = token {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).expect("a token is plain text");
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    Ok(target.send(request).await?.status())
}

/// The guards could not be tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardsError {
    /// The registry did not tell with whom.
    #[error("the registry could not be asked with whom to try the guards")]
    Directory(#[from] DirectoryError),
    /// The signing secret is too short.
    #[error(transparent)]
    WeakSecret(#[from] WeakSecret),
    /// A token could not be made.
    #[error("a token to try the guards with could not be made")]
    Token(#[from] TokenError),
    /// The router gave no answer.
    #[error(transparent)]
    Target(#[from] TargetError),
}
