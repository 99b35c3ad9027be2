//! Access tokens: signed, short-lived, bound to one person on one tenant's host or on the platform's.
//!
//! A token says who signed in and where; what they may do is read anew at each request
//! ([`Authenticator`](crate::Authenticator)). It is a JWT signed with HS256, since the nodes that make tokens
//! are the ones that check them.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::errors::{Error as JwtError, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use stagesub_domain::role::Role;
use stagesub_tenancy::{BoxError, TenantId};
use uuid::Uuid;

use crate::ports::AuthEpoch;

mod known;

use known::KnownTokens;

/// How long an access token lasts.
pub const ACCESS_TOKEN_LIFETIME: TimeDelta = TimeDelta::minutes(15);

/// Fewest bytes of a signing secret: as many as SHA-256 gives out.
pub const MIN_SECRET_BYTES: usize = 32;

/// Longest token that is looked at, in bytes; ours have about 400.
const MAX_TOKEN_BYTES: usize = 2048;

/// How far another node's clock may be ahead, in seconds.
const MAX_CLOCK_SKEW_SECS: i64 = 60;

/// What these tokens are for. Other kinds of token signed with the same secret must name another audience.
const AUDIENCE: &str = "stagesub/access";

/// What an access token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Who signed in.
    pub user: Uuid,
    /// On which tenant's host; `None` on the platform's own.
    pub tenant: Option<TenantId>,
    /// The role at that time. Superadmin exactly when there is no tenant.
    pub role: Role,
    /// Version of the person's authority at that time.
    pub auth_epoch: AuthEpoch,
    /// When it was made, in whole seconds.
    pub issued_at: DateTime<Utc>,
    /// From when on it is refused.
    pub expires_at: DateTime<Utc>,
    /// Identity of this token.
    pub token_id: Uuid,
}

/// Whom a token is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenSubject {
    /// Who signed in.
    pub user: Uuid,
    /// On which tenant's host; `None` on the platform's own.
    pub tenant: Option<TenantId>,
    /// The role there.
    pub role: Role,
    /// Version of the person's authority.
    pub auth_epoch: AuthEpoch,
}

/// The claims as they are written.
#[derive(Serialize, Deserialize)]
struct Wire {
    iss: String,
    aud: String,
    sub: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tid: Option<TenantId>,
    role: Role,
    aep: i64,
    iat: i64,
    exp: i64,
    jti: Uuid,
}

/// Makes and checks access tokens.
pub struct AccessTokens {
    signing: EncodingKey,
    checking: DecodingKey,
    validation: Validation,
    issuer: String,
    known: KnownTokens,
}

