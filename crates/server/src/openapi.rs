//! The description of the API: what is not said at a handler.

use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi};

/// What the description says of the whole.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "StageSub",
        description = "Orchestras and their substitutes. Routes under /api/v1/platform answer on the platform's own \
                       host, the others on an orchestra's host; errors are application/problem+json (RFC 9457).",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    modifiers(&Bearer),
    tags(
        (name = "auth", description = "Signing in"),
        (name = "orchestra", description = "The orchestra itself"),
        (name = "instruments", description = "Instruments"),
        (name = "positions", description = "Positions within instruments"),
        (name = "musicians", description = "Musicians and their qualifications"),
        (name = "projects", description = "Productions"),
        (name = "users", description = "The orchestra's people, for its administrators"),
        (name = "platform", description = "Orchestras and people, for administrators of the platform"),
        (name = "moves", description = "Moves of orchestras between databases, for administrators of the platform"),
    )
)]
pub struct ApiDoc;

/// What any route may answer before its handler has a say, or for want of a database.
const TOO_MANY: &str = "This address, this account or this orchestra has asked too often, or too much is being worked on or watched for it";
const UNAVAILABLE: &str = "What the answer needs cannot be had now: a database, a connection, or the orchestra's move takes too \
     long; it can be asked again. With the type `commit-unknown`: the answer of the database was lost, and the change may have \
     been kept; ask again with the same Idempotency-Key, or look first";
const UNAUTHENTICATED: &str = "No token, or none that is good on this host";

/// Says at every operation what each of them may answer. To be called when the routes are known.
pub fn describe_common_answers(api: &mut utoipa::openapi::OpenApi) {
    for operation in api.paths.paths.values_mut().flat_map(operations) {
        let is_secured = operation.security.is_some();
        let answers = &mut operation.responses.responses;
        let mut also = |status: &str, answer: Response| {
            // What a handler says of it is nearer to the point.
            answers.entry(status.to_owned()).or_insert_with(|| answer.into());
        };
        also("429", later(TOO_MANY));
        also("503", later(UNAVAILABLE));
        if is_secured {
            also("401", problem(UNAUTHENTICATED).build());
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}

fn problem(description: &str) -> ResponseBuilder {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ProblemBody"))).build();
    ResponseBuilder::new().description(description).content("application/problem+json", body)
}

/// A refusal that says when to come again.
fn later(description: &str) -> Response {
    let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).build();
    let after = HeaderBuilder::new().schema(Some(seconds)).description(Some("Seconds to wait")).build();
    problem(description).header("Retry-After", after).build()
}

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
        openapi
            .components
            .get_or_insert_with(Default::default)
            .add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    #[test]
    fn every_operation_says_that_it_may_refuse_for_now_and_whom_it_does_not_know() {
        let description = serde_json::to_value(crate::routes::openapi()).unwrap();
        let paths = description["paths"].as_object().unwrap();
        let all = paths.iter().flat_map(|(path, item)| {
            item.as_object()
                .unwrap()
                .iter()
                .map(move |(method, described)| (format!("{method} {path}"), described))
        });
        let mut seen = 0;
        for (name, described) in all {
            for status in ["429", "503"] {
                let after = &described["responses"][status]["headers"]["Retry-After"]["schema"]["type"];
                assert_eq!(after, "integer", "{name} {status}");
            }
            let refuses = described["responses"]["401"] != Value::Null;
            assert!(refuses || described["operationId"] == "login", "{name}");
            seen += 1;
        }
        assert!(seen > 40, "the walk is of the whole table: {seen}");
        let named = &description["components"]["schemas"]["ProblemBody"]["type"];
        assert_eq!(named, "object", "what they answer is described");
    }
}
