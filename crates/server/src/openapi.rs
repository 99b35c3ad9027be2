//! The description of the API: what is not said at a handler.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

/// What the description says of the whole.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "StageSub",
        description = "Orchestras and their substitutes. Routes under /api/v1/platform answer on the platform's own \
                       host, the others on an orchestra's host; errors are application/problem+json (RFC 9457). Any of them may answer 429 with \
                       Retry-After: an address and an orchestra each have so many requests a minute.",
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