impl fmt::Debug for AccessTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessTokens").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl AccessTokens {
    /// Tokens signed with `secret`, in the name of `issuer`: the domain the platform is served under, so that
    /// another installation with the same secret still refuses them.
    ///
    /// # Errors
    /// [`WeakSecret`] when the secret is shorter than [`MIN_SECRET_BYTES`].
    pub fn new(secret: &SecretString, issuer: impl Into<String>) -> Result<Self, WeakSecret> {
        let bytes = secret.expose_secret().as_bytes();
        if bytes.len() < MIN_SECRET_BYTES {
            return Err(WeakSecret { len: bytes.len() });
        }
        let issuer = issuer.into();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[&issuer]);
        validation.set_audience(&[AUDIENCE]);
        // Without this the library accepts a token that has no audience or issuer at all.
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // The library asks the system's clock; `verify` compares with the time it is given.
        validation.validate_exp = false;
        Ok(Self {
            signing: EncodingKey::from_secret(bytes),
            checking: DecodingKey::from_secret(bytes),
            validation,
            issuer,
            known: KnownTokens::new(),
        })
    }

    /// Makes a token that lasts [`ACCESS_TOKEN_LIFETIME`] from `now`.
    ///
    /// # Errors
    /// [`TokenError::Unsigned`] when signing failed.
    pub fn issue(&self, subject: TokenSubject, now: DateTime<Utc>) -> Result<String, TokenError> {
        let issued_at = now.timestamp();
        let wire = Wire {
            iss: self.issuer.clone(),
            aud: AUDIENCE.to_owned(),
            sub: subject.user,
            tid: subject.tenant,
            role: subject.role,
            aep: subject.auth_epoch.0,
            iat: issued_at,
            exp: issued_at + ACCESS_TOKEN_LIFETIME.num_seconds(),
            jti: uuid::Builder::from_random_bytes(rand::random()).into_uuid(),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &wire, &self.signing)
            .map_err(|source| TokenError::Unsigned(Box::new(source)))
    }

    /// Checks a token's signature, issuer, audience, claims and end. A token that is still young enough says
    /// nothing yet about what its holder may do now.
    ///
    /// What was found good is remembered, of the 10,000 tokens used last, so that only its times are asked again.
    ///
    /// # Errors
    /// [`TokenError::Expired`] from the second of its end on; [`TokenError::Invalid`] for everything else.
    pub fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Invalid("it is too long".into()));
        }
        let checked = || self.check(token).and_then(|claims| in_time(claims, now));
        let known = self.known.claims(token, checked)?;
        in_time(known, now).inspect_err(|_| self.known.forget(token))
    }

    /// Everything about a token that no time changes.
    fn check(&self, token: &str) -> Result<Claims, TokenError> {
        let wire = jsonwebtoken::decode::<Wire>(token, &self.checking, &self.validation)
            .map_err(|source| TokenError::Invalid(describe(source)))?
            .claims;
        let (Some(issued_at), Some(expires_at)) =
            (DateTime::from_timestamp(wire.iat, 0), DateTime::from_timestamp(wire.exp, 0))
        else {
            return Err(TokenError::Invalid("its times are out of range".into()));
        };
        if (wire.role == Role::Superadmin) == wire.tid.is_some() {
            return Err(TokenError::Invalid("its role does not go with its tenant".into()));
        }
        Ok(Claims {
            user: wire.sub,
            tenant: wire.tid,
            role: wire.role,
            auth_epoch: AuthEpoch(wire.aep),
            issued_at,
            expires_at,
            token_id: wire.jti,
        })
    }
}

/// Everything about a token that its time changes.
fn in_time(claims: Claims, now: DateTime<Utc>) -> Result<Claims, TokenError> {
    if claims.issued_at.signed_duration_since(now) > TimeDelta::seconds(MAX_CLOCK_SKEW_SECS) {
        return Err(TokenError::Invalid("it was made in the future".into()));
    }
    if claims.expires_at <= now { Err(TokenError::Expired) } else { Ok(claims) }
}

/// Checks that a token was made for the host it is used on: the tenant in it is the host's, and on the
/// platform's own host there is none.
///
/// # Errors
/// [`TokenError::OtherTenant`] when they differ.
pub fn check_tenant(claims: &Claims, tenant: Option<TenantId>) -> Result<(), TokenError> {
    if claims.tenant == tenant { Ok(()) } else { Err(TokenError::OtherTenant) }
}

/// Says what is wrong without what is in the token: a JSON error quotes the text it stumbled over.
fn describe(error: JwtError) -> BoxError {
    match error.kind() {
        ErrorKind::Json(_) | ErrorKind::Base64(_) | ErrorKind::Utf8(_) => "it is malformed".into(),
        _ => Box::new(error),
    }
}

/// The signing secret is too short to sign with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "JWT_SECRET has {len} bytes; a signing secret has at least {MIN_SECRET_BYTES} (try: openssl rand -base64 48)"
)]
pub struct WeakSecret {
    /// How long it is, in bytes.
    pub len: usize,
}

/// A token was not made or not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It was good and has ended.
    #[error("the access token has expired")]
    Expired,
    /// It is not one of ours, or not whole.
    #[error("the access token is invalid")]
    Invalid(#[source] BoxError),
    /// It is one of ours, made for another host.
    #[error("the access token is for another host")]
    OtherTenant,
    /// It could not be signed.
    #[error("the access token could not be signed")]
    Unsigned(#[source] BoxError),
}

#[cfg(test)]
mod tests;
