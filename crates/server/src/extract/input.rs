//! Bodies, queries and ids from the client, with problems for answers.

use std::marker::PhantomData;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Json, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use stagesub_domain::ids::{InstrumentNo, MusicianNo, PositionNo, ProjectNo};
use stagesub_id_gen::{DisplayId, Kind};
use stagesub_tenancy::TenantScope;

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
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
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

/// Parses an id from a body or a filter: there a malformed, foreign or wrong-kind id is a 400.
pub fn parse_id<N: Numbered>(scope: &TenantScope, field: &str, text: &str) -> Result<N, Problem> {
    DisplayId::parse_for(text, scope.code(), N::KIND)
        .map(N::from_no)
        .map_err(|error| Problem::invalid_field(field, "id", error.to_string()))
}

/// Renders a number as the id people see.
#[must_use]
pub fn render_id<N: Numbered>(scope: &TenantScope, number: &N) -> String {
    DisplayId::new(scope.code().clone(), N::KIND, number.no()).to_string()
}
