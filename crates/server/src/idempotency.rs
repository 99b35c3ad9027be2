//! Requests that create something and are asked twice: `Idempotency-Key`.
//!
//! A client whose connection was lost does not know whether its request was done. It names the request with a key
//! and sends it again; the second is told what the first was, to the byte, and nothing is done twice. The key is
//! claimed in the transaction that creates, and the answer is kept by it, so that both are there or neither is.
//! `draft-ietf-httpapi-idempotency-key-header` says which answers a client gets when a key is wrong.
//!
//! A handler asks whether its caller may, as ever; then [`Asking::begin`] gives either the earlier answer or a
//! [`Creation`] to work in, which ends with the answer.

mod turns;

use std::fmt;

use axum::body::{Body as AxumBody, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;
use stagesub_domain::actor::Actor;
use stagesub_domain::idempotency::{Asked, Fingerprint, IdempotencyKey, InvalidIdempotencyKey, KeptAnswer};
use stagesub_domain::ports::UnitOfWork;
use stagesub_domain::service::{Act, idempotency as service};
use stagesub_tenancy::Access;
use utoipa::IntoParams;

pub use self::turns::{KeyTurn, KeyTurns};
use crate::extract::{Body, TenantCaller};
use crate::problem::Problem;
use crate::state::AppState;

/// The name of the header that carries a request's key.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The name of the header that says that an answer was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// What the description of the API says of the header.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "read by the description of the API alone")]
pub struct IdempotencyHeaders {
    /// A name for this request, made by the client: 1 to 255 visible ASCII characters, such as a UUID. Sent again
    /// within 24 hours by the same person with the same content, it is done once: the earlier answer is given
    /// again with `Idempotent-Replayed: true`. With other content it is refused (422, `idempotency-key-reused`);
    /// while the first is still at work it is refused for now (409, `idempotency-key-underway`). Requests that
    /// failed keep nothing.
    #[param(rename = "Idempotency-Key", example = "8e03978e-40d5-43dd-bc93-6894a57f9324", nullable = false)]
    idempotency_key: Option<String>,
}

/// Makes fingerprints of requests. They are keyed: a request may hold a password or an address, which nobody who
/// reads the database is to find by trying.
#[derive(Clone)]
pub struct Fingerprints(Hmac<Sha256>);

impl Fingerprints {
    /// With a key of its own, derived from the secret that all nodes share.
    #[must_use]
    pub fn new(secret: &SecretString) -> Self {
        let derived = keyed(secret.expose_secret().as_bytes()).chain_update("stagesub request fingerprints");
        Self(keyed(&derived.finalize().into_bytes()))
    }

    /// Begins the fingerprint of a request to an address.
    fn of(&self, method: &Method, uri: &Uri) -> Fingerprinting {
        let mut hash = self.0.clone();
        let target = uri.path_and_query().map_or_else(|| uri.path(), |target| target.as_str());
        // Neither can hold a line break, so where one ends is plain.
        for part in [method.as_str(), "\n", target, "\n"] {
            hash.update(part.as_bytes());
        }
        Fingerprinting(hash)
    }
}

impl fmt::Debug for Fingerprints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprints")
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of every length")
}

/// A fingerprint in the making, over content that comes in pieces.
#[derive(Clone)]
pub struct Fingerprinting(Hmac<Sha256>);

impl fmt::Debug for Fingerprinting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprinting")
    }
}

impl Fingerprinting {
    /// Takes the next piece of the content.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    fn finish(self) -> Fingerprint {
        Fingerprint::new(self.0.finalize().into_bytes().into())
    }
}

/// The key of a request whose content is still to come, for handlers that take it piece by piece.
#[derive(Debug)]
pub struct AskingFor(Option<(IdempotencyKey, Fingerprinting)>);

impl AskingFor {
    /// Takes the next piece of the content.
    pub fn update(&mut self, piece: &[u8]) {
        if let Some((_, fingerprint)) = &mut self.0 {
            fingerprint.update(piece);
        }
    }

    /// After the last piece.
    #[must_use]
    pub fn complete(self) -> Asking {
        Asking(self.0.map(|(key, fingerprint)| (key, fingerprint.finish())))
    }
}

impl FromRequestParts<AppState> for AskingFor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Self::Rejection> {
        let key = key(parts)?;
        Ok(Self(key.map(|key| (key, state.fingerprints.of(&parts.method, &parts.uri)))))
    }
}

