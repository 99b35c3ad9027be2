//! Bodies, queries and ids from the client, with problems for answers.

use std::fmt;
use std::marker::PhantomData;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Json, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use stagesub_domain::ids::{InstrumentNo, MusicianNo, PositionNo, ProjectNo};
use stagesub_id_gen::{DisplayId, Kind};
use stagesub_tenancy::moves::MoveId;
use stagesub_tenancy::{DatabaseId, TenantId, TenantScope};
use uuid::Uuid;

use crate::problem::Problem;

/// A JSON body. Request types refuse unknown fields, so a misspelt one is told and not ignored.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T, S> FromRequest<S> for Body<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        match Json::<Object<T>>::from_request(request, state).await {
            Ok(Json(Object(value))) => Ok(Self(value)),
            Err(JsonRejection::JsonDataError(error)) => {
                let text = error.body_text();
                let reason = text.split_once(": ").map_or(text.as_str(), |(_, reason)| reason);
                let (field, message) = match reason.split_once(": ") {
                    Some((path, message)) if !path.contains(' ') => (path, message),
                    _ => ("body", reason),
                };
                // The parser's text quotes the value, which here is a secret.
                let message = if field.ends_with("assword") { "must be a text" } else { message };
                Err(Problem::invalid_field(field, "type", message))
            }
            Err(JsonRejection::JsonSyntaxError(error)) => {
                Err(Problem::malformed(StatusCode::BAD_REQUEST, error.body_text()))
            }
            Err(rejection) => Err(Problem::malformed(rejection.status(), rejection.body_text())),
        }
    }
}

/// A JSON object: a request's fields have names. (Left to itself a derived type takes an array of their values
/// too.)
struct Object<T>(T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: DeserializeOwned> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields))
            }
        }

        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// The query's parameters.
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<T, S> FromRequestParts<S> for Params<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(QueryRejection::FailedToDeserializeQueryString(error)) => {
                let text = error.body_text();
                let reason = text.split_once(": ").map_or(text.as_str(), |(_, reason)| reason);
                let (field, message) = match reason.split_once(": ") {
                    Some((path, message)) if !path.contains(' ') => (path, message),
                    _ => ("query", reason),
                };
                Err(Problem::invalid_field(field, "type", message))
            }
            Err(rejection) => Err(Problem::malformed(rejection.status(), rejection.body_text())),
        }
    }
}

/// No parameters at all: one that is sent is told and not ignored.
#[derive(Debug)]
pub struct NoParams;

impl<S: Send + Sync> FromRequestParts<S> for NoParams {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        match parts.uri.query() {
            None | Some("") => Ok(Self),
            Some(_) => Err(Problem::invalid_field("query", "unknown", "there are no parameters here")),
        }
    }
}

/// A number that ids of one kind carry.
pub trait Numbered: Sized {
    /// The kind.
    const KIND: Kind;

    /// From the number.
    fn from_no(no: i64) -> Self;

    /// The number.
    fn no(&self) -> i64;
}

macro_rules! numbered {
    ($($name:ident),*) => {$(
        impl Numbered for $name {
            const KIND: Kind = $name::KIND;

            fn from_no(no: i64) -> Self {
                Self::new(no)
            }

            fn no(&self) -> i64 {
                self.get()
            }
        }
    )*};
}

numbered!(InstrumentNo, PositionNo, MusicianNo, ProjectNo);

/// The id in the path, of this tenant and kind. Anything else is a 404, malformed and foreign ids included:
/// the answer must not tell whether another tenant has it.
#[derive(Debug)]
pub struct IdPath<N> {
    /// The number.
    pub no: N,
    marker: PhantomData<N>,
}

impl<N, S> FromRequestParts<S> for IdPath<N>
where
    N: Numbered + Send,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let scope = TenantScope::from_request_parts(parts, state).await.map_err(|_| Problem::not_found())?;
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|_| Problem::not_found())?;
        let no = DisplayId::parse_for(&text, scope.code(), N::KIND).map_err(|_| Problem::not_found())?;
        Ok(Self { no: N::from_no(no), marker: PhantomData })
    }
}

/// The id of an orchestra in the path, for administrators of the platform; anything malformed names none.
#[derive(Debug)]
pub struct TenantPath(pub TenantId);

impl<S: Send + Sync> FromRequestParts<S> for TenantPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|_| Problem::not_found())?;
        text.parse().map(Self).map_err(|_| Problem::not_found())
    }
}

/// The id of a move in the path; anything malformed names none.
#[derive(Debug)]
pub struct MovePath(pub MoveId);

impl<S: Send + Sync> FromRequestParts<S> for MovePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|_| Problem::not_found())?;
        text.parse().map(|id| Self(MoveId::from_uuid(id))).map_err(|_| Problem::not_found())
    }
}

/// The id of a database in the path; anything malformed names none.
#[derive(Debug)]
pub struct DatabasePath(pub DatabaseId);

impl<S: Send + Sync> FromRequestParts<S> for DatabasePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let path: Result<Path<Uuid>, PathRejection> = Path::from_request_parts(parts, state).await;
        let Path(id) = path.map_err(|_| Problem::not_found())?;
        Ok(Self(DatabaseId::from_uuid(id)))
    }
}

/// The id of a person in the path; anything malformed names nobody.
#[derive(Debug)]
pub struct PersonPath(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for PersonPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|_| Problem::not_found())?;
        text.parse().map(Self).map_err(|_| Problem::not_found())
    }
}

/// Parses an id from a body or a filter: there a malformed, foreign or wrong-kind id is a 400.
pub fn parse_id<N: Numbered>(scope: &TenantScope, field: &str, text: &str) -> Result<N, Problem> {
    DisplayId::parse_for(text, scope.code(), N::KIND)
        .map(N::from_no)
        .map_err(|error| Problem::invalid_field(field, "id", error.to_string()))
}

/// Renders a number as the id people see.
#[must_use]
pub fn render_id<N: Numbered>(scope: &TenantScope, number: &N) -> String {
    DisplayId::render(scope.code(), N::KIND, number.no())
}
