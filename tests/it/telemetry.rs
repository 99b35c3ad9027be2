//! What a node tells of itself: a span for each request, figures for Prometheus, who used how much.

mod figures;
#[cfg(feature = "otel")]
mod otel;
pub(crate) mod serving;
mod spans;
mod usage;

use serde_json::{Value, json};

const MUSICIANS: &str = "/api/v1/musicians";

fn musician(n: usize) -> Value {
    json!({ "firstName": "Anna", "lastName": format!("Berg{n}"), "email": format!("anna{n}@example.com") })
}