/// The key of a request, and what it asks; or none, and then nothing is kept.
#[derive(Debug)]
pub struct Asking(Option<(IdempotencyKey, Fingerprint)>);

impl Asking {
    /// The request as this person's.
    pub fn by(self, actor: &Actor) -> Result<Option<Asked>, Problem> {
        let Some((key, fingerprint)) = self.0 else { return Ok(None) };
        let user = actor.user_id().ok_or_else(|| Problem::internal("nobody asks with a key"))?;
        Ok(Some(Asked { user, key, fingerprint }))
    }

    /// Begins the unit that creates, or finds that it was done. Whether the caller may is asked before: an answer
    /// is given again to those only who would get it anew. Takes the caller's turn, behind that of the key: whoever
    /// waits for the first with a key keeps nobody else of the orchestra from working.
    pub async fn begin(self, state: &AppState, caller: &TenantCaller) -> Result<Begun, Problem> {
        let asked = self.by(&caller.actor)?;
        let now = state.now();
        let turn = match &asked {
            Some(asked) => Some(state.keys.enter(caller.scope.tenant_id(), asked).await?),
            None => None,
        };
        caller.take_turn(state).await?;
        let mut unit = state.units.begin(&caller.scope, Access::Write).await?;
        if let Some(asked) = &asked
            && let Some(answer) = service::claim(&mut *unit, asked, now).await?
        {
            return Ok(Begun::Before(mark_replayed(response(answer)?)));
        }
        Ok(Begun::First(Creation { unit, asked, now, _turn: turn }))
    }
}

/// Says of an answer that it was given before.
#[must_use]
pub fn mark_replayed(mut answer: Response) -> Response {
    answer.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    answer
}

/// What the beginning of a creating request came to.
pub enum Begun {
    /// It is to be done.
    First(Creation),
    /// It was done before; this was answered.
    Before(Response),
}

/// A unit in which something is created. It ends with the answer; dropped, it rolls back.
pub struct Creation {
    unit: Box<dyn UnitOfWork>,
    asked: Option<Asked>,
    now: chrono::DateTime<chrono::Utc>,
    /// After the unit: the next with the key begins when this one has ended.
    _turn: Option<KeyTurn>,
}

impl Creation {
    /// The unit, for the use case.
    pub fn unit(&mut self) -> &mut dyn UnitOfWork {
        &mut *self.unit
    }

    /// What the use case is told of its caller, at the moment the answer will be kept at.
    #[must_use]
    pub fn act<'a>(&self, caller: &'a TenantCaller) -> Act<'a> {
        Act { actor: &caller.actor, code: caller.scope.code(), now: self.now }
    }

    /// Commits, and answers 201 with the address of what was made.
    pub async fn created<B: Serialize>(self, location: String, body: &B) -> Result<Response, Problem> {
        self.finish(StatusCode::CREATED, Some(location), body).await
    }

    /// Commits, and answers 200.
    pub async fn done<B: Serialize>(self, body: &B) -> Result<Response, Problem> {
        self.finish(StatusCode::OK, None, body).await
    }

    async fn finish<B: Serialize>(
        self,
        status: StatusCode,
        location: Option<String>,
        body: &B,
    ) -> Result<Response, Problem> {
        let Self { mut unit, asked, now, _turn } = self;
        let answer = KeptAnswer {
            status: status.as_u16(),
            location,
            content_type: "application/json".to_owned(),
            body: serde_json::to_vec(body).map_err(Problem::internal)?,
        };
        if let Some(asked) = &asked {
            service::keep(&mut *unit, asked, &answer, now).await?;
        }
        unit.commit().await?;
        response(answer)
    }
}

/// The same answer, whenever it is given.
fn response(answer: KeptAnswer) -> Result<Response, Problem> {
    let status = StatusCode::from_u16(answer.status).map_err(Problem::internal)?;
    let mut response = (status, answer.body).into_response();
    let headers = response.headers_mut();
    let content_type = HeaderValue::try_from(answer.content_type).map_err(Problem::internal)?;
    headers.insert(header::CONTENT_TYPE, content_type);
    if let Some(location) = answer.location {
        headers.insert(header::LOCATION, HeaderValue::try_from(location).map_err(Problem::internal)?);
    }
    Ok(response)
}

