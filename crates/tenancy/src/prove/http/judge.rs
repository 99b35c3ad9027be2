//! What an answer means.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::attacks::{Case, Looks};
use super::plan::Plan;
use super::{Expectation, Outcome};

/// Judges the answer to a case; `absent` are the answers to the same request for ids that do not exist.
pub(super) fn judge(
    plan: &Plan,
    case: &Case<'_>,
    answer: &Response<Bytes>,
    absent: &[Response<Bytes>],
) -> Outcome {
    let status = answer.status();
    let leaked = case.victims.iter().flat_map(|site| &site.canaries).find(|text| carries(answer, text));
    let passed = status.is_success() || case.route.passes.contains(&status);
    if case.expectation == Expectation::Allowed {
        return allowed(case, answer, passed);
    }
    if let Some(canary) = leaked {
        return Outcome::Reached(format!("the answer ({status}) carries {canary}"));
    }
    if passed && case.looks == Looks::AtStatus {
        return Outcome::Reached(format!("it was answered with {status}"));
    }
    if shows_nothing(status) {
        return Outcome::NotCarriedOut(format!("the service answered {status}"));
    }
    match absent.iter().find_map(|absent| difference(plan, answer, absent)) {
        Some(difference) => Outcome::Reached(format!(
            "the answer ({status}) tells it from an id that does not exist by its {difference}"
        )),
        None => Outcome::Refused,
    }
}

fn allowed(case: &Case<'_>, answer: &Response<Bytes>, passed: bool) -> Outcome {
    let status = answer.status();
    if shows_nothing(status) {
        return Outcome::NotCarriedOut(format!("the service answered {status}"));
    }
    if !passed {
        return Outcome::Refused;
    }
    let shown = case.home.canaries.iter().any(|text| carries(answer, text));
    if case.route.reveals && !shown {
        let why = format!("it was answered with {status} and no canary: what leaks could not be seen");
        return Outcome::NotCarriedOut(why);
    }
    Outcome::Reached(status.to_string())
}

/// A failure of the service, or its refusal to answer so many requests, says nothing of its guards.
fn shows_nothing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

/// Whether a text stands anywhere in an answer.
pub(super) fn carries(answer: &Response<Bytes>, text: &str) -> bool {
    let found =
        |bytes: &[u8]| !text.is_empty() && bytes.windows(text.len()).any(|window| window == text.as_bytes());
    answer.headers().iter().any(|(name, value)| found(name.as_str().as_bytes()) || found(value.as_bytes()))
        || found(answer.body())
}

/// What tells two answers apart, beside headers that differ every time.
fn difference(plan: &Plan, one: &Response<Bytes>, other: &Response<Bytes>) -> Option<&'static str> {
    let headers = |answer: &Response<Bytes>| {
        let mut headers: Vec<_> = answer
            .headers()
            .iter()
            .filter(|(name, _)| !plan.volatile.contains(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        headers.sort_by(|a, b| (a.0.as_str(), a.1.as_bytes()).cmp(&(b.0.as_str(), b.1.as_bytes())));
        headers
    };
    if one.status() != other.status() {
        Some("status")
    } else if headers(one) != headers(other) {
        Some("headers")
    } else if one.body() != other.body() {
        Some("body")
    } else {
        None
    }
}
