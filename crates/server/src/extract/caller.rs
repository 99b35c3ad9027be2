//! Who asks, and what they may do.

use std::sync::OnceLock;
use std::time::Instant;

use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;
use axum_extra::TypedHeader;
use axum_extra::headers::Authorization;
use axum_extra::headers::authorization::Bearer;
use secrecy::{ExposeSecret, SecretString};
use stagesub_auth::{Permission, authorize};
use stagesub_domain::actor::{Actor, Origin};
use stagesub_domain::role::Role;
use stagesub_domain::service::Act;
use stagesub_tenancy::http::ClientAddr;
use stagesub_tenancy::usage::waited;
use stagesub_tenancy::{Addressed, TenantScope};
use tower_http::request_id::RequestId;
use uuid::Uuid;

use crate::limits::Turn;
use crate::problem::Problem;
use crate::state::AppState;

/// A member of the orchestra that the host names, with the scope of its data.
#[derive(Debug)]
pub struct TenantCaller {
    /// The orchestra.
    pub scope: TenantScope,
    /// The member.
    pub actor: Actor,
    role: Role,
    /// The orchestra's turn, once it came.
    turn: OnceLock<Turn>,
}

impl TenantCaller {
    /// Whether the member's role allows it.
    pub fn may(&self, permission: Permission) -> Result<(), Problem> {
        authorize(self.role, permission).map_err(Problem::from)
    }

    /// Waits until it is the orchestra's turn, which lasts as long as the caller does. Call it when the request has
    /// arrived whole: whoever sends one slowly keeps nobody from working.
    ///
    /// # Errors
    /// As of [`crate::limits::Limits::work_for`].
    ///
    /// # Cancel safety
    /// Dropping the future gives the place up.
    pub async fn take_turn(&self, state: &AppState) -> Result<(), Problem> {
        if self.turn.get().is_none() {
            let since = Instant::now();
            let turn = state.limits.work_for(self.scope.tenant_id()).await?;
            waited(since.elapsed());
            // A second one, which nobody asks for, is given back.
            drop(self.turn.set(turn));
        }
        Ok(())
    }

    /// Begins a request that has arrived whole: the member's role allows it, and it is the orchestra's turn.
    ///
    /// # Errors
    /// As of [`Self::may`] and [`Self::take_turn`].
    ///
    /// # Cancel safety
    /// As of [`Self::take_turn`].
    pub async fn begin(&self, state: &AppState, permission: Permission) -> Result<(), Problem> {
        self.may(permission)?;
        self.take_turn(state).await
    }

    /// What use cases are told of who acts, for whom and when.
    #[must_use]
    pub fn act(&self, state: &AppState) -> Act<'_> {
        Act { actor: &self.actor, code: self.scope.code(), now: state.now() }
    }
}

/// An administrator of the platform, on the platform's own host.
#[derive(Debug)]
pub struct PlatformCaller {
    /// The administrator.
    pub actor: Actor,
    role: Role,
    token: SecretString,
}

impl PlatformCaller {
    /// Whether the administrator's role allows it.
    pub fn may(&self, permission: Permission) -> Result<(), Problem> {
        authorize(self.role, permission).map_err(Problem::from)
    }

    /// The same administrator as of now, for an answer that goes on: their token may be over, or their role another.
    ///
    /// # Errors
    /// As when they asked.
    pub async fn again(&self, state: &AppState) -> Result<Self, Problem> {
        let token = self.token.expose_secret();
        let authenticated = state.authenticator().authenticate(token, None, state.now()).await?;
        Ok(Self {
            role: authenticated.role,
            actor: Actor { identity: authenticated.identity(), origin: self.actor.origin.clone() },
            token: self.token.clone(),
        })
    }
}

impl FromRequestParts<AppState> for TenantCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Self::Rejection> {
        let scope = TenantScope::from_request_parts(parts, state).await.map_err(|_| Problem::not_found())?;
        let token = bearer(parts, state).await?;
        let authenticated =
            state.authenticator().authenticate(&token, Some(scope.tenant_id()), state.now()).await?;
        // Once it is known whose request it is: strangers cannot use an orchestra's limit up.
        state.limits.request_to(scope.tenant_id())?;
        Ok(Self {
            role: authenticated.role,
            actor: Actor { identity: authenticated.identity(), origin: origin(parts) },
            scope,
            turn: OnceLock::new(),
        })
    }
}

impl FromRequestParts<AppState> for PlatformCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Self::Rejection> {
        if !matches!(parts.extensions.get::<Addressed>(), Some(Addressed::Apex)) {
            return Err(Problem::not_found());
        }
        let token = bearer(parts, state).await?;
        let authenticated = state.authenticator().authenticate(&token, None, state.now()).await?;
        Ok(Self {
            role: authenticated.role,
            actor: Actor { identity: authenticated.identity(), origin: origin(parts) },
            token: token.into(),
        })
    }
}

/// Anyone who is signed in at the host: a member of its orchestra, or on the platform's own host an
/// administrator of the platform.
#[derive(Debug)]
pub struct AnyCaller {
    /// The person.
    pub user: Uuid,
    /// What they are here.
    pub role: Role,
    /// The orchestra's code, on its host.
    pub tenant_code: Option<String>,
}

impl FromRequestParts<AppState> for AnyCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Self::Rejection> {
        let RequestHost(addressed) = RequestHost::from_request_parts(parts, state).await?;
        let scope = match &addressed {
            Addressed::Tenant(scope) => Some(scope),
            Addressed::Apex => None,
            Addressed::Www => return Err(Problem::not_found()),
        };
        let token = bearer(parts, state).await?;
        let authenticated = state
            .authenticator()
            .authenticate(&token, scope.map(TenantScope::tenant_id), state.now())
            .await?;
        if let Some(scope) = scope {
            state.limits.request_to(scope.tenant_id())?;
        }
        Ok(Self {
            user: authenticated.user,
            role: authenticated.role,
            tenant_code: scope.map(|scope| scope.code().to_string()),
        })
    }
}

/// Whom the host addresses.
#[derive(Debug)]
pub struct RequestHost(pub Addressed);

impl<S: Send + Sync> FromRequestParts<S> for RequestHost {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get::<Addressed>().cloned().map(Self).ok_or_else(Problem::not_found)
    }
}

/// Where the request came from.
#[derive(Debug)]
pub struct RequestOrigin(pub Origin);

impl<S: Send + Sync> FromRequestParts<S> for RequestOrigin {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(origin(parts)))
    }
}

async fn bearer(parts: &mut Parts, state: &AppState) -> Result<String, Problem> {
    match TypedHeader::<Authorization<Bearer>>::from_request_parts(parts, state).await {
        Ok(TypedHeader(authorization)) => Ok(authorization.token().to_owned()),
        Err(_) => Err(Problem::unauthenticated("Sign in and send the access token as a bearer token.")),
    }
}

/// Where the request came from, as the audit log records it.
#[must_use]
pub fn origin(parts: &Parts) -> Origin {
    Origin {
        ip_address: parts.extensions.get::<ClientAddr>().map(|client| client.0),
        user_agent: parts
            .headers
            .get(header::USER_AGENT)
            .and_then(|value| value.to_str().ok())
            .map(|text| text.chars().take(512).collect()),
        request_id: parts
            .extensions
            .get::<RequestId>()
            .and_then(|id| id.header_value().to_str().ok())
            .map(str::to_owned),
    }
}