/// A JSON body that asks for something to be created, with the request's key.
#[derive(Debug)]
pub struct Creating<T> {
    /// The key, and what was asked.
    pub asking: Asking,
    /// What was asked, read.
    pub body: T,
}

impl<T: DeserializeOwned> FromRequest<AppState> for Creating<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Self::Rejection> {
        let (mut parts, body) = request.into_parts();
        let mut asking = AskingFor::from_request_parts(&mut parts, state).await?;
        let request = if asking.0.is_none() {
            Request::from_parts(parts, body)
        } else {
            let whole = Bytes::from_request(Request::from_parts(parts.clone(), body), state).await;
            let whole = whole.map_err(|error| Problem::malformed(error.status(), error.body_text()))?;
            asking.update(&whole);
            Request::from_parts(parts, AxumBody::from(whole))
        };
        let Body(body) = Body::<T>::from_request(request, state).await?;
        Ok(Self { asking: asking.complete(), body })
    }
}

/// Reads the header: a bare text, or a string in quotes as structured fields have it (RFC 9651).
fn key(parts: &Parts) -> Result<Option<IdempotencyKey>, Problem> {
    let mut values = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let refused = |why: String| Problem::invalid_field("Idempotency-Key", "format", why);
    if values.next().is_some() {
        return Err(refused("must be sent once".to_owned()));
    }
    let text = value.to_str().map_err(|_| refused(InvalidIdempotencyKey.to_string()))?;
    unquoted(text.trim())
        .ok_or(InvalidIdempotencyKey)
        .and_then(|text| text.parse())
        .map(Some)
        .map_err(|error: InvalidIdempotencyKey| refused(error.to_string()))
}

/// The text within quotes, or the text itself where there are none. None: a string that does not end, or that
/// escapes what needs no escape.
fn unquoted(text: &str) -> Option<String> {
    let Some(quoted) = text.strip_prefix('"') else { return Some(text.to_owned()) };
    let mut within = String::with_capacity(quoted.len());
    let mut characters = quoted.chars();
    loop {
        match characters.next()? {
            '"' => return characters.next().is_none().then_some(within),
            '\\' => within.push(characters.next().filter(|next| matches!(next, '"' | '\\'))?),
            other => within.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprints(secret: &str) -> Fingerprints {
        Fingerprints::new(&SecretString::from(secret))
    }

    fn fingerprint(method: &Method, target: &str, body: &str) -> Fingerprint {
        let mut fingerprint = fingerprints("secret").of(method, &target.parse().expect("a target"));
        fingerprint.update(body.as_bytes());
        fingerprint.finish()
    }

    #[test]
    fn a_fingerprint_is_of_the_method_the_address_and_the_content() {
        let one = fingerprint(&Method::POST, "/a?mode=all", "{}");
        assert_eq!(one, fingerprint(&Method::POST, "/a?mode=all", "{}"));
        for other in [
            fingerprint(&Method::PUT, "/a?mode=all", "{}"),
            fingerprint(&Method::POST, "/a?mode=valid", "{}"),
            fingerprint(&Method::POST, "/a", "{}"),
            fingerprint(&Method::POST, "/a?mode=all", "{ }"),
        ] {
            assert_ne!(one, other);
        }
        let elsewhere = fingerprints("another").of(&Method::POST, &"/a?mode=all".parse().expect("a target"));
        assert_ne!(elsewhere.finish(), fingerprint(&Method::POST, "/a?mode=all", ""));
    }

    #[test]
    fn content_in_pieces_is_the_same_content() {
        let mut pieces = fingerprints("secret").of(&Method::POST, &"/a".parse().expect("a target"));
        for piece in ["ab", "", "c"] {
            pieces.update(piece.as_bytes());
        }
        assert_eq!(pieces.finish(), fingerprint(&Method::POST, "/a", "abc"));
    }

    #[test]
    fn a_key_may_stand_in_quotes() {
        for (sent, meant) in [
            ("abc", Some("abc")),
            ("\"abc\"", Some("abc")),
            (r#""a\"\\c""#, Some(r#"a"\c"#)),
            ("\"abc", None),
            ("\"abc\"d", None),
            (r#""a\bc""#, None),
            ("a\"b", Some("a\"b")),
        ] {
            assert_eq!(unquoted(sent).as_deref(), meant, "{sent}");
        }
    }
}
