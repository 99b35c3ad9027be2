//! Lists: cursors, limits and their bodies.

use std::str::FromStr;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use stagesub_domain::page::{Page, Paged};
use utoipa::ToSchema;

use crate::problem::Problem;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListBody<T> {
    /// The items, in the order of their numbers.
    pub items: Vec<T>,
    /// Send it as `cursor` for the next page; null at the end.
    pub next_cursor: Option<String>,
}

/// Bytes that most pages fit in: what is written into as it grows is copied at each doubling.
const ROOM: usize = 8 * 1024;

impl<T: Serialize> IntoResponse for ListBody<T> {
    fn into_response(self) -> Response {
        let mut body = Vec::with_capacity(ROOM);
        match serde_json::to_writer(&mut body, &self) {
            Ok(()) => {
                let json = HeaderValue::from_static("application/json");
                ([(header::CONTENT_TYPE, json)], body).into_response()
            }
            Err(error) => Problem::internal(format!("a list cannot be written: {error}")).into_response(),
        }
    }
}

/// Reads `limit` and `cursor`.
pub fn page(limit: Option<u32>, cursor: Option<&str>) -> Result<Page, Problem> {
    let after =
        cursor.map(|text| decode(text).and_then(|text| text.parse().ok())).map_or(Ok(None), |no| {
            no.map(Some)
                .ok_or_else(|| Problem::invalid_field("cursor", "cursor", "is not a cursor of this list"))
        })?;
    Page::new(after, limit.unwrap_or(Page::DEFAULT_LIMIT))
        .ok_or_else(|| Problem::invalid_field("limit", "range", format!("must be 1 to {}", Page::MAX_LIMIT)))
}

/// Turns a page of entities into the answer.
pub fn list_body<T, B>(paged: Paged<T>, map: impl FnMut(T) -> B) -> ListBody<B> {
    ListBody {
        items: paged.items.into_iter().map(map).collect(),
        next_cursor: paged.next.map(|no| encode(&no.to_string())),
    }
}

/// Writes a moment in one piece: written as `chrono` does it by itself, each digit
/// passes through the JSON by itself, which takes more than twice as long.
pub fn moment<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// Reads the cursor of a list that is ordered by something else than numbers.
pub fn after<K: FromStr>(cursor: Option<&str>) -> Result<Option<K>, Problem> {
    let invalid = || Problem::invalid_field("cursor", "cursor", "is not a cursor of this list");
    cursor.map(|text| decode(text).and_then(|text| text.parse().ok()).ok_or_else(invalid)).transpose()
}

/// A cursor is opaque to clients.
#[must_use]
pub fn encode(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// The inverse of [`encode`].
#[must_use]
pub fn decode(cursor: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()
}

/// 201 with the address of what was made.
pub fn created<B: Serialize>(location: &str, body: B) -> Response {
    let mut response = (StatusCode::CREATED, Json(body)).into_response();
    if let Ok(value) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// Checks the length of a search text.
pub fn search(text: Option<String>) -> Result<Option<String>, Problem> {
    match text {
        Some(text) if text.chars().count() > 100 => {
            Err(Problem::invalid_field("q", "length", "must be at most 100 characters"))
        }
        Some(text) if text.chars().any(char::is_control) => {
            Err(Problem::invalid_field("q", "characters", "must hold no control characters"))
        }
        Some(text) if text.trim().is_empty() => Ok(None),
        Some(text) => Ok(Some(text.trim().to_owned())),
        None => Ok(None),
    }
}

/// Tells a field that is left out (`None`) from one that is null (`Some(None)`).
pub fn nullable<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_the_number_it_was_made_of() {
        let page = page(Some(10), Some(&encode("1234"))).unwrap();
        assert_eq!((page.after, page.limit()), (Some(1234), 10));
    }

    #[test]
    fn a_moment_is_written_as_it_is_by_itself() {
        #[derive(Serialize)]
        struct Written(#[serde(serialize_with = "moment")] DateTime<Utc>);
        for nanos in [0, 120_000_000, 123_456_000, 123_456_789] {
            let at = DateTime::from_timestamp(1_800_000_000, nanos).unwrap();
            assert_eq!(serde_json::to_value(Written(at)).unwrap(), serde_json::to_value(at).unwrap());
        }
    }

    #[test]
    fn a_foreign_cursor_and_a_limit_out_of_bounds_are_told() {
        assert!(page(None, Some("!!")).is_err());
        assert!(page(None, Some(&encode("abc"))).is_err());
        assert!(page(Some(0), None).is_err());
        assert!(page(Some(201), None).is_err());
    }
}
