//! What an answer may hold.

use serde_json::Value;
use stagesub_tests::storm::Seen;

use crate::stage::House;

/// Looks at every row of an answer: its id is the tenant's, and its name bears the tenant's canary.
pub(crate) fn rows(body: &Value, house: &House, seen: &Seen) {
    let items = match body["items"].as_array() {
        Some(items) => items.as_slice(),
        None => std::slice::from_ref(body),
    };
    let (code, canary) = (house.orchestra.code.as_str(), house.guest.canary.as_str());
    for item in items {
        let id = item["id"].as_str().and_then(|id| id.strip_prefix(code));
        let name = item["lastName"].as_str().or_else(|| item["name"].as_str());
        let own =
            id.is_some_and(|id| id.starts_with('-')) && name.is_some_and(|name| name.starts_with(canary));
        seen.row(own);
    }
}

/// The number in an id such as `T1-PROJ-012`.
pub(crate) fn number(id: &str) -> Option<i64> {
    id.rsplit_once('-')?.1.parse().ok()
}
